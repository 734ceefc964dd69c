// SPDX-License-Identifier: GPL-2.0
/*
 * An administrator takes away the device of a mount, in other ways than unbinding its
 * driver in sysfs: ndctl and cxl disable and destroy its namespace or region, rmmod
 * unloads the driver, daxctl and sysfs give the device to another driver.
 *
 * If that is refused, the mount must work as before. If not, the effect must be that of
 * unbinding: EIO and SIGBUS, no page of the device mapped, a clean unmount.
 * Each test ends by making the device again.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)
#define DRIVERS	"/sys/bus/dax/drivers/"

/*
 * The second device: CXL ports accept regions in ascending order of addresses only,
 * so the first one could not be made again.
 */
static const struct daxdev *victim = &daxdev[1];

static bool on_cxl(void)
{
	const char *kind = getenv("DAX_KIND");

	return kind && !strcmp(kind, "cxl");
}

/* Run a shell command with an argument: its exit status. */
static int run(const char *line, const char *arg)
{
	char all[512];
	int status, len;

	len = snprintf(all, sizeof(all), line, arg);
	snprintf(all + len, sizeof(all) - len, " >/dev/null 2>&1");
	status = system(all);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool is_bound_to(const char *driver, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DRIVERS "%s/%s", driver, name);
	return !access(path, F_OK);
}

/* Bind the device to fsdev_dax, unbinding device_dax if needed. 0 or -errno. */
static int give_back(const char *name)
{
	int err = -ENODEV;

	for (int ms = 0; ms < FS_PATIENCE && err; ms += 10) {
		if (is_bound_to("device_dax", name))
			write_file(DRIVERS "device_dax/unbind", name);
		if (!is_bound_to("fsdev_dax", name))
			write_file(FSDEV "/bind", name);
		err = is_bound_to("fsdev_dax", name) && !access(victim->path, F_OK) ?
			0 : -ENODEV;
		if (err)
			usleep(10 * 1000);
	}
	return err;
}

FIXTURE(destroyed) {
	struct fuse_server *s;
	struct scripted map[2];
	unsigned char *gone, *stays;
	int gone_fd, stays_fd;
	long refs;
	char parent[64];	/* the namespace or the region */
};

/* Find the namespace or the region of the device. */
static void find_parent(char *parent, size_t size)
{
	char path[PATH_MAX], real[PATH_MAX] = "", *at;

	snprintf(path, sizeof(path), "/sys/bus/dax/devices/%s", victim->name);
	if (!realpath(path, real))
		return;
	if (on_cxl()) {
		at = strstr(real, "/region");
		snprintf(parent, size, "%s", at ? at + 1 : "");
	} else {
		/* dax1.0 is namespace1.0. */
		snprintf(parent, size, "namespace%.12s", victim->name + strlen("dax"));
	}
	parent[strcspn(parent, "/")] = 0;
}

FIXTURE_SETUP(destroyed)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	find_parent(self->parent, sizeof(self->parent));
	ASSERT_NE(0, self->parent[0]);
	for (int i = 0; i < 2; i++)
		self->map[i] = fmap_linear(1 - i, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "gone", SIZE, &self->map[0], sizeof(self->map[0]));
	fs_add(self->s, "stays", SIZE, &self->map[1], sizeof(self->map[1]));
	ASSERT_EQ(0, fs_mount(self->s));
	self->gone_fd = fs_open(self->s, "gone", O_RDWR);
	self->stays_fd = fs_open(self->s, "stays", O_RDWR);
	ASSERT_LE(0, self->gone_fd);
	ASSERT_LE(0, self->stays_fd);
	self->gone = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->gone_fd, 0);
	self->stays = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, self->stays_fd, 0);
	ASSERT_NE(MAP_FAILED, self->gone);
	ASSERT_NE(MAP_FAILED, self->stays);
	ASSERT_EQ(0, touch(self->gone, 1));
	ASSERT_EQ(0, touch(self->gone + HUGE + PAGE, 1));
	ASSERT_EQ(0, touch(self->stays, 2));
}

