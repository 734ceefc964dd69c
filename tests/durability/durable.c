// SPDX-License-Identifier: GPL-2.0
/*
 * Stores to a mapped file reach the device's persistence domain.
 *
 * fsync, msync, sync and the like must flush each dirty page exactly once, before they
 * send a request to the server, and whatever it answers. A page is flushed again only if
 * it has been stored to since. Reading never makes a page dirty.
 *
 * Two sources are compared: tracepoints of DAX tell which entries it writes back, and two
 * BPF programs see which bytes the CPU is told to flush (bpf/flush.bpf.c).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/aio_abi.h>
#include <linux/perf_event.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "bpf/flush.h"

#define SIZE	(4 * MIB)

/* A file with PMD faults, and one with PTE faults. */
static const char * const names[] = { "huge", "small" };
static const size_t piece[] = { HUGE, PAGE };

static struct flush_seen *flush;

FIXTURE(durable) {
	struct fuse_server *s;
	struct scripted map[2];
	int fd[2];
	unsigned char *p[2];
	int entries;		/* counters: entries, */
	int ranges;		/* and calls, of DAX's writeback in this task */
	uint64_t seen_entries;
	uint64_t seen_flushed;
	long refs;
};

FIXTURE_SETUP(durable)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->map[0] = fmap_linear(0, 0, SIZE);
	self->map[1] = fmap_linear(0, SIZE + PAGE, SIZE);
	for (int i = 0; i < 2; i++)
		fs_add(self->s, names[i], SIZE, &self->map[i], sizeof(self->map[i]));
	fs_add(self->s, "plain", PAGE, NULL, 0);
	self->s->init_flags |= FUSE_ASYNC_DIO;
	ASSERT_EQ(0, fs_mount(self->s));
	for (int i = 0; i < 2; i++) {
		self->fd[i] = fs_open(self->s, names[i], O_RDWR);
		ASSERT_LE(0, self->fd[i]);
		self->p[i] = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
				  self->fd[i], 0);
		ASSERT_NE(MAP_FAILED, self->p[i]);
	}
	self->entries = trace_count_open("fs_dax/dax_writeback_one", NULL);
	self->ranges = trace_count_open("fs_dax/dax_writeback_range", NULL);
	ASSERT_LE(0, self->entries);
	ASSERT_LE(0, self->ranges);
}

/* In the parent: the device must be bound again even if the test died. */
FIXTURE_TEARDOWN_PARENT(durable)
{
	char path[PATH_MAX];

	if (fmap_missing())
		return;
	snprintf(path, sizeof(path), FSDEV "/%s", daxdev[0].name);
	if (access(path, F_OK))
		EXPECT_EQ(0, write_file(FSDEV "/bind", daxdev[0].name));
}

#define let_go() do {							\
	for (int _i = 0; _i < 2; _i++) {				\
		munmap(self->p[_i], SIZE);				\
		close(self->fd[_i]);					\
	}								\
} while (0)

#define finish() do {							\
	EXPECT_EQ(0, fs_stop(self->s));					\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
} while (0)

/* Count flushes from here on. */
#define mark() do {							\
	self->seen_entries = trace_count(self->entries);		\
	self->seen_flushed = flush->flushed;				\
} while (0)

/* Since mark() this task flushed exactly @n entries, and @len bytes were flushed. */
#define expect_flushed(n, len) do {					\
	EXPECT_EQ((uint64_t)(n),					\
		  trace_count(self->entries) - self->seen_entries);	\
	EXPECT_EQ((uint64_t)(len), flush->flushed - self->seen_flushed);	\
} while (0)

/*
 * The same for files that are evicted: the kernel's flusher may hold one of them, or its last
 * close may not have ended. Then another task evicts and flushes the file, a moment later.
 */
#define expect_flushed_soon(len) do {					\
	for (int _ms = 0; _ms < FS_PATIENCE &&				\
	     flush->flushed - self->seen_flushed < (uint64_t)(len); _ms++) \
		usleep(1000);						\
	EXPECT_EQ((uint64_t)(len), flush->flushed - self->seen_flushed);	\
} while (0)

