// SPDX-License-Identifier: GPL-2.0
/*
 * What FUSE and its server do to a mapped file behind its back.
 *
 * FUSE knows nothing of mapped files. It goes on serving files that it created
 * itself, lets the server store pages in page caches, follows the attributes that
 * the server reports; a server may name any path as a device, and a BPF program
 * may change its mind. Each of these meets a mapped file here, and each story
 * ends the same way: the data are right, whoever asked gets an answer, and the
 * kernel has nothing to complain about.
 *
 * A byte says where it comes from: what READ returns and what is on the device
 * differ, unless a test wants them equal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "bpf/moving.h"

#define SIZE		(4 * MIB)
#define SMALL		(64 * KIB)
#define BY_FUSE		'f'	/* what READ returns */
#define ON_DEVICE	'd'

/* Where the files of the "moving" ops are. */
static struct moving_to *moving_to;

/* The byte at @pos, or -errno. */
static int byte_at(int fd, off_t pos)
{
	unsigned char c;
	ssize_t n = pread(fd, &c, 1, pos);

	return n == 1 ? c : n < 0 ? -errno : -ENODATA;
}

/* Fill a mapped file, and so the device. 0 or -errno. */
static int fill(struct fuse_server *s, const char *name, int byte, size_t len)
{
	static char buf[SMALL];
	int fd = fs_open(s, name, O_RDWR), err = 0;

	if (fd < 0)
		return fd;
	memset(buf, byte, sizeof(buf));
	for (size_t pos = 0; pos < len && !err; pos += sizeof(buf))
		if (pwrite(fd, buf, sizeof(buf), pos) != sizeof(buf))
			err = -EIO;
	close(fd);
	return s->count[FUSE_WRITE] ? -ENXIO : err;
}

