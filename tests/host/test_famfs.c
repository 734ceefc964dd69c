// SPDX-License-Identifier: GPL-2.0
/*
 * bpf/famfs.bpf.c, compiled for the host: maps as a real server sent them, where the program
 * finds each page, which maps it refuses, and with which errno.
 *
 * The file is long because the maps of that server are here byte by byte.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "layout.h"
#include "famfs_map.h"

extern struct fuse_dax_fmap_ops famfs;

static bool matches(struct layout *layout)
{
	struct map m = encode(layout);
	bool result = layout_matches(layout, &famfs, m.blob, m.size);

	free(m.blob);
	layout_free(layout);
	return result;
}

/* Four strips in chunks of 2 MiB; the length field is 0, or the size of the map. */
#define INTERLEAVE(size) {						\
	0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, (size), 0, 0, 0,		\
	0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,		\
	4, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0x80, 1, 0, 0, 0, 0,		\
	0, 0, 0, 0, 0, 0, 0, 0,						\
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0,		\
	0, 0, 0x60, 0, 0, 0, 0, 0,					\
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0,		\
	0, 0, 0x60, 0, 0, 0, 0, 0,					\
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0,		\
	0, 0, 0x60, 0, 0, 0, 0, 0,					\
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,			\
	0, 0, 0x60, 0, 0, 0, 0, 0,					\
}

/*
 * What a real server sent, byte by byte
 */
static void test_golden(void)
{
	static const __u8 simple[56] = {
		0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0x20, 0, 0, 0, 0, 0,
	};
	static const __u8 two_extents[80] = {
		0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
		0x40, 0x4b, 0x4c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa0, 0, 0, 0, 0, 0,
		0, 0, 0x40, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0,
		0, 0, 0x20, 0, 0, 0, 0, 0,
	};
	static const __u8 interleave[152] = INTERLEAVE(0);
	struct layout *l;
	struct extent *e;

	l = layout_new(0x200000);
	extent_strip(layout_extent(l, 0x200000, 0), 0, 0);
	ok(layout_matches(l, &famfs, simple, sizeof(simple)), "golden: simple, one extent");
	layout_free(l);

	l = layout_new(5000000);
	extent_strip(layout_extent(l, 0x400000, 0), 0, 0xa00000);
	extent_strip(layout_extent(l, 0x200000, 0), 0, 0x1000000);
	ok(layout_matches(l, &famfs, two_extents, sizeof(two_extents)),
	   "golden: simple, two extents");
	layout_free(l);

	l = layout_new(0x1800000);
	e = layout_extent(l, 0x1800000, 0x200000);
	for (__u64 i = 1; i <= 4; i++)
		extent_strip(e, 0, i * 0x40000000);
	ok(layout_matches(l, &famfs, interleave, sizeof(interleave)),
	   "golden: interleaved over four strips");
	layout_free(l);
}

/* The same from a server that has the size of the map in the header; and wrong sizes. */
static void test_golden_sized(void)
{
	static const __u8 one_extent[56] = {
		0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x38, 0, 0, 0,
		0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0,
		0, 0, 0x20, 0, 0, 0, 0, 0,
	};
	static const __u8 interleave[152] = INTERLEAVE(0x98);
	static const struct { const __u8 *blob; __u32 size; const char *name; } maps[] = {
		{ one_extent, sizeof(one_extent), "simple" },
		{ interleave, sizeof(interleave), "interleave" },
	};
	struct layout *l;
	struct extent *e;

	l = layout_new(0x200000);
	extent_strip(layout_extent(l, 0x200000, 0), 0, 0x200000);
	ok(layout_matches(l, &famfs, one_extent, sizeof(one_extent)),
	   "golden, with its size: simple");
	layout_free(l);

	l = layout_new(0x1800000);
	e = layout_extent(l, 0x1800000, 0x200000);
	for (__u64 i = 1; i <= 4; i++)
		extent_strip(e, 0, i * 0x40000000);
	ok(layout_matches(l, &famfs, interleave, sizeof(interleave)),
	   "golden, with its size: interleaved over four strips");
	layout_free(l);

	for (int n = 0; n < 2; n++) {
		static const __u32 steps[] = { 1, -1, 24, -24, 1U << 31, 1 << 20, -32 };
		bool all = true;

		for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
			struct map m = map_from(maps[n].blob, maps[n].size);
			struct file file;

			m.header->fmap_size += steps[i];
			if (m.header->fmap_size)
				all = all && file_open(&file, &famfs, m.blob, m.size) == -EBADMSG;
			free(m.blob);
		}
		ok(all, "EBADMSG: %s, with another size", maps[n].name);
	}
}

