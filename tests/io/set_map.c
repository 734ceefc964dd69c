// SPDX-License-Identifier: GPL-2.0
/*
 * A server changes the map of a file that is open: it sets another one, or revokes access to a
 * range until it does (/dev/fuse_dax_fmap).
 *
 * "file" lies in the first device and holds 0xaa; "there" is the same range of the second one
 * and holds 0xbb, so whoever sees a byte says which map it has. When a call has returned,
 * nothing reaches what was taken away; if it fails, nothing has changed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
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

#define SIZE	(6 * MIB)
#define HERE	0xaa
#define THERE	0xbb

FIXTURE(change) {
	struct fuse_server *s;
	struct scripted here, there, none;
	int control, fd, raw, raw_there;
	unsigned char *p;
	pid_t waiter;
	uint64_t nodeid;
};

FIXTURE_VARIANT(change) {
	uint64_t address;
};

FIXTURE_VARIANT_ADD(change, huge) {
	.address = 0,
};

FIXTURE_VARIANT_ADD(change, small) {
	.address = PAGE,
};

FIXTURE_SETUP(change)
{
	FMAP_REQUIRE();
	self->here = fmap_linear(0, variant->address, SIZE);
	self->there = fmap_linear(1, variant->address, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->fmap_flags |= FUSE_DAX_FMAP_RESIZE;
	self->s->init_flags |= FUSE_WRITEBACK_CACHE;
	self->nodeid = fs_add(self->s, "file", SIZE, &self->here, sizeof(self->here))->nodeid;
	fs_add(self->s, "here", SIZE, &self->here, sizeof(self->here));
	fs_add(self->s, "there", SIZE, &self->there, sizeof(self->there));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "there", THERE, SIZE));
	ASSERT_EQ(0, fs_fill(self->s, "file", HERE, SIZE));
	self->raw = fs_open(self->s, "here", O_RDWR);
	self->raw_there = fs_open(self->s, "there", O_RDWR);
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->raw);
	ASSERT_LE(0, self->raw_there);
	ASSERT_LE(0, self->fd);
	self->control = open(FUSE_DAX_FMAP_CONTROL, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, self->control) TH_LOG("%s", strerror(errno));
	self->p = mmap(address_range(variant->address % HUGE, SIZE), SIZE, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_FIXED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	for (size_t at = 0; at < SIZE; at += PAGE)
		ASSERT_EQ(0, touch(self->p + at, -1));
}

FIXTURE_TEARDOWN(change)
{
	if (self->waiter > 0) {
		kill(self->waiter, SIGKILL);
		ended(self->waiter);
	}
	munmap(self->p, SIZE);
	close(self->fd);
	close(self->raw);
	close(self->raw_there);
	close(self->control);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* 0, or -errno; the state if that is not 0. */
static int set_map(int control, int fuse_fd, uint64_t nodeid, const struct scripted *map,
		   uint32_t ms)
{
	struct fuse_dax_fmap_set_map args = {
		.fuse_fd = fuse_fd,
		.timeout_ms = ms,
		.nodeid = nodeid,
		.map = (uintptr_t)map,
		.map_size = sizeof(*map),
	};

	return ioctl(control, FUSE_DAX_FMAP_SET_MAP, &args) ? -errno : (int)args.state;
}

static int revoke_range(int control, int fuse_fd, uint64_t nodeid, uint64_t offset, uint64_t length,
		  uint32_t ms)
{
	struct fuse_dax_fmap_revoke args = {
		.fuse_fd = fuse_fd,
		.timeout_ms = ms,
		.nodeid = nodeid,
		.offset = offset,
		.length = length,
	};

	return ioctl(control, FUSE_DAX_FMAP_REVOKE, &args) ? -errno : (int)args.state;
}

#define SET(map, ms) set_map(self->control, self->s->fd, self->nodeid, map, ms)
#define REVOKE(offset, length, ms) \
	revoke_range(self->control, self->s->fd, self->nodeid, offset, length, ms)

/* Starts a child, self->waiter, which does @what and exits with 0 or an errno. */
#define begin(what) do {						\
	self->waiter = fork();						\
	ASSERT_LE(0, self->waiter);					\
	if (!self->waiter)						\
		_exit(what);						\
} while (0)

