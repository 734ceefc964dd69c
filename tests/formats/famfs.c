// SPDX-License-Identifier: GPL-2.0
/*
 * The `famfs` program with a server that behaves like that of famfs, which is older
 * than this module:
 *
 *  - its INIT names no ops, so default_ops must;
 *  - READ, WRITE and other requests that it does not need are ENOSYS;
 *  - its nodeids are pointers;
 *  - it takes the index of a device from the nodeid of GET_DAXDEV;
 *  - a SETATTR with a size, or a GET_FMAP for a nodeid that it has forgotten, crashes
 *    it. Here, they fail the test.
 *
 * The maps were captured from such a server, and moved to where the devices of this
 * machine have space.
 *
 * Also with a server of the next generation. Its maps contain their length; if a map does
 * not fit, it sends the header alone; and it sends a striped file as the list of its
 * chunks. It offers its devices to the kernel by an ioctl that these kernels do not have,
 * holds them open, and answers INIT with a flag that has another meaning now.
 *
 * This file is long because it has a server of both generations, and the captured answers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "famfs.h"

#define DEFAULT_OPS	"/sys/module/" MODULE_NAME "/parameters/default_ops"
#define ENABLE_URING	"/sys/module/fuse/parameters/enable_uring"
#define FIRST_NODEID	0x00007f3c5c001230ULL	/* a user space pointer */
#define HEADER		32			/* bytes */
#define INIT_FLAG2_43	(1U << (43 - 32))	/* famfs's; FUSE_HAS_IO_URING_BUFPOOL now */

struct map {
	unsigned char bytes[FUSE_DAX_FMAP_BLOB_MAX];
	size_t len;
};

/* The maps of a test, too large for the stack. */
static struct map m, n;

static void put(struct map *m, const void *p, size_t len)
{
	memcpy(m->bytes + m->len, p, len);
	m->len += len;
}

static void put32(struct map *m, uint32_t v)
{
	put(m, &v, sizeof(v));
}

static void put64(struct map *m, uint64_t v)
{
	put(m, &v, sizeof(v));
}

/* Byte by byte, without famfs.h, which is under test, too. */
static void put_header(struct map *m, uint32_t ext_type, uint32_t nextents,
		       uint64_t size)
{
	static const unsigned char start[4] = { 0, 0, 1, 0 };

	m->len = 0;
	put(m, start, sizeof(start));
	put32(m, ext_type);
	put32(m, nextents);
	put32(m, 0);
	put64(m, size);
	put64(m, 0);
}

/* The length field of a map of the next generation. */
static void put_size(struct map *m, uint32_t size)
{
	memcpy(m->bytes + 12, &size, sizeof(size));
}

static void put_ext(struct map *m, uint32_t dev, uint64_t offset, uint64_t len)
{
	put32(m, dev);
	put32(m, 0);
	put64(m, offset);
	put64(m, len);
}

/* Requests that would crash the real server. */
static _Atomic unsigned int crashes;

static void setattr_hook(struct fuse_server *s, const struct fuse_in_header *in,
			 const void *arg)
{
	const struct fuse_setattr_in *set = arg;

	if ((set->valid & FATTR_SIZE) && set->size)
		crashes++;
	fs_default(s, in, arg);
}

static bool known(const struct fuse_server *s, uint64_t nodeid)
{
	for (unsigned int i = 0; i < s->nr_files; i++)
		if (s->file[i].nodeid == nodeid)
			return true;
	return false;
}

static void get_fmap_hook(struct fuse_server *s, const struct fuse_in_header *in,
			  const void *arg)
{
	if (!known(s, in->nodeid))
		crashes++;
	fs_default(s, in, arg);
}

