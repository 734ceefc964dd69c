// SPDX-License-Identifier: GPL-2.0
/* Maps for the server of fuzz_server.c: good ones in each format, and damaged ones. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "fmap_test.h"
#include "fuzz_replies.h"
#include "famfs.h"
#include "striped.h"

#define HALF	(FUZZ_FILE_SIZE / 2)

static uint64_t some_piece(struct rng *r)
{
	return FUZZ_AREA + 3 * below(r, FUZZ_PIECES / 3) * FUZZ_PIECE;
}

static unsigned int striped_map(struct rng *r, unsigned char *blob)
{
	struct striped_header *h = (void *)blob;
	struct striped_extent *e = (void *)(h + 1);
	struct striped_strip *s;
	unsigned int n = chance(r, 50) ? 1 : chance(r, 98) ? 1 + below(r, 8) : 400;
	uint64_t addr = some_piece(r), pages = FUZZ_FILE_SIZE / PAGE / n;
	uint32_t dev = below(r, 2);

	*h = (struct striped_header){
		.magic = STRIPED_MAGIC, .version = STRIPED_VERSION, .nr_extents = n,
		.nr_strips = n, .file_size = n * pages * PAGE,
	};
	if (n == 1 && chance(r, 50)) {		/* over both devices */
		h->nr_strips = 2;
		e[0] = (struct striped_extent){ FUZZ_FILE_SIZE, PAGE << below(r, 10), 2 };
		s = (void *)(e + 1);
		s[0] = (struct striped_strip){ addr, HALF, 0, 1 };
		s[1] = (struct striped_strip){ some_piece(r), HALF, 1, STRIPED_END };
	} else {
		s = (void *)(e + n);
		for (unsigned int i = 0; i < n; i++) {
			e[i] = (struct striped_extent){ pages * PAGE, 0, 1 };
			s[i] = (struct striped_strip){ addr + i * pages * PAGE, pages * PAGE, dev,
						       i + 1 < n ? i + 1 : STRIPED_END };
		}
	}
	return (unsigned char *)(s + h->nr_strips) - blob;
}

static unsigned int famfs_map(struct rng *r, unsigned char *blob)
{
	struct famfs_header *h = (void *)blob;
	struct famfs_iext *i = (void *)(h + 1);
	struct famfs_simple_ext *s = (void *)(h + 1);
	uint64_t addr = some_piece(r);
	uint32_t dev = below(r, 2);

	*h = (struct famfs_header){
		.fmap_version = FAMFS_FMAP_VERSION, .file_size = FUZZ_FILE_SIZE, .nextents = 1,
	};
	if (chance(r, 30)) {
		h->ext_type = FAMFS_EXT_INTERLEAVE;
		*i = (struct famfs_iext){ 2, FAMFS_ALIGN, FUZZ_FILE_SIZE, 0 };
		s = (void *)(i + 1);
		s[0] = (struct famfs_simple_ext){ 0, 0, addr, HALF };
		s[1] = (struct famfs_simple_ext){ 1, 0, some_piece(r), HALF };
		return (unsigned char *)(s + 2) - blob;
	}
	if (chance(r, 30)) {
		h->nextents = 2;
		s[1] = (struct famfs_simple_ext){ dev, 0, addr, HALF };
		s[0] = (struct famfs_simple_ext){ dev, 0, addr + HALF, HALF };
	} else {
		s[0] = (struct famfs_simple_ext){ dev, 0, addr, FUZZ_FILE_SIZE };
	}
	return (unsigned char *)(s + h->nextents) - blob;
}

