// SPDX-License-Identifier: GPL-2.0
/*
 * Parts of the kernel that use a mapped file: loop devices, a file system on one of them whose
 * direct I/O goes to and from another mapped file, overlayfs, bind mounts, file handles. Each
 * opens the file in its own way, and each must reach the memory and not the server.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "pattern.h"

#define SIZE	(8 * MIB)
#define FILLED	(256 * KIB)

FIXTURE(stacked) {
	struct fuse_server *s;
	struct scripted map[2];
	char dir[64];		/* for mounts */
};

/* FUSE looks up "." to find the inode of a handle. */
static void lookup(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	struct fuse_entry_out out = { .nodeid = in->nodeid, .entry_valid = 100, .attr_valid = 100 };

	if (strcmp(arg, ".")) {
		fs_default(s, in, arg);
		return;
	}
	out.attr.ino = in->nodeid;
	out.attr.mode = s->file[0].mode;
	out.attr.nlink = 1;
	out.attr.size = SIZE;
	fs_reply(s, in, in->nodeid == s->file[0].nodeid ? 0 : -ESTALE, &out, sizeof(out));
}

static struct fuse_server *new_server(const struct scripted map[2])
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);

	if (!s)
		return NULL;
	s->init_flags |= FUSE_EXPORT_SUPPORT;
	s->hook[FUSE_LOOKUP] = lookup;
	fs_add(s, "file", SIZE, &map[0], sizeof(map[0]));
	fs_add(s, "other", SIZE, &map[1], sizeof(map[1]));
	if (fs_mount(s)) {
		fs_stop(s);
		return NULL;
	}
	return s;
}

FIXTURE_SETUP(stacked)
{
	int fd;

	FMAP_REQUIRE();
	self->map[0] = fmap_linear(0, 0, SIZE);
	self->map[1] = fmap_linear(1, 0, SIZE);
	/* Fill the memory, and forget the files. */
	self->s = new_server(self->map);
	ASSERT_NE(NULL, self->s);
	for (int i = 0; i < 2; i++) {
		fd = fs_open(self->s, i ? "other" : "file", O_RDWR);
		ASSERT_LE(0, fd);
		ASSERT_EQ(-1, pattern_write(fd, FILLED, 1 + i, 0));
		close(fd);
	}
	ASSERT_EQ(0, fs_stop(self->s));
	self->s = new_server(self->map);
	ASSERT_NE(NULL, self->s);
	strcpy(self->dir, "/tmp/stacked.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	ASSERT_EQ(0, mount("tmpfs", self->dir, "tmpfs", 0, NULL));
}

FIXTURE_TEARDOWN(stacked)
{
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(0, umount(self->dir));
	EXPECT_EQ(0, rmdir(self->dir));
	EXPECT_EQ(0, fs_stop(self->s));
}

/* A path below the directory for mounts. @make: create it. */
static const char *below(FIXTURE_DATA(stacked) * self, const char *name, bool make)
{
	static char path[4][128];
	static unsigned int n;
	char *p = path[n++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s", self->dir, name);
	if (make)
		mkdir(p, 0755);
	return p;
}

/* ---- loop devices ---- */

static int loop_attach(int backing, unsigned int flags, char *path, size_t len)
{
	struct loop_config config = { .fd = backing, .info.lo_flags = flags };
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int fd, nr;

	if (ctl < 0)
		return -errno;
	nr = ioctl(ctl, LOOP_CTL_GET_FREE);
	close(ctl);
	snprintf(path, len, "/dev/loop%d", nr);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, LOOP_CONFIGURE, &config)) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

/* Mount an ext4 file system. @make: create it first. */
static int mount_ext(const char *device, const char *dir, bool make)
{
	char command[256];

	snprintf(command, sizeof(command), "busybox mke2fs -b 4096 %s >/dev/null", device);
	if (make && system(command))
		return -EIO;
	return mount(device, dir, "ext4", 0, NULL) ? -errno : 0;
}

static void loop_and_file_system(struct __test_metadata *_metadata, FIXTURE_DATA(stacked) * self,
				 unsigned int flags)
{
	static unsigned char buf[64 * KIB] __attribute__((aligned(4096)));
	const char *dir = below(self, "ext", true), *name = below(self, "ext/name", false);
	struct loop_info64 info;
	unsigned char *p;
	char device[32];
	int fd, backing, loop;

	backing = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, backing);
	loop = loop_attach(backing, flags, device, sizeof(device));
	if (loop == -ENOENT || loop == -ENODEV)
		SKIP(return, "no loop devices");
	ASSERT_LE(0, loop) TH_LOG("%s", strerror(-loop));
	/* The loop driver would clear the flag if direct I/O were not possible. */
	ASSERT_EQ(0, ioctl(loop, LOOP_GET_STATUS64, &info));
	EXPECT_EQ(flags, info.lo_flags & LO_FLAGS_DIRECT_IO);
	ASSERT_EQ(sizeof(buf), pread(loop, buf, sizeof(buf), 0));
	EXPECT_EQ(-1, pattern_differs(buf, sizeof(buf), 1, 0));

	ASSERT_EQ(0, mount_ext(device, dir, true));
	p = fs_map(self->s, "other", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p);
	fd = open(name, O_RDWR | O_CREAT | O_DIRECT, 0644);
	ASSERT_LE(0, fd);
	/* Direct I/O from a mapping, and to it. */
	ASSERT_EQ(FILLED / 2, pwrite(fd, p, FILLED / 2, 0));
	ASSERT_EQ(FILLED / 2, pwrite(fd, p + FILLED / 2, FILLED / 2, FILLED / 2));
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(FILLED, pread(fd, p + HUGE + PAGE, FILLED, 0));
	EXPECT_EQ(-1, pattern_differs(p + HUGE + PAGE, FILLED, 2, 0));
	close(fd);
	ASSERT_EQ(0, umount(dir));

	/* All data are in the file. */
	ASSERT_EQ(0, ioctl(loop, LOOP_CLR_FD));
	close(loop);
	loop = loop_attach(backing, 0, device, sizeof(device));
	ASSERT_LE(0, loop);
	ASSERT_EQ(0, mount_ext(device, dir, false));
	fd = open(name, O_RDONLY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, pattern_read(fd, FILLED, 2, 0));
	close(fd);
	ASSERT_EQ(0, umount(dir));
	ASSERT_EQ(0, ioctl(loop, LOOP_CLR_FD));
	close(loop);
	close(backing);
	munmap(p, SIZE);
}

