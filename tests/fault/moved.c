// SPDX-License-Identifier: GPL-2.0
/*
 * A BPF program whose mappings change while they are in use.
 *
 * DAX has associated the pages of a file that are mapped. If the program returned
 * another address for such a page, and the module used it, two files could own the same
 * memory. The program is called at each fault; here its mappings move, by 4 KiB and by
 * 2 MiB, while the file is mapped, after that, and all the time. The module must refuse
 * a mapping that contradicts an association: the data stay right, each fault ends, and
 * the kernel does not warn.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "bpf/moving.h"

#define SIZE	(4 * MIB)

/* The addresses of the files, for the ops. */
static struct moving_to *moving_to;

/*
 * A program that moves pages that have been mapped. The new mapping is refused as long
 * as the association exists, and does not affect other files.
 */
FIXTURE(moved) {
	struct fuse_server *s;
	struct moving map[2];
	int klog, complaints;
};

FIXTURE_VARIANT(moved) {
	uint64_t addr;		/* of the first file: its alignment decides the fault size */
	uint64_t by;
};

FIXTURE_VARIANT_ADD(moved, huge_pages) {
	.addr = 0,
	.by = 16 * MIB,
};

FIXTURE_VARIANT_ADD(moved, huge_to_small_pages) {
	.addr = 0,
	.by = 16 * MIB + PAGE,
};

FIXTURE_VARIANT_ADD(moved, small_pages) {
	.addr = PAGE,
	.by = 16 * MIB,
};

FIXTURE_VARIANT_ADD(moved, small_to_huge_pages) {
	.addr = PAGE,
	.by = 16 * MIB - PAGE,
};

FIXTURE_VARIANT_ADD(moved, by_a_page) {
	.addr = PAGE,
	.by = PAGE,
};

FIXTURE_VARIANT_ADD(moved, by_a_huge_page) {
	.addr = 0,
	.by = HUGE,
};

FIXTURE_SETUP(moved)
{
	FMAP_REQUIRE();
	for (int i = 0; i < 2; i++) {
		self->map[i] = (struct moving){ .size = SIZE, .index = i };
		moving_to->addr[i] = variant->addr + i * 32 * MIB;
	}
	self->s = fmap_server(MOVING_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "a", SIZE, &self->map[0], sizeof(self->map[0]));
	fs_add(self->s, "b", SIZE, &self->map[1], sizeof(self->map[1]));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "a", 'a', SIZE));
	ASSERT_EQ(0, fs_fill(self->s, "b", 'b', SIZE));
	self->klog = klog_open();
	self->complaints = klog_open();
}

FIXTURE_TEARDOWN(moved)
{
	EXPECT_EQ(0, fs_stop(self->s));
	/* fs-dax would refuse some of these mappings, too, but with a warning. */
	EXPECT_EQ(0, klog_count(self->complaints, "WARNING:"));
}

/* Touch byte @at of a new VMA: 0, the signal, or -ENXIO if it is not @expected. */
static int remap_and_touch(struct fuse_server *s, const char *name, size_t at,
			   int expected)
{
	unsigned char *p = fs_map(s, name, SIZE, PROT_READ | PROT_WRITE);
	int sig;

	if (p == MAP_FAILED)
		return -errno;
	sig = touch(p + at, -1);
	if (!sig && expected >= 0 && p[at] != expected)
		sig = -ENXIO;
	munmap(p, SIZE);
	return sig;
}

/* Lines that a repeated mistake may leave in the log: what the rate limit lets through. */
#define LOG_LINES	(10 * fs_slowness())

TEST_F(moved, while_mapped)
{
	struct fuse_server *s = self->s;
	unsigned char *p = fs_map(s, "a", SIZE, PROT_READ | PROT_WRITE);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + 5, '1'));
	moving_to->addr[0] += variant->by;

	/* What is mapped stays mapped; a fault in a new VMA is refused. */
	EXPECT_EQ(0, touch(p + 6, '2'));
	for (int i = 0; i < 30; i++)
		EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 5, '1'));
	munmap(p, SIZE);
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 5, '1'));
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 0, 'a'));
	EXPECT_GE(LOG_LINES, klog_count(self->klog, LOG_PREFIX));
	/* The other file is not affected. */
	EXPECT_EQ(0, remap_and_touch(s, "b", PAGE, 'b'));

	moving_to->addr[0] -= variant->by;
	EXPECT_EQ(0, remap_and_touch(s, "a", 5, '1'));
	EXPECT_EQ(0, remap_and_touch(s, "a", 6, '2'));
	EXPECT_EQ(0, remap_and_touch(s, "a", SIZE - 1, 'a'));
}

