// SPDX-License-Identifier: GPL-2.0
/*
 * What cachestat(2) sees of a mapped file, and what a mapping of it keeps.
 *
 * A DAX file has no folios in its page cache but DAX entries, and not all system calls
 * know the difference: cachestat(2) takes such an entry for a shadow entry and follows a
 * wild pointer. So a descriptor of a mapped file has an empty page cache, and its VMAs
 * hold another file. A user must not notice: a mapping has the path of its file, stays
 * usable without the descriptor, delays RELEASE until it is gone, and does not count as
 * another open of the file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(8 * MIB)

FIXTURE(open_file) {
	struct fuse_server *s;
	struct scripted map;
	int fd;
};

FIXTURE_VARIANT(open_file) {
	uint64_t addr;
};

FIXTURE_VARIANT_ADD(open_file, huge_pages) {
	.addr = 4 * MIB,
};

FIXTURE_VARIANT_ADD(open_file, small_pages) {
	.addr = 4 * MIB + PAGE,
};

FIXTURE_SETUP(open_file)
{
	FMAP_REQUIRE();
	FMAP_MOUNT_ONE_FILE(variant->addr, SIZE);
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
}

/* A file that is never released would keep the mount. */
FIXTURE_TEARDOWN(open_file)
{
	close(self->fd);
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(0, fs_stop(self->s));
}

static unsigned char *map(int fd, int prot, int flags)
{
	return mmap(address_range(0, SIZE), SIZE, prot, flags | MAP_FIXED, fd, 0);
}

/* Store to each page: PMD entries, or 2048 PTE entries, at all kinds of addresses. */
static void store_all(unsigned char *p)
{
	for (size_t at = 0; at < SIZE; at += PAGE)
		p[at] = at / PAGE;
}

static bool stored_all(const unsigned char *p)
{
	for (size_t at = 0; at < SIZE; at += PAGE)
		if (p[at] != (unsigned char)(at / PAGE))
			return false;
	return true;
}

/* ---- cachestat ---- */

#define expect_no_pages(fd) do {					\
	struct fmap_cachestat _cs;					\
									\
	EXPECT_EQ(0, fmap_cachestat(fd, &_cs)) TH_LOG("%s", strerror(errno)); \
	EXPECT_EQ(0, _cs.cache);					\
	EXPECT_EQ(0, _cs.dirty);					\
	EXPECT_EQ(0, _cs.writeback);					\
	EXPECT_EQ(0, _cs.evicted);					\
	EXPECT_EQ(0, _cs.recently_evicted);				\
} while (0)

TEST_F(open_file, cachestat)
{
	int reader = fs_open(self->s, "file", O_RDONLY);
	int path = fs_open(self->s, "file", O_PATH);
	unsigned char *p;

	ASSERT_LE(0, reader);
	ASSERT_LE(0, path);
	expect_no_pages(self->fd);
	p = map(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, p);
	expect_no_pages(self->fd);
	/* Mapped for reading, */
	for (size_t at = 0; at < SIZE; at += PAGE)
		touch(p + at, -1);
	expect_no_pages(self->fd);
	expect_no_pages(reader);
	/* dirty, */
	store_all(p);
	expect_no_pages(self->fd);
	expect_no_pages(reader);
	/* flushed, */
	EXPECT_EQ(0, msync(p, SIZE, MS_SYNC));
	expect_no_pages(self->fd);
	expect_no_pages(reader);
	/* and no longer mapped. */
	munmap(p, SIZE);
	expect_no_pages(self->fd);
	expect_no_pages(reader);
	{
		struct fmap_cachestat cs;

		EXPECT_EQ(-1, fmap_cachestat(path, &cs));
		EXPECT_EQ(EBADF, errno);
	}
	close(path);
	close(reader);
}

static struct {
	uint64_t nodeid, fh;
} synced;

static void note_fsync(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	synced.nodeid = in->nodeid;
	synced.fh = ((const struct fuse_fsync_in *)arg)->fh;
	fs_default(s, in, arg);
}

/* A new mount, in which the file has not been opened yet. */
#define start_anew() do {						\
	close(self->fd);						\
	self->fd = -1;							\
	ASSERT_EQ(0, fs_stop(self->s));					\
	self->s = fmap_server(SCRIPTED_OPS_NAME);			\
	ASSERT_NE(NULL, self->s);					\
	fs_add(self->s, "other", PAGE, &self->map, sizeof(self->map));	\
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));	\
	ASSERT_EQ(0, fs_mount(self->s));				\
} while (0)

