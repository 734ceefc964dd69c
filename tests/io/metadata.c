// SPDX-License-Identifier: GPL-2.0
/*
 * Times, permissions, locks, leases, events and the name of a mapped file.
 *
 * FUSE and the server handle all of these as for any other file. The server does not see
 * reads and writes of a mapped file, so the module does what the server would do with a
 * WRITE: it takes set-user-id bits off, and updates times where the kernel keeps them.
 *
 * An operation that a mapped file does not have fails with the errno of other files that do
 * not have it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)

/* What SETATTR has told the server. */
static _Atomic uint32_t setattr_valid, setattr_mode;

static void watch_setattr(struct fuse_server *s, const struct fuse_in_header *in,
			  const void *arg)
{
	const struct fuse_setattr_in *set = arg;

	setattr_valid |= set->valid;
	if (set->valid & FATTR_MODE)
		setattr_mode = set->mode;
	fs_default(s, in, arg);
}

/* The directory is a flat list of names: renaming and unlinking need no action. */
static void agree(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	fs_reply(s, in, 0, NULL, 0);
}

FIXTURE(metadata) {
	struct fuse_server *s;
	struct scripted map;
	int fd;
};

FIXTURE_VARIANT(metadata) {
	uint32_t init_flags;
};

FIXTURE_VARIANT_ADD(metadata, plain) {
};

/* The server promises to take privileges off by itself, at each WRITE. */
FIXTURE_VARIANT_ADD(metadata, handle_killpriv) {
	.init_flags = FUSE_HANDLE_KILLPRIV,
};

FIXTURE_VARIANT_ADD(metadata, handle_killpriv_v2) {
	.init_flags = FUSE_HANDLE_KILLPRIV_V2,
};

FIXTURE_VARIANT_ADD(metadata, writeback_cache) {
	.init_flags = FUSE_WRITEBACK_CACHE,
};

FIXTURE_SETUP(metadata)
{
	FMAP_REQUIRE();
	setattr_valid = 0;
	setattr_mode = 0;
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->init_flags |= variant->init_flags;
	self->s->hook[FUSE_SETATTR] = watch_setattr;
	self->s->hook[FUSE_UNLINK] = agree;
	self->s->hook[FUSE_RENAME] = agree;
	self->s->hook[FUSE_RENAME2] = agree;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map))->mtime = 1000;
	ASSERT_EQ(0, fs_mount(self->s));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(metadata)
{
	close(self->fd);
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* ---- privileges ---- */

/* Write as a user whose write must take the set-user-id bit off. */
static int write_unprivileged(int fd)
{
	pid_t pid = fork();

	if (!pid) {
		if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000))
			_exit(2);
		_exit(pwrite(fd, "x", 1, 0) == 1 ? 0 : 1);
	}
	return ended(pid);
}

/*
 * A program file loses its set-user-id bit when an ordinary user writes to it. Some servers
 * promise to take the bit off at each WRITE. No WRITE comes, so the kernel has to do it.
 */
TEST_F(metadata, set_user_id_is_taken_off)
{
	struct stat st;

	ASSERT_EQ(0, fchmod(self->fd, 06777));
	ASSERT_EQ(0, fstat(self->fd, &st));
	ASSERT_EQ(S_IFREG | 06777, st.st_mode);
	EXPECT_EQ(0, write_unprivileged(self->fd));
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(S_IFREG | 0777, st.st_mode);
	EXPECT_EQ(S_IFREG | 0777, self->s->file[0].mode);

	/* A write by root leaves the bit there. */
	ASSERT_EQ(0, fchmod(self->fd, 04755));
	EXPECT_EQ(1, pwrite(self->fd, "x", 1, 0));
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(S_IFREG | 04755, st.st_mode);
	/* A bit that was set again is taken off again. */
	EXPECT_EQ(0, write_unprivileged(self->fd));
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(S_IFREG | 0755, st.st_mode);
}

/* ---- times ---- */

/*
 * The server keeps the times, and does not see reads and writes: they do not change times. A
 * server that asks for FUSE_WRITEBACK_CACHE leaves mtime and ctime to the kernel: then stores
 * of all kinds change them as POSIX has it, and the server is told.
 */
