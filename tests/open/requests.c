// SPDX-License-Identifier: GPL-2.0
/*
 * Which requests are sent, and which are not.
 *
 * A file map costs requests only at open: GET_FMAP once per inode, GET_DAXDEV once
 * per device of the mount, and no request after that. The answers "this file has no
 * map" and "this server has no maps" must be remembered, too. Each test counts the
 * requests that the server gets.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(64 * KIB)
#define TASKS	8

FIXTURE(requests) {
	struct fuse_server *s;
	struct scripted map;
	char *big;
};

FIXTURE_SETUP(requests)
{
	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
}

FIXTURE_TEARDOWN(requests)
{
	EXPECT_EQ(0, self->s->malformed);
	EXPECT_EQ(0, fs_stop(self->s));
	free(self->big);
}

/* A valid map of @len bytes; the program uses the first ones only. */
static char *big_map(const struct scripted *map, size_t len)
{
	char *p = calloc(1, len);

	if (p)
		memcpy(p, map, sizeof(*map));
	return p;
}

TEST_F(requests, map_once)
{
	struct fuse_server *s = self->s;

	fs_add(s, "a", SIZE, &self->map, sizeof(self->map));
	fs_add(s, "b", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(0, fs_try(s, "a"));
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, fs_try(s, "b"));
	EXPECT_EQ(2, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(FUSE_DAX_FMAP_BLOB_MIN, s->room[0]);
}

/* I/O and faults on an open file send no further request. */
TEST_F(requests, none_while_in_use)
{
	struct fuse_server *s = self->s;
	unsigned char *p;
	char buf[100];
	int fd;

	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	fd = fs_open(s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	memset(p, 7, SIZE);
	EXPECT_EQ(100, pread(fd, buf, 100, 5000));
	EXPECT_EQ(100, pwrite(fd, buf, 100, 9000));
	EXPECT_EQ(0, fsync(fd));
	EXPECT_EQ(0, msync(p, SIZE, MS_SYNC));
	munmap(p, SIZE);
	close(fd);
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, s->count[FUSE_READ]);
	EXPECT_EQ(0, s->count[FUSE_WRITE]);
}

/* Opening a directory, access(2) and O_PATH need no map. */
TEST_F(requests, none_for_directories)
{
	struct fuse_server *s = self->s;
	int fd;

	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	fd = open(s->dir, O_RDONLY | O_DIRECTORY);
	ASSERT_LE(0, fd);
	close(fd);
	EXPECT_EQ(0, access(fs_path(s, "file"), R_OK));
	fd = fs_open(s, "file", O_PATH);
	ASSERT_LE(0, fd);
	close(fd);
	EXPECT_EQ(0, s->count[FUSE_GET_FMAP]);
}

TEST_F(requests, device_once)
{
	struct fuse_server *s = self->s;
	struct scripted both = fmap_linear(1, 0, SIZE);

	both.dev_bitmap = 3;
	fs_add(s, "a", SIZE, &self->map, sizeof(self->map));
	fs_add(s, "b", SIZE, &both, sizeof(both));
	fs_add(s, "c", SIZE, &both, sizeof(both));
	ASSERT_EQ(0, fs_mount(s));
	EXPECT_EQ(0, fs_try(s, "a"));
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, fs_try(s, "b"));
	EXPECT_EQ(2, s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, fs_try(s, "c"));
	EXPECT_EQ(2, s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(3, s->count[FUSE_GET_FMAP]);
}

/* Indices may have gaps: only the last one is used here. */
TEST_F(requests, last_device_index)
{
	struct fuse_server *s = self->s;
	struct scripted map = fmap_linear(63, 0, SIZE);

	s->devices[63] = daxdev[1].path;
	fs_add(s, "file", SIZE, &map, sizeof(map));
	ASSERT_EQ(0, fs_mount(s));
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
}

/* Two indices name the same device; a mount holds it once. */
TEST_F(requests, one_device_two_names)
{
	struct fuse_server *s = self->s;
	struct scripted map = fmap_linear(0, 0, SIZE);

	map.dev_bitmap = 1 | 1 << 5;
	s->devices[5] = daxdev[0].path;
	fs_add(s, "file", SIZE, &map, sizeof(map));
	ASSERT_EQ(0, fs_mount(s));
	/* Refused or accepted, but both times the same. */
	EXPECT_EQ(fs_try(s, "file"), fs_try(s, "file"));
}

FIXTURE(no_map) {
	struct fuse_server *s;
};

FIXTURE_VARIANT(no_map) {
	int error;
};

FIXTURE_VARIANT_ADD(no_map, enodata) {
	.error = -ENODATA,
};

FIXTURE_VARIANT_ADD(no_map, enoent) {
	.error = -ENOENT,
};

FIXTURE_SETUP(no_map)
{
	FMAP_REQUIRE();
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->error[FUSE_GET_FMAP] = variant->error;
}

FIXTURE_TEARDOWN(no_map)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

/* The file is a plain FUSE file, and its next open sends no GET_FMAP. */
TEST_F(no_map, remembered)
{
	struct fuse_server *s = self->s;
	char c;
	int fd;

	fs_add(s, "a", SIZE, NULL, 0);
	fs_add(s, "b", SIZE, NULL, 0);
	ASSERT_EQ(0, fs_mount(s));
	fd = fs_open(s, "a", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, pread(fd, &c, 1, 100));
	EXPECT_EQ('a', c);
	EXPECT_EQ(1, pwrite(fd, "X", 1, 100));
	EXPECT_EQ(1, pread(fd, &c, 1, 100));
	EXPECT_EQ('X', c);
	EXPECT_EQ(0, ftruncate(fd, 4096));
	close(fd);
	EXPECT_EQ(0, fs_try(s, "a"));
	EXPECT_EQ(0, fs_try(s, "a"));
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, fs_try(s, "b"));
	EXPECT_EQ(2, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, s->count[FUSE_WRITE]);
	EXPECT_EQ(1, s->count[FUSE_SETATTR]);
}

