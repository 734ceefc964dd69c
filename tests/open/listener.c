// SPDX-License-Identifier: GPL-2.0
/*
 * A fanotify listener gets an open file with each event, which the kernel opens in the
 * middle of the open(2) that it reports. The module does not promise which of the two
 * are mapped and which FUSE serves, but both must see the same bytes. What is about to be
 * executed, though, a listener sees as it will be executed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SMALL		(64 * KIB)
#define ON_DEVICE	'd'

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

	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, SMALL);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "seen", SMALL, &self->map, sizeof(self->map));
	/* READ and the device both have all of it. */
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

	/* This task has the listener, so it must not open files itself. */
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
			/* Every other open is a first open. */
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
	/* Its descriptors work after the group has gone. */
	close(self->group);
	for (unsigned int i = 0; i < listener.nr_kept; i++) {
		EXPECT_EQ(ON_DEVICE, byte_at(listener.kept[i], 0));
		close(listener.kept[i]);
	}
	/* Without a listener the file is mapped. */
	EXPECT_TRUE(fs_is_mapped(self->s, "file", ON_DEVICE));
}

/*
 * A listener that scans what is executed is asked before others are. It has to see what will be
 * executed: the device, not what the server would send.
 */
TEST(executed)
{
	struct scripted map = fmap_linear(0, 0, SMALL);
	struct fanotify_event_metadata e[8];
	struct fanotify_response allow = { .response = FAN_ALLOW };
	struct fuse_server *s;
	int group, status;
	pid_t pid;

	FMAP_REQUIRE();
	s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, s);
	fs_add(s, "file", FS_PLAIN, &map, sizeof(map))->mode = S_IFREG | 0777;
	fs_add(s, "fill", FS_PLAIN, &map, sizeof(map));
	memset(s->file[0].plain, 'p', FS_PLAIN);
	ASSERT_EQ(0, fs_mount(s));
	ASSERT_EQ(0, fs_fill(s, "fill", ON_DEVICE, FS_PLAIN));
	group = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC);
	if (group < 0) {
		fs_stop(s);
		SKIP(return, "no fanotify: %s", strerror(errno));
	}
	ASSERT_EQ(0, fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN_EXEC_PERM,
				   AT_FDCWD, s->dir));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		execl(fs_path(s, "file"), "file", NULL);
		_exit(errno);
	}
	ASSERT_LT(0, read(group, e, sizeof(e)));
	ASSERT_LE(0, e->fd);
	EXPECT_EQ(ON_DEVICE, byte_at(e->fd, 0));
	allow.fd = e->fd;
	EXPECT_EQ(sizeof(allow), write(group, &allow, sizeof(allow)));
	close(e->fd);
	status = ended(pid);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(ENOEXEC, WEXITSTATUS(status));
	close(group);
	EXPECT_EQ(0, s->count[FUSE_READ]);
	EXPECT_EQ(0, fs_stop(s));
}

/* Answers every question about an open, one after the other, until it is killed. */
static void allow_all(int group)
{
	struct fanotify_event_metadata e[8];
	struct fanotify_response allow = { .response = FAN_ALLOW };

	while (read(group, e, sizeof(e[0])) > 0) {
		allow.fd = e->fd;
		if (write(group, &allow, sizeof(allow)) < 0)
			_exit(1);
		close(e->fd);
	}
	_exit(1);
}

/*
 * A listener with one thread watches the mount and /dev. It gets a descriptor of the first file of
 * a device, and with that it opens the device. If it were asked about that, it would wait for
 * itself; but fanotify reports no opens of device nodes.
 */
TEST(watches_dev_too)
{
	struct scripted map = fmap_linear(0, 0, SMALL);
	pid_t listens, opener;
	struct fuse_server *s;
	int ready[2], status;
	char c;

	FMAP_REQUIRE();
	s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, s);
	fs_add(s, "file", SMALL, &map, sizeof(map));
	ASSERT_EQ(0, fs_mount(s));
	ASSERT_EQ(0, pipe(ready));
	listens = fork();
	ASSERT_LE(0, listens);
	if (!listens) {
		int group = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC);

		if (group < 0 ||
		    fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN_PERM,
				  AT_FDCWD, s->dir) ||
		    fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN_PERM,
				  AT_FDCWD, "/dev") ||
		    write(ready[1], "r", 1) != 1)
			_exit(1);
		allow_all(group);
	}
	ASSERT_EQ(1, read(ready[0], &c, 1));
	opener = fork();
	ASSERT_LE(0, opener);
	if (!opener)
		_exit(-fs_try(s, "file"));
	EXPECT_EQ(0, ended(opener));
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, kill(listens, SIGKILL));
	status = ended(listens);
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(0, fs_stop(s));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