/* In the parent: the device must be bound again even if the test died. */
FIXTURE_TEARDOWN_PARENT(destroyed)
{
	if (!fmap_missing())
		EXPECT_EQ(0, give_back(victim->name));
}

#define expect_gone() do {						\
	char _c;							\
	EXPECT_EQ(SIGBUS, touch(self->gone, -1));			\
	EXPECT_EQ(SIGBUS, touch(self->gone + HUGE + PAGE, 1));		\
	EXPECT_EQ(-1, pread(self->gone_fd, &_c, 1, 0));			\
	EXPECT_EQ(EIO, errno);						\
	EXPECT_EQ(-1, pwrite(self->gone_fd, "x", 1, 0));		\
	EXPECT_EQ(EIO, errno);						\
} while (0)

#define expect_here() do {						\
	EXPECT_EQ(0, touch(self->gone, 1));				\
	EXPECT_EQ(1, self->gone[HUGE + PAGE]);				\
	EXPECT_EQ(1, byte_at(self->gone_fd, 0));			\
} while (0)

#define expect_stays() do {						\
	EXPECT_EQ(0, touch(self->stays, 2));				\
	EXPECT_EQ(2, byte_at(self->stays_fd, 0));			\
} while (0)

/* fs_try() until the driver has set the device up: its node exists before that. */
static int try_soon(struct fuse_server *s, const char *name)
{
	int err = -ENXIO;

	for (int ms = 0; ms < FS_PATIENCE && err == -ENXIO; ms += 10) {
		err = fs_try(s, name);
		if (err)
			usleep(10 * 1000);
	}
	return err;
}

/* Unmount; nothing of the mount is left, and another one can have the device. */
#define finish() do {							\
	munmap(self->gone, SIZE);					\
	munmap(self->stays, SIZE);					\
	close(self->gone_fd);						\
	close(self->stays_fd);						\
	EXPECT_EQ(0, fs_stop(self->s));					\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
	ASSERT_EQ(0, give_back(victim->name));			\
	self->s = fmap_server(SCRIPTED_OPS_NAME);			\
	ASSERT_NE(NULL, self->s);					\
	fs_add(self->s, "gone", SIZE, &self->map[0], sizeof(self->map[0])); \
	ASSERT_EQ(0, fs_mount(self->s));				\
	EXPECT_EQ(0, try_soon(self->s, "gone"));				\
	EXPECT_EQ(0, fs_stop(self->s));					\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
} while (0)

TEST_F_TIMEOUT(destroyed, disabled, 120)
{
	const char *off = on_cxl() ? "cxl disable-region -f %s" : "ndctl disable-namespace %s";
	const char *on = on_cxl() ? "cxl enable-region %s" : "ndctl enable-namespace %s";

	EXPECT_EQ(0, run(off, self->parent));
	expect_gone();
	expect_stays();
	EXPECT_EQ(0, run(on, self->parent));
	/* It is a new device, which the mount does not hold. */
	expect_gone();
	finish();
}

TEST_F_TIMEOUT(destroyed, destroyed, 120)
{
	const char *off = on_cxl() ? "cxl destroy-region -f %s" : "ndctl destroy-namespace -f %s";
	char on[256];
	int mem = 0;

	if (on_cxl()) {
		char path[PATH_MAX], real[PATH_MAX] = "";
		char decoder[32] = "";
		int port = 0;

		/* The decoder of its endpoint tells which memory device it was made of. */
		snprintf(path, sizeof(path), "/sys/bus/cxl/devices/%s/target0", self->parent);
		ASSERT_EQ(0, read_file(path, decoder, sizeof(decoder)));
		port = atoi(decoder + strlen("decoder"));
		for (mem = 0; mem < 2; mem++) {
			snprintf(path, sizeof(path), "/sys/bus/cxl/devices/endpoint%d/uport",
				 port);
			if (realpath(path, real) && real[strlen(real) - 1] == '0' + mem)
				break;
		}
		snprintf(on, sizeof(on), "cxl create-region -m -d decoder0.0 -w 1 -t ram mem%d",
			 mem);
	} else {
		snprintf(on, sizeof(on), "ndctl create-namespace -f -r region%d -m devdax -a 2M",
			 atoi(self->parent + strlen("namespace")));
	}
	EXPECT_EQ(0, run(off, self->parent));
	expect_gone();
	expect_stays();
	EXPECT_EQ(0, run(on, ""));
	finish();
}