/* mmap(2) of a plain file uses FUSE's page cache. */
TEST_F(no_map, can_be_mapped_through_fuse)
{
	struct fuse_server *s = self->s;
	unsigned char *p;

	fs_add(s, "a", SIZE, NULL, 0);
	ASSERT_EQ(0, fs_mount(s));
	p = fs_map(s, "a", PAGE, PROT_READ);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ('a', p[10]);
	EXPECT_EQ(0, fs_try(s, "a"));
	EXPECT_LT(0, s->count[FUSE_READ]);
	munmap(p, PAGE);
}

/* O_TRUNC works for a file without a map. */
TEST_F(no_map, can_be_truncated)
{
	struct fuse_server *s = self->s;
	int fd;

	fs_add(s, "a", 5000, NULL, 0);
	ASSERT_EQ(0, fs_mount(s));
	fd = fs_open(s, "a", O_RDWR | O_TRUNC);
	ASSERT_LE(0, fd);
	close(fd);
	EXPECT_EQ(0, s->file[0].size);
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
}

TEST_F(requests, no_maps_at_all)
{
	struct fuse_server *s = self->s;

	s->error[FUSE_GET_FMAP] = -ENOSYS;
	fs_add(s, "a", SIZE, &self->map, sizeof(self->map));
	fs_add(s, "b", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	EXPECT_EQ(0, fs_try(s, "a"));
	EXPECT_EQ(0, fs_try(s, "b"));
	EXPECT_EQ(0, fs_try(s, "a"));
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, s->count[FUSE_GET_DAXDEV]);
}

