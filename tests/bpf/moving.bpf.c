// SPDX-License-Identifier: GPL-2.0
/* Ops whose answers change while files are mapped: see moving.h. */
#include <linux/bpf.h>
#include <linux/fuse_dax_fmap.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "moving.h"

#define EIO	5
#define EBADMSG	74
#define ENOMEM	12

volatile struct moving_to to;

SEC("struct_ops.s/dax_fmap_parse")
int BPF_PROG(moving_parse, struct fuse_dax_fmap_parse_ctx *parse)
{
	const struct moving *blob;
	struct moving *meta;

	blob = (const void *)bpf_fuse_dax_parse_get_blob(parse, 0, sizeof(*blob));
	if (!blob || blob->index >= MOVING_FILES)
		return -EBADMSG;
	if (bpf_fuse_dax_parse_alloc_meta(parse, sizeof(*meta)))
		return -ENOMEM;
	meta = (void *)bpf_fuse_dax_parse_get_meta(parse, 0, sizeof(*meta));
	if (!meta)
		return -ENOMEM;
	*meta = *blob;
	parse->file_size = blob->size;
	parse->dev_bitmap = 1;
	return 0;
}

SEC("struct_ops/iomap_begin")
int BPF_PROG(moving_begin, struct fuse_dax_fmap_resolve_ctx *resolve,
	     struct fuse_iomap_io *io)
{
	const struct moving *meta;

	meta = (const void *)bpf_fuse_dax_resolve_get_meta(resolve, 0, sizeof(*meta));
	if (!meta)
		return -EIO;
	io->addr = to.addr[meta->index % MOVING_FILES] + resolve->file_offset;
	io->length = meta->size - resolve->file_offset;
	io->dev_index = 0;
	if (to.hole[meta->index % MOVING_FILES])
		io->type = FUSE_IOMAP_HOLE;
	return 0;
}

SEC(".struct_ops.link")
struct fuse_dax_fmap_ops moving = {
	.name = MOVING_OPS_NAME,
	.dax_fmap_parse = (void *)moving_parse,
	.iomap_begin = (void *)moving_begin,
};

char _license[] SEC("license") = "GPL";
