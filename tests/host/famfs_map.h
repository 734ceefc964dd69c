/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Maps of the format famfs, as a server makes them and as somebody reads them who has
 * only read the rules in famfs.h.
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

static inline struct map map_new(__u64 file_size, enum famfs_ext_type type)
{
	struct map m = { .size = sizeof(*m.header) };

	m.blob = calloc(1, 64 * KiB);
	m.header->fmap_version = FAMFS_FMAP_VERSION;
	m.header->ext_type = type;
	m.header->file_size = file_size;
	return m;
}

static inline struct famfs_iext *add_iext(struct map *m, __u32 nstrips, __u32 chunk, __u64 nbytes)
{
	struct famfs_iext *e = (void *)(m->blob + m->size);

	*e = (struct famfs_iext){ nstrips, chunk, nbytes, 0 };
	m->header->nextents++;
	m->size += sizeof(*e);
	return e;
}

/* A strip of the last iext; or an extent, if the map is a simple one. */
static inline struct famfs_simple_ext *add_ext(struct map *m, __u32 dev, __u64 offset, __u64 len)
{
	struct famfs_simple_ext *s = (void *)(m->blob + m->size);

	*s = (struct famfs_simple_ext){ dev, 0, offset, len };
	m->header->nextents += m->header->ext_type == FAMFS_EXT_SIMPLE;
	m->size += sizeof(*s);
	return s;
}

/* Each behind the one before, wherever that was added, on device 2. */
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

/* The rules of famfs.h, read again and with 128 bits. */
static inline bool valid(const struct map *m)
{
	const struct famfs_header *h = m->header;
	const struct famfs_simple_ext *strip[4096 / 24];
	const __u8 *at = m->blob + sizeof(*h), *end = m->blob + m->size;
	__u32 nr_strips = 0;
	wide total = 0;

	if (m->size < 32 || m->size > 4096)
		return false;
	if (h->file_type > 2 || h->fmap_version != 1 || h->ext_type > 1 ||
	    h->nextents > 32 || h->reserved0 || h->reserved1 || h->reserved2)
		return false;
	for (__u32 i = 0; i < h->nextents; i++) {
		const struct famfs_iext *e = (void *)at;
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
			if (i + 1 < h->nextents && e->nbytes % (2 * MiB))
				return false;
			row = (wide)e->chunk_size * n;
			need = ((wide)e->nbytes + row - 1) / row * e->chunk_size;
			total += ((wide)e->nbytes + 4095) / 4096 * 4096;
		}
		for (; n; n--, at += 24) {
			const struct famfs_simple_ext *s = (void *)at;

			if (at + 24 > end)
				return false;
			if (s->reserved || !s->len || s->len < need ||
			    s->len % (2 * MiB) || s->offset % (2 * MiB) ||
			    s->devindex > 63 || (wide)s->offset + s->len >= (wide)1 << 63)
				return false;
			for (__u32 j = 0; j < nr_strips; j++)
				if (strip[j]->devindex == s->devindex &&
				    strip[j]->offset < s->offset + s->len &&
				    s->offset < strip[j]->offset + strip[j]->len)
					return false;
			strip[nr_strips++] = s;
			if (!h->ext_type)
				total += s->len;
		}
	}
	return at == end && total < 16 * TiB && h->file_size <= total;
}

/* What a valid map says. */
static inline struct layout *decode(const struct map *m)
{
	struct layout *l = layout_new(m->header->file_size);
	const __u8 *at = m->blob + sizeof(*m->header);

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
			e = layout_extent(l, s->len, 0);
		}
		for (; n; n--, s++)
			extent_strip(e, s->devindex, s->offset);
		at = (void *)s;
	}
	return l;
}

/* A map around bytes from anywhere, which are copied. */
static inline struct map map_from(const void *bytes, __u32 size)
{
	struct map m = { .size = size, { .blob = calloc(1, size + 64) } };

	if (size)
		memcpy(m.blob, bytes, size);
	return m;
}

static inline struct map map_random(void)
{
	__u32 nr_extents = 1 + random_below(random_below(4) ? 4 : 32);
	struct layout *l = layout_random(nr_extents, 1 + random_below(4), 2 * MiB,
					 random_below(2) ? LINEAR : INTERLEAVED);
	struct map m = encode(l);

	layout_free(l);
	return m;
}

#endif
