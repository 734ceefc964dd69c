// SPDX-License-Identifier: GPL-2.0
/*
 * What stays usable when a server, an opener or a mount goes away.
 *
 * A mapping does not need the server: it outlives the server's death, an abort of
 * the connection, and a lazy unmount. It holds what it needs: the device and the
 * module stay in use until the last mapping is gone. A task that waits for a server,
 * or for another task that does, can be killed, and when a server dies all tasks
 * that wait for it return.
 *
 * "In use" is seen from outside: another mount gets EBUSY for the device, and the
 * module has one more reference.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)

FIXTURE(lifetime) {
	struct fuse_server *s;
	struct scripted map;
	unsigned char *p;
	long refs;
	int fd;
};

FIXTURE_VARIANT(lifetime) {
	bool sync_init;
};

FIXTURE_VARIANT_ADD(lifetime, async) {
	.sync_init = false,
};

FIXTURE_VARIANT_ADD(lifetime, sync) {
	.sync_init = true,
};

FIXTURE_SETUP(lifetime)
{
	FMAP_REQUIRE();
	self->fd = -1;
	self->p = MAP_FAILED;
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->forked = true;
	self->s->sync_init = variant->sync_init;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "other", SIZE, &self->map, sizeof(self->map));
}

FIXTURE_TEARDOWN(lifetime)
{
	if (self->p != MAP_FAILED)
		munmap(self->p, SIZE);
	if (self->fd >= 0)
		close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* Returns 0 if another mount can get device 0 now, else -EBUSY or another error. */
static int device_free(const struct scripted *map)
{
	struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);
	int err;

	if (!s)
		return -ENOMEM;
	fs_add(s, "file", SIZE, map, sizeof(*map));
	err = fs_mount(s) ?: fs_try(s, "file");
	return fs_stop(s) ?: err;
}

/* Another task may drop the last reference a moment later. */
static int device_free_wait(const struct scripted *map)
{
	int err = -EBUSY;

	for (int ms = 0; ms < FS_PATIENCE && err == -EBUSY; ms += 10) {
		err = device_free(map);
		if (err)
			usleep(10 * 1000);
	}
	return err;
}

#define mount_and_map() do {						\
	ASSERT_EQ(0, fs_mount(self->s));				\
	self->fd = fs_open(self->s, "file", O_RDWR);			\
	ASSERT_LE(0, self->fd);						\
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,	\
		       self->fd, 0);					\
	ASSERT_NE(MAP_FAILED, self->p);					\
	self->p[0] = 1;							\
} while (0)

/* Pages that are mapped, pages that are not, read(2) and write(2). */
#define expect_data_works() do {					\
	char c;								\
	EXPECT_EQ(0, touch(self->p, 2));				\
	EXPECT_EQ(0, touch(self->p + SIZE - 1, 3));			\
	EXPECT_EQ(1, pread(self->fd, &c, 1, SIZE - 1));			\
	EXPECT_EQ(3, c);						\
	EXPECT_EQ(1, pwrite(self->fd, "4", 1, 0));			\
	EXPECT_EQ('4', self->p[0]);					\
} while (0)

TEST_F(lifetime, server_killed)
{
	struct stat st;

	mount_and_map();
	fs_kill(self->s);
	expect_data_works();
	EXPECT_EQ(-ENOTCONN, fs_try(self->s, "other"));
	EXPECT_EQ(-1, stat(fs_path(self->s, "none"), &st));
	EXPECT_EQ(-EBUSY, device_free(&self->map));
	/* A new mapping works as well. */
	munmap(self->p, SIZE);
	self->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->p);
	expect_data_works();
}

TEST_F(lifetime, connection_aborted)
{
	mount_and_map();
	/* Busy, but the connection is gone. */
	EXPECT_EQ(-1, umount2(self->s->dir, MNT_FORCE));
	EXPECT_EQ(EBUSY, errno);
	expect_data_works();
	EXPECT_EQ(-ENOTCONN, fs_try(self->s, "other"));
}