/* Does opening @name give a mapped file? */
static bool is_mapped(struct fuse_server *s, const char *name)
{
	unsigned int requests = s->count[FUSE_READ] + s->count[FUSE_WRITE];
	int fd = fs_open(s, name, O_RDWR);
	bool works;

	if (fd < 0)
		return false;
	works = byte_at(fd, 0) == ON_DEVICE && pwrite(fd, "w", 1, 1) == 1 &&
		byte_at(fd, 1) == 'w';
	close(fd);
	return works && s->count[FUSE_READ] + s->count[FUSE_WRITE] == requests;
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* How @pid ended: its status, or -1 if it does not. */
static int ended(pid_t pid)
{
	int status;

	for (int ms = 0; ms < FS_PATIENCE; ms++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		usleep(1000);
	}
	return -1;
}

/*
 * A file that FUSE created has been opened before anybody could ask for its map.
 * FUSE serves it; as long as it does, everybody else gets plain FUSE too, and the
 * first one who opens the file after that gets the map.
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

/* file[1] has to be created; the others are there from the beginning. */
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

/* CREATE and TMPFILE: file[1]. */
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

/* open(2) of what @fd has open: a descriptor or -errno. */
static int reopen(int fd, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

FIXTURE_SETUP(created)
{
	if (fmap_missing())
		SKIP(return, "%s", fmap_missing());
	names_created = 0;
	create_flags = variant->create_flags;
	self->map = fmap_linear(0, 0, SMALL);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->hook[FUSE_LOOKUP] = lookup_created;
	self->s->hook[FUSE_CREATE] = create;
	self->s->hook[FUSE_TMPFILE] = create;
	fs_add(self->s, "old", SMALL, &self->map, sizeof(self->map));
	fs_add(self->s, "new", SMALL, &self->map, sizeof(self->map));
	memset(self->s->file[1].plain, BY_FUSE, FS_PLAIN);
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fill(self->s, "old", ON_DEVICE, SMALL));
	self->s->open_flags |= variant->open_flags;

	if (variant->tmpfile)
		self->fd = open(self->s->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	else
		self->fd = fs_open(self->s, "new", O_CREAT | O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(1, names_created);
	/* A way to the file that does not count as having it open. */
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

TEST_F(created, plain_until_closed)
{
	int second, third;

	EXPECT_EQ(BY_FUSE, byte_at(self->fd, 0));
	second = reopen(self->place, O_RDWR);
	ASSERT_LE(0, second);
	/* It may well have been asked for its map: this answer does not last. */
	EXPECT_EQ(BY_FUSE, byte_at(second, 0));
	EXPECT_EQ(BY_FUSE, byte_at(self->fd, 0));
	EXPECT_EQ(1, pwrite(self->fd, "1", 1, 0));
	EXPECT_EQ(1, pwrite(second, "2", 1, 1));
	EXPECT_EQ(2, self->s->count[FUSE_WRITE]);
	close(self->fd);
	/* The creator is gone, but FUSE still serves somebody. */
	third = reopen(self->place, O_RDWR);
	ASSERT_LE(0, third);
	EXPECT_EQ('1', byte_at(third, 0));
	EXPECT_EQ('2', byte_at(second, 1));
	close(second);
	close(third);
	expect_mapped_now();
}

TEST_F(created, plain_until_unmapped)
{
	unsigned char *p;
	int second;

	/* Private: a shared one is refused where I/O is direct. */
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

/* The creator comes and goes while somebody else is about to map the file. */
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
	EXPECT_EQ(BY_FUSE, byte_at(self->fd, 0));
	close(self->fd);
	for (int i = 0; i < 4; i++)
		EXPECT_EQ(0, ended(pid[i]));
	expect_mapped_now();
}

/*
 * A server may answer CREATE with a file that is there already. It is what it
 * was, under one more name.
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
	if (fmap_missing())
		SKIP(return, "%s", fmap_missing());
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
	ASSERT_EQ(0, fill(self->s, "before", ON_DEVICE, SMALL));
}

FIXTURE_TEARDOWN(alias)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(alias, of_a_mapped_file)
{
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
	close(fd);
	EXPECT_EQ(0, fs_try(self->s, "alias"));
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(2, self->s->count[FUSE_GET_FMAP]);
}

/* The same while the map is on its way: the creator was first. */
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
	EXPECT_EQ(W_EXITCODE(BY_FUSE, 0), ended(pid));
	EXPECT_EQ(BY_FUSE, byte_at(fd, 1));
	close(fd);
	EXPECT_TRUE(is_mapped(self->s, "file"));
}

/*
 * A fanotify listener gets a file of its own with each event, opened while the
 * file it reports is still being opened. Which of them FUSE serves and which are
 * mapped is not promised; that all of them see the same bytes is.
 */
FIXTURE(listener) {
	struct fuse_server *s;
	struct scripted map;
	int group;
	pthread_t thread;
};

FIXTURE_VARIANT(listener) {
	unsigned int class;
	bool keep;		/* the files of the events stay open */
};

FIXTURE_VARIANT_ADD(listener, notified) {
	.class = FAN_CLASS_NOTIF,
};

FIXTURE_VARIANT_ADD(listener, notified_keeps) {
	.class = FAN_CLASS_NOTIF,
	.keep = true,
};

FIXTURE_VARIANT_ADD(listener, asked) {
	.class = FAN_CLASS_CONTENT,
};

FIXTURE_VARIANT_ADD(listener, asked_keeps) {
	.class = FAN_CLASS_CONTENT,
	.keep = true,
};

FIXTURE_VARIANT_ADD(listener, asked_first) {
	.class = FAN_CLASS_PRE_CONTENT,
};

static struct {
	int group;
	bool keep;
	volatile bool stop;
	unsigned int events, wrong;
	int kept[64];
	unsigned int nr_kept;
} listener;

static void listen_once(void)
{
	char buf[4096] __attribute__((aligned(8)));
	struct fanotify_event_metadata *e = (void *)buf;
	ssize_t len = read(listener.group, buf, sizeof(buf));

	for (; len > 0 && FAN_EVENT_OK(e, len); e = FAN_EVENT_NEXT(e, len)) {
		struct fanotify_response response = {
			.fd = e->fd,
			.response = FAN_ALLOW,
		};
		bool ask = e->mask & FAN_OPEN_PERM;

		listener.events++;
		if (e->fd < 0) {
			listener.wrong++;
			continue;
		}
		if (byte_at(e->fd, 0) != ON_DEVICE)
			listener.wrong++;
		if (ask && write(listener.group, &response, sizeof(response)) < 0)
			listener.wrong++;
		if (byte_at(e->fd, PAGE) != ON_DEVICE)
			listener.wrong++;
		if (listener.keep && listener.nr_kept < ARRAY_SIZE(listener.kept))
			listener.kept[listener.nr_kept++] = e->fd;
		else
			close(e->fd);
	}
}

static void *listen_thread(void *unused)
{
	struct pollfd poll_group = { .fd = listener.group, .events = POLLIN };

	while (!listener.stop || poll(&poll_group, 1, 0) > 0)
		if (poll(&poll_group, 1, 10) > 0)
			listen_once();
	return NULL;
}

FIXTURE_SETUP(listener)
{
	uint64_t mask = FAN_OPEN;

	if (fmap_missing())
		SKIP(return, "%s", fmap_missing());
	self->map = fmap_linear(0, 0, SMALL);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "seen", SMALL, &self->map, sizeof(self->map));
	/* All of it can be read in either way. */
	fs_add(self->s, "file", FS_PLAIN, &self->map, sizeof(self->map));
	memset(self->s->file[1].plain, ON_DEVICE, FS_PLAIN);
	ASSERT_EQ(0, fs_mount(self->s));
	/* The same bytes in both places. */
	ASSERT_EQ(0, fill(self->s, "seen", ON_DEVICE, SMALL));

	self->group = fanotify_init(variant->class | FAN_CLOEXEC | FAN_NONBLOCK,
				    O_RDWR | O_CLOEXEC);
	if (self->group < 0)
		SKIP(return, "no fanotify: %s", strerror(errno));
	if (variant->class != FAN_CLASS_NOTIF)
		mask = FAN_OPEN_PERM;
	ASSERT_EQ(0, fanotify_mark(self->group, FAN_MARK_ADD | FAN_MARK_MOUNT,
				   mask, AT_FDCWD, self->s->dir));
	memset(&listener, 0, sizeof(listener));
	listener.group = self->group;
	listener.keep = variant->keep;
	ASSERT_EQ(0, pthread_create(&self->thread, NULL, listen_thread, NULL));
}

FIXTURE_TEARDOWN(listener)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(listener, has_the_file_open)
{
	pid_t pid[3];
	unsigned char *p;

	/* The listener is in this task and must not wait for itself. */
	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		for (int n = 0; n < 8; n++) {
			int fd = fs_open(self->s, "file", O_RDWR);

			if (fd < 0)
				_exit(1);
			p = mmap(NULL, FS_PLAIN, PROT_READ, MAP_PRIVATE, fd, 0);
			if (byte_at(fd, 1) != ON_DEVICE || p == MAP_FAILED ||
			    p[PAGE] != ON_DEVICE)
				_exit(2);
			munmap(p, FS_PLAIN);
			close(fd);
			/* Every other time it has to be opened from scratch. */
			if (n % 2)
				write_file("/proc/sys/vm/drop_caches", "2");
		}
		_exit(0);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, ended(pid[i]));
	listener.stop = true;
	pthread_join(self->thread, NULL);
	EXPECT_LE(1, listener.events);
	EXPECT_EQ(0, listener.wrong);
	/* What it keeps goes on working without the group. */
	close(self->group);
	for (unsigned int i = 0; i < listener.nr_kept; i++) {
		EXPECT_EQ(ON_DEVICE, byte_at(listener.kept[i], 0));
		close(listener.kept[i]);
	}
	/* With nobody listening, it is mapped. */
	EXPECT_TRUE(is_mapped(self->s, "file"));
}

/*
 * Notifications: the server puts pages into what FUSE takes for the page cache of
 * the file, asks for them, and drops them. None of it is what is mapped.
 */
FIXTURE(notify) {
	struct fuse_server *s;
	struct scripted map, other;
	unsigned char *p;
	int fd;
};

FIXTURE_SETUP(notify)
{
	if (fmap_missing())
		SKIP(return, "%s", fmap_missing());
	self->map = fmap_linear(0, 0, SIZE);
	self->other = fmap_linear(1, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "other", SIZE, &self->other, sizeof(self->other));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fill(self->s, "file", ON_DEVICE, SIZE));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
}

