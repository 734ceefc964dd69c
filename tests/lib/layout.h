/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A file in the `striped` format: its blob, and a model that says where its pages are.
 *
 * The model walks through a file chunk by chunk, gives each one to the next strip, round
 * robin, and remembers where every page went. It has no division, and nothing of the
 * arithmetic of the program under test.
 */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define MAX_EXTENTS	2048
#define MAX_STRIPS	4096

struct strip {
	uint32_t dev;
	uint64_t offset, length;
	unsigned int nr;	/* its place in the table */
};

struct layout {
	uint64_t size;
	unsigned int nr_extents, nr_strips;
	struct {
		uint64_t length, chunk;
		unsigned int nr, first;
	} extent[MAX_EXTENTS];
	struct strip strip[MAX_STRIPS];
	uint64_t used[2];	/* of each device */

	struct page {
		uint32_t dev;
		uint64_t addr;
	} *page;
	size_t nr_pages;

	unsigned char *blob;
	size_t blob_len;
};

/* The layout that @make builds: it sets @size and calls add_*(). NULL without memory. */
struct layout *new_layout(void (*make)(struct layout *l));

void add_linear(struct layout *l, uint32_t dev, uint64_t offset, uint64_t length);
/* Over devices 0, 1, 0, 1, ..., each strip at the next free place of its device. */
void add_interleaved(struct layout *l, uint64_t length, uint64_t chunk, unsigned int nr);
/* An extent of @nr strips, which have to follow. */
void add_extent(struct layout *l, uint64_t length, uint64_t chunk, unsigned int nr);
void add_strip(struct layout *l, uint32_t dev, uint64_t offset, uint64_t length);

#endif /* LAYOUT_H */
