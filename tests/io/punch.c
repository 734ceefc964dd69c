// SPDX-License-Identifier: GPL-2.0
/*
 * FALLOC_FL_PUNCH_HOLE, for a server that said FUSE_DAX_FMAP_RESIZE.
 *
 * The range reads as zeros afterwards, whoever has its memory. The server is told of whole
 * pages, when nothing reaches them any more, and answers with a map that has a hole there, or
 * with nothing and keeps the memory for the file. What it has taken back holds what it held:
 * "raw" is another file with the same memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(6 * MIB + 100)
#define ROOM	(6 * MIB + PAGE)
#define OLD	0xaa
#define PUNCH	(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

/* How the server answers, and what it was asked. */
static struct {
	struct scripted		map;		/* that of the file */
	bool			keeps;		/* answers with nothing */
	bool			lies;		/* with a map that has memory there */
	_Atomic int		error;
	_Atomic bool		stay;
	_Atomic unsigned int	times;
	_Atomic uint64_t	offset, length;
	_Atomic unsigned int	odd;
} hole;

static void take_back(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_fallocate_in *want = arg;

	hole.offset = want->offset;
	hole.length = want->length;
	if (want->mode != PUNCH || want->fh != UINT64_MAX || want->offset % PAGE ||
	    want->length % PAGE || want->padding < FUSE_DAX_FMAP_BLOB_MIN)
		hole.odd++;
	hole.times++;
	while (hole.stay)
		usleep(1000);
	if (hole.error || hole.keeps) {
		fs_reply(s, in, hole.error, NULL, 0);
		return;
	}
	if (!hole.lies) {
		hole.map.hole = want->offset;
		hole.map.hole_end = want->offset + want->length;
	}
	fs_reply(s, in, 0, &hole.map, sizeof(hole.map));
}

FIXTURE(punch) {
	struct fuse_server *s;
	struct scripted raw_map;
	int fd, raw;
	unsigned char *p;
	pid_t waiter;
};

FIXTURE_VARIANT(punch) {
	uint64_t address;
	bool keeps;
};

FIXTURE_VARIANT_ADD(punch, taken) {
	.address = 0,
};

FIXTURE_VARIANT_ADD(punch, taken_small) {
	.address = PAGE,
};

FIXTURE_VARIANT_ADD(punch, kept) {
	.address = 0,
	.keeps = true,
};

FIXTURE_SETUP(punch)
{
	FMAP_REQUIRE();
	memset(&hole, 0, sizeof(hole));
	hole.map = fmap_linear(0, variant->address, ROOM);
	hole.keeps = variant->keeps;
	self->raw_map = hole.map;
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->fmap_flags |= FUSE_DAX_FMAP_RESIZE;
	self->s->init_flags |= FUSE_WRITEBACK_CACHE;
	self->s->hook[FUSE_FALLOCATE] = take_back;
	fs_add(self->s, "raw", ROOM, &self->raw_map, sizeof(self->raw_map));
	fs_add(self->s, "file", SIZE, &hole.map, sizeof(hole.map));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "raw", OLD, ROOM));
	self->raw = fs_open(self->s, "raw", O_RDWR);
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->raw);
	ASSERT_LE(0, self->fd);
	self->p = mmap(address_range(variant->address % HUGE, ROOM), ROOM, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_FIXED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	for (size_t at = 0; at < SIZE; at += PAGE)
		ASSERT_EQ(0, touch(self->p + at, -1));
}

FIXTURE_TEARDOWN(punch)
{
	hole.stay = false;
	if (self->waiter > 0) {
		kill(self->waiter, SIGKILL);
		ended(self->waiter);
	}
	munmap(self->p, ROOM);
	close(self->fd);
	close(self->raw);
	EXPECT_EQ(0, hole.odd);
	EXPECT_EQ(0, fs_stop(self->s));
}

static int punch(int fd, off_t offset, off_t len)
{
	return fallocate(fd, PUNCH, offset, len) ? errno : 0;
}

/* Are bytes @from to @to all @byte, as read(2) and a mapping have them? */
static bool all(int fd, const unsigned char *p, off_t from, off_t to, unsigned char byte)
{
	static unsigned char buf[64 * KIB];

	while (from < to) {
		size_t len = to - from < (off_t)sizeof(buf) ? to - from : sizeof(buf);

		if (pread(fd, buf, len, from) != (ssize_t)len)
			return false;
		for (size_t i = 0; i < len; i++)
			if (buf[i] != byte || (p && p[from + i] != byte))
				return false;
		from += len;
	}
	return true;
}

#define expect_hole(from, to) do {						\
	struct stat _st;							\
										\
	EXPECT_TRUE(all(self->fd, self->p, 0, from, OLD));			\
	EXPECT_TRUE(all(self->fd, self->p, from, to, 0));			\
	EXPECT_TRUE(all(self->fd, self->p, to, SIZE, OLD));			\
	EXPECT_EQ(SIZE, fstat(self->fd, &_st) ?: _st.st_size);			\
} while (0)

TEST_F(punch, pages)
{
	EXPECT_EQ(0, punch(self->fd, 2 * PAGE, 3 * PAGE));
	expect_hole(2 * PAGE, 5 * PAGE);
	EXPECT_EQ(1, hole.times);
	EXPECT_EQ(2 * PAGE, hole.offset);
	EXPECT_EQ(3 * PAGE, hole.length);
	/* What was taken back is as it was; what was kept is zeros. */
	EXPECT_TRUE(all(self->raw, NULL, 2 * PAGE, 5 * PAGE, variant->keeps ? 0 : OLD));
	EXPECT_EQ(variant->keeps ? 1 : -1, pwrite(self->fd, "x", 1, 3 * PAGE));
}