FIXTURE_TEARDOWN(notify)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

/* 0 or the errno of the server's write(2). */
static int notify(struct fuse_server *s, int code, const void *head, size_t head_len,
		  const void *data, size_t len)
{
	struct fuse_out_header out = {
		.len = sizeof(out) + head_len + len,
		.error = code,
	};
	struct iovec iov[3] = {
		{ &out, sizeof(out) }, { (void *)head, head_len }, { (void *)data, len },
	};

	return writev(s->fd, iov, 3) < 0 ? errno : 0;
}

static int store(struct fuse_server *s, int file, uint64_t offset, uint32_t len)
{
	static char pages[SMALL];
	struct fuse_notify_store_out head = {
		.nodeid = s->file[file].nodeid,
		.offset = offset,
		.size = len,
	};

	memset(pages, BY_FUSE, sizeof(pages));
	return notify(s, FUSE_NOTIFY_STORE, &head, sizeof(head), pages, len);
}

static int invalidate(struct fuse_server *s, int file, int64_t offset, int64_t len)
{
	struct fuse_notify_inval_inode_out head = {
		.ino = s->file[file].nodeid,
		.off = offset,
		.len = len,
	};

	return notify(s, FUSE_NOTIFY_INVAL_INODE, &head, sizeof(head), NULL, 0);
}

static int retrieve(struct fuse_server *s, int file, uint64_t offset, uint32_t len)
{
	struct fuse_notify_retrieve_out head = {
		.notify_unique = 1,
		.nodeid = s->file[file].nodeid,
		.offset = offset,
		.size = len,
	};

	return notify(s, FUSE_NOTIFY_RETRIEVE, &head, sizeof(head), NULL, 0);
}

