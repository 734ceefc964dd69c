// SPDX-License-Identifier: GPL-2.0
/*
 * The map of a file decides its size, so a mapped file cannot change its size.
 *
 * The kernel answers such a call with EOPNOTSUPP, and does not send it to the
 * server: after a SETATTR with a size, or an OPEN with O_TRUNC, server and map
 * would disagree (and at least one existing server crashes). All other attributes
 * are set as usual, and the size of files without a map can be set.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(64 * KIB)

/* Requests that would have changed a size. */
static _Atomic unsigned int truncating_opens, truncating_setattrs;

static void watch_open(struct fuse_server *s, const struct fuse_in_header *in,
		       const void *arg)
{
	const struct fuse_open_in *open = arg;

	if (open->flags & O_TRUNC)
		truncating_opens++;
	fs_default(s, in, arg);
}

static void watch_setattr(struct fuse_server *s, const struct fuse_in_header *in,
			  const void *arg)
{
	const struct fuse_setattr_in *set = arg;

	if ((set->valid & FATTR_SIZE) && in->nodeid == s->file[0].nodeid)
		truncating_setattrs++;
	fs_default(s, in, arg);
}

FIXTURE(sizes) {
	struct fuse_server *s;
	struct scripted map;
};

FIXTURE_VARIANT(sizes) {
	uint32_t init_flags;	/* whether the server truncates in OPEN */
};

FIXTURE_VARIANT_ADD(sizes, plain) {
	.init_flags = 0,
};

FIXTURE_VARIANT_ADD(sizes, atomic_o_trunc) {
	.init_flags = FUSE_ATOMIC_O_TRUNC,
};

FIXTURE_VARIANT_ADD(sizes, writeback_cache) {
	.init_flags = FUSE_ATOMIC_O_TRUNC | FUSE_WRITEBACK_CACHE,
};

FIXTURE_SETUP(sizes)
{
	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->init_flags |= variant->init_flags;
	self->s->hook[FUSE_OPEN] = watch_open;
	self->s->hook[FUSE_SETATTR] = watch_setattr;
	truncating_opens = 0;
	truncating_setattrs = 0;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "plain", 5000, NULL, 0);
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(sizes)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

#define expect_untouched() do {						\
	struct stat st;							\
	EXPECT_EQ(0, truncating_opens);					\
	EXPECT_EQ(0, truncating_setattrs);				\
	EXPECT_EQ(0, self->s->count[FUSE_FALLOCATE]);			\
	EXPECT_EQ(SIZE, self->s->file[0].size);				\
	EXPECT_EQ(0, stat(fs_path(self->s, "file"), &st));		\
	EXPECT_EQ(SIZE, st.st_size);					\
} while (0)

TEST_F(sizes, ftruncate)
{
	static const off_t sizes[] = { 0, 1, SIZE - 1, SIZE + 1, SIZE + MIB };
	int fd = fs_open(self->s, "file", O_RDWR);

	ASSERT_LE(0, fd);
	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		EXPECT_EQ(-1, ftruncate(fd, sizes[i]));
		EXPECT_EQ(EOPNOTSUPP, errno);
	}
	close(fd);
	expect_untouched();
}

TEST_F(sizes, truncate)
{
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(-1, truncate(fs_path(self->s, "file"), 100));
	EXPECT_EQ(EOPNOTSUPP, errno);
	expect_untouched();
}

TEST_F(sizes, open_truncates_known_file)
{
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(-EOPNOTSUPP, fs_open(self->s, "file", O_RDWR | O_TRUNC));
	expect_untouched();
}

