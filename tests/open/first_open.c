// SPDX-License-Identifier: GPL-2.0
/*
 * The first open of a file: GET_FMAP and OPEN are sent in parallel.
 *
 * Whichever answer comes first, open(2) returns when both are there. The file is then
 * mapped, or plain, or the open fails; if it fails after an OPEN that succeeded, the
 * server gets RELEASE. What FUSE does with the answer to OPEN (its page cache, direct
 * I/O, passthrough) must not show in a mapped file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "first_open.h"

FIXTURE(first_open) {
	struct fuse_server *s;
	struct scripted map;
	long refs;
};

FIXTURE_SETUP(first_open)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->s = server_of(&self->map);
	ASSERT_NE(NULL, self->s);
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(first_open)
{
	EXPECT_EQ(0, self->s->malformed);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* ---- both answers are needed, in any order ---- */

FIXTURE(order) {
	struct fuse_server *s;
	struct scripted map;
};

FIXTURE_VARIANT(order) {
	int first, last;
};

FIXTURE_VARIANT_ADD(order, map_first) {
	.first = FUSE_GET_FMAP,
	.last = FUSE_OPEN,
};

FIXTURE_VARIANT_ADD(order, open_first) {
	.first = FUSE_OPEN,
	.last = FUSE_GET_FMAP,
};

FIXTURE_SETUP(order)
{
	FMAP_REQUIRE();
	self->s = server_of(&self->map);
	ASSERT_NE(NULL, self->s);
	self->s->hold[FUSE_GET_FMAP] = true;
	self->s->hold[FUSE_OPEN] = true;
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(order)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

/* A second opener waits for the first one, and requests no map. */
TEST_F(order, two_openers)
{
	struct fuse_server *s = self->s;
	pid_t pid[2];

	pid[0] = fs_try_in_child(s, "file");
	ASSERT_LE(0, pid[0]);
	EXPECT_TRUE(fs_wait(s, FUSE_GET_FMAP, 1));
	EXPECT_TRUE(fs_wait(s, FUSE_OPEN, 1));
	pid[1] = fs_try_in_child(s, "file");
	ASSERT_LE(0, pid[1]);
	EXPECT_TRUE(asleep(pid[1]));
	fs_release(s, variant->first);
	for (int i = 0; i < 2; i++) {
		EXPECT_TRUE(asleep(pid[i]));
		EXPECT_EQ(0, waitpid(pid[i], NULL, WNOHANG));
	}
	fs_release(s, variant->last);
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, ended(pid[i]));
	expect_counts(1, 2, 2);
	EXPECT_EQ(0, fs_fill(s, "file", 'o', SIZE));
}

/* An opener that has one of the answers can be killed; the next opener starts from scratch. */
TEST_F(order, killed)
{
	struct fuse_server *s = self->s;
	pid_t pid = fs_try_in_child(s, "file");

	ASSERT_LE(0, pid);
	EXPECT_TRUE(fs_wait(s, FUSE_GET_FMAP, 1));
	EXPECT_TRUE(fs_wait(s, FUSE_OPEN, 1));
	fs_release(s, variant->first);
	EXPECT_TRUE(asleep(pid));
	EXPECT_EQ(0, kill(pid, SIGKILL));
	/* An OPEN that the server has read cannot be killed: FUSE waits for the answer. */
	if (variant->last == FUSE_OPEN)
		fs_release(s, FUSE_OPEN);
	EXPECT_EQ(SIGKILL, ended(pid));
	fs_release(s, FUSE_GET_FMAP);
	EXPECT_EQ(0, fs_fill(s, "file", 'k', SIZE));
	EXPECT_TRUE(fs_wait(s, FUSE_RELEASE, s->count[FUSE_OPEN]));
}

/* ---- no open without both ---- */

/* FUSE has opened the file, but there is no valid map: the open fails. */
TEST_F(first_open, map_refused)
{
	struct fuse_server *s = self->s;
	unsigned int n = 0;

	s->error[FUSE_GET_FMAP] = -EDQUOT;
	EXPECT_EQ(-EDQUOT, fs_try(s, "file"));
	n++;
	expect_counts(n, n, n);
	s->error[FUSE_GET_FMAP] = 0;

	s->error[FUSE_GET_DAXDEV] = -ENXIO;
	EXPECT_EQ(-ENXIO, fs_try(s, "file"));
	n++;
	expect_counts(n, n, n);
	s->error[FUSE_GET_DAXDEV] = 0;

	s->file[0].map_len = 1;
	EXPECT_NE(0, fs_try(s, "file"));
	n++;
	expect_counts(n, n, n);
	s->file[0].map_len = sizeof(self->map);

	EXPECT_EQ(0, fs_fill(s, "file", 'r', SIZE));
	n++;
	expect_counts(n, n, n);
}

