// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE marks the inode of a mapped file bad.
 *
 * A server may reuse a nodeid for another file, and reports that by another generation in the
 * answer to LOOKUP or in READDIRPLUS; or it answers a request for attributes with those of
 * another type of file. Then FUSE marks the inode bad: I/O of its open files fails with EIO
 * from then on, and a name leads to a new inode if there is one. The memory of the old file may
 * by then belong to another file. So a bad inode has no map: reads and writes are EIO, faults
 * are SIGBUS, mapped pages are unmapped a moment later, and the memory is free for the next
 * file, although the old one is still open and has VMAs. A call that is under way for the old
 * file ends, too: its next bytes would be the next file's.
 *
 * Every test of FIXTURE(reused) does the same to a plain file beside the mapped one. What FUSE
 * does there is what the mapped file has to do.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE		(4 * MIB)
#define FOREVER		3600

/* What the server answers for all its files; shared, as children change it, too. */
static struct {
	_Atomic unsigned int generation;
	_Atomic bool wrong_type;
} *says;

static void fill(struct fuse_attr *a, const struct fs_file *f)
{
	memset(a, 0, sizeof(*a));
	a->ino = f->nodeid;
	a->mode = says->wrong_type ? S_IFIFO | 0666 : f->mode;
	a->nlink = 1;
	a->size = f->size;
	a->blksize = 4096;
}

static struct fuse_entry_out entry_of(const struct fs_file *f)
{
	struct fuse_entry_out out = {
		.nodeid = f->nodeid,
		.generation = says->generation,
		.attr_valid = FOREVER,
	};

	fill(&out.attr, f);
	return out;
}

/* Names are valid for no time, so each use of one is a LOOKUP. */
static void lookup(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	for (unsigned int i = 0; i < s->nr_files; i++)
		if (!strcmp(s->file[i].name, arg)) {
			struct fuse_entry_out out = entry_of(&s->file[i]);

			fs_reply(s, in, 0, &out, sizeof(out));
			return;
		}
	fs_reply(s, in, -ENOENT, NULL, 0);
}

static void attributes(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	struct fuse_attr_out out = { .attr_valid = FOREVER };

	for (unsigned int i = 0; i < s->nr_files; i++)
		if (s->file[i].nodeid == in->nodeid) {
			fill(&out.attr, &s->file[i]);
			fs_reply(s, in, 0, &out, sizeof(out));
			return;
		}
	fs_default(s, in, arg);
}

/* All files in one answer. */
static void readdirplus(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_read_in *read = arg;
	char buf[4096] = "";
	size_t len = 0;

	for (unsigned int i = read->offset; i < s->nr_files; i++) {
		const struct fs_file *f = &s->file[i];
		struct fuse_direntplus *d = (void *)(buf + len);

		d->entry_out = entry_of(f);
		d->dirent.ino = f->nodeid;
		d->dirent.off = i + 1;
		d->dirent.namelen = strlen(f->name);
		d->dirent.type = S_IFREG >> 12;
		memcpy(d->dirent.name, f->name, d->dirent.namelen);
		len += FUSE_DIRENTPLUS_SIZE(d);
	}
	fs_reply(s, in, 0, len ? buf : NULL, len);
}

/* ---- how an inode becomes bad: each returns 0, or what was wrong ---- */

static int by_lookup(struct fuse_server *s)
{
	struct stat st;

	says->generation++;
	return stat(fs_path(s, "file"), &st) || stat(fs_path(s, "plain"), &st);
}

static int by_readdirplus(struct fuse_server *s)
{
	unsigned int before = s->count[FUSE_READDIRPLUS];
	DIR *dir;

	says->generation++;
	dir = opendir(s->dir);
	while (dir && readdir(dir))
		;
	if (dir)
		closedir(dir);
	return s->count[FUSE_READDIRPLUS] == before;
}

