// SPDX-License-Identifier: GPL-2.0
/*
 * A mount or a device goes away while a page of the mount is in use.
 *
 * A task keeps one page of a file that it has unmapped and closed: in a pipe (vmsplice). Two
 * callers take the memory away for good, and wait for the page: umount(2), so that the device
 * is free when it returns, and the unbinding of the device. umount(2) waits killably and
 * without a lock that other tasks need. If it is killed, the module does the rest.
 *
 * No other task waits: not the last user of a mount after umount -l, which may itself have
 * the page; and not the unbinding of a device that the page is not on.
 *
 * A mount that goes away is freed at last. Its devices are given back before that, while all
 * of it is there: who looks at a device finds the mount without a reference to it. A device
 * that is unbound while it is given back, or while it is taken, keeps nothing of the module.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/mount.h>

#include "kselftest_harness.h"
#include "keeper.h"
#include "bpf/stop.h"

FIXTURE(leaving) {
	struct fuse_server *s, *next;
	struct scripted map[4], next_map;
	struct keeper keeper;
	pid_t waiter;
	int log;
	long refs;
};

FIXTURE_VARIANT(leaving) {
	bool removed;
};

FIXTURE_VARIANT_ADD(leaving, evicted_before) {
	.removed = true,
};

FIXTURE_VARIANT_ADD(leaving, evicted_meanwhile) {
	.removed = false,
};

FIXTURE_SETUP(leaving)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->log = klog_open();
	self->s = keeper_mount(self->map, 0, 0);
	ASSERT_NE(NULL, self->s);
	self->keeper = (struct keeper){
		.s = self->s,
		.name = "file",
		.how = BY_PIPE,
		.removes = variant->removed,
	};
}

FIXTURE_TEARDOWN(leaving)
{
	keep_end(&self->keeper);
	if (self->waiter > 0) {
		kill(self->waiter, SIGKILL);
		ended(self->waiter);
	}
	EXPECT_EQ(0, fs_stop(self->next));
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

#define keep_page() do {						\
	ASSERT_TRUE(keep_begin(&self->keeper));				\
	ASSERT_EQ(0, in_child(try_statfs(self->s)));			\
} while (0)

/* A child that calls umount(2), and waits in it. */
#define umount_begin() do {						\
	pid_t _pid;							\
									\
	keep_page();							\
	/* The child may share @self, and must not store to it. */	\
	_pid = fork();							\
	ASSERT_LE(0, _pid);						\
	if (!_pid)							\
		_exit(umount2(self->s->dir, 0) ? errno : 0);		\
	self->waiter = _pid;						\
	self->s->mounted = false;					\
	ASSERT_TRUE(asleep(self->waiter));				\
	usleep(200 * 1000);						\
	ASSERT_EQ(0, waitpid(self->waiter, NULL, WNOHANG));		\
} while (0)

static int try_sync(void)
{
	sync();
	return 0;
}

static int try_mount(void)
{
	char dir[] = "/tmp/fmap.XXXXXX";
	int err = 0;

	if (!mkdtemp(dir) || mount("fmap-test", dir, "tmpfs", 0, NULL))
		return errno;
	if (umount2(dir, 0))
		err = errno;
	rmdir(dir);
	return err;
}

static int try_list(void)
{
	char line[4096];

	return -read_file("/sys/kernel/debug/" MODULE_NAME "/mounts", line, sizeof(line));
}

