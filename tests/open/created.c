// SPDX-License-Identifier: GPL-2.0
/*
 * Files that a task has open before the map arrives (early opens).
 *
 * The module requests a map when a file is opened, but FUSE opens a file that it creates
 * without the module; and a server may answer CREATE with a file that is mapped already. In
 * both cases, all open descriptors of the file must use the memory as soon as an opener has
 * fetched the map: else two descriptors of a file would see different bytes.
 *
 * A byte tells where it comes from: what READ returns and what is on the device
 * differ, unless a test wants them equal.
 *
 * This file is long because all tests use the same server, with CREATE and the map in each order.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE		(4 * MIB)
#define SMALL		(64 * KIB)
#define BY_FUSE		'f'	/* what READ returns */
#define ON_DEVICE	'd'

/*
 * A file that FUSE created is open before the kernel has requested its map. FUSE
 * serves it until another opener fetches the map. From then on both use the memory,
 * unless FUSE's pages of the file are mapped by mmap(2): then the page cache and the
 * memory would be two sets of bytes.
 */
FIXTURE(created) {
	struct fuse_server *s;
	struct scripted map;
	int fd, place;
};

FIXTURE_VARIANT(created) {
	bool tmpfile;
	uint32_t create_flags;
	uint32_t open_flags;
};

FIXTURE_VARIANT_ADD(created, cached) {
};

FIXTURE_VARIANT_ADD(created, direct_io) {
	.create_flags = FOPEN_DIRECT_IO,
	.open_flags = FOPEN_DIRECT_IO,
};

FIXTURE_VARIANT_ADD(created, direct_io_then_cached) {
	.create_flags = FOPEN_DIRECT_IO,
};

FIXTURE_VARIANT_ADD(created, cached_then_direct_io) {
	.create_flags = FOPEN_KEEP_CACHE,
	.open_flags = FOPEN_DIRECT_IO,
};

FIXTURE_VARIANT_ADD(created, tmpfile) {
	.tmpfile = true,
	.create_flags = FOPEN_DIRECT_IO,
};

/* file[1] must be created; the other files exist from the beginning. */
static unsigned int names_created;
static uint32_t create_flags;

static void lookup_created(struct fuse_server *s, const struct fuse_in_header *in,
			   const void *arg)
{
	if (!names_created && !strcmp(arg, s->file[1].name))
		fs_reply(s, in, -ENOENT, NULL, 0);
	else
		fs_default(s, in, arg);
}

/* CREATE and TMPFILE are answered with file[1]. */
static void create(struct fuse_server *s, const struct fuse_in_header *in,
		   const void *arg)
{
	const struct fs_file *f = &s->file[1];
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = {
		.entry = {
			.nodeid = f->nodeid,
			.entry_valid = 3600,
			.attr_valid = 3600,
			.attr = {
				.ino = f->nodeid,
				.mode = f->mode,
				.nlink = 1,
				.size = f->size,
				.blksize = 4096,
			},
		},
		.open.open_flags = FOPEN_NOFLUSH | create_flags,
	};

	names_created++;
	fs_reply(s, in, 0, &out, sizeof(out));
}

static void remove_it(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	fs_reply(s, in, 0, NULL, 0);
}

/* Open the file that @fd has open again: a descriptor or -errno. */
static int reopen(int fd, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

FIXTURE_SETUP(created)
{
	FMAP_REQUIRE();
	names_created = 0;
	create_flags = variant->create_flags;
	self->map = fmap_linear(0, 0, SMALL);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->hook[FUSE_LOOKUP] = lookup_created;
	self->s->hook[FUSE_CREATE] = create;
	self->s->hook[FUSE_TMPFILE] = create;
	self->s->hook[FUSE_UNLINK] = remove_it;
	fs_add(self->s, "old", SMALL, &self->map, sizeof(self->map));
	fs_add(self->s, "new", SMALL, &self->map, sizeof(self->map));
	memset(self->s->file[1].plain, BY_FUSE, FS_PLAIN);
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "old", ON_DEVICE, SMALL));
	self->s->open_flags |= variant->open_flags;

	if (variant->tmpfile)
		self->fd = open(self->s->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	else
		self->fd = fs_open(self->s, "new", O_CREAT | O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(1, names_created);
	/* A path to the file, which does not count as an open of it. */
	self->place = reopen(self->fd, O_PATH);
	ASSERT_LE(0, self->place);
}

FIXTURE_TEARDOWN(created)
{
	close(self->place);
	EXPECT_EQ(0, fs_stop(self->s));
}

#define expect_mapped_now() do {					\
	unsigned int writes = self->s->count[FUSE_WRITE];		\
	unsigned char *p;						\
	int fd = reopen(self->place, O_RDWR);				\
	ASSERT_LE(0, fd);						\
	EXPECT_EQ(ON_DEVICE, byte_at(fd, 0));				\
	EXPECT_EQ(1, pwrite(fd, "x", 1, 1));				\
	EXPECT_EQ(writes, self->s->count[FUSE_WRITE]);			\
	p = mmap(NULL, SMALL, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); \
	ASSERT_NE(MAP_FAILED, p);					\
	EXPECT_EQ(0, touch(p + PAGE, 'y'));				\
	EXPECT_EQ('x', p[1]);						\
	EXPECT_EQ('y', byte_at(fd, PAGE));				\
	munmap(p, SMALL);						\
	close(fd);							\
} while (0)

