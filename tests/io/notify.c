// SPDX-License-Identifier: GPL-2.0
/*
 * Notifications and attributes of a mapped file, sent by the server without a
 * request.
 *
 * FUSE lets the server store pages in page caches, fetch and drop them, and follows
 * the attributes that the server reports. A mapped file has no page cache, and its
 * data are where its map says. Whatever the server sends, readers see the data on
 * the device, no page is left in memory, and the kernel log has no warning.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE		(4 * MIB)
#define SMALL		(64 * KIB)
#define BY_FUSE		'f'	/* what the server stores */
#define ON_DEVICE	'd'

/*
 * The server puts pages into what FUSE takes for the page cache of the file, asks
 * for them, and drops them. None of these pages is ever mapped.
 */
FIXTURE(notify) {
	struct fuse_server *s;
	struct scripted map, other;
	unsigned char *p;
	int fd;
};

FIXTURE_SETUP(notify)
{
	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, SIZE);
	self->other = fmap_linear(1, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "other", SIZE, &self->other, sizeof(self->other));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "file", ON_DEVICE, SIZE));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
}

FIXTURE_TEARDOWN(notify)
{
	EXPECT_EQ(0, fs_stop(self->s));
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
	return fs_notify(s, FUSE_NOTIFY_STORE, &head, sizeof(head), pages, len);
}

static int invalidate(struct fuse_server *s, int file, int64_t offset, int64_t len)
{
	struct fuse_notify_inval_inode_out head = {
		.ino = s->file[file].nodeid,
		.off = offset,
		.len = len,
	};

	return fs_notify(s, FUSE_NOTIFY_INVAL_INODE, &head, sizeof(head), NULL, 0);
}

static int retrieve(struct fuse_server *s, int file, uint64_t offset, uint32_t len)
{
	struct fuse_notify_retrieve_out head = {
		.notify_unique = 1,
		.nodeid = s->file[file].nodeid,
		.offset = offset,
		.size = len,
	};

	return fs_notify(s, FUSE_NOTIFY_RETRIEVE, &head, sizeof(head), NULL, 0);
}

/* Size of all page caches, in kB. */
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
	/* Faults find the data of the device, in old mappings and new ones. */
	q = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, q);
	EXPECT_EQ('m', q[0]);
	EXPECT_EQ(ON_DEVICE, q[2 * PAGE]);
	EXPECT_EQ('m', q[HUGE + PAGE]);
	munmap(q, SIZE);

	/* Some stored pages are still there when the files are evicted, and at unmount. */
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

/* The server stores pages while a child opens and maps the files, and evicts inodes. */
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

/* Before its first open a file has a page cache like any other, and may have pages. */
TEST_F(notify, pages_stored_before_the_first_open)
{
	struct fuse_server *s = self->s;
	struct stat st;

	ASSERT_EQ(0, stat(fs_path(s, "other"), &st));
	ASSERT_EQ(0, store(s, 1, 0, SMALL));
	ASSERT_EQ(0, store(s, 1, HUGE, SMALL));
	EXPECT_EQ(0, fs_fill(s, "other", ON_DEVICE, SIZE));
	EXPECT_EQ(ON_DEVICE, byte_at(self->fd, 0));
	munmap(self->p, SIZE);
	close(self->fd);
}

/*
 * Attributes: the server may change the size at any time. I/O and new faults end at
 * the smaller of its size and the map's. Pages that are mapped stay mapped.
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
	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->init_flags |= variant->init_flags;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_fill(self->s, "file", ON_DEVICE, SIZE));
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
		/* With a writeback cache the kernel ignores the server's size. */
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
	/* With the old size back, all data are as before. */
	EXPECT_EQ(0, touch(self->p + PAGE, -1));
	for (size_t i = 1; i < SIZE; i += 777)
		if (i != HUGE + 5 * PAGE)
			ASSERT_EQ(ON_DEVICE, self->p[i]);
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
