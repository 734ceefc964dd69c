/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * fuse_dax_fmap: FUSE files that live in DAX memory, mapped by BPF.
 *
 * One header for three readers:
 *
 *   - a FUSE server, which negotiates in INIT and answers two requests;
 *   - a BPF object, which turns the server's answer into mappings;
 *   - the kernel, which never looks into a file map itself.
 *
 * No format of a file map appears here: a format is an agreement between one
 * server and one BPF object.
 *
 * All integers on the wire are little endian. All lengths, offsets and
 * addresses are in bytes.
 */
#ifndef _UAPI_LINUX_FUSE_DAX_FMAP_H
#define _UAPI_LINUX_FUSE_DAX_FMAP_H

#include <linux/types.h>

/* Limits. The kernel enforces every one of them. */
#define FUSE_DAX_FMAP_OPS_NAME_LEN	16		/* with its NUL */
#define FUSE_DAX_FMAP_META_MAX		(64U << 10)	/* metadata of a file */
#define FUSE_DAX_FMAP_META_FIRST	8		/* words of it without a kfunc */
#define FUSE_DAX_FMAP_BLOB_MIN		(4U << 10)	/* first room for a map */
#define FUSE_DAX_FMAP_BLOB_MAX		(1U << 20)	/* last room for a map */
#define FUSE_DAX_FMAP_DEVICES_MAX	64		/* width of dev_bitmap */

/*
 * Negotiation
 * -----------
 *
 * The kernel offers, in FUSE_INIT, if and only if the task that mounts has
 * CAP_SYS_RAWIO in the initial user namespace, and is the owner of the mount:
 * user_id= is its real and its effective user. fusermount3, which is mighty but
 * mounts for somebody else, gets no offer:
 *
 *	fuse_init_in.unused[9]	= FUSE_DAX_FMAP_MAGIC
 *	fuse_init_in.unused[10]	= FUSE_DAX_FMAP_ABI_VERSION
 *
 * A server that wants file maps names the ops that understand them: up to 15
 * characters and a NUL, at byte 48 of struct fuse_init_out (the tail of its
 * unused[]). A first byte of 0 means "not wanted". Ops that are not
 * registered make the mount fail: every operation on it returns ENOTCONN, and
 * the kernel log says why.
 */
#define FUSE_DAX_FMAP_MAGIC		0x50414d46U	/* "FMAP" */
#define FUSE_DAX_FMAP_ABI_VERSION	1
#define FUSE_DAX_FMAP_INIT_IN_MAGIC	9		/* index in fuse_init_in.unused[] */
#define FUSE_DAX_FMAP_INIT_IN_VERSION	10		/* index in fuse_init_in.unused[] */
#define FUSE_DAX_FMAP_INIT_OUT_NAME	48		/* byte in struct fuse_init_out */

/*
 * A server that can bring a map along with the answer to OPEN says so in a __u32
 * before the name, at byte 44; other bits are not looked at. See struct
 * fuse_open_fmap_out.
 */
#define FUSE_DAX_FMAP_INIT_OUT_FLAGS	44		/* byte in struct fuse_init_out */
#define FUSE_DAX_FMAP_MAP_IN_OPEN	(1U << 0)

