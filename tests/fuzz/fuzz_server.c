// SPDX-License-Identifier: GPL-2.0
/*
 * A server that sends anything, at any time.
 *
 * A round is one mount, and a few hundred replies. Two openers do what programs do with
 * files: open, read, write, map, touch, truncate, stat. A server answers, honestly or
 * not: other errors, fields that are flipped, cut, extended or at their limits, wrong
 * lengths and unique numbers, the same answer twice, answers out of order, late or
 * never. A third thread sends notifications. The server names striped, famfs or scripted
 * ops, or others, and varies INIT. In the end it unmounts (normally, lazily, by force),
 * aborts, dies, or the openers are killed.
 *
 * Whatever the server sends:
 *
 *  - all tasks return: openers, mount(2), umount(2), the notifier;
 *  - the module has as many users as before, and a good server is served;
 *  - memory that no map has named keeps its contents (canaries, read with a BPF
 *    program);
 *  - the kernel log has no line that is not the module's own.
 *
 * The numbers of a round can be reproduced, the order in which its tasks run cannot.
 * 1,000,000 replies by hand: FUZZ_COUNT=1000000 ./fuzz_server; see fuzz.h.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"
#include "rounds.h"
#include "fuzz_replies.h"

#define COUNT		20000		/* replies, in make check */
#define PER_ROUND	1500		/* replies of one mount, about */
#define OPENERS		FUZZ_OPENERS
/* ms, after which a task is taken to hang */
#define PATIENCE	(60000 * fs_slowness())
#define HEALTH		25		/* rounds between two runs of a good server */

static struct fuzz_mount *m;

static struct {
	uint64_t bound, failed, rescued, ends[NR_ENDS];
} seen;

/* ---- openers ---- */

static sigjmp_buf env;

static void on_bus(int sig)
{
	siglongjmp(env, sig);
}

static void on_usr1(int sig)
{
}

static void touch_all(struct rng *r, int fd, size_t size)
{
	bool is_private = chance(r, 20), writes = chance(r, 50);
	size_t len = chance(r, 50) ? size : PAGE * (1 + below(r, 8));
	unsigned char *p;

	p = mmap(NULL, len, PROT_READ | (writes ? PROT_WRITE : 0),
		 is_private ? MAP_PRIVATE : MAP_SHARED, fd,
		 chance(r, 70) ? 0 : HUGE * below(r, 3));
	if (p == MAP_FAILED)
		return;
	for (int i = 0; i < 3; i++) {
		volatile unsigned char *at = p + below(r, len);

		if (sigsetjmp(env, 1))
			continue;
		if (writes)
			*at = i;
		else
			(void)*at;
	}
	if (chance(r, 10))
		madvise(p, len, MADV_DONTNEED);
	if (chance(r, 10))
		msync(p, len, MS_SYNC);
	munmap(p, len);
}

static void use(struct rng *r, int fd)
{
	static unsigned char buf[64 * KIB];
	struct stat st;

	for (int n = 1 + below(r, 2); n; n--) {
		off_t pos = chance(r, 80) ? below(r, 4 * MIB) : odd_number(r) & LLONG_MAX;
		size_t len = chance(r, 80) ? below(r, 200) : below(r, sizeof(buf));

		switch (below(r, 10)) {
		case 0:
		case 1:
			if (pread(fd, buf, len, pos) < 0 && errno == ENOTCONN)
				return;
			break;
		case 2:
		case 3:
			if (pwrite(fd, buf, len, pos) < 0 && errno == ENOTCONN)
				return;
			break;
		case 4:
			fstat(fd, &st);
			break;
		case 5:
			if (ftruncate(fd, pos) && chance(r, 50))
				fallocate(fd, 0, pos, len);
			break;
		case 6:
			fsync(fd);
			lseek(fd, pos, SEEK_DATA);
			break;
		default:
			touch_all(r, fd, 4 * MIB);
		}
	}
}

