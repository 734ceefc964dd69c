// SPDX-License-Identifier: GPL-2.0
/*
 * virtiofs: the server is behind a virtio device, and the module does not attach.
 *
 * A virtiofs server may declare a directory to be a submount. The kernel then mounts it
 * there as another superblock with the same connection. But the module keeps its state in
 * one superblock, and relies on the connection's requests having ended when that superblock
 * goes away. So it does not attach to a mount with automatic submounts (auto_submounts),
 * which only virtiofs asks for:
 *
 *	the server names ops	the mount is refused: every operation is ENOTCONN
 *	default_ops names them	plain FUSE
 *
 * and the log says why. Nothing else is missing: the server gets the offer, and would answer
 * INIT, GET_FMAP and GET_DAXDEV as in any other test. It runs on the host, and the tests tell
 * it what to answer by extended attributes: see vm/virtiofs-server. The guest has the device
 * with "tests/vm/run --virtiofs".
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
#include <sys/xattr.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define TAG		"fmap-test"
#define SIZE		(64 * KIB)	/* of each file of the server */
#define FILLED		's'		/* each byte of these files */
#define DEFAULT_OPS	"/sys/module/" MODULE_NAME "/parameters/default_ops"
#define WHY		"automatic submounts"

FIXTURE(virtiofs) {
	struct fuse_server *s;		/* only its mount point is used */
	long refs;
	int listed;
	int klog;
	char old[64];
	bool set;
};

/* The number of mounts in the module's list, which "fmapctl status" shows. */
static int listed(void)
{
	FILE *f = fopen("/sys/kernel/debug/" MODULE_NAME "/mounts", "r");
	char line[4096];
	int n = 0;

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f))
		n++;
	fclose(f);
	return n;
}

static int mount_device(struct fuse_server *s)
{
	if (mount(TAG, s->dir, "virtiofs", 0, NULL))
		return -errno;
	s->mounted = true;
	return 0;
}

/* Tell the server what to answer from now on: 0 or -errno. */
static int tell(struct fuse_server *s, const char *name, const void *value, size_t len)
{
	return setxattr(s->dir, name, value, len, 0) ? -errno : 0;
}

/* How many requests of an opcode the server has seen, or -errno. */
static int count(struct fuse_server *s, int opcode)
{
	char name[32], text[16] = "";

	snprintf(name, sizeof(name), "trusted.count.%d", opcode);
	return getxattr(s->dir, name, text, sizeof(text) - 1) < 0 ? -errno : atoi(text);
}

FIXTURE_SETUP(virtiofs)
{
	struct scripted map = fmap_linear(0, 0, SIZE);
	int err;

	FMAP_REQUIRE();
	self->refs = module_refs();
	self->listed = listed();
	ASSERT_LE(0, self->listed);
	self->s = fmap_server("");
	ASSERT_NE(NULL, self->s);
	err = mount_device(self->s);
	if (err) {
		fs_stop(self->s);
		self->s = NULL;
		if (err == -ENODEV)
			SKIP(return, "this kernel has no virtiofs");
		ASSERT_EQ(-EINVAL, err);
		SKIP(return, "there is no virtio-fs device with the tag " TAG);
	}
	self->klog = klog_open();
	ASSERT_EQ(0, read_file(DEFAULT_OPS, self->old, sizeof(self->old)));
	self->set = true;
	ASSERT_EQ(0, tell(self->s, "trusted.map", &map, sizeof(map)));
	ASSERT_EQ(0, tell(self->s, "trusted.device.0", daxdev[0].path, strlen(daxdev[0].path)));
}

/* The parameter has to be put back even if the test died. */
FIXTURE_TEARDOWN_PARENT(virtiofs)
{
	char text[72];

	if (!self->set)
		return;
	snprintf(text, sizeof(text), "%s\n", self->old);
	EXPECT_EQ(0, write_file(DEFAULT_OPS, text));
	EXPECT_TRUE(module_refs_wait(self->refs));
	EXPECT_EQ(self->listed, listed());
}

/* An unused offer keeps its module reference for a moment after INIT. */
static void expect_not_bound(struct __test_metadata *_metadata, FIXTURE_DATA(virtiofs) * self)
{
	EXPECT_EQ(self->listed, listed());
	ASSERT_TRUE(module_refs_wait(self->refs));
}

