// SPDX-License-Identifier: GPL-2.0
/*
 * A device is unbound from its driver while a mount holds it.
 *
 * The kernel notifies the holder, and then the driver frees the memory map of the
 * device. If a page of it were still mapped or pinned, freed memory would be used. So
 * when unbinding returns, no page may be mapped: touching one is SIGBUS, read and write
 * are EIO. Files on other devices must work as before. The mount can be unmounted at
 * any time, and a new mount can have the device once it is bound again.
 *
 * A test that finds a bug here may crash the kernel. All tests bind the device again.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)
#define MOUNTS	"/sys/kernel/debug/" MODULE_NAME "/mounts"

/* Answer WRITE with success, and drop the bytes. */
static void swallow(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_write_in *write = arg;
	struct fuse_write_out out = { .size = write->size };

	fs_reply(s, in, 0, &out, sizeof(out));
}

/*
 * A new server: "gone" and "late" are on device 0, "stays" is on device 1. I/O to
 * "plain" is direct: the server reads and writes the pages of the buffer.
 */
static struct fuse_server *new_mount(const struct scripted map[3])
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);

	if (!s)
		return NULL;
	fs_add(s, "gone", SIZE, &map[0], sizeof(map[0]));
	fs_add(s, "stays", SIZE, &map[1], sizeof(map[1]));
	fs_add(s, "late", SIZE, &map[2], sizeof(map[2]));
	fs_add(s, "plain", SIZE, NULL, 0);
	s->open_flags = FOPEN_DIRECT_IO;
	s->init_flags |= FUSE_ASYNC_READ;
	s->hook[FUSE_WRITE] = swallow;
	if (fs_mount(s)) {
		fs_stop(s);
		return NULL;
	}
	return s;
}

FIXTURE(unbind) {
	struct fuse_server *s, *next;
	struct scripted map[3];
	unsigned char *gone, *stays;
	int gone_fd, stays_fd;
	long refs;
};

FIXTURE_VARIANT(unbind) {
	uint64_t addr;
};

FIXTURE_VARIANT_ADD(unbind, huge_pages) {
	.addr = 0,
};

FIXTURE_VARIANT_ADD(unbind, small_pages) {
	.addr = PAGE,
};

FIXTURE_SETUP(unbind)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(0, daxdev_bind(&daxdev[i]));
		self->map[i] = fmap_linear(i, variant->addr, SIZE);
	}
	self->map[2] = fmap_linear(0, variant->addr + SIZE, SIZE);
	self->s = new_mount(self->map);
	ASSERT_NE(NULL, self->s);
	self->gone_fd = fs_open(self->s, "gone", O_RDWR);
	self->stays_fd = fs_open(self->s, "stays", O_RDWR);
	ASSERT_LE(0, self->gone_fd);
	ASSERT_LE(0, self->stays_fd);
	self->gone = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			  self->gone_fd, 0);
	self->stays = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			   self->stays_fd, 0);
	ASSERT_NE(MAP_FAILED, self->gone);
	ASSERT_NE(MAP_FAILED, self->stays);
	for (size_t at = 0; at < SIZE; at += 256 * KIB) {
		ASSERT_EQ(0, touch(self->gone + at, 1));
		ASSERT_EQ(0, touch(self->stays + at, 2));
	}
}

/* In the parent: the devices must be bound again even if the test died. */
FIXTURE_TEARDOWN_PARENT(unbind)
{
	if (fmap_missing())
		return;
	EXPECT_EQ(0, daxdev_bind(&daxdev[0]));
	EXPECT_EQ(0, daxdev_bind(&daxdev[1]));
}

