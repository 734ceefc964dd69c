// SPDX-License-Identifier: GPL-2.0
/*
 * Files that grow, for a server that said FUSE_DAX_FMAP_RESIZE.
 *
 * The map of a file is its capacity; the size is the kernel's. The memory of the file
 * holds 0xaa everywhere before ("raw" is another file with the same memory), as after
 * a file that was deleted: none of that may ever be seen, neither by read(2) nor by
 * mmap(2), whatever makes the file grow, nor behind the end in the last page. The
 * server gets no request while a file grows, and learns the size by SETATTR, before
 * what makes data durable returns, and before close(2).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define CAPACITY	(4 * MIB)
#define START		100UL		/* the size that the server says first */
#define OLD		0xaa		/* what the memory held */

/* What the server was told by SETATTR. */
static struct {
	_Atomic unsigned int	times;		/* with FATTR_SIZE */
	_Atomic unsigned int	odd;		/* not as the ABI says */
	_Atomic uint64_t	size;		/* the last one */
} told;

static void see_setattr(struct fuse_server *s, const struct fuse_in_header *in,
			const void *arg)
{
	const struct fuse_setattr_in *set = arg;

	if (set->valid & FATTR_SIZE) {
		if (set->valid != (FATTR_SIZE | FATTR_MTIME | FATTR_CTIME) ||
		    set->size < told.size || !set->mtime)
			told.odd++;
		told.size = set->size;
		told.times++;
	}
	fs_default(s, in, arg);
}

FIXTURE(grow) {
	struct fuse_server *s;
	struct scripted map;
	unsigned int before;	/* SETATTR requests until the file was opened */
	int fd, raw;
};

FIXTURE_VARIANT(grow) {
	uint64_t address;
};

FIXTURE_VARIANT_ADD(grow, huge) {
	.address = 0,
};

FIXTURE_VARIANT_ADD(grow, small) {
	.address = PAGE,
};

FIXTURE_SETUP(grow)
{
	FMAP_REQUIRE();
	memset(&told, 0, sizeof(told));
	self->map = fmap_linear(0, variant->address, CAPACITY);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->fmap_flags |= FUSE_DAX_FMAP_RESIZE;
	self->s->init_flags |= FUSE_WRITEBACK_CACHE;
	self->s->hook[FUSE_SETATTR] = see_setattr;
	fs_add(self->s, "file", START, &self->map, sizeof(self->map));
	fs_add(self->s, "raw", CAPACITY, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "raw", OLD, CAPACITY));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->raw = fs_open(self->s, "raw", O_RDONLY);
	ASSERT_LE(0, self->raw);
	self->before = self->s->count[FUSE_SETATTR];
}

FIXTURE_TEARDOWN(grow)
{
	if (self->fd >= 0)
		close(self->fd);
	close(self->raw);
	EXPECT_EQ(0, told.odd);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(0, self->s->count[FUSE_FALLOCATE]);
	EXPECT_EQ(0, fs_stop(self->s));
}

static off_t size_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? -errno : st.st_size;
}

/* Are bytes @from to @to all @byte, as read(2) has them? */
static bool all(int fd, off_t from, off_t to, unsigned char byte)
{
	static unsigned char buf[64 * KIB];

	while (from < to) {
		size_t len = to - from < (off_t)sizeof(buf) ? to - from : sizeof(buf);

		if (pread(fd, buf, len, from) != (ssize_t)len)
			return false;
		for (size_t i = 0; i < len; i++)
			if (buf[i] != byte)
				return false;
		from += len;
	}
	return true;
}

static bool is_zero(const volatile unsigned char *p, size_t len)
{
	while (len--)
		if (*p++)
			return false;
	return true;
}

/* The file is as long as that, and nothing behind START was written but zeros. */
#define expect_grown(to) do {						\
	EXPECT_EQ(to, size_of(self->fd));				\
	EXPECT_TRUE(all(self->fd, START, to, 0));			\
	EXPECT_TRUE(all(self->raw, to, (to + PAGE - 1) & ~(PAGE - 1), 0)); \
	EXPECT_TRUE(all(self->raw, (to + PAGE - 1) & ~(PAGE - 1), CAPACITY, OLD)); \
} while (0)

TEST_F(grow, behind_the_end)
{
	unsigned char *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(OLD, p[START - 1]);
	EXPECT_TRUE(is_zero(p + START, PAGE - START));
	munmap(p, PAGE);
	EXPECT_TRUE(all(self->raw, PAGE, CAPACITY, OLD));
}

