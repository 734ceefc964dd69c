// SPDX-License-Identifier: GPL-2.0
/*
 * A DAX device that has several ranges.
 *
 * A device on the dax bus has several ranges if devices were created and destroyed in its
 * region before. Memory that is contiguous on the device, and in a file, then continues at
 * another physical address. A user of the file must not notice: reads and writes go on across
 * the boundary, faults of both sizes find the right frame on each side of it, memory failure
 * affects the right page, and unbinding the device all pages.
 *
 * The test creates the ranges of the second device through its "mapping" attribute, and
 * restores the device in the end. That works with CXL; NVDIMM has devices of one range.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(8 * MIB)		/* of the files */
#define RANGE	(64 * MIB)		/* each */
#define RANGES	3			/* at most */
#define MIDDLE	(SIZE / 2)		/* of a file: the boundary, or a page behind it */

static struct daxdev *const dev = &daxdev[1];

static int set(const char *what, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/dax/devices/%s/%s", dev->name, what);
	return write_file(path, value);
}

static bool is_bound(void)
{
	char path[128];

	snprintf(path, sizeof(path), FSDEV "/%s", dev->name);
	return !access(path, F_OK) && !access(dev->path, F_OK);
}

static int unbind(void)
{
	return write_file(FSDEV "/unbind", dev->name);
}

static int bind(void)
{
	int err = write_file(FSDEV "/bind", dev->name);

	for (int ms = 0; ms < FS_PATIENCE && !err && !is_bound(); ms++)
		usleep(1000);
	return err ?: is_bound() ? 0 : -ENODEV;
}

/* Make the device of @n ranges, at the offsets @at in the region. Returns 0 or -errno. */
static int make(const uint64_t *at, int n)
{
	int err = is_bound() ? unbind() : 0;
	char range[64];

	err = err ?: set("size", "0");
	for (int i = 0; i < n && !err; i++) {
		uint64_t start = dev->phys + at[i];

		snprintf(range, sizeof(range), "%llx-%llx", (unsigned long long)start,
			 (unsigned long long)(start + RANGE - 1));
		err = set("mapping", range);
	}
	return err ?: bind();
}

/* Make the device of the whole region, as it was before the test. */
static int make_whole(void)
{
	char size[32];

	snprintf(size, sizeof(size), "%llu", (unsigned long long)dev->size);
	if (is_bound())
		unbind();
	return set("size", "0") ?: set("size", size) ?: bind();
}

FIXTURE(ranges) {
	struct fuse_server *s;
	struct scripted map[RANGES];
	unsigned char *p;
	int fd;
	long refs;
};

FIXTURE_VARIANT(ranges) {
	int nr;
	uint64_t at[RANGES];
	uint64_t skew;		/* PAGE: nothing is aligned for 2 MiB */
};

#define VARIANT(name, ...)						\
	FIXTURE_VARIANT_ADD(ranges, name) { __VA_ARGS__ }

VARIANT(two, 2, { 0, 2 * RANGE }, 0);
VARIANT(two_small, 2, { 0, 2 * RANGE }, PAGE);
VARIANT(side_by_side, 2, { 0, RANGE }, 0);
VARIANT(backwards, 2, { RANGE, 0 }, 0);
VARIANT(backwards_small, 2, { RANGE, 0 }, PAGE);
VARIANT(three, 3, { 2 * RANGE, 0, 3 * RANGE }, 0);
VARIANT(three_small, 3, { 0, 3 * RANGE, RANGE }, PAGE);

/* File "1" has the first boundary in its middle, file "2" the second one. */
static struct fuse_server *new_mount(struct scripted *map, int nr, uint64_t skew)
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);
	char name[] = "1";

	if (!s)
		return NULL;
	for (int i = 0; i < nr - 1; i++, name[0]++) {
		map[i] = fmap_linear(1, (i + 1) * RANGE - MIDDLE + skew, SIZE);
		fs_add(s, name, SIZE, &map[i], sizeof(map[i]));
	}
	/* This file would fit into the region, but not into the device. */
	map[nr - 1] = fmap_linear(1, nr * RANGE - MIDDLE + skew, SIZE);
	fs_add(s, "beyond", SIZE, &map[nr - 1], sizeof(map[nr - 1]));
	fs_add(s, "plain", SIZE, NULL, 0);
	if (fs_mount(s)) {
		fs_stop(s);
		return NULL;
	}
	return s;
}