#define expect_gone() do {						\
	char _buf[64];							\
	EXPECT_EQ(SIGBUS, touch(self->gone, -1));			\
	EXPECT_EQ(SIGBUS, touch(self->gone + PAGE, 3));			\
	EXPECT_EQ(SIGBUS, touch(self->gone + HUGE, -1));		\
	EXPECT_EQ(SIGBUS, touch(self->gone + SIZE - 1, 3));		\
	EXPECT_EQ(-1, pread(self->gone_fd, _buf, sizeof(_buf), 0));	\
	EXPECT_EQ(EIO, errno);						\
	EXPECT_EQ(-1, pwrite(self->gone_fd, _buf, sizeof(_buf), HUGE));	\
	EXPECT_EQ(EIO, errno);						\
} while (0)

#define expect_stays() do {						\
	char _c;							\
	for (size_t at = 0; at < SIZE; at += 256 * KIB)			\
		EXPECT_EQ(2, self->stays[at]);				\
	EXPECT_EQ(0, touch(self->stays + 5 * PAGE, 4));			\
	EXPECT_EQ(1, pread(self->stays_fd, &_c, 1, 5 * PAGE));		\
	EXPECT_EQ(4, _c);						\
	EXPECT_EQ(1, pwrite(self->stays_fd, "\5", 1, 5 * PAGE));	\
	EXPECT_EQ(5, self->stays[5 * PAGE]);				\
} while (0)

#define let_go() do {							\
	munmap(self->gone, SIZE);					\
	munmap(self->stays, SIZE);					\
	close(self->gone_fd);						\
	close(self->stays_fd);						\
} while (0)

#define finish() do {							\
	EXPECT_EQ(0, fs_stop(self->next));				\
	EXPECT_EQ(0, fs_stop(self->s));					\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
} while (0)

/* A new mount can use the device. */
#define expect_usable() do {						\
	unsigned char *p;						\
	ASSERT_EQ(0, daxdev_bind(&daxdev[0]));				\
	self->next = new_mount(self->map);				\
	ASSERT_NE(NULL, self->next);					\
	p = fs_map(self->next, "gone", SIZE, PROT_READ | PROT_WRITE);	\
	ASSERT_NE(MAP_FAILED, p) TH_LOG("%s", strerror(errno));		\
	EXPECT_EQ(0, touch(p, 6));					\
	EXPECT_EQ(0, touch(p + HUGE + PAGE, 7));			\
	EXPECT_EQ(6, p[0]);						\
	munmap(p, SIZE);						\
} while (0)

TEST_F(unbind, while_mapped)
{
	char mounts[4096], failed[32];

	ASSERT_EQ(0, daxdev_unbind(&daxdev[0]));
	expect_gone();
	expect_stays();
	/* New VMAs and newly opened files cannot use it either. */
	EXPECT_EQ(-EIO, fs_try(self->s, "late"));
	munmap(self->gone, SIZE);
	self->gone = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			  self->gone_fd, 0);
	ASSERT_NE(MAP_FAILED, self->gone);
	expect_gone();
	EXPECT_EQ(-1, fsync(self->gone_fd));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(0, fsync(self->stays_fd));
	/* The lists of mounts and of devices say so. */
	snprintf(failed, sizeof(failed), "device=%s", daxdev[0].name);
	EXPECT_NE(0, fs_number_of(self->s, "devices", failed, "failed"));
	snprintf(failed, sizeof(failed), "device=%s", daxdev[1].name);
	EXPECT_GE(0, fs_number_of(self->s, "devices", failed, "failed"));
	if (!read_file(MOUNTS, mounts, sizeof(mounts))) {
		snprintf(failed, sizeof(failed), "0:%s!", daxdev[0].name);
		EXPECT_NE(NULL, strstr(mounts, failed)) TH_LOG("%s", mounts);
	}
	let_go();
	EXPECT_EQ(0, fs_umount(self->s));
	expect_usable();
	finish();
}