TEST_F(grow, append)
{
	char buf[3 * PAGE];
	int fd = fs_open(self->s, "file", O_RDWR | O_APPEND);

	ASSERT_LE(0, fd);
	memset(buf, 'x', sizeof(buf));
	EXPECT_EQ(10, write(fd, buf, 10));
	EXPECT_EQ(START + 10, size_of(self->fd));
	EXPECT_EQ(sizeof(buf), write(fd, buf, sizeof(buf)));
	EXPECT_EQ(START + 10 + sizeof(buf), size_of(self->fd));
	EXPECT_TRUE(all(self->fd, START, START + 10 + sizeof(buf), 'x'));
	EXPECT_TRUE(all(self->raw, START + 10 + sizeof(buf), 4 * PAGE, 0));
	EXPECT_TRUE(all(self->raw, 4 * PAGE, CAPACITY, OLD));
	EXPECT_EQ(self->before, self->s->count[FUSE_SETATTR]);
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(1, told.times);
	EXPECT_EQ(START + 10 + sizeof(buf), told.size);
	close(fd);
}

TEST_F(grow, write_with_a_gap)
{
	EXPECT_EQ(1, pwrite(self->fd, "x", 1, HUGE + 5));
	EXPECT_EQ(HUGE + 6, size_of(self->fd));
	EXPECT_TRUE(all(self->fd, START, HUGE + 5, 0));
	EXPECT_EQ('x', byte_at(self->fd, HUGE + 5));
	EXPECT_TRUE(all(self->raw, HUGE + 6, HUGE + PAGE, 0));
	EXPECT_TRUE(all(self->raw, HUGE + PAGE, CAPACITY, OLD));
	EXPECT_EQ(self->before, self->s->count[FUSE_SETATTR]);
}

TEST_F(grow, ftruncate)
{
	static const off_t sizes[] = { START + 1, PAGE, PAGE + 1, HUGE - 1, CAPACITY - 1 };

	for (int i = 0; i < ARRAY_SIZE(sizes); i++) {
		EXPECT_EQ(0, ftruncate(self->fd, sizes[i]));
		expect_grown(sizes[i]);
	}
	EXPECT_EQ(self->before, self->s->count[FUSE_SETATTR]);
	EXPECT_EQ(0, close(self->fd));
	self->fd = -1;
	EXPECT_EQ(1, told.times);
	EXPECT_EQ(CAPACITY - 1, told.size);
}

/* No file need be open, so this tells the server at once. */
TEST_F(grow, truncate)
{
	EXPECT_EQ(0, truncate(fs_path(self->s, "file"), 3 * PAGE + 1));
	EXPECT_EQ(1, told.times);
	EXPECT_EQ(3 * PAGE + 1, told.size);
	expect_grown(3 * PAGE + 1);
}

TEST_F(grow, fallocate)
{
	EXPECT_EQ(0, fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, CAPACITY));
	expect_grown(START);
	EXPECT_EQ(0, fallocate(self->fd, 0, 10, PAGE));
	expect_grown(PAGE + 10);
	EXPECT_EQ(1, told.times);
	EXPECT_EQ(PAGE + 10, told.size);
	EXPECT_EQ(0, fallocate(self->fd, 0, 0, 1));
	expect_grown(PAGE + 10);
	EXPECT_EQ(0, fallocate(self->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 50, HUGE));
	EXPECT_TRUE(all(self->fd, 50, PAGE + 10, 0));
	expect_grown(PAGE + 10);
	EXPECT_EQ(0, fallocate(self->fd, FALLOC_FL_ZERO_RANGE, 0, HUGE));
	EXPECT_TRUE(all(self->fd, 0, HUGE, 0));
	expect_grown(HUGE);
	EXPECT_EQ(2, told.times);
	EXPECT_EQ(HUGE, told.size);
}

