// SPDX-License-Identifier: GPL-2.0
/*
 * The lists of mounts, devices and files in debugfs, while they change.
 *
 * A list is read piece by piece, as the kernel's buffer is one page, and no lock is held in
 * between. Each file that is there all the time must be shown once, however many there are;
 * one that is evicted, or whose mount goes away, is not shown any more; and a reader holds
 * nothing: neither a file nor a mount waits for it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(64 * KIB)
#define MANY	500
#define LISTS	"/sys/kernel/debug/" MODULE_NAME "/"

/* How often each file of a mount was in what was read of the list of files. */
struct seen {
	char		mount[64];
	unsigned int	times[MANY];
	unsigned int	lines, bad;
	char		line[1024];	/* what was read of a line that has not ended */
	size_t		len;
};

static void see_line(struct seen *seen, const char *line)
{
	const char *last = strstr(line, " mappings_refused=");
	unsigned long nodeid;

	if (strncmp(line, seen->mount, strlen(seen->mount)))
		return;
	seen->lines++;
	if (sscanf(line + strlen(seen->mount), "nodeid=%lu ", &nodeid) != 1 || !last)
		seen->bad++;
	else if (nodeid >= FS_ANY && nodeid < FS_ANY + MANY)
		seen->times[nodeid - FS_ANY]++;
}

/* Reads at most @max bytes of the list, @size at a time. The number of bytes, or -errno. */
static ssize_t see(struct seen *seen, int fd, size_t max, size_t size)
{
	static char buf[64 * KIB];
	ssize_t all = 0, n;

	while (max && (n = read(fd, buf, size < max ? size : max))) {
		if (n < 0)
			return -errno;
		for (ssize_t i = 0; i < n; i++) {
			if (seen->len == sizeof(seen->line) - 1)
				return -E2BIG;
			seen->line[seen->len++] = buf[i];
			if (buf[i] != '\n')
				continue;
			seen->line[seen->len] = 0;
			see_line(seen, seen->line);
			seen->len = 0;
		}
		all += n;
		max -= n;
	}
	return all;
}

FIXTURE(lists) {
	struct fuse_server *s;
	struct scripted map;
	struct seen seen;
	int fd;
	int kept[MANY];		/* descriptors of files, or 0 */
};

FIXTURE_SETUP(lists)
{
	struct stat st;

	FMAP_REQUIRE();
	self->fd = open(LISTS "files", O_RDONLY | O_CLOEXEC);
	if (self->fd < 0)
		SKIP(return, "the list of files cannot be read: is debugfs mounted?");
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	/* A name that has to be escaped. */
	fs_add(self->s, "a b\\c\td", SIZE, &self->map, sizeof(self->map));
	fs_any(self->s, SIZE);
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, stat(self->s->dir, &st));
	snprintf(self->seen.mount, sizeof(self->seen.mount), "%u:%u ", major(st.st_dev),
		 minor(st.st_dev));
}

FIXTURE_TEARDOWN(lists)
{
	close(self->fd);
	for (int i = 0; i < MANY; i++)
		if (self->kept[i])
			close(self->kept[i]);
	EXPECT_EQ(0, fs_stop(self->s));
}

static int open_any(struct fuse_server *s, int i)
{
	char name[16];

	snprintf(name, sizeof(name), "f%d", i);
	return fs_open(s, name, O_RDWR);
}

static bool every_third(int i)
{
	return i % 3 == 0;
}

/* Opens all files; every third one stays open if there is @kept. 0 or -errno. */
static int open_many(struct fuse_server *s, int *kept)
{
	for (int i = 0; i < MANY; i++) {
		int fd = open_any(s, i);

		if (fd < 0)
			return fd;
		if (kept && every_third(i))
			kept[i] = fd;
		else
			close(fd);
	}
	return 0;
}

TEST_F(lists, only_root_reads)
{
	static const char *const names[] = { "mounts", "devices", "files" };
	struct stat st;

	for (int i = 0; i < ARRAY_SIZE(names); i++) {
		char path[128];

		snprintf(path, sizeof(path), LISTS "%s", names[i]);
		ASSERT_EQ(0, stat(path, &st));
		EXPECT_EQ(S_IFREG | 0400, st.st_mode);
	}
}

TEST_F(lists, names)
{
	EXPECT_EQ(0, fs_try(self->s, self->s->file[0].name));
	EXPECT_EQ(self->s->file[0].nodeid,
		  fs_number_of(self->s, "files", "file=/a\\040b\\134c\\011d", "nodeid"));
}