static void once(struct rng *r, int *kept)
{
	static const int flags[] = {
		O_RDWR, O_RDWR, O_RDWR, O_RDONLY, O_WRONLY, O_RDWR | O_TRUNC, O_RDWR | O_CREAT,
		O_RDWR | O_DIRECT, O_RDWR | O_APPEND, O_PATH, O_DIRECTORY, O_RDWR | O_NONBLOCK,
	};
	struct statfs fs;
	char path[128];
	struct stat st;
	DIR *dir;
	int fd;

	/* s0 to s5 are always the same files, u0 and so on are new ones each time. */
	if (chance(r, 60))
		snprintf(path, sizeof(path), "%s/u%lu", m->dir, below(r, m->valid ? 500 : 6));
	else
		snprintf(path, sizeof(path), "%s/s%lu", m->dir, below(r, 6));
	switch (below(r, 24)) {
	case 0:
		stat(path, &st);
		break;
	case 1:
		statfs(m->dir, &fs);
		break;
	case 2:
		dir = opendir(m->dir);
		while (dir && readdir(dir))
			;
		if (dir)
			closedir(dir);
		break;
	case 3:
		if (chance(r, 50))
			unlink(path);
		else
			chmod(path, rnd(r) & 07777);
		break;
	case 4:
		if (chance(r, 1) && chance(r, 20))
			drop_caches();
		if (*kept >= 0)
			use(r, *kept);
		break;
	default:
		/* The file may be a FIFO now, whose open would wait for a partner. */
		fd = open(path, PICK(r, flags) | O_NONBLOCK | O_CLOEXEC, 0644);
		if (fd < 0) {
			if (errno == ENOTCONN)
				usleep(1000);
			break;
		}
		use(r, fd);
		if (chance(r, 20)) {
			if (*kept >= 0)
				close(*kept);
			*kept = fd;
		} else {
			close(fd);
		}
	}
}

static pid_t start_opener(unsigned int n)
{
	struct sigaction bus = { .sa_handler = on_bus, .sa_flags = SA_NODEFER };
	struct sigaction usr1 = { .sa_handler = on_usr1 };
	struct rng r = fuzz_rng(&run, 16 + n);
	int kept = -1;
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(m->fd);
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &bus, NULL);
	sigaction(SIGUSR1, &usr1, NULL);
	for (int i = 0; i < 4 * PER_ROUND && !m->ending; i++)
		once(&r, &kept);
	_exit(0);
}

/* ---- a round ---- */

/* Waits for the end of a child, for a limited time. Then kills it. */
static void await(pid_t pid, const char *what)
{
	char path[64], text[4096] = "";

	for (int ms = 0; ms < PATIENCE; ms++) {
		if (waitpid(pid, NULL, WNOHANG))
			return;
		usleep(1000);
	}
	snprintf(path, sizeof(path), "/proc/%d/wchan", pid);
	read_file(path, text, sizeof(text));
	wrong("%s hangs in %s", what, text);
	write_file("/proc/sysrq-trigger", "w");
	kill(pid, SIGKILL);
	for (int ms = 0; ms < PATIENCE && !waitpid(pid, NULL, WNOHANG); ms++)
		usleep(1000);
}

static int do_mount(void)
{
	char opts[128];

	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other%s", m->fd,
		 m->permissions ? ",default_permissions" : "");
	return mount("fmap-fuzz", m->dir, "fuse", 0, opts) ? -errno : 0;
}

/* A synchronous mount may hang, so a child calls mount(2). */
static bool mount_it(void)
{
	int status = 0;
	pid_t pid;

	if (!m->sync_init)
		return !do_mount();
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(do_mount() ? 1 : 0);
	}
	for (int ms = 0; waitpid(pid, &status, WNOHANG) != pid; ms++) {
		if (m->init_withheld && ms > 20)
			kill(pid, SIGKILL);
		if (ms == PATIENCE) {
			wrong("mount(2) hangs");
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return false;
		}
		usleep(1000);
	}
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

/* The device number of the mount, found without a request to the server. */
static unsigned int number(void)
{
	struct statx stx;

	if (statx(AT_FDCWD, m->dir, AT_STATX_DONT_SYNC, 0, &stx))
		return 0;
	return stx.stx_dev_minor;
}

static void abort_it(unsigned int minor)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/fs/fuse/connections/%u/abort", minor);
	write_file(path, "1");
}

