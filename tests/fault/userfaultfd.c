// SPDX-License-Identifier: GPL-2.0
/*
 * uffd-wp: a task tracks its stores. userfaultfd(2) with UFFD_FEATURE_WP_ASYNC
 * write-protects a range, the kernel removes the protection of a page at a store, and
 * PAGEMAP_SCAN tells which pages were stored to. The kernel allows that for any VMA,
 * so for those of mapped files, too, and protects pages that are not present by a
 * marker in the page tables, which faults of DAX do not expect. So here:
 *
 * - loads and stores must work, whether the memory was mapped by a PMD or by PTEs,
 *   was never touched, or is unmapped and protected again at the same time;
 * - PAGEMAP_SCAN must report pages that were stored to, and no page that was only read;
 * - the next fsync(2) must flush what was stored;
 * - after fork, mremap or unregistering, or in a private mapping, a task must get the
 *   bytes of the file; a hole stays a hole, and failed memory is SIGBUS;
 * - the kernel must not warn, and no task may hang.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/fs.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "flushes.h"

#define SIZE	(8 * MIB)

#define SECONDS	5

#define RW	(PROT_READ | PROT_WRITE)

FIXTURE(userfaultfd) {
	struct fuse_server *s;
	struct scripted map;
	int fd, uffd, pagemap, flushed, log;
	uint64_t seen;
	unsigned char *p;
	size_t at;		/* what is touched: the second 2 MiB */
};

FIXTURE_VARIANT(userfaultfd) {
	bool huge;
};

FIXTURE_VARIANT_ADD(userfaultfd, huge) { .huge = true };
FIXTURE_VARIANT_ADD(userfaultfd, pages) { };

/* A userfaultfd with UFFD_FEATURE_WP_ASYNC, or -errno. */
static int tracker(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
	};
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		return -errno;
	return uffd;
}

FIXTURE_SETUP(userfaultfd)
{
	FMAP_REQUIRE();
	self->uffd = tracker();
	if (self->uffd < 0)
		SKIP(return, "no UFFD_FEATURE_WP_ASYNC: %s", strerror(-self->uffd));
	self->log = klog_open();
	/* At an address that is not aligned, there are PTE faults only. */
	FMAP_MOUNT_ONE_FILE(variant->huge ? 0 : PAGE, SIZE);
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->pagemap = open("/proc/self/pagemap", O_RDONLY);
	ASSERT_LE(0, self->pagemap);
	self->p = address_range(0, SIZE);
	self->at = HUGE;
	ASSERT_EQ(self->p, mmap(self->p, SIZE, RW, MAP_SHARED | MAP_FIXED, self->fd, 0));
}

FIXTURE_TEARDOWN(userfaultfd)
{
	if (!self->s)
		return;
	munmap(self->p, SIZE);
	close(self->uffd);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_EQ(0, klog_count(self->log, "WARNING:"));
	close(self->log);
}

/* ---- loads and stores ---- */

static int start(int uffd, void *p, size_t len)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)p, len },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &reg);
}

static int stop(int uffd, void *p, size_t len)
{
	struct uffdio_range range = { (uintptr_t)p, len };

	return ioctl(uffd, UFFDIO_UNREGISTER, &range);
}

static int protect(int uffd, void *p, size_t len, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)p, len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp);
}

/*
 * Find the pages behind @p that were stored to: up to @max of them go to @page.
 * Returns how many there are, or -1. With @again they are protected again.
 */
static int stored(int pagemap, unsigned char *p, size_t len, bool again, int *page, int max)
{
	struct page_region region[256];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_CHECK_WPASYNC | (again ? PM_SCAN_WP_MATCHING : 0),
		.start = (uintptr_t)p,
		.end = (uintptr_t)p + len,
		.vec = (uintptr_t)region,
		.vec_len = ARRAY_SIZE(region),
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	int n = ioctl(pagemap, PAGEMAP_SCAN, &arg), pages = 0;

	for (int i = 0; i < n; i++)
		for (uint64_t at = region[i].start; at < region[i].end; at += PAGE) {
			if (pages < max)
				page[pages] = (at - (uintptr_t)p) / PAGE;
			pages++;
		}
	return n < 0 ? n : pages;
}

/* Exactly these pages behind @_p were stored to. */
#define expect_stored(_p, again, ...) do {					\
	int _want[] = { __VA_ARGS__ }, _page[8];				\
	int _n = stored(self->pagemap, _p, HUGE, again, _page, 8);		\
										\
	EXPECT_EQ((int)ARRAY_SIZE(_want), _n);					\
	for (int _i = 0; _i < ARRAY_SIZE(_want) && _i < _n; _i++)		\
		EXPECT_EQ(_want[_i], _page[_i]);				\
} while (0)

