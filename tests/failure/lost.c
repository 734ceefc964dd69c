// SPDX-License-Identifier: GPL-2.0
/*
 * Memory fails that is dirty: stored to, and not flushed.
 *
 * The stores are lost. The kernel must not flush the page: after a machine check it is not
 * even in the kernel's own mapping any more, so that would be an oops. That holds whether or
 * not the page is pinned, here by a pipe, and for each way to flush: fsync, syncfs, sync,
 * eviction, and the handling of the failure itself. And one fsync of each descriptor that
 * was open must return EIO, as after a failed writeback of a page cache; the next fsync
 * succeeds. Other dirty pages must still be flushed.
 *
 * A BPF program watches the flushes (bpf/flush.bpf.c), and those of the failed address.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "bpf/flush.h"

#define SIZE	(4 * MIB)
#define BAD	(HUGE + 37 * PAGE)	/* in the file */

static struct flush_seen *flush;

FIXTURE(lost) {
	struct fuse_server *s;
	struct scripted map;
	unsigned char *p;
	int fd, other_fd, pipe[2];
	long refs;
};

FIXTURE_VARIANT(lost) {
	uint64_t addr;
	bool in_use;
};

#define VARIANT(name, ...)						\
	FIXTURE_VARIANT_ADD(lost, name) { __VA_ARGS__ }

VARIANT(huge, 0, false);
VARIANT(small, PAGE, false);
VARIANT(huge_in_use, 0, true);
VARIANT(small_in_use, PAGE, true);

FIXTURE_SETUP(lost)
{
	FMAP_REQUIRE();
	if (!daxdev[0].phys)
		SKIP(return, "the devices do not tell their physical addresses");
	if (access(HWPOISON_INJECT, W_OK))
		SKIP(return, "there is no hwpoison-inject");
	self->refs = module_refs();
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->map = fmap_linear(0, variant->addr, SIZE);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	flush->watched = 0;
	/* Make the page healthy, in case an earlier test did not end. */
	ASSERT_EQ(0, fs_fill(self->s, "file", 'f', SIZE));
	flush->through = 0;
	self->fd = fs_open(self->s, "file", O_RDWR);
	self->other_fd = fs_open(self->s, "file", O_RDONLY);
	ASSERT_LE(0, self->fd);
	ASSERT_LE(0, self->other_fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	ASSERT_EQ(0, pipe(self->pipe));
}

FIXTURE_TEARDOWN(lost)
{
	flush->watched = 0;
	close(self->pipe[0]);
	close(self->pipe[1]);
	if (self->p)
		munmap(self->p, SIZE);
	close(self->fd);
	close(self->other_fd);
	/* It may have been unmounted. */
	if (self->s->mounted)
		EXPECT_EQ(0, fs_fill(self->s, "file", 'f', SIZE));
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* Pin the page at @BAD if the variant says so, then let it fail, and watch its flushes. */
#define fail_page() do {						\
	struct iovec _iov = { self->p + BAD, PAGE };			\
									\
	if (variant->in_use)						\
		ASSERT_EQ(PAGE, vmsplice(self->pipe[1], &_iov, 1, 0));	\
	flush->watched = daxdev[0].phys + variant->addr + BAD;		\
	flush->through = 0;						\
	ASSERT_EQ(0, hwpoison_inject(flush->watched));				\
	EXPECT_EQ(0, flush->through);					\
} while (0)

/* After a write of the whole page, the file works as before. */
#define expect_well() do {						\
	unsigned char _page[PAGE];					\
	char _c;							\
									\
	if (variant->in_use)						\
		EXPECT_LT(0, read(self->pipe[0], _page, PAGE));		\
	flush->watched = 0;						\
	memset(_page, 'w', PAGE);					\
	EXPECT_EQ(PAGE, pwrite(self->fd, _page, PAGE, BAD));		\
	EXPECT_EQ(1, pread(self->fd, &_c, 1, BAD));			\
	EXPECT_EQ('w', _c);						\
	EXPECT_EQ(0, touch(self->p + BAD, 'x'));			\
	EXPECT_EQ(0, fsync(self->fd));					\
	EXPECT_EQ(0, fsync(self->other_fd));				\
} while (0)

#define expect_fsync(fd, error) do {					\
	int _ret = fsync(fd);						\
									\
	EXPECT_EQ((error) ? -1 : 0, _ret);				\
	if (_ret)							\
		EXPECT_EQ((error), errno);				\
} while (0)

TEST_F(lost, told_once)
{
	uint64_t flushed;
	int late, ret;

	ASSERT_EQ(0, touch(self->p + BAD, 'd'));
	ASSERT_EQ(0, touch(self->p + PAGE, 'e'));
	flushed = flush->flushed;
	fail_page();
	expect_fsync(self->fd, EIO);
	expect_fsync(self->fd, 0);
	/* The other dirty page is not in the same 2 MiB. */
	EXPECT_LE(PAGE, flush->flushed - flushed);
	expect_fsync(self->other_fd, EIO);
	expect_fsync(self->other_fd, 0);
	/* A descriptor that is opened after the loss gets no EIO. */
	late = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, late);
	expect_fsync(late, 0);
	close(late);
	EXPECT_EQ(0, flush->through);

	/* Later stores to the next page are flushed, or fsync returns EIO again. */
	EXPECT_EQ(0, touch(self->p + BAD + PAGE, 'n'));
	flushed = flush->flushed;
	ret = fsync(self->fd);
	EXPECT_TRUE(ret ? errno == EIO : flush->flushed - flushed >= PAGE);
	fsync(self->other_fd);
	EXPECT_EQ(0, flush->through);
	expect_well();
}

