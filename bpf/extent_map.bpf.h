/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The metadata that the reference programs make of a file map, and the lookup of an offset in
 * it. The formats differ, their meaning does not: a file is a sequence of extents, and an
 * extent is one strip of a device, or chunks that are distributed over several strips in turn.
 * So each program has its own parser, and all share this file.
 *
 * A file of one extent with few strips, the usual one, is one cache line:
 *
 *	head: size | extent | strips
 *
 * Any other is a search tree. A lookup reads one line per level, one more of the leaf, and one
 * of the strips if the extent has several:
 *
 *	head: size | levels of nodes
 *	nodes: first page of each leaf, 16 in a node, if there are several leaves;
 *	       above them, if there are several nodes, the top: first page of each node
 *	leaves: first page of each extent, and the extents, 15 in a leaf
 *	strips of interleaved extents
 *
 * The program gets the head as struct fuse_dax_fmap_meta, and may read it without a check. For
 * what follows it has to compare with the end of the metadata first, once for all nodes and
 * once for a leaf.
 *
 * All parts count in pages of 4 KiB, so 32 bits are enough for 16 TiB and divisions are short.
 * An extent of one strip is stored as that strip, and is found without a conversion. The reason
 * for all of this is the cost on the fault path.
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

#define FANOUT		16	/* of a node */
#define LEAF_EXTENTS	15
#define EXTENTS_MAX	(FANOUT * FANOUT * LEAF_EXTENTS)
#define HEAD_STRIPS	6

/* Device address, page aligned, with the device's index in the low bits. */
typedef __u64 map_strip;

/*
 * Of a linear extent: its strip. Otherwise: the highest bit, which no address has; the number
 * of strips, at least two; the place of the first one, in units of strips; and the pages in a
 * chunk. In the head of a tree it has the number of levels instead: one of the lowest values
 * with the highest bit, see extent_of_tree().
 */
typedef __u64 map_extent;

#define EXTENT_STRIPS	0x7fffU		/* more than fit into the metadata */

/* The largest size for which the verifier can follow a pointer to the last strip. */
#define META_SIZE_MAX	(FUSE_DAX_FMAP_META_MAX - sizeof(map_strip))
#define STRIPS_END	(META_SIZE_MAX / sizeof(map_strip))

_Static_assert(STRIPS_END <= EXTENT_STRIPS,
	       "an extent can have all strips that a file can");

static __always_inline map_extent extent_interleaved(__u32 chunk, __u32 first_strip,
						     __u32 nr_strips)
{
	return 1ULL << 63 | (__u64)nr_strips << 48 | (__u64)first_strip << 32 | chunk;
}

static __always_inline map_extent extent_of_tree(__u32 levels)
{
	return 1ULL << 63 | (2 - levels);
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
	map_extent extent;
	map_strip strip[HEAD_STRIPS];
};

_Static_assert(sizeof(struct map_head) == sizeof(struct fuse_dax_fmap_meta),
	       "all of the head is at hand");

struct map_node {
	__u32	first[FANOUT];	/* unused ones: the end of the file */
};

struct map_leaf {
	__u32	first[LEAF_EXTENTS + 1];	/* the last entry: of the next leaf */
	map_extent extent[LEAF_EXTENTS];
	__u64	reserved;
};

/* The metadata of a tree with 0, 1 or 2 levels of nodes. */
struct map_tree_0 {
	struct map_head head;
	struct map_leaf leaf[];
};

struct map_tree_1 {
	struct map_head head;
	struct map_node node;
	struct map_leaf leaf[];
};

struct map_tree_2 {
	struct map_head head;
	struct map_node top;
	struct map_node node[FANOUT];
	struct map_leaf leaf[];
};

/*
 * Lookup
 */

/*
 * Moves @first from the first of 16 entries to the last one that does not begin behind @page,
 * and @beside, which has an item for each entry, along with it. Without the barriers, clang
 * would compare twice instead of jumping once.
 */
#define FIND_STEP(first, beside, page, n)				\
	do {								\
		if ((first)[n] <= (page)) {				\
			(first) += n;					\
			(beside) += n;					\
			asm volatile("" : "+r"(first));			\
		}							\
	} while (0)

