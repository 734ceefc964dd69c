// SPDX-License-Identifier: GPL-2.0
/*
 * Load, register, mount, open, fault, read, unmount, unregister, unload: again and again.
 * Then everything is where it was: no slab cache, nor what is not in slabs, has grown by
 * something for each round; no module has more users than before; the devices can be
 * taken again.
 *
 * A cache is noisy (a slab that a CPU keeps counts as used), but noise does not
 * add up: a leak is what grows by an object per round in every quarter of the
 * rounds.
 *
 * ROUNDS=1000 for the long run; 12 unless told.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)
#define WARM_UP	4		/* rounds that fill caches for good */
#define QUARTERS	4
#define SAMPLES	3		/* the smallest one counts */

static int rounds(void)
{
	const char *env = getenv("ROUNDS");
	int n = env ? atoi(env) : 12;

	return n < QUARTERS ? QUARTERS : n / QUARTERS * QUARTERS;
}

#define MAX_CACHES	512

struct usage {
	struct {
		char name[40];
		long objects;
	} cache[MAX_CACHES];
	unsigned int nr;
	long vmalloc, percpu;	/* KiB */
	long modules, users;	/* of all modules together */
};

static void shrink_slabs(void)
{
	DIR *dir = opendir("/sys/kernel/slab");
	struct dirent *e;
	char path[PATH_MAX];

	while (dir && (e = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink",
			 e->d_name);
		write_file(path, "1");
	}
	if (dir)
		closedir(dir);
}

static long meminfo(const char *key)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[128];
	long value = 0;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			value = strtol(line + strlen(key), NULL, 10);
	if (f)
		fclose(f);
	return value;
}

static long objects_of(const struct usage *u, const char *name)
{
	for (unsigned int i = 0; i < u->nr; i++)
		if (!strcmp(u->cache[i].name, name))
			return u->cache[i].objects;
	return 0;
}

/* Record @n objects, if that is less than what is recorded. */
static void note(struct usage *u, const char *name, long n)
{
	unsigned int i;

	for (i = 0; i < u->nr; i++)
		if (!strcmp(u->cache[i].name, name))
			break;
	if (i == MAX_CACHES)
		return;
	if (i == u->nr) {
		snprintf(u->cache[i].name, sizeof(u->cache[i].name), "%s", name);
		u->cache[i].objects = n;
		u->nr++;
	} else if (n < u->cache[i].objects) {
		u->cache[i].objects = n;
	}
}

static void sample_slabs(struct usage *u)
{
	char line[512], name[40];
	long n;
	FILE *f;

	write_file("/proc/sys/vm/drop_caches", "3");
	shrink_slabs();
	f = fopen("/proc/slabinfo", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%39s %ld", name, &n) != 2 || *name == '#')
			continue;
		note(u, name, n);
	}
	if (f)
		fclose(f);
}

static void take(struct usage *u)
{
	char line[512], name[64];
	FILE *f;
	long n;

	memset(u, 0, sizeof(*u));
	usleep(300 * 1000);		/* grace periods, workers */
	for (int i = 0; i < SAMPLES; i++) {
		usleep(100 * 1000);
		sample_slabs(u);
	}
	u->vmalloc = meminfo("VmallocUsed:");
	u->percpu = meminfo("Percpu:");
	f = fopen("/proc/modules", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%63s %*d %ld", name, &n) != 2)
			continue;
		u->modules++;
		u->users += n;
	}
	if (f)
		fclose(f);
}

FIXTURE(soak) {
	struct usage at[QUARTERS + 1];
	struct scripted map[2];
	bool unloaded;
};

FIXTURE_SETUP(soak)
{
	FMAP_REQUIRE();
	if (access("/proc/slabinfo", R_OK))
		SKIP(return, "there is no /proc/slabinfo");
	if (module_refs() || module_unload())
		SKIP(return, "the module is in use");
	self->unloaded = true;
	self->map[0] = fmap_linear(0, 0, SIZE);
	self->map[1] = fmap_linear(1, PAGE, SIZE);
}

