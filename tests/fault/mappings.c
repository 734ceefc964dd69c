// SPDX-License-Identifier: GPL-2.0
/*
 * System calls on a mapping: madvise, mremap, munmap and mprotect, fork, access
 * from another process, exec, core dumps. Mappings with PMD entries and those with
 * PTEs only must behave alike, and an operation that is no store must not change a
 * byte of the mapping or of the file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/mempolicy.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "pattern.h"

#define SIZE	(8 * MIB)
#define STEP	(256 * KIB)	/* one page in each is checked */

/* Arguments with which a test runs this program, and its exit status then. */
#define RUN_RETURN	"--return"
#define RUN_WAIT	"--wait"
#define RUN_STATUS	77

FIXTURE(mappings) {
	struct fuse_server *s;
	struct scripted map;
	unsigned char *p;	/* all of the file, shared */
	int fd;
};

FIXTURE_VARIANT(mappings) {
	uint64_t addr;
};

FIXTURE_VARIANT_ADD(mappings, huge_pages) {
	.addr = 4 * MIB,
};

FIXTURE_VARIANT_ADD(mappings, small_pages) {
	.addr = 4 * MIB + PAGE,
};

/* Map at an address that allows PMD faults. */
static unsigned char *map_aligned(int fd, size_t len, int prot, int flags)
{
	unsigned char *p = mmap(NULL, len + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char *at = (void *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));

	if (p == MAP_FAILED)
		return p;
	if (at > p)
		munmap(p, at - p);
	munmap(at + len, p + HUGE - at);
	return mmap(at, len, prot, flags | MAP_FIXED, fd, 0);
}

/* The first checked page whose bytes are not the written ones, or -1. */
static ssize_t damaged(const unsigned char *p, size_t len)
{
	for (size_t at = 0; at < len; at += STEP)
		if (pattern_differs(p + at, PAGE, 1, at) >= 0)
			return at;
	return -1;
}

static ssize_t damaged_file(int fd)
{
	for (size_t at = 0; at < SIZE; at += STEP)
		if (pattern_read(fd, PAGE, 1, at) >= 0)
			return at;
	return -1;
}

FIXTURE_SETUP(mappings)
{
	FMAP_REQUIRE();
	FMAP_MOUNT_ONE_FILE(variant->addr, SIZE);
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = map_aligned(self->fd, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED);
	ASSERT_NE(MAP_FAILED, self->p);
	for (size_t at = 0; at < SIZE; at += STEP)
		pattern_fill(self->p + at, PAGE, 1, at);
}

FIXTURE_TEARDOWN(mappings)
{
	if (self->p)
		munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(0, fs_stop(self->s));
}

#define expect_whole() do {						\
	EXPECT_EQ(-1, damaged(self->p, SIZE));				\
	EXPECT_EQ(-1, damaged_file(self->fd));				\
} while (0)

/* ---- advice ---- */

/* Errors that an advice may return for a shared mapping of a file in DAX memory. */
#define ADVICE(name, ...) { MADV_##name, #name, { __VA_ARGS__ } }

static const struct {
	int advice;
	const char *name;
	int err[3];
} advices[] = {
	ADVICE(NORMAL), ADVICE(RANDOM), ADVICE(SEQUENTIAL), ADVICE(WILLNEED),
	ADVICE(DONTNEED), ADVICE(DONTNEED_LOCKED), ADVICE(POPULATE_READ),
	ADVICE(POPULATE_WRITE), ADVICE(COLD), ADVICE(PAGEOUT),
	ADVICE(HUGEPAGE), ADVICE(NOHUGEPAGE),
	ADVICE(DONTDUMP), ADVICE(DODUMP), ADVICE(DONTFORK), ADVICE(DOFORK),
	/* Ignored for file mappings. */
	ADVICE(MERGEABLE), ADVICE(UNMERGEABLE),
	/* For anonymous memory. */
	ADVICE(FREE, EINVAL), ADVICE(WIPEONFORK, EINVAL), ADVICE(KEEPONFORK),
	/* Punches a hole: the file keeps its size and all its blocks. */
	ADVICE(REMOVE, EOPNOTSUPP),
	/* Not for memory that cannot be moved. */
	ADVICE(COLLAPSE, EINVAL, EBUSY),
	{ 999, "nonsense", { EINVAL } },
};

