// SPDX-License-Identifier: GPL-2.0
/*
 * A program may answer that a part of a file is a hole.
 *
 * A hole reads as zeros, through read(2) and through mappings, by PTE and by PMD
 * faults. It cannot be stored to: a store is SIGBUS, write(2) fails with ENOSPC,
 * and the log gives the reason once. A private mapping, whose stores go to copies,
 * can be stored to. Up to the last byte before the hole and from the first byte
 * behind it the file is like any other.
 *
 * A hole may become memory while it is mapped. Memory that is mapped stays memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/fiemap.h>
#include <linux/fs.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "bpf/moving.h"

#define SIZE	(8 * MIB)

static struct moving_to *moving_to;

FIXTURE(holes) {
	struct fuse_server *s;
	struct scripted map;
	int fd;
	int log, complaints;
	unsigned char *p;
	long refs;
};

/* Where the file is, and where its hole. */
FIXTURE_VARIANT(holes) {
	uint64_t addr;
	uint64_t hole, hole_end;
};

FIXTURE_VARIANT_ADD(holes, huge)	{ 0, 2 * HUGE, 3 * HUGE };
FIXTURE_VARIANT_ADD(holes, small)	{ 0, 2 * HUGE + PAGE, 2 * HUGE + 3 * PAGE };
FIXTURE_VARIANT_ADD(holes, one_page)	{ PAGE, PAGE, 2 * PAGE };
FIXTURE_VARIANT_ADD(holes, first)	{ 0, 0, HUGE };
FIXTURE_VARIANT_ADD(holes, last)	{ 0, SIZE - HUGE, SIZE };
FIXTURE_VARIANT_ADD(holes, odd)		{ PAGE, HUGE - PAGE, 2 * HUGE + PAGE };

FIXTURE_SETUP(holes)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->log = klog_open();
	self->complaints = klog_open();
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->map = fmap_linear(0, variant->addr, SIZE);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	/* The memory below the hole is not zeros, so that a read of zeros proves something. */
	ASSERT_EQ(0, fs_fill(self->s, "file", 'x', SIZE));
	ASSERT_TRUE(fs_forget(self->s));
	self->map.hole = variant->hole;
	self->map.hole_end = variant->hole_end;
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
}

FIXTURE_TEARDOWN(holes)
{
	if (!self->s)
		return;
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
	EXPECT_EQ(0, klog_count(self->complaints, "WARNING:"));
	close(self->log);
	close(self->complaints);
}

/* The byte at @at of the file, as the fixture has made it. */
#define made(at)	((at) >= variant->hole && (at) < variant->hole_end ? 0 : 'x')

/* Both sides of both ends, and the ends of the file. */
static size_t edge(uint64_t hole, uint64_t hole_end, unsigned int i)
{
	const size_t edges[] = { 0, hole - 1, hole, hole_end - 1, hole_end, SIZE - 1 };

	return edges[i];
}

#define for_each_edge(at)						\
	for (size_t _i = 0, at; _i < 6 &&				\
	     (at = edge(variant->hole, variant->hole_end, _i), 1); _i++)	\
		if (at < SIZE)

TEST_F(holes, read)
{
	static unsigned char buf[SIZE];

	ASSERT_EQ(SIZE, pread(self->fd, buf, SIZE, 0));
	for (size_t at = 0; at < SIZE; at++)
		if (buf[at] != made(at)) {
			EXPECT_EQ(made(at), buf[at]) TH_LOG("at %#zx", at);
			break;
		}
	for_each_edge(at) {
		EXPECT_EQ(made(at), byte_at(self->fd, at)) TH_LOG("at %#zx", at);
	}
	EXPECT_EQ(0, fmap_seen()->broken);
}

TEST_F(holes, read_faults)
{
	int load = trace_count_open("fs_dax/dax_load_hole", NULL);
	int pmd_load = trace_count_open("fs_dax/dax_pmd_load_hole", NULL);
	bool huge = variant->hole_end - variant->hole == HUGE &&
		    variant->hole % HUGE == 0;

	ASSERT_LE(0, load);
	ASSERT_LE(0, pmd_load);
	for_each_edge(at) {
		ASSERT_EQ(0, touch(self->p + at, -1)) TH_LOG("at %#zx", at);
		EXPECT_EQ(made(at), self->p[at]) TH_LOG("at %#zx", at);
	}
	for (size_t at = variant->hole; at < variant->hole_end; at += PAGE)
		EXPECT_EQ(0, self->p[at]);
	if (huge) {
		EXPECT_EQ(1, trace_count(pmd_load));
		EXPECT_EQ(0, trace_count(load));
	} else {
		EXPECT_LT(0, trace_count(load));
	}
	close(load);
	close(pmd_load);
}