TEST_F(lifetime, umount_while_open)
{
	mount_and_map();
	EXPECT_EQ(-1, umount2(self->s->dir, 0));
	EXPECT_EQ(EBUSY, errno);
	close(self->fd);
	self->fd = -1;
	/* The mapping alone keeps the mount busy, too. */
	EXPECT_EQ(-1, umount2(self->s->dir, 0));
	EXPECT_EQ(EBUSY, errno);
	munmap(self->p, SIZE);
	self->p = MAP_FAILED;
	EXPECT_EQ(0, fs_umount(self->s));
	EXPECT_EQ(0, device_free(&self->map));
}

TEST_F(lifetime, lazy_umount)
{
	mount_and_map();
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
	self->s->mounted = false;
	expect_data_works();
	EXPECT_EQ(-EBUSY, device_free(&self->map));
	EXPECT_LT(self->refs, module_refs());
	EXPECT_EQ(-EAGAIN, module_unload());

	close(self->fd);
	self->fd = -1;
	EXPECT_EQ(0, touch(self->p + HUGE, 5));
	EXPECT_EQ(-EBUSY, device_free(&self->map));

	munmap(self->p, SIZE);
	self->p = MAP_FAILED;
	EXPECT_EQ(0, device_free_wait(&self->map));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

TEST_F(lifetime, lazy_umount_and_server_killed)
{
	mount_and_map();
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
	self->s->mounted = false;
	fs_kill(self->s);
	expect_data_works();
	close(self->fd);
	self->fd = -1;
	munmap(self->p, SIZE);
	self->p = MAP_FAILED;
	EXPECT_EQ(0, device_free_wait(&self->map));
}

/* A task that is killed leaves no mapping behind. */
TEST_F(lifetime, task_killed)
{
	pid_t pid;

	ASSERT_EQ(0, fs_mount(self->s));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		unsigned char *p = fs_map(self->s, "file", SIZE,
					  PROT_READ | PROT_WRITE);

		if (p == MAP_FAILED)
			_exit(1);
		for (;;)
			p[PAGE * (++p[0] % 100)]++;
	}
	ASSERT_TRUE(fs_wait(self->s, FUSE_GET_DAXDEV, 1));
	usleep(20 * 1000);
	kill(pid, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(pid));
	EXPECT_EQ(0, fs_umount(self->s));
	EXPECT_EQ(0, device_free(&self->map));
}

/* A forked child has the mapping, too, and keeps it. */
TEST_F(lifetime, mapping_inherited)
{
	int status, go[2];
	char c;
	pid_t pid;

	mount_and_map();
	ASSERT_EQ(0, pipe(go));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(go[1]);
		if (read(go[0], &c, 1) < 0)
			_exit(1);
		_exit(touch(self->p + HUGE, 7) || self->p[0] != 1);
	}
	close(go[0]);
	munmap(self->p, SIZE);
	self->p = MAP_FAILED;
	close(self->fd);
	self->fd = -1;
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
	self->s->mounted = false;
	close(go[1]);
	status = ended(pid);
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, device_free_wait(&self->map));
}

/* ---- tasks that wait for an answer ---- */

FIXTURE(waiting) {
	struct fuse_server *s;
	struct scripted map;
	long refs;
	pid_t pid;
};

FIXTURE_VARIANT(waiting) {
	int opcode;
};

FIXTURE_VARIANT_ADD(waiting, get_fmap) {
	.opcode = FUSE_GET_FMAP,
};

FIXTURE_VARIANT_ADD(waiting, get_daxdev) {
	.opcode = FUSE_GET_DAXDEV,
};

FIXTURE_SETUP(waiting)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->hold[variant->opcode] = true;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "other", SIZE, &self->map, sizeof(self->map));
}

FIXTURE_TEARDOWN(waiting)
{
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

#define open_and_wait() do {						\
	ASSERT_EQ(0, fs_mount(self->s));				\
	self->pid = fs_try_in_child(self->s, "file");			\
	ASSERT_LE(0, self->pid);					\
	ASSERT_TRUE(fs_wait(self->s, variant->opcode, 1));		\
	ASSERT_TRUE(asleep(self->pid));					\
} while (0)

TEST_F(waiting, opener_killed)
{
	open_and_wait();
	kill(self->pid, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(self->pid));
	/* No task waits for this answer. */
	fs_release(self->s, variant->opcode);
	EXPECT_EQ(0, fs_try(self->s, "file"));
}

