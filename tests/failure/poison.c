// SPDX-License-Identifier: GPL-2.0
/*
 * Memory of a mapped file fails (poison).
 *
 * Hardware, madvise(MADV_HWPOISON) or hwpoison-inject reports it to the kernel, which
 * notifies the holder of the device. Then a task that touches the page must get SIGBUS
 * with its address, a read of it must be EIO, and all other pages must still work: of
 * the same device, in the same file, in the same 2 MiB. A write of the whole page makes
 * it healthy again; a partial write is refused. The kernel's own unpoison-pfn does not
 * accept pages of devices.
 *
 * Each test rewrites the pages that it poisoned; only the count of HardwareCorrupted
 * in /proc/meminfo stays.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE		(4 * MIB)
#define BAD		(HUGE + 37 * PAGE)	/* in the file */
#define TAIL		100			/* bytes in the last page of "tail" */
#define UNPOISON	"/sys/kernel/debug/hwpoison/unpoison-pfn"
#define MOUNTS		"/sys/kernel/debug/" MODULE_NAME "/mounts"

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE	101
#endif

/* ---- SIGBUS and its siginfo ---- */

struct hit {
	int		signal;
	int		code;
	unsigned char	*addr;
	unsigned int	lsb;
};

static sigjmp_buf hit_env;
static volatile struct hit hit;

static void hit_handler(int sig, siginfo_t *info, void *context)
{
	hit.signal = sig;
	hit.code = info->si_code;
	hit.addr = info->si_addr;
	hit.lsb = info->si_addr_lsb;
	siglongjmp(hit_env, 1);
}

/* The signal that touching @p causes; with @advice, the one that madvise(2) causes. */
static struct hit hit_by(unsigned char *p, int value, int advice)
{
	struct sigaction sa = {
		.sa_sigaction = hit_handler,
		.sa_flags = SA_SIGINFO,
	}, old;

	memset((void *)&hit, 0, sizeof(hit));
	sigaction(SIGBUS, &sa, &old);
	if (!sigsetjmp(hit_env, 1)) {
		if (advice)
			madvise(p, PAGE, advice);
		else if (value < 0)
			(void)*(volatile unsigned char *)p;
		else
			*(volatile unsigned char *)p = value;
	}
	sigaction(SIGBUS, &old, NULL);
	return hit;
}

/* ---- memory ---- */

/* The page frame of byte @at of device 0. */
static uint64_t frame(uint64_t at)
{
	return (daxdev[0].phys + at) / PAGE;
}

static int write_number(const char *path, uint64_t n)
{
	char text[32];

	snprintf(text, sizeof(text), "%#llx", (unsigned long long)n);
	return write_file(path, text);
}

static int inject(uint64_t at)
{
	return hwpoison_inject(frame(at) * PAGE);
}

/* The first byte of each page says which one it is. */
static unsigned char mark_of(size_t at)
{
	return at / PAGE % 251 + 1;
}

FIXTURE(poison) {
	struct fuse_server *s;
	struct scripted map[4];
	unsigned char *p;
	unsigned char page[PAGE];
	int fd, log;
};

FIXTURE_VARIANT(poison) {
	uint64_t addr;
	unsigned int lsb;	/* si_addr_lsb: of the size that a first touch maps */
};

FIXTURE_VARIANT_ADD(poison, huge_pages) {
	.addr = 0,
	.lsb = 21,
};

FIXTURE_VARIANT_ADD(poison, small_pages) {
	.addr = PAGE,
	.lsb = 12,
};

/* "bad" and "same" are on device 0, "other" is on device 1. */
static struct fuse_server *new_mount(struct scripted map[4])
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);

	if (!s)
		return NULL;
	fs_add(s, "bad", SIZE, &map[0], sizeof(map[0]));
	fs_add(s, "same", SIZE, &map[1], sizeof(map[1]));
	fs_add(s, "other", SIZE, &map[2], sizeof(map[2]));
	fs_add(s, "tail", PAGE + TAIL, &map[3], sizeof(map[3]));
	if (fs_mount(s)) {
		fs_stop(s);
		return NULL;
	}
	return s;
}

/* Rewrite the bad pages of a range, through the file. */
static void make_well(struct fuse_server *s, const char *name, off_t from, size_t len)
{
	static const unsigned char zero[PAGE];
	int fd = fs_open(s, name, O_RDWR);
	int byte;

	for (off_t at = from; at < from + len; at += PAGE) {
		byte = byte_at(fd, at);
		if (byte == -EIO)
			pwrite(fd, zero, sizeof(zero), at);
	}
	close(fd);
}