TEST_F(created, mapped_with_the_second_opener)
{
	unsigned int reads;
	unsigned char *p;
	struct stat st;
	int second;

	EXPECT_EQ(BY_FUSE, byte_at(self->fd, 0));
	EXPECT_EQ(1, pwrite(self->fd, "f", 1, 0));
	EXPECT_EQ(1, self->s->count[FUSE_WRITE]);
	second = reopen(self->place, O_RDWR);
	ASSERT_LE(0, second);
	reads = self->s->count[FUSE_READ];
	EXPECT_EQ(ON_DEVICE, byte_at(second, 0));
	EXPECT_EQ(ON_DEVICE, byte_at(self->fd, 0));
	EXPECT_EQ(1, pwrite(self->fd, "1", 1, 0));
	EXPECT_EQ(1, pwrite(second, "2", 1, 1));
	EXPECT_EQ('1', byte_at(second, 0));
	EXPECT_EQ('2', byte_at(self->fd, 1));
	p = mmap(NULL, SMALL, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ('2', p[1]);
	EXPECT_EQ(0, touch(p + 2, '3'));
	EXPECT_EQ('3', byte_at(second, 2));
	munmap(p, SMALL);
	EXPECT_EQ(0, fsync(self->fd));
	EXPECT_EQ(-1, ftruncate(self->fd, 0));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(st.st_size, lseek(self->fd, 0, SEEK_END));
	EXPECT_EQ(1, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(reads, self->s->count[FUSE_READ]);
	close(self->fd);
	EXPECT_EQ('1', byte_at(second, 0));
	EXPECT_EQ(1, pwrite(second, (char []){ ON_DEVICE }, 1, 0));
	close(second);
	expect_mapped_now();
}

TEST_F(created, plain_until_unmapped)
{
	unsigned char *p;
	int second;

	/* Private: FUSE refuses shared mappings with direct I/O. */
	p = mmap(NULL, SMALL, PROT_READ, MAP_PRIVATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	close(self->fd);
	EXPECT_EQ(BY_FUSE, p[0]);
	second = reopen(self->place, O_RDWR);
	ASSERT_LE(0, second);
	EXPECT_EQ(BY_FUSE, byte_at(second, 0));
	EXPECT_EQ(BY_FUSE, p[10]);
	close(second);
	munmap(p, SMALL);
	expect_mapped_now();
}

/* A task that opens the file while FUSE's pages are mapped uses the memory later, too. */
TEST_F(created, opened_meanwhile)
{
	struct fuse_server *s = self->s;
	unsigned int requests;
	int meanwhile, mapped;
	unsigned char *p;

	p = mmap(NULL, SMALL, PROT_READ, MAP_PRIVATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(BY_FUSE, p[0]);
	meanwhile = reopen(self->place, O_RDWR);
	ASSERT_LE(0, meanwhile);
	EXPECT_EQ(BY_FUSE, byte_at(meanwhile, 0));
	munmap(p, SMALL);
	mapped = reopen(self->place, O_RDWR);
	ASSERT_LE(0, mapped);
	EXPECT_EQ(ON_DEVICE, byte_at(mapped, 0));

	requests = s->count[FUSE_READ] + s->count[FUSE_WRITE];
	EXPECT_EQ(ON_DEVICE, byte_at(meanwhile, 0));
	EXPECT_EQ(1, pwrite(meanwhile, "m", 1, 1));
	EXPECT_EQ('m', byte_at(mapped, 1));
	/* Else the server could give memory that is mapped here to another file. */
	EXPECT_EQ(-1, fallocate(meanwhile, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(0, s->count[FUSE_FALLOCATE]);
	EXPECT_EQ(-1, ftruncate(meanwhile, 0));
	EXPECT_EQ(EOPNOTSUPP, errno);
	p = mmap(NULL, SMALL, PROT_READ | PROT_WRITE, MAP_SHARED, meanwhile, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ('m', p[1]);
	EXPECT_EQ(0, touch(p + 2, 'p'));
	EXPECT_EQ('p', byte_at(mapped, 2));
	EXPECT_EQ('p', byte_at(self->fd, 2));
	EXPECT_EQ(0, fsync(meanwhile));
	munmap(p, SMALL);
	EXPECT_EQ(requests, s->count[FUSE_READ] + s->count[FUSE_WRITE]);
	close(meanwhile);
	close(mapped);
	close(self->fd);
	expect_mapped_now();
}

/*
 * A file is mapped by mmap(2) only through the descriptor of its creator. When that is closed,
 * the module checks for pinned pages: they keep the inode, and other files do not get them.
 */
TEST_F(created, page_in_use)
{
	struct fuse_server *s = self->s;
	struct iovec iov = { .iov_len = PAGE };
	int second, other, pipes[2];
	unsigned char *p, got[PAGE];
	unsigned int forgets;

	second = reopen(self->place, O_RDWR);
	ASSERT_LE(0, second);
	p = mmap(NULL, SMALL, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	close(second);
	EXPECT_EQ(ON_DEVICE, p[PAGE]);
	iov.iov_base = p + PAGE;
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PAGE, vmsplice(pipes[1], &iov, 1, 0));
	munmap(p, SMALL);
	close(self->fd);

	/* "old" has the same memory. */
	other = fs_open(s, "old", O_RDWR);
	ASSERT_LE(0, other);
	EXPECT_EQ(-1, pwrite(other, "x", 1, PAGE));
	EXPECT_EQ(EIO, errno);
	forgets = fs_forgets(s);
	close(self->place);
	self->place = -1;
	if (!variant->tmpfile)
		ASSERT_EQ(0, unlink(fs_path(s, "new")));
	usleep(100 * 1000);
	EXPECT_EQ(forgets, fs_forgets(s));

	ASSERT_EQ(PAGE, read(pipes[0], got, PAGE));
	for (int i = 0; i < PAGE; i++)
		ASSERT_EQ(ON_DEVICE, got[i]);
	for (int ms = 0; ms < FS_PATIENCE && fs_forgets(s) == forgets; ms++)
		usleep(1000);
	EXPECT_EQ(forgets + 1, fs_forgets(s));
	EXPECT_EQ(1, pwrite(other, "x", 1, PAGE));
	close(other);
	close(pipes[0]);
	close(pipes[1]);
}

/* The creator closes the file while other tasks open it for the first time. */
TEST_F(created, others_open_at_once)
{
	pid_t pid[4];

	for (int i = 0; i < 4; i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (!pid[i]) {
			for (int n = 0; n < 20; n++) {
				int fd = reopen(self->place, O_RDWR);
				int c = fd < 0 ? fd : byte_at(fd, 0);

				close(fd);
				if (c != BY_FUSE && c != ON_DEVICE)
					_exit(1);
			}
			_exit(0);
		}
	}
	usleep(20 * 1000);
	EXPECT_EQ(ON_DEVICE, byte_at(self->fd, 0));
	close(self->fd);
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(0, ended(pid[i]));
	expect_mapped_now();
}

/*
 * The map arrives in the middle of a write through FUSE, which still sends READ or WRITE to the
 * server. The bytes must not end where no reader looks. So the file stays plain as long as it is
 * written to, for the new opener, too, and the next opener requests the map again.
 */
FIXTURE(writing) {
	struct fuse_server *s;
	struct scripted map;
	int fd, other;
	pid_t writer;
};

/* Ways to write "written": true if all went well. */
static bool by_pwrite(int fd, off_t at)
{
	return pwrite(fd, "written", 7, at) == 7;
}

static bool by_splice(int fd, off_t at)
{
	int pipes[2];

	return !pipe(pipes) && write(pipes[1], "written", 7) == 7 &&
	       splice(pipes[0], NULL, fd, &at, 7, 0) == 7;
}

/* FUSE may complete the submission before the server has answered. */
static bool by_aio(int fd, off_t at)
{
	struct iocb cb = {
		.aio_lio_opcode = IOCB_CMD_PWRITE,
		.aio_fildes = fd,
		.aio_buf = (uintptr_t)"written",
		.aio_nbytes = 7,
		.aio_offset = at,
	}, *cbs = &cb;
	aio_context_t aio = 0;
	struct io_event event;

	return !syscall(SYS_io_setup, 1, &aio) && syscall(SYS_io_submit, aio, 1, &cbs) == 1 &&
	       syscall(SYS_io_getevents, aio, 1, 1, &event, NULL) == 1 && event.res == 7;
}

FIXTURE_VARIANT(writing) {
	int flags;
	uint32_t create_flags;
	int waits_for;
	bool (*write)(int fd, off_t at);
};

FIXTURE_VARIANT_ADD(writing, cached) {
	.waits_for = FUSE_READ,
	.write = by_pwrite,
};

FIXTURE_VARIANT_ADD(writing, cached_spliced) {
	.waits_for = FUSE_READ,
	.write = by_splice,
};

FIXTURE_VARIANT_ADD(writing, direct_io) {
	.create_flags = FOPEN_DIRECT_IO,
	.waits_for = FUSE_WRITE,
	.write = by_pwrite,
};

FIXTURE_VARIANT_ADD(writing, direct_io_aio) {
	.create_flags = FOPEN_DIRECT_IO,
	.waits_for = FUSE_WRITE,
	.write = by_aio,
};

FIXTURE_VARIANT_ADD(writing, o_direct_aio) {
	.flags = O_DIRECT,
	.waits_for = FUSE_WRITE,
	.write = by_aio,
};

FIXTURE_SETUP(writing)
{
	FMAP_REQUIRE();
	names_created = 0;
	create_flags = variant->create_flags;
	self->fd = self->other = -1;
	self->map = fmap_linear(0, 0, SMALL);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->init_flags |= FUSE_WRITEBACK_CACHE | FUSE_ASYNC_DIO;
	self->s->open_flags |= FOPEN_KEEP_CACHE;
	self->s->hook[FUSE_LOOKUP] = lookup_created;
	self->s->hook[FUSE_CREATE] = create;
	fs_add(self->s, "old", SMALL, &self->map, sizeof(self->map));
	fs_add(self->s, "new", SMALL, &self->map, sizeof(self->map));
	memset(self->s->file[1].plain, BY_FUSE, FS_PLAIN);
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "old", ON_DEVICE, SMALL));
	self->fd = fs_open(self->s, "new", O_CREAT | O_RDWR | variant->flags);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(1, names_created);
}

FIXTURE_TEARDOWN(writing)
{
	if (self->writer > 0) {
		fs_release(self->s, variant->waits_for);
		kill(self->writer, SIGKILL);
		ended(self->writer);
	}
	close(self->fd);
	close(self->other);
	EXPECT_EQ(0, fs_stop(self->s));
}

#define expect_written(fd) do {						\
	char _got[8] = "";						\
									\
	EXPECT_EQ(7, pread(fd, _got, 7, 100));				\
	EXPECT_STREQ("written", _got);					\
} while (0)

/* Another task opens the file in the middle of a write; both read it afterwards. */
#define write_and_open() do {						\
	struct fuse_server *s = self->s;				\
	unsigned int fmaps;						\
									\
	s->hold[variant->waits_for] = true;				\
	self->writer = fork();						\
	ASSERT_LE(0, self->writer);					\
	if (!self->writer)						\
		_exit(!variant->write(self->fd, 100));			\
	ASSERT_TRUE(fs_wait(s, variant->waits_for, 1));			\
	/* A writer that does not wait for the server has returned. */	\
	usleep(20 * 1000);						\
	fmaps = s->count[FUSE_GET_FMAP];				\
	self->other = fs_open(s, "new", O_RDWR);			\
	ASSERT_LE(0, self->other);					\
	EXPECT_EQ(fmaps + 1, s->count[FUSE_GET_FMAP]);			\
	fs_release(s, variant->waits_for);				\
	EXPECT_EQ(0, ended(self->writer));				\
	self->writer = 0;						\
	expect_written(self->fd);					\
	expect_written(self->other);					\
	EXPECT_EQ(0, fsync(self->fd));					\
	EXPECT_EQ(0, memcmp(s->file[1].plain + 100, "written", 7));	\
	expect_written(self->other);					\
} while (0)

TEST_F(writing, as_the_map_comes)
{
	write_and_open();
	/* After the last close the server may copy the bytes; the next opener gets the map. */
	close(self->fd);
	close(self->other);
	self->fd = self->other = -1;
	EXPECT_TRUE(fs_is_mapped(self->s, "new", ON_DEVICE));
}

/* Both still have the file open when a third opener gets the map: all three use the memory. */
TEST_F(writing, the_map_comes_later)
{
	unsigned int requests;

	write_and_open();
	EXPECT_TRUE(fs_is_mapped(self->s, "new", ON_DEVICE));
	requests = self->s->count[FUSE_READ] + self->s->count[FUSE_WRITE];
	EXPECT_EQ(ON_DEVICE, byte_at(self->other, 0));
	EXPECT_EQ(ON_DEVICE, byte_at(self->fd, 0));
	EXPECT_EQ(1, pwrite(self->other, "o", 1, 2));
	EXPECT_EQ('o', byte_at(self->fd, 2));
	EXPECT_EQ(1, pwrite(self->fd, "f", 1, 3));
	EXPECT_EQ('f', byte_at(self->other, 3));
	EXPECT_EQ(requests, self->s->count[FUSE_READ] + self->s->count[FUSE_WRITE]);
}

/*
 * A server may answer CREATE with a file that exists already. The new name is then
 * an alias of the same inode.
 */
FIXTURE(alias) {
	struct fuse_server *s;
	struct scripted map;
};

FIXTURE_VARIANT(alias) {
	int flags;
	uint32_t create_flags;
};

FIXTURE_VARIANT_ADD(alias, cached) {
};

FIXTURE_VARIANT_ADD(alias, direct_io) {
	.create_flags = FOPEN_DIRECT_IO,
};

FIXTURE_VARIANT_ADD(alias, truncating) {
	.flags = O_TRUNC,
};

FIXTURE_SETUP(alias)
{
	FMAP_REQUIRE();
	names_created = 0;
	create_flags = variant->create_flags;
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->init_flags |= FUSE_ATOMIC_O_TRUNC;
	self->s->hook[FUSE_LOOKUP] = lookup_created;
	self->s->hook[FUSE_CREATE] = create;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "alias", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "before", SIZE, &self->map, sizeof(self->map));
	self->s->file[1].nodeid = self->s->file[0].nodeid;
	memset(self->s->file[0].plain, BY_FUSE, FS_PLAIN);
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "before", ON_DEVICE, SMALL));
}

