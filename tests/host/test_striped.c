// SPDX-License-Identifier: GPL-2.0
/*
 * bpf/striped.bpf.c, compiled for the host: where it finds each page of a file,
 * which maps it refuses, and with which errno.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "layout.h"
#include "striped_map.h"

extern struct fuse_dax_fmap_ops striped;

/* Encodes a layout, compares with the model, and frees it. */
static bool matches(struct layout *layout)
{
	struct map m = encode(layout);
	bool result = layout_matches(layout, &striped, m.blob, m.size);

	free(m.blob);
	layout_free(layout);
	return result;
}

/* Where each page is found */
static void test_golden(void)
{
	/* The example in striped.h. */
	static const __u64 blob[] = {
		0x0000000150525453, 10000000, 0x0000000200000001, 0,
		0xa00000, 0x200000, 2,
		0x40000000, 0x600000, 0x0000000100000000,
		0, 0x600000, 0xffffffff00000001,
	};
	static const struct fuse_iomap_io expected[] = {
		{ 0,		0x200000, 0x40000000, 0, 0, 0 },
		{ 0x1ff000,	0x001000, 0x401ff000, 0, 0, 0 },
		{ 0x200000,	0x200000, 0,	      0, 0, 1 },
		{ 0x400000,	0x200000, 0x40200000, 0, 0, 0 },
		{ 0x7ff000,	0x001000, 0x3ff000,   0, 0, 1 },
		{ 0x800000,	0x200000, 0x40400000, 0, 0, 0 },
		{ 0x989000,	0x077000, 0x40589000, 0, 0, 0 },
	};
	struct fuse_iomap_io io;
	struct file file = { 0 };
	bool same;

	same = !file_open(&file, &striped, blob, sizeof(blob));
	ok(same && file.size == 10000000 && file.dev_bitmap == 3 && file.meta_size == 64,
	   "golden: a map of two strips takes 64 bytes of metadata");
	for (size_t i = 0; same && i < sizeof(expected) / sizeof(*expected); i++)
		same = !file_resolve(&file, expected[i].offset, &io) &&
		       !memcmp(&io, &expected[i], sizeof(io));
	ok(same, "golden: its pages are where striped.h says");
	file_close(&file);
}

static void test_shapes(void)
{
	struct layout *l;
	struct extent *e;
	bool same = true;

	ok(matches(layout_new(0)), "an empty file");

	l = layout_new(1);
	extent_strip(layout_extent(l, PAGE, 0), 63, 0);
	ok(matches(l), "a file of one byte on device 63");

	for (__u64 size = 4 * MiB - 1; same && size <= 4 * MiB + 1; size++) {
		l = layout_new(size);
		extent_strip(layout_extent(l, (size + 2 * MiB - 1) / (2 * MiB) * (2 * MiB), 0),
			     0, 6 * MiB);
		same = matches(l);
	}
	ok(same, "linear, 4 MiB - 1 to 4 MiB + 1 bytes");

	/* 6 strips are the most that fit into the head of the metadata. */
	for (__u32 n = 1; same && n <= 8; n++) {
		struct file file;
		struct map m;

		l = layout_new(50 * MiB - 1);
		e = layout_extent(l, 50 * MiB, 2 * MiB);
		for (__u32 j = 0; j < n; j++)
			extent_strip(e, j, (10 - j) * GiB);
		m = encode(l);
		same = !file_open(&file, &striped, m.blob, m.size);
		if (same) {
			same = (file.meta_size == 64) == (n <= 6);
			file_close(&file);
		}
		free(m.blob);
		same = matches(l) && same;
	}
	ok(same, "interleaved over 1 to 8 devices; up to 6 in 64 bytes of metadata");

	l = layout_new(60 * KiB);
	e = layout_extent(l, 60 * KiB, 12 * KiB);
	extent_strip(e, 0, 96 * KiB);
	extent_strip(e, 0, 0);
	extent_strip(e, 0, 48 * KiB);
	ok(matches(l), "chunks of 12 KiB, three strips of one device, a row cut short");

	l = layout_new(8 * KiB);
	e = layout_extent(l, 8 * KiB, 2 * MiB);
	extent_strip(e, 0, 2 * MiB);
	extent_strip(e, 1, 0);
	ok(matches(l), "an extent shorter than one chunk");

	l = layout_new(5 * MiB);
	extent_strip(layout_extent(l, MiB, 0), 3, 0);
	e = layout_extent(l, 3 * MiB, MiB / 2);
	extent_strip(e, 5, 0);
	extent_strip(e, 3, MiB);
	extent_strip(layout_extent(l, MiB, 0), 5, 2 * MiB);
	ok(matches(l), "linear, interleaved, linear");
}