static int by_getattr(struct fuse_server *s)
{
	int err = 0, fd[2] = { fs_open(s, "file", O_RDONLY), fs_open(s, "plain", O_RDONLY) };
	struct statx stx;

	says->wrong_type = true;
	for (int i = 0; i < 2; i++) {
		if (!statx(fd[i], "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS,
			   &stx) || errno != EIO)
			err = 1;
		close(fd[i]);
	}
	says->wrong_type = false;
	return err;
}

static int by_setattr(struct fuse_server *s)
{
	int err = 0, fd[2] = { fs_open(s, "file", O_RDONLY), fs_open(s, "plain", O_RDONLY) };

	says->wrong_type = true;
	for (int i = 0; i < 2; i++) {
		if (!fchmod(fd[i], 0600) || errno != EIO)
			err = 1;
		close(fd[i]);
	}
	says->wrong_type = false;
	return err;
}

FIXTURE(reused) {
	struct fuse_server *s;
	struct scripted map[2];
	unsigned char *p, *plain_p;
	int fd, plain_fd;
	long refs;
};

FIXTURE_VARIANT(reused) {
	uint64_t addr;
	int (*end)(struct fuse_server *s);
	bool anew;		/* the name leads to a new inode */
};

#define VARIANT(name, ...)						\
	FIXTURE_VARIANT_ADD(reused, name) { __VA_ARGS__ }

VARIANT(lookup, 0, by_lookup, true);
VARIANT(lookup_small, PAGE, by_lookup, true);
VARIANT(readdirplus, 0, by_readdirplus, true);
VARIANT(readdirplus_small, PAGE, by_readdirplus, true);
VARIANT(getattr, 0, by_getattr, false);
VARIANT(getattr_small, PAGE, by_getattr, false);
VARIANT(setattr, 0, by_setattr, false);

