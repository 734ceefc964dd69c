// SPDX-License-Identifier: GPL-2.0
/* The helpers of fmap_test.h that look at the kernel: its log, the module, tasks, mounts. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/fs.h>
#include <linux/perf_event.h>

#include "fmap_test.h"

#define TRACEFS		"/sys/kernel/tracing"

/* ---- the kernel log ---- */

bool kernel_has_lockdep(void)
{
	return !access("/proc/lockdep", F_OK);
}

int klog_open(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	lseek(fd, 0, SEEK_END);
	return fd;
}

static ssize_t klog_line(int fd, char *buf, size_t size)
{
	ssize_t n;

	do
		n = read(fd, buf, size - 1);
	while (n < 0 && errno == EPIPE);	/* overwritten: go on with the next */
	if (n > 0)
		buf[n] = 0;
	return n;
}

bool klog_wait(int fd, const char *a, const char *b)
{
	char line[8192];

	for (int ms = 0; ms < FS_PATIENCE; ms++) {
		while (klog_line(fd, line, sizeof(line)) > 0)
			if (strstr(line, a) && strstr(line, b))
				return true;
		usleep(1000);
	}
	return false;
}

const char *klog_errno(int error)
{
	static char buf[32];
	char line[512];
	bool named = false;
	FILE *f = fopen("/proc/kallsyms", "re");

	while (f && !named && fgets(line, sizeof(line), f))
		named = strstr(line, " errname\n");
	if (f)
		fclose(f);
	if (named)
		snprintf(buf, sizeof(buf), "%s", strerrorname_np(error));
	else
		snprintf(buf, sizeof(buf), "Error(%d)", error);
	return buf;
}

unsigned int klog_count(int fd, const char *what)
{
	char line[8192];
	unsigned int n = 0;

	while (klog_line(fd, line, sizeof(line)) > 0)
		if (strstr(line, what))
			n++;
	return n;
}

/* ---- the module ---- */

long module_refs(void)
{
	return read_long("/sys/module/" MODULE_NAME "/refcnt");
}

bool module_refs_wait(long refs)
{
	for (int ms = 0; ms < FS_PATIENCE; ms++) {
		if (module_refs() == refs)
			return true;
		usleep(1000);
	}
	return false;
}

int module_load(const char *params)
{
	const char *path = getenv("FMAP_MODULE") ?:
		"/lib/fuse-dax-fmap/fuse-dax-fmap.ko";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return -errno;
	if (syscall(SYS_finit_module, fd, params, 0))
		err = -errno;
	close(fd);
	return err;
}

int module_unload(void)
{
	return syscall(SYS_delete_module, MODULE_NAME, O_NONBLOCK) ? -errno : 0;
}

int module_unload_wait(void)
{
	int err = -EAGAIN;

	for (int ms = 0; ms < FS_PATIENCE && err == -EAGAIN; ms++) {
		err = module_unload();
		if (err)
			usleep(1000);
	}
	return err;
}

int module_set(const char *param, const char *value)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/module/" MODULE_NAME "/parameters/%s",
		 param);
	return write_file(path, value);
}

/* ---- children and caches ---- */

int ended(pid_t pid)
{
	int status;

	for (int ms = 0; ms < FS_PATIENCE; ms++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		usleep(1000);
	}
	return -1;
}

char task_state(pid_t pid)
{
	char path[64], stat[512], *end;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	end = read_file(path, stat, sizeof(stat)) ? NULL : strrchr(stat, ')');
	return end && end[1] ? end[2] : 0;
}

bool asleep(pid_t pid)
{
	const int looks = 5;	/* a task that sleeps for less only took a lock */
	int seen = 0;

	for (int ms = 0; ms < FS_PATIENCE && seen < looks; ms++) {
		char state = task_state(pid);

		seen = state == 'S' || state == 'D' ? seen + 1 : 0;
		usleep(1000);
	}
	return seen == looks;
}

pid_t fs_try_in_child(struct fuse_server *s, const char *name)
{
	pid_t pid = fork();

	if (!pid)
		_exit(-fs_try(s, name));
	return pid;
}

void drop_caches(void)
{
	write_file("/proc/sys/vm/drop_caches", "3");
}

unsigned int fs_forgets(const struct fuse_server *s)
{
	return s->count[FUSE_FORGET] + s->count[FUSE_BATCH_FORGET];
}

bool fs_forget_since(struct fuse_server *s, unsigned int before)
{
	for (int ms = 0; ms < FS_PATIENCE; ms++) {
		drop_caches();
		if (fs_forgets(s) != before)
			return true;
		usleep(1000);
	}
	return false;
}