static void test_far(void)
{
	static const __u64 top = (1ULL << 63) - 4 * PAGE;
	__u64 length = 16 * TiB - PAGE;
	struct layout *l = layout_new(length);
	struct extent *e = layout_extent(l, length, 512 * GiB);
	struct fuse_iomap_io io, last;
	struct file file;
	struct map m;
	bool same;

	extent_strip(e, 0, 0);
	extent_strip(e, 1, 1ULL << 62);
	m = encode(l);
	same = !file_open(&file, &striped, m.blob, m.size);
	if (same) {
		same = !file_resolve(&file, 16 * TiB - 2 * PAGE, &last) &&
		       last.addr == (1ULL << 62) + 8 * TiB - 2 * PAGE &&
		       last.length == PAGE && last.dev_index == 1 &&
		       !file_resolve(&file, 15 * TiB, &io) && io.dev_index == 0 &&
		       io.addr == 7 * TiB + 512 * GiB && io.length == 512 * GiB &&
		       file_resolve(&file, length, &io) == -ERANGE &&
		       file_resolve(&file, (1ULL << 63) - PAGE, &io) == -ERANGE;
		file_close(&file);
	}
	ok(same, "the last page of 16 TiB");
	free(m.blob);
	layout_free(l);

	l = layout_new(3 * PAGE);
	extent_strip(layout_extent(l, 3 * PAGE, 0), 7, top);
	ok(matches(l), "the last pages below 2^63 of a device");
}

static void test_many(void)
{
	/* Around each size at which the tree grows, and the promised maximum. */
	static const __u32 sizes[] = { 2, 14, 15, 16, 29, 30, 31, 32, 239, 240, 241, 256,
				       479, 480, 481, 2047, 2048 };
	struct layout *l = NULL;
	struct file file;
	struct map m;
	int err;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		ok(matches(layout_random(sizes[i], 2, PAGE, MIXED)),
		   "%u extents, linear or interleaved over two", sizes[i]);

	l = layout_new(4096 * PAGE);
	for (__u32 i = 0; i < 2048; i++) {
		struct extent *e = layout_extent(l, 2 * PAGE, PAGE);

		extent_strip(e, i % 2, (2048 - i) * PAGE);
		extent_strip(e, i % 2 + 2, i * PAGE);
	}
	m = encode(l);
	err = file_open(&file, &striped, m.blob, m.size);
	ok(!err && file.meta_size <= 64 * KiB &&
	   file.meta_size <= STRIPED_META_SIZE(2048, 4096),
	   "2,048 extents of two strips take no more than STRIPED_META_SIZE()");
	if (!err)
		file_close(&file);
	free(m.blob);
	ok(matches(l), "2,048 extents of two strips");

	l = layout_new(STRIPED_EXTENTS_MAX * PAGE);
	for (__u32 i = 0; i < STRIPED_EXTENTS_MAX; i++)
		extent_strip(layout_extent(l, PAGE, 0), 0, 2 * i * PAGE);
	ok(matches(l), "3,840 linear extents, the most that fit");
}

static void test_random(void)
{
	static const __u64 aligns[] = { PAGE, 12 * KiB, 2 * MiB };

	for (int i = 0; i < 60; i++) {
		__u32 extents = 1 + random_below(i % 3 ? 6 : 80);
		__u32 strips = 1 + random_below(12);
		__u64 align = aligns[random_below(extents < 10 ? 3 : 2)];

		if (!matches(layout_random(extents, strips, align, MIXED))) {
			comment("%u extents, up to %u strips, multiples of %llu",
				extents, strips, align);
			ok(false, "60 random layouts");
			return;
		}
	}
	ok(true, "60 random layouts");
}

