// SPDX-License-Identifier: GPL-2.0
/*
 * Files that somebody had open before there was a map.
 *
 * A map is asked for when a file is opened, and FUSE knows nothing of it: it goes
 * on serving a file that it created itself, a server may answer CREATE with a file
 * that is mapped already, and a fanotify listener opens a file while it is still
 * being opened. Whoever comes first, one file is either FUSE's or mapped at any
 * time: the data are right, and the file is mapped as soon as that can be.
 *
 * A byte says where it comes from: what READ returns and what is on the device
 * differ, unless a test wants them equal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE		(4 * MIB)
#define SMALL		(64 * KIB)
#define BY_FUSE		'f'	/* what READ returns */
#define ON_DEVICE	'd'

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
	ASSERT_EQ(0, fs_fill(self->s, "old", ON_DEVICE, SMALL));
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
 * It was created, and opened by FUSE, when something says no: the server is told that
 * it is not open, and nothing is left of it.
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

/* The same of one that is not known yet, and is to be neither read nor written. */
TEST_F(alias, refused_idle)
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
	EXPECT_TRUE(is_mapped(self->s, "file"));
	EXPECT_EQ(0, fmap_cachestat(idle, &cs));
	EXPECT_EQ(0, cs.cache + cs.evicted);
	close(idle);
	EXPECT_TRUE(fs_forget(self->s));
}

/* Created to be neither read nor written: that keeps nobody from getting the map. */
TEST_F(alias, idle)
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
	ASSERT_EQ(0, fs_fill(self->s, "seen", ON_DEVICE, SMALL));

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

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