#define expect_ends(code) do {						\
	int _status = ended(self->waiter);				\
									\
	self->waiter = 0;						\
	EXPECT_TRUE(WIFEXITED(_status));				\
	EXPECT_EQ(code, WEXITSTATUS(_status));				\
} while (0)

TEST_F(change, moves)
{
	EXPECT_EQ(HERE, self->p[5]);
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->there, 1000));
	for (size_t at = 0; at < SIZE; at += PAGE)
		ASSERT_EQ(THERE, self->p[at]);
	EXPECT_EQ(THERE, byte_at(self->fd, SIZE - 1));
	/* Stores go there, too. */
	EXPECT_EQ(0, touch(self->p + MIB, 'm'));
	EXPECT_EQ(1, pwrite(self->fd, "w", 1, MIB + 1));
	EXPECT_EQ('m', byte_at(self->raw_there, MIB));
	EXPECT_EQ('w', byte_at(self->raw_there, MIB + 1));
	EXPECT_EQ(HERE, byte_at(self->raw, MIB));
	EXPECT_EQ(HERE, byte_at(self->raw, MIB + 1));
	/* And back again. */
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->here, 1000));
	EXPECT_EQ(HERE, self->p[MIB]);
	EXPECT_EQ(HERE, byte_at(self->fd, MIB + 1));
	EXPECT_EQ(0, self->s->count[FUSE_FALLOCATE]);
}

/* What is at the same place in both maps stays mapped. */
TEST_F(change, same_place)
{
	struct scripted map = self->here;
	int faults;

	map.hole = 2 * MIB;
	map.hole_end = 4 * MIB;
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&map, 1000));
	faults = trace_count_open("exceptions/page_fault_user", NULL);
	for (size_t at = 0; at < SIZE; at += PAGE) {
		bool in_hole = at >= 2 * MIB && at < 4 * MIB;

		ASSERT_EQ(in_hole ? 0 : HERE, self->p[at]);
	}
	if (faults >= 0) {
		/* The hole, and parts of entries that it cuts. */
		EXPECT_LE(trace_count(faults), 3 * HUGE / PAGE);
		EXPECT_GT(trace_count(faults), 0);
		close(faults);
	}
	EXPECT_EQ(0, byte_at(self->fd, 3 * MIB));
	EXPECT_EQ(HERE, byte_at(self->fd, 4 * MIB));
}

/* The same map again: no entry is dropped. */
TEST_F(change, same_map)
{
	int faults;

	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->here, 1000));
	faults = trace_count_open("exceptions/page_fault_user", NULL);
	if (faults < 0)
		SKIP(return, "this kernel counts no faults");
	for (size_t at = 0; at < SIZE; at += HUGE)
		EXPECT_EQ(HERE, self->p[at]);
	EXPECT_EQ(0, trace_count(faults));
	close(faults);
}

/* A map with less than the size: what is behind it is not there. */
TEST_F(change, shorter)
{
	struct scripted map = fmap_linear(0, variant->address, HUGE);

	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&map, 1000));
	EXPECT_EQ(HERE, self->p[HUGE - 1]);
	EXPECT_EQ(SIGBUS, touch(self->p + HUGE, -1));
	EXPECT_EQ(HERE, byte_at(self->fd, HUGE - 1));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->here, 1000));
	EXPECT_EQ(0, touch(self->p + HUGE, -1));
	EXPECT_EQ(HERE, self->p[HUGE]);
}

/* A pipe has a page. */
TEST_F(change, pinned)
{
	struct iovec iov = { .iov_base = self->p + 4 * MIB, .iov_len = PAGE };
	static char got[PAGE];
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PAGE, vmsplice(pipes[1], &iov, 1, 0));
	EXPECT_EQ(-EBUSY, SET(&self->there, 100));
	EXPECT_EQ(-EBUSY, REVOKE(4 * MIB, PAGE, 0));
	EXPECT_EQ(-EBUSY, REVOKE(0, 0, 100));
	/* Nothing has changed. */
	for (size_t at = 0; at < SIZE; at += PAGE)
		ASSERT_EQ(HERE, self->p[at]);
	/* What is not pinned can be revoked. */
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(0, PAGE, 1000));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->here, 1000));

	begin(-SET(&self->there, 60000));
	EXPECT_TRUE(asleep(self->waiter));
	ASSERT_EQ(PAGE, read(pipes[0], got, PAGE));
	EXPECT_EQ(HERE, (unsigned char)got[0]);
	expect_ends(0);
	EXPECT_EQ(THERE, self->p[4 * MIB]);
	close(pipes[0]);
	close(pipes[1]);
}