/*
 * A no_rw descriptor (access mode 3) is opened by FUSE, without a request for the map.
 * The inode may become mapped later.
 */
TEST_F(open_file, cachestat_of_a_no_rw_descriptor)
{
	struct fuse_server *s;
	unsigned char *p;
	char path[128];
	int fd, idle;

	start_anew();
	s = self->s;
	snprintf(path, sizeof(path), "%s", fs_path(s, "file"));
	idle = open(path, O_ACCMODE);
	ASSERT_LE(0, idle);
	EXPECT_EQ(0, s->count[FUSE_GET_FMAP]);
	expect_no_pages(idle);
	fd = fs_open(s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	p = map(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, p);
	store_all(p);
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	expect_no_pages(idle);
	EXPECT_EQ(0, fsync(idle));
	EXPECT_EQ(1, s->count[FUSE_FSYNC]);
	/* The same for a no_rw descriptor that is opened now. */
	self->fd = open(path, O_ACCMODE);
	ASSERT_LE(0, self->fd);
	expect_no_pages(self->fd);
	munmap(p, SIZE);
	close(fd);
	close(idle);
	EXPECT_TRUE(fs_wait(s, FUSE_RELEASE, 2));
}

/* A no_rw descriptor works before the inode becomes mapped and after. */
TEST_F(open_file, no_rw_descriptor)
{
	struct fuse_server *s;
	int idle, many[20];
	unsigned char *p;
	char path[128];

	start_anew();
	s = self->s;
	s->hook[FUSE_FSYNC] = note_fsync;
	snprintf(path, sizeof(path), "%s", fs_path(s, "file"));
	idle = open(path, O_ACCMODE | O_DIRECT);
	ASSERT_LE(0, idle) TH_LOG("%s", strerror(errno));
	for (int mapped = 0; mapped < 2; mapped++) {
		EXPECT_EQ(mapped, s->count[FUSE_GET_FMAP]);
		synced.nodeid = 0;
		EXPECT_EQ(0, fsync(idle));
		EXPECT_EQ(s->file[1].nodeid, synced.nodeid);
		EXPECT_EQ(SIZE, lseek(idle, 0, SEEK_END));
		EXPECT_EQ(5, lseek(idle, 5, SEEK_SET));
		EXPECT_EQ(0, sync_file_range(idle, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE |
					     SYNC_FILE_RANGE_WRITE |
					     SYNC_FILE_RANGE_WAIT_AFTER));
		for (int advice = POSIX_FADV_NORMAL; advice <= POSIX_FADV_NOREUSE; advice++)
			EXPECT_EQ(0, posix_fadvise(idle, 0, SIZE, advice));
		for (unsigned int i = 0; i < ARRAY_SIZE(many); i++) {
			many[i] = open(path, O_ACCMODE);
			ASSERT_LE(0, many[i]);
			expect_no_pages(many[i]);
		}
		for (unsigned int i = 0; i < ARRAY_SIZE(many); i++)
			close(many[i]);
		if (!mapped)
			self->fd = fs_open(s, "file", O_RDWR);
		ASSERT_LE(0, self->fd);
		p = map(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED);
		ASSERT_NE(MAP_FAILED, p);
		store_all(p);
		munmap(p, SIZE);
	}
	expect_no_pages(idle);
	close(idle);
}

/*
 * While the map arrives, two tasks have a no_rw descriptor and four wait in open(2):
 * none of them may see DAX entries, before or after.
 */
TEST_F_TIMEOUT(open_file, cachestat_while_the_map_comes, 60)
{
	struct fmap_cachestat cs;
	pid_t idle[2], opener[4];
	struct fuse_server *s;
	char path[128];
	int end[2];

	start_anew();
	s = self->s;
	snprintf(path, sizeof(path), "%s", fs_path(s, "file"));
	for (unsigned int round = 1; round <= 5; round++) {
		s->hold[FUSE_GET_FMAP] = true;
		ASSERT_EQ(0, pipe2(end, O_NONBLOCK));
		for (unsigned int i = 0; i < ARRAY_SIZE(idle); i++) {
			idle[i] = fork();
			ASSERT_LE(0, idle[i]);
			if (idle[i])
				continue;
			close(end[1]);
			for (int fd = open(path, O_ACCMODE);;) {
				char c;

				if (fd < 0 || fmap_cachestat(fd, &cs) || cs.cache || cs.evicted)
					_exit(1);
				if (!read(end[0], &c, 1))
					_exit(0);
			}
		}
		for (unsigned int i = 0; i < ARRAY_SIZE(opener); i++) {
			opener[i] = fork();
			ASSERT_LE(0, opener[i]);
			if (!opener[i]) {
				int fd = fs_open(s, "file", O_RDWR);
				unsigned char *p = map(fd, PROT_READ | PROT_WRITE, MAP_SHARED);

				if (p == MAP_FAILED)
					_exit(1);
				store_all(p);
				_exit(fmap_cachestat(fd, &cs) || cs.cache || cs.evicted ? 2 : 0);
			}
		}
		ASSERT_TRUE(fs_wait(s, FUSE_GET_FMAP, round));
		usleep(20 * 1000);
		s->hold[FUSE_GET_FMAP] = false;
		fs_release(s, FUSE_GET_FMAP);
		for (unsigned int i = 0; i < ARRAY_SIZE(opener); i++)
			EXPECT_EQ(0, ended(opener[i]));
		close(end[0]);
		close(end[1]);
		for (unsigned int i = 0; i < ARRAY_SIZE(idle); i++)
			EXPECT_EQ(0, ended(idle[i]));
		EXPECT_EQ(round, s->count[FUSE_GET_FMAP]);
		EXPECT_TRUE(fs_forget(s));
	}
}

/* ---- what a mapping is ---- */

/* Count the mappings of @path in an address range; negative if map_files has another path. */
static int mappings_in(const void *p, size_t len, const char *path)
{
	unsigned long start, end;
	char line[512], link[64], target[256] = "";
	int n = 0;
	FILE *f = fopen("/proc/self/maps", "r");

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx", &start, &end) != 2 || end <= (uintptr_t)p ||
		    start >= (uintptr_t)p + len)
			continue;
		if (!strstr(line, path))
			continue;
		snprintf(link, sizeof(link), "/proc/self/map_files/%lx-%lx", start, end);
		memset(target, 0, sizeof(target));
		if (readlink(link, target, sizeof(target) - 1) > 0 && strcmp(target, path))
			n = -1000;
		n++;
	}
	fclose(f);
	return n;
}