TEST_F(metadata, times)
{
	bool kept = variant->init_flags & FUSE_WRITEBACK_CACHE;
	unsigned char *p;
	struct stat st;
	char c;

	EXPECT_EQ(1, pread(self->fd, &c, 1, 0));
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(1000, st.st_mtime);
	EXPECT_EQ(0, st.st_atime);

	EXPECT_EQ(1, pwrite(self->fd, "x", 1, 0));
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(kept, st.st_mtime > 1000);
	EXPECT_EQ(kept, st.st_ctime > 1000);
	EXPECT_EQ(0, st.st_atime);
	EXPECT_EQ(0, fsync(self->fd));
	EXPECT_EQ(kept, !!(setattr_valid & FATTR_MTIME));
	EXPECT_EQ(kept, self->s->file[0].mtime > 1000);

	/* A time that a user has set is kept in both cases. */
	ASSERT_EQ(0, futimens(self->fd, (struct timespec[]){ { .tv_sec = 5 }, { .tv_sec = 7 } }));
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(7, st.st_mtime);
	EXPECT_EQ(7, self->s->file[0].mtime);

	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, -1));
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(7, st.st_mtime);
	EXPECT_EQ(0, touch(p, 1));
	EXPECT_EQ(0, msync(p, SIZE, MS_SYNC));
	munmap(p, SIZE);
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(kept, st.st_mtime > 1000);
	EXPECT_EQ(kept, self->s->file[0].mtime > 1000);
}

/* ---- locks, leases, events ---- */

#define in_child(expression) ({						\
	pid_t _pid = fork();						\
	if (!_pid)							\
		_exit((expression) ? 0 : 1);				\
	ended(_pid);							\
})

static bool locked(int fd, int cmd, int type)
{
	struct flock lock = { .l_type = type, .l_start = 10, .l_len = 10 };

	return fcntl(fd, cmd, &lock) == -1 && (errno == EAGAIN || errno == EACCES);
}

TEST_F(metadata, locks)
{
	struct flock lock = { .l_type = F_WRLCK, .l_start = 0, .l_len = 20 };
	int fd = fs_open(self->s, "file", O_RDWR);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, fcntl(self->fd, F_SETLK, &lock));
	EXPECT_EQ(0, in_child(locked(fd, F_SETLK, F_RDLCK)));
	EXPECT_FALSE(locked(fd, F_SETLK, F_RDLCK));	/* the same process */
	lock.l_type = F_UNLCK;
	ASSERT_EQ(0, fcntl(self->fd, F_SETLK, &lock));
	EXPECT_EQ(0, in_child(!locked(fd, F_SETLK, F_WRLCK)));

	lock.l_type = F_WRLCK;
	ASSERT_EQ(0, fcntl(self->fd, F_OFD_SETLK, &lock));
	EXPECT_TRUE(locked(fd, F_OFD_SETLK, F_RDLCK));
	EXPECT_FALSE(locked(self->fd, F_OFD_SETLK, F_RDLCK));

	ASSERT_EQ(0, flock(self->fd, LOCK_EX));
	EXPECT_EQ(-1, flock(fd, LOCK_SH | LOCK_NB));
	EXPECT_EQ(EAGAIN, errno);
	ASSERT_EQ(0, flock(self->fd, LOCK_UN));
	EXPECT_EQ(0, flock(fd, LOCK_EX | LOCK_NB));
	close(fd);
}

static volatile sig_atomic_t lease_broken;

static void on_lease(int sig)
{
	lease_broken = 1;
}

/* The kernel may deliver the signal to any thread, that of the server included. */
static bool lease_breaks(void)
{
	for (int ms = 0; ms < FS_PATIENCE && !lease_broken; ms++)
		usleep(1000);
	return lease_broken;
}