FIXTURE_TEARDOWN(alias)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(alias, of_a_mapped_file)
{
	struct fmap_cachestat cs;
	unsigned char *p, *q;
	int fd;

	p = fs_map(self->s, "file", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + 1, '1'));

	fd = fs_open(self->s, "alias", O_CREAT | O_RDWR | variant->flags);
	ASSERT_LE(0, fd);
	ASSERT_EQ(1, names_created);
	EXPECT_EQ(ON_DEVICE, byte_at(fd, 0));
	EXPECT_EQ('1', byte_at(fd, 1));
	EXPECT_EQ(1, pwrite(fd, "2", 1, 2));
	EXPECT_EQ('2', p[2]);
	q = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(0, touch(q + 3, '3'));
	EXPECT_EQ(0, touch(q + HUGE, '4'));
	EXPECT_EQ('3', p[3]);
	EXPECT_EQ('4', p[HUGE]);
	munmap(p, SIZE);
	munmap(q, SIZE);
	EXPECT_EQ('3', byte_at(fd, 3));
	EXPECT_EQ(0, fmap_cachestat(fd, &cs));
	EXPECT_EQ(0, cs.cache + cs.evicted);
	close(fd);
	EXPECT_EQ(0, fs_try(self->s, "alias"));
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(2, self->s->count[FUSE_GET_FMAP]);
}