/* Reads and writes of @name go to the server, and the kernel requests no map or device. */
static void expect_plain(struct __test_metadata *_metadata, FIXTURE_DATA(virtiofs) * self,
			 const char *name)
{
	static char data[SIZE], want[SIZE];
	int reads = count(self->s, FUSE_READ);
	int writes = count(self->s, FUSE_WRITE);
	int maps = count(self->s, FUSE_GET_FMAP);
	int devices = count(self->s, FUSE_GET_DAXDEV);
	int fd = fs_open(self->s, name, O_RDWR);
	char *p;

	ASSERT_LE(0, fd);
	memset(want, FILLED, SIZE);
	EXPECT_EQ(SIZE, pread(fd, data, SIZE, 0));
	EXPECT_EQ(0, memcmp(data, want, SIZE));
	EXPECT_LT(reads, count(self->s, FUSE_READ));
	EXPECT_EQ(1, pwrite(fd, "X", 1, PAGE));
	EXPECT_EQ(writes + 1, count(self->s, FUSE_WRITE));
	p = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	EXPECT_NE(MAP_FAILED, p);
	if (p != MAP_FAILED) {
		EXPECT_EQ(FILLED, p[0]);
		EXPECT_EQ('X', p[PAGE]);
		munmap(p, SIZE);
	}
	EXPECT_EQ(1, pwrite(fd, want, 1, PAGE));
	close(fd);
	EXPECT_EQ(maps, count(self->s, FUSE_GET_FMAP));
	EXPECT_EQ(devices, count(self->s, FUSE_GET_DAXDEV));
	expect_not_bound(_metadata, self);
}

/* The server is offered maps on a mount with automatic submounts, and names no ops. */
TEST_F(virtiofs, nobody_names_ops)
{
	struct fuse_init_in init;

	ASSERT_EQ(sizeof(init), getxattr(self->s->dir, "trusted.init", &init, sizeof(init)));
	EXPECT_EQ(FUSE_DAX_FMAP_MAGIC, init.unused[FUSE_DAX_FMAP_INIT_IN_MAGIC]);
	EXPECT_TRUE(init.flags & FUSE_SUBMOUNTS);
	expect_plain(_metadata, self, "file");
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_EQ(0, klog_count(self->klog, LOG_PREFIX));
}

TEST_F(virtiofs, server_names_ops)
{
	struct fuse_server *s = self->s;
	struct stat st;
	int lookups;

	ASSERT_EQ(0, tell(s, "trusted.next_ops", SCRIPTED_OPS_NAME, strlen(SCRIPTED_OPS_NAME)));
	lookups = count(s, FUSE_LOOKUP);
	ASSERT_EQ(0, fs_umount(s));

	ASSERT_EQ(0, mount_device(s));
	EXPECT_EQ(-1, stat(fs_path(s, "file"), &st));
	EXPECT_EQ(ENOTCONN, errno);
	EXPECT_EQ(-ENOTCONN, fs_try(s, "file"));
	ASSERT_TRUE(klog_wait(self->klog, "mount refused: ops '" SCRIPTED_OPS_NAME "'", WHY));
	expect_not_bound(_metadata, self);
	EXPECT_EQ(0, fs_umount(s));

	/* The virtiofs device can be mounted again. */
	ASSERT_EQ(0, mount_device(s));
	EXPECT_EQ(lookups, count(s, FUSE_LOOKUP));
	expect_plain(_metadata, self, "file");
	EXPECT_EQ(0, fs_stop(s));
}

TEST_F(virtiofs, default_ops)
{
	struct fuse_server *s = self->s;

	ASSERT_EQ(0, fs_umount(s));
	ASSERT_EQ(0, write_file(DEFAULT_OPS, SCRIPTED_OPS_NAME "\n"));
	ASSERT_EQ(0, mount_device(s));
	expect_plain(_metadata, self, "file");
	ASSERT_TRUE(klog_wait(self->klog, "plain FUSE: default_ops '" SCRIPTED_OPS_NAME "'", WHY));
	EXPECT_EQ(0, fs_stop(s));
}

/* The reason for the refusal: a second superblock, which may outlive the first one. */
TEST_F(virtiofs, submount)
{
	struct fuse_server *s = self->s;
	struct stat top, sub;
	int fd;

	ASSERT_EQ(0, fs_umount(s));
	ASSERT_EQ(0, write_file(DEFAULT_OPS, SCRIPTED_OPS_NAME "\n"));
	ASSERT_EQ(0, mount_device(s));
	expect_plain(_metadata, self, "sub/file");
	EXPECT_EQ(0, stat(s->dir, &top));
	EXPECT_EQ(0, stat(fs_path(s, "sub"), &sub));
	EXPECT_NE(top.st_dev, sub.st_dev);

	fd = fs_open(s, "sub/file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, umount2(s->dir, MNT_DETACH));
	s->mounted = false;
	drop_caches();
	EXPECT_EQ(FILLED, byte_at(fd, 0));
	close(fd);
	expect_not_bound(_metadata, self);
	EXPECT_EQ(0, fs_stop(s));
}

/* If main() loaded the virtiofs module, unload it at exit(), which the harness calls. */
static pid_t program;

static void unload_virtiofs(void)
{
	if (getpid() == program)
		system("modprobe -qr virtiofs");
}

int main(int argc, char **argv)
{
	program = getpid();
	if (access("/sys/fs/virtiofs", F_OK) && !system("modprobe -q virtiofs"))
		atexit(unload_virtiofs);
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