/* Two stores each into the first and the last page of file @i: two dirty entries. */
#define make_dirty(i) do {						\
	ASSERT_EQ(0, touch(self->p[i] + 1, 1));				\
	ASSERT_EQ(0, touch(self->p[i] + PAGE - 1, 2));			\
	ASSERT_EQ(0, touch(self->p[i] + SIZE - PAGE, 3));		\
	ASSERT_EQ(0, touch(self->p[i] + SIZE - 1, 4));			\
} while (0)

/* ---- ways to make one file durable ---- */

static int by_fsync(int fd, void *p)
{
	return fsync(fd);
}

static int by_fdatasync(int fd, void *p)
{
	return fdatasync(fd);
}

static int by_msync(int fd, void *p)
{
	return msync(p, SIZE, MS_SYNC);
}

static int by_sync_file_range(int fd, void *p)
{
	return sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE |
			       SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
}

static int by_syncfs(int fd, void *p)
{
	return syncfs(fd);
}

static int by_sync(int fd, void *p)
{
	sync();
	return 0;
}

/* The write bypasses the caches; earlier stores to its range are flushed with it. */
static int by_o_sync(int fd, void *p)
{
	char path[64], c = 5;
	int sync_fd, ret;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	sync_fd = open(path, O_RDWR | O_SYNC);
	if (sync_fd < 0)
		return -1;
	/* O_SYNC flushes the range of the write only: one entry each. */
	ret = pwrite(sync_fd, &c, 1, 0) == 1 &&
	      pwrite(sync_fd, &c, 1, SIZE - 1) == 1 ? 0 : -1;
	close(sync_fd);
	return ret;
}

static int by_rwf_dsync(int fd, void *p)
{
	char c = 5;
	struct iovec iov = { .iov_base = &c, .iov_len = 1 };

	return pwritev2(fd, &iov, 1, 0, RWF_DSYNC) == 1 &&
	       pwritev2(fd, &iov, 1, SIZE - 1, RWF_DSYNC) == 1 ? 0 : -1;
}

/*
 * Stores are flushed once; a later store to a flushed entry is flushed again. The server gets
 * FSYNC if it would get it for a plain file.
 */
#define expect_way(by, fsyncs) do {					\
	for (int i = 0; i < 2; i++) {					\
		struct fuse_server *s = self->s;			\
		unsigned int before = s->count[FUSE_FSYNC];		\
									\
		make_dirty(i);						\
		mark();							\
		EXPECT_EQ(0, by(self->fd[i], self->p[i]));		\
		expect_flushed(2, 2 * piece[i]);			\
		EXPECT_EQ(before + (fsyncs), s->count[FUSE_FSYNC]);	\
		mark();							\
		EXPECT_EQ(0, by(self->fd[i], self->p[i]));		\
		expect_flushed(0, 0);					\
		/* The flush has write-protected the entry. */		\
		ASSERT_EQ(0, touch(self->p[i] + 2, 9));			\
		mark();							\
		EXPECT_EQ(0, by(self->fd[i], self->p[i]));		\
		expect_flushed(1, piece[i]);				\
		EXPECT_EQ(before + 3 * (fsyncs), s->count[FUSE_FSYNC]);	\
	}								\
	let_go();							\
	finish();							\
} while (0)

TEST_F(durable, fsync)			{ expect_way(by_fsync, 1); }
TEST_F(durable, fdatasync)		{ expect_way(by_fdatasync, 1); }
TEST_F(durable, msync)			{ expect_way(by_msync, 1); }
TEST_F(durable, sync_file_range)	{ expect_way(by_sync_file_range, 0); }
TEST_F(durable, syncfs)			{ expect_way(by_syncfs, 0); }
TEST_F(durable, sync)			{ expect_way(by_sync, 0); }
TEST_F(durable, o_sync)			{ expect_way(by_o_sync, 2); }
TEST_F(durable, rwf_dsync)		{ expect_way(by_rwf_dsync, 2); }

