// SPDX-License-Identifier: GPL-2.0
/*
 * Files that grow beyond what their map has, for a server that said FUSE_DAX_FMAP_RESIZE.
 *
 * The kernel asks for room by FALLOCATE, and the server answers with the new map, or with
 * nothing and gives it to GET_FMAP. What the server gives is zeroed before it is shown: its
 * memory holds 0xaa everywhere before ("raw" is another file with the same memory). Pages
 * that the new map has at the same place stay mapped; others show what is there now.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define MOST		(8 * MIB)	/* what the server can give */
#define CAPACITY	(4 * PAGE)	/* what it gives at first */
#define START		100UL		/* the size that it says first */
#define OLD		0xaa		/* what the memory held */

/* How the server gives room. */
static struct {
	struct scripted		map;		/* that of the file */
	uint64_t		step;		/* a multiple of this */
	bool			empty;		/* the answer to FALLOCATE has no map */
	bool			moves;		/* the new map is elsewhere */
	_Atomic int		error;		/* -errno */
	_Atomic bool		stay;		/* do not answer while this is set */
	_Atomic unsigned int	times;
	_Atomic unsigned int	odd;		/* not as the ABI says */
} room;

static void give_room(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_fallocate_in *want = arg;
	uint64_t end = want->offset + want->length;

	room.times++;
	if (want->mode != FALLOC_FL_KEEP_SIZE || want->fh != UINT64_MAX ||
	    want->padding < FUSE_DAX_FMAP_BLOB_MIN || want->offset != room.map.file_size)
		room.odd++;
	while (room.stay)
		usleep(1000);
	end = (end + room.step - 1) / room.step * room.step;
	if (!room.error && end > MOST)
		room.error = -ENOSPC;
	if (room.error) {
		fs_reply(s, in, room.error, NULL, 0);
		return;
	}
	room.map = fmap_linear(0, room.moves ? MOST + PAGE : room.map.addr, end);
	if (room.empty)
		fs_reply(s, in, 0, NULL, 0);
	else
		fs_reply(s, in, 0, &room.map, sizeof(room.map));
}

FIXTURE(room) {
	struct fuse_server *s;
	struct scripted raw_map;
	int fd, raw;
	pid_t waiter;
};

FIXTURE_VARIANT(room) {
	uint64_t address;
	bool empty;
};

FIXTURE_VARIANT_ADD(room, in_the_answer) {
	.address = 0,
};

FIXTURE_VARIANT_ADD(room, asked_for) {
	.address = PAGE,
	.empty = true,
};

FIXTURE_SETUP(room)
{
	FMAP_REQUIRE();
	memset(&room, 0, sizeof(room));
	room.map = fmap_linear(0, variant->address, CAPACITY);
	room.step = PAGE;
	room.empty = variant->empty;
	self->raw_map = fmap_linear(0, variant->address, MOST);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->fmap_flags |= FUSE_DAX_FMAP_RESIZE;
	self->s->init_flags |= FUSE_WRITEBACK_CACHE;
	self->s->hook[FUSE_FALLOCATE] = give_room;
	fs_add(self->s, "raw", MOST, &self->raw_map, sizeof(self->raw_map));
	fs_add(self->s, "file", START, &room.map, sizeof(room.map));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "raw", OLD, MOST));
	self->raw = fs_open(self->s, "raw", O_RDWR);
	ASSERT_LE(0, self->raw);
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(room)
{
	room.stay = false;
	if (self->waiter > 0) {
		kill(self->waiter, SIGKILL);
		ended(self->waiter);
	}
	close(self->fd);
	close(self->raw);
	EXPECT_EQ(0, room.odd);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(0, fs_stop(self->s));
}

static off_t size_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? -errno : st.st_size;
}

/* Are bytes @from to @to all @byte, as read(2) has them? */
static bool all(int fd, off_t from, off_t to, unsigned char byte)
{
	static unsigned char buf[64 * KIB];

	while (from < to) {
		size_t len = to - from < (off_t)sizeof(buf) ? to - from : sizeof(buf);

		if (pread(fd, buf, len, from) != (ssize_t)len)
			return false;
		for (size_t i = 0; i < len; i++)
			if (buf[i] != byte)
				return false;
		from += len;
	}
	return true;
}

#define page_up(at) (((at) + PAGE - 1) & ~(PAGE - 1))

