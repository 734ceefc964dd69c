// SPDX-License-Identifier: GPL-2.0
/*
 * A BPF program that returns wrong mappings. The verifier keeps it from harming the
 * kernel; the module must keep it from mapping memory that the file does not own. So
 * each mapping is validated whenever the program returns it, and one that breaks a rule
 * is EIO for read and write and SIGBUS for a fault, with a few lines in the log at most.
 *
 * The ops are scripted: the file's map says what the two programs return.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)

/* Lines that a repeated mistake may leave in the log: what the rate limit lets through. */
#define LOG_LINES	10

/* ---- iomap_begin ---- */

FIXTURE(mapping) {
	struct fuse_server *s;
	struct scripted map, other;
	unsigned char *p;
	int klog;
	int fd;
};

/*
 * A variant is a whole-file linear map with one thing wrong. END stands for the
 * size of the device, which is not known before the test runs.
 */
#define END	0x1234560000000000ULL

FIXTURE_VARIANT(mapping) {
	uint64_t addr;
	uint64_t length;
	uint32_t dev;
	uint32_t flags;
	int ret;
	int error;		/* of read and write; 0: EIO */
};

#define BAD_RANGE(name, a, l) \
	FIXTURE_VARIANT_ADD(mapping, name) { .addr = a, .length = l }
#define BAD(name, ...) \
	FIXTURE_VARIANT_ADD(mapping, name) { .length = SIZE, __VA_ARGS__ }

BAD_RANGE(length_0, 0, 0);
BAD_RANGE(length_negative, 0, 1ULL << 63);
BAD_RANGE(length_all_ones, 0, ~0ULL);
BAD_RANGE(length_unaligned, 0, SIZE - 1);
BAD_RANGE(length_one_byte, 0, 1);
BAD_RANGE(addr_unaligned, 1, SIZE);
BAD_RANGE(addr_half_page, 2048, SIZE);
BAD_RANGE(addr_at_end, END, PAGE);
BAD_RANGE(addr_beyond_end, END + PAGE, PAGE);
BAD_RANGE(ends_beyond_end, END - PAGE, 2 * PAGE);
BAD_RANGE(addr_all_ones, ~0ULL, PAGE);
BAD_RANGE(addr_negative, 1ULL << 63, PAGE);
BAD_RANGE(sum_wraps, -PAGE, 2 * PAGE);
BAD_RANGE(sum_wraps_to_0, -SIZE, SIZE);
BAD_RANGE(sum_is_1_shl_63, PAGE, LLONG_MAX - PAGE + 1);
BAD(undeclared_device, .dev = 1);
BAD(unknown_device, .dev = 2);
BAD(device_63, .dev = 63);
BAD(device_64, .dev = 64);
BAD(device_all_ones, .dev = ~0U);
BAD(nothing_filled, .flags = SCRIPTED_SILENT);
BAD(ret_positive, .ret = 1);
BAD(ret_int_max, .ret = INT_MAX);
BAD(ret_int_min, .ret = INT_MIN);
BAD(ret_not_an_errno, .ret = -4096);
BAD(ret_restart, .ret = -512);
BAD(ret_eio, .ret = -EIO, .error = EIO);
BAD(ret_enxio, .ret = -ENXIO, .error = ENXIO);
BAD(ret_enomem, .ret = -ENOMEM, .error = ENOMEM);
BAD(ret_eagain, .ret = -EAGAIN, .error = EAGAIN);
BAD(ret_ehwpoison, .ret = -EHWPOISON, .error = EIO);
BAD(ret_efault, .ret = -EFAULT, .error = EIO);

FIXTURE_SETUP(mapping)
{
	uint64_t addr = variant->addr;

	FMAP_REQUIRE();
	/* Three variants are near the end of the device. */
	if (addr + PAGE >= END && addr <= END + PAGE)
		addr = addr - END + daxdev[0].size;
	self->map = fmap_linear(0, 0, SIZE);
	self->map.flags = variant->flags;
	self->map.addr = addr;
	self->map.length = variant->length;
	self->map.dev_index = variant->dev;
	self->map.begin_ret = variant->ret;

	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	/* The mount has device 1, too, but the file has not declared it. */
	self->other = fmap_linear(1, 0, SIZE);
	fs_add(self->s, "other", SIZE, &self->other, sizeof(self->other));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_try(self->s, "other"));
	self->fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, self->fd);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	self->klog = klog_open();
}

