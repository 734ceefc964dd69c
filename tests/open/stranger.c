// SPDX-License-Identifier: GPL-2.0
/*
 * A hostile server sends a map that was requested from another server.
 *
 * With FUSE passthrough, the first open of a file of "our" server makes the kernel open a
 * backing file, in the same task. If that file belongs to another FUSE server, the stranger,
 * then the stranger gets an OPEN at that moment, too. It chooses its node ids, and answers
 * with a map of memory that it was not given. If the module took that map for the file of our
 * server, the opener would get memory of the file "secret". Whatever the two servers answer,
 * the opener must read and write the backing file that our server named, or the memory that
 * our server gave, and "secret" must not change.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE		(4 * MIB)
#define FILES		2		/* of our server; their backing files are the stranger's */
#define SECRET		's'		/* in the memory that the stranger names */
#define OUR_OWN		'o'		/* in the memory that our server gives */
#define THEIRS		't'		/* in the stranger's files */

static const char *const our_name[FILES] = { "first", "second" };
static const char *const their_name[FILES] = { "one", "two" };

FIXTURE(stranger) {
	struct fuse_server *ours, *theirs;
	struct scripted secret, own[FILES], their_own[FILES];
	long files;		/* of our server that are mapped before the test */
	long refs;
};

FIXTURE_VARIANT(stranger) {
	uid_t owner;		/* of the stranger's mount: gets no offer unless root */
	bool bound;		/* the stranger has maps, ops and a device of its own */
	bool unasked;		/* the stranger sends a map that its OPEN did not request */
	bool get_fmap;		/* our server has no maps in OPEN */
	int error;		/* what our server answers in OPEN; 0: with a map */
	unsigned int nodeid;	/* the stranger's are those of our server, shifted by this */
};

/* The stranger is the server of an ordinary user, without an offer. */
FIXTURE_VARIANT_ADD(stranger, offered_nothing) {
	.owner = 1000,
	.error = -ENODATA,
};

FIXTURE_VARIANT_ADD(stranger, offered) {
	.error = -ENODATA,
};

FIXTURE_VARIANT_ADD(stranger, other_nodeids) {
	.owner = 1000,
	.error = -ENODATA,
	.nodeid = 100,
};

/* The stranger's files have the node ids of our server, each that of the other file. */
FIXTURE_VARIANT_ADD(stranger, swapped_nodeids) {
	.owner = 1000,
	.error = -ENODATA,
	.nodeid = 1,
};

FIXTURE_VARIANT_ADD(stranger, asked_through_get_fmap) {
	.owner = 1000,
	.get_fmap = true,
	.error = -ENODATA,
};

/* Our server does not send its map with OPEN, and has none for GET_FMAP either. */
FIXTURE_VARIANT_ADD(stranger, asked_twice) {
	.owner = 1000,
	.error = -ERANGE,
};

FIXTURE_VARIANT_ADD(stranger, our_map) {
	.owner = 1000,
};

FIXTURE_VARIANT_ADD(stranger, our_map_through_get_fmap) {
	.owner = 1000,
	.get_fmap = true,
};

FIXTURE_VARIANT_ADD(stranger, unasked) {
	.owner = 1000,
	.unasked = true,
	.error = -ENODATA,
};

FIXTURE_VARIANT_ADD(stranger, unasked_and_our_map) {
	.owner = 1000,
	.unasked = true,
};

/* Both servers get map requests from the same task, and each sends its own map. */
FIXTURE_VARIANT_ADD(stranger, bound) {
	.bound = true,
	.error = -ENODATA,
};

FIXTURE_VARIANT_ADD(stranger, both_have_maps) {
	.bound = true,
};

/* ---- what the two answer ---- */

static int backing_fd[FILES], backing_id[FILES];
static struct scripted evil_map;
static const struct scripted *own_map;
static int our_error;
static bool unasked;

struct answer {
	struct fuse_open_out open;
	struct fuse_open_fmap_out fmap;
};

