// SPDX-License-Identifier: GPL-2.0
/*
 * The last file of an inode is closed while a page of it is in use.
 *
 * An ordinary user can keep one page of a file that he can open: in a pipe (vmsplice), or as the
 * buffer of a read from another file, for as long as the server of that file does not answer. Then
 * he unmaps, closes and removes the file. FUSE evicts an inode wherever its last reference is
 * dropped: in the write(2) with which the server answers RELEASE, in notifications, in reclaim.
 * None of these may wait for the page: the server would have to answer the read, and every other
 * task waits for the server.
 *
 * So the module holds the inode until the page is no longer in use. An opener finds the same inode,
 * and can use all of it. The server gets FORGET only after that, and until then must not give the
 * memory to another file. If it does, that file can neither map the page nor write to it, as the
 * user of the page would see what is written. It can once the page is free.
 *
 * All of this costs next to no CPU time, however many pages are in use.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "kselftest_harness.h"
#include "keeper.h"

/* ---- what evicts the inode ---- */

static int by_delete(struct fuse_server *s)
{
	struct fuse_notify_delete_out out = {
		.parent = FUSE_ROOT_ID,
		.child = s->file[0].nodeid,
		.namelen = strlen(s->file[0].name),
	};

	return fs_notify(s, FUSE_NOTIFY_DELETE, &out, sizeof(out), s->file[0].name,
			 out.namelen + 1);
}

static int by_inval_entry(struct fuse_server *s)
{
	struct fuse_notify_inval_entry_out out = {
		.parent = FUSE_ROOT_ID,
		.namelen = strlen(s->file[0].name),
	};

	return fs_notify(s, FUSE_NOTIFY_INVAL_ENTRY, &out, sizeof(out), s->file[0].name,
			 out.namelen + 1);
}

static int by_drop_caches(struct fuse_server *s)
{
	/* A recently used inode is evicted by the second pass at the earliest. */
	for (int i = 0; i < 5; i++)
		drop_caches();
	return 0;
}

/* How often the server was told to forget "file". */
static _Atomic unsigned int forgotten;

static void count_forget(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_batch_forget_in *batch = arg;
	const struct fuse_forget_one *one = (const void *)(batch + 1);

	if (in->opcode == FUSE_FORGET) {
		forgotten += in->nodeid == s->file[0].nodeid;
		return;
	}
	for (uint32_t i = 0; i < batch->count; i++)
		forgotten += one[i].nodeid == s->file[0].nodeid;
}

/* A server that does not answer reads, and allows asynchronous direct reads. */
static struct fuse_server *new_slow(void)
{
	struct fuse_server *s = fs_new();

	if (!s)
		return NULL;
	fs_add(s, "plain", SIZE, NULL, 0);
	s->init_flags |= FUSE_ASYNC_READ | FUSE_ASYNC_DIO;
	if (fs_mount(s)) {
		fs_stop(s);
		return NULL;
	}
	return s;
}

/* The kept page can be mapped again some time after it was released. */
static bool given_again(unsigned char *p)
{
	for (int ms = 0; ms < FS_PATIENCE; ms++) {
		if (!touch(p, -1))
			return true;
		usleep(1000);
	}
	return false;
}

FIXTURE(evicted) {
	struct fuse_server *s, *slow;
	struct scripted map[4];
	struct keeper keeper;
	unsigned char *thief;
	int fd;
	long refs;
};

FIXTURE_VARIANT(evicted) {
	uint64_t addr;
	int how;
	int (*evict)(struct fuse_server *s);	/* NULL: RELEASE, when it is answered */
};

#define VARIANT(name, ...)						\
	FIXTURE_VARIANT_ADD(evicted, name) { __VA_ARGS__ }

