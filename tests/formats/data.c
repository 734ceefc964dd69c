// SPDX-License-Identifier: GPL-2.0
/*
 * Where the bytes of a file are: the `striped` format, end to end.
 *
 * A model (layout.h) says where each page of a file is.
 *
 * A BPF program (peek.bpf.c) reads the devices through the kernel's direct map, without
 * the module, so a mistake that reads and writes have in common is found, too. For
 * the other direction, the tests fill the devices by write(2) to files that map a whole
 * device each, and check that by peeking.
 *
 * A byte's value says where it belongs, so a page in the wrong place, or two
 * exchanged pages, are found.
 *
 * Emulated CXL memory is a hundred times slower than an emulated NVDIMM. With it
 * (DAX_KIND=cxl), the tests check only the bytes around each boundary of an extent,
 * chunk or 2 MiB, and a sample of the others.
 *
 * This file is long because each layout is a variant of one fixture, with most tests.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "layout.h"
#include "striped.h"

#define AREA		(64 * MIB)	/* of each device, for files */

/* ---- the layouts that are tested ---- */

static void linear(struct layout *l)
{
	add_linear(l, 0, 6 * MIB, 8 * MIB);
	l->size = 8 * MIB;
}

static void linear_eof_in_page(struct layout *l)
{
	add_linear(l, 1, 2 * MIB, 6 * MIB);
	l->size = 4 * MIB + 12345;
}

static void linear_4k(struct layout *l)
{
	add_linear(l, 0, 3 * PAGE, 1001 * PAGE);
	l->size = 1001 * PAGE - 1;
}

/* Aligned on the device but not in the file, so there are no PMD faults. */
static void linear_shifted(struct layout *l)
{
	add_linear(l, 0, 0, PAGE);
	add_linear(l, 0, 2 * MIB, 4 * MIB);
	l->size = 4 * MIB + PAGE;
}

static void two_devices(struct layout *l)
{
	add_linear(l, 0, 8 * MIB, 4 * MIB);
	add_linear(l, 1, 4 * MIB, 4 * MIB);
	l->size = 8 * MIB;
}

static void interleaved_2m(struct layout *l)
{
	add_interleaved(l, 12 * MIB, 2 * MIB, 3);
	l->size = 12 * MIB;
}

/* The last row is not full, nor is its last chunk. */
static void interleaved_short_row(struct layout *l)
{
	add_interleaved(l, 10 * MIB - 4 * PAGE, 2 * MIB, 2);
	l->size = 10 * MIB - 5 * PAGE + 1;
}

static void interleaved_4k(struct layout *l)
{
	add_interleaved(l, 2 * MIB, 4 * KIB, 2);
	l->size = 2 * MIB - 100;
}

/* Chunks and numbers of strips that are not powers of two. */
static void interleaved_odd(struct layout *l)
{
	add_interleaved(l, 3 * MIB, 12 * KIB, 5);
	add_interleaved(l, MIB + 28 * KIB, 28 * KIB, 3);
	l->size = 4 * MIB + 28 * KIB;
}

static void mixed(struct layout *l)
{
	add_linear(l, 1, 0, 2 * MIB);
	add_interleaved(l, 8 * MIB, 2 * MIB, 2);
	add_linear(l, 0, 40 * MIB, 20 * KIB);
	add_interleaved(l, 512 * KIB, 64 * KIB, 4);
	add_linear(l, 1, 50 * MIB, 3 * MIB);
	l->size = 2 * MIB + 8 * MIB + 20 * KIB + 512 * KIB + 3 * MIB - 77;
}

/* Small extents, scattered, in descending order. */
static void scattered(struct layout *l)
{
	for (unsigned int i = 0; i < 301; i++)
		add_linear(l, i % 2, (1000 - 3 * i) * PAGE, PAGE * (1 + i % 3));
	for (unsigned int i = 0; i < 301; i++)
		l->size += PAGE * (1 + i % 3);
}

/* As many extents as the metadata of a file can hold. */
static void full(struct layout *l)
{
	for (unsigned int i = 0; i < 2048; i++) {
		add_extent(l, 8 * KIB, 4 * KIB, 2);
		add_strip(l, i % 2, i * 2 * PAGE, PAGE);
		add_strip(l, 1 - i % 2, (i * 2 + 1) * PAGE, PAGE);
	}
	l->size = 2048 * 8 * KIB;
}

