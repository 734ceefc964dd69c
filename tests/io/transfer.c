// SPDX-License-Identifier: GPL-2.0
/*
 * All system calls that move bytes into and out of a file work on a mapped one, without a READ or
 * WRITE to the server: splice, vmsplice, sendfile, copy_file_range, AIO, io_uring, O_DIRECT, the
 * flags of preadv2(). What a mapped file does not support fails with the errno that programs know
 * from other files.
 *
 * "file" and "other" are mapped, each on its own device; "plain" is served by FUSE.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "pattern.h"
#include "ring.h"

#ifndef RWF_ATOMIC
#define RWF_ATOMIC	0x00000040
#endif
#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE	0x00000080
#endif

#define SIZE	(4 * MIB)
#define FILLED	(64 * KIB)	/* bytes with a pattern: "file" 1, "other" 2 */
#define PLAIN	5000

FIXTURE(transfer) {
	struct fuse_server *s;
	struct scripted map[2];
	int fd, other, plain;
	int pipe[2];
};

FIXTURE_SETUP(transfer)
{
	FMAP_REQUIRE();
	self->map[0] = fmap_linear(0, 0, SIZE);
	self->map[1] = fmap_linear(1, 2 * MIB, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map[0], sizeof(self->map[0]));
	fs_add(self->s, "other", SIZE, &self->map[1], sizeof(self->map[1]));
	fs_add(self->s, "plain", PLAIN, NULL, 0);
	ASSERT_EQ(0, fs_mount(self->s));
	self->fd = fs_open(self->s, "file", O_RDWR);
	self->other = fs_open(self->s, "other", O_RDWR);
	self->plain = fs_open(self->s, "plain", O_RDWR);
	ASSERT_LE(0, self->fd);
	ASSERT_LE(0, self->other);
	ASSERT_LE(0, self->plain);
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC));
	ASSERT_EQ(-1, pattern_write(self->fd, FILLED, 1, 0));
	ASSERT_EQ(-1, pattern_write(self->other, FILLED, 2, 0));
}

FIXTURE_TEARDOWN(transfer)
{
	close(self->fd);
	close(self->other);
	close(self->plain);
	close(self->pipe[0]);
	close(self->pipe[1]);
	EXPECT_EQ(0, fs_stop(self->s));
}

#define expect_no_requests() do {					\
	EXPECT_EQ(0, self->s->count[FUSE_READ]);			\
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);			\
	EXPECT_EQ(0, self->s->count[FUSE_COPY_FILE_RANGE]);		\
	EXPECT_EQ(0, self->s->count[FUSE_FALLOCATE]);			\
} while (0)

/* ---- pipes and copies ---- */

TEST_F(transfer, splice)
{
	unsigned char buf[PAGE];
	loff_t from = 100, to = SIZE - 1000;

	/* Out, at an odd offset ... */
	ASSERT_EQ(3000, splice(self->fd, &from, self->pipe[1], NULL, 3000, 0));
	EXPECT_EQ(3100, from);
	/* ... and in again, where the file ends before the pipe does. */
	EXPECT_EQ(1000, splice(self->pipe[0], NULL, self->fd, &to, 3000, 0));
	ASSERT_EQ(1000, pread(self->fd, buf, sizeof(buf), SIZE - 1000));
	EXPECT_EQ(-1, pattern_differs(buf, 1000, 1, 100));
	EXPECT_EQ(-1, splice(self->pipe[0], NULL, self->fd, &to, 3000, 0));
	EXPECT_EQ(ENOSPC, errno);
	/* At the end of the file there is nothing to read. */
	from = SIZE;
	EXPECT_EQ(0, splice(self->fd, &from, self->pipe[1], NULL, 100, 0));
	expect_no_requests();
}

