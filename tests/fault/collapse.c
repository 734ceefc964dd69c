// SPDX-License-Identifier: GPL-2.0
/*
 * Collapse: a small mapping must not keep other tasks from PMD faults.
 *
 * The DAX page cache has an entry of 4 KiB or 2 MiB for each piece of a file. A PTE
 * entry, left by a task whose mapping was small or not aligned, would keep all
 * later tasks from mapping the 2 MiB around it as one. Here such mappings come first.
 * A task that then maps the file at an aligned address must get PMD faults and the same
 * data, and the small mapping must still work. If 2 MiB are not possible, as the memory
 * is not in one piece or a page of it is pinned, the faults are PTE faults, and no entry
 * is dropped.
 *
 * The module's counters count the faults, as the kernel's tracepoints see only the first
 * fault of each piece; PAGEMAP_SCAN tells what is in the page tables.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)

FIXTURE(collapse) {
	struct fuse_server *s;
	struct scripted map[2];
	int fd, odd_fd;
	long huge, small;
};

FIXTURE_SETUP(collapse)
{
	FMAP_REQUIRE();
	self->map[0] = fmap_linear(0, 0, SIZE);
	self->map[1] = fmap_linear(1, PAGE, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map[0], sizeof(self->map[0]));
	/* In memory that is not aligned, so no PMD entry can map it. */
	fs_add(self->s, "odd", SIZE, &self->map[1], sizeof(self->map[1]));
	ASSERT_EQ(0, fs_mount(self->s));
	self->fd = fs_open(self->s, "file", O_RDWR);
	self->odd_fd = fs_open(self->s, "odd", O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_LE(0, self->odd_fd);
}

FIXTURE_TEARDOWN(collapse)
{
	close(self->fd);
	close(self->odd_fd);
	EXPECT_EQ(0, fs_stop(self->s));
}

static unsigned char *map_at(void *where, size_t len, int fd, off_t offset)
{
	return mmap(where, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
		    offset);
}

/* The whole file, so that 2 MiB of it can be mapped as one. */
static unsigned char *map_well(int fd)
{
	return map_at(address_range(0, SIZE), SIZE, fd, 0);
}

/* Faults since the last check. */
#define expect_faults(twomegs, pages) do {				\
	long _huge = fs_counter(self->s, "faults_2m");			\
	long _small = fs_counter(self->s, "faults_4k");			\
									\
	EXPECT_EQ(twomegs, _huge - self->huge);				\
	EXPECT_EQ(pages, _small - self->small);			\
	self->huge = _huge;						\
	self->small = _small;						\
} while (0)

/* A small mapping of page @page, which comes first. */
#define one_page(page, value) do {					\
	unsigned char *_p = map_at(address_range(0, PAGE), PAGE, self->fd, \
				   (page) * PAGE);			\
	ASSERT_NE(MAP_FAILED, _p);					\
	ASSERT_EQ(0, touch(_p, value));					\
	munmap(_p, PAGE);						\
} while (0)

TEST_F(collapse, after_a_small_mapping)
{
	unsigned char *p;

	one_page(7, 'a');
	one_page(8, 'b');
	expect_faults(0, 2);

	p = map_well(self->fd);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ('a', p[7 * PAGE]);
	EXPECT_EQ('b', p[8 * PAGE]);
	EXPECT_EQ(0, touch(p + HUGE, 'c'));
	expect_faults(2, 0);
	EXPECT_EQ(1, mapped_as_huge(p));
	EXPECT_EQ(1, mapped_as_huge(p + HUGE));
	/* The PMD entry stays: the next small mapping uses it. */
	one_page(7, 'd');
	expect_faults(0, 1);
	munmap(p, SIZE);
	p = map_well(self->fd);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ('d', p[7 * PAGE]);
	expect_faults(1, 0);
	EXPECT_EQ(1, mapped_as_huge(p));
	EXPECT_EQ(0, mapped_as_huge(p + HUGE));
	munmap(p, SIZE);
	EXPECT_EQ(1, fs_counter(self->s, "collapses"));
}

/*
 * madvise(2) leaves a read-only PMD entry where it is. The store that makes it writable splits
 * it: PTE faults rely on it that no PMD entry comes there any more.
 */
TEST_F(collapse, not_after_nohugepage)
{
	unsigned char *p = map_well(self->fd);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, -1));
	EXPECT_EQ(1, mapped_as_huge(p));
	ASSERT_EQ(0, madvise(p, SIZE, MADV_NOHUGEPAGE));
	EXPECT_EQ(0, touch(p, 'n'));
	EXPECT_EQ(0, mapped_as_huge(p));
	EXPECT_EQ(0, touch(p + PAGE, 'o'));
	EXPECT_EQ('n', byte_at(self->fd, 0));
	EXPECT_EQ('o', byte_at(self->fd, PAGE));
	munmap(p, SIZE);
}