/* This open has to ask for the map before it can refuse to truncate. */
TEST_F(sizes, open_truncates_new_file)
{
	EXPECT_EQ(-EOPNOTSUPP, fs_open(self->s, "file", O_RDWR | O_TRUNC));
	expect_untouched();
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

/* Until a file is opened, it is FUSE's: the server is told. */
TEST_F(sizes, truncate_before_the_first_open)
{
	EXPECT_EQ(0, truncate(fs_path(self->s, "file"), SIZE / 2));
	EXPECT_EQ(1, truncating_setattrs);
	EXPECT_EQ(0, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(SIZE / 2, self->s->file[0].size);
}

/* Open for neither reading nor writing. */
TEST_F(sizes, open_truncates_no_rw)
{
	EXPECT_EQ(-EOPNOTSUPP, fs_open(self->s, "file", O_ACCMODE | O_TRUNC));
	expect_untouched();
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(-EOPNOTSUPP, fs_open(self->s, "file", O_ACCMODE | O_TRUNC));
	expect_untouched();
}

TEST_F(sizes, fallocate)
{
	static const int modes[] = {
		0, FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE,
	};
	int fd = fs_open(self->s, "file", O_RDWR);

	ASSERT_LE(0, fd);
	for (unsigned int i = 0; i < ARRAY_SIZE(modes); i++) {
		EXPECT_EQ(-1, fallocate(fd, modes[i], 0, 2 * SIZE));
		EXPECT_EQ(EOPNOTSUPP, errno);
	}
	close(fd);
	expect_untouched();
}

TEST_F(sizes, copy_file_range)
{
	int in = fs_open(self->s, "plain", O_RDONLY);
	int out = fs_open(self->s, "file", O_RDWR);

	ASSERT_LE(0, in);
	ASSERT_LE(0, out);
	/* The kernel may copy by itself, but must not ask the server to copy. */
	copy_file_range(in, NULL, out, NULL, 100, 0);
	EXPECT_EQ(0, self->s->count[FUSE_COPY_FILE_RANGE]);
	close(in);
	close(out);
	expect_untouched();
}

/* Neither append nor a write beyond the end makes the file grow. */
TEST_F(sizes, write_beyond_end)
{
	int fd = fs_open(self->s, "file", O_RDWR);

	ASSERT_LE(0, fd);
	EXPECT_GE(0, pwrite(fd, "x", 1, SIZE));
	EXPECT_GE(0, pwrite(fd, "x", 1, SIZE + MIB));
	/* A write across the end is cut at the end. */
	EXPECT_EQ(10, pwrite(fd, "0123456789abcdef", 16, SIZE - 10));
	close(fd);
	fd = fs_open(self->s, "file", O_RDWR | O_APPEND);
	ASSERT_LE(0, fd);
	EXPECT_GE(0, write(fd, "x", 1));
	close(fd);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	expect_untouched();
}

TEST_F(sizes, direct_io)
{
	static char buf[PAGE] __attribute__((aligned(4096)));
	int fd = fs_open(self->s, "file", O_RDWR | O_DIRECT);

	ASSERT_LE(0, fd);
	memset(buf, 'd', sizeof(buf));
	EXPECT_EQ(PAGE, pwrite(fd, buf, PAGE, PAGE));
	EXPECT_EQ(PAGE, pread(fd, buf, PAGE, PAGE));
	close(fd);
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
}

TEST_F(sizes, other_attributes)
{
	const struct timespec times[2] = { { .tv_sec = 1000 }, { .tv_sec = 2000 } };
	struct stat st;
	int fd = fs_open(self->s, "file", O_RDWR);

	ASSERT_LE(0, fd);
	EXPECT_EQ(0, fchmod(fd, 0600));
	EXPECT_EQ(0, futimens(fd, times));
	EXPECT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(S_IFREG | 0600, st.st_mode);
	EXPECT_EQ(2000, st.st_mtime);
	EXPECT_EQ(SIZE, st.st_size);
	EXPECT_LE(2, self->s->count[FUSE_SETATTR]);
	/* The server has set the attributes, and the file is still mapped. */
	EXPECT_EQ(1, pwrite(fd, "x", 1, 0));
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	close(fd);
}

TEST_F(sizes, file_without_map)
{
	int fd;

	EXPECT_EQ(0, truncate(fs_path(self->s, "plain"), 100));
	EXPECT_EQ(100, self->s->file[1].size);
	fd = fs_open(self->s, "plain", O_RDWR | O_TRUNC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(2, pwrite(fd, "hi", 2, 0));
	EXPECT_EQ(0, ftruncate(fd, 1));
	close(fd);
	EXPECT_EQ(1, self->s->file[1].size);
	EXPECT_LE(1, self->s->count[FUSE_WRITE]);
}

/* The server's size and the map's differ: I/O ends at the smaller one. */
FIXTURE(disagree) {
	struct fuse_server *s;
	struct scripted map;
};

FIXTURE_VARIANT(disagree) {
	uint64_t attr;
	uint64_t map;
};

FIXTURE_VARIANT_ADD(disagree, map_is_smaller) {
	.attr = 3 * PAGE,
	.map = PAGE + 100,
};

FIXTURE_VARIANT_ADD(disagree, attributes_are_smaller) {
	.attr = PAGE + 100,
	.map = 3 * PAGE,
};

FIXTURE_SETUP(disagree)
{
	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, variant->map);
	self->map.length = SIZE;
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", variant->attr, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(disagree)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(disagree, smaller_one_counts)
{
	unsigned char *p;
	char buf[SIZE];
	int fd = fs_open(self->s, "file", O_RDWR);

	ASSERT_LE(0, fd);
	memset(buf, 'x', sizeof(buf));
	EXPECT_EQ(PAGE + 100, pread(fd, buf, sizeof(buf), 0));
	EXPECT_EQ(0, pread(fd, buf, 1, PAGE + 100));
	EXPECT_EQ(0, pread(fd, buf, 1, 2 * PAGE + 100));
	EXPECT_EQ(100, pwrite(fd, buf, PAGE, PAGE));
	EXPECT_GE(0, pwrite(fd, buf, 1, PAGE + 100));

	p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 1));
	EXPECT_EQ(0, touch(p + PAGE + 99, 1));
	EXPECT_EQ(SIGBUS, touch(p + 2 * PAGE, 1));
	EXPECT_EQ(SIGBUS, touch(p + 3 * PAGE, 1));
	munmap(p, 4 * PAGE);
	close(fd);
	EXPECT_EQ(0, fmap_seen()->broken);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
