// SPDX-License-Identifier: GPL-2.0
/*
 * FUSE's page cache during a first open.
 *
 * Before its first open a file has FUSE's page cache: the server stores pages there,
 * reclaim drops them and leaves shadow entries, and stat(2) drops all of them if the server
 * reports a new mtime. All of that may happen while the file becomes mapped, and later. It
 * must not touch the DAX page cache: faults, fsync and unmounting must find the file's memory
 * and nothing else, and no page of that memory may be mapped by another file as long as
 * the first one has it mapped.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "first_open.h"

#define BY_FUSE		'f'	/* what the server stores */
#define ON_DEVICE	'd'
#define SMALL		(32 * KIB)	/* of one node of a page cache */

/* FUSE_NOTIFY_STORE: the server stores pages: 0 or the errno. */
static int store(struct fuse_server *s, int file, uint64_t offset, const void *data,
		 uint32_t len)
{
	struct fuse_notify_store_out head = {
		.nodeid = s->file[file].nodeid,
		.offset = offset,
		.size = len,
	};

	return fs_notify(s, FUSE_NOTIFY_STORE, &head, sizeof(head), data, len);
}

/* Flags that a child and its parent set for each other. Each wait has a timeout. */
struct told {
	volatile int opened, touched, go_on;
	volatile int error;		/* of the child */
};

static struct told *new_told(void)
{
	return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static bool wait_for(volatile int *what)
{
	for (int ms = 0; ms < FS_PATIENCE && !*what; ms++)
		usleep(1000);
	return *what;
}

/* ---- pages that were reclaimed ---- */

#define CGROUPS	"/sys/fs/cgroup"
#define CGROUP	CGROUPS "/fmap-pages"

FIXTURE(reclaimed) {
	struct fuse_server *s;
	struct scripted map;
	struct told *told;
	pthread_t notifier;
	pid_t holder, opener;
	int path;		/* O_PATH: keeps the inode, and is no open of it */
	long refs;
};

FIXTURE_SETUP(reclaimed)
{
	char line[128];
	void *ballast;
	struct stat st;

	FMAP_REQUIRE();
	self->refs = module_refs();
	self->path = -1;
	write_file(CGROUPS "/cgroup.subtree_control", "+memory");
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		SKIP(return, "there is no cgroup2");
	if (access(CGROUP "/memory.reclaim", W_OK)) {
		rmdir(CGROUP);
		SKIP(return, "cgroups do not reclaim memory here");
	}
	ASSERT_EQ(0, write_file(CGROUP "/cgroup.procs", "0"));
	/* The kernel keeps shadow entries while they are few compared to the cgroup's pages. */
	ballast = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, ballast);
	/* Reading memory.stat makes the kernel count the pages now. */
	ASSERT_EQ(0, read_file(CGROUP "/memory.stat", line, sizeof(line)));
	self->told = new_told();
	ASSERT_NE(MAP_FAILED, self->told);
	self->s = server_of(&self->map);
	ASSERT_NE(NULL, self->s);
	self->s->error[FUSE_MKDIR] = -EPERM;
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "file", ON_DEVICE, SIZE));
	ASSERT_TRUE(fs_forget(self->s));
	ASSERT_EQ(0, stat(fs_path(self->s, "file"), &st));
	self->path = fs_open(self->s, "file", O_PATH);
	ASSERT_LE(0, self->path);
	for (int op = 0; op < FS_OPCODES; op++)
		self->s->count[op] = 0;
}

FIXTURE_TEARDOWN(reclaimed)
{
	int err = EBUSY;

	if (self->path >= 0)
		close(self->path);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
	EXPECT_EQ(0, write_file(CGROUPS "/cgroup.procs", "0"));
	for (int ms = 0; ms < FS_PATIENCE && err == EBUSY; ms++) {
		err = rmdir(CGROUP) ? errno : 0;
		if (err)
			usleep(1000);
	}
	EXPECT_EQ(0, err);
}

