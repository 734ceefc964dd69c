/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a program keeps of a file map, and how it finds an offset in it. The
 * formats differ, their meaning does not: a file is a row of extents, an extent
 * is one strip of a device or chunks dealt out in turn to several. So each
 * program brings its own parser, and all share this.
 *
 * A file of one extent with few strips, the usual one, is one cache line:
 *
 *	head: pages | extent | strips
 *
 * Any other is a search tree, of which a lookup reads one line per level, then one
 * of the extents, and one of the strips if they are several:
 *
 *	head: pages | where the parts are
 *	tree: first page of each extent, 16 in a node; above it, first page of each
 *	      node, 16 in a node; and so on, up to LEVELS
 *	extents, strips
 *
 * Everything counts in pages of 4 KiB, so that 32 bits are enough for 16 TiB and
 * divisions are short. An extent of one strip is that strip, and is found without a
 * conversion. Cost on the fault path is the reason for all of this.
 */
#ifndef _EXTENT_MAP_BPF_H
#define _EXTENT_MAP_BPF_H

#include <linux/bpf.h>
#include <linux/errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <linux/fuse_dax_fmap.h>

#define PAGE_SHIFT	12
#define PAGE_MASK	((1U << PAGE_SHIFT) - 1)
#define PAGES_MAX	0xffffffffU
#define LLONG_MAX	0x7fffffffffffffffULL

#define FANOUT		16
#define LEVELS		3
#define HEAD_STRIPS	6

/* Device address, page aligned, with the device's index in the low bits. */
typedef __u64 map_strip;

/*
 * If it is linear, its strip. Else the highest bit, which no address has, the number
 * of strips, the first one of them, and the pages in a chunk.
 */
typedef __u64 map_extent;

#define EXTENT_OF_TREE	(1ULL << 63)
#define EXTENT_STRIPS	0x7fffU		/* more than there is room for */

_Static_assert(FUSE_DAX_FMAP_META_MAX / sizeof(map_strip) <= EXTENT_STRIPS,
	       "an extent can have all strips that a file can");

static __always_inline map_extent extent_interleaved(__u32 chunk, __u32 first_strip,
						     __u32 nr_strips)
{
	return 1ULL << 63 | (__u64)nr_strips << 48 | (__u64)first_strip << 32 | chunk;
}

static __always_inline bool extent_is_linear(map_extent extent)
{
	return (__s64)extent >= 0;
}

static __always_inline __u32 extent_strips(map_extent extent)
{
	return extent >> 48 & EXTENT_STRIPS;
}

static __always_inline __u32 extent_first(map_extent extent)
{
	return extent >> 32 & 0xffff;
}

struct map_head {
	__u32	pages;		/* that the extents map */
	__u32	is_tree;
	map_extent extent;	/* EXTENT_OF_TREE if it is one */
	union {
		map_strip strip[HEAD_STRIPS];
		struct {	/* offsets in the metadata; no such level: 0 */
			__u32 level[LEVELS];	/* [0] are the leaves */
			__u32 extents;
			__u32 strips;
		};
	};
};

struct map_node {
	__u32	first[FANOUT];	/* unused ones: map_head.pages */
};

/*
 * Lookup
 */

/* The last entry of a node that does not begin behind @page: four steps. */
static __always_inline __u32 node_find(const struct map_node *node, __u32 page)
{
	const __u32 *first = node->first;
	__u32 i = 0;

	if (first[8] <= page) {
		first += 8;
		i += 8;
	}
	if (first[4] <= page) {
		first += 4;
		i += 4;
	}
	if (first[2] <= page) {
		first += 2;
		i += 2;
	}
	if (first[1] <= page)
		i += 1;
	return i;
}

/* A page of an interleaved extent: which strip, how deep in it, for how many pages. */
struct map_place {
	__u32	strip;
	__u32	page;
	__u32	left;
};

static __always_inline struct map_place place_in_extent(map_extent extent, __u32 page,
							__u32 left)
{
	__u32 nr_strips = extent_strips(extent), pages = extent;
	__u32 chunk = page / pages;
	__u32 row = chunk / nr_strips;
	__u32 in_chunk = page - chunk * pages;

	return (struct map_place) {
		.strip = chunk - row * nr_strips,
		.page = row * pages + in_chunk,
		.left = left < pages - in_chunk ? left : pages - in_chunk,
	};
}

/* Bytes @offset to @end of a strip. */
static __always_inline void strip_report(struct fuse_iomap_io *io, map_strip strip,
					 __u64 offset, __u64 end)
{
	io->addr = (strip & ~(__u64)PAGE_MASK) + offset;
	io->length = end - offset;
	io->dev_index = strip & PAGE_MASK;
}

