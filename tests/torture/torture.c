// SPDX-License-Identifier: GPL-2.0
/*
 * Everything that has broken the module before, drawn at random, all at once.
 *
 * At two mount points fmap mounts come and go, with servers that are slow, die, send
 * notifications, reuse nodeids; a third one has a plain server, for direct I/O and for
 * passthrough files. Tasks use the files of all of them, some as an ordinary user, and get
 * killed. Caches are dropped, memory is reclaimed, fails, is removed and added again; ops are
 * replaced; some tasks get no CPU for a while.
 *
 * What has to hold, whatever happens:
 *
 *   - each byte is the one of its file and offset: in reads, in mappings, in pipes, in
 *     requests to servers, and on the devices at the end of a round;
 *   - a page of a device is mapped at its offset of its file only;
 *   - no task is in state D for 20 s, each task makes progress, all of them end;
 *   - the kernel log has no report;
 *   - nothing is left: no mount, no user of the module, which then unloads.
 *
 * A round is some seconds long and begins with nothing mounted. What takes part in it is
 * drawn from its seed, as is what each task does; in which order they do it is not.
 *
 *	TORTURE_SEED	of the first round (1); the next one has the next number
 *	TORTURE_SECONDS	how long (30; on a slow kernel 90)
 *	TORTURE_ACTORS	what takes part, separated by commas: these only, or, with a "-" before
 *			the name, not these
 *	TORTURE_PATIENCE seconds that are too long for state D (20; on a slow kernel 60)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "torture.h"

#define DIR_OF_ALL	"/tmp/fmap-torture"
#define MOUNTS		"/sys/kernel/debug/" MODULE_NAME "/mounts"
#define CGROUPS		"/sys/fs/cgroup"
#define AREA_ROOM	(8 * MIB)
#define FIRST_AREA	(32 * MIB)
#define MAX_MESSAGES	20

struct world *w;
struct bpf_link *torture_link;

const char *const kind_name[KINDS] = {
	"read", "write", "map", "memory", "fork", "thief", "meta", "names", "pipe", "direct",
	"aio", "sync",
	"caches", "reclaim", "poison", "unbind", "ops", "hog", "idle", "killer", "uprobe",
	"notify", "slow", "pass", "reuse", "inopen",
	"detach", "force", "kill", "stop",
};

static bool allowed[KINDS], named;

static unsigned long number(const char *name, unsigned long otherwise)
{
	const char *env = getenv(name);

	return env && *env ? strtoul(env, NULL, 0) : otherwise;
}

/* A debug kernel does less in a second. */
unsigned int torture_slowness(void)
{
	int slow = fs_slowness();

	return slow < 3 ? slow : 3;
}

static unsigned long seconds_to_run(void)
{
	return number("TORTURE_SECONDS", 30 * torture_slowness());
}

unsigned int torture_patience(void)
{
	return number("TORTURE_PATIENCE", 20) * 1000 * torture_slowness();
}

bool long_round(uint64_t seed)
{
	return seed % 4 == 3 && seconds_to_run() >= 60 * torture_slowness();
}

double torture_now(void)
{
	return fuzz_seconds();
}

void nap(struct rng *r, unsigned int ms)
{
	long us = below(r, ms * torture_slowness() * 1000UL + 1);

	for (; us > 0 && !w->stop; us -= 20000) {
		usleep(us < 20000 ? us : 20000);
		if (me)
			me->beat++;
	}
}

void broken(const char *fmt, ...)
{
	char text[400];
	va_list ap;

	if (w->messages++ < MAX_MESSAGES) {
		va_start(ap, fmt);
		vsnprintf(text, sizeof(text), fmt, ap);
		va_end(ap);
		dprintf(STDOUT_FILENO, "# TORTURE_SEED=%lu: %s\n", w->seed, text);
	}
	/* Only now: it makes the test kill all actors, of which this may be one. */
	w->broken++;
}

/* ---- bytes ---- */

uint64_t size_of_id(unsigned int id)
{
	return id < 2 * AREAS ? w->area[id].size : PLAIN_SIZE;
}

unsigned int id_of_entry(unsigned int entry)
{
	return entry >= E_T && entry < E_P ? entry - E_T : entry;
}