/* A range is flushed in whole entries, and no other entry is. */
TEST_F(durable, range)
{
	for (int i = 0; i < 2; i++) {
		make_dirty(i);
		mark();
		EXPECT_EQ(0, msync(self->p[i] + HUGE, HUGE - PAGE, MS_SYNC));
		expect_flushed(i ? 0 : 1, i ? 0 : HUGE);
		EXPECT_EQ(0, msync(self->p[i] + HUGE, HUGE, MS_SYNC));
		expect_flushed(1, piece[i]);
		EXPECT_EQ(0, msync(self->p[i], PAGE, MS_SYNC));
		expect_flushed(2, 2 * piece[i]);
		EXPECT_EQ(0, fsync(self->fd[i]));
		expect_flushed(2, 2 * piece[i]);
	}
	let_go();
	finish();
}

/* Read faults and reads make no entry dirty. */
TEST_F(durable, reads_are_clean)
{
	char c;

	for (int i = 0; i < 2; i++) {
		mark();
		EXPECT_EQ(0, touch(self->p[i], -1));
		EXPECT_EQ(0, touch(self->p[i] + HUGE, -1));
		EXPECT_EQ(1, pread(self->fd[i], &c, 1, PAGE));
		EXPECT_EQ(0, fsync(self->fd[i]));
		expect_flushed(0, 0);
	}
	let_go();
	finish();
}

/* write(2) leaves no dirty entry. */
TEST_F(durable, write)
{
	static char buf[64 * KIB];
	uint64_t copied = flush->copied;

	for (int i = 0; i < 2; i++) {
		memset(buf, 'a' + i, sizeof(buf));
		ASSERT_EQ(sizeof(buf), pwrite(self->fd[i], buf, sizeof(buf), 0));
		ASSERT_EQ(100, pwrite(self->fd[i], buf, 100, SIZE - 100));
		mark();
		EXPECT_EQ(0, fsync(self->fd[i]));
		expect_flushed(0, 0);
	}
	EXPECT_EQ(2 * (sizeof(buf) + 100), flush->copied - copied);
	let_go();
	finish();
}

/* An open file that asks for FLUSH to be sent, unlike those of the fixture. */
static int open_for_flush(struct fuse_server *s, const char *name)
{
	s->open_flags &= ~FOPEN_NOFLUSH;
	return fs_open(s, name, O_RDWR);
}

/*
 * close(2) sends FLUSH, and returns its error, until the server answers ENOSYS. It does not
 * make a file durable.
 */
TEST_F(durable, close)
{
	struct fuse_server *s = self->s;
	unsigned int before;

	for (int i = 0; i < 2; i++) {
		int fd = open_for_flush(s, names[i]);

		before = s->count[FUSE_FLUSH];
		EXPECT_EQ(0, close(dup(fd)));
		EXPECT_EQ(before + 1, s->count[FUSE_FLUSH]);
		s->error[FUSE_FLUSH] = -EDQUOT;
		EXPECT_EQ(-1, close(fd));
		EXPECT_EQ(EDQUOT, errno);
		EXPECT_EQ(before + 2, s->count[FUSE_FLUSH]);
		s->error[FUSE_FLUSH] = 0;
	}
	s->error[FUSE_FLUSH] = -ENOSYS;
	before = s->count[FUSE_FLUSH];
	for (int i = 0; i < 2; i++) {
		make_dirty(i);
		mark();
		EXPECT_EQ(0, close(open_for_flush(s, names[i])));
		EXPECT_EQ(0, close(open_for_flush(s, names[i])));
		expect_flushed(0, 0);
		EXPECT_EQ(0, fsync(self->fd[i]));
		expect_flushed(2, 2 * piece[i]);
	}
	EXPECT_EQ(before + 1, s->count[FUSE_FLUSH]);
	let_go();
	finish();
}

/* Dirty files that are closed are flushed at unmount. */
TEST_F(durable, umount)
{
	make_dirty(0);
	make_dirty(1);
	let_go();
	mark();
	EXPECT_EQ(0, fs_umount(self->s));
	expect_flushed(4, 2 * HUGE + 2 * PAGE);
	finish();
}

TEST_F(durable, umount_lazily)
{
	make_dirty(0);
	make_dirty(1);
	mark();
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
	self->s->mounted = false;
	expect_flushed(0, 0);
	let_go();
	for (int ms = 0; ms < FS_PATIENCE && module_refs() != self->refs; ms++)
		usleep(1000);
	EXPECT_EQ(2 * HUGE + 2 * PAGE, flush->flushed - self->seen_flushed);
	finish();
}

