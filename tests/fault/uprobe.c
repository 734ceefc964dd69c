// SPDX-License-Identifier: GPL-2.0
/*
 * Uprobes on a mapped file.
 *
 * A uprobe needs a path and no open file: the kernel looks up the inode, and reads the
 * instruction through the page cache at the next mmap(PROT_EXEC) of any task. A mapped file has
 * an empty page cache. So a probe must be refused, or never fire; the log of the test says which.
 * The kernel must not warn, and a program in a mapped file must never find a breakpoint in its
 * code, whether the probe is set before the first open, after it, or while the program runs, nor
 * after the probe has gone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/perf_event.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)
#define AT	PAGE		/* of the function in the file */
#define TYPE	"/sys/bus/event_source/devices/uprobe/type"
#define CALLS	10
#define ANSWER	42

/* mov $42, %eax; ret */
static const unsigned char code[] = { 0xb8, ANSWER, 0, 0, 0, 0xc3 };

FIXTURE(uprobe) {
	struct fuse_server *s;
	struct scripted map;
	int log;
	long refs;
};

FIXTURE_VARIANT(uprobe) {
	const char *name;
	uint64_t config;
};

FIXTURE_VARIANT_ADD(uprobe, entry) {
	.name = "mapped",
};

FIXTURE_VARIANT_ADD(uprobe, return) {
	.name = "mapped",
	.config = 1,
};

/* With a reference counter in the same file, which the kernel would increment. */
FIXTURE_VARIANT_ADD(uprobe, reference_counter) {
	.name = "mapped",
	.config = (uint64_t)(2 * PAGE) << 32,
};

/* A plain file is in FUSE's page cache: its probes fire. */
FIXTURE_VARIANT_ADD(uprobe, plain) {
	.name = "plain",
};

static bool is_plain(const char *name)
{
	return !strcmp(name, "plain");
}

FIXTURE_SETUP(uprobe)
{
	struct fuse_server *s;
	int fd;

	FMAP_REQUIRE();
	if (access(TYPE, R_OK))
		SKIP(return, "this kernel has no uprobe events");
#ifndef __x86_64__
	SKIP(return, "the function is of x86-64");
#endif
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, s);
	fs_add(s, "mapped", SIZE, &self->map, sizeof(self->map))->mode = S_IFREG | 0755;
	fs_add(s, "plain", FS_PLAIN, NULL, 0)->mode = S_IFREG | 0755;
	memcpy(s->file[1].plain + AT, code, sizeof(code));
	ASSERT_EQ(0, fs_mount(s));
	ASSERT_EQ(0, fs_fill(s, "mapped", 0, SIZE));
	fd = fs_open(s, "mapped", O_RDWR);
	ASSERT_LE(0, fd);
	ASSERT_EQ(sizeof(code), pwrite(fd, code, sizeof(code), AT));
	close(fd);
	/* Evict the inode: the next open is a first open. */
	ASSERT_TRUE(fs_forget(s));
	self->log = klog_open();
}