TEST_F_TIMEOUT(stacked, loop, 60)
{
	loop_and_file_system(_metadata, self, 0);
}

TEST_F_TIMEOUT(stacked, loop_with_direct_io, 60)
{
	loop_and_file_system(_metadata, self, LO_FLAGS_DIRECT_IO);
}

/* A no_rw descriptor cannot back a loop device. The loop driver does not check its mode. */
TEST_F(stacked, loop_over_a_no_rw_descriptor)
{
	int idle = fs_open(self->s, "file", O_ACCMODE), loop;
	char device[32];

	ASSERT_LE(0, idle);
	loop = loop_attach(idle, LO_FLAGS_READ_ONLY, device, sizeof(device));
	if (loop == -ENOENT || loop == -ENODEV)
		SKIP(return, "no loop devices");
	EXPECT_EQ(-EINVAL, loop);
	EXPECT_EQ(0, self->s->count[FUSE_GET_FMAP]);
	close(idle);
}

/* ---- overlayfs ---- */

static int mount_overlay(FIXTURE_DATA(stacked) * self, const char *lower, const char *upper)
{
	const char *work = below(self, "work", true), *merged = below(self, "merged", true);
	char options[512];

	if (upper)
		snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s",
			 lower, upper, work);
	else
		snprintf(options, sizeof(options), "lowerdir=%s:%s", lower, work);
	return mount("overlay", merged, "overlay", 0, options) ? -errno : 0;
}

