/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * fuse_dax_fmap: FUSE files that live in DAX memory, mapped by BPF.
 *
 * One header for three readers:
 *
 *   - a FUSE server, which negotiates in INIT and answers two requests;
 *   - a BPF object, which turns the server's answer into mappings;
 *   - the kernel, which never interprets a file map itself.
 *
 * The formats of file maps are not defined here: a format is an agreement
 * between a server and a BPF object.
 *
 * All integers on the wire are little endian. All lengths, offsets and
 * addresses are in bytes.
 */
#ifndef _UAPI_LINUX_FUSE_DAX_FMAP_H
#define _UAPI_LINUX_FUSE_DAX_FMAP_H

#include <linux/types.h>

/* Limits. The kernel enforces all of them. */
#define FUSE_DAX_FMAP_OPS_NAME_LEN	16		/* with its NUL */
#define FUSE_DAX_FMAP_META_MAX		(64U << 10)	/* metadata of a file */
#define FUSE_DAX_FMAP_META_FIRST	8		/* words readable without a kfunc */
#define FUSE_DAX_FMAP_BLOB_MIN		(4U << 10)	/* smallest buffer for a map */
#define FUSE_DAX_FMAP_BLOB_MAX		(1U << 20)	/* largest buffer for a map */
#define FUSE_DAX_FMAP_DEVICES_MAX	64		/* width of dev_bitmap */

/*
 * Negotiation
 * -----------
 *
 * The kernel offers file maps in FUSE_INIT if and only if the task that mounts
 * has CAP_SYS_RAWIO in the initial user namespace and owns the mount: user_id=
 * is its real and its effective user. fusermount3, which is privileged but mounts
 * for another user, gets no offer:
 *
 *	fuse_init_in.unused[9]	= FUSE_DAX_FMAP_MAGIC
 *	fuse_init_in.unused[10]	= FUSE_DAX_FMAP_ABI_VERSION
 *
 * A server that wants file maps names the ops that understand them: up to 15
 * characters and a NUL, at byte 48 of struct fuse_init_out (the tail of its
 * unused[]). A first byte of 0 means "not wanted". If the ops are not registered,
 * the mount fails: each operation on it returns ENOTCONN, and the kernel log says
 * why.
 */
#define FUSE_DAX_FMAP_MAGIC		0x50414d46U	/* "FMAP" */
#define FUSE_DAX_FMAP_ABI_VERSION	1
#define FUSE_DAX_FMAP_INIT_IN_MAGIC	9		/* index in fuse_init_in.unused[] */
#define FUSE_DAX_FMAP_INIT_IN_VERSION	10		/* index in fuse_init_in.unused[] */
#define FUSE_DAX_FMAP_INIT_OUT_NAME	48		/* byte in struct fuse_init_out */

/*
 * A server that can send a map with the answer to OPEN sets a bit in a __u32
 * before the name, at byte 44; other bits are ignored. See struct
 * fuse_open_fmap_out.
 */
#define FUSE_DAX_FMAP_INIT_OUT_FLAGS	44		/* byte in struct fuse_init_out */
#define FUSE_DAX_FMAP_MAP_IN_OPEN	(1U << 0)

/*
 * Requests. They are sent only if the server named ops, or default_ops applies.
 *
 * FUSE_GET_FMAP asks for the map of the file in the header's nodeid, at its
 * first open. Answer: the map and nothing else, at most @size bytes; or
 *
 *	-ERANGE			the map is larger than @size: the request is sent
 *				again with a larger @size, up to FUSE_DAX_FMAP_BLOB_MAX
 *	-ENODATA, -ENOENT	this file has no map: plain FUSE I/O
 *	-ENOSYS			this server has no maps: plain FUSE I/O; the
 *				request is not sent again on this mount
 *
 * Any other error fails the open with that error. If the format itself can say that
 * a map is larger than @size, the server may use that instead of -ERANGE: the
 * program tells the kernel, see dax_fmap_parse() of &struct fuse_dax_fmap_ops.
 *
 * The OPEN of the same open(2) does not wait for the answer, except with O_TRUNC:
 * a server may get the two, and answer them, in any order. If the open fails after
 * an OPEN that succeeded, the server gets RELEASE. Another task that opens the file
 * in the meantime waits for both answers, and can be killed.
 *
 * FUSE_GET_DAXDEV asks for the device of index @index (also in the header's
 * nodeid) when a map names one that the mount has not acquired yet. Answer:
 * struct fuse_get_daxdev_out. Any error fails the open.
 *
 * Both are sent like any request of FUSE, through read(2) or an io_uring ring. An
 * answer through a ring must fit in the payload of its entry, which FUSE requires
 * to be as large as the largest READ or WRITE.
 */