/* Nodes of page caches that have shadow entries only, and no page. */
static long shadow_nodes(void)
{
	char line[128];
	long n = -1;
	FILE *f;

	/* Add what is in the per-CPU counters. */
	write_file("/proc/sys/vm/stat_refresh", "1");
	f = fopen("/proc/vmstat", "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "workingset_nodes %ld", &n) == 1)
			break;
	if (f)
		fclose(f);
	return n;
}

/* Store pages and reclaim them; returns true if that left shadow entries. */
static bool store_and_reclaim(struct fuse_server *s)
{
	static char pages[SMALL];
	long before = shadow_nodes();

	memset(pages, BY_FUSE, sizeof(pages));
	for (int i = 0; i < 20; i++) {
		/* In both of the file's pieces of 2 MiB. */
		if (store(s, 0, 0, pages, SMALL) || store(s, 0, HUGE + SMALL, pages, SMALL))
			return false;
		for (int n = 0; n < 8; n++) {
			write_file(CGROUP "/memory.reclaim", "256K");
			if (shadow_nodes() > before)
				return true;
		}
	}
	return false;
}

/* All operations that look for entries in a page cache, on an open file. */
static int use_all(int fd)
{
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unsigned char *q = address_range(PAGE, SIZE);

	if (p == MAP_FAILED)
		return 1;
	for (size_t at = 0; at < SIZE; at += PAGE)
		if (touch(p + at, -1) || p[at] != ON_DEVICE)
			return 2;
	for (size_t at = 1; at < SIZE; at += 5 * PAGE)
		if (touch(p + at, 'w'))
			return 3;
	/* By PTE faults: the address is not aligned. */
	q = mmap(q, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (q == MAP_FAILED)
		return 4;
	for (size_t at = 0; at < SIZE; at += PAGE)
		if (touch(q + at, -1) || q[at] != ON_DEVICE)
			return 5;
	if (fsync(fd) || msync(p, SIZE, MS_SYNC))
		return 6;
	for (size_t at = 0; at < SIZE; at += 3 * PAGE)
		if (byte_at(fd, at) != ON_DEVICE || pwrite(fd, "w", 1, at + 2) != 1)
			return 7;
	if (fsync(fd))
		return 8;
	munmap(p, SIZE);
	munmap(q, SIZE);
	return 0;
}

static pid_t start_user(struct fuse_server *s, struct told *told)
{
	pid_t pid = fork();
	int fd;

	if (pid)
		return pid;
	fd = fs_open(s, "file", O_RDWR);
	if (fd < 0)
		_exit(-fd);
	told->opened = 1;
	if (!wait_for(&told->go_on))
		_exit(99);
	_exit(use_all(fd));
}

#define expect_used() do {						\
	self->told->go_on = 1;						\
	EXPECT_EQ(0, ended(self->opener));				\
	EXPECT_EQ(0, self->s->count[FUSE_READ] + self->s->count[FUSE_WRITE]);	\
	EXPECT_EQ(1, fs_counter(self->s, "files"));			\
	close(self->path);						\
	self->path = -1;						\
	EXPECT_EQ(0, fs_umount(self->s));				\
} while (0)

TEST_F(reclaimed, before_the_first_open)
{
	if (!store_and_reclaim(self->s))
		SKIP(return, "pages are not reclaimed");
	self->opener = start_user(self->s, self->told);
	ASSERT_LE(0, self->opener);
	EXPECT_TRUE(wait_for(&self->told->opened));
	expect_used();
}

static void *slow_notification(void *arg)
{
	struct {
		struct fuse_notify_inval_entry_out head;
		char name[2];
	} out = { { .parent = FUSE_ROOT_ID, .namelen = 1 }, "x" };

	fs_notify(arg, FUSE_NOTIFY_INVAL_ENTRY, &out, sizeof(out.head) + sizeof(out.name),
		  NULL, 0);
	return NULL;
}

/*
 * A notification waits for the lock of a directory while the file is opened for the first
 * time and pages of it are reclaimed. The open must complete when the notification does.
 */
TEST_F(reclaimed, during_the_first_open)
{
	struct fuse_server *s = self->s;
	bool there;

	s->hold[FUSE_MKDIR] = true;
	self->holder = fork();
	ASSERT_LE(0, self->holder);
	if (!self->holder)
		_exit(mkdir(fs_path(s, "slow"), 0755) ? errno : 0);
	ASSERT_TRUE(fs_wait(s, FUSE_MKDIR, 1));
	ASSERT_EQ(0, pthread_create(&self->notifier, NULL, slow_notification, s));
	usleep(100 * 1000);
	self->opener = start_user(s, self->told);
	ASSERT_LE(0, self->opener);
	EXPECT_TRUE(fs_wait(s, FUSE_OPEN, 1));
	EXPECT_TRUE(at_rest(self->opener));
	there = store_and_reclaim(s);
	fs_release(s, FUSE_MKDIR);
	pthread_join(self->notifier, NULL);
	EXPECT_EQ(W_EXITCODE(EPERM, 0), ended(self->holder));
	EXPECT_TRUE(wait_for(&self->told->opened));
	expect_used();
	if (!there)
		SKIP(return, "pages are not reclaimed");
}

TEST_F(reclaimed, after_the_first_open)
{
	bool there;

	self->opener = start_user(self->s, self->told);
	ASSERT_LE(0, self->opener);
	EXPECT_TRUE(wait_for(&self->told->opened));
	/* If the server cannot store pages into a mapped file, none is reclaimed. */
	there = store_and_reclaim(self->s);
	expect_used();
	TH_LOG("entries of reclaimed pages: %s", there ? "yes" : "no");
}

/* ---- stat(2) that drops all pages ---- */

FIXTURE(stat_beside) {
	struct fuse_server *s;
	struct scripted map;
	struct told *told;
	cpu_set_t cpus;
	pid_t hog;
	unsigned char *page;		/* of a plain file whose READ the server holds */
	int log, plain;
	long refs;
};

static struct fs_file *changing;

/* GETATTR returns a newer mtime each time. */
static void newer(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	if (in->nodeid == changing->nodeid)
		changing->mtime++;
	fs_default(s, in, arg);
}

static bool on_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return !sched_setaffinity(0, sizeof(set), &set);
}