static struct stamp stamp_at(unsigned int id, uint64_t at)
{
	struct stamp s = {
		.id = 0xfa000000 | id,
		.page = at / PAGE,
		.nr = at % PAGE / sizeof(s),
	};

	s.sum = (s.id * 31 + s.page) * 0x9e3779b1 + s.nr * 0x85ebca6b;
	return s;
}

void stamps_fill(void *buf, size_t len, unsigned int id, uint64_t at)
{
	unsigned char *p = buf;

	while (len) {
		struct stamp s = stamp_at(id, at);
		size_t within = at % sizeof(s), n = sizeof(s) - within;

		if (n > len)
			n = len;
		memcpy(p, (char *)&s + within, n);
		p += n;
		at += n;
		len -= n;
	}
}

ssize_t stamps_differ(const void *buf, size_t len, unsigned int id, uint64_t at)
{
	const unsigned char *p = buf;

	for (size_t done = 0; done < len;) {
		struct stamp s = stamp_at(id, at + done);
		size_t within = (at + done) % sizeof(s), n = sizeof(s) - within;

		if (n > len - done)
			n = len - done;
		if (memcmp(p + done, (char *)&s + within, n))
			return done;
		done += n;
	}
	return -1;
}

static void lay_out(void)
{
	/* 2 MiB, shifted by a page, small, and one that ends within a page. */
	static const uint64_t size[AREAS] = {
		4 * MIB, 2 * MIB, 2 * MIB, MIB, 64 * KIB, 64 * KIB, HUGE + 2 * PAGE + 100,
		64 * KIB,
	};

	for (unsigned int i = 0; i < 2 * AREAS; i++)
		w->area[i] = (struct area){
			.dev = i / AREAS,
			.addr = FIRST_AREA + i % AREAS * AREA_ROOM +
				(i % AREAS == 3 ? PAGE : 0),
			.size = size[i % AREAS],
		};
}

/* ---- the devices, between the rounds ---- */

static void look_at_area(struct fuse_server *s, unsigned int id, bool first)
{
	static unsigned char buf[64 * KIB];
	uint64_t size = size_of_id(id), n;
	int fd = fs_open(s, s->file[id].name, O_RDWR);

	if (fd < 0) {
		broken("between the rounds: area %u: %s", id, strerror(-fd));
		return;
	}
	for (uint64_t at = 0; at < size && !(w->broken && !first); at += n) {
		n = size - at < sizeof(buf) ? size - at : sizeof(buf);
		if (!first && pread(fd, buf, n, at) == (ssize_t)n) {
			ssize_t bad = stamps_differ(buf, n, id, at);
			struct stamp was;

			if (bad < 0)
				continue;
			bad = bad / sizeof(was) * sizeof(was);
			memcpy(&was, buf + bad, sizeof(was));
			broken("area %u at %#lx has bytes of id %#x, page %u", id, at + bad, was.id,
			       was.page);
			break;
		}
		/* Memory that has failed is repaired, page by page. */
		stamps_fill(buf, n, id, at);
		if (pwrite(fd, buf, n, at) != (ssize_t)n)
			broken("area %u at %#lx cannot be written: %s", id, at, strerror(errno));
	}
	close(fd);
}

static void look_at_devices(bool first)
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);
	struct scripted map[2 * AREAS];

	if (!s) {
		broken("there is no good server");
		return;
	}
	for (unsigned int id = 0; id < 2 * AREAS; id++) {
		const struct area *a = &w->area[id];
		char name[8];

		snprintf(name, sizeof(name), "%u", id);
		map[id] = fmap_linear(a->dev, a->addr, a->size);
		fs_add(s, name, a->size, &map[id], sizeof(map[id]));
	}
	if (fs_mount(s))
		broken("a good server gets no mount");
	else
		for (unsigned int id = 0; id < 2 * AREAS; id++)
			look_at_area(s, id, first);
	if (s->count[FUSE_READ] + s->count[FUSE_WRITE])
		broken("a good server's files are not mapped");
	if (fs_stop(s))
		broken("a good server cannot be unmounted");
}