/* Page @n of the 2 MiB that are touched. */
#define page_at(n)	(self->p + self->at + (n) * PAGE)

/* The first byte of each page before the range is protected. */
static unsigned char before(int page)
{
	return page % 100 + 1;
}

#define make_pages() do {							\
	for (int _i = 0; _i < HUGE / PAGE; _i++)				\
		ASSERT_EQ(0, touch(page_at(_i), before(_i)));			\
} while (0)

#define expect_load(n, value) do {						\
	ASSERT_EQ(0, touch(page_at(n), -1)) TH_LOG("page %d", n);		\
	EXPECT_EQ(value, *page_at(n)) TH_LOG("page %d", n);			\
} while (0)

#define expect_store(n, value) do {						\
	ASSERT_EQ(0, touch(page_at(n), value)) TH_LOG("page %d", n);		\
	EXPECT_EQ(value, *page_at(n)) TH_LOG("page %d", n);			\
	EXPECT_EQ(value, byte_at(self->fd, self->at + (n) * PAGE));		\
} while (0)

TEST_F(userfaultfd, loads)
{
	make_pages();
	EXPECT_EQ(variant->huge, mapped_as_huge(page_at(0)));
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
	for (int i = 0; i < HUGE / PAGE; i++)
		expect_load(i, before(i));
	EXPECT_EQ(0, stored(self->pagemap, page_at(0), HUGE, false, NULL, 0));
	EXPECT_EQ(0, stored(self->pagemap, self->p, SIZE, false, NULL, 0));
}

TEST_F(userfaultfd, stores)
{
	make_pages();
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
	expect_load(3, before(3));
	expect_store(3, 'r');
	expect_store(511, 's');
	expect_store(5, 't');
	expect_load(4, before(4));
	expect_stored(page_at(0), false, 3, 5, 511);
	expect_stored(page_at(0), true, 3, 5, 511);
	EXPECT_EQ(0, stored(self->pagemap, self->p, SIZE, false, NULL, 0));

	/* Now the pages are present, and protected. */
	expect_load(511, 's');
	expect_store(5, 'u');
	expect_stored(page_at(0), true, 5);

	/* They stay protected when they are unmapped. */
	ASSERT_EQ(0, madvise(self->p, SIZE, MADV_DONTNEED));
	expect_load(511, 's');
	expect_store(7, 'v');
	expect_stored(page_at(0), true, 7);

	/* Not protected any more. */
	ASSERT_EQ(0, protect(self->uffd, page_at(0), HUGE, false));
	EXPECT_EQ(512, stored(self->pagemap, page_at(0), HUGE, false, NULL, 0));
	expect_store(8, 'w');
	for (int i = 9; i < HUGE / PAGE - 1; i++)
		expect_load(i, before(i));
}

/* The file has never been touched. */
TEST_F(userfaultfd, never_touched)
{
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
	ASSERT_EQ(0, touch(page_at(2), -1));
	expect_store(4, 'n');
	ASSERT_EQ(0, touch(page_at(6), -1));
	expect_store(6, 'm');
	expect_stored(page_at(0), false, 4, 6);
	EXPECT_EQ(0, stored(self->pagemap, self->p, HUGE, false, NULL, 0));

	/* The same without markers. */
	self->at = 0;
	ASSERT_EQ(0, protect(self->uffd, self->p, HUGE, false));
	ASSERT_EQ(0, touch(page_at(2), -1));
	expect_store(4, 'o');
}

/* PAGEMAP_SCAN protects a PMD mapping without splitting it. */
TEST_F(userfaultfd, protected_by_a_scan)
{
	int page[8];

	make_pages();
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	EXPECT_EQ(512, stored(self->pagemap, page_at(0), HUGE, true, page, 8));
	EXPECT_EQ(0, stored(self->pagemap, page_at(0), HUGE, false, page, 8));
	expect_load(5, before(5));
	EXPECT_EQ(0, stored(self->pagemap, page_at(0), HUGE, false, page, 8));
	expect_store(5, 'h');
	/* A store through the PMD counts for all of its pages. */
	EXPECT_EQ(variant->huge ? 512 : 1,
		  stored(self->pagemap, page_at(0), HUGE, true, page, 8));
	EXPECT_EQ(variant->huge ? 0 : 5, page[0]);
	expect_load(6, before(6));
	expect_load(5, 'h');
	expect_store(7, 'i');
	expect_stored(page_at(0), true, 7);
}

