// SPDX-License-Identifier: GPL-2.0
/*
 * System calls that seem to change the size of a file, and do not.
 *
 * Many programs set the size that a file has already, or ask for space that it has: LMDB and
 * libpmem when they open their file, rsync --inplace, SQLite's log. A mapped file has all
 * its memory from the start, so such a call succeeds, without a request to the server.
 * FALLOC_FL_ZERO_RANGE is a write of zeros. A real change of size is an error, see sizes.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB + 3 * PAGE + 100)	/* ends inside a page */
#define HOLE	(3 * MIB)			/* of the file with a hole: one page */

FIXTURE(same_size) {
	struct fuse_server *s;
	struct scripted map, holey, empty;
	int fd;
};

FIXTURE_VARIANT(same_size) {
	uint32_t init_flags;
};

FIXTURE_VARIANT_ADD(same_size, plain) {
	.init_flags = 0,
};

FIXTURE_VARIANT_ADD(same_size, atomic_o_trunc) {
	.init_flags = FUSE_ATOMIC_O_TRUNC,
};

FIXTURE_VARIANT_ADD(same_size, writeback_cache) {
	.init_flags = FUSE_ATOMIC_O_TRUNC | FUSE_WRITEBACK_CACHE,
};

/* A map of SIZE bytes in whole pages of memory. */
static struct scripted map_at(uint64_t addr)
{
	struct scripted map = fmap_linear(0, addr, SIZE);

	map.length = (SIZE + PAGE - 1) / PAGE * PAGE;
	return map;
}

FIXTURE_SETUP(same_size)
{
	struct stat st;

	FMAP_REQUIRE();
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->init_flags |= variant->init_flags;
	self->map = map_at(0);
	self->holey = map_at(8 * MIB);
	self->holey.hole = HOLE;
	self->holey.hole_end = HOLE + PAGE;
	self->empty = map_at(16 * MIB);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "holey", SIZE, &self->holey, sizeof(self->holey));
	fs_add(self->s, "empty", 0, &self->empty, sizeof(self->empty));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "file", 'x', SIZE));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, fstat(self->fd, &st));
	ASSERT_EQ(SIZE, st.st_size);
	/* Earlier writes have left nothing that the kernel still has to send to the server. */
	ASSERT_EQ(0, fsync(self->fd));
	memset((void *)self->s->count, 0, sizeof(self->s->count));
}

FIXTURE_TEARDOWN(same_size)
{
	if (!self->s)
		return;
	close(self->fd);
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(0, self->s->count[FUSE_FALLOCATE]);
	EXPECT_EQ(SIZE, self->s->file[0].size);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* The server may get new times only, and only if the kernel keeps them. */
#define expect_same(setattrs) do {					\
	struct stat st;							\
	EXPECT_EQ(0, fsync(self->fd));					\
	EXPECT_EQ(variant->init_flags & FUSE_WRITEBACK_CACHE ?		\
		  (setattrs) : 0, self->s->count[FUSE_SETATTR]);	\
	EXPECT_EQ(0, fstat(self->fd, &st));				\
	EXPECT_EQ(SIZE, st.st_size);					\
} while (0)

TEST_F(same_size, ftruncate)
{
	/* Let the clock that times are from advance since the writes of the fixture. */
	usleep(50 * 1000);
	EXPECT_EQ(0, ftruncate(self->fd, SIZE));
	EXPECT_EQ(0, self->s->count[FUSE_SETATTR]);
	expect_same(1);
	EXPECT_EQ('x', byte_at(self->fd, SIZE - 1));
	EXPECT_EQ(-1, ftruncate(self->fd, SIZE - 1));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, ftruncate(self->fd, SIZE + 1));
	EXPECT_EQ(EOPNOTSUPP, errno);
	expect_same(1);
}

TEST_F(same_size, truncate)
{
	EXPECT_EQ(0, truncate(fs_path(self->s, "file"), SIZE));
	EXPECT_EQ(-1, truncate(fs_path(self->s, "file"), SIZE - 1));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, truncate(fs_path(self->s, "file"), SIZE + 1));
	EXPECT_EQ(EOPNOTSUPP, errno);
	/* POSIX: truncate(2) to the same size does not change times. */
	expect_same(0);
}