/*
 * A page of the device is in a pipe when its namespace or region is disabled, which waits for
 * the page, and for nothing else: another device can be unbound and bound meanwhile.
 */
TEST_F_TIMEOUT(destroyed, while_pinned, 120)
{
	const char *off = on_cxl() ? "cxl disable-region -f %s" : "ndctl disable-namespace %s";
	const char *on = on_cxl() ? "cxl enable-region %s" : "ndctl enable-namespace %s";
	struct iovec page = { .iov_base = self->gone, .iov_len = PAGE };
	char buf[PAGE];
	int pipe_fd[2];
	pid_t pid;

	ASSERT_EQ(0, pipe(pipe_fd));
	ASSERT_EQ(PAGE, vmsplice(pipe_fd[1], &page, 1, 0));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(run(off, self->parent));
	for (int ms = 0; ms < FS_PATIENCE && touch(self->gone, -1) != SIGBUS; ms += 10)
		usleep(10 * 1000);
	expect_gone();
	EXPECT_EQ(0, daxdev_unbind(&daxdev[0]));
	EXPECT_EQ(SIGBUS, touch(self->stays, -1));
	EXPECT_EQ(0, daxdev_bind(&daxdev[0]));
	EXPECT_EQ(0, waitpid(pid, NULL, WNOHANG));
	EXPECT_EQ(PAGE, read(pipe_fd[0], buf, PAGE));
	EXPECT_EQ(0, ended(pid));
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	EXPECT_EQ(0, run(on, self->parent));
	finish();
}

/* The driver's module cannot be unloaded while the mount holds the device. */
TEST_F_TIMEOUT(destroyed, driver_module_stays, 120)
{
	EXPECT_NE(0, run("rmmod fsdev_dax", ""));
	expect_here();
	expect_stays();
	finish();
}

/* A device that is bound cannot be bound to another driver. */
TEST_F_TIMEOUT(destroyed, other_drivers_do_not_get_it, 120)
{
	EXPECT_NE(0, write_file(DRIVERS "device_dax/bind", victim->name));
	EXPECT_TRUE(is_bound_to("fsdev_dax", victim->name));
	expect_here();
	expect_stays();
	finish();
}

/* An unbound device may be bound to another driver; the mount stays without it. */
TEST_F_TIMEOUT(destroyed, other_driver_afterwards, 120)
{
	ASSERT_EQ(0, write_file(FSDEV "/unbind", victim->name));
	if (write_file(DRIVERS "device_dax/bind", victim->name)) {
		finish();
		SKIP(return, "device_dax does not take this device");
	}
	expect_gone();
	expect_stays();
	ASSERT_TRUE(is_bound_to("device_dax", victim->name));
	finish();
}

/* daxctl reconfigure-device -f would have to unbind the device first. */
TEST_F_TIMEOUT(destroyed, reconfigured, 120)
{
	int ret = run("daxctl reconfigure-device -f -m devdax %s", victim->name);

	/* It either did all of that, or nothing. */
	if (is_bound_to("fsdev_dax", victim->name) && ret)
		expect_here();
	else if (touch(self->gone, -1))
		expect_gone();
	expect_stays();
	finish();
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