/*
 * Requests, sent only on a connection that negotiated.
 *
 * FUSE_GET_FMAP asks for the map of the file in the header's nodeid, at its
 * first open. Answer: the map and nothing else, at most @size bytes; or
 *
 *	-ERANGE			it needs more room: asked again with more, until
 *				FUSE_DAX_FMAP_BLOB_MAX
 *	-ENODATA, -ENOENT	this file has no map: plain FUSE I/O
 *	-ENOSYS			this server has no maps: plain FUSE I/O, never
 *				asked again on this mount
 *
 * Any other error fails the open with that error. A server whose format has a way
 * of its own to say that a map needs more room may use that: the program tells the
 * kernel, see dax_fmap_parse() of &struct fuse_dax_fmap_ops.
 *
 * The OPEN of the same open(2) does not wait for the answer, except with O_TRUNC:
 * a server may get the two, and answer them, in any order. An open that fails for
 * want of a map has its RELEASE. Who opens the file in the meantime waits for
 * both answers, and can be killed.
 *
 * FUSE_GET_DAXDEV asks for the device of index @index (also in the header's
 * nodeid) when a map names one that the mount has not acquired yet. Answer:
 * struct fuse_get_daxdev_out. Any error fails the open.
 *
 * Both come like any request of FUSE, through read(2) or a ring of io_uring. An
 * answer through a ring has to fit in the payload of its entry, which FUSE wants
 * to be as large as the largest READ or WRITE.
 */
#define FUSE_GET_FMAP			54
#define FUSE_GET_DAXDEV			55

struct fuse_get_fmap_in {
	__u32	size;		/* room for the reply */
	__u32	reserved;
};

struct fuse_get_daxdev_in {
	__u32	index;		/* < FUSE_DAX_FMAP_DEVICES_MAX */
	__u32	reserved;
};

/*
 * FUSE_OPEN, on a connection whose server said FUSE_DAX_FMAP_MAP_IN_OPEN, of a file
 * whose map the kernel wants to know: FUSE_DAX_FMAP_OPEN_MAP is set in
 * fuse_open_in.open_flags. Such an OPEN is answered with struct fuse_open_out and,
 * behind it, all of struct fuse_open_fmap_out; without either if it fails. What
 * is behind the map is not looked at.
 *
 * It saves the server one request per file, and the opener one round trip. The
 * kernel asks for the map in FUSE_GET_FMAP where it does not come this way:
 * @size is -ERANGE, or the program says that @map is not all of it, or there was no
 * OPEN that could bring it (O_TRUNC; a server that answers ENOSYS to OPEN). Other
 * OPENs do not have the flag, and are answered as ever.
 */
#define FUSE_DAX_FMAP_OPEN_MAP		(1U << 31)
#define FUSE_DAX_FMAP_OPEN_MAP_MAX	504

/**
 * struct fuse_open_fmap_out - the map of the file that is being opened
 * @size: bytes of @map that are the map; or one of the errors of FUSE_GET_FMAP,
 *	which says the same here. Anything else fails the open with EIO.
 * @reserved: 0
 * @map: the map
 */
struct fuse_open_fmap_out {
	__s32	size;
	__u32	reserved;
	__u8	map[FUSE_DAX_FMAP_OPEN_MAP_MAX];
};

/* The layout famfs servers use (John Groves, famfs for FUSE). */
struct fuse_get_daxdev_out {
	__u16	index;		/* not checked: existing servers send 0 */
	__u16	reserved0;
	__u32	reserved1;
	__u64	reserved2;
	__u64	reserved3;
	char	name[256];	/* absolute path, NUL terminated */
};

/*
 * BPF-visible types
 * -----------------
 *
 * OUT fields may be written by the program, all others are read only; the
 * verifier enforces it.
 */

/**
 * struct fuse_dax_fmap_parse_ctx - one file map, being parsed
 * @blob_size: bytes in the server's answer
 * @meta_buf_size: bytes of metadata; 0 until bpf_fuse_dax_parse_alloc_meta()
 * @file_size: OUT: mapped size of the file, at most LLONG_MAX, any alignment
 * @dev_bitmap: OUT: bit N is set if the file uses device N; not 0 unless
 *	@file_size is 0
 * @blob_room: bytes of answer that the server had room for: what GET_FMAP asked
 *	for, or FUSE_DAX_FMAP_OPEN_MAP_MAX
 * @blob_wanted: OUT, with -ERANGE: bytes that the whole map takes; 0 if that is not
 *	known
 */