TEST_F_TIMEOUT(leaving, umount_waits, 60)
{
	unsigned char *p;

	umount_begin();
	/* Other system calls, other mounts and the module's debugfs files do not wait. */
	ASSERT_EQ(0, in_child(try_sync()));
	ASSERT_EQ(0, in_child(try_mount()));
	ASSERT_EQ(0, in_child(try_list()));
	self->next = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->next);
	self->next_map = fmap_linear(1, 0, SIZE);
	fs_add(self->next, "file", SIZE, &self->next_map, sizeof(self->next_map));
	ASSERT_EQ(0, fs_mount(self->next));
	p = fs_map(self->next, "file", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 1));
	munmap(p, SIZE);
	EXPECT_EQ(0, fs_umount(self->next));
	EXPECT_TRUE(klog_wait(self->log, LOG_PREFIX, "wait"));
	EXPECT_EQ(0, waitpid(self->waiter, NULL, WNOHANG));

	EXPECT_EQ(0, keep_end(&self->keeper));
	EXPECT_EQ(0, ended(self->waiter));
	self->waiter = 0;
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* The device is busy as long as the page is in use. */
#define expect_busy_until_let_go() do {					\
	int _err = -EBUSY;						\
									\
	self->next = fmap_server(SCRIPTED_OPS_NAME);			\
	ASSERT_NE(NULL, self->next);					\
	self->next_map = fmap_linear(0, 0, SIZE);			\
	fs_add(self->next, "file", SIZE, &self->next_map, sizeof(self->next_map)); \
	ASSERT_EQ(0, fs_mount(self->next));				\
	EXPECT_EQ(-EBUSY, fs_try(self->next, "file"));			\
	EXPECT_LT(self->refs, module_refs());				\
									\
	EXPECT_EQ(0, keep_end(&self->keeper));				\
	for (int ms = 0; ms < FS_PATIENCE && _err; ms++) {		\
		_err = fs_try(self->next, "file");			\
		usleep(1000);						\
	}								\
	EXPECT_EQ(0, _err);						\
} while (0)

/* A child that has called umount(2) and waits in it is killed. */
#define umount_and_kill() do {						\
	umount_begin();							\
	EXPECT_EQ(0, kill(self->waiter, SIGKILL));			\
	ASSERT_EQ(SIGKILL, ended(self->waiter));			\
	self->waiter = 0;						\
} while (0)

TEST_F_TIMEOUT(leaving, umount_is_killed, 60)
{
	umount_and_kill();
	EXPECT_EQ(0, in_child(try_sync()));
	expect_busy_until_let_go();
}

/*
 * After umount -l the task that closes the last file ends the mount. It does not wait, as the
 * page may be its own.
 */
TEST_F_TIMEOUT(leaving, umount_lazily, 60)
{
	struct fuse_server *s = self->s;

	keep_page();
	self->waiter = fork();
	ASSERT_LE(0, self->waiter);
	if (!self->waiter) {
		int fd = fs_open(s, "next", O_RDWR);

		if (fd < 0 || umount2(s->dir, MNT_DETACH))
			_exit(1);
		close(fd);
		_exit(0);
	}
	s->mounted = false;
	EXPECT_EQ(0, ended(self->waiter));
	self->waiter = 0;
	EXPECT_EQ(0, in_child(try_sync()));
	EXPECT_EQ(0, in_child(try_mount()));
	expect_busy_until_let_go();
}

/* Keep a page, and umount -l before the file is closed, or after it (@closes_first). */
static int keep_own_page(struct fuse_server *s, bool removes, bool closes_first, int let_go)
{
	static char got[PAGE];
	struct iovec iov = { .iov_len = PAGE };
	int fd, pipes[2];
	char *p, c;

	fd = fs_open(s, "file", O_RDWR);
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || p == MAP_FAILED || p[AT] != 'f')
		return 1;
	iov.iov_base = p + AT;
	if (pipe(pipes) || vmsplice(pipes[1], &iov, 1, 0) != PAGE)
		return 2;
	if (removes && unlink(fs_path(s, "file")))
		return 3;
	if (!closes_first && umount2(s->dir, MNT_DETACH))
		return 4;
	if (munmap(p, SIZE) || close(fd))
		return 5;
	if (closes_first && umount2(s->dir, MNT_DETACH))
		return 4;
	/* The task can release the page only after it has returned from close or umount. */
	if (read(let_go, &c, 1) != 1)
		return 6;
	if (read(pipes[0], got, PAGE) != PAGE)
		return 7;
	for (size_t i = 0; i < PAGE; i++)
		if (got[i] != 'f')
			return 8;
	return 0;
}

#define expect_no_wait(closes_first) do {				\
	struct fuse_server *s = self->s;				\
	int let_go[2];							\
									\
	ASSERT_EQ(0, pipe(let_go));					\
	self->waiter = fork();						\
	ASSERT_LE(0, self->waiter);					\
	if (!self->waiter)						\
		_exit(keep_own_page(s, variant->removed, closes_first, let_go[0])); \
	s->mounted = false;						\
	ASSERT_EQ(1, write(let_go[1], "g", 1));				\
	EXPECT_EQ(0, ended(self->waiter));				\
	self->waiter = 0;						\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
} while (0)

