// SPDX-License-Identifier: GPL-2.0
/*
 * I/O that must not wait, on a mapped file whose server does not answer.
 *
 * Before the first write of a file FUSE asks the server for file capabilities. A write with
 * O_DSYNC, O_SYNC or such a flag ends with an FSYNC, one that takes a set-user-id bit off
 * with a SETATTR, and during a chmod(2) that the server has not answered the inode is locked.
 * With RWF_NOWAIT the call returns at once, with EAGAIN and nothing written. A task that may
 * wait, such as a worker of io_uring, waits and writes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "first_open.h"
#include "ring.h"

#define LEN	100

/* The file has no capabilities. (After ENOSYS the kernel would not ask again.) */
static void no_capabilities(struct fuse_server *s, const struct fuse_in_header *in,
			    const void *arg)
{
	fs_reply(s, in, -ENODATA, NULL, 0);
}

FIXTURE(nowait) {
	struct fuse_server *s;
	struct scripted map;
	int fd;
};

FIXTURE_VARIANT(nowait) {
	uint32_t init_flags;
};

FIXTURE_VARIANT_ADD(nowait, plain) {
};

/* The kernel keeps the times, and writes them to the server. */
FIXTURE_VARIANT_ADD(nowait, writeback_cache) {
	.init_flags = FUSE_WRITEBACK_CACHE,
};

FIXTURE_SETUP(nowait)
{
	FMAP_REQUIRE();
	self->s = server_of(&self->map);
	ASSERT_NE(NULL, self->s);
	self->s->init_flags |= variant->init_flags;
	self->s->hook[FUSE_GETXATTR] = no_capabilities;
	self->s->file[0].mode = S_IFREG | 0666;
	ASSERT_EQ(0, fs_mount(self->s));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(nowait)
{
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
}

static ssize_t write_with(int fd, int byte, int flags)
{
	char buf[LEN];
	struct iovec iov = { buf, sizeof(buf) };
	ssize_t n;

	memset(buf, byte, sizeof(buf));
	n = pwritev2(fd, &iov, 1, PAGE, flags);
	return n < 0 ? -errno : n;
}

static ssize_t read_with(int fd, int flags)
{
	char buf[LEN];
	struct iovec iov = { buf, sizeof(buf) };
	ssize_t n = preadv2(fd, &iov, 1, PAGE, flags);

	return n < 0 ? -errno : n;
}

/* A child without the server's descriptor, which would keep the connection alive. */
static pid_t fork_from(struct fuse_server *s)
{
	pid_t pid = fork();

	if (!pid)
		close(s->fd);
	return pid;
}

/*
 * A call in a thread. In a child process the exit would close descriptors, for which FUSE may
 * send requests.
 */
struct call {
	int fd, byte, flags;	/* written, or read if @byte is negative */
	uid_t uid;		/* an ordinary user, or root */
	pthread_t thread;
	volatile pid_t tid;
	volatile bool done;
	volatile ssize_t ret;	/* negative: -errno */
};

static void *call_thread(void *arg)
{
	struct call *call = arg;

	call->tid = gettid();
	/* The system call changes this thread only; setuid() of libc would change all. */
	if (call->uid && syscall(SYS_setuid, call->uid))
		call->ret = -EXFULL;
	else if (call->byte < 0)
		call->ret = read_with(call->fd, call->flags);
	else
		call->ret = write_with(call->fd, call->byte, call->flags);
	call->done = true;
	return NULL;
}

static bool call_start(struct call *call)
{
	call->tid = 0;
	call->done = false;
	return !pthread_create(&call->thread, NULL, call_thread, call);
}

/* Returns true if the call returns although the server does not answer. */
static bool done_at_once(const struct call *call)
{
	for (int ms = 0; ms < 1500 * fs_slowness() && !call->done; ms++)
		usleep(1000);
	return call->done;
}

static ssize_t call_end(struct call *call)
{
	pthread_join(call->thread, NULL);
	return call->ret;
}

/*
 * While the server holds requests of @opcode, a write that must not wait fails with EAGAIN,
 * and has written nothing. One that may wait waits, and writes once the server has answered.
 */
#define expect_eagain(f, opcode, how, who) do {				\
	struct call _call = { .fd = f, .byte = 'n', .flags = (how) | RWF_NOWAIT, .uid = who }; \
	int _before = byte_at(f, PAGE);					\
	unsigned int _asked = self->s->count[opcode];			\
									\
	self->s->hold[opcode] = true;					\
	ASSERT_TRUE(call_start(&_call));				\
	if (done_at_once(&_call)) {					\
		EXPECT_EQ(-EAGAIN, call_end(&_call));			\
		EXPECT_EQ(_before, byte_at(f, PAGE));			\
		EXPECT_EQ(_asked, self->s->count[opcode]);		\
		_call.byte = 'w';					\
		_call.flags = how;					\
		ASSERT_TRUE(call_start(&_call));			\
		EXPECT_TRUE(fs_wait(self->s, opcode, _asked + 1));	\
		EXPECT_TRUE(asleep(_call.tid));				\
		fs_release(self->s, opcode);				\
		EXPECT_EQ(LEN, call_end(&_call));			\
		EXPECT_EQ('w', byte_at(f, PAGE));			\
	} else {							\
		EXPECT_TRUE(_call.done) {				\
			TH_LOG("it waits, state %c", task_state(_call.tid));	\
		}							\
		fs_release(self->s, opcode);				\
		call_end(&_call);					\
	}								\
} while (0)