/* Map at an address that allows PMD entries. */
static unsigned char *map_file(int fd)
{
	return mmap(address_range(0, SIZE), SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		    fd, 0);
}

static const char *missing(void)
{
	static char path[128];

	if (fmap_missing())
		return fmap_missing();
	snprintf(path, sizeof(path), "/sys/bus/dax/devices/%s/mapping", dev->name);
	if (access(path, W_OK))
		return "the ranges of this kind of device cannot be chosen";
	return dev->phys && dev->size >= 4 * RANGE ? NULL : "the device is too small";
}

FIXTURE_SETUP(ranges)
{
	if (missing())
		SKIP(return, "%s", missing());
	self->refs = module_refs();
	ASSERT_EQ(0, make(variant->at, variant->nr));
	self->s = new_mount(self->map, variant->nr, variant->skew);
	ASSERT_NE(NULL, self->s);
	self->fd = fs_open(self->s, "1", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = map_file(self->fd);
	ASSERT_NE(MAP_FAILED, self->p);
}

/* In the parent: the device has to be restored even if the test died. */
FIXTURE_TEARDOWN_PARENT(ranges)
{
	if (!missing())
		EXPECT_EQ(0, make_whole());
}

#define finish() do {							\
	munmap(self->p, SIZE);						\
	close(self->fd);						\
	EXPECT_EQ(0, fs_stop(self->s));					\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
} while (0)

/* Offset of the boundary in a file. */
#define BOUNDARY	(MIDDLE - variant->skew)

/* The physical address of byte @at of the file with boundary number @n. */
#define phys_of(n, pos) ({						\
	uint64_t _off = ((n) + 1) * RANGE + (pos) - BOUNDARY;		\
									\
	dev->phys + variant->at[_off / RANGE] + _off % RANGE;		\
})

/* The byte at a physical address. */
static int peek(uint64_t phys)
{
	struct daxdev all = { .phys = phys & ~(PAGE - 1), .size = PAGE };
	unsigned char c;

	return dax_peek(&all, phys % PAGE, &c, 1) ?: c;
}

static unsigned char byte_of(size_t at)
{
	return at % 251 + at / PAGE + 1;
}

/* Reads and writes of all sizes that end at, cross and begin at the boundary. */
TEST_F_TIMEOUT(ranges, io, 60)
{
	static const size_t sizes[] = {
		1, 2, 511, PAGE, PAGE + 1, 64 * KIB, HUGE, HUGE + PAGE + 3,
	};
	unsigned char *out = malloc(2 * HUGE), *in = malloc(2 * HUGE);

	ASSERT_TRUE(out && in);
	for (int n = 0; n < variant->nr - 1; n++) {
		char name[] = { '1' + n, 0 };
		int fd = fs_open(self->s, name, O_RDWR);

		ASSERT_LE(0, fd);
		for (int i = 0; i < 3 * ARRAY_SIZE(sizes); i++) {
			size_t len = sizes[i / 3];
			off_t at = BOUNDARY - (i % 3 == 0 ? len : i % 3 == 1 ? len / 2 : 0);

			if (i % 3 == 1 && len > 2)
				at++;	/* the boundary is not in the middle */
			if (at < 0)
				continue;
			for (size_t k = 0; k < len; k++)
				out[k] = byte_of(at + k + i);
			ASSERT_EQ(len, pwrite(fd, out, len, at)) {
				TH_LOG("%zu bytes at boundary %+ld", len, (long)(at - BOUNDARY));
			}
			memset(in, 0, len);
			ASSERT_EQ(len, pread(fd, in, len, at));
			ASSERT_EQ(0, memcmp(in, out, len));
			EXPECT_EQ(out[0], peek(phys_of(n, at)));
			EXPECT_EQ(out[len - 1], peek(phys_of(n, at + len - 1)));
			if (at < BOUNDARY && at + len > BOUNDARY) {
				EXPECT_EQ(out[BOUNDARY - at], peek(phys_of(n, BOUNDARY)));
				EXPECT_EQ(out[BOUNDARY - at - 1],
					  peek(phys_of(n, BOUNDARY - 1)));
			}
		}
		close(fd);
	}
	EXPECT_EQ(0, self->s->count[FUSE_READ] + self->s->count[FUSE_WRITE]);
	free(out);
	free(in);
	finish();
}