/* Before anything is mapped there, and where the zero page is mapped. */
TEST_F(holes, write_faults)
{
	for (int mapped = 0; mapped < 2; mapped++)
		for_each_edge(at) {
			EXPECT_EQ(made(at) ? 0 : SIGBUS, touch(self->p + at, 'y'))
				TH_LOG("at %#zx", at);
			EXPECT_EQ(0, touch(self->p + at, -1));
			EXPECT_EQ(made(at) ? 'y' : 0, self->p[at]);
		}
	EXPECT_TRUE(klog_wait(self->log, LOG_PREFIX, "a write to a hole"));
	EXPECT_EQ(0, fsync(self->fd));
}

TEST_F(holes, write)
{
	char buf[16];

	memset(buf, 'w', sizeof(buf));
	for_each_edge(at) {
		if (made(at)) {
			EXPECT_EQ(1, pwrite(self->fd, buf, 1, at)) TH_LOG("at %#zx", at);
			EXPECT_EQ('w', byte_at(self->fd, at));
		} else {
			EXPECT_EQ(-1, pwrite(self->fd, buf, 1, at)) TH_LOG("at %#zx", at);
			EXPECT_EQ(ENOSPC, errno);
			EXPECT_EQ(0, byte_at(self->fd, at));
		}
	}
	EXPECT_TRUE(klog_wait(self->log, LOG_PREFIX, "a write to a hole"));
	/* A write that begins before the hole ends at the hole. */
	if (variant->hole)
		EXPECT_EQ(8, pwrite(self->fd, buf, sizeof(buf), variant->hole - 8));
	EXPECT_EQ(0, byte_at(self->fd, variant->hole));
	/* A write that begins inside the hole writes nothing. */
	EXPECT_EQ(-1, pwrite(self->fd, buf, sizeof(buf), variant->hole_end - 8));
	EXPECT_EQ(ENOSPC, errno);
	if (variant->hole_end < SIZE)
		EXPECT_EQ('w', byte_at(self->fd, variant->hole_end));
}

TEST_F(holes, private)
{
	for (int mapped = 0; mapped < 2; mapped++) {
		unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
					MAP_PRIVATE, self->fd, 0);

		ASSERT_NE(MAP_FAILED, p);
		for_each_edge(at) {
			if (mapped)
				EXPECT_EQ(0, touch(p + at, -1));
			EXPECT_EQ(0, touch(p + at, 'p')) TH_LOG("at %#zx", at);
			EXPECT_EQ('p', p[at]);
			EXPECT_EQ(made(at), self->p[at]);
		}
		/* The rest of the copied page is zeros. */
		EXPECT_EQ(0, p[variant->hole + 1]);
		munmap(p, SIZE);
	}
	EXPECT_EQ(0, klog_count(self->log, "a write to a hole"));
}

TEST_F(holes, seek)
{
	off_t hole = variant->hole, end = variant->hole_end;

	EXPECT_EQ(hole, lseek(self->fd, 0, SEEK_HOLE));
	EXPECT_EQ(hole, lseek(self->fd, hole, SEEK_HOLE));
	EXPECT_EQ(end - 1, lseek(self->fd, end - 1, SEEK_HOLE));
	if (hole) {
		EXPECT_EQ(0, lseek(self->fd, 0, SEEK_DATA));
		EXPECT_EQ(hole - 1, lseek(self->fd, hole - 1, SEEK_DATA));
		EXPECT_EQ(hole, lseek(self->fd, hole - 1, SEEK_HOLE));
	}
	if (end < SIZE) {
		EXPECT_EQ(end, lseek(self->fd, hole, SEEK_DATA));
		EXPECT_EQ(end, lseek(self->fd, end - 1, SEEK_DATA));
		EXPECT_EQ(end, lseek(self->fd, end, SEEK_DATA));
		EXPECT_EQ(SIZE, lseek(self->fd, end, SEEK_HOLE));
	} else {
		EXPECT_EQ(-1, lseek(self->fd, hole, SEEK_DATA));
		EXPECT_EQ(ENXIO, errno);
		EXPECT_EQ(-1, lseek(self->fd, end - 1, SEEK_DATA));
		EXPECT_EQ(ENXIO, errno);
	}
}