struct fuse_dax_fmap_parse_ctx {
	__u32	blob_size;
	__u32	meta_buf_size;
	__u64	file_size;
	__u64	dev_bitmap;
	__u32	blob_room;
	__u32	blob_wanted;
};

/**
 * struct fuse_dax_fmap_resolve_ctx - one lookup in a mapped file
 * @meta_buf_size: bytes of metadata
 * @file_offset: first byte wanted, a multiple of the page size
 * @length: bytes wanted, a multiple of the page size, more than 0; does not
 *	reach beyond the page that @file_size ends in
 * @file_size: what dax_fmap_parse() reported
 */
struct fuse_dax_fmap_resolve_ctx {
	__u32	meta_buf_size;
	__u32	reserved;
	__u64	file_offset;
	__u64	length;
	__u64	file_size;
};

/**
 * struct fuse_dax_fmap_meta - the first cache line of the metadata
 * @word: as dax_fmap_parse() left it; zeros behind the end of the metadata
 *
 * A pointer that the verifier knows to be good: read at constant offsets it needs no
 * kfunc and no check. Cast it to what the parser wrote there.
 */
struct fuse_dax_fmap_meta {
	__u64	word[FUSE_DAX_FMAP_META_FIRST];
};

/* Types of a mapping. */
#define FUSE_IOMAP_MAPPED		0	/* memory of a device */
#define FUSE_IOMAP_HOLE			1	/* nothing: reads as zeros */

/**
 * struct fuse_iomap_io - where a byte of a file is
 * @offset: in: the same as &fuse_dax_fmap_resolve_ctx.file_offset
 * @length: OUT: bytes that are contiguous on the device from @addr on, or of
 *	the hole, more than 0; may be more or less than was asked for
 * @addr: OUT: byte on the device that @offset is at; nothing in a hole
 * @type: OUT: FUSE_IOMAP_MAPPED, which it is unless written, or
 *	FUSE_IOMAP_HOLE
 * @flags: reserved, 0
 * @dev_index: OUT: device, one of the bits of
 *	&fuse_dax_fmap_parse_ctx.dev_bitmap; nothing in a hole
 *
 * @addr and @length have to be multiples of the page size and inside the
 * device. For a 2 MiB fault @addr has to be where an aligned 2 MiB of memory
 * begins, and @length to cover it.
 *
 * A page of a device can be mapped at one place of one file at a time, and a
 * place that has been mapped has to stay where it is until the inode is evicted.
 * Anything else is SIGBUS; reads and writes do not mind.
 *
 * A hole reads as zeros, also where it is mapped; a store to it is SIGBUS, and
 * write(2) fails with ENOSPC. It may become memory at any time; tasks that have
 * the hole mapped may go on seeing zeros until a fault finds the memory there.
 */
struct fuse_iomap_io {
	__u64	offset;
	__u64	length;
	__u64	addr;
	__u16	type;
	__u16	flags;
	__u32	dev_index;
};

