/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The model that the programs are tested against. It computes no address: it places
 * the pages of a file one after the other, filling strips as one would by hand, and
 * records where each page went.
 */
#ifndef _LAYOUT_H
#define _LAYOUT_H

#include "kernel.h"

#define PAGE	4096ULL
#define KiB	1024ULL
#define MiB	(1024 * KiB)
#define GiB	(1024 * MiB)
#define TiB	(1024 * GiB)

struct strip {
	__u32	dev;
	__u64	offset;
	__u64	length;
};

struct extent {
	__u64	length;
	__u64	chunk;		/* 0: linear */
	__u32	nr_strips;
	struct strip *strip;
};

struct layout {
	__u64	file_size;
	__u32	nr_extents;
	struct extent *extent;
};

/* A layout on the heap, built step by step; strips get their length from the extent. */
struct layout *layout_new(__u64 file_size);
struct extent *layout_extent(struct layout *layout, __u64 length, __u64 chunk);
void extent_strip(struct extent *extent, __u32 dev, __u64 offset);
void layout_free(struct layout *layout);
__u64 layout_length(const struct layout *layout);
__u32 layout_nr_strips(const struct layout *layout);

/* The bytes of a strip of this extent: as many full rows as it needs. */
__u64 extent_strip_length(const struct extent *extent);

/*
 * Extents of random shapes over random devices; offsets and lengths are multiples of
 * @align. Strips do not overlap and are not in the order of the file.
 */
enum kind { LINEAR, INTERLEAVED, MIXED };
struct layout *layout_random(__u32 nr_extents, __u32 max_strips, __u64 align,
			     enum kind kind);

/*
 * Opens a file with this map and compares all of it with the model: size, devices,
 * each piece from the first byte to the last, and pages at random. Prints a comment
 * if something is wrong.
 */
bool layout_matches(const struct layout *layout,
		    const struct fuse_dax_fmap_ops *ops,
		    const void *blob, __u32 blob_size);

/* Numbers that are the same in each run. */
__u64 random_number(void);
__u64 random_below(__u64 limit);

#endif