/* The same, in the task that has the page. */
TEST_F_TIMEOUT(leaving, own_page, 60)
{
	expect_no_wait(false);
}

/* umount -l does not wait either if it ends the mount itself. */
TEST_F_TIMEOUT(leaving, own_page_umount_lazily, 60)
{
	expect_no_wait(true);
}

/* ---- a mount that is being freed ---- */

/* Stops a task there (bpf/stop.bpf.c). */
static struct stop *stop;

/* Waits until a program has counted something. */
static bool reached(const volatile __u32 *count)
{
	for (int ms = 0; ms < FS_PATIENCE && !*count; ms++)
		usleep(1000);
	return *count;
}

static bool connection_ends(struct fuse_server *s)
{
	struct pollfd p = { .fd = s->fd };

	for (int ms = 0; ms < FS_PATIENCE && !(p.revents & POLLERR); ms++) {
		poll(&p, 1, 0);
		usleep(1000);
	}
	return p.revents & POLLERR;
}

FIXTURE(freed) {
	struct fuse_server *s, *next;
	struct scripted map;
	pid_t waiter;
	int log;
};

FIXTURE_SETUP(freed)
{
	FMAP_REQUIRE();
	FMAP_MOUNT_ONE_FILE(0, SIZE);
	self->log = klog_open();
	self->next = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->next);
	fs_add(self->next, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->next));
	*stop = (struct stop){};
}

/* In the parent: the device has to be bound again even if the test died. */
FIXTURE_TEARDOWN_PARENT(freed)
{
	if (!fmap_missing())
		EXPECT_EQ(0, daxdev_bind(&daxdev[0]));
}

/* The rest of the teardown, in the task that runs the servers. */
#define freed_end() do {						\
	stop->go_on = 1;						\
	if (self->waiter > 0) {						\
		EXPECT_EQ(0, ended(self->waiter));			\
	}								\
	*stop = (struct stop){};					\
	EXPECT_EQ(0, fs_stop(self->next));				\
	EXPECT_EQ(0, fs_stop(self->s));					\
} while (0)

/*
 * The log says who holds a device that another mount wants. Whoever holds it is looked at
 * without a reference: nothing of a mount may be freed before its devices are given back.
 */
TEST_F(freed, gives_its_devices_back_first)
{
	char holder[256];
	int err, go[2];
	pid_t pid;
	char c;

	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(-EBUSY, fs_try(self->next, "file"));
	snprintf(holder, sizeof(holder), "(\"%s\")", self->s->dir);
	EXPECT_TRUE(self->log < 0 || klog_wait(self->log, "is held by", holder));

	ASSERT_EQ(0, pipe(go));
	/* The child shares @self, and must not store to it. */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(read(go[0], &c, 1) != 1 || umount2(self->s->dir, 0) ? 1 : 0);
	self->waiter = pid;
	self->s->mounted = false;
	stop->task = pid;
	ASSERT_EQ(1, write(go[1], "g", 1));
	EXPECT_TRUE(reached(&stop->stopped));
	err = fs_try(self->next, "file");
	stop->go_on = 1;
	EXPECT_EQ(0, ended(self->waiter));
	self->waiter = 0;
	EXPECT_EQ(0, err);
	EXPECT_TRUE(!err || klog_wait(self->log, "is held by", holder))
		TH_LOG("not named: %s", holder);
	freed_end();
}

/*
 * A mount is freed while the driver of its device is being unbound. The dax core has a pointer
 * to the module for as long as a device has a holder, and the module may be unloaded next.
 */