/* The kernel does not know the file's capabilities yet. */
TEST_F(nowait, capabilities)
{
	EXPECT_EQ(LEN, read_with(self->fd, RWF_NOWAIT));
	expect_eagain(self->fd, FUSE_GETXATTR, 0, 0);
	/* The kernel knows them now, and does not ask. */
	self->s->hold[FUSE_GETXATTR] = true;
	EXPECT_EQ(LEN, write_with(self->fd, 'x', RWF_NOWAIT));
	EXPECT_EQ('x', byte_at(self->fd, PAGE));
	EXPECT_EQ(LEN, read_with(self->fd, RWF_NOWAIT));
	EXPECT_EQ(0, self->s->count[FUSE_WRITE] + self->s->count[FUSE_READ]);
	fs_release(self->s, FUSE_GETXATTR);
}

/* The same, in a write that would also be flushed. */
TEST_F(nowait, capabilities_dsync)
{
	expect_eagain(self->fd, FUSE_GETXATTR, RWF_DSYNC, 0);
}

TEST_F(nowait, fsync)
{
	static const int flags[] = { RWF_DSYNC, RWF_SYNC };
	static const int descriptor[] = { O_DSYNC, O_SYNC };

	ASSERT_EQ(LEN, write_with(self->fd, 'k', 0));
	for (int i = 0; i < ARRAY_SIZE(flags); i++) {
		int fd = fs_open(self->s, "file", O_RDWR | descriptor[i]);

		ASSERT_LE(0, fd);
		expect_eagain(self->fd, FUSE_FSYNC, flags[i], 0);
		ASSERT_EQ(LEN, write_with(self->fd, 'k', 0));
		expect_eagain(fd, FUSE_FSYNC, 0, 0);
		close(fd);
	}
	/* A write without these flags does not send FSYNC. */
	self->s->hold[FUSE_FSYNC] = true;
	EXPECT_EQ(LEN, write_with(self->fd, 'x', RWF_NOWAIT));
	fs_release(self->s, FUSE_FSYNC);
}

/* The set-user-id bit is taken off before the first byte of an ordinary user is written. */
TEST_F(nowait, set_user_id)
{
	struct stat st;

	ASSERT_EQ(LEN, write_with(self->fd, 'k', 0));
	ASSERT_EQ(0, fchmod(self->fd, 04777));
	expect_eagain(self->fd, FUSE_SETATTR, 0, 1000);
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(0777, st.st_mode & 07777);
}

