// SPDX-License-Identifier: GPL-2.0
/*
 * The `famfs` program with a server that behaves like the famfs one, which was
 * written before there was anything of this:
 *
 *  - its INIT names no ops, so default_ops has to;
 *  - it has neither READ nor WRITE, nor anything else it does not need: ENOSYS;
 *  - its nodeids are pointers;
 *  - it reads the index of a device from the nodeid of GET_DAXDEV;
 *  - a SETATTR with a size, or a GET_FMAP for a nodeid it has forgotten, crashes
 *    it. Here, they fail the test.
 *
 * The maps are answers captured from such a server, moved to where the devices of
 * this machine have room.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "famfs.h"

#define DEFAULT_OPS	"/sys/module/" MODULE_NAME "/parameters/default_ops"
#define FIRST_NODEID	0x00007f3c5c001230ULL	/* a pointer of user space */

struct map {
	unsigned char bytes[FAMFS_MAX_FMAP];
	size_t len;
};

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

/* Byte by byte, not by famfs.h: that one is under test, too. */
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

static void put_ext(struct map *m, uint32_t dev, uint64_t offset, uint64_t len)
{
	put32(m, dev);
	put32(m, 0);
	put64(m, offset);
	put64(m, len);
}

/* Requests that the real server does not survive. */
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

/* By nodeid, whatever the body says; and the index in the reply is 0. */
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
	if (fmap_missing())
		SKIP(return, "%s", fmap_missing());
	ASSERT_EQ(0, read_file(DEFAULT_OPS, self->old, sizeof(self->old)));
	self->set = true;
	ASSERT_EQ(0, write_file(DEFAULT_OPS, FAMFS_OPS_NAME "\n"));
	self->s = famfs_server();
	ASSERT_NE(NULL, self->s);
}

/* In the parent: the parameter has to be put back even if the test died. */
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
 * Write the file in one way, read it in the other: 8 KiB across the end of every
 * 256 KiB, which is where chunks and extents end, and the end of the file.
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

/* The byte of the device that a file has at @at, behind everybody's back. */
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
	struct map m;

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
	struct map m;

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
	struct map m;

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

/* Over two devices; each is asked for by its nodeid, once. */
TEST_F(famfs, two_devices)
{
	struct map m, n;

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

/* What crashes the server is refused before it gets there. */
TEST_F(famfs, size_changes)
{
	struct map m;
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

/* Forgotten files are looked up again before their map is asked for. */
TEST_F(famfs, forgotten)
{
	struct map m;

	put_header(&m, 0, 1, 0x200000);
	put_ext(&m, 0, 0, 0x200000);
	add(self->s, "file", 0x200000, &m);
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_TRUE(fs_forget(self->s));
	/* It may be another object at another place now. */
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(2, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_DAXDEV]);
	stop(_metadata, self->s);
}

/* Maps that such a server would not send; each fails the open. */
TEST_F(famfs, malformed)
{
	struct map good, m;
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

int main(int argc, char **argv)
{
	fmap_register("famfs.bpf.o");
	dax_peek_init();
	return test_harness_run(argc, argv);
}
