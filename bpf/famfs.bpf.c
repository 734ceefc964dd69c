// SPDX-License-Identifier: GPL-2.0
/*
 * famfs: the file maps of unmodified famfs servers. famfs.h has the format and its rules;
 * extent_map.bpf.h the metadata that is made of it, and the lookup.
 *
 * A list of a few extents is kept as it is, and each strip is compared with all that
 * follow, to find overlaps. A long list must be that of a striped file, chunk by chunk:
 * it is read once, and each extent compared with one before it. The strips are kept, and
 * compared with one another.
 */
#include "famfs.h"
#include "extent_map.bpf.h"

static __always_inline int check_header(const struct famfs_header *h)
{
	if (h->fmap_version != FAMFS_FMAP_VERSION ||
	    h->ext_type > FAMFS_EXT_INTERLEAVE || h->file_type > FAMFS_FILE_LOG)
		return -EOPNOTSUPP;
	if (h->reserved0 || h->reserved2)
		return -EBADMSG;
	return 0;
}

/* Checks the size of the map in the header, if there is one. */
static __always_inline int check_fmap_size(struct fuse_dax_fmap_parse_ctx *ctx,
					   const struct famfs_header *h)
{
	if (!h->fmap_size || h->fmap_size == ctx->blob_size)
		return 0;
	if (ctx->blob_size != sizeof(*h) || h->fmap_size <= ctx->blob_room)
		return -EBADMSG;
	if (h->fmap_size > FUSE_DAX_FMAP_BLOB_MAX)
		return -E2BIG;
	ctx->blob_wanted = h->fmap_size;
	return -ERANGE;
}