FIXTURE_SETUP(poison)
{
	uint64_t addr = variant->addr;

	FMAP_REQUIRE();
	if (!daxdev[0].phys)
		SKIP(return, "the devices do not tell their physical addresses");
	if (access(HWPOISON_INJECT, W_OK))
		SKIP(return, "there is no hwpoison-inject");
	self->map[0] = fmap_linear(0, addr, SIZE);
	self->map[1] = fmap_linear(0, addr + SIZE, SIZE);
	self->map[2] = fmap_linear(1, addr, SIZE);
	self->map[3] = fmap_linear(0, addr + 2 * SIZE, 2 * PAGE);
	self->map[3].file_size = PAGE + TAIL;
	self->s = new_mount(self->map);
	ASSERT_NE(NULL, self->s);
	/* Make all pages healthy, in case an earlier test did not end. */
	make_well(self->s, "bad", 0, SIZE);
	make_well(self->s, "same", 0, SIZE);
	self->fd = fs_open(self->s, "bad", O_RDWR);
	ASSERT_LE(0, self->fd);
	for (size_t at = HUGE; at < SIZE; at += PAGE) {
		unsigned char mark = mark_of(at);

		ASSERT_EQ(1, pwrite(self->fd, &mark, 1, at));
	}
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	/* Map them, by PMD faults if the address allows it. */
	ASSERT_EQ(mark_of(HUGE), self->p[HUGE]);
	ASSERT_EQ(mark_of(BAD), self->p[BAD]);
	self->log = klog_open();
}

FIXTURE_TEARDOWN(poison)
{
	if (!self->s)
		return;
	make_well(self->s, "bad", 0, SIZE);
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_EQ(0, self->log < 0 ? 0 : klog_count(self->log, "iomap_begin"));
}

#define expect_hit(h, at, bits) do {					\
	struct hit _h = (h);						\
	EXPECT_EQ(SIGBUS, _h.signal);					\
	EXPECT_EQ(BUS_MCEERR_AR, _h.code);				\
	EXPECT_EQ((at), _h.addr);					\
	EXPECT_EQ((bits), _h.lsb);					\
} while (0)

/* Only one page of one file is bad. */
#define expect_rest_is_well() do {					\
	unsigned char _c;						\
	char _mounts[4096], _failed[32];				\
	int _fd;							\
	for (size_t at = HUGE; at < SIZE; at += PAGE) {			\
		if (at == BAD)						\
			continue;					\
		ASSERT_EQ(1, pread(self->fd, &_c, 1, at));		\
		ASSERT_EQ(mark_of(at), _c);				\
		ASSERT_EQ(0, touch(self->p + at, -1));			\
		ASSERT_EQ(mark_of(at), self->p[at]);			\
	}								\
	EXPECT_EQ(0, touch(self->p + BAD + PAGE, mark_of(BAD + PAGE)));	\
	EXPECT_EQ(0, touch(self->p + BAD - 1, 0));			\
	EXPECT_EQ(0, touch(self->p, 1));				\
	EXPECT_EQ(0, fs_try(self->s, "same"));				\
	_fd = fs_open(self->s, "same", O_RDWR);				\
	EXPECT_EQ(1, pwrite(_fd, "x", 1, BAD));				\
	EXPECT_EQ('x', byte_at(_fd, BAD));				\
	close(_fd);							\
	_fd = fs_open(self->s, "other", O_RDWR);			\
	EXPECT_EQ(1, pwrite(_fd, "y", 1, BAD));				\
	EXPECT_EQ('y', byte_at(_fd, BAD));				\
	close(_fd);							\
	snprintf(_failed, sizeof(_failed), "%s!", daxdev[0].name);	\
	if (!read_file(MOUNTS, _mounts, sizeof(_mounts)))		\
		EXPECT_EQ(NULL, strstr(_mounts, _failed));		\
} while (0)

/* The bad page can neither be read nor mapped. */
#define expect_bad() do {						\
	EXPECT_EQ(-EIO, byte_at(self->fd, BAD));			\
	EXPECT_EQ(-EIO, byte_at(self->fd, BAD + PAGE - 1));		\
	EXPECT_EQ(2, pread(self->fd, self->page, sizeof(self->page),	\
			   BAD - 2));					\
	EXPECT_EQ(SIZE, lseek(self->fd, 0, SEEK_HOLE));			\
	expect_hit(hit_by(self->p + BAD, -1, 0), self->p + BAD, 12);	\
	expect_hit(hit_by(self->p + BAD + 5, 1, 0), self->p + BAD + 5, 12); \
} while (0)

