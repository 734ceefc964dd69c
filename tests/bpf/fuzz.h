/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Ops that the fuzzer controls: dax_fmap_parse() does what the file map says,
 * iomap_begin() returns the next answer and records its arguments. User space has
 * answers and records in the object's .bss.
 */
#ifndef FUZZ_BPF_H
#define FUZZ_BPF_H

#include <linux/types.h>

#define FUZZ_OPS_NAME	"fuzz"
#define FUZZ_CALLS	256	/* a power of two */
#define FUZZ_NO_META	0xffffffffU

/* The file map: what dax_fmap_parse() does. */
struct fuzz_parse {
	__s32	ret;
	__u32	alloc;		/* bytes of metadata; 0: none */
	__u64	file_size;
	__u64	dev_bitmap;
	__u32	cookie;		/* is copied to the metadata */
	__u32	reserved;
};

/* What iomap_begin() does. */
#define FUZZ_ADDR	1U	/* these OUT fields are written */
#define FUZZ_LENGTH	2U
#define FUZZ_DEV	4U
#define FUZZ_TYPE	8U
#define FUZZ_ALL	15U
#define FUZZ_RELATIVE	16U	/* file_offset is added to addr */

struct fuzz_answer {
	__u64	addr;
	__u64	length;
	__u32	dev_index;
	__s32	ret;
	__u32	flags;
	__u16	type;
	__u16	reserved;
};

struct fuzz_question {
	__u64	file_offset;
	__u64	length;
	__u64	file_size;
	__u64	io_offset;
	__u32	meta_buf_size;
	__u32	cookie;		/* FUZZ_NO_META: no metadata */
	__u32	type_flags;	/* what io->type and io->flags held */
	__u32	reserved;
};

/* The beginning of .bss. Call n takes answer[n % FUZZ_CALLS]. */
struct fuzz_calls {
	__u64	asked;
	struct fuzz_answer answer[FUZZ_CALLS];
	struct fuzz_question question[FUZZ_CALLS];
};

#endif /* FUZZ_BPF_H */
