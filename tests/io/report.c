// SPDX-License-Identifier: GPL-2.0
/*
 * What lseek(2), FIEMAP and statx(2) report of a mapped file: data and holes,
 * extents, that it is in DAX memory, and its blocks.
 *
 * Data and extents end where reads end, at the smaller of the file's size and its
 * mapped size. A report maps nothing and associates no memory with the file, so
 * it also works for memory that another file owns. If the program's answer is
 * invalid, the report is an error and not an extent.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/fiemap.h>
#include <linux/fs.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#ifndef STATX_ATTR_DAX
#define STATX_ATTR_DAX	0x00200000
#endif

#define ADDR	(2 * MIB)

FIXTURE(report) {
	struct fuse_server *s;
	struct scripted map;
	struct fs_file *f;
	int fd;
	int log;
	long refs;
};

/* Size of the file, and of its map. */
FIXTURE_VARIANT(report) {
	uint64_t size;
	uint64_t mapped;
};

FIXTURE_VARIANT_ADD(report, equal)		{ 4 * MIB, 4 * MIB };
FIXTURE_VARIANT_ADD(report, one_byte)		{ 1, 1 };
FIXTURE_VARIANT_ADD(report, unaligned)		{ HUGE + 1, HUGE + 1 };
FIXTURE_VARIANT_ADD(report, file_smaller)	{ HUGE - 1, 4 * MIB };
FIXTURE_VARIANT_ADD(report, map_smaller)	{ 4 * MIB, HUGE + 100 };
FIXTURE_VARIANT_ADD(report, map_a_byte_smaller)	{ HUGE, HUGE - 1 };

FIXTURE_SETUP(report)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->log = klog_open();
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->map = fmap_linear(0, ADDR, variant->mapped);
	self->f = fs_add(self->s, "file", variant->size, &self->map, sizeof(self->map));
	fs_add(self->s, "plain", PAGE, NULL, 0);
	ASSERT_EQ(0, fs_mount(self->s));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(report)
{
	if (!self->s)
		return;
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
	close(self->log);
}

/* Where I/O of the file ends, and the end of that page. */
#define END	(variant->size < variant->mapped ? variant->size : variant->mapped)
#define page_end(x)	(((x) + PAGE - 1) & ~(PAGE - 1))

#define expect_seek(offset, whence, expected) do {			\
	off_t _e = (expected);						\
									\
	errno = 0;							\
	if (_e < 0) {							\
		EXPECT_EQ(-1, lseek(self->fd, offset, whence));		\
		EXPECT_EQ(-_e, errno);					\
	} else {							\
		EXPECT_EQ(_e, lseek(self->fd, offset, whence));		\
		EXPECT_EQ(_e, lseek(self->fd, 0, SEEK_CUR));		\
	}								\
} while (0)

TEST_F(report, seek)
{
	off_t end = END, size = variant->size;

	expect_seek(0, SEEK_DATA, 0);
	expect_seek(0, SEEK_HOLE, end);
	expect_seek(end - 1, SEEK_DATA, end - 1);
	expect_seek(end - 1, SEEK_HOLE, end);
	expect_seek(end / 2, SEEK_DATA, end / 2);
	expect_seek(end / 2, SEEK_HOLE, end);
	expect_seek(end, SEEK_DATA, -ENXIO);
	expect_seek(end, SEEK_HOLE, -ENXIO);
	expect_seek(end + 1, SEEK_DATA, -ENXIO);
	expect_seek(-1, SEEK_DATA, -ENXIO);
	expect_seek(-1, SEEK_HOLE, -ENXIO);
	expect_seek(INT64_MAX, SEEK_HOLE, -ENXIO);
	/* The other modes use the file's size, as for any file. */
	expect_seek(0, SEEK_END, size);
	expect_seek(-1, SEEK_END, size - 1);
	expect_seek(7, SEEK_SET, 7);
	expect_seek(1, SEEK_CUR, 8);
	expect_seek(0, 77, -EINVAL);
}

struct extents {
	struct fiemap	map;
	struct fiemap_extent extent[32];
};

static int fiemap(int fd, struct extents *e, uint64_t start, uint64_t len,
		  unsigned int flags, unsigned int room)
{
	memset(e, 0, sizeof(*e));
	e->map.fm_start = start;
	e->map.fm_length = len;
	e->map.fm_flags = flags;
	e->map.fm_extent_count = room;
	return ioctl(fd, FS_IOC_FIEMAP, &e->map) ? -errno : 0;
}