bool fs_forget(struct fuse_server *s)
{
	return fs_forget_since(s, fs_forgets(s));
}

/* ---- faults ---- */

int mapped_as_huge(const volatile void *p)
{
	uint64_t start = (uintptr_t)p & ~(HUGE - 1);
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = start + HUGE,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_PRESENT | PAGE_IS_HUGE,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_HUGE,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), n = -1;

	if (fd >= 0)
		n = ioctl(fd, PAGEMAP_SCAN, &arg);
	if (n < 0)
		n = -errno;
	else if (n)
		n = region.start == start && region.end == start + HUGE;
	if (fd >= 0)
		close(fd);
	return n;
}

int trace_count_open(const char *event, const char *filter)
{
	return trace_count_open_at(event, filter, 0, -1);
}

int trace_count_open_at(const char *event, const char *filter, pid_t pid, int cpu)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
	};
	char path[PATH_MAX];
	int fd;

	if (access(TRACEFS "/events", R_OK))
		mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	snprintf(path, sizeof(path), TRACEFS "/events/%s/id", event);
	attr.config = read_long(path);
	if (attr.config == (__u64)-1)
		return -ENOENT;
	fd = syscall(SYS_perf_event_open, &attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (filter && ioctl(fd, PERF_EVENT_IOC_SET_FILTER, filter)) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

uint64_t trace_count(int fd)
{
	uint64_t n = 0;

	if (read(fd, &n, sizeof(n)) != sizeof(n))
		return -1;
	return n;
}

/* ---- page caches ---- */

#ifndef SYS_cachestat
#define SYS_cachestat	451
#endif

int fmap_cachestat(int fd, struct fmap_cachestat *cs)
{
	uint64_t all[2] = { 0, 0 };

	return syscall(SYS_cachestat, fd, all, cs, 0);
}

/* ---- mounts ---- */

uint32_t fmap_map_id_of(const struct fuse_server *s)
{
	FILE *f = fopen("/sys/kernel/debug/" MODULE_NAME "/mounts", "r");
	char line[4096], want[32];
	uint32_t id = 0;
	struct stat st;

	if (stat(s->dir, &st)) {
		if (f)
			fclose(f);
		return 0;
	}
	snprintf(want, sizeof(want), "%u:%u ", major(st.st_dev), minor(st.st_dev));
	while (f && fgets(line, sizeof(line), f)) {
		const char *map = strstr(line, " map=");

		if (map && !strncmp(line, want, strlen(want)))
			id = strtoul(map + strlen(" map="), NULL, 10);
	}
	if (f)
		fclose(f);
	return id;
}

bool fusectl_mount(void)
{
	return !access(FUSECTL, X_OK) && !mount("fusectl", FUSECTL, "fusectl", 0, NULL);
}

int fusectl_abort(struct fuse_server *s)
{
	char path[128];
	struct stat st;

	/* Attributes of the root may have to be asked for; its number does not. */
	if (fstatat(AT_FDCWD, s->dir, &st, AT_STATX_DONT_SYNC))
		return -errno;
	snprintf(path, sizeof(path), FUSECTL "/%u/abort", minor(st.st_dev));
	return write_file(path, "1");
}

/* A number in the line of a mount in a list of the module that has the word @part, if any. */
static long number_in(struct fuse_server *s, const char *list, const char *part,
		      const char *name)
{
	char path[128], line[4098], mount[64], word[128];
	long value = -1;
	struct stat st;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/debug/" MODULE_NAME "/%s", list);
	f = fopen(path, "r");
	if (!f || stat(s->dir, &st)) {
		if (f)
			fclose(f);
		return -1;
	}
	snprintf(mount, sizeof(mount), "%u:%u ", major(st.st_dev), minor(st.st_dev));
	while (fgets(line, sizeof(line) - 1, f)) {
		const char *at;

		line[strcspn(line, "\n")] = 0;
		strcat(line, " ");
		snprintf(word, sizeof(word), " %s ", part ?: "");
		if (strncmp(line, mount, strlen(mount)) || (part && !strstr(line, word)))
			continue;
		snprintf(word, sizeof(word), " %s=", name);
		at = strstr(line, word);
		if (at)
			value = atol(at + strlen(word));
		break;
	}
	fclose(f);
	return value;
}

long fs_counter(struct fuse_server *s, const char *name)
{
	return number_in(s, "mounts", NULL, name);
}

long fs_number_of(struct fuse_server *s, const char *list, const char *part, const char *name)
{
	return number_in(s, list, part, name);
}