/* In a uffd-wp VMA, where markers stay in the page tables. */
TEST_F(unbind, while_tracked)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC };
	struct uffdio_register reg = {
		.range = { (uintptr_t)self->gone, SIZE },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)self->gone, SIZE },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		SKIP(return, "no UFFD_FEATURE_WP_ASYNC: %s", strerror(errno));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_WRITEPROTECT, &wp));
	EXPECT_EQ(1, self->gone[0]);
	EXPECT_EQ(0, touch(self->gone + PAGE, 3));
	ASSERT_EQ(0, daxdev_unbind(&daxdev[0]));
	expect_gone();
	expect_stays();
	let_go();
	close(uffd);
	EXPECT_EQ(0, fs_umount(self->s));
	expect_usable();
	finish();
}

/* Files are open, but no page is mapped. */
TEST_F(unbind, while_open)
{
	munmap(self->gone, SIZE);
	ASSERT_EQ(0, daxdev_unbind(&daxdev[0]));
	self->gone = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			  self->gone_fd, 0);
	ASSERT_NE(MAP_FAILED, self->gone);
	expect_gone();
	expect_stays();
	let_go();
	EXPECT_EQ(0, fs_umount(self->s));
	expect_usable();
	finish();
}

TEST_F(unbind, both_devices)
{
	ASSERT_EQ(0, daxdev_unbind(&daxdev[1]));
	EXPECT_EQ(SIGBUS, touch(self->stays, -1));
	EXPECT_EQ(0, touch(self->gone + 5 * PAGE, 1));
	ASSERT_EQ(0, daxdev_unbind(&daxdev[0]));
	expect_gone();
	let_go();
	EXPECT_EQ(0, fs_umount(self->s));
	ASSERT_EQ(0, daxdev_bind(&daxdev[1]));
	expect_usable();
	finish();
}

TEST_F(unbind, lazily_unmounted)
{
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
	self->s->mounted = false;
	ASSERT_EQ(0, daxdev_unbind(&daxdev[0]));
	expect_gone();
	expect_stays();
	let_go();
	EXPECT_TRUE(module_refs_wait(self->refs));
	expect_usable();
	finish();
}

/* The connection was aborted: the server answers no request. */
TEST_F(unbind, connection_aborted)
{
	EXPECT_EQ(0, fs_abort(self->s));
	ASSERT_EQ(0, daxdev_unbind(&daxdev[0]));
	expect_gone();
	expect_stays();
	let_go();
	EXPECT_EQ(0, fs_umount(self->s));
	expect_usable();
	finish();
}

/*
 * The device is bound again before the old mount is unmounted. The old mount does not
 * get it back; a new one can hold it, and is notified when it is unbound again.
 */
TEST_F(unbind, back_before_unmount)
{
	unsigned char *p;

	ASSERT_EQ(0, daxdev_unbind(&daxdev[0]));
	ASSERT_EQ(0, daxdev_bind(&daxdev[0]));
	expect_gone();
	EXPECT_EQ(-EIO, fs_try(self->s, "late"));

	self->next = new_mount(self->map);
	ASSERT_NE(NULL, self->next);
	p = fs_map(self->next, "gone", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p) TH_LOG("%s", strerror(errno));
	EXPECT_EQ(0, touch(p, 6));
	expect_gone();
	let_go();
	EXPECT_EQ(0, fs_umount(self->s));
	EXPECT_EQ(0, touch(p + HUGE, 7));
	ASSERT_EQ(0, daxdev_unbind(&daxdev[0]));
	EXPECT_EQ(SIGBUS, touch(p, -1));
	EXPECT_EQ(SIGBUS, touch(p + HUGE, -1));
	munmap(p, SIZE);
	finish();
}