/* Pages that are only there because nobody needs the room, kB. */
static long cached(void)
{
	char line[128];
	long kb = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Cached: %ld", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb;
}

static void drop_caches(void)
{
	write_file("/proc/sys/vm/drop_caches", "3");
}

#define expect_data_untouched() do {					\
	EXPECT_EQ('m', self->p[0]);					\
	EXPECT_EQ('m', self->p[HUGE + PAGE]);				\
	EXPECT_EQ('m', byte_at(self->fd, 0));				\
	for (off_t pos = PAGE; pos < SIZE; pos += 3 * SMALL + 7)	\
		EXPECT_EQ(ON_DEVICE, byte_at(self->fd, pos));		\
	EXPECT_EQ(0, self->s->count[FUSE_READ]);			\
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);			\
} while (0)

TEST_F(notify, pages_that_nobody_sees)
{
	struct fuse_server *s = self->s;
	long before, after;
	unsigned char *q;
	int other;

	EXPECT_EQ(0, touch(self->p, 'm'));
	EXPECT_EQ(0, touch(self->p + HUGE + PAGE, 'm'));
	other = fs_open(s, "other", O_RDWR);
	ASSERT_LE(0, other);
	drop_caches();
	before = cached();

	for (uint64_t pos = 0; pos < SIZE; pos += SMALL) {
		ASSERT_EQ(0, store(s, 0, pos, SMALL));
		ASSERT_EQ(0, store(s, 1, pos, SMALL));
	}
	expect_data_untouched();
	EXPECT_EQ(0, retrieve(s, 0, 0, SMALL));
	EXPECT_TRUE(fs_wait(s, FUSE_NOTIFY_REPLY, 1));
	EXPECT_EQ(0, invalidate(s, 0, 0, 0));
	EXPECT_EQ(0, invalidate(s, 1, PAGE, HUGE));
	EXPECT_EQ(0, invalidate(s, 0, -1, 0));
	expect_data_untouched();
	/* Faults find what was there, in old mappings and new ones. */
	q = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ('m', q[0]);
	EXPECT_EQ(ON_DEVICE, q[2 * PAGE]);
	EXPECT_EQ('m', q[HUGE + PAGE]);
	munmap(q, SIZE);

	/* Some are left when the files go, and when the mount goes. */
	ASSERT_EQ(0, store(s, 0, 0, SMALL));
	drop_caches();
	expect_data_untouched();
	for (uint64_t pos = 0; pos < SIZE; pos += SMALL)
		ASSERT_EQ(0, store(s, 0, pos, SMALL));
	munmap(self->p, SIZE);
	close(self->fd);
	close(other);
	EXPECT_EQ(0, fs_umount(s));
	drop_caches();
	after = cached();
	/* 4 MiB were stored. */
	EXPECT_GT(before + 2048, after);
}

/* A server that stores while others open, fault, and have files evicted. */
TEST_F(notify, while_in_use)
{
	struct fuse_server *s = self->s;
	pid_t pid = fork();
	int status = -1;

	ASSERT_LE(0, pid);
	if (!pid) {
		for (int i = 0; i < 60; i++) {
			unsigned char *q = fs_map(s, i % 2 ? "other" : "file", SIZE,
						  PROT_READ | PROT_WRITE);

			if (q == MAP_FAILED || touch(q + i * PAGE, 'x') ||
			    touch(q + HUGE + i * PAGE, -1))
				_exit(1);
			munmap(q, SIZE);
			if (i % 10 == 9)
				write_file("/proc/sys/vm/drop_caches", "2");
		}
		_exit(0);
	}
	for (int i = 0; waitpid(pid, &status, WNOHANG) != pid; i++) {
		uint64_t pos = i % 60 * SMALL;

		/* ENOENT: the file is not in memory at the moment. */
		status = store(s, i % 2, pos, SMALL);
		ASSERT_TRUE(!status || status == ENOENT);
		status = invalidate(s, i % 3 % 2, i % 4 ? pos : 0, i % 4 ? SMALL : 0);
		ASSERT_TRUE(!status || status == ENOENT);
		usleep(500);
	}
	EXPECT_EQ(0, status);
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_umount(s));
	drop_caches();
}

/* Before its first open a file has a page cache as any other, and may have pages. */
TEST_F(notify, pages_stored_before_the_first_open)
{
	struct fuse_server *s = self->s;
	struct stat st;

	ASSERT_EQ(0, stat(fs_path(s, "other"), &st));
	ASSERT_EQ(0, store(s, 1, 0, SMALL));
	ASSERT_EQ(0, store(s, 1, HUGE, SMALL));
	EXPECT_EQ(0, fill(s, "other", ON_DEVICE, SIZE));
	EXPECT_EQ(ON_DEVICE, byte_at(self->fd, 0));
	munmap(self->p, SIZE);
	close(self->fd);
}