TEST_F(freed, while_its_device_is_unbound)
{
	pid_t pid;
	int dir;

	EXPECT_EQ(0, fs_try(self->s, "file"));
	/* umount(2) itself would wait for the BPF program. */
	dir = open(self->s->dir, O_PATH | O_CLOEXEC);
	ASSERT_LE(0, dir);
	ASSERT_EQ(0, umount2(self->s->dir, MNT_DETACH));
	self->s->mounted = false;
	stop->unbinding = 1;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		close(dir);
		_exit(-write_file(FSDEV "/unbind", daxdev[0].name));
	}
	self->waiter = pid;
	EXPECT_TRUE(reached(&stop->stopped));
	EXPECT_EQ(1, stop->stopped);
	close(dir);
	EXPECT_TRUE(connection_ends(self->s));
	usleep(100 * 1000);
	stop->go_on = 1;
	EXPECT_EQ(0, ended(self->waiter));
	self->waiter = 0;
	EXPECT_EQ(0, stop->is_held);
	freed_end();
}

/*
 * A device is unbound between fs_dax_get()'s look at its driver and the moment when it has a
 * holder. Nobody tells the holder, and it must not stay in the device, which is dead.
 */
TEST_F(freed, unbound_while_it_is_taken)
{
	int go[2], err;
	pid_t opener, pid;
	char c;

	ASSERT_EQ(0, pipe(go));
	opener = fork();
	ASSERT_LE(0, opener);
	if (!opener)
		_exit(read(go[0], &c, 1) != 1 ? 1 : -fs_try(self->s, "file"));
	stop->taking = opener;
	ASSERT_EQ(1, write(go[1], "g", 1));
	EXPECT_TRUE(reached(&stop->stopped));
	EXPECT_EQ(1, stop->stopped);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(-write_file(FSDEV "/unbind", daxdev[0].name));
	self->waiter = pid;
	EXPECT_TRUE(reached(&stop->killed));
	EXPECT_EQ(1, stop->killed);
	stop->go_on = 1;
	EXPECT_EQ(ENODEV, WEXITSTATUS(ended(opener)));
	EXPECT_EQ(0, ended(self->waiter));
	self->waiter = 0;

	EXPECT_EQ(0, daxdev_bind(&daxdev[0]));
	err = fs_try(self->next, "file");
	EXPECT_EQ(0, err);
	freed_end();
}

/* ---- the last page of the largest file ---- */

FIXTURE(largest) {
	struct fuse_server *s;
	struct scripted map;
	pid_t waiter;
	long refs;
};

/* Each page of the file is the first one of the device, so only one of them can be mapped. */
FIXTURE_SETUP(largest)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->map = fmap_linear(0, 0, PAGE);
	self->map.flags = 0;
	self->map.file_size = INT64_MAX;
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", INT64_MAX, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(largest)
{
	if (self->waiter > 0) {
		kill(self->waiter, SIGKILL);
		ended(self->waiter);
	}
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* mmap(2) ends one page before the end of the largest file, and mremap(2) does not. */
static int keep_last_page(struct fuse_server *s, int let_go)
{
	struct iovec iov = { .iov_len = PAGE };
	int fd, pipes[2];
	char *p, c;

	fd = fs_open(s, "file", O_RDWR);
	if (fd < 0)
		return 1;
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		 (INT64_MAX / PAGE - 1) * PAGE);
	if (p == MAP_FAILED)
		return 2;
	p = mremap(p, PAGE, 2 * PAGE, MREMAP_MAYMOVE);
	if (p == MAP_FAILED || touch((unsigned char *)p + PAGE, 'l'))
		return 3;
	iov.iov_base = p + PAGE;
	if (pipe(pipes) || vmsplice(pipes[1], &iov, 1, 0) != PAGE)
		return 4;
	if (umount2(s->dir, MNT_DETACH) || munmap(p, 2 * PAGE) || close(fd))
		return 5;
	return read(let_go, &c, 1) == 1 ? 0 : 6;
}

/*
 * A server says that a file is as large as a file can be. An ordinary user can map the last page,
 * behind which there is no offset, and keep it in a pipe when the file is evicted.
 */