TEST_F(change, pinned_and_killed)
{
	struct iovec iov = { .iov_base = self->p + 4 * MIB, .iov_len = PAGE };
	int pipes[2], status;

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PAGE, vmsplice(pipes[1], &iov, 1, 0));
	begin(-SET(&self->there, 60000));
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(0, kill(self->waiter, SIGKILL));
	status = ended(self->waiter);
	self->waiter = 0;
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(HERE, self->p[0]);
	EXPECT_EQ(HERE, self->p[4 * MIB]);
	close(pipes[0]);
	close(pipes[1]);
}

TEST_F(change, revoked_fault)
{
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(HUGE, HUGE, 1000));
	/* Beside it. */
	EXPECT_EQ(0, touch(self->p + HUGE - PAGE, -1));
	EXPECT_EQ(0, touch(self->p + 2 * HUGE, -1));
	begin(touch(self->p + HUGE + PAGE, 'f'));
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->there, 1000));
	expect_ends(0);
	EXPECT_EQ('f', self->p[HUGE + PAGE]);
	EXPECT_EQ('f', byte_at(self->raw_there, HUGE + PAGE));
	EXPECT_EQ(HERE, byte_at(self->raw, HUGE + PAGE));
}

static int io(int fd, bool writes, off_t pos)
{
	char c = 'i';

	if (writes)
		return pwrite(fd, &c, 1, pos) == 1 ? 0 : errno;
	if (pread(fd, &c, 1, pos) != 1)
		return errno;
	return (unsigned char)c == THERE ? 0 : 255;
}

TEST_F(change, revoked_read)
{
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(0, 0, 1000));
	begin(io(self->fd, false, MIB));
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->there, 1000));
	expect_ends(0);
}

TEST_F(change, revoked_write)
{
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(0, 0, 1000));
	begin(io(self->fd, true, MIB));
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->there, 1000));
	expect_ends(0);
	EXPECT_EQ('i', byte_at(self->raw_there, MIB));
	EXPECT_EQ(HERE, byte_at(self->raw, MIB));
}

/* A read that has bytes before the range returns them. */
TEST_F(change, revoked_in_the_middle)
{
	static char buf[2 * HUGE];

	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(HUGE, 0, 1000));
	begin(pread(self->fd, buf, sizeof(buf), 0) == sizeof(buf) ? 0 : errno ?: 255);
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->there, 1000));
	expect_ends(0);
}

/* An append in a range that is revoked: its bytes are in the new place. */
TEST_F(change, revoked_append)
{
	struct scripted there = fmap_linear(1, variant->address, SIZE + HUGE);
	struct scripted here = fmap_linear(0, variant->address, SIZE + HUGE);
	struct stat st;

	ASSERT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&here, 1000));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(SIZE, 0, 1000));
	begin(io(self->fd, true, SIZE + PAGE + 5));
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(SIZE, st.st_size);
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&there, 1000));
	expect_ends(0);
	EXPECT_EQ('i', byte_at(self->fd, SIZE + PAGE + 5));
	EXPECT_EQ(0, byte_at(self->fd, SIZE));
	EXPECT_EQ(0, byte_at(self->fd, SIZE + PAGE + 4));
	EXPECT_EQ(SIZE + PAGE + 6, fstat(self->fd, &st) ?: st.st_size);
}

static int resize(int fd, off_t size)
{
	return ftruncate(fd, size) ? errno : 0;
}

/* A file does not become smaller while some of it is revoked. */
TEST_F(change, revoked_truncate)
{
	unsigned int before = self->s->count[FUSE_SETATTR];

	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(0, PAGE, 1000));
	begin(resize(self->fd, HUGE));
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(before, self->s->count[FUSE_SETATTR]);
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->there, 1000));
	expect_ends(0);
	EXPECT_EQ(THERE, byte_at(self->fd, HUGE - 1));
	EXPECT_EQ(SIGBUS, touch(self->p + HUGE, -1));
}

TEST_F(change, waiter_is_killed)
{
	int status;

	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(0, 0, 1000));
	begin(touch(self->p, -1));
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(0, kill(self->waiter, SIGKILL));
	status = ended(self->waiter);
	self->waiter = 0;
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->here, 1000));
}