/* chmod(2) in another task holds the inode lock until the server answers. */
TEST_F(nowait, locked)
{
	struct call wr = { .fd = self->fd, .byte = 'n', .flags = RWF_NOWAIT };
	struct call rd = { .fd = self->fd, .byte = -1, .flags = RWF_NOWAIT };
	pid_t pid;

	ASSERT_EQ(LEN, write_with(self->fd, 'k', 0));
	self->s->hold[FUSE_SETATTR] = true;
	pid = fork_from(self->s);
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(chmod(fs_path(self->s, "file"), 0640) ? errno : 0);
	ASSERT_TRUE(fs_wait(self->s, FUSE_SETATTR, 1));
	EXPECT_TRUE(asleep(pid));
	ASSERT_TRUE(call_start(&wr));
	ASSERT_TRUE(call_start(&rd));
	EXPECT_TRUE(done_at_once(&wr));
	EXPECT_TRUE(done_at_once(&rd));
	EXPECT_EQ(-EAGAIN, wr.ret);
	EXPECT_TRUE(rd.ret == -EAGAIN || rd.ret == LEN);
	fs_release(self->s, FUSE_SETATTR);
	call_end(&wr);
	call_end(&rd);
	EXPECT_EQ(0, ended(pid));
	EXPECT_EQ('k', byte_at(self->fd, PAGE));
	/* After new attributes the server is asked for capabilities again. */
	EXPECT_EQ(LEN, write_with(self->fd, 'k', 0));
	EXPECT_EQ(LEN, write_with(self->fd, 'x', RWF_NOWAIT));
}

/* ---- io_uring, which tries without waiting first ---- */

struct progress {
	volatile int submitted, early, go_on;
};

/*
 * In a child, because a kernel with the bug waits in io_uring_enter(2). Each step that fails
 * has its own exit status.
 */
static void by_ring(int fd, int flags, struct progress *p)
{
	char buf[LEN];
	struct ring r;
	int ret = ring_init(&r, 0);

	if (ret)
		_exit(77);
	memset(buf, 'n', sizeof(buf));
	ret = ring_do(&r, sqe(IORING_OP_WRITE, fd, buf, LEN, PAGE,
			      .rw_flags = flags | RWF_NOWAIT));
	if (ret != -EAGAIN)
		_exit(1);
	memset(buf, 'r', sizeof(buf));
	ring_submit(&r, sqe(IORING_OP_WRITE, fd, buf, LEN, PAGE, .rw_flags = flags));
	p->early = ring_ready(&r);
	p->submitted = 1;
	while (!p->go_on)
		usleep(1000);
	ret = ring_wait(&r);
	ring_free(&r);
	_exit(ret == LEN ? 0 : ret < 0 ? -ret : 2);
}

#define expect_ring(opcode, flags) do {					\
	struct progress *_p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,	\
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);	\
	unsigned int _asked = self->s->count[opcode];			\
	pid_t _pid;							\
	int _status;							\
									\
	ASSERT_NE(MAP_FAILED, _p);					\
	self->s->hold[opcode] = true;					\
	_pid = fork_from(self->s);					\
	ASSERT_LE(0, _pid);						\
	if (!_pid)							\
		by_ring(self->fd, flags, _p);				\
	for (int _ms = 0; _ms < 1500 * fs_slowness() && !_p->submitted; _ms++) \
		usleep(1000);						\
	EXPECT_EQ(1, _p->submitted);					\
	EXPECT_EQ(0, _p->early);					\
	/* A worker sends it. */					\
	EXPECT_TRUE(fs_wait(self->s, opcode, _asked + 1));		\
	fs_release(self->s, opcode);					\
	_p->go_on = 1;							\
	_status = ended(_pid);						\
	if (_status == W_EXITCODE(77, 0))				\
		SKIP(return, "there is no io_uring");			\
	EXPECT_EQ(0, _status);						\
	EXPECT_EQ('r', byte_at(self->fd, PAGE));			\
} while (0)

TEST_F(nowait, io_uring_capabilities)
{
	expect_ring(FUSE_GETXATTR, 0);
}

TEST_F(nowait, io_uring_fsync)
{
	ASSERT_EQ(LEN, write_with(self->fd, 'k', 0));
	expect_ring(FUSE_FSYNC, RWF_DSYNC);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