TEST_F(holes, fiemap)
{
	struct {
		struct fiemap map;
		struct fiemap_extent extent[4];
	} e = { .map = { .fm_length = ~0ULL, .fm_extent_count = 4 } };
	unsigned int n = 0;

	ASSERT_EQ(0, ioctl(self->fd, FS_IOC_FIEMAP, &e.map));
	if (variant->hole) {
		EXPECT_EQ(0, e.extent[n].fe_logical);
		EXPECT_EQ(variant->addr, e.extent[n].fe_physical);
		EXPECT_EQ(variant->hole, e.extent[n].fe_length);
		n++;
	}
	if (variant->hole_end < SIZE) {
		EXPECT_EQ(variant->hole_end, e.extent[n].fe_logical);
		EXPECT_EQ(variant->addr + variant->hole_end, e.extent[n].fe_physical);
		EXPECT_EQ(SIZE - variant->hole_end, e.extent[n].fe_length);
		n++;
	}
	EXPECT_EQ(n, e.map.fm_mapped_extents);
	EXPECT_EQ(FIEMAP_EXTENT_LAST, e.extent[n - 1].fe_flags);
}

/* Flushing the dirty pages beside a hole leaves data and hole as they are. */
TEST_F(holes, dirty_neighbours)
{
	for_each_edge(at)
		touch(self->p + at, 'd');
	EXPECT_EQ(0, msync(self->p, SIZE, MS_SYNC));
	EXPECT_EQ(0, fsync(self->fd));
	EXPECT_EQ(0, syncfs(self->fd));
	for_each_edge(at)
		EXPECT_EQ(made(at) ? 'd' : 0, self->p[at]);
}

/* Holes of an impossible length, and types that do not exist, are errors. */
TEST_F(holes, nonsense)
{
	static const struct {
		const char *what;
		uint32_t type;
		uint64_t length;
	} bad[] = {
		{ "a byte", 0, 1 },
		{ "a byte too many", 0, PAGE + 1 },
		{ "no multiple", 0, -1ULL },
		{ "type 2", 2, 0 },
		{ "the last type", 0xffff, 0 },
	};

	munmap(self->p, SIZE);
	close(self->fd);
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		ASSERT_TRUE(fs_forget(self->s));
		self->map.hole = 0;
		self->map.hole_end = bad[i].type ? 0 : SIZE;
		self->map.hole_length = bad[i].length;
		self->map.type = bad[i].type;
		self->fd = fs_open(self->s, "file", O_RDWR);
		ASSERT_LE(0, self->fd);
		self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
		ASSERT_NE(MAP_FAILED, self->p);
		EXPECT_EQ(-EIO, byte_at(self->fd, 0)) TH_LOG("%s", bad[i].what);
		EXPECT_EQ(-1, pwrite(self->fd, "", 1, 0));
		EXPECT_EQ(EIO, errno) TH_LOG("%s", bad[i].what);
		EXPECT_EQ(SIGBUS, touch(self->p, -1)) TH_LOG("%s", bad[i].what);
		EXPECT_EQ(SIGBUS, touch(self->p, 1)) TH_LOG("%s", bad[i].what);
		EXPECT_EQ(-1, lseek(self->fd, 0, SEEK_HOLE));
		EXPECT_EQ(EIO, errno) TH_LOG("%s", bad[i].what);
		munmap(self->p, SIZE);
		close(self->fd);
	}
	/* A hole that is longer than the file is cut at the end of the file. */
	ASSERT_TRUE(fs_forget(self->s));
	self->map.hole_length = -PAGE;
	self->map.hole_end = SIZE;
	self->map.type = 0;
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	EXPECT_EQ(0, byte_at(self->fd, SIZE - 1));
	EXPECT_EQ(0, touch(self->p + SIZE - 1, -1));
	EXPECT_EQ(-1, lseek(self->fd, 0, SEEK_DATA));
	EXPECT_EQ(ENXIO, errno);
}

/* ---- a program whose answers change ---- */

FIXTURE(changing) {
	struct fuse_server *s;
	struct moving map;
	int fd, complaints;
	unsigned char *p;
};

