// SPDX-License-Identifier: GPL-2.0
/*
 * hashmap: the format of striped, but the fault path does not use what is kept behind the
 * inode, except for a number. Each call looks the file up in a BPF hash map: the other way to do it
 * that was discussed, here to be measured.
 *
 * The parser is that of striped, to the letter. When the metadata is ready, its first line becomes
 * the value of the map. This is all that files of one extent with few strips have, and others are
 * refused: how a tree is searched has nothing to do with where it is.
 */
#include "striped.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <linux/fuse_dax_fmap.h>

/* The number of the file is behind its metadata. */
#define bpf_fuse_dax_parse_alloc_meta(ctx, size) \
	bpf_fuse_dax_parse_alloc_meta(ctx, (size) + sizeof(__u64))
#include "extent_map.bpf.h"

#define FILES	16384

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FILES);
	__type(key, __u64);
	__type(value, struct map_head);
} files SEC(".maps");

static __u64 last_id;

static __always_inline int hash_resolve(struct fuse_dax_fmap_resolve_ctx *ctx,
					struct fuse_iomap_io *io)
{
	const __u64 *id = meta_at(ctx, ctx->meta_buf_size - sizeof(*id), __u64);
	__u64 key;

	if (!id)
		return -EIO;
	key = *id;
	return map_resolve_from(ctx, io, bpf_map_lookup_elem(&files, &key));
}

/* Files that are gone are not taken out; the oldest are overwritten. */
static __always_inline int hash_end(struct map_builder *map, struct fuse_dax_fmap_parse_ctx *ctx,
				    __u32 nr_extents)
{
	__u64 id = __sync_fetch_and_add(&last_id, 1) % FILES;
	const struct map_head *head;
	__u64 *to;

	if (map->head.is_tree)
		return -EOPNOTSUPP;
	TRY(map_end(map, ctx, nr_extents));
	to = (__u64 *)bpf_fuse_dax_parse_get_meta(ctx, ctx->meta_buf_size - sizeof(*to),
						  sizeof(*to));
	head = (const struct map_head *)bpf_fuse_dax_parse_get_meta(ctx, 0, sizeof(*head));
	if (!to || !head)
		return -EIO;
	*to = id;
	return bpf_map_update_elem(&files, &id, head, BPF_ANY);
}

/* The rest is striped itself, under another name. */
#undef STRIPED_OPS_NAME
#define STRIPED_OPS_NAME	"hashmap"
#define striped_parse		hashmap_parse
#define striped_iomap_begin	hashmap_iomap_begin
#define striped			hashmap
#define map_resolve		hash_resolve
#define map_end			hash_end
#include "striped.bpf.c"