TEST_F(durable, evict)
{
	make_dirty(0);
	make_dirty(1);
	let_go();
	mark();
	drop_caches();
	expect_flushed_soon(2 * HUGE + 2 * PAGE);
	mark();
	EXPECT_EQ(0, fs_umount(self->s));
	expect_flushed(0, 0);
	finish();
}

/*
 * A page of each file is pinned, as the buffer of a direct read from another file, when fsync
 * flushes it, and when the file is closed. The read stores to it after that, and the page
 * must be flushed again; also if the file was opened @again and flushed in the meantime.
 */
#define read_after_fsync(again) do {					\
	struct iocb _cb[2], *_cbs[2];					\
	struct io_event _event[2];					\
	aio_context_t _aio = 0;						\
	int _fd = fs_open(self->s, "plain", O_RDONLY | O_DIRECT);	\
									\
	ASSERT_LE(0, _fd);						\
	self->s->hold[FUSE_READ] = true;				\
	for (int _i = 0; _i < 2; _i++) {				\
		_cb[_i] = (struct iocb){				\
			.aio_lio_opcode = IOCB_CMD_PREAD,		\
			.aio_fildes = _fd,				\
			.aio_buf = (uintptr_t)self->p[_i],		\
			.aio_nbytes = PAGE,				\
		};							\
		_cbs[_i] = &_cb[_i];					\
	}								\
	ASSERT_EQ(0, syscall(SYS_io_setup, 2, &_aio));			\
	ASSERT_EQ(2, syscall(SYS_io_submit, _aio, 2, _cbs));		\
	ASSERT_TRUE(fs_wait(self->s, FUSE_READ, 2));			\
	for (int _i = 0; _i < 2; _i++)					\
		EXPECT_EQ(0, fsync(self->fd[_i]));			\
	let_go();							\
	for (int _i = 0; (again) && _i < 2; _i++) {			\
		self->fd[_i] = fs_open(self->s, names[_i], O_RDWR);	\
		/* Time for the module to see the open file, and put the inode. */ \
		usleep(300 * 1000);					\
		EXPECT_EQ(0, fsync(self->fd[_i]));			\
	}								\
	mark();								\
	fs_release(self->s, FUSE_READ);					\
	EXPECT_EQ(2, syscall(SYS_io_getevents, _aio, 2, 2, _event, NULL)); \
	for (int _i = 0; _i < 2; _i++)					\
		EXPECT_EQ(PAGE, _event[_i].res);			\
	for (int _i = 0; (again) && _i < 2; _i++)			\
		close(self->fd[_i]);					\
	close(_fd);							\
} while (0)

TEST_F(durable, read_after_fsync_then_unmounted)
{
	read_after_fsync(false);
	EXPECT_EQ(0, fs_umount(self->s));
	expect_flushed_soon(HUGE + PAGE);
	finish();
}

#define expect_evicted_and_flushed(len) do {				\
	for (int _i = 0; _i < 100 &&					\
	     flush->flushed - self->seen_flushed < (len); _i++) {	\
		drop_caches();						\
		usleep(20 * 1000);					\
	}								\
	EXPECT_EQ((uint64_t)(len), flush->flushed - self->seen_flushed); \
} while (0)

TEST_F(durable, read_after_fsync_then_evicted)
{
	read_after_fsync(false);
	expect_evicted_and_flushed(HUGE + PAGE);
	finish();
}

TEST_F(durable, read_after_fsync_then_opened_again)
{
	read_after_fsync(true);
	expect_evicted_and_flushed(HUGE + PAGE);
	finish();
}

/* A read-only remount evicts files that are not open. */
TEST_F(durable, remount_read_only)
{
	make_dirty(0);
	let_go();
	mark();
	EXPECT_EQ(0, mount(NULL, self->s->dir, NULL, MS_REMOUNT | MS_RDONLY, NULL));
	expect_flushed_soon(2 * HUGE);
	finish();
}