/* Tasks fault, read and write without a pause. */
TEST_F(unbind, while_busy)
{
	pid_t pid[3];

	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		for (size_t n = 0; ; n++) {
			size_t at = n * 17 * PAGE % SIZE;
			char c;

			if (i == 0 && touch(self->gone + at, 1) == SIGBUS)
				_exit(0);
			if (i == 1 && pwrite(self->gone_fd, "x", 1, at) != 1)
				_exit(errno == EIO ? 0 : errno);
			if (i == 2) {
				/* Open, map, fault and evict again and again. */
				unsigned char *p = fs_map(self->s, "late", SIZE,
							  PROT_READ);

				if (p == MAP_FAILED)
					_exit(errno == EIO ? 0 : errno);
				touch(p + at, -1);
				munmap(p, SIZE);
				if (pread(self->gone_fd, &c, 1, at) != 1)
					_exit(errno == EIO ? 0 : errno);
			}
		}
	}
	usleep(50 * 1000);
	ASSERT_EQ(0, daxdev_unbind(&daxdev[0]));
	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, ended(pid[i]));
	expect_gone();
	expect_stays();
	let_go();
	EXPECT_EQ(0, fs_umount(self->s));
	expect_usable();
	finish();
}

/*
 * Task @_io does direct I/O with pages of device 0, which pins them, until WRITE is released,
 * and task @_pid unbinds the device, which waits for that.
 */
#define pin_and_unbind(_io, _pid) do {					\
	self->s->hold[FUSE_WRITE] = true;				\
	_io = fork();							\
	ASSERT_LE(0, _io);						\
	if (!_io) {							\
		int fd = fs_open(self->s, "plain", O_RDWR);		\
									\
		_exit(pwrite(fd, self->gone + HUGE, 4 * PAGE, 0) != 4 * PAGE);\
	}								\
	ASSERT_TRUE(fs_wait(self->s, FUSE_WRITE, 1));			\
	_pid = daxdev_unbind_begin(&daxdev[0]);				\
	ASSERT_LE(0, _pid);						\
	usleep(300 * 1000);						\
	EXPECT_EQ(0, waitpid(_pid, NULL, WNOHANG));			\
} while (0)

/*
 * A task does direct I/O with pages of the device, which pins them. Their memory map must
 * not be freed before the I/O has ended, so unbinding waits. No other task waits, not even
 * one that opens a file of another mount on this device: it gets EBUSY.
 */
TEST_F(unbind, while_pinned)
{
	struct fuse_server *other = new_mount(self->map);
	pid_t io, pid;

	ASSERT_NE(NULL, other);

	pin_and_unbind(io, pid);
	expect_gone();
	expect_stays();
	EXPECT_EQ(-EIO, fs_try(self->s, "late"));
	EXPECT_EQ(EBUSY << 8, ended(fs_try_in_child(other, "gone")));
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	fs_release(self->s, FUSE_WRITE);
	EXPECT_EQ(0, ended(io));
	ASSERT_EQ(0, ended(pid));
	expect_gone();
	EXPECT_EQ(0, fs_stop(other));
	let_go();
	EXPECT_EQ(0, fs_umount(self->s));
	expect_usable();
	finish();
}

/*
 * While unbinding one device waits for a pinned page, another one is unbound and bound. (The
 * kernel has one read-side critical section for all DAX devices. If the module waited in it,
 * no other DAX device could be removed, not even one of LVM.)
 */
TEST_F(unbind, others_while_pinned)
{
	pid_t io, pid;

	pin_and_unbind(io, pid);
	EXPECT_EQ(0, daxdev_unbind(&daxdev[1]));
	EXPECT_EQ(SIGBUS, touch(self->stays, -1));
	EXPECT_EQ(0, daxdev_bind(&daxdev[1]));
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	expect_gone();
	fs_release(self->s, FUSE_WRITE);
	EXPECT_EQ(0, ended(io));
	ASSERT_EQ(0, ended(pid));
	let_go();
	EXPECT_EQ(0, fs_umount(self->s));
	expect_usable();
	finish();
}

/*
 * Tasks pin pages without a pause, with buffers of many pages: a task that has pinned some
 * of them faults for the next.
 */
