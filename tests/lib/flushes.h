/* SPDX-License-Identifier: GPL-2.0 */
/*
 * fsync(2) of a mapped file, as the kernel's tracepoint reports it: which entries of the
 * page cache are flushed. For fixtures that have the file in @fd, and in @seen how many
 * entries had been flushed when they last looked.
 */
#ifndef FLUSHES_H
#define FLUSHES_H

#include <stdio.h>

#include "fmap_test.h"

/* Flushes of the entry that begins at page @first, as trace_count_open_at(). */
static inline int flushes_open(unsigned long first, pid_t pid, int cpu)
{
	char filter[64];

	snprintf(filter, sizeof(filter), "pgoff == %lu", first);
	return trace_count_open_at("fs_dax/dax_writeback_one", filter, pid, cpu);
}

/* fsync(2) flushes @n entries. @now: how many have been flushed, when it is done. */
#define EXPECT_FSYNC(n, now) do {					\
	uint64_t _now;							\
									\
	ASSERT_EQ(0, fsync(self->fd));					\
	_now = (now);							\
	EXPECT_EQ((uint64_t)(n), _now - self->seen);			\
	self->seen = _now;						\
} while (0)

#endif /* FLUSHES_H */