TEST_F(waiting, opener_killed_and_unmounted)
{
	open_and_wait();
	kill(self->pid, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(self->pid));
	/* The answer never comes. */
	EXPECT_EQ(0, fs_umount(self->s));
	EXPECT_EQ(0, device_free_wait(&self->map));
}

/* One opener is killed; another, which waits for the same map, is not affected. */
TEST_F(waiting, one_of_two_killed)
{
	pid_t second;

	open_and_wait();
	second = fs_try_in_child(self->s, "file");
	ASSERT_LE(0, second);
	ASSERT_TRUE(asleep(second));
	kill(self->pid, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(self->pid));
	fs_release(self->s, variant->opcode);
	EXPECT_EQ(0, ended(second));
}

/* A signal that is handled must not break an open either. */
static void on_signal(int sig)
{
}

TEST_F(waiting, opener_interrupted)
{
	struct sigaction sa = { .sa_handler = on_signal };
	int status;

	sigaction(SIGUSR1, &sa, NULL);
	open_and_wait();
	kill(self->pid, SIGUSR1);
	usleep(20 * 1000);
	fs_release(self->s, variant->opcode);
	status = ended(self->pid);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_TRUE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == EINTR);
}

/* After a restart a server can have its requests sent again. */
TEST_F(waiting, resent)
{
	open_and_wait();
	ASSERT_EQ(0, fs_notify(self->s, FUSE_NOTIFY_RESEND, NULL, 0, NULL, 0));
	ASSERT_TRUE(fs_wait(self->s, variant->opcode, 2));
	fs_release(self->s, variant->opcode);
	EXPECT_EQ(0, ended(self->pid));
	/* The answer to the first request came too late. */
	EXPECT_EQ(1, self->s->refused);
	EXPECT_EQ(0, self->s->malformed);
	EXPECT_EQ(0, fs_fill(self->s, "file", 'd', SIZE));
}

TEST_F(waiting, server_killed)
{
	int status;

	self->s->forked = true;
	open_and_wait();
	fs_kill(self->s);
	status = ended(self->pid);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_NE(0, WEXITSTATUS(status));
	EXPECT_EQ(-ENOTCONN, fs_try(self->s, "other"));
}

TEST_F(waiting, connection_aborted)
{
	int status;

	open_and_wait();
	EXPECT_EQ(0, fs_abort(self->s));
	status = ended(self->pid);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_NE(0, WEXITSTATUS(status));
}

TEST_F(waiting, lazy_umount)
{
	int status;

	open_and_wait();
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
	fs_release(self->s, variant->opcode);
	status = ended(self->pid);
	EXPECT_EQ(0, status);
	self->s->mounted = false;
	EXPECT_EQ(0, device_free_wait(&self->map));
}

/*
 * A fatal signal ends any wait at once. A signal that is handled ends the wait for the server
 * with EINTR or not at all, but with no other error; it does not end the wait for another opener,
 * as an opener in the kernel or io_uring would see ERESTARTSYS.
 */
FIXTURE(signals) {
	struct fuse_server *s;
	struct scripted map;
	pid_t first, second;
};

FIXTURE_VARIANT(signals) {
	int opcode;
	int sa_flags;
};

FIXTURE_VARIANT_ADD(signals, get_fmap) {
	.opcode = FUSE_GET_FMAP,
};

FIXTURE_VARIANT_ADD(signals, get_fmap_restart) {
	.opcode = FUSE_GET_FMAP,
	.sa_flags = SA_RESTART,
};

FIXTURE_VARIANT_ADD(signals, get_daxdev) {
	.opcode = FUSE_GET_DAXDEV,
};

FIXTURE_VARIANT_ADD(signals, get_daxdev_restart) {
	.opcode = FUSE_GET_DAXDEV,
	.sa_flags = SA_RESTART,
};