/* A mapping from before sees what the file has gained, of either page size. */
TEST_F(grow, mapping_sees_it)
{
	unsigned char *p = address_range(0, CAPACITY);

	ASSERT_NE(MAP_FAILED, p);
	p = mmap(p, CAPACITY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 'a'));
	EXPECT_EQ(SIGBUS, touch(p + PAGE, -1));
	EXPECT_EQ(SIGBUS, touch(p + PAGE, 'a'));
	EXPECT_EQ(1, pwrite(self->fd, "b", 1, PAGE));
	EXPECT_EQ(0, touch(p + PAGE, -1));
	EXPECT_EQ('b', p[PAGE]);
	EXPECT_TRUE(is_zero(p + START, PAGE - START));
	EXPECT_TRUE(is_zero(p + PAGE + 1, PAGE - 1));
	EXPECT_EQ(SIGBUS, touch(p + 2 * PAGE, -1));
	EXPECT_EQ(0, ftruncate(self->fd, CAPACITY));
	EXPECT_EQ(0, touch(p + CAPACITY - 1, 'c'));
	EXPECT_EQ(variant->address == 0, mapped_as_huge(p + CAPACITY - 1));
	EXPECT_TRUE(is_zero(p + 2 * PAGE, CAPACITY - 2 * PAGE - 1));
	EXPECT_EQ('c', byte_at(self->fd, CAPACITY - 1));
	munmap(p, CAPACITY);
}

/* What a mapping stored behind the end does not come back. */
TEST_F(grow, stored_behind_the_end)
{
	unsigned char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	memset(p + START, 'x', PAGE - START);
	EXPECT_EQ(0, ftruncate(self->fd, START + 20));
	EXPECT_TRUE(all(self->fd, START, START + 20, 0));
	memset(p + START + 20, 'x', PAGE - START - 20);
	EXPECT_EQ(1, pwrite(self->fd, "y", 1, START + 30));
	EXPECT_TRUE(all(self->fd, START, START + 30, 0));
	EXPECT_TRUE(is_zero(p + START + 31, PAGE - START - 31));
	munmap(p, PAGE);
}

TEST_F(grow, capacity)
{
	char buf[2 * PAGE];

	memset(buf, 'x', sizeof(buf));
	EXPECT_EQ(-1, ftruncate(self->fd, CAPACITY + 1));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, fallocate(self->fd, 0, CAPACITY, 1));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, CAPACITY + 1));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, pwrite(self->fd, buf, 1, CAPACITY));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(START, size_of(self->fd));
	EXPECT_EQ(PAGE, pwrite(self->fd, buf, sizeof(buf), CAPACITY - PAGE));
	EXPECT_EQ(CAPACITY, size_of(self->fd));
	EXPECT_EQ(-1, pwrite(self->fd, buf, 1, CAPACITY));
	EXPECT_EQ(ENOSPC, errno);
	/* It was asked for room, which it does not know. */
	EXPECT_EQ(6, self->s->count[FUSE_FALLOCATE]);
	self->s->count[FUSE_FALLOCATE] = 0;
}

TEST_F(grow, punch)
{
	EXPECT_EQ(-1, fallocate(self->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 10));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(START, size_of(self->fd));
	EXPECT_EQ(self->before, self->s->count[FUSE_SETATTR]);
}

TEST_F(grow, rlimit)
{
	struct rlimit old, limit;

	ASSERT_EQ(0, getrlimit(RLIMIT_FSIZE, &old));
	limit = old;
	limit.rlim_cur = 2 * PAGE;
	signal(SIGXFSZ, SIG_IGN);
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &limit));
	EXPECT_EQ(-1, ftruncate(self->fd, 2 * PAGE + 1));
	EXPECT_EQ(EFBIG, errno);
	EXPECT_EQ(-1, fallocate(self->fd, 0, 0, 2 * PAGE + 1));
	EXPECT_EQ(EFBIG, errno);
	EXPECT_EQ(-1, pwrite(self->fd, "x", 1, 2 * PAGE));
	EXPECT_EQ(EFBIG, errno);
	EXPECT_EQ(1, pwrite(self->fd, "xx", 2, 2 * PAGE - 1));
	EXPECT_EQ(0, setrlimit(RLIMIT_FSIZE, &old));
	EXPECT_EQ(2 * PAGE, size_of(self->fd));
}

TEST_F(grow, nowait)
{
	struct iovec iov = { .iov_base = "x", .iov_len = 1 };

	/* The server has been asked for file capabilities by then. */
	EXPECT_EQ(1, pwrite(self->fd, "x", 1, 0));
	EXPECT_EQ(1, pwritev2(self->fd, &iov, 1, START, RWF_NOWAIT));
	EXPECT_EQ(START + 1, size_of(self->fd));
	EXPECT_EQ(-1, pwritev2(self->fd, &iov, 1, 3 * PAGE, RWF_NOWAIT));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(-1, pwritev2(self->fd, &iov, 1, START + 1, RWF_NOWAIT | RWF_DSYNC));
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_EQ(START + 1, size_of(self->fd));
	EXPECT_EQ(0, told.times);
}

