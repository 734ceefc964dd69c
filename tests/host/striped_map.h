/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Maps of the format striped, as a server makes them; and a reader that is written
 * after the rules in striped.h alone.
 */
#ifndef _STRIPED_MAP_H
#define _STRIPED_MAP_H

#include <stdlib.h>
#include <string.h>
#include "layout.h"
#include "../../bpf/striped.h"

/*
 * A map, with pointers to its parts
 */
struct map {
	__u32 size;
	union {
		__u8 *blob;
		struct striped_header *header;
	};
	struct striped_extent *extent;
	struct striped_strip *strip;
};

static inline struct map map_new(__u32 nr_extents, __u32 nr_strips)
{
	struct map m;

	m.size = sizeof(*m.header) + nr_extents * sizeof(*m.extent) +
		 nr_strips * sizeof(*m.strip);
	m.blob = calloc(1, m.size + 1);		/* a test may append a byte */
	m.extent = (void *)(m.header + 1);
	m.strip = (void *)(m.extent + nr_extents);
	m.header->magic = STRIPED_MAGIC;
	m.header->version = STRIPED_VERSION;
	m.header->nr_extents = nr_extents;
	m.header->nr_strips = nr_strips;
	return m;
}

static const struct striped_strip *strips_to_sort;

static inline int by_device(const void *pa, const void *pb)
{
	const struct striped_strip *a = &strips_to_sort[*(const __u32 *)pa];
	const struct striped_strip *b = &strips_to_sort[*(const __u32 *)pb];

	if (a->dev_index != b->dev_index)
		return a->dev_index < b->dev_index ? -1 : 1;
	return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static inline void map_link(struct map *m)
{
	__u32 n = m->header->nr_strips, *order = malloc(n * sizeof(*order) + 1);
	__u32 *link = &m->header->first_strip;

	for (__u32 i = 0; i < n; i++)
		order[i] = i;
	strips_to_sort = m->strip;
	if (n)
		qsort(order, n, sizeof(*order), by_device);
	for (__u32 i = 0; i < n; i++) {
		*link = order[i];
		link = &m->strip[order[i]].next;
	}
	*link = STRIPED_END;
	free(order);
}

static inline struct map encode(const struct layout *layout)
{
	struct map m = map_new(layout->nr_extents, layout_nr_strips(layout));
	struct striped_strip *strip = m.strip;

	m.header->file_size = layout->file_size;
	for (__u32 i = 0; i < layout->nr_extents; i++) {
		const struct extent *extent = &layout->extent[i];

		m.extent[i] = (struct striped_extent){
			.length = extent->length,
			.chunk_size = extent->chunk,
			.nr_strips = extent->nr_strips,
		};
		for (__u32 j = 0; j < extent->nr_strips; j++)
			*strip++ = (struct striped_strip){
				.offset = extent->strip[j].offset,
				.length = extent->strip[j].length,
				.dev_index = extent->strip[j].dev,
			};
	}
	map_link(&m);
	return m;
}

typedef unsigned __int128 wide;

static inline bool overlap(const struct striped_strip *a, const struct striped_strip *b)
{
	return a->dev_index == b->dev_index && a->offset < b->offset + b->length &&
	       b->offset < a->offset + a->length;
}

/* The rules of striped.h, written again, without regard to speed. */
static inline bool valid(const struct map *m)
{
	const struct striped_header *h = m->header;
	wide total = 0, last = 0;
	__u32 used = 0, next, prev = 0;

	if (m->size < 32)
		return false;
	if (h->magic != STRIPED_MAGIC || h->version != 1 || h->reserved0 || h->reserved1)
		return false;
	if ((wide)h->nr_extents * 24 + (wide)h->nr_strips * 24 + 32 != m->size)
		return false;

	for (__u32 i = 0; i < h->nr_extents; i++) {
		const struct striped_extent *e = (void *)(m->blob + 32 + 24 * i);

		if (!e->length || e->length % 4096 || e->chunk_size % 4096 || e->reserved)
			return false;
		if (e->nr_strips < 1 || (wide)used + e->nr_strips > h->nr_strips)
			return false;
		if (!e->chunk_size && e->nr_strips > 1)
			return false;
		if (e->chunk_size >= 16 * TiB)
			return false;
		last = total;
		total += e->length;
		for (__u32 j = 0; j < e->nr_strips; j++) {
			const struct striped_strip *s =
				(void *)(m->blob + 32 + 24 * (h->nr_extents + used + j));
			wide row = (wide)e->chunk_size * e->nr_strips;
			wide rows = row ? e->length / row + !!(e->length % row) : 0;

			if (s->length != (row ? rows * e->chunk_size : e->length))
				return false;
			if (s->offset % 4096 || s->dev_index > 63 ||
			    (wide)s->offset + s->length >= (wide)1 << 63)
				return false;
		}
		used += e->nr_strips;
	}
	if (total >= 16 * TiB || used != h->nr_strips)
		return false;
	if (h->nr_extents > STRIPED_EXTENTS_MAX ||
	    STRIPED_META_SIZE(h->nr_extents, h->nr_strips) > STRIPED_META_MAX)
		return false;
	if (h->nr_extents ? h->file_size <= last || h->file_size > total : h->file_size)
		return false;

	next = h->first_strip;
	for (__u32 i = 0; i < used; i++) {
		const struct striped_strip *s, *p;

		if (next >= used)
			return false;
		s = (void *)(m->blob + 32 + 24 * (h->nr_extents + next));
		p = (void *)(m->blob + 32 + 24 * (h->nr_extents + prev));
		if (i && (s->dev_index < p->dev_index ||
			  (s->dev_index == p->dev_index && s->offset <= p->offset)))
			return false;
		for (__u32 j = 0; j < used; j++)
			if (j != next && overlap(s, (void *)(m->blob + 32 +
							     24 * (h->nr_extents + j))))
				return false;
		prev = next;
		next = s->next;
	}
	return next == STRIPED_END;
}

/* The layout that a valid map describes. */
static inline struct layout *decode(const struct map *m)
{
	struct layout *l = layout_new(m->header->file_size);
	const struct striped_strip *s = m->strip;

	for (__u32 i = 0; i < m->header->nr_extents; i++) {
		struct extent *e = layout_extent(l, m->extent[i].length, m->extent[i].chunk_size);

		for (__u32 j = 0; j < m->extent[i].nr_strips; j++, s++)
			extent_strip(e, s->dev_index, s->offset);
	}
	return l;
}

/* A map of any bytes, which are copied. */
static inline struct map map_from(const void *bytes, __u32 size)
{
	struct map m = { .size = size, { .blob = calloc(1, size + 64) } };

	if (size)
		memcpy(m.blob, bytes, size);
	m.extent = (void *)(m.header + 1);
	m.strip = (void *)(m.extent + (m.header->nr_extents < size ? m.header->nr_extents : 0));
	return m;
}

static inline struct map map_random(void)
{
	__u32 nr_extents = 1 + random_below(random_below(20) ? 5 : 300);
	struct layout *l = layout_random(nr_extents, 1 + random_below(8), PAGE, MIXED);
	struct map m = encode(l);

	layout_free(l);
	return m;
}

#endif