/* A pipe holds references to pages, so their contents outlive the mapping. */
TEST_F(transfer, vmsplice)
{
	unsigned char buf[2 * PAGE];
	struct iovec iov;
	unsigned char *p;
	loff_t to = 3 * PAGE;

	/* User memory, written to the file through a pipe. */
	pattern_fill(buf, sizeof(buf), 7, 0);
	iov = (struct iovec){ buf, sizeof(buf) };
	ASSERT_EQ(sizeof(buf), vmsplice(self->pipe[1], &iov, 1, 0));
	ASSERT_EQ(sizeof(buf), splice(self->pipe[0], NULL, self->fd, &to, sizeof(buf), 0));
	ASSERT_EQ(sizeof(buf), pread(self->fd, buf, sizeof(buf), 3 * PAGE));
	EXPECT_EQ(-1, pattern_differs(buf, sizeof(buf), 7, 0));

	/* Memory of the file, from a mapping: the pipe keeps it after munmap(2). */
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->other, 0);
	ASSERT_NE(MAP_FAILED, p);
	iov = (struct iovec){ p + PAGE, 2 * PAGE };
	ASSERT_EQ(2 * PAGE, vmsplice(self->pipe[1], &iov, 1, 0));
	munmap(p, SIZE);
	ASSERT_EQ(2 * PAGE, read(self->pipe[0], buf, 2 * PAGE));
	EXPECT_EQ(-1, pattern_differs(buf, 2 * PAGE, 2, PAGE));
	expect_no_requests();
}

TEST_F(transfer, sendfile)
{
	unsigned char buf[FILLED];
	off_t from = 10;
	int sock[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	ASSERT_EQ(20000, sendfile(sock[0], self->fd, &from, 20000));
	ASSERT_EQ(20000, recv(sock[1], buf, 20000, MSG_WAITALL));
	EXPECT_EQ(-1, pattern_differs(buf, 20000, 1, 10));
	close(sock[0]);
	close(sock[1]);

	/* From one mapped file to another. */
	from = PAGE;
	ASSERT_EQ(PAGE, lseek(self->other, PAGE, SEEK_SET));
	ASSERT_EQ(30000, sendfile(self->other, self->fd, &from, 30000));
	EXPECT_EQ(-1, pattern_read(self->other, 30000, 1, PAGE));
	EXPECT_EQ(-1, pattern_read(self->other, PAGE, 2, 0));
	expect_no_requests();

	/* To a plain file, and back: only the plain file's I/O goes to the server. */
	from = 0;
	ASSERT_EQ(0, lseek(self->plain, 0, SEEK_SET));
	ASSERT_EQ(PLAIN, sendfile(self->plain, self->fd, &from, PLAIN));
	EXPECT_EQ(-1, pattern_differs(self->s->file[2].plain, PLAIN, 1, 0));
	from = 0;
	ASSERT_EQ(0, lseek(self->other, 0, SEEK_SET));
	ASSERT_EQ(PLAIN, sendfile(self->other, self->plain, &from, PLAIN));
	EXPECT_EQ(-1, pattern_read(self->other, PLAIN, 1, 0));
}

TEST_F(transfer, copy_file_range)
{
	loff_t from = 1, to = SIZE / 2 + 1;
	struct file_clone_range clone = { .src_fd = self->fd, .src_length = PAGE };
	int tmp = memfd_create("elsewhere", MFD_CLOEXEC);

	/* Within a file, and between two. */
	ASSERT_EQ(20000, copy_file_range(self->fd, &from, self->fd, &to, 20000, 0));
	EXPECT_EQ(20001, from);
	from = 20001 + SIZE / 2;
	EXPECT_EQ(from, to);
	from = SIZE / 2 + 1;
	to = 1;
	ASSERT_EQ(20000, copy_file_range(self->fd, &from, self->other, &to, 20000, 0));
	EXPECT_EQ(-1, pattern_read(self->other, 20000, 1, 1));

	from = 0;
	to = PAGE;
	EXPECT_EQ(-1, copy_file_range(self->fd, &from, self->fd, &to, 2 * PAGE, 0));
	EXPECT_EQ(EINVAL, errno);
	/* A copy is cut at the end of the target. */
	to = SIZE - 100;
	EXPECT_EQ(100, copy_file_range(self->fd, &from, self->other, &to, PAGE, 0));
	from = SIZE;
	to = 0;
	EXPECT_EQ(0, copy_file_range(self->fd, &from, self->other, &to, PAGE, 0));
	expect_no_requests();

	/* From a plain file: its bytes come from the server. */
	from = 0;
	to = 0;
	EXPECT_EQ(PLAIN, copy_file_range(self->plain, &from, self->other, &to, PAGE * 2, 0));
	EXPECT_EQ('c', byte_at(self->other, PLAIN - 1));
	EXPECT_EQ(0, self->s->count[FUSE_COPY_FILE_RANGE]);
	/*
	 * To a plain file, or another file system: EXDEV, as between file systems. Programs (cp,
	 * libc) read and write then.
	 */
	from = 0;
	to = 0;
	EXPECT_EQ(-1, copy_file_range(self->fd, &from, self->plain, &to, 100, 0));
	EXPECT_EQ(EXDEV, errno);
	EXPECT_EQ(-1, copy_file_range(self->fd, &from, tmp, &to, 100, 0));
	EXPECT_EQ(EXDEV, errno);
	EXPECT_EQ(0, self->s->count[FUSE_COPY_FILE_RANGE]);
	EXPECT_EQ(-1, ioctl(self->other, FICLONE, self->fd));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, ioctl(self->other, FICLONERANGE, &clone));
	EXPECT_EQ(EOPNOTSUPP, errno);
	close(tmp);
}

