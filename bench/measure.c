// SPDX-License-Identifier: GPL-2.0
/*
 * measure [OPTION]... NAME PATTERN...: what touching mapped memory, reading, writing and
 * opening cost.
 *
 *	-f FILE		what is mapped; "anon" and "thp": anonymous memory
 *	-l MIB		how much of it is touched (2m-*: 64, 4k-*: 16)
 *	-c COMMAND	makes the file one that nobody has touched yet
 *	-p PASSES	(5)
 *	-e EXTENTS -i	of the file's map, interleaved: for the name of the row only
 *	-b BYTES -g GAP	touch BYTES of the file, leave out GAP, and so on (see server.c, -g)
 *	-n FILES	for open-*: FILE with the numbers 0 to FILES - 1 behind it
 *	-T		mark one touch for trace_plugin.c
 *	-w		on a clock instead of under icount: see below
 *	-t		on the machine's own clock: see below
 *	-s BYTES	print the first bytes of FILE, and measure nothing
 *
 * Patterns:
 *
 *	2m|4k - read|write - first	the first touch after COMMAND
 *			   - again	after munmap() and mmap()
 *			   - dontneed	after madvise(MADV_DONTNEED)
 *	pread|pwrite - 4k|2m		calls of that size, of pages that have been used before
 *	open - first|cached		open() and close(), after COMMAND, and again
 *	scale - 2m|4k			with -w: touches after MADV_DONTNEED by one and by two CPUs
 *
 * 2m: one byte in each 2 MiB, at addresses where 2 MiB pages fit. 4k: one byte in each 4 KiB, at
 * addresses where they do not.
 *
 * The unit
 * --------
 *
 * QEMU with "-icount shift=0" and one CPU advances its clock, and with it the TSC, by one
 * nanosecond for each instruction of the guest. So RDTSC counts instructions, of user space and of
 * the kernel. It is read between any two touches. The cost of the loop itself is found by running
 * it again, over memory that is mapped by then, and subtracted.
 *
 * The timer goes on ticking. Ticks come at a known distance, so touches that a tick may have
 * interrupted are known and left out of the mean. The result of a pattern is the
 * median of its passes; smallest and largest are printed, too, and the mean with all ticks:
 *
 *	row NAME PATTERN EXTENTS LAYOUT MEDIAN MIN MAX RAW PASSES TOUCHES TICKS
 *
 * -w prints nanoseconds, which mean something only in relation to each other:
 *
 *	wall NAME PATTERN CPUS NANOSECONDS
 *
 * -t is for real machines. The clock is the TSC, whose frequency is measured. What one reading
 * costs with the loop around it is subtracted from each sample. There is one sample for each touch
 * or call, of all passes but the first, which warms up ("first" has no such pass):
 *
 *	clock TICKS-PER-NANOSECOND RESOLUTION COST		both in nanoseconds
 *	time NAME PATTERN P50 P99 SMALLEST MEAN SAMPLES		in nanoseconds
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "marker.h"

#define MIB		(1UL << 20)
#define HUGE		(2 * MIB)
#define GIB		(1024 * MIB)
#define PAGE		4096UL
#define TOUCHES		16384
#define PASSES		32
#define TIMED_PASSES	1000
#define TRACED		5	/* the touch that is traced */
#define SLACK		10000	/* how far a tick may be from where it is expected */

static struct {
	const char *name;
	const char *file;
	const char *cold;
	size_t length;
	size_t band, gap;
	unsigned int passes;
	unsigned int extents;
	unsigned int files;
	bool interleaved;
	bool trace;
	bool wall;
	bool time;
	size_t show;
} config = { .passes = 5, .extents = 1 };

/* Where the touches are, and when. */
static size_t at[TOUCHES];
static unsigned int touches;
static uint64_t when[TOUCHES + 1];

/* ---- ticks ---- */

/* Interrupts come at these times of each period. */
#define TICK		4000000		/* HZ is 250 in Debian's kernel */
#define PHASES		8

static uint64_t phase[PHASES];
static unsigned int phases;

static bool near_phase(uint64_t t)
{
	for (unsigned int i = 0; i < phases; i++)
		if ((t + SLACK + TICK - phase[i]) % TICK <= 2 * SLACK)
			return true;
	return false;
}