/* The index is the nodeid, whatever the body says; and 0 in the reply. */
static void get_daxdev_hook(struct fuse_server *s,
			    const struct fuse_in_header *in, const void *arg)
{
	struct fuse_get_daxdev_out out = { 0 };

	if (in->nodeid >= 2) {
		fs_reply(s, in, -ENODEV, NULL, 0);
		return;
	}
	strcpy(out.name, daxdev[in->nodeid].path);
	fs_reply(s, in, 0, &out, sizeof(out));
}

static struct fuse_server *famfs_server(void)
{
	static const int unknown[] = {
		FUSE_READ, FUSE_WRITE, FUSE_STATFS, FUSE_FSYNC, FUSE_FLUSH,
		FUSE_GETXATTR, FUSE_LISTXATTR, FUSE_ACCESS, FUSE_FALLOCATE,
		FUSE_LSEEK, FUSE_COPY_FILE_RANGE, FUSE_POLL, FUSE_IOCTL,
	};
	struct fuse_server *s = fmap_server("");

	if (!s)
		return NULL;
	for (unsigned int i = 0; i < ARRAY_SIZE(unknown); i++)
		s->error[unknown[i]] = -ENOSYS;
	s->hook[FUSE_SETATTR] = setattr_hook;
	s->hook[FUSE_GET_FMAP] = get_fmap_hook;
	s->hook[FUSE_GET_DAXDEV] = get_daxdev_hook;
	s->init_flags |= FUSE_ATOMIC_O_TRUNC;
	return s;
}

static void add(struct fuse_server *s, const char *name, uint64_t size,
		const struct map *m)
{
	struct fs_file *f = fs_add(s, name, size, m->bytes, m->len);

	f->nodeid = FIRST_NODEID + 0x90 * s->nr_files;
}

FIXTURE(famfs) {
	struct fuse_server *s;
	char old[64];
	bool set;
};

FIXTURE_SETUP(famfs)
{
	FMAP_REQUIRE();
	ASSERT_EQ(0, read_file(DEFAULT_OPS, self->old, sizeof(self->old)));
	self->set = true;
	ASSERT_EQ(0, write_file(DEFAULT_OPS, FAMFS_OPS_NAME "\n"));
	self->s = famfs_server();
	ASSERT_NE(NULL, self->s);
}

/* In the parent: the parameter must be put back even if the test died. */
FIXTURE_TEARDOWN_PARENT(famfs)
{
	char text[72];

	if (!self->set)
		return;
	snprintf(text, sizeof(text), "%s\n", self->old);
	EXPECT_EQ(0, write_file(DEFAULT_OPS, text));
}

static void stop(struct __test_metadata *_metadata, struct fuse_server *s)
{
	EXPECT_EQ(0, crashes);
	EXPECT_EQ(0, s->malformed);
	EXPECT_EQ(0, s->count[FUSE_READ]);
	EXPECT_EQ(0, s->count[FUSE_WRITE]);
	EXPECT_EQ(0, fs_stop(s));
}

/*
 * Write the file by store and read it by read(2), and the other way round: 8 KiB across
 * the end of each 256 KiB, where chunks and extents end, and the end of the file.
 */
static void use(struct __test_metadata *_metadata, struct fuse_server *s,
		const char *name, size_t size)
{
	static unsigned char want[8 * KIB], got[8 * KIB];
	int fd = fs_open(s, name, O_RDWR);
	unsigned char *p;

	ASSERT_LE(0, fd);
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	for (size_t step = 0; step <= size; step += 256 * KIB) {
		size_t at = step ? step - PAGE : 0;
		size_t n = size - at < sizeof(want) ? size - at : sizeof(want);

		for (size_t i = 0; i < n; i++)
			want[i] = i ^ i >> 8 ^ step >> 16;
		ASSERT_EQ(n, pwrite(fd, want, n, at));
		EXPECT_EQ(0, memcmp(want, p + at, n));
		for (size_t i = 0; i < n; i += 1001)
			p[at + i] = want[i] = ~want[i];
		ASSERT_EQ(n, pread(fd, got, n, at));
		EXPECT_EQ(0, memcmp(want, got, n));
	}
	EXPECT_EQ(1, pread(fd, got, 2, size - 1));
	EXPECT_EQ(0, pread(fd, got, 1, size));
	munmap(p, size);
	close(fd);
}

