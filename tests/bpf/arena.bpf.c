// SPDX-License-Identifier: GPL-2.0
/*
 * Ops whose iomap_begin() reads an arena. Each load from a missing page of it is an
 * exception, which the kernel logs, so the ops are refused. The parser may use an arena.
 */
#include <linux/bpf.h>
#include <linux/fuse_dax_fmap.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define __arena __attribute__((address_space(1)))

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1024);
} arena SEC(".maps");

int __arena value = 1;

SEC("struct_ops.s/dax_fmap_parse")
int BPF_PROG(arena_parse, struct fuse_dax_fmap_parse_ctx *parse)
{
	parse->file_size = 65536;
	parse->dev_bitmap = value;
	return 0;
}

SEC("struct_ops/iomap_begin")
int BPF_PROG(arena_begin, struct fuse_dax_fmap_resolve_ctx *resolve, struct fuse_iomap_io *io)
{
	io->addr = value;
	return 0;
}

SEC(".struct_ops.link")
struct fuse_dax_fmap_ops b_arena = {
	.name = "b_arena",
	.dax_fmap_parse = (void *)arena_parse,
	.iomap_begin = (void *)arena_begin,
};

char _license[] SEC("license") = "GPL";
