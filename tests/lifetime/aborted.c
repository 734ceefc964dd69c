// SPDX-License-Identifier: GPL-2.0
/*
 * Server, connection or tasks go away while tasks wait for an answer.
 *
 * A server stops dead, with SIGSTOP, in the middle of INIT, GET_FMAP, GET_DAXDEV or
 * OPEN; several tasks wait for it, on one file and on two. Then the connection is
 * aborted, the server is killed or continued, the mount is unmounted, the waiting
 * tasks are killed or get signals. In each case every waiting task returns, with an
 * errno that says what happened; nothing is left over; and where the server lives
 * the files can be opened afterwards.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE		(64 * KIB)
#define OPENERS		6

/* Abort all connections: this one has no mount to find it by. */
static void abort_all(void)
{
	DIR *dir = opendir(FUSECTL);
	struct dirent *e;
	char path[512];

	while (dir && (e = readdir(dir))) {
		snprintf(path, sizeof(path), FUSECTL "/%s/abort", e->d_name);
		if (e->d_name[0] != '.')
			write_file(path, "1");
	}
	if (dir)
		closedir(dir);
}

/* ---- tasks that wait ---- */

static void stop_here(struct fuse_server *s, const struct fuse_in_header *in,
		      const void *arg)
{
	static bool stopped;

	if (!stopped) {
		stopped = true;
		raise(SIGSTOP);
	}
	fs_default(s, in, arg);
}

/* Returns true once the server has stopped. */
static bool has_stopped(struct fuse_server *s)
{
	for (int ms = 0; ms < FS_PATIENCE; ms++) {
		if (task_state(s->pid) == 'T')
			return true;
		usleep(1000);
	}
	return false;
}

FIXTURE(aborted) {
	struct fuse_server *s;
	struct scripted map;
	pid_t opener[OPENERS];
	unsigned int openers;
	long refs;
};

FIXTURE_VARIANT(aborted) {
	int opcode;
};

FIXTURE_VARIANT_ADD(aborted, init) {
	.opcode = FUSE_INIT,
};

FIXTURE_VARIANT_ADD(aborted, get_fmap) {
	.opcode = FUSE_GET_FMAP,
};

FIXTURE_VARIANT_ADD(aborted, get_daxdev) {
	.opcode = FUSE_GET_DAXDEV,
};

FIXTURE_VARIANT_ADD(aborted, open) {
	.opcode = FUSE_OPEN,
};

FIXTURE_SETUP(aborted)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	if (!fusectl_mount())
		SKIP(return, "there is no fusectl");
	self->s->forked = true;
	self->s->hook[variant->opcode] = stop_here;
	fs_add(self->s, "a", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "b", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	/* Look up the names first, as lookups in FUSE wait for each other. */
	if (variant->opcode != FUSE_INIT) {
		EXPECT_EQ(0, access(fs_path(self->s, "a"), F_OK));
		EXPECT_EQ(0, access(fs_path(self->s, "b"), F_OK));
	}
}

FIXTURE_TEARDOWN(aborted)
{
	if (self->s->pid > 0)
		kill(self->s->pid, SIGCONT);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

#define start_openers() do {						\
	for (; self->openers < OPENERS; self->openers++) {		\
		pid_t pid = fs_try_in_child(self->s, self->openers % 2 ? "b" : "a"); \
									\
		ASSERT_LE(0, pid);					\
		self->opener[self->openers] = pid;			\
	}								\
	ASSERT_TRUE(fs_wait(self->s, variant->opcode, 1));		\
	ASSERT_TRUE(has_stopped(self->s));				\
	for (unsigned int i = 0; i < OPENERS; i++)			\
		EXPECT_TRUE(asleep(self->opener[i]));			\
} while (0)