/* If the server ends, nothing waits for it. */
TEST_F(change, server_ends)
{
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(0, HUGE, 1000));
	begin(touch(self->p, -1));
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(0, fs_abort(self->s));
	expect_ends(SIGBUS);
	EXPECT_EQ(SIGBUS, touch(self->p + PAGE, -1));
	EXPECT_EQ(-EIO, byte_at(self->fd, 0));
	/* The rest is as it was. */
	EXPECT_EQ(HERE, self->p[HUGE]);
	EXPECT_EQ(HERE, byte_at(self->fd, HUGE));
}

/* Ranges that touch become one; there can be 64. */
TEST_F(change, ranges)
{
	for (int i = 0; i < 64; i++)
		ASSERT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(2 * i * PAGE, PAGE, 1000));
	EXPECT_EQ(-E2BIG, REVOKE(200 * PAGE, PAGE, 1000));
	EXPECT_EQ(HERE, self->p[PAGE]);
	EXPECT_EQ(HERE, self->p[200 * PAGE]);
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->here, 1000));
	EXPECT_EQ(HERE, self->p[0]);
	for (int i = 0; i < 200; i++)
		ASSERT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(i * PAGE, PAGE, 1000));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(0, 0, 1000));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->there, 1000));
	EXPECT_EQ(THERE, self->p[100 * PAGE]);
}

/* The file is forgotten with a range that is revoked. */
TEST_F(change, forgotten)
{
	unsigned int before = fs_forgets(self->s);

	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(0, 0, 1000));
	munmap(self->p, SIZE);
	close(self->fd);
	drop_caches();
	EXPECT_TRUE(fs_forget_since(self->s, before));
	EXPECT_EQ(FUSE_DAX_FMAP_NOT_MAPPED, SET(&self->here, 1000));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	EXPECT_EQ(HERE, byte_at(self->fd, 0));
	self->p = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, self->fd, 0);
	EXPECT_EQ(HERE, self->p[0]);
}

TEST_F(change, wrong)
{
	struct scripted big = fmap_linear(5, 0, SIZE), bad = self->here;
	struct fuse_dax_fmap_set_map args = {
		.fuse_fd = self->s->fd,
		.nodeid = self->nodeid,
		.map = (uintptr_t)&self->here,
		.map_size = sizeof(self->here),
	};
	struct fuse_dax_fmap_set_map wrong;
	int fuse = open("/dev/fuse", O_RDWR);

	ASSERT_LE(0, fuse);
	EXPECT_EQ(-EBADF, set_map(self->control, -1, self->nodeid, &self->here, 0));
	EXPECT_EQ(-EBADF, set_map(self->control, 999, self->nodeid, &self->here, 0));
	EXPECT_EQ(-EINVAL, set_map(self->control, self->fd, self->nodeid, &self->here, 0));
	EXPECT_EQ(-EINVAL, set_map(self->control, self->control, self->nodeid, &self->here, 0));
	EXPECT_EQ(-ENOTCONN, set_map(self->control, fuse, self->nodeid, &self->here, 0));
	EXPECT_EQ(FUSE_DAX_FMAP_NOT_MAPPED,
		  set_map(self->control, self->s->fd, 0x123456789, &self->here, 0));
	EXPECT_EQ(FUSE_DAX_FMAP_NOT_MAPPED, set_map(self->control, self->s->fd, 1, &self->here, 0));
	EXPECT_EQ(-ENODEV, SET(&big, 0));
	bad.parse_ret = -EILSEQ;
	EXPECT_EQ(-EILSEQ, SET(&bad, 0));

	wrong = args;
	wrong.flags = 1;
	EXPECT_EQ(-1, ioctl(self->control, FUSE_DAX_FMAP_SET_MAP, &wrong));
	EXPECT_EQ(EINVAL, errno);
	wrong = args;
	wrong.reserved = 1;
	EXPECT_EQ(-1, ioctl(self->control, FUSE_DAX_FMAP_SET_MAP, &wrong));
	EXPECT_EQ(EINVAL, errno);
	wrong = args;
	wrong.map = 8;
	EXPECT_EQ(-1, ioctl(self->control, FUSE_DAX_FMAP_SET_MAP, &wrong));
	EXPECT_EQ(EFAULT, errno);
	wrong = args;
	wrong.map_size = FUSE_DAX_FMAP_BLOB_MAX + 1;
	EXPECT_EQ(-1, ioctl(self->control, FUSE_DAX_FMAP_SET_MAP, &wrong));
	EXPECT_EQ(E2BIG, errno);
	EXPECT_EQ(-1, ioctl(self->control, FUSE_DAX_FMAP_SET_MAP, NULL));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->control, 0, &args));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(-EINVAL, REVOKE(PAGE, UINT64_MAX, 0));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(UINT64_MAX - PAGE, PAGE, 0));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(INT64_MAX, PAGE, 0));
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(UINT64_MAX, 0, 0));
	/* Nothing has changed. */
	for (size_t at = 0; at < SIZE; at += PAGE)
		ASSERT_EQ(HERE, self->p[at]);
	close(fuse);
}

