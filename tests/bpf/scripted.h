/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A file map for tests: it says what the two programs of scripted.bpf.c return,
 * so a test can have any behaviour, wrong ones included, from one BPF object.
 */
#ifndef SCRIPTED_H
#define SCRIPTED_H

#include <linux/types.h>

#define SCRIPTED_OPS_NAME	"scripted"

/* @addr and @length are those of the file's first byte; the program adds the offset. */
#define SCRIPTED_LINEAR		1U
/* iomap_begin() leaves struct fuse_iomap_io alone. */
#define SCRIPTED_SILENT		2U
/* At most @step bytes per call. */
#define SCRIPTED_STEPS		4U

struct scripted {
	/* dax_fmap_parse() */
	__s32	parse_ret;
	__u32	alloc;			/* bytes of metadata, 0: none asked for */
	__u32	alloc_again;		/* a second allocation of so many bytes */
	__u32	flags;
	__u64	file_size;
	__u64	dev_bitmap;
	/* iomap_begin() */
	__s32	begin_ret;
	__u32	dev_index;
	__u64	addr;
	__u64	length;
	__u64	step;
	/* If @hole_end is not 0: a hole, with nonsense as address and device. */
	__u64	hole;
	__u64	hole_end;
	__u64	hole_length;		/* 0: up to @hole_end */
	__u32	type;			/* if not 0 */
	__u32	blob_wanted;		/* dax_fmap_parse(), too */
};

/* What the programs saw; the beginning of the object's .bss. */
struct scripted_seen {
	__u64	parses;
	__u64	begins;
	/* of the last dax_fmap_parse() */
	__u32	blob_size;
	__s32	alloc_ret;
	__s32	alloc_again_ret;
	__u32	meta_buf_size;		/* after the allocations */
	__u32	beyond;			/* getters that went beyond their buffer */
	__u32	blob_room;
	/* of the last iomap_begin() */
	__u32	begin_meta_buf_size;
	__u32	reserved1;
	__u64	file_offset;
	__u64	length;
	__u64	file_size;
	__u64	io_offset;
	/* of all iomap_begin(): one that broke the promises of the UAPI header */
	__u64	broken;
	/*
	 * Set by the test: calls number @from to @to - 1, from 0 on, do @how
	 * instead of what the map says.
	 */
	struct scripted_fit {
		__u64	from, to;
		__u32	how;
		__s32	ret;		/* SCRIPTED_RETURN */
	} parse_fit, begin_fit;
};

/* How a program misbehaves. */
enum {
	SCRIPTED_RETURN,		/* returns what it is told */
	SCRIPTED_EMPTY,			/* nothing filled in */
	SCRIPTED_UNALIGNED,
	SCRIPTED_BEYOND,		/* the end of any device */
	SCRIPTED_UNDECLARED,		/* a device that no file has */
};

#endif /* SCRIPTED_H */