/* A refused mapping has associated nothing: another file can have the memory. */
TEST_F(moved, memory_is_not_taken)
{
	struct fuse_server *s = self->s;

	EXPECT_EQ(0, remap_and_touch(s, "a", 0, 'a'));
	moving_to->addr[0] += variant->by;
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 0, 'a'));
	moving_to->addr[1] = moving_to->addr[0];
	EXPECT_EQ(0, remap_and_touch(s, "b", 0, -1));
	moving_to->addr[0] -= variant->by;
	EXPECT_EQ(0, remap_and_touch(s, "a", 0, 'a'));
}

/* After eviction there is no association, and the new mapping is valid. */
TEST_F(moved, after_eviction)
{
	struct fuse_server *s = self->s;

	EXPECT_EQ(0, remap_and_touch(s, "a", 0, 'a'));
	moving_to->addr[0] += variant->by;
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 0, 'a'));
	ASSERT_TRUE(fs_forget(s));
	EXPECT_EQ(0, fs_fill(s, "a", 'n', SIZE));
	EXPECT_EQ(0, remap_and_touch(s, "a", 0, 'n'));
	EXPECT_EQ(0, remap_and_touch(s, "a", HUGE, 'n'));
}

TEST_F(moved, two_files_swap)
{
	struct fuse_server *s = self->s;
	uint64_t a = moving_to->addr[0], b = moving_to->addr[1];
	unsigned char *p = fs_map(s, "a", SIZE, PROT_READ | PROT_WRITE);
	unsigned char *q = fs_map(s, "b", SIZE, PROT_READ | PROT_WRITE);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(0, touch(p, 'A'));
	EXPECT_EQ(0, touch(q, 'B'));
	moving_to->addr[0] = b;
	moving_to->addr[1] = a;
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 0, 'A'));
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "b", 0, 'B'));
	/* Pages that no file has mapped yet get their owners by the new mappings. */
	EXPECT_EQ(0, remap_and_touch(s, "a", HUGE + PAGE, 'b'));
	EXPECT_EQ(0, remap_and_touch(s, "b", HUGE + PAGE, 'a'));
	EXPECT_EQ('A', p[0]);
	EXPECT_EQ('B', q[0]);
	moving_to->addr[0] = a;
	moving_to->addr[1] = b;
	EXPECT_EQ(0, remap_and_touch(s, "a", 0, 'A'));
	EXPECT_EQ(0, remap_and_touch(s, "b", 0, 'B'));
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", HUGE + PAGE, 'a'));
	munmap(p, SIZE);
	munmap(q, SIZE);
}

/* Mappings change all the time, while tasks take faults all the time. */
TEST_F(moved, all_the_time)
{
	struct fuse_server *s = self->s;
	uint64_t home = moving_to->addr[0];
	pid_t pid[3];

	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		for (int n = 0; n < 100; n++) {
			int sig = remap_and_touch(s, i ? "a" : "b",
						  n * 31 * PAGE % SIZE, -1);

			if (sig && sig != SIGBUS)
				_exit(1);
		}
		_exit(0);
	}
	for (int n = 0; n < 100; n++) {
		moving_to->addr[0] = home + n % 5 * variant->by;
		moving_to->addr[1] = home + n % 3 * PAGE + n % 7 * HUGE;
		usleep(1000);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, ended(pid[i]));
	EXPECT_GE(2 * LOG_LINES, klog_count(self->klog, LOG_PREFIX));
}

int main(int argc, char **argv)
{
	fmap_register("moving.bpf.o");
	moving_to = (void *)fmap_seen();
	return test_harness_run(argc, argv);
}
