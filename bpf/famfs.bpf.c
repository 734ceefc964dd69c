// SPDX-License-Identifier: GPL-2.0
/*
 * famfs: the file maps of unmodified famfs servers. famfs.h is the format and its
 * rules; extent_map.bpf.h is what remains of it after open, and the lookup.
 *
 * Strips are few here, so each is compared with all behind it to find overlaps.
 */
#include "famfs.h"
#include "extent_map.bpf.h"

static __always_inline int check_header(const struct famfs_header *h)
{
	if (h->fmap_version != FAMFS_FMAP_VERSION ||
	    h->ext_type > FAMFS_EXT_INTERLEAVE || h->file_type > FAMFS_FILE_LOG)
		return -EOPNOTSUPP;
	if (h->reserved0 || h->reserved1 || h->reserved2)
		return -EBADMSG;
	if (h->nextents > FAMFS_MAX_EXTENTS)
		return -E2BIG;
	return 0;
}

static __always_inline int check_iext(const struct famfs_iext *e, int is_last)
{
	if (e->reserved)
		return -EBADMSG;
	if (!e->nbytes || (e->nbytes % FAMFS_ALIGN && !is_last))
		return -EINVAL;
	if (!e->chunk_size || e->chunk_size % FAMFS_ALIGN || !e->nstrips)
		return -EINVAL;
	if (e->nstrips > FAMFS_MAX_STRIPS || e->nbytes > LLONG_MAX)
		return -E2BIG;
	return 0;
}

static __always_inline int check_strip(const struct famfs_simple_ext *s, __u64 pages)
{
	if (s->reserved)
		return -EBADMSG;
	if (!s->len || s->offset % FAMFS_ALIGN || s->len % FAMFS_ALIGN ||
	    s->len >> PAGE_SHIFT < pages)
		return -EINVAL;
	return check_device_range(s->offset, s->len, s->devindex);
}

/* A position in the blob: before a strip, or before an extent's header. */
struct cursor {
	__u32	pos;
	__u32	left;	/* strips until the next header */
};

static __always_inline const struct famfs_simple_ext *
next_strip(struct fuse_dax_fmap_parse_ctx *ctx, struct cursor *c)
{
	const struct famfs_simple_ext *s;
	const struct famfs_iext *e;

	if (!c->left) {
		e = blob_at(ctx, c->pos, struct famfs_iext);
		if (!e)
			return NULL;
		c->left = e->nstrips;
		c->pos += sizeof(*e);
	}
	s = blob_at(ctx, c->pos, struct famfs_simple_ext);
	c->left--;
	c->pos += sizeof(*s);
	return s;
}

static __always_inline int check_overlap(struct fuse_dax_fmap_parse_ctx *ctx,
					 const struct famfs_header *h, __u32 nr_strips)
{
	struct cursor c = {
		.pos = sizeof(*h),
		.left = h->ext_type == FAMFS_EXT_SIMPLE ? nr_strips : 0,
	};
	__u32 i, j;

	bpf_for(i, 0, nr_strips) {
		const struct famfs_simple_ext *a = next_strip(ctx, &c);
		struct cursor behind = c;

		if (!a)
			return -EBADMSG;
		bpf_for(j, i + 1, nr_strips) {
			const struct famfs_simple_ext *b = next_strip(ctx, &behind);

			if (!b)
				return -EBADMSG;
			if (a->devindex == b->devindex &&
			    a->offset < b->offset + b->len &&
			    b->offset < a->offset + a->len)
				return -EADDRINUSE;
		}
	}
	return 0;
}

SEC("struct_ops.s/dax_fmap_parse")
int BPF_PROG(famfs_parse, struct fuse_dax_fmap_parse_ctx *pctx)
{
	const struct famfs_header *h = blob_at(pctx, 0, struct famfs_header);
	__u32 pos = sizeof(*h), nr_strips, i, j;
	struct map_builder map;
	__u64 dev_bitmap = 0;

	if (!h)
		return -EBADMSG;
	TRY(check_header(h));
	if (pctx->blob_size > FAMFS_MAX_FMAP)
		return -E2BIG;

	/* Headers of extents and strips have the same size: count both, take off one. */
	nr_strips = (pctx->blob_size - sizeof(*h)) / sizeof(struct famfs_simple_ext);
	if (pctx->blob_size != sizeof(*h) + nr_strips * sizeof(struct famfs_simple_ext) ||
	    nr_strips < h->nextents)
		return -EBADMSG;
	if (h->ext_type == FAMFS_EXT_INTERLEAVE) {
		nr_strips -= h->nextents;
		if (nr_strips < h->nextents)
			return -EBADMSG;
	}
	TRY(map_begin(&map, pctx, h->nextents, nr_strips));

	bpf_for(i, 0, h->nextents) {
		__u32 chunk = 0, strips = 1;
		__u64 pages;

		if (h->ext_type == FAMFS_EXT_INTERLEAVE) {
			const struct famfs_iext *e =
				blob_at(pctx, pos, struct famfs_iext);

			if (!e)
				return -EBADMSG;
			TRY(check_iext(e, i == h->nextents - 1));
			pages = (e->nbytes + PAGE_MASK) >> PAGE_SHIFT;
			chunk = e->chunk_size >> PAGE_SHIFT;
			strips = e->nstrips;
			pos += sizeof(*e);
		} else {
			const struct famfs_simple_ext *s =
				blob_at(pctx, pos, struct famfs_simple_ext);

			if (!s)
				return -EBADMSG;
			pages = s->len >> PAGE_SHIFT;
		}
		if (strips > map_strips_left(&map, i, h->nextents, nr_strips))
			return -EBADMSG;
		TRY(map_add_extent(&map, pctx, i, pages, chunk, strips));

		bpf_for(j, 0, strips) {
			const struct famfs_simple_ext *s =
				blob_at(pctx, pos, struct famfs_simple_ext);

			if (!s)
				return -EBADMSG;
			TRY(check_strip(s, strip_pages(pages, chunk, strips)));
			TRY(map_add_strip(&map, pctx, s->offset, s->devindex));
			dev_bitmap |= 1ULL << s->devindex;
			pos += sizeof(*s);
		}
	}
	if (map.nr_strips != nr_strips)
		return -EBADMSG;
	if (map_size(&map) < h->file_size)
		return -EINVAL;
	TRY(check_overlap(pctx, h, nr_strips));
	TRY(map_end(&map, pctx, h->nextents));

	pctx->file_size = h->file_size;
	pctx->dev_bitmap = dev_bitmap;
	return 0;
}

SEC("struct_ops/iomap_begin")
int famfs_iomap_begin(const __u64 *args)
{
	return map_resolve(args);
}

SEC(".struct_ops.link")
struct fuse_dax_fmap_ops famfs = {
	.name = FAMFS_OPS_NAME,
	.dax_fmap_parse = (void *)famfs_parse,
	.iomap_begin = (void *)famfs_iomap_begin,
};

char LICENSE[] SEC("license") = "GPL";