#define FIND(first, beside, page)					\
	do {								\
		asm volatile("" : "+r"(first), "+r"(beside));		\
		FIND_STEP(first, beside, page, 8);			\
		FIND_STEP(first, beside, page, 4);			\
		FIND_STEP(first, beside, page, 2);			\
		FIND_STEP(first, beside, page, 1);			\
	} while (0)

/* A page of an interleaved extent: its strip, its page there, and how many pages follow. */
struct map_place {
	__u32	strip;
	__u32	page;
	__u32	left;
};

/* r0 is rax, in which x86 divides: the JIT would save rax around any other division. */
static __always_inline __u32 divide(__u32 a, __u32 b)
{
#ifdef __bpf__
	register __u32 quotient asm("w0") = a;

	asm("%0 /= %1" : "+w"(quotient) : "w"(b));
	return quotient;
#else
	return a / b;
#endif
}

static __always_inline struct map_place place_in_extent(map_extent extent, __u32 page,
							__u32 left)
{
	__u32 nr_strips = extent_strips(extent), pages = extent;
	__u32 chunk = divide(page, pages);
	__u32 row = divide(chunk, nr_strips);
	__u32 in_chunk = page - chunk * pages;

	return (struct map_place) {
		.strip = chunk - row * nr_strips,
		.page = row * pages + in_chunk,
		.left = left < pages - in_chunk ? left : pages - in_chunk,
	};
}

/* Reports @length bytes of a strip, from @offset on. */
static __always_inline void strip_report(struct fuse_iomap_io *io, map_strip strip,
					 __u64 offset, __u64 length)
{
	__u64 dev_index = strip & PAGE_MASK;

	asm volatile("" : "+r"(dev_index));	/* otherwise clang makes it a longer mask */
	io->length = length;
	io->dev_index = dev_index;
	io->addr = strip - dev_index + offset;
}

static __always_inline void place_report(struct fuse_iomap_io *io, map_strip strip,
					 struct map_place p)
{
	strip_report(io, strip, (__u64)p.page << PAGE_SHIFT, (__u64)p.left << PAGE_SHIFT);
}

/*
 * Arguments of iomap_begin(), see struct fuse_dax_fmap_ops. They are read where they are
 * needed, again if need be, as there are more of them than registers.
 */
enum { ARG_CTX, ARG_IO, ARG_META, ARG_DATA, ARG_DATA_END };

static __always_inline void *argument(const __u64 *args, int n)
{
	return (void *)*(const volatile __u64 *)&args[n];
}

/* The check that the verifier requires before the program reads behind the head. */
#define is_beyond(item, data_end)	((const void *)((item) + 1) > (data_end))

/*
 * Returns the leaf of entry @first of the nodes. Their number is a power of two, and they end
 * where the leaves begin: so the difference, modulo their size, is the offset of the entry in
 * them. The verifier knows nothing about this number: otherwise it would follow each leaf
 * separately.
 */
static __always_inline const struct map_leaf *leaf_of(const __u32 *first, __u32 nodes,
						      const struct map_leaf *leaves)
{
	__u64 at = ((unsigned long)first - (unsigned long)leaves) &
		   (nodes * sizeof(struct map_node) - sizeof(*first));

	return (const void *)leaves + at * (sizeof(*leaves) / sizeof(*first));
}

/*
 * A function of its own, so that the usual file does not pay for what it needs. It takes the
 * arguments of iomap_begin() as the kernel passes them: most are needed at its end only.
 */