/* ---- the actors of a round ---- */

static const char *parse_actors(void)
{
	char *list = strdup(getenv("TORTURE_ACTORS") ?: ""), *item, *save;
	static char wrong[64];

	for (item = strtok_r(list, ", ", &save); item; item = strtok_r(NULL, ", ", &save))
		named |= *item != '-';
	for (int k = 0; k < KINDS; k++)
		allowed[k] = !named;
	free(list);
	list = strdup(getenv("TORTURE_ACTORS") ?: "");
	for (item = strtok_r(list, ", ", &save); item; item = strtok_r(NULL, ", ", &save)) {
		int k = 0;

		while (k < KINDS && strcmp(kind_name[k], item + (*item == '-')))
			k++;
		if (k == KINDS) {
			snprintf(wrong, sizeof(wrong), "%.60s", item);
			free(list);
			return wrong;
		}
		allowed[k] = *item != '-';
	}
	free(list);
	return NULL;
}

static void add_actor(enum kind k)
{
	if (w->nr_actors < MAX_ACTORS)
		w->actor[w->nr_actors++].kind = k;
	w->on[k] = true;
}

static void draw(struct rng *r)
{
	enum kind of_files[KINDS];
	unsigned int nr = 0;

	memset(w->on, 0, sizeof(w->on));
	memset(w->actor, 0, sizeof(w->actor));
	memset(w->hold, 0, sizeof(w->hold));
	w->nr_actors = 0;
	for (int k = 0; k < KINDS; k++) {
		if (!allowed[k])
			continue;
		if (k < K_FIRST_KERNEL) {
			of_files[nr++] = k;
			if (named)
				add_actor(k);
		} else if (named || chance(r, 60)) {
			w->on[k] = true;
			if (k < K_FIRST_SERVER)
				add_actor(k);
		}
	}
	for (int i = 6 + below(r, 5); i && nr; i--)
		add_actor(of_files[below(r, nr)]);
	/* Mostly a device for each mount; else one has both, and the other nothing to map. */
	w->place[0].devices = chance(r, 75) ? 1 : 3;
	w->place[1].devices = 3 & ~w->place[0].devices;
}

static void print_draw(void)
{
	char text[400] = "";
	unsigned int n[KINDS] = { 0 };
	size_t len = 0;

	for (unsigned int i = 0; i < w->nr_actors; i++)
		n[w->actor[i].kind]++;
	for (int k = 0; k < KINDS; k++)
		if (w->on[k] && len < sizeof(text))
			len += snprintf(text + len, sizeof(text) - len, n[k] > 1 ? " %s*%u" : " %s",
					kind_name[k], n[k]);
	dprintf(STDOUT_FILENO, "# TORTURE_SEED=%lu:%s; devices %u, %u\n", w->seed, text,
		w->place[0].devices, w->place[1].devices);
}

/* ---- a round ---- */

static void run_actor(struct actor *a, uint64_t seed)
{
	struct rng r = { seed };
	char name[16];

	rnd(&r);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(name, sizeof(name), "tt-%s", kind_name[a->kind]);
	prctl(PR_SET_NAME, name);
	guard_signals();
	a->pid = getpid();
	if (a->kind < K_FIRST_KERNEL) {
		write_file(CGROUP "/cgroup.procs", "0");
		if (chance(&r, 30) && (setgid(1000) || setuid(1000)))
			_exit(1);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	}
	while (!w->stop) {
		if (a->kind < K_FIRST_KERNEL)
			act_on_files(a, &r);
		else
			act_on_kernel(a, &r);
		a->beat++;
		w->done[a->kind]++;
	}
	_exit(0);
}

static void start_actor(struct actor *a, uint64_t seed)
{
	struct hold *h = &w->hold[a - w->actor];
	pid_t pid;

	if (h->seq % 2)
		h->seq++;
	pid = fork();
	if (!pid)
		run_actor(a, seed);
	a->pid = pid;
}

static pid_t start(void (*what)(unsigned int n, uint64_t seed), unsigned int n, uint64_t seed,
		   const char *name)
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, name);
		what(n, seed);
		_exit(0);
	}
	return pid;
}