TEST_F(open_file, path)
{
	unsigned char *p = map(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	char path[128], link[64];
	int fd;

	ASSERT_NE(MAP_FAILED, p);
	snprintf(path, sizeof(path), "%s", fs_path(self->s, "file"));
	EXPECT_EQ(1, mappings_in(p, SIZE, path));
	/* The link in map_files opens the file, with a descriptor like any other. */
	p[5] = 'p';
	snprintf(link, sizeof(link), "/proc/self/map_files/%lx-%lx", (long)p, (long)p + SIZE);
	fd = open(link, O_RDWR);
	ASSERT_LE(0, fd) TH_LOG("%s: %s", link, strerror(errno));
	EXPECT_EQ('p', byte_at(fd, 5));
	expect_no_pages(fd);
	close(fd);
	munmap(p, SIZE);
}

/*
 * Two mappings side by side that are from two calls of mmap(2) are never merged,
 * whatever changes them later. The pieces of one mapping are split and merged as usual.
 */
TEST_F(open_file, pieces)
{
	unsigned char *p = address_range(0, SIZE);
	char path[128];

	snprintf(path, sizeof(path), "%s", fs_path(self->s, "file"));
	for (size_t at = 0; at < SIZE; at += 2 * MIB)
		ASSERT_NE(MAP_FAILED, mmap(p + at, 2 * MIB, PROT_READ | PROT_WRITE,
					   MAP_SHARED | MAP_FIXED, self->fd, at));
	EXPECT_EQ(4, mappings_in(p, SIZE, path));
	store_all(p);
	ASSERT_EQ(0, mprotect(p, SIZE, PROT_READ));
	EXPECT_EQ(4, mappings_in(p, SIZE, path));
	/* The second half of the first mapping and the first half of the second. */
	ASSERT_EQ(0, mprotect(p + MIB, 2 * MIB, PROT_READ | PROT_WRITE));
	EXPECT_EQ(6, mappings_in(p, SIZE, path));
	EXPECT_TRUE(stored_all(p));
	ASSERT_EQ(0, mprotect(p, SIZE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(4, mappings_in(p, SIZE, path));
	EXPECT_TRUE(stored_all(p));
	munmap(p + MIB / 2, MIB);
	EXPECT_EQ(5, mappings_in(p, SIZE, path));
	munmap(p, SIZE);
	/* Many mappings, unmapped in part or in full: in the end all of them are freed. */
	for (int i = 0; i < 100; i++) {
		p = map(self->fd, PROT_READ, i % 2 ? MAP_SHARED : MAP_PRIVATE);
		ASSERT_NE(MAP_FAILED, p);
		munmap(p, i % 3 ? SIZE : SIZE - MIB);
		munmap(p, SIZE);
	}
}

/* remap_file_pages(2) maps the file of a mapping again, by itself. */
TEST_F(open_file, remap_file_pages)
{
	unsigned char *p = map(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	uint64_t fh;

	self->s->hook[FUSE_FSYNC] = note_fsync;
	ASSERT_NE(MAP_FAILED, p);
	store_all(p);
	EXPECT_EQ(0, fsync(self->fd));
	fh = synced.fh;
	close(self->fd);
	self->fd = -1;
	ASSERT_EQ(0, remap_file_pages(p + HUGE, PAGE, 0, 3, 0));
	EXPECT_EQ(3, p[HUGE]);
	/* The same for a mapping that remap_file_pages(2) has made. */
	for (int i = 0; i < 10; i++)
		ASSERT_EQ(0, remap_file_pages(p + HUGE, PAGE, 0, 4 - i % 2, 0));
	EXPECT_EQ(3, p[HUGE]);
	/* The mapping still belongs to the file that the server has open. */
	synced.fh = ~fh;
	EXPECT_EQ(0, msync(p + HUGE, PAGE, MS_SYNC));
	EXPECT_EQ(fh, synced.fh);
	EXPECT_EQ(0, touch(p + HUGE, 'r'));
	EXPECT_EQ('r', p[3 * PAGE]);
	EXPECT_EQ((unsigned char)(HUGE / PAGE + 1), p[HUGE + PAGE]);
	munmap(p, SIZE);
	EXPECT_TRUE(fs_wait(self->s, FUSE_RELEASE, 1));
}

/* ---- how long a mapping keeps its file ---- */

/* No RELEASE comes within 50 ms. */
#define expect_not_released() do {					\
	usleep(50 * 1000);						\
	EXPECT_EQ(0, self->s->count[FUSE_RELEASE]);			\
} while (0)

#define expect_released(n) do {						\
	EXPECT_TRUE(fs_wait(self->s, FUSE_RELEASE, n));			\
	usleep(10 * 1000);						\
	EXPECT_EQ(n, self->s->count[FUSE_RELEASE]);			\
} while (0)

/* The descriptor is closed before the first fault. */
TEST_F(open_file, closed_before_faults)
{
	unsigned char *p = map(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED), *q;

	ASSERT_NE(MAP_FAILED, p);
	close(self->fd);
	expect_not_released();
	store_all(p);
	EXPECT_TRUE(stored_all(p));
	EXPECT_EQ(0, msync(p, SIZE, MS_SYNC));
	EXPECT_EQ(1, self->s->count[FUSE_FSYNC]);

	/* mremap(2) moves, grows and cuts the mapping. */
	q = mremap(p, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, address_range(PAGE, SIZE));
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_TRUE(stored_all(q));
	ASSERT_EQ(q, mremap(q, SIZE, SIZE / 2, 0));
	p = mremap(q, SIZE / 2, SIZE, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_TRUE(stored_all(p));
	q = mremap(p, 0, SIZE, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_TRUE(stored_all(q));
	munmap(p, SIZE);
	EXPECT_EQ(0, msync(q, SIZE, MS_SYNC));
	expect_not_released();
	munmap(q + PAGE, SIZE - PAGE);
	expect_not_released();
	munmap(q, PAGE);
	expect_released(1);
	self->fd = -1;
}

/* Each open file gets its RELEASE: at once if it is not mapped. */
TEST_F(open_file, two_descriptors)
{
	unsigned char *p = map(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED), *q;
	int fd = fs_open(self->s, "file", O_RDWR), third = fs_open(self->s, "file", O_RDONLY);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_LE(0, fd);
	ASSERT_LE(0, third);
	q = map(fd, PROT_READ, MAP_PRIVATE);
	ASSERT_NE(MAP_FAILED, q);
	store_all(p);
	EXPECT_TRUE(stored_all(q));
	close(self->fd);
	close(fd);
	self->fd = -1;
	expect_not_released();
	close(third);
	expect_released(1);
	munmap(p, SIZE);
	expect_released(2);
	EXPECT_TRUE(stored_all(q));
	munmap(q, SIZE);
	expect_released(3);
}

/* A child inherits the mapping, and keeps it longer than its parent. */
TEST_F(open_file, fork)
{
	unsigned char *p = map(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	int end[2];
	pid_t pid;
	char c;

	ASSERT_NE(MAP_FAILED, p);
	p[0] = 'p';
	ASSERT_EQ(0, pipe(end));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(self->fd);
		close(end[1]);
		if (read(end[0], &c, 1))
			_exit(2);
		_exit(p[0] == 'p' && !touch(p + HUGE, 'c') ? 0 : 1);
	}
	close(end[0]);
	munmap(p, SIZE);
	close(self->fd);
	self->fd = -1;
	expect_not_released();
	close(end[1]);
	EXPECT_EQ(0, ended(pid));
	expect_released(1);
}

/* ---- how often the file is open ---- */

static int lease(int fd, int type)
{
	return fcntl(fd, F_SETLEASE, type) ? -errno : 0;
}

/* Only open(2) counts as an open of the file, not a mapping. */
TEST_F(open_file, counted_once)
{
	int fd = fs_open(self->s, "file", O_RDONLY);
	unsigned char *p;

	ASSERT_LE(0, fd);
	signal(SIGIO, SIG_IGN);
	EXPECT_EQ(-EAGAIN, lease(fd, F_WRLCK));
	close(self->fd);
	self->fd = -1;
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, lease(fd, F_WRLCK));
		EXPECT_EQ(0, lease(fd, F_UNLCK));
		p = map(fd, PROT_READ, MAP_SHARED);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_EQ(0, lease(fd, F_WRLCK)) TH_LOG("%s", strerror(errno));
		EXPECT_EQ(0, lease(fd, F_UNLCK));
		munmap(p, SIZE);
	}
	/* An open file that is only mapped counts, too. */
	p = map(fd, PROT_READ, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, p);
	close(fd);
	fd = fs_open(self->s, "file", O_RDONLY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-EAGAIN, lease(fd, F_WRLCK));
	munmap(p, SIZE);
	EXPECT_EQ(0, lease(fd, F_WRLCK));
	EXPECT_EQ(0, lease(fd, F_UNLCK));

	/* A writer that is only mapped is a writer until munmap(2). */
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	p = map(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, p);
	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(-EAGAIN, lease(fd, F_RDLCK));
	munmap(p, SIZE);
	EXPECT_EQ(0, lease(fd, F_RDLCK));
	EXPECT_EQ(0, lease(fd, F_UNLCK));
	close(fd);
}

/* inotify reports one close, after both descriptor and mapping are gone. */
TEST_F(open_file, notified_once)
{
	char buf[4096] __attribute__((aligned(8)));
	int inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	const struct inotify_event *e = (void *)buf;
	unsigned char *p;

	ASSERT_LE(0, inotify);
	ASSERT_LE(0, inotify_add_watch(inotify, fs_path(self->s, "file"), IN_ALL_EVENTS));
	p = map(self->fd, PROT_READ | PROT_WRITE, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, p);
	store_all(p);
	EXPECT_EQ(0, msync(p, SIZE, MS_SYNC));
	munmap(p, SIZE);
	EXPECT_EQ(-1, read(inotify, buf, sizeof(buf)));
	EXPECT_EQ(EAGAIN, errno);
	p = map(self->fd, PROT_READ, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, p);
	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(-1, read(inotify, buf, sizeof(buf)));
	EXPECT_EQ(EAGAIN, errno);
	munmap(p, SIZE);
	EXPECT_EQ(sizeof(*e), read(inotify, buf, sizeof(buf)));
	EXPECT_EQ(IN_CLOSE_WRITE, e->mask);
	close(inotify);
}

/* ---- all at once ---- */

/* Tasks map and unmap at the same time: the server gets one RELEASE. */
TEST_F_TIMEOUT(open_file, race, 60)
{
	pid_t pid[4];

	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		/* The tasks share the open file, and no memory. */
		for (unsigned int n = 0; n < 400; n++) {
			unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
						self->fd, 0);
			struct fmap_cachestat cs;

			if (p == MAP_FAILED)
				_exit(1);
			p[i * HUGE + n] = n;
			if (p[i * HUGE + n] != (unsigned char)n || fmap_cachestat(self->fd, &cs))
				_exit(2);
			munmap(p, SIZE);
		}
		_exit(0);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, ended(pid[i]));
	expect_not_released();
	close(self->fd);
	self->fd = -1;
	expect_released(1);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
