// SPDX-License-Identifier: GPL-2.0
/*
 * bpf/famfs.bpf.c, compiled for the host: maps as a real server sent them, where the
 * program finds each page, which maps it refuses, and with which errno.
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
	static const __u8 interleave[152] = {
		0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		4, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0x80, 1, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0,
		0, 0, 0x60, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0,
		0, 0, 0x60, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0,
		0, 0, 0x60, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,
		0, 0, 0x60, 0, 0, 0, 0, 0,
	};
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

static void test_shapes(void)
{
	struct layout *l = layout_new(3 * PAGE);
	struct extent *e;
	struct map m;
	bool same = true;

	ok(matches(layout_new(0)), "an empty file");

	/* The server may name the bytes that it uses, and strips with room to spare. */
	e = layout_extent(l, 3 * PAGE, 2 * MiB);
	extent_strip(e, 0, 0);
	extent_strip(e, 1, 2 * MiB);
	m = map_new(3 * PAGE, FAMFS_EXT_INTERLEAVE);
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
	CHANGED(EBADMSG, simple, "reserved1 of the header", h->reserved1 = 1);
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
		struct map m = i % 2 ? simple_example() : interleave_example();
		bool good;

		for (__u64 n = random_below(3); n != (__u64)-1; n--)
			damage(&m);
		good = valid(&m);
		accepted += good;
		wrong += good != !open_map(&m);
		if (wrong)
			comment("round %u: %s", i, good ? "refused" : "accepted");
		free(m.blob);
	}
	comment("%u damaged maps, %u of them still valid", rounds, accepted);
	ok(!wrong, "damaged maps: accepted if and only if valid");
}

int main(void)
{
	plan(64);
	test_golden();
	test_shapes();
	test_refused();
	test_damaged();
	return finish();
}