TEST_F(room, append)
{
	static char buf[3 * PAGE];
	off_t size = START;

	memset(buf, 'x', sizeof(buf));
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(sizeof(buf), pwrite(self->fd, buf, sizeof(buf), size))
			TH_LOG("%s", strerror(errno));
		size += sizeof(buf);
		EXPECT_EQ(size, size_of(self->fd));
	}
	EXPECT_TRUE(all(self->fd, START, size, 'x'));
	EXPECT_TRUE(all(self->raw, size, page_up(size), 0));
	EXPECT_TRUE(all(self->raw, page_up(size), MOST, OLD));
	/* The first one fits. */
	EXPECT_EQ(19, room.times);
	EXPECT_EQ(variant->empty ? 21 : 2, self->s->count[FUSE_GET_FMAP]);
}

/* One request for 2 MiB of appends, if the server gives that much. */
TEST_F(room, more_than_asked)
{
	static char buf[PAGE];
	off_t size = START;

	room.step = HUGE;
	memset(buf, 'x', sizeof(buf));
	while (size < 3 * MIB) {
		ASSERT_EQ(sizeof(buf), pwrite(self->fd, buf, sizeof(buf), size));
		size += sizeof(buf);
	}
	EXPECT_TRUE(all(self->fd, START, size, 'x'));
	EXPECT_EQ(2, room.times);
}

TEST_F(room, gap)
{
	EXPECT_EQ(1, pwrite(self->fd, "x", 1, 3 * MIB + 5));
	EXPECT_EQ(3 * MIB + 6, size_of(self->fd));
	EXPECT_TRUE(all(self->fd, START, 3 * MIB + 5, 0));
	EXPECT_TRUE(all(self->raw, 3 * MIB + 6, 3 * MIB + PAGE, 0));
	EXPECT_EQ(1, room.times);
}

TEST_F(room, ftruncate)
{
	ASSERT_EQ(0, ftruncate(self->fd, 3 * MIB + 1));
	EXPECT_EQ(3 * MIB + 1, size_of(self->fd));
	EXPECT_TRUE(all(self->fd, START, 3 * MIB + 1, 0));
	EXPECT_TRUE(all(self->raw, 3 * MIB + 1, 3 * MIB + PAGE, 0));
	EXPECT_EQ(1, room.times);
}

TEST_F(room, fallocate)
{
	ASSERT_EQ(0, fallocate(self->fd, FALLOC_FL_KEEP_SIZE, 0, 3 * MIB));
	EXPECT_EQ(START, size_of(self->fd));
	EXPECT_EQ(1, room.times);
	ASSERT_EQ(0, fallocate(self->fd, 0, 0, 3 * MIB));
	EXPECT_EQ(3 * MIB, size_of(self->fd));
	EXPECT_TRUE(all(self->fd, START, 3 * MIB, 0));
	EXPECT_EQ(1, room.times);
}

/* A mapping made before sees the new pages; what stays in its place stays mapped. */
TEST_F(room, mapping)
{
	unsigned char *p = mmap(address_range(0, 4 * MIB), 4 * MIB, PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_FIXED, self->fd, 0);
	long faults;

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 'a'));
	EXPECT_EQ(SIGBUS, touch(p + PAGE, -1));
	faults = fs_counter(self->s, "faults_4k");
	ASSERT_EQ(0, ftruncate(self->fd, 4 * MIB));
	EXPECT_EQ('a', p[0]);
	EXPECT_EQ(faults, fs_counter(self->s, "faults_4k"));
	for (size_t at = PAGE; at < 4 * MIB; at += PAGE)
		ASSERT_EQ(0, p[at]);
	EXPECT_EQ(0, touch(p + 4 * MIB - 1, 'z'));
	EXPECT_EQ('z', byte_at(self->fd, 4 * MIB - 1));
	munmap(p, 4 * MIB);
}

/* The new map is elsewhere: what was mapped shows what is there now. */
TEST_F(room, moves)
{
	unsigned char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 'a'));
	room.moves = true;
	ASSERT_EQ(0, ftruncate(self->fd, CAPACITY + PAGE));
	EXPECT_NE('a', p[0]);
	EXPECT_EQ(0, touch(p, 'b'));
	EXPECT_EQ('b', byte_at(self->fd, 0));
	EXPECT_EQ('a', byte_at(self->raw, 0));
	EXPECT_TRUE(all(self->fd, START, CAPACITY + PAGE, 0));
	munmap(p, PAGE);
}

