/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The seam between the C file and Rust. Rust checks the signature of every
 * function it defines here against bindgen's reading of this file.
 */
#ifndef _FUSE_DAX_FMAP_BTF_H
#define _FUSE_DAX_FMAP_BTF_H

#include <linux/types.h>
#include <uapi/linux/fuse_dax_fmap.h>

struct bpf_struct_ops;

/* In C: registers the kfuncs and the type; fills .cfi_stubs of @st. */
int fuse_dax_fmap_register_bpf(struct bpf_struct_ops *st);

/* In C: the module parameter, always NUL terminated. */
extern char fuse_dax_fmap_default_ops[FUSE_DAX_FMAP_OPS_NAME_LEN];

/* In Rust: the bodies of the kfuncs. */
const u8 *fuse_dax_fmap_parse_get_blob(struct fuse_dax_fmap_parse_ctx *ctx,
				       u32 offset, u32 size);
int fuse_dax_fmap_parse_alloc_meta(struct fuse_dax_fmap_parse_ctx *ctx,
				   u32 size);
u8 *fuse_dax_fmap_parse_get_meta(struct fuse_dax_fmap_parse_ctx *ctx,
				 u32 offset, u32 size);
const u8 *fuse_dax_fmap_resolve_get_meta(struct fuse_dax_fmap_resolve_ctx *ctx,
					 u32 offset, u32 size);

#endif /* _FUSE_DAX_FMAP_BTF_H */