TEST_F(punch, huge)
{
	EXPECT_EQ(0, punch(self->fd, HUGE, 2 * HUGE));
	expect_hole(HUGE, 3 * HUGE);
	EXPECT_EQ(1, hole.times);
}

/* The parts of pages at both ends are zeroed by the kernel. */
TEST_F(punch, unaligned)
{
	EXPECT_EQ(0, punch(self->fd, PAGE + 7, 2 * MIB));
	expect_hole((off_t)PAGE + 7, (off_t)(PAGE + 7 + 2 * MIB));
	EXPECT_EQ(2 * PAGE, hole.offset);
	EXPECT_EQ(2 * MIB - PAGE, hole.length);
}

TEST_F(punch, inside_a_page)
{
	EXPECT_EQ(0, punch(self->fd, PAGE + 7, 100));
	expect_hole((off_t)PAGE + 7, (off_t)PAGE + 107);
	EXPECT_EQ(0, punch(self->fd, 3 * PAGE - 1, 2));
	EXPECT_EQ(0, hole.times);
}

/* The last page has no other bytes of the file. */
TEST_F(punch, to_the_end)
{
	EXPECT_EQ(0, punch(self->fd, 4 * MIB, 1UL << 40));
	expect_hole(4 * MIB, (off_t)SIZE);
	EXPECT_EQ(2 * MIB + PAGE, hole.length);
}

TEST_F(punch, behind_the_end)
{
	EXPECT_EQ(0, punch(self->fd, SIZE, MIB));
	EXPECT_EQ(0, punch(self->fd, 1UL << 40, MIB));
	expect_hole((off_t)SIZE, (off_t)SIZE);
	EXPECT_EQ(0, hole.times);
}

TEST_F(punch, refused)
{
	hole.error = -EPERM;
	EXPECT_EQ(EPERM, punch(self->fd, PAGE, 2 * MIB));
	hole.error = -ENOSYS;
	EXPECT_EQ(EOPNOTSUPP, punch(self->fd, PAGE, 2 * MIB));
	expect_hole((off_t)SIZE, (off_t)SIZE);
}

TEST_F(punch, other_modes)
{
	EXPECT_EQ(-1, fallocate(self->fd, FALLOC_FL_COLLAPSE_RANGE, 0, PAGE));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fallocate(self->fd, FALLOC_FL_INSERT_RANGE, 0, PAGE));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fallocate(self->fd, FALLOC_FL_UNSHARE_RANGE, 0, PAGE));
	EXPECT_EQ(EOPNOTSUPP, errno);
	expect_hole((off_t)SIZE, (off_t)SIZE);
}

/* Until the server has answered, access waits, and the rest goes on. */
TEST_F(punch, beside_a_fault)
{
	pid_t reader;

	hole.stay = true;
	self->waiter = fork();
	ASSERT_LE(0, self->waiter);
	if (!self->waiter)
		_exit(punch(self->fd, HUGE, HUGE));
	while (!hole.times)
		usleep(1000);
	reader = fork();
	ASSERT_LE(0, reader);
	if (!reader)
		_exit(self->p[HUGE + 5]);
	EXPECT_TRUE(asleep(reader));
	EXPECT_EQ(0, touch(self->p, 'x'));
	EXPECT_EQ(1, pwrite(self->fd, "y", 1, 1));
	hole.stay = false;
	EXPECT_EQ(0, ended(self->waiter));
	self->waiter = 0;
	EXPECT_EQ(0, ended(reader));
}

TEST_F(punch, pinned)
{
	struct iovec iov = { .iov_base = self->p + 4 * MIB, .iov_len = PAGE };
	static unsigned char got[PAGE];
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PAGE, vmsplice(pipes[1], &iov, 1, 0));
	self->waiter = fork();
	ASSERT_LE(0, self->waiter);
	if (!self->waiter)
		_exit(punch(self->fd, 2 * MIB, 3 * MIB));
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(0, hole.times);
	ASSERT_EQ(PAGE, read(pipes[0], got, PAGE));
	EXPECT_EQ(OLD, got[0]);
	EXPECT_EQ(0, ended(self->waiter));
	self->waiter = 0;
	expect_hole(2 * MIB, 5 * MIB);
	close(pipes[0]);
	close(pipes[1]);
}

/* A map that has memory where it was to be taken back: nobody gets at that, until there is another. */
TEST_F(punch, lie)
{
	struct fuse_dax_fmap_set_map args = {
		.fuse_fd = self->s->fd,
		.timeout_ms = 1000,
		.nodeid = self->s->file[1].nodeid,
		.map = (uintptr_t)&self->raw_map,
		.map_size = sizeof(self->raw_map),
	};
	int control = open(FUSE_DAX_FMAP_CONTROL, O_RDWR);

	ASSERT_LE(0, control);
	hole.lies = true;
	hole.keeps = false;
	EXPECT_EQ(EIO, punch(self->fd, HUGE, HUGE));
	EXPECT_EQ(OLD, self->p[0]);
	self->waiter = fork();
	ASSERT_LE(0, self->waiter);
	if (!self->waiter)
		_exit(self->p[HUGE] == OLD ? 0 : 1);
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(0, ioctl(control, FUSE_DAX_FMAP_SET_MAP, &args));
	EXPECT_EQ(0, ended(self->waiter));
	self->waiter = 0;
	close(control);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
