/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Maps of the format famfs, as a server makes them; and a reader that is written after the
 * rules in famfs.h alone.
 */
#ifndef _FAMFS_MAP_H
#define _FAMFS_MAP_H

#include <stdlib.h>
#include <string.h>
#include "layout.h"
#include "../../bpf/famfs.h"

struct map {
	__u32 size;
	union {
		__u8 *blob;
		struct famfs_header *header;
	};
};

static inline struct map map_new_with_room(__u64 file_size, enum famfs_ext_type type, __u32 room)
{
	struct map m = { .size = sizeof(*m.header) };

	m.blob = calloc(1, room);
	m.header->fmap_version = FAMFS_FMAP_VERSION;
	m.header->ext_type = type;
	m.header->file_size = file_size;
	return m;
}

static inline struct map map_new(__u64 file_size, enum famfs_ext_type type)
{
	return map_new_with_room(file_size, type, 64 * KiB);
}

static inline struct famfs_iext *add_iext(struct map *m, __u32 nstrips, __u32 chunk, __u64 nbytes)
{
	struct famfs_iext *e = (void *)(m->blob + m->size);

	*e = (struct famfs_iext){ nstrips, chunk, nbytes, 0 };
	m->header->nextents++;
	m->size += sizeof(*e);
	return e;
}

/* A strip of the last iext; or an extent, if the map is a simple list. */
static inline struct famfs_simple_ext *add_ext(struct map *m, __u32 dev, __u64 offset, __u64 len)
{
	struct famfs_simple_ext *s = (void *)(m->blob + m->size);

	*s = (struct famfs_simple_ext){ dev, 0, offset, len };
	m->header->nextents += m->header->ext_type == FAMFS_EXT_SIMPLE;
	m->size += sizeof(*s);
	return s;
}

/* As a server of the second generation: the header has the size of the map. */
static inline void sized(struct map *m)
{
	m->header->fmap_size = m->size;
}

/*
 * A file striped over the @n ranges @at of devices, as a list of its chunks: @nr_extents,
 * the last one of @last bytes, with which the file ends.
 */
static inline struct map unrolled(const struct strip *at, __u32 n, __u32 nr_extents, __u64 chunk,
				  __u64 last)
{
	/* With space for one more extent, which a test may add. */
	struct map m = map_new_with_room((nr_extents - 1) * chunk + last, FAMFS_EXT_SIMPLE,
					 sizeof(*m.header) +
					 (nr_extents + 1) * sizeof(struct famfs_simple_ext));

	for (__u32 i = 0; i < nr_extents; i++)
		add_ext(&m, at[i % n].dev, at[i % n].offset + i / n * chunk,
			i + 1 < nr_extents ? chunk : last);
	sized(&m);
	return m;
}

/* Adds @n extents on device 2, each behind the one before. */
static inline void add_exts(struct map *m, __u32 n)
{
	while (n--)
		add_ext(m, 2, m->size / sizeof(struct famfs_simple_ext) * 2 * MiB, 2 * MiB);
}

/* Interleaved if all of its extents are, simple if none is. */
static inline struct map encode(const struct layout *layout)
{
	bool interleave = layout->nr_extents && layout->extent[0].chunk;
	struct map m = map_new(layout->file_size,
			       interleave ? FAMFS_EXT_INTERLEAVE : FAMFS_EXT_SIMPLE);

	for (__u32 i = 0; i < layout->nr_extents; i++) {
		const struct extent *e = &layout->extent[i];

		if (interleave)
			add_iext(&m, e->nr_strips, e->chunk, e->length);
		for (__u32 j = 0; j < e->nr_strips; j++)
			add_ext(&m, e->strip[j].dev, e->strip[j].offset, e->strip[j].length);
	}
	return m;
}

typedef unsigned __int128 wide;

static inline bool overlap(const struct famfs_simple_ext *a, const struct famfs_simple_ext *b)
{
	return a->devindex == b->devindex && a->offset < (wide)b->offset + b->len &&
	       b->offset < (wide)a->offset + a->len;
}

/* The rules of a range. @any_length: of an extent that may end with the file. */
static inline bool range_valid(const struct famfs_simple_ext *s, bool any_length)
{
	return !s->reserved && s->len && (any_length || s->len % (2 * MiB) == 0) &&
	       s->offset % (2 * MiB) == 0 && s->devindex <= 63 &&
	       (wide)s->offset + s->len < (wide)1 << 63;
}

/* The number of strips of a striped list; 0 if it is not striped. Tries every number. */
static inline __u32 stripe_of(const struct map *m)
{
	const struct famfs_simple_ext *e = (void *)(m->header + 1);
	__u32 last = m->header->nextents - 1;

	for (__u32 n = 1; n <= 256 && n <= last; n++) {
		bool same = true;

		for (__u32 i = 0; i <= last && same; i++) {
			same = e[i].len == e[0].len || (i == last && e[i].len < e[0].len);
			if (i >= n)
				same = same && e[i].devindex == e[i - n].devindex &&
				       e[i].offset == (wide)e[i - n].offset + e[0].len;
		}
		if (same)
			return n;
	}
	return 0;
}

