// SPDX-License-Identifier: GPL-2.0
/*
 * The buffer of a read(2) or write(2) is memory that is not there yet: it is registered with
 * userfaultfd, or a mapping of a file whose server does not answer. The fault in the buffer may
 * never end.
 *
 * During this fault the file must not be locked, its device can be unbound, and the server can use
 * its node id for another file, whose memory the I/O must not touch after the fault. The call
 * returns what was copied before the fault. If nothing has changed, it copies the rest.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)
#define LEN	(4 * PAGE)	/* of the buffer; one page of it is missing */
#define AT	(HUGE - PAGE)	/* in the file */

static _Atomic bool wrong_type;

/* FUSE marks the inode bad if the type is wrong. */
static void attributes(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	struct fuse_attr_out out = { .attr = { .ino = in->nodeid, .nlink = 1, .size = SIZE } };

	if (in->nodeid == FUSE_ROOT_ID) {
		fs_default(s, in, arg);
		return;
	}
	out.attr.mode = (wrong_type ? S_IFIFO : S_IFREG) | 0666;
	fs_reply(s, in, 0, &out, sizeof(out));
}

FIXTURE(slow_buffer) {
	struct fuse_server *s;
	struct scripted map;
	unsigned char *buf;
	int fd, uffd;
	long refs;
};

FIXTURE_VARIANT(slow_buffer) {
	bool write;
	size_t missing;		/* where in the buffer */
};

FIXTURE_VARIANT_ADD(slow_buffer, read)		{ false, PAGE };
FIXTURE_VARIANT_ADD(slow_buffer, write)		{ true, PAGE };
FIXTURE_VARIANT_ADD(slow_buffer, read_first)	{ false, 0 };
FIXTURE_VARIANT_ADD(slow_buffer, write_first)	{ true, 0 };

FIXTURE_SETUP(slow_buffer)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct fuse_server *s;

	FMAP_REQUIRE();
	self->uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (self->uffd < 0 || ioctl(self->uffd, UFFDIO_API, &api))
		SKIP(return, "no userfaultfd for faults in the kernel: %s", strerror(errno));
	wrong_type = false;
	self->refs = module_refs();
	self->s = s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, s);
	self->map = fmap_linear(0, 0, SIZE);
	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	s->hook[FUSE_GETATTR] = attributes;
	ASSERT_EQ(0, fs_mount(s));
	ASSERT_EQ(0, fs_fill(s, "file", 'f', SIZE));
	self->fd = fs_open(s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);

	self->buf = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->buf);
	for (size_t at = 0; at < LEN; at += PAGE)
		if (at != variant->missing)
			memset(self->buf + at, 'b', PAGE);
	reg.range = (struct uffdio_range){ (uintptr_t)self->buf + variant->missing, PAGE };
	ASSERT_EQ(0, ioctl(self->uffd, UFFDIO_REGISTER, &reg));
}

FIXTURE_TEARDOWN(slow_buffer)
{
	if (!self->s)
		return;
	close(self->fd);
	EXPECT_EQ(0, self->s->malformed);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_EQ(0, daxdev_bind(&daxdev[0]));
	EXPECT_TRUE(module_refs_wait(self->refs));
	close(self->uffd);
}

static struct {
	pthread_t thread;
	int fd, flags;
	bool write;
	void *buf;
	ssize_t ret;
	int err;
} io;

static void *run(void *unused)
{
	struct iovec iov = { io.buf, LEN };

	io.ret = io.write ? pwritev2(io.fd, &iov, 1, AT, io.flags) :
			    preadv2(io.fd, &iov, 1, AT, io.flags);
	io.err = io.ret < 0 ? errno : 0;
	return NULL;
}

/* Start the I/O, and wait until it faults in the buffer. */
#define begin(io_flags) do {							\
	struct uffd_msg _msg;							\
										\
	io.fd = self->fd;							\
	io.flags = (io_flags);							\
	io.write = variant->write;						\
	io.buf = self->buf;							\
	ASSERT_EQ(0, pthread_create(&io.thread, NULL, run, NULL));		\
	ASSERT_EQ(sizeof(_msg), read(self->uffd, &_msg, sizeof(_msg)));		\
} while (0)

