/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * striped: a file map made of extents, each on one device or interleaved over
 * several. A server that has named "striped" in INIT answers FUSE_GET_FMAP with
 * it. Only striped.bpf.c reads it.
 *
 *	struct striped_header
 *	struct striped_extent[nr_extents]	in file order
 *	struct striped_strip[nr_strips]		in the order the extents use them
 *
 * and not a byte more. Little endian, no holes.
 *
 * The first extent maps the file from offset 0 on, the next one follows where it
 * ends, and so on; so extents cannot overlap and a file has no holes. An extent
 * takes the next @nr_strips strips of the table. A strip is a contiguous range
 * of one device. With n strips, byte x of an extent is at
 *
 *	linear (chunk_size 0, n = 1)	strip[0].offset + x
 *	interleaved			strip[c % n].offset + c / n * chunk_size +
 *					x % chunk_size,  where c = x / chunk_size
 *
 * Example: 10 MB, interleaved by 2 MiB over devices 0 and 1, one extent:
 *
 *	header	file_size 10000000, nr_extents 1, nr_strips 2, first_strip 0
 *	extent	length 0xa00000, chunk_size 0x200000, nr_strips 2
 *	strip 0	offset 0x40000000, length 0x600000, dev_index 0, next 1
 *	strip 1	offset 0,          length 0x600000, dev_index 1, next STRIPED_END
 *
 * Rules, and how the open fails when one is broken:
 *
 *  EBADMSG	the blob is not this format: magic; size (too short, or bytes
 *		left over); a reserved field that is not 0
 *  EOPNOTSUPP	version
 *  E2BIG	more than the program holds: the extents map less than 16 TiB, and no
 *		chunk is as long; they are no more than STRIPED_EXTENTS_MAX, and
 *		STRIPED_META_SIZE() is no more than STRIPED_META_MAX. 2,048 extents
 *		with 4,096 strips fit, or one with 8,023.
 *  EINVAL	- lengths, offsets and chunk sizes are multiples of STRIPED_ALIGN;
 *		  lengths are not 0. PMD faults need multiples of 2 MiB.
 *		- the extents use all strips, each at least one, a linear extent
 *		  exactly one
 *		- a strip of a linear extent is as long as the extent; of an
 *		  interleaved one as long as its rows:
 *		  ceil(length / (chunk_size * n)) * chunk_size
 *		- the extents cover @file_size, and the last one holds its last
 *		  byte. The file does not use what lies behind that. An empty file
 *		  has no extents.
 *		- @first_strip and @next lead through all strips, see below
 *  ENXIO	dev_index is below 64
 *  EOVERFLOW	a strip ends below 2^63
 *  EADDRINUSE	no two strips overlap
 *
 * To find overlaps in one pass, the parser needs the strips in device order, in which
 * the server links them: @first_strip is the strip with the lowest (dev_index, offset),
 * @next of a strip is the one that follows in this order, STRIPED_END after the last.
 * Both are indices into the table of strips. A strip that links itself leads through
 * no others, and overlaps none: EINVAL.
 */
#ifndef _STRIPED_H
#define _STRIPED_H

#include <linux/types.h>

#define STRIPED_OPS_NAME	"striped"
#define STRIPED_MAGIC		0x50525453U	/* "STRP" */
#define STRIPED_VERSION		1
#define STRIPED_ALIGN		4096U
#define STRIPED_END		0xffffffffU	/* no next strip; no strips at all */

struct striped_header {
	__u32	magic;		/* STRIPED_MAGIC */
	__u16	version;	/* STRIPED_VERSION */
	__u16	reserved0;
	__u64	file_size;	/* any, not only multiples of STRIPED_ALIGN */
	__u32	nr_extents;
	__u32	nr_strips;	/* of all extents together */
	__u32	first_strip;	/* STRIPED_END if there is none */
	__u32	reserved1;
};

struct striped_extent {
	__u64	length;		/* bytes of the file */
	__u64	chunk_size;	/* 0: linear */
	__u32	nr_strips;
	__u32	reserved;
};

struct striped_strip {
	__u64	offset;		/* on the device */
	__u64	length;		/* on the device */
	__u32	dev_index;	/* as in FUSE_GET_DAXDEV */
	__u32	next;		/* by (dev_index, offset), or STRIPED_END */
};

/*
 * The metadata of a file in the kernel, at most: a line for the header, 17 for the
 * nodes of a search tree, and its leaves, which hold 15 extents each; and the strips
 * of extents that have more than one.
 */
#define STRIPED_META_SIZE(nr_extents, nr_strips)				\
	(64ULL + 17 * 64 + 192 * (((nr_extents) + 14) / 15) +			\
	 8ULL * ((nr_strips) < 2 * (nr_extents) ? 2 * ((nr_strips) - (nr_extents)) : (nr_strips)))
#define STRIPED_META_MAX	65528U
#define STRIPED_EXTENTS_MAX	3840U

#endif /* _STRIPED_H */