/* ---- read(2) and write(2), with everything that can be asked of them ---- */

TEST_F(transfer, direct_io_of_any_alignment)
{
	static unsigned char buf[PAGE + 8] __attribute__((aligned(4096)));
	int fd = fs_open(self->s, "file", O_RDWR | O_DIRECT);

	ASSERT_LE(0, fd);
	pattern_fill(buf, PAGE, 9, 0);
	EXPECT_EQ(PAGE, pwrite(fd, buf, PAGE, 0));
	EXPECT_EQ(-1, pattern_read(self->fd, PAGE, 9, 0));
	/* Direct I/O needs no alignment, so programs that align work. */
	EXPECT_EQ(777, pread(fd, buf + 3, 777, 13));
	EXPECT_EQ(-1, pattern_differs(buf + 3, 777, 9, 13));
	EXPECT_EQ(0, fcntl(fd, F_SETFL, 0));
	EXPECT_EQ(0, fcntl(fd, F_SETFL, O_DIRECT));
	EXPECT_EQ(5, pwrite(fd, "abcde", 5, 1));
	EXPECT_EQ('a', byte_at(self->fd, 1));
	close(fd);
	expect_no_requests();
}

/* A mapped file cannot grow, so nothing can be appended. */
TEST_F(transfer, append_and_limits)
{
	struct iovec iov = { "x", 1 };
	struct rlimit old, less = { PAGE, RLIM_INFINITY };
	unsigned char buf[2 * PAGE];
	int fd = fs_open(self->s, "file", O_RDWR | O_APPEND);

	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, write(fd, "x", 1));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, pwrite(fd, "x", 1, 0));	/* appends, whatever the offset is */
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, pwritev2(self->fd, &iov, 1, 0, RWF_APPEND));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, pattern_read(self->fd, FILLED, 1, 0));
	close(fd);

	signal(SIGXFSZ, SIG_IGN);
	ASSERT_EQ(0, getrlimit(RLIMIT_FSIZE, &old));
	less.rlim_max = old.rlim_max;
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &less));
	pattern_fill(buf, sizeof(buf), 3, 0);
	EXPECT_EQ(100, pwrite(self->fd, buf, sizeof(buf), PAGE - 100));
	EXPECT_EQ(-1, pwrite(self->fd, buf, 1, PAGE));
	EXPECT_EQ(EFBIG, errno);
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &old));
	expect_no_requests();
}

