// SPDX-License-Identifier: GPL-2.0
/*
 * Many of everything, and little memory.
 *
 * 64 tasks open one file at once, one task opens 1,000 files, the caches are dropped all
 * the time, a task opens more maps than its memory cgroup allows. Maps are charged to the
 * opener: an opener that runs out of memory fails or is killed, and other tasks are not
 * affected.
 *
 * FILES=N for another number of files. OOM=1 for a task that is killed, which the
 * kernel reports with a stack trace in its log.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(64 * KIB)
#define TASKS	64
#define CGROUPS	"/sys/fs/cgroup"
#define CGROUP	CGROUPS "/fmap-test"

/* Each file has its own piece of the device. */
static void map_of_each(struct fuse_server *s, const struct fuse_in_header *in,
			const void *arg)
{
	struct scripted map = fmap_linear(0, (in->nodeid - FS_ANY) * SIZE, SIZE);

	fs_reply(s, in, 0, &map, sizeof(map));
}

static bool mapped_files_wait(struct fuse_server *s, long n)
{
	for (int ms = 0; ms < FS_PATIENCE; ms += 10) {
		drop_caches();
		if (fs_counter(s, "files") == n)
			return true;
		usleep(10 * 1000);
	}
	return false;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

FIXTURE(pressure) {
	struct fuse_server *s;
	struct scripted map;
	pid_t pid[TASKS];
	long refs;
};

FIXTURE_SETUP(pressure)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_any(self->s, SIZE);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
}

FIXTURE_TEARDOWN(pressure)
{
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* TASKS children that open "file" while GET_FMAP is held, and do @what then. */
#define start_tasks(what) do {						\
	self->s->hold[FUSE_GET_FMAP] = true;				\
	ASSERT_EQ(0, fs_mount(self->s));				\
	ASSERT_EQ(0, access(fs_path(self->s, "file"), F_OK));		\
	for (int i = 0; i < TASKS; i++) {				\
		self->pid[i] = fork();					\
		ASSERT_LE(0, self->pid[i]);				\
		if (!self->pid[i])					\
			_exit(what);					\
	}								\
	ASSERT_TRUE(fs_wait(self->s, FUSE_GET_FMAP, 1));		\
	for (int i = 0; i < TASKS; i++)					\
		ASSERT_TRUE(asleep(self->pid[i]));			\
} while (0)

static int map_and_touch(struct fuse_server *s, int value)
{
	unsigned char *p = fs_map(s, "file", SIZE, PROT_READ | PROT_WRITE);

	if (p == MAP_FAILED)
		return 1;
	return touch(p + value % (SIZE / PAGE) * PAGE, value) ? 2 : 0;
}

/* One request is sent, and its answer lets all of them go on at once. */
TEST_F(pressure, many_openers)
{
	double start;

	start_tasks(map_and_touch(self->s, i));
	start = now();
	fs_release(self->s, FUSE_GET_FMAP);
	for (int i = 0; i < TASKS; i++)
		EXPECT_EQ(0, ended(self->pid[i]));
	TH_LOG("%d openers: %.0f ms", TASKS, (now() - start) * 1e3);
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(1, fs_counter(self->s, "files"));
}