/* ftruncate(2) by an ordinary user takes set-user-id and set-group-id bits off. */
TEST_F(same_size, privileges)
{
	struct stat st;
	pid_t pid;

	ASSERT_EQ(0, fchmod(self->fd, 06777));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000))
			_exit(2);
		_exit(ftruncate(self->fd, SIZE) ? errno : 0);
	}
	EXPECT_EQ(0, ended(pid));
	EXPECT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(S_IFREG | 0777, st.st_mode);
	EXPECT_EQ(SIZE, st.st_size);
	EXPECT_EQ(S_IFREG | 0777, self->s->file[0].mode);
}

static _Atomic unsigned int truncating_opens, truncating_setattrs;

static void watch_open(struct fuse_server *s, const struct fuse_in_header *in,
		       const void *arg)
{
	if (((const struct fuse_open_in *)arg)->flags & O_TRUNC)
		truncating_opens++;
	fs_default(s, in, arg);
}

static void watch_setattr(struct fuse_server *s, const struct fuse_in_header *in,
			  const void *arg)
{
	if (((const struct fuse_setattr_in *)arg)->valid & FATTR_SIZE)
		truncating_setattrs++;
	fs_default(s, in, arg);
}

/* O_TRUNC of a file whose size is 0: before it is known to be mapped, and after. */
TEST_F(same_size, open_truncates)
{
	truncating_opens = 0;
	truncating_setattrs = 0;
	self->s->hook[FUSE_OPEN] = watch_open;
	self->s->hook[FUSE_SETATTR] = watch_setattr;
	for (int i = 0; i < 2; i++) {
		int fd = fs_open(self->s, "empty", O_RDWR | O_TRUNC);

		ASSERT_LE(0, fd);
		EXPECT_EQ(-1, byte_at(fd, 0) < 0 ? -1 : 0);
		close(fd);
	}
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, truncating_setattrs);
	EXPECT_EQ(0, truncating_opens);
	EXPECT_EQ(-EOPNOTSUPP, fs_open(self->s, "file", O_RDWR | O_TRUNC));
	EXPECT_EQ(0, truncating_opens);
}

TEST_F(same_size, allocate)
{
	static const int modes[] = { 0, FALLOC_FL_KEEP_SIZE };

	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(0, fallocate(self->fd, modes[i], 0, SIZE));
		EXPECT_EQ(0, fallocate(self->fd, modes[i], SIZE - 1, 1));
		EXPECT_EQ(0, fallocate(self->fd, modes[i], 12345, 67890));
		EXPECT_EQ(-1, fallocate(self->fd, modes[i], 0, SIZE + 1));
		EXPECT_EQ(EOPNOTSUPP, errno);
		EXPECT_EQ(-1, fallocate(self->fd, modes[i], SIZE, 1));
		EXPECT_EQ(EOPNOTSUPP, errno);
		EXPECT_EQ(-1, fallocate(self->fd, modes[i], INT64_MAX - 1, 1));
	}
	EXPECT_EQ(0, posix_fallocate(self->fd, 0, SIZE));
	for (size_t at = 0; at < SIZE; at += PAGE)
		ASSERT_EQ('x', byte_at(self->fd, at));
	expect_same(0);
}

/* Writes to a hole fail, so fallocate(2) of a hole fails, too. */
TEST_F(same_size, allocate_hole)
{
	int fd = fs_open(self->s, "holey", O_RDWR);

	ASSERT_LE(0, fd);
	EXPECT_EQ(0, fallocate(fd, 0, 0, HOLE));
	EXPECT_EQ(-1, fallocate(fd, 0, 0, HOLE + 1));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, fallocate(fd, 0, HOLE + PAGE - 1, PAGE));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(0, fallocate(fd, 0, HOLE + PAGE, PAGE));
	close(fd);
}

/* Modes that fallocate(2) does not support, whatever the range. */
TEST_F(same_size, other_modes)
{
	static const int modes[] = {
		FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_COLLAPSE_RANGE,
		FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE,
		FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE,
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(modes); i++) {
		EXPECT_EQ(-1, fallocate(self->fd, modes[i], PAGE, PAGE));
		EXPECT_EQ(EOPNOTSUPP, errno) TH_LOG("mode %#x", modes[i]);
	}
	expect_same(0);
}