static __noinline int map_resolve_any(const __u64 *args, __u64 page, const struct map_head *head)
{
	const void *data = argument(args, ARG_DATA), *data_end = argument(args, ARG_DATA_END);
	map_extent extent = head->extent;
	const struct map_leaf *leaf;
	const map_extent *found;
	__u32 first, end, index;
	const map_strip *strip;
	struct map_place p;
	const __u32 *at;
	__u64 unused = 0;

	if (!(__u32)extent) {		/* extent_of_tree(2) */
		const struct map_tree_2 *tree = data;
		const struct map_node *node = tree->node;

		if (is_beyond(tree, data_end))
			return -EIO;
		at = tree->top.first;
		FIND(at, node, page);
		at = node->first;
		FIND(at, unused, page);
		leaf = leaf_of(at, FANOUT, tree->leaf);
	} else if (extent > extent_of_tree(0)) {
		first = 0;
		end = head->size >> PAGE_SHIFT;
		goto interleaved;
	} else if (extent == extent_of_tree(1)) {
		const struct map_tree_1 *tree = data;

		if (is_beyond(tree, data_end))
			return -EIO;
		at = tree->node.first;
		FIND(at, unused, page);
		leaf = leaf_of(at, 1, tree->leaf);
	} else {			/* extent_of_tree(0) */
		leaf = ((const struct map_tree_0 *)data)->leaf;
	}
	if (is_beyond(leaf, data_end))
		return -EIO;
	at = leaf->first;
	found = leaf->extent;
	FIND(at, found, page);
	first = at[0];
	end = at[1];
	extent = *found;
	if (extent_is_linear(extent)) {
		strip_report(argument(args, ARG_IO), extent, (page - first) << PAGE_SHIFT,
			     (end - page) << PAGE_SHIFT);
		return 0;
	}
interleaved:
	p = place_in_extent(extent, page - first, end - page);
	index = extent_first(extent) + p.strip;
	if (index >= STRIPS_END)
		return -EIO;
	strip = (const map_strip *)argument(args, ARG_DATA) + index;
	if (is_beyond(strip, argument(args, ARG_DATA_END)))
		return -EIO;
	place_report(argument(args, ARG_IO), *strip, p);
	return 0;
}

static __always_inline int map_resolve_from(const __u64 *args, const struct map_head *head)
{
	struct fuse_iomap_io *io = argument(args, ARG_IO);
	__s64 left = head->size - io->offset;	/* both are less than 2^63 */

	if (__builtin_expect(left <= 0, 0)) {
		int err = -ERANGE;

		asm volatile("" : "+r"(err));	/* otherwise clang loads it at each call */
		return err;
	}
	if (__builtin_expect(!extent_is_linear(head->extent), 0))
		return map_resolve_any(args, io->offset >> PAGE_SHIFT, head);
	strip_report(io, head->extent, io->offset, left);
	return 0;
}

/* The whole of iomap_begin(). */
static __always_inline int map_resolve(const __u64 *args)
{
	return map_resolve_from(args, argument(args, ARG_META));
}

/*
 * Building: map_begin(), then each extent followed by its strips, then map_end(). The caller
 * has checked what it adds, and adds as many as it has announced.
 *
 * The number @n of an extent is passed in, and not counted here: it has to come from bpf_for().
 * The verifier would know the start value of a counter in map_builder, and because of the
 * branches that depend on it (n % FANOUT) would follow each round of the loop separately.
 */

struct map_builder {
	struct map_head	head;	/* of a tree */
	__u32	pages;		/* that the extents so far map */
	bool	is_tree;
	__u32	levels;		/* of nodes */
	__u32	leaves;		/* offset of the leaves */
	__u32	extent;		/* offset of the extent that was added last */
	__u32	linear;		/* all ones if that is linear, else 0 */
	__u32	strips;		/* offset of the next strip of an interleaved extent */
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

/* The pages that each strip of an extent needs: its rows, the last one in full. */
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
	__u32 nodes = map->levels == 2 ? offsetof(struct map_tree_2, node) :
					      offsetof(struct map_tree_1, node);

	return nodes + n * sizeof(__u32);
}

/* Offset of the first page of extent @n of leaf @leaf, or of the next leaf. */
static __always_inline __u32 leaf_entry(const struct map_builder *map, __u32 leaf, __u32 n)
{
	return map->leaves + leaf * sizeof(struct map_leaf) + n * sizeof(__u32);
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
	if (nr_strips < nr_extents)
		return -EINVAL;
	if (nr_extents > 1 || nr_strips > HEAD_STRIPS) {
		__u32 leaves = (nr_extents + LEAF_EXTENTS - 1) / LEAF_EXTENTS;
		/* Each interleaved extent has at least one strip more than a linear one. */
		__u64 interleaved = 2 * (__u64)(nr_strips - nr_extents);

		if (leaves > FANOUT) {
			map->levels = 2;
			map->leaves = sizeof(struct map_tree_2);
		} else if (leaves > 1) {
			map->levels = 1;
			map->leaves = sizeof(struct map_tree_1);
		} else {
			map->leaves = sizeof(struct map_tree_0);
		}
		map->strips = map->leaves + leaves * sizeof(struct map_leaf);
		size = map->strips + (interleaved < nr_strips ? interleaved : nr_strips) *
				     sizeof(map_strip);
		map->is_tree = true;
		map->head.extent = extent_of_tree(map->levels);
	}
	if (size > META_SIZE_MAX)
		return -E2BIG;
	return bpf_fuse_dax_parse_alloc_meta(ctx, size);
}

