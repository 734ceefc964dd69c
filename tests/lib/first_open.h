/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of first opens share: a server with one mapped file, and what is expected
 * of it. Their fixtures have the server in @s.
 */
#ifndef FIRST_OPEN_H
#define FIRST_OPEN_H

#include <unistd.h>

#include "fmap_test.h"

#define SIZE	(4 * MIB)

/* A server with one mapped file, not mounted yet. */
static inline struct fuse_server *server_of(struct scripted *map)
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);

	*map = fmap_linear(0, 0, SIZE);
	if (s)
		fs_add(s, "file", SIZE, map, sizeof(*map));
	return s;
}

/* Wait until the child has ended, or sleeps and stays asleep. */
static inline bool at_rest(pid_t pid)
{
	int seen = 0;

	for (int ms = 0; ms < FS_PATIENCE && seen < 20; ms++) {
		char state = task_state(pid);

		if (state == 'Z')
			return true;
		seen = state == 'S' || state == 'D' ? seen + 1 : 0;
		usleep(1000);
	}
	return seen == 20;
}

#define expect_counts(fmaps, opens, releases) do {			\
	EXPECT_EQ((unsigned int)(fmaps), self->s->count[FUSE_GET_FMAP]);	\
	EXPECT_EQ((unsigned int)(opens), self->s->count[FUSE_OPEN]);	\
	EXPECT_TRUE(fs_wait(self->s, FUSE_RELEASE, releases));		\
	EXPECT_EQ((unsigned int)(releases), self->s->count[FUSE_RELEASE]);	\
} while (0)

/* Expect that the file is mapped, and that its memory can be read, written and mapped. */
#define expect_mapped(fd) do {						\
	unsigned char *_p;						\
	char _c = 7;							\
									\
	EXPECT_EQ(1, pwrite(fd, &_c, 1, PAGE));				\
	EXPECT_EQ(SIZE - 1, lseek(fd, SIZE - 1, SEEK_SET));		\
	EXPECT_EQ(1, read(fd, &_c, 1));					\
	EXPECT_EQ(0, read(fd, &_c, 1));					\
	_p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);	\
	ASSERT_NE(MAP_FAILED, _p);					\
	EXPECT_EQ(7, _p[PAGE]);						\
	EXPECT_EQ(0, touch(_p, 1));					\
	munmap(_p, SIZE);						\
	EXPECT_EQ(0, self->s->count[FUSE_READ] + self->s->count[FUSE_WRITE]);	\
} while (0)

#endif /* FIRST_OPEN_H */
