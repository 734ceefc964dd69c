/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a program keeps of a file map, and how it finds an offset in it. The
 * formats differ, their meaning does not: a file is a row of extents, an extent
 * is one strip of a device or chunks dealt out in turn to several. So each
 * program brings its own parser, and all share this.
 *
 * A file of one extent with few strips, the usual one, is one cache line:
 *
 *	head: size | extent | strips
 *
 * Any other is a search tree, of which a lookup reads one line per level, one more of
 * the leaf, and one of the strips if they are several:
 *
 *	head: size | where the parts are
 *	nodes: first page of each leaf, 16 in a node, if there are several leaves;
 *	       above them, if they are several, the top: first page of each node
 *	leaves: first page of each extent, and the extents, 16 in a leaf
 *	strips
 *
 * The head is what the program gets as struct fuse_dax_fmap_meta. The rest it has to
 * ask for, by a kfunc, so each part is asked for at once: the nodes with the top, the
 * pages of a leaf with its extents.
 *
 * The parts count in pages of 4 KiB, so that 32 bits are enough for 16 TiB and
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
#define EXTENTS_MAX	(FANOUT * FANOUT * FANOUT)
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
	__u64	size;		/* bytes that the extents map */
	map_extent extent;	/* EXTENT_OF_TREE if it is one */
	union {
		map_strip strip[HEAD_STRIPS];
		struct {
			__u32 levels;	/* of nodes, which are behind the head */
			__u32 leaves;	/* where they are in the metadata */
			__u32 strips;	/* the same */
		};
	};
};

_Static_assert(sizeof(struct map_head) == sizeof(struct fuse_dax_fmap_meta),
	       "all of the head is at hand");

struct map_node {
	__u32	first[FANOUT];	/* unused ones: the end of the file */
};

/* Two levels of nodes. */
struct map_nodes {
	struct map_node top;
	struct map_node below[FANOUT];
};

struct map_leaf {
	struct map_node pages;
	map_extent extent[FANOUT];
};

/* A leaf, and the page that the next one begins with; behind the last one: the end of the file. */
struct map_leaf_and_end {
	struct map_leaf leaf;
	__u32	end;
};

/* For the last page; strips are aligned. */
#define LEAVES_END	sizeof(__u64)

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

/* @length bytes of a strip, from @offset on. */
static __always_inline void strip_report(struct fuse_iomap_io *io, map_strip strip,
					 __u64 offset, __u64 length)
{
	__u64 dev_index = strip & PAGE_MASK;

	asm volatile("" : "+r"(dev_index));	/* or clang makes it a longer mask again */
	io->length = length;
	io->dev_index = dev_index;
	io->addr = strip - dev_index + offset;
}

static __always_inline void place_report(struct fuse_iomap_io *io, map_strip strip,
					 struct map_place p)
{
	strip_report(io, strip, (__u64)p.page << PAGE_SHIFT, (__u64)p.left << PAGE_SHIFT);
}

#define meta_at(ctx, offset, type) \
	((const type *)bpf_fuse_dax_resolve_get_meta(ctx, offset, sizeof(type)))

/* A program of its own, so that the usual file does not pay for what it needs. */
static __noinline int map_resolve_any(struct fuse_dax_fmap_resolve_ctx *ctx,
				      struct fuse_iomap_io *io, const struct map_head *head)
{
	__u64 offset = ctx->file_offset, start;
	__u32 page = offset >> PAGE_SHIFT, index = 0, first, end, i;
	const struct map_leaf_and_end *at;
	const map_strip *strip;
	struct map_place p;
	map_extent extent;

	if (offset >= head->size)
		return -ERANGE;
	if (head->extent != EXTENT_OF_TREE) {
		p = place_in_extent(head->extent, page, (head->size >> PAGE_SHIFT) - page);
		strip = meta_at(ctx, offsetof(struct map_head, strip) +
				     p.strip * sizeof(*strip), map_strip);
		if (!strip)
			return -EIO;
		place_report(io, *strip, p);
		return 0;
	}

	if (head->levels == 2) {
		const struct map_nodes *nodes =
			meta_at(ctx, sizeof(*head), struct map_nodes);

		if (!nodes)
			return -EIO;
		i = node_find(&nodes->top, page);
		index = i * FANOUT + node_find(&nodes->below[i], page);
	} else if (head->levels == 1) {
		const struct map_node *node =
			meta_at(ctx, sizeof(*head), struct map_node);

		if (!node)
			return -EIO;
		index = node_find(node, page);
	}
	at = meta_at(ctx, head->leaves + index * sizeof(struct map_leaf),
		     struct map_leaf_and_end);
	if (!at)
		return -EIO;
	i = node_find(&at->leaf.pages, page);
	first = at->leaf.pages.first[i];
	end = i < FANOUT - 1 ? at->leaf.pages.first[i + 1] : at->end;
	extent = at->leaf.extent[i];