/*
 * FUSE has created and opened the file, and then a lease makes open(2) fail: the server
 * gets RELEASE, and nothing else is left of the open.
 */
TEST_F(alias, refused)
{
	unsigned int opened, released;
	int fd = fs_open(self->s, "file", O_RDONLY);

	ASSERT_LE(0, fd);
	EXPECT_EQ(ON_DEVICE, byte_at(fd, 0));
	signal(SIGIO, SIG_IGN);
	ASSERT_EQ(0, fcntl(fd, F_SETLEASE, F_RDLCK));
	released = self->s->count[FUSE_RELEASE];
	opened = self->s->count[FUSE_OPEN];
	EXPECT_EQ(-EWOULDBLOCK, fs_open(self->s, "alias",
					O_CREAT | O_RDWR | O_NONBLOCK | variant->flags));
	ASSERT_EQ(1, names_created);
	EXPECT_TRUE(fs_wait(self->s, FUSE_RELEASE, released + 1));
	EXPECT_EQ(opened, self->s->count[FUSE_OPEN]);
	ASSERT_EQ(0, fcntl(fd, F_SETLEASE, F_UNLCK));
	EXPECT_EQ(0, fs_try(self->s, "alias"));
	close(fd);
}

/* The same for an inode without a known map, opened for neither reading nor writing. */
TEST_F(alias, refused_no_rw)
{
	int idle = fs_open(self->s, "file", O_ACCMODE);
	struct fmap_cachestat cs;
	unsigned int released;

	ASSERT_LE(0, idle);
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	signal(SIGIO, SIG_IGN);
	ASSERT_EQ(0, fcntl(idle, F_SETLEASE, F_RDLCK));
	released = self->s->count[FUSE_RELEASE];
	EXPECT_EQ(-EWOULDBLOCK, fs_open(self->s, "alias", O_CREAT | O_ACCMODE | O_NONBLOCK));
	ASSERT_EQ(1, names_created);
	EXPECT_TRUE(fs_wait(self->s, FUSE_RELEASE, released + 1));
	ASSERT_EQ(0, fcntl(idle, F_SETLEASE, F_UNLCK));
	EXPECT_EQ(0, fs_try(self->s, "alias"));
	EXPECT_TRUE(fs_is_mapped(self->s, "file", ON_DEVICE));
	EXPECT_EQ(0, fmap_cachestat(idle, &cs));
	EXPECT_EQ(0, cs.cache + cs.evicted);
	close(idle);
	EXPECT_TRUE(fs_forget(self->s));
}