TEST_F(transfer, flags_of_preadv2)
{
	static const struct {
		int flags;
		int read, write;	/* errno */
	} cases[] = {
		{ 0, 0, 0 },
		{ RWF_HIPRI, 0, 0 },
		{ RWF_NOWAIT, 0, 0 },
		{ RWF_DSYNC, 0, 0 },
		{ RWF_SYNC, 0, 0 },
		{ RWF_APPEND, 0, ENOSPC },
		/* RWF_SYNC would wait for the FSYNC of the server. */
		{ RWF_NOWAIT | RWF_HIPRI | RWF_SYNC, 0, EAGAIN },
		/* Writes of several bytes are not atomic. */
		{ RWF_ATOMIC, EOPNOTSUPP, EOPNOTSUPP },
		/* There is no page cache to bypass. */
		{ RWF_DONTCACHE, EOPNOTSUPP, EOPNOTSUPP },
		{ 1 << 30, EOPNOTSUPP, EOPNOTSUPP },
	};
	unsigned char buf[100];
	struct iovec iov = { buf, sizeof(buf) };
	ssize_t n;
	int err;

	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		unsigned int seed = i;

		memset(buf, 0, sizeof(buf));
		n = preadv2(self->fd, &iov, 1, 200, cases[i].flags);
		err = errno;
		if (n >= 0)
			err = 0;
		EXPECT_EQ(cases[i].read, err) TH_LOG("read %#x", cases[i].flags);
		if (!cases[i].read) {
			EXPECT_EQ(sizeof(buf), n);
			EXPECT_EQ(-1, pattern_differs(buf, sizeof(buf), 1, 200));
		}

		pattern_fill(buf, sizeof(buf), i, PAGE * i);
		n = pwritev2(self->other, &iov, 1, PAGE * i, cases[i].flags);
		err = errno;
		if (n >= 0)
			err = 0;
		EXPECT_EQ(cases[i].write, err) TH_LOG("write %#x", cases[i].flags);
		if (cases[i].write)
			seed = 2;	/* as before */
		else
			EXPECT_EQ(sizeof(buf), n);
		EXPECT_EQ(-1, pattern_read(self->other, sizeof(buf), seed, PAGE * i));
	}
	expect_no_requests();
}

/* Buffers that are mappings of the file itself, or are not populated. */
TEST_F(transfer, strange_buffers)
{
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	unsigned char *hole = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *stack;
	struct iovec iov[3];

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(MAP_FAILED, hole);
	/* The fault happens inside the read or write. */
	EXPECT_EQ(5000, pwrite(self->fd, p, 5000, HUGE));
	EXPECT_EQ(-1, pattern_differs(p + HUGE, 5000, 1, 0));
	EXPECT_EQ(3000, pread(self->fd, p + HUGE + PAGE, 3000, 7));
	EXPECT_EQ(-1, pattern_differs(p + HUGE + PAGE, 3000, 1, 7));
	munmap(p, SIZE);

	ASSERT_EQ(0, munmap(hole + PAGE, PAGE));
	EXPECT_EQ(-1, pread(self->fd, hole + PAGE, 10, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, pwrite(self->fd, hole + PAGE, 10, 0));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(100, pread(self->fd, hole + PAGE - 100, 200, 0));
	EXPECT_EQ(-1, pattern_differs(hole + PAGE - 100, 100, 1, 0));
	memset(hole, 0, PAGE);
	iov[0] = (struct iovec){ hole, 1 };
	iov[1] = (struct iovec){ hole, 0 };
	iov[2] = (struct iovec){ hole + 1, 4000 };
	EXPECT_EQ(4001, preadv(self->fd, iov, 3, 50));
	EXPECT_EQ(-1, pattern_differs(hole, 4001, 1, 50));

	/* A stack that has not grown yet. */
	stack = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0);
	ASSERT_NE(MAP_FAILED, stack);
	ASSERT_EQ(0, munmap(stack, 63 * PAGE));
	stack += 63 * PAGE;
	EXPECT_EQ(2 * PAGE, pread(self->fd, stack - 2 * PAGE, 2 * PAGE, 0));
	EXPECT_EQ(-1, pattern_differs(stack - 2 * PAGE, 2 * PAGE, 1, 0));
	EXPECT_EQ(PAGE, pwrite(self->fd, stack - 8 * PAGE, PAGE, HUGE));
	iov[0] = (struct iovec){ stack, 0 };
	iov[1] = (struct iovec){ stack - 16 * PAGE, 2 * PAGE };
	iov[2] = (struct iovec){ stack - 32 * PAGE, 100 };
	EXPECT_EQ(2 * PAGE + 100, preadv(self->fd, iov, 3, 0));
	EXPECT_EQ(-1, pattern_differs(stack - 32 * PAGE, 100, 1, 2 * PAGE));
	expect_no_requests();
}