/* The connection is gone, and each opener has got the errno for that. */
#define expect_cut_off() do {						\
	for (unsigned int i = 0; i < OPENERS; i++) {			\
		int _status = ended(self->opener[i]);			\
		EXPECT_TRUE(WIFEXITED(_status));			\
		EXPECT_TRUE(WEXITSTATUS(_status) == ECONNABORTED ||	\
			    WEXITSTATUS(_status) == ENOTCONN) {		\
			TH_LOG("opener %u: status %x", i, _status);	\
		}							\
	}								\
	EXPECT_EQ(variant->opcode == FUSE_INIT ? -ECONNREFUSED : -ENOTCONN, \
		  fs_try(self->s, "a"));				\
} while (0)

TEST_F(aborted, connection)
{
	start_openers();
	EXPECT_EQ(0, fusectl_abort(self->s));
	expect_cut_off();
	kill(self->s->pid, SIGCONT);
}

TEST_F(aborted, by_force)
{
	start_openers();
	EXPECT_EQ(0, fs_abort(self->s));
	expect_cut_off();
	kill(self->s->pid, SIGCONT);
}

TEST_F(aborted, server_killed)
{
	start_openers();
	fs_kill(self->s);
	expect_cut_off();
}

/* The server is suspended for a while: the opens take longer, and succeed. */
TEST_F(aborted, server_goes_on)
{
	start_openers();
	kill(self->s->pid, SIGCONT);
	for (unsigned int i = 0; i < OPENERS; i++)
		EXPECT_EQ(0, ended(self->opener[i]));
	EXPECT_EQ(0, fs_fill(self->s, "a", 'd', SIZE));
	EXPECT_EQ(2, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_DAXDEV]);
}