/* Provide the page of the buffer, and wait for the end of the I/O. */
#define end() do {								\
	static unsigned char _page[PAGE];					\
	struct uffdio_copy _copy = {						\
		(uintptr_t)self->buf + variant->missing, (uintptr_t)_page, PAGE	\
	};									\
										\
	memset(_page, 'b', PAGE);						\
	ASSERT_EQ(0, ioctl(self->uffd, UFFDIO_COPY, &_copy));			\
	ASSERT_EQ(0, pthread_join(io.thread, NULL));				\
} while (0)

/* Returns true if @len bytes at @p are all @c. */
static bool is_all(const unsigned char *p, char c, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != (unsigned char)c)
			return false;
	return true;
}

/* The I/O has copied what precedes the missing page, and no more. */
#define expect_cut() do {							\
	static unsigned char _mem[LEN];						\
	size_t _done = variant->missing;					\
										\
	if (_done) {								\
		EXPECT_EQ(_done, io.ret);					\
	} else {								\
		EXPECT_EQ(-1, io.ret);						\
		EXPECT_EQ(EIO, io.err);						\
	}									\
	if (variant->write) {							\
		ASSERT_EQ(0, dax_peek(&daxdev[0], AT, _mem, LEN));		\
		EXPECT_TRUE(is_all(_mem, 'b', _done));				\
		EXPECT_TRUE(is_all(_mem + _done, 'f', LEN - _done));		\
	} else {								\
		EXPECT_TRUE(is_all(self->buf, 'f', _done));			\
		EXPECT_TRUE(is_all(self->buf + _done, 'b', LEN - _done));	\
	}									\
} while (0)

/* Nothing happens to the file during the fault, and other calls do not wait. */
TEST_F(slow_buffer, goes_on)
{
	static unsigned char mem[LEN];

	begin(0);
	EXPECT_EQ(1, pwrite(self->fd, "x", 1, 0));
	EXPECT_EQ(0, fchmod(self->fd, 0600));
	EXPECT_EQ(0, fsync(self->fd));
	EXPECT_EQ(0, fallocate(self->fd, FALLOC_FL_ZERO_RANGE, 0, PAGE));
	end();
	EXPECT_EQ(LEN, io.ret);
	ASSERT_EQ(LEN, pread(self->fd, mem, LEN, AT));
	EXPECT_TRUE(is_all(mem, variant->write ? 'b' : 'f', LEN));
	EXPECT_TRUE(is_all(self->buf, variant->write ? 'b' : 'f', LEN));
	ASSERT_EQ(1, pread(self->fd, mem, 1, AT - 1));
	EXPECT_EQ('f', mem[0]);
	ASSERT_EQ(1, pread(self->fd, mem, 1, AT + LEN));
	EXPECT_EQ('f', mem[0]);
}

/* A fault in the buffer may wait even if the call must not wait for the file. */
TEST_F(slow_buffer, nowait)
{
	/* The kernel has to know that the file has no capabilities. */
	ASSERT_EQ(1, pwrite(self->fd, "x", 1, 0));
	begin(RWF_NOWAIT);
	end();
	EXPECT_EQ(LEN, io.ret);
}

/* The inode becomes bad during the fault: its memory may belong to another file. */
TEST_F(slow_buffer, file_is_gone)
{
	struct statx stx;

	dax_peek_init();
	begin(0);
	wrong_type = true;
	EXPECT_EQ(-1, statx(self->fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC,
			    STATX_BASIC_STATS, &stx));
	EXPECT_EQ(EIO, errno);
	end();
	expect_cut();
}

/* Unbinding the device does not wait for the fault. */
TEST_F(slow_buffer, device_is_gone)
{
	dax_peek_init();
	begin(0);
	EXPECT_EQ(0, daxdev_unbind(&daxdev[0]));
	end();
	/* The memory can be read only through a bound device. */
	ASSERT_EQ(0, daxdev_bind(&daxdev[0]));
	expect_cut();
}

/* A hole is read as zeros, which are copied to the buffer. */
TEST_F(slow_buffer, hole)
{
	if (variant->write)
		return;
	close(self->fd);
	ASSERT_TRUE(fs_forget(self->s));
	self->map.hole = AT & ~(HUGE - 1);
	self->map.hole_end = SIZE;
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	begin(0);
	end();
	EXPECT_EQ(LEN, io.ret);
	EXPECT_TRUE(is_all(self->buf, 0, LEN));
	/* An unmapped buffer is an error, and not the end of the file. */
	EXPECT_EQ(-1, pread(self->fd, (void *)PAGE, 1, AT));
	EXPECT_EQ(EFAULT, errno);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
