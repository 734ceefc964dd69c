/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The interface between the C file and Rust. Rust checks the signature of each
 * function that it defines against what bindgen makes of this file.
 */
#ifndef _FUSE_DAX_FMAP_BTF_H
#define _FUSE_DAX_FMAP_BTF_H

#include <linux/types.h>
#include <uapi/linux/fuse_dax_fmap.h>

struct bpf_insn_access_aux;
struct bpf_prog;
struct bpf_reg_state;
struct bpf_struct_ops;
struct bpf_verifier_log;

/* In C: registers the kfuncs and the type; fills .cfi_stubs and .verifier_ops of @st. */
int fuse_dax_fmap_register_bpf(struct bpf_struct_ops *st);

/* In C: the module parameter, always NUL terminated. */
extern char fuse_dax_fmap_default_ops[FUSE_DAX_FMAP_OPS_NAME_LEN];

/* In hexadecimal, with the NUL: the kernel has no build id that is longer than 20 bytes. */
#define FUSE_DAX_FMAP_BUILD_ID_LEN (2 * 20 + 1)

/* In C: the build id of the kernel that the module is built for, empty if its tree has none. */
extern char fuse_dax_fmap_built_for[FUSE_DAX_FMAP_BUILD_ID_LEN];

/* In Rust: called after the parameter has been set. */
void fuse_dax_fmap_default_ops_set(void);

/* In Rust: the bodies of the kfuncs. */
const u8 *fuse_dax_fmap_parse_get_blob(struct fuse_dax_fmap_parse_ctx *ctx,
				       u32 offset, u32 size);
int fuse_dax_fmap_parse_alloc_meta(struct fuse_dax_fmap_parse_ctx *ctx,
				   u32 size);
u8 *fuse_dax_fmap_parse_get_meta(struct fuse_dax_fmap_parse_ctx *ctx,
				 u32 offset, u32 size);
const u8 *fuse_dax_fmap_resolve_get_meta(struct fuse_dax_fmap_resolve_ctx *ctx,
					 u32 offset, u32 size);

/* In Rust: callbacks of the verifier. */
bool fuse_dax_fmap_may_call(u32 func, const struct bpf_prog *prog);
void fuse_dax_fmap_type_argument(int off, const struct bpf_prog *prog,
				 struct bpf_insn_access_aux *info);
int fuse_dax_fmap_btf_struct_access(struct bpf_verifier_log *log,
				    const struct bpf_reg_state *reg, int off, int size);

#endif /* _FUSE_DAX_FMAP_BTF_H */