TEST_F(unbind, while_pinning)
{
	pid_t io[2];

	for (unsigned int i = 0; i < ARRAY_SIZE(io); i++) {
		io[i] = fork();
		ASSERT_LE(0, io[i]);
		if (io[i])
			continue;
		for (int fd = fs_open(self->s, "plain", O_RDWR); ; ) {
			if (pwrite(fd, self->gone + HUGE, 32 * PAGE, 0) < 0)
				_exit(errno == EFAULT || errno == EHWPOISON ? 0 : errno);
			madvise(self->gone, SIZE, MADV_DONTNEED);
		}
	}
	usleep(50 * 1000);
	ASSERT_EQ(0, daxdev_unbind(&daxdev[0]));
	for (unsigned int i = 0; i < ARRAY_SIZE(io); i++)
		EXPECT_EQ(0, ended(io[i]));
	expect_gone();
	expect_stays();
	let_go();
	EXPECT_EQ(0, fs_umount(self->s));
	expect_usable();
	finish();
}

static char *missing;

/* The buffer of the answer has no page: the server's thread waits in a userfaultfd fault. */
static void answer_later(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	fs_reply(s, in, 0, missing, PAGE);
}

/*
 * The device is unbound during an unmount that waits for an answer of the server, which may
 * never come. Unbinding does not wait for it, and takes the memory that the files still have.
 */
TEST_F(unbind, while_shut_down)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_zeropage zero = {};
	struct fuse_server *s = self->s;
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC), log = klog_open(), fd;
	struct uffd_msg msg;
	pid_t umounter, pid;

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		SKIP(return, "no userfaultfd for faults in the kernel: %s", strerror(errno));
	if (log < 0)
		SKIP(return, "no kernel log: %s", strerror(-log));
	missing = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, missing);
	reg.range = zero.range = (struct uffdio_range){ (uintptr_t)missing, PAGE };
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));
	let_go();
	s->open_flags = FOPEN_NOFLUSH;
	s->hook[FUSE_READ] = answer_later;
	fd = fs_open(s, "plain", O_RDONLY);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, readahead(fd, 0, PAGE));
	close(fd);
	ASSERT_EQ(sizeof(msg), read(uffd, &msg, sizeof(msg)));

	umounter = fork();
	ASSERT_LE(0, umounter);
	if (!umounter)
		_exit(umount2(s->dir, 0) ? errno : 0);
	s->mounted = false;
	EXPECT_TRUE(asleep(umounter));
	pid = daxdev_unbind_begin(&daxdev[0]);
	ASSERT_LE(0, pid);
	EXPECT_EQ(0, ended(pid));
	EXPECT_EQ(0, waitpid(umounter, NULL, WNOHANG));
	EXPECT_EQ(1, klog_count(log, "goes away"));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
	EXPECT_EQ(0, ended(umounter));
	close(uffd);
	expect_usable();
	finish();
}

/* Unbinding and unmounting at once, in both orders. */
TEST_F_TIMEOUT(unbind, while_unmounting, 60)
{
	let_go();
	for (int round = 0; round < 10; round++) {
		struct fuse_server *s = self->s;
		unsigned char *p;
		pid_t pid;

		if (round) {
			self->s = s = new_mount(self->map);
			ASSERT_NE(NULL, s);
		}
		p = fs_map(s, "gone", SIZE, PROT_READ | PROT_WRITE);
		ASSERT_NE(MAP_FAILED, p) TH_LOG("%s", strerror(errno));
		EXPECT_EQ(0, touch(p, 1));
		EXPECT_EQ(0, touch(p + HUGE, 1));
		if (round % 2) {
			ASSERT_EQ(0, umount2(s->dir, MNT_DETACH));
			s->mounted = false;
		} else {
			munmap(p, SIZE);
		}
		pid = daxdev_unbind_begin(&daxdev[0]);
		ASSERT_LE(0, pid);
		usleep(round / 2 * 400);
		if (round % 2)
			munmap(p, SIZE);
		EXPECT_EQ(0, fs_stop(s));
		self->s = NULL;
		ASSERT_EQ(0, ended(pid));
		ASSERT_TRUE(module_refs_wait(self->refs));
		ASSERT_EQ(0, daxdev_bind(&daxdev[0]));
	}
	expect_usable();
	finish();
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
