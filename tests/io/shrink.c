// SPDX-License-Identifier: GPL-2.0
/*
 * Files that become smaller, for a server that said FUSE_DAX_FMAP_RESIZE.
 *
 * What is cut off is the server's once it has answered SETATTR. So before the server is
 * asked, nothing may reach that memory any more: no mapping, and no page that direct I/O
 * or a pipe has pinned, which is waited for. A task that faults there meanwhile waits
 * for the answer, and then sees the file as it was or SIGBUS. If the server refuses,
 * nothing has changed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(6 * MIB)
#define OLD	0xaa		/* what the file has everywhere */

/* What the server was told by SETATTR, and how it answers. */
static struct {
	_Atomic unsigned int	times;		/* with FATTR_SIZE */
	_Atomic uint64_t	size;		/* the last one */
	_Atomic int		answer;		/* 0 or -errno */
	_Atomic bool		stay;		/* do not answer while this is set */
} told;

static void see_setattr(struct fuse_server *s, const struct fuse_in_header *in,
			const void *arg)
{
	const struct fuse_setattr_in *set = arg;

	if (!(set->valid & FATTR_SIZE)) {
		fs_default(s, in, arg);
		return;
	}
	told.size = set->size;
	told.times++;
	while (told.stay)
		usleep(1000);
	if (told.answer)
		fs_reply(s, in, told.answer, NULL, 0);
	else
		fs_default(s, in, arg);
}

/* OPEN must not truncate: nothing has been unmapped by then. */
static _Atomic unsigned int truncating_opens;

static void see_open(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_open_in *open = arg;

	if (open->flags & O_TRUNC)
		truncating_opens++;
	fs_default(s, in, arg);
}

FIXTURE(shrink) {
	struct fuse_server *s;
	struct scripted map;
	int fd;
	unsigned char *p;
	pid_t waiter;
};

FIXTURE_VARIANT(shrink) {
	uint64_t address;
};

FIXTURE_VARIANT_ADD(shrink, huge) {
	.address = 0,
};

FIXTURE_VARIANT_ADD(shrink, small) {
	.address = PAGE,
};

FIXTURE_SETUP(shrink)
{
	FMAP_REQUIRE();
	memset(&told, 0, sizeof(told));
	truncating_opens = 0;
	self->map = fmap_linear(0, variant->address, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->fmap_flags |= FUSE_DAX_FMAP_RESIZE;
	self->s->init_flags |= FUSE_WRITEBACK_CACHE;
	self->s->hook[FUSE_SETATTR] = see_setattr;
	self->s->hook[FUSE_OPEN] = see_open;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "file", OLD, SIZE));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(address_range(0, SIZE), SIZE, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_FIXED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	for (size_t at = 0; at < SIZE; at += PAGE)
		ASSERT_EQ(0, touch(self->p + at, -1));
}

FIXTURE_TEARDOWN(shrink)
{
	told.stay = false;
	if (self->waiter > 0) {
		kill(self->waiter, SIGKILL);
		ended(self->waiter);
	}
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, truncating_opens);
	EXPECT_EQ(0, fs_stop(self->s));
}

static off_t size_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? -errno : st.st_size;
}

#define page_up(at) (((at) + PAGE - 1) & ~(PAGE - 1))

/* The file ends at @to, for read(2), in the mapping, and for the server. */
#define expect_ends_at(to) do {						\
	off_t _to = (to);						\
									\
	EXPECT_EQ(_to, size_of(self->fd));				\
	EXPECT_EQ((uint64_t)_to, told.size);				\
	if (_to) {							\
		EXPECT_EQ(OLD, byte_at(self->fd, _to - 1));		\
		EXPECT_EQ(OLD, self->p[_to - 1]);			\
	}								\
	for (off_t _at = _to; _at < (off_t)page_up(_to); _at++)		\
		ASSERT_EQ(0, self->p[_at]);				\
	for (off_t _at = page_up(_to); _at < (off_t)SIZE; _at += 16 * PAGE) \
		EXPECT_EQ(SIGBUS, touch(self->p + _at, -1));		\
} while (0)