static bool openers_left(pid_t *opener)
{
	siginfo_t info = { 0 };

	for (int i = 0; i < OPENERS; i++) {
		info.si_pid = 0;
		if (!waitid(P_PID, opener[i], &info, WEXITED | WNOHANG | WNOWAIT) &&
		    !info.si_pid)
			return true;
	}
	return false;
}

static void end_round(pid_t *opener, unsigned int minor, enum end end)
{
	static const int quick[] = { 0, MNT_DETACH, MNT_FORCE };
	bool gone = false;

	seen.ends[end]++;
	switch (end) {
	case END_ABORT:
		abort_it(minor);
		break;
	case END_DIE:
		fuzz_server_die(m);
		break;
	case END_KILL:
		for (int i = 0; i < OPENERS; i++)
			kill(opener[i], SIGKILL);
		break;
	case END_DETACH:
	case END_FORCE:
		gone = !umount2(m->dir, quick[end]);
		break;
	default:
		break;
	}
	m->ending = true;
	/*
	 * A notification may wait for a lock that an opener holds, while the opener
	 * waits for an answer of the server, which is dead except for that notification.
	 */
	for (int ms = 0; end == END_DIE && openers_left(opener); ms++) {
		if (ms == 3000) {
			seen.rescued++;
			abort_it(minor);
			break;
		}
		usleep(1000);
	}
	for (int i = 0; i < OPENERS; i++)
		await(opener[i], "an opener");
	for (int ms = 0; !gone && ms < PATIENCE; ms++) {
		gone = !umount2(m->dir, 0) || errno == EINVAL;
		if (!gone)
			usleep(1000);
	}
	if (!gone) {
		wrong("umount: %s", strerror(errno));
		umount2(m->dir, MNT_FORCE | MNT_DETACH);
	}
}

/* What the openers wait for. */
static void show_openers(const pid_t *opener)
{
	for (int i = 0; i < OPENERS; i++) {
		char path[64], text[2048], *line, *save;

		printf("# opener %d, in state %c:\n", opener[i], task_state(opener[i]));
		snprintf(path, sizeof(path), "/proc/%d/stack", opener[i]);
		if (read_file(path, text, sizeof(text)))
			continue;
		for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
			printf("#   %s\n", line);
	}
}

static void one_round(void)
{
	struct rng r = fuzz_rng(&run, 0);
	long refs = module_refs();
	pid_t opener[OPENERS];
	unsigned int minor;
	uint64_t sent = 0;
	bool mounted;
	enum end end;

	if (fuzz_server_start(m, &run, daxdev[0].path, daxdev[1].path)) {
		wrong("there is no server");
		return;
	}
	mounted = mount_it();
	if (mounted) {
		minor = number();
		for (int i = 0; i < OPENERS; i++)
			opener[i] = start_opener(i);
		memcpy(m->opener, opener, sizeof(opener));
		for (int ms = 0; m->sent < PER_ROUND && !m->over && openers_left(opener);
		     ms += 10) {
			if (m->init_withheld && ms > 30)
				break;
			/* Withheld answers are sent in the end: this is no hang. */
			if (m->sent != sent)
				ms = 0;
			sent = m->sent;
			if (ms > PATIENCE) {
				wrong("nothing goes on any more");
				show_openers(opener);
				break;
			}
			usleep(10 * 1000);
		}
		end = below(&r, NR_ENDS);
		end_round(opener, minor, m->over ? END_DIE : end);
	}
	m->ending = true;
	if (!fuzz_server_stop(m, PATIENCE))
		wrong("the server hangs");
	seen.bound += m->bound;
	if (!mounted)
		seen.failed++;
	if (!module_refs_wait(refs))
		wrong("the module has %ld users instead of %ld", module_refs(), refs);
}

/* ---- canaries, and a server that is good ---- */

static void canary(unsigned int dev, uint64_t addr, uint64_t *page)
{
	for (unsigned int i = 0; i < PAGE / 8; i++)
		page[i] = (0xca9a000000000000ULL | (uint64_t)dev << 40 | addr) ^ i;
}

static void check_canaries(void)
{
	uint64_t want[PAGE / 8], is[PAGE / 8];

	for (unsigned int dev = 0; dev < 2; dev++)
		for (unsigned int i = 0; i < FUZZ_CANARIES; i++) {
			uint64_t addr = fuzz_canary_addr(i);

			canary(dev, addr, want);
			if (dax_peek(&daxdev[dev], addr, is, PAGE) ||
			    memcmp(is, want, PAGE))
				wrong("somebody wrote to %#lx of device %u", addr, dev);
		}
}