/* If OPEN fails, the map is not kept, and the next opener gets it. */
TEST_F(first_open, open_refused)
{
	struct fuse_server *s = self->s;

	s->error[FUSE_OPEN] = -EDQUOT;
	EXPECT_EQ(-EDQUOT, fs_try(s, "file"));
	expect_counts(1, 1, 0);
	s->error[FUSE_OPEN] = 0;
	EXPECT_EQ(0, fs_fill(s, "file", 'o', SIZE));
	expect_counts(2, 2, 1);
}

/* If both fail, nothing is remembered. */
TEST_F(first_open, both_refused)
{
	struct fuse_server *s = self->s;

	s->error[FUSE_OPEN] = -EACCES;
	s->error[FUSE_GET_FMAP] = -EDQUOT;
	EXPECT_EQ(-EACCES, fs_try(s, "file"));
	expect_counts(1, 1, 0);
	s->error[FUSE_OPEN] = 0;
	s->error[FUSE_GET_FMAP] = 0;
	EXPECT_EQ(0, fs_fill(s, "file", 'b', SIZE));
	expect_counts(2, 2, 1);
}

/* The map does not fit: GET_FMAP is sent again with a larger size, OPEN is not. */
TEST_F(first_open, buffer_grows)
{
	static char big[256 * KIB];
	struct fuse_server *s = self->s;

	memcpy(big, &self->map, sizeof(self->map));
	s->file[0].map = big;
	s->file[0].map_len = sizeof(big);
	EXPECT_EQ(0, fs_fill(s, "file", 'g', SIZE));
	EXPECT_LT(1, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, s->count[FUSE_OPEN]);
}

/* ---- files that stay plain ---- */

TEST_F(first_open, no_map)
{
	struct fuse_server *s = self->s;
	char c;
	int fd;

	s->file[0].map = NULL;
	s->file[0].plain[1] = 'p';
	fd = fs_open(s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, pread(fd, &c, 1, 1));
	EXPECT_EQ('p', c);
	EXPECT_LT(0, s->count[FUSE_READ]);
	EXPECT_EQ(0, close(fd));
	EXPECT_EQ(0, fs_try(s, "file"));
	expect_counts(1, 2, 2);
}

/* OPEN with O_TRUNC is not sent before the map is known, as a mapped file refuses it. */
TEST_F(first_open, truncates)
{
	struct fuse_server *s = self->s;

	EXPECT_EQ(-EOPNOTSUPP, fs_open(s, "file", O_RDWR | O_TRUNC));
	expect_counts(1, 0, 0);
	EXPECT_EQ(0, fs_fill(s, "file", 't', SIZE));
	expect_counts(1, 1, 1);
}

/* ---- what the answer to OPEN says about FUSE's page cache and I/O ---- */

TEST_F(first_open, flags)
{
	static const uint32_t flags[] = {
		0, FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_NONSEEKABLE, FOPEN_CACHE_DIR,
		FOPEN_STREAM, FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES,
		FOPEN_STREAM | FOPEN_NONSEEKABLE | FOPEN_DIRECT_IO,
		/* Not negotiated: EIO for a plain file. */
		FOPEN_PASSTHROUGH,
	};
	struct fuse_server *s = self->s;

	for (int i = 0; i < ARRAY_SIZE(flags); i++) {
		int fd[2];

		s->open_flags = FOPEN_NOFLUSH | flags[i];
		for (int j = 0; j < 2; j++) {
			fd[j] = fs_open(s, "file", O_RDWR);
			ASSERT_LE(0, fd[j]);
			expect_mapped(fd[j]);
		}
		for (int j = 0; j < 2; j++)
			close(fd[j]);
		EXPECT_TRUE(fs_wait(s, FUSE_RELEASE, 2 * i + 2));
		EXPECT_EQ(i + 1, s->count[FUSE_GET_FMAP]);
		ASSERT_TRUE(fs_forget(s));
	}
}

/* ---- FIEMAP of a no_rw descriptor during a first open ---- */

#define SPIN_FILES	14
#define SPIN_S		5

static struct {
	_Atomic int fd;
	_Atomic bool stop;
	_Atomic unsigned long rounds;
	_Atomic int wrong;		/* an unexpected errno */
	_Atomic unsigned long by_fuse, mapped;
} spin;

/* FIEMAP of spin.fd, whose file is plain until it becomes mapped. */
static void *spin_fiemap(void *unused)
{
	while (!spin.stop) {
		struct fiemap fm = {
			.fm_length = ~0ULL,
			.fm_flags = FIEMAP_FLAG_SYNC,
		};
		int fd = spin.fd;

		if (fd < 0)
			usleep(10);
		else if (!ioctl(fd, FS_IOC_FIEMAP, &fm))
			spin.mapped++;
		else if (errno == EOPNOTSUPP)
			spin.by_fuse++;
		else
			spin.wrong = errno;
		spin.rounds++;
	}
	return NULL;
}

