// SPDX-License-Identifier: GPL-2.0
/*
 * map FILE: map all of a file, and do what stdin says, one line of answer each:
 *
 *	write OFFSET TEXT	store TEXT and a NUL
 *	read OFFSET		print the text that is there
 *	touch			load one byte of every 2 MiB
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define HUGE	(2UL << 20)
#define LINE	256

/* Like mmap(), at an address that allows 2 MiB pages. */
static char *map_aligned(int fd, size_t size)
{
	char *room, *map;

	room = mmap(NULL, size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		err(1, "mmap");
	map = (char *)(((uintptr_t)room + HUGE - 1) & -HUGE);
	map = mmap(map, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (map == MAP_FAILED)
		err(1, "mmap");
	return map;
}

int main(int argc, char **argv)
{
	char line[LINE], verb[8], text[LINE];
	size_t offset, size;
	unsigned int sum;
	struct stat st;
	char *map;
	int fd;

	if (argc != 2)
		errx(2, "usage: map FILE");
	fd = open(argv[1], O_RDWR);
	if (fd < 0 || fstat(fd, &st))
		err(1, "%s", argv[1]);
	size = st.st_size;
	map = map_aligned(fd, size);
	setlinebuf(stdout);

	while (fgets(line, sizeof(line), stdin)) {
		offset = 0;
		text[0] = '\0';
		if (sscanf(line, "%7s %zu %255[^\n]", verb, &offset, text) < 1)
			continue;
		if (offset > size || size - offset < LINE)
			errx(1, "no room at %zu", offset);
		if (!strcmp(verb, "write")) {
			strcpy(map + offset, text);
			puts("ok");
		} else if (!strcmp(verb, "read")) {
			printf("%.*s\n", LINE, map + offset);
		} else if (!strcmp(verb, "touch")) {
			for (sum = 0; offset < size; offset += HUGE)
				sum += ((volatile char *)map)[offset];
			puts(sum ? "ok" : "nothing there");
		} else {
			errx(2, "what is \"%s\"?", verb);
		}
	}
	return 0;
}
