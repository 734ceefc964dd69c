// SPDX-License-Identifier: GPL-2.0
/*
 * Everything at once, with an abrupt end.
 *
 * In each round a server is mounted, tasks open, map, touch, read and write its files as
 * fast as they can, the caches are dropped; and at some moment the connection is aborted,
 * the server killed or stopped, the mount taken away, the tasks killed. Until then each
 * task gets the right byte or an error; all tasks end; nothing is left.
 *
 * ROUNDS=N for a long run, SEED=N to repeat one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
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
#include "fmap_test.h"

#define FILES		4
#define TASKS		6
#define SIZE		(16 * PAGE)

static int number(const char *name, int otherwise)
{
	const char *env = getenv(name);

	return env ? atoi(env) : otherwise;
}

static char name_of(int file)
{
	return 'a' + file;
}

/* Tasks write nothing but the name of a file to it, so they must read nothing else. */
struct shared {
	_Atomic unsigned int done, failed, wrong;
	volatile bool stop;
};

static void wrong(struct shared *shared, const char *what, int got)
{
	fprintf(stderr, "# %s: %d\n", what, got);
	shared->wrong++;
}

static void use_file(struct fuse_server *s, struct shared *shared, unsigned int *seed)
{
	int file = rand_r(seed) % FILES, page = rand_r(seed) % (SIZE / PAGE), c;
	char name[2] = { name_of(file) };
	unsigned char *p;
	struct stat st;
	int fd;

	fd = fs_open(s, name, O_RDWR);
	if (fd < 0) {
		shared->failed++;
		return;
	}
	switch (rand_r(seed) % 4) {
	case 0:
		c = byte_at(fd, page * PAGE);
		if (c >= 0 && c != name[0])
			wrong(shared, "read", c);
		break;
	case 1:
		if (pwrite(fd, name, 1, page * PAGE) != 1)
			shared->failed++;
		break;
	case 2:
		fstat(fd, &st);
		fsync(fd);
		break;
	default:
		p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED)
			break;
		close(fd);
		fd = -1;
		if (touch(p + page * PAGE, name[0]))
			shared->failed++;
		else if (p[page * PAGE] != name[0])
			wrong(shared, "mapping", p[page * PAGE]);
		munmap(p, SIZE);
	}
	if (fd >= 0)
		close(fd);
	shared->done++;
}

static void task(struct fuse_server *s, struct shared *shared, unsigned int seed)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!shared->stop) {
		use_file(s, shared, &seed);
		if (rand_r(&seed) % 50 == 0)
			write_file("/proc/sys/vm/drop_caches", "2");
	}
	_exit(0);
}

enum ending {
	NONE, ABORT, KILL, STOP_AND_KILL, FORCE, DETACH, DETACH_AND_KILL, TASKS_KILLED,
	ENDINGS
};

static const char *const ending_name[] = {
	"none", "abort", "kill", "stop and kill", "force", "detach", "detach and kill",
	"tasks killed",
};

FIXTURE(races) {
	struct scripted map[FILES];
	struct shared *shared;
	long refs;
};

FIXTURE_SETUP(races)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->shared);
	for (int i = 0; i < FILES; i++)
		self->map[i] = fmap_linear(i % 2, i * SIZE, SIZE);
}

FIXTURE_TEARDOWN(races)
{
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* A server with all files; @forked if the round kills it. */
static struct fuse_server *new_server(const struct scripted *map, bool forked, bool sync)
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);

	if (!s)
		return NULL;
	s->forked = forked;
	s->sync_init = sync;
	for (int i = 0; i < FILES; i++) {
		char name[2] = { name_of(i) };

		fs_add(s, name, SIZE, &map[i], sizeof(map[i]));
	}
	return s;
}

static void end_it(struct fuse_server *s, enum ending how, const pid_t *pid)
{
	switch (how) {
	case ABORT:
		fusectl_abort(s);
		break;
	case KILL:
		fs_kill(s);
		break;
	case STOP_AND_KILL:
		kill(s->pid, SIGSTOP);
		usleep(20 * 1000);
		fs_kill(s);
		break;
	case FORCE:
		/* It is unmounted, too, if no task has a file open now. */
		s->mounted = umount2(s->dir, MNT_FORCE);
		break;
	case DETACH:
	case DETACH_AND_KILL:
		umount2(s->dir, MNT_DETACH);
		s->mounted = false;
		if (how == DETACH_AND_KILL)
			fs_kill(s);
		break;
	case TASKS_KILLED:
		for (int i = 0; i < TASKS; i++)
			kill(pid[i], SIGKILL);
		break;
	default:
		break;
	}
}

TEST_F_TIMEOUT(races, rounds, 60 + 10 * number("ROUNDS", ENDINGS))
{
	unsigned int seed = number("SEED", 1);
	struct fuse_server *s;

	s = new_server(self->map, false, false);
	ASSERT_NE(NULL, s);
	if (!fusectl_mount())
		SKIP(return, "there is no fusectl");
	ASSERT_EQ(0, fs_mount(s));
	for (int i = 0; i < FILES; i++)
		ASSERT_EQ(0, fs_fill(s, s->file[i].name, name_of(i), SIZE));
	ASSERT_EQ(0, fs_stop(s));

	for (int round = 0; round < number("ROUNDS", ENDINGS); round++) {
		enum ending how = round % ENDINGS;
		pid_t pid[TASKS];

		memset(self->shared, 0, sizeof(*self->shared));
		s = new_server(self->map, true, rand_r(&seed) % 2);
		ASSERT_NE(NULL, s);
		/* What FUSE itself serves is right, too. */
		for (int i = 0; i < FILES; i++)
			memset(s->file[i].plain, name_of(i), FS_PLAIN);
		ASSERT_EQ(0, fs_mount(s));
		for (int i = 0; i < TASKS; i++) {
			pid[i] = fork();
			ASSERT_LE(0, pid[i]);
			if (!pid[i])
				task(s, self->shared, seed + i);
		}
		usleep(rand_r(&seed) % (300 * 1000));
		end_it(s, how, pid);
		usleep(rand_r(&seed) % (50 * 1000));
		self->shared->stop = true;
		for (int i = 0; i < TASKS; i++) {
			int status = ended(pid[i]);

			EXPECT_TRUE(status == 0 || (how == TASKS_KILLED && status == SIGKILL)) {
				TH_LOG("round %d, %s: status %x", round, ending_name[how], status);
			}
			if (status < 0)
				kill(pid[i], SIGKILL);
		}
		EXPECT_EQ(0, self->shared->wrong);
		EXPECT_EQ(0, fs_stop(s));
		EXPECT_TRUE(module_refs_wait(self->refs)) {
			TH_LOG("round %d, %s", round, ending_name[how]);
		}
		TH_LOG("%s: %u uses, %u failed", ending_name[how], self->shared->done,
		       self->shared->failed);
	}
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