TEST_F(report, fiemap)
{
	struct extents e;

	ASSERT_EQ(0, fiemap(self->fd, &e, 0, ~0ULL, 0, 32));
	ASSERT_EQ(1, e.map.fm_mapped_extents);
	EXPECT_EQ(0, e.extent[0].fe_logical);
	EXPECT_EQ(ADDR, e.extent[0].fe_physical);
	EXPECT_EQ(page_end(END), e.extent[0].fe_length);
	EXPECT_EQ(FIEMAP_EXTENT_LAST, e.extent[0].fe_flags);

	/* Without an array; a part of the file; behind its end; of length 0; xattrs. */
	ASSERT_EQ(0, fiemap(self->fd, &e, 0, ~0ULL, FIEMAP_FLAG_SYNC, 0));
	EXPECT_EQ(1, e.map.fm_mapped_extents);
	ASSERT_EQ(0, fiemap(self->fd, &e, END - 1, 1, 0, 32));
	EXPECT_EQ(1, e.map.fm_mapped_extents);
	ASSERT_EQ(0, fiemap(self->fd, &e, END, 1 << 30, 0, 32));
	EXPECT_EQ(0, e.map.fm_mapped_extents);
	EXPECT_EQ(-EINVAL, fiemap(self->fd, &e, 0, 0, 0, 32));
	EXPECT_EQ(-EBADR, fiemap(self->fd, &e, 0, ~0ULL, FIEMAP_FLAG_XATTR, 32));
}

/* Each answer of the program is an extent. A second call returns those that did not fit. */
TEST_F(report, many_extents)
{
	static const uint64_t step = 64 * KIB;
	struct extents e;
	uint64_t end = page_end(END), at = 0;

	if (self->map.flags != SCRIPTED_LINEAR || END < HUGE - 1)
		SKIP(return, "one extent is all there can be");
	/* Evict the file, and let the program return at most @step bytes. */
	close(self->fd);
	ASSERT_TRUE(fs_forget(self->s));
	self->map.flags |= SCRIPTED_STEPS;
	self->map.step = step;
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);

	do {
		ASSERT_EQ(0, fiemap(self->fd, &e, at, ~0ULL, 0, 5));
		for (unsigned int i = 0; i < e.map.fm_mapped_extents; i++) {
			EXPECT_EQ(at, e.extent[i].fe_logical);
			EXPECT_EQ(ADDR + at, e.extent[i].fe_physical);
			at += e.extent[i].fe_length;
			EXPECT_EQ(at >= end, !!(e.extent[i].fe_flags & FIEMAP_EXTENT_LAST));
		}
	} while (e.map.fm_mapped_extents && at < end);
	EXPECT_LE(end, at);
	expect_seek(0, SEEK_HOLE, END);
	expect_seek(END - 1, SEEK_DATA, END - 1);
}

/* filefrag(8), if it is installed. */
TEST_F(report, filefrag)
{
	char line[256], expected[64], cmd[128];
	bool found = false;
	FILE *f;

	snprintf(cmd, sizeof(cmd), "filefrag -v -b4096 %s", fs_path(self->s, "file"));
	if (system("type filefrag >/dev/null 2>&1"))
		SKIP(return, "there is no filefrag");
	snprintf(expected, sizeof(expected), "%llu..", (unsigned long long)(ADDR / PAGE));
	f = popen(cmd, "r");
	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f))
		found |= strstr(line, expected) && strstr(line, "last");
	EXPECT_EQ(0, pclose(f));
	EXPECT_TRUE(found) TH_LOG("\"%s\" does not show %s", cmd, expected);
}

TEST_F(report, statx)
{
	struct statx stx;

	ASSERT_EQ(0, statx(self->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx));
	EXPECT_TRUE(stx.stx_attributes_mask & STATX_ATTR_DAX);
	EXPECT_TRUE(stx.stx_attributes & STATX_ATTR_DAX);
	EXPECT_EQ(variant->size, stx.stx_size);
	/* The number of blocks is the server's. */
	EXPECT_EQ((variant->size + 511) / 512, stx.stx_blocks);

	ASSERT_EQ(0, fs_try(self->s, "plain"));
	ASSERT_EQ(0, statx(AT_FDCWD, fs_path(self->s, "plain"), 0,
			   STATX_BASIC_STATS, &stx));
	EXPECT_TRUE(stx.stx_attributes_mask & STATX_ATTR_DAX);
	EXPECT_FALSE(stx.stx_attributes & STATX_ATTR_DAX);
}