/* ---- durability ---- */

/* fsync(2) flushes the touched entry @n times: once if it is dirty, else never. */
#define expect_fsync(n) EXPECT_FSYNC(n, trace_count(self->flushed))

TEST_F(userfaultfd, what_is_stored_is_flushed)
{
	self->flushed = flushes_open(HUGE / PAGE, 0, -1);
	ASSERT_LE(0, self->flushed);
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	for (int i = 0; i < 3; i++) {
		/* In the first round, the page has never been touched. */
		ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
		expect_store(0, 10 * i + 1);
		expect_fsync(1);
		expect_fsync(0);
		/* A page that is mapped and clean. */
		expect_store(0, 10 * i + 2);
		expect_fsync(1);
		/* Protected while dirty and while clean. */
		expect_store(0, 10 * i + 3);
		ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
		expect_fsync(1);
		expect_store(0, 10 * i + 4);
		ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, false));
		expect_store(0, 10 * i + 5);
		expect_fsync(1);
		ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, false));
		expect_store(0, 10 * i + 6);
		expect_fsync(1);
		/* Unmapped while dirty. */
		ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
		expect_store(0, 10 * i + 7);
		ASSERT_EQ(0, madvise(self->p, SIZE, MADV_DONTNEED));
		expect_fsync(1);
		/* Loads leave it clean. */
		ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
		expect_load(0, 10 * i + 7);
		expect_fsync(0);
	}
	ASSERT_EQ(0, stop(self->uffd, self->p, SIZE));
	expect_store(0, 100);
	expect_fsync(1);
}

/* ---- at once ---- */

static struct {
	int fd, uffd, pagemap;
	pthread_barrier_t barrier;
	unsigned char *p;
	size_t at;

	_Atomic bool stop;
	_Atomic unsigned int rounds, lost, wrong, failed;
} work;

/*
 * Stores to a dirty page that has just been protected, while the test flushes it; and
 * again when all is flushed. If the page had been left writable though its entry is
 * clean, the last store would not be flushed.
 */
static void *protect_store_store(void *arg)
{
	unsigned int seed = 1;

	for (unsigned char value = 0; ; value += 3) {
		if (touch(work.p + work.at, value) || protect(work.uffd, work.p, SIZE, true))
			work.failed++;
		pthread_barrier_wait(&work.barrier);
		if (work.stop)
			break;
		for (volatile int i = rand_r(&seed) % 50000; i; i--)
			;
		if (touch(work.p + work.at, value + 1))
			work.failed++;
		pthread_barrier_wait(&work.barrier);
		/* The test flushes here. */
		pthread_barrier_wait(&work.barrier);
		if (touch(work.p + work.at, value + 2))
			work.failed++;
		pthread_barrier_wait(&work.barrier);
		/* And here. */
		pthread_barrier_wait(&work.barrier);
	}
	return NULL;
}

TEST_F(userfaultfd, flushed_at_once)
{
	pthread_t thread;
	time_t end = time(NULL) + SECONDS;

	self->flushed = flushes_open(HUGE / PAGE, 0, -1);
	ASSERT_LE(0, self->flushed);
	/* Make an entry of 2 MiB, or of 4 KiB. */
	ASSERT_EQ(0, touch(page_at(0), 0));
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	work.uffd = self->uffd;
	work.p = self->p;
	work.at = self->at;
	pthread_barrier_init(&work.barrier, NULL, 2);
	ASSERT_EQ(0, pthread_create(&thread, NULL, protect_store_store, NULL));
	while (time(NULL) < end) {
		pthread_barrier_wait(&work.barrier);
		ASSERT_EQ(0, fsync(self->fd));
		pthread_barrier_wait(&work.barrier);
		ASSERT_EQ(0, fsync(self->fd));
		self->seen = trace_count(self->flushed);
		pthread_barrier_wait(&work.barrier);
		pthread_barrier_wait(&work.barrier);
		ASSERT_EQ(0, fsync(self->fd));
		work.lost += trace_count(self->flushed) != self->seen + 1;
		pthread_barrier_wait(&work.barrier);
		work.rounds++;
	}
	work.stop = true;
	pthread_barrier_wait(&work.barrier);
	pthread_join(thread, NULL);
	TH_LOG("%u rounds", work.rounds);
	EXPECT_LT(0, work.rounds);
	EXPECT_EQ(0, work.failed);
	EXPECT_EQ(0, work.lost);
}