/* ---- bytes that say where they belong ---- */

/* @seed tells files, devices and rounds apart; @at is a multiple of 8. */
static void fill(void *buf, size_t len, uint64_t seed, uint64_t at)
{
	uint64_t *p = buf;

	/* The factor is odd, so no two places have the same value. */
	for (size_t i = 0; i < len / 8; i++)
		p[i] = (seed << 48 ^ (at + i * 8)) * 0x9e3779b97f4a7c15ULL;
}

#define SEED_FILE	1
#define SEED_DEV(n)	(16 + (n))

/* The offset of the first difference, or -1. */
static ssize_t differ(const unsigned char *a, const unsigned char *b, size_t len)
{
	if (!memcmp(a, b, len))
		return -1;
	for (size_t i = 0; i < len; i++)
		if (a[i] != b[i])
			return i;
	return -1;
}

/* ---- the tests ---- */

/* The parts of a file that are checked, in order. */
struct piece {
	uint64_t at;
	size_t len;
};

FIXTURE(data) {
	struct fuse_server *s;
	struct layout *l;
	struct layout *raw[2];
	unsigned char *want, *got, *p;
	struct piece *piece;
	unsigned int nr_pieces;
	size_t room;		/* of the layout: the file, and bytes behind its end */
	size_t len;		/* of a mapping: @size in pages */
	size_t once;		/* bytes read or written by one system call */
	int fd;
};

FIXTURE_VARIANT(data) {
	void (*make)(struct layout *l);
	unsigned int huge;	/* PMD faults that it takes to touch all of it */
};

#define LAYOUT(name, n) \
	FIXTURE_VARIANT_ADD(data, name) { .make = name, .huge = n }

LAYOUT(linear, 4);
LAYOUT(linear_eof_in_page, 2);
LAYOUT(linear_4k, 0);
LAYOUT(linear_shifted, 0);
LAYOUT(two_devices, 4);
LAYOUT(interleaved_2m, 6);
LAYOUT(interleaved_short_row, 4);
LAYOUT(interleaved_4k, 0);
LAYOUT(interleaved_odd, 0);
LAYOUT(mixed, 5);
LAYOUT(scattered, 0);
LAYOUT(full, 0);

static void whole_0(struct layout *l)
{
	add_linear(l, 0, 0, AREA);
	l->size = AREA;
}

static void whole_1(struct layout *l)
{
	add_linear(l, 1, 0, AREA);
	l->size = AREA;
}

/* Returns true if page @i does not follow page @i - 1 on its device, or is aligned to 2 MiB. */
static bool is_boundary(const struct layout *l, size_t i)
{
	return i * PAGE % HUGE == 0 || l->page[i].dev != l->page[i - 1].dev ||
	       l->page[i].addr != l->page[i - 1].addr + PAGE;
}

static void add_piece(FIXTURE_DATA(data) * self, uint64_t at, uint64_t end)
{
	if (end > self->l->size)
		end = self->l->size;
	if (at < end)
		self->piece[self->nr_pieces++] = (struct piece){ at, end - at };
}

static void choose_pieces(FIXTURE_DATA(data) * self)
{
	const char *kind = getenv("DAX_KIND");
	const struct layout *l = self->l;
	unsigned int boundaries = 0;

	self->piece = calloc(l->nr_pages + 2, sizeof(*self->piece));
	self->once = l->size;
	if (!kind || strcmp(kind, "cxl")) {
		/* All of it, in pieces whose size divides nothing. */
		for (uint64_t at = 0; at < l->size; at += 100003)
			add_piece(self, at, at + 100003);
		return;
	}
	if (self->once > 256 * KIB)
		self->once = 256 * KIB;
	for (size_t i = 1; i < l->nr_pages; i++)
		if (is_boundary(l, i) && boundaries++ < 100)
			add_piece(self, i * PAGE - 32, i * PAGE + 32);
		else if (i % 61 == 0)
			add_piece(self, i * PAGE + i % 4000, i * PAGE + i % 4000 + 64);
	add_piece(self, l->size - 100, l->size);
}

#define for_each_piece(self)						\
	for (struct piece *pc = (self)->piece;				\
	     pc < (self)->piece + (self)->nr_pieces; pc++)

/* The part of @pc, from @at on, that is in one page. */
static size_t in_page(const struct piece *pc, uint64_t at)
{
	uint64_t end = (at / PAGE + 1) * PAGE;

	return (pc->at + pc->len < end ? pc->at + pc->len : end) - at;
}