/*
 * The server's attributes: it may change the size as it likes. I/O and new faults
 * end at the smaller of its size and the map's; what is mapped is mapped.
 */
FIXTURE(attributes) {
	struct fuse_server *s;
	struct scripted map;
	unsigned char *p;
	int fd;
};

FIXTURE_VARIANT(attributes) {
	uint32_t init_flags;
};

FIXTURE_VARIANT_ADD(attributes, by_default) {
};

FIXTURE_VARIANT_ADD(attributes, auto_inval_data) {
	.init_flags = FUSE_AUTO_INVAL_DATA,
};

FIXTURE_VARIANT_ADD(attributes, explicit_inval_data) {
	.init_flags = FUSE_EXPLICIT_INVAL_DATA,
};

FIXTURE_VARIANT_ADD(attributes, writeback_cache) {
	.init_flags = FUSE_WRITEBACK_CACHE | FUSE_AUTO_INVAL_DATA,
};

FIXTURE_SETUP(attributes)
{
	if (fmap_missing())
		SKIP(return, "%s", fmap_missing());
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->init_flags |= variant->init_flags;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fill(self->s, "file", ON_DEVICE, SIZE));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
}

FIXTURE_TEARDOWN(attributes)
{
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(attributes, change_behind_a_mapping)
{
	static const uint64_t sizes[] = {
		SIZE - 1, PAGE + 100, 0, HUGE, 3 * SIZE, 1, SIZE,
	};
	static char buf[SIZE + PAGE];
	struct fs_file *f = &self->s->file[0];

	EXPECT_EQ(0, touch(self->p + 10, '1'));
	EXPECT_EQ(0, touch(self->p + HUGE + 5 * PAGE, '2'));
	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct statx st;
		unsigned char *q;
		uint64_t end;

		f->size = sizes[i];
		f->mtime++;
		ASSERT_EQ(0, statx(self->fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC,
				   STATX_BASIC_STATS, &st));
		/* With a writeback cache the kernel's size is the right one. */
		if (!(variant->init_flags & FUSE_WRITEBACK_CACHE))
			EXPECT_EQ(sizes[i], st.stx_size);
		end = st.stx_size < SIZE ? st.stx_size : SIZE;
		EXPECT_EQ('1', self->p[10]);
		EXPECT_EQ('2', self->p[HUGE + 5 * PAGE]);
		EXPECT_EQ(end, pread(self->fd, buf, sizeof(buf), 0));
		EXPECT_EQ(0, pread(self->fd, buf, 1, end));
		if (end) {
			EXPECT_EQ(1, pwrite(self->fd, "w", 1, end - 1));
			EXPECT_EQ(1, pwrite(self->fd, "d", 1, end - 1));
		}
		q = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			 self->fd, 0);
		ASSERT_NE(MAP_FAILED, q);
		if (end)
			EXPECT_EQ(0, touch(q + end - 1, -1));
		EXPECT_EQ(SIGBUS, touch(q + (end + PAGE - 1) / PAGE * PAGE, -1));
		EXPECT_EQ(SIGBUS, touch(q + SIZE, 0));
		munmap(q, 2 * SIZE);
	}
	/* With the old size back, all is as it was. */
	EXPECT_EQ(0, touch(self->p + PAGE, -1));
	for (size_t i = 1; i < SIZE; i += 777)
		if (i != HUGE + 5 * PAGE)
			ASSERT_EQ(ON_DEVICE, self->p[i]);
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

/*
 * GET_DAXDEV names what is no device. It is looked at and not opened: opening it
 * might block, have effects, or lead here again.
 */
FIXTURE(device_path) {
	struct fuse_server *s, *other;
	struct scripted map, next;
	char path[3][128];
};

enum target { ITSELF, NEXT, CHAIN, ROOT, FIFO, LOOP, ELSEWHERE };

FIXTURE_VARIANT(device_path) {
	enum target target;
	int error;
};

#define TARGET(name, t, e) \
	FIXTURE_VARIANT_ADD(device_path, name) { .target = t, .error = e }

TARGET(itself, ITSELF, -ENODEV);
TARGET(another_file, NEXT, -ENODEV);
TARGET(chain_of_files, CHAIN, -ENODEV);
TARGET(directory, ROOT, -ENODEV);
TARGET(fifo, FIFO, -ENODEV);
TARGET(symlink_to_itself, LOOP, -ELOOP);
TARGET(file_of_another_mount, ELSEWHERE, -ENODEV);