static bool expected(unsigned int i, int ret)
{
	const int *err = advices[i].err;

	return ret ? errno && (errno == err[0] || errno == err[1]) : !err[0];
}

TEST_F_TIMEOUT(mappings, advice, 90)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(advices); i++) {
		int ret = madvise(self->p, SIZE, advices[i].advice);

		EXPECT_TRUE(expected(i, ret))
			TH_LOG("%s: %s", advices[i].name, ret ? strerror(errno) : "0");
		/* A part of a PMD mapping. */
		ret = madvise(self->p + HUGE + 3 * PAGE, 5 * PAGE, advices[i].advice);
		EXPECT_TRUE(expected(i, ret))
			TH_LOG("%s of a part: %s", advices[i].name, ret ? strerror(errno) : "0");
		EXPECT_EQ(0, touch(self->p + 2 * HUGE, pattern(1, 2 * HUGE)));
		EXPECT_EQ(-1, damaged(self->p, SIZE)) TH_LOG("%s", advices[i].name);
		ASSERT_EQ(0, madvise(self->p, SIZE, MADV_NORMAL));
	}
	expect_whole();
}

/* A private mapping has the file's bytes until it is written to. */
TEST_F(mappings, advice_for_a_private_mapping)
{
	unsigned char *q = map_aligned(self->fd, SIZE, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_POPULATE);

	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(-1, damaged(q, SIZE));
	for (unsigned int i = 0; i < ARRAY_SIZE(advices); i++) {
		EXPECT_EQ(0, touch(q + HUGE + PAGE, 'q'));
		madvise(q + HUGE, 3 * PAGE, advices[i].advice);
		EXPECT_TRUE(q[HUGE + PAGE] == 'q' || q[HUGE + PAGE] == self->p[HUGE + PAGE])
			TH_LOG("%s", advices[i].name);
		madvise(q, SIZE, advices[i].advice);
		EXPECT_EQ(-1, damaged(self->p, SIZE)) TH_LOG("%s", advices[i].name);
	}
	EXPECT_EQ(0, madvise(q, SIZE, MADV_DONTNEED));
	EXPECT_EQ(-1, damaged(q, SIZE));
	munmap(q, SIZE);
	expect_whole();
}

/* ---- mremap, munmap, mprotect ---- */