#define FUSE_GET_FMAP			54
#define FUSE_GET_DAXDEV			55

struct fuse_get_fmap_in {
	__u32	size;		/* largest answer accepted */
	__u32	reserved;
};

struct fuse_get_daxdev_in {
	__u32	index;		/* < FUSE_DAX_FMAP_DEVICES_MAX */
	__u32	reserved;
};

/*
 * FUSE_OPEN with a map. If the server set FUSE_DAX_FMAP_MAP_IN_OPEN and the kernel
 * needs the map of the file, the kernel sets FUSE_DAX_FMAP_OPEN_MAP in
 * fuse_open_in.open_flags. The answer to such an OPEN is struct fuse_open_out
 * followed by a complete struct fuse_open_fmap_out, or just an error. Bytes of @map
 * behind @size are ignored.
 *
 * This saves the server one request per file, and the opener one round trip. The
 * kernel still sends FUSE_GET_FMAP if @size is -ERANGE, if the program says that @map
 * is not complete, or if no OPEN could return the map (O_TRUNC; a server that answers
 * ENOSYS to OPEN). An OPEN without the flag is answered without a map.
 */
#define FUSE_DAX_FMAP_OPEN_MAP		(1U << 31)
#define FUSE_DAX_FMAP_OPEN_MAP_MAX	504

/**
 * struct fuse_open_fmap_out - the map of the file that is being opened
 * @size: length of the map in @map; or one of the errors of FUSE_GET_FMAP, with the
 *	same meaning. Any other value fails the open with EIO.
 * @reserved: 0
 * @map: the map
 */
struct fuse_open_fmap_out {
	__s32	size;
	__u32	reserved;
	__u8	map[FUSE_DAX_FMAP_OPEN_MAP_MAX];
};