/* Threads that write the same buffer to files. Each may be the first to fault a page in. */
struct same_buffer {
	const void *buf;
	int fd;
	ssize_t written;
};

static void *write_all(void *arg)
{
	struct same_buffer *same = arg;

	same->written = pwrite(same->fd, same->buf, SIZE, 0);
	return NULL;
}

TEST_F_TIMEOUT(transfer, buffer_brought_in_by_another_thread, 120)
{
	const int rounds = 30;

	for (int round = 0; round < rounds; round++) {
		void *fresh = mmap(NULL, SIZE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct same_buffer same[2] = {
			{ fresh, self->fd }, { fresh, self->other },
		};
		pthread_t thread;

		ASSERT_NE(MAP_FAILED, fresh);
		ASSERT_EQ(0, madvise(fresh, SIZE, MADV_NOHUGEPAGE));
		ASSERT_EQ(0, pthread_create(&thread, NULL, write_all, &same[0]));
		write_all(&same[1]);
		pthread_join(thread, NULL);
		munmap(fresh, SIZE);
		ASSERT_EQ(SIZE, same[0].written) TH_LOG("round %d", round);
		ASSERT_EQ(SIZE, same[1].written) TH_LOG("round %d", round);
	}
}

/* ---- AIO ---- */

TEST_F(transfer, aio)
{
	unsigned char buf[3][PAGE];
	aio_context_t ctx = 0;
	struct iocb cb[3] = { 0 }, *list[3] = { &cb[0], &cb[1], &cb[2] };
	struct io_event event[3];

	ASSERT_EQ(0, syscall(SYS_io_setup, 8, &ctx));
	pattern_fill(buf[1], PAGE, 5, 0);
	cb[0].aio_lio_opcode = IOCB_CMD_PREAD;
	cb[1].aio_lio_opcode = IOCB_CMD_PWRITE;
	cb[2].aio_lio_opcode = IOCB_CMD_FSYNC;
	for (unsigned int i = 0; i < 3; i++) {
		cb[i].aio_fildes = self->fd;
		cb[i].aio_data = i;
		if (i == 2)
			break;
		cb[i].aio_buf = (uintptr_t)buf[i];
		cb[i].aio_nbytes = PAGE;
		cb[i].aio_offset = i * HUGE + 5;
	}
	ASSERT_EQ(3, syscall(SYS_io_submit, ctx, 3, list));
	ASSERT_EQ(3, syscall(SYS_io_getevents, ctx, 3, 3, event, NULL));
	for (unsigned int i = 0; i < 3; i++)
		EXPECT_EQ(event[i].data == 2 ? 0 : PAGE, event[i].res);
	EXPECT_EQ(-1, pattern_differs(buf[0], PAGE, 1, 5));
	ASSERT_EQ(PAGE, pread(self->fd, buf[2], PAGE, HUGE + 5));
	EXPECT_EQ(0, memcmp(buf[1], buf[2], PAGE));
	EXPECT_EQ(0, syscall(SYS_io_destroy, ctx));
	expect_no_requests();
}

/* ---- io_uring ---- */

TEST_F(transfer, io_uring)
{
	static unsigned char buf[4 * PAGE] __attribute__((aligned(4096)));
	struct iovec iov = { buf, 100 }, fixed = { buf, sizeof(buf) };
	struct ring r;
	int ret = ring_init(&r, 0);

	if (ret)
		SKIP(return, "io_uring_setup: %s", strerror(-ret));
	EXPECT_EQ(3000, ring_do(&r, sqe(IORING_OP_READ, self->fd, buf, 3000, 9)));
	EXPECT_EQ(-1, pattern_differs(buf, 3000, 1, 9));
	EXPECT_EQ(100, ring_do(&r, sqe(IORING_OP_READV, self->fd, &iov, 1, 77)));
	EXPECT_EQ(-1, pattern_differs(buf, 100, 1, 77));
	pattern_fill(buf, sizeof(buf), 6, 0);
	EXPECT_EQ(PAGE, ring_do(&r, sqe(IORING_OP_WRITE, self->other, buf, PAGE, 0)));
	EXPECT_EQ(-1, pattern_read(self->other, PAGE, 6, 0));

	/* Registered buffers. */
	ASSERT_EQ(0, syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_BUFFERS, &fixed, 1));
	EXPECT_EQ(2 * PAGE, ring_do(&r, sqe(IORING_OP_WRITE_FIXED, self->other, buf + PAGE,
					    2 * PAGE, PAGE)));
	EXPECT_EQ(-1, pattern_read(self->other, 3 * PAGE, 6, 0));
	EXPECT_EQ(PAGE, ring_do(&r, sqe(IORING_OP_READ_FIXED, self->fd, buf, PAGE, PAGE)));
	EXPECT_EQ(-1, pattern_differs(buf, PAGE, 1, PAGE));

	/* RWF_NOWAIT: no other task has the file locked. */
	EXPECT_EQ(PAGE, ring_do(&r, sqe(IORING_OP_READ, self->fd, buf, PAGE, 0,
					.rw_flags = RWF_NOWAIT)));
	EXPECT_EQ(PAGE, ring_do(&r, sqe(IORING_OP_WRITE, self->fd, buf, PAGE, 0,
					.rw_flags = RWF_NOWAIT)));
	/* As asynchronously as possible. */
	EXPECT_EQ(PAGE, ring_do(&r, sqe(IORING_OP_READ, self->fd, buf, PAGE, 0,
					.flags = IOSQE_ASYNC)));
	EXPECT_EQ(-1, pattern_differs(buf, PAGE, 1, 0));

	EXPECT_EQ(0, ring_do(&r, sqe(IORING_OP_FSYNC, self->fd, 0, 0, 0)));
	EXPECT_EQ(0, ring_do(&r, sqe(IORING_OP_FADVISE, self->fd, 0, PAGE, 0,
				     .fadvise_advice = POSIX_FADV_DONTNEED)));
	EXPECT_EQ(0, ring_do(&r, sqe(IORING_OP_FALLOCATE, self->fd, PAGE, 0, 0)));
	EXPECT_EQ(-EOPNOTSUPP, ring_do(&r, sqe(IORING_OP_FALLOCATE, self->fd, PAGE, 0, SIZE)));
	EXPECT_EQ(-EOPNOTSUPP, ring_do(&r, sqe(IORING_OP_FTRUNCATE, self->fd, 0, 0, 100)));
	EXPECT_EQ(-ENOSPC, ring_do(&r, sqe(IORING_OP_WRITE, self->fd, buf, 1, SIZE)));
	EXPECT_EQ(0, ring_do(&r, sqe(IORING_OP_READ, self->fd, buf, 1, SIZE)));
	ring_free(&r);

	/* Polled I/O is for devices that interrupt. */
	if (!ring_init(&r, IORING_SETUP_IOPOLL)) {
		EXPECT_EQ(-EOPNOTSUPP, ring_do(&r, sqe(IORING_OP_READ, self->fd, buf, PAGE, 0)));
		ring_free(&r);
	}
	expect_no_requests();
}

