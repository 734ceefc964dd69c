// SPDX-License-Identifier: GPL-2.0
/* The helpers of rounds.h. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rounds.h"

struct fuzz_run run;
bool broken;

void wrong(const char *fmt, ...)
{
	va_list ap;

	broken = true;
	printf("# FUZZ_SEED=%llu FUZZ_ROUND=%llu: ", (unsigned long long)run.seed,
	       (unsigned long long)run.round);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

uint64_t fuzz_count(uint64_t count)
{
	const char *kind = getenv("DAX_KIND");

	return kind && !strcmp(kind, "cxl") ? count / 5 : count;
}

void fuzz_rounds(const struct fuzzer *f, struct fuzz_log *log)
{
	double start = fuzz_seconds();

	for (; run.round < run.last && f->done() < run.count && !broken; run.round++) {
		f->one_round();
		if (run.round % 100 == 99)
			printf("# round %lu: %lu %s, %.0f s\n", run.round, f->done(), f->what,
			       fuzz_seconds() - start);
		if (!fuzz_log_good(log))
			wrong("the kernel log: %s", log->first);
	}
}