TEST_F(grow, reported)
{
	struct iovec iov = { .iov_base = "x", .iov_len = 1 };
	unsigned char *p;

	EXPECT_EQ(1, pwrite(self->fd, "x", 1, START));
	EXPECT_EQ(0, told.times);
	EXPECT_EQ(0, fdatasync(self->fd));
	EXPECT_EQ(1, told.times);
	EXPECT_EQ(START + 1, told.size);
	EXPECT_EQ(0, fdatasync(self->fd));
	EXPECT_EQ(1, told.times);
	EXPECT_EQ(1, pwritev2(self->fd, &iov, 1, START + 1, RWF_DSYNC));
	EXPECT_EQ(2, told.times);
	EXPECT_EQ(START + 2, told.size);
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, ftruncate(self->fd, START + 3));
	EXPECT_EQ(0, msync(p, PAGE, MS_SYNC));
	EXPECT_EQ(3, told.times);
	EXPECT_EQ(START + 3, told.size);
	munmap(p, PAGE);
	EXPECT_EQ(0, ftruncate(self->fd, START + 4));
	/* Each descriptor's close, not only the last one. */
	EXPECT_EQ(0, close(dup(self->fd)));
	EXPECT_EQ(4, told.times);
	EXPECT_EQ(START + 4, told.size);
}

/* If the server refuses a size, the caller learns it, and the next fsync(2) tries again. */
TEST_F(grow, refused_then_told)
{
	EXPECT_EQ(0, ftruncate(self->fd, 2 * PAGE));
	self->s->error[FUSE_SETATTR] = -ENOSPC;
	EXPECT_EQ(-1, fsync(self->fd));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, fsync(self->fd));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(self->before + 2, self->s->count[FUSE_SETATTR]);
	self->s->error[FUSE_SETATTR] = 0;
	EXPECT_EQ(0, fsync(self->fd));
	EXPECT_EQ(1, told.times);
	EXPECT_EQ(2 * PAGE, told.size);
	EXPECT_EQ(2 * PAGE, size_of(self->fd));
}

/* Attributes that the server sends do not set the size, even if it does not know it yet. */
TEST_F(grow, attributes)
{
	struct stat st;
	struct statx stx;

	EXPECT_EQ(0, ftruncate(self->fd, 2 * PAGE));
	EXPECT_EQ(START, self->s->file[0].size);
	EXPECT_EQ(0, statx(self->fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS,
			   &stx));
	EXPECT_EQ(2 * PAGE, stx.stx_size);
	EXPECT_EQ(0, fchmod(self->fd, 0600));
	EXPECT_EQ(0, stat(fs_path(self->s, "file"), &st));
	EXPECT_EQ(2 * PAGE, st.st_size);
	EXPECT_EQ(2 * PAGE, size_of(self->fd));
	/* fchmod(2) told it before. */
	EXPECT_EQ(1, told.times);
}

/* Another first open, after the kernel has forgotten the file, finds the size. */
TEST_F(grow, forgotten)
{
	EXPECT_EQ(4, pwrite(self->fd, "data", 4, PAGE));
	EXPECT_EQ(0, close(self->fd));
	EXPECT_TRUE(fs_forget(self->s));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	EXPECT_EQ(PAGE + 4, size_of(self->fd));
	EXPECT_EQ('d', byte_at(self->fd, PAGE));
}

/* Without a server a file still grows; what tells the server fails. */
TEST_F(grow, server_dies)
{
	EXPECT_EQ(0, fs_abort(self->s));
	EXPECT_EQ(0, ftruncate(self->fd, 2 * PAGE));
	EXPECT_EQ(2 * PAGE, size_of(self->fd));
	EXPECT_TRUE(all(self->fd, START, 2 * PAGE, 0));
	EXPECT_EQ(-1, fsync(self->fd));
}

/* mmap(2) cannot wait for the server, so MAP_SYNC needs a size that it knows. */
TEST_F(grow, map_sync)
{
	const int flags = MAP_SHARED_VALIDATE | MAP_SYNC, prot = PROT_READ | PROT_WRITE;
	void *p = mmap(NULL, PAGE, prot, flags, self->fd, 0);

	if (p == MAP_FAILED && errno == EOPNOTSUPP)
		SKIP(return, "the device has no MAP_SYNC");
	ASSERT_NE(MAP_FAILED, p);
	munmap(p, PAGE);
	/* From then on, each change is told at once. */
	EXPECT_EQ(1, pwrite(self->fd, "x", 1, START));
	EXPECT_EQ(1, told.times);
	EXPECT_EQ(0, ftruncate(self->fd, PAGE));
	EXPECT_EQ(2, told.times);
	EXPECT_EQ(PAGE, told.size);
}