TEST_F(aborted, mount_detached)
{
	start_openers();
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
	self->s->mounted = false;
	usleep(20 * 1000);
	kill(self->s->pid, SIGCONT);
	for (unsigned int i = 0; i < OPENERS; i++)
		EXPECT_EQ(0, ended(self->opener[i]));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

TEST_F(aborted, mount_detached_and_server_killed)
{
	start_openers();
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
	self->s->mounted = false;
	fs_kill(self->s);
	for (unsigned int i = 0; i < OPENERS; i++)
		EXPECT_LT(0, ended(self->opener[i]));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/*
 * All openers but the last are killed. Those that wait in the module, for GET_FMAP
 * or GET_DAXDEV, end at once. Some of those that wait in FUSE, for OPEN or LOOKUP,
 * do not.
 */
TEST_F(aborted, openers_killed)
{
	bool ours = variant->opcode == FUSE_GET_FMAP ||
		    variant->opcode == FUSE_GET_DAXDEV;

	start_openers();
	for (unsigned int i = 0; i + 1 < OPENERS; i++)
		kill(self->opener[i], SIGKILL);
	if (ours)
		for (unsigned int i = 0; i + 1 < OPENERS; i++)
			EXPECT_EQ(SIGKILL, ended(self->opener[i]));
	kill(self->s->pid, SIGCONT);
	EXPECT_EQ(0, ended(self->opener[OPENERS - 1]));
	if (!ours)
		for (unsigned int i = 0; i + 1 < OPENERS; i++)
			EXPECT_EQ(SIGKILL, ended(self->opener[i]));
	EXPECT_EQ(0, fs_fill(self->s, "a", 'd', SIZE));
	EXPECT_EQ(0, fs_fill(self->s, "b", 'd', SIZE));
}

/* The openers are killed, and the connection is aborted with their requests. */
TEST_F(aborted, openers_killed_and_connection)
{
	start_openers();
	for (unsigned int i = 0; i < OPENERS; i++)
		kill(self->opener[i], SIGKILL);
	EXPECT_EQ(0, fusectl_abort(self->s));
	for (unsigned int i = 0; i < OPENERS; i++)
		EXPECT_EQ(SIGKILL, ended(self->opener[i]));
	kill(self->s->pid, SIGCONT);
}

static void on_signal(int sig)
{
}

/* All openers get many signals, with SA_RESTART: no open fails. */
TEST_F(aborted, openers_interrupted)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	sigaction(SIGUSR1, &sa, NULL);
	start_openers();
	for (int n = 0; n < 20; n++) {
		for (unsigned int i = 0; i < OPENERS; i++)
			kill(self->opener[i], SIGUSR1);
		usleep(2000);
		if (n == 10)
			kill(self->s->pid, SIGCONT);
	}
	for (unsigned int i = 0; i < OPENERS; i++) {
		int status = ended(self->opener[i]);

		/* FUSE returns EINTR for an OPEN that the server has not answered. */
		EXPECT_TRUE(status == 0 || (variant->opcode == FUSE_OPEN &&
					    status == W_EXITCODE(EINTR, 0))) {
			TH_LOG("opener %u: status %x", i, status);
		}
	}
	EXPECT_EQ(0, fs_fill(self->s, "a", 'd', SIZE));
}

/* The openers are stopped, too, even the one that has the single flight of a file. */
TEST_F(aborted, openers_stopped)
{
	int status;

	start_openers();
	for (unsigned int i = 0; i + 1 < OPENERS; i++)
		kill(self->opener[i], SIGSTOP);
	kill(self->s->pid, SIGCONT);
	/* The opener that runs does not wait for those that are stopped. */
	EXPECT_EQ(0, ended(self->opener[OPENERS - 1]));
	for (unsigned int i = 0; i + 1 < OPENERS; i++) {
		kill(self->opener[i], SIGCONT);
		status = ended(self->opener[i]);
		EXPECT_TRUE(status == 0 || status == W_EXITCODE(EINTR, 0)) {
			TH_LOG("opener %u: status %x", i, status);
		}
	}
}

/* ---- mount(2) that waits ---- */

FIXTURE(mounter) {
	struct fuse_server *s;
	struct scripted map;
	long refs;
	pid_t pid;
};

FIXTURE_SETUP(mounter)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	if (!fusectl_mount())
		SKIP(return, "there is no fusectl");
	self->s->forked = true;
	self->s->sync_init = true;
	self->s->hook[FUSE_INIT] = stop_here;
	fs_add(self->s, "a", SIZE, &self->map, sizeof(self->map));
	self->pid = fork();
	ASSERT_LE(0, self->pid);
	if (!self->pid) {
		int err = fs_mount(self->s);

		/* The server ends with the task that started it, so the file is opened here. */
		if (!err)
			err = fs_try(self->s, "a");
		_exit(-err);
	}
	ASSERT_TRUE(fs_wait(self->s, FUSE_INIT, 1));
	while (!self->s->pid)
		usleep(1000);
	ASSERT_TRUE(has_stopped(self->s));
}

FIXTURE_TEARDOWN(mounter)
{
	kill(self->pid, SIGKILL);
	waitpid(self->pid, NULL, 0);
	self->s->pid = 0;
	self->s->mounted = false;
	umount2(self->s->dir, MNT_DETACH);
	fs_stop(self->s);
	EXPECT_TRUE(module_refs_wait(self->refs));
}