/*
 * The strips that extent @n of @nr_extents can have, of @nr_strips in all: each extent behind
 * it needs one. map_begin() relies on this.
 */
static __always_inline __u32 map_strips_left(const struct map_builder *map, __u32 n,
					     __u32 nr_extents, __u32 nr_strips)
{
	return nr_strips - map->nr_strips - (nr_extents - 1 - n);
}

/* An extent of one strip is linear, whatever its chunks are. */
static __always_inline int map_add_extent(struct map_builder *map,
					  struct fuse_dax_fmap_parse_ctx *ctx,
					  __u32 n, __u64 pages, __u64 chunk,
					  __u32 nr_strips)
{
	map_extent *extent;

	if (pages > PAGES_MAX - map->pages || chunk > PAGES_MAX)
		return -E2BIG;

	if (map->is_tree) {
		__u32 leaf = n / LEAF_EXTENTS, i = n % LEAF_EXTENTS;

		TRY(put_u32(ctx, leaf_entry(map, leaf, i), map->pages));
		if (!i && leaf)
			TRY(put_u32(ctx, leaf_entry(map, leaf - 1, LEAF_EXTENTS), map->pages));
		if (!i && map->levels)
			TRY(put_u32(ctx, node_entry(map, leaf), map->pages));
		if (!i && map->levels == 2 && !(leaf % FANOUT))
			TRY(put_u32(ctx, offsetof(struct map_tree_2, top) +
					 leaf / FANOUT * sizeof(__u32), map->pages));
		map->extent = map->leaves + leaf * sizeof(struct map_leaf) +
			      offsetof(struct map_leaf, extent) + i * sizeof(*extent);
	}
	extent = (map_extent *)
		bpf_fuse_dax_parse_get_meta(ctx, map->extent, sizeof(*extent));
	if (!extent)
		return -EIO;
	*extent = extent_interleaved(chunk, map->strips / sizeof(map_strip), nr_strips);
	map->linear = -((nr_strips - 2) >> 31);
	map->pages += pages;
	return 0;
}

/*
 * The strip of a linear extent replaces the extent. There is no branch for it: the verifier
 * would follow both sides, in each round of the loop.
 */
static __always_inline int map_add_strip(struct map_builder *map,
					 struct fuse_dax_fmap_parse_ctx *ctx,
					 __u64 addr, __u32 dev_index)
{
	__u32 linear = map->linear;
	map_strip *strip;

	asm volatile("" : "+r"(linear));
	strip = (map_strip *)bpf_fuse_dax_parse_get_meta(ctx,
		(map->strips & ~linear) | (map->extent & linear),
		sizeof(*strip));

	if (!strip)
		return -EIO;
	*strip = addr | dev_index;
	map->strips += sizeof(*strip) & ~linear;
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
	__u32 leaf, nodes, i;
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
	leaf = (nr_extents - 1) / LEAF_EXTENTS;
	bpf_for(i, nr_extents - leaf * LEAF_EXTENTS, LEAF_EXTENTS + 1)
		TRY(put_u32(ctx, leaf_entry(map, leaf, i), map->pages));
	if (!map->levels)
		return 0;
	nodes = leaf / FANOUT + 1;
	bpf_for(i, leaf + 1, nodes * FANOUT)
		TRY(put_u32(ctx, node_entry(map, i), map->pages));
	if (map->levels == 2)
		bpf_for(i, nodes, FANOUT)
			TRY(put_u32(ctx, offsetof(struct map_tree_2, top) +
					 i * sizeof(__u32), map->pages));
	return 0;
}

#endif /* _EXTENT_MAP_BPF_H */