/* The first open of the file comes from overlayfs. */
TEST_F(stacked, overlay_below_which_nobody_looked)
{
	struct fmap_cachestat cs;
	unsigned char *p, *q;
	int fd, err = mount_overlay(self, self->s->dir, NULL);

	if (err == -ENODEV)
		SKIP(return, "no overlayfs");
	ASSERT_EQ(0, err);
	fd = open(below(self, "merged/file", false), O_RDONLY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(-1, pattern_read(fd, FILLED, 1, 0));
	p = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(-1, pattern_differs(p, FILLED, 1, 0));
	/* overlayfs maps the memory, not a copy. */
	q = fs_map(self->s, "file", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, q);
	ASSERT_EQ(0, touch(q + HUGE, 'o'));
	EXPECT_EQ('o', p[HUGE]);
	EXPECT_EQ('o', byte_at(fd, HUGE));
	EXPECT_EQ(0, fmap_cachestat(fd, &cs));
	EXPECT_EQ(0, cs.cache + cs.evicted);
	close(fd);
	EXPECT_EQ('o', p[HUGE]);
	ASSERT_EQ(0, touch(q + HUGE, 'v'));
	EXPECT_EQ('v', p[HUGE]);
	munmap(p, SIZE);
	munmap(q, SIZE);
	EXPECT_EQ(0, umount(below(self, "merged", false)));
}

/* A writer gets a copy in the upper layer, and the lower file does not change. */
TEST_F_TIMEOUT(stacked, overlay_copies_up, 60)
{
	unsigned char *p;
	int fd, lower, err = mount_overlay(self, self->s->dir, below(self, "upper", true));

	if (err == -ENODEV)
		SKIP(return, "no overlayfs");
	ASSERT_EQ(0, err);
	fd = open(below(self, "merged/file", false), O_RDWR);
	ASSERT_LE(0, fd) TH_LOG("%s", strerror(errno));
	EXPECT_EQ(-1, pattern_read(fd, FILLED, 1, 0));
	EXPECT_EQ(1, pwrite(fd, "u", 1, 0));
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + 1, 'u'));
	munmap(p, SIZE);
	lower = fs_open(self->s, "file", O_RDONLY);
	ASSERT_LE(0, lower);
	EXPECT_EQ(-1, pattern_read(lower, FILLED, 1, 0));
	/* The file is the copy now: its size can change. */
	EXPECT_EQ(0, ftruncate(fd, 100));
	close(lower);
	close(fd);
	EXPECT_EQ(0, umount(below(self, "merged", false)));
}

/* FUSE has d_revalidate(): overlayfs does not take such a file system as its upper layer. */
TEST_F(stacked, overlay_does_not_write_to_fuse)
{
	int err = mount_overlay(self, below(self, "lower", true), self->s->dir);

	if (err == -ENODEV)
		SKIP(return, "no overlayfs");
	EXPECT_EQ(-EINVAL, err);
}

/* ---- other ways to a file ---- */

TEST_F(stacked, bind_mounts)
{
	const char *dir = below(self, "bind", true), *name = below(self, "one", false);
	int fd;

	ASSERT_EQ(0, mount(self->s->dir, dir, NULL, MS_BIND, NULL));
	fd = open(below(self, "bind/file", false), O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, pattern_read(fd, FILLED, 1, 0));
	EXPECT_EQ(1, pwrite(fd, "b", 1, HUGE));
	close(fd);
	ASSERT_EQ(0, mount(NULL, dir, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL));
	EXPECT_EQ(-1, open(below(self, "bind/file", false), O_RDWR));
	EXPECT_EQ(EROFS, errno);
	ASSERT_EQ(0, umount(dir));

	/* A bind mount of a file on a file. */
	fd = open(name, O_RDWR | O_CREAT, 0644);
	close(fd);
	ASSERT_EQ(0, mount(fs_path(self->s, "file"), name, NULL, MS_BIND, NULL));
	fd = open(name, O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ('b', byte_at(fd, HUGE));
	close(fd);
	ASSERT_EQ(0, umount(name));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

/* Open by handle, as an NFS server does, with the inode in memory and without. */
TEST_F(stacked, file_handles)
{
	struct {
		struct file_handle handle;
		unsigned char room[MAX_HANDLE_SZ];
	} h = { .handle.handle_bytes = MAX_HANDLE_SZ };
	int root = open(self->s->dir, O_RDONLY | O_DIRECTORY), fd, id;
	unsigned int forgets;

	ASSERT_LE(0, root);
	ASSERT_EQ(0, name_to_handle_at(root, "file", &h.handle, &id, 0));
	for (int round = 0; round < 2; round++) {
		fd = open_by_handle_at(root, &h.handle, O_RDWR);
		ASSERT_LE(0, fd) TH_LOG("%s", strerror(errno));
		EXPECT_EQ(1 + round, self->s->count[FUSE_GET_FMAP]);
		EXPECT_EQ(-1, pattern_read(fd, FILLED, 1, 0));
		EXPECT_EQ(1, pwrite(fd, "h", 1, HUGE));
		/* In the second round no name leads to the inode: it may be evicted now. */
		forgets = fs_forgets(self->s);
		close(fd);
		EXPECT_TRUE(fs_forget_since(self->s, forgets));
	}
	close(root);
}

static pid_t program;

static void unload(void)
{
	if (getpid() == program && system("modprobe -qr loop ext4 overlay"))
		fprintf(stderr, "# some modules are still there\n");
}

int main(int argc, char **argv)
{
	/* The modules that are loaded for the tests are unloaded at exit. */
	if (system("modprobe -qa loop ext4 overlay"))
		fprintf(stderr, "# some modules are missing\n");
	program = getpid();
	atexit(unload);
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