TEST_F(mappings, mremap)
{
	unsigned char *room, *p = self->p;

	/* Shrink, and grow again: in place or not, the bytes are those of the file. */
	ASSERT_EQ(p, mremap(p, SIZE, HUGE + PAGE, 0));
	EXPECT_EQ(SIGSEGV, touch(p + HUGE + PAGE, -1));
	EXPECT_EQ(-1, damaged(p, HUGE + PAGE));
	p = mremap(p, HUGE + PAGE, SIZE, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(-1, damaged(p, SIZE));
	/* Behind the end of the file: SIGBUS. */
	p = mremap(p, SIZE, SIZE + HUGE, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(SIGBUS, touch(p + SIZE, -1));
	EXPECT_EQ(SIGBUS, touch(p + SIZE + PAGE, 1));
	p = mremap(p, SIZE + HUGE, SIZE, 0);
	ASSERT_NE(MAP_FAILED, p);

	/* Move to an aligned address, and to one that is not. */
	for (size_t shift = 0; shift <= PAGE; shift += PAGE) {
		room = mmap(NULL, SIZE + 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, room);
		room = (void *)(((uintptr_t)room + HUGE - 1) & ~(HUGE - 1));
		ASSERT_EQ(room + shift, mremap(p, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
					       room + shift));
		EXPECT_EQ(SIGSEGV, touch(p, -1));
		p = room + shift;
		EXPECT_EQ(-1, damaged(p, SIZE));
		EXPECT_EQ(0, touch(p + HUGE, pattern(1, HUGE)));
	}
	/* Duplicate a piece from the middle. */
	room = mremap(p + HUGE, 0, HUGE, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, room);
	EXPECT_EQ(0, memcmp(room, p + HUGE, PAGE));
	EXPECT_EQ(0, touch(room + PAGE, 'm'));
	EXPECT_EQ('m', p[HUGE + PAGE]);
	munmap(room, HUGE);
	self->p = p;
	expect_whole();
}

/*
 * A hostile program that may only read a file makes a mapping with an offset that overflows.
 * mmap(2) limits the offset, but mremap(2) does not: the program grows the mapping, unmaps its
 * front and moves it back, until its page offset in bytes has more than 64 bits. A fault there
 * is behind the end of the file, and must be SIGBUS.
 */
TEST_F_TIMEOUT(mappings, mremap_behind_all_offsets, 120)
{
	const size_t step = 1UL << 46;
	const uint64_t last = 1UL << 51, want = (1UL << 52) + 1000;
	char *low = (char *)0x10000000UL + PAGE, *p;

	if (variant->addr % HUGE)
		SKIP(return, "an offset behind the file is the same for pages of all sizes");
	/* A page table for the neighbour, else the kernel would try PMD faults only. */
	p = mmap(low - PAGE, PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ASSERT_EQ(low - PAGE, p);
	*p = 1;
	p = mmap(low, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, self->fd,
		 (last - 2) * PAGE);
	ASSERT_EQ(low, p);
	EXPECT_EQ(SIGBUS, touch((void *)low, -1));
	for (uint64_t at = last - 2; at < want; at += step / PAGE - 1) {
		if (mremap(low, PAGE, step, 0) != low)
			SKIP(return, "no address range of 64 TiB: %s", strerror(errno));
		ASSERT_EQ(0, munmap(low, step - PAGE));
		p = mremap(low + step - PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, low);
		ASSERT_EQ(low, p);
	}
	EXPECT_EQ(SIGBUS, touch((void *)low, -1));
	EXPECT_NE(0, madvise(low, PAGE, MADV_POPULATE_READ));
	munmap(low - PAGE, 2 * PAGE);
	/* The faults have left no lock held. */
	EXPECT_EQ(0, touch(self->p, -1));
	EXPECT_EQ(0, fsync(self->fd));
}

TEST_F(mappings, munmap_of_parts)
{
	ASSERT_EQ(0, munmap(self->p + 5 * PAGE, PAGE));
	ASSERT_EQ(0, munmap(self->p + HUGE, HUGE));
	ASSERT_EQ(0, munmap(self->p + 3 * HUGE - PAGE, 2 * PAGE));
	EXPECT_EQ(SIGSEGV, touch(self->p + 5 * PAGE, -1));
	EXPECT_EQ(SIGSEGV, touch(self->p + HUGE, -1));
	EXPECT_EQ(SIGSEGV, touch(self->p + 3 * HUGE, -1));
	EXPECT_EQ(0, touch(self->p + 6 * PAGE, 1));
	EXPECT_EQ(-1, damaged(self->p, HUGE));
	EXPECT_EQ(-1, damaged_file(self->fd));
	/* Map all of it again. */
	ASSERT_EQ(self->p, mmap(self->p, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
				self->fd, 0));
	expect_whole();
}

TEST_F(mappings, mprotect)
{
	unsigned char *p = self->p;

	ASSERT_EQ(0, mprotect(p, SIZE, PROT_READ));
	EXPECT_EQ(SIGSEGV, touch(p, 1));
	EXPECT_EQ(-1, damaged(p, SIZE));
	/* One page in the middle of a PMD mapping. */
	ASSERT_EQ(0, mprotect(p + HUGE + 7 * PAGE, PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, touch(p + HUGE + 7 * PAGE, 'w'));
	EXPECT_EQ(SIGSEGV, touch(p + HUGE + 8 * PAGE, 'w'));
	EXPECT_EQ('w', byte_at(self->fd, HUGE + 7 * PAGE));
	ASSERT_EQ(0, mprotect(p + HUGE, HUGE, PROT_NONE));
	EXPECT_EQ(SIGSEGV, touch(p + HUGE, -1));
	EXPECT_EQ(0, touch(p, -1));
	/* write(2) still changes it. */
	EXPECT_EQ(1, pwrite(self->fd, "v", 1, HUGE + 7 * PAGE));
	ASSERT_EQ(0, mprotect(p, SIZE, PROT_READ | PROT_WRITE));
	EXPECT_EQ('v', p[HUGE + 7 * PAGE]);
	for (size_t at = 0; at < SIZE; at += STEP)
		EXPECT_EQ(0, touch(p + at, pattern(1, at)));
	expect_whole();
}

/* A file that was opened for reading cannot be mapped writable. */
TEST_F(mappings, read_only_file)
{
	int fd = fs_open(self->s, "file", O_RDONLY);
	unsigned char *q;

	ASSERT_LE(0, fd);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	EXPECT_EQ(EACCES, errno);
	q = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(-1, damaged(q, SIZE));
	EXPECT_EQ(-1, mprotect(q, PAGE, PROT_READ | PROT_WRITE));
	EXPECT_EQ(EACCES, errno);
	munmap(q, SIZE);
	q = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ(0, touch(q, 'p'));
	munmap(q, SIZE);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, HUGE, PROT_READ, MAP_SHARED | MAP_HUGETLB, fd, 0));
	EXPECT_EQ(EINVAL, errno);
	close(fd);
	expect_whole();
}

TEST_F(mappings, mlock)
{
	EXPECT_EQ(0, mlock(self->p, SIZE));
	EXPECT_EQ(-1, damaged(self->p, SIZE));
	EXPECT_EQ(0, munlock(self->p + 3 * PAGE, HUGE));
	EXPECT_EQ(0, munlock(self->p, SIZE));
	EXPECT_EQ(0, mlock2(self->p, SIZE, MLOCK_ONFAULT));
	EXPECT_EQ(0, munlockall());
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE));
	EXPECT_EQ(-1, damaged(self->p, SIZE));
	EXPECT_EQ(0, munlockall());
	expect_whole();
}

