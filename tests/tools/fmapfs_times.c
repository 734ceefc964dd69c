// SPDX-License-Identifier: GPL-2.0
/*
 * fmapfs: a write or a store changes the time of a file, by which rsync, tar and cp -u
 * decide. The server has to keep the time: the kernel asks for it again when it has
 * evicted the inode.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define SIZE 4096

FIXTURE(times)
{
	char dir[64], mnt[80], file[96];
	int fd;
};

static int run(const char *format, const char *a, const char *b)
{
	char cmd[512];

	snprintf(cmd, sizeof(cmd), format, a, b);
	return system(cmd);
}

FIXTURE_SETUP(times)
{
	const char *device = getenv("DAX_DEVICES"), *bpf = getenv("FMAP_BPF_DIR");
	char path[96], name[64];
	FILE *manifest;

	if (geteuid() || !device || sscanf(device, "%63s", name) != 1)
		SKIP(return, "root and a DAX device are needed");
	if (system("type -P fmapctl fmapfs >/dev/null 2>&1 || command -v fmapfs >/dev/null"))
		SKIP(return, "there is no fmapfs");
	if (run("fmapctl load %s/striped.bpf.o >/dev/null%s", bpf ? bpf : "/lib/fuse-dax-fmap/bpf",
		""))
		SKIP(return, "the ops cannot be loaded");
	strcpy(self->dir, "/tmp/times.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->mnt, sizeof(self->mnt), "%s/mnt", self->dir);
	snprintf(self->file, sizeof(self->file), "%s/file", self->mnt);
	snprintf(path, sizeof(path), "%s/manifest", self->dir);
	ASSERT_EQ(0, mkdir(self->mnt, 0755));
	manifest = fopen(path, "w");
	ASSERT_NE(NULL, manifest);
	fprintf(manifest, "device = [{ name = \"a\", path = \"%s\" }]\n"
		"file = [{ path = \"file\", size = %d, devices = [\"a\"] }]\n", name, SIZE);
	fclose(manifest);
	ASSERT_EQ(0, run("fmapfs --daemon %s %s", path, self->mnt));
	self->fd = open(self->file, O_RDWR);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(times)
{
	close(self->fd);
	run("umount %s; rm -rf %s", self->mnt, self->dir);
	system("fmapctl unload striped >/dev/null; rmdir /sys/fs/bpf/fuse_dax_fmap 2>/dev/null");
}

/* The mtime of a file, in nanoseconds. */
static long long changed(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return -1;
	return st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
}

/* The same after an eviction: the kernel has to ask the server. */
static long long told(const char *path)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	if (fd < 0 || write(fd, "2", 1) != 1)
		return -1;
	close(fd);
	return changed(path);
}

TEST_F(times, write)
{
	long long before = changed(self->file), after;

	usleep(50000);
	ASSERT_EQ(3, pwrite(self->fd, "abc", 3, 0));
	after = changed(self->file);
	EXPECT_LT(before, after);
	close(self->fd);
	EXPECT_EQ(after, told(self->file));
	self->fd = open(self->file, O_RDWR);
}

TEST_F(times, store)
{
	long long before = changed(self->file), after;
	char *map;

	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	usleep(50000);
	map[7] = 'x';
	ASSERT_EQ(0, msync(map, SIZE, MS_SYNC));
	after = changed(self->file);
	EXPECT_LT(before, after);
	munmap(map, SIZE);
	close(self->fd);
	EXPECT_EQ(after, told(self->file));
	self->fd = open(self->file, O_RDWR);
}

/* futimens(2), as of touch -d, sets the time, and a read does not change it. */
TEST_F(times, set)
{
	struct timespec times[2] = { { .tv_sec = 1000 }, { .tv_sec = 2000, .tv_nsec = 5 } };
	char c;

	ASSERT_EQ(0, futimens(self->fd, times));
	ASSERT_EQ(1, pread(self->fd, &c, 1, 0));
	EXPECT_EQ(2000000000005LL, changed(self->file));
	close(self->fd);
	EXPECT_EQ(2000000000005LL, told(self->file));
	self->fd = open(self->file, O_RDWR);
}

TEST_HARNESS_MAIN