/* A header alone: the map has @fmap_size bytes, and the buffer was smaller. */
static void test_no_room(void)
{
	static const __u8 golden[32] = {
		0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0x20, 0x30, 0, 0,
		0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	};
	static const struct {
		__u32 fmap_size, room;
		int err;
	} cases[] = {
		{ 0x3020, 504, ERANGE }, { 0x3020, 4096, ERANGE }, { 0x3020, 0x301f, ERANGE },
		{ 0x3020, 0x3020, EBADMSG }, { 0x3020, 16384, EBADMSG },
		{ 56, 4096, EBADMSG }, { 33, 4096, EBADMSG }, { 31, 4096, EBADMSG },
		{ 1, 4096, EBADMSG }, { 505, 504, ERANGE }, { 504, 504, EBADMSG },
		{ 4096, 4096, EBADMSG }, { 4097, 4096, ERANGE },
		{ FUSE_DAX_FMAP_BLOB_MAX, 4096, ERANGE },
		{ FUSE_DAX_FMAP_BLOB_MAX, FUSE_DAX_FMAP_BLOB_MAX, EBADMSG },
		{ FUSE_DAX_FMAP_BLOB_MAX + 1, 4096, E2BIG },
		{ 1U << 31, 4096, E2BIG }, { ~0U, FUSE_DAX_FMAP_BLOB_MAX, E2BIG },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct map m = map_from(golden, sizeof(golden));
		struct file file;
		__u32 wanted = 0;
		int err;

		m.header->fmap_size = cases[i].fmap_size;
		err = file_open_in_room(&file, &famfs, m.blob, m.size, cases[i].room, &wanted);
		ok(err == -cases[i].err && wanted == (err == -ERANGE ? cases[i].fmap_size : 0),
		   "%s: a header alone, of %#x bytes in a room of %#x", strerror(cases[i].err),
		   cases[i].fmap_size, cases[i].room);
		free(m.blob);
	}
}

static void test_shapes(void)
{
	struct layout *l = layout_new(3 * PAGE - 1);
	struct extent *e;
	struct map m;
	bool same = true;

	ok(matches(layout_new(0)), "an empty file");

	/* The server may name the bytes that it uses, and strips may be longer than needed. */
	e = layout_extent(l, 3 * PAGE, 2 * MiB);
	extent_strip(e, 0, 0);
	extent_strip(e, 1, 2 * MiB);
	m = map_new(3 * PAGE - 1, FAMFS_EXT_INTERLEAVE);
	add_iext(&m, 2, 2 * MiB, 3 * PAGE - 1);
	add_ext(&m, 0, 0, 6 * MiB);
	add_ext(&m, 1, 2 * MiB, 2 * MiB);
	ok(layout_matches(l, &famfs, m.blob, m.size),
	   "nbytes of the last extent is no multiple of a page, a strip is too long");
	free(m.blob);
	layout_free(l);

	l = layout_new(64 * MiB - 1);
	for (__u64 i = 0; i < 32; i++)
		extent_strip(layout_extent(l, 2 * MiB, 0), 63 - i, i * 4 * MiB);
	ok(matches(l), "32 simple extents on 32 devices");

	l = layout_new(1 * GiB);
	e = layout_extent(l, 1 * GiB, 4 * MiB);
	for (__u64 i = 0; i < 32; i++)
		extent_strip(e, i, (40 - i) * GiB);
	ok(matches(l), "interleaved over 32 strips");

	l = layout_new(0);
	for (__u64 i = 0; i < 32; i++) {
		e = layout_extent(l, 6 * MiB, 2 * MiB);
		for (__u64 j = 0; j < 4; j++)
			extent_strip(e, j, (i * 3 + j) * 8 * MiB);
	}
	l->file_size = 32 * 6 * MiB;
	ok(matches(l), "32 interleaved extents of 4 strips");

	for (int i = 0; same && i < 40; i++)
		same = matches(layout_random(1 + random_below(32), 4, 2 * MiB,
					     i % 2 ? LINEAR : INTERLEAVED));
	ok(same, "40 random layouts");
}