/* Byte @at of a file is byte @addr of a device, which is read without the module. */
#define expect_at(dev, addr, name, at) do {				\
	unsigned char _b[16], _d[16];					\
	int _fd = fs_open(self->s, name, O_RDONLY);			\
	ASSERT_LE(0, _fd);						\
	ASSERT_EQ(16, pread(_fd, _b, 16, at));				\
	close(_fd);							\
	ASSERT_EQ(0, dax_peek(&daxdev[dev], addr, _d, 16));		\
	EXPECT_EQ(0, memcmp(_b, _d, 16));				\
} while (0)

/* Captured: 56 bytes, one extent of 2 MiB at 0, and a file of that size. */
TEST_F(famfs, simple_one_extent)
{
	put_header(&m, 0, 1, 0x200000);
	put_ext(&m, 0, 0, 0x200000);
	ASSERT_EQ(56, m.len);
	add(self->s, "file", 0x200000, &m);
	ASSERT_EQ(0, fs_mount(self->s));
	use(_metadata, self->s, "file", 0x200000);
	expect_at(0, 0, "file", 0);
	expect_at(0, 0x1ffff0, "file", 0x1ffff0);
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_DAXDEV]);
	stop(_metadata, self->s);
}

/* Captured: 80 bytes, two extents, a size that is no multiple of anything. */
TEST_F(famfs, simple_two_extents)
{
	put_header(&m, 0, 2, 0x4c4b40);
	put_ext(&m, 0, 0xa00000, 0x400000);
	put_ext(&m, 0, 0x1000000, 0x200000);
	ASSERT_EQ(80, m.len);
	add(self->s, "file", 0x4c4b40, &m);
	ASSERT_EQ(0, fs_mount(self->s));
	use(_metadata, self->s, "file", 0x4c4b40);
	expect_at(0, 0xa00000, "file", 0);
	expect_at(0, 0xdffff0, "file", 0x3ffff0);
	expect_at(0, 0x1000000, "file", 0x400000);
	expect_at(0, 0x1000000 + 0xc4b30, "file", 0x4c4b30);
	stop(_metadata, self->s);
}

/*
 * Captured: 152 bytes, four strips in chunks of 2 MiB. The strips were 1 GiB apart
 * on that machine; here they are 16 MiB apart.
 */
TEST_F(famfs, interleaved)
{
	static const uint64_t strip[4] = { 0x1000000, 0x2000000, 0x3000000, 0x4000000 };

	put_header(&m, 1, 1, 0x1800000);
	put32(&m, 4);
	put32(&m, 0x200000);
	put64(&m, 0x1800000);
	put64(&m, 0);
	for (int i = 0; i < 4; i++)
		put_ext(&m, 0, strip[i], 0x600000);
	ASSERT_EQ(152, m.len);
	add(self->s, "file", 0x1800000, &m);
	ASSERT_EQ(0, fs_mount(self->s));
	use(_metadata, self->s, "file", 0x1800000);
	for (int chunk = 0; chunk < 12; chunk++) {
		uint64_t at = chunk * 0x200000;

		expect_at(0, strip[chunk % 4] + chunk / 4 * 0x200000, "file", at);
		expect_at(0, strip[chunk % 4] + chunk / 4 * 0x200000 + 0x1ffff0,
			  "file", at + 0x1ffff0);
	}
	stop(_metadata, self->s);
}

