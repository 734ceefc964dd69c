// SPDX-License-Identifier: GPL-2.0
/*
 * What torture watches: tasks that hang, and the kernel log.
 *
 * It is a defect if a task is in state D, in one and the same sleep, for longer than a
 * server may take; or if it sleeps in another way and makes no progress. Tasks that may
 * wait for pages in use have the name WAITS_FOR_PAGES, and time until the end of the
 * round, when all pages are released.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "torture.h"

#define SLEEPERS	256

static struct sleeper {
	pid_t	tid;
	unsigned long switches;
	double	since;
	bool	seen, told;
} sleeper[SLEEPERS];

static int log_fd = -1;

/* ---- the kernel log ---- */

/* The same as tests/run looks for. */
static const char *const trouble[] = {
	"WARNING:", "BUG:", "Oops", "general protection", "refcount_t", "INFO: task", "rcu: INFO",
	"UBSAN", "Call Trace", "possible circular locking", "possible recursive locking",
	"Bad page", "VFS: Busy inodes", "soft lockup", "hard LOCKUP", "KASAN", "KFENCE",
	"stack-protector", "unreferenced object", "memory leak", NULL
};

void log_begin(void)
{
	log_fd = klog_open();
}

bool log_is_good(void)
{
	char buf[8192], *line;
	ssize_t n;

	while (log_fd >= 0) {
		n = read(log_fd, buf, sizeof(buf) - 1);
		if (n < 0 && errno == EPIPE)
			continue;	/* overwritten: go on with the next */
		if (n <= 0)
			break;
		buf[n] = 0;
		line = strchr(buf, ';');
		line = line ? line + 1 : buf;
		line[strcspn(line, "\n")] = 0;
		for (int i = 0; trouble[i]; i++)
			if (strstr(line, trouble[i])) {
				broken("the kernel log: %s", line);
				return false;
			}
	}
	return true;
}

/* ---- tasks ---- */

static void show_file(const char *path, const char *before)
{
	char text[2048], *line, *save;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return;
	text[n] = 0;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		printf("#   %s%s\n", before, line);
}

void show_stack(const char *who, pid_t pid)
{
	char path[64];
	struct dirent *e;
	DIR *dir;

	printf("# %s, task %d:\n", who, pid);
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%.16s/stack", pid, e->d_name);
		show_file(path, "");
		printf("#   ---\n");
	}
	if (dir)
		closedir(dir);
	fflush(stdout);
}

/* The times that a task has been switched away from. */
static unsigned long switches(pid_t pid, pid_t tid)
{
	char path[64], line[256];
	unsigned long n, sum = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "ctxt_switches:") &&
		    sscanf(strchr(line, ':') + 1, "%lu", &n) == 1)
			sum += n;
	if (f)
		fclose(f);
	return sum;
}

static void sleeps(pid_t pid, pid_t tid, const char *name)
{
	unsigned long n = switches(pid, tid);
	struct sleeper *free = NULL, *s = NULL;

	for (int i = 0; i < SLEEPERS && !s; i++) {
		if (sleeper[i].tid == tid)
			s = &sleeper[i];
		else if (!sleeper[i].tid && !free)
			free = &sleeper[i];
	}
	s = s ?: free;
	if (!s)
		return;
	if (s->tid != tid || s->switches != n) {
		s->tid = tid;
		s->switches = n;
		s->since = torture_now();
		s->told = false;
	}
	s->seen = true;
	if (s->told || torture_now() - s->since < torture_patience() / 1e3 ||
	    !strcmp(name, WAITS_FOR_PAGES))
		return;
	s->told = true;
	broken("task %d (%s) is in state D for %.0f s", tid, name, torture_now() - s->since);
	show_stack(name, pid);
}

/* Show the threads in state D, or check how long they have been in it. */
static void look_at_threads(pid_t pid, bool show)
{
	char path[64], stat[512], *open, *close;
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		pid_t tid = atoi(e->d_name);

		snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
		if (!tid || read_file(path, stat, sizeof(stat)))
			continue;
		open = strchr(stat, '(');
		close = strrchr(stat, ')');
		if (!open || !close || close[1] != ' ' || close[2] != 'D')
			continue;
		*close = 0;
		if (!show) {
			sleeps(pid, tid, open + 1);
			continue;
		}
		printf("# in state D: %s, task %d\n", open + 1, tid);
		snprintf(path, sizeof(path), "/proc/%d/task/%d/stack", pid, tid);
		show_file(path, "");
	}
	if (dir)
		closedir(dir);
}

static void look_at_tasks(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;

	for (int i = 0; i < SLEEPERS; i++)
		sleeper[i].seen = false;
	while (proc && (e = readdir(proc)))
		if (atoi(e->d_name) > 0)
			look_at_threads(atoi(e->d_name), false);
	if (proc)
		closedir(proc);
	for (int i = 0; i < SLEEPERS; i++)
		if (!sleeper[i].seen)
			sleeper[i].tid = 0;
}

void show_sleepers(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;

	while (proc && (e = readdir(proc)))
		if (atoi(e->d_name) > 0)
			look_at_threads(atoi(e->d_name), true);
	if (proc)
		closedir(proc);
	fflush(stdout);
}

/* The seconds that a task has waited for a CPU, as a runnable task. */
static double queued(pid_t pid)
{
	char path[64], line[128];
	unsigned long long ns;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
	if (!pid || read_file(path, line, sizeof(line)) || sscanf(line, "%*u %llu", &ns) != 1)
		return 0;
	return ns / 1e9;
}

/*
 * Each task that uses files has to make progress. The time that it waits for a CPU does not count:
 * the machine may be slow, or a hog may have the CPU.
 */
static void look_at_beats(void)
{
	static struct {
		pid_t pid;
		unsigned int beat;
		double since, queued;
	} last[MAX_ACTORS];

	for (unsigned int i = 0; i < w->nr_actors; i++) {
		struct actor *a = &w->actor[i];
		double stuck;

		if (a->kind == K_UNBIND)
			continue;	/* waits for pages in use */
		if (last[i].pid != a->pid || last[i].beat != a->beat || !a->pid) {
			last[i].pid = a->pid;
			last[i].beat = a->beat;
			last[i].since = torture_now();
			last[i].queued = queued(a->pid);
		}
		stuck = torture_now() - last[i].since;
		if (stuck < 1.5 * torture_patience() / 1e3)
			continue;
		stuck -= queued(a->pid) - last[i].queued;
		if (stuck < 1.5 * torture_patience() / 1e3)
			continue;
		broken("%s does not get on for %.0f s", kind_name[a->kind], stuck);
		show_stack(kind_name[a->kind], a->pid);
		last[i].since = torture_now() + 3600;
	}
}

void watch(void)
{
	while (!w->stop) {
		log_is_good();
		look_at_tasks();
		look_at_beats();
		for (int i = 0; i < 10 && !w->stop; i++)
			usleep(50000);
	}
}
