// SPDX-License-Identifier: GPL-2.0
/*
 * Memory fails again and again, while a large file of the mount is being flushed.
 *
 * The handling of a memory failure waits for flushes that began before it, and those may
 * take long. Other files of the mount must not wait for that. A small file is
 * stored to, closed and evicted all the time: its stores must have been flushed before the
 * server gets FORGET, and all of its memory must be usable at the next open.
 *
 * A BPF program watches the flushes of one address (bpf/flush.bpf.c).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "bpf/flush.h"

#define BIG	(128 * MIB)
#define SMALL	(16 * MIB)	/* address of the small file on the device */
#define ROUNDS	100
#define SECONDS	30

static struct flush_seen *flush;

FIXTURE(failing) {
	struct fuse_server *s;
	struct scripted map[3];
	pid_t flusher, injector;
	int big;
	long refs;
};

FIXTURE_VARIANT(failing) {
	uint64_t within;	/* alignment of the small file: PMD or PTE faults */
};

FIXTURE_VARIANT_ADD(failing, huge) {
	.within = 0,
};

FIXTURE_VARIANT_ADD(failing, small) {
	.within = PAGE,
};

FIXTURE_SETUP(failing)
{
	FMAP_REQUIRE();
	if (!daxdev[0].phys)
		SKIP(return, "the devices do not tell their physical addresses");
	if (daxdev[0].size < 2 * SMALL + BIG)
		SKIP(return, "the devices are smaller than %lu bytes", 2 * SMALL + BIG);
	if (access(HWPOISON_INJECT, W_OK))
		SKIP(return, "there is no hwpoison-inject");
	self->refs = module_refs();
	self->big = -1;
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->map[0] = fmap_linear(0, 0, PAGE);
	self->map[1] = fmap_linear(0, SMALL + variant->within, HUGE);
	self->map[2] = fmap_linear(0, 2 * SMALL, BIG);
	fs_add(self->s, "bad", PAGE, &self->map[0], sizeof(self->map[0]));
	fs_add(self->s, "small", HUGE, &self->map[1], sizeof(self->map[1]));
	fs_add(self->s, "big", BIG, &self->map[2], sizeof(self->map[2]));
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(failing)
{
	static const unsigned char zero[PAGE];
	pid_t pid[] = { self->flusher, self->injector };
	int fd;

	flush->watched = 0;
	for (int i = 0; i < ARRAY_SIZE(pid); i++)
		if (pid[i] > 0) {
			kill(pid[i], SIGKILL);
			ended(pid[i]);
		}
	close(self->big);
	/* Rewriting it makes it healthy again. */
	fd = fs_open(self->s, "bad", O_RDWR);
	EXPECT_EQ(PAGE, pwrite(fd, zero, PAGE, 0));
	close(fd);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* Dirties all of "big" and flushes it, until killed. */
static void flush_for_ever(int fd)
{
	unsigned char *p = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	for (;;) {
		for (size_t at = 0; at < BIG; at += HUGE)
			p[at]++;
		fsync(fd);
	}
}

static void fail_for_ever(void)
{
	char frame[32];

	snprintf(frame, sizeof(frame), "%#llx", (unsigned long long)(daxdev[0].phys / PAGE));
	for (;;) {
		write_file(HWPOISON_INJECT, frame);
		usleep(100);
	}
}

/*
 * Try to evict "small"; returns true if that worked: the kernel knows only "big" then. A FORGET by
 * itself may be that of the round before.
 */
static bool evicted(struct fuse_server *s)
{
	for (int i = 0; i < 5 && s->known > 1; i++)
		drop_caches();
	return s->known == 1;
}

TEST_F_TIMEOUT(failing, evicted_meanwhile, 2 * SECONDS)
{
	int rounds = 0, unflushed = 0, missing = 0, refused = 0;
	time_t end;

	self->big = fs_open(self->s, "big", O_RDWR);
	ASSERT_LE(0, self->big);
	self->flusher = fork();
	if (!self->flusher)
		flush_for_ever(self->big);
	self->injector = fork();
	if (!self->injector)
		fail_for_ever();
	ASSERT_LT(0, self->flusher);
	ASSERT_LT(0, self->injector);
	flush->watched = daxdev[0].phys + SMALL + variant->within;

	for (end = time(NULL) + SECONDS; rounds < ROUNDS && time(NULL) < end; rounds++) {
		unsigned char *p = fs_map(self->s, "small", HUGE, PROT_READ | PROT_WRITE);
		uint64_t before;
		int fd;

		ASSERT_NE(MAP_FAILED, p);
		missing += touch(p, 'x') != 0;
		munmap(p, HUGE);
		fd = fs_open(self->s, "small", O_RDWR);
		refused += pwrite(fd, "y", 1, 1) != 1;
		close(fd);
		before = flush->through;
		if (evicted(self->s))
			unflushed += flush->through == before;
		else
			rounds--;
	}
	TH_LOG("%d evictions", rounds);
	EXPECT_LE(ROUNDS / 4 / fs_slowness(), rounds);
	EXPECT_EQ(0, unflushed);
	EXPECT_EQ(0, missing);
	EXPECT_EQ(0, refused);
}

int main(int argc, char **argv)
{
	hwpoison_load();
	fmap_register("scripted.bpf.o");
	flush = bpf_attach("flush.bpf.o");
	return test_harness_run(argc, argv);
}