/*
 * What is refused
 */
static int open_map(const struct map *m)
{
	struct file file;
	int err = file_open(&file, &famfs, m->blob, m->size);

	if (!err)
		file_close(&file);
	return err;
}

/* 4 MiB and 2 MiB on devices 0 and 1. */
static struct map simple_example(void)
{
	struct map m = map_new(6 * MiB, FAMFS_EXT_SIMPLE);

	add_ext(&m, 0, 8 * MiB, 4 * MiB);
	add_ext(&m, 1, 0, 2 * MiB);
	return m;
}

/* 10 MiB over two strips of device 0, 4 MiB on a single one of device 1. */
static struct map interleave_example(void)
{
	struct map m = map_new(14 * MiB, FAMFS_EXT_INTERLEAVE);

	add_iext(&m, 2, 2 * MiB, 10 * MiB);
	add_ext(&m, 0, 32 * MiB, 6 * MiB);
	add_ext(&m, 0, 16 * MiB, 6 * MiB);
	add_iext(&m, 1, 2 * MiB, 4 * MiB);
	add_ext(&m, 1, 0, 4 * MiB);
	return m;
}

/* The example, after @change, fails with @error; with 0, it is accepted. */
#define CHANGED(error, example, what, change)					\
	do {									\
		struct map m = example##_example();				\
		struct famfs_header *h = m.header;				\
		struct famfs_simple_ext *ext = (void *)(h + 1);			\
		struct famfs_iext *ie = (void *)(h + 1);			\
		struct famfs_simple_ext *s = (void *)(ie + 1);			\
		int err;							\
										\
		(void)h, (void)ie, (void)s, (void)ext;				\
		change;								\
		err = open_map(&m);						\
		if (err != -(error))						\
			comment("%s instead of %s", strerror(-err), strerror(error)); \
		ok(err == -(error), "%s: " #example ", %s",			\
		   (error) ? #error : "accepted", what);			\
		free(m.blob);							\
	} while (0)

static bool refused_when_cut(struct map m)
{
	bool all = true;

	while (m.size-- && all) {
		int err = open_map(&m);

		all = err == -EBADMSG;
		if (!all)
			comment("%u bytes: %s", m.size, strerror(-err));
	}
	free(m.blob);
	return all;
}

static void test_refused(void)
{
	ok(refused_when_cut(simple_example()), "EBADMSG: simple, cut at any byte");
	ok(refused_when_cut(interleave_example()), "EBADMSG: interleave, cut at any byte");

	CHANGED(0, simple, "as it is", (void)0);
	CHANGED(0, simple, "a superblock", h->file_type = FAMFS_FILE_SUPERBLOCK);
	CHANGED(0, simple, "a log", h->file_type = FAMFS_FILE_LOG);
	CHANGED(EOPNOTSUPP, simple, "file type 3", h->file_type = 3);
	CHANGED(EOPNOTSUPP, simple, "version 0", h->fmap_version = 0);
	CHANGED(EOPNOTSUPP, simple, "version 2", h->fmap_version = 2);
	CHANGED(EOPNOTSUPP, simple, "extent type 2", h->ext_type = 2);
	CHANGED(EBADMSG, simple, "reserved0 of the header", h->reserved0 = 1);
	CHANGED(EBADMSG, simple, "fmap_size 1", h->fmap_size = 1);
	CHANGED(0, simple, "fmap_size as it is", h->fmap_size = m.size);
	CHANGED(EBADMSG, simple, "reserved2 of the header", h->reserved2 = 1);
	CHANGED(EBADMSG, simple, "reserved of an extent", ext[1].reserved = 1);
	CHANGED(EBADMSG, simple, "a byte left over", m.size++);
	CHANGED(EBADMSG, simple, "an extent left over", m.size += 24);
	CHANGED(EBADMSG, simple, "an extent too few", h->nextents++);
	CHANGED(E2BIG, simple, "33 extents", add_exts(&m, 31));
	CHANGED(E2BIG, simple, "as many extents as 32 bits hold", h->nextents = ~0);
	CHANGED(EINVAL, simple, "no extents", h->nextents = 0; m.size = 32);
	CHANGED(EINVAL, simple, "a file larger than its extents", h->file_size++);
	CHANGED(0, simple, "a file smaller than its extents", h->file_size = 1);
	CHANGED(EINVAL, simple, "length 0", ext[0].len = 0);
	CHANGED(EINVAL, simple, "length of 2 MiB + 4 KiB", ext[1].len += PAGE);
	CHANGED(0, simple, "the file ends with an extent of 1 byte",
		ext[1].len = 1; h->file_size = 4 * MiB + 1);
	CHANGED(0, simple, "the file ends with an extent of 2 MiB - 1",
		ext[1].len--; h->file_size--);
	CHANGED(EINVAL, simple, "the file ends a byte before an extent of 1 MiB",
		ext[1].len = MiB; h->file_size = 5 * MiB - 1);
	CHANGED(EINVAL, simple, "the file ends a byte behind an extent of 1 MiB",
		ext[1].len = MiB; h->file_size = 5 * MiB + 1);
	CHANGED(EINVAL, simple, "an extent of 1 MiB, not the last one",
		ext[0].len = MiB; h->file_size = MiB);
	CHANGED(EINVAL, simple, "offset of 4 KiB", ext[1].offset += PAGE);
	CHANGED(E2BIG, simple, "16 TiB", ext[1].len = 16 * TiB);
	CHANGED(ENXIO, simple, "device 64", ext[1].devindex = 64);
	CHANGED(EOVERFLOW, simple, "the end at 2^63", ext[1].offset = (1ULL << 63) - 2 * MiB);
	CHANGED(0, simple, "the end just before", ext[1].offset = (1ULL << 63) - 4 * MiB);
	CHANGED(EOVERFLOW, simple, "the end wrapped around", ext[1].offset = -2 * MiB);
	CHANGED(EADDRINUSE, simple, "overlap at the front",
		ext[1].devindex = 0; ext[1].offset = 8 * MiB);
	CHANGED(EADDRINUSE, simple, "overlap at the back",
		ext[1].devindex = 0; ext[1].offset = 10 * MiB);
	CHANGED(0, simple, "just before", ext[1].devindex = 0; ext[1].offset = 6 * MiB);
	CHANGED(0, simple, "just behind", ext[1].devindex = 0; ext[1].offset = 12 * MiB);

	CHANGED(0, interleave, "as it is", (void)0);
	CHANGED(EBADMSG, interleave, "reserved of an extent", ie->reserved = 1);
	CHANGED(EBADMSG, interleave, "reserved of a strip", s[1].reserved = 1);
	CHANGED(EBADMSG, interleave, "a byte left over", m.size++);
	CHANGED(EBADMSG, interleave, "a strip left over", m.size += 24);
	CHANGED(EBADMSG, interleave, "more strips than there are", ie->nstrips += 2);
	CHANGED(EINVAL, interleave, "no strips", ie->nstrips = 0);
	CHANGED(E2BIG, interleave, "33 strips", ie->nstrips = 33);
	CHANGED(EINVAL, interleave, "chunk size 0", ie->chunk_size = 0);
	CHANGED(EINVAL, interleave, "chunk size 4 KiB", ie->chunk_size = PAGE);
	CHANGED(EINVAL, interleave, "nbytes 0", ie->nbytes = 0);
	CHANGED(EINVAL, interleave, "nbytes + 1 but not in the last extent", ie->nbytes++);
	CHANGED(EINVAL, interleave, "a file of 4 KiB, and nbytes 1",
		h->nextents = 1; m.size = 32 + 72; ie->nbytes = 1; h->file_size = PAGE);
	CHANGED(EINVAL, interleave, "a file of 2 bytes, and nbytes 1",
		h->nextents = 1; m.size = 32 + 72; ie->nbytes = 1; h->file_size = 2);
	CHANGED(0, interleave, "a file of 1 byte, and nbytes 1",
		h->nextents = 1; m.size = 32 + 72; ie->nbytes = 1; h->file_size = 1);
	CHANGED(E2BIG, interleave, "nbytes ~0",
		((struct famfs_iext *)&s[2])->nbytes = ~0ULL);
	CHANGED(E2BIG, interleave, "nbytes of 16 TiB", ie->nbytes = 16 * TiB);
	CHANGED(EINVAL, interleave, "a strip one row short", s[1].len -= 2 * MiB);
	CHANGED(0, interleave, "a strip one row long", s[1].len += 2 * MiB);
	CHANGED(EINVAL, interleave, "a file larger than its extents", h->file_size++);
	CHANGED(ENXIO, interleave, "device 64", s[1].devindex = 64);
	CHANGED(EADDRINUSE, interleave, "strips of one extent overlap",
		s[1].offset = 28 * MiB);
	CHANGED(EADDRINUSE, interleave, "strips of two extents overlap",
		s[3].devindex = 0; s[3].offset = 18 * MiB);
	CHANGED(E2BIG, interleave, "a reply of more than 4096 bytes",
		for (int i = 0; i < 6; i++)
			add_exts(&m, add_iext(&m, 28, 2 * MiB, 56 * MiB)->nstrips));
}

/*
 * Striped files that come as lists of their chunks
 */

/*
 * Each extent of a list is found where the list has it, from its first page to its last, and
 * an answer goes beyond it only as far as the list continues there.
 */
static bool list_matches(const struct map *m)
{
	const struct famfs_simple_ext *e = (void *)(m->header + 1);
	__u32 n = m->header->nextents;
	__u64 *end = calloc(n, sizeof(*end)), at = 0;
	struct fuse_iomap_io io;
	struct file file;
	bool same = true;
	int err;

	err = file_open(&file, &famfs, m->blob, m->size);
	if (err) {
		comment("open: %s", strerror(-err));
		free(end);
		return false;
	}
	/* How many bytes follow each other on the device, from the start of an extent on. */
	for (__u32 i = n; i--; ) {
		end[i] = (e[i].len + PAGE - 1) / PAGE * PAGE;
		if (i + 1 < n && e[i + 1].devindex == e[i].devindex &&
		    e[i + 1].offset == e[i].offset + e[i].len)
			end[i] += end[i + 1];
	}
	same = file.size == m->header->file_size && file.meta_size < 4096;
	for (__u32 i = 0; same && i < n; at += e[i++].len) {
		__u64 pages = (e[i].len + PAGE - 1) / PAGE;
		__u64 some[] = { 0, pages - 1, random_below(pages) };

		same = file.dev_bitmap >> e[i].devindex & 1;
		for (int j = 0; same && j < 3; j++)
			same = !file_resolve(&file, at + some[j] * PAGE, &io) &&
			       io.dev_index == e[i].devindex &&
			       io.addr == e[i].offset + some[j] * PAGE &&
			       io.length >= (pages - some[j]) * PAGE &&
			       io.length <= end[i] - some[j] * PAGE;
		if (!same)
			comment("extent %u: device %u, %#llx+%#llx", i, io.dev_index, io.addr,
				io.length);
	}
	same = same && file_resolve(&file, (at + PAGE - 1) / PAGE * PAGE, &io) == -ERANGE;
	file_close(&file);
	free(end);
	return same;
}

/* @n strips for @rows chunks each, with @gap bytes between them; not in order. */
static struct strip *strips(__u32 n, __u64 rows, __u64 chunk, __u64 gap)
{
	struct strip *at = calloc(n, sizeof(*at));

	for (__u32 i = 0; i < n; i++)
		at[i] = (struct strip){ i % 4, ((i * 7ULL) % n) * (rows * chunk + gap), 0 };
	/* The same where 7 divides n. */
	for (__u32 i = 0; n % 7 == 0 && i < n; i++)
		at[i].offset = (n - 1 - i) * (rows * chunk + gap);
	return at;
}

static struct map striped(__u32 n, __u32 nr_extents, __u64 chunk, __u64 last)
{
	struct strip *at = strips(n, (nr_extents + n - 1) / n, chunk, 0);
	struct map m = unrolled(at, n, nr_extents, chunk, last);

	free(at);
	return m;
}

static bool striped_matches(__u32 n, __u32 nr_extents, __u64 chunk, __u64 last)
{
	struct map m = striped(n, nr_extents, chunk, last);
	bool same = list_matches(&m);

	if (!same)
		comment("%u extents over %u strips, chunks of %#llx, the last one %#llx",
			nr_extents, n, chunk, last);
	free(m.blob);
	return same;
}

static void test_unrolled(void)
{
	static const __u32 over[] = { 1, 2, 3, 6, 7, 8, 15, 16, 31, 32, 33, 64, 255, 256 };
	static const __u32 many[] = { 33, 34, 40, 63, 64, 65, 257, 258, 511, 512, 513, 2000 };
	static const __u64 lasts[] = { 1, PAGE - 1, PAGE, PAGE + 1, MiB, 2 * MiB - 1, 2 * MiB };
	unsigned long before;
	bool same = true;
	struct map m;

	for (size_t i = 0; i < sizeof(over) / sizeof(*over); i++)
		for (size_t j = 0; same && j < sizeof(many) / sizeof(*many); j++)
			if (many[j] > over[i])
				same = striped_matches(over[i], many[j], 2 * MiB, 2 * MiB);
	ok(same, "unrolled: 33 to 2,000 extents over 1 to 256 strips, metadata below 4 KiB");

	for (__u32 i = 33; same && i < 50; i++)
		for (size_t j = 0; same && j < sizeof(lasts) / sizeof(*lasts); j++)
			same = striped_matches(8, i, 2 * MiB, lasts[j]) &&
			       striped_matches(1, i, 2 * MiB, lasts[j]) &&
			       striped_matches(6, i, 6 * MiB, 2 * MiB * (j % 3) + lasts[j]);
	ok(same, "unrolled: the last extent may be shorter");

	/* The longest list that 1 MiB takes. */
	before = nr_kfuncs;
	m = striped(8, 43689, 2 * MiB, 12345);
	ok(m.size <= FUSE_DAX_FMAP_BLOB_MAX && m.size + 24 > FUSE_DAX_FMAP_BLOB_MAX &&
	   list_matches(&m), "unrolled: 43,689 extents over 8 strips");
	ok(nr_kfuncs - before <= 2 * 43689 + 2000, "unrolled: they are read twice at most (%lu)",
	   nr_kfuncs - before);
	free(m.blob);
	before = nr_kfuncs;
	ok(striped_matches(256, 43689, 2 * MiB, 2 * MiB) &&
	   nr_kfuncs - before <= 2 * 43689 + 256 * 255 / 2 + 2000,
	   "unrolled: so are those over 256 strips, and strips compared with each other (%lu)",
	   nr_kfuncs - before);
	ok(striped_matches(1, 43689, 2 * MiB, 1), "unrolled: 43,689 extents in a row");
	ok(striped_matches(2, 512, 32768 * MiB - 2 * MiB, 1), "unrolled: nearly 16 TiB");

	/* The same without the size in the header; and with a file that ends before its map. */
	m = striped(8, 512, 2 * MiB, 2 * MiB);
	m.header->fmap_size = 0;
	ok(list_matches(&m), "unrolled: without its size in the header");
	m.header->file_size = 1;
	ok(list_matches(&m), "unrolled: a file that uses one byte of it");
	free(m.blob);
}

static int open_striped(__u32 n, __u32 nr_extents, __u64 chunk, __u64 last)
{
	struct map m = striped(n, nr_extents, chunk, last);
	int err = open_map(&m);

	free(m.blob);
	return err;
}

/* 100 extents of 4 MiB over 8 strips, the last one of 2 MiB, 1 GiB apart on four devices. */
static struct map unrolled_example(void)
{
	struct strip at[8];

	for (__u32 i = 0; i < 8; i++)
		at[i] = (struct strip){ i % 4, (8 - i) * GiB, 0 };
	return unrolled(at, 8, 100, 4 * MiB, 2 * MiB);
}

static void test_unrolled_refused(void)
{
	CHANGED(0, unrolled, "as it is", (void)0);
	CHANGED(EINVAL, unrolled, "a file larger than its extents", h->file_size++);
	CHANGED(EBADMSG, unrolled, "its size in the header + 1", h->fmap_size++);
	CHANGED(EBADMSG, unrolled, "its size in the header - 24", h->fmap_size -= 24);
	CHANGED(EBADMSG, unrolled, "a byte too few", m.size--);
	CHANGED(EBADMSG, unrolled, "an extent too few", m.size -= 24);
	CHANGED(E2BIG, unrolled, "an extent too few, but for the number",
		m.size -= 24; h->fmap_size -= 24);
	CHANGED(E2BIG, unrolled, "interleaved", h->ext_type = FAMFS_EXT_INTERLEAVE);
	CHANGED(EBADMSG, unrolled, "reserved of an extent", ext[50].reserved = 1);
	CHANGED(EINVAL, unrolled, "a length of 0", ext[50].len = 0);
	CHANGED(EINVAL, unrolled, "a short extent in the middle", ext[50].len = 1 * MiB);
	CHANGED(EINVAL, unrolled, "the first one short", ext[0].len--);
	CHANGED(E2BIG, unrolled, "one of 2 MiB in the middle", ext[50].len = 2 * MiB);
	CHANGED(E2BIG, unrolled, "one of 6 MiB in the middle", ext[50].len = 6 * MiB);
	CHANGED(E2BIG, unrolled, "a last one of 6 MiB",
		ext[99].len = 6 * MiB; h->file_size += 4 * MiB);
	CHANGED(EINVAL, unrolled, "a last one of 1 MiB, and the file ends before it does",
		ext[99].len = MiB; h->file_size -= MiB + 1);
	CHANGED(0, unrolled, "a last one of 1 MiB, and the file ends with it",
		ext[99].len = MiB; h->file_size -= MiB);
	CHANGED(EINVAL, unrolled, "an unaligned offset", ext[50].offset += PAGE);
	CHANGED(ENXIO, unrolled, "device 64", ext[50].devindex = 64);
	CHANGED(E2BIG, unrolled, "another device", ext[50].devindex ^= 1);
	CHANGED(EOVERFLOW, unrolled, "the end at 2^63", ext[50].offset = (1ULL << 63) - 4 * MiB);
	CHANGED(E2BIG, unrolled, "two change places",
		struct famfs_simple_ext e = ext[50]; ext[50] = ext[51]; ext[51] = e);
	CHANGED(E2BIG, unrolled, "chunks of 16 TiB", ext[0].len = 16 * TiB);
	CHANGED(E2BIG, unrolled, "one too many for a stripe",
		add_ext(&m, 63, 0, 4 * MiB); h->fmap_size += 24);

	ok(open_striped(257, 600, 2 * MiB, 2 * MiB) == -E2BIG, "E2BIG: over 257 strips");
	ok(open_striped(40, 40, 2 * MiB, 2 * MiB) == -E2BIG, "E2BIG: 40 extents in one row");
	ok(open_striped(2, 512, 32768 * MiB, 32768 * MiB) == -E2BIG, "E2BIG: 16 TiB");
	ok(open_striped(2, 512, 32768 * MiB, 32768 * MiB - PAGE + 1) == -E2BIG,
	   "E2BIG: 16 TiB but for less than a page");
}

static void test_unrolled_overlap(void)
{
	bool all = true;

	/* Strips 0 and 5 on one device, 12 rows of 4 MiB each, strip 5 has another one. */
	for (__s64 apart = -16; apart <= 16; apart++) {
		bool is_apart = apart <= -13 || apart >= 13;
		struct strip at[8];
		struct map m;
		int err;

		for (__u32 i = 0; i < 8; i++)
			at[i] = (struct strip){ i, GiB, 0 };
		at[5].dev = 0;
		at[5].offset += apart * 4 * MiB;
		m = unrolled(at, 8, 8 * 13, 4 * MiB, 4 * MiB);
		err = open_map(&m);
		if (err != (is_apart ? 0 : -EADDRINUSE)) {
			comment("%lld chunks apart: %s", apart, strerror(-err));
			all = false;
		}
		free(m.blob);
	}
	ok(all, "EADDRINUSE: two strips of 13 chunks, less than 13 chunks apart");

	/* The last row ends with strip 3, whose last extent is short: only its bytes count. */
	for (__s64 apart = -20; apart <= 20; apart++) {
		struct strip at[8];
		struct map m;
		bool good;
		int err;

		for (__u32 i = 0; i < 8; i++)
			at[i] = (struct strip){ i, GiB, 0 };
		at[3].dev = 0;
		at[3].offset += apart * 2 * MiB;
		m = unrolled(at, 8, 8 * 6 + 4, 4 * MiB, 2 * MiB);
		good = valid(&m);
		err = open_map(&m);
		if (err != (good ? 0 : -EADDRINUSE)) {
			comment("%lld apart: %s", apart, strerror(-err));
			all = false;
		}
		free(m.blob);
	}
	ok(all, "EADDRINUSE: exactly where there is an overlap, with a short last extent");
}

/* Each extent is moved to many places: what is accepted is resolved correctly. */
static void test_unrolled_moved(void)
{
	static const __s64 steps[] = { 1, -1, 2, -2, 8, -8, 100, 1000 };
	unsigned int accepted = 0;
	bool all = true;

	for (__u32 n = 1; n <= 8; n += 7)
		for (__u32 i = 0; all && i < 512; i++)
			for (size_t j = 0; all && j < sizeof(steps) / sizeof(*steps) + 1; j++) {
				struct map m = striped(n, 512, 2 * MiB, 2 * MiB);
				struct famfs_simple_ext *e = (void *)(m.header + 1);
				int err;

				for (__u32 k = 0; k < 512; k++)
					e[k].offset += 4 * GiB;
				if (j < sizeof(steps) / sizeof(*steps))
					e[i].offset += steps[j] * 2 * MiB;
				else
					e[i].devindex = 50;
				err = open_map(&m);
				all = err ? err == -E2BIG || err == -EADDRINUSE : list_matches(&m);
				accepted += !err;
				if (!all)
					comment("extent %u, step %zu: %s", i, j, strerror(-err));
				free(m.blob);
			}
	ok(all && !accepted, "one extent moved: E2BIG, or EADDRINUSE where another is");
}

/*
 * Maps damaged at random: accepted if and only if they are valid.
 */
static void damage(struct map *m)
{
	static const __u64 values[] = { 0, 1, 2, 3, 63, 64, 4096, 2 * MiB, 4 * MiB, 6 * MiB,
					8 * MiB, 1ULL << 32, 16 * TiB, 1ULL << 63, ~0ULL };
	static const __u32 steps[] = { 1, -1, 2 << 20, -(2 << 20) };
	__u32 at = random_below(m->size / 4) * 4;
	__u64 value = values[random_below(sizeof(values) / sizeof(*values))];

	switch (random_below(4)) {
	case 0:
		memcpy(m->blob + at, &value, at + 8 <= m->size ? 4 + random_below(2) * 4 : 4);
		break;
	case 1:
		memcpy(m->blob + at, m->blob + random_below(m->size / 4) * 4, 4);
		break;
	case 2:
		*(__u32 *)(m->blob + at) += steps[random_below(4)];
		break;
	case 3:
		m->blob[random_below(m->size)] = random_number();
		break;
	}
}

static void test_damaged(void)
{
	unsigned int accepted = 0, wrong = 0, rounds = 100000;

	for (unsigned int i = 0; i < rounds && !wrong; i++) {
		struct map m = i % 4 == 0 ? unrolled_example() :
			       i % 2 ? simple_example() : interleave_example();
		bool good;

		for (__u64 n = random_below(3); n != (__u64)-1; n--)
			damage(&m);
		good = valid(&m);
		accepted += good;
		wrong += good != !open_map(&m);
		if (good && m.header->nextents > 32)
			wrong += !list_matches(&m);
		if (wrong)
			comment("round %u: %s", i, good ? "refused" : "accepted");
		free(m.blob);
	}
	comment("%u damaged maps, %u of them still valid", rounds, accepted);
	ok(!wrong, "damaged maps: accepted if and only if valid");
}

int main(void)
{
	plan(135);
	test_golden();
	test_golden_sized();
	test_no_room();
	test_shapes();
	test_refused();
	test_unrolled();
	test_unrolled_refused();
	test_unrolled_overlap();
	test_unrolled_moved();
	test_damaged();
	return finish();
}