/* Look at the clock for some periods. Where it jumps more than once is an interrupt. */
static void find_ticks(void)
{
	uint64_t start = __rdtsc(), last = start, now, jump[64];
	unsigned int n = 0;

	if (config.wall || config.time)
		return;
	do {
		now = __rdtsc();
		if (now - last > 300 && n < 64)
			jump[n++] = last % TICK;
		last = now;
	} while (now - start < 6 * TICK);
	for (unsigned int i = 0; i < n; i++) {
		if (near_phase(jump[i]) || phases == PHASES)
			continue;
		phase[phases++] = jump[i];
		for (unsigned int j = i + 1; j <= n; j++)
			if (j == n)
				phases--;
			else if ((jump[j] + SLACK + TICK - jump[i]) % TICK <= 2 * SLACK)
				break;
	}
	if (!phases)
		fprintf(stderr, "measure: there seem to be no timer interrupts\n");
}

static bool tick_between(uint64_t from, uint64_t to)
{
	for (unsigned int i = 0; i < phases; i++)
		/* At least how long before @to was the last tick, if it was late? */
		if ((to + SLACK + TICK - phase[i]) % TICK <= to - from + 2 * SLACK)
			return true;
	return false;
}

/* ---- passes ---- */

struct pass {
	double mean;		/* without touches that a tick may have interrupted */
	double raw;
	unsigned int ticks;	/* such touches */
};

static struct pass result(unsigned int n, double overhead)
{
	struct pass p = { 0 };
	unsigned int counted = 0;
	double sum = 0;

	if (config.time) {
		clock_take(when, n, overhead);
		return p;
	}
	for (unsigned int i = 0; i < n; i++) {
		if (tick_between(when[i], when[i + 1])) {
			p.ticks++;
			continue;
		}
		sum += when[i + 1] - when[i];
		counted++;
	}
	p.raw = (double)(when[n] - when[0]) / n - overhead;
	p.mean = counted ? sum / counted - overhead : p.raw;
	return p;
}

/* The cost of one iteration of the loop that has just run. */
static uint64_t median_turn(unsigned int n)
{
	static uint64_t turn[TOUCHES];

	for (unsigned int i = 0; i < n; i++)
		turn[i] = when[i + 1] - when[i];
	qsort(turn, n, sizeof(*turn), clock_by_value);
	return turn[n / 2];
}

static int by_mean(const void *a, const void *b)
{
	const struct pass *x = a, *y = b;

	return x->mean < y->mean ? -1 : x->mean > y->mean;
}

static void report(const char *pattern, struct pass *pass, unsigned int n)
{
	double raw = 0;
	unsigned int ticks = 0;

	if (config.time) {
		clock_report(config.name, pattern);
		return;
	}
	for (unsigned int i = 0; i < config.passes; i++) {
		raw += pass[i].raw / config.passes;
		ticks += pass[i].ticks;
	}
	qsort(pass, config.passes, sizeof(*pass), by_mean);
	if (config.wall)
		/* A disturbance makes it longer. */
		printf("wall %s %s 1 %.1f\n", config.name, pattern, pass[0].raw);
	else
		printf("row %s %s %u %s %.1f %.1f %.1f %.1f %u %u %u\n", config.name, pattern,
		       config.extents, config.interleaved ? "interleaved" : "linear",
		       pass[config.passes / 2].mean, pass[0].mean, pass[config.passes - 1].mean,
		       raw, config.passes, n, ticks);
	fflush(stdout);
}

static void make_cold(void)
{
	fflush(stdout);
	/* Always a command: it leaves something in the address space, and each VMA counts. */
	if (system(config.cold ?: ":"))
		errx(1, "failed: %s", config.cold);
}

/* Wait for deferred work of a process or a mount. Costs nothing: the CPU is idle. */
static void settle(void)
{
	usleep(100 * 1000);
}

static int open_file(void)
{
	int fd;

	settle();

	if (!strcmp(config.file, "anon") || !strcmp(config.file, "thp"))
		return -1;
	fd = open(config.file, O_RDWR);
	if (fd < 0)
		err(1, "%s", config.file);
	return fd;
}

/* ---- touching ---- */

static __attribute__((noinline)) void touch_read(const char *map)
{
	for (unsigned int i = 0; i < touches; i++) {
		when[i] = __rdtsc();
		(void)*(volatile const char *)(map + at[i]);
	}
	when[touches] = __rdtsc();
}

static __attribute__((noinline)) void touch_write(char *map)
{
	for (unsigned int i = 0; i < touches; i++) {
		when[i] = __rdtsc();
		*(volatile char *)(map + at[i]) = 1;
	}
	when[touches] = __rdtsc();
}

