// SPDX-License-Identifier: GPL-2.0
/*
 * Unloading the module before and after its users.
 *
 * It can be unloaded when it is not in use. While ops are registered, a mount is
 * attached, also a lazily unmounted one, or the list of mounts is open, rmmod fails with
 * EAGAIN ("in use"). Mounts that are not attached do not hold the module, and work without
 * it.
 *
 * These tests unload and load the module that the other tests use, and leave it as
 * it was.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)

FIXTURE(unload) {
	struct bpf_object *obj;
	struct bpf_link *link;
	struct fuse_server *s;
	struct scripted map;
};

FIXTURE_SETUP(unload)
{
	FMAP_REQUIRE();
	if (module_refs() != 0)
		SKIP(return, "the module is in use");
	if (module_unload())
		SKIP(return, "the module cannot be unloaded");
	ASSERT_EQ(0, module_load(""));
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
}

/* In the parent: the other tests need the module. */
FIXTURE_TEARDOWN_PARENT(unload)
{
	if (module_refs() < 0)
		module_load("");
	EXPECT_TRUE(module_refs_wait(0));
}

#define load_ops() do {							\
	struct bpf_map *map;						\
	self->obj = fmap_load("scripted.bpf.o");			\
	ASSERT_NE(NULL, self->obj) TH_LOG("%s", fmap_bpf_log());	\
	map = bpf_object__find_map_by_name(self->obj, "scripted");	\
	self->link = bpf_map__attach_struct_ops(map);			\
	ASSERT_NE(NULL, self->link);					\
} while (0)

#define unload_ops() do {						\
	bpf_link__destroy(self->link);					\
	bpf_object__close(self->obj);					\
} while (0)

TEST_F(unload, unused)
{
	for (int i = 0; i < 5; i++) {
		EXPECT_EQ(0, module_unload());
		EXPECT_EQ(-1, module_refs());
		EXPECT_EQ(0, module_load(""));
	}
	fs_stop(self->s);
}

TEST_F(unload, loaded_twice)
{
	EXPECT_EQ(-EEXIST, module_load(""));
	fs_stop(self->s);
}

/* What is open in debugfs has code and data of the module. */
TEST_F(unload, list_open)
{
	static const char *const lists[] = { "mounts", "devices", "files" };

	for (int i = 0; i < ARRAY_SIZE(lists); i++) {
		char path[128], c;
		int fd;

		snprintf(path, sizeof(path), "/sys/kernel/debug/" MODULE_NAME "/%s", lists[i]);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		ASSERT_LE(0, fd);
		ASSERT_EQ(1, module_refs());
		EXPECT_EQ(0, read(fd, &c, 1));
		EXPECT_EQ(-EAGAIN, module_unload());
		EXPECT_EQ(0, close(fd));
		EXPECT_EQ(0, module_unload());
		ASSERT_EQ(0, module_load(""));
	}
	fs_stop(self->s);
}

/* One that was read in part, of a mount that has gone since. */
TEST_F(unload, list_open_of_a_mount)
{
	char c;
	int fd;

	load_ops();
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	fd = open("/sys/kernel/debug/" MODULE_NAME "/files", O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, read(fd, &c, 1));
	EXPECT_EQ(0, fs_umount(self->s));
	unload_ops();
	EXPECT_TRUE(module_refs_wait(1));
	EXPECT_EQ(-EAGAIN, module_unload());
	EXPECT_EQ(0, close(fd));
	EXPECT_EQ(0, module_unload_wait());
	fs_stop(self->s);
}

TEST_F(unload, ops_registered)
{
	load_ops();
	EXPECT_EQ(-EAGAIN, module_unload());
	unload_ops();
	EXPECT_EQ(0, module_unload_wait());
	fs_stop(self->s);
}

