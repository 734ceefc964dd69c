/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The clock of a real machine ("measure -t"): the TSC, whose frequency is measured, and one sample
 * for each touch or call.
 */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>
#include <x86intrin.h>

/* CLOCK_MONOTONIC, in nanoseconds. */
double clock_now(void);

/* The TSC. What was done before is done when it is read, and nothing behind it has begun. */
static inline uint64_t clock_stamp(void)
{
	uint64_t t;

	_mm_lfence();
	t = __rdtsc();
	_mm_lfence();
	return t;
}

/* Print the line "clock": how fast the clock is, its resolution, and what reading it costs. */
void clock_find(void);

/* Add @n samples, between @n + 1 stamps, less @overhead each. */
void clock_take(const uint64_t *when, unsigned int n, uint64_t overhead);

/* Print the line "time" of all samples since the last such line. */
void clock_report(const char *name, const char *pattern);

/* For qsort() of uint64_t. */
int clock_by_value(const void *a, const void *b);

#endif /* CLOCK_H */
