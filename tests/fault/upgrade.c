// SPDX-License-Identifier: GPL-2.0
/*
 * One small mapping does not take the 2 MiB faults from everybody else.
 *
 * DAX remembers how it mapped each piece of a file. A page that was mapped alone,
 * because somebody's mapping was small or began in the middle, would keep all
 * others from mapping the 2 MiB around it as one. Here such mappings come first,
 * and whoever maps the file properly afterwards is to have faults of 2 MiB, with
 * the data where they were; the small mapping goes on as before. Where 2 MiB cannot
 * be had, because the memory is not in one piece or a page of it is in use, it is
 * pages, once and without a fight.
 *
 * Faults are counted by the module, as the kernel's own tracepoints are passed only by
 * the first fault of each piece; what is in the page tables, the kernel says.
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

FIXTURE(upgrade) {
	struct fuse_server *s;
	struct scripted map[2];
	int fd, odd_fd;
	long huge, small;
};

FIXTURE_SETUP(upgrade)
{
	FMAP_REQUIRE();
	self->map[0] = fmap_linear(0, 0, SIZE);
	self->map[1] = fmap_linear(1, PAGE, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map[0], sizeof(self->map[0]));
	/* In memory that no 2 MiB of a page table can map. */
	fs_add(self->s, "odd", SIZE, &self->map[1], sizeof(self->map[1]));
	ASSERT_EQ(0, fs_mount(self->s));
	self->fd = fs_open(self->s, "file", O_RDWR);
	self->odd_fd = fs_open(self->s, "odd", O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_LE(0, self->odd_fd);
}

FIXTURE_TEARDOWN(upgrade)
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

/* Faults since the last look. */
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

TEST_F(upgrade, after_a_small_mapping)
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
	/* For good: the next small mapping uses what is there. */
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
	EXPECT_EQ(1, fs_counter(self->s, "upgrades"));
}

TEST_F(upgrade, beside_a_misaligned_mapping)
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
	/* Both see each other's stores. The small pages were taken down once. */
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

/* The memory is not in one aligned piece: pages, and nothing is taken down. */
TEST_F(upgrade, not_in_one_piece)
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
	EXPECT_EQ(0, fs_counter(self->s, "upgrades"));
	munmap(p, SIZE);
	munmap(q, SIZE);
}

/*
 * A page that somebody holds for I/O stays what it is until it is let go; so do
 * the others around it.
 */
TEST_F(upgrade, not_while_a_page_is_in_use)
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
	/* What is stored now is what the reader of the pipe gets. */
	EXPECT_EQ(1, read(pipes[0], &c, 1));
	EXPECT_EQ('H', c);
	munmap(p, SIZE);
	EXPECT_EQ(0, fs_counter(self->s, "upgrades"));

	p = map_well(self->fd);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ('n', p[2 * PAGE]);
	EXPECT_EQ('H', p[3 * PAGE]);
	expect_faults(1, 0);
	EXPECT_EQ(1, fs_counter(self->s, "upgrades"));
	munmap(p, SIZE);
	munmap(held, PAGE);
}

/* Only who could have 2 MiB has small entries dropped. */
TEST_F(upgrade, not_for_a_private_store)
{
	unsigned char *p;

	one_page(1, 'a');
	p = mmap(address_range(0, SIZE), SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + 1 * PAGE, 'p'));
	EXPECT_EQ(0, fs_counter(self->s, "upgrades"));
	EXPECT_EQ('a', byte_at(self->fd, 1 * PAGE));
	munmap(p, SIZE);
}

/*
 * All at once: tasks with pages, and tasks with 2 MiB that come and go. Each has
 * bytes of its own, and reads in them what it stored last.
 */
TEST_F_TIMEOUT(upgrade, while_busy, 120)
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