FIXTURE_SETUP(reused)
{
	struct fuse_server *s;

	FMAP_REQUIRE();
	self->refs = module_refs();
	says->generation = 1;
	says->wrong_type = false;
	self->s = s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, s);
	self->map[0] = fmap_linear(0, variant->addr, SIZE);
	self->map[1] = fmap_linear(0, variant->addr + SIZE, SIZE);
	fs_add(s, "file", SIZE, &self->map[0], sizeof(self->map[0]));
	fs_add(s, "thief", SIZE, &self->map[0], sizeof(self->map[0]));
	fs_add(s, "next", SIZE, &self->map[1], sizeof(self->map[1]));
	fs_add(s, "plain", FS_PLAIN, NULL, 0);
	s->init_flags |= FUSE_DO_READDIRPLUS;
	s->hook[FUSE_LOOKUP] = lookup;
	s->hook[FUSE_GETATTR] = attributes;
	s->hook[FUSE_SETATTR] = attributes;
	s->hook[FUSE_READDIRPLUS] = readdirplus;
	ASSERT_EQ(0, fs_mount(s));
	ASSERT_EQ(0, fs_fill(s, "file", 'f', SIZE));
	self->fd = fs_open(s, "file", O_RDWR);
	self->plain_fd = fs_open(s, "plain", O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_LE(0, self->plain_fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	self->plain_p = mmap(NULL, FS_PLAIN, PROT_READ | PROT_WRITE, MAP_SHARED,
			     self->plain_fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	ASSERT_NE(MAP_FAILED, self->plain_p);
	/* One page is dirty, one is clean, and the first half is not mapped. */
	ASSERT_EQ(0, touch(self->p + HUGE, 'f'));
	ASSERT_EQ(0, touch(self->p + SIZE - 1, -1));
}

FIXTURE_TEARDOWN(reused)
{
	munmap(self->p, SIZE);
	munmap(self->plain_p, FS_PLAIN);
	close(self->fd);
	close(self->plain_fd);
	EXPECT_EQ(0, self->s->malformed);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* Returns true once touching @p has the result @sig: memory is taken or freed later. */
static bool comes_to(unsigned char *p, int sig)
{
	for (int ms = 0; ms < FS_PATIENCE; ms++) {
		if (touch(p, -1) == sig)
			return true;
		usleep(1000);
	}
	return false;
}

/* ---- uses of a descriptor: each returns 0 or the errno ---- */

static int err_of(ssize_t ret)
{
	return ret < 0 ? errno : 0;
}

static int do_read(int fd)
{
	char c;

	return err_of(pread(fd, &c, 1, PAGE));
}

static int do_write(int fd)
{
	return err_of(pwrite(fd, "x", 1, PAGE));
}

static int do_synchronous_write(int fd)
{
	struct iovec iov = { "x", 1 };

	return err_of(pwritev2(fd, &iov, 1, PAGE, RWF_DSYNC));
}

static int do_splice(int fd)
{
	int p[2], err;
	off_t at = 0;

	if (pipe(p))
		return errno;
	err = err_of(splice(fd, &at, p[1], NULL, PAGE, 0));
	close(p[0]);
	close(p[1]);
	return err;
}

static int do_fsync(int fd)
{
	return err_of(fsync(fd));
}

static int do_fallocate(int fd)
{
	return err_of(fallocate(fd, 0, 0, PAGE)) == 0;
}

static const struct {
	const char *name;
	int (*run)(int fd);
} uses[] = {
	{ "read", do_read }, { "write", do_write }, { "synchronous write", do_synchronous_write },
	{ "splice", do_splice }, { "fsync", do_fsync }, { "fallocate", do_fallocate },
};

/* ---- tests ---- */

/* The old descriptor behaves like that of a plain file, and mapped pages are unmapped. */
TEST_F(reused, old_descriptor)
{
	unsigned char *q, *copy;

	copy = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, copy);
	copy[PAGE] = 'c';
	ASSERT_EQ(0, touch(copy + HUGE, -1));
	ASSERT_EQ(0, variant->end(self->s));
	for (int i = 0; i < ARRAY_SIZE(uses); i++) {
		EXPECT_EQ(uses[i].run(self->plain_fd), uses[i].run(self->fd))
			TH_LOG("%s", uses[i].name);
	}
	EXPECT_EQ(EIO, do_read(self->fd));
	EXPECT_EQ(EIO, do_write(self->fd));

	/* A page that was not mapped, pages that were, and a new mapping. */
	EXPECT_EQ(SIGBUS, touch(self->plain_p + PAGE, -1));
	EXPECT_EQ(SIGBUS, touch(self->p + PAGE, -1));
	EXPECT_EQ(SIGBUS, touch(self->p + PAGE, 'x'));
	EXPECT_TRUE(comes_to(self->p + HUGE, SIGBUS));
	EXPECT_EQ(SIGBUS, touch(self->p + HUGE, 'x'));
	EXPECT_EQ(SIGBUS, touch(self->p + SIZE - 1, -1));
	q = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, HUGE);
	if (q != MAP_FAILED) {
		EXPECT_EQ(SIGBUS, touch(q, -1));
		EXPECT_EQ(SIGBUS, touch(q, 'x'));
		munmap(q, SIZE);
	}
	/* A private copy stays. */
	EXPECT_EQ(0, touch(copy + PAGE, -1));
	EXPECT_EQ('c', copy[PAGE]);
	EXPECT_EQ(SIGBUS, touch(copy + HUGE, -1));
	munmap(copy, SIZE);
	/* Other files are not affected. */
	EXPECT_EQ(0, fs_fill(self->s, "next", 'n', SIZE));
}

/* The next file gets the memory while the old one is still open, and keeps it. */
TEST_F(reused, memory_is_given_up)
{
	const char *name = variant->anew ? "file" : "thief";
	unsigned char *q;
	int fd;

	ASSERT_EQ(0, variant->end(self->s));
	fd = fs_open(self->s, name, O_RDWR);
	ASSERT_LE(0, fd);
	q = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	ASSERT_TRUE(comes_to(q + HUGE, 0));
	EXPECT_EQ('f', q[HUGE]);
	for (size_t at = 0; at < SIZE; at += 256 * KIB)
		EXPECT_EQ(0, touch(q + at, 'q'));
	EXPECT_EQ(1, pwrite(fd, "w", 1, 3 * PAGE));
	EXPECT_EQ('w', q[3 * PAGE]);
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(SIGBUS, touch(self->p + HUGE, 'x'));
	EXPECT_EQ(SIGBUS, touch(self->p, 'x'));
	EXPECT_EQ(EIO, do_write(self->fd));
	EXPECT_EQ(0, self->s->count[FUSE_READ] + self->s->count[FUSE_WRITE]);

	/* The end of the old file, flushed, unmapped and evicted, takes nothing away. */
	do_fsync(self->fd);
	munmap(self->p, SIZE);
	self->p = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	EXPECT_EQ(err_of(close(self->plain_fd)), err_of(close(self->fd)));
	self->plain_fd = open("/dev/null", O_RDONLY);
	self->fd = open("/dev/null", O_RDONLY);
	drop_caches();
	for (size_t at = HUGE; at < SIZE; at += 256 * KIB) {
		EXPECT_EQ(0, touch(q + at, -1));
		EXPECT_EQ('q', q[at]);
	}
	munmap(q, SIZE);
	close(fd);
}

/* The new inode has another map, and the old file does not get that memory. */
TEST_F(reused, another_map)
{
	unsigned char *q;
	int fd;

	if (!variant->anew)
		return;
	ASSERT_EQ(0, fs_fill(self->s, "next", 'n', SIZE));
	self->s->file[0].map = &self->map[1];
	ASSERT_EQ(0, variant->end(self->s));
	fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ('n', byte_at(fd, HUGE));
	q = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(0, touch(q + HUGE, -1));
	EXPECT_EQ('n', q[HUGE]);
	EXPECT_EQ(0, touch(q + HUGE, 'x'));
	EXPECT_EQ(EIO, do_read(self->fd));
	EXPECT_TRUE(comes_to(self->p + HUGE, SIGBUS));
	munmap(q, SIZE);
	close(fd);
}

/* A page that is in use is not given to another file until it is released. */
TEST_F(reused, page_in_use)
{
	const char *name = variant->anew ? "file" : "thief";
	struct iovec iov = { self->p + HUGE, PAGE };
	unsigned char *q, got[PAGE];
	int p[2];

	ASSERT_EQ(0, pipe(p));
	ASSERT_EQ(PAGE, vmsplice(p[1], &iov, 1, 0));
	ASSERT_EQ(0, variant->end(self->s));
	EXPECT_TRUE(comes_to(self->p + HUGE, SIGBUS));
	q = fs_map(self->s, name, SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(SIGBUS, touch(q + HUGE, 'x'));
	EXPECT_EQ(0, touch(q, 'x'));
	ASSERT_EQ(PAGE, read(p[0], got, PAGE));
	for (int i = 0; i < PAGE; i++)
		ASSERT_EQ('f', got[i]);
	close(p[0]);
	close(p[1]);
	EXPECT_TRUE(comes_to(q + HUGE, 0));
	EXPECT_EQ(0, touch(q + HUGE, 'x'));
	munmap(q, SIZE);
}

/*
 * The same for write(2) of the next file, at once: before the module has found the inode that
 * has become bad.
 */
TEST_F(reused, written_at_once)
{
	struct iovec iov = { self->p + HUGE, PAGE };
	unsigned char got[PAGE];
	int p[2], fd = -1;
	ssize_t ret = -1;

	ASSERT_EQ(0, pipe(p));
	ASSERT_EQ(PAGE, vmsplice(p[1], &iov, 1, 0));
	/* READDIRPLUS makes this inode bad, too, so it is opened afterwards. */
	if (variant->end != by_readdirplus)
		fd = fs_open(self->s, "thief", O_RDWR);
	ASSERT_EQ(0, variant->end(self->s));
	if (variant->end == by_readdirplus)
		fd = fs_open(self->s, "thief", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, pwrite(fd, "x", 1, HUGE));
	EXPECT_EQ(EIO, errno);
	ASSERT_EQ(PAGE, read(p[0], got, PAGE));
	for (int i = 0; i < PAGE; i++)
		ASSERT_EQ('f', got[i]);
	close(p[0]);
	close(p[1]);
	for (int ms = 0; ms < FS_PATIENCE && ret != 1; ms++) {
		ret = pwrite(fd, "x", 1, HUGE);
		usleep(1000);
	}
	EXPECT_EQ(1, ret);
	close(fd);
}

/* Nor can the next file write to the page if its memory has failed. */
TEST_F(reused, failed_and_written_anew)
{
	static unsigned char got[PAGE], anew[PAGE];
	struct iovec iov = { self->p + HUGE, PAGE };
	int p[2], fd = -1;
	ssize_t ret = -1;

	if (!daxdev[0].phys)
		SKIP(return, "the devices do not tell their physical addresses");
	if (access(HWPOISON_INJECT, W_OK))
		SKIP(return, "there is no hwpoison-inject");
	memset(anew, 't', PAGE);
	ASSERT_EQ(0, pipe(p));
	ASSERT_EQ(PAGE, vmsplice(p[1], &iov, 1, 0));
	ASSERT_EQ(0, hwpoison_inject(daxdev[0].phys + variant->addr + HUGE));
	if (variant->end != by_readdirplus)
		fd = fs_open(self->s, "thief", O_RDWR);
	ASSERT_EQ(0, variant->end(self->s));
	if (variant->end == by_readdirplus)
		fd = fs_open(self->s, "thief", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, pwrite(fd, anew, PAGE, HUGE));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_ZERO_RANGE, HUGE, PAGE));
	EXPECT_EQ(EIO, errno);
	/* The page before it can be written. */
	EXPECT_EQ(PAGE, pwrite(fd, anew, PAGE, HUGE - PAGE));
	ASSERT_EQ(PAGE, read(p[0], got, PAGE));
	for (int i = 0; i < PAGE; i++)
		ASSERT_EQ('f', got[i]);
	close(p[0]);
	close(p[1]);
	for (int ms = 0; ms < FS_PATIENCE && ret != PAGE; ms++) {
		ret = pwrite(fd, anew, PAGE, HUGE);
		usleep(1000);
	}
	EXPECT_EQ(PAGE, ret);
	EXPECT_EQ('t', byte_at(fd, HUGE));
	close(fd);
}

