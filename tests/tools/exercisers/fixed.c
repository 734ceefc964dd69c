// SPDX-License-Identifier: GPL-2.0
/*
 * fixed.so, for LD_PRELOAD: a program that creates files, and sets their size, gets
 * files that exist already and have one.
 *
 *	FIXED_DIR	where the program creates its files
 *	FIXED_POOL	where files of a fixed size are: FIXED_POOL/0, /1, ...
 *	FIXED_FILES	how many
 *
 * A file that is created below FIXED_DIR becomes a symbolic link to the next one of
 * the pool, so that its name can be opened again, and removed. Setting its size
 * succeeds if it has that size already, or more. All other calls are passed on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned int *taken;	/* shared by all processes */

__attribute__((constructor)) static void begin(void)
{
	int fd = shm_open("/fixed-taken", O_RDWR | O_CREAT, 0600);

	if (fd < 0 || ftruncate(fd, 4096))
		return;
	taken = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (taken == MAP_FAILED)
		taken = NULL;
}

static bool is_ours(const char *path)
{
	const char *dir = getenv("FIXED_DIR");

	return dir && taken && !strncmp(path, dir, strlen(dir));
}

/* Prepares for an open, and returns the flags for it. */
static int prepare(const char *path, int flags)
{
	const char *files = getenv("FIXED_FILES"), *pool = getenv("FIXED_POOL");
	char target[PATH_MAX];
	unsigned int nr;

	if (!(flags & O_CREAT) || !files || !pool || !is_ours(path))
		return flags;
	nr = __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED) % atoi(files);
	snprintf(target, sizeof(target), "%s/%u", pool, nr);
	/* If the name exists, the kernel decides about O_EXCL. */
	if (symlink(target, path))
		return flags & O_EXCL ? flags : flags & ~(O_CREAT | O_TRUNC);
	return flags & ~(O_CREAT | O_EXCL | O_TRUNC);
}

#define REAL(name)	((typeof(name) *)dlsym(RTLD_NEXT, #name))

#define OPEN(name)							\
int name(const char *path, int flags, ...)				\
{									\
	mode_t mode = 0;						\
	va_list ap;							\
									\
	if (flags & (O_CREAT | __O_TMPFILE)) {				\
		va_start(ap, flags);					\
		mode = va_arg(ap, mode_t);				\
		va_end(ap);						\
	}								\
	return REAL(name)(path, prepare(path, flags), mode);		\
}

OPEN(open)
OPEN(open64)

#define OPENAT(name)							\
int name(int dir, const char *path, int flags, ...)			\
{									\
	mode_t mode = 0;						\
	va_list ap;							\
									\
	if (flags & (O_CREAT | __O_TMPFILE)) {				\
		va_start(ap, flags);					\
		mode = va_arg(ap, mode_t);				\
		va_end(ap);						\
	}								\
	return REAL(name)(dir, path, prepare(path, flags), mode);	\
}

OPENAT(openat)
OPENAT(openat64)

/* The result of a call that sets a size, if the kernel has returned @ret and @err. */
static int settled(int ret, int err, bool has_it)
{
	if (err == EOPNOTSUPP && has_it)
		return 0;
	errno = err;
	return ret;
}

static bool has(int fd, off_t size)
{
	struct stat st;

	return !fstat(fd, &st) && size <= st.st_size;
}

int ftruncate(int fd, off_t size)
{
	int ret = REAL(ftruncate)(fd, size), err = errno;

	return ret ? settled(ret, err, has(fd, size)) : 0;
}

int ftruncate64(int fd, off64_t size)
{
	return ftruncate(fd, size);
}

int truncate(const char *path, off_t size)
{
	int ret = REAL(truncate)(path, size), err = errno;
	struct stat st;

	return ret ? settled(ret, err, !stat(path, &st) && size <= st.st_size) : 0;
}

int truncate64(const char *path, off64_t size)
{
	return truncate(path, size);
}

int fallocate(int fd, int mode, off_t at, off_t size)
{
	int ret = REAL(fallocate)(fd, mode, at, size), err = errno;

	return ret ? settled(ret, err, has(fd, at + size)) : 0;
}

int fallocate64(int fd, int mode, off64_t at, off64_t size)
{
	return fallocate(fd, mode, at, size);
}
