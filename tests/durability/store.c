// SPDX-License-Identifier: GPL-2.0
/*
 * store write|verify DIR: the program that powerloss runs in the guest.
 *
 * "write" fills one file of DIR for each way to make data durable, makes it durable,
 * prints "all is durable", and waits until the host kills the guest. "verify" prints a
 * result for each file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <emmintrin.h>

#define SIZE		(4UL << 20)
#define WORDS		(SIZE / sizeof(uint64_t))
#define CACHELINE	64

#ifndef MAP_SYNC
#define MAP_SYNC		0x80000
#endif
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE	0x03
#endif

/* No two words of all files have the same value. */
static void fill(uint64_t *p, unsigned int way)
{
	for (uint64_t i = 0; i < WORDS; i++)
		p[i] = (i * 16 + way) * 0x9e3779b97f4a7c15ULL + 1;
}

static int by_fsync(int fd, uint64_t *p, unsigned int way)
{
	fill(p, way);
	return fsync(fd);
}

static int by_fdatasync(int fd, uint64_t *p, unsigned int way)
{
	fill(p, way);
	return fdatasync(fd);
}

static int by_msync(int fd, uint64_t *p, unsigned int way)
{
	fill(p, way);
	return msync(p, SIZE, MS_SYNC);
}

static int by_syncfs(int fd, uint64_t *p, unsigned int way)
{
	fill(p, way);
	return syncfs(fd);
}

static int by_write(int fd, uint64_t *p, unsigned int way)
{
	static uint64_t buf[WORDS];

	fill(buf, way);
	return pwrite(fd, buf, SIZE, 0) == SIZE ? fsync(fd) : -1;
}

/* Without a system call: the CPU flushes what it stored. */
static int by_map_sync(int fd, uint64_t *p, unsigned int way)
{
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC,
		 fd, 0);
	if (p == MAP_FAILED)
		return -1;
	fill(p, way);
	for (size_t at = 0; at < SIZE; at += CACHELINE)
		_mm_clflush((char *)p + at);
	_mm_sfence();
	return 0;
}

static const struct {
	const char *name;
	int (*make_durable)(int fd, uint64_t *p, unsigned int way);
} ways[] = {
	{ "fsync", by_fsync },
	{ "fdatasync", by_fdatasync },
	{ "msync", by_msync },
	{ "syncfs", by_syncfs },
	{ "write", by_write },
	{ "map_sync", by_map_sync },
};

#define WAYS	(sizeof(ways) / sizeof(*ways))

static int open_way(const char *dir, unsigned int way, uint64_t **p)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, ways[way].name);
	fd = open(path, O_RDWR);
	if (fd < 0) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(1);
	}
	*p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (*p == MAP_FAILED) {
		fprintf(stderr, "mmap %s: %s\n", path, strerror(errno));
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	static uint64_t expected[WORDS];
	uint64_t *p;
	int fd;

	if (argc != 3)
		return 2;
	setlinebuf(stdout);
	for (unsigned int way = 0; way < WAYS; way++) {
		fd = open_way(argv[2], way, &p);
		if (!strcmp(argv[1], "verify")) {
			fill(expected, way);
			printf("%s %s\n", memcmp(p, expected, SIZE) ? "lost" : "there",
			       ways[way].name);
		} else if (ways[way].make_durable(fd, p, way)) {
			fprintf(stderr, "%s: %s\n", ways[way].name, strerror(errno));
			return 1;
		}
	}
	if (!strcmp(argv[1], "verify"))
		return 0;
	puts("all is durable");
	for (;;)
		pause();
}
