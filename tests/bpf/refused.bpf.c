// SPDX-License-Identifier: GPL-2.0
/* Ops that are always refused: iomap_begin() writes a read-only field. For fmapctl_said.sh. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <linux/fuse_dax_fmap.h>

SEC("struct_ops.s/dax_fmap_parse")
int refused_parse(__u64 *ctx)
{
	return 0;
}

SEC("struct_ops/iomap_begin")
int BPF_PROG(refused_begin, struct fuse_dax_fmap_resolve_ctx *resolve, struct fuse_iomap_io *io)
{
	resolve->file_size = 0;
	return 0;
}

SEC(".struct_ops.link")
struct fuse_dax_fmap_ops refused = {
	.name = "refused",
	.dax_fmap_parse = (void *)refused_parse,
	.iomap_begin = (void *)refused_begin,
};

char LICENSE[] SEC("license") = "GPL";
