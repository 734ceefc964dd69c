// SPDX-License-Identifier: GPL-2.0
/* The helpers of fmap_test.h: the module, its ops, and files; see devices.c and observe.c. */
#define _GNU_SOURCE
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
#include <sys/mman.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "fmap_test.h"

struct bpf_link *fmap_link;

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

const char *fmap_missing(void)
{
	static const char *missing;
	const char *no_devices;
	static bool looked;

	if (looked)
		return missing;
	looked = true;
	/* Also without the module: tests that load it themselves need devices. */
	no_devices = daxdev_find();
	if (geteuid())
		missing = "root is needed";
	else if (access("/dev/fuse", R_OK))
		missing = "there is no /dev/fuse";
	else if (access("/sys/module/" MODULE_NAME, R_OK))
		missing = "module " MODULE_NAME " is not loaded";
	else
		missing = no_devices;
	return missing;
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
void fmap_bail_out(const char *name, const char *what)
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
		fmap_bail_out(name, "cannot be loaded");
	bpf_object__for_each_map(map, obj)
		if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
			ops = map;
	fmap_link = ops ? bpf_map__attach_struct_ops(ops) : NULL;
	if (!fmap_link)
		fmap_bail_out(name, "cannot be registered");
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

/* ---- mapped files ---- */

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
