/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Stands in for libbpf's header, so that the programs in bpf/ compile for the
 * host as they are. The kfuncs are in kernel.c.
 */
#ifndef __BPF_HELPERS__
#define __BPF_HELPERS__

#include <linux/types.h>

#define SEC(name)
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#undef __noinline
#define __noinline __attribute__((noinline))

/* Like the iterator in the kernel: signed, bounds read once. */
#define bpf_for(i, start, end)						\
	for (int __i = (start), __end = (end);				\
	     __i < __end && ((i) = __i, (void)(i), 1); __i++)

struct fuse_dax_fmap_parse_ctx;
struct fuse_dax_fmap_resolve_ctx;

const __u8 *bpf_fuse_dax_parse_get_blob(struct fuse_dax_fmap_parse_ctx *ctx,
					__u32 offset, __u32 size);
int bpf_fuse_dax_parse_alloc_meta(struct fuse_dax_fmap_parse_ctx *ctx, __u32 size);
__u8 *bpf_fuse_dax_parse_get_meta(struct fuse_dax_fmap_parse_ctx *ctx,
				  __u32 offset, __u32 size);
const __u8 *bpf_fuse_dax_resolve_get_meta(struct fuse_dax_fmap_resolve_ctx *ctx,
					  __u32 offset, __u32 size);

#endif