static __always_inline __u64 pages_of(__u64 bytes)
{
	return (bytes >> PAGE_SHIFT) + !!(bytes & PAGE_MASK);
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

/* @any_length: this is the last extent of a file, and ends with the file. */
static __always_inline int check_strip(const struct famfs_simple_ext *s, __u64 pages,
				       bool any_length)
{
	if (s->reserved)
		return -EBADMSG;
	if (!s->len || s->offset % FAMFS_ALIGN || (s->len % FAMFS_ALIGN && !any_length) ||
	    pages_of(s->len) < pages)
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

/* Few extents. */
static __noinline int parse_extents(struct fuse_dax_fmap_parse_ctx *pctx,
				    const struct famfs_header *h)
{
	__u32 pos = sizeof(*h), nr_strips, i, j;
	__u64 dev_bitmap = 0, mapped = 0;
	struct map_builder map;

	if (pctx->blob_size > FAMFS_MAX_FMAP)
		return -E2BIG;

	/* An extent header is as large as a strip: count both, subtract the headers. */
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
		bool is_last = i == h->nextents - 1, any_length = false;
		__u32 chunk = 0, strips = 1;
		__u64 bytes, pages;

		if (h->ext_type == FAMFS_EXT_INTERLEAVE) {
			const struct famfs_iext *e =
				blob_at(pctx, pos, struct famfs_iext);

			if (!e)
				return -EBADMSG;
			TRY(check_iext(e, is_last));
			bytes = e->nbytes;
			chunk = e->chunk_size >> PAGE_SHIFT;
			strips = e->nstrips;
			pos += sizeof(*e);
		} else {
			const struct famfs_simple_ext *s =
				blob_at(pctx, pos, struct famfs_simple_ext);

			if (!s)
				return -EBADMSG;
			bytes = s->len;
			any_length = is_last && mapped + bytes == h->file_size;
		}
		pages = pages_of(bytes);
		if (strips > map_strips_left(&map, i, h->nextents, nr_strips))
			return -EBADMSG;
		TRY(map_add_extent(&map, pctx, i, pages, chunk, strips));
		mapped += bytes;

		bpf_for(j, 0, strips) {
			const struct famfs_simple_ext *s =
				blob_at(pctx, pos, struct famfs_simple_ext);

			if (!s)
				return -EBADMSG;
			TRY(check_strip(s, strip_pages(pages, chunk, strips), any_length));
			TRY(map_add_strip(&map, pctx, s->offset, s->devindex));
			dev_bitmap |= 1ULL << s->devindex;
			pos += sizeof(*s);
		}
	}
	if (map.nr_strips != nr_strips)
		return -EBADMSG;
	if (mapped < h->file_size)
		return -EINVAL;
	TRY(check_overlap(pctx, h, nr_strips));
	TRY(map_end(&map, pctx, h->nextents));

	pctx->file_size = h->file_size;
	pctx->dev_bitmap = dev_bitmap;
	return 0;
}

/* A striped file that is a list of its chunks. */
struct stripe {
	__u64	chunk;		/* bytes */
	__u64	last_length;	/* of the last extent, at most a chunk */
	__u32	last;		/* number of the last extent */
	__u32	nr_strips;
};

static __always_inline const struct famfs_simple_ext *
extent_at(struct fuse_dax_fmap_parse_ctx *ctx, __u32 n)
{
	return blob_at(ctx, sizeof(struct famfs_header) + n * sizeof(struct famfs_simple_ext),
		       struct famfs_simple_ext);
}

static __always_inline bool is_behind(const struct famfs_simple_ext *b,
				      const struct famfs_simple_ext *a, __u64 chunk)
{
	return b->devindex == a->devindex && b->offset == a->offset + chunk;
}

/*
 * Reads the list, once. The first extent that lies behind extent 0 is the first of the
 * second row, so its index is the number of strips. There is no other such extent, or two
 * would be at the same place: to find that, a list that turns out to be no stripe is read
 * to its end.
 */
static __always_inline int read_stripe(struct fuse_dax_fmap_parse_ctx *ctx,
				       const struct famfs_header *h, struct stripe *stripe)
{
	const struct famfs_simple_ext *first = extent_at(ctx, 0);
	__u32 last = h->nextents - 1, nr_strips = 0, i;
	__u64 chunk, length = 0;
	bool is_stripe = true;

	if (!first)
		return -EBADMSG;
	chunk = first->len;
	/* Nothing that is computed from the chunk overflows then. */
	if (chunk >> PAGE_SHIFT > PAGES_MAX)
		return -E2BIG;

	bpf_for(i, 0, h->nextents) {
		const struct famfs_simple_ext *e = extent_at(ctx, i), *above;

		if (!e)
			return -EBADMSG;
		length = e->len;
		TRY(check_strip(e, 0, i == last && last * chunk + length == h->file_size));
		if (length != chunk && (i != last || length > chunk))
			return -E2BIG;

		if (is_behind(e, first, chunk)) {
			if (nr_strips)
				return -EADDRINUSE;
			nr_strips = i;
		} else if (nr_strips) {
			above = extent_at(ctx, i - nr_strips);
			if (!above)
				return -EBADMSG;
			is_stripe = is_stripe && is_behind(e, above, chunk);
		} else if (i >= FAMFS_MAX_UNROLLED_STRIPS) {
			return -E2BIG;
		}
	}
	if (!nr_strips || !is_stripe)
		return -E2BIG;
	*stripe = (struct stripe){ chunk, length, last, nr_strips };
	return 0;
}

/* The bytes of strip @n, up to the end of its last extent. */
static __always_inline __u64 strip_length(const struct stripe *stripe, __u32 n)
{
	__u32 row = stripe->last / stripe->nr_strips;
	__u32 last_strip = stripe->last - row * stripe->nr_strips;

	if (n == last_strip)
		return row * stripe->chunk + stripe->last_length;
	return (n < last_strip ? row + 1 : row) * stripe->chunk;
}

static __always_inline int check_strips_overlap(struct fuse_dax_fmap_parse_ctx *ctx,
						const struct stripe *stripe)
{
	__u32 i, j;

	bpf_for(i, 0, stripe->nr_strips) {
		const struct famfs_simple_ext *a = extent_at(ctx, i), *b;

		if (!a)
			return -EBADMSG;
		bpf_for(j, i + 1, stripe->nr_strips) {
			b = extent_at(ctx, j);
			if (!b)
				return -EBADMSG;
			if (a->devindex == b->devindex &&
			    a->offset < b->offset + strip_length(stripe, j) &&
			    b->offset < a->offset + strip_length(stripe, i))
				return -EADDRINUSE;
		}
	}
	return 0;
}

/* Many extents. */
static __noinline int parse_unrolled(struct fuse_dax_fmap_parse_ctx *pctx,
				     const struct famfs_header *h)
{
	struct stripe stripe;
	struct map_builder map;
	__u64 dev_bitmap = 0, chunk_pages;
	__u32 i;

	if (h->ext_type != FAMFS_EXT_SIMPLE ||
	    pctx->blob_size != sizeof(*h) +
			       h->nextents * (__u64)sizeof(struct famfs_simple_ext))
		return -E2BIG;
	TRY(read_stripe(pctx, h, &stripe));
	if (stripe.last * stripe.chunk + stripe.last_length < h->file_size)
		return -EINVAL;
	TRY(check_strips_overlap(pctx, &stripe));

	chunk_pages = stripe.chunk >> PAGE_SHIFT;
	TRY(map_begin(&map, pctx, 1, stripe.nr_strips));
	TRY(map_add_extent(&map, pctx, 0, stripe.last * chunk_pages + pages_of(stripe.last_length),
			   chunk_pages, stripe.nr_strips));
	bpf_for(i, 0, stripe.nr_strips) {
		const struct famfs_simple_ext *s = extent_at(pctx, i);

		if (!s)
			return -EBADMSG;
		TRY(map_add_strip(&map, pctx, s->offset, s->devindex));
		dev_bitmap |= 1ULL << s->devindex;
	}
	TRY(map_end(&map, pctx, 1));

	pctx->file_size = h->file_size;
	pctx->dev_bitmap = dev_bitmap;
	return 0;
}

SEC("struct_ops.s/dax_fmap_parse")
int BPF_PROG(famfs_parse, struct fuse_dax_fmap_parse_ctx *pctx)
{
	const struct famfs_header *h = blob_at(pctx, 0, struct famfs_header);

	if (!h)
		return -EBADMSG;
	TRY(check_header(h));
	TRY(check_fmap_size(pctx, h));
	if (h->nextents > FAMFS_MAX_EXTENTS)
		return parse_unrolled(pctx, h);
	return parse_extents(pctx, h);
}

/* famfs looks for this name in /proc/kallsyms. */
SEC("struct_ops/iomap_begin")
int famfs_fuse_iomap_begin(const __u64 *args)
{
	return map_resolve(args);
}

SEC(".struct_ops.link")
struct fuse_dax_fmap_ops famfs = {
	.name = FAMFS_OPS_NAME,
	.dax_fmap_parse = (void *)famfs_parse,
	.iomap_begin = (void *)famfs_fuse_iomap_begin,
};

char LICENSE[] SEC("license") = "GPL";