/* Only a mapping is left of the old file. */
TEST_F(reused, mapping_alone)
{
	close(self->fd);
	self->fd = open("/dev/null", O_RDONLY);
	ASSERT_EQ(0, variant->end(self->s));
	EXPECT_TRUE(comes_to(self->p + HUGE, SIGBUS));
	EXPECT_EQ(SIGBUS, touch(self->p, -1));
	EXPECT_NE(0, msync(self->p, SIZE, MS_SYNC));
	EXPECT_EQ(EIO, errno);
}

/* The inode becomes bad while its first opener waits for the map. */
TEST_F(reused, first_open)
{
	struct fuse_server *s = self->s;
	int status;
	pid_t pid;

	if (variant->end != by_lookup && variant->end != by_readdirplus)
		return;
	self->s->hold[FUSE_GET_FMAP] = true;
	s->count[FUSE_GET_FMAP] = 0;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = fs_open(s, "next", O_RDWR);

		_exit(fd < 0 ? -fd : do_read(fd));
	}
	EXPECT_TRUE(fs_wait(s, FUSE_GET_FMAP, 1));
	EXPECT_EQ(0, variant->end(s));
	if (variant->end == by_lookup) {
		struct stat st;

		EXPECT_EQ(0, stat(fs_path(s, "next"), &st));
	}
	fs_release(s, FUSE_GET_FMAP);
	status = ended(pid);
	EXPECT_EQ(EIO, WEXITSTATUS(status));
	EXPECT_EQ(0, fs_fill(s, "next", 'n', SIZE));
}

