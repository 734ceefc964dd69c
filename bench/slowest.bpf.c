// SPDX-License-Identifier: GPL-2.0
/*
 * slowest: the slowest iomap_begin() that the kernel loads.
 *
 * The verifier follows a million instructions. The slowest use of one of those is a lookup
 * in a hash map with keys of the largest size. The file is linear.
 */
#include <linux/bpf.h>
#include <linux/fuse_dax_fmap.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define LOOKUPS	165000	/* with 190,000 the verifier gives up */
#define SIZE	65536

struct key {
	char byte[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct key);
	__type(value, __u64);
} hash SEC(".maps");

SEC("struct_ops.s/dax_fmap_parse")
int BPF_PROG(slowest_parse, struct fuse_dax_fmap_parse_ctx *parse)
{
	parse->file_size = SIZE;
	parse->dev_bitmap = 1;
	return 0;
}

SEC("struct_ops/iomap_begin")
int BPF_PROG(slowest_begin, struct fuse_dax_fmap_resolve_ctx *resolve, struct fuse_iomap_io *io)
{
	struct key key = {};

	for (int i = 0; i < LOOKUPS; i++)
		bpf_map_lookup_elem(&hash, &key);
	io->addr = io->offset;
	io->length = SIZE - io->offset;
	return 0;
}

SEC(".struct_ops.link")
struct fuse_dax_fmap_ops slowest = {
	.name = "slowest",
	.dax_fmap_parse = (void *)slowest_parse,
	.iomap_begin = (void *)slowest_begin,
};

char _license[] SEC("license") = "GPL";