FIXTURE_VARIANT(stat_beside) {
	bool opener_first;	/* it starts before stat(2) */
};

FIXTURE_VARIANT_ADD(stat_beside, stat_first) {
};

FIXTURE_VARIANT_ADD(stat_beside, opener_first) {
	.opener_first = true,
};

FIXTURE_SETUP(stat_beside)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->told = new_told();
	ASSERT_NE(MAP_FAILED, self->told);
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(self->cpus), &self->cpus));
	/* The server runs on CPU 0, as does the opener; stat(2) on CPU 1, to be late. */
	on_cpu(0);
	self->s = server_of(&self->map);
	ASSERT_NE(NULL, self->s);
	changing = &self->s->file[0];
	/* "thief" has the same memory. */
	fs_add(self->s, "thief", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "plain", SIZE, NULL, 0);
	self->s->init_flags |= FUSE_AUTO_INVAL_DATA;
	self->s->hook[FUSE_GETATTR] = newer;
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "file", ON_DEVICE, SIZE));
	ASSERT_TRUE(fs_forget(self->s));
	self->log = klog_open();
}

FIXTURE_TEARDOWN(stat_beside)
{
	sched_setaffinity(0, sizeof(self->cpus), &self->cpus);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
	if (self->log >= 0)
		EXPECT_EQ(0, klog_count(self->log, "WARNING"));
}

/* stat(2) that always sends GETATTR. */
static int stat_now(struct fuse_server *s)
{
	struct statx stx;

	return statx(AT_FDCWD, fs_path(s, "file"), AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &stx) ?
		errno : 0;
}

/* A store that waits in a fault on its source page: it keeps the file's page locked. */
struct stuck {
	struct fuse_server *s;
	const void *page;
	int error;
};

static void *stuck_store(void *arg)
{
	struct stuck *stuck = arg;

	stuck->error = store(stuck->s, 0, 0, stuck->page, PAGE);
	return NULL;
}

/* A child with realtime priority keeps CPU 1 busy until @told->touched, or for 2 s. */
static pid_t start_hog(struct told *told)
{
	struct sched_param first = { .sched_priority = 1 };
	pid_t pid = fork();
	time_t end;

	if (pid)
		return pid;
	if (!on_cpu(1))
		_exit(0);
	sched_setscheduler(0, SCHED_FIFO, &first);
	end = time(NULL) + 2;
	while (!told->touched && time(NULL) < end)
		;
	_exit(0);
}

/*
 * The opener, in a child: it reads the file through PTEs, and keeps it mapped. It does not
 * store, as dirty entries would not be dropped.
 */