	if (extent_is_linear(extent)) {
		start = (__u64)first << PAGE_SHIFT;
		strip_report(io, extent, offset - start,
			     ((__u64)end << PAGE_SHIFT) - offset);
		return 0;
	}
	p = place_in_extent(extent, page - first, end - page);
	strip = meta_at(ctx, head->strips + (extent_first(extent) + p.strip) *
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
	__u64 offset = ctx->file_offset;
	__s64 left = head->size - offset;	/* both are less than 2^63 */
	map_extent extent = head->extent;

	if (left > 0 && extent_is_linear(extent)) {
		strip_report(io, extent, offset, left);
		return 0;
	}
	return map_resolve_any(ctx, io, head);
}

static __always_inline int map_resolve(struct fuse_dax_fmap_resolve_ctx *ctx,
				       struct fuse_iomap_io *io,
				       const struct fuse_dax_fmap_meta *meta)
{
	return map_resolve_from(ctx, io, (const struct map_head *)meta);
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
	struct map_head	head;	/* of a tree */
	__u32	pages;		/* that the extents so far map */
	bool	is_tree;
	__u32	extent;		/* offset of the extent that was added last */
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

/* Offset of number @n of the lowest level of nodes. */
static __always_inline __u32 node_entry(const struct map_builder *map, __u32 n)
{
	__u32 below = map->head.levels == 2 ? sizeof(struct map_node) : 0;

	return sizeof(struct map_head) + below + n * sizeof(__u32);
}

/* Offset of the first page of extent @n in its leaf. */
static __always_inline __u32 leaf_entry(const struct map_builder *map, __u32 n)
{
	return map->head.leaves + n / FANOUT * sizeof(struct map_leaf) +
	       n % FANOUT * sizeof(__u32);
}

/* Offset of extent @n in its leaf. */
static __always_inline __u32 leaf_extent(const struct map_builder *map, __u32 n)
{
	return map->head.leaves + n / FANOUT * sizeof(struct map_leaf) +
	       sizeof(struct map_node) + n % FANOUT * sizeof(map_extent);
}

static __always_inline int map_begin(struct map_builder *map,
				     struct fuse_dax_fmap_parse_ctx *ctx,
				     __u32 nr_extents, __u32 nr_strips)
{
	__u64 size = sizeof(struct map_head);

	__builtin_memset(map, 0, sizeof(*map));
	map->extent = offsetof(struct map_head, extent);
	map->strips = offsetof(struct map_head, strip);

	if (nr_extents > EXTENTS_MAX)
		return -E2BIG;
	if (nr_extents > 1 || nr_strips > HEAD_STRIPS) {
		if (nr_extents > FANOUT * FANOUT) {
			map->head.levels = 2;
			size += sizeof(struct map_nodes);
		} else if (nr_extents > FANOUT) {
			map->head.levels = 1;
			size += sizeof(struct map_node);
		}
		map->head.leaves = size;
		size += (nr_extents + FANOUT - 1) / FANOUT * sizeof(struct map_leaf) +
			LEAVES_END;
		map->is_tree = true;
		map->head.extent = EXTENT_OF_TREE;
		map->head.strips = size;
		map->strips = size;
		size += (__u64)nr_strips * sizeof(map_strip);
	}
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

	if (pages > PAGES_MAX - map->pages || chunk > PAGES_MAX)
		return -E2BIG;

	if (map->is_tree) {
		TRY(put_u32(ctx, leaf_entry(map, n), map->pages));
		if (map->head.levels && !(n % FANOUT))
			TRY(put_u32(ctx, node_entry(map, n / FANOUT), map->pages));
		if (map->head.levels == 2 && !(n % (FANOUT * FANOUT)))
			TRY(put_u32(ctx, sizeof(struct map_head) +
					 n / (FANOUT * FANOUT) * sizeof(__u32),
				    map->pages));
		map->extent = leaf_extent(map, n);
	}
	extent = (map_extent *)
		bpf_fuse_dax_parse_get_meta(ctx, map->extent, sizeof(*extent));
	if (!extent)
		return -EIO;
	*extent = extent_interleaved(chunk, map->nr_strips, nr_strips);
	map->pages += pages;
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
		(map->strips & ~linear) | (map->extent & linear),
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
	return (__u64)map->pages << PAGE_SHIFT;
}

static __always_inline int map_end(struct map_builder *map,
				   struct fuse_dax_fmap_parse_ctx *ctx,
				   __u32 nr_extents)
{
	__u32 leaves = (nr_extents + FANOUT - 1) / FANOUT, nodes, i;
	struct map_head *head;

	head = (struct map_head *)bpf_fuse_dax_parse_get_meta(ctx, 0, sizeof(*head));
	if (!head)
		return -EIO;
	if (map->is_tree)
		*head = map->head;
	head->size = map_size(map);
	if (!map->is_tree)
		return 0;

	/* Fill up the last leaf, the last node, and the top. */
	bpf_for(i, nr_extents, leaves * FANOUT)
		TRY(put_u32(ctx, leaf_entry(map, i), map->pages));
	TRY(put_u32(ctx, leaf_entry(map, leaves * FANOUT), map->pages));
	if (!map->head.levels)
		return 0;
	nodes = (leaves + FANOUT - 1) / FANOUT;
	bpf_for(i, leaves, nodes * FANOUT)
		TRY(put_u32(ctx, node_entry(map, i), map->pages));
	if (map->head.levels == 2)
		bpf_for(i, nodes, FANOUT)
			TRY(put_u32(ctx, sizeof(struct map_head) + i * sizeof(__u32),
				    map->pages));
	return 0;
}

#endif /* _EXTENT_MAP_BPF_H */