/*
 * DAX memory cannot be pinned for long, or its pages could not be taken back: io_uring refuses to
 * register such buffers. A buffer of a single I/O may be there.
 */
TEST_F(transfer, io_uring_with_buffers_in_a_mapping)
{
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	struct iovec fixed = { p, PAGE };
	struct ring r;
	int ret = ring_init(&r, 0);

	ASSERT_NE(MAP_FAILED, p);
	if (ret)
		SKIP(return, "io_uring_setup: %s", strerror(-ret));
	EXPECT_EQ(-1, syscall(SYS_io_uring_register, r.fd, IORING_REGISTER_BUFFERS, &fixed, 1));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(3000, ring_do(&r, sqe(IORING_OP_READ, self->other, p + HUGE, 3000, 1)));
	EXPECT_EQ(-1, pattern_differs(p + HUGE, 3000, 2, 1));
	EXPECT_EQ(3000, ring_do(&r, sqe(IORING_OP_WRITE, self->other, p, 3000, HUGE)));
	ASSERT_EQ('x', touch(p, 'x') ?: *p);
	ring_free(&r);
	munmap(p, SIZE);
	expect_no_requests();
}

struct stuck {
	int fd;
	const void *buf;
	ssize_t n;
};

static void *stuck_write(void *arg)
{
	struct stuck *stuck = arg;

	stuck->n = pwrite(stuck->fd, stuck->buf, 100, HUGE);
	return NULL;
}

