/* SPDX-License-Identifier: GPL-2.0 */
/* The run of a fuzzer, round by round. */
#ifndef ROUNDS_H
#define ROUNDS_H

#include "fuzz.h"

/* Returns a smaller count where memory is slow: a fifth of @count on emulated CXL. */
uint64_t fuzz_count(uint64_t count);

/* What a fuzzer does with a run. */
struct fuzzer {
	void		(*one_round)(void);
	uint64_t	(*done)(void);	/* units of @what so far */
	const char	*what;		/* name of the unit: "replies" */
};

/*
 * The current run, and whether it has found an error, which ends it. wrong() prints the error,
 * and the numbers that reproduce it.
 */
extern struct fuzz_run run;
extern bool broken;
void __attribute__((format(printf, 1, 2))) wrong(const char *fmt, ...);

/* Runs @run round by round, checks @log after each, and prints a line for each 100. */
void fuzz_rounds(const struct fuzzer *f, struct fuzz_log *log);

#endif /* ROUNDS_H */