static void our_open(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_open_in *open = arg;
	bool wanted = open->open_flags & FUSE_DAX_FMAP_OPEN_MAP;
	struct answer out = { .open.open_flags = FOPEN_NOFLUSH | FOPEN_PASSTHROUGH };
	unsigned int i = in->nodeid - s->file[0].nodeid;

	if (i >= FILES) {
		fs_default(s, in, arg);
		return;
	}
	if (!backing_id[i]) {
		struct fuse_backing_map map = { .fd = backing_fd[i] };

		backing_id[i] = ioctl(s->fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
	}
	out.open.backing_id = backing_id[i];
	out.fmap.size = our_error ?: (int)sizeof(own_map[i]);
	memcpy(out.fmap.map, &own_map[i], sizeof(own_map[i]));
	fs_reply(s, in, 0, &out, wanted ? sizeof(out) : sizeof(out.open));
}

static void their_open(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_open_in *open = arg;
	bool wanted = open->open_flags & FUSE_DAX_FMAP_OPEN_MAP;
	struct answer out = {
		.open.open_flags = FOPEN_NOFLUSH,
		.fmap.size = sizeof(evil_map),
	};

	memcpy(out.fmap.map, &evil_map, sizeof(evil_map));
	fs_reply(s, in, 0, &out, wanted || unasked ? sizeof(out) : sizeof(out.open));
}

/* ---- */

FIXTURE_SETUP(stranger)
{
	struct fuse_server *s, *t;

	FMAP_REQUIRE();
	self->refs = module_refs();
	self->secret = fmap_linear(0, 0, SIZE);
	evil_map = self->secret;

	t = variant->bound ? fmap_server(SCRIPTED_OPS_NAME) : fs_new();
	ASSERT_NE(NULL, t);
	self->theirs = t;
	if (variant->bound) {
		/* A device belongs to one mount. */
		t->fmap_flags = FUSE_DAX_FMAP_MAP_IN_OPEN;
		t->devices[0] = NULL;
	}
	t->owner = variant->owner;
	s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, s);
	self->ours = s;
	for (int i = 0; i < FILES; i++) {
		self->own[i] = fmap_linear(0, (i + 1) * SIZE, SIZE);
		self->their_own[i] = fmap_linear(1, i * SIZE, SIZE);
		fs_add(s, our_name[i], SIZE, variant->error ? NULL : &self->own[i],
		       sizeof(self->own[i]));
		fs_add(t, their_name[i], SIZE, variant->bound ? &self->their_own[i] : NULL,
		       sizeof(self->their_own[i]));
		memset(t->file[i].plain, THEIRS, FS_PLAIN);
	}
	for (int i = 0; i < FILES; i++)
		t->file[i].nodeid = variant->nodeid < FILES ?
			s->file[(i + variant->nodeid) % FILES].nodeid :
			s->file[i].nodeid + variant->nodeid;
	/* Files through which the test fills the memory. */
	fs_add(s, "secret", SIZE, &self->secret, sizeof(self->secret));
	for (int i = 0; i < FILES; i++)
		fs_add(s, i ? "twin of second" : "twin of first", SIZE, &self->own[i],
		       sizeof(self->own[i]));
	s->fmap_flags = variant->get_fmap ? 0 : FUSE_DAX_FMAP_MAP_IN_OPEN;
	s->init_flags |= FUSE_INIT_EXT;
	s->init_flags2 = FUSE_PASSTHROUGH >> 32;
	s->max_stack_depth = 1;
	s->hook[FUSE_OPEN] = our_open;
	own_map = self->own;
	our_error = variant->error;
	unasked = variant->unasked;

	ASSERT_EQ(0, fs_mount(t));
	if (variant->bound)
		for (int i = 0; i < FILES; i++)
			ASSERT_EQ(0, fs_fill(t, their_name[i], THEIRS, SIZE));
	for (int i = 0; i < FILES; i++) {
		backing_id[i] = 0;
		backing_fd[i] = fs_open(t, their_name[i], O_RDWR);
		ASSERT_LE(0, backing_fd[i]);
	}
	/* From here on the stranger gets OPENs in the middle of opens of our server's files. */
	if (!variant->bound)
		t->hook[FUSE_OPEN] = their_open;
	else
		for (int i = 0; i < FILES; i++)
			t->count[FUSE_OPEN] = 0;

	ASSERT_EQ(0, fs_mount(s));
	ASSERT_EQ(0, fs_fill(s, "secret", SECRET, SIZE));
	ASSERT_EQ(0, fs_fill(s, "twin of first", OUR_OWN, SIZE));
	ASSERT_EQ(0, fs_fill(s, "twin of second", OUR_OWN, SIZE));
	self->files = fs_counter(s, "files");
	ASSERT_LE(0, self->files);
	t->count[FUSE_OPEN] = 0;
}