/*
 * Compare the wanted bytes with those on the devices, in the mapping, and in the file.
 * Each function returns the offset of the first wrong byte, or -1.
 */
static ssize_t wrong_on_device(FIXTURE_DATA(data) * self)
{
	unsigned char buf[PAGE];

	for_each_piece(self)
		for (uint64_t at = pc->at; at < pc->at + pc->len; ) {
			const struct page *page = &self->l->page[at / PAGE];
			size_t n = in_page(pc, at);
			ssize_t bad;

			if (dax_peek(&daxdev[page->dev], page->addr + at % PAGE, buf, n))
				return at;
			bad = differ(self->want + at, buf, n);
			if (bad >= 0)
				return at + bad;
			at += n;
		}
	return -1;
}

static ssize_t wrong_in_mapping(FIXTURE_DATA(data) * self)
{
	for_each_piece(self) {
		ssize_t bad = differ(self->want + pc->at, self->p + pc->at, pc->len);

		if (bad >= 0)
			return pc->at + bad;
	}
	return -1;
}

static ssize_t wrong_by_read(FIXTURE_DATA(data) * self)
{
	for_each_piece(self) {
		unsigned char *got = self->got + pc->at;
		ssize_t bad;

		if (pread(self->fd, got, pc->len, pc->at) != (ssize_t)pc->len)
			return pc->at;
		bad = differ(self->want + pc->at, got, pc->len);
		if (bad >= 0)
			return pc->at + bad;
	}
	return -1;
}

static void store(FIXTURE_DATA(data) * self)
{
	for_each_piece(self)
		memcpy(self->p + pc->at, self->want + pc->at, pc->len);
}

static bool write_pieces(FIXTURE_DATA(data) * self)
{
	for_each_piece(self)
		if (pwrite(self->fd, self->want + pc->at, pc->len, pc->at) !=
		    (ssize_t)pc->len)
			return false;
	return true;
}

/* Fill the devices where the model says that the file is, and set self->want. */
static int fill_devices(FIXTURE_DATA(data) * self)
{
	unsigned char buf[PAGE], back[PAGE];
	int fd[2], err = 0;

	fd[0] = fs_open(self->s, "raw0", O_RDWR);
	fd[1] = fs_open(self->s, "raw1", O_RDWR);
	for_each_piece(self)
		for (uint64_t at = pc->at; at < pc->at + pc->len && !err; ) {
			const struct page *page = &self->l->page[at / PAGE];
			uint64_t addr = page->addr + at % PAGE;
			size_t n = in_page(pc, at);

			fill(buf, PAGE, SEED_DEV(page->dev), page->addr);
			memcpy(self->want + at, buf + at % PAGE, n);
			if (pwrite(fd[page->dev], self->want + at, n, addr) != (ssize_t)n)
				err = -EIO;
			else if (dax_peek(&daxdev[page->dev], addr, back, n) ||
				 differ(self->want + at, back, n) >= 0)
				err = -EBADMSG;
			at += n;
		}
	close(fd[0]);
	close(fd[1]);
	return err;
}