/* ---- several processes ---- */

/* After fork(2), stores to a shared mapping are shared, those to a private one are not. */
TEST_F(mappings, fork)
{
	unsigned char *q = map_aligned(self->fd, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	pid_t pid;

	ASSERT_NE(MAP_FAILED, q);
	/* The private mapping is mapped for reading, and has one copied page. */
	EXPECT_EQ(-1, damaged(q, SIZE));
	q[HUGE] = 'p';
	q[HUGE + 1] = 'p';
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		bool ok = q[HUGE] == 'p' && q[HUGE + 2] == pattern(1, HUGE + 2);

		self->p[PAGE] = 's';		/* seen by the parent */
		q[0] = 'c';			/* not seen by the parent */
		q[HUGE] = 'c';
		q[2 * HUGE + PAGE] = 'c';
		ok = ok && self->p[0] == pattern(1, 0) && q[PAGE] == 's' && q[0] == 'c' &&
		     q[1] == pattern(1, 1);
		_exit(ok ? 0 : 1);
	}
	EXPECT_EQ(0, ended(pid));
	EXPECT_EQ('s', self->p[PAGE]);
	EXPECT_EQ('s', byte_at(self->fd, PAGE));
	EXPECT_EQ(pattern(1, 0), q[0]);
	EXPECT_EQ('p', q[HUGE]);
	EXPECT_EQ('s', q[PAGE]);
	EXPECT_EQ(self->p[2 * HUGE + PAGE], q[2 * HUGE + PAGE]);
	munmap(q, SIZE);
	expect_whole();
}