/* Unbinding a device flushes its dirty files; fsync and msync are EIO after that. */
TEST_F(durable, unbind)
{
	make_dirty(0);
	make_dirty(1);
	mark();
	ASSERT_EQ(0, write_file(FSDEV "/unbind", daxdev[0].name));
	expect_flushed(4, 2 * HUGE + 2 * PAGE);
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(-1, fsync(self->fd[i]));
		EXPECT_EQ(EIO, errno);
		EXPECT_EQ(-1, fdatasync(self->fd[i]));
		EXPECT_EQ(EIO, errno);
		EXPECT_EQ(-1, msync(self->p[i], SIZE, MS_SYNC));
		EXPECT_EQ(EIO, errno);
	}
	EXPECT_EQ(0, syncfs(self->fd[0]));
	let_go();
	finish();
}

/* The server gets FSYNC with its flags, and its answer is that of the system call. */
static _Atomic unsigned int *fsync_flags;

static void see_fsync(struct fuse_server *s, const struct fuse_in_header *in,
		      const void *arg)
{
	*fsync_flags = ((const struct fuse_fsync_in *)arg)->fsync_flags;
	fs_default(s, in, arg);
}

TEST_F(durable, server)
{
	struct fuse_server *s = self->s;

	fsync_flags = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, fsync_flags);
	s->hook[FUSE_FSYNC] = see_fsync;
	EXPECT_EQ(0, fsync(self->fd[0]));
	EXPECT_EQ(0, *fsync_flags);
	EXPECT_EQ(0, fdatasync(self->fd[0]));
	EXPECT_EQ(FUSE_FSYNC_FDATASYNC, *fsync_flags);

	/* The caller gets the server's error, but the data are flushed. */
	s->error[FUSE_FSYNC] = -EDQUOT;
	make_dirty(0);
	mark();
	EXPECT_EQ(-1, fsync(self->fd[0]));
	EXPECT_EQ(EDQUOT, errno);
	expect_flushed(2, 2 * HUGE);

	/* After ENOSYS, FSYNC is not sent any more. */
	s->error[FUSE_FSYNC] = -ENOSYS;
	EXPECT_EQ(0, fsync(self->fd[0]));
	EXPECT_EQ(4, s->count[FUSE_FSYNC]);
	make_dirty(1);
	mark();
	EXPECT_EQ(0, msync(self->p[1], SIZE, MS_SYNC));
	expect_flushed(2, 2 * PAGE);
	EXPECT_EQ(4, s->count[FUSE_FSYNC]);
	let_go();
	finish();
}

/* Without a connection all is flushed, but fsync and msync return ENOTCONN. */
TEST_F(durable, connection_aborted)
{
	struct fuse_server *s = self->s;

	make_dirty(0);
	make_dirty(1);
	EXPECT_EQ(0, fs_abort(s));
	mark();
	EXPECT_EQ(-1, fsync(self->fd[0]));
	EXPECT_EQ(ENOTCONN, errno) TH_LOG("%s", strerror(errno));
	expect_flushed(2, 2 * HUGE);
	EXPECT_EQ(-1, msync(self->p[1], SIZE, MS_SYNC));
	EXPECT_EQ(ENOTCONN, errno) TH_LOG("%s", strerror(errno));
	expect_flushed(4, 2 * HUGE + 2 * PAGE);
	make_dirty(0);
	EXPECT_EQ(0, syncfs(self->fd[0]));
	expect_flushed(6, 4 * HUGE + 2 * PAGE);
	let_go();
	finish();
}

/* While the server holds back FSYNC, all is flushed already, and other tasks can fault. */
TEST_F(durable, server_hangs)
{
	struct fuse_server *s = self->s;
	pid_t pid;

	make_dirty(0);
	mark();
	s->hold[FUSE_FSYNC] = true;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(fsync(self->fd[0]) ? errno : 0);
	ASSERT_TRUE(fs_wait(s, FUSE_FSYNC, 1));
	EXPECT_EQ(2 * HUGE, flush->flushed - self->seen_flushed);
	EXPECT_EQ(0, touch(self->p[0] + PAGE, 5));
	fs_release(s, FUSE_FSYNC);
	EXPECT_EQ(0, ended(pid));
	let_go();
	finish();
}

/*
 * Stores do not put an inode on the lists of the kernel's flusher: they only make entries of
 * the DAX page cache dirty. So the flusher does not flush them, and leaves them for fsync.
 */
