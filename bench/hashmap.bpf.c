// SPDX-License-Identifier: GPL-2.0
/*
 * hashmap: the format of striped, but the fault path uses only a number from the metadata of an
 * inode. With it, each call looks the file up in a BPF hash map: an alternative design, to be
 * measured here.
 *
 * The parser is that of striped. When the metadata is ready, its first cache line becomes the
 * value of the map, with the file's number in the place of the last strip. That is all the
 * metadata of a file of one linear extent; the parser rejects other files, because how a tree is
 * searched does not depend on where it is.
 */
#include "striped.h"
#include "extent_map.bpf.h"

#define FILES	16384

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FILES);
	__type(key, __u64);
	__type(value, struct map_head);
} files SEC(".maps");

static __u64 last_id;

#define ID	(FUSE_DAX_FMAP_META_FIRST - 1)

static __always_inline int hash_resolve(const __u64 *args)
{
	const struct fuse_dax_fmap_meta *meta = argument(args, ARG_META);
	__u64 key = meta->word[ID];
	const struct map_head *head = bpf_map_lookup_elem(&files, &key);

	if (!head)
		return -EIO;
	return map_resolve_from(args, head);
}

/* Evicted files are not removed; new ones overwrite the oldest. */
static __always_inline int hash_end(struct map_builder *map, struct fuse_dax_fmap_parse_ctx *ctx,
				    __u32 nr_extents)
{
	__u64 id = __sync_fetch_and_add(&last_id, 1) % FILES;
	struct fuse_dax_fmap_meta *meta;

	TRY(map_end(map, ctx, nr_extents));
	meta = (struct fuse_dax_fmap_meta *)
		bpf_fuse_dax_parse_get_meta(ctx, 0, sizeof(*meta));
	if (!meta)
		return -EIO;
	if (!extent_is_linear(((struct map_head *)meta)->extent))
		return -EOPNOTSUPP;
	meta->word[ID] = id;
	return bpf_map_update_elem(&files, &id, meta, BPF_ANY);
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