TEST_F(metadata, leases)
{
	int fd;

	close(self->fd);
	self->fd = fs_open(self->s, "file", O_RDONLY);
	ASSERT_LE(0, self->fd);
	signal(SIGIO, on_lease);
	ASSERT_EQ(0, fcntl(self->fd, F_SETLEASE, F_RDLCK));
	EXPECT_EQ(F_RDLCK, fcntl(self->fd, F_GETLEASE));
	/* A reader does not break a read lease, a writer does. */
	EXPECT_EQ(0, in_child((fd = fs_open(self->s, "file", O_RDONLY)) >= 0));
	EXPECT_EQ(0, lease_broken);
	EXPECT_EQ(0, in_child(fs_open(self->s, "file", O_RDWR | O_NONBLOCK) == -EWOULDBLOCK));
	EXPECT_TRUE(lease_breaks());
	ASSERT_EQ(0, fcntl(self->fd, F_SETLEASE, F_UNLCK));
	EXPECT_EQ(0, in_child(fs_open(self->s, "file", O_RDWR | O_NONBLOCK) >= 0));
	/* A write lease, which a reader breaks. */
	EXPECT_EQ(0, fcntl(self->fd, F_SETLEASE, F_WRLCK));
	EXPECT_EQ(0, in_child(fs_open(self->s, "file", O_RDONLY | O_NONBLOCK) == -EWOULDBLOCK));
	EXPECT_EQ(0, fcntl(self->fd, F_SETLEASE, F_UNLCK));
}

static uint32_t events(int inotify)
{
	char buf[4096] __attribute__((aligned(8)));
	uint32_t mask = 0;
	ssize_t n;

	while ((n = read(inotify, buf, sizeof(buf))) > 0)
		for (char *p = buf; p < buf + n; ) {
			struct inotify_event *e = (void *)p;

			mask |= e->mask;
			p += sizeof(*e) + e->len;
		}
	return mask;
}

TEST_F(metadata, inotify)
{
	int inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	char c;

	ASSERT_LE(0, inotify);
	ASSERT_LE(0, inotify_add_watch(inotify, fs_path(self->s, "file"), IN_ALL_EVENTS));
	ASSERT_EQ(1, pread(self->fd, &c, 1, 0));
	EXPECT_EQ(IN_ACCESS, events(inotify));
	ASSERT_EQ(1, pwrite(self->fd, "x", 1, 0));
	EXPECT_EQ(IN_MODIFY, events(inotify) & IN_MODIFY);
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(IN_OPEN | IN_CLOSE_WRITE, events(inotify));
	ASSERT_EQ(0, fchmod(self->fd, 0600));
	EXPECT_EQ(IN_ATTRIB, events(inotify));
	close(inotify);
}

/* ---- the name ---- */

TEST_F(metadata, name_changes_while_mapped)
{
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	char from[128], to[128];

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, touch(p, 'n'));
	snprintf(from, sizeof(from), "%s", fs_path(self->s, "file"));
	snprintf(to, sizeof(to), "%s", fs_path(self->s, "elsewhere"));
	ASSERT_EQ(0, rename(from, to));
	ASSERT_EQ(0, touch(p + HUGE, 'o'));
	EXPECT_EQ('o', byte_at(self->fd, HUGE));
	ASSERT_EQ(0, unlink(to));
	EXPECT_EQ('n', *p);
	ASSERT_EQ(0, touch(p + PAGE, 'p'));
	EXPECT_EQ('p', byte_at(self->fd, PAGE));
	munmap(p, SIZE);
	EXPECT_EQ('n', byte_at(self->fd, 0));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

TEST_F(metadata, owner_and_mode_while_mapped)
{
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, touch(p, 'a'));
	EXPECT_EQ(0, fchmod(self->fd, 0));
	EXPECT_EQ(0, fchown(self->fd, 7, 7));
	EXPECT_EQ(0, utimensat(AT_FDCWD, fs_path(self->s, "file"), NULL, 0));
	/* Files that are open stay usable. */
	EXPECT_EQ(0, touch(p + PAGE, 'b'));
	EXPECT_EQ('b', byte_at(self->fd, PAGE));
	munmap(p, SIZE);
}

/* ---- what a mapped file does not have ---- */