/* In the parent: the other tests need the module. */
FIXTURE_TEARDOWN_PARENT(soak)
{
	if (self->unloaded && module_refs() < 0)
		EXPECT_EQ(0, module_load(""));
}

/* 0, or the line that failed. */
static int one_round(const struct scripted *map)
{
	struct bpf_object *obj;
	struct bpf_link *link;
	struct fuse_server *s;
	struct bpf_map *ops;
	unsigned char *p;
	char c;
	int fd;

#define MUST(cond) do { if (!(cond)) return __LINE__; } while (0)
	MUST(!module_load(""));
	obj = fmap_load("scripted.bpf.o");
	MUST(obj);
	ops = bpf_object__find_map_by_name(obj, "scripted");
	link = bpf_map__attach_struct_ops(ops);
	MUST(link);
	s = fmap_server(SCRIPTED_OPS_NAME);
	MUST(s);
	fs_add(s, "a", SIZE, &map[0], sizeof(map[0]));
	fs_add(s, "b", SIZE, &map[1], sizeof(map[1]));
	fs_add(s, "plain", SIZE, NULL, 0);
	MUST(!fs_mount(s));
	for (int i = 0; i < 3; i++) {
		fd = fs_open(s, i == 0 ? "a" : i == 1 ? "b" : "plain", O_RDWR);
		MUST(fd >= 0);
		p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		MUST(p != MAP_FAILED);
		MUST(!touch(p, -1));
		MUST(i == 2 || !touch(p + HUGE, 1));
		MUST(pread(fd, &c, 1, 0) == 1);
		MUST(pwrite(fd, "x", 1, 0) == 1);
		munmap(p, SIZE);
		close(fd);
	}
	MUST(!fs_stop(s));
	bpf_link__destroy(link);
	bpf_object__close(obj);
	MUST(!module_unload_wait());
#undef MUST
	return 0;
}

/* In a child, so that nothing of user space is left to be counted. */
static int some_rounds(const struct scripted *map, int n)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		for (int i = 0; i < n; i++) {
			int line = one_round(map);

			if (line) {
				fprintf(stderr, "# round %d failed in line %d: %s\n",
					i, line, strerror(errno));
				_exit(1);
			}
		}
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return status;
}

/* Did it grow by @n or more in each quarter? */
static bool grew(const long at[QUARTERS + 1], long n)
{
	for (int q = 0; q < QUARTERS; q++)
		if (at[q + 1] - at[q] < n)
			return false;
	return true;
}

TEST_F_TIMEOUT(soak, rounds, 60 + 6 * rounds())
{
	struct usage *start = &self->at[0], *end = &self->at[QUARTERS];
	long vmalloc[QUARTERS + 1], percpu[QUARTERS + 1], n[QUARTERS + 1];
	int quarter = rounds() / QUARTERS;

	ASSERT_EQ(0, some_rounds(self->map, WARM_UP));
	take(start);
	for (int q = 1; q <= QUARTERS; q++) {
		ASSERT_EQ(0, some_rounds(self->map, quarter));
		take(&self->at[q]);
	}

	for (unsigned int i = 0; i < end->nr; i++) {
		const char *name = end->cache[i].name;

		for (int q = 0; q <= QUARTERS; q++)
			n[q] = objects_of(&self->at[q], name);
		EXPECT_FALSE(grew(n, quarter)) {
			TH_LOG("%s: %ld objects, after %d rounds %ld", name,
			       n[0], rounds(), n[QUARTERS]);
		}
	}
	for (int q = 0; q <= QUARTERS; q++) {
		vmalloc[q] = self->at[q].vmalloc;
		percpu[q] = self->at[q].percpu;
	}
	EXPECT_FALSE(grew(vmalloc, 4 * quarter));	/* a page each, in KiB */
	EXPECT_FALSE(grew(percpu, 4 * quarter));
	EXPECT_EQ(start->modules, end->modules);
	EXPECT_EQ(start->users, end->users);
}

int main(int argc, char **argv)
{
	return test_harness_run(argc, argv);
}
