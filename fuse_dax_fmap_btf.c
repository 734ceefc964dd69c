// SPDX-License-Identifier: GPL-2.0
/*
 * The part of the module that needs BTF.
 *
 * pahole emits no BTF for what is defined in Rust, and the verifier knows a
 * module only by its BTF. So the types that BPF programs see, the stubs that
 * carry their prototypes and the kfuncs are in C; their bodies are in Rust
 * (bpf_struct_ops.rs). No decision is made here.
 */
#include <linux/bpf.h>
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "fuse_dax_fmap_btf.h"

/* The macro module! has no field for the version. */
MODULE_VERSION(FUSE_DAX_FMAP_VERSION);

/* "modinfo -F kernel_build_id" shows it. */
MODULE_INFO(kernel_build_id, FUSE_DAX_FMAP_BUILD_ID);

char fuse_dax_fmap_built_for[FUSE_DAX_FMAP_BUILD_ID_LEN] __ro_after_init = FUSE_DAX_FMAP_BUILD_ID;

char fuse_dax_fmap_default_ops[FUSE_DAX_FMAP_OPS_NAME_LEN];

/* As for module_param_string(), but Rust is notified of a new value. */
static int set_default_ops(const char *val, const struct kernel_param *kp)
{
	int err = param_set_copystring(val, kp);

	if (!err)
		fuse_dax_fmap_default_ops_set();
	return err;
}

static const struct kernel_param_ops default_ops_param = {
	.set	= set_default_ops,
	.get	= param_get_string,
};

static const struct kparam_string default_ops_string = {
	.maxlen	= sizeof(fuse_dax_fmap_default_ops),
	.string	= fuse_dax_fmap_default_ops,
};

/* Like module_param_cb(), which does not support strings. */
__module_param_call(MODULE_PARAM_PREFIX, default_ops, &default_ops_param,
		    .str = &default_ops_string, 0644, -1, 0);
__MODULE_PARM_TYPE(default_ops, "string");
MODULE_PARM_DESC(default_ops,
		 "ops of a privileged mount whose server names none (default: none)");

/*
 * The stubs are never called: ops without both programs are refused. The
 * verifier takes the prototypes from them.
 */
static int fuse_dax_fmap_ops__dax_fmap_parse(struct fuse_dax_fmap_parse_ctx *ctx)
{
	return -EOPNOTSUPP;
}

static int fuse_dax_fmap_ops__iomap_begin(struct fuse_dax_fmap_resolve_ctx *ctx,
					  struct fuse_iomap_io *io,
					  const struct fuse_dax_fmap_meta *meta,
					  const void *data, const void *data_end)
{
	return -EOPNOTSUPP;
}

static struct fuse_dax_fmap_ops fuse_dax_fmap_stubs = {
	.dax_fmap_parse	= fuse_dax_fmap_ops__dax_fmap_parse,
	.iomap_begin	= fuse_dax_fmap_ops__iomap_begin,
};

__bpf_kfunc_start_defs();

/**
 * bpf_fuse_dax_parse_get_blob - read the server's answer
 * @ctx: context of dax_fmap_parse()
 * @offset: first byte wanted
 * @rdonly_buf_size: bytes wanted, a constant
 *
 * Return: the bytes, valid until the program returns; NULL if they are not all
 * inside the blob.
 */
__bpf_kfunc const u8 *
bpf_fuse_dax_parse_get_blob(struct fuse_dax_fmap_parse_ctx *ctx, u32 offset,
			    const u32 rdonly_buf_size)
{
	return fuse_dax_fmap_parse_get_blob(ctx, offset, rdonly_buf_size);
}

/**
 * bpf_fuse_dax_parse_alloc_meta - allocate the metadata, once
 * @ctx: context of dax_fmap_parse()
 * @size: bytes, 1 to FUSE_DAX_FMAP_META_MAX; they are zeroed
 *
 * May sleep.
 *
 * Return: 0, -EINVAL (size), -EBUSY (called before) or -ENOMEM.
 */