/* ---- tasks that get SIGBUS ---- */

/* The task that consumes the poison: at once, and at each later touch. */
TEST_F(poison, consumed)
{
	struct hit h = hit_by(self->p + BAD, -1, MADV_HWPOISON);

	expect_hit(h, self->p + BAD, variant->lsb);
	expect_bad();
	expect_rest_is_well();
	EXPECT_EQ(1, klog_count(self->log, "has failed (page frame"));
}

/* The log names the file, and where in it the page was. */
TEST_F(poison, named)
{
	char line[128];
	int log = klog_open();

	hit_by(self->p + BAD, -1, MADV_HWPOISON);
	snprintf(line, sizeof(line), "(\"/bad\") at %#lx: its memory has failed", (long)(BAD));
	EXPECT_TRUE(log < 0 || klog_wait(log, LOG_PREFIX, line)) TH_LOG("%s", line);
	close(log);
}

/* Other tasks: early if they asked for it (PR_MCE_KILL_EARLY), else at the next touch. */
TEST_F(poison, in_other_tasks)
{
	int ready[2], go[2];
	pid_t pid[2];
	char c;

	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(go));
	for (int early = 0; early < 2; early++) {
		pid[early] = fork();
		ASSERT_LE(0, pid[early]);
		if (pid[early])
			continue;
		if (early) {
			struct sigaction sa = {
				.sa_sigaction = hit_handler,
				.sa_flags = SA_SIGINFO,
			};
			unsigned char *block = self->p + BAD;

			prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
			(void)*(volatile unsigned char *)block;
			sigaction(SIGBUS, &sa, NULL);
			if (!sigsetjmp(hit_env, 1)) {
				write(ready[1], "r", 1);
				for (;;)
					pause();
			}
			_exit(hit.code != BUS_MCEERR_AO ? 1 :
			      hit.addr != block ? 2 : hit.lsb != variant->lsb ? 3 : 0);
		} else {
			struct hit h;

			(void)*(volatile unsigned char *)(self->p + BAD);
			write(ready[1], "r", 1);
			read(go[0], &c, 1);
			h = hit_by(self->p + BAD + 8, -1, 0);
			_exit(h.signal != SIGBUS ? 1 : h.code != BUS_MCEERR_AR ? 2 :
			      h.addr != self->p + BAD + 8 ? 3 : h.lsb != 12 ? 4 :
			      touch(self->p + BAD + PAGE, -1) ? 5 : 0);
		}
	}
	ASSERT_EQ(1, read(ready[0], &c, 1));
	ASSERT_EQ(1, read(ready[0], &c, 1));
	munmap(self->p, SIZE);
	ASSERT_EQ(0, inject(variant->addr + BAD));
	EXPECT_EQ(0, ended(pid[1]));
	ASSERT_EQ(1, write(go[1], "g", 1));
	EXPECT_EQ(0, ended(pid[0]));

	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	expect_bad();
	expect_rest_is_well();
}

/* A page that is not mapped. */
TEST_F(poison, in_nobodys_memory)
{
	uint64_t at = variant->addr + SIZE + BAD;	/* in "same" */
	int fd = fs_open(self->s, "same", O_RDWR);
	unsigned char *p;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, inject(at));
	EXPECT_EQ(-EIO, byte_at(fd, BAD));
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	expect_hit(hit_by(p + BAD, -1, 0), p + BAD, 12);
	EXPECT_EQ(0, touch(p + BAD + PAGE, 1));
	EXPECT_EQ(0, touch(p + BAD - PAGE, 1));
	make_well(self->s, "same", BAD, PAGE);
	EXPECT_EQ(0, byte_at(fd, BAD));
	EXPECT_EQ(0, touch(p + BAD, 1));
	munmap(p, SIZE);
	close(fd);
}