VARIANT(pipe_release, 0, BY_PIPE, NULL);
VARIANT(pipe_release_small, PAGE, BY_PIPE, NULL);
VARIANT(pipe_delete, 0, BY_PIPE, by_delete);
VARIANT(pipe_inval_entry, PAGE, BY_PIPE, by_inval_entry);
VARIANT(pipe_drop_caches, 0, BY_PIPE, by_drop_caches);
VARIANT(direct_release, 0, BY_DIRECT_READ, NULL);
VARIANT(direct_release_small, PAGE, BY_DIRECT_READ, NULL);
VARIANT(direct_delete, PAGE, BY_DIRECT_READ, by_delete);
VARIANT(direct_inval_entry, 0, BY_DIRECT_READ, by_inval_entry);
VARIANT(direct_drop_caches, PAGE, BY_DIRECT_READ, by_drop_caches);
VARIANT(aio_release, 0, BY_AIO, NULL);
VARIANT(aio_release_small, PAGE, BY_AIO, NULL);
VARIANT(aio_delete, 0, BY_AIO, by_delete);
VARIANT(aio_inval_entry, PAGE, BY_AIO, by_inval_entry);
VARIANT(aio_drop_caches, 0, BY_AIO, by_drop_caches);

FIXTURE_SETUP(evicted)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->thief = MAP_FAILED;
	self->fd = -1;
	self->s = keeper_mount(self->map, variant->addr, 0);
	ASSERT_NE(NULL, self->s);
	forgotten = 0;
	self->s->hook[FUSE_FORGET] = count_forget;
	self->s->hook[FUSE_BATCH_FORGET] = count_forget;
	self->slow = new_slow();
	ASSERT_NE(NULL, self->slow);
	self->keeper = (struct keeper){
		.s = self->s,
		.slow = self->slow,
		.name = "file",
		.how = variant->how,
		.removes = !variant->evict,
	};
}

/* Release the page first: a task that hangs waits for it. */
FIXTURE_TEARDOWN(evicted)
{
	keep_end(&self->keeper);
	if (self->thief != MAP_FAILED)
		munmap(self->thief, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->slow));
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* A child closes the file but keeps its page, and another child lets FUSE evict the inode. */
#define close_and_evict() do {						\
	ASSERT_TRUE(keep_begin(&self->keeper));				\
	if (variant->evict)						\
		EXPECT_EQ(0, in_child(variant->evict(self->s)));	\
	EXPECT_EQ(0, in_child(try_statfs(self->s)));			\
} while (0)

/* FORGET comes once the page is no longer in use. */
static bool forgotten_at_last(struct fuse_server *s)
{
	for (int ms = 0; ms < FS_PATIENCE && !forgotten; ms++)
		usleep(1000);
	return forgotten == 1;
}

/* No task waits, no other file gets the page, and it is not lost. */
TEST_F_TIMEOUT(evicted, page_in_use, 60)
{
	struct fuse_server *s = self->s;

	close_and_evict();
	EXPECT_EQ(0, in_child(fs_fill(s, "next", 'n', SIZE) ? 1 : 0));
	self->fd = fs_open(s, "thief", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->thief = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->thief);
	EXPECT_EQ(SIGBUS, touch(self->thief + AT, 't'));
	EXPECT_EQ(SIGBUS, touch(self->thief + AT, -1));
	/* The 2 MiB before the page are not in use. */
	EXPECT_EQ(0, touch(self->thief + AT - HUGE, 't'));
	usleep(100 * 1000);
	EXPECT_EQ(SIGBUS, touch(self->thief + AT, 't'));
	EXPECT_EQ(0, forgotten);

	EXPECT_EQ(0, keep_end(&self->keeper));
	EXPECT_TRUE(forgotten_at_last(s));
	EXPECT_TRUE(given_again(self->thief + AT));
	/* A read that went on during the test has written to the page. */
	EXPECT_EQ(variant->how == BY_PIPE ? 'f' : variant->how == BY_AIO ?
		  self->slow->file[0].plain[0] : s->file[4].plain[0], self->thief[AT]);
	EXPECT_EQ(0, touch(self->thief + AT, 't'));
	EXPECT_EQ(0, touch(self->thief + AT + PAGE, 't'));
}

