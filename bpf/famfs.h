/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * famfs: the file map that famfs servers answer to GET_FMAP, version 1; read by
 * famfs.bpf.c. The layout is that of famfs; little endian.
 *
 *	struct famfs_header
 *	  simple:	struct famfs_simple_ext[nextents]
 *	  interleave:	nextents times struct famfs_iext, each followed by its strips:
 *			struct famfs_simple_ext[nstrips]
 *
 * Extents follow each other in the file, as in striped.h, and bytes go to the strips
 * of an interleaved extent as there. A strip may be longer than its extent needs.
 *
 * There are two generations of servers. Those of the first (revisions 7 to 10 of the
 * famfs patches for FUSE) leave @fmap_size 0. The next ones say there how many bytes
 * the map takes, and differ in this:
 *
 *  - If a map does not fit into the buffer of GET_FMAP, the answer is not ERANGE, but the
 *    header of the map alone.
 *
 *  - A striped file may be sent unrolled: a simple list with an extent for each chunk,
 *    in file order. Over n strips, extent i + n is the chunk behind extent i on its
 *    device. Only the last extent may be shorter. The parser finds n, and keeps n
 *    strips, however long the list is.
 *
 * Rules, and how the open fails when one is broken:
 *
 *  ERANGE	not a failure: a header alone, whose @fmap_size is larger than the buffer
 *		of the request. The kernel asks again with a larger one
 *  EBADMSG	the blob is not this format: size (too short, or bytes left over); a
 *		@fmap_size that is neither 0 nor the size; a reserved field that is not 0
 *  EOPNOTSUPP	fmap_version, ext_type or file_type
 *  E2BIG	- at most FAMFS_MAX_EXTENTS, of at most FAMFS_MAX_STRIPS each, in a
 *		  reply of at most FAMFS_MAX_FMAP bytes
 *		- or a simple list that is a file striped over at most
 *		  FAMFS_MAX_UNROLLED_STRIPS, with more than one chunk on the first of
 *		  them, in a reply of at most FUSE_DAX_FMAP_BLOB_MAX bytes
 *		- the extents map less than 16 TiB
 *  EINVAL	- offsets, lengths and chunk sizes are multiples of FAMFS_ALIGN;
 *		  lengths and chunk sizes are not 0. Only nbytes of the last extent
 *		  may be any number but 0, and so may the length of the last simple
 *		  extent if the file ends with it.
 *		- an extent has at least one strip; its strips hold its rows:
 *		  ceil(nbytes / (chunk_size * nstrips)) * chunk_size
 *		- the extents hold @file_size bytes, and there is one unless it is 0
 *  ENXIO	devindex is below 64
 *  EOVERFLOW	a strip ends below 2^63
 *  EADDRINUSE	no two ranges of one device overlap
 */
#ifndef _FAMFS_H
#define _FAMFS_H

#include <linux/types.h>

#define FAMFS_OPS_NAME		"famfs"
#define FAMFS_FMAP_VERSION	1
#define FAMFS_ALIGN		(2U << 20)
#define FAMFS_MAX_EXTENTS	32
#define FAMFS_MAX_STRIPS	32
#define FAMFS_MAX_FMAP		4096
#define FAMFS_MAX_UNROLLED_STRIPS 256

enum famfs_file_type {			/* all three are files like any other */
	FAMFS_FILE_REG,
	FAMFS_FILE_SUPERBLOCK,
	FAMFS_FILE_LOG,
};

enum famfs_ext_type {
	FAMFS_EXT_SIMPLE,
	FAMFS_EXT_INTERLEAVE,
};

struct famfs_header {
	__u8	file_type;
	__u8	reserved0;
	__u16	fmap_version;
	__u32	ext_type;
	__u32	nextents;
	__u32	fmap_size;	/* of the whole map, with this header; or 0 */
	__u64	file_size;
	__u64	reserved2;
};

struct famfs_simple_ext {
	__u32	devindex;
	__u32	reserved;
	__u64	offset;
	__u64	len;
};

struct famfs_iext {
	__u32	nstrips;
	__u32	chunk_size;
	__u64	nbytes;
	__u64	reserved;
};

#endif /* _FAMFS_H */