FIXTURE_TEARDOWN(uprobe)
{
	if (self->log >= 0)
		EXPECT_EQ(0, klog_count(self->log, "WARNING:"));
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* A probe of the function, for a task or a CPU: a descriptor or -errno. */
static int probe(const char *path, uint64_t config, pid_t pid, int cpu)
{
	struct perf_event_attr attr = {
		.type = read_long(TYPE),
		.size = sizeof(attr),
		.config = config,
		.uprobe_path = (uintptr_t)path,
		.probe_offset = AT,
	};
	int fd = syscall(SYS_perf_event_open, &attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* How often it fired. */
static uint64_t hits(int fd)
{
	uint64_t n = 0;

	return fd < 0 ? 0 : read(fd, &n, sizeof(n)) == sizeof(n) ? n : -1;
}

static void *map_code(struct fuse_server *s, const char *name)
{
	int fd = fs_open(s, name, O_RDONLY);
	void *p;

	if (fd < 0)
		return MAP_FAILED;
	p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	close(fd);
	return p;
}

static bool runs(void *p)
{
	int (*function)(void) = p + AT;

	for (int i = 0; i < CALLS; i++)
		if (function() != ANSWER)
			return false;
	return !memcmp(p + AT, code, sizeof(code));
}

/* Run the function; a breakpoint may be seen in a plain file only. */
#define expect_runs(p) do {						\
	if (is_plain(variant->name))					\
		runs(p);						\
	else								\
		EXPECT_TRUE(runs(p));					\
} while (0)

/* The probe of a plain file fired @calls times, that of a mapped one never. */
#define expect_hits(fd, calls) do {					\
	if (!is_plain(variant->name)) {					\
		EXPECT_EQ(0, hits(fd));					\
		TH_LOG("a probe of a mapped file %s",			\
		       (fd) < 0 ? strerror(-(fd)) : "never fires");	\
	} else {							\
		EXPECT_EQ((uint64_t)(calls), hits(fd));			\
	}								\
} while (0)

/* The probe is set before the first open. */
TEST_F(uprobe, before_the_first_open)
{
	int fd = probe(fs_path(self->s, variant->name), variant->config, 0, -1);
	void *p = map_code(self->s, variant->name), *q;

	ASSERT_NE(MAP_FAILED, p);
	expect_runs(p);
	expect_hits(fd, CALLS);
	q = map_code(self->s, variant->name);
	ASSERT_NE(MAP_FAILED, q);
	expect_runs(q);
	if (fd >= 0)
		close(fd);
	EXPECT_TRUE(runs(p));
	EXPECT_TRUE(runs(q));
	munmap(p, 4 * PAGE);
	munmap(q, 4 * PAGE);
	p = map_code(self->s, variant->name);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_TRUE(runs(p));
	munmap(p, 4 * PAGE);
}

/* The probe is set while the code is mapped. */
TEST_F(uprobe, while_mapped)
{
	void *p = map_code(self->s, variant->name), *q;
	int fd;

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_TRUE(runs(p));
	fd = probe(fs_path(self->s, variant->name), variant->config, 0, -1);
	expect_runs(p);
	expect_hits(fd, CALLS);
	q = map_code(self->s, variant->name);
	ASSERT_NE(MAP_FAILED, q);
	expect_runs(q);
	if (fd >= 0)
		close(fd);
	EXPECT_TRUE(runs(p));
	EXPECT_TRUE(runs(q));
	munmap(p, 4 * PAGE);
	munmap(q, 4 * PAGE);
}

/* The probe is set after the last close, and caches are dropped: it holds the inode. */
TEST_F(uprobe, after_the_last_close)
{
	void *p = map_code(self->s, variant->name);
	int fd;

	ASSERT_NE(MAP_FAILED, p);
	munmap(p, 4 * PAGE);
	fd = probe(fs_path(self->s, variant->name), variant->config, 0, -1);
	drop_caches();
	p = map_code(self->s, variant->name);
	ASSERT_NE(MAP_FAILED, p);
	expect_runs(p);
	expect_hits(fd, CALLS);
	munmap(p, 4 * PAGE);
	drop_caches();
	if (fd >= 0)
		close(fd);
	p = map_code(self->s, variant->name);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_TRUE(runs(p));
	munmap(p, 4 * PAGE);
}

/* Probes for all tasks come and go while others map the file and run in it. */
TEST_F_TIMEOUT(uprobe, come_and_go, 60)
{
	const int cpus = sysconf(_SC_NPROCESSORS_ONLN);
	volatile bool *over = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid[2];

	ASSERT_NE(MAP_FAILED, over);
	for (int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		while (!*over) {
			void *p = map_code(self->s, variant->name);

			if (p == MAP_FAILED)
				_exit(1);
			for (int k = 0; k < 20; k++)
				if (!runs(p) && !is_plain(variant->name))
					_exit(2);
			munmap(p, 4 * PAGE);
		}
		_exit(0);
	}
	for (int round = 0; round < 20; round++) {
		int fd[64];

		for (int cpu = 0; cpu < cpus && cpu < ARRAY_SIZE(fd); cpu++)
			fd[cpu] = probe(fs_path(self->s, variant->name), variant->config, -1, cpu);
		usleep(10 * 1000);
		for (int cpu = 0; cpu < cpus && cpu < ARRAY_SIZE(fd); cpu++) {
			if (!is_plain(variant->name))
				EXPECT_EQ(0, hits(fd[cpu]));
			if (fd[cpu] >= 0)
				close(fd[cpu]);
		}
		usleep(1000);
	}
	*over = true;
	for (int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, ended(pid[i]));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