TEST_F(shrink, ftruncate)
{
	static const off_t sizes[] = { SIZE - 1, 5 * MIB, HUGE + 5, HUGE, PAGE + 1, 1, 0 };

	for (int i = 0; i < ARRAY_SIZE(sizes); i++) {
		ASSERT_EQ(0, ftruncate(self->fd, sizes[i])) TH_LOG("%s", strerror(errno));
		EXPECT_EQ(i + 1, told.times);
		expect_ends_at(sizes[i]);
	}
}

TEST_F(shrink, truncate)
{
	ASSERT_EQ(0, truncate(fs_path(self->s, "file"), HUGE + 5));
	expect_ends_at(HUGE + 5);
}

/* Private copies go, too, as on any file system. */
TEST_F(shrink, private_copy)
{
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + 4 * MIB, 'x'));
	EXPECT_EQ(0, touch(p, 'x'));
	ASSERT_EQ(0, ftruncate(self->fd, HUGE));
	EXPECT_EQ(SIGBUS, touch(p + 4 * MIB, -1));
	EXPECT_EQ('x', p[0]);
	munmap(p, SIZE);
}

/* open(2) with O_TRUNC is SETATTR for the server, whatever it said of O_TRUNC in INIT. */
TEST_F(shrink, open_truncates)
{
	int fd = fs_open(self->s, "file", O_RDWR | O_TRUNC);

	ASSERT_LE(0, fd);
	EXPECT_EQ(1, told.times);
	expect_ends_at(0);
	close(fd);
}

/* The server refuses: nothing has changed. */
TEST_F(shrink, refused)
{
	told.answer = -EIO;
	EXPECT_EQ(-1, ftruncate(self->fd, HUGE));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(SIZE, size_of(self->fd));
	for (size_t at = 0; at < SIZE; at += PAGE)
		ASSERT_EQ(0, touch(self->p + at, 'y'));
	EXPECT_EQ('y', byte_at(self->fd, SIZE - PAGE));
}

/* The exit code of a child; 128 and more if a signal has ended it. */
static int exit_code(pid_t pid)
{
	int status = ended(pid);

	if (status < 0 || WIFSIGNALED(status))
		return 128 + (status & 0x7f);
	return WEXITSTATUS(status);
}

/* A child that makes the file smaller, and waits for something. */
#define shrink_begin(to) do {						\
	int _fd = self->fd;						\
									\
	self->waiter = fork();						\
	ASSERT_LE(0, self->waiter);					\
	if (!self->waiter)						\
		_exit(ftruncate(_fd, to) ? errno : 0);			\
} while (0)

/* Before the server is asked, a pipe has to let go of a page. */
TEST_F(shrink, pinned)
{
	struct iovec iov = { .iov_base = self->p + 4 * MIB, .iov_len = PAGE };
	static char got[PAGE];
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PAGE, vmsplice(pipes[1], &iov, 1, 0));
	shrink_begin(HUGE);
	usleep(300 * 1000);
	EXPECT_EQ(0, waitpid(self->waiter, NULL, WNOHANG));
	EXPECT_EQ(0, told.times);
	/* The file is used meanwhile. */
	EXPECT_EQ(0, touch(self->p + 5 * MIB, 'x'));
	ASSERT_EQ(PAGE, read(pipes[0], got, PAGE));
	EXPECT_EQ(0, exit_code(self->waiter));
	self->waiter = 0;
	expect_ends_at(HUGE);
}

TEST_F(shrink, pinned_and_killed)
{
	struct iovec iov = { .iov_base = self->p + 4 * MIB, .iov_len = PAGE };
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(PAGE, vmsplice(pipes[1], &iov, 1, 0));
	shrink_begin(HUGE);
	usleep(100 * 1000);
	EXPECT_EQ(0, kill(self->waiter, SIGKILL));
	EXPECT_EQ(128 + SIGKILL, exit_code(self->waiter));
	self->waiter = 0;
	EXPECT_EQ(0, told.times);
	EXPECT_EQ(SIZE, size_of(self->fd));
	EXPECT_EQ(0, touch(self->p + 5 * MIB, 'x'));
	close(pipes[0]);
	close(pipes[1]);
}