FIXTURE_VARIANT(changing) {
	uint64_t addr;
	uint64_t at;		/* looked at first */
};

FIXTURE_VARIANT_ADD(changing, huge)	{ 0, 0 };
FIXTURE_VARIANT_ADD(changing, small)	{ PAGE, 3 * PAGE };

FIXTURE_SETUP(changing)
{
	FMAP_REQUIRE();
	self->complaints = klog_open();
	self->map = (struct moving){ .size = SIZE };
	moving_to->addr[0] = variant->addr;
	moving_to->hole[0] = 0;
	self->s = fmap_server(MOVING_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "file", 'x', SIZE));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
}

FIXTURE_TEARDOWN(changing)
{
	if (!self->s)
		return;
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_EQ(0, klog_count(self->complaints, "WARNING:"));
	moving_to->hole[0] = 0;
}

TEST_F(changing, hole_to_memory)
{
	unsigned char *p = self->p + variant->at, *q;

	moving_to->hole[0] = 1;
	EXPECT_EQ(0, touch(p, -1));
	EXPECT_EQ(0, p[0]);
	moving_to->hole[0] = 0;
	/* The old mapping shows zeros until a fault finds the memory. */
	EXPECT_EQ(0, p[0]);
	q = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(0, touch(q + variant->at, -1));
	EXPECT_EQ('x', q[variant->at]);
	EXPECT_EQ('x', p[0]);
	EXPECT_EQ(0, touch(p, 'y'));
	EXPECT_EQ('y', q[variant->at]);
	EXPECT_EQ('y', byte_at(self->fd, variant->at));
	EXPECT_EQ(0, fsync(self->fd));
	munmap(q, SIZE);
}

TEST_F(changing, hole_to_memory_by_a_store)
{
	unsigned char *p = self->p + variant->at;

	moving_to->hole[0] = 1;
	for (size_t at = 0; at < SIZE - variant->at; at += 3 * PAGE)
		EXPECT_EQ(0, p[at]);
	moving_to->hole[0] = 0;
	for (size_t at = 0; at < SIZE - variant->at; at += 3 * PAGE) {
		EXPECT_EQ(0, touch(p + at, 'y'));
		EXPECT_EQ('y', p[at]);
		EXPECT_EQ('x', p[at + 1]);
	}
	EXPECT_EQ(0, fsync(self->fd));
}

TEST_F(changing, memory_to_hole)
{
	unsigned char *p = self->p + variant->at, *q;

	EXPECT_EQ(0, touch(p, 'y'));
	moving_to->hole[0] = 1;
	/* Mapped memory stays mapped. A new fault there fails. */
	EXPECT_EQ('y', p[0]);
	q = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(SIGBUS, touch(q + variant->at, -1));
	EXPECT_EQ(SIGBUS, touch(q + variant->at, 1));
	EXPECT_EQ(0, byte_at(self->fd, variant->at));
	EXPECT_EQ(0, fsync(self->fd));
	EXPECT_EQ(SIGBUS, touch(p, 1));
	/* A page that was never mapped is a hole now. */
	EXPECT_EQ(0, touch(q + SIZE - PAGE, -1));
	EXPECT_EQ(0, q[SIZE - PAGE]);
	moving_to->hole[0] = 0;
	EXPECT_EQ(0, touch(q + variant->at, 'z'));
	EXPECT_EQ('z', p[0]);
	munmap(q, SIZE);
}

/* The hole comes and goes under faults, writes and fsync. */
TEST_F(changing, all_the_time)
{
	pid_t pid[4];

	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		for (unsigned int n = 0; n < 300; n++) {
			size_t at = n * 37 * PAGE % SIZE;

			if (i == 0)
				moving_to->hole[0] = n % 2;
			else if (i == 1)
				touch(self->p + at, n % 3 ? -1 : 'y');
			else if (i == 2 && pwrite(self->fd, "w", 1, at) != 1 &&
				 errno != ENOSPC)
				_exit(1);
			else if (i == 3 && fsync(self->fd))
				_exit(1);
			if (i == 1 && n % 50 == 0)
				madvise(self->p, SIZE, MADV_DONTNEED);
		}
		_exit(0);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, ended(pid[i]));
}

int main(int argc, char **argv)
{
	fmap_register("moving.bpf.o");
	moving_to = (void *)fmap_seen();
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