static unsigned int scripted_map(struct rng *r, bool honest, unsigned char *blob)
{
	struct scripted map = fmap_linear(below(r, 2), some_piece(r), FUZZ_FILE_SIZE);

	if (!honest)
		switch (below(r, 9)) {
		case 0:
			map.parse_ret = odd_number(r);
			break;
		case 1:
			map.alloc = odd_number(r);
			break;
		case 2:
			map.file_size = odd_number(r);
			break;
		case 3:
			map.dev_bitmap = odd_number(r);
			break;
		case 4:
			map.begin_ret = odd_number(r);
			break;
		case 5:
			map.dev_index = chance(r, 50) ? below(r, 70) : odd_number(r);
			break;
		case 6:
			map.flags = below(r, 8);
			map.step = chance(r, 50) ? PAGE : odd_number(r);
			break;
		case 7:
			map.hole = below(r, FUZZ_FILE_SIZE);
			map.hole_end = odd_number(r);
			map.type = below(r, 4);
			break;
		case 8:
			map.length = odd_number(r);
			break;
		}
	memcpy(blob, &map, sizeof(map));
	return sizeof(map);
}

unsigned int fuzz_damage(struct rng *r, unsigned char *bytes, unsigned int size,
			 unsigned int max)
{
	unsigned int at, len;
	uint64_t value;

	for (unsigned int n = 1 + below(r, 3); n; n--) {
		if (size < 8)
			return size ? below(r, size) : 8;
		at = below(r, size / 4) * 4;
		value = chance(r, 50) ? odd_number(r) : below(r, 70);
		switch (below(r, 8)) {
		case 0:
			bytes[below(r, size)] ^= 1 << below(r, 8);
			break;
		case 1:
			bytes[below(r, size)] = rnd(r);
			break;
		case 2:
			memcpy(bytes + at, &value, 4);
			break;
		case 3:
			memcpy(bytes + (at & ~7U), &value, 8);
			break;
		case 4:		/* a little more or less */
			memcpy(&value, bytes + (at & ~7U), 8);
			value += (int64_t)(below(r, 3) - 1) << below(r, 22);
			memcpy(bytes + (at & ~7U), &value, 8);
			break;
		case 5:		/* bytes from another place */
			memmove(bytes + at, bytes + below(r, size / 4) * 4, 4);
			break;
		case 6:
			size = chance(r, 50) ? below(r, size + 1) : size - 1;
			break;
		case 7:
			len = chance(r, 90) ? 1 + below(r, 32) : below(r, max);
			if (len > max - size)
				len = max - size;
			memset(bytes + size, chance(r, 50) ? 0 : rnd(r), len);
			size += len;
			break;
		}
	}
	return size;
}

/* The places in a blob where a program looks for (address, length). */
static const struct {
	unsigned int first, step;
} places[NR_FORMATS] = {
	[FORMAT_STRIPED] = { sizeof(struct striped_header), sizeof(struct striped_strip) },
	[FORMAT_FAMFS] = { sizeof(struct famfs_header) + 8, sizeof(struct famfs_simple_ext) },
	[FORMAT_SCRIPTED] = { offsetof(struct scripted, addr), 1 << 30 },
};

bool fuzz_names_canary(enum format format, const unsigned char *blob, unsigned int size)
{
	for (unsigned int at = places[format].first; at + 16 <= size; at += places[format].step) {
		uint64_t pair[2], end;

		memcpy(pair, blob + at, 16);
		if (__builtin_add_overflow(pair[0], pair[1], &end))
			return true;
		for (unsigned int i = 0; i < FUZZ_CANARIES && end > FUZZ_AREA; i++)
			if (pair[0] < fuzz_canary_addr(i) + PAGE && fuzz_canary_addr(i) < end)
				return true;
	}
	return false;
}

unsigned int fuzz_map(struct rng *r, enum format kind, bool honest, unsigned char *blob,
		      unsigned int max)
{
	for (int tries = 0;; tries++) {
		unsigned int size;

		if (tries > 20)
			honest = true;
		size = kind == FORMAT_STRIPED ? striped_map(r, blob) :
		       kind == FORMAT_FAMFS ? famfs_map(r, blob) :
		       scripted_map(r, honest, blob);
		if (honest)
			return size;
		if (kind != FORMAT_SCRIPTED || chance(r, 30))
			size = fuzz_damage(r, blob, size, max);
		if (!fuzz_names_canary(kind, blob, size))
			return size;
	}
}
