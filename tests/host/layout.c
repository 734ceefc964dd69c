// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "layout.h"

struct layout *layout_new(__u64 file_size)
{
	struct layout *layout = calloc(1, sizeof(*layout));

	layout->file_size = file_size;
	return layout;
}

struct extent *layout_extent(struct layout *layout, __u64 length, __u64 chunk)
{
	struct extent *extent;

	layout->extent = realloc(layout->extent,
				 (layout->nr_extents + 1) * sizeof(*extent));
	extent = &layout->extent[layout->nr_extents++];
	*extent = (struct extent){ .length = length, .chunk = chunk };
	return extent;
}

static void update_strip_lengths(struct extent *extent)
{
	for (__u32 i = 0; i < extent->nr_strips; i++)
		extent->strip[i].length = extent_strip_length(extent);
}

void extent_strip(struct extent *extent, __u32 dev, __u64 offset)
{
	extent->strip = realloc(extent->strip,
				(extent->nr_strips + 1) * sizeof(struct strip));
	extent->strip[extent->nr_strips++] = (struct strip){ dev, offset, 0 };
	update_strip_lengths(extent);
}

void layout_free(struct layout *layout)
{
	for (__u32 i = 0; i < layout->nr_extents; i++)
		free(layout->extent[i].strip);
	free(layout->extent);
	free(layout);
}

__u64 layout_length(const struct layout *layout)
{
	__u64 length = 0;

	for (__u32 i = 0; i < layout->nr_extents; i++)
		length += layout->extent[i].length;
	return length;
}

__u32 layout_nr_strips(const struct layout *layout)
{
	__u32 n = 0;

	for (__u32 i = 0; i < layout->nr_extents; i++)
		n += layout->extent[i].nr_strips;
	return n;
}

__u64 extent_strip_length(const struct extent *extent)
{
	__u64 length = 0;

	if (!extent->chunk)
		return extent->length;
	for (__u64 dealt = 0; dealt < extent->length; dealt += extent->chunk * extent->nr_strips)
		length += extent->chunk;
	return length;
}

struct layout *layout_random(__u32 nr_extents, __u32 max_strips, __u64 align,
			     enum kind kind)
{
	struct layout *layout = layout_new(0);
	__u64 up[32] = { 0 }, down[32];

	/* Devices below 32 fill up from their start, the others from their end. */
	for (int i = 0; i < 32; i++)
		down[i] = 64 * TiB;

	for (__u32 i = 0; i < nr_extents; i++) {
		bool interleaved = kind == MIXED ? random_below(3) : kind == INTERLEAVED;
		__u64 chunk = interleaved ? align * (1 + random_below(5)) : 0;
		struct extent *extent =
			layout_extent(layout, align * (1 + random_below(40)), chunk);
		__u32 nr_strips = chunk ? 1 + random_below(max_strips) : 1;

		while (extent->nr_strips < nr_strips)
			extent_strip(extent, 0, 0);
		for (__u32 j = 0; j < nr_strips; j++) {
			struct strip *strip = &extent->strip[j];

			strip->dev = random_below(64);
			if (strip->dev < 32) {
				up[strip->dev] += align * random_below(3);
				strip->offset = up[strip->dev];
				up[strip->dev] += strip->length;
			} else {
				down[strip->dev - 32] -= strip->length + align * random_below(3);
				strip->offset = down[strip->dev - 32];
			}
		}
	}
	/* The last extent holds the last byte. */
	layout->file_size = layout_length(layout) -
			    random_below(layout->extent[nr_extents - 1].length);
	return layout;
}

struct page {
	__u64	addr;
	__u32	dev;
	bool	is_last;	/* of a contiguous piece */
};

static struct page *deal_out(const struct layout *layout)
{
	struct page *pages = malloc(layout_length(layout) / PAGE * sizeof(*pages) + 1);
	struct page *page = pages;

	for (__u32 i = 0; i < layout->nr_extents; i++) {
		const struct extent *extent = &layout->extent[i];
		__u64 *filled = calloc(extent->nr_strips, sizeof(*filled));
		__u64 in_chunk = 0;
		__u32 s = 0;

		for (__u64 left = extent->length; left; left -= PAGE) {
			page->dev = extent->strip[s].dev;
			page->addr = extent->strip[s].offset + filled[s];
			filled[s] += PAGE;
			in_chunk += PAGE;
			page->is_last = left == PAGE;
			if (in_chunk == extent->chunk && extent->nr_strips > 1) {
				page->is_last = true;
				in_chunk = 0;
				s = s + 1 < extent->nr_strips ? s + 1 : 0;
			}
			page++;
		}
		free(filled);
	}
	return pages;
}

/* Resolves page @n: the answer has to cover all that is left of its piece. */
static bool page_matches(const struct file *file, const struct page *pages, __u64 n,
			 __u64 *next)
{
	struct fuse_iomap_io io;
	int err = file_resolve(file, n * PAGE, &io);
	__u64 last = n;

	while (!pages[last].is_last)
		last++;
	*next = last + 1;
	if (!err && io.dev_index == pages[n].dev && io.addr == pages[n].addr &&
	    io.length == (last + 1 - n) * PAGE)
		return true;
	comment("page %llu: error %d, device %u, address %#llx, length %#llx",
		n, err, io.dev_index, io.addr, io.length);
	comment("    instead of        device %u, address %#llx, length %#llx",
		pages[n].dev, pages[n].addr, (last + 1 - n) * PAGE);
	return false;
}

bool layout_matches(const struct layout *layout, const struct fuse_dax_fmap_ops *ops,
		    const void *blob, __u32 blob_size)
{
	__u64 nr_pages = layout_length(layout) / PAGE, dev_bitmap = 0, n, next;
	struct fuse_iomap_io io;
	struct page *pages;
	struct file file;
	bool matches = true;
	int err;

	err = file_open(&file, ops, blob, blob_size);
	if (err) {
		comment("open: %s", strerror(-err));
		return false;
	}
	for (__u32 i = 0; i < layout->nr_extents; i++)
		for (__u32 j = 0; j < layout->extent[i].nr_strips; j++)
			dev_bitmap |= 1ULL << layout->extent[i].strip[j].dev;
	if (file.size != layout->file_size || file.dev_bitmap != dev_bitmap) {
		comment("size %llu instead of %llu, devices %#llx instead of %#llx",
			file.size, layout->file_size, file.dev_bitmap, dev_bitmap);
		matches = false;
	}

	pages = deal_out(layout);
	for (n = 0; matches && n < nr_pages; n = next) {
		matches = page_matches(&file, pages, n, &next);
		/* The last page of the piece, too. */
		if (matches && next > n + 1)
			matches = page_matches(&file, pages, next - 1, &next);
	}
	for (int i = 0; matches && nr_pages && i < 1000; i++)
		matches = page_matches(&file, pages, random_below(nr_pages), &next);
	if (matches && file_resolve(&file, nr_pages * PAGE, &io) != -ERANGE) {
		comment("the page behind the last one is mapped");
		matches = false;
	}
	free(pages);
	file_close(&file);
	return matches;
}

/* xorshift64* */
__u64 random_number(void)
{
	static __u64 x = 0x20260419;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	return x * 0x2545f4914f6cdd1dULL;
}

__u64 random_below(__u64 limit)
{
	return random_number() % limit;
}