TEST_F(grow, map_sync_unreported)
{
	const int flags = MAP_SHARED_VALIDATE | MAP_SYNC, prot = PROT_READ | PROT_WRITE;
	void *p = mmap(NULL, PAGE, prot, flags, self->raw, 0);

	if (p == MAP_FAILED && errno == EOPNOTSUPP)
		SKIP(return, "the device has no MAP_SYNC");
	EXPECT_EQ(MAP_FAILED, p);
	EXPECT_EQ(EACCES, errno);
	EXPECT_EQ(0, ftruncate(self->fd, PAGE));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, prot, flags, self->fd, 0));
	EXPECT_EQ(EOPNOTSUPP, errno);
	/* As libpmem does it. */
	EXPECT_EQ(0, fallocate(self->fd, 0, 0, PAGE));
	p = mmap(NULL, PAGE, prot, flags, self->fd, 0);
	EXPECT_NE(MAP_FAILED, p);
	munmap(p, PAGE);
}

#define RECORD	1000		/* never the size of a page */
#define RECORDS	300

static void *append_records(void *arg)
{
	int fd = *(int *)arg;
	/* Its pages are often missing when the kernel copies. */
	char *buf = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	char *record = buf + PAGE - RECORD / 2;
	static _Atomic int threads;
	int mark = 'A' + threads++;
	long bad = 0;

	for (int i = 0; i < RECORDS; i++) {
		memset(record, mark, RECORD);
		if (i % 3 == 0) {
			/* The second page has to be read in again, as zeros. */
			madvise(buf + PAGE, PAGE, MADV_DONTNEED);
			memset(record, mark, RECORD / 2);
			if (write(fd, record, RECORD / 2) != RECORD / 2)
				bad++;
			if (write(fd, record, RECORD / 2) != RECORD / 2)
				bad++;
			continue;
		}
		if (write(fd, record, RECORD) != RECORD)
			bad++;
	}
	munmap(buf, 2 * PAGE);
	return (void *)bad;
}

/* Appends of several tasks come one after the other, each in one piece. */
TEST_F_TIMEOUT(grow, appends_of_two_tasks, 120)
{
	int fd = fs_open(self->s, "file", O_RDWR | O_APPEND);
	static char all_of_it[2 * RECORDS * RECORD];
	pthread_t threads[2];
	void *bad;

	ASSERT_LE(0, fd);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, append_records, &fd));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(0, pthread_join(threads[i], &bad));
		EXPECT_EQ(NULL, bad);
	}
	ASSERT_EQ(START + sizeof(all_of_it), size_of(fd));
	ASSERT_EQ(sizeof(all_of_it), pread(fd, all_of_it, sizeof(all_of_it), START));
	/* The smallest write is half a record. */
	for (size_t at = 0; at < sizeof(all_of_it); at += RECORD / 2)
		for (size_t i = 1; i < RECORD / 2; i++)
			ASSERT_EQ(all_of_it[at], all_of_it[at + i]);
	close(fd);
}

/* Without the flag nothing of this is so. */
FIXTURE(fixed) {
	struct fuse_server *s;
	struct scripted map;
};

FIXTURE_SETUP(fixed)
{
	FMAP_REQUIRE();
	FMAP_MOUNT_ONE_FILE(0, CAPACITY);
}

FIXTURE_TEARDOWN(fixed)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(fixed, offered)
{
	/* mount(2) may return before the server has answered INIT. */
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(FUSE_DAX_FMAP_CAN_RESIZE,
		  self->s->init.unused[FUSE_DAX_FMAP_INIT_IN_FEATURES]);
}

/* The kernel would take each size in the server's attributes otherwise. */
TEST_F(fixed, needs_writeback_cache)
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);
	int log = klog_open();

	ASSERT_NE(NULL, s);
	s->fmap_flags |= FUSE_DAX_FMAP_RESIZE;
	fs_add(s, "file", START, &self->map, sizeof(self->map));
	fs_mount(s);
	EXPECT_EQ(-ENOTCONN, fs_try(s, "file"));
	EXPECT_TRUE(log < 0 || klog_wait(log, "mount refused", "FUSE_WRITEBACK_CACHE"));
	close(log);
	fs_stop(s);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