/*
 * The buffer of a write is a page of a plain file, and the server does not answer its READ. The
 * write must not hold the inode lock: other calls go on, also those with RWF_NOWAIT.
 */
TEST_F(transfer, nowait)
{
	struct stuck stuck = { .fd = self->fd };
	unsigned char buf[100];
	struct iovec iov = { buf, sizeof(buf) };
	pthread_t thread;
	struct ring r;
	int ring = ring_init(&r, 0);

	stuck.buf = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->plain, 0);
	ASSERT_NE(MAP_FAILED, stuck.buf);
	self->s->hold[FUSE_READ] = true;
	ASSERT_EQ(0, pthread_create(&thread, NULL, stuck_write, &stuck));
	ASSERT_TRUE(fs_wait(self->s, FUSE_READ, 1));

	usleep(100 * 1000);
	EXPECT_EQ(100, preadv2(self->fd, &iov, 1, 0, RWF_NOWAIT));
	EXPECT_EQ(-1, pattern_differs(buf, 100, 1, 0));
	EXPECT_EQ(100, pwritev2(self->fd, &iov, 1, 0, 0));
	EXPECT_EQ(100, pwritev2(self->fd, &iov, 1, 0, RWF_NOWAIT));
	if (!ring) {
		EXPECT_EQ(100, ring_do(&r, sqe(IORING_OP_READ, self->fd, buf, 100, 0,
					       .rw_flags = RWF_NOWAIT)));
		ring_free(&r);
	}
	fs_release(self->s, FUSE_READ);
	pthread_join(thread, NULL);
	EXPECT_EQ(100, stuck.n);
	EXPECT_EQ('c', byte_at(self->fd, HUGE));
	munmap((void *)stuck.buf, PAGE);
}

/* ---- advice ---- */

TEST_F(transfer, advice)
{
	static const int advice[] = {
		POSIX_FADV_NORMAL, POSIX_FADV_RANDOM, POSIX_FADV_SEQUENTIAL,
		POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED, POSIX_FADV_NOREUSE,
	};
	unsigned char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_EQ(0, touch(p + 100, pattern(1, 100)));
	for (unsigned int i = 0; i < ARRAY_SIZE(advice); i++) {
		EXPECT_EQ(0, posix_fadvise(self->fd, 0, 0, advice[i]));
		EXPECT_EQ(0, posix_fadvise(self->fd, 100, 5000, advice[i]));
	}
	EXPECT_EQ(EINVAL, posix_fadvise(self->fd, 0, 0, 77));
	/* There is no page cache to read ahead into. */
	EXPECT_TRUE(!readahead(self->fd, 0, SIZE) || errno == EINVAL);
	EXPECT_EQ(0, sync_file_range(self->fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE |
				     SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
	drop_caches();
	EXPECT_EQ(-1, pattern_differs(p, FILLED, 1, 0));
	EXPECT_EQ(-1, pattern_read(self->fd, FILLED, 1, 0));
	munmap(p, SIZE);
	expect_no_requests();
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
