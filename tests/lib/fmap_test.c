// SPDX-License-Identifier: GPL-2.0
/* The helpers of fmap_test.h. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/fs.h>
#include <linux/perf_event.h>
#include <bpf/bpf.h>

#include "fmap_test.h"
#include "bpf/peek.h"

#define FSDEV		"/sys/bus/dax/drivers/fsdev_dax"
#define TRACEFS		"/sys/kernel/tracing"

struct daxdev daxdev[2];
struct bpf_link *fmap_link;

static char missing[256];
static char bpf_log[64 * 1024];
static char libbpf_log[4096];
static struct scripted_seen *seen;

/* ---- files ---- */

int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

int read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	if (n < 0)
		n = -errno;
	close(fd);
	if (n < 0)
		return n;
	buf[n] = 0;
	buf[strcspn(buf, "\n")] = 0;
	return 0;
}

long read_long(const char *path)
{
	char buf[64];

	if (read_file(path, buf, sizeof(buf)))
		return -1;
	return strtoul(buf, NULL, 0);
}

const char *fmap_beside(const char *name)
{
	static char path[PATH_MAX];
	char self[PATH_MAX] = "";

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return name;
	snprintf(path, sizeof(path), "%s/%s", dirname(self), name);
	return path;
}

/* ---- what has to be there ---- */

static void __attribute__((format(printf, 1, 2))) set_missing(const char *fmt, ...)
{
	va_list ap;

	if (missing[0])
		return;
	va_start(ap, fmt);
	vsnprintf(missing, sizeof(missing), fmt, ap);
	va_end(ap);
}

static void add_device(unsigned int *n, const char *name)
{
	struct daxdev *d = &daxdev[*n];
	char path[PATH_MAX];

	snprintf(path, sizeof(path), FSDEV "/%s/size", name);
	if (*n == 2 || access(path, R_OK))
		return;
	snprintf(d->name, sizeof(d->name), "%.15s", name);
	snprintf(d->path, sizeof(d->path), "/dev/%.15s", name);
	d->size = read_long(path);
	snprintf(path, sizeof(path), FSDEV "/%s/resource", name);
	d->phys = read_long(path);
	(*n)++;
}

static void find_devices(void)
{
	const char *env = getenv("DAX_DEVICES");
	char *list = env ? strdup(env) : NULL;
	unsigned int n = 0;
	struct dirent *e;
	DIR *dir;

	if (list) {
		for (char *p = strtok(list, " "); p; p = strtok(NULL, " "))
			add_device(&n, basename(p));
		free(list);
	} else {
		dir = opendir(FSDEV);
		while (dir && (e = readdir(dir)))
			if (!strncmp(e->d_name, "dax", 3))
				add_device(&n, e->d_name);
		if (dir)
			closedir(dir);
	}
	if (n < 2)
		set_missing("two DAX devices bound to fsdev_dax are needed, %u found", n);
}

pid_t daxdev_unbind_begin(const struct daxdev *d)
{
	pid_t pid = fork();

	if (!pid)
		_exit(-write_file(FSDEV "/unbind", d->name));
	return pid;
}

int daxdev_unbind(const struct daxdev *d)
{
	return ended(daxdev_unbind_begin(d));
}

static bool is_bound(const struct daxdev *d)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), FSDEV "/%s", d->name);
	return !access(path, F_OK) && !access(d->path, F_OK);
}

int daxdev_bind(const struct daxdev *d)
{
	int err = is_bound(d) ? 0 : write_file(FSDEV "/bind", d->name);

	for (int ms = 0; ms < FS_PATIENCE && !err && !is_bound(d); ms++)
		usleep(1000);
	return err ?: is_bound(d) ? 0 : -ENODEV;
}

const char *fmap_missing(void)
{
	static bool looked;

	if (!looked) {
		looked = true;
		if (geteuid())
			set_missing("root is needed");
		if (access("/dev/fuse", R_OK))
			set_missing("there is no /dev/fuse");
		if (access("/sys/module/" MODULE_NAME, R_OK))
			set_missing("module " MODULE_NAME " is not loaded");
		find_devices();
	}
	return missing[0] ? missing : NULL;
}

/* ---- BPF ---- */

static int collect(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	size_t len = strlen(libbpf_log);

	if (level == LIBBPF_DEBUG)
		return 0;
	return vsnprintf(libbpf_log + len, sizeof(libbpf_log) - len, fmt, ap);
}