/* Exactly these bytes are zero, for read(2), in mappings and on the device. */
TEST_F(same_size, zero)
{
	static const struct {
		size_t at, len;
	} ranges[] = {
		{ 0, 1 }, { 100, 1000 }, { PAGE - 1, 2 }, { 3 * PAGE, PAGE },
		{ 5 * PAGE + 7, 64 * PAGE }, { HUGE - 3, 6 }, { HUGE + MIB, MIB },
		{ SIZE - 1, 1 }, { SIZE - 5000, 4000 },
	};
	static unsigned char want[SIZE], got[SIZE];
	unsigned char *p = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	memset(want, 'x', SIZE);
	for (unsigned int i = 0; i < ARRAY_SIZE(ranges); i++) {
		int mode = FALLOC_FL_ZERO_RANGE | (i & 1 ? FALLOC_FL_KEEP_SIZE : 0);

		EXPECT_EQ(p[ranges[i].at], 'x');
		EXPECT_EQ(0, fallocate(self->fd, mode, ranges[i].at, ranges[i].len));
		memset(want + ranges[i].at, 0, ranges[i].len);
		ASSERT_EQ(SIZE, pread(self->fd, got, SIZE, 0));
		ASSERT_EQ(0, memcmp(want, got, SIZE)) TH_LOG("range %u", i);
		ASSERT_EQ(0, memcmp(want, p, SIZE)) TH_LOG("range %u", i);
	}
	munmap(p, SIZE);
	EXPECT_EQ(-1, fallocate(self->fd, FALLOC_FL_ZERO_RANGE, 0, SIZE + 1));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fallocate(self->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				SIZE - 1, 2));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ('x', byte_at(self->fd, 50));
	expect_same(1);

	EXPECT_EQ(0, fallocate(self->fd, FALLOC_FL_ZERO_RANGE, 0, SIZE));
	memset(want, 0, SIZE);
	ASSERT_EQ(SIZE, pread(self->fd, got, SIZE, 0));
	EXPECT_EQ(0, memcmp(want, got, SIZE));
}

/* A hole is zeros already. */
TEST_F(same_size, zero_hole)
{
	int fd = fs_open(self->s, "holey", O_RDWR);

	ASSERT_LE(0, fd);
	EXPECT_EQ(4, pwrite(fd, "left", 4, HOLE - 4));
	EXPECT_EQ(5, pwrite(fd, "right", 5, HOLE + PAGE));
	EXPECT_EQ(0, fallocate(fd, FALLOC_FL_ZERO_RANGE, HOLE - 2, PAGE + 4));
	EXPECT_EQ('e', byte_at(fd, HOLE - 3));
	EXPECT_EQ(0, byte_at(fd, HOLE - 2));
	EXPECT_EQ(0, byte_at(fd, HOLE));
	EXPECT_EQ(0, byte_at(fd, HOLE + PAGE + 1));
	EXPECT_EQ('g', byte_at(fd, HOLE + PAGE + 2));
	EXPECT_EQ(0, fallocate(fd, FALLOC_FL_ZERO_RANGE, HOLE + 1, 5));
	close(fd);
}

/* Zeros count as written bytes, take privileges off, and need a file open for writing. */
TEST_F(same_size, zero_is_a_write)
{
	long before = fs_counter(self->s, "written_bytes");
	int fd = fs_open(self->s, "file", O_RDONLY);
	struct stat st;
	pid_t pid;

	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 10));
	EXPECT_EQ(EBADF, errno);
	close(fd);
	EXPECT_EQ(0, fallocate(self->fd, FALLOC_FL_ZERO_RANGE, 10, 3 * MIB));
	EXPECT_EQ(before + 3 * MIB, fs_counter(self->s, "written_bytes"));

	ASSERT_EQ(0, fchmod(self->fd, 06777));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000))
			_exit(2);
		_exit(fallocate(self->fd, FALLOC_FL_ZERO_RANGE, 0, 1) ? errno : 0);
	}
	EXPECT_EQ(0, ended(pid));
	EXPECT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(S_IFREG | 0777, st.st_mode);
}

/* With O_SYNC the zeros are durable at once, and the server gets an FSYNC. */
TEST_F(same_size, zero_is_durable)
{
	int fd = fs_open(self->s, "file", O_RDWR | O_SYNC);
	unsigned int before;

	ASSERT_LE(0, fd);
	before = self->s->count[FUSE_FSYNC];
	EXPECT_EQ(0, fallocate(fd, FALLOC_FL_ZERO_RANGE, 10, MIB));
	EXPECT_EQ(before + 1, self->s->count[FUSE_FSYNC]);
	close(fd);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
