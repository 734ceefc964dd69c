// SPDX-License-Identifier: GPL-2.0
/*
 * Maps in the answer to OPEN (FUSE_DAX_FMAP_MAP_IN_OPEN).
 *
 * The first OPEN of a file requests its map, later ones do not, and no GET_FMAP is sent. Errors
 * mean the same as in GET_FMAP. If OPEN returns no map, the kernel sends GET_FMAP. An answer that
 * is wrong, or that can be read in part only, or that comes too late for the opener, must not be
 * taken for a map.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "first_open.h"

FIXTURE(map_in_open) {
	struct fuse_server *s;
	struct scripted map;
	long refs;
};

FIXTURE_SETUP(map_in_open)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->s = server_of(&self->map);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "other", SIZE, &self->map, sizeof(self->map));
	/* Unknown bits are ignored. */
	self->s->fmap_flags = FUSE_DAX_FMAP_MAP_IN_OPEN | 0xf0f0;
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(map_in_open)
{
	EXPECT_EQ(0, self->s->malformed);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* The number of OPENs that requested a map. */
#define expect_wanted(n) \
	EXPECT_EQ((unsigned int)(n), self->s->maps_wanted)

/* The answer to OPEN has the map, and no other request is sent. */
TEST_F(map_in_open, in_one_request)
{
	struct fuse_server *s = self->s;
	int fd = fs_open(s, "file", O_RDWR);

	ASSERT_LE(0, fd);
	expect_mapped(fd);
	close(fd);
	expect_counts(0, 1, 1);
	expect_wanted(1);
	EXPECT_EQ(1, fs_counter(s, "maps_in_open"));
	EXPECT_EQ(0, fs_counter(s, "get_fmap"));

	EXPECT_EQ(0, fs_try(s, "file"));
	expect_counts(0, 2, 2);
	expect_wanted(1);

	/* The same after the inode has been evicted. */
	ASSERT_TRUE(fs_forget(s));
	EXPECT_EQ(0, fs_fill(s, "file", '1', SIZE));
	expect_counts(0, 3, 3);
	expect_wanted(2);
}

/* Flags about FUSE's page cache and I/O have no effect on a mapped file. */
TEST_F(map_in_open, flags)
{
	static const uint32_t flags[] = {
		FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_STREAM | FOPEN_NONSEEKABLE,
		/* FUSE fails the OPEN with EIO; the module opens again, and sends GET_FMAP. */
		FOPEN_PASSTHROUGH,
	};
	struct fuse_server *s = self->s;

	for (int i = 0; i < ARRAY_SIZE(flags); i++) {
		int fd;

		s->open_flags = FOPEN_NOFLUSH | flags[i];
		fd = fs_open(s, "file", O_RDWR);
		ASSERT_LE(0, fd);
		expect_mapped(fd);
		close(fd);
		EXPECT_EQ(flags[i] == FOPEN_PASSTHROUGH, s->count[FUSE_GET_FMAP]);
		ASSERT_TRUE(fs_forget(s));
	}
}

/* The errors mean what they mean in GET_FMAP. */
TEST_F(map_in_open, no_map)
{
	struct fuse_server *s = self->s;
	char c;
	int fd;

	s->file[0].map = NULL;
	s->file[0].plain[1] = 'p';
	for (int i = 0; i < 2; i++) {
		fd = fs_open(s, "file", O_RDWR);
		ASSERT_LE(0, fd);
		EXPECT_EQ(1, pread(fd, &c, 1, 1));
		EXPECT_EQ('p', c);
		close(fd);
	}
	expect_counts(0, 2, 2);
	expect_wanted(1);

	s->open_map_told = true;
	s->open_map_len = sizeof(struct fuse_open_fmap_out);
	s->open_map_size = -EDQUOT;
	EXPECT_EQ(-EDQUOT, fs_try(s, "other"));
	expect_counts(0, 3, 3);
	expect_wanted(2);

	/* ENOSYS, a server without maps: no OPEN requests a map any more. */
	s->open_map_size = -ENOSYS;
	EXPECT_EQ(0, fs_try(s, "other"));
	EXPECT_EQ(0, fs_try(s, "other"));
	expect_counts(0, 5, 5);
	expect_wanted(3);
}

/* Invalid sizes are EIO; a map of 0 bytes is valid, and the program refuses it. */
TEST_F(map_in_open, sizes)
{
	static const int32_t no_size[] = {
		FUSE_DAX_FMAP_OPEN_MAP_MAX + 1, INT32_MAX, -512, -4095, INT32_MIN,
	};
	struct fuse_server *s = self->s;
	unsigned int n = 0;

	s->open_map_told = true;
	s->open_map_len = sizeof(struct fuse_open_fmap_out);
	for (; n < ARRAY_SIZE(no_size); n++) {
		s->open_map_size = no_size[n];
		EXPECT_EQ(-EIO, fs_try(s, "file"));
		expect_counts(0, n + 1, n + 1);
	}
	s->open_map_size = 0;
	EXPECT_GT(0, fs_try(s, "file"));
	s->open_map_size = FUSE_DAX_FMAP_OPEN_MAP_MAX;
	EXPECT_EQ(0, fs_fill(s, "file", 's', SIZE));
	expect_counts(0, n + 2, n + 2);
	expect_wanted(n + 2);
}

/* GET_FMAP is sent if the map does not fit, or the answer to OPEN has a wrong length. */
TEST_F(map_in_open, asked_for_instead)
{
	static const uint32_t wrong_len[] = { 0, 1, 511, 513, 520 };
	static char big[64 * KIB];
	struct fuse_server *s = self->s;

	memcpy(big, &self->map, sizeof(self->map));
	s->file[0].map = big;
	s->file[0].map_len = sizeof(big);
	EXPECT_EQ(0, fs_fill(s, "file", 'a', SIZE));
	EXPECT_LT(1, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, s->count[FUSE_OPEN]);
	expect_wanted(1);
	ASSERT_TRUE(fs_forget(s));
	s->file[0].map = &self->map;
	s->file[0].map_len = sizeof(self->map);

	/* FUSE refuses an answer of a wrong length, and so has not opened the file. */
	s->open_map_told = true;
	s->open_map_size = sizeof(self->map);
	for (int i = 0; i < ARRAY_SIZE(wrong_len); i++) {
		s->open_map_len = wrong_len[i];
		s->refused = 0;
		s->count[FUSE_GET_FMAP] = 0;
		EXPECT_EQ(0, fs_fill(s, "file", 'w', SIZE));
		EXPECT_EQ(1, s->refused);
		EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
		ASSERT_TRUE(fs_forget(s));
	}
}

/* OPEN is not sent, or fails. */
TEST_F(map_in_open, no_open)
{
	struct fuse_server *s = self->s;

	EXPECT_EQ(-EOPNOTSUPP, fs_open(s, "file", O_RDWR | O_TRUNC));
	expect_counts(1, 0, 0);
	ASSERT_TRUE(fs_forget(s));

	s->error[FUSE_OPEN] = -EDQUOT;
	EXPECT_EQ(-EDQUOT, fs_try(s, "file"));
	expect_counts(1, 1, 0);
	expect_wanted(1);
	ASSERT_TRUE(fs_forget(s));

	/* From now on FUSE opens by itself. */
	s->error[FUSE_OPEN] = -ENOSYS;
	EXPECT_EQ(0, fs_fill(s, "file", 'n', SIZE));
	EXPECT_EQ(0, fs_fill(s, "other", 'n', SIZE));
	EXPECT_EQ(3, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(2, s->count[FUSE_OPEN]);
}

/* FUSE has opened the file, but its map is refused: the open fails. */
TEST_F(map_in_open, refused)
{
	struct fuse_server *s = self->s;

	s->file[0].map_len = 1;
	EXPECT_NE(0, fs_try(s, "file"));
	expect_counts(0, 1, 1);
	s->file[0].map_len = sizeof(self->map);
	s->error[FUSE_GET_DAXDEV] = -ENXIO;
	EXPECT_EQ(-ENXIO, fs_try(s, "file"));
	expect_counts(0, 2, 2);
	s->error[FUSE_GET_DAXDEV] = 0;
	EXPECT_EQ(0, fs_fill(s, "file", 'r', SIZE));
	expect_counts(0, 3, 3);
}

/* Many tasks open two files at once: one OPEN requests the map of each file. */
TEST_F(map_in_open, openers_at_once)
{
	struct fuse_server *s = self->s;
	pid_t pid[16];

	s->hold[FUSE_OPEN] = true;
	for (int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fs_try_in_child(s, i % 2 ? "file" : "other");
		ASSERT_LE(0, pid[i]);
	}
	EXPECT_TRUE(fs_wait(s, FUSE_OPEN, 2));
	for (int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_TRUE(asleep(pid[i]));
	expect_wanted(2);
	fs_release(s, FUSE_OPEN);
	for (int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, ended(pid[i]));
	expect_counts(0, ARRAY_SIZE(pid), ARRAY_SIZE(pid));
	expect_wanted(2);
}

/*
 * An opener is killed while the server has its OPEN: it waits for the answer, and keeps the
 * buffer for the map until then.
 */
TEST_F(map_in_open, killed)
{
	struct fuse_server *s = self->s;
	pid_t pid;

	s->hold[FUSE_OPEN] = true;
	pid = fs_try_in_child(s, "file");
	ASSERT_LE(0, pid);
	EXPECT_TRUE(fs_wait(s, FUSE_OPEN, 1));
	EXPECT_TRUE(asleep(pid));
	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_TRUE(asleep(pid));
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	fs_release(s, FUSE_OPEN);
	EXPECT_EQ(SIGKILL, ended(pid));
	EXPECT_TRUE(fs_wait(s, FUSE_RELEASE, 1));
	EXPECT_EQ(0, fs_fill(s, "file", 'k', SIZE));
}

/* The connection is cut while the map is on its way. */
TEST_F(map_in_open, aborted)
{
	struct fuse_server *s = self->s;
	int status;
	pid_t pid;

	s->hold[FUSE_OPEN] = true;
	pid = fs_try_in_child(s, "file");
	ASSERT_LE(0, pid);
	EXPECT_TRUE(fs_wait(s, FUSE_OPEN, 1));
	EXPECT_EQ(0, fs_abort(s));
	/* The error of OPEN, or of the GET_FMAP that follows it. */
	status = WEXITSTATUS(ended(pid));
	EXPECT_TRUE(status == ECONNABORTED || status == ENOTCONN) TH_LOG("%d", status);
}

/* An answer that can be read in part only: its first half says that it is a map. */
static void torn_open(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_open_in *open = arg;
	struct {
		struct fuse_out_header header;
		struct fuse_open_out open;
		struct fuse_open_fmap_out fmap;
	} out = {
		.header = { .len = sizeof(out), .unique = in->unique },
		.fmap.size = s->file[0].map_len,
	};
	struct iovec iov[2] = {
		{ &out, offsetof(typeof(out), fmap.map) + 16 },
		{ NULL, sizeof(out) - iov[0].iov_len },
	};

	if (!(open->open_flags & FUSE_DAX_FMAP_OPEN_MAP)) {
		fs_default(s, in, arg);
		return;
	}
	iov[1].iov_base = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (writev(s->fd, iov, 2) < 0)
		s->refused++;
	munmap(iov[1].iov_base, PAGE);
}

TEST_F(map_in_open, torn)
{
	struct fuse_server *s = self->s;

	s->hook[FUSE_OPEN] = torn_open;
	EXPECT_EQ(0, fs_fill(s, "file", 't', SIZE));
	EXPECT_EQ(1, s->refused);
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	expect_wanted(1);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