/* A private copy is not affected; a page that is not copied yet cannot be copied. */
TEST_F(poison, in_private_mappings)
{
	unsigned char *copied, *fresh;

	copied = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0);
	fresh = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, copied);
	ASSERT_NE(MAP_FAILED, fresh);
	copied[BAD] = 77;
	ASSERT_EQ(mark_of(BAD), fresh[BAD]);
	ASSERT_EQ(0, inject(variant->addr + BAD));
	EXPECT_EQ(0, touch(copied + BAD, -1));
	EXPECT_EQ(77, copied[BAD]);
	expect_hit(hit_by(fresh + BAD, -1, 0), fresh + BAD, 12);
	expect_hit(hit_by(fresh + BAD, 1, 0), fresh + BAD, 12);
	EXPECT_EQ(0, touch(fresh + BAD + PAGE, 1));
	munmap(copied, SIZE);
	munmap(fresh, SIZE);
	expect_rest_is_well();
}

/* ---- I/O, and how a page becomes healthy ---- */

TEST_F(poison, rewritten)
{
	unsigned char *many = malloc(4 * PAGE);
	void *nothing = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char device[64];
	long known;

	ASSERT_NE(NULL, many);
	ASSERT_NE(MAP_FAILED, nothing);
	snprintf(device, sizeof(device), "device=%s", daxdev[0].name);
	known = fs_number_of(self->s, "devices", device, "poisoned_pages");
	ASSERT_EQ(0, inject(variant->addr + BAD));
	expect_bad();
	EXPECT_EQ(known < 0 ? known : known + 1,
		  fs_number_of(self->s, "devices", device, "poisoned_pages"));
	/* A write of a part of the page is refused. */
	EXPECT_EQ(-1, pwrite(self->fd, self->page, 1, BAD));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, pwrite(self->fd, self->page, PAGE - 1, BAD));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, pwrite(self->fd, self->page, PAGE, BAD + 1));
	EXPECT_EQ(EIO, errno);
	/* A write that begins before the bad page ends there. */
	EXPECT_EQ(10, pwrite(self->fd, self->page, 20, BAD - 10));
	/* A write whose buffer cannot be read changes nothing. */
	EXPECT_EQ(-1, pwrite(self->fd, nothing, PAGE, BAD));
	EXPECT_EQ(EFAULT, errno);
	expect_bad();

	/* A write of several pages, the bad one among them. */
	memset(many, 0x5a, 4 * PAGE);
	EXPECT_EQ(4 * PAGE, pwrite(self->fd, many, 4 * PAGE, BAD - 2 * PAGE));
	for (size_t at = BAD - 2 * PAGE; at < BAD + 2 * PAGE; at += 512) {
		ASSERT_EQ(0x5a, byte_at(self->fd, at));
		ASSERT_EQ(0, touch(self->p + at, -1));
		ASSERT_EQ(0x5a, self->p[at]);
	}
	EXPECT_EQ(0, touch(self->p + BAD, 3));
	EXPECT_EQ(3, byte_at(self->fd, BAD));
	EXPECT_EQ(known, fs_number_of(self->s, "devices", device, "poisoned_pages"));
	/* The page can fail again. */
	ASSERT_EQ(0, inject(variant->addr + BAD));
	expect_bad();
	free(many);
}

/* The buffer may have several segments, and pages that are not present yet. */
TEST_F(poison, rewritten_from_segments)
{
	unsigned char *from = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec iov[3] = {
		{ from, PAGE / 2 }, { from + PAGE, PAGE / 4 }, { from + 2 * PAGE, PAGE / 4 },
	};

	ASSERT_NE(MAP_FAILED, from);
	ASSERT_EQ(0, inject(variant->addr + BAD));
	from[0] = 's';
	EXPECT_EQ(PAGE, pwritev(self->fd, iov, 3, BAD));
	EXPECT_EQ('s', byte_at(self->fd, BAD));
	EXPECT_EQ(0, byte_at(self->fd, BAD + 1));
	munmap(from, 3 * PAGE);
}

/* FALLOC_FL_ZERO_RANGE is a write of zeros. */
TEST_F(poison, zeroed)
{
	ASSERT_EQ(0, inject(variant->addr + BAD));
	expect_bad();
	EXPECT_EQ(-1, fallocate(self->fd, FALLOC_FL_ZERO_RANGE, BAD + 1, PAGE));
	EXPECT_EQ(EIO, errno);
	expect_bad();
	EXPECT_EQ(0, fallocate(self->fd, FALLOC_FL_ZERO_RANGE, BAD - 5, 2 * PAGE));
	for (size_t at = BAD; at < BAD + PAGE; at += 512)
		ASSERT_EQ(0, byte_at(self->fd, at));
	EXPECT_EQ(0, touch(self->p + BAD, 3));
	EXPECT_EQ(3, byte_at(self->fd, BAD));
}

