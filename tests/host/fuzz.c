// SPDX-License-Identifier: GPL-2.0
/*
 * Gives any bytes to a program that parses file maps: they are accepted if and only if
 * a model of the rules finds them valid, and then resolved as the model does. The
 * sanitizers check every access. Built once for each format: see the Makefile.
 *
 * By itself the test changes maps, good ones and those that it has made, byte by byte:
 * FUZZ_COUNT is how often, FUZZ_SEED chooses other numbers. The same function is a
 * target of libFuzzer; "make libfuzzer" builds that where clang has it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include MAP_HEADER

extern struct fuse_dax_fmap_ops OPS;

static unsigned long nr_valid, nr_refused[512];

/* Returns true if a resolved place is inside a strip of the map, whatever its length. */
static bool inside(const struct layout *l, const struct fuse_iomap_io *io)
{
	for (__u32 i = 0; i < l->nr_extents; i++)
		for (__u32 j = 0; j < l->extent[i].nr_strips; j++) {
			const struct strip *s = &l->extent[i].strip[j];

			if (s->dev == io->dev_index && io->addr >= s->offset &&
			    io->length <= s->length &&
			    io->addr - s->offset <= s->length - io->length)
				return true;
		}
	return false;
}

static bool resolves(const struct layout *l, const struct map *m)
{
	__u64 pages = layout_length(l) / PAGE;
	struct fuse_iomap_io io;
	struct file file;
	bool good = true;

	if (pages <= MiB / PAGE)
		return layout_matches(l, &OPS, m->blob, m->size);
	if (file_open(&file, &OPS, m->blob, m->size))
		return false;
	for (int i = 0; good && i < 16; i++) {
		__u64 page = i ? random_below(pages) : pages - 1;

		good = !file_resolve(&file, page * PAGE, &io) && io.length &&
		       io.length % PAGE == 0 && inside(l, &io);
	}
	good = good && file_resolve(&file, pages * PAGE, &io) == -ERANGE;
	file_close(&file);
	return good;
}

static bool check(const __u8 *bytes, __u32 size)
{
	struct map m = map_from(bytes, size);
	bool is_valid = valid(&m), good;
	struct file file;
	int err;

	err = file_open(&file, &OPS, m.blob, m.size);
	good = is_valid == !err && err <= 0 && err > -512;
	if (!err) {
		good = good && file.size == m.header->file_size;
		file_close(&file);
	}
	if (is_valid && good) {
		struct layout *l = decode(&m);

		good = resolves(l, &m);
		layout_free(l);
	}
	nr_valid += is_valid;
	nr_refused[err < 0 && err > -512 ? -err : 0]++;
	if (!good) {
		comment("%s by the model, but the program says %d:", is_valid ? "valid" : "invalid",
			err);
		for (__u32 i = 0; i < size; i++)
			printf("%s%02x", i % 24 ? "" : "\n#   ", bytes[i]);
		printf("\n");
	}
	free(m.blob);
	return good;
}

int LLVMFuzzerTestOneInput(const __u8 *bytes, size_t size);
int LLVMFuzzerTestOneInput(const __u8 *bytes, size_t size)
{
	if (size <= MiB && !check(bytes, size))
		abort();
	return 0;
}

#ifndef LIBFUZZER

#define ROOM	(64 * KiB)
#define CORPUS	64

static __u64 odd_number(void)
{
	static const __u64 near[] = {
		0, 1, 2, 32, 63, 64, PAGE, 2 * MiB, 1ULL << 31, 1ULL << 32, 16 * TiB, 1ULL << 52,
		1ULL << 62, 1ULL << 63, ~0ULL,
	};
	static const __u64 steps[] = { 0, 0, 1, -1ULL, PAGE, -PAGE, 2 * MiB };

	if (random_below(8))
		return near[random_below(sizeof(near) / sizeof(*near))] +
		       steps[random_below(sizeof(steps) / sizeof(*steps))];
	return random_number();
}