static void do_watch(unsigned int n, uint64_t seed)
{
	watch();
}

static struct actor *actor_of(pid_t pid)
{
	for (unsigned int i = 0; i < w->nr_actors; i++)
		if (w->actor[i].pid == pid)
			return &w->actor[i];
	return NULL;
}

/* Wait for all children of this process, and for the orphans that they leave to it. */
static void gather(void)
{
	double since = torture_now();
	pid_t pid;

	for (;;) {
		pid = waitpid(-1, NULL, WNOHANG);
		if (pid < 0)
			return;
		if (pid) {
			struct actor *a = actor_of(pid);

			if (a)
				a->pid = 0;
			continue;
		}
		if (torture_now() - since > 1.5 * torture_patience() / 1e3) {
			char path[64], text[2048];

			snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
			read_file(path, text, sizeof(text));
			broken("tasks that do not end: %s", text);
			show_sleepers();
			for (char *p = strtok(text, " "); p; p = strtok(NULL, " ")) {
				show_stack("it does not end", atoi(p));
				kill(atoi(p), SIGKILL);
			}
			return;
		}
		usleep(5000);
	}
}

static void nothing_is_left(long refs)
{
	char text[2048] = "";

	if (!module_refs_wait(refs))
		broken("the module has %ld users instead of %ld", module_refs(), refs);
	if (!read_file(MOUNTS, text, sizeof(text)) && text[0])
		broken("a mount is left: %s", text);
}

static void one_round(uint64_t seed, double seconds)
{
	static const char *const names[PLACES] = { "tt-mount0", "tt-mount1", "tt-mount2" };
	struct rng r = { seed }, streams;
	long refs = module_refs();
	double start_time, end;

	w->seed = seed;
	w->stop = false;
	rnd(&r);
	draw(&r);
	streams = r;
	print_draw();
	start(do_watch, 0, 0, "tt-watch");
	for (unsigned int i = 0; i < PLACES; i++)
		start(keep_mounted, i, rnd(&streams), names[i]);
	for (unsigned int i = 0; i < w->nr_actors; i++)
		start_actor(&w->actor[i], rnd(&streams));
	start_time = torture_now();
	end = start_time + seconds;
	while (torture_now() < end && !w->broken) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);
		struct actor *a = pid > 0 ? actor_of(pid) : NULL;

		if (a)
			start_actor(a, rnd(&streams));
		else if (pid <= 0)
			usleep(5000);
	}
	w->stop = true;
	for (int ms = 0; ms < 1000 && !w->broken; ms += 10)
		usleep(10000);
	for (unsigned int i = 0; i < w->nr_actors; i++)
		if (w->actor[i].pid > 0)
			kill(w->actor[i].pid, SIGKILL);
	gather();
	for (int i = 0; i < 2; i++)
		if (torture_rebind(&daxdev[i]))
			broken("device %s does not come back", daxdev[i].name);
	if (!w->broken) {
		nothing_is_left(refs);
		look_at_devices(false);
		nothing_is_left(refs);
	}
	log_is_good();
}

/* ---- the test ---- */

FIXTURE(torture) {
	char unused;
};

FIXTURE_SETUP(torture)
{
	static const char dirs[] = "012";
	struct bpf_object *obj;
	struct bpf_map *ops;

	FMAP_REQUIRE();
	for (int i = 0; i < 2; i++)
		if (daxdev[i].size < FIRST_AREA + AREAS * AREA_ROOM)
			SKIP(return, "the devices are too small");
	if (module_refs())
		SKIP(return, "the module is in use");
	w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, w);
	setvbuf(stdout, NULL, _IOLBF, 0);
	lay_out();
	/* In a mount namespace of its own from here on. */
	fs_stop(fs_new());
	if (!fusectl_mount())
		SKIP(return, "there is no fusectl");
	mkdir(DIR_OF_ALL, 0755);
	ASSERT_EQ(0, mount("fmap-torture", DIR_OF_ALL, "tmpfs", 0, "mode=755"));
	for (int i = 0; i < PLACES; i++) {
		snprintf(w->place[i].dir, sizeof(w->place[i].dir), DIR_OF_ALL "/%c", dirs[i]);
		ASSERT_EQ(0, mkdir(w->place[i].dir, 0755));
	}
	/* No file may be created in DIR_OF_ALL while nothing is mounted there. */
	ASSERT_EQ(0, mount(NULL, DIR_OF_ALL, NULL, MS_REMOUNT | MS_RDONLY, NULL));
	/* Without memory cgroups there is no reclaim. */
	write_file(CGROUPS "/cgroup.subtree_control", "+memory");
	mkdir(CGROUP, 0755);
	obj = fmap_load("scripted.bpf.o");
	ASSERT_NE(NULL, obj) TH_LOG("%s", fmap_bpf_log());
	ops = bpf_object__find_map_by_name(obj, "scripted");
	torture_link = bpf_map__attach_struct_ops(ops);
	ASSERT_NE(NULL, torture_link);
	/* The link has what it needs; other ops may replace these in it. */
	bpf_object__close(obj);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	log_begin();
}