TEST_F(mounter, server_goes_on)
{
	kill(self->s->pid, SIGCONT);
	EXPECT_EQ(0, ended(self->pid));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

TEST_F(mounter, connection_aborted)
{
	int status;

	abort_all();
	status = ended(self->pid);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_NE(0, WEXITSTATUS(status));
}

TEST_F(mounter, killed)
{
	kill(self->pid, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(self->pid));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* The mounting task is killed while the server answers. */
TEST_F(mounter, killed_as_it_is_answered)
{
	kill(self->s->pid, SIGCONT);
	usleep(500);
	kill(self->pid, SIGKILL);
	EXPECT_LE(0, ended(self->pid));
}

TEST_F(mounter, both_killed)
{
	kill(self->s->pid, SIGKILL);
	kill(self->pid, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(self->pid));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* ---- more than one channel ---- */

/* A second descriptor of the connection, with a server of its own. */
static int clone_channel(struct fuse_server *s)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	uint32_t from = s->fd;

	if (fd >= 0 && ioctl(fd, FUSE_DEV_IOC_CLONE, &from)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static volatile bool idle;

static void until_told(struct fuse_server *s, const struct fuse_in_header *in,
		       const void *arg)
{
	while (idle)
		usleep(1000);
	fs_default(s, in, arg);
}

static void *ask_statfs(void *s)
{
	struct statfs sf;

	statfs(((struct fuse_server *)s)->dir, &sf);
	return NULL;
}

FIXTURE(channels) {
	struct fuse_server *s;
	struct scripted map;
	pthread_t asker;
	bool asked;
	long refs;
	pid_t pid;
	int clone;
};

FIXTURE_SETUP(channels)
{
	struct stat st;

	FMAP_REQUIRE();
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->hook[FUSE_STATFS] = until_told;
	fs_add(self->s, "a", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, stat(fs_path(self->s, "a"), &st));
	self->clone = clone_channel(self->s);
	ASSERT_LE(0, self->clone);
	/* From here on the first channel reads nothing, so the clone gets all requests. */
	idle = true;
	ASSERT_EQ(0, pthread_create(&self->asker, NULL, ask_statfs, self->s));
	ASSERT_TRUE(fs_wait(self->s, FUSE_STATFS, 1));
	self->pid = fork();
	ASSERT_LE(0, self->pid);
	if (!self->pid) {
		close(self->clone);
		_exit(-fs_try(self->s, "a"));
	}
}

/* The statfs gets its answer, so that it does not keep the mount busy. */
#define end_asking() do {						\
	idle = false;							\
	if (!self->asked)						\
		pthread_join(self->asker, NULL);			\
	self->asked = true;						\
} while (0)

FIXTURE_TEARDOWN(channels)
{
	end_asking();
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

TEST_F(channels, clone_answers)
{
	struct fuse_server *t = fmap_server(SCRIPTED_OPS_NAME);
	char dir[sizeof(t->dir)];

	ASSERT_NE(NULL, t);
	strcpy(dir, t->dir);
	rmdir(dir);
	fs_add(t, "a", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_serve(t, self->clone));
	EXPECT_EQ(0, ended(self->pid));
	EXPECT_EQ(1, t->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, t->count[FUSE_GET_DAXDEV]);
	end_asking();
	EXPECT_EQ(0, fs_try(self->s, "a"));
	EXPECT_EQ(0, self->s->count[FUSE_GET_FMAP]);
	/* Both channels end with the mount. */
	EXPECT_EQ(0, fs_umount(self->s));
	t->mounted = false;
	fs_stop(t);
}

/* Closing a channel aborts the requests that it has read, and no others. */
TEST_F(channels, clone_closes)
{
	static char buf[128 * KIB];
	const struct fuse_in_header *in = (void *)buf;
	int status;

	do {
		ASSERT_LT(0, read(self->clone, buf, sizeof(buf)));
	} while (in->opcode != FUSE_GET_FMAP);
	close(self->clone);
	idle = false;		/* OPEN is left to the other channel */
	status = ended(self->pid);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(ECONNABORTED, WEXITSTATUS(status));
	EXPECT_EQ(0, fs_fill(self->s, "a", 'd', SIZE));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

/* A request that was read from one channel cannot be answered through the other. */
TEST_F(channels, wrong_channel)
{
	static char buf[128 * KIB];
	const struct fuse_in_header *in = (void *)buf;
	int status;

	do {
		ASSERT_LT(0, read(self->clone, buf, sizeof(buf)));
	} while (in->opcode != FUSE_GET_FMAP);
	EXPECT_EQ(ENOENT, fs_reply(self->s, in, -ENODATA, NULL, 0));
	usleep(10 * 1000);
	EXPECT_EQ(0, waitpid(self->pid, NULL, WNOHANG));
	close(self->clone);
	idle = false;
	status = ended(self->pid);
	EXPECT_EQ(W_EXITCODE(ECONNABORTED, 0), status);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