/* Created for neither reading nor writing: the next opener gets the map all the same. */
TEST_F(alias, no_rw)
{
	struct fmap_cachestat cs;
	unsigned char *p;
	int idle = fs_open(self->s, "alias", O_CREAT | O_ACCMODE);

	ASSERT_LE(0, idle);
	ASSERT_EQ(1, names_created);
	p = fs_map(self->s, "file", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(ON_DEVICE, p[0]);
	EXPECT_EQ(0, touch(p + HUGE, 'i'));
	EXPECT_EQ(0, fmap_cachestat(idle, &cs));
	EXPECT_EQ(0, cs.cache + cs.evicted);
	EXPECT_EQ(0, fsync(idle));
	munmap(p, SIZE);
	close(idle);
}

/* CREATE while another opener fetches the map: plain FUSE until the map is there. */
TEST_F(alias, of_a_file_being_opened)
{
	pid_t pid;
	int fd;

	self->s->hold[FUSE_GET_FMAP] = true;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		fd = fs_open(self->s, "file", O_RDONLY);
		_exit(fd < 0 ? 1 : byte_at(fd, 0));
	}
	ASSERT_TRUE(fs_wait(self->s, FUSE_GET_FMAP, 2));
	fd = fs_open(self->s, "alias", O_CREAT | O_RDWR | variant->flags);
	ASSERT_LE(0, fd);
	EXPECT_EQ(BY_FUSE, byte_at(fd, 0));
	fs_release(self->s, FUSE_GET_FMAP);
	EXPECT_EQ(W_EXITCODE(ON_DEVICE, 0), ended(pid));
	EXPECT_EQ(ON_DEVICE, byte_at(fd, 1));
	close(fd);
	EXPECT_TRUE(fs_is_mapped(self->s, "file", ON_DEVICE));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