/* The size in GET_FMAP grows until the map fits: up to 1 MiB, and no size twice. */
TEST_F(requests, buffer_grows)
{
	static const size_t lens[] = {
		FUSE_DAX_FMAP_BLOB_MIN, FUSE_DAX_FMAP_BLOB_MIN + 1, 100000,
		FUSE_DAX_FMAP_BLOB_MAX - 1, FUSE_DAX_FMAP_BLOB_MAX,
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(lens); i++) {
		struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);
		char *map = big_map(&self->map, lens[i]);

		ASSERT_NE(NULL, s);
		ASSERT_NE(NULL, map);
		fs_add(s, "file", SIZE, map, lens[i]);
		ASSERT_EQ(0, fs_mount(s));
		EXPECT_EQ(0, fs_try(s, "file"));
		EXPECT_EQ(lens[i], fmap_seen()->blob_size);
		ASSERT_LT(0, s->nr_rooms);
		EXPECT_EQ(FUSE_DAX_FMAP_BLOB_MIN, s->room[0]);
		EXPECT_LE(lens[i], s->room[s->nr_rooms - 1]);
		for (unsigned int n = 1; n < s->nr_rooms; n++)
			EXPECT_LT(s->room[n - 1], s->room[n]);
		EXPECT_EQ(s->nr_rooms, s->count[FUSE_GET_FMAP]);
		EXPECT_EQ(0, s->malformed);
		EXPECT_EQ(0, fs_stop(s));
		free(map);
	}
}

TEST_F(requests, buffer_ends)
{
	struct fuse_server *s = self->s;
	int fd;

	s->error[FUSE_GET_FMAP] = -ERANGE;
	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	fd = fs_open(s, "file", O_RDONLY);
	EXPECT_GT(0, fd);
	ASSERT_LT(0, s->nr_rooms);
	EXPECT_EQ(FUSE_DAX_FMAP_BLOB_MAX, s->room[s->nr_rooms - 1]);
	EXPECT_GE(FS_ROOMS, s->count[FUSE_GET_FMAP]);
}

/*
 * The program says that the map is not complete: GET_FMAP is sent again with a larger size,
 * of at least what the program wants. No size is tried twice, the opener gets the error of
 * the last try, and the log has one line.
 */
TEST_F(requests, program_wants_more)
{
	static const struct {
		uint32_t wanted;
		int err;
		unsigned int nr_rooms;
		uint32_t room[5];
	} cases[] = {
		{ 0, ERANGE, 5, { 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB } },
		{ 1, ERANGE, 5, { 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB } },
		{ 4 * KIB + 1, ERANGE, 5, { 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB } },
		{ 16 * KIB + 1, ERANGE, 4, { 4 * KIB, 64 * KIB, 256 * KIB, MIB } },
		{ 300 * KIB, ERANGE, 2, { 4 * KIB, MIB } },
		{ MIB, ERANGE, 2, { 4 * KIB, MIB } },
		{ MIB + 1, E2BIG, 1, { 4 * KIB } },
		{ 1U << 31, E2BIG, 1, { 4 * KIB } },
		{ UINT32_MAX, E2BIG, 1, { 4 * KIB } },
	};
	struct fuse_server *s = self->s;
	int klog = klog_open();

	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	self->map.parse_ret = -ERANGE;
	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		s->nr_rooms = 0;
		self->map.blob_wanted = cases[i].wanted;
		EXPECT_EQ(-cases[i].err, fs_try(s, "file"));
		ASSERT_EQ(cases[i].nr_rooms, s->nr_rooms) {
			TH_LOG("%u bytes are wanted", cases[i].wanted);
		}
		EXPECT_EQ(0, memcmp(cases[i].room, s->room, s->nr_rooms * sizeof(*s->room)));
		EXPECT_EQ(cases[i].room[s->nr_rooms - 1], fmap_seen()->blob_room);
		EXPECT_EQ(i + 1, fs_counter(s, "maps_refused"));
		EXPECT_EQ(i + 1, fs_counter(s, "opens_failed"));
	}
	EXPECT_EQ(ARRAY_SIZE(cases), klog_count(klog, "open of inode"));
	EXPECT_EQ(0, s->count[FUSE_GET_DAXDEV]);
	close(klog);

	/* The wanted size is ignored if the program accepts the map. */
	s->nr_rooms = 0;
	self->map.parse_ret = 0;
	EXPECT_EQ(0, fs_fill(s, "file", 'w', SIZE));
	EXPECT_EQ(1, s->nr_rooms);
}