static __always_inline void place_report(struct fuse_iomap_io *io, map_strip strip,
					 struct map_place p)
{
	strip_report(io, strip, (__u64)p.page << PAGE_SHIFT,
		     ((__u64)p.page + p.left) << PAGE_SHIFT);
}

#define meta_at(ctx, offset, type) \
	((const type *)bpf_fuse_dax_resolve_get_meta(ctx, offset, sizeof(type)))

/* A program of its own, so that the usual file does not pay for what it needs. */
static __noinline int map_resolve_any(struct fuse_dax_fmap_resolve_ctx *ctx,
				      struct fuse_iomap_io *io, const struct map_head *head)
{
	__u32 page = ctx->file_offset >> PAGE_SHIFT, end = head->pages;
	const map_extent *extent;
	const struct map_node *node;
	const map_strip *strip;
	struct map_place p;
	__u32 first = 0, index = 0, i;

	if (!head->is_tree) {
		p = place_in_extent(head->extent, page, end - page);
		if (p.strip >= HEAD_STRIPS)
			return -EIO;
		place_report(io, head->strip[p.strip], p);
		return 0;
	}

#pragma unroll
	for (int level = LEVELS - 1; level >= 0; level--) {
		if (!head->level[level])
			continue;
		node = meta_at(ctx, head->level[level] + index * sizeof(*node),
			       struct map_node);
		if (!node)
			return -EIO;
		i = node_find(node, page);
		first = node->first[i];
		if (i < FANOUT - 1)
			end = node->first[i + 1];
		index = index * FANOUT + i;
	}

	extent = meta_at(ctx, head->extents + index * sizeof(*extent), map_extent);
	if (!extent)
		return -EIO;
	if (extent_is_linear(*extent)) {
		strip_report(io, *extent, ctx->file_offset - ((__u64)first << PAGE_SHIFT),
			     (__u64)(end - first) << PAGE_SHIFT);
		return 0;
	}
	p = place_in_extent(*extent, page - first, end - page);
	strip = meta_at(ctx, head->strips + (extent_first(*extent) + p.strip) *
					    sizeof(*strip), map_strip);
	if (!strip)
		return -EIO;
	place_report(io, *strip, p);
	return 0;
}

static __always_inline int map_resolve_from(struct fuse_dax_fmap_resolve_ctx *ctx,
					    struct fuse_iomap_io *io,
					    const struct map_head *head)
{
	__u64 end;

	if (!head)
		return -EIO;
	end = (__u64)head->pages << PAGE_SHIFT;
	if (ctx->file_offset >= end)
		return -ERANGE;
	if (!extent_is_linear(head->extent))
		return map_resolve_any(ctx, io, head);
	strip_report(io, head->extent, ctx->file_offset, end);
	return 0;
}

static __always_inline int map_resolve(struct fuse_dax_fmap_resolve_ctx *ctx,
				       struct fuse_iomap_io *io)
{
	return map_resolve_from(ctx, io, meta_at(ctx, 0, struct map_head));
}

/*
 * Building: map_begin(), then each extent followed by its strips, then map_end().
 * The caller has checked what it adds, and adds as many as it announced.
 *
 * The number @n of an extent is passed in, and not counted here: it has to come
 * from bpf_for(). A counter of our own starts at a value that the verifier knows,
 * and with branches that depend on it (n % FANOUT) it would follow every round of
 * the loop by itself.
 */

struct map_builder {
	struct map_head	head;	/* of a tree; else only its first two fields */
	__u32	extents;	/* offset of the next extent */
	__u32	strips;		/* offset of the next strip */
	__u32	nr_strips;	/* so far */
};

/* The parser's functions return 0 or a negative errno. */
#define TRY(call)			\
	do {				\
		int __err = (call);	\
					\
		if (__err)		\
			return __err;	\
	} while (0)

#define blob_at(ctx, offset, type) \
	((const type *)bpf_fuse_dax_parse_get_blob(ctx, offset, sizeof(type)))

/* Pages that each strip of an extent needs: its rows, the last one in full. */
static __always_inline __u64 strip_pages(__u64 pages, __u64 chunk, __u32 nr_strips)
{
	__u64 row = chunk * nr_strips;

	return chunk ? (pages + row - 1) / row * chunk : pages;
}

static __always_inline int check_device_range(__u64 offset, __u64 length,
					      __u32 dev_index)
{
	if (dev_index >= FUSE_DAX_FMAP_DEVICES_MAX)
		return -ENXIO;
	if (offset > LLONG_MAX || length > LLONG_MAX - offset)
		return -EOVERFLOW;
	return 0;
}

