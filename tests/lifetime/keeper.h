/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For the tests of evicted files, and of what takes their memory away: a task that keeps a
 * page of a file and nothing else of it, as any user can do with a file that he can open; and
 * the mount of that file.
 */
#ifndef KEEPER_H
#define KEEPER_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fmap_test.h"

#define SIZE		(4 * MIB)
#define AT		(HUGE + 5 * PAGE)	/* offset of the kept page */
#define USER		1000

enum { BY_PIPE, BY_DIRECT_READ, BY_AIO };

struct keeper {
	struct fuse_server *s, *slow;	/* of the file; of the file that BY_AIO reads */
	const char	*name;
	int		how;
	bool		removes;	/* the file */
	pid_t		pid;
	int		ready[2], go[2];
};

static char *direct_to;
static int direct_from;

static inline void *direct_read(void *unused)
{
	return (void *)(long)pread(direct_from, direct_to, PAGE, 0);
}

/* Keeps the page until the parent writes to @go. Returns 0, or the step that failed. */
static inline int keep(struct keeper *k)
{
	static char got[PAGE];
	struct fuse_server *from = k->how == BY_AIO ? k->slow : k->s;
	struct iovec iov = { .iov_len = PAGE };
	struct iocb cb = { .aio_lio_opcode = IOCB_CMD_PREAD, .aio_nbytes = PAGE }, *cbs = &cb;
	struct io_event event;
	aio_context_t aio = 0;
	pthread_t thread;
	int fd, pipes[2];
	void *ret;
	char *p, c;

	if (setgid(USER) || setuid(USER) || prctl(PR_SET_PDEATHSIG, SIGKILL))
		return 1;
	fd = fs_open(k->s, k->name, O_RDWR);
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || p == MAP_FAILED || p[AT] != 'f')
		return 2;
	iov.iov_base = p + AT;
	if (k->how == BY_PIPE) {
		if (pipe(pipes) || vmsplice(pipes[1], &iov, 1, 0) != PAGE)
			return 3;
	} else {
		direct_from = fs_open(from, "plain", O_RDONLY | O_DIRECT);
		direct_to = p + AT;
		cb.aio_fildes = direct_from;
		cb.aio_buf = (uintptr_t)direct_to;
		if (direct_from < 0)
			return 3;
		if (k->how == BY_AIO && (syscall(SYS_io_setup, 1, &aio) ||
					 syscall(SYS_io_submit, aio, 1, &cbs) != 1))
			return 4;
		if (k->how == BY_DIRECT_READ && pthread_create(&thread, NULL, direct_read, NULL))
			return 4;
		if (!fs_wait(from, FUSE_READ, 1))
			return 5;
	}
	if (k->removes && unlink(fs_path(k->s, k->name)))
		return 6;
	if (munmap(p, SIZE) || close(fd))
		return 7;
	if (write(k->ready[1], "r", 1) != 1 || read(k->go[0], &c, 1) != 1)
		return 8;
	switch (k->how) {
	case BY_PIPE:
		if (read(pipes[0], got, PAGE) != PAGE)
			return 9;
		for (size_t i = 0; i < PAGE; i++)
			if (got[i] != 'f')
				return 10;
		return 0;
	case BY_DIRECT_READ:
		return pthread_join(thread, &ret) || (long)ret != PAGE ? 9 : 0;
	default:
		return syscall(SYS_io_getevents, aio, 1, 1, &event, NULL) != 1 ||
		       event.res != PAGE ? 9 : 0;
	}
}

