// SPDX-License-Identifier: GPL-2.0
/*
 * Allocations that fail, each of them once.
 *
 * Fault injection, which debug kernels have, makes the Nth allocation of a task fail.
 * Here N counts allocations with this module on their stack, so those of its BPF
 * program and of the DAX core below it are included. Each test runs with N = 1, 2, ...
 * until no allocation fails: each failure must be reported and leave nothing behind,
 * and the next try must succeed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define DEBUGFS		"/sys/kernel/debug/"
#define SIZE		(128 * KIB)
#define MANY		200		/* no test has so many allocations */

/* Set a parameter of fault injection, for both kinds of allocation. */
static int tune(const char *param, const char *value)
{
	static const char * const kinds[] = { "failslab", "fail_page_alloc" };
	char path[128];
	int err = 0;

	for (int i = 0; i < 2 && !err; i++) {
		snprintf(path, sizeof(path), DEBUGFS "%s/%s", kinds[i], param);
		err = write_file(path, value);
	}
	return err;
}

/* Fail allocation @n of this task, counted from here; 0: none. */
static int fail(unsigned int n)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", n);
	return write_file("/proc/thread-self/fail-nth", text);
}

/* Returns true if allocation @n was reached, and failed. Ends the counting. */
static bool failed(void)
{
	long left = read_long("/proc/thread-self/fail-nth");

	fail(0);
	return left == 0;
}

FIXTURE(nomem) {
	struct fuse_server *s;
	struct scripted map;
};

/* A new server for each try, with one file. */
static struct fuse_server *server(struct scripted *map)
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);

	*map = fmap_linear(0, 0, SIZE);
	if (s)
		fs_add(s, "file", SIZE, map, sizeof(*map));
	return s;
}

FIXTURE_SETUP(nomem)
{
	char text[64], value[32];
	unsigned long text_start, size = 0;
	FILE *f;

	FMAP_REQUIRE();
	if (access(DEBUGFS "failslab/require-start", W_OK))
		SKIP(return, "this kernel does not let allocations fail on demand");

	ASSERT_EQ(0, read_file("/sys/module/" MODULE_NAME "/sections/.text", text, sizeof(text)));
	text_start = strtoul(text, NULL, 0);
	f = fopen("/proc/modules", "r");
	ASSERT_NE(NULL, f);
	while (!size && fscanf(f, "%63s %lu %*[^\n]", text, &size) == 2)
		if (strcmp(text, MODULE_NAME))
			size = 0;
	fclose(f);
	ASSERT_NE(0, size);

	snprintf(value, sizeof(value), "%#lx", text_start);
	ASSERT_EQ(0, tune("require-start", value));
	snprintf(value, sizeof(value), "%#lx", text_start + size);
	ASSERT_EQ(0, tune("require-end", value));
	ASSERT_EQ(0, tune("verbose", "0"));
	ASSERT_EQ(0, tune("ignore-gfp-wait", "N"));
	ASSERT_EQ(0, write_file(DEBUGFS "fail_page_alloc/min-order", "0"));
}

FIXTURE_TEARDOWN(nomem)
{
	fail(0);
	EXPECT_EQ(0, fs_stop(self->s));
	tune("ignore-gfp-wait", "Y");
	tune("verbose", "2");
	tune("require-start", "0");
	tune("require-end", "0xffffffffffffffff");
	write_file(DEBUGFS "fail_page_alloc/min-order", "1");
}

/*
 * The kernel's checkers, such as KASAN, allocate, too, and can do without. So a failed
 * allocation need not make the operation fail; but without one, the operation must succeed.
 */
static void expect_maps(struct __test_metadata *_metadata, struct fuse_server *s, bool came)
{
	EXPECT_GE(1, s->count[FUSE_GET_FMAP]);
	if (!came)
		EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
}

/* With memory, the next mount and open must succeed. */
static void expect_next_try(struct __test_metadata *_metadata, FIXTURE_DATA(nomem) * self)
{
	self->s = server(&self->map);
	ASSERT_NE(NULL, self->s);
	EXPECT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, fs_fill(self->s, "file", 'n', SIZE));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, fs_stop(self->s));
	self->s = NULL;
}

/* The mounter's task makes the offer. If that fails, the mount is plain. */
TEST_F(nomem, offer)
{
	unsigned int n;
	bool came = true;

	for (n = 1; came && n < MANY; n++) {
		self->s = server(&self->map);
		ASSERT_NE(NULL, self->s);
		ASSERT_EQ(0, fail(n));
		EXPECT_EQ(0, fs_mount(self->s));
		came = failed();
		EXPECT_EQ(0, fs_try(self->s, "file"));
		expect_maps(_metadata, self->s, came);
		EXPECT_EQ(0, fs_stop(self->s));
		expect_next_try(_metadata, self);
	}
	EXPECT_LT(2, n);
	EXPECT_GT(MANY, n);
}

/* The allocation of the server's thread that is to fail, and whether it did. */
static struct {
	unsigned int n;
	bool came;
} in_server;

static void init(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	fail(in_server.n);
	fs_default(s, in, arg);
	in_server.came = failed();
}

