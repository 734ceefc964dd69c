// SPDX-License-Identifier: GPL-2.0
/* The helpers of fuzz.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

/* ---- numbers ---- */

static uint64_t number(const char *name, uint64_t value)
{
	const char *env = getenv(name);

	return env && *env ? strtoull(env, NULL, 0) : value;
}

struct fuzz_run fuzz_run(uint64_t count)
{
	const char *seed = getenv("FUZZ_SEED");
	struct fuzz_run run = {
		.seed = number("FUZZ_SEED", 20260419),
		.count = number("FUZZ_COUNT", count),
		.round = number("FUZZ_ROUND", 0),
	};

	if (seed && !strcmp(seed, "random") &&
	    getrandom(&run.seed, sizeof(run.seed), 0) != sizeof(run.seed))
		run.seed = time(NULL);
	run.last = run.round + number("FUZZ_ROUNDS", getenv("FUZZ_ROUND") ? 1 : 1ULL << 40);
	return run;
}

/* splitmix64 */
uint64_t rnd(struct rng *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

struct rng fuzz_rng(const struct fuzz_run *run, unsigned int stream)
{
	struct rng r = { run->seed };

	r.state = rnd(&r) ^ run->round;
	r.state = rnd(&r) ^ stream;
	return r;
}

uint64_t below(struct rng *r, uint64_t n)
{
	return rnd(r) % n;
}

bool chance(struct rng *r, unsigned int percent)
{
	return below(r, 100) < percent;
}

uint64_t odd_number(struct rng *r)
{
	uint64_t bit = 1ULL << below(r, 64);

	switch (below(r, 8)) {
	case 0:
		return 0;
	case 1:
		return ~0ULL;
	case 2:
		return bit;
	case 3:
		return bit - 1;
	case 4:
		return bit + 1;
	case 5:
		return -bit;
	case 6:
		return rnd(r) & 0xffff;
	default:
		return rnd(r);
	}
}

/* ---- the log ---- */

/* Strings of a line, in this order. The first match names it. */
static const struct {
	const char *name;
	const char *has[3];
} kinds[FUZZ_LOG_KINDS] = {
	{ "lines of the tests", { "kselftest:" } },
	{ "bound", { "fuse_dax_fmap: ", ": attached to ops " } },
	{ "mount refused", { "fuse_dax_fmap: ", ": mount refused: ops '" } },
	{ "INIT too early", { "fuse_dax_fmap: a FUSE server answered INIT before" } },
	{ "open fails", { "fuse_dax_fmap: ", ": open of inode ", " fails with " } },
	{ "device held", { "fuse_dax_fmap: dax", " is held by " } },
	{ "mapping refused", { "fuse_dax_fmap: ", ": ops ", " at 0x" } },
	{ "lines left out", { "fuse_dax_fmap: ", " callbacks suppressed" } },
	{ "drop_caches", { "drop_caches: " } },
	/* FUSE prints it once, for a file with the root's nodeid. */
	{ "root generation", { "fuse: root generation should be zero" } },
	/* The host did not run an emulated CPU for a while. */
	{ "slow clock", { "clocksource: " } },
};

static int kind_of(const char *line)
{
	for (int i = 0; i < FUZZ_LOG_KINDS && kinds[i].name; i++) {
		const char *at = line;

		for (int j = 0; j < 3 && at && kinds[i].has[j]; j++)
			at = strstr(at, kinds[i].has[j]);
		if (at)
			return i;
	}
	return -1;
}

int fuzz_log_open(struct fuzz_log *log)
{
	memset(log, 0, sizeof(*log));
	log->fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (log->fd < 0)
		return -errno;
	lseek(log->fd, 0, SEEK_END);
	return 0;
}

static void unexpected(struct fuzz_log *log, const char *line)
{
	if (!log->unexpected++)
		snprintf(log->first, sizeof(log->first), "%.500s", line);
	if (log->unexpected <= 20)
		printf("# unexpected in the kernel log: %s\n", line);
}

bool fuzz_log_good(struct fuzz_log *log)
{
	char buf[8192];

	for (;;) {
		ssize_t n = read(log->fd, buf, sizeof(buf) - 1);
		char *line;
		int kind;

		if (n < 0 && errno == EPIPE) {
			unexpected(log, "(lines were lost before they could be read)");
			continue;
		}
		if (n <= 0)
			return !log->unexpected;
		buf[n] = 0;
		line = strchr(buf, ';');
		line = line ? line + 1 : buf;
		line[strcspn(line, "\n")] = 0;
		kind = kind_of(line);
		if (kind < 0)
			unexpected(log, line);
		else
			log->lines[kind]++;
	}
}

void fuzz_log_print(const struct fuzz_log *log)
{
	for (int i = 0; i < FUZZ_LOG_KINDS; i++)
		if (log->lines[i])
			printf("# log: %s: %llu\n", kinds[i].name,
			       (unsigned long long)log->lines[i]);
	printf("# log: lines that should not be there: %llu\n",
	       (unsigned long long)log->unexpected);
}

double fuzz_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}
