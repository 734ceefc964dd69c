// SPDX-License-Identifier: GPL-2.0
/*
 * striped: any number of extents over any devices. striped.h has the format and its rules;
 * extent_map.bpf.h the metadata that is made of it, and the lookup.
 *
 * The program does not sort: it reads the table of strips twice, once as the extents use
 * it and once in device order, along the links of the blob.
 */
#include "striped.h"
#include "extent_map.bpf.h"

static __always_inline int check_header(struct fuse_dax_fmap_parse_ctx *ctx,
					const struct striped_header *h)
{
	if (h->magic != STRIPED_MAGIC)
		return -EBADMSG;
	if (h->version != STRIPED_VERSION)
		return -EOPNOTSUPP;
	if (h->reserved0 || h->reserved1)
		return -EBADMSG;
	if (ctx->blob_size != sizeof(*h) +
			      h->nr_extents * sizeof(struct striped_extent) +
			      h->nr_strips * sizeof(struct striped_strip))
		return -EBADMSG;
	if (h->nr_extents > STRIPED_EXTENTS_MAX)
		return -E2BIG;
	/* A few more would often fit, but this is the rule of the format. */
	if (h->nr_strips >= h->nr_extents &&
	    STRIPED_META_SIZE(h->nr_extents, h->nr_strips) > STRIPED_META_MAX)
		return -E2BIG;
	return 0;
}

static __always_inline int check_extent(const struct striped_extent *e)
{
	if (e->reserved)
		return -EBADMSG;
	if (!e->length || e->length % STRIPED_ALIGN ||
	    e->chunk_size % STRIPED_ALIGN)
		return -EINVAL;
	if (!e->nr_strips || (!e->chunk_size && e->nr_strips != 1))
		return -EINVAL;
	return 0;
}

static __always_inline int check_strip(const struct striped_strip *s, __u64 pages)
{
	if (s->offset % STRIPED_ALIGN || s->length != pages << PAGE_SHIFT)
		return -EINVAL;
	return check_device_range(s->offset, s->length, s->dev_index);
}

/*
 * Follows the links through the strips. Each strip begins at or behind the end of the one
 * before, so none is met twice, and nr_strips steps meet all of them.
 */
static __always_inline int check_overlap(struct fuse_dax_fmap_parse_ctx *ctx,
					 const struct striped_header *h)
{
	__u32 table = sizeof(*h) + h->nr_extents * sizeof(struct striped_extent);
	__u32 next = h->first_strip, dev = 0, i;
	__u64 start = 0, end = 0;

	bpf_for(i, 0, h->nr_strips) {
		const struct striped_strip *s;

		if (next >= h->nr_strips)
			return -EINVAL;
		s = blob_at(ctx, table + next * sizeof(*s), struct striped_strip);
		if (!s)
			return -EBADMSG;

		if (s->dev_index < dev)
			return -EINVAL;
		if (s->dev_index == dev && s->offset < end)
			return s->offset + s->length > start ? -EADDRINUSE : -EINVAL;
		dev = s->dev_index;
		start = s->offset;
		end = start + s->length;
		if (s->next == next)
			return -EINVAL;
		next = s->next;
	}
	return next == STRIPED_END ? 0 : -EINVAL;
}

SEC("struct_ops.s/dax_fmap_parse")
int BPF_PROG(striped_parse, struct fuse_dax_fmap_parse_ctx *pctx)
{
	const struct striped_header *h = blob_at(pctx, 0, struct striped_header);
	__u32 extent_pos = sizeof(*h), strip_pos, i, j;
	struct map_builder map;
	__u64 dev_bitmap = 0;

	if (!h)
		return -EBADMSG;
	TRY(check_header(pctx, h));
	TRY(map_begin(&map, pctx, h->nr_extents, h->nr_strips));
	strip_pos = sizeof(*h) + h->nr_extents * sizeof(struct striped_extent);

	bpf_for(i, 0, h->nr_extents) {
		const struct striped_extent *e =
			blob_at(pctx, extent_pos, struct striped_extent);
		__u64 pages, chunk;

		if (!e)
			return -EBADMSG;
		TRY(check_extent(e));
		if (map_size(&map) >= h->file_size)
			return -EINVAL;
		if (e->nr_strips > map_strips_left(&map, i, h->nr_extents, h->nr_strips))
			return -EINVAL;
		pages = e->length >> PAGE_SHIFT;
		chunk = e->chunk_size >> PAGE_SHIFT;
		TRY(map_add_extent(&map, pctx, i, pages, chunk, e->nr_strips));

		bpf_for(j, 0, e->nr_strips) {
			const struct striped_strip *s =
				blob_at(pctx, strip_pos, struct striped_strip);

			if (!s)
				return -EBADMSG;
			TRY(check_strip(s, strip_pages(pages, chunk, e->nr_strips)));
			TRY(map_add_strip(&map, pctx, s->offset, s->dev_index));
			dev_bitmap |= 1ULL << s->dev_index;
			strip_pos += sizeof(*s);
		}
		extent_pos += sizeof(*e);
	}
	if (map.nr_strips != h->nr_strips ||
	    map_size(&map) < h->file_size)
		return -EINVAL;
	TRY(check_overlap(pctx, h));
	TRY(map_end(&map, pctx, h->nr_extents));

	pctx->file_size = h->file_size;
	pctx->dev_bitmap = dev_bitmap;
	return 0;
}

SEC("struct_ops/iomap_begin")
int striped_iomap_begin(const __u64 *args)
{
	return map_resolve(args);
}

SEC(".struct_ops.link")
struct fuse_dax_fmap_ops striped = {
	.name = STRIPED_OPS_NAME,
	.dax_fmap_parse = (void *)striped_parse,
	.iomap_begin = (void *)striped_iomap_begin,
};

char LICENSE[] SEC("license") = "GPL";