/* Vectored writes, splice, and a mapping as the buffer. */
TEST_F(ranges, transfer)
{
	struct iovec iov[2];
	char a[300], b[700], got[1000];
	off_t at = BOUNDARY - 500;
	int p[2];

	memset(a, 'a', sizeof(a));
	memset(b, 'b', sizeof(b));
	iov[0] = (struct iovec){ a, sizeof(a) };
	iov[1] = (struct iovec){ b, sizeof(b) };
	ASSERT_EQ(1000, pwritev2(self->fd, iov, 2, at, RWF_DSYNC));
	ASSERT_EQ(0, pipe(p));
	ASSERT_EQ(1000, splice(self->fd, &at, p[1], NULL, 1000, 0));
	EXPECT_EQ(1000, read(p[0], got, 1000));
	EXPECT_EQ(0, memcmp(got, a, sizeof(a)));
	EXPECT_EQ(0, memcmp(got + sizeof(a), b, sizeof(b)));
	close(p[0]);
	close(p[1]);
	/* The buffer is a mapping, on both sides of the boundary. */
	at = BOUNDARY - PAGE / 2;
	memset(self->p + at, 'm', PAGE);
	EXPECT_EQ(PAGE, pwrite(self->fd, self->p + at, PAGE, 0));
	EXPECT_EQ('m', byte_at(self->fd, PAGE - 1));
	EXPECT_EQ(sizeof(b), pwrite(self->fd, b, sizeof(b), PAGE + PAGE / 2 - 100));
	EXPECT_EQ(PAGE, pread(self->fd, self->p + at, PAGE, PAGE));
	EXPECT_EQ('b', self->p[BOUNDARY - 1]);
	EXPECT_EQ('b', self->p[BOUNDARY]);
	finish();
}

/* Faults on both sides of the boundary are PMD faults if they are elsewhere. */
TEST_F(ranges, faults)
{
	const ssize_t steps[] = { -HUGE - 1, -HUGE, -PAGE - 1, -PAGE, -1, 0, 1, PAGE, HUGE - 1,
				  HUGE };

	/* The file can be evicted only if it is not open. */
	munmap(self->p, SIZE);
	close(self->fd);
	for (int n = 0; n < variant->nr - 1; n++) {
		char name[] = { '1' + n, 0 };
		int fd = fs_open(self->s, name, O_RDWR);

		ASSERT_LE(0, fd);
		/* Each offset is faulted first once, in both directions. */
		for (int first = 0; first < 2 * ARRAY_SIZE(steps); first++) {
			unsigned char *p = map_file(fd);

			ASSERT_NE(MAP_FAILED, p);
			for (int i = 0; i < ARRAY_SIZE(steps); i++) {
				int k = (first + (first % 2 ? i : ARRAY_SIZE(steps) - i)) %
					ARRAY_SIZE(steps);
				size_t at = BOUNDARY + steps[k];

				ASSERT_EQ(0, touch(p + at, first + k)) {
					TH_LOG("boundary %+zd", steps[k]);
				}
				ASSERT_EQ(first + k, peek(phys_of(n, at)));
			}
			for (int k = 0; k < ARRAY_SIZE(steps); k++)
				ASSERT_EQ(first + k, byte_at(fd, BOUNDARY + steps[k]));
			EXPECT_EQ(!variant->skew, mapped_as_huge(p + BOUNDARY - 1));
			EXPECT_EQ(!variant->skew, mapped_as_huge(p + BOUNDARY));
			if (first % 4 == 0)
				EXPECT_EQ(0, fsync(fd));
			munmap(p, SIZE);
			/* After an eviction all faults are first ones again. */
			if (first % 4 == 1) {
				close(fd);
				EXPECT_TRUE(fs_forget(self->s));
				fd = fs_open(self->s, name, O_RDWR);
				ASSERT_LE(0, fd);
			}
		}
		close(fd);
	}
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* Read faults, MAP_POPULATE, MAP_SYNC. */
TEST_F(ranges, mapped_at_once)
{
	unsigned char *p;

	for (size_t at = 0; at < SIZE; at += PAGE)
		ASSERT_EQ(1, pwrite(self->fd, (char []){ byte_of(at) }, 1, at));
	p = mmap(NULL, SIZE, PROT_READ, MAP_SHARED | MAP_POPULATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	for (size_t at = 0; at < SIZE; at += PAGE)
		ASSERT_EQ(byte_of(at), p[at]);
	munmap(p, SIZE);
	p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC,
		 self->fd, BOUNDARY - PAGE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + PAGE - 1, 's'));
	EXPECT_EQ(0, touch(p + PAGE, 't'));
	EXPECT_EQ('s', peek(phys_of(0, BOUNDARY - 1)));
	EXPECT_EQ('t', peek(phys_of(0, BOUNDARY)));
	munmap(p, 2 * PAGE);
	finish();
}

