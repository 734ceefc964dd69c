// SPDX-License-Identifier: GPL-2.0
/*
 * The mounts of torture: one after the other at the same place, each with its own server
 * and its own way to end. A mount that was unmounted lazily lives on beside its
 * successors.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "torture.h"

#define OLD	8		/* servers whose mounts are not gone yet */
#define DEAD	3000		/* ms after which a dead server's connection is aborted */

static struct {
	pid_t	pid;
	unsigned int minor;
	double	killed;		/* when, or 0 */
} old[OLD];

void abort_connection(unsigned int minor)
{
	char path[64];

	snprintf(path, sizeof(path), FUSECTL "/%u/abort", minor);
	write_file(path, "1");
}

/*
 * Servers end with their connection. A server that was killed in a notification may hang,
 * as in any FUSE mount: it waits for a task that waits for the server. So abort its
 * connection.
 */
static unsigned int look_after(void)
{
	unsigned int left = 0;

	for (int i = 0; i < OLD; i++) {
		if (old[i].pid <= 0)
			continue;
		if (waitpid(old[i].pid, NULL, WNOHANG)) {
			old[i].pid = 0;
			continue;
		}
		left++;
		if (old[i].killed && torture_now() - old[i].killed > DEAD / 1e3) {
			abort_connection(old[i].minor);
			old[i].killed = torture_now();
			w->aborted++;
		}
	}
	return left;
}

static void remember(pid_t pid, unsigned int minor, bool killed)
{
	for (;;) {
		for (int i = 0; i < OLD; i++)
			if (!old[i].pid) {
				old[i].pid = pid;
				old[i].minor = minor;
				old[i].killed = killed ? torture_now() : 0;
				return;
			}
		look_after();
		usleep(10000);
	}
}

/* umount(2) waits for pages in use, and the name of its task says so. 0 or -errno. */
static int unmount(const char *dir)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_NAME, WAITS_FOR_PAGES);
		_exit(umount2(dir, 0) ? errno : 0);
	}
	if (pid < 0)
		return -EAGAIN;
	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (w->stop) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return -EINTR;
		}
		usleep(1000);
	}
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EINTR;
}

/* A way to end that this round has. */
static enum kind some_end(struct rng *r)
{
	enum kind k = K_FIRST_END + below(r, KINDS - K_FIRST_END + 1);

	return k == KINDS || !w->on[k] ? KINDS : k;
}

/* True if the server was killed. */
static bool end(struct rng *r, const char *dir, pid_t server, unsigned int minor)
{
	bool killed = false;

	switch (some_end(r)) {
	case K_DETACH:
		break;
	case K_FORCE:
		if (chance(r, 50))
			umount2(dir, MNT_FORCE);
		else
			abort_connection(minor);
		nap(r, 300);
		break;
	case K_STOP:
		kill(server, SIGSTOP);
		nap(r, 3000);
		killed = chance(r, 50);
		kill(server, killed ? SIGKILL : SIGCONT);
		break;
	case K_KILL:
		kill(server, SIGKILL);
		killed = true;
		nap(r, 300);
		break;
	default:
		for (int i = 0; i < 20 && !w->stop; i++) {
			if (unmount(dir) != -EBUSY)
				break;
			nap(r, 20);
		}
	}
	umount2(dir, MNT_DETACH);
	return killed;
}

static void serve(unsigned int n, int fd, struct rng *r)
{
	char name[16];

	snprintf(name, sizeof(name), "tt-server%u", n);
	prctl(PR_SET_NAME, name);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	torture_serve(n, fd, r);
	_exit(1);
}

static void one_mount(unsigned int n, struct rng *r)
{
	struct place *place = &w->place[n];
	bool sync_init = chance(r, 40);
	struct rng stream = { rnd(r) };
	char opts[160];
	struct statx stx;
	double since, life;
	pid_t pid;
	int fd;

	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0 || (sync_init && ioctl(fd, FUSE_DEV_IOC_SYNC_INIT))) {
		broken("no connection: %s", strerror(errno));
		return;
	}
	pid = fork();
	if (!pid)
		serve(n, fd, &stream);
	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=%u,group_id=0,allow_other%s", fd,
		 n == OTHER ? 1000 : 0, chance(r, 70) ? ",default_permissions" : "");
	if (pid < 0 || mount("fmap-torture", place->dir, "fuse", 0, opts)) {
		if (errno != EINTR)
			broken("mount: %s", strerror(errno));
		close(fd);
		if (pid > 0) {
			kill(pid, SIGKILL);
			remember(pid, 0, true);
		}
		return;
	}
	close(fd);		/* the server's is the last descriptor */
	w->mounted++;
	since = torture_now();
	if (!statx(AT_FDCWD, place->dir, AT_STATX_DONT_SYNC, 0, &stx))
		place->minor = stx.stx_dev_minor;
	place->server = pid;
	life = torture_slowness() * (0.2 + below(r, n == OTHER ? 8000 : 4000) / 1e3);
	for (; !w->stop && torture_now() - since < life; look_after())
		usleep(10000);
	w->ms_mounted += (unsigned long)((torture_now() - since) * 1000);
	remember(pid, place->minor, end(r, place->dir, pid, place->minor));
	place->server = 0;
	/* In most cases, wait until the devices are free. */
	for (int ms = 0; chance(r, 98) && look_after() && ms < 500 && !w->stop; ms += 10)
		usleep(10000);
}

void keep_mounted(unsigned int n, uint64_t seed)
{
	struct rng r = { seed };
	double since;

	while (!w->stop)
		one_mount(n, &r);
	while (!umount2(w->place[n].dir, MNT_DETACH))
		;
	since = torture_now();
	while (look_after() && torture_now() - since < torture_patience() / 1e3)
		usleep(10000);
	for (int i = 0; i < OLD; i++) {
		if (!old[i].pid)
			continue;
		broken("a server of %s does not end: its mount is still there", w->place[n].dir);
		show_stack("server", old[i].pid);
		show_sleepers();
		abort_connection(old[i].minor);
		kill(old[i].pid, SIGKILL);
	}
}