FIXTURE_SETUP(data)
{
	FMAP_REQUIRE();
	if (!daxdev[0].phys || !daxdev[1].phys)
		SKIP(return, "the devices do not tell their physical addresses");
	self->l = new_layout(variant->make);
	self->raw[0] = new_layout(whole_0);
	self->raw[1] = new_layout(whole_1);
	ASSERT_TRUE(self->l && self->raw[0] && self->raw[1]);
	ASSERT_GE(AREA, self->l->used[0]);
	ASSERT_GE(AREA, self->l->used[1]);
	self->room = self->l->nr_pages * PAGE;
	self->len = (self->l->size + PAGE - 1) & ~(PAGE - 1);
	self->want = calloc(1, self->room + PAGE);
	self->got = calloc(1, self->room + PAGE);
	ASSERT_TRUE(self->want && self->got);
	choose_pieces(self);

	self->s = fmap_server(STRIPED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", self->l->size, self->l->blob, self->l->blob_len);
	fs_add(self->s, "raw0", AREA, self->raw[0]->blob, self->raw[0]->blob_len);
	fs_add(self->s, "raw1", AREA, self->raw[1]->blob, self->raw[1]->blob_len);
	ASSERT_EQ(0, fs_mount(self->s));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	/*
	 * Aligned to 2 MiB, else there are no PMD faults. The test does not rely on
	 * the kernel's choice of an address.
	 */
	self->p = mmap(NULL, self->len + HUGE, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	self->p = (void *)(((uintptr_t)self->p + HUGE - 1) & ~(HUGE - 1));
	self->p = mmap(self->p, self->len, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_FIXED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
}

FIXTURE_TEARDOWN(data)
{
	munmap(self->p, self->len);
	close(self->fd);
	/* The server got no I/O. */
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(data, store_reaches_the_device)
{
	fill(self->want, self->room, SEED_FILE, 0);
	store(self);
	EXPECT_EQ(-1, wrong_on_device(self));
	EXPECT_EQ(-1, wrong_by_read(self));
}

TEST_F(data, write_reaches_the_device)
{
	fill(self->want, self->room, SEED_FILE + 1, 0);
	EXPECT_TRUE(write_pieces(self));
	EXPECT_EQ(-1, wrong_on_device(self));
	EXPECT_EQ(-1, wrong_in_mapping(self));
}

TEST_F(data, load_and_read_see_the_device)
{
	ASSERT_EQ(0, fill_devices(self));
	EXPECT_EQ(-1, wrong_in_mapping(self));
	EXPECT_EQ(-1, wrong_by_read(self));
}

/* One write and one read over many extents. */
TEST_F(data, all_at_once)
{
	size_t n = self->once;

	/* If that is the whole file, ask for more than it has. */
	if (n == self->l->size)
		n = self->room;
	fill(self->want, self->room, SEED_FILE + 2, 0);
	ASSERT_EQ(self->once, pwrite(self->fd, self->want, n, 0));
	self->nr_pieces = 0;
	add_piece(self, 0, self->once);
	EXPECT_EQ(-1, wrong_on_device(self));
	ASSERT_EQ(self->once, pread(self->fd, self->got, n, 0));
	EXPECT_EQ(-1, differ(self->want, self->got, self->once));
}

/* The bytes before, at, and after each boundary. */
TEST_F(data, boundaries)
{
	unsigned int tried = 0;
	unsigned char b[3];

	fill(self->want, self->room, SEED_FILE + 3, 0);
	EXPECT_TRUE(write_pieces(self));
	for (size_t i = 1; i < self->l->nr_pages && tried < 100; i++) {
		const struct page *page = &self->l->page[i];
		uint64_t at = i * PAGE;

		if (!is_boundary(self->l, i))
			continue;
		if (at + 2 > self->l->size)
			break;
		tried++;
		/* Across the boundary, by read and by load. */
		ASSERT_EQ(3, pread(self->fd, b, 3, at - 1));
		EXPECT_EQ(0, memcmp(b, self->want + at - 1, 3));
		EXPECT_EQ(0, memcmp(self->p + at - 1, self->want + at - 1, 3));
		/* Across the boundary, by write, then by store. */
		for (int j = -1; j < 2; j++)
			b[j + 1] = ~self->want[at + j];
		ASSERT_EQ(3, pwrite(self->fd, b, 3, at - 1));
		EXPECT_EQ(0, memcmp(self->p + at - 1, b, 3));
		for (int j = -1; j < 2; j++) {
			self->want[at + j] += 77;
			self->p[at + j] = self->want[at + j];
		}
		ASSERT_EQ(0, dax_peek(&daxdev[page->dev], page->addr, b, 2));
		EXPECT_EQ(self->want[at], b[0]);
		EXPECT_EQ(self->want[at + 1], b[1]);
		ASSERT_EQ(0, dax_peek(&daxdev[page[-1].dev],
				      page[-1].addr + PAGE - 1, b, 1));
		EXPECT_EQ(self->want[at - 1], b[0]);
	}
	/* No other byte changed. */
	EXPECT_EQ(-1, wrong_on_device(self));
}

TEST_F(data, end_of_file)
{
	uint64_t size = self->l->size;
	unsigned char b[4];

	fill(self->want, self->room, SEED_FILE + 4, 0);
	EXPECT_TRUE(write_pieces(self));
	EXPECT_EQ(1, pread(self->fd, b, 4, size - 1));
	EXPECT_EQ(self->want[size - 1], b[0]);
	EXPECT_EQ(2, pread(self->fd, b, 4, size - 2));
	EXPECT_EQ(0, pread(self->fd, b, 4, size));
	EXPECT_EQ(0, pread(self->fd, b, 4, size + 1));
	EXPECT_EQ(0, pread(self->fd, b, 4, size + PAGE));
	EXPECT_EQ(1, pwrite(self->fd, self->want + size - 1, 4, size - 1));
	EXPECT_GE(0, pwrite(self->fd, b, 4, size));
	EXPECT_EQ(size, lseek(self->fd, 0, SEEK_END));
	EXPECT_EQ(0, read(self->fd, b, 4));
	EXPECT_EQ(-1, wrong_on_device(self));
}

TEST_F(data, size_of_faults)
{
	int pmd = trace_count_open("fs_dax/dax_pmd_fault_done", "result == 0x100");
	int pte = trace_count_open("fs_dax/dax_pte_fault_done", "result == 0x100");
	size_t pages;

	if (pmd < 0 || pte < 0)
		SKIP(return, "the tracepoints of fs_dax cannot be counted");
	for (size_t at = 0; at < self->len; at += PAGE)
		EXPECT_EQ(0, touch(self->p + at, 1));
	pages = self->len / PAGE - variant->huge * (HUGE / PAGE);
	EXPECT_EQ(variant->huge, trace_count(pmd));
	EXPECT_EQ(pages, trace_count(pte));
	/* Another touch causes no fault. */
	for (size_t at = 0; at < self->len; at += PAGE)
		EXPECT_EQ(0, touch(self->p + at, 2));
	EXPECT_EQ(variant->huge, trace_count(pmd));
	EXPECT_EQ(pages, trace_count(pte));
	close(pmd);
	close(pte);
}

/* Read first, then write: the mapped page becomes writable. */
TEST_F(data, write_after_read)
{
	for_each_piece(self)
		EXPECT_EQ(0, touch(self->p + pc->at, -1));
	fill(self->want, self->room, SEED_FILE + 5, 0);
	store(self);
	EXPECT_EQ(0, msync(self->p, self->len, MS_SYNC));
	EXPECT_EQ(-1, wrong_on_device(self));
}

/* A private mapping has the file's bytes, and its stores stay private. */
TEST_F(data, private)
{
	unsigned char *q;

	fill(self->want, self->room, SEED_FILE + 6, 0);
	EXPECT_TRUE(write_pieces(self));
	q = mmap(NULL, self->len, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	/* Pages that are not copied follow the file. */
	self->p[PAGE] = 42;
	EXPECT_EQ(42, q[PAGE]);
	self->p[PAGE] = self->want[PAGE];
	EXPECT_EQ(self->want[PAGE], q[PAGE]);
	for_each_piece(self) {
		EXPECT_EQ(-1, differ(self->want + pc->at, q + pc->at, pc->len));
		q[pc->at] = ~q[pc->at];
	}
	EXPECT_EQ(-1, wrong_on_device(self));
	EXPECT_EQ(-1, wrong_in_mapping(self));
	for_each_piece(self)
		EXPECT_EQ((unsigned char)~self->want[pc->at], q[pc->at]);
	munmap(q, self->len);
}

/* Written by one process through a mapping, read by another with read(2). */
TEST_F(data, two_processes)
{
	int status;
	pid_t pid;

	fill(self->want, self->room, SEED_FILE + 7, 0);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		store(self);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	EXPECT_EQ(-1, wrong_by_read(self));
}

/* The next mount finds all bytes. */
TEST_F(data, survives_unmount)
{
	fill(self->want, self->room, SEED_FILE + 8, 0);
	store(self);
	munmap(self->p, self->len);
	close(self->fd);
	ASSERT_EQ(0, fs_stop(self->s));
	EXPECT_EQ(-1, wrong_on_device(self));

	self->s = fmap_server(STRIPED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", self->l->size, self->l->blob, self->l->blob_len);
	ASSERT_EQ(0, fs_mount(self->s));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, self->len, PROT_READ, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	EXPECT_EQ(-1, wrong_in_mapping(self));
	EXPECT_EQ(-1, wrong_by_read(self));
}

/* ---- tests with one layout ---- */

FIXTURE(use) {
	struct fuse_server *s;
	struct layout *l;
	unsigned char *p;
	int fd;
};

FIXTURE_SETUP(use)
{
	FMAP_REQUIRE();
	self->l = new_layout(interleaved_2m);
	ASSERT_NE(NULL, self->l);
	self->s = fmap_server(STRIPED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", self->l->size, self->l->blob, self->l->blob_len);
	fs_add(self->s, "plain", 5000, NULL, 0);
	ASSERT_EQ(0, fs_mount(self->s));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, self->l->size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
}

FIXTURE_TEARDOWN(use)
{
	munmap(self->p, self->l->size);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* System calls with buffers in the mapping, present or not. */
TEST_F(use, as_a_buffer)
{
	char name[] = "/tmp/fmap.XXXXXX";
	int fd = mkstemp(name);
	int pair[2];

	ASSERT_LE(0, fd);
	unlink(name);
	memset(self->p + HUGE, 'z', PAGE);
	EXPECT_EQ(3 * PAGE, write(fd, self->p + HUGE - PAGE, 3 * PAGE));
	EXPECT_EQ(3 * PAGE, pread(fd, self->p + 2 * HUGE, 3 * PAGE, 0));
	EXPECT_EQ('z', self->p[2 * HUGE + PAGE]);
	/* From the file to itself; one range is present, the other one is not. */
	EXPECT_EQ(100, pwrite(self->fd, self->p + HUGE, 100, 4 * HUGE));
	EXPECT_EQ('z', self->p[4 * HUGE + 99]);
	/* Through a pipe. */
	ASSERT_EQ(0, pipe(pair));
	EXPECT_EQ(10, write(pair[1], self->p + HUGE, 10));
	EXPECT_EQ(10, read(pair[0], self->p + HUGE + 100, 10));
	close(pair[0]);
	close(pair[1]);
	close(fd);
}

TEST_F(use, memory_calls)
{
	unsigned char *q;

	self->p[0] = 1;
	EXPECT_EQ(0, madvise(self->p, HUGE, MADV_DONTNEED));
	EXPECT_EQ(1, self->p[0]);
	EXPECT_EQ(0, mprotect(self->p, HUGE, PROT_READ));
	EXPECT_EQ(SIGSEGV, touch(self->p, 2));
	EXPECT_EQ(0, mprotect(self->p, PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, touch(self->p, 3));
	EXPECT_EQ(0, mprotect(self->p, HUGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, mlock(self->p, HUGE));
	EXPECT_EQ(0, munlock(self->p, HUGE));
	q = mremap(self->p, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		   mmap(NULL, HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(3, q[0]);
	munmap(q, HUGE);
}

/* A descriptor that was opened for reading cannot be used to write. */
TEST_F(use, read_only)
{
	unsigned char *q;
	char c;
	int fd = fs_open(self->s, "file", O_RDONLY);

	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, pwrite(fd, "x", 1, 0));
	EXPECT_EQ(EBADF, errno);
	EXPECT_EQ(1, pread(fd, &c, 1, 0));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, fd, 0));
	q = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(SIGSEGV, touch(q, 1));
	munmap(q, PAGE);
	close(fd);
}

/* Reading and writing at a position, and the times of the file. */
TEST_F(use, position)
{
	char b[8];

	EXPECT_EQ(100, lseek(self->fd, 100, SEEK_SET));
	EXPECT_EQ(4, write(self->fd, "abcd", 4));
	EXPECT_EQ(104, lseek(self->fd, 0, SEEK_CUR));
	EXPECT_EQ(100, lseek(self->fd, 100, SEEK_SET));
	EXPECT_EQ(4, read(self->fd, b, 4));
	EXPECT_EQ(0, memcmp(b, "abcd", 4));
	EXPECT_EQ(0, fsync(self->fd));
	EXPECT_EQ(0, fdatasync(self->fd));
}

/* A file with a map and one without, side by side. */
TEST_F(use, beside_a_plain_file)
{
	char b[4];
	int fd = fs_open(self->s, "plain", O_RDWR);

	ASSERT_LE(0, fd);
	EXPECT_EQ(4, pread(fd, b, 4, 0));
	EXPECT_EQ('b', b[0]);
	EXPECT_EQ(1, pwrite(fd, "X", 1, 0));
	EXPECT_EQ(1, self->s->count[FUSE_WRITE]);
	close(fd);
}

int main(int argc, char **argv)
{
	fmap_register("striped.bpf.o");
	dax_peek_init();
	return test_harness_run(argc, argv);
}