/* Over two devices; each is requested once, with its index as nodeid. */
TEST_F(famfs, two_devices)
{
	put_header(&m, 1, 1, 0x800000);
	put32(&m, 2);
	put32(&m, 0x200000);
	put64(&m, 0x800000);
	put64(&m, 0);
	put_ext(&m, 0, 0x1000000, 0x400000);
	put_ext(&m, 1, 0x2000000, 0x400000);
	put_header(&n, 0, 1, 0x200000);
	put_ext(&n, 1, 0, 0x200000);
	add(self->s, "striped", 0x800000, &m);
	add(self->s, "simple", 0x200000, &n);
	ASSERT_EQ(0, fs_mount(self->s));
	use(_metadata, self->s, "striped", 0x800000);
	use(_metadata, self->s, "simple", 0x200000);
	expect_at(1, 0x2000000, "striped", 0x200000);
	expect_at(1, 0, "simple", 0);
	EXPECT_EQ(2, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(2, self->s->count[FUSE_GET_DAXDEV]);
	stop(_metadata, self->s);
}

/* Changes of the size would crash the server, and are refused without a request. */
TEST_F(famfs, size_changes)
{
	int fd;

	put_header(&m, 0, 1, 0x200000);
	put_ext(&m, 0, 0, 0x200000);
	add(self->s, "file", 0x200000, &m);
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(-EOPNOTSUPP, fs_open(self->s, "file", O_RDWR | O_TRUNC));
	EXPECT_EQ(-1, truncate(fs_path(self->s, "file"), 100));
	EXPECT_EQ(EOPNOTSUPP, errno);
	fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, ftruncate(fd, 0x400000));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(0, fsync(fd));
	close(fd);
	EXPECT_EQ(0, self->s->count[FUSE_SETATTR]);
	stop(_metadata, self->s);
}

/* A forgotten file is looked up again before its map is requested. */
TEST_F(famfs, forgotten)
{
	put_header(&m, 0, 1, 0x200000);
	put_ext(&m, 0, 0, 0x200000);
	add(self->s, "file", 0x200000, &m);
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_TRUE(fs_forget(self->s));
	/* The map is requested again, as it may have changed. */
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(2, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_DAXDEV]);
	stop(_metadata, self->s);
}

/* Maps that such a server would not send; each fails the open. */
TEST_F(famfs, malformed)
{
	static struct map good;
	int err;

	put_header(&good, 0, 1, 0x200000);
	put_ext(&good, 0, 0, 0x200000);
	m = good;
	add(self->s, "file", 0x200000, &m);
	ASSERT_EQ(0, fs_mount(self->s));

#define BROKEN(what, code) do {						\
	m = good;							\
	what;								\
	self->s->file[0].map_len = m.len;				\
	err = fs_try(self->s, "file");					\
	EXPECT_EQ(-(code), err) {					\
		TH_LOG("%s", #what);					\
	}								\
} while (0)

	BROKEN(m.len = 0, EBADMSG);
	BROKEN(m.len -= 1, EBADMSG);
	BROKEN(m.len += 1, EBADMSG);
	BROKEN(m.bytes[2] = 2, EOPNOTSUPP);
	BROKEN(m.bytes[4] = 7, EOPNOTSUPP);
	BROKEN(m.bytes[8] = 33, E2BIG);
	BROKEN(m.bytes[8] = 2, EBADMSG);
	BROKEN(m.bytes[18] = 0x21, EINVAL);		/* size beyond the extent */
	BROKEN(m.bytes[32] = 64, ENXIO);
	BROKEN(m.bytes[40] = 1, EINVAL);		/* offset unaligned */
	BROKEN(m.bytes[48] = 1, EINVAL);		/* length unaligned */
	BROKEN(m.bytes[47] = 0x80, EOVERFLOW);
#undef BROKEN
	m = good;
	self->s->file[0].map_len = m.len;
	EXPECT_EQ(0, fs_try(self->s, "file"));
	stop(_metadata, self->s);
}

/*
 * The next generation
 */

/* Send the header alone if the map does not fit; with the length @lie if that is not 0. */
static uint32_t lie;
static bool lie_grows;		/* the length is always a byte more than fits */

