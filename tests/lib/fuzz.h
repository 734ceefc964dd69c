/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the fuzzers share: reproducible random numbers, and a check of the kernel log.
 *
 * A run is a sequence of rounds. The random numbers of each round are made from the seed
 * and the number of the round, and it begins with nothing mounted; so a round that failed
 * can be repeated alone, with the variables that its message gives:
 *
 *	FUZZ_SEED	first of all numbers; "random" for another one each time
 *	FUZZ_COUNT	how much to do (replies, mappings); the program's default is
 *			for make check
 *	FUZZ_ROUND	only this round
 *	FUZZ_ROUNDS	at most so many rounds
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stdint.h>

struct fuzz_run {
	uint64_t	seed;
	uint64_t	count;		/* how much to do */
	uint64_t	round;		/* the current one */
	uint64_t	last;		/* the first one that is not run */
};

/* The run that the environment asks for, @count unless told. */
struct fuzz_run fuzz_run(uint64_t count);

struct rng {
	uint64_t	state;
};

/* @stream: a number for each of those that share a round. */
struct rng fuzz_rng(const struct fuzz_run *run, unsigned int stream);
uint64_t rnd(struct rng *r);
uint64_t below(struct rng *r, uint64_t n);
/* In @percent of the cases. */
bool chance(struct rng *r, unsigned int percent);
/* Zeros, ones, powers of two and their neighbours, or any number. */
uint64_t odd_number(struct rng *r);

#define PICK(r, array) ((array)[below(r, sizeof(array) / sizeof((array)[0]))])

/*
 * The kernel log. Expected are the lines that the module is known to write, and few of
 * the rest of the kernel.
 */
#define FUZZ_LOG_KINDS	16

struct fuzz_log {
	int		fd;
	uint64_t	lines[FUZZ_LOG_KINDS];
	uint64_t	unexpected;
	char		first[512];	/* of the unexpected ones */
};

/* From here on. 0 or -errno. */
int fuzz_log_open(struct fuzz_log *log);
/* Read the new lines. True if all of them were expected. */
bool fuzz_log_good(struct fuzz_log *log);
/* "kind: lines" for each kind, as comments of KTAP. */
void fuzz_log_print(const struct fuzz_log *log);

/* Seconds on a clock that does not jump. */
double fuzz_seconds(void);

#endif /* FUZZ_H */