static void readlink_loop(struct fuse_server *s, const struct fuse_in_header *in,
			  const void *arg)
{
	fs_reply(s, in, 0, "link", 4);
}

FIXTURE_SETUP(device_path)
{
	struct fuse_server *s;

	if (fmap_missing())
		SKIP(return, "%s", fmap_missing());
	self->map = fmap_linear(0, 0, SMALL);
	self->next = fmap_linear(1, 0, SMALL);
	self->s = s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, s);
	fs_add(s, "file", SMALL, &self->map, sizeof(self->map));
	fs_add(s, "next", SMALL, &self->next, sizeof(self->next));
	fs_add(s, "fifo", 0, NULL, 0)->mode = S_IFIFO | 0644;
	fs_add(s, "link", 4, NULL, 0)->mode = S_IFLNK | 0777;
	s->hook[FUSE_READLINK] = readlink_loop;
	ASSERT_EQ(0, fs_mount(s));
	self->other = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->other);
	fs_add(self->other, "elsewhere", SMALL, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->other));

	strcpy(self->path[0], fs_path(s, "file"));
	strcpy(self->path[1], fs_path(s, "next"));
	switch (variant->target) {
	case ITSELF:
		s->devices[0] = self->path[0];
		break;
	case CHAIN:
		s->devices[1] = self->path[0];
		__attribute__((__fallthrough__));
	case NEXT:
		s->devices[0] = self->path[1];
		break;
	case ROOT:
		s->devices[0] = s->dir;
		break;
	case FIFO:
		s->devices[0] = strcpy(self->path[2], fs_path(s, "fifo"));
		break;
	case LOOP:
		s->devices[0] = strcpy(self->path[2], fs_path(s, "link"));
		break;
	case ELSEWHERE:
		s->devices[0] = strcpy(self->path[2],
				       fs_path(self->other, "elsewhere"));
		break;
	}
}

FIXTURE_TEARDOWN(device_path)
{
	EXPECT_EQ(0, fs_stop(self->other));
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(device_path, looked_at_and_not_opened)
{
	struct fuse_server *s = self->s;
	long start = now_ms();

	EXPECT_EQ(variant->error, fs_try(s, "file"));
	EXPECT_GT(2000, now_ms() - start);
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, s->count[FUSE_OPEN] + s->count[FUSE_OPENDIR]);
	EXPECT_EQ(0, self->other->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, self->other->count[FUSE_OPEN]);

	/* Nothing of it sticks. */
	s->devices[0] = daxdev[0].path;
	s->devices[1] = daxdev[1].path;
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_EQ(0, fs_try(s, "next"));
}

/*
 * A program that answers otherwise than before, for pages that are mapped. DAX
 * has noted where they are; the new answer is refused as long as it does, and
 * counts for nobody else.
 */
FIXTURE(moved) {
	struct fuse_server *s;
	struct moving map[2];
	int klog, complaints;
};

FIXTURE_VARIANT(moved) {
	uint64_t addr;		/* of the first file: what page size it can have */
	uint64_t by;
};

FIXTURE_VARIANT_ADD(moved, huge_pages) {
	.addr = 0,
	.by = 16 * MIB,
};

FIXTURE_VARIANT_ADD(moved, huge_to_small_pages) {
	.addr = 0,
	.by = 16 * MIB + PAGE,
};

FIXTURE_VARIANT_ADD(moved, small_pages) {
	.addr = PAGE,
	.by = 16 * MIB,
};

FIXTURE_VARIANT_ADD(moved, small_to_huge_pages) {
	.addr = PAGE,
	.by = 16 * MIB - PAGE,
};

FIXTURE_VARIANT_ADD(moved, by_a_page) {
	.addr = PAGE,
	.by = PAGE,
};

FIXTURE_VARIANT_ADD(moved, by_a_huge_page) {
	.addr = 0,
	.by = HUGE,
};

FIXTURE_SETUP(moved)
{
	if (fmap_missing())
		SKIP(return, "%s", fmap_missing());
	for (int i = 0; i < 2; i++) {
		self->map[i] = (struct moving){ .size = SIZE, .index = i };
		moving_to->addr[i] = variant->addr + i * 32 * MIB;
	}
	self->s = fmap_server(MOVING_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "a", SIZE, &self->map[0], sizeof(self->map[0]));
	fs_add(self->s, "b", SIZE, &self->map[1], sizeof(self->map[1]));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fill(self->s, "a", 'a', SIZE));
	ASSERT_EQ(0, fill(self->s, "b", 'b', SIZE));
	self->klog = klog_open();
	self->complaints = klog_open();
}