FIXTURE_TEARDOWN(stranger)
{
	EXPECT_EQ(0, self->ours->malformed);
	/* An OPEN that requests a map would be malformed for the stranger. */
	EXPECT_EQ(0, self->theirs->malformed);
	for (int i = 0; i < FILES; i++)
		close(backing_fd[i]);
	EXPECT_EQ(0, fs_stop(self->ours));
	EXPECT_EQ(0, fs_stop(self->theirs));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* The byte that the file must contain, or the error of its open. */
static int expected(int error, bool refused)
{
	return !error ? OUR_OWN : refused ? -EIO : THEIRS;
}

#define expected()	expected(variant->error, variant->unasked)

/* Look at some places of a file: @byte if all have it, else the first other byte or -errno. */
static int bytes_of(int fd, int byte)
{
	static const off_t at[] = { 0, 1, PAGE - 1, PAGE, FS_PLAIN - 1 };
	unsigned char *p;
	int c;

	for (int i = 0; i < ARRAY_SIZE(at); i++) {
		c = byte_at(fd, at[i]);
		if (c != byte)
			return c;
	}
	p = mmap(NULL, FS_PLAIN, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	for (int i = 0; i < ARRAY_SIZE(at) && c == byte; i++)
		c = touch(p + at[i], -1) ? -EFAULT : p[at[i]];
	munmap(p, FS_PLAIN);
	return c;
}

/* The byte that "secret" contains: SECRET if its memory has not changed. */
static int secret_is(struct fuse_server *s)
{
	int fd = fs_open(s, "secret", O_RDWR), c;

	if (fd < 0)
		return fd;
	c = bytes_of(fd, SECRET);
	close(fd);
	return c;
}

TEST_F(stranger, reads)
{
	int fd = fs_open(self->ours, "first", O_RDONLY);

	if (expected() < 0) {
		EXPECT_EQ(expected(), fd);
	} else {
		ASSERT_LE(0, fd);
		EXPECT_EQ(expected(), bytes_of(fd, expected()));
		close(fd);
	}
	EXPECT_EQ(1, self->theirs->count[FUSE_OPEN]);
	EXPECT_EQ(self->files + !variant->error, fs_counter(self->ours, "files"));
}

TEST_F(stranger, writes)
{
	struct fuse_server *s = self->ours;
	int fd, twin;

	if (expected() == THEIRS && kernel_has_lockdep())
		SKIP(return, "lockdep takes a write that FUSE passes to FUSE for a recursion");
	fd = fs_open(s, "first", O_RDWR);
	if (expected() < 0) {
		EXPECT_EQ(expected(), fd);
	} else {
		ASSERT_LE(0, fd);
		EXPECT_EQ(4, pwrite(fd, "EVIL", 4, 0));
		EXPECT_EQ(4, pwrite(fd, "EVIL", 4, PAGE));
		EXPECT_EQ('E', byte_at(fd, 0));
		close(fd);
	}
	EXPECT_EQ(SECRET, secret_is(s));
	/* The write went to the right file. */
	twin = fs_open(s, "twin of first", O_RDONLY);
	EXPECT_EQ(expected() == OUR_OWN ? 'E' : OUR_OWN, byte_at(twin, PAGE));
	EXPECT_EQ(expected() == THEIRS ? 'E' : THEIRS, byte_at(backing_fd[0], PAGE));
	close(twin);
}

/* The first open decides what the file is: all later ones see the same. */
TEST_F(stranger, opened_again)
{
	for (int round = 0; round < 3; round++) {
		int fd = fs_open(self->ours, "first", O_RDWR);

		if (expected() < 0) {
			EXPECT_EQ(expected(), fd);
			continue;
		}
		ASSERT_LE(0, fd);
		EXPECT_EQ(expected(), bytes_of(fd, expected()));
		close(fd);
	}
	EXPECT_EQ(SECRET, secret_is(self->ours));
}

static void try_and_exit(struct fuse_server *s, const char *name, int want)
{
	int fd = fs_open(s, name, O_RDWR);

	if (want < 0)
		_exit(fd != want);
	_exit(fd < 0 ? 2 : bytes_of(fd, want) != want ? 3 : 0);
}

/*
 * Two openers of two files wait for the stranger at the same time, two more wait for the
 * first two (single flight), and one opens the stranger's own file.
 */
TEST_F(stranger, openers_at_once)
{
	struct fuse_server *s = self->ours, *t = self->theirs;
	pid_t pid[5];

	t->hold[FUSE_OPEN] = true;
	for (int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		if (i == 4)
			try_and_exit(t, their_name[0], variant->unasked ? -EIO : THEIRS);
		try_and_exit(s, our_name[i % FILES], expected());
	}
	/* Two OPENs in the middle of first opens, and that of the stranger's own file. */
	EXPECT_TRUE(fs_wait(t, FUSE_OPEN, 3));
	for (int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_TRUE(asleep(pid[i]));
	fs_release(t, FUSE_OPEN);
	for (int i = 0; i < ARRAY_SIZE(pid); i++) {
		int status = ended(pid[i]);

		EXPECT_EQ(0, status) {
			TH_LOG("opener %d: status %x", i, status);
		}
	}
	EXPECT_EQ(SECRET, secret_is(s));
	EXPECT_EQ(self->files + (variant->error ? 0 : FILES), fs_counter(s, "files"));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