TEST_F(collapse, beside_a_misaligned_mapping)
{
	unsigned char *odd = map_at(address_range(PAGE, SIZE), SIZE, self->fd, 0), *p;

	ASSERT_NE(MAP_FAILED, odd);
	for (int i = 0; i < 20; i++)
		EXPECT_EQ(0, touch(odd + i * PAGE, i));
	expect_faults(0, 20);

	p = map_well(self->fd);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + 30 * PAGE, 30));
	expect_faults(1, 0);
	EXPECT_EQ(1, mapped_as_huge(p));
	EXPECT_EQ(0, mapped_as_huge(odd));
	/* Both see each other's stores. The PTEs were unmapped once. */
	for (int i = 0; i < 20; i++) {
		EXPECT_EQ(i, p[i * PAGE]);
		EXPECT_EQ(i, odd[i * PAGE]);
	}
	EXPECT_EQ(30, odd[30 * PAGE]);
	expect_faults(0, 21);
	EXPECT_EQ(0, touch(odd + 5 * PAGE, 50));
	EXPECT_EQ(50, p[5 * PAGE]);
	munmap(p, SIZE);
	munmap(odd, SIZE);
}

/* The memory is not in one aligned piece: PTE faults, and no entry is dropped. */
TEST_F(collapse, not_in_one_piece)
{
	unsigned char *p = map_well(self->odd_fd), *q = map_well(self->odd_fd);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	for (int i = 0; i < 8; i++)
		EXPECT_EQ(0, touch(p + i * PAGE, i));
	for (int i = 0; i < 8; i++)
		EXPECT_EQ(i, q[i * PAGE]);
	for (int i = 0; i < 8; i++)
		EXPECT_EQ(i, p[i * PAGE]);
	expect_faults(0, 16);
	EXPECT_EQ(0, mapped_as_huge(p));
	EXPECT_EQ(0, fs_counter(self->s, "collapses"));
	munmap(p, SIZE);
	munmap(q, SIZE);
}

/*
 * The PTE entry of a pinned page is not dropped, nor are those around it, until the
 * page is unpinned.
 */
TEST_F(collapse, not_while_a_page_is_in_use)
{
	unsigned char *p, *held;
	struct iovec iov;
	int pipes[2];
	char c;

	held = map_at(address_range(0, PAGE), PAGE, self->fd, 3 * PAGE);
	ASSERT_NE(MAP_FAILED, held);
	ASSERT_EQ(0, touch(held, 'h'));
	ASSERT_EQ(0, pipe(pipes));
	iov = (struct iovec){ held, 1 };
	ASSERT_EQ(1, vmsplice(pipes[1], &iov, 1, 0));
	expect_faults(0, 1);

	p = map_well(self->fd);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ('h', byte_at(self->fd, 3 * PAGE));
	EXPECT_EQ(0, touch(p + 2 * PAGE, 'n'));
	EXPECT_EQ(0, touch(p + 3 * PAGE, 'H'));
	expect_faults(0, 2);
	/* The reader of the pipe gets what was stored last. */
	EXPECT_EQ(1, read(pipes[0], &c, 1));
	EXPECT_EQ('H', c);
	munmap(p, SIZE);
	EXPECT_EQ(0, fs_counter(self->s, "collapses"));

	p = map_well(self->fd);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ('n', p[2 * PAGE]);
	EXPECT_EQ('H', p[3 * PAGE]);
	expect_faults(1, 0);
	EXPECT_EQ(1, fs_counter(self->s, "collapses"));
	munmap(p, SIZE);
	munmap(held, PAGE);
}

/* A fault that cannot be a PMD fault drops no PTE entries. */
TEST_F(collapse, not_for_a_private_store)
{
	unsigned char *p;

	one_page(1, 'a');
	p = mmap(address_range(0, SIZE), SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + 1 * PAGE, 'p'));
	EXPECT_EQ(0, fs_counter(self->s, "collapses"));
	EXPECT_EQ('a', byte_at(self->fd, 1 * PAGE));
	munmap(p, SIZE);
}

/*
 * All at once: tasks with PTE mappings, and tasks with PMD mappings that come and go.
 * Each has bytes of its own, and must read in them what it stored last.
 */
TEST_F_TIMEOUT(collapse, while_busy, 120)
{
	pid_t pid[4];

	for (int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		for (int n = 1; n <= 60; n++) {
			size_t within = i % 2 ? PAGE : 0;
			volatile unsigned char *p = map_at(address_range(within, SIZE),
							   SIZE, self->fd, 0);

			if (p == MAP_FAILED)
				_exit(1);
			for (size_t at = i; at < SIZE; at += 64 * KIB + PAGE) {
				if (n > 1 && p[at] != n - 1)
					_exit(2);
				p[at] = n;
			}
			munmap((void *)p, SIZE);
		}
		_exit(0);
	}
	for (int i = 0; i < ARRAY_SIZE(pid); i++) {
		int status;

		ASSERT_EQ(pid[i], waitpid(pid[i], &status, 0));
		EXPECT_EQ(0, status);
	}
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