FIXTURE_SETUP(signals)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = variant->sa_flags };

	FMAP_REQUIRE();
	sigaction(SIGUSR1, &sa, NULL);
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->hold[variant->opcode] = true;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	for (int i = 0; i < 2; i++) {
		pid_t pid = fs_try_in_child(self->s, "file");

		ASSERT_LE(0, pid);
		*(i ? &self->second : &self->first) = pid;
		ASSERT_TRUE(fs_wait(self->s, variant->opcode, 1));
		ASSERT_TRUE(asleep(pid));
	}
	/* The second opener waits for the first one's single flight, not for the server. */
	EXPECT_EQ(1, self->s->count[variant->opcode]);
}

FIXTURE_TEARDOWN(signals)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

/* With SA_RESTART an interrupted system call goes on. */
#define expect_interrupted(status) do {					\
	int _status = status;						\
	EXPECT_TRUE(WIFEXITED(_status));				\
	EXPECT_TRUE(WEXITSTATUS(_status) == 0 ||			\
		    (WEXITSTATUS(_status) == EINTR &&			\
		     !(variant->sa_flags & SA_RESTART))) {		\
		TH_LOG("status %x", _status);				\
	}								\
} while (0)

TEST_F(signals, opener_handles_one)
{
	kill(self->first, SIGUSR1);
	usleep(20 * 1000);
	fs_release(self->s, variant->opcode);
	expect_interrupted(ended(self->first));
	EXPECT_EQ(0, ended(self->second));
	EXPECT_EQ(0, fs_try(self->s, "file"));
}

TEST_F(signals, waiter_handles_one)
{
	kill(self->second, SIGUSR1);
	usleep(20 * 1000);
	fs_release(self->s, variant->opcode);
	EXPECT_EQ(0, ended(self->first));
	EXPECT_EQ(0, ended(self->second));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

TEST_F(signals, waiter_is_killed)
{
	kill(self->second, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(self->second));
	fs_release(self->s, variant->opcode);
	EXPECT_EQ(0, ended(self->first));
	/* The killed opener has left no trace: the file becomes mapped. */
	EXPECT_EQ(0, fs_fill(self->s, "file", 'd', SIZE));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

TEST_F(signals, both_are_killed)
{
	kill(self->first, SIGKILL);
	kill(self->second, SIGKILL);
	EXPECT_EQ(SIGKILL, ended(self->first));
	EXPECT_EQ(SIGKILL, ended(self->second));
	fs_release(self->s, variant->opcode);
	EXPECT_EQ(0, fs_fill(self->s, "file", 'd', SIZE));
}

/* ---- before there is a connection ---- */

FIXTURE(init) {
	struct fuse_server *s;
	struct scripted map;
	long refs;
};

FIXTURE_SETUP(init)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->hold[FUSE_INIT] = true;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
}

FIXTURE_TEARDOWN(init)
{
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

TEST_F(init, unmounted_without_answer)
{
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_TRUE(fs_wait(self->s, FUSE_INIT, 1));
	EXPECT_EQ(0, fs_umount(self->s));
}

TEST_F(init, server_killed)
{
	self->s->forked = true;
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_TRUE(fs_wait(self->s, FUSE_INIT, 1));
	fs_kill(self->s);
	EXPECT_GT(0, fs_try(self->s, "file"));
}

TEST_F(init, answered_late)
{
	pid_t pid;

	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_TRUE(fs_wait(self->s, FUSE_INIT, 1));
	pid = fs_try_in_child(self->s, "file");
	ASSERT_LE(0, pid);
	ASSERT_TRUE(asleep(pid));
	fs_release(self->s, FUSE_INIT);
	EXPECT_EQ(0, ended(pid));
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

/* The server of a waiting mount(2) dies: mount(2) must return. */
TEST_F(init, sync_server_killed)
{
	struct fuse_server *s = self->s;
	pid_t pid;

	s->forked = true;
	s->sync_init = true;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(fs_mount(s) ? 0 : 1);
	ASSERT_TRUE(fs_wait(s, FUSE_INIT, 1));
	/* The child starts the server, which stores its pid in shared memory. */
	while (!s->pid)
		usleep(1000);
	kill(s->pid, SIGKILL);
	/* The mounting task has /dev/fuse open, too, so only a signal ends it. */
	usleep(50 * 1000);
	kill(pid, SIGKILL);
	EXPECT_LE(0, ended(pid));
	s->pid = 0;
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
