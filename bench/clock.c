// SPDX-License-Identifier: GPL-2.0
/* The clock of a real machine: see clock.h. */
#include <err.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

#define READINGS	16384

static double ns_per_tick;

double clock_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

int clock_by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

void clock_find(void)
{
	static uint64_t reading[READINGS];
	uint64_t ticks, resolution = UINT64_MAX;
	double ns;

	ns = clock_now();
	ticks = clock_stamp();
	usleep(200 * 1000);
	ns = clock_now() - ns;
	ns_per_tick = ns / (clock_stamp() - ticks);

	for (unsigned int i = 0; i < READINGS; i++)
		reading[i] = clock_stamp();
	for (unsigned int i = 0; i + 1 < READINGS; i++) {
		reading[i] = reading[i + 1] - reading[i];
		if (reading[i] && reading[i] < resolution)
			resolution = reading[i];
	}
	qsort(reading, READINGS - 1, sizeof(*reading), clock_by_value);
	printf("clock %.3f %.1f %.1f\n", 1 / ns_per_tick, resolution * ns_per_tick,
	       reading[READINGS / 2] * ns_per_tick);
}

/* All samples of a pattern, in ticks. */
static struct {
	uint64_t *ticks;
	size_t n, room;
} samples;

void clock_take(const uint64_t *when, unsigned int n, uint64_t overhead)
{
	if (samples.n + n > samples.room) {
		samples.room = 2 * (samples.n + n);
		samples.ticks = realloc(samples.ticks, samples.room * sizeof(*samples.ticks));
		if (!samples.ticks)
			err(1, "samples");
	}
	for (unsigned int i = 0; i < n; i++) {
		uint64_t ticks = when[i + 1] - when[i];

		samples.ticks[samples.n++] = ticks > overhead ? ticks - overhead : 0;
	}
}

void clock_report(const char *name, const char *pattern)
{
	double sum = 0;

	for (size_t i = 0; i < samples.n; i++)
		sum += samples.ticks[i];
	qsort(samples.ticks, samples.n, sizeof(*samples.ticks), clock_by_value);
	printf("time %s %s %.1f %.1f %.1f %.1f %zu\n", name, pattern,
	       samples.ticks[samples.n / 2] * ns_per_tick,
	       samples.ticks[samples.n - 1 - samples.n / 100] * ns_per_tick,
	       samples.ticks[0] * ns_per_tick, sum / samples.n * ns_per_tick, samples.n);
	fflush(stdout);
	samples.n = 0;
}