static __always_inline int put_u32(struct fuse_dax_fmap_parse_ctx *ctx,
				   __u32 offset, __u32 value)
{
	__u32 *p = (__u32 *)bpf_fuse_dax_parse_get_meta(ctx, offset, sizeof(*p));

	if (!p)
		return -EIO;
	*p = value;
	return 0;
}

static __always_inline int map_begin(struct map_builder *map,
				     struct fuse_dax_fmap_parse_ctx *ctx,
				     __u32 nr_extents, __u32 nr_strips)
{
	__u64 size = sizeof(struct map_head);
	__u32 entries = nr_extents;

	__builtin_memset(map, 0, sizeof(*map));
	if (nr_extents > 1 || nr_strips > HEAD_STRIPS) {
		map->head.is_tree = 1;
		map->head.extent = EXTENT_OF_TREE;
#pragma unroll
		for (int level = 0; level < LEVELS; level++) {
			if (level && entries == 1)
				break;
			entries = ((__u64)entries + FANOUT - 1) / FANOUT;
			map->head.level[level] = size;
			size += (__u64)entries * sizeof(struct map_node);
		}
		if (entries > 1)
			return -E2BIG;
		map->extents = size;
		size += (__u64)nr_extents * sizeof(map_extent);
		map->strips = size;
		size += (__u64)nr_strips * sizeof(map_strip);
	} else {
		map->extents = offsetof(struct map_head, extent);
		map->strips = offsetof(struct map_head, strip);
	}
	map->head.extents = map->extents;
	map->head.strips = map->strips;

	if (size > FUSE_DAX_FMAP_META_MAX)
		return -E2BIG;
	return bpf_fuse_dax_parse_alloc_meta(ctx, size);
}

static __always_inline int map_add_extent(struct map_builder *map,
					  struct fuse_dax_fmap_parse_ctx *ctx,
					  __u32 n, __u64 pages, __u64 chunk,
					  __u32 nr_strips)
{
	map_extent *extent;

	if (pages > PAGES_MAX - map->head.pages || chunk > PAGES_MAX)
		return -E2BIG;
	extent = (map_extent *)
		bpf_fuse_dax_parse_get_meta(ctx, map->extents, sizeof(*extent));
	if (!extent)
		return -EIO;
	*extent = extent_interleaved(chunk, map->nr_strips, nr_strips);
	map->extents += sizeof(*extent);

	if (map->head.is_tree) {
#pragma unroll
		for (int level = 0; level < LEVELS; level++) {
			if (!map->head.level[level])
				break;
			TRY(put_u32(ctx, map->head.level[level] + n * 4,
				    map->head.pages));
			if (n % FANOUT)
				break;
			n /= FANOUT;
		}
	}
	map->head.pages += pages;
	return 0;
}

/*
 * The strip of a linear extent takes its place. No branch tells which it is: the
 * verifier would follow both, in each round of the loop.
 */
static __always_inline int map_add_strip(struct map_builder *map,
					 struct fuse_dax_fmap_parse_ctx *ctx,
					 __u64 chunk, __u64 addr, __u32 dev_index)
{
	__u32 linear = -((chunk - 1) >> 63);
	map_strip *strip;

	asm volatile("" : "+r"(linear));
	strip = (map_strip *)bpf_fuse_dax_parse_get_meta(ctx,
		(map->strips & ~linear) | ((map->extents - sizeof(map_extent)) & linear),
		sizeof(*strip));

	if (!strip)
		return -EIO;
	*strip = addr | dev_index;
	map->strips += sizeof(*strip);
	map->nr_strips++;
	return 0;
}

/* Bytes of the file that the extents so far map. */
static __always_inline __u64 map_size(const struct map_builder *map)
{
	return (__u64)map->head.pages << PAGE_SHIFT;
}

static __always_inline int map_end(struct map_builder *map,
				   struct fuse_dax_fmap_parse_ctx *ctx,
				   __u32 nr_extents)
{
	__u32 entries = nr_extents;
	struct map_head *head;
	__u32 i;

	if (!map->head.is_tree)
		return put_u32(ctx, 0, map->head.pages);

	head = (struct map_head *)bpf_fuse_dax_parse_get_meta(ctx, 0, sizeof(*head));
	if (!head)
		return -EIO;
	*head = map->head;

	/* Fill up the last node of each level. */
#pragma unroll
	for (int level = 0; level < LEVELS; level++) {
		if (!map->head.level[level])
			break;
		bpf_for(i, entries, (entries + FANOUT - 1) / FANOUT * FANOUT)
			TRY(put_u32(ctx, map->head.level[level] + i * 4,
				    map->head.pages));
		entries = (entries + FANOUT - 1) / FANOUT;
	}
	return 0;
}

#endif /* _EXTENT_MAP_BPF_H */