TEST_F(durable, flusher)
{
	static const char * const knobs[] = {
		"/proc/sys/vm/dirty_writeback_centisecs",
		"/proc/sys/vm/dirty_expire_centisecs",
	};
	char was[2][64];
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
	};
	int fd[8], cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t visits = 0;

	attr.config = read_long("/sys/kernel/tracing/events/writeback/"
				"writeback_single_inode/id");
	ASSERT_GE(8, cpus);
	for (int i = 0; i < cpus; i++) {
		fd[i] = syscall(SYS_perf_event_open, &attr, -1, i, -1,
				PERF_FLAG_FD_CLOEXEC);
		ASSERT_LE(0, fd[i]);
	}
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, read_file(knobs[i], was[i], sizeof(was[i])));
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, write_file(knobs[i], "2"));
	make_dirty(0);
	make_dirty(1);
	mark();
	usleep(1500 * 1000);
	for (int i = 0; i < cpus; i++)
		visits += trace_count(fd[i]);
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, write_file(knobs[i], was[i]));
	/* At most both inodes, because of their timestamps. */
	EXPECT_GE(2, visits);
	expect_flushed(0, 0);
	EXPECT_EQ(0, syncfs(self->fd[0]));
	expect_flushed(4, 2 * HUGE + 2 * PAGE);
	let_go();
	finish();
}

/* Stores, flushes and faults at once; in the end no entry is dirty, and no store lost. */
TEST_F(durable, busy)
{
	const size_t step = 257 * KIB;
	volatile bool *over = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid[2];

	ASSERT_NE(MAP_FAILED, over);
	mark();
	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		for (bool last = false; !last; ) {
			last = *over;
			for (size_t at = 0; at < SIZE; at += step)
				self->p[i][at] = last ? 'l' : 's';
		}
		_exit(0);
	}
	for (unsigned int n = 0; n < 100; n++) {
		EXPECT_EQ(0, fsync(self->fd[0]));
		EXPECT_EQ(0, syncfs(self->fd[1]));
	}
	/* The last stores come after the last fsync, so they have to be flushed. */
	*over = true;
	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, ended(pid[i]));
	EXPECT_EQ(0, syncfs(self->fd[0]));
	/* At least each entry that was stored to. */
	EXPECT_LE(SIZE + (SIZE + step - 1) / step * PAGE, flush->flushed - self->seen_flushed);
	mark();
	EXPECT_EQ(0, syncfs(self->fd[0]));
	expect_flushed(0, 0);
	for (int i = 0; i < 2; i++)
		for (size_t at = 0; at < SIZE; at += step)
			EXPECT_EQ('l', self->p[i][at]);
	let_go();
	finish();
}

/*
 * MAP_SYNC: the map does not change, so a store that the CPU has flushed will be found
 * again. A fault needs neither a flush nor a request to the server.
 */
TEST_F(durable, map_sync)
{
	struct fuse_server *s = self->s;
	int plain = fs_open(s, "plain", O_RDWR);
	unsigned char *p;

	for (int i = 0; i < 2; i++) {
		p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
			 MAP_SHARED_VALIDATE | MAP_SYNC, self->fd[i], 0);
		ASSERT_NE(MAP_FAILED, p) TH_LOG("%s", strerror(errno));
		mark();
		EXPECT_EQ(0, touch(p, 1));
		EXPECT_EQ(0, touch(p + SIZE - PAGE, 1));
		expect_flushed(0, 0);
		EXPECT_EQ(0, s->count[FUSE_FSYNC]);
		/* msync(2) flushes the entries all the same. */
		EXPECT_EQ(0, msync(p, SIZE, MS_SYNC));
		expect_flushed(2, 2 * piece[i]);
		EXPECT_EQ(0, touch(p, 2));
		EXPECT_EQ(2, self->p[i][0]);
		munmap(p, SIZE);
		s->count[FUSE_FSYNC] = 0;
	}
	ASSERT_LE(0, plain);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED_VALIDATE | MAP_SYNC, plain, 0));
	EXPECT_EQ(EOPNOTSUPP, errno);
	close(plain);
	let_go();
	finish();
}

int main(int argc, char **argv)
{
	flush = bpf_attach("flush.bpf.o");
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
