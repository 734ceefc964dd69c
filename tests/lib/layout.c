// SPDX-License-Identifier: GPL-2.0
/* The layouts of layout.h. */
#include <stdlib.h>

#include "fmap_test.h"
#include "layout.h"
#include "striped.h"

void add_strip(struct layout *l, uint32_t dev, uint64_t offset, uint64_t length)
{
	l->strip[l->nr_strips] = (struct strip){
		.dev = dev, .offset = offset, .length = length, .nr = l->nr_strips,
	};
	l->nr_strips++;
	if (l->used[dev] < offset + length)
		l->used[dev] = offset + length;
}

void add_extent(struct layout *l, uint64_t length, uint64_t chunk, unsigned int nr)
{
	unsigned int e = l->nr_extents++;

	l->extent[e].length = length;
	l->extent[e].chunk = chunk;
	l->extent[e].nr = nr;
	l->extent[e].first = l->nr_strips;
}

void add_linear(struct layout *l, uint32_t dev, uint64_t offset, uint64_t length)
{
	add_extent(l, length, 0, 1);
	add_strip(l, dev, offset, length);
}

void add_interleaved(struct layout *l, uint64_t length, uint64_t chunk, unsigned int nr)
{
	uint64_t rows = 0;

	for (uint64_t at = 0; at < length; at += chunk * nr)
		rows++;
	add_extent(l, length, chunk, nr);
	for (unsigned int i = 0; i < nr; i++)
		add_strip(l, i % 2, l->used[i % 2], rows * chunk);
}

static void deal(struct layout *l)
{
	uint64_t total = 0;
	size_t n = 0;

	for (unsigned int e = 0; e < l->nr_extents; e++)
		total += l->extent[e].length;
	l->page = calloc(total / PAGE + 1, sizeof(*l->page));
	for (unsigned int e = 0; e < l->nr_extents; e++) {
		uint64_t left = l->extent[e].length;
		uint64_t chunk = l->extent[e].chunk ?: left;
		struct strip *s = &l->strip[l->extent[e].first];
		uint64_t given[64] = { 0 };
		unsigned int turn = 0;

		while (left) {
			uint64_t piece = left < chunk ? left : chunk;

			for (uint64_t x = 0; x < piece; x += PAGE) {
				l->page[n].dev = s[turn].dev;
				l->page[n].addr = s[turn].offset + given[turn] + x;
				n++;
			}
			given[turn] += piece;
			left -= piece;
			if (++turn == l->extent[e].nr)
				turn = 0;
		}
	}
	l->nr_pages = n;
}

static int by_place(const void *a, const void *b)
{
	const struct strip *const *x = a, *const *y = b;

	if ((*x)->dev != (*y)->dev)
		return (*x)->dev < (*y)->dev ? -1 : 1;
	return (*x)->offset < (*y)->offset ? -1 : 1;
}

static void encode(struct layout *l)
{
	struct striped_header *h;
	struct striped_extent *e;
	struct striped_strip *s;
	struct strip **order;

	l->blob_len = sizeof(*h) + l->nr_extents * sizeof(*e) +
		      l->nr_strips * sizeof(*s);
	l->blob = calloc(1, l->blob_len);
	h = (void *)l->blob;
	e = (void *)(h + 1);
	s = (void *)(e + l->nr_extents);
	for (unsigned int i = 0; i < l->nr_extents; i++) {
		e[i].length = l->extent[i].length;
		e[i].chunk_size = l->extent[i].chunk;
		e[i].nr_strips = l->extent[i].nr;
	}
	order = calloc(l->nr_strips + 1, sizeof(*order));
	for (unsigned int i = 0; i < l->nr_strips; i++) {
		s[i].offset = l->strip[i].offset;
		s[i].length = l->strip[i].length;
		s[i].dev_index = l->strip[i].dev;
		order[i] = &l->strip[i];
	}
	qsort(order, l->nr_strips, sizeof(*order), by_place);
	*h = (struct striped_header){
		.magic = STRIPED_MAGIC,
		.version = STRIPED_VERSION,
		.file_size = l->size,
		.nr_extents = l->nr_extents,
		.nr_strips = l->nr_strips,
		.first_strip = l->nr_strips ? order[0]->nr : STRIPED_END,
	};
	for (unsigned int i = 0; i < l->nr_strips; i++)
		s[order[i]->nr].next = i + 1 < l->nr_strips ?
				       order[i + 1]->nr : STRIPED_END;
	free(order);
}

struct layout *new_layout(void (*make)(struct layout *l))
{
	struct layout *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	make(l);
	deal(l);
	encode(l);
	return l;
}