/* The layout that famfs servers use (John Groves, famfs for FUSE). */
struct fuse_get_daxdev_out {
	__u16	index;		/* ignored: existing servers send 0 */
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
 * A program may write to OUT fields only; the verifier enforces this.
 */

/**
 * struct fuse_dax_fmap_parse_ctx - one file map, being parsed
 * @blob_size: bytes in the server's answer
 * @meta_buf_size: bytes of metadata; 0 until bpf_fuse_dax_parse_alloc_meta()
 * @file_size: OUT: mapped size of the file, at most LLONG_MAX, any alignment
 * @dev_bitmap: OUT: bit N is set if the file uses device N; not 0 unless
 *	@file_size is 0
 * @blob_room: largest answer that the server could send: &fuse_get_fmap_in.size, or
 *	FUSE_DAX_FMAP_OPEN_MAP_MAX
 * @blob_wanted: OUT, with -ERANGE: size of the complete map, in bytes; 0 if unknown
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
 * The verifier knows that the pointer is valid: reads at constant offsets need no
 * kfunc and no check. Cast it to the type that the parser wrote there.
 */
struct fuse_dax_fmap_meta {
	__u64	word[FUSE_DAX_FMAP_META_FIRST];
};

/* Types of a mapping. */
#define FUSE_IOMAP_MAPPED		0	/* memory of a device */
#define FUSE_IOMAP_HOLE			1	/* no memory: reads as zeros */

/**
 * struct fuse_iomap_io - a mapping: where a byte of a file is
 * @offset: in: the same as &fuse_dax_fmap_resolve_ctx.file_offset
 * @length: OUT: bytes that are contiguous on the device from @addr on, or of
 *	the hole, more than 0; may be more or less than was asked for
 * @addr: OUT: address of @offset on the device; ignored for a hole
 * @type: OUT: FUSE_IOMAP_MAPPED (the initial value) or FUSE_IOMAP_HOLE
 * @flags: reserved, 0
 * @dev_index: OUT: device, one of the bits of
 *	&fuse_dax_fmap_parse_ctx.dev_bitmap; ignored for a hole
 *
 * @addr and @length must be multiples of the page size and inside the device. A
 * fault maps 2 MiB only if @addr is the start of 2 MiB of memory that are physically
 * aligned, and @length covers them.
 *
 * mmap(2) can map a page of a device at one offset of one file at a time. An offset
 * that has been mapped must keep its address until the inode is evicted. A fault
 * that would break this rule is SIGBUS; the rule does not apply to reads and writes.
 *
 * A hole reads as zeros, by read(2) and by mmap(2); a store to it is SIGBUS, and
 * write(2) fails with ENOSPC. A hole may become memory at any time; tasks that have
 * it mapped may see zeros until their next fault there.
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
 *	.dev_bitmap, and writes the metadata for @iomap_begin.
 *
 *	-ERANGE means that the answer is not the complete map, as the buffer was too
 *	small. The kernel sends the request again with a larger buffer, of at least
 *	&fuse_dax_fmap_parse_ctx.blob_wanted and at most FUSE_DAX_FMAP_BLOB_MAX bytes,
 *	and the new answer is parsed from the beginning; no size is tried twice. If
 *	blob_wanted is larger than that, the open fails with E2BIG, without another
 *	request. If the buffer was the largest one already, it fails with ERANGE.
 * @iomap_begin: resolve one offset. Called at each page fault and for each
 *	piece of a read or a write; must not sleep, and runs with preemption disabled.
 *	Returns 0, or a negative errno that the operation fails with (SIGBUS on a
 *	fault; EIO for EFAULT and EHWPOISON, which say other things). Fills @io.
 *
 *	Three arguments lead to the metadata: @meta to the first cache line, @data and
 *	@data_end to all of it. As with packets, a program may read up to 65,535 bytes
 *	behind @data that it has compared with @data_end; a kfunc works, too. A program
 *	may omit the last arguments if it does not use them.
 *
 *	Its run time must be bounded, so the kernel refuses to load a program that
 *	calls a kfunc of the kernel or of another module (such as open-coded iterators,
 *	bpf_for()), that calls helpers other than those that look up a map element or
 *	return time, CPU, task or a random number, or that has a global function, a loop
 *	with may_goto, an arena, or a map other than an array or a hash (shared or per
 *	CPU; without BPF_F_ZERO_SEED, with keys of at most 64 bytes). Loops that the
 *	verifier follows to their end are allowed.
 *
 * Both programs are required. Register the ops with a BPF link
 * (SEC(".struct_ops.link")); a mount that uses the ops keeps them callable until it
 * is unmounted, whatever happens to the link.
 *
 * A link can be updated to another map (BPF_LINK_UPDATE) with the same @name; with
 * another name, the update fails with -EINVAL. The name is registered at every
 * moment: a mount finds the old ops or the new ones. Existing mounts keep the old
 * ops for all their files, opened before or after; to use the new ones, mount again.
 *
 * The kernel validates each mapping that @iomap_begin returns; one that breaks a
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
 * size must be a constant; the verifier limits accesses to it.
 */
#ifdef __bpf__

/* dax_fmap_parse: @rdonly_buf_size bytes of the server's answer. */
extern const __u8 *
bpf_fuse_dax_parse_get_blob(struct fuse_dax_fmap_parse_ctx *ctx, __u32 offset,
			    const __u32 rdonly_buf_size) __attribute__((section(".ksyms")));

/*
 * dax_fmap_parse: allocate @size zeroed bytes of metadata, 1 to
 * FUSE_DAX_FMAP_META_MAX. Returns 0, -EINVAL (size), -EBUSY (already done) or -ENOMEM.
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
