// SPDX-License-Identifier: GPL-2.0
/*
 * The tasks of torture that use no files, but work on the kernel: they drop caches, reclaim
 * memory, make it fail, remove and add it, kill tasks, and keep tasks from running. There is at
 * most one of each.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/perf_event.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "torture.h"

#define UPROBE	"/sys/bus/event_source/devices/uprobe/type"

static void do_caches(struct rng *r)
{
	static const char *const what[] = { "1", "2", "3", "3" };

	write_file("/proc/sys/vm/drop_caches", PICK(r, what));
	nap(r, 200);
}

static void do_reclaim(struct rng *r)
{
	static const char *const how_much[] = { "128K", "1M", "8M", "64M" };

	write_file(CGROUP "/memory.reclaim", PICK(r, how_much));
	nap(r, 50);
}

/* ---- memory fails ---- */

/*
 * A debug kernel reports a bug if a page frame without a memory map fails, as those of an
 * unbound device. So the task that unbinds and the task that makes pages fail take this lock.
 * It is released if its owner is killed. The caller closes the result.
 */
static int lock_frames(int how)
{
	bool checks_itself = kernel_has_lockdep();
	int fd = open(checks_itself ? HWPOISON_INJECT : "/dev/null", O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && checks_itself && flock(fd, how)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void do_poison(struct rng *r)
{
	const struct area *a = &w->area[below(r, 2 * AREAS)];
	uint64_t page = below(r, a->size / PAGE);
	unsigned int id = a - w->area;
	char text[32];
	struct file f = { .id = id };
	int lock;

	nap(r, 600);
	if (!daxdev[a->dev].phys || id % AREAS == SECRET || access(HWPOISON_INJECT, W_OK))
		return;
	snprintf(text, sizeof(text), "%#lx", (daxdev[a->dev].phys + a->addr) / PAGE + page);
	lock = lock_frames(LOCK_SH | LOCK_NB);
	if (lock < 0)
		return;
	write_file(HWPOISON_INJECT, text);
	close(lock);
	nap(r, 200);
	snprintf(f.path, sizeof(f.path), "%s/a%u", w->place[below(r, SLOTS)].dir, id);
	if (!open_path(&f, O_RDWR))
		return;
	if (chance(r, 50))
		fsync(f.fd);
	stamps_fill(buffer, PAGE, id, page * PAGE);
	pwrite(f.fd, buffer, PAGE, page * PAGE);
	close(f.fd);
}

/* ---- devices go away and come back ---- */

static bool is_bound(const struct daxdev *d)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), FSDEV "/%s", d->name);
	return !access(path, F_OK) && !access(d->path, F_OK);
}

int torture_rebind(const struct daxdev *d)
{
	int err = is_bound(d) ? 0 : write_file(FSDEV "/bind", d->name);

	for (int ms = 0; ms < FS_PATIENCE && !err && !is_bound(d); ms++)
		usleep(1000);
	return err ?: is_bound(d) ? 0 : -ENODEV;
}

static void do_unbind(struct rng *r)
{
	struct daxdev *d = &daxdev[below(r, 2)];
	pid_t pid;
	int lock;

	nap(r, 3000);
	if (w->stop)
		return;
	lock = lock_frames(LOCK_EX);
	/* It waits for pages in use, and says so by its name. */
	pid = fork();
	if (!pid) {
		prctl(PR_SET_NAME, WAITS_FOR_PAGES);
		_exit(-write_file(FSDEV "/unbind", d->name));
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
	nap(r, 300);
	torture_rebind(d);
	if (lock >= 0)
		close(lock);
}

/* ---- ops ---- */

static void do_ops(struct rng *r)
{
	struct bpf_object *obj;
	struct bpf_map *map;

	nap(r, 1500);
	obj = fmap_load("scripted.bpf.o");
	if (!obj) {
		if (errno != EINTR && errno != EAGAIN && errno != ENOMEM)
			broken("the ops cannot be loaded: %s", strerror(errno));
		return;
	}
	map = bpf_object__find_map_by_name(obj, "scripted");
	if (bpf_link__update_map(torture_link, map))
		broken("the ops cannot be replaced: %s", strerror(errno));
	bpf_object__close(obj);
}

/* ---- time ---- */

static void on_cpu(pid_t pid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (cpu >= 0)
		CPU_SET(cpu, &set);
	else
		memset(&set, 0xff, sizeof(set));
	sched_setaffinity(pid, sizeof(set), &set);
}

static void spin(unsigned int ms)
{
	double end = torture_now() + ms / 1e3;

	while (torture_now() < end)
		;
}

static int some_cpu(struct rng *r)
{
	return below(r, sysconf(_SC_NPROCESSORS_ONLN));
}

/* Keep all other tasks from a CPU. */
static void do_hog(struct rng *r)
{
	struct sched_param fifo = { .sched_priority = 1 };

	on_cpu(0, some_cpu(r));
	sched_setscheduler(0, SCHED_FIFO, &fifo);
	spin(1 + below(r, chance(r, 10) ? 400 : 40));
	sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){ 0 });
	nap(r, 300);
}

/* Leave some task very little of its CPU. */
static void do_idle(struct rng *r)
{
	pid_t pid = w->actor[below(r, w->nr_actors)].pid;
	int cpu = some_cpu(r);

	if (chance(r, 20))
		pid = w->place[below(r, PLACES)].server;
	if (pid <= 0 || pid == getpid())
		return;
	on_cpu(0, cpu);
	on_cpu(pid, cpu);
	sched_setscheduler(pid, SCHED_IDLE, &(struct sched_param){ 0 });
	spin(20 + below(r, 300));
	sched_setscheduler(pid, SCHED_OTHER, &(struct sched_param){ 0 });
	on_cpu(pid, -1);
	nap(r, 800);
}

static void do_killer(struct rng *r)
{
	struct actor *a = &w->actor[below(r, w->nr_actors)];

	nap(r, 600);
	/* No kill(2) with pid 0 or -1: it has not been started, or fork(2) has failed. */
	if (a->kind < K_FIRST_KERNEL && a->pid > 0 && !w->stop)
		kill(a->pid, SIGKILL);
}

/* ---- a probe in a file that was or was not opened before ---- */

static void do_uprobe(struct rng *r)
{
	struct perf_event_attr attr = { .size = sizeof(attr) };
	struct file f;
	void *p;
	int fd;

	some_path(r, &f, "aatp");
	attr.type = read_long(UPROBE);
	attr.uprobe_path = (uintptr_t)f.path;
	attr.probe_offset = below(r, 2) * PAGE;
	fd = syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (chance(r, 70) && open_path(&f, O_RDONLY)) {
		p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, f.fd, 0);
		close(f.fd);
		if (p != MAP_FAILED)
			munmap(p, 2 * PAGE);
	}
	nap(r, 100);
	if (fd >= 0)
		close(fd);
	nap(r, 300);
}

void act_on_kernel(struct actor *a, struct rng *r)
{
	static void (*const act[KINDS])(struct rng *r) = {
		[K_CACHES] = do_caches, [K_RECLAIM] = do_reclaim, [K_POISON] = do_poison,
		[K_UNBIND] = do_unbind, [K_OPS] = do_ops, [K_HOG] = do_hog, [K_IDLE] = do_idle,
		[K_KILLER] = do_killer, [K_UPROBE] = do_uprobe,
	};

	me = a;
	act[a->kind](r);
}