static pid_t start_opener(struct fuse_server *s, struct told *told)
{
	unsigned char *p = address_range(PAGE, SIZE);
	pid_t pid = fork();
	int fd;

	if (pid)
		return pid;
	fd = fs_open(s, "file", O_RDWR);
	if (fd < 0) {
		told->error = -fd;
		_exit(1);
	}
	told->opened = 1;
	p = mmap(p, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (p == MAP_FAILED)
		_exit(2);
	for (size_t at = 0; at < SIZE; at += PAGE)
		if (touch(p + at, -1))
			_exit(3);
	told->touched = 1;
	if (!wait_for(&told->go_on))
		_exit(4);
	for (size_t at = 0; at < SIZE; at += PAGE)
		if (touch(p + at, -1) || p[at] != ON_DEVICE)
			_exit(5);
	_exit(fsync(fd) ? 6 : 0);
}

/* The number of pages that a second file can map while the first has them mapped; must be 0. */
static int stolen(struct fuse_server *s)
{
	unsigned char *q = address_range(PAGE, SIZE);
	int fd = fs_open(s, "thief", O_RDWR), n = 0;

	if (fd < 0)
		return fd;
	q = mmap(q, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	for (size_t at = 0; at < SIZE; at += 31 * PAGE)
		n += !touch(q + at, 't');
	munmap(q, SIZE);
	close(fd);
	return n;
}

/*
 * stat(2) waits for the lock of the first page, and then a task of higher priority has its CPU
 * until the file is mapped. stat(2) then continues with the pages of the page cache in which it
 * began, which must not be the file's memory.
 */
TEST_F(stat_beside, late)
{
	struct fuse_server *s = self->s;
	struct told *told = self->told;

	for (int round = 0; round < 4; round++) {
		struct stuck stuck = { .s = s };
		pid_t stat_pid, opener = 0, hog;
		unsigned int asked;
		pthread_t thread;
		struct stat st;
		int plain;

		memset(told, 0, sizeof(*told));
		ASSERT_EQ(0, stat(fs_path(s, "file"), &st));
		plain = fs_open(s, "plain", O_RDONLY);
		ASSERT_LE(0, plain);
		stuck.page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, plain, 0);
		ASSERT_NE(MAP_FAILED, stuck.page);
		s->hold[FUSE_READ] = true;
		s->count[FUSE_READ] = 0;
		ASSERT_EQ(0, pthread_create(&thread, NULL, stuck_store, &stuck));
		ASSERT_TRUE(fs_wait(s, FUSE_READ, 1));

		if (variant->opener_first) {
			opener = start_opener(s, told);
			ASSERT_LE(0, opener);
			EXPECT_TRUE(at_rest(opener));
		}
		asked = s->count[FUSE_GETATTR];
		stat_pid = fork();
		ASSERT_LE(0, stat_pid);
		if (!stat_pid) {
			on_cpu(1);
			_exit(stat_now(s));
		}
		EXPECT_TRUE(fs_wait(s, FUSE_GETATTR, asked + 1));
		EXPECT_TRUE(at_rest(stat_pid));
		if (!variant->opener_first) {
			opener = start_opener(s, told);
			ASSERT_LE(0, opener);
			EXPECT_TRUE(at_rest(opener));
		}
		hog = start_hog(told);
		ASSERT_LE(0, hog);
		usleep(50 * 1000);
		fs_release(s, FUSE_READ);
		pthread_join(thread, NULL);
		EXPECT_EQ(0, stuck.error);
		EXPECT_TRUE(wait_for(&told->touched));
		EXPECT_EQ(0, ended(hog));
		EXPECT_EQ(0, ended(stat_pid));

		EXPECT_EQ(0, stolen(s));
		told->go_on = 1;
		EXPECT_EQ(0, ended(opener)) {
			TH_LOG("round %d, open: %d", round, told->error);
		}
		munmap((void *)stuck.page, PAGE);
		close(plain);
		ASSERT_TRUE(fs_forget(s));
	}
}

/* stat(2) runs all the time, with no request and no page held back. */
TEST_F(stat_beside, all_the_time)
{
	static char pages[64 * KIB];
	struct fuse_server *s = self->s;
	struct told *told = self->told;
	time_t end = time(NULL) + 2 * fs_slowness();
	struct told *stop = new_told();
	pid_t stats[2], opener;

	ASSERT_NE(MAP_FAILED, stop);
	for (int i = 0; i < ARRAY_SIZE(stats); i++) {
		stats[i] = fork();
		ASSERT_LE(0, stats[i]);
		if (stats[i])
			continue;
		on_cpu(i);
		while (!stop->go_on)
			if (stat_now(s))
				_exit(1);
		_exit(0);
	}
	for (int round = 0; time(NULL) < end; round++) {
		/* Keeps the inode from being evicted before the pages are stored. */
		int path = open(fs_path(s, "file"), O_PATH);

		memset(told, 0, sizeof(*told));
		ASSERT_LE(0, path);
		for (uint64_t pos = 0; pos < SIZE; pos += sizeof(pages))
			ASSERT_EQ(0, store(s, 0, pos, pages, sizeof(pages)));
		close(path);
		opener = start_opener(s, told);
		ASSERT_LE(0, opener);
		EXPECT_TRUE(wait_for(&told->touched));
		EXPECT_EQ(0, stolen(s));
		told->go_on = 1;
		EXPECT_EQ(0, ended(opener)) {
			TH_LOG("round %d, open: %d", round, told->error);
			break;
		}
		drop_caches();
	}
	stop->go_on = 1;
	for (int i = 0; i < ARRAY_SIZE(stats); i++)
		EXPECT_EQ(0, ended(stats[i]));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