FIXTURE_TEARDOWN(mapping)
{
	munmap(self->p, SIZE);
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(mapping, refused)
{
	int error = variant->error ?: EIO;
	char buf[64];
	int zero;

	EXPECT_EQ(-1, pread(self->fd, buf, sizeof(buf), 0));
	EXPECT_EQ(error, errno);
	EXPECT_EQ(-1, pwrite(self->fd, buf, sizeof(buf), 100));
	EXPECT_EQ(error, errno);
	EXPECT_EQ(SIGBUS, touch(self->p, -1));
	EXPECT_EQ(SIGBUS, touch(self->p + PAGE, 1));
	/* A fault in the middle of a system call. */
	zero = open("/dev/zero", O_RDONLY);
	ASSERT_LE(0, zero);
	EXPECT_EQ(-1, read(zero, self->p, 64));
	EXPECT_EQ(EFAULT, errno);
	close(zero);

	/* The program was called each time, and the server got no request. */
	EXPECT_LE(5, fmap_seen()->begins);
	EXPECT_EQ(0, fmap_seen()->broken);
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
	EXPECT_EQ(0, self->s->count[FUSE_WRITE]);
}

/* However often a task repeats a mistake, the log stays short. */
TEST_F(mapping, log_is_limited)
{
	char buf[64];

	for (int i = 0; i < 100; i++)
		EXPECT_EQ(-1, pread(self->fd, buf, sizeof(buf), 0));
	EXPECT_GE(LOG_LINES, klog_count(self->klog, LOG_PREFIX));
}

/* Behind the end of the file nothing is mapped, whatever the program maps. */
FIXTURE(size) {
	struct fuse_server *s;
	struct scripted map;
};

FIXTURE_SETUP(size)
{
	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
}

FIXTURE_TEARDOWN(size)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(size, beyond_the_file)
{
	unsigned char *p;
	char buf[64];
	int fd;

	/* The program maps the whole device, the file is smaller. */
	self->map.length = daxdev[0].size;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	p = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + SIZE - 1, 1));
	EXPECT_EQ(SIGBUS, touch(p + SIZE, 1));
	EXPECT_EQ(SIGBUS, touch(p + SIZE + HUGE, -1));
	EXPECT_EQ(0, pread(fd, buf, sizeof(buf), SIZE));
	EXPECT_EQ(32, pread(fd, buf, sizeof(buf), SIZE - 32));
	EXPECT_GE(0, pwrite(fd, buf, sizeof(buf), SIZE));
	munmap(p, 2 * SIZE);
	close(fd);
	EXPECT_EQ(0, fmap_seen()->broken);
}

/* A program that maps less than the request is called again for the rest. */
TEST_F(size, page_by_page)
{
	static char in[SIZE], out[SIZE];
	uint64_t begins;
	int fd;

	self->map.flags = 0;
	self->map.length = PAGE;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	/* All pages of the file are the same page of the device. */
	for (size_t i = 0; i < 8 * PAGE; i++)
		in[i] = i / PAGE + 1;
	begins = fmap_seen()->begins;
	EXPECT_EQ(8 * PAGE, pwrite(fd, in, 8 * PAGE, 0));
	EXPECT_EQ(begins + 8, fmap_seen()->begins);
	EXPECT_EQ(PAGE + 10, pread(fd, out, PAGE + 10, 5));
	EXPECT_EQ(8, out[0]);
	EXPECT_EQ(8, out[PAGE + 9]);
	close(fd);
}

/*
 * A page of a device can be mapped at one offset of one file only, as fs-dax records
 * the association in the folio. As long as it exists, a fault at another offset is
 * refused. Reads and writes associate nothing, and are allowed.
 */