/* In pieces of several sizes: of less than a line, and of more than the kernel's buffer. */
TEST_F_TIMEOUT(lists, long_list, 120)
{
	static const size_t sizes[] = { 13, 100, 4096, 64 * KIB };
	struct seen *seen = &self->seen;

	ASSERT_EQ(0, open_many(self->s, NULL));
	EXPECT_EQ(MANY, fs_counter(self->s, "files"));
	for (int i = 0; i < ARRAY_SIZE(sizes); i++) {
		ASSERT_EQ(0, lseek(self->fd, 0, SEEK_SET));
		seen->lines = 0;
		memset(seen->times, 0, sizeof(seen->times));
		EXPECT_LT(MANY * 100, see(seen, self->fd, -1, sizes[i]));
		EXPECT_EQ(MANY, seen->lines);
		EXPECT_EQ(0, seen->bad);
		EXPECT_EQ(0, seen->len);
		for (int j = 0; j < MANY; j++) {
			ASSERT_EQ(1, seen->times[j]) {
				TH_LOG("f%d, %zu bytes at a time", j, sizes[i]);
			}
		}
	}
	/* From somewhere in it. */
	for (off_t at = 1; at < MANY * 100; at += MANY * 20 + 7) {
		char all[200], part[100];

		ASSERT_EQ(sizeof(all), pread(self->fd, all, sizeof(all), at));
		ASSERT_EQ(sizeof(part), pread(self->fd, part, sizeof(part), at + 100));
		EXPECT_EQ(0, memcmp(all + 100, part, sizeof(part)));
	}
}

/* Files that are evicted while the list is read are not shown; the others are. */
TEST_F_TIMEOUT(lists, evicted_meanwhile, 120)
{
	struct seen *seen = &self->seen;

	ASSERT_EQ(0, open_many(self->s, self->kept));
	ASSERT_LT(0, see(seen, self->fd, 10000, 4096));
	EXPECT_GT(MANY / 2, seen->lines);
	for (int ms = 0; ms < FS_PATIENCE; ms += 10) {
		drop_caches();
		if (fs_counter(self->s, "files") == (MANY + 2) / 3)
			break;
		usleep(10000);
	}
	ASSERT_EQ((MANY + 2) / 3, fs_counter(self->s, "files"));
	ASSERT_LT(0, see(seen, self->fd, -1, 4096));
	EXPECT_EQ(0, seen->bad);
	EXPECT_GT((MANY + 2) / 3 + 110, seen->lines);
	for (int i = 0; i < MANY; i++) {
		ASSERT_GE(1, seen->times[i]) {
			TH_LOG("f%d", i);
		}
		if (every_third(i)) {
			ASSERT_EQ(1, seen->times[i]) {
				TH_LOG("f%d", i);
			}
		}
	}
	/* Files that are opened again are shown again, once. */
	ASSERT_EQ(0, open_many(self->s, NULL));
	memset(seen->times, 0, sizeof(seen->times));
	ASSERT_EQ(0, lseek(self->fd, 0, SEEK_SET));
	ASSERT_LT(0, see(seen, self->fd, -1, 4096));
	for (int i = 0; i < MANY; i++) {
		ASSERT_EQ(1, seen->times[i]) {
			TH_LOG("f%d", i);
		}
	}
}

/* umount(2) does not wait for a reader in the middle of the list. */
TEST_F_TIMEOUT(lists, unmounted_meanwhile, 120)
{
	struct seen *seen = &self->seen;
	unsigned int before;

	ASSERT_EQ(0, open_many(self->s, NULL));
	ASSERT_LT(0, see(seen, self->fd, 10000, 4096));
	before = seen->lines;
	EXPECT_LT(0, before);
	EXPECT_EQ(0, fs_umount(self->s));
	/* What the kernel had put into its buffer before. */
	EXPECT_LE(0, see(seen, self->fd, -1, 4096));
	EXPECT_GT(before + 50, seen->lines);
	EXPECT_EQ(0, seen->bad);
	EXPECT_EQ(0, lseek(self->fd, 0, SEEK_SET));
	before = seen->lines;
	EXPECT_LE(0, see(seen, self->fd, -1, 4096));
	EXPECT_EQ(before, seen->lines);
}

static void *read_all_the_time(void *arg)
{
	static const char *const names[] = { "mounts", "devices", "files" };
	bool *stop = arg;
	char buf[4096];
	long n = 0;

	while (!__atomic_load_n(stop, __ATOMIC_RELAXED)) {
		char path[128];
		int fd;

		snprintf(path, sizeof(path), LISTS "%s", names[n++ % ARRAY_SIZE(names)]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return (void *)-1L;
		while (read(fd, buf, sizeof(buf)) > 0)
			;
		close(fd);
	}
	return NULL;
}

/* Readers, and mounts whose files come and go. */
TEST_F_TIMEOUT(lists, read_all_the_time, 120)
{
	pthread_t readers[3];
	bool stop = false;
	void *failed;

	for (int i = 0; i < ARRAY_SIZE(readers); i++)
		ASSERT_EQ(0, pthread_create(&readers[i], NULL, read_all_the_time, &stop));
	for (int round = 0; round < 10; round++) {
		struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);
		unsigned char *p;

		ASSERT_NE(NULL, s);
		fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
		fs_any(s, SIZE);
		s->devices[0] = NULL;
		s->devices[1] = NULL;
		/* A device is held by one mount. */
		EXPECT_EQ(0, fs_mount(s));
		EXPECT_EQ(-ENODEV, fs_try(s, "f1"));
		EXPECT_EQ(0, fs_stop(s));
		for (int i = 0; i < 50; i++) {
			int fd = open_any(self->s, i);

			ASSERT_LE(0, fd);
			p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
			ASSERT_NE(MAP_FAILED, p);
			close(fd);
			munmap(p, PAGE);
		}
		drop_caches();
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < ARRAY_SIZE(readers); i++) {
		EXPECT_EQ(0, pthread_join(readers[i], &failed));
		EXPECT_EQ(NULL, failed);
	}
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