/* One ENOSYS to GET_FMAP tells all openers that the mount has no maps. */
TEST_F(pressure, many_openers_of_no_map)
{
	self->s->error[FUSE_GET_FMAP] = -ENOSYS;
	start_tasks(-fs_try(self->s, "file"));
	fs_release(self->s, FUSE_GET_FMAP);
	for (int i = 0; i < TASKS; i++)
		EXPECT_EQ(0, ended(self->pid[i]));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

/* A map that the parser rejects makes the open fail for each of them. */
TEST_F(pressure, many_openers_of_a_bad_map)
{
	self->map.parse_ret = -EBADMSG;
	start_tasks(-fs_try(self->s, "file"));
	fs_release(self->s, FUSE_GET_FMAP);
	for (int i = 0; i < TASKS; i++)
		EXPECT_EQ(W_EXITCODE(EBADMSG, 0), ended(self->pid[i]));
	EXPECT_EQ(TASKS, self->s->count[FUSE_GET_FMAP]);
	self->map.parse_ret = 0;
	EXPECT_EQ(0, fs_fill(self->s, "file", 'd', SIZE));
}

/* Half of them are killed while they wait. */
TEST_F(pressure, many_openers_killed)
{
	start_tasks(map_and_touch(self->s, i));
	for (int i = 0; i < TASKS; i += 2)
		kill(self->pid[i], SIGKILL);
	for (int i = 0; i < TASKS; i += 2)
		EXPECT_EQ(SIGKILL, ended(self->pid[i]));
	fs_release(self->s, FUSE_GET_FMAP);
	for (int i = 1; i < TASKS; i += 2)
		EXPECT_EQ(0, ended(self->pid[i]));
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(1, fs_counter(self->s, "files"));
}

static int number_of_files(void)
{
	const char *env = getenv("FILES");

	return env ? atoi(env) : 1000;
}

TEST_F_TIMEOUT(pressure, many_files, 60 + number_of_files() / 10)
{
	int n = number_of_files();
	char name[16];
	double start;

	ASSERT_EQ(0, fs_mount(self->s));
	start = now();
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		ASSERT_EQ(0, fs_try(self->s, name));
	}
	TH_LOG("%d files: %.1f s", n, now() - start);
	EXPECT_EQ(n, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(n, fs_counter(self->s, "files"));
	/* A second open sends no GET_FMAP. */
	for (int i = 0; i < n; i += 97) {
		snprintf(name, sizeof(name), "f%d", i);
		EXPECT_EQ(0, fs_try(self->s, name));
	}
	EXPECT_EQ(n, self->s->count[FUSE_GET_FMAP]);
	EXPECT_TRUE(mapped_files_wait(self->s, 0));
}

/* Files are forgotten, again and again, while other files are opened, mapped and read. */
TEST_F_TIMEOUT(pressure, caches_dropped, 120)
{
	enum { OWNERS = 4, ROUNDS = 6 };
	struct fuse_server *s = self->s;
	char name[16];
	int status;

	s->hook[FUSE_GET_FMAP] = map_of_each;
	ASSERT_EQ(0, fs_mount(s));
	for (int i = 0; i < OWNERS; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		ASSERT_EQ(0, fs_fill(s, name, 'd' + i, SIZE));
	}
	for (int i = 0; i < OWNERS; i++) {
		self->pid[i] = fork();
		ASSERT_LE(0, self->pid[i]);
		if (self->pid[i])
			continue;
		snprintf(name, sizeof(name), "f%d", i);
		for (int n = 0; n < ROUNDS; n++) {
			int fd = fs_open(s, name, O_RDWR);
			unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
						MAP_SHARED, fd, 0);

			if (fd < 0 || byte_at(fd, n * PAGE) != 'd' + i) {
				fprintf(stderr, "# %s: %d, %d\n", name, fd, byte_at(fd, n * PAGE));
				_exit(1);
			}
			close(fd);
			if (p == MAP_FAILED || touch(p + n * PAGE, 'd' + i) ||
			    p[SIZE - 1] != 'd' + i)
				_exit(2);
			munmap(p, SIZE);
			/* Once to see that a name is not in use, once to drop it. */
			drop_caches();
			drop_caches();
		}
		_exit(0);
	}
	for (int i = 0; i < OWNERS; i++) {
		ASSERT_EQ(self->pid[i], waitpid(self->pid[i], &status, 0));
		EXPECT_EQ(0, status);
	}
	EXPECT_EQ(0, s->count[FUSE_READ]);
	EXPECT_EQ(0, s->count[FUSE_WRITE]);
	EXPECT_LT(2 * OWNERS, s->count[FUSE_GET_FMAP]);
	EXPECT_TRUE(mapped_files_wait(s, 0));
}