/* The file is opened again while a page of it is in use, and works as before. */
TEST_F_TIMEOUT(evicted, found_anew, 60)
{
	unsigned int fmaps;

	close_and_evict();
	fmaps = self->s->count[FUSE_GET_FMAP];
	ASSERT_EQ(0, in_child(-fs_try(self->s, "file")));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->thief = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->thief);
	/* All pages, also the one that is in use. */
	for (size_t at = 0; at < SIZE; at += PAGE) {
		ASSERT_EQ('f', byte_at(self->fd, at));
		ASSERT_EQ(1, pwrite(self->fd, "f", 1, at));
		ASSERT_EQ(0, touch(self->thief + at, -1));
		ASSERT_EQ(0, touch(self->thief + at, 'f'));
	}
	EXPECT_EQ(1, pwrite(self->fd, "w", 1, AT - PAGE));
	EXPECT_EQ(fmaps, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, keep_end(&self->keeper));
	EXPECT_EQ(0, touch(self->thief + AT, 'x'));
	EXPECT_EQ('x', byte_at(self->fd, AT));
	EXPECT_EQ('w', self->thief[AT - PAGE]);
	EXPECT_EQ(0, fsync(self->fd));
	EXPECT_EQ(0, forgotten);
}

/* The file is opened and closed again, and not mapped: the page stays in use. */
TEST_F_TIMEOUT(evicted, closed_again, 60)
{
	struct fuse_server *s = self->s;

	close_and_evict();
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(0, in_child(-fs_try(s, "file")));
		/* Let the module see that the file is open, or closed. */
		usleep(50 * 1000);
	}
	EXPECT_EQ(0, in_child(variant->evict ? variant->evict(s) :
			      unlink(fs_path(s, "file")) ? errno : 0));
	usleep(100 * 1000);
	EXPECT_EQ(0, forgotten);
	EXPECT_EQ(0, keep_end(&self->keeper));
	EXPECT_TRUE(forgotten_at_last(s));
}

/*
 * The server gives the memory to another file too early. What is written to that file must not
 * appear in the pipe, and data that arrive from the other file system must not overwrite it.
 */
TEST_F_TIMEOUT(evicted, written_by_another, 60)
{
	static char buf[SIZE], got[PAGE];
	struct fuse_server *s = self->s;
	ssize_t ret;

	close_and_evict();
	self->fd = fs_open(s, "thief", O_RDWR);
	ASSERT_LE(0, self->fd);
	memset(buf, 's', SIZE);
	EXPECT_EQ(-1, pwrite(self->fd, buf, PAGE, AT));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, pwrite(self->fd, buf, 1, AT + PAGE - 1));
	EXPECT_EQ(EIO, errno);
	/* The 2 MiB before it are not in use. */
	ret = pwrite(self->fd, buf, SIZE, 0);
	EXPECT_LE(HUGE, ret);
	EXPECT_GE(AT, ret);
	/* The failed writes have written nothing: keep() compares, and so does this. */
	EXPECT_EQ(0, keep_end(&self->keeper));
	for (int ms = 0; ms < FS_PATIENCE; ms++) {
		ret = pwrite(self->fd, buf, PAGE, AT);
		if (ret != -1)
			break;
		usleep(1000);
	}
	EXPECT_EQ(PAGE, ret);
	EXPECT_EQ(SIZE, pwrite(self->fd, buf, SIZE, 0));
	EXPECT_EQ(PAGE, pread(self->fd, got, PAGE, AT));
	EXPECT_EQ(0, memcmp(got, buf, PAGE));
	EXPECT_EQ(0, fsync(self->fd));
}

/* ---- memory beside the page in use ---- */

FIXTURE(beside) {
	struct fuse_server *s;
	struct scripted map[4];
	struct keeper keeper;
	long refs;
};

FIXTURE_SETUP(beside)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->s = keeper_mount(self->map, 0, 0);
	ASSERT_NE(NULL, self->s);
	self->keeper = (struct keeper){ .s = self->s, .name = "file", .how = BY_PIPE };
	ASSERT_TRUE(keep_begin(&self->keeper));
}