/* The server of another mount cannot. */
TEST_F(change, without_resize)
{
	struct fuse_server *other = fmap_server(SCRIPTED_OPS_NAME);

	ASSERT_NE(NULL, other);
	fs_add(other, "file", SIZE, &self->here, sizeof(self->here));
	ASSERT_EQ(0, fs_mount(other));
	EXPECT_EQ(-EOPNOTSUPP, set_map(self->control, other->fd, self->nodeid, &self->here, 0));
	EXPECT_EQ(0, fs_stop(other));
}

/*
 * The server has a request about the file that it has not answered: a change would wait for
 * itself, if the server had one thread.
 */
TEST_F(change, opener_waits)
{
	int other = fs_open(self->s, "file", O_RDWR);

	ASSERT_LE(0, other);
	self->s->hold[FUSE_SETATTR] = true;
	begin(resize(self->fd, HUGE));
	EXPECT_TRUE(asleep(self->waiter));
	EXPECT_EQ(-EBUSY, SET(&self->there, 100));
	EXPECT_EQ(-EBUSY, REVOKE(0, 0, 100));
	self->s->hold[FUSE_SETATTR] = false;
	fs_release(self->s, FUSE_SETATTR);
	expect_ends(0);
	EXPECT_EQ(FUSE_DAX_FMAP_CHANGED, SET(&self->there, 1000));
	close(other);
}

/*
 * Tiering: the file moves between the devices while two tasks use it, one by loads and stores
 * and one by write(2). No store is lost, and no byte is of another place.
 */
TEST_F_TIMEOUT(change, moved_under_users, 120)
{
	enum { MOVES = 60 };
	static unsigned char buf[HUGE];
	unsigned char *p = self->p;
	pid_t child[2];
	int raw[2] = { self->raw, self->raw_there };
	struct scripted *map[2] = { &self->here, &self->there };
	int stop[2], status;

	ASSERT_EQ(0, pipe2(stop, O_NONBLOCK));
	for (int who = 0; who < 2; who++) {
		child[who] = fork();
		ASSERT_LE(0, child[who]);
		if (child[who])
			continue;
		close(stop[1]);
		/* Each has pages of its own, with a counter that only grows. */
		for (uint32_t n = 1; ; n++) {
			char c;

			for (size_t at = who * PAGE; at < SIZE; at += 16 * PAGE) {
				uint32_t seen = *(volatile uint32_t *)(p + at);

				if (n > 1 && seen != n - 1)
					_exit(100);
				if (who == 0)
					*(volatile uint32_t *)(p + at) = n;
				else if (pwrite(self->fd, &n, sizeof(n), at) != sizeof(n))
					_exit(101);
			}
			if (!read(stop[0], &c, 1))
				_exit(0);
		}
	}
	close(stop[0]);
	for (int i = 0; i < MOVES; i++) {
		int from = i % 2, to = !from;

		for (size_t at = 0; at < SIZE; at += HUGE) {
			ASSERT_EQ(FUSE_DAX_FMAP_CHANGED, REVOKE(at, HUGE, 5000));
			ASSERT_EQ(HUGE, pread(raw[from], buf, HUGE, at));
			ASSERT_EQ(HUGE, pwrite(raw[to], buf, HUGE, at));
		}
		ASSERT_EQ(FUSE_DAX_FMAP_CHANGED, SET(map[to], 5000));
	}
	close(stop[1]);
	for (int who = 0; who < 2; who++) {
		status = ended(child[who]);
		EXPECT_TRUE(WIFEXITED(status));
		EXPECT_EQ(0, WEXITSTATUS(status));
	}
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