FIXTURE_TEARDOWN(moved)
{
	EXPECT_EQ(0, fs_stop(self->s));
	/* fs-dax refuses some of it, too, but it complains. */
	EXPECT_EQ(0, klog_count(self->complaints, "WARNING:"));
}

/* What touching byte @at of a new mapping causes, and -ENXIO if it is another. */
static int remap_and_touch(struct fuse_server *s, const char *name, size_t at,
			   int expected)
{
	unsigned char *p = fs_map(s, name, SIZE, PROT_READ | PROT_WRITE);
	int sig;

	if (p == MAP_FAILED)
		return -errno;
	sig = touch(p + at, -1);
	if (!sig && expected >= 0 && p[at] != expected)
		sig = -ENXIO;
	munmap(p, SIZE);
	return sig;
}

/* Lines that one mistake may leave in the log: what a rate limit lets through. */
#define LOG_LINES	10

TEST_F(moved, while_mapped)
{
	struct fuse_server *s = self->s;
	unsigned char *p = fs_map(s, "a", SIZE, PROT_READ | PROT_WRITE);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + 5, '1'));
	moving_to->addr[0] += variant->by;

	/* What is mapped stays; what has to be asked for again is refused. */
	EXPECT_EQ(0, touch(p + 6, '2'));
	for (int i = 0; i < 30; i++)
		EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 5, '1'));
	munmap(p, SIZE);
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 5, '1'));
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 0, 'a'));
	EXPECT_GE(LOG_LINES, klog_count(self->klog, LOG_PREFIX));
	/* A page that was never touched may be anywhere, if it is free. */
	EXPECT_EQ(0, remap_and_touch(s, "b", PAGE, 'b'));

	moving_to->addr[0] -= variant->by;
	EXPECT_EQ(0, remap_and_touch(s, "a", 5, '1'));
	EXPECT_EQ(0, remap_and_touch(s, "a", 6, '2'));
	EXPECT_EQ(0, remap_and_touch(s, "a", SIZE - 1, 'a'));
}

/* The refused answer has left no trace: the memory is free for somebody else. */
TEST_F(moved, memory_is_not_taken)
{
	struct fuse_server *s = self->s;

	EXPECT_EQ(0, remap_and_touch(s, "a", 0, 'a'));
	moving_to->addr[0] += variant->by;
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 0, 'a'));
	moving_to->addr[1] = moving_to->addr[0];
	EXPECT_EQ(0, remap_and_touch(s, "b", 0, -1));
	moving_to->addr[0] -= variant->by;
	EXPECT_EQ(0, remap_and_touch(s, "a", 0, 'a'));
}

/* After eviction nothing is noted, and the new answer is as good as the old. */
TEST_F(moved, after_eviction)
{
	struct fuse_server *s = self->s;

	EXPECT_EQ(0, remap_and_touch(s, "a", 0, 'a'));
	moving_to->addr[0] += variant->by;
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 0, 'a'));
	drop_caches();
	EXPECT_EQ(0, fill(s, "a", 'n', SIZE));
	EXPECT_EQ(0, remap_and_touch(s, "a", 0, 'n'));
	EXPECT_EQ(0, remap_and_touch(s, "a", HUGE, 'n'));
}

TEST_F(moved, two_files_swap)
{
	struct fuse_server *s = self->s;
	uint64_t a = moving_to->addr[0], b = moving_to->addr[1];
	unsigned char *p = fs_map(s, "a", SIZE, PROT_READ | PROT_WRITE);
	unsigned char *q = fs_map(s, "b", SIZE, PROT_READ | PROT_WRITE);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(0, touch(p, 'A'));
	EXPECT_EQ(0, touch(q, 'B'));
	moving_to->addr[0] = b;
	moving_to->addr[1] = a;
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", 0, 'A'));
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "b", 0, 'B'));
	/* Where nobody was yet, the new owner is the owner. */
	EXPECT_EQ(0, remap_and_touch(s, "a", HUGE + PAGE, 'b'));
	EXPECT_EQ(0, remap_and_touch(s, "b", HUGE + PAGE, 'a'));
	EXPECT_EQ('A', p[0]);
	EXPECT_EQ('B', q[0]);
	moving_to->addr[0] = a;
	moving_to->addr[1] = b;
	EXPECT_EQ(0, remap_and_touch(s, "a", 0, 'A'));
	EXPECT_EQ(0, remap_and_touch(s, "b", 0, 'B'));
	EXPECT_EQ(SIGBUS, remap_and_touch(s, "a", HUGE + PAGE, 'a'));
	munmap(p, SIZE);
	munmap(q, SIZE);
}