const char *fmap_bpf_log(void)
{
	static char all[sizeof(bpf_log) + sizeof(libbpf_log)];

	snprintf(all, sizeof(all), "%s%s", libbpf_log, bpf_log);
	return all;
}

struct bpf_object *fmap_open(const char *name)
{
	struct bpf_object_open_opts opts = {
		.sz = sizeof(opts),
		.kernel_log_buf = bpf_log,
		.kernel_log_size = sizeof(bpf_log),
	};
	const char *dir = getenv("FMAP_BPF_DIR") ?: "/lib/fuse-dax-fmap/bpf";
	const char *path = fmap_beside(name);
	char other[PATH_MAX];

	libbpf_set_print(collect);
	libbpf_log[0] = 0;
	bpf_log[0] = 0;
	if (access(path, R_OK)) {
		snprintf(other, sizeof(other), "%s/%s", dir, name);
		path = other;
	}
	return bpf_object__open_file(path, &opts);
}

struct bpf_object *fmap_load(const char *name)
{
	struct bpf_object *obj = fmap_open(name);
	int err;

	if (!obj)
		return NULL;
	err = bpf_object__load(obj);
	if (err) {
		bpf_object__close(obj);
		errno = -err;
		return NULL;
	}
	return obj;
}

/* The objects are what is under test: one that does not work is no reason to skip. */
static void __attribute__((noreturn)) bail_out(const char *name, const char *what)
{
	printf("TAP version 13\nBail out! %s %s: %s\n%s", name, what,
	       strerror(errno), fmap_bpf_log());
	exit(1);
}

struct bpf_object *fmap_register(const char *name)
{
	struct bpf_map *map, *ops = NULL;
	struct bpf_object *obj;
	size_t size;

	if (fmap_missing())
		return NULL;
	obj = fmap_load(name);
	if (!obj)
		bail_out(name, "cannot be loaded");
	bpf_object__for_each_map(map, obj)
		if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
			ops = map;
	fmap_link = ops ? bpf_map__attach_struct_ops(ops) : NULL;
	if (!fmap_link)
		bail_out(name, "cannot be registered");
	map = bpf_object__find_map_by_name(obj, ".bss");
	if (map)
		seen = bpf_map__initial_value(map, &size);
	return obj;
}

uint32_t fmap_map_id(const struct bpf_link *link)
{
	struct bpf_link_info info = { 0 };
	__u32 len = sizeof(info);

	if (bpf_link_get_info_by_fd(bpf_link__fd(link), &info, &len))
		return 0;
	return info.struct_ops.map_id;
}

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

struct scripted_seen *fmap_seen(void)
{
	return seen;
}

struct scripted fmap_linear(uint32_t dev, uint64_t addr, uint64_t length)
{
	return (struct scripted){
		.alloc = sizeof(struct scripted),
		.flags = SCRIPTED_LINEAR,
		.file_size = length,
		.dev_bitmap = 1ULL << dev,
		.dev_index = dev,
		.addr = addr,
		.length = (length + PAGE - 1) & ~(PAGE - 1),
	};
}

struct fuse_server *fmap_server(const char *ops)
{
	struct fuse_server *s = fs_new();

	if (!s)
		return NULL;
	snprintf(s->ops_name, sizeof(s->ops_name), "%s", ops);
	s->devices[0] = daxdev[0].path;
	s->devices[1] = daxdev[1].path;
	return s;
}

/* ---- devices ---- */

static int peek_prog = -1;
static unsigned char *peek_chunk;

void dax_peek_init(void)
{
	struct bpf_object *obj;
	struct bpf_map *bss;
	size_t size;

	if (fmap_missing())
		return;
	obj = fmap_load("peek.bpf.o");
	if (!obj)
		bail_out("peek.bpf.o", "cannot be loaded");
	bss = bpf_object__find_map_by_name(obj, ".bss");
	peek_chunk = bpf_map__initial_value(bss, &size);
	peek_prog = bpf_program__fd(bpf_object__find_program_by_name(obj, "peek"));
}

int dax_peek(const struct daxdev *d, uint64_t offset, void *buf, size_t len)
{
	unsigned char *to = buf;

	if (!d->phys || offset + len > d->size)
		return -EINVAL;
	while (len) {
		size_t n = len < PEEK_CHUNK ? len : PEEK_CHUNK;
		struct peek arg = { .phys = d->phys + offset, .len = n };
		struct bpf_test_run_opts opts = {
			.sz = sizeof(opts),
			.ctx_in = &arg,
			.ctx_size_in = sizeof(arg),
		};
		int err = bpf_prog_test_run_opts(peek_prog, &opts);

		if (err || opts.retval)
			return err ?: (int)opts.retval;
		memcpy(to, peek_chunk, n);
		to += n;
		offset += n;
		len -= n;
	}
	return 0;
}

