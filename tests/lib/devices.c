// SPDX-License-Identifier: GPL-2.0
/* The helpers of fmap_test.h that concern DAX devices: their driver, their bytes, their failure. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "fmap_test.h"
#include "bpf/peek.h"

struct daxdev daxdev[2];

/* ---- their driver ---- */

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

const char *daxdev_find(void)
{
	static char missing[80];
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
	snprintf(missing, sizeof(missing),
		 "two DAX devices bound to fsdev_dax are needed, %u found", n);
	return n < 2 ? missing : NULL;
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

/* ---- their bytes ---- */

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
		fmap_bail_out("peek.bpf.o", "cannot be loaded");
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

void *bpf_attach(const char *object)
{
	struct bpf_object *obj;
	struct bpf_program *prog;
	struct bpf_map *bss;
	size_t size;

	if (fmap_missing())
		return NULL;
	obj = fmap_load(object);
	if (!obj)
		fmap_bail_out(object, "cannot be loaded");
	bpf_object__for_each_program(prog, obj)
		if (!bpf_program__attach(prog))
			fmap_bail_out(bpf_program__name(prog), "cannot be attached");
	bss = bpf_object__find_map_by_name(obj, ".bss");
	return bpf_map__initial_value(bss, &size);
}

/* ---- their failure ---- */

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

int hwpoison_inject(uint64_t phys)
{
	char line[128];

	snprintf(line, sizeof(line), "echo %#llx >" HWPOISON_INJECT,
		 (unsigned long long)phys / PAGE);
	return system(line);
}