TEST_F_TIMEOUT(largest, last_page, 60)
{
	struct fuse_server *s = self->s;
	int let_go[2];

	ASSERT_EQ(0, pipe(let_go));
	self->waiter = fork();
	ASSERT_LE(0, self->waiter);
	if (!self->waiter)
		_exit(keep_last_page(s, let_go[0]));
	s->mounted = false;
	ASSERT_EQ(1, write(let_go[1], "g", 1));
	EXPECT_EQ(0, ended(self->waiter));
	self->waiter = 0;
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* ---- a device is unbound, and its memory map freed ---- */

FIXTURE(unbound) {
	struct fuse_server *s;
	struct scripted map[4];
	struct keeper keeper;
	pid_t waiter;
	long refs;
};

FIXTURE_VARIANT(unbound) {
	bool removed;
	bool unmounted;		/* by a task that was killed in its wait for the page */
};

FIXTURE_VARIANT_ADD(unbound, mounted) {
	.removed = false,
};

FIXTURE_VARIANT_ADD(unbound, removed) {
	.removed = true,
};

FIXTURE_VARIANT_ADD(unbound, unmounted) {
	.removed = true,
	.unmounted = true,
};

FIXTURE_SETUP(unbound)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->s = keeper_mount(self->map, 0, 1 << 1);
	ASSERT_NE(NULL, self->s);
	self->keeper = (struct keeper){
		.s = self->s,
		.name = "file",
		.how = BY_PIPE,
		.removes = variant->removed,
	};
	if (!variant->unmounted)
		keep_page();
	else
		umount_and_kill();
}

/* In the parent: the devices have to be bound again even if the test died. */
FIXTURE_TEARDOWN_PARENT(unbound)
{
	char path[64];

	for (int i = 0; i < 2 && !fmap_missing(); i++) {
		snprintf(path, sizeof(path), FSDEV "/%s", daxdev[i].name);
		if (access(path, F_OK))
			EXPECT_EQ(0, write_file(FSDEV "/bind", daxdev[i].name));
	}
}

/* The rest of the teardown, in the task that runs the server. */
#define let_go_and_stop() do {						\
	EXPECT_EQ(0, keep_end(&self->keeper));				\
	EXPECT_EQ(0, fs_stop(self->s));					\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
} while (0)

/* Unbinding waits for the page of a file that is closed. */
TEST_F_TIMEOUT(unbound, waits, 60)
{
	pid_t pid = fork();

	ASSERT_LE(0, pid);
	if (!pid)
		_exit(-write_file(FSDEV "/unbind", daxdev[0].name));
	EXPECT_TRUE(asleep(pid));
	usleep(200 * 1000);
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	if (!variant->unmounted) {
		EXPECT_EQ(0, in_child(fs_fill(self->s, "far", 'x', SIZE) ? 1 : 0));
		EXPECT_EQ(EIO, in_child(-fs_try(self->s, "thief")));
	}
	let_go_and_stop();
	EXPECT_EQ(0, ended(pid));
}

/* Unbinding a device that the page is not on does not wait, even if the map declares it. */
TEST_F_TIMEOUT(unbound, other_device, 60)
{
	EXPECT_EQ(0, in_child(-write_file(FSDEV "/unbind", daxdev[1].name)));
	if (!variant->unmounted) {
		EXPECT_EQ(0, in_child(fs_fill(self->s, "next", 'x', SIZE) ? 1 : 0));
		EXPECT_EQ(EIO, in_child(-fs_try(self->s, "far")));
	}
	let_go_and_stop();
}

/*
 * The task that unbinds a device holds no reference to the mount in its wait: umount(2) ends
 * the mount, and waits for the page, too. (Not if it comes during the walk over the files.)
 */
TEST_F_TIMEOUT(unbound, unmounted_meanwhile, 60)
{
	pid_t pid, umounter;

	if (variant->unmounted)
		return;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(-write_file(FSDEV "/unbind", daxdev[0].name));
	EXPECT_TRUE(asleep(pid));
	usleep(200 * 1000);
	umounter = fork();
	ASSERT_LE(0, umounter);
	if (!umounter)
		_exit(umount2(self->s->dir, 0) ? errno : 0);
	self->s->mounted = false;
	EXPECT_TRUE(connection_ends(self->s));
	usleep(200 * 1000);
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	let_go_and_stop();
	EXPECT_EQ(0, ended(pid));
	EXPECT_EQ(0, ended(umounter));
}

int main(int argc, char **argv)
{
	stop = bpf_attach("stop.bpf.o");
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