/* The device ends where its last range does. */
TEST_F(ranges, end_of_the_device)
{
	unsigned char *p;
	int fd = fs_open(self->s, "beyond", O_RDWR);
	char c[2];

	if (fd >= 0) {
		p = map_file(fd);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_EQ(SIGBUS, touch(p + BOUNDARY, -1));
		EXPECT_EQ(SIGBUS, touch(p + BOUNDARY, 1));
		EXPECT_GT(2, pread(fd, c, 2, BOUNDARY - 1));
		EXPECT_EQ(-EIO, byte_at(fd, BOUNDARY));
		EXPECT_EQ(-1, pwrite(fd, c, 1, BOUNDARY));
		EXPECT_EQ(EIO, errno);
		munmap(p, SIZE);
		close(fd);
	}
	finish();
}

/* Memory fails on one side of the boundary, and on the other. */
TEST_F(ranges, failure)
{
	static const char zero[PAGE];

	if (access(HWPOISON_INJECT, W_OK))
		SKIP(finish(); return, "there is no hwpoison-inject");
	for (int side = 0; side < 2; side++) {
		size_t bad = BOUNDARY - (side ? 0 : PAGE), well = BOUNDARY - (side ? PAGE : 0);

		ASSERT_EQ(0, touch(self->p + bad, 'b'));
		ASSERT_EQ(0, touch(self->p + well, 'w'));
		ASSERT_EQ(0, hwpoison_inject(phys_of(0, bad)));
		EXPECT_EQ(SIGBUS, touch(self->p + bad, -1));
		EXPECT_EQ(-EIO, byte_at(self->fd, bad));
		EXPECT_EQ(0, touch(self->p + well, -1));
		EXPECT_EQ('w', self->p[well]);
		EXPECT_EQ('w', byte_at(self->fd, well));
		EXPECT_EQ(PAGE, pwrite(self->fd, zero, PAGE, bad));
		EXPECT_EQ(0, byte_at(self->fd, bad));
		EXPECT_EQ(0, touch(self->p + bad, 'n'));
		EXPECT_EQ('n', peek(phys_of(0, bad)));
	}
	finish();
}

/* The device is unbound, with all its ranges, and bound again. */
TEST_F(ranges, unbind)
{
	for (size_t at = 0; at < SIZE; at += 256 * KIB)
		ASSERT_EQ(0, touch(self->p + at, 'u'));
	EXPECT_EQ(0, touch(self->p + BOUNDARY - 1, 'u'));
	EXPECT_EQ(0, touch(self->p + BOUNDARY, 'u'));
	ASSERT_EQ(0, unbind());
	EXPECT_EQ(SIGBUS, touch(self->p + BOUNDARY - 1, -1));
	EXPECT_EQ(SIGBUS, touch(self->p + BOUNDARY, -1));
	EXPECT_EQ(SIGBUS, touch(self->p, 1));
	EXPECT_EQ(SIGBUS, touch(self->p + SIZE - 1, 1));
	EXPECT_EQ(-EIO, byte_at(self->fd, BOUNDARY - 1));
	EXPECT_EQ(-EIO, byte_at(self->fd, BOUNDARY));
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
	ASSERT_EQ(0, bind());
	self->s = new_mount(self->map, variant->nr, variant->skew);
	ASSERT_NE(NULL, self->s);
	self->fd = fs_open(self->s, "1", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = map_file(self->fd);
	ASSERT_NE(MAP_FAILED, self->p);
	EXPECT_EQ(0, touch(self->p + BOUNDARY - 1, -1));
	EXPECT_EQ('u', self->p[BOUNDARY - 1]);
	EXPECT_EQ(0, touch(self->p + BOUNDARY, -1));
	EXPECT_EQ('u', self->p[BOUNDARY]);
	finish();
}

int main(int argc, char **argv)
{
	hwpoison_load();
	dax_peek_init();
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