/* Changes one thing; returns the size. */
static __u32 change(__u8 *bytes, __u32 size, const struct map *other)
{
	__u32 at = size ? random_below(size) : 0, len;
	__u64 value = odd_number();

	switch (random_below(10)) {
	case 0:
		bytes[at] ^= 1 << random_below(8);
		break;
	case 1:
		bytes[at] = random_number();
		break;
	case 2:		/* a field */
		memcpy(bytes + (at & ~7), &value, random_below(2) ? 4 : 8);
		break;
	case 3:		/* a field, a little */
		memcpy(&value, bytes + (at & ~7), 8);
		value += (random_below(2) ? 1ULL : -1ULL) << random_below(34);
		memcpy(bytes + (at & ~7), &value, 8);
		break;
	case 4:		/* the same field of another entry */
		if (size > 32 + 24) {
			__u32 entries = (size - 32) / 24, field = random_below(3) * 8;

			memcpy(bytes + 32 + 24 * random_below(entries) + field,
			       bytes + 32 + 24 * random_below(entries) + field, 8);
		}
		break;
	case 5:		/* entries change places */
		if (size >= 32 + 48) {
			__u32 entries = (size - 32) / 24;
			__u8 *a = bytes + 32 + 24 * random_below(entries);
			__u8 *b = bytes + 32 + 24 * random_below(entries);
			__u8 tmp[24];

			memcpy(tmp, a, 24);
			memmove(a, b, 24);
			memcpy(b, tmp, 24);
		}
		break;
	case 6:		/* an entry more, or one less */
		if (random_below(2) && size >= 32 + 24) {
			size -= 24;
		} else if (size >= 32 + 24 && size + 24 <= ROOM) {
			memcpy(bytes + size, bytes + size - 24, 24);
			size += 24;
		}
		break;
	case 7:
		size = random_below(size + 1);
		break;
	case 8:
		len = 1 + random_below(40);
		if (size + len <= ROOM)
			for (; len; len--)
				bytes[size++] = random_below(2) ? random_number() : 0;
		break;
	case 9:		/* the end of another map */
		if (at < other->size && other->size <= ROOM) {
			memcpy(bytes + at, other->blob + at, other->size - at);
			size = other->size;
		}
		break;
	}
	return size;
}

int main(void)
{
	static __u8 bytes[ROOM + 64];
	const char *seed = getenv("FUZZ_SEED"), *env = getenv("FUZZ_COUNT");
	unsigned long count = env ? strtoul(env, NULL, 0) : 150000, i;
	struct map corpus[CORPUS] = { 0 };
	bool good = true;

	plan(1);
	for (unsigned long n = seed ? strtoul(seed, NULL, 0) % 1000000 : 0; n; n--)
		random_number();
	for (i = 0; i < count && good; i++) {
		struct map *from = &corpus[random_below(CORPUS)], *other;
		unsigned long was_valid = nr_valid;
		__u32 size;

		/* Start with a good map again at times, or soon all maps would be junk. */
		if (!from->blob || !random_below(20)) {
			free(from->blob);
			*from = map_random();
			if (from->size > ROOM) {
				free(from->blob);
				from->blob = NULL;
				continue;
			}
		}
		other = &corpus[random_below(CORPUS)];
		size = from->size;
		memset(bytes, 0, sizeof(bytes));
		memcpy(bytes, from->blob, size);
		for (__u64 n = random_below(4); n != (__u64)-1; n--)
			size = change(bytes, size, other->blob ? other : from);
		good = check(bytes, size);
		if (nr_valid != was_valid || !random_below(50)) {
			free(from->blob);
			*from = map_from(bytes, size);
		}
	}
	comment("%lu maps, %lu of them valid", i, nr_valid);
	for (int err = 1; err < 512; err++)
		if (nr_refused[err])
			comment("%s: %lu", strerror(err), nr_refused[err]);
	for (int n = 0; n < CORPUS; n++)
		free(corpus[n].blob);
	ok(good, "any bytes: accepted if and only if valid");
	return finish();
}

#endif