TEST_F(mappings, dontfork)
{
	pid_t pid;

	ASSERT_EQ(0, madvise(self->p, HUGE, MADV_DONTFORK));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(touch(self->p, -1) == SIGSEGV && !touch(self->p + HUGE, -1) ? 0 : 1);
	EXPECT_EQ(0, ended(pid));
	expect_whole();
}

TEST_F(mappings, process_vm_and_ptrace)
{
	unsigned char buf[2 * PAGE];
	struct iovec mine = { buf, sizeof(buf) };
	struct iovec theirs = { self->p + HUGE - PAGE, sizeof(buf) };
	int status;
	pid_t pid = fork();
	long word;

	ASSERT_LE(0, pid);
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(self->p[HUGE + 9] == 0x11 ? 0 : 1);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFSTOPPED(status));
	/* The child has no page mapped yet: the system call faults it in. */
	ASSERT_EQ(sizeof(buf), process_vm_readv(pid, &mine, 1, &theirs, 1, 0));
	EXPECT_EQ(-1, pattern_differs(buf + PAGE, PAGE, 1, HUGE));
	memset(buf, 'v', sizeof(buf));
	theirs.iov_base = self->p + HUGE + PAGE;
	ASSERT_EQ(sizeof(buf), process_vm_writev(pid, &mine, 1, &theirs, 1, 0));
	EXPECT_EQ('v', self->p[HUGE + PAGE]);
	EXPECT_EQ('v', byte_at(self->fd, HUGE + 3 * PAGE - 1));

	errno = 0;
	word = ptrace(PTRACE_PEEKDATA, pid, self->p + HUGE + 8, NULL);
	EXPECT_EQ(0, errno);
	EXPECT_EQ(0, memcmp(&word, self->p + HUGE + 8, sizeof(word)));
	EXPECT_EQ(0, ptrace(PTRACE_POKEDATA, pid, self->p + HUGE + 8, 0x1111111111111111));
	EXPECT_EQ(0x11, self->p[HUGE + 8]);
	pattern_fill(self->p + HUGE, 8, 1, HUGE);
	ASSERT_EQ(0, ptrace(PTRACE_CONT, pid, NULL, NULL));
	EXPECT_EQ(0, ended(pid));
	pattern_fill(self->p + HUGE, PAGE, 1, HUGE);
	expect_whole();
}

/* ---- /proc and system calls that describe a mapping ---- */

static void expect_readable(struct __test_metadata *_metadata, const char *path, const char *what)
{
	static char buf[512 * KIB];
	size_t len = 0;
	ssize_t n;
	int fd = open(path, O_RDONLY);

	if (fd < 0 && errno == ENOENT)
		return;
	ASSERT_LE(0, fd);
	while ((n = read(fd, buf + len, sizeof(buf) - 1 - len)) > 0)
		len += n;
	EXPECT_EQ(0, n) TH_LOG("%s: %s", path, strerror(errno));
	buf[len] = 0;
	EXPECT_NE(NULL, strstr(buf, what)) TH_LOG("%s: no %s", path, what);
	close(fd);
}