/* A report takes no fault, and associates no memory. */
TEST_F(report, asking_maps_nothing)
{
	int pmd = trace_count_open("fs_dax/dax_pmd_fault", NULL);
	int pte = trace_count_open("fs_dax/dax_pte_fault", NULL);
	struct extents e;

	ASSERT_LE(0, pmd);
	ASSERT_LE(0, pte);
	ASSERT_EQ(0, fiemap(self->fd, &e, 0, ~0ULL, FIEMAP_FLAG_SYNC, 32));
	expect_seek(0, SEEK_HOLE, END);
	EXPECT_EQ(0, trace_count(pmd) + trace_count(pte));
	close(pmd);
	close(pte);
}

/* The caller gets the program's errno, or EIO for an invalid answer, and the log one line. */
TEST_F(report, refused)
{
	static const struct {
		const char	*what;
		int		errno_;
		int32_t		begin_ret;
		uint64_t	addr, length;
		uint32_t	dev;
	} bad[] = {
		{ "its own errno", ENODATA, -ENODATA, ADDR, 8 * MIB, 0 },
		{ "no errno", EIO, 1, ADDR, 8 * MIB, 0 },
		{ "length 0", EIO, 0, ADDR, 0, 0 },
		{ "no page", EIO, 0, ADDR + 1, 8 * MIB, 0 },
		{ "another device", EIO, 0, ADDR, 8 * MIB, 1 },
		{ "no device", EIO, 0, ADDR, 8 * MIB, 64 },
		{ "beyond the device", EIO, 0, 1ULL << 62, PAGE, 0 },
		{ "an overflow", EIO, 0, -PAGE, 2 * PAGE, 0 },
	};
	char line[128];
	struct extents e;

	close(self->fd);
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		ASSERT_TRUE(fs_forget(self->s));
		self->map.flags = 0;
		self->map.begin_ret = bad[i].begin_ret;
		self->map.addr = bad[i].addr;
		self->map.length = bad[i].length;
		self->map.dev_index = bad[i].dev;
		self->fd = fs_open(self->s, "file", O_RDWR);
		ASSERT_LE(0, self->fd) TH_LOG("%s", bad[i].what);
		EXPECT_EQ(-bad[i].errno_, fiemap(self->fd, &e, 0, ~0ULL, 0, 32))
			TH_LOG("%s", bad[i].what);
		EXPECT_EQ(-1, lseek(self->fd, 0, SEEK_HOLE));
		EXPECT_EQ(bad[i].errno_, errno) TH_LOG("%s", bad[i].what);
		EXPECT_EQ(-1, lseek(self->fd, 0, SEEK_DATA));
		EXPECT_EQ(bad[i].errno_, errno) TH_LOG("%s", bad[i].what);
		close(self->fd);
	}
	self->fd = -1;
	snprintf(line, sizeof(line), "(\"/file\") at 0x0: iomap_begin() returns %s",
		 klog_errno(ENODATA));
	EXPECT_TRUE(klog_wait(self->log, LOG_PREFIX, line));
}

/*
 * The largest possible file, whose program maps one page at a time. The report
 * would take years, but can be killed.
 */
TEST_F(report, without_end)
{
	struct extents e;
	pid_t pid;

	close(self->fd);
	ASSERT_TRUE(fs_forget(self->s));
	self->map.flags = 0;
	self->map.length = PAGE;
	self->map.file_size = INT64_MAX;
	self->f->size = INT64_MAX;
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	for (int way = 0; way < 2; way++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			if (way)
				fiemap(self->fd, &e, 0, ~0ULL, 0, 0);
			else
				lseek(self->fd, 0, SEEK_HOLE);
			_exit(0);
		}
		usleep(100 * 1000);
		EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
		kill(pid, SIGKILL);
		EXPECT_EQ(SIGKILL, ended(pid));
	}
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