/*
 * What is refused
 */

/* 1 MiB on device 2; 3 MiB over devices 0 and 1; 1 MiB on device 0. */
static struct map example(void)
{
	struct layout *l = layout_new(5 * MiB);
	struct extent *e;
	struct map m;

	extent_strip(layout_extent(l, MiB, 0), 2, 0);
	e = layout_extent(l, 3 * MiB, MiB);
	extent_strip(e, 0, 4 * MiB);
	extent_strip(e, 1, 8 * MiB);
	extent_strip(layout_extent(l, MiB, 0), 0, 0);
	m = encode(l);
	layout_free(l);
	return m;
}

static int open_map(const struct map *m)
{
	struct file file;
	int err = file_open(&file, &striped, m->blob, m->size);

	if (!err)
		file_close(&file);
	return err;
}

/* The example, after @change, fails with @error; with 0, it is accepted. */
#define CHANGED(error, what, change)						\
	do {									\
		struct map m = example();					\
		struct striped_header *h = m.header;				\
		struct striped_extent *e = m.extent;				\
		struct striped_strip *s = m.strip;				\
		int err;							\
										\
		(void)h, (void)e, (void)s;					\
		change;								\
		err = open_map(&m);						\
		if (err != -(error))						\
			comment("%s instead of %s", strerror(-err), strerror(error)); \
		ok(err == -(error), "%s: %s", (error) ? #error : "accepted", what); \
		free(m.blob);							\
	} while (0)

static void test_refused(void)
{
	struct map m = example();
	bool all = true;

	ok(open_map(&m) == 0, "the example for what follows is accepted");
	for (__u32 size = m.size; size-- && all; ) {
		struct map cut = { .size = size, { .blob = m.blob } };

		all = open_map(&cut) == -EBADMSG;
	}
	ok(all, "EBADMSG: cut at any byte");
	free(m.blob);

	CHANGED(EBADMSG, "a byte left over", m.size++);
	CHANGED(EBADMSG, "magic", h->magic++);
	CHANGED(EOPNOTSUPP, "version 0", h->version = 0);
	CHANGED(EOPNOTSUPP, "version 2", h->version = 2);
	CHANGED(EBADMSG, "reserved0 of the header", h->reserved0 = 1);
	CHANGED(EBADMSG, "reserved1 of the header", h->reserved1 = 1);
	CHANGED(EBADMSG, "reserved of an extent", e[1].reserved = 1);
	CHANGED(EBADMSG, "one extent more than there are", h->nr_extents++);
	CHANGED(EBADMSG, "one strip less than there are", h->nr_strips--);
	CHANGED(EBADMSG, "as many extents as 32 bits hold", h->nr_extents = ~0);
	CHANGED(EBADMSG, "extents whose size wraps around 32 bits",
		h->nr_extents += 0x80000000);
	CHANGED(EBADMSG, "strips whose size wraps around 32 bits",
		h->nr_strips += 0x80000000);

	CHANGED(EINVAL, "file_size one byte beyond the extents", h->file_size++);
	CHANGED(EINVAL, "file_size in the last but one extent", h->file_size = 4 * MiB);
	CHANGED(EINVAL, "file_size 0 with extents", h->file_size = 0);
	CHANGED(EINVAL, "file_size ~0", h->file_size = ~0ULL);
	CHANGED(0, "file_size just in the last extent", h->file_size = 4 * MiB + 1);

	CHANGED(EINVAL, "an extent of length 0", e[0].length = s[0].length = 0);
	CHANGED(EINVAL, "length of an extent + 1", e[1].length++);
	CHANGED(EINVAL, "length of an extent + 512",
		e[0].length += 512; s[0].length += 512);
	CHANGED(EINVAL, "chunk_size + 1", e[1].chunk_size++);
	CHANGED(EINVAL, "an extent without strips", e[1].nr_strips = 0);
	CHANGED(EINVAL, "linear with two strips", e[1].chunk_size = 0);
	CHANGED(EINVAL, "fewer strips used than there are", e[1].nr_strips--);
	CHANGED(EINVAL, "more strips used than there are", e[1].nr_strips++);
	CHANGED(EINVAL, "more strips used than 32 bits hold", e[1].nr_strips = ~0);
	CHANGED(E2BIG, "an extent of 16 TiB",
		e[0].length = s[0].length = 16 * TiB);
	CHANGED(E2BIG, "extents of 16 TiB together",
		e[0].length = s[0].length = 16 * TiB - 4 * MiB;
		h->file_size = 16 * TiB + 1);
	CHANGED(E2BIG, "a chunk of 16 TiB", e[1].chunk_size = 16 * TiB);

	CHANGED(EINVAL, "a strip's offset + 512", s[1].offset += 512);
	CHANGED(EINVAL, "a strip one page too short", s[1].length -= PAGE);
	CHANGED(EINVAL, "a strip one page too long", s[1].length += PAGE);
	CHANGED(EINVAL, "a strip of length 0", s[3].length = 0);
	CHANGED(ENXIO, "device 64", s[0].dev_index = 64);
	CHANGED(ENXIO, "device ~0", s[0].dev_index = ~0);
	CHANGED(EOVERFLOW, "a strip that ends at 2^63", s[0].offset = (1ULL << 63) - MiB);
	CHANGED(0, "a strip that ends a page before", s[0].offset = (1ULL << 63) - MiB - PAGE);
	CHANGED(EOVERFLOW, "a strip that wraps around", s[0].offset = -MiB);

	CHANGED(EADDRINUSE, "two strips at one place", s[3].offset = s[1].offset; map_link(&m));
	CHANGED(EADDRINUSE, "the first page of a strip in another",
		s[3].offset = 6 * MiB - PAGE; map_link(&m));
	CHANGED(EADDRINUSE, "the last page of a strip in another",
		s[3].offset = 3 * MiB + PAGE; map_link(&m));
	CHANGED(0, "a strip just behind another", s[3].offset = 6 * MiB; map_link(&m));
	CHANGED(0, "a strip just before another", s[3].offset = 3 * MiB; map_link(&m));

	/* In order they are 3, 1, 2, 0. */
	CHANGED(EINVAL, "links begin with the second", h->first_strip = 1);
	CHANGED(EINVAL, "links begin nowhere", h->first_strip = STRIPED_END);
	CHANGED(EINVAL, "links begin behind the table", h->first_strip = 4);
	CHANGED(EINVAL, "links leave the table", s[1].next = 4);
	CHANGED(EINVAL, "links end early", s[1].next = STRIPED_END);
	CHANGED(EINVAL, "links in a circle", s[0].next = 3);
	CHANGED(EINVAL, "links go back", s[2].next = 3);
	CHANGED(EINVAL, "a strip follows itself", s[1].next = 1);
	CHANGED(EINVAL, "the last strip follows itself", s[0].next = 0);
	CHANGED(EINVAL, "devices out of order",
		h->first_strip = 2; s[2].next = 3; s[1].next = 0);
	CHANGED(EINVAL, "offsets out of order",
		h->first_strip = 1; s[1].next = 3; s[3].next = 2);
}

/* One extent over @n strips. */
static int open_wide(__u32 n)
{
	struct layout *l = layout_new(n * PAGE);
	struct extent *e = layout_extent(l, n * PAGE, PAGE);
	struct map m;
	int err;

	e->nr_strips = n;
	e->strip = calloc(n, sizeof(*e->strip));
	for (__u32 i = 0; i < n; i++)
		e->strip[i] = (struct strip){ 0, 2 * i * PAGE, PAGE };
	m = encode(l);
	err = open_map(&m);
	free(m.blob);
	layout_free(l);
	return err;
}

static void test_too_many(void)
{
	struct layout *l = layout_new((STRIPED_EXTENTS_MAX + 1) * PAGE);
	bool same = true;
	struct map m;

	for (__u32 n = 8000; same && n < 8200; n++) {
		int expected = STRIPED_META_SIZE(1, n) <= STRIPED_META_MAX ? 0 : -E2BIG;

		same = open_wide(n) == expected && (expected == 0) == (n <= 8023);
		if (!same)
			comment("%u strips", n);
	}
	ok(same, "one extent takes as many strips as STRIPED_META_SIZE() says, 8,023");

	for (__u32 i = 0; i < STRIPED_EXTENTS_MAX + 1; i++)
		extent_strip(layout_extent(l, PAGE, 0), 0, i * PAGE);
	m = encode(l);
	ok(open_map(&m) == -E2BIG, "E2BIG: 3,841 linear extents");
	free(m.blob);
	layout_free(l);

	m = map_new(5000, 5000);
	ok(open_map(&m) == -E2BIG, "E2BIG: 5,000 extents");
	free(m.blob);

	m = map_new(0, 1);
	m.header->first_strip = 0;
	m.strip[0].next = STRIPED_END;
	ok(open_map(&m) == -EINVAL, "EINVAL: a strip and no extent");
	free(m.blob);

	m = map_new(0, 0);
	ok(open_map(&m) == -EINVAL, "EINVAL: an empty file with a first strip");
	free(m.blob);
}

/*
 * Maps damaged at random: the program accepts exactly those that are valid, and
 * those it resolves.
 */
static void damage(struct map *m)
{
	static const __u64 values[] = { 0, 1, 2, 63, 64, 4096, 8192, 12288, 2 * MiB,
					1ULL << 31, 1ULL << 32, 16 * TiB, 1ULL << 63, ~0ULL };
	static const __u32 steps[] = { 1, -1, 4096, -4096 };
	__u32 at = random_below(m->size / 4) * 4;
	__u64 value = values[random_below(sizeof(values) / sizeof(*values))];

	switch (random_below(5)) {
	case 0:		/* a special number */
		memcpy(m->blob + at, &value, at + 8 <= m->size ? 4 + random_below(2) * 4 : 4);
		break;
	case 1:		/* a number from another place */
		memcpy(m->blob + at, m->blob + random_below(m->size / 4) * 4, 4);
		break;
	case 2:		/* a little more or less */
		*(__u32 *)(m->blob + at) += steps[random_below(4)];
		break;
	case 3:
		m->blob[random_below(m->size)] = random_number();
		break;
	case 4:		/* a strip moves a little; mostly still in order */
		if (m->header->nr_strips && m->strip + m->header->nr_strips ==
					    (void *)(m->blob + m->size))
			m->strip[random_below(m->header->nr_strips)].offset +=
				(random_below(5) - 2) * PAGE;
		break;
	}
}

static void test_damaged(void)
{
	unsigned int accepted = 0, wrong = 0, rounds = 100000;
	struct layout *l = NULL;

	for (unsigned int i = 0; i < rounds && !wrong; i++) {
		struct map m;
		bool good;

		if (i % 100 == 0) {
			if (l)
				layout_free(l);
			l = layout_random(1 + random_below(5), 1 + random_below(4), PAGE,
					  MIXED);
		}
		m = encode(l);
		for (__u64 n = random_below(3); n != (__u64)-1; n--)
			damage(&m);
		good = valid(&m);
		wrong += good != !open_map(&m);
		if (good) {
			struct layout *damaged = decode(&m);

			accepted++;
			if (layout_length(damaged) < MiB)
				wrong += !layout_matches(damaged, &striped, m.blob, m.size);
			layout_free(damaged);
		}
		free(m.blob);
	}
	layout_free(l);
	comment("%u damaged maps, %u of them still valid", rounds, accepted);
	ok(!wrong, "damaged maps: accepted if and only if valid");
}

int main(void)
{
	plan(94);
	test_golden();
	test_shapes();
	test_far();
	test_many();
	test_random();
	test_refused();
	test_too_many();
	test_damaged();
	return finish();
}