/* ---- the kernel log ---- */

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
	const int looks = 5;	/* who sleeps for no longer than that only took a lock */
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
	fd = syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
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

/* ---- mapped files ---- */

#ifndef SYS_cachestat
#define SYS_cachestat	451
#endif

int fmap_cachestat(int fd, struct fmap_cachestat *cs)
{
	uint64_t all[2] = { 0, 0 };

	return syscall(SYS_cachestat, fd, all, cs, 0);
}

int byte_at(int fd, off_t pos)
{
	unsigned char c;
	ssize_t n = pread(fd, &c, 1, pos);

	return n == 1 ? c : n < 0 ? -errno : -ENODATA;
}

int fs_fill(struct fuse_server *s, const char *name, int byte, size_t len)
{
	static char buf[64 * KIB];
	int fd = fs_open(s, name, O_RDWR), err = 0;

	if (fd < 0)
		return fd;
	memset(buf, byte, sizeof(buf));
	for (size_t pos = 0, n; pos < len && !err; pos += n) {
		n = len - pos < sizeof(buf) ? len - pos : sizeof(buf);
		if (pwrite(fd, buf, n, pos) != n)
			err = -EIO;
	}
	close(fd);
	return s->count[FUSE_WRITE] ? -ENXIO : err;
}

void *fs_map(struct fuse_server *s, const char *name, size_t len, int prot)
{
	int fd = fs_open(s, name, prot & PROT_WRITE ? O_RDWR : O_RDONLY);
	void *p;

	if (fd < 0) {
		errno = -fd;
		return MAP_FAILED;
	}
	p = mmap(NULL, len, prot, MAP_SHARED, fd, 0);
	close(fd);
	return p;
}

void *address_range(size_t within, size_t len)
{
	char *p = mmap(NULL, len + 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return p;
	return (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1)) + within;
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

long fs_counter(struct fuse_server *s, const char *name)
{
	FILE *mounts = fopen("/sys/kernel/debug/" MODULE_NAME "/mounts", "r");
	char line[4096], key[64], *at;
	long value = -1;
	struct stat st;

	if (!mounts)
		return -1;
	if (!stat(s->dir, &st))
		snprintf(key, sizeof(key), "%u:%u ", major(st.st_dev), minor(st.st_dev));
	else
		key[0] = 0;
	while (key[0] && fgets(line, sizeof(line), mounts)) {
		if (strncmp(line, key, strlen(key)))
			continue;
		snprintf(key, sizeof(key), " %s=", name);
		at = strstr(line, key);
		if (at)
			value = atol(at + strlen(key));
		break;
	}
	fclose(mounts);
	return value;
}

static sigjmp_buf touch_env;

static void touch_signal(int sig)
{
	siglongjmp(touch_env, sig);
}

int touch(volatile unsigned char *p, int value)
{
	struct sigaction sa = { .sa_handler = touch_signal }, bus, segv;
	int sig;

	sigaction(SIGBUS, &sa, &bus);
	sigaction(SIGSEGV, &sa, &segv);
	sig = sigsetjmp(touch_env, 1);
	if (!sig) {
		if (value < 0)
			(void)*p;
		else
			*p = value;
	}
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return sig;
}

static pid_t unload_by;

static void hwpoison_unload(void)
{
	if (getpid() == unload_by)
		system("rmmod hwpoison-inject");
}

void hwpoison_load(void)
{
	if (access(HWPOISON_INJECT, W_OK) && !system("modprobe hwpoison-inject 2>/dev/null")) {
		unload_by = getpid();
		atexit(hwpoison_unload);
	}
}

bool fs_is_mapped(struct fuse_server *s, const char *name, char on_device)
{
	unsigned int requests = s->count[FUSE_READ] + s->count[FUSE_WRITE];
	int fd = fs_open(s, name, O_RDWR);
	bool works;

	if (fd < 0)
		return false;
	works = byte_at(fd, 0) == on_device && pwrite(fd, "w", 1, 1) == 1 &&
		byte_at(fd, 1) == 'w';
	close(fd);
	return works && s->count[FUSE_READ] + s->count[FUSE_WRITE] == requests;
}