/* Stores in one range, each thread to bytes of its own. */
static void *store(void *arg)
{
	uintptr_t n = (uintptr_t)arg;

	for (unsigned int i = 0; !work.stop; i++) {
		unsigned char *at = work.p + work.at + i % 16 * PAGE + n, value = i / 16;

		if (touch(at, value) || *(volatile unsigned char *)at != value)
			work.wrong++;
		work.rounds++;
	}
	return NULL;
}

static void *protect_again(void *arg)
{
	for (int i = 0; !work.stop; i++)
		if (protect(work.uffd, work.p + work.at, HUGE, i % 8))
			work.failed++;
	return NULL;
}

static void *scan_again(void *arg)
{
	for (int i = 0; !work.stop; i++)
		if (stored(work.pagemap, work.p + work.at, HUGE, true, NULL, 0) < 0)
			work.failed++;
	return NULL;
}

static void *take_away(void *arg)
{
	while (!work.stop)
		if (madvise(work.p + work.at, HUGE, MADV_DONTNEED))
			work.failed++;
	return NULL;
}

static void *flush(void *arg)
{
	while (!work.stop) {
		if (fsync(work.fd))
			work.failed++;
		usleep(1000);
	}
	return NULL;
}

/* Maps the protected memory at another address, which is not protected. */
static void *map_elsewhere(void *arg)
{
	unsigned char *p = address_range(0, SIZE);

	while (!work.stop) {
		if (mmap(p, SIZE, RW, MAP_SHARED | MAP_FIXED, work.fd, 0) != p ||
		    touch(p + work.at + PAGE - 1, 1))
			work.failed++;
		usleep(1000);
	}
	munmap(p, SIZE);
	return NULL;
}

TEST_F(userfaultfd, at_once)
{
	void *(*task[])(void *) = {
		store, store, protect_again, scan_again, take_away, flush, map_elsewhere,
	};
	pthread_t thread[ARRAY_SIZE(task)];

	make_pages();
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	work.fd = self->fd;
	work.uffd = self->uffd;
	work.pagemap = self->pagemap;
	work.p = self->p;
	work.at = self->at;
	for (uintptr_t i = 0; i < ARRAY_SIZE(task); i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, task[i], (void *)i));
	sleep(SECONDS);
	work.stop = true;
	for (int i = 0; i < ARRAY_SIZE(task); i++)
		pthread_join(thread[i], NULL);
	TH_LOG("%u rounds", work.rounds);
	EXPECT_LT(100, work.rounds);
	EXPECT_EQ(0, work.failed);
	EXPECT_EQ(0, work.wrong);
	for (int i = 16; i < HUGE / PAGE; i++)
		expect_load(i, before(i));
}

/* ---- other mappings ---- */

TEST_F(userfaultfd, fork)
{
	pid_t pid;

	make_pages();
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
	expect_load(1, before(1));
	expect_store(2, 'p');
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(!touch(page_at(1), -1) && *page_at(1) == before(1) && *page_at(2) == 'p' &&
		      !touch(page_at(3), 'c') && !touch(page_at(1), 'c') ? 0 : 1);
	EXPECT_EQ(0, ended(pid));
	/* The child's range is not protected, and its stores do not count for the parent. */
	expect_stored(page_at(0), false, 2);
	expect_load(3, 'c');
	expect_store(4, 'q');
	expect_stored(page_at(0), false, 2, 4);
}

TEST_F(userfaultfd, moved_and_unregistered)
{
	unsigned char *room = address_range(0, SIZE);

	make_pages();
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
	expect_load(1, before(1));
	expect_store(2, 'u');
	ASSERT_EQ(room, mremap(self->p, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, room));
	self->p = room;
	expect_load(1, before(1));
	expect_load(3, before(3));
	expect_store(4, 'v');
	expect_store(1, 'w');

	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
	expect_load(5, before(5));
	ASSERT_EQ(0, munmap(page_at(100), PAGE));
	EXPECT_EQ(SIGSEGV, touch(page_at(100), -1));
	ASSERT_EQ(0, stop(self->uffd, page_at(0), 100 * PAGE));
	expect_load(5, before(5));
	expect_load(6, before(6));
	expect_store(7, 'x');
	/* The rest is still registered. */
	expect_load(101, before(101));
	expect_store(102, 'y');
	close(self->uffd);
	self->uffd = -1;
	expect_load(103, before(103));
	expect_store(104, 'z');
	/* A new VMA has the usual faults. */
	ASSERT_EQ(self->p, mmap(self->p, SIZE, RW, MAP_SHARED | MAP_FIXED, self->fd, 0));
	expect_load(103, before(103));
	EXPECT_EQ(variant->huge, mapped_as_huge(page_at(103)));
}