TEST_F(metadata, refusals)
{
	int n = 0, block = 0;
	unsigned int flags;
	char value[8];

	/* No memory file: no seals. */
	EXPECT_EQ(-1, fcntl(self->fd, F_ADD_SEALS, F_SEAL_WRITE));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, fcntl(self->fd, F_GET_SEALS));
	EXPECT_EQ(EINVAL, errno);
	/* No block device below it. */
	EXPECT_EQ(-1, ioctl(self->fd, FIBMAP, &block));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(0, ioctl(self->fd, FIGETBSZ, &n));
	/* The server would answer, and this one does not know the ioctl. */
	EXPECT_EQ(-1, ioctl(self->fd, FS_IOC_GETFLAGS, &flags));
	EXPECT_EQ(ENOTTY, errno);
	EXPECT_EQ(-1, fgetxattr(self->fd, "user.none", value, sizeof(value)));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fs_open(self->s, ".", O_TMPFILE | O_RDWR) < 0 ? -1 : 0);
	EXPECT_EQ(EOPNOTSUPP, errno);
	/* An ioctl that the VFS answers. */
	ASSERT_EQ(3, lseek(self->fd, 3, SEEK_SET));
	EXPECT_EQ(0, ioctl(self->fd, FIONREAD, &n));
	EXPECT_EQ(SIZE - 3, n);
	/* The file has no blocks that pages could be swapped to. */
	EXPECT_EQ(-1, swapon(fs_path(self->s, "file"), 0));
	EXPECT_EQ(EINVAL, errno);
	/* A regular file is always ready. */
	EXPECT_EQ(1, poll(&(struct pollfd){ self->fd, POLLIN | POLLOUT }, 1, 0));
}

/*
 * The kernel keeps the times of a file, and writes them to the server. If the server refuses
 * them, an fsync of that file may report it, but no fsync of another file.
 */
static void refuse_the_first(struct fuse_server *s, const struct fuse_in_header *in,
			     const void *arg)
{
	if (in->nodeid == s->file[0].nodeid)
		fs_reply(s, in, -EIO, NULL, 0);
	else
		fs_default(s, in, arg);
}

FIXTURE(blame) {
	struct fuse_server *s;
	struct scripted map[3];
};

FIXTURE_SETUP(blame)
{
	static const char *const name[] = { "bad", "good", "late" };

	FMAP_REQUIRE();
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	for (int i = 0; i < ARRAY_SIZE(name); i++) {
		self->map[i] = fmap_linear(0, i * SIZE, SIZE);
		fs_add(self->s, name[i], SIZE, &self->map[i], sizeof(self->map[i]));
	}
	fs_add(self->s, "plain", PAGE, NULL, 0);
	self->s->init_flags |= FUSE_WRITEBACK_CACHE;
	self->s->hook[FUSE_SETXATTR] = agree;
	self->s->hook[FUSE_SETATTR] = refuse_the_first;
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(blame)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

/* Times are those of the last clock tick, so two writes within a tick have the same time. */
#define TICK_US		(50 * 1000)

/* Write to a file, which changes its times, and sync it. Returns 0 or the errno. */
static int write_and_sync(int fd)
{
	return pwrite(fd, "x", 1, 0) != 1 || fsync(fd) ? errno : 0;
}

TEST_F(blame, fsync)
{
	struct fuse_server *s = self->s;
	int bad = fs_open(s, "bad", O_RDWR), good = fs_open(s, "good", O_RDWR);
	int plain = fs_open(s, "plain", O_RDWR), late;

	ASSERT_LE(0, bad);
	ASSERT_LE(0, good);
	ASSERT_LE(0, plain);
	for (int round = 0; round < 3; round++) {
		/* setxattr changes ctime, and the kernel sends it to the server at once. */
		ASSERT_EQ(1, pwrite(bad, "b", 1, 0));
		EXPECT_EQ(0, fsetxattr(bad, "user.x", "x", 1, 0));
		switch (round) {
		case 0:
			EXPECT_EQ(0, write_and_sync(good));
			break;
		case 1:
			late = fs_open(s, "late", O_RDWR);
			ASSERT_LE(0, late);
			EXPECT_EQ(0, write_and_sync(late));
			close(late);
			break;
		default:
			EXPECT_EQ(0, write_and_sync(plain));
		}
	}
	EXPECT_EQ(0, write_and_sync(good));
	/* The old error is reported once: by the first fsync that has new times to write. */
	s->hook[FUSE_SETATTR] = NULL;
	usleep(TICK_US);
	EXPECT_EQ(EIO, write_and_sync(bad));
	usleep(TICK_US);
	EXPECT_EQ(0, write_and_sync(bad));
	close(bad);
	close(good);
	close(plain);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
