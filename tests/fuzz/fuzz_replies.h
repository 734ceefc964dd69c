/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The server of fuzz_server.c: one mount, in memory that is shared with the openers.
 */
#ifndef FUZZ_REPLIES_H
#define FUZZ_REPLIES_H

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>
#include <linux/fuse.h>

#include "fuzz.h"

/*
 * On each device, maps name memory in this area, in pieces of 2 MiB. No map may name a third
 * of the pieces: each of these has a canary at its beginning and at its end. What a damaged
 * map is parsed to may name other memory, but never a canary.
 */
#define FUZZ_AREA	(128UL << 20)
#define FUZZ_PIECE	(2UL << 20)
#define FUZZ_PIECES	24
#define FUZZ_AREA_END	(FUZZ_AREA + FUZZ_PIECES * FUZZ_PIECE)
#define FUZZ_CANARIES	(2 * FUZZ_PIECES / 3)
#define FUZZ_FILE_SIZE	(4UL << 20)

static inline uint64_t fuzz_canary_addr(unsigned int n)
{
	uint64_t piece = FUZZ_AREA + (n / 2 * 3 + 2) * FUZZ_PIECE;

	return n % 2 ? piece + FUZZ_PIECE - 4096 : piece;
}

enum end {
	END_UMOUNT, END_DETACH, END_FORCE, END_ABORT, END_DIE, END_KILL, NR_ENDS,
};

enum format {
	FORMAT_STRIPED, FORMAT_FAMFS, FORMAT_SCRIPTED, NR_FORMATS,
};

#define FUZZ_OPENERS	4
#define FUZZ_OPCODES	64
#define FUZZ_HELD	16
#define FUZZ_ARG	512		/* bytes of a request that are looked at */

/* A request that has not been answered yet. */
struct fuzz_request {
	struct fuse_in_header in;
	unsigned char	arg[FUZZ_ARG];
};

struct fuzz_mount {
	/* Of this mount. */
	char		dir[32];
	int		fd;
	bool		sync_init, permissions;
	enum format	format;
	int		opener[FUZZ_OPENERS];
	volatile bool	ending;		/* answer honestly, and end */
	volatile bool	over;		/* no more requests are read */
	volatile bool	dying;		/* no more answers */
	volatile bool	init_withheld;
	volatile bool	bound;
	volatile uint64_t sent;
	/* Of the server. */
	struct rng	rng, notify_rng;
	uint32_t	valid;		/* s, of names and attributes */
	uint64_t	next_nodeid, last_unique;
	const char	*device[2];
	pthread_t	thread, notifier;
	sem_t		notify;
	volatile int	running;	/* threads */
	struct fuzz_request held[FUZZ_HELD];
	unsigned int	nr_held;
	/* Of all mounts: replies by opcode; notifications by code. */
	uint64_t	honest[FUZZ_OPCODES], hostile[FUZZ_OPCODES];
	uint64_t	taken[FUZZ_OPCODES], refused[FUZZ_OPCODES], withheld[FUZZ_OPCODES];
	uint64_t	notified[16], notify_refused[16];
};

/* Opens /dev/fuse and starts to serve. Returns 0 or -errno. */
int fuzz_server_start(struct fuzz_mount *m, const struct fuzz_run *run, const char *device0,
		      const char *device1);
/* Makes the server close /dev/fuse, at once. */
void fuzz_server_die(struct fuzz_mount *m);
/* Waits until the server has ended, for @ms at most. */
bool fuzz_server_stop(struct fuzz_mount *m, int ms);
/* Messages sent so far, by all mounts. */
uint64_t fuzz_sent(const struct fuzz_mount *m);
void fuzz_server_print(const struct fuzz_mount *m);

/* fuzz_maps.c: makes a map in this format, good or damaged. Returns its size. */
unsigned int fuzz_map(struct rng *r, enum format kind, bool honest, unsigned char *blob,
		      unsigned int size);
/* Returns true if the blob, parsed as such a map, names memory with a canary in it. */
bool fuzz_names_canary(enum format kind, const unsigned char *blob, unsigned int size);
/* Changes bytes. Returns the new size, at most @max. */
unsigned int fuzz_damage(struct rng *r, unsigned char *bytes, unsigned int size,
			 unsigned int max);

#endif /* FUZZ_REPLIES_H */