FIXTURE(overlap) {
	struct fuse_server *s;
	struct scripted a, b;
	unsigned char *p, *q;
	int fd;
};

FIXTURE_SETUP(overlap)
{
	FMAP_REQUIRE();
	self->a = fmap_linear(0, 0, SIZE);
	self->b = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "a", SIZE, &self->a, sizeof(self->a));
	fs_add(self->s, "b", SIZE, &self->b, sizeof(self->b));
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(overlap)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

#define map_both() do {							\
	self->p = fs_map(self->s, "a", SIZE, PROT_READ | PROT_WRITE);	\
	self->q = fs_map(self->s, "b", SIZE, PROT_READ | PROT_WRITE);	\
	ASSERT_NE(MAP_FAILED, self->p);					\
	ASSERT_NE(MAP_FAILED, self->q);					\
} while (0)

#define unmap_both() do {						\
	munmap(self->p, SIZE);						\
	munmap(self->q, SIZE);						\
} while (0)

TEST_F(overlap, same_page_twice_in_a_file)
{
	/* Every page of the file is the same page of the device. */
	self->a.flags = 0;
	self->a.length = PAGE;
	map_both();
	EXPECT_EQ(0, touch(self->p, 1));
	EXPECT_EQ(SIGBUS, touch(self->p + PAGE, 2));
	EXPECT_EQ(SIGBUS, touch(self->p + HUGE, -1));
	EXPECT_EQ(0, touch(self->p, 3));
	unmap_both();
}

TEST_F(overlap, two_files_2m)
{
	map_both();
	EXPECT_EQ(0, touch(self->p, 1));
	EXPECT_EQ(SIGBUS, touch(self->q, 2));
	EXPECT_EQ(SIGBUS, touch(self->q + PAGE, -1));
	/* Memory that the first file has not touched has no owner yet. */
	EXPECT_EQ(0, touch(self->q + HUGE, 3));
	EXPECT_EQ(SIGBUS, touch(self->p + HUGE, 4));
	EXPECT_EQ(0, touch(self->p, 5));
	unmap_both();
}

/* PTE entries of one file within 2 MiB that the other file could map as one. */
TEST_F(overlap, two_files_4k)
{
	self->b = fmap_linear(0, PAGE, SIZE);
	map_both();
	EXPECT_EQ(0, touch(self->q + 7 * PAGE, 1));
	EXPECT_EQ(SIGBUS, touch(self->p + 8 * PAGE, 2));
	/* The first file cannot have the 2 MiB, but it can have the other pages. */
	EXPECT_EQ(0, touch(self->p + 9 * PAGE, 3));
	EXPECT_EQ(SIGBUS, touch(self->q + 8 * PAGE, 3));
	/* The other way round: the PMD entry comes first. */
	EXPECT_EQ(0, touch(self->p + HUGE, 4));
	EXPECT_EQ(SIGBUS, touch(self->q + HUGE + 100 * PAGE, 5));
	EXPECT_EQ(0, touch(self->q + 7 * PAGE, 6));
	unmap_both();
}