/* Link, mapping, file and mount: dropped one by one, the mount last. */
TEST_F(unload, mount_last)
{
	unsigned char *p;

	load_ops();
	ASSERT_EQ(0, fs_mount(self->s));
	p = fs_map(self->s, "file", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 1));
	EXPECT_EQ(-EAGAIN, module_unload());
	unload_ops();
	EXPECT_EQ(-EAGAIN, module_unload());
	EXPECT_EQ(0, touch(p + HUGE, 1));
	munmap(p, SIZE);
	EXPECT_EQ(-EAGAIN, module_unload());
	EXPECT_EQ(0, fs_umount(self->s));
	EXPECT_EQ(0, module_unload_wait());
	fs_stop(self->s);
}

TEST_F(unload, ops_last)
{
	load_ops();
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(0, fs_umount(self->s));
	EXPECT_EQ(-EAGAIN, module_unload());
	unload_ops();
	EXPECT_EQ(0, module_unload_wait());
	fs_stop(self->s);
}

TEST_F(unload, lazy_umount)
{
	unsigned char *p;

	load_ops();
	ASSERT_EQ(0, fs_mount(self->s));
	p = fs_map(self->s, "file", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
	self->s->mounted = false;
	unload_ops();
	usleep(50 * 1000);
	EXPECT_EQ(-EAGAIN, module_unload());
	EXPECT_EQ(0, touch(p, 1));
	munmap(p, SIZE);
	EXPECT_EQ(0, module_unload_wait());
	fs_stop(self->s);
}

TEST_F(unload, server_killed)
{
	self->s->forked = true;
	load_ops();
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	fs_kill(self->s);
	unload_ops();
	usleep(50 * 1000);
	EXPECT_EQ(-EAGAIN, module_unload());
	EXPECT_EQ(0, fs_umount(self->s));
	EXPECT_EQ(0, module_unload_wait());
	fs_stop(self->s);
}

/* A mount is attached, and no file was opened: the mount alone holds the module. */
TEST_F(unload, nothing_opened)
{
	load_ops();
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, access(fs_path(self->s, "file"), F_OK));
	unload_ops();
	usleep(50 * 1000);
	EXPECT_EQ(-EAGAIN, module_unload());
	EXPECT_EQ(0, fs_umount(self->s));
	EXPECT_EQ(0, module_unload_wait());
	fs_stop(self->s);
}

/* A mount that is not attached works through unloading and loading. */
TEST_F(unload, under_plain_mount)
{
	struct fuse_server *s = self->s;
	char c;
	int fd;

	s->ops_name[0] = 0;
	ASSERT_EQ(0, fs_mount(s));
	fd = fs_open(s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, module_unload());
	EXPECT_EQ(1, pread(fd, &c, 1, 0));
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_EQ(0, module_load(""));
	EXPECT_EQ(1, pread(fd, &c, 1, 0));
	EXPECT_EQ(0, fs_try(s, "file"));
	close(fd);
	EXPECT_EQ(0, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, fs_stop(s));
}

/* A mount that failed does not hold the module either. */
TEST_F(unload, under_failed_mount)
{
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(-ENOTCONN, fs_try(self->s, "file"));
	EXPECT_EQ(0, module_unload_wait());
	EXPECT_EQ(-ENOTCONN, fs_try(self->s, "file"));
	EXPECT_EQ(0, fs_stop(self->s));
}

/*
 * The server has the module's offer, and has not answered INIT. Either the module
 * cannot be unloaded, or the answer comes after it is gone, and must do no harm:
 * the mount is then not attached, or has failed.
 */
static void unload_during_init(struct __test_metadata *_metadata,
			       struct fuse_server *s)
{
	int err, opened;

	err = module_unload();
	EXPECT_TRUE(err == 0 || err == -EAGAIN);
	fs_release(s, FUSE_INIT);
	opened = fs_try(s, "file");
	EXPECT_TRUE(opened == 0 || opened == -ENOTCONN);
	EXPECT_EQ(0, s->count[FUSE_GET_FMAP]);
}

