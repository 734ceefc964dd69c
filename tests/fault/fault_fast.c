// SPDX-License-Identifier: GPL-2.0
/*
 * Fast faults: memory that a file has mapped before is mapped again without a lookup in
 * the DAX page cache. That must not break what the page cache guarantees:
 *
 * - the next fsync(2) flushes what was stored through such a mapping, however often
 *   the file was mapped, flushed and mapped again before, also by other tasks, and at
 *   the same moment;
 * - PTEs and a PMD entry must not meet in the page tables of one task, else the kernel
 *   warns. Threads here map one range in both sizes, and unmap it again;
 * - a read-only or private mapping does not become writable or shared.
 *
 * A tracepoint of DAX writeback tells which entries the kernel has flushed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "flushes.h"

#define SIZE	(8 * MIB)

#define CPUS	8
#define SECONDS	3
#define STORERS	4

/* Count flushes of the entry that begins at page @first, by all tasks on all CPUs. */
static bool all_flushes_open(int fd[CPUS], unsigned long first)
{
	for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
		if (cpu == CPUS)
			return false;
		fd[cpu] = flushes_open(first, -1, cpu);
		if (fd[cpu] < 0)
			return false;
	}
	return true;
}

static uint64_t flushes(const int fd[CPUS])
{
	uint64_t n = 0;

	for (int cpu = 0; cpu < CPUS && fd[cpu] > 0; cpu++)
		n += trace_count(fd[cpu]);
	return n;
}

FIXTURE(fault_fast) {
	struct fuse_server *s;
	struct scripted map;
	int fd, flushes[CPUS];
	uint64_t seen;
	unsigned char *p;
	size_t at;		/* what is touched: the second 2 MiB */
};

FIXTURE_VARIANT(fault_fast) {
	bool huge;
};

FIXTURE_VARIANT_ADD(fault_fast, huge) { .huge = true };
FIXTURE_VARIANT_ADD(fault_fast, pages) { };

FIXTURE_SETUP(fault_fast)
{
	FMAP_REQUIRE();
	/* At an address that is not aligned, there are PTE faults only. */
	FMAP_MOUNT_ONE_FILE(variant->huge ? 0 : PAGE, SIZE);
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_TRUE(all_flushes_open(self->flushes, HUGE / PAGE));
	self->p = address_range(0, SIZE);
	self->at = HUGE;
}

FIXTURE_TEARDOWN(fault_fast)
{
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
}

#define map_again(prot, flags)						\
	ASSERT_EQ(self->p, mmap(self->p, SIZE, prot, (flags) | MAP_FIXED,	\
				self->fd, 0))

#define RW	(PROT_READ | PROT_WRITE)

/* fsync(2) flushes the touched entry @n times: once if it is dirty, else never. */
#define expect_fsync(n) EXPECT_FSYNC(n, flushes(self->flushes))

TEST_F(fault_fast, what_is_stored_is_flushed)
{
	map_again(RW, MAP_SHARED);
	ASSERT_EQ(0, touch(self->p + self->at, 1));
	expect_fsync(1);
	expect_fsync(0);

	/* A store through the same mapping. */
	ASSERT_EQ(0, touch(self->p + self->at, 2));
	expect_fsync(1);

	/* Mapped again while clean, and then while dirty, once and twice. */
	for (int i = 0; i < 3; i++) {
		map_again(RW, MAP_SHARED);
		ASSERT_EQ(0, touch(self->p + self->at, 3 + i));
		for (int n = 0; n < i; n++) {
			map_again(RW, MAP_SHARED);
			ASSERT_EQ(0, touch(self->p + self->at + 1, 7));
		}
		expect_fsync(1);
		expect_fsync(0);
	}

	/* Read first. */
	map_again(RW, MAP_SHARED);
	ASSERT_EQ(0, touch(self->p + self->at, -1));
	expect_fsync(0);
	ASSERT_EQ(0, touch(self->p + self->at, 8));
	expect_fsync(1);
	EXPECT_EQ(8, byte_at(self->fd, self->at));
}

TEST_F(fault_fast, rights)
{
	map_again(RW, MAP_SHARED);
	ASSERT_EQ(0, touch(self->p + self->at, 1));
	map_again(PROT_READ, MAP_SHARED);
	ASSERT_EQ(0, touch(self->p + self->at, -1));
	EXPECT_EQ(SIGSEGV, touch(self->p + self->at, 2));
	expect_fsync(1);
	ASSERT_EQ(0, mprotect(self->p, SIZE, RW));
	ASSERT_EQ(0, touch(self->p + self->at, 3));
	expect_fsync(1);

	ASSERT_EQ(0, touch(self->p + self->at, 4));
	map_again(RW, MAP_PRIVATE);
	ASSERT_EQ(0, touch(self->p + self->at, -1));
	ASSERT_EQ(0, touch(self->p + self->at, 5));
	EXPECT_EQ(5, self->p[self->at]);
	EXPECT_EQ(4, byte_at(self->fd, self->at));
	expect_fsync(1);
	ASSERT_EQ(0, touch(self->p + self->at, 6));
	expect_fsync(0);
	EXPECT_EQ(4, byte_at(self->fd, self->at));
}