/* The same, but one touch is between markers. Called twice, too. */
static void touch_traced(char *map, bool write)
{
	for (unsigned int i = 0; i < touches; i++) {
		volatile char *p = map + at[i];

		when[i] = __rdtsc();
		if (i == TRACED && write) {
			marker(MARKER_BEGIN);
			*p = 1;
			marker(MARKER_END);
		} else if (i == TRACED) {
			marker(MARKER_BEGIN);
			(void)*p;
			marker(MARKER_END);
		} else if (write) {
			*p = 1;
		} else {
			(void)*p;
		}
	}
	when[touches] = __rdtsc();
}

static __attribute__((noinline)) void touch_timed(char *map, bool write)
{
	for (unsigned int i = 0; i < touches; i++) {
		when[i] = clock_stamp();
		if (write)
			*(volatile char *)(map + at[i]) = 1;
		else
			(void)*(volatile const char *)(map + at[i]);
	}
	when[touches] = clock_stamp();
}

static void touch(char *map, bool write, bool traced)
{
	if (config.time)
		touch_timed(map, write);
	else if (traced)
		touch_traced(map, write);
	else if (write)
		touch_write(map);
	else
		touch_read(map);
}

/* Always at the same address, so that each pass needs the same page tables. */
static char *map_at(char *addr, int fd, size_t length)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	char *map = mmap(addr, length, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);

	if (map == MAP_FAILED)
		err(1, "mmap of %s", config.file);
	if (fd < 0 && madvise(map, length,
			      strcmp(config.file, "thp") ? MADV_NOHUGEPAGE : MADV_HUGEPAGE))
		err(1, "madvise");
	return map;
}

/*
 * A part of a GiB in which something else is mapped, too. Its table of 2 MiB entries stays
 * then; without it, munmap(2) frees that table and the next pass makes it again, or not, by
 * the chance of what the kernel has put near.
 */