TEST_F(unload, during_async_init)
{
	self->s->hold[FUSE_INIT] = true;
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_TRUE(fs_wait(self->s, FUSE_INIT, 1));
	unload_during_init(_metadata, self->s);
	EXPECT_EQ(0, fs_stop(self->s));
}

static void *mount_thread(void *s)
{
	return (void *)(long)fs_mount(s);
}

TEST_F(unload, during_sync_init)
{
	pthread_t thread;

	self->s->hold[FUSE_INIT] = true;
	self->s->sync_init = true;
	ASSERT_EQ(0, pthread_create(&thread, NULL, mount_thread, self->s));
	ASSERT_TRUE(fs_wait(self->s, FUSE_INIT, 1));
	EXPECT_TRUE(module_unload() != -ENOENT);
	fs_release(self->s, FUSE_INIT);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* A killed opener leaves a request behind; unmounting ends it. */
TEST_F(unload, after_killed_opener)
{
	pid_t pid;

	load_ops();
	self->s->hold[FUSE_GET_FMAP] = true;
	ASSERT_EQ(0, fs_mount(self->s));
	pid = fs_try_in_child(self->s, "file");
	ASSERT_LE(0, pid);
	ASSERT_TRUE(fs_wait(self->s, FUSE_GET_FMAP, 1));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	EXPECT_EQ(-EAGAIN, module_unload());
	EXPECT_EQ(0, fs_umount(self->s));
	unload_ops();
	EXPECT_EQ(0, module_unload_wait());
	fs_stop(self->s);
}

/*
 * Mounts come and go while the module is loaded and unloaded. Each mount is
 * attached, or failed, or, without the module, plain FUSE; and in the end the
 * module can be unloaded.
 */
static int mount_all_the_time(const struct scripted *map, volatile bool *stop,
			      unsigned int *seen)
{
	while (!*stop) {
		struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);
		int err;

		if (!s)
			return 1;
		s->sync_init = seen[0] % 2;
		seen[0]++;
		fs_add(s, "file", SIZE, map, sizeof(*map));
		err = fs_mount(s);
		if (!err)
			err = fs_try(s, "file");
		if (!err)
			seen[s->count[FUSE_GET_FMAP] ? 1 : 2]++;
		else if (err == -ENOTCONN)
			seen[3]++;
		else
			return 2;
		fs_stop(s);
	}
	return 0;
}

TEST_F_TIMEOUT(unload, racing_mounts, 180)
{
	struct {
		volatile bool stop;
		unsigned int seen[4];
	} *shared;
	unsigned int unloads = 0, tries = 0;
	pid_t pid;

	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, shared);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(mount_all_the_time(&self->map, &shared->stop, shared->seen));
	for (int round = 0; round < 8; round++) {
		load_ops();
		usleep(30 * 1000);
		unload_ops();
		/* The module is in use at times: by a mount, or by an offer. */
		for (int ms = 0; ms < FS_PATIENCE; ms++) {
			int err = module_unload();

			tries++;
			if (!err) {
				unloads++;
				break;
			}
			ASSERT_EQ(-EAGAIN, err);
			usleep(1000);
		}
		usleep(round % 2 * 20 * 1000);
		if (module_refs() < 0)
			ASSERT_EQ(0, module_load(""));
	}
	shared->stop = true;
	EXPECT_EQ(0, ended(pid));
	TH_LOG("%u mounts: %u attached, %u plain, %u refused; %u of %u unloadings",
	       shared->seen[0], shared->seen[1], shared->seen[2], shared->seen[3],
	       unloads, tries);
	EXPECT_LT(0, shared->seen[1] + shared->seen[2] + shared->seen[3]);
	EXPECT_LT(0, unloads);
	EXPECT_EQ(0, fs_stop(self->s));
}

int main(int argc, char **argv)
{
	return test_harness_run(argc, argv);
}