/* Tasks open, fault, read and write, and the inode becomes bad again and again. */
TEST_F_TIMEOUT(reused, while_busy, 60)
{
	volatile bool *over = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid[3];

	ASSERT_NE(MAP_FAILED, over);
	if (!variant->anew)
		return;
	for (int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		for (size_t n = i; !*over; n++) {
			int fd = fs_open(self->s, "file", O_RDWR), err;
			unsigned char *q;

			if (fd == -EIO || fd == -ESTALE || fd == -ENOENT)
				continue;
			if (fd < 0)
				_exit(-fd);
			q = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			for (size_t at = i * PAGE; q != MAP_FAILED && at < SIZE; at += 37 * PAGE)
				touch(q + at, i ? -1 : 'b');
			err = i == 1 ? do_write(fd) : do_read(fd);
			if (err && err != EIO)
				_exit(err);
			if (q != MAP_FAILED)
				munmap(q, SIZE);
			close(fd);
		}
		_exit(0);
	}
	for (int round = 0; round < 40; round++) {
		variant->end(self->s);
		usleep(10 * 1000);
	}
	*over = true;
	for (int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, ended(pid[i]));
	EXPECT_EQ(EIO, do_read(self->fd));
	EXPECT_TRUE(comes_to(self->p + HUGE, SIGBUS));
	EXPECT_EQ(0, fs_fill(self->s, "file", 'e', SIZE));
}