static char *address_range(void)
{
	char *room = mmap(NULL, 2 * GIB, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *begin = (char *)(((uintptr_t)room + GIB - 1) & -GIB);

	if (room == MAP_FAILED ||
	    mmap(begin + GIB - PAGE, PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0) == MAP_FAILED)
		err(1, "mmap");
	return begin;
}

/* The same for all patterns: the kernel looks for a mapping among all that there are. */
static char *the_address_range(size_t length)
{
	static char *begin;

	if (!begin)
		begin = address_range();
	if (length > GIB - 2 * HUGE)
		errx(1, "%zu bytes are too long for one range of addresses", length);
	return begin;
}

/* Choose the places; returns how long the mapping has to be. */
static size_t choose(size_t step, size_t length)
{
	size_t band = config.band ?: length, pos = 0;

	touches = 0;
	for (size_t left = length; left; left -= band, pos += config.gap) {
		if (band > left)
			band = left;
		for (size_t i = 0; i < band && touches < TOUCHES; i += step)
			at[touches++] = pos + i;
		pos += band;
	}
	return pos;
}

static void measure_touch(const char *pattern)
{
	bool huge = !strncmp(pattern, "2m", 2), write = !strncmp(pattern + 3, "write", 5);
	const char *kind = strrchr(pattern, '-') + 1;
	bool first = !strcmp(kind, "first"), dontneed = !strcmp(kind, "dontneed");
	size_t length = choose(huge ? HUGE : PAGE,
			       config.length ?: huge ? 64 * MIB : 16 * MIB);
	char *addr = the_address_range(length) + (huge ? 0 : PAGE);
	static struct pass pass[TIMED_PASSES];
	unsigned int passes = config.trace ? 1 : config.passes;
	int fd;

	make_cold();
	fd = open_file();
	for (int i = first ? 0 : -1; i < (int)passes; i++) {
		bool traced = config.trace && i >= 0;
		uint64_t touched;
		char *map;

		if (first && i > 0) {
			if (fd >= 0)
				close(fd);
			make_cold();
			fd = open_file();
		}
		map = map_at(addr, fd, length);
		if (dontneed) {
			touch(map, write, false);
			if (madvise(map, length, MADV_DONTNEED))
				err(1, "madvise");
		}
		touch(map, write, traced);
		if (i >= 0) {
			static uint64_t saved[TOUCHES + 1];
			uint64_t overhead;

			memcpy(saved, when, sizeof(when));
			touched = when[TRACED + 1] - when[TRACED];
			touch(map, write, traced);
			overhead = traced ? when[TRACED + 1] - when[TRACED] : median_turn(touches);
			memcpy(when, saved, sizeof(when));
			if (traced)
				printf("trace %s %s %u %s %lu %lu\n", config.name, pattern,
				       config.extents,
				       config.interleaved ? "interleaved" : "linear", touched,
				       overhead);
			else
				pass[i] = result(touches, overhead);
		}
		munmap(map, length);
	}
	if (!config.trace)
		report(pattern, pass, touches);
	fflush(stdout);
	if (fd >= 0)
		close(fd);
}

/* ---- read(2) and write(2) ---- */

static void measure_io(const char *pattern)
{
	bool write = pattern[1] == 'w', large = !strcmp(strrchr(pattern, '-'), "-2m");
	size_t size = large ? HUGE : PAGE, length = large ? 16 * MIB : 4 * MIB;
	unsigned int n = length / size;
	static struct pass pass[TIMED_PASSES];
	uint64_t overhead;
	int fd = open_file();
	char *buf;

	buf = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (buf == MAP_FAILED)
		err(1, "mmap");
	memset(buf, 1, size);
	for (unsigned int i = 0; i < n; i++)
		when[i] = __rdtsc();
	when[n] = __rdtsc();
	overhead = median_turn(n);

	for (int p = -1; p < (int)config.passes; p++) {
		for (unsigned int i = 0; i < n; i++) {
			ssize_t done;

			when[i] = __rdtsc();
			done = write ? pwrite(fd, buf, size, i * size) :
				       pread(fd, buf, size, i * size);
			if (done != (ssize_t)size)
				err(1, "%s of %s", pattern, config.file);
		}
		when[n] = __rdtsc();
		if (p >= 0)
			pass[p] = result(n, overhead);
	}
	report(pattern, pass, n);
	munmap(buf, size);
	close(fd);
}

/* ---- open(2) and close(2) ---- */

static void trace_open(const char *pattern, const char *path)
{
	uint64_t start, end, overhead;

	start = __rdtsc();
	marker(MARKER_BEGIN);
	close(open(path, O_RDWR));
	marker(MARKER_END);
	end = __rdtsc();
	overhead = __rdtsc();
	marker(MARKER_BEGIN);
	marker(MARKER_END);
	overhead = __rdtsc() - overhead;
	printf("trace %s %s 1 linear %lu %lu\n", config.name, pattern, end - start, overhead);
}

static void measure_open(const char *pattern)
{
	bool first = !strcmp(pattern, "open-first");
	unsigned int passes = config.trace ? 1 : config.passes;
	static struct pass pass[TIMED_PASSES];
	char (*path)[64];

	if (config.files > TOUCHES)
		errx(1, "at most %u files", TOUCHES);
	path = calloc(config.files, sizeof(*path));
	for (unsigned int i = 0; i < config.files; i++)
		snprintf(path[i], sizeof(path[i]), "%s%u", config.file, i);

	for (int p = first ? 0 : -1; p < (int)passes; p++) {
		if (first)
			make_cold();
		settle();
		for (unsigned int i = 0; i < config.files; i++) {
			int fd;

			when[i] = __rdtsc();
			if (config.trace && p >= 0 && i == TRACED) {
				trace_open(pattern, path[i]);
				continue;
			}
			fd = open(path[i], O_RDWR);
			if (fd < 0)
				err(1, "%s", path[i]);
			close(fd);
		}
		when[config.files] = __rdtsc();
		if (p >= 0)
			pass[p] = result(config.files, 0);
	}
	if (!config.trace)
		report(pattern, pass, config.files);
	fflush(stdout);
	free(path);
}

/* ---- two CPUs ---- */

/*
 * Rounds are short and many, and the best of them counts: it takes both CPUs at the same time
 * to see what two CPUs can do, and the host has other work.
 */
#define CPUS		2
#define ROUNDS		400
#define ROUND_TOUCHES	128

struct worker {
	pthread_t thread;
	char *map;
	size_t step;
	unsigned int *missing;
	double begin, end;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	/* Not asleep: then the host runs both when it begins. */
	__atomic_sub_fetch(w->missing, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(w->missing, __ATOMIC_SEQ_CST))
		__builtin_ia32_pause();
	w->begin = clock_now();
	for (unsigned int i = 0; i < ROUND_TOUCHES; i++)
		(void)*(volatile char *)(w->map + i * w->step);
	w->end = clock_now();
	return NULL;
}

/*
 * Each CPU has a mapping of its own, of its own half of the file; as often as it takes for all
 * touches of a round, because MADV_DONTNEED would interrupt the other CPU.
 */
static void measure_scale(const char *pattern)
{
	bool huge = !strcmp(pattern, "scale-2m");
	size_t step = huge ? HUGE : PAGE, length = ROUND_TOUCHES * step, half = 32 * MIB;
	struct worker worker[CPUS];
	int fd = open_file();
	unsigned int missing;

	for (unsigned int i = 0; i < CPUS; i++) {
		char *addr = address_range() + (huge ? 0 : PAGE);

		for (size_t pos = 0; pos < length; pos += half)
			if (mmap(addr + pos, length < half ? length : half, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_FIXED, fd, i * half) == MAP_FAILED)
				err(1, "mmap of %s", config.file);
		worker[i].map = addr;
		worker[i].step = step;
		worker[i].missing = &missing;
	}
	/* One and two take turns, so that a disturbance meets both. */
	for (unsigned int round = 0; round < 2 * ROUNDS; round++) {
		unsigned int cpus = 1 + round % CPUS;
		double begin, end;

		for (unsigned int i = 0; i < CPUS; i++)
			if (madvise(worker[i].map, length, MADV_DONTNEED))
				err(1, "madvise");
		missing = cpus;
		for (unsigned int i = 0; i < cpus; i++) {
			cpu_set_t set;

			if (pthread_create(&worker[i].thread, NULL, work, &worker[i]))
				errx(1, "thread");
			CPU_ZERO(&set);
			CPU_SET(i, &set);
			pthread_setaffinity_np(worker[i].thread, sizeof(set), &set);
		}
		for (unsigned int i = 0; i < cpus; i++)
			pthread_join(worker[i].thread, NULL);
		begin = worker[0].begin;
		end = worker[0].end;
		for (unsigned int i = 1; i < cpus; i++) {
			begin = worker[i].begin < begin ? worker[i].begin : begin;
			end = worker[i].end > end ? worker[i].end : end;
		}
		printf("wall %s %s %u %.1f\n", config.name, pattern, cpus,
		       (end - begin) / ROUND_TOUCHES / cpus);
	}
	fflush(stdout);
	for (unsigned int i = 0; i < CPUS; i++)
		munmap(worker[i].map, length);
	close(fd);
}

/* A device of device_dax can only be mapped. */
static void show(void)
{
	int fd = open(config.file, O_RDONLY);
	char *map;

	if (fd < 0)
		err(1, "%s", config.file);
	map = mmap(NULL, (config.show + HUGE - 1) & -HUGE, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		err(1, "mmap of %s", config.file);
	if (fwrite(map, config.show, 1, stdout) != 1 || fflush(stdout))
		err(1, "standard output");
}

int main(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "f:l:c:p:e:ib:g:n:Twts:")) != -1) {
		switch (c) {
		case 'f':
			config.file = optarg;
			break;
		case 'l':
			config.length = strtoul(optarg, NULL, 0) * MIB;
			break;
		case 'c':
			config.cold = optarg;
			break;
		case 'p':
			config.passes = strtoul(optarg, NULL, 0);
			break;
		case 'e':
			config.extents = strtoul(optarg, NULL, 0);
			break;
		case 'i':
			config.interleaved = true;
			break;
		case 'b':
			config.band = strtoul(optarg, NULL, 0);
			break;
		case 'g':
			config.gap = strtoul(optarg, NULL, 0);
			break;
		case 'n':
			config.files = strtoul(optarg, NULL, 0);
			break;
		case 'T':
			config.trace = true;
			break;
		case 'w':
			config.wall = true;
			break;
		case 't':
			config.time = true;
			break;
		case 's':
			config.show = strtoul(optarg, NULL, 0);
			break;
		default:
			return 2;
		}
	}
	if (config.show && config.file) {
		show();
		return 0;
	}
	if (argc - optind < 2 || !config.file || !config.passes ||
	    config.passes > (config.time ? TIMED_PASSES : PASSES))
		errx(2, "see the top of measure.c");
	config.name = argv[optind++];
	memset(when, 1, sizeof(when));
	find_ticks();
	if (config.time)
		clock_find();
	for (; optind < argc; optind++) {
		const char *pattern = argv[optind];

		if (!strncmp(pattern, "open-", 5))
			measure_open(pattern);
		else if (!strncmp(pattern, "scale-", 6))
			measure_scale(pattern);
		else if (pattern[0] == 'p')
			measure_io(pattern);
		else if (strlen(pattern) > 8)
			measure_touch(pattern);
		else
			errx(2, "no such pattern: %s", pattern);
	}
	return 0;
}