/* What fits is written; ENOSPC and other errors are for what begins behind the end. */
TEST_F(room, refused)
{
	static const int errors[] = { ENOSPC, EDQUOT, ENOSYS, EOPNOTSUPP };
	static char buf[2 * PAGE];

	for (int i = 0; i < ARRAY_SIZE(errors); i++) {
		int want = errors[i] == EDQUOT ? EDQUOT : ENOSPC;

		room.error = -errors[i];
		EXPECT_EQ(-1, ftruncate(self->fd, CAPACITY + 1));
		EXPECT_EQ(want, errno);
		EXPECT_EQ(-1, fallocate(self->fd, 0, 0, CAPACITY + 1));
		EXPECT_EQ(want, errno);
		EXPECT_EQ(-1, pwrite(self->fd, buf, 1, CAPACITY));
		EXPECT_EQ(want, errno);
		/* FUSE remembers ENOSYS. */
	}
	EXPECT_EQ(START, size_of(self->fd));
	EXPECT_EQ(PAGE, pwrite(self->fd, buf, sizeof(buf), CAPACITY - PAGE));
	EXPECT_EQ(CAPACITY, size_of(self->fd));
}

/* After O_TRUNC nothing of the memory is the file's. */
TEST_F(room, truncated)
{
	int fd = fs_open(self->s, "file", O_RDWR | O_TRUNC);

	ASSERT_LE(0, fd);
	room.map = fmap_linear(0, variant->address, 0);
	EXPECT_EQ(0, size_of(fd));
	EXPECT_EQ(5, pwrite(fd, "hello", 5, 0));
	EXPECT_EQ(1, room.times);
	EXPECT_EQ('h', byte_at(self->fd, 0));
	EXPECT_TRUE(all(self->raw, 5, PAGE, 0));
	close(fd);
}

/* The server does not answer: the task can be killed, and others read and write. */
TEST_F(room, killed)
{
	int fd = self->fd;

	room.stay = true;
	self->waiter = fork();
	ASSERT_LE(0, self->waiter);
	if (!self->waiter)
		_exit(pwrite(fd, "x", 1, CAPACITY) == 1 ? 0 : errno);
	for (int ms = 0; ms < FS_PATIENCE && !room.times; ms++)
		usleep(1000);
	EXPECT_EQ(1, room.times);
	EXPECT_EQ(1, pwrite(self->fd, "y", 1, 0));
	EXPECT_EQ(1, pwrite(self->fd, "y", 1, PAGE));
	EXPECT_EQ('y', byte_at(self->fd, PAGE));
	EXPECT_EQ(0, kill(self->waiter, SIGKILL));
	room.stay = false;
	EXPECT_EQ(SIGKILL, ended(self->waiter));
	self->waiter = 0;
	EXPECT_EQ(PAGE + 1, size_of(self->fd));
}

#define RECORD	(3 * PAGE)
#define RECORDS	40

static void *append_records(void *arg)
{
	int fd = *(int *)arg;
	static _Atomic unsigned char next = 'a';
	static __thread unsigned char buf[RECORD];

	memset(buf, next++, sizeof(buf));
	for (int i = 0; i < RECORDS; i++)
		if (write(fd, buf, sizeof(buf)) != sizeof(buf))
			return "short";
	return NULL;
}

/* Appends of several tasks that need room come one after the other, each in one piece. */
TEST_F_TIMEOUT(room, appends_of_two_tasks, 120)
{
	int fd = fs_open(self->s, "file", O_RDWR | O_APPEND);
	static unsigned char all_of_it[2 * RECORDS * RECORD];
	pthread_t threads[2];
	void *bad;

	ASSERT_LE(0, fd);
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, append_records, &fd));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(0, pthread_join(threads[i], &bad));
		EXPECT_EQ(NULL, bad);
	}
	ASSERT_EQ(START + sizeof(all_of_it), size_of(fd));
	ASSERT_EQ(sizeof(all_of_it), pread(fd, all_of_it, sizeof(all_of_it), START));
	for (size_t at = 0; at < sizeof(all_of_it); at += RECORD)
		for (size_t i = 1; i < RECORD; i++)
			ASSERT_EQ(all_of_it[at], all_of_it[at + i]);
	close(fd);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
