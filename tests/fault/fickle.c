// SPDX-License-Identifier: GPL-2.0
/*
 * A program that fails after it has worked, and works again.
 *
 * The result of a program counts for one read, write, fault or open: if it fails, only that
 * operation fails, with its errno. Memory that is mapped does not depend on the
 * program any more; data that were written stay; the next result is validated on its
 * own. The log says why, in a limited number of lines.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define PAGES	16
#define SIZE	(PAGES * PAGE)
#define MANY	1000

static time_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

/* Lines in the log since @start: 10 in 5 s, and one that sums up. */
static unsigned int at_most(time_t start)
{
	return 11 * ((now() - start) / 5 + 2);
}

FIXTURE(fickle) {
	struct fuse_server *s;
	struct scripted map;
	unsigned char *p;
	long refs;
	int klog, fd;
};

FIXTURE_VARIANT(fickle) {
	uint32_t how;
	int ret;
	int err;		/* of read(2) and write(2) */
};

#define FIT(name, _how, _ret, _err) \
	FIXTURE_VARIANT_ADD(fickle, name) { .how = _how, .ret = _ret, .err = _err }

FIT(error, SCRIPTED_RETURN, -ENOSPC, ENOSPC);
FIT(out_of_memory, SCRIPTED_RETURN, -ENOMEM, ENOMEM);
FIT(restart, SCRIPTED_RETURN, -512, EIO);
FIT(no_errno, SCRIPTED_RETURN, 1, EIO);
FIT(empty, SCRIPTED_EMPTY, 0, EIO);
FIT(unaligned, SCRIPTED_UNALIGNED, 0, EIO);
FIT(beyond, SCRIPTED_BEYOND, 0, EIO);
FIT(undeclared, SCRIPTED_UNDECLARED, 0, EIO);

FIXTURE_SETUP(fickle)
{
	FMAP_REQUIRE();
	memset(&fmap_seen()->begin_fit, 0, sizeof(fmap_seen()->begin_fit));
	self->refs = module_refs();
	self->klog = klog_open();
	FMAP_MOUNT_ONE_FILE(0, SIZE);
	ASSERT_EQ(0, fs_fill(self->s, "file", 'd', SIZE));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
}