/**
 * struct fuse_dax_fmap_ops - a format of file maps
 * @name: what a server answers in INIT: 1 to 15 characters of
 *	[A-Za-z0-9_.-] and a NUL; unique among the registered ops
 * @dax_fmap_parse: validate the map of one file and turn it into metadata.
 *	Called for each file at its first open; may sleep. Returns 0, or a negative
 *	errno that the open fails with. Fills &fuse_dax_fmap_parse_ctx.file_size and
 *	.dev_bitmap, and leaves in the metadata whatever @iomap_begin wants to find
 *	there.
 *
 *	-ERANGE means that the answer is not all of the map, for want of room. The
 *	server is asked again with more, at least &fuse_dax_fmap_parse_ctx.blob_wanted
 *	and at most FUSE_DAX_FMAP_BLOB_MAX bytes, and the new answer parsed from the
 *	beginning; no room is offered twice. If more than that is wanted the open fails
 *	with E2BIG, without another request. If there is no larger room to offer it
 *	fails with ERANGE.
 * @iomap_begin: resolve one offset. Called at each page fault and for each
 *	piece of a read or a write; must not sleep, and runs without preemption.
 *	Returns 0, or a negative errno that the operation fails with (SIGBUS on a
 *	fault). Fills @io.
 *
 *	Three arguments lead to the metadata: @meta, its first line, and @data
 *	and @data_end, all of it. The verifier lets a program read behind @data
 *	what it has compared with @data_end, as it is known from packets, up to
 *	65,535 bytes; there is a kfunc, too. A program need not take the last
 *	arguments if it has no use for them.
 *
 *	It has to be bounded, so the kernel refuses to load one that calls a kfunc
 *	of others (open-coded iterators, bpf_for(), are such), that calls other
 *	helpers than those that look something up in a map or tell time, CPU, task
 *	or a random number, that has a global function, or a loop with may_goto, or
 *	a map that is no array and no hash (of any of the CPUs, or one for each;
 *	without BPF_F_ZERO_SEED, with keys of at most 64 bytes), or an arena.
 *	Loops that the verifier follows to their end are fine.
 *
 * Both are required. Register with a BPF link (SEC(".struct_ops.link")); a
 * mount that uses the ops keeps them callable until it is unmounted, whatever
 * happens to the link.
 *
 * A link can be updated to another map (BPF_LINK_UPDATE) whose @name is the
 * same; else -EINVAL. There is no moment in which the name is unknown: a mount
 * finds the old ops or the new ones. Mounts that are bound keep the old ones for
 * all their files, opened before or after; what is to be served by the new ops
 * has to be mounted again.
 *
 * The kernel judges every mapping that @iomap_begin returns; one that breaks a
 * rule of &struct fuse_iomap_io fails with EIO (SIGBUS on a fault).
 */
struct fuse_dax_fmap_ops {
	char	name[FUSE_DAX_FMAP_OPS_NAME_LEN];
	int	(*dax_fmap_parse)(struct fuse_dax_fmap_parse_ctx *ctx);
	int	(*iomap_begin)(struct fuse_dax_fmap_resolve_ctx *ctx,
			       struct fuse_iomap_io *io,
			       const struct fuse_dax_fmap_meta *meta,
			       const void *data, const void *data_end);
};

/*
 * kfuncs. Each getter returns NULL if offset + size is beyond the buffer. The
 * size has to be a constant; the verifier holds the program to it.
 */
#ifdef __bpf__

/* dax_fmap_parse: @rdonly_buf_size bytes of the server's answer. */
extern const __u8 *
bpf_fuse_dax_parse_get_blob(struct fuse_dax_fmap_parse_ctx *ctx, __u32 offset,
			    const __u32 rdonly_buf_size) __attribute__((section(".ksyms")));

/*
 * dax_fmap_parse: make room for @size zeroed bytes of metadata, 1 to
 * FUSE_DAX_FMAP_META_MAX. 0, -EINVAL (size), -EBUSY (already done) or -ENOMEM.
 */
extern int
bpf_fuse_dax_parse_alloc_meta(struct fuse_dax_fmap_parse_ctx *ctx,
			      __u32 size) __attribute__((section(".ksyms")));

/* dax_fmap_parse: @rdwr_buf_size bytes of the metadata, for writing. */
extern __u8 *
bpf_fuse_dax_parse_get_meta(struct fuse_dax_fmap_parse_ctx *ctx, __u32 offset,
			    const __u32 rdwr_buf_size) __attribute__((section(".ksyms")));

/* iomap_begin: @rdonly_buf_size bytes of the metadata. */
extern const __u8 *
bpf_fuse_dax_resolve_get_meta(struct fuse_dax_fmap_resolve_ctx *ctx,
			      __u32 offset,
			      const __u32 rdonly_buf_size) __attribute__((section(".ksyms")));

#endif /* __bpf__ */

#endif /* _UAPI_LINUX_FUSE_DAX_FMAP_H */