/* ---- I/O that takes long ---- */

#define LONG	(192 * MIB)

FIXTURE(long_io) {
	struct fuse_server *s;
	struct scripted map;
	pid_t child;
};

FIXTURE_VARIANT(long_io) {
	bool writes;
};

FIXTURE_VARIANT_ADD(long_io, zeroing) {
	.writes = false,
};

FIXTURE_VARIANT_ADD(long_io, writing) {
	.writes = true,
};

FIXTURE_SETUP(long_io)
{
	FMAP_REQUIRE();
	if (daxdev[0].size < LONG)
		SKIP(return, "%s is too small", daxdev[0].path);
	says->generation = 1;
	says->wrong_type = false;
	self->map = fmap_linear(0, 0, LONG);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->hook[FUSE_LOOKUP] = lookup;
	self->s->hook[FUSE_GETATTR] = attributes;
	fs_add(self->s, "file", LONG, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(long_io)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

/* The next file has the memory, so a call that is under way for the old one ends. */
TEST_F_TIMEOUT(long_io, ends, 60)
{
	int fd = fs_open(self->s, "file", O_RDWR), next, status;
	static char last[MIB];
	volatile char *first;
	struct stat st;

	ASSERT_LE(0, fd);
	EXPECT_EQ(1, pwrite(fd, "o", 1, 0));
	first = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, first);
	self->child = fork();
	ASSERT_LE(0, self->child);
	if (!self->child) {
		char *zeros = mmap(NULL, LONG, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		if (!variant->writes)
			_exit(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, LONG) ? errno : 0);
		_exit(pwrite(fd, zeros, LONG, 0) < LONG ? EIO : 0);
	}
	while (*first == 'o')
		;
	says->generation++;
	ASSERT_EQ(0, stat(fs_path(self->s, "file"), &st));
	next = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, next);
	memset(last, 'n', sizeof(last));
	EXPECT_EQ(sizeof(last), pwrite(next, last, sizeof(last), LONG - MIB));
	status = ended(self->child);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(EIO, WEXITSTATUS(status));
	EXPECT_EQ('n', byte_at(next, LONG - MIB));
	EXPECT_EQ('n', byte_at(next, LONG - 1));
	munmap((void *)first, PAGE);
	close(next);
	close(fd);
}

int main(int argc, char **argv)
{
	says = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	hwpoison_load();
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