/* A size that a task may not write beyond. */
TEST_F(pressure, file_size_limit)
{
	struct rlimit limit = { PAGE, RLIM_INFINITY };
	unsigned char *p;
	int fd;

	ASSERT_EQ(0, fs_mount(self->s));
	fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	signal(SIGXFSZ, SIG_IGN);
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &limit));
	EXPECT_EQ(10, pwrite(fd, "0123456789", 10, 0));
	EXPECT_EQ(4, pwrite(fd, "0123456789", 10, PAGE - 4));
	EXPECT_EQ(-1, pwrite(fd, "0123456789", 10, PAGE));
	EXPECT_EQ(EFBIG, errno);
	/* The limit is for files that grow, so it does not affect mappings. */
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + 2 * PAGE, 1));
	munmap(p, SIZE);
	close(fd);
}

/* ---- a cgroup with little memory ---- */

FIXTURE(cgroup) {
	struct fuse_server *s;
	struct scripted map;
	bool made;
	long refs;
};

FIXTURE_SETUP(cgroup)
{
	FMAP_REQUIRE();
	if (write_file(CGROUPS "/cgroup.subtree_control", "+memory") ||
	    mkdir(CGROUP, 0755))
		SKIP(return, "no memory cgroup can be made");
	self->made = true;
	ASSERT_EQ(0, write_file(CGROUP "/memory.max", "16M"));
	write_file(CGROUP "/memory.swap.max", "0");
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, SIZE);
	self->map.alloc = FUSE_DAX_FMAP_META_MAX;
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_any(self->s, SIZE);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN_PARENT(cgroup)
{
	int err = -EBUSY;

	if (!self->made)
		return;
	for (int ms = 0; ms < FS_PATIENCE && err; ms += 10) {
		err = rmdir(CGROUP);
		usleep(10 * 1000);
	}
	EXPECT_EQ(0, err);
	write_file(CGROUPS "/cgroup.subtree_control", "-memory");
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* In the cgroup: open @n files, and keep them or not. */
static int open_many(struct fuse_server *s, int n, bool keep)
{
	struct rlimit limit = { n + 100, n + 100 };
	char name[16];

	if (setrlimit(RLIMIT_NOFILE, &limit) ||
	    write_file(CGROUP "/cgroup.procs", "0"))
		return 100;
	for (int i = 0; i < n; i++) {
		int fd;

		snprintf(name, sizeof(name), "f%d", i);
		fd = fs_open(s, name, O_RDWR);
		if (fd < 0)
			return -fd;
		if (!keep)
			close(fd);
	}
	return 0;
}

/* 64 MiB of maps in a cgroup of 16 MiB: reclaim has to free those of closed files. */
TEST_F_TIMEOUT(cgroup, closed_files_make_room, 120)
{
	int status;
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid)
		_exit(open_many(self->s, 1000, false));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(1000, self->s->count[FUSE_GET_FMAP]);
	EXPECT_GT(300, fs_counter(self->s, "files")) {
		TH_LOG("%ld files", fs_counter(self->s, "files"));
	}
	EXPECT_TRUE(mapped_files_wait(self->s, 0));
	EXPECT_EQ(0, fs_stop(self->s));
}

/* Maps of open files cannot be freed: the task fails, or is killed. Other tasks go on. */
TEST_F_TIMEOUT(cgroup, open_files_do_not, 120)
{
	int status;
	pid_t pid;

	if (!getenv("OOM"))
		SKIP(return, "the kernel would report it as if it were a defect (OOM=1)");
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(open_many(self->s, 1000, true));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(status == W_EXITCODE(ENOMEM, 0) || status == SIGKILL) {
		TH_LOG("status %x", status);
	}
	EXPECT_GT(300, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, fs_fill(self->s, "f0", 'd', SIZE));
	EXPECT_EQ(0, fs_fill(self->s, "f999", 'd', SIZE));
	EXPECT_TRUE(mapped_files_wait(self->s, 0));
	EXPECT_EQ(0, fs_stop(self->s));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