/* ---- at once ---- */

static struct {
	int fd;
	pthread_barrier_t barrier;
	unsigned char *p;
	size_t at;

	_Atomic bool stop;
	_Atomic unsigned int rounds, lost, wrong, failed;
} work;

/*
 * Maps again, and stores or flushes, in all threads at once. When all is flushed, one
 * thread after the other stores again through its mapping. If a mapping had been left
 * writable though the entry is clean, that store would not be flushed.
 */
static void *map_store_flush(void *arg)
{
	uintptr_t n = (uintptr_t)arg;
	unsigned int seed = n;
	unsigned char *room = mmap(NULL, 2 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *p = room + HUGE - (uintptr_t)room % HUGE;

	for (unsigned char value = 0; ; value += 2) {
		pthread_barrier_wait(&work.barrier);
		if (work.stop)
			break;
		for (int i = rand_r(&seed) % 3; i >= 0; i--) {
			usleep(rand_r(&seed) % 1000);
			if (mmap(p, SIZE, RW, MAP_SHARED | MAP_FIXED, work.fd, 0) != p)
				work.failed++;
			if (touch(p + work.at + n, value))
				work.failed++;
			if (n % 2 && fsync(work.fd))
				work.failed++;
		}
		pthread_barrier_wait(&work.barrier);
		/* The test flushes here, and after each turn. */
		for (int turn = 0; turn < STORERS; turn++) {
			pthread_barrier_wait(&work.barrier);
			if (n == turn && (touch(p + work.at + n, value + 1) ||
					  p[work.at + n] != (unsigned char)(value + 1)))
				work.wrong++;
			pthread_barrier_wait(&work.barrier);
		}
	}
	munmap(room, 2 * SIZE);
	return NULL;
}

/* Stores in one range, which all threads share. */
static void *store(void *arg)
{
	uintptr_t n = (uintptr_t)arg;

	for (unsigned int i = 0; !work.stop; i++) {
		unsigned char *at = work.p + work.at + i % 512 * PAGE + n, value = i / 512;

		if (touch(at, value) || *(volatile unsigned char *)at != value)
			work.wrong++;
		work.rounds++;
	}
	return NULL;
}

static void *take_away(void *arg)
{
	while (!work.stop) {
		if (madvise(work.p + work.at, HUGE, MADV_DONTNEED))
			work.failed++;
		work.rounds++;
	}
	return NULL;
}

/* Allow and forbid PMD mappings in turn. */
static void *change_size(void *arg)
{
	for (int i = 1; !work.stop; i++) {
		if (prctl(PR_SET_THP_DISABLE, i & 1, 0, 0, 0))
			work.failed++;
		if (i % 7 == 0)
			fsync(work.fd);
		work.rounds++;
	}
	prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
	return NULL;
}

#define run_at_once(...) do {						\
	void *(*_task[])(void *) = { __VA_ARGS__ };			\
	pthread_t _thread[ARRAY_SIZE(_task)];				\
									\
	work.fd = self->fd;						\
	work.p = self->p;						\
	work.at = self->at;						\
	for (uintptr_t _i = 0; _i < ARRAY_SIZE(_task); _i++)		\
		ASSERT_EQ(0, pthread_create(&_thread[_i], NULL, _task[_i], (void *)_i)); \
	sleep(SECONDS);							\
	work.stop = true;						\
	for (int _i = 0; _i < ARRAY_SIZE(_task); _i++)			\
		pthread_join(_thread[_i], NULL);			\
	TH_LOG("%u rounds", work.rounds);				\
	EXPECT_LT(100, work.rounds);					\
	EXPECT_EQ(0, work.failed);					\
	EXPECT_EQ(0, work.wrong);					\
} while (0)

TEST_F(fault_fast, flushed_at_once)
{
	pthread_t thread[STORERS];
	time_t end = time(NULL) + SECONDS;

	work.fd = self->fd;
	work.at = self->at;
	pthread_barrier_init(&work.barrier, NULL, ARRAY_SIZE(thread) + 1);
	for (uintptr_t i = 0; i < ARRAY_SIZE(thread); i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, map_store_flush, (void *)i));
	while (time(NULL) < end) {
		pthread_barrier_wait(&work.barrier);
		pthread_barrier_wait(&work.barrier);
		ASSERT_EQ(0, fsync(self->fd));
		self->seen = flushes(self->flushes);
		for (int turn = 0; turn < STORERS; turn++) {
			pthread_barrier_wait(&work.barrier);
			pthread_barrier_wait(&work.barrier);
			ASSERT_EQ(0, fsync(self->fd));
			work.lost += flushes(self->flushes) != ++self->seen;
		}
		work.rounds++;
	}
	work.stop = true;
	pthread_barrier_wait(&work.barrier);
	for (int i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
	TH_LOG("%u rounds", work.rounds);
	EXPECT_LT(0, work.rounds);
	EXPECT_EQ(0, work.failed);
	EXPECT_EQ(0, work.wrong);
	EXPECT_EQ(0, work.lost);
}

TEST_F(fault_fast, sizes_at_once)
{
	map_again(RW, MAP_SHARED);
	run_at_once(store, store, take_away, change_size);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