TEST_F(mappings, proc)
{
	unsigned char vec[SIZE / PAGE];
	uint64_t entry[3];
	int fd, node = -1;
	char what[128];

	snprintf(what, sizeof(what), "%s", fs_path(self->s, "file"));
	expect_readable(_metadata, "/proc/self/maps", what);
	expect_readable(_metadata, "/proc/self/smaps", what);
	expect_readable(_metadata, "/proc/self/smaps_rollup", "Rss");
	expect_readable(_metadata, "/proc/self/numa_maps", what);

	memset(vec, 0, sizeof(vec));
	ASSERT_EQ(0, mincore(self->p, SIZE, vec));
	EXPECT_EQ(1, vec[0] & 1);
	EXPECT_EQ(1, vec[HUGE / PAGE] & 1);

	fd = open("/proc/self/pagemap", O_RDONLY);
	ASSERT_LE(0, fd);
	ASSERT_EQ(sizeof(entry), pread(fd, entry, sizeof(entry),
				       (uintptr_t)self->p / PAGE * 8));
	EXPECT_EQ(1, entry[0] >> 63);				/* present */
	if (daxdev[0].phys)
		EXPECT_EQ((daxdev[0].phys + variant->addr) / PAGE,
			  entry[0] & ((1ULL << 55) - 1));
	close(fd);

	/* System calls that tell the node of memory, or would migrate it. */
	syscall(SYS_get_mempolicy, &node, NULL, 0, self->p, MPOL_F_NODE | MPOL_F_ADDR);
	EXPECT_LE(0, node);
	EXPECT_EQ(0, syscall(SYS_mbind, self->p, SIZE, MPOL_PREFERRED, &(unsigned long){ 1 }, 2,
			     MPOL_MF_MOVE));
	{
		void *pages[2] = { self->p, self->p + HUGE + PAGE };
		int status[2] = { 0 }, nodes[2] = { 0 };

		syscall(SYS_move_pages, 0, 2, pages, NULL, status, 0);
		syscall(SYS_move_pages, 0, 2, pages, nodes, status, MPOL_MF_MOVE);
	}
	syscall(SYS_migrate_pages, 0, 2, &(unsigned long){ 1 }, &(unsigned long){ 1 });
	expect_whole();
}

/*
 * User space cannot handle the faults of a file in DAX memory. (userfaultfd.c tests
 * UFFD_FEATURE_WP_ASYNC, with which the kernel resolves them.)
 */
TEST_F(mappings, userfaultfd)
{
	static const uint64_t modes[] = {
		UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP, UFFDIO_REGISTER_MODE_MINOR,
	};
	struct uffdio_api api = { .api = UFFD_API };
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (uffd < 0)
		SKIP(return, "userfaultfd: %s", strerror(errno));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_API, &api));
	for (unsigned int i = 0; i < ARRAY_SIZE(modes); i++) {
		struct uffdio_register reg = {
			.range = { (uintptr_t)self->p, SIZE }, .mode = modes[i],
		};

		EXPECT_EQ(-1, ioctl(uffd, UFFDIO_REGISTER, &reg));
		EXPECT_EQ(EINVAL, errno);
	}
	close(uffd);
	expect_whole();
}

/* ---- programs ---- */

TEST_F(mappings, code)
{
	/* mov $42,%eax; ret */
	static const unsigned char code[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
	int (*call)(void);
	void *q;

	memcpy(self->p + 2 * HUGE + PAGE, code, sizeof(code));
	q = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, self->fd, 2 * HUGE + PAGE);
	ASSERT_NE(MAP_FAILED, q);
	call = q;
	EXPECT_EQ(42, call());
	ASSERT_EQ(0, mprotect(self->p, SIZE, PROT_READ | PROT_EXEC));
	call = (void *)(self->p + 2 * HUGE + PAGE);
	EXPECT_EQ(42, call());
	ASSERT_EQ(0, mprotect(self->p, SIZE, PROT_READ | PROT_WRITE));
	munmap(q, PAGE);
	expect_whole();
}