/* In the parent: devices, cgroup and module have to be there for the tests to come. */
FIXTURE_TEARDOWN_PARENT(torture)
{
	if (fmap_missing())
		return;
	for (int i = 0; i < 2; i++)
		EXPECT_EQ(0, torture_rebind(&daxdev[i]));
	for (int ms = 0; ms < FS_PATIENCE && rmdir(CGROUP) && errno == EBUSY; ms += 10)
		usleep(10000);
	EXPECT_NE(0, access(CGROUP, F_OK));
	write_file(CGROUPS "/cgroup.subtree_control", "-memory");
	rmdir(DIR_OF_ALL);
	if (module_refs() < 0)
		EXPECT_EQ(0, module_load(""));
}

static const char *what_was_done(char *text, size_t size)
{
	size_t len = snprintf(text, size, "%lu opens", w->opens);

	for (int i = 0; i < ERRNOS; i++)
		if (w->refused_opens[i])
			len += snprintf(text + len, size - len, ", %s %lu", strerrorname_np(i),
					w->refused_opens[i]);
	for (int k = 0; k < K_FIRST_SERVER; k++)
		if (w->done[k])
			len += snprintf(text + len, size - len, "; %s %lu", kind_name[k],
					w->done[k]);
	return text;
}

TEST_F_TIMEOUT(torture, all, 300 + 2 * seconds_to_run())
{
	double seconds = seconds_to_run(), start, left;
	uint64_t seed = number("TORTURE_SEED", 1);
	const char *wrong = parse_actors();
	char text[2048];

	ASSERT_EQ(NULL, wrong) TH_LOG("there is no actor '%s'", wrong);
	look_at_devices(true);
	start = torture_now();
	while (!w->broken) {
		struct rng r = { seed };
		double length = long_round(seed) ? 1.5 * torture_patience() / 1e3 :
						   (5 + below(&r, 8)) * torture_slowness();

		left = seconds - (torture_now() - start);
		if (left < 4)
			break;
		one_round(seed++, left < length ? left : length);
	}
	EXPECT_EQ(0, w->broken);
	TH_LOG("%.0f s, %lu mounts for %.0f s, %lu cut", torture_now() - start, w->mounted,
	       w->ms_mounted / 1e3, w->aborted);
	TH_LOG("%lu requests, %lu notifications, %lu of them refused", w->requests, w->notices,
	       w->refused_notices);
	TH_LOG("%lu bytes and %lu page table entries looked at, %lu SIGBUS, %lu thieves let in",
	       w->bytes_checked, w->frames_checked, w->sigbus, w->thefts);
	TH_LOG("%s", what_was_done(text, sizeof(text)));
	/* With all actors, a run that has looked at no page table entry is no test. */
	if (!*(getenv("TORTURE_ACTORS") ?: ""))
		EXPECT_LT(0, w->frames_checked);
	if (w->broken)
		return;
	bpf_link__destroy(torture_link);
	EXPECT_EQ(0, module_unload_wait());
	EXPECT_TRUE(log_is_good());
}

int main(int argc, char **argv)
{
	hwpoison_load();
	/* Its result is kept, so call it while the module is loaded. */
	fmap_missing();
	return test_harness_run(argc, argv);
}