/* Two tasks map the same memory through two files: exactly one gets each page. */
TEST_F(overlap, race)
{
	const size_t pages = 256;
	unsigned char *got[2];
	int status;
	pid_t pid;

	self->b = fmap_linear(0, PAGE, SIZE);
	map_both();
	for (int i = 0; i < 2; i++) {
		got[i] = mmap(NULL, pages + 1, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		ASSERT_NE(MAP_FAILED, got[i]);
	}
	/* One file has PTE faults only, the other one could have PMD faults. */
	pid = fork();
	ASSERT_LE(0, pid);
	for (size_t n = 0; n < pages; n++) {
		if (pid)
			got[0][n] = !touch(self->p + n * PAGE, 1);
		else
			got[1][n + 1] = !touch(self->q + n * PAGE, 2);
	}
	if (!pid)
		_exit(0);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	/* Page n of the device; only the first file has page 0. */
	for (size_t n = 1; n < pages; n++) {
		EXPECT_EQ(1, got[0][n] + got[1][n]) {
			TH_LOG("page %zu: %d and %d", n, got[0][n], got[1][n]);
		}
	}
	unmap_both();
}

TEST_F(overlap, read_and_write_do_not_care)
{
	char c;
	int fd;

	map_both();
	EXPECT_EQ(0, touch(self->p, 1));
	fd = fs_open(self->s, "b", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, pread(fd, &c, 1, 0));
	EXPECT_EQ(1, c);
	EXPECT_EQ(1, pwrite(fd, "\2", 1, 0));
	EXPECT_EQ(2, self->p[0]);
	close(fd);
	unmap_both();
}

/* The memory has no owner any more once the mount has gone. */
TEST_F(overlap, free_after_unmount)
{
	map_both();
	EXPECT_EQ(0, touch(self->p, 1));
	unmap_both();
	EXPECT_EQ(0, fs_umount(self->s));
	for (int i = 0; i < 2; i++) {
		struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);
		unsigned char *p;

		ASSERT_NE(NULL, s);
		/* 2 MiB first, then 4 KiB in the same place. */
		self->b = fmap_linear(0, i * PAGE, SIZE);
		fs_add(s, "b", SIZE, &self->b, sizeof(self->b));
		ASSERT_EQ(0, fs_mount(s));
		p = fs_map(s, "b", SIZE, PROT_READ | PROT_WRITE);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_EQ(0, touch(p, 1));
		EXPECT_EQ(0, touch(p + HUGE + PAGE, 1));
		munmap(p, SIZE);
		EXPECT_EQ(0, fs_stop(s));
	}
}

/* ---- dax_fmap_parse ---- */

FIXTURE(parse) {
	struct fuse_server *s;
	struct scripted map;
	int klog;
};

FIXTURE_SETUP(parse)
{
	FMAP_REQUIRE();
	self->klog = klog_open();
	FMAP_MOUNT_ONE_FILE(0, SIZE);
}

FIXTURE_TEARDOWN(parse)
{
	EXPECT_EQ(0, self->s->malformed);
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(parse, errno_reaches_the_opener)
{
	static const int errors[] = {
		EINVAL, E2BIG, EBADMSG, EOPNOTSUPP, EOVERFLOW, EUCLEAN, ENOSYS,
		ENODATA, ENOENT, ERANGE, EPERM, EHWPOISON,
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(errors); i++) {
		self->map.parse_ret = -errors[i];
		EXPECT_EQ(-errors[i], fs_try(self->s, "file"));
	}
	EXPECT_TRUE(klog_wait(self->klog, LOG_PREFIX, ""));
	EXPECT_EQ(0, self->s->count[FUSE_GET_DAXDEV]);
	/* An errno of the program is not remembered, as one of the server may be. */
	self->map.parse_ret = 0;
	EXPECT_EQ(0, fs_try(self->s, "file"));
}

TEST_F(parse, senseless_codes)
{
	static const int codes[] = { 1, INT_MAX, INT_MIN, -4096, -4095, -512 };

	for (unsigned int i = 0; i < ARRAY_SIZE(codes); i++) {
		self->map.parse_ret = codes[i];
		EXPECT_GT(0, fs_try(self->s, "file")) {
			TH_LOG("dax_fmap_parse() returned %d", codes[i]);
		}
	}
	EXPECT_EQ(0, self->s->count[FUSE_GET_DAXDEV]);
}

TEST_F(parse, file_size_beyond_off_t)
{
	self->map.file_size = (uint64_t)LLONG_MAX + 1;
	EXPECT_GT(0, fs_try(self->s, "file"));
	self->map.file_size = ~0ULL;
	EXPECT_GT(0, fs_try(self->s, "file"));
	EXPECT_EQ(0, self->s->count[FUSE_GET_DAXDEV]);
}

/* The largest size of a file; the program is called for its last bytes, too. */
TEST_F(parse, file_size_llong_max)
{
	char c;
	int fd;

	self->s->file[0].size = LLONG_MAX;
	self->map.file_size = LLONG_MAX;
	fd = fs_open(self->s, "file", O_RDWR);
	if (fd < 0)
		SKIP(return, "the parser's size is refused");
	EXPECT_EQ(1, pread(fd, &c, 1, 0));
	EXPECT_EQ(-1, pread(fd, &c, 1, LLONG_MAX - 1));
	EXPECT_EQ(EIO, errno);
	close(fd);
}

/* A file that is not empty needs a device. */
TEST_F(parse, no_devices)
{
	self->map.dev_bitmap = 0;
	EXPECT_GT(0, fs_try(self->s, "file"));
	EXPECT_EQ(0, self->s->count[FUSE_GET_DAXDEV]);
}

/* An empty one needs none. */
TEST_F(parse, empty_file)
{
	char c;
	int fd;

	self->s->file[0].size = 0;
	self->map.file_size = 0;
	self->map.dev_bitmap = 0;
	fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, pread(fd, &c, 1, 0));
	close(fd);
	EXPECT_EQ(0, self->s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, self->s->count[FUSE_READ]);
}

