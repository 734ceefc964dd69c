// SPDX-License-Identifier: GPL-2.0
/*
 * Which pins of a mapped file's memory the kernel allows (docs/pins.md). A device or another part
 * of the kernel pins pages of a mapping while it reads or writes them without page faults.
 *
 * Pins for the time of one I/O work: direct I/O of a disk, vmsplice(2), zero-copy sends. Long-term
 * pins (FOLL_LONGTERM), whose end only a program decides, are refused with EOPNOTSUPP, as on every
 * file system with DAX, and the program can go on without one. The same calls succeed for
 * anonymous memory, so it is the memory that they are refused for. The refusal leaves no reference
 * behind: the mount ends at once.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/if_xdp.h>
#include <linux/loop.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "pattern.h"
#include "ring.h"

#ifndef IORING_SETUP_NO_MMAP
#define IORING_SETUP_NO_MMAP	(1U << 14)
#endif
#ifndef SOL_XDP
#define SOL_XDP			283
#endif
#ifndef AF_XDP
#define AF_XDP			44
#endif

#define SIZE	(4 * MIB)
#define PINNED	(8 * PAGE)

/* ---- pins for the time of an I/O ---- */

FIXTURE(short_pin) {
	struct fuse_server *s;
	struct scripted map;
	int fd;
	unsigned char *p;
};

FIXTURE_SETUP(short_pin)
{
	FMAP_REQUIRE();
	FMAP_MOUNT_ONE_FILE(0, SIZE);
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(-1, pattern_write(self->fd, PINNED, 1, 0));
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
}

FIXTURE_TEARDOWN(short_pin)
{
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* A block device of RAM, which pins the buffers of direct I/O. */
static int ram_disk(void)
{
	struct loop_config config = { .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd = -1, nr;
	char path[32];

	if (ctl < 0)
		return -1;
	config.fd = memfd_create("disk", MFD_CLOEXEC);
	nr = ioctl(ctl, LOOP_CTL_GET_FREE);
	snprintf(path, sizeof(path), "/dev/loop%d", nr);
	if (nr >= 0 && !ftruncate(config.fd, SIZE))
		fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config)) {
		close(fd);
		fd = -1;
	}
	close(config.fd);
	close(ctl);
	return fd;
}

/* Between a disk and the file's memory, without a copy in between. */
TEST_F(short_pin, direct_io_of_a_disk)
{
	int disk = ram_disk();

	if (disk < 0)
		SKIP(return, "no loop devices: %s", strerror(errno));
	ASSERT_EQ(PINNED, pwrite(disk, self->p, PINNED, 0));
	ASSERT_EQ(PINNED, pread(disk, self->p + HUGE, PINNED, 0));
	EXPECT_EQ(-1, pattern_differs(self->p + HUGE, PINNED, 1, 0));
	close(disk);
}

TEST_F(short_pin, vmsplice)
{
	unsigned char buf[PAGE];
	struct iovec iov = { self->p + PAGE, PAGE };
	int pipe[2];

	ASSERT_EQ(0, pipe2(pipe, O_CLOEXEC));
	ASSERT_EQ(PAGE, vmsplice(pipe[1], &iov, 1, 0));
	ASSERT_EQ(PAGE, read(pipe[0], buf, PAGE));
	EXPECT_EQ(-1, pattern_differs(buf, PAGE, 1, PAGE));
	close(pipe[0]);
	close(pipe[1]);
}

/* The network's, until the receiver has acknowledged the data. */
TEST_F(short_pin, zero_copy_send)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	socklen_t len = sizeof(to);
	unsigned char buf[PINNED];
	int on = 1, listener, out, in;

	ASSERT_EQ(0, unshare(CLONE_NEWNET));
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || out < 0 || ioctl(out, SIOCSIFFLAGS, &lo))
		SKIP(return, "no network: %s", strerror(errno));
	ASSERT_EQ(0, bind(listener, (struct sockaddr *)&to, sizeof(to)));
	ASSERT_EQ(0, listen(listener, 1));
	ASSERT_EQ(0, getsockname(listener, (struct sockaddr *)&to, &len));
	ASSERT_EQ(0, connect(out, (struct sockaddr *)&to, sizeof(to)));
	in = accept(listener, NULL, NULL);
	ASSERT_LE(0, in);
	ASSERT_EQ(0, setsockopt(out, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)));
	ASSERT_EQ(PINNED, send(out, self->p, PINNED, MSG_ZEROCOPY));
	ASSERT_EQ(PINNED, recv(in, buf, PINNED, MSG_WAITALL));
	EXPECT_EQ(-1, pattern_differs(buf, PINNED, 1, 0));
	close(in);
	close(out);
	close(listener);
}