TEST_F(userfaultfd, private)
{
	unsigned char *shared = self->p;

	make_pages();
	self->p = address_range(0, SIZE);
	ASSERT_EQ(self->p, mmap(self->p, SIZE, RW, MAP_PRIVATE | MAP_FIXED, self->fd, 0));
	expect_load(0, before(0));
	EXPECT_EQ(variant->huge, mapped_as_huge(page_at(0)));
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
	expect_load(0, before(0));
	expect_load(1, before(1));
	ASSERT_EQ(0, touch(page_at(1), 'p'));
	ASSERT_EQ(0, touch(page_at(2), 'q'));
	EXPECT_EQ('p', *page_at(1));
	EXPECT_EQ('q', *page_at(2));
	expect_stored(page_at(0), true, 1, 2);
	ASSERT_EQ(0, touch(page_at(2), 'r'));
	EXPECT_EQ('r', *page_at(2));
	expect_stored(page_at(0), true, 2);
	EXPECT_EQ(before(1), byte_at(self->fd, self->at + PAGE));
	EXPECT_EQ(before(2), byte_at(self->fd, self->at + 2 * PAGE));
	munmap(self->p, SIZE);
	self->p = shared;
	expect_load(1, before(1));
	expect_load(2, before(2));
}

TEST_F(userfaultfd, hole)
{
	munmap(self->p, SIZE);
	close(self->fd);
	ASSERT_TRUE(fs_forget(self->s));
	self->map.hole = self->at;
	self->map.hole_end = self->at + HUGE;
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(self->p, mmap(self->p, SIZE, RW, MAP_SHARED | MAP_FIXED, self->fd, 0));
	for (int round = 0; round < 2; round++) {
		expect_load(0, 0);
		if (!round)
			ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
		ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
		expect_load(0, 0);
		expect_load(1, 0);
		EXPECT_EQ(0, stored(self->pagemap, page_at(0), HUGE, false, NULL, 0));
		EXPECT_EQ(SIGBUS, touch(page_at(1), 1));
		EXPECT_EQ(SIGBUS, touch(page_at(2), 1));
		expect_load(1, 0);
		expect_load(2, 0);
		ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, false));
		EXPECT_EQ(SIGBUS, touch(page_at(1), 1));
		EXPECT_EQ(SIGBUS, touch(page_at(3), 1));
		ASSERT_EQ(0, madvise(self->p, SIZE, MADV_DONTNEED));
	}
	ASSERT_EQ(0, touch(self->p, 'x'));
}

/* Two pages fail: one is present, one is a marker. */
TEST_F(userfaultfd, failed_memory)
{
	static const int bad[] = { 3, 6 };
	unsigned char page[PAGE] = { 'w' };

	make_pages();
	ASSERT_EQ(0, start(self->uffd, self->p, SIZE));
	ASSERT_EQ(0, protect(self->uffd, self->p, SIZE, true));
	expect_load(bad[0], before(bad[0]));
	for (int i = 0; i < ARRAY_SIZE(bad); i++) {
		pid_t pid = fork();
		int status;

		ASSERT_LE(0, pid);
		if (!pid) {
			signal(SIGBUS, SIG_DFL);
			_exit(madvise(page_at(bad[i]), PAGE, MADV_HWPOISON) ? errno : 0);
		}
		status = ended(pid);
		if (WIFEXITED(status) && WEXITSTATUS(status))
			SKIP(return, "MADV_HWPOISON: %s", strerror(WEXITSTATUS(status)));
	}
	for (int i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(SIGBUS, touch(page_at(bad[i]), -1));
		EXPECT_EQ(SIGBUS, touch(page_at(bad[i]), 1));
		EXPECT_EQ(SIGBUS, touch(page_at(bad[i]), -1));
	}
	expect_load(4, before(4));
	expect_store(5, 'p');
	expect_stored(page_at(0), false, 5);
	/* Rewritten pages are healthy again, and still protected. */
	for (int i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(PAGE, pwrite(self->fd, page, PAGE, self->at + bad[i] * PAGE));
		expect_load(bad[i], 'w');
	}
	expect_stored(page_at(0), false, 5);
	expect_store(bad[0], 'q');
	expect_store(bad[1], 'r');
	expect_stored(page_at(0), false, bad[0], 5, bad[1]);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
