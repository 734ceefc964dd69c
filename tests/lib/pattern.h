/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Bytes that tell their place, for tests that copy them around: the byte at @at
 * of a file whose pattern is @seed.
 */
#ifndef PATTERN_H
#define PATTERN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

static inline unsigned char pattern(unsigned int seed, uint64_t at)
{
	return (at * 0x9e3779b97f4a7c15ULL >> 32) + seed;
}

static inline void pattern_fill(void *buf, size_t len, unsigned int seed, uint64_t at)
{
	unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = pattern(seed, at + i);
}

/* The index of the first wrong byte, or -1. */
static inline ssize_t pattern_differs(const void *buf, size_t len, unsigned int seed,
				      uint64_t at)
{
	const unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		if (p[i] != pattern(seed, at + i))
			return i;
	return -1;
}

/* Fill @len bytes of a file from @at on; the first offset that failed, or -1. */
static inline ssize_t pattern_write(int fd, size_t len, unsigned int seed, uint64_t at)
{
	unsigned char buf[4096];

	for (size_t done = 0; done < len; done += sizeof(buf)) {
		size_t n = len - done < sizeof(buf) ? len - done : sizeof(buf);

		pattern_fill(buf, n, seed, at + done);
		if (pwrite(fd, buf, n, at + done) != (ssize_t)n)
			return at + done;
	}
	return -1;
}

/* The same for reading: the first offset that is wrong, or -1. */
static inline ssize_t pattern_read(int fd, size_t len, unsigned int seed, uint64_t at)
{
	unsigned char buf[4096];

	for (size_t done = 0; done < len; done += sizeof(buf)) {
		size_t n = len - done < sizeof(buf) ? len - done : sizeof(buf);
		ssize_t bad;

		if (pread(fd, buf, n, at + done) != (ssize_t)n)
			return at + done;
		bad = pattern_differs(buf, n, seed, at + done);
		if (bad >= 0)
			return at + done + bad;
	}
	return -1;
}

#endif /* PATTERN_H */