/* What a program does that may not register a buffer: the same I/O with the same buffer. */
TEST_F(short_pin, io_uring_without_registered_buffers)
{
	struct ring r;
	int ret = ring_init(&r, 0);

	if (ret)
		SKIP(return, "io_uring_setup: %s", strerror(-ret));
	EXPECT_EQ(PINNED, ring_do(&r, sqe(IORING_OP_READ, self->fd, self->p + HUGE, PINNED, 0)));
	EXPECT_EQ(-1, pattern_differs(self->p + HUGE, PINNED, 1, 0));
	ring_free(&r);
}

/* ---- long-term pins ---- */

/* Each pins PINNED bytes at @p for as long as a descriptor is open: that, or -errno. */

static int io_uring_buffers(void *p)
{
	struct iovec buffer = { p, PINNED };
	struct ring r;
	int ret = ring_init(&r, 0);

	if (ret)
		return ret;
	if (!syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_BUFFERS, &buffer, 1))
		return r.fd;
	ret = -errno;
	ring_free(&r);
	return ret;
}

/* The rings themselves. */
static int io_uring_rings(void *p)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_NO_MMAP,
		.sq_off.user_addr = (uintptr_t)p,
		.cq_off.user_addr = (uintptr_t)p + PAGE,
	};
	int fd = syscall(SYS_io_uring_setup, 4, &params);

	return fd < 0 ? -errno : fd;
}

/* Packet buffers of a network card. */
static int xdp_umem(void *p)
{
	struct xdp_umem_reg umem = { .addr = (uintptr_t)p, .len = PINNED, .chunk_size = PAGE };
	int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0), ret;

	if (fd < 0)
		return -errno;
	if (!setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)))
		return fd;
	ret = -errno;
	close(fd);
	return ret;
}

FIXTURE(long_pin) {
	struct fuse_server *s;
	struct scripted map;
	int fd;
};

FIXTURE_VARIANT(long_pin) {
	int (*pin)(void *p);
	bool fast;	/* pin_user_pages_fast() */
};

FIXTURE_VARIANT_ADD(long_pin, io_uring_buffers) { .pin = io_uring_buffers, .fast = true };
FIXTURE_VARIANT_ADD(long_pin, io_uring_rings) { .pin = io_uring_rings, .fast = true };
FIXTURE_VARIANT_ADD(long_pin, xdp_umem) { .pin = xdp_umem };

FIXTURE_SETUP(long_pin)
{
	unsigned char *ram;
	int pinned;

	FMAP_REQUIRE();
	ram = mmap(NULL, PINNED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, ram);
	pinned = variant->pin(ram);
	if (pinned == -ENOSYS || pinned == -EAFNOSUPPORT || pinned == -EINVAL)
		SKIP(return, "this kernel does not have it: %s", strerror(-pinned));
	ASSERT_LE(0, pinned) TH_LOG("anonymous memory: %s", strerror(-pinned));
	close(pinned);
	munmap(ram, PINNED);

	FMAP_MOUNT_ONE_FILE(0, SIZE);
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(long_pin)
{
	if (!self->s)
		return;
	close(self->fd);
	/* Fails if the mount is not ended: a pin would hold it. */
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(long_pin, shared)
{
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(-EOPNOTSUPP, variant->pin(p));
	/* Nor if a task has touched it, so that page tables have it. */
	memset(p, 1, PINNED);
	EXPECT_EQ(-EOPNOTSUPP, variant->pin(p));
	/* The mapping works as before. */
	EXPECT_EQ(1, p[PAGE]);
	p[PAGE] = 2;
	EXPECT_EQ(2, p[PAGE]);
	munmap(p, SIZE);
}

/*
 * A private mapping is refused until its pages are copies in RAM. Then pin_user_pages_fast() finds
 * these in the page tables, and does not look at the mapping, as pin_user_pages() does.
 */
TEST_F(long_pin, private)
{
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0);
	int pinned;

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(-EOPNOTSUPP, variant->pin(p));
	for (unsigned int i = 0; i < PINNED; i += PAGE)
		(void)*(volatile unsigned char *)(p + i);
	EXPECT_EQ(-EOPNOTSUPP, variant->pin(p));
	memset(p, 1, PINNED);
	pinned = variant->pin(p);
	EXPECT_EQ(variant->fast ? 0 : -EOPNOTSUPP, pinned < 0 ? pinned : 0);
	if (pinned >= 0)
		close(pinned);
	munmap(p, SIZE);
}

static pid_t program;

/* The loop device of a test that has just ended may still be going. */
static void unload(void)
{
	if (getpid() != program)
		return;
	for (int i = 0; i < 100 && system("modprobe -qr loop 2>/dev/null"); i++)
		usleep(20 * 1000);
}

int main(int argc, char **argv)
{
	if (access("/sys/module/loop", F_OK) && !system("modprobe -q loop")) {
		program = getpid();
		atexit(unload);
	}
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