FIXTURE_TEARDOWN(fickle)
{
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* Make iomap_begin() fail from now on, or work again. */
static void misbehave(uint32_t how, int ret, bool on)
{
	struct scripted_fit *fit = &fmap_seen()->begin_fit;

	fit->to = 0;
	fit->how = how;
	fit->ret = ret;
	fit->from = 0;
	fit->to = on ? UINT64_MAX : 0;
}

TEST_F(fickle, for_a_while)
{
	char c;

	EXPECT_EQ(0, touch(self->p, 'a'));
	for (int round = 0; round < 3; round++) {
		misbehave(variant->how, variant->ret, true);
		EXPECT_EQ(-1, pread(self->fd, &c, 1, 0));
		EXPECT_EQ(variant->err, errno);
		EXPECT_EQ(-1, pwrite(self->fd, "x", 1, PAGE));
		EXPECT_EQ(variant->err, errno);
		/* Mapped pages stay mapped; other pages cannot be mapped. */
		EXPECT_EQ(0, touch(self->p, 'b' + round));
		EXPECT_EQ(SIGBUS, touch(self->p + (2 + round) * PAGE, 1));
		EXPECT_EQ(SIGBUS, touch(self->p + (2 + round) * PAGE, -1));

		misbehave(variant->how, variant->ret, false);
		EXPECT_EQ('b' + round, byte_at(self->fd, 0));
		EXPECT_EQ('d', byte_at(self->fd, PAGE));
		EXPECT_EQ(0, touch(self->p + (2 + round) * PAGE, -1));
		EXPECT_EQ('d', self->p[(2 + round) * PAGE]);
	}
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_TRUE(klog_wait(self->klog, LOG_PREFIX, SCRIPTED_OPS_NAME));
}

/* Once, between two calls that are right. */
TEST_F(fickle, once)
{
	struct scripted_fit *fit = &fmap_seen()->begin_fit;
	static char buf[SIZE];

	/* Fault in the buffer: a fault in the middle of a read costs one more call. */
	memset(buf, 1, SIZE);
	fit->how = variant->how;
	fit->ret = variant->ret;
	fit->from = fmap_seen()->begins + 1;
	fit->to = fit->from + 1;
	EXPECT_EQ(SIZE, pread(self->fd, buf, SIZE, 0));
	EXPECT_EQ(-1, pread(self->fd, buf, SIZE, 0));
	EXPECT_EQ(variant->err, errno);
	EXPECT_EQ(SIZE, pread(self->fd, buf, SIZE, 0));
	EXPECT_EQ('d', buf[SIZE - 1]);
}

/* Many failures, as in hours of use: nothing is exhausted, and the log stays short. */
TEST_F(fickle, for_hours)
{
	time_t start = now();
	unsigned int lines;
	char c;

	misbehave(variant->how, variant->ret, true);
	for (int i = 0; i < MANY; i++) {
		EXPECT_EQ(-1, pread(self->fd, &c, 1, i % PAGES * PAGE));
		if (i % 10 == 0)
			EXPECT_EQ(SIGBUS, touch(self->p + (i / 10 % PAGES) * PAGE, -1));
	}
	misbehave(variant->how, variant->ret, false);
	EXPECT_EQ(0, touch(self->p, 'x'));
	EXPECT_EQ('x', byte_at(self->fd, 0));
	lines = klog_count(self->klog, LOG_PREFIX);
	EXPECT_LT(0, lines);
	EXPECT_GE(at_most(start), lines);
}

/* ---- dax_fmap_parse() ---- */

FIXTURE(parser) {
	struct fuse_server *s;
	struct scripted map;
	long refs;
	int klog;
};

FIXTURE_SETUP(parser)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->klog = klog_open();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "a", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "b", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(parser)
{
	memset(&fmap_seen()->parse_fit, 0, sizeof(fmap_seen()->parse_fit));
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* A failed open is not remembered: the next one requests the map again. */
TEST_F(parser, fails_for_a_while)
{
	struct scripted_fit *fit = &fmap_seen()->parse_fit;

	ASSERT_EQ(0, fs_try(self->s, "a"));
	fit->ret = -EPROTO;
	fit->from = fmap_seen()->parses;
	fit->to = fit->from + 3;
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(-EPROTO, fs_try(self->s, "b"));
	/* Files with a map are not affected. */
	EXPECT_EQ(0, fs_fill(self->s, "a", 'a', SIZE));
	EXPECT_EQ(0, fs_fill(self->s, "b", 'b', SIZE));
	EXPECT_EQ(5, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_DAXDEV]);
}

TEST_F(parser, fails_for_hours)
{
	struct scripted_fit *fit = &fmap_seen()->parse_fit;
	time_t start = now();
	unsigned int lines;

	fit->ret = -EPROTO;
	fit->from = 0;
	fit->to = UINT64_MAX;
	for (int i = 0; i < MANY / 4; i++)
		EXPECT_EQ(-EPROTO, fs_try(self->s, "a"));
	EXPECT_EQ(MANY / 4, self->s->count[FUSE_GET_FMAP]);
	/* The server gets RELEASE for each OPEN. */
	EXPECT_EQ(MANY / 4, self->s->count[FUSE_OPEN]);
	EXPECT_TRUE(fs_wait(self->s, FUSE_RELEASE, MANY / 4));
	lines = klog_count(self->klog, "dax_fmap_parse()");
	EXPECT_LT(0, lines);
	EXPECT_GE(at_most(start), lines);
	fit->to = 0;
	EXPECT_EQ(0, fs_fill(self->s, "a", 'a', SIZE));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