/* The server's answer attaches the mount. If that fails, so must the mount. */
TEST_F(nomem, attach)
{
	unsigned int n;
	bool came = true;

	for (n = 1; came && n < MANY; n++) {
		self->s = server(&self->map);
		ASSERT_NE(NULL, self->s);
		self->s->hook[FUSE_INIT] = init;
		in_server.n = n;
		EXPECT_EQ(0, fs_mount(self->s));
		if (fs_try(self->s, "file"))
			EXPECT_NE(0, fs_try(self->s, "file"));
		EXPECT_EQ(0, fs_umount(self->s));
		came = in_server.came;
		expect_maps(_metadata, self->s, came);
		EXPECT_EQ(0, fs_stop(self->s));
		expect_next_try(_metadata, self);
	}
	EXPECT_LT(2, n);
	EXPECT_GT(MANY, n);
}

/* The first open of a mount: the mark, the map, the device. */
TEST_F(nomem, open)
{
	unsigned int n;
	bool came = true;

	for (n = 1; came && n < MANY; n++) {
		int err;

		self->s = server(&self->map);
		ASSERT_NE(NULL, self->s);
		ASSERT_EQ(0, fs_mount(self->s));
		ASSERT_EQ(0, fail(n));
		err = fs_try(self->s, "file");
		came = failed();
		EXPECT_TRUE(!err || (came && err == -ENOMEM)) TH_LOG("%u: error %d", n, err);
		/* The next open succeeds, and so does the next mount. */
		EXPECT_EQ(0, fs_fill(self->s, "file", n, SIZE));
		EXPECT_EQ(0, fs_stop(self->s));
		expect_next_try(_metadata, self);
	}
	EXPECT_LT(5, n);
	EXPECT_GT(MANY, n);
}

/*
 * A no_rw open, which allocates at the first time: if that fails, the server must not get
 * OPEN. Then an open of a file whose map is known. Then mmap(2) of an open file.
 */
TEST_F(nomem, open_again_and_map)
{
	struct fuse_server *s = self->s = server(&self->map);
	unsigned int n, failures = 0;
	bool came = true;

	ASSERT_NE(NULL, s);
	ASSERT_EQ(0, fs_mount(s));
	for (n = 1; came && n < MANY; n++) {
		unsigned int opened = s->count[FUSE_OPEN];
		struct fmap_cachestat cs;
		int fd;

		drop_caches();
		ASSERT_EQ(0, fail(n));
		fd = fs_open(s, "file", O_ACCMODE);
		came = failed();
		if (fd < 0) {
			EXPECT_TRUE(came && fd == -ENOMEM) TH_LOG("%u: error %d", n, fd);
			EXPECT_EQ(opened, s->count[FUSE_OPEN]);
			failures++;
		} else {
			EXPECT_EQ(0, fmap_cachestat(fd, &cs));
			close(fd);
		}
	}
	EXPECT_LT(0, failures);
	EXPECT_GT(MANY, n);
	ASSERT_EQ(0, s->count[FUSE_GET_FMAP]);

	came = true;
	failures = 0;
	ASSERT_EQ(0, fs_try(s, "file"));
	for (n = 1; came && n < MANY; n++) {
		unsigned int opened = s->count[FUSE_OPEN];
		int fd;

		ASSERT_EQ(0, fail(n));
		fd = fs_open(s, "file", O_RDWR);
		came = failed();
		if (fd < 0) {
			EXPECT_TRUE(came && fd == -ENOMEM) TH_LOG("%u: error %d", n, fd);
			failures += opened == s->count[FUSE_OPEN];
		} else {
			close(fd);
		}
	}
	EXPECT_LT(0, failures);
	EXPECT_GT(MANY, n);

	came = true;
	failures = 0;
	for (n = 1; came && n < MANY; n++) {
		int fd = fs_open(s, "file", O_RDWR);
		unsigned char *p;
		int err;

		ASSERT_LE(0, fd);
		ASSERT_EQ(0, fail(n));
		p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		err = p == MAP_FAILED ? errno : 0;
		came = failed();
		if (err) {
			EXPECT_TRUE(came && err == ENOMEM) TH_LOG("%u: error %d", n, err);
			failures++;
			p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		}
		ASSERT_NE(MAP_FAILED, p);
		close(fd);
		EXPECT_EQ(0, touch(p, n));
		munmap(p, SIZE);
	}
	EXPECT_LT(0, failures);
	EXPECT_GT(MANY, n);
}

/* A fault without memory is retried, and succeeds. */
TEST_F(nomem, fault)
{
	unsigned int n;
	bool came = true;

	self->s = server(&self->map);
	ASSERT_NE(NULL, self->s);
	ASSERT_EQ(0, fs_mount(self->s));
	for (n = 1; came && n < MANY; n++) {
		unsigned char *p = fs_map(self->s, "file", SIZE, PROT_READ | PROT_WRITE);

		ASSERT_NE(MAP_FAILED, p);
		ASSERT_EQ(0, fail(n));
		EXPECT_EQ(0, touch(p + 3 * PAGE, n));
		came = failed();
		EXPECT_EQ(n, p[3 * PAGE]);
		EXPECT_EQ(0, touch(p + 4 * PAGE, n));
		munmap(p, SIZE);
		drop_caches();
	}
	EXPECT_LT(2, n);
	EXPECT_GT(MANY, n);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