/* Wait until the thread does not use the descriptor any more. */
static bool spin_rests(void)
{
	unsigned long before;

	spin.fd = -1;
	before = spin.rounds;
	for (int ms = 0; ms < FS_PATIENCE && spin.rounds < before + 2; ms++)
		usleep(1000);
	return spin.rounds >= before + 2;
}

TEST_F_TIMEOUT(first_open, fiemap_meanwhile, 60)
{
	struct fuse_server *s = self->s;
	time_t end = time(NULL) + SPIN_S;
	pthread_t thread;

	for (int i = 1; i < SPIN_FILES; i++) {
		char name[8];

		snprintf(name, sizeof(name), "f%d", i);
		fs_add(s, name, SIZE, &self->map, sizeof(self->map));
	}
	spin.fd = -1;
	ASSERT_EQ(0, pthread_create(&thread, NULL, spin_fiemap, NULL));
	while (time(NULL) < end && !spin.wrong) {
		for (int i = 0; i < SPIN_FILES; i++) {
			int idle = fs_open(s, s->file[i].name, O_ACCMODE), fd;

			ASSERT_LE(0, idle);
			spin.fd = idle;
			usleep(300);
			fd = fs_open(s, s->file[i].name, O_RDONLY);
			EXPECT_LE(0, fd);
			ASSERT_TRUE(spin_rests());
			close(fd);
			close(idle);
		}
		ASSERT_TRUE(fs_forget(s));
	}
	spin.stop = true;
	pthread_join(thread, NULL);
	TH_LOG("%u maps; FIEMAP: %lu plain, %lu mapped", s->count[FUSE_GET_FMAP],
	       (unsigned long)spin.by_fuse, (unsigned long)spin.mapped);
	EXPECT_EQ(0, spin.wrong);
	EXPECT_LT(SPIN_FILES, s->count[FUSE_GET_FMAP]);
	EXPECT_LT(0, spin.by_fuse);
	EXPECT_LT(0, spin.mapped);
}

/* ---- FUSE passthrough: the kernel reads a backing file ---- */

FIXTURE(passthrough) {
	struct fuse_server *s;
	struct scripted map;
	long refs;
};

static int backing_fd;
static int backing_id;

static void open_backing(struct fuse_server *s, const struct fuse_in_header *in,
			 const void *arg)
{
	struct fuse_backing_map map = { .fd = backing_fd };
	struct fuse_open_out out = { .open_flags = FOPEN_NOFLUSH | FOPEN_PASSTHROUGH };

	if (!backing_id)
		backing_id = ioctl(s->fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
	out.backing_id = backing_id;
	fs_reply(s, in, 0, &out, sizeof(out));
}

FIXTURE_SETUP(passthrough)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->s = server_of(&self->map);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "plain", SIZE, NULL, 0);
	self->s->init_flags |= FUSE_INIT_EXT;
	self->s->init_flags2 = FUSE_PASSTHROUGH >> 32;
	self->s->max_stack_depth = 1;
	self->s->hook[FUSE_OPEN] = open_backing;
	backing_fd = memfd_create("backing", 0);
	ASSERT_LE(0, backing_fd);
	ASSERT_EQ(1, pwrite(backing_fd, "B", 1, PAGE));
	ASSERT_EQ(0, ftruncate(backing_fd, SIZE));
	backing_id = 0;
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(passthrough)
{
	close(backing_fd);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* A mapped file uses its memory, and leaves the backing file alone. */
TEST_F(passthrough, memory_goes_first)
{
	struct fuse_server *s = self->s;
	unsigned char *p;
	int fd[2];
	char c;

	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 2; i++) {
			fd[i] = fs_open(s, "file", O_RDWR);
			ASSERT_LE(0, fd[i]);
			expect_mapped(fd[i]);
		}
		EXPECT_LT(0, backing_id);
		for (int i = 0; i < 2; i++)
			close(fd[i]);
		ASSERT_TRUE(fs_forget(s));
	}
	EXPECT_EQ(2, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ('B', byte_at(backing_fd, PAGE));

	/* A plain file is read and mapped from the backing file. */
	fd[0] = fs_open(s, "plain", O_RDWR);
	ASSERT_LE(0, fd[0]);
	EXPECT_EQ('B', byte_at(fd[0], PAGE));
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd[0], 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ('B', p[PAGE]);
	p[PAGE] = 'C';
	munmap(p, SIZE);
	EXPECT_EQ(1, pread(fd[0], &c, 1, PAGE));
	EXPECT_EQ('C', c);
	EXPECT_EQ('C', byte_at(backing_fd, PAGE));
	EXPECT_EQ(0, s->count[FUSE_READ] + s->count[FUSE_WRITE]);
	close(fd[0]);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