/* The rules of a list with more extents than are kept one by one. */
static inline bool unrolled_valid(const struct map *m)
{
	const struct famfs_header *h = m->header;
	const struct famfs_simple_ext *e = (void *)(h + 1);
	wide total = 0;

	if (h->ext_type || m->size != 32 + (wide)24 * h->nextents || !stripe_of(m))
		return false;
	for (__u32 i = 0; i < h->nextents; i++) {
		total += e[i].len;
		if (!range_valid(&e[i], i == h->nextents - 1 && total == h->file_size))
			return false;
	}
	for (__u32 i = 0; i < h->nextents; i++)
		for (__u32 j = 0; j < i; j++)
			if (overlap(&e[i], &e[j]))
				return false;
	return (total + 4095) / 4096 * 4096 < 16 * TiB && h->file_size <= total;
}

/* The rules of famfs.h, written again, with 128 bits. */
static inline bool valid(const struct map *m)
{
	const struct famfs_header *h = m->header;
	const struct famfs_simple_ext *strip[4096 / 24];
	const __u8 *at = m->blob + sizeof(*h), *end = m->blob + m->size;
	__u32 nr_strips = 0;
	wide total = 0;

	if (m->size < 32)
		return false;
	if (h->file_type > 2 || h->fmap_version != 1 || h->ext_type > 1 || h->reserved0 ||
	    h->reserved2 || (h->fmap_size && h->fmap_size != m->size))
		return false;
	if (h->nextents > 32)
		return unrolled_valid(m);
	if (m->size > 4096)
		return false;
	for (__u32 i = 0; i < h->nextents; i++) {
		const struct famfs_iext *e = (void *)at;
		bool is_last = i + 1 == h->nextents;
		__u32 n = 1;
		wide need = 0;

		if (h->ext_type) {
			wide row;

			if (at + 24 > end)
				return false;
			at += 24;
			n = e->nstrips;
			if (!n || n > 32 || e->reserved || !e->nbytes ||
			    !e->chunk_size || e->chunk_size % (2 * MiB))
				return false;
			if (!is_last && e->nbytes % (2 * MiB))
				return false;
			row = (wide)e->chunk_size * n;
			need = ((wide)e->nbytes + row - 1) / row * e->chunk_size;
			total += e->nbytes;
		}
		for (; n; n--, at += 24) {
			const struct famfs_simple_ext *s = (void *)at;

			if (at + 24 > end)
				return false;
			if (!h->ext_type)
				total += s->len;
			if (s->len < need ||
			    !range_valid(s, !h->ext_type && is_last && total == h->file_size))
				return false;
			for (__u32 j = 0; j < nr_strips; j++)
				if (overlap(strip[j], s))
					return false;
			strip[nr_strips++] = s;
		}
	}
	return at == end && (total + 4095) / 4096 * 4096 < 16 * TiB && h->file_size <= total;
}

/* The layout that a valid map describes. */
static inline struct layout *decode(const struct map *m)
{
	struct layout *l = layout_new(m->header->file_size);
	const __u8 *at = m->blob + sizeof(*m->header);

	if (m->header->nextents > 32) {
		const struct famfs_simple_ext *list = (void *)at;
		__u32 last = m->header->nextents - 1, n = stripe_of(m);
		struct extent *e = layout_extent(l, last * list->len +
						 (list[last].len + PAGE - 1) / PAGE * PAGE, list->len);

		for (__u32 i = 0; i < n; i++)
			extent_strip(e, list[i].devindex, list[i].offset);
		return l;
	}
	for (__u32 i = 0; i < m->header->nextents; i++) {
		const struct famfs_iext *ie = (void *)at;
		const struct famfs_simple_ext *s = (void *)at;
		struct extent *e;
		__u32 n = 1;

		if (m->header->ext_type == FAMFS_EXT_INTERLEAVE) {
			e = layout_extent(l, (ie->nbytes + PAGE - 1) / PAGE * PAGE, ie->chunk_size);
			n = ie->nstrips;
			s = (void *)(ie + 1);
		} else {
			e = layout_extent(l, (s->len + PAGE - 1) / PAGE * PAGE, 0);
		}
		for (; n; n--, s++)
			extent_strip(e, s->devindex, s->offset);
		at = (void *)s;
	}
	return l;
}

/* A map of any bytes, which are copied. */
static inline struct map map_from(const void *bytes, __u32 size)
{
	struct map m = { .size = size, { .blob = calloc(1, size + 64) } };

	if (size)
		memcpy(m.blob, bytes, size);
	return m;
}

/* A striped file as a list, of 33 extents and more. */
static inline struct map unrolled_random(void)
{
	struct strip at[40];
	__u32 n = 1 + random_below(random_below(4) ? 4 : 40);
	__u32 nr_extents = 33 + random_below(random_below(8) ? 20 : 200);
	__u64 chunk = (1 + random_below(3)) * 2 * MiB, offset = random_below(4) * 2 * MiB;

	for (__u32 i = 0; i < n; i++) {
		at[i] = (struct strip){ random_below(3), offset, 0 };
		offset += (nr_extents / n + 1 + random_below(2)) * chunk;
	}
	for (__u32 i = n - 1; i; i--) {
		__u32 j = random_below(i + 1);
		struct strip s = at[i];

		at[i] = at[j];
		at[j] = s;
	}
	return unrolled(at, n, nr_extents, chunk,
			random_below(2) ? chunk : 1 + random_below(chunk));
}

static inline struct map map_random(void)
{
	__u32 nr_extents = 1 + random_below(random_below(4) ? 4 : 32);
	struct layout *l = layout_random(nr_extents, 1 + random_below(4), 2 * MiB,
					 random_below(2) ? LINEAR : INTERLEAVED);
	struct map m = encode(l);

	layout_free(l);
	if (random_below(2))
		sized(&m);
	if (!random_below(3)) {
		free(m.blob);
		m = unrolled_random();
	}
	return m;
}

#endif
