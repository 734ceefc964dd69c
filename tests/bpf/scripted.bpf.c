// SPDX-License-Identifier: GPL-2.0
/* Ops that do what the map of the file says: see scripted.h. */
#include <linux/bpf.h>
#include <linux/fuse_dax_fmap.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include <stdbool.h>

#include "scripted.h"

#define EIO		5
#define EBADMSG		74
#define PAGE		4096

struct scripted_seen seen;

/* Each getter at the end of its buffer, and one byte beyond it. */
static __always_inline void probe_bounds(struct fuse_dax_fmap_parse_ctx *ctx)
{
	seen.beyond = 0;
	if (bpf_fuse_dax_parse_get_blob(ctx, ctx->blob_size, 1))
		seen.beyond |= 1;
	if (bpf_fuse_dax_parse_get_blob(ctx, ctx->blob_size - 7, 8))
		seen.beyond |= 2;
	if (bpf_fuse_dax_parse_get_blob(ctx, 0xffffffff, 8))
		seen.beyond |= 4;
	if (bpf_fuse_dax_parse_get_meta(ctx, ctx->meta_buf_size, 1))
		seen.beyond |= 8;
	if (bpf_fuse_dax_parse_get_meta(ctx, 0xffffffff, 8))
		seen.beyond |= 16;
	if (!bpf_fuse_dax_parse_get_blob(ctx, ctx->blob_size - 1, 1))
		seen.beyond |= 32;
	if (ctx->meta_buf_size &&
	    !bpf_fuse_dax_parse_get_meta(ctx, ctx->meta_buf_size - 1, 1))
		seen.beyond |= 64;
}

static __always_inline bool has_fit(const struct scripted_fit *fit, __u64 call)
{
	return call >= fit->from && call < fit->to;
}

SEC("struct_ops.s/dax_fmap_parse")
int BPF_PROG(scripted_parse, struct fuse_dax_fmap_parse_ctx *parse)
{
	__u64 call = __sync_fetch_and_add(&seen.parses, 1);
	const struct scripted *blob;
	struct scripted *meta;

	if (has_fit(&seen.parse_fit, call))
		return seen.parse_fit.ret;
	seen.blob_size = parse->blob_size;
	seen.blob_room = parse->blob_room;
	blob = (const void *)bpf_fuse_dax_parse_get_blob(parse, 0, sizeof(*blob));
	if (!blob)
		return -EBADMSG;

	seen.alloc_ret = 0;
	seen.alloc_again_ret = 0;
	if (blob->alloc)
		seen.alloc_ret = bpf_fuse_dax_parse_alloc_meta(parse, blob->alloc);
	if (blob->alloc_again)
		seen.alloc_again_ret =
			bpf_fuse_dax_parse_alloc_meta(parse, blob->alloc_again);
	seen.meta_buf_size = parse->meta_buf_size;
	probe_bounds(parse);

	meta = (void *)bpf_fuse_dax_parse_get_meta(parse, 0, sizeof(*meta));
	if (meta)
		*meta = *blob;
	parse->file_size = blob->file_size;
	parse->dev_bitmap = blob->dev_bitmap;
	parse->blob_wanted = blob->blob_wanted;
	return blob->parse_ret;
}

/* The first line equals what the kfunc returns, and is zero behind the end of the metadata. */
static __always_inline bool first_line_differs(struct fuse_dax_fmap_resolve_ctx *ctx,
					       const struct fuse_dax_fmap_meta *meta)
{
	bool differs = false;

#pragma unroll
	for (int i = 0; i < FUSE_DAX_FMAP_META_FIRST; i++) {
		const __u64 *word = (const __u64 *)
			bpf_fuse_dax_resolve_get_meta(ctx, i * sizeof(*word), sizeof(*word));

		if (word ? *word != meta->word[i] :
			   ctx->meta_buf_size <= i * sizeof(*word) && meta->word[i])
			differs = true;
	}
	return differs;
}

/* The range is the metadata, from its first to its last byte. */
static __always_inline bool range_differs(struct fuse_dax_fmap_resolve_ctx *ctx,
					  const __u8 *data, const __u8 *data_end)
{
	__u32 last = (ctx->meta_buf_size - 1) & 0x7fff;	/* at most, in the tests */
	const __u8 *byte = bpf_fuse_dax_resolve_get_meta(ctx, 0, 1);

	if (data_end - data != ctx->meta_buf_size)
		return true;
	if (!byte)
		return ctx->meta_buf_size;
	if (data + 1 > data_end || data[0] != *byte)
		return true;
	byte = bpf_fuse_dax_resolve_get_meta(ctx, last, 1);
	data += last;
	return byte && (data + 1 > data_end || data[0] != *byte);
}

SEC("struct_ops/iomap_begin")
int BPF_PROG(scripted_begin, struct fuse_dax_fmap_resolve_ctx *resolve,
	     struct fuse_iomap_io *io, const struct fuse_dax_fmap_meta *first,
	     const __u8 *data, const __u8 *data_end)
{
	__u64 call = __sync_fetch_and_add(&seen.begins, 1);
	const struct scripted *meta;

	seen.begin_meta_buf_size = resolve->meta_buf_size;
	seen.file_offset = resolve->file_offset;
	seen.length = resolve->length;
	seen.file_size = resolve->file_size;
	seen.io_offset = io->offset;
	if (resolve->file_offset % PAGE || !resolve->length ||
	    io->offset != resolve->file_offset || io->type || io->flags ||
	    resolve->file_offset + resolve->length > resolve->file_size + PAGE ||
	    first_line_differs(resolve, first) || range_differs(resolve, data, data_end))
		__sync_fetch_and_add(&seen.broken, 1);

	meta = (const void *)bpf_fuse_dax_resolve_get_meta(resolve, 0, sizeof(*meta));
	if (!meta)
		return -EIO;
	if (meta->flags & SCRIPTED_SILENT)
		return meta->begin_ret;
	io->addr = meta->addr;
	io->length = meta->length;
	if (meta->flags & SCRIPTED_LINEAR) {
		io->addr += resolve->file_offset;
		io->length -= resolve->file_offset;
	}
	if (meta->flags & SCRIPTED_STEPS && io->length > meta->step)
		io->length = meta->step;
	io->dev_index = meta->dev_index;
	if (meta->type)
		io->type = meta->type;
	if (resolve->file_offset < meta->hole) {
		if (io->length > meta->hole - resolve->file_offset)
			io->length = meta->hole - resolve->file_offset;
	} else if (resolve->file_offset < meta->hole_end) {
		io->type = FUSE_IOMAP_HOLE;
		io->addr = 0xdeadbeef;
		io->dev_index = 77;
		io->length = meta->hole_length ?: meta->hole_end - resolve->file_offset;
	}
	if (has_fit(&seen.begin_fit, call)) {
		switch (seen.begin_fit.how) {
		case SCRIPTED_EMPTY:
			io->length = 0;
			break;
		case SCRIPTED_UNALIGNED:
			io->addr++;
			break;
		case SCRIPTED_BEYOND:
			io->addr = 1ULL << 62;
			break;
		case SCRIPTED_UNDECLARED:
			io->dev_index = 63;
			break;
		default:
			return seen.begin_fit.ret;
		}
	}
	return meta->begin_ret;
}

SEC(".struct_ops.link")
struct fuse_dax_fmap_ops scripted = {
	.name = SCRIPTED_OPS_NAME,
	.dax_fmap_parse = (void *)scripted_parse,
	.iomap_begin = (void *)scripted_begin,
};

char _license[] SEC("license") = "GPL";