/* Returns true once a child keeps the page, and nothing else of the file. */
static inline bool keep_begin(struct keeper *k)
{
	struct fuse_server *from = k->how == BY_AIO ? k->slow : k->s;
	unsigned int released = k->s->count[FUSE_RELEASE];
	struct statfs st;
	pid_t pid;
	char c;

	if (k->how != BY_PIPE)
		from->hold[FUSE_READ] = true;
	if (pipe2(k->ready, O_CLOEXEC) || pipe2(k->go, O_CLOEXEC))
		return false;
	pid = fork();
	if (!pid)
		_exit(keep(k));
	k->pid = pid;	/* the child may share @k, and must not store to it */
	close(k->ready[1]);
	close(k->go[0]);
	if (k->pid < 0 || read(k->ready[0], &c, 1) != 1)
		return false;
	if (!fs_wait(k->s, FUSE_RELEASE, released + 1))
		return false;
	/* The server answers requests in order: RELEASE is done once this one is answered. */
	return k->removes || !statfs(k->s->dir, &st);
}

/* Let the child release the page. Returns its exit status: 0 if the I/O was correct. */
static inline int keep_end(struct keeper *k)
{
	int status;

	if (k->pid <= 0)
		return -1;
	fs_release(k->s, FUSE_READ);
	if (k->slow)
		fs_release(k->slow, FUSE_READ);
	if (write(k->go[1], "g", 1) != 1)
		kill(k->pid, SIGKILL);
	status = ended(k->pid);
	if (status < 0) {
		kill(k->pid, SIGKILL);
		ended(k->pid);
	}
	k->pid = 0;
	return status;
}

static inline void keeper_done(struct fuse_server *s, const struct fuse_in_header *in,
			       const void *arg)
{
	fs_reply(s, in, 0, NULL, 0);
}

/* Any user may remove files from the root directory. */
static inline void keeper_getattr(struct fuse_server *s, const struct fuse_in_header *in,
				  const void *arg)
{
	struct fuse_attr_out out = {
		.attr_valid = 3600,
		.attr = { .ino = FUSE_ROOT_ID, .mode = S_IFDIR | 0777, .nlink = 2 },
	};

	if (in->nodeid == FUSE_ROOT_ID)
		fs_reply(s, in, 0, &out, sizeof(out));
	else
		fs_default(s, in, arg);
}

/*
 * "file" and "thief" have the same memory, "next" and "twin" the memory behind it, and "far"
 * is on the other device. The map of "file" also declares the devices in @dev_bitmap.
 */
static inline struct fuse_server *keeper_mount(struct scripted map[4], uint64_t addr,
					       uint64_t dev_bitmap)
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);

	if (!s)
		return NULL;
	map[0] = fmap_linear(0, addr, SIZE);
	map[1] = fmap_linear(0, addr + SIZE, SIZE);
	map[2] = fmap_linear(1, addr, SIZE);
	map[3] = map[0];
	map[3].dev_bitmap |= dev_bitmap;
	fs_add(s, "file", SIZE, &map[3], sizeof(map[3]));
	fs_add(s, "thief", SIZE, &map[0], sizeof(map[0]));
	fs_add(s, "next", SIZE, &map[1], sizeof(map[1]));
	fs_add(s, "far", SIZE, &map[2], sizeof(map[2]));
	fs_add(s, "plain", SIZE, NULL, 0);
	fs_add(s, "twin", SIZE, &map[1], sizeof(map[1]));
	for (unsigned int i = 0; i < s->nr_files; i++)
		s->file[i].mode = S_IFREG | 0666;
	s->hook[FUSE_GETATTR] = keeper_getattr;
	s->hook[FUSE_UNLINK] = keeper_done;
	if (fs_mount(s) || fs_fill(s, "file", 'f', SIZE)) {
		fs_stop(s);
		return NULL;
	}
	return s;
}

/* Runs @what in a child. Returns its exit status, or -1 if it hangs. */
#define in_child(what) ({						\
	pid_t _pid = fork();						\
	int _status;							\
									\
	if (!_pid)							\
		_exit(what);						\
	_status = ended(_pid);						\
	if (_status == -1)						\
		kill(_pid, SIGKILL);					\
	_status > 0 ? WEXITSTATUS(_status) : _status;			\
})

static inline int try_statfs(struct fuse_server *s)
{
	struct statfs st;

	return statfs(s->dir, &st) ? errno : 0;
}

#endif /* KEEPER_H */