/*
 * A child that touches a page as soon as @go has a byte. It has no descriptor of the file:
 * a close sends FLUSH, which waits for the server.
 */
static pid_t toucher(int fd, int go, unsigned char *p, int how)
{
	pid_t pid = fork();
	char c;

	if (pid)
		return pid;
	close(fd);
	_exit(read(go, &c, 1) == 1 ? touch(p, how) : 1);
}

/* Until the server is asked to make the file smaller. */
#define shrink_begin_and_stay(to) do {					\
	told.stay = true;						\
	shrink_begin(to);						\
	for (int _ms = 0; _ms < FS_PATIENCE && !told.times; _ms++)	\
		usleep(1000);						\
	ASSERT_EQ(1, told.times);					\
} while (0)

/* While the server is asked, a fault there waits; elsewhere nothing waits but read and write. */
#define faults_beside(how, answers, signal) do {			\
	int _go[2];							\
	pid_t _toucher;							\
									\
	ASSERT_EQ(0, pipe(_go));					\
	_toucher = toucher(self->fd, _go[0], self->p + 4 * MIB, how);	\
	ASSERT_LT(0, _toucher);						\
	told.answer = (answers);					\
	shrink_begin_and_stay(HUGE + 5);				\
	ASSERT_EQ(1, write(_go[1], "g", 1));				\
	EXPECT_EQ(0, touch(self->p, 'x'));				\
	EXPECT_EQ(0, touch(self->p + HUGE, 'x'));			\
	usleep(200 * 1000);						\
	EXPECT_EQ(0, waitpid(_toucher, NULL, WNOHANG));			\
	told.stay = false;						\
	EXPECT_EQ(-(answers), exit_code(self->waiter));			\
	self->waiter = 0;						\
	EXPECT_EQ(signal, exit_code(_toucher));				\
} while (0)

TEST_F(shrink, load_waits)
{
	faults_beside(-1, 0, SIGBUS);
}

TEST_F(shrink, store_waits)
{
	faults_beside('x', 0, SIGBUS);
}

TEST_F(shrink, load_waits_and_server_refuses)
{
	faults_beside(-1, -EIO, 0);
}

TEST_F(shrink, store_waits_and_server_refuses)
{
	faults_beside('x', -EIO, 0);
	EXPECT_EQ('x', byte_at(self->fd, 4 * MIB));
}

/* A fault that waits can be killed, and does not keep the address space locked. */
TEST_F(shrink, waiting_fault_is_killed)
{
	char path[64], maps[4096];
	pid_t pid;
	int go[2];

	ASSERT_EQ(0, pipe(go));
	pid = toucher(self->fd, go[0], self->p + 4 * MIB, -1);
	ASSERT_LT(0, pid);
	shrink_begin_and_stay(HUGE);
	ASSERT_EQ(1, write(go[1], "g", 1));
	usleep(100 * 1000);
	ASSERT_TRUE(asleep(pid));
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	EXPECT_EQ(0, read_file(path, maps, sizeof(maps)));
	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(128 + SIGKILL, exit_code(pid));
	told.stay = false;
	EXPECT_EQ(0, exit_code(self->waiter));
	self->waiter = 0;
	expect_ends_at(HUGE);
}

/* The server dies before it answers: the file is as it was. */
TEST_F(shrink, server_dies)
{
	shrink_begin_and_stay(HUGE);
	fs_abort(self->s);
	EXPECT_EQ(ECONNABORTED, exit_code(self->waiter));
	self->waiter = 0;
	told.stay = false;
	EXPECT_EQ(0, touch(self->p + 4 * MIB, 'x'));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