/* In the last page, a write to the end of the file is enough. */
TEST_F(poison, rewritten_to_the_end)
{
	int fd = fs_open(self->s, "tail", O_RDWR);
	char c[TAIL];

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, inject(variant->addr + 2 * SIZE + PAGE));
	EXPECT_EQ(-EIO, byte_at(fd, PAGE));
	EXPECT_EQ(-1, pwrite(fd, self->page, TAIL - 1, PAGE));
	EXPECT_EQ(EIO, errno);
	memset(self->page, 0x42, TAIL);
	EXPECT_EQ(TAIL, pwrite(fd, self->page, TAIL, PAGE));
	EXPECT_EQ(TAIL, pread(fd, c, TAIL, PAGE));
	EXPECT_EQ(0, memcmp(c, self->page, TAIL));
	close(fd);
}

/* After an unmount, the page is still bad for the next mount. */
TEST_F(poison, remembered)
{
	struct fuse_server *s;
	int fd;

	ASSERT_EQ(0, inject(variant->addr + BAD));
	munmap(self->p, SIZE);
	close(self->fd);
	ASSERT_EQ(0, fs_stop(self->s));
	self->s = s = new_mount(self->map);
	ASSERT_NE(NULL, s);
	self->fd = fd = fs_open(s, "bad", O_RDWR);
	ASSERT_LE(0, fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	expect_bad();
	expect_rest_is_well();
	/* The kernel does not unpoison pages of devices. */
	EXPECT_EQ(-EIO, write_number(UNPOISON, frame(variant->addr + BAD)));
	make_well(s, "bad", BAD, PAGE);
	EXPECT_EQ(0, byte_at(fd, BAD));
	EXPECT_EQ(0, touch(self->p + BAD, 1));
}

/* Soft offline would migrate a page that is still good: not possible for DAX memory. */
TEST_F(poison, soft_offline)
{
	EXPECT_EQ(-1, madvise(self->p + BAD, PAGE, MADV_SOFT_OFFLINE));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(mark_of(BAD), self->p[BAD]);
	EXPECT_EQ(mark_of(BAD), byte_at(self->fd, BAD));
	expect_rest_is_well();
}

/*
 * A CXL device that finds poison, here by injection, puts it on its poison list. The
 * kernel only traces that. A user space daemon that reads the trace writes the address
 * to hard_offline_page; the test plays that daemon.
 */
#define CXL_DEBUG	"/sys/kernel/debug/cxl/mem%d/%s_poison"
#define CXL_TRACE	"/sys/kernel/tracing/"
#define HARD_OFFLINE	"/sys/devices/system/memory/hard_offline_page"

static int cxl_poison(int mem, const char *what, uint64_t dpa)
{
	char path[64];

	snprintf(path, sizeof(path), CXL_DEBUG, mem, what);
	return write_number(path, dpa);
}

/* The physical address of the last poison in the trace, or 0. */
static uint64_t cxl_traced(void)
{
	static char trace[64 * KIB];
	int fd = open(CXL_TRACE "trace", O_RDONLY);
	uint64_t hpa = 0;
	ssize_t n, all = 0;

	while ((n = read(fd, trace + all, sizeof(trace) - 1 - all)) > 0)
		all += n;
	close(fd);
	trace[all] = 0;
	for (char *p = trace; (p = strstr(p, " hpa=")); p++)
		hpa = strtoull(p + 5, NULL, 0);
	return hpa;
}

TEST_F(poison, listed_by_cxl_device)
{
	uint64_t dpa = variant->addr + BAD, hpa = 0;
	char line[128];
	int mem;

	snprintf(line, sizeof(line), CXL_DEBUG, 0, "inject");
	if (access(line, W_OK))
		SKIP(return, "there is no CXL device that takes poison");
	ASSERT_EQ(0, write_file(CXL_TRACE "events/cxl/cxl_poison/enable", "1"));
	for (mem = 0; mem < 2 && hpa != daxdev[0].phys + dpa; mem++) {
		ASSERT_EQ(0, cxl_poison(mem, "inject", dpa));
		hpa = cxl_traced();
		if (hpa == daxdev[0].phys + dpa)
			break;
		ASSERT_EQ(0, cxl_poison(mem, "clear", dpa));
	}
	write_file(CXL_TRACE "events/cxl/cxl_poison/enable", "0");
	write_file(CXL_TRACE "trace", "");
	ASSERT_EQ(daxdev[0].phys + dpa, hpa);
	EXPECT_EQ(mark_of(BAD), byte_at(self->fd, BAD));
	EXPECT_EQ(0, klog_count(self->log, "has failed (page frame"));

	snprintf(line, sizeof(line), "echo %#llx >" HARD_OFFLINE, (unsigned long long)hpa);
	EXPECT_EQ(0, system(line));
	expect_bad();
	expect_rest_is_well();
	/* Clearing the list makes the device write zeros; the kernel is not notified. */
	EXPECT_EQ(0, cxl_poison(mem, "clear", dpa));
	expect_bad();
	make_well(self->s, "bad", BAD, PAGE);
	EXPECT_EQ(0, byte_at(self->fd, BAD));
}

/*
 * A task rewrites a page all the time, and the page fails again and again. The kernel removes a
 * failed page from its own mapping only after the report; if the page were in use again by then,
 * the next access would be an oops. So it must stay bad until all reports about it have settled.
 */
TEST_F_TIMEOUT(poison, rewritten_while_reported, 120)
{
	const int rounds = 12, flags = MAP_SHARED | MAP_ANONYMOUS;
	int *end = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
	int bad = 0;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, end);
	pid = fork();
	ASSERT_LE(0, pid);
	while (!pid && !__atomic_load_n(end, __ATOMIC_RELAXED))
		if (pwrite(self->fd, self->page, PAGE, BAD) != PAGE && errno != EIO)
			_exit(errno);
	if (!pid)
		_exit(0);
	munmap(self->p, SIZE);
	for (int round = 0; round < rounds; round++) {
		for (int n = 0; n <= round % 2; n++)
			EXPECT_EQ(0, write_number(HWPOISON_INJECT, frame(variant->addr + BAD)));
		bad += byte_at(self->fd, BAD) == -EIO;
		for (int n = 0; n < 1000 && byte_at(self->fd, BAD) == -EIO; n++)
			usleep(10000);
		EXPECT_NE(-EIO, byte_at(self->fd, BAD)) TH_LOG("round %d", round);
	}
	__atomic_store_n(end, 1, __ATOMIC_RELAXED);
	EXPECT_EQ(0, ended(pid));
	/* This task may see the page too late, but not always. */
	EXPECT_LE(rounds / 2, bad);
	munmap(end, PAGE);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
}