FIXTURE_TEARDOWN(beside)
{
	EXPECT_EQ(0, keep_end(&self->keeper));
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/*
 * While the page is in use, each write checks which file owns the folio that it writes to. That
 * folio is made one of 2 MiB and split again, as a file with the same memory is mapped and evicted.
 */
TEST_F_TIMEOUT(beside, memory_put_together, 60)
{
	const int rounds = 200;
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid) {
		int fd = fs_open(self->s, "twin", O_RDWR);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (pwrite(fd, "t", 1, 0) == 1)
			;
		_exit(errno);
	}
	for (int round = 0; round < rounds; round++) {
		int fd = fs_open(self->s, "next", O_RDWR);
		unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		ASSERT_NE(MAP_FAILED, p);
		ASSERT_EQ(0, touch(p, 1));
		munmap(p, SIZE);
		close(fd);
		ASSERT_TRUE(fs_forget(self->s));
	}
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	kill(pid, SIGKILL);
	ended(pid);
}

/* ---- what it costs ---- */

#define PIPES		8
#define PAGES_EACH	8	/* in a pipe, each in its own 2 MiB */
#define BIG		(PIPES * PAGES_EACH * HUGE)
#define WINDOW_MS	3000

FIXTURE(cost) {
	struct fuse_server *s;
	struct scripted map;
	int pipe[PIPES][2];
	long refs;
};

FIXTURE_VARIANT(cost) {
	bool unmounted;
};

FIXTURE_VARIANT_ADD(cost, inode_held) {
	.unmounted = false,
};

FIXTURE_VARIANT_ADD(cost, unmounted) {
	.unmounted = true,
};

FIXTURE_SETUP(cost)
{
	FMAP_REQUIRE();
	if (daxdev[0].size < BIG)
		SKIP(return, "the devices are smaller than %lu bytes", BIG);
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, BIG);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", BIG, &self->map, sizeof(self->map));
	self->s->hook[FUSE_UNLINK] = keeper_done;
	ASSERT_EQ(0, fs_mount(self->s));
	for (int i = 0; i < PIPES; i++)
		ASSERT_EQ(0, pipe(self->pipe[i]));
}

FIXTURE_TEARDOWN(cost)
{
	for (int i = 0; i < PIPES; i++) {
		close(self->pipe[i][0]);
		close(self->pipe[i][1]);
	}
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* Time that all CPUs have spent in the kernel, in ms; -1 if /proc/stat does not say. */
static long kernel_ms(void)
{
	unsigned long user, nice, system;
	char line[4096];

	if (read_file("/proc/stat", line, sizeof(line)) ||
	    sscanf(line, "cpu %lu %lu %lu", &user, &nice, &system) != 3)
		return -1;
	return system * 1000 / sysconf(_SC_CLK_TCK);
}

/* The least time of some windows: other tasks may be busy in one. */
static long least_kernel_ms(long enough)
{
	long least = -1;

	for (int i = 0; i < 4 && (least < 0 || least > enough); i++) {
		long before = kernel_ms(), ms;

		usleep(WINDOW_MS * 1000);
		ms = kernel_ms() - before;
		if (least < 0 || ms < least)
			least = ms;
	}
	return least;
}

TEST_F_TIMEOUT(cost, many_pages_in_use, 60)
{
	const long limit = WINDOW_MS / 5;
	char *p, *at;
	long idle, ms;
	int fd;

	ASSERT_LE(0, kernel_ms());
	idle = least_kernel_ms(limit);
	if (idle > limit)
		SKIP(return, "the machine is busy: %ld ms in %d ms", idle, WINDOW_MS);
	fd = fs_open(self->s, "file", O_RDWR);
	p = mmap(address_range(0, BIG), BIG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	at = p;
	for (int i = 0; i < PIPES; i++)
		for (int j = 0; j < PAGES_EACH; j++, at += HUGE) {
			struct iovec iov = { .iov_base = at, .iov_len = PAGE };

			ASSERT_EQ(0, touch((unsigned char *)at, 1));
			ASSERT_EQ(PAGE, vmsplice(self->pipe[i][1], &iov, 1, 0));
		}
	ASSERT_EQ(0, unlink(fs_path(self->s, "file")));
	munmap(p, BIG);
	if (variant->unmounted) {
		ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
		self->s->mounted = false;
	}
	close(fd);
	usleep(1000 * 1000);
	ms = least_kernel_ms(idle + limit);
	TH_LOG("%ld ms of %d, %ld ms before", ms, WINDOW_MS, idle);
	EXPECT_GT(limit, ms);
	EXPECT_LT(self->refs, module_refs());
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