/*
 * Eight tasks open a file for the first time (single flight): all wait for one map, and
 * all opens succeed. Later opens send no GET_FMAP.
 */
TEST_F(requests, eight_openers)
{
	struct fuse_server *s = self->s;
	pid_t pid[TASKS];
	int status;

	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	s->hold[FUSE_GET_FMAP] = true;
	ASSERT_EQ(0, fs_mount(s));
	for (int i = 0; i < TASKS; i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (!pid[i]) {
			unsigned char *p = fs_map(s, "file", SIZE,
						  PROT_READ | PROT_WRITE);

			if (p == MAP_FAILED)
				_exit(1);
			_exit(touch(p + i * PAGE, i) ? 2 : 0);
		}
	}
	EXPECT_TRUE(fs_wait(s, FUSE_GET_FMAP, 1));
	for (int i = 0; i < TASKS; i++)
		EXPECT_TRUE(asleep(pid[i]));
	fs_release(s, FUSE_GET_FMAP);
	for (int i = 0; i < TASKS; i++) {
		ASSERT_EQ(pid[i], waitpid(pid[i], &status, 0));
		EXPECT_EQ(0, status);
	}
	EXPECT_GE(TASKS, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);

	s->count[FUSE_GET_FMAP] = 0;
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_EQ(0, s->count[FUSE_GET_FMAP]);
}

/* Two files that need the same device are opened at once: one GET_DAXDEV. */
TEST_F(requests, two_files_one_device)
{
	struct fuse_server *s = self->s;
	pid_t pid[2];
	int status;

	fs_add(s, "a", SIZE, &self->map, sizeof(self->map));
	fs_add(s, "b", SIZE, &self->map, sizeof(self->map));
	s->hold[FUSE_GET_DAXDEV] = true;
	ASSERT_EQ(0, fs_mount(s));
	for (int i = 0; i < 2; i++) {
		pid[i] = fs_try_in_child(s, i ? "b" : "a");
		ASSERT_LE(0, pid[i]);
	}
	EXPECT_TRUE(fs_wait(s, FUSE_GET_FMAP, 2));
	EXPECT_TRUE(fs_wait(s, FUSE_GET_DAXDEV, 1));
	for (int i = 0; i < 2; i++)
		EXPECT_TRUE(asleep(pid[i]));
	fs_release(s, FUSE_GET_DAXDEV);
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(pid[i], waitpid(pid[i], &status, 0));
		EXPECT_EQ(0, status);
	}
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
}

/* The map is kept as long as the inode, the device as long as the mount. */
TEST_F(requests, drop_caches)
{
	struct fuse_server *s = self->s;

	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_TRUE(fs_forget(s));
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_EQ(2, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
}

/* Eviction of the inode loses no data. */
TEST_F(requests, drop_caches_keeps_data)
{
	struct fuse_server *s = self->s;
	unsigned char *p;

	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	for (int round = 0; round < 3; round++) {
		p = fs_map(s, "file", SIZE, PROT_READ | PROT_WRITE);
		ASSERT_NE(MAP_FAILED, p);
		if (round)
			EXPECT_EQ(round, p[PAGE]);
		p[PAGE] = round + 1;
		munmap(p, SIZE);
		ASSERT_TRUE(fs_forget(s));
	}
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
}

/*
 * open(O_CREAT) lets FUSE open the file before the kernel has requested its map. The next
 * opener gets the map (created.c has the details).
 */
TEST_F(requests, created_by_open)
{
	struct fuse_server *s = self->s;
	char c = 0;
	int fd;

	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	s->error[FUSE_LOOKUP] = -ENOENT;
	ASSERT_EQ(0, fs_mount(s));
	fd = fs_open(s, "file", O_RDWR | O_CREAT);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, s->count[FUSE_CREATE]);
	EXPECT_EQ(1, pwrite(fd, "X", 1, 0));
	EXPECT_EQ(1, pread(fd, &c, 1, 0));
	EXPECT_EQ('X', c);
	s->error[FUSE_LOOKUP] = 0;
	EXPECT_EQ(0, fs_try(s, "file"));
	close(fd);
	EXPECT_GE(2, s->count[FUSE_GET_FMAP]);

	s->count[FUSE_READ] = 0;
	fd = fs_open(s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, pread(fd, &c, 1, 0));
	close(fd);
	EXPECT_EQ(0, s->count[FUSE_READ]);
	EXPECT_GE(2, s->count[FUSE_GET_FMAP]);
}