/* Mount, map, read, write, unmount, with both devices. @first: make the canaries. */
static void be_good(bool first)
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);
	uint64_t size = FUZZ_AREA_END - FUZZ_AREA, page[PAGE / 8];
	struct scripted map[2];
	unsigned char *p;

	if (!s) {
		wrong("there is no good server");
		return;
	}
	for (int i = 0; i < 2; i++) {
		map[i] = fmap_linear(i, FUZZ_AREA, size);
		fs_add(s, i ? "b" : "a", size, &map[i], sizeof(map[i]));
	}
	if (fs_mount(s))
		wrong("a good server gets no mount");
	for (int i = 0; i < 2 && !broken; i++) {
		int fd = fs_open(s, i ? "b" : "a", O_RDWR);

		if (fd < 0) {
			wrong("a good server's file: %s", strerror(-fd));
			break;
		}
		for (unsigned int j = 0; j < FUZZ_CANARIES; j++) {
			uint64_t addr = fuzz_canary_addr(j), is[PAGE / 8];

			canary(i, addr, page);
			if (first && pwrite(fd, page, PAGE, addr - FUZZ_AREA) != PAGE)
				wrong("a canary cannot be written");
			if (pread(fd, is, PAGE, addr - FUZZ_AREA) != PAGE ||
			    memcmp(is, page, PAGE))
				wrong("a canary cannot be read");
		}
		p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED || touch(p + PAGE, 'x') || byte_at(fd, PAGE) != 'x')
			wrong("a good server's file cannot be mapped");
		munmap(p, size);
		close(fd);
	}
	if (s->count[FUSE_READ] + s->count[FUSE_WRITE])
		wrong("a good server's file is not mapped");
	if (fs_stop(s))
		wrong("a good server cannot be unmounted");
}

static int patience(void)
{
	return 180 + fuzz_run(fuzz_count(COUNT)).count / 50;
}

FIXTURE(server) {
	struct fuzz_log log;
};

FIXTURE_SETUP(server)
{
	FMAP_REQUIRE();
	if (!daxdev[0].phys || daxdev[0].size < FUZZ_AREA_END || daxdev[1].size < FUZZ_AREA_END)
		SKIP(return, "the devices cannot be looked at from outside, or are too small");
	m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, m);
	ASSERT_EQ(0, fuzz_log_open(&self->log));
}

FIXTURE_TEARDOWN(server)
{
}

static uint64_t done(void)
{
	return fuzz_sent(m);
}

static void round_and_health(void)
{
	one_round();
	if (run.round % HEALTH == 0)
		be_good(false);
	check_canaries();
}

TEST_F_TIMEOUT(server, any_reply, patience())
{
	static const struct fuzzer fuzzer = { round_and_health, done, "replies" };
	static const char *const ends[NR_ENDS] = {
		"unmounted", "detached", "forced", "aborted", "server died", "openers killed",
	};
	double start = fuzz_seconds();

	run = fuzz_run(fuzz_count(COUNT));
	be_good(true);
	/* The test has its own mount namespace. */
	mount("fusectl", "/sys/fs/fuse/connections", "fusectl", 0, NULL);
	fuzz_rounds(&fuzzer, &self->log);
	be_good(false);
	EXPECT_FALSE(broken);

	TH_LOG("seed %lu, %lu rounds, %lu replies in %.0f s", run.seed, run.round, fuzz_sent(m),
	       fuzz_seconds() - start);
	TH_LOG("%lu honest INIT, %lu mount(2) failed, %lu dead servers aborted", seen.bound,
	       seen.failed, seen.rescued);
	for (int i = 0; i < NR_ENDS; i++)
		TH_LOG("%s: %lu", ends[i], seen.ends[i]);
	fuzz_server_print(m);
	fuzz_log_print(&self->log);
}

int main(int argc, char **argv)
{
	dax_peek_init();
	fmap_register("striped.bpf.o");
	fmap_register("famfs.bpf.o");
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