/* Run the program: its exit status, or the errno of exec. */
static int run(const char *path, const char *arg)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		execl(path, path, arg, NULL);
		_exit(errno);
	}
	status = ended(pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* This program is copied to DAX memory and run there; meanwhile it cannot be written to. */
TEST_F(mappings, exec)
{
	static unsigned char buf[64 * KIB];
	size_t len = 0;
	int hold[2], in = open("/proc/self/exe", O_RDONLY);
	pid_t pid;
	ssize_t n;

	ASSERT_LE(0, in);
	while ((n = read(in, buf, sizeof(buf))) > 0) {
		ASSERT_EQ(n, pwrite(self->fd, buf, n, len));
		len += n;
	}
	close(in);
	ASSERT_GT(SIZE, len);
	ASSERT_EQ(0, fchmod(self->fd, 0755));
	/* The file is open for writing. */
	EXPECT_EQ(ETXTBSY, run(fs_path(self->s, "file"), RUN_RETURN));
	munmap(self->p, SIZE);
	self->p = NULL;
	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(RUN_STATUS, run(fs_path(self->s, "file"), RUN_RETURN));

	ASSERT_EQ(0, pipe(hold));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		dup2(hold[1], 1);
		execl(fs_path(self->s, "file"), "file", RUN_WAIT, NULL);
		_exit(1);
	}
	ASSERT_EQ(1, read(hold[0], buf, 1));
	EXPECT_EQ(-ETXTBSY, fs_open(self->s, "file", O_RDWR));
	EXPECT_EQ(-ETXTBSY, fs_open(self->s, "file", O_WRONLY | O_TRUNC));
	EXPECT_EQ(-1, truncate(fs_path(self->s, "file"), 0));
	EXPECT_EQ(ETXTBSY, errno);
	kill(pid, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(pid));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	close(hold[0]);
	close(hold[1]);
}

/* ---- core dumps ---- */

/* Make a child dump core that has a page of the file mapped, and has changed it. */
static int dump(FIXTURE_DATA(mappings) * self, const char *filter)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

		setrlimit(RLIMIT_CORE, &all);
		signal(SIGABRT, SIG_DFL);
		if (write_file("/proc/self/coredump_filter", filter))
			_exit(1);
		memset(self->p + HUGE + PAGE, 'D', 64);
		raise(SIGABRT);
		_exit(2);
	}
	status = ended(pid);
	return status == (SIGABRT | 0x80) ? 0 : status ?: -1;
}

static bool has_core(const char *dir, bool with_mapping)
{
	static unsigned char buf[MIB + 64];
	unsigned char want[64];
	bool found = false;
	ssize_t n;
	int fd;

	memset(want, 'D', sizeof(want));
	fd = open(dir, O_RDONLY);
	if (fd < 0)
		return false;
	/* The bytes are at a multiple of 64. */
	while (!found && (n = read(fd, buf, MIB)) > 0)
		for (ssize_t at = 0; at + 64 <= n && !found; at += 64)
			found = !memcmp(buf + at, want, 64);
	close(fd);
	unlink(dir);
	return found == with_mapping;
}

TEST_F_TIMEOUT(mappings, core_dump, 60)
{
	char old[256];

	ASSERT_EQ(0, read_file("/proc/sys/kernel/core_pattern", old, sizeof(old)));
	ASSERT_EQ(0, write_file("/proc/sys/kernel/core_pattern", "/tmp/core"));
	/* By default a core has no DAX memory; with bit 8 it has shared DAX memory. */
	EXPECT_EQ(0, dump(self, "0x33"));
	EXPECT_TRUE(has_core("/tmp/core", false));
	EXPECT_EQ(0, dump(self, "0x100"));
	EXPECT_TRUE(has_core("/tmp/core", true));
	write_file("/proc/sys/kernel/core_pattern", old);
	expect_whole();
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], RUN_RETURN))
		return RUN_STATUS;
	if (argc == 2 && !strcmp(argv[1], RUN_WAIT)) {
		/* Wait for 10 s at most: the test may have died. */
		if (write(1, "r", 1) != 1)
			return 1;
		for (int i = 0; i < 100; i++)
			usleep(100 * 1000);
		return 0;
	}
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