/*
 * The device is opened as the mounter: the credentials and the root directory of the first
 * opener do not matter.
 */
TEST_F(requests, unprivileged_opener)
{
	struct fuse_server *s = self->s;
	int status;
	pid_t pid;

	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		int fd;

		if (setgid(65534) || setuid(65534))
			_exit(100);
		/* This task cannot open the device itself. */
		if (open(daxdev[0].path, O_RDWR) >= 0)
			_exit(101);
		fd = fs_open(s, "file", O_RDONLY);
		_exit(fd < 0 ? -fd : 0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
}

TEST_F(requests, opener_in_chroot)
{
	struct fuse_server *s = self->s;
	char root[] = "/tmp/fmap.XXXXXX";
	char path[64];
	int status;
	pid_t pid;

	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	ASSERT_NE(NULL, mkdtemp(root));
	snprintf(path, sizeof(path), "%s/mnt", root);
	ASSERT_EQ(0, mkdir(path, 0755));
	ASSERT_EQ(0, mount(s->dir, path, NULL, MS_BIND, NULL));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (chroot(root) || chdir("/"))
			_exit(100);
		_exit(open("/mnt/file", O_RDWR) < 0 ? errno : 0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, umount(path));
	rmdir(path);
	rmdir(root);
}

/* The line of a mount in debugfs, which "fmapctl status" shows. */
TEST_F(requests, shown_in_debugfs)
{
	static const char file[] = "/sys/kernel/debug/" MODULE_NAME "/mounts";
	struct fuse_server *s = self->s;
	char want[128], text[1024];
	struct scripted both = fmap_linear(1, 0, SIZE);
	struct stat st;

	if (access(file, R_OK))
		SKIP(return, "debugfs is not mounted");
	both.dev_bitmap = 3;
	fs_add(s, "a", SIZE, &self->map, sizeof(self->map));
	fs_add(s, "b", SIZE, &both, sizeof(both));
	ASSERT_EQ(0, fs_mount(s));
	ASSERT_EQ(0, stat(s->dir, &st));
	snprintf(want, sizeof(want), "%u:%u ops=%s map=%u files=0 devices= ",
		 major(st.st_dev), minor(st.st_dev), SCRIPTED_OPS_NAME,
		 fmap_map_id(fmap_link));
	ASSERT_EQ(0, read_file(file, text, sizeof(text)));
	/* Counters follow. */
	EXPECT_EQ(0, strncmp(want, text, strlen(want))) TH_LOG("%s", text);
	EXPECT_EQ(0, fs_try(s, "a"));
	EXPECT_EQ(0, fs_try(s, "b"));
	snprintf(want, sizeof(want), "%u:%u ops=%s map=%u files=2 devices=0:%s,1:%s ",
		 major(st.st_dev), minor(st.st_dev), SCRIPTED_OPS_NAME,
		 fmap_map_id(fmap_link), daxdev[0].name, daxdev[1].name);
	ASSERT_EQ(0, read_file(file, text, sizeof(text)));
	EXPECT_EQ(0, strncmp(want, text, strlen(want))) TH_LOG("%s", text);
	EXPECT_EQ(0, fs_umount(s));
	ASSERT_EQ(0, read_file(file, text, sizeof(text)));
	EXPECT_STREQ("", text);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
