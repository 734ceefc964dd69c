// SPDX-License-Identifier: GPL-2.0
/*
 * What BTF has to see.
 *
 * pahole leaves out everything that is defined in Rust, and the verifier knows
 * a module by its BTF alone. So the types that BPF programs see, the stubs
 * that carry their prototypes and the kfuncs are C; what they do is Rust
 * (bpf_struct_ops.rs). No decision is made here.
 */
#include <linux/bpf.h>
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "fuse_dax_fmap_btf.h"

/* The macro module! has no field for it. */
MODULE_VERSION(FUSE_DAX_FMAP_VERSION);

char fuse_dax_fmap_default_ops[FUSE_DAX_FMAP_OPS_NAME_LEN];

/* A string as of module_param_string(), whose setting is told. */
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

/* Like module_param_cb(), which knows no strings. */
__module_param_call(MODULE_PARAM_PREFIX, default_ops, &default_ops_param,
		    .str = &default_ops_string, 0644, -1, 0);
__MODULE_PARM_TYPE(default_ops, "string");
MODULE_PARM_DESC(default_ops,
		 "ops of a privileged mount whose server names none (default: none)");

/*
 * The stubs are never called: an ops without both programs is refused. They
 * tell the verifier the prototypes.
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
 * @ctx: what dax_fmap_parse() got
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
 * bpf_fuse_dax_parse_alloc_meta - make room for the metadata, once
 * @ctx: what dax_fmap_parse() got
 * @size: bytes, 1 to FUSE_DAX_FMAP_META_MAX; they are zeroed
 *
 * May sleep.
 *
 * Return: 0, -EINVAL (size), -EBUSY (done before) or -ENOMEM.
 */
__bpf_kfunc int
bpf_fuse_dax_parse_alloc_meta(struct fuse_dax_fmap_parse_ctx *ctx, u32 size)
{
	return fuse_dax_fmap_parse_alloc_meta(ctx, size);
}

/**
 * bpf_fuse_dax_parse_get_meta - write the metadata
 * @ctx: what dax_fmap_parse() got
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
 * @ctx: what iomap_begin() got
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
 * Prototypes with enums are C, too: bindgen makes integers of them, which a kernel
 * with CONFIG_CFI does not take for the same.
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