__bpf_kfunc int
bpf_fuse_dax_parse_alloc_meta(struct fuse_dax_fmap_parse_ctx *ctx, u32 size)
{
	return fuse_dax_fmap_parse_alloc_meta(ctx, size);
}

/**
 * bpf_fuse_dax_parse_get_meta - write the metadata
 * @ctx: context of dax_fmap_parse()
 * @offset: first byte wanted
 * @rdwr_buf_size: bytes wanted, a constant
 *
 * Return: the bytes, valid until the program returns; NULL if they are not all
 * inside the metadata.
 */
__bpf_kfunc u8 *
bpf_fuse_dax_parse_get_meta(struct fuse_dax_fmap_parse_ctx *ctx, u32 offset,
			    const u32 rdwr_buf_size)
{
	return fuse_dax_fmap_parse_get_meta(ctx, offset, rdwr_buf_size);
}

/**
 * bpf_fuse_dax_resolve_get_meta - read the metadata
 * @ctx: context of iomap_begin()
 * @offset: first byte wanted
 * @rdonly_buf_size: bytes wanted, a constant
 *
 * Return: the bytes, valid until the program returns; NULL if they are not all
 * inside the metadata.
 */
__bpf_kfunc const u8 *
bpf_fuse_dax_resolve_get_meta(struct fuse_dax_fmap_resolve_ctx *ctx, u32 offset,
			      const u32 rdonly_buf_size)
{
	return fuse_dax_fmap_resolve_get_meta(ctx, offset, rdonly_buf_size);
}

__bpf_kfunc_end_defs();

BTF_KFUNCS_START(fuse_dax_fmap_kfuncs)
BTF_ID_FLAGS(func, bpf_fuse_dax_parse_get_blob, KF_RET_NULL)
BTF_ID_FLAGS(func, bpf_fuse_dax_parse_alloc_meta, KF_SLEEPABLE)
BTF_ID_FLAGS(func, bpf_fuse_dax_parse_get_meta, KF_RET_NULL)
BTF_ID_FLAGS(func, bpf_fuse_dax_resolve_get_meta, KF_RET_NULL)
BTF_KFUNCS_END(fuse_dax_fmap_kfuncs)

static const struct btf_kfunc_id_set fuse_dax_fmap_kfunc_set = {
	.owner	= THIS_MODULE,
	.set	= &fuse_dax_fmap_kfuncs,
};

/*
 * Functions with enums in their prototypes are in C, too: bindgen turns the enums
 * into integers, which are other types for a kernel with CONFIG_CFI.
 */
static const struct bpf_func_proto *
fuse_dax_fmap_get_func_proto(enum bpf_func_id func, const struct bpf_prog *prog)
{
	if (!fuse_dax_fmap_may_call(func, prog))
		return NULL;
	return bpf_base_func_proto(func, prog);
}

static bool fuse_dax_fmap_is_valid_access(int off, int size, enum bpf_access_type type,
					  const struct bpf_prog *prog,
					  struct bpf_insn_access_aux *info)
{
	if (!bpf_tracing_btf_ctx_access(off, size, type, prog, info))
		return false;
	fuse_dax_fmap_type_argument(off, prog, info);
	return true;
}

static const struct bpf_verifier_ops fuse_dax_fmap_verifier_ops = {
	.get_func_proto		= fuse_dax_fmap_get_func_proto,
	.is_valid_access	= fuse_dax_fmap_is_valid_access,
	.btf_struct_access	= fuse_dax_fmap_btf_struct_access,
};

int fuse_dax_fmap_register_bpf(struct bpf_struct_ops *st)
{
	int err;

	err = register_btf_kfunc_id_set(BPF_PROG_TYPE_STRUCT_OPS,
					&fuse_dax_fmap_kfunc_set);
	if (err)
		return err;
	st->cfi_stubs = &fuse_dax_fmap_stubs;
	st->verifier_ops = &fuse_dax_fmap_verifier_ops;
	return register_bpf_struct_ops(st, fuse_dax_fmap_ops);
}
