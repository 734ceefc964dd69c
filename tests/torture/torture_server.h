/* SPDX-License-Identifier: GPL-2.0 */
/* What the two halves of torture's server share: torture_answers.c, torture_server.c. */
#ifndef TORTURE_SERVER_H
#define TORTURE_SERVER_H

#include "torture.h"

#define MAX_WRITE	(64 * KIB)

struct entry {
	bool		there, renamed;
	uint64_t	nodeid, generation;
	uint32_t	mode;
	uint64_t	mtime;
};

/*
 * The server of this process. Its threads change this without a lock: both the old and
 * the new value are right, and a thread that hangs in an answer must not hold up the
 * others.
 */
struct served {
	unsigned int	place;
	int		fd;
	volatile bool	over, inited;
	struct entry	entry[ENTRIES];

	_Atomic uint64_t last;		/* makes a nodeid new */
	bool		map_in_open, writeback;
	unsigned int	valid;		/* ms: how long attributes and names are */
	_Atomic int	backing[4];	/* of the x */
	_Atomic unsigned int in_notices;
	_Atomic uint64_t unique;
	uint64_t	streams;	/* of random numbers, of its threads */
};

extern struct served s;

extern __thread struct rng rng_of_thread;
#define DICE		(&rng_of_thread)

/* Does this mount have such an entry? */
bool exists(unsigned int e);
void name_of(unsigned int e, bool renamed, char *name, size_t size);
/* The entry of a current or former nodeid; or -1. */
int entry_of(uint64_t nodeid);

/* Answer a request. */
void answer(const struct fuse_in_header *in, const void *arg);

#endif /* TORTURE_SERVER_H */