static void next_get_fmap(struct fuse_server *s, const struct fuse_in_header *in,
			  const void *arg)
{
	const struct fuse_get_fmap_in *fmap = arg;
	const struct fs_file *f = &s->file[0];
	unsigned char header[HEADER];
	uint32_t size = lie_grows ? fmap->size + 1 : lie;

	if (!size && f->map_len <= fmap->size) {
		fs_reply(s, in, 0, f->map, f->map_len);
		return;
	}
	memcpy(header, f->map, HEADER);
	if (size)
		memcpy(header + 12, &size, sizeof(size));
	fs_reply(s, in, 0, header, HEADER);
}

/* The same with the answer to OPEN. */
static void next_open(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_open_in *open = arg;
	struct {
		struct fuse_open_out open;
		struct fuse_open_fmap_out fmap;
	} out = { .fmap.size = HEADER };

	if (!(open->open_flags & FUSE_DAX_FMAP_OPEN_MAP)) {
		fs_default(s, in, arg);
		return;
	}
	memcpy(out.fmap.map, s->file[0].map, HEADER);
	if (lie)
		memcpy(out.fmap.map + 12, &lie, sizeof(lie));
	fs_reply(s, in, 0, &out, sizeof(out));
}

#define STRIPS		2
#define CHUNK		0x200000UL
#define FIRST_CHUNK	0x1000000UL	/* on both devices */

/* A file striped over both devices, as @n chunks: 512 of them are 12,320 bytes. */
static void put_unrolled(struct map *m, uint32_t n)
{
	put_header(m, 0, n, n * CHUNK);
	for (uint32_t i = 0; i < n; i++)
		put_ext(m, i % STRIPS, FIRST_CHUNK + i / STRIPS * CHUNK, CHUNK);
	put_size(m, m->len);
}

FIXTURE(next) {
	struct fuse_server *s;
	char old[64], uring[8];
	bool set, uring_set;
	int klog;
};

FIXTURE_SETUP(next)
{
	FMAP_REQUIRE();
	ASSERT_EQ(0, read_file(DEFAULT_OPS, self->old, sizeof(self->old)));
	self->set = true;
	ASSERT_EQ(0, write_file(DEFAULT_OPS, FAMFS_OPS_NAME "\n"));
	self->klog = klog_open();
	self->s = famfs_server();
	ASSERT_NE(NULL, self->s);
	self->s->hook[FUSE_GET_FMAP] = next_get_fmap;
	put_unrolled(&m, 512);
	ASSERT_EQ(0x3020, m.len);
	add(self->s, "file", 512 * CHUNK, &m);
}

FIXTURE_TEARDOWN_PARENT(next)
{
	char text[72];

	if (self->uring_set)
		EXPECT_EQ(0, write_file(ENABLE_URING, self->uring));
	if (!self->set)
		return;
	snprintf(text, sizeof(text), "%s\n", self->old);
	EXPECT_EQ(0, write_file(DEFAULT_OPS, text));
}

/* The number of GET_FMAP requests; each allows a larger map than the one before. */
#define expect_rooms(n) do {						\
	EXPECT_EQ((unsigned int)(n), self->s->count[FUSE_GET_FMAP]);	\
	for (unsigned int _i = 1; _i < self->s->nr_rooms; _i++)		\
		EXPECT_LT(self->s->room[_i - 1], self->s->room[_i]);	\
} while (0)

/* The first chunks, as far as the devices have space, are where they belong. */
#define expect_striped() do {						\
	use(_metadata, self->s, "file", 32 * CHUNK);			\
	for (int _c = 0; _c < 32; _c++)					\
		expect_at(_c % STRIPS, FIRST_CHUNK + _c / STRIPS * CHUNK, \
			  "file", _c * CHUNK);				\
} while (0)

/* use() writes to the last byte, so it wants a file of this size. */
static void shorten(struct fuse_server *s, uint32_t chunks)
{
	uint64_t size = chunks * CHUNK;

	s->file[0].size = size;
	memcpy(m.bytes + 16, &size, sizeof(size));
}

