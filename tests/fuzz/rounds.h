/* SPDX-License-Identifier: GPL-2.0 */
/* The run of a fuzzer, round by round. */
#ifndef ROUNDS_H
#define ROUNDS_H

#include "fuzz.h"

/* Less is done where memory is slow: a fifth of @count on emulated CXL. */
uint64_t fuzz_count(uint64_t count);

/* What a fuzzer does with a run. */
struct fuzzer {
	void		(*one_round)(void);
	uint64_t	(*done)(void);	/* how much of it, so far */
	const char	*what;		/* that is called: "replies" */
};

/*
 * The run that is under way, and whether something was wrong in it: that ends it. wrong() says
 * what, and the numbers that lead there again.
 */
extern struct fuzz_run run;
extern bool broken;
void __attribute__((format(printf, 1, 2))) wrong(const char *fmt, ...);

/* One round after the other of @run, with an eye on @log, and a line for each 100. */
void fuzz_rounds(const struct fuzzer *f, struct fuzz_log *log);

#endif /* ROUNDS_H */