/* A program that is never of the same mind, under tasks that never stop. */
TEST_F(moved, all_the_time)
{
	struct fuse_server *s = self->s;
	uint64_t home = moving_to->addr[0];
	pid_t pid[3];

	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++) {
		pid[i] = fork();
		ASSERT_LE(0, pid[i]);
		if (pid[i])
			continue;
		for (int n = 0; n < 100; n++) {
			int sig = remap_and_touch(s, i ? "a" : "b",
						  n * 31 * PAGE % SIZE, -1);

			if (sig && sig != SIGBUS)
				_exit(1);
		}
		_exit(0);
	}
	for (int n = 0; n < 100; n++) {
		moving_to->addr[0] = home + n % 5 * variant->by;
		moving_to->addr[1] = home + n % 3 * PAGE + n % 7 * HUGE;
		usleep(1000);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(pid); i++)
		EXPECT_EQ(0, ended(pid[i]));
	EXPECT_GE(2 * LOG_LINES, klog_count(self->klog, LOG_PREFIX));
}

/*
 * Signals: one that kills ends any wait at once; one that is handled may end it
 * with EINTR or not at all, but not with anything else.
 */
FIXTURE(signals) {
	struct fuse_server *s;
	struct scripted map;
	pid_t first, second;
};

FIXTURE_VARIANT(signals) {
	int opcode;
	int sa_flags;
};

FIXTURE_VARIANT_ADD(signals, get_fmap) {
	.opcode = FUSE_GET_FMAP,
};

FIXTURE_VARIANT_ADD(signals, get_fmap_restart) {
	.opcode = FUSE_GET_FMAP,
	.sa_flags = SA_RESTART,
};

FIXTURE_VARIANT_ADD(signals, get_daxdev) {
	.opcode = FUSE_GET_DAXDEV,
};

FIXTURE_VARIANT_ADD(signals, get_daxdev_restart) {
	.opcode = FUSE_GET_DAXDEV,
	.sa_flags = SA_RESTART,
};

static void on_signal(int sig)
{
}

FIXTURE_SETUP(signals)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = variant->sa_flags };

	if (fmap_missing())
		SKIP(return, "%s", fmap_missing());
	sigaction(SIGUSR1, &sa, NULL);
	self->map = fmap_linear(0, 0, SMALL);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->hold[variant->opcode] = true;
	fs_add(self->s, "file", SMALL, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	for (int i = 0; i < 2; i++) {
		pid_t pid = fork();

		ASSERT_LE(0, pid);
		if (!pid)
			_exit(-fs_try(self->s, "file"));
		*(i ? &self->second : &self->first) = pid;
		ASSERT_TRUE(fs_wait(self->s, variant->opcode, 1));
		usleep(20 * 1000);
	}
	/* The second one waits for its turn, not for the server. */
	EXPECT_EQ(1, self->s->count[variant->opcode]);
}

FIXTURE_TEARDOWN(signals)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

/* With SA_RESTART a system call that was interrupted goes on. */
#define expect_interrupted(status) do {					\
	int _status = status;						\
	EXPECT_TRUE(WIFEXITED(_status));				\
	EXPECT_TRUE(WEXITSTATUS(_status) == 0 ||			\
		    (WEXITSTATUS(_status) == EINTR &&			\
		     !(variant->sa_flags & SA_RESTART))) {		\
		TH_LOG("status %x", _status);				\
	}								\
} while (0)

TEST_F(signals, who_waits_for_the_server_handles_one)
{
	kill(self->first, SIGUSR1);
	usleep(20 * 1000);
	fs_release(self->s, variant->opcode);
	expect_interrupted(ended(self->first));
	EXPECT_EQ(0, ended(self->second));
	EXPECT_EQ(0, fs_try(self->s, "file"));
}

TEST_F(signals, who_waits_for_a_turn_handles_one)
{
	kill(self->second, SIGUSR1);
	usleep(20 * 1000);
	fs_release(self->s, variant->opcode);
	EXPECT_EQ(0, ended(self->first));
	expect_interrupted(ended(self->second));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

TEST_F(signals, who_waits_for_a_turn_is_killed)
{
	kill(self->second, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(self->second));
	fs_release(self->s, variant->opcode);
	EXPECT_EQ(0, ended(self->first));
	/* It was counted as long as it waited, and no longer: the file is mapped. */
	EXPECT_EQ(0, fill(self->s, "file", ON_DEVICE, SMALL));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

TEST_F(signals, both_are_killed)
{
	kill(self->first, SIGKILL);
	kill(self->second, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(self->first));
	EXPECT_EQ(SIGKILL, ended(self->second));
	fs_release(self->s, variant->opcode);
	EXPECT_EQ(0, fill(self->s, "file", ON_DEVICE, SMALL));
}

int main(int argc, char **argv)
{
	fmap_register("moving.bpf.o");
	moving_to = (void *)fmap_seen();
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