TEST_F(lost, told_by_msync)
{
	ASSERT_EQ(0, touch(self->p + BAD, 'd'));
	fail_page();
	EXPECT_EQ(-1, msync(self->p, SIZE, MS_SYNC));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(0, msync(self->p, SIZE, MS_SYNC));
	EXPECT_EQ(0, flush->through);
	expect_fsync(self->other_fd, EIO);
	expect_well();
}

/* A page that was clean when it failed: fsync reports no loss. */
TEST_F(lost, nothing_if_clean)
{
	ASSERT_EQ(0, touch(self->p + BAD, 'd'));
	expect_fsync(self->fd, 0);
	fail_page();
	expect_fsync(self->fd, 0);
	expect_fsync(self->other_fd, 0);
	EXPECT_EQ(0, flush->through);
	expect_well();
}

/* Other ways to flush. */
TEST_F(lost, others_that_flush)
{
	ASSERT_EQ(0, touch(self->p + BAD, 'd'));
	fail_page();
	syncfs(self->fd);
	sync();
	fdatasync(self->other_fd);
	sync_file_range(self->other_fd, 0, 0, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
	EXPECT_EQ(PAGE, pwrite(self->fd, self->p, PAGE, 0));
	EXPECT_EQ(0, flush->through);
	expect_fsync(self->fd, EIO);
	expect_well();
}

/* The file is evicted with its loss, as soon as no page of it is pinned. */
TEST_F(lost, evicted)
{
	struct fuse_server *s = self->s;
	unsigned int forgets = fs_forgets(s);

	ASSERT_EQ(0, touch(self->p + BAD, 'd'));
	fail_page();
	munmap(self->p, SIZE);
	self->p = NULL;
	close(self->fd);
	close(self->other_fd);
	self->fd = self->other_fd = -1;
	if (variant->in_use) {
		for (int i = 0; i < 5; i++)
			drop_caches();
		/* Time for the module to check whether the page is still pinned. */
		usleep(500 * 1000);
		EXPECT_EQ(forgets, fs_forgets(s));
		EXPECT_EQ(0, flush->through);
	}
	close(self->pipe[0]);
	close(self->pipe[1]);
	self->pipe[0] = self->pipe[1] = -1;
	EXPECT_TRUE(fs_forget_since(s, forgets));
	EXPECT_EQ(0, flush->through);
	/* The page stays bad for the next opener, until it is rewritten. */
	self->fd = fs_open(s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	EXPECT_EQ(-EIO, byte_at(self->fd, BAD));
	expect_fsync(self->fd, 0);
	EXPECT_EQ(0, flush->through);
}

/*
 * The file system is unmounted while the page is pinned by a pipe. The module keeps the memory
 * (kept memory), without an inode to record the loss in, and without a descriptor to report it.
 */
#define leave_lazily(in_use) do {					\
	munmap(self->p, SIZE);						\
	self->p = NULL;							\
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));		\
	self->s->mounted = false;					\
	close(self->fd);						\
	close(self->other_fd);						\
	self->fd = self->other_fd = -1;					\
	/* Time for the module to check whether it is still pinned. */	\
	usleep(1500 * 1000);						\
	EXPECT_EQ(in_use, module_refs() > self->refs);			\
} while (0)

/* The memory is released when it is not pinned any more; the next mount can rewrite it. */
#define expect_given_up() do {						\
	struct fuse_server *_next;					\
	int _fd;							\
									\
	EXPECT_EQ(0, flush->through);					\
	close(self->pipe[0]);						\
	close(self->pipe[1]);						\
	self->pipe[0] = self->pipe[1] = -1;				\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
	EXPECT_EQ(0, flush->through);					\
	flush->watched = 0;						\
	_next = fmap_server(SCRIPTED_OPS_NAME);				\
	ASSERT_NE(NULL, _next);						\
	fs_add(_next, "file", SIZE, &self->map, sizeof(self->map));	\
	ASSERT_EQ(0, fs_mount(_next));					\
	_fd = fs_open(_next, "file", O_RDWR);				\
	EXPECT_EQ(-EIO, byte_at(_fd, BAD));				\
	close(_fd);							\
	EXPECT_EQ(0, fs_fill(_next, "file", 'f', SIZE));		\
	EXPECT_EQ(0, fs_stop(_next));					\
} while (0)

TEST_F(lost, then_unmounted)
{
	ASSERT_EQ(0, touch(self->p + BAD, 'd'));
	fail_page();
	leave_lazily(variant->in_use);
	expect_given_up();
}

TEST_F(lost, after_it_was_unmounted)
{
	struct iovec iov = { self->p + BAD, PAGE };

	ASSERT_EQ(0, touch(self->p + BAD, 'd'));
	ASSERT_EQ(PAGE, vmsplice(self->pipe[1], &iov, 1, 0));
	leave_lazily(true);
	flush->watched = daxdev[0].phys + variant->addr + BAD;
	flush->through = 0;
	ASSERT_EQ(0, hwpoison_inject(flush->watched));
	usleep(500 * 1000);
	expect_given_up();
}

int main(int argc, char **argv)
{
	hwpoison_load();
	flush = bpf_attach("flush.bpf.o");
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