/* The map does not fit, the server sends the header alone: GET_FMAP is sent again. */
TEST_F(next, asked_again)
{
	shorten(self->s, 32);
	ASSERT_EQ(0, fs_mount(self->s));
	expect_striped();
	expect_rooms(2);
	EXPECT_EQ(FUSE_DAX_FMAP_BLOB_MIN, self->s->room[0]);
	EXPECT_LE(m.len, self->s->room[1]);
	EXPECT_EQ(2, self->s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, klog_count(self->klog, "open of inode"));
	stop(_metadata, self->s);
}

/* The longest list that fits in the largest map, and one extent more. */
TEST_F(next, longest_list)
{
	put_unrolled(&m, 43689);
	shorten(self->s, 32);
	self->s->file[0].map_len = m.len;
	ASSERT_EQ(0, fs_mount(self->s));
	expect_striped();
	expect_rooms(2);
	EXPECT_TRUE(fs_forget(self->s));

	/* The header alone tells that the map is too large. */
	self->s->count[FUSE_GET_FMAP] = 0;
	put_size(&m, m.len + 24);
	self->s->file[0].map_len = m.len + 24;
	EXPECT_EQ(-E2BIG, fs_try(self->s, "file"));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	stop(_metadata, self->s);
}

/* A server that never sends more than the header gets GET_FMAP once per size, at most. */
TEST_F(next, always_the_header)
{
	struct fuse_server *s = self->s;

	ASSERT_EQ(0, fs_mount(s));
	lie_grows = true;
	EXPECT_EQ(-E2BIG, fs_try(s, "file"));
	expect_rooms(5);
	EXPECT_EQ(FUSE_DAX_FMAP_BLOB_MAX, s->room[s->nr_rooms - 1]);
	EXPECT_EQ(1, klog_count(self->klog, "open of inode"));

	/* The map would have fit, by the length that it has. */
	lie_grows = false;
	lie = 0x3020;
	s->count[FUSE_GET_FMAP] = s->nr_rooms = 0;
	EXPECT_EQ(-EBADMSG, fs_try(s, "file"));
	expect_rooms(2);
	EXPECT_EQ(1, klog_count(self->klog, "open of inode"));

	lie = FUSE_DAX_FMAP_BLOB_MAX;
	s->count[FUSE_GET_FMAP] = s->nr_rooms = 0;
	EXPECT_EQ(-EBADMSG, fs_try(s, "file"));
	expect_rooms(2);
	EXPECT_EQ(1, klog_count(self->klog, "open of inode"));
	EXPECT_EQ(0, s->count[FUSE_GET_DAXDEV]);

	lie = 0;
	EXPECT_EQ(0, fs_try(s, "file"));
	stop(_metadata, s);
}