/* Tasks fault, read and write without a pause, and one page after the other fails. */
TEST_F_TIMEOUT(poison, while_busy, 60)
{
	const int pages = 24;
	pid_t pid[3];

	for (int i = 0; i < 3; i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		for (size_t n = 0; ; n++) {
			size_t at = HUGE + n * 17 * PAGE % HUGE;
			char c = mark_of(at);

			if (i == 0) {
				struct hit h = hit_by(self->p + at, c, 0);

				if (h.signal && h.code != BUS_MCEERR_AR)
					_exit(1);
			}
			if (i == 1 && pwrite(self->fd, &c, 1, at) != 1 && errno != EIO)
				_exit(errno);
			if (i == 2) {
				if (pread(self->fd, &c, 1, at) != 1) {
					if (errno != EIO)
						_exit(errno);
				} else if (c != (char)mark_of(at)) {
					_exit(255);
				}
				if (n % 64 == 0)
					madvise(self->p, SIZE, MADV_DONTNEED);
			}
		}
	}
	munmap(self->p, SIZE);
	for (int n = 0; n < pages; n++) {
		uint64_t at = variant->addr + BAD + n * 3 * PAGE;

		EXPECT_EQ(0, write_number(HWPOISON_INJECT, frame(at)));
		usleep(1000);
	}
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	for (int i = 0; i < 3; i++) {
		int status = 0;

		EXPECT_EQ(0, waitpid(pid[i], &status, WNOHANG)) TH_LOG("task %d: %#x", i, status);
		kill(pid[i], SIGKILL);
		ended(pid[i]);
	}
	for (int n = 0; n < 3 * pages; n++) {
		size_t at = BAD + n * PAGE;

		EXPECT_EQ(n % 3 ? mark_of(at) : -EIO, byte_at(self->fd, at));
		EXPECT_EQ(n % 3 ? 0 : SIGBUS, touch(self->p + at, -1));
	}
}

int main(int argc, char **argv)
{
	hwpoison_load();
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