TEST_F(parse, second_allocation)
{
	self->map.alloc_again = sizeof(self->map);
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(0, fmap_seen()->alloc_ret);
	EXPECT_EQ(-EBUSY, fmap_seen()->alloc_again_ret);
	EXPECT_EQ(sizeof(self->map), fmap_seen()->meta_buf_size);
}

TEST_F(parse, allocation_sizes)
{
	static const struct {
		uint32_t size;
		int ret;
	} tries[] = {
		{ 1, 0 },
		{ sizeof(struct scripted), 0 },
		{ FUSE_DAX_FMAP_META_MAX, 0 },
		{ FUSE_DAX_FMAP_META_MAX + 1, -EINVAL },
		{ ~0U, -EINVAL },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(tries); i++) {
		struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);

		ASSERT_NE(NULL, s);
		self->map.alloc = tries[i].size;
		fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
		ASSERT_EQ(0, fs_mount(s));
		fs_try(s, "file");
		EXPECT_EQ(tries[i].ret, fmap_seen()->alloc_ret);
		EXPECT_EQ(tries[i].ret ? 0 : tries[i].size,
			  fmap_seen()->meta_buf_size);
		/* Getters reach the last byte, and not beyond. */
		EXPECT_EQ(0, fmap_seen()->beyond);
		EXPECT_EQ(0, fs_stop(s));
	}
}

/* Metadata are optional; without them iomap_begin() finds none. */
TEST_F(parse, no_metadata)
{
	char c;
	int fd;

	self->map.alloc = 0;
	fd = fs_open(self->s, "file", O_RDWR);
	if (fd < 0)
		SKIP(return, "a file without metadata is refused");
	EXPECT_EQ(-1, pread(fd, &c, 1, 0));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(0, fmap_seen()->begin_meta_buf_size);
	EXPECT_EQ(0, fmap_seen()->broken);
	close(fd);
}

/* The arguments of iomap_begin(), as the UAPI header describes them. */
TEST_F(parse, what_the_programs_see)
{
	const struct scripted_seen *seen = fmap_seen();
	unsigned char *p;
	char buf[10];
	int fd;

	self->map.file_size = SIZE - 100;
	self->s->file[0].size = SIZE - 100;
	fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(sizeof(self->map), seen->blob_size);

	EXPECT_EQ(10, pread(fd, buf, 10, PAGE + 4090));
	EXPECT_EQ(PAGE, seen->file_offset);
	EXPECT_LE(4090 + 10, seen->length);
	EXPECT_EQ(SIZE - 100, seen->file_size);
	EXPECT_EQ(sizeof(self->map), seen->begin_meta_buf_size);
	EXPECT_EQ(seen->file_offset, seen->io_offset);

	p = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p + SIZE - 101, -1));
	EXPECT_EQ(SIZE - 1, seen->file_offset | (SIZE - 1));
	munmap(p, SIZE);
	close(fd);
	EXPECT_EQ(0, seen->broken);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