TEST_F(next, two_gib)
{
	ASSERT_EQ(0, fs_mount(self->s));
	lie = 1U << 31;
	EXPECT_EQ(-E2BIG, fs_try(self->s, "file"));
	lie = UINT32_MAX;
	EXPECT_EQ(-E2BIG, fs_try(self->s, "file"));
	EXPECT_EQ(2, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(2, klog_count(self->klog, "open of inode"));
	stop(_metadata, self->s);
}

/* The answer to OPEN has the header alone: GET_FMAP is sent, with a sufficient size. */
TEST_F(next, with_open)
{
	struct fuse_server *s = self->s;

	s->fmap_flags = FUSE_DAX_FMAP_MAP_IN_OPEN;
	strcpy(s->ops_name, FAMFS_OPS_NAME);
	s->hook[FUSE_OPEN] = next_open;
	shorten(s, 32);
	ASSERT_EQ(0, fs_mount(s));
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_EQ(1, s->count[FUSE_OPEN]);
	EXPECT_EQ(1, s->maps_wanted);
	expect_rooms(1);
	EXPECT_LE(m.len, s->room[0]);
	expect_striped();
	EXPECT_TRUE(fs_forget(s));

	lie = 1U << 31;
	s->count[FUSE_GET_FMAP] = 0;
	EXPECT_EQ(-E2BIG, fs_try(s, "file"));
	EXPECT_EQ(0, s->count[FUSE_GET_FMAP]);
	/* The first GET_FMAP allows a larger map than OPEN does. */
	lie = FUSE_DAX_FMAP_OPEN_MAP_MAX + 1;
	EXPECT_EQ(-EBADMSG, fs_try(s, "file"));
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	lie = FUSE_DAX_FMAP_OPEN_MAP_MAX;
	EXPECT_EQ(-EBADMSG, fs_try(s, "file"));
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	stop(_metadata, s);
}

/* The second GET_FMAP is not answered, for a while. */
static struct fuse_in_header second;
static _Atomic bool has_second;

static void hold_second(struct fuse_server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_get_fmap_in *fmap = arg;

	if (fmap->size < m.len) {
		next_get_fmap(s, in, arg);
		return;
	}
	second = *in;
	has_second = true;
}

static bool wait_for_second(void)
{
	for (int ms = 0; !has_second && ms < FS_PATIENCE; ms++)
		usleep(1000);
	return has_second;
}

static void ignore(int signal)
{
}

TEST_F(next, signal_meanwhile)
{
	struct fuse_server *s = self->s;
	pid_t pid;

	signal(SIGUSR1, ignore);
	s->hook[FUSE_GET_FMAP] = hold_second;
	ASSERT_EQ(0, fs_mount(s));

	/* A signal that is not fatal has no effect. */
	pid = fs_try_in_child(s, "file");
	ASSERT_LE(0, pid);
	ASSERT_TRUE(wait_for_second());
	EXPECT_TRUE(asleep(pid));
	EXPECT_EQ(0, kill(pid, SIGUSR1));
	EXPECT_TRUE(asleep(pid));
	EXPECT_EQ(0, fs_reply(s, &second, 0, m.bytes, m.len));
	EXPECT_EQ(0, ended(pid));
	expect_rooms(2);
	ASSERT_TRUE(fs_forget(s));

	/* A fatal signal ends the open; the answer comes too late, and is ignored. */
	has_second = false;
	pid = fs_try_in_child(s, "file");
	ASSERT_LE(0, pid);
	ASSERT_TRUE(wait_for_second());
	EXPECT_TRUE(asleep(pid));
	EXPECT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(SIGKILL, ended(pid));
	fs_reply(s, &second, 0, m.bytes, m.len);
	s->hook[FUSE_GET_FMAP] = next_get_fmap;
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_EQ(0, klog_count(self->klog, "open of inode"));
	stop(_metadata, s);
}

/* A file that ends within its last extent; and lists that are not a stripe. */
TEST_F(next, lists)
{
	struct fuse_server *s = self->s;
	uint64_t v;

	put_header(&m, 0, 3, 2 * CHUNK + 5000);
	for (int i = 0; i < 3; i++)
		put_ext(&m, i % 2, FIRST_CHUNK + i * CHUNK, i < 2 ? CHUNK : 5000);
	put_size(&m, m.len);
	s->file[0].map_len = m.len;
	s->file[0].size = 2 * CHUNK + 5000;
	ASSERT_EQ(0, fs_mount(s));
	use(_metadata, s, "file", 2 * CHUNK + 5000);
	expect_at(0, FIRST_CHUNK + 2 * CHUNK, "file", 2 * CHUNK);
	ASSERT_TRUE(fs_forget(s));

#define WITH(what, code) do {						\
	put_unrolled(&m, 64);						\
	what;								\
	s->file[0].map_len = m.len;					\
	EXPECT_EQ(-(code), fs_try(s, "file")) {				\
		TH_LOG("%s", #what);					\
	}								\
} while (0)
#define FIELD(i, at, value)						\
	(v = (value), memcpy(m.bytes + HEADER + 24 * (i) + (at), &v, 8))

	WITH(put_size(&m, m.len + 1), EBADMSG);
	WITH(put_size(&m, m.len - 1), EBADMSG);
	WITH(put_size(&m, m.len + 24), EBADMSG);
	WITH(FIELD(40, 16, CHUNK / 2), EINVAL);
	WITH(FIELD(40, 16, 2 * CHUNK), E2BIG);
	WITH(FIELD(40, 8, 0xf000000), E2BIG);
	WITH(FIELD(40, 0, 1), E2BIG);
	WITH(FIELD(4, 8, FIRST_CHUNK + CHUNK), EADDRINUSE);
	WITH((void)0, 0);
#undef FIELD
#undef WITH
	stop(_metadata, s);
}

/*
 * All famfs servers set a flag in their answer to INIT that has another meaning now. FUSE
 * does not offer it without io_uring; with io_uring it has no effect on its own.
 */
TEST_F(next, flag_43)
{
	struct fuse_server *s = self->s;

	s->init_flags |= FUSE_INIT_EXT;
	s->init_flags2 = INIT_FLAG2_43;
	ASSERT_EQ(0, fs_mount(s));
	EXPECT_EQ(0, fs_try(s, "file"));
	expect_rooms(2);
	EXPECT_EQ(0, s->init.flags2 & INIT_FLAG2_43);
	stop(_metadata, s);
}

TEST_F(next, flag_43_with_uring)
{
	struct fuse_server *s = self->s;

	if (read_file(ENABLE_URING, self->uring, sizeof(self->uring)))
		SKIP(return, "this kernel's FUSE has no io_uring");
	self->uring_set = true;
	ASSERT_EQ(0, write_file(ENABLE_URING, "Y"));
	s->init_flags |= FUSE_INIT_EXT;
	s->init_flags2 = INIT_FLAG2_43;
	ASSERT_EQ(0, fs_mount(s));
	EXPECT_EQ(0, fs_try(s, "file"));
	expect_rooms(2);
	stop(_metadata, s);
}

/* The server has the device open, and its ioctl fails: files work all the same. */
TEST_F(next, device_offered)
{
	struct {
		int32_t fd;
		uint32_t flags;
		uint64_t index;
	} arg = { 0 };
	struct fuse_server *s = self->s;

	shorten(s, 32);
	arg.fd = open(daxdev[0].path, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, arg.fd);
	ASSERT_EQ(0, fs_mount(s));
	ASSERT_EQ(0x4010e504, _IOW(229, 4, arg));
	for (arg.index = 0; arg.index < 2; arg.index++) {
		EXPECT_EQ(-1, ioctl(s->fd, _IOW(229, 4, arg), &arg));
		EXPECT_EQ(ENOTTY, errno);
	}
	expect_striped();
	EXPECT_EQ(2, s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(-1, ioctl(s->fd, _IOW(229, 4, arg), &arg));
	EXPECT_EQ(ENOTTY, errno);
	close(arg.fd);
	stop(_metadata, s);
}

/* famfs looks for this name; if it belonged to [fuse], it would expect another ABI. */
TEST(name_in_kallsyms)
{
	unsigned int found = 0;
	char line[512];
	FILE *f;

	FMAP_REQUIRE();
	f = fopen("/proc/kallsyms", "r");
	ASSERT_NE(NULL, f);
	while (fgets(line, sizeof(line), f))
		if (strstr(line, "famfs_fuse_iomap_begin")) {
			found++;
			EXPECT_EQ(NULL, strstr(line, "[fuse]"));
		}
	fclose(f);
	EXPECT_LT(0, found);
}

int main(int argc, char **argv)
{
	fmap_register("famfs.bpf.o");
	dax_peek_init();
	return test_harness_run(argc, argv);
}
