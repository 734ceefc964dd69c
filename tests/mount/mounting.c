// SPDX-License-Identifier: GPL-2.0
/*
 * Mounting: which tasks get an offer of file maps, the ways to mount, and what
 * concerns a mount as a whole.
 *
 * An offer is for a task that has CAP_SYS_RAWIO and mounts for itself. A server must
 * not get one if a privileged task mounts on its behalf: a set-user-ID helper for its
 * user, root for another owner, or root with a file system context that was made in
 * a user namespace. (negotiate.c has tasks without the capability.)
 *
 * The super_operations and options of an fmap mount behave as on any FUSE mount.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/quota.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/fs.h>
#include <linux/loop.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(64 * KIB)
#define NOBODY	65534

FIXTURE(mounting) {
	struct fuse_server *s;
	struct scripted map;
	long refs;
	int klog;
};

FIXTURE_SETUP(mounting)
{
	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, SIZE);
	self->refs = module_refs();
	self->klog = klog_open();
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
}

FIXTURE_TEARDOWN(mounting)
{
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

static bool offered(const struct fuse_server *s)
{
	return s->init.unused[FUSE_DAX_FMAP_INIT_IN_MAGIC] == FUSE_DAX_FMAP_MAGIC;
}

/* Returns true if a write to @path goes to the device, and not to the server. */
static bool is_mapped(struct fuse_server *s, const char *path)
{
	unsigned int writes = s->count[FUSE_WRITE];
	int fd = open(path, O_RDWR | O_CLOEXEC);
	bool works;

	if (fd < 0)
		return false;
	works = pwrite(fd, "d", 1, 0) == 1 && byte_at(fd, 0) == 'd';
	close(fd);
	return works && s->count[FUSE_WRITE] == writes;
}

/* The server was a thread of a child that has exited. */
static void forget_server(struct fuse_server *s)
{
	umount2(s->dir, MNT_DETACH);
	s->mounted = false;
	s->running = false;
	s->fd = -1;
}

/* ---- tasks that mount ---- */

/* Run fusermount3, which sends the descriptor of the mount to the socket @comm. */
static int fusermount(const char *program, int comm, const char *a, const char *b,
		      const char *c)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		char env[16];

		snprintf(env, sizeof(env), "%d", comm);
		setenv("_FUSE_COMMFD", env, 1);
		execl(program, "fusermount3", a, b, c, NULL);
		_exit(127);
	}
	return pid < 0 || waitpid(pid, &status, 0) != pid ? -1 : status;
}

static int receive_fd(int sock)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	int fd;

	if (recvmsg(sock, &msg, 0) != 1)
		return -1;
	c = CMSG_FIRSTHDR(&msg);
	if (!c || c->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

/* As an ordinary user: mount with the helper, serve, use. Returns the exit code. */
static int mount_with_helper(struct fuse_server *s, const char *program)
{
	int sock[2], fd;
	char c;

	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		return 100;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		return 101;
	if (fusermount(program, sock[0], "-o", "rw", s->dir))
		return KSFT_SKIP;
	fd = receive_fd(sock[1]);
	if (fd < 0 || fs_serve(s, fd))
		return 102;
	fd = fs_open(s, "file", O_RDWR);
	if (fd < 0)
		return 103;
	/* The bytes that the server returns for READ. */
	if (pread(fd, &c, 1, 0) != 1 || c != 'a')
		return 104;
	close(fd);
	if (s->count[FUSE_GET_FMAP] || offered(s))
		return 105;
	return fusermount(program, -1, "-u", s->dir, NULL) ? 106 : 0;
}

TEST_F(mounting, helper_of_an_ordinary_user)
{
	char program[96];
	struct stat dev;
	char cmd[256];
	int status;
	pid_t pid;

	snprintf(program, sizeof(program), "%s.fusermount3", self->s->dir);
	snprintf(cmd, sizeof(cmd), "cp /usr/bin/fusermount3 %s && chmod 4755 %s",
		 program, program);
	if (system(cmd))
		SKIP(return, "there is no fusermount3");
	ASSERT_EQ(0, stat("/dev/fuse", &dev));
	ASSERT_EQ(0, chmod("/dev/fuse", 0666));
	EXPECT_EQ(0, chown(self->s->dir, NOBODY, NOBODY));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(mount_with_helper(self->s, program));
	EXPECT_EQ(pid, waitpid(pid, &status, 0));
	forget_server(self->s);
	chmod("/dev/fuse", dev.st_mode & 07777);
	unlink(program);
	if (status == W_EXITCODE(KSFT_SKIP, 0))
		SKIP(return, "fusermount3 does not work here");
	EXPECT_EQ(0, status);
	EXPECT_EQ(1, self->s->count[FUSE_INIT]);
}

/* Root mounts, but user_id= names another user. */
TEST_F(mounting, for_another_owner)
{
	self->s->owner = NOBODY;
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_FALSE(offered(self->s));
	EXPECT_EQ(0, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(self->refs, module_refs());
}

/* A set-user-ID program mounts as root: the privilege is not that of its user. */
TEST_F(mounting, effective_user_alone)
{
	ASSERT_EQ(0, setresuid(NOBODY, 0, 0));
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_FALSE(offered(self->s));
	EXPECT_EQ(0, self->s->count[FUSE_GET_FMAP]);
	ASSERT_EQ(0, setresuid(0, 0, 0));
}

/* A daemon that is not root, but has the capabilities, mounts for itself. */
TEST_F(mounting, capable_without_being_root)
{
	int status;
	pid_t pid;

	chown(self->s->dir, NOBODY, NOBODY);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		self->s->owner = NOBODY;
		/* The capabilities stay effective after the change of user. */
		if (prctl(PR_SET_SECUREBITS, 1 << 2 /* NO_SETUID_FIXUP */) ||
		    setresuid(NOBODY, NOBODY, NOBODY))
			_exit(KSFT_SKIP);
		_exit(fs_mount(self->s) || !is_mapped(self->s, fs_path(self->s, "file")));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	forget_server(self->s);
	if (status == W_EXITCODE(KSFT_SKIP, 0))
		SKIP(return, "capabilities cannot be kept");
	EXPECT_EQ(0, status);
	EXPECT_TRUE(offered(self->s));
}

/* In a user namespace: configure an fs_context of FUSE, but do not create the mount. */
static int make_context(int fuse)
{
	char fd[16];
	int context;

	snprintf(fd, sizeof(fd), "%d", fuse);
	context = syscall(SYS_fsopen, "fuse", 0);
	if (context < 0 ||
	    syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "fd", fd, 0) ||
	    syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "rootmode", "40000", 0) ||
	    syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "user_id", "0", 0) ||
	    syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "group_id", "0", 0))
		return -1;
	return context;
}

/* Root creates a mount from an fs_context that was made in a user namespace. */
TEST_F(mounting, context_of_a_user_namespace)
{
	int pidfd, fuse, context, fds[2], report[2];
	pid_t pid;

	ASSERT_EQ(0, pipe(report));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS) ||
		    write_file("/proc/self/setgroups", "deny") ||
		    write_file("/proc/self/uid_map", "0 0 1") ||
		    write_file("/proc/self/gid_map", "0 0 1"))
			_exit(1);
		fds[0] = open("/dev/fuse", O_RDWR);
		fds[1] = make_context(fds[0]);
		if (fds[1] >= 0 && write(report[1], fds, sizeof(fds)) > 0)
			pause();
		_exit(1);
	}
	close(report[1]);
	if (read(report[0], fds, sizeof(fds)) != sizeof(fds))
		SKIP(return, "user namespaces are not available");
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	fuse = syscall(SYS_pidfd_getfd, pidfd, fds[0], 0);
	context = syscall(SYS_pidfd_getfd, pidfd, fds[1], 0);
	ASSERT_LE(0, fuse);
	ASSERT_LE(0, context);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);

	ASSERT_EQ(0, syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	ASSERT_EQ(0, fs_serve(self->s, fuse));
	ASSERT_TRUE(fs_wait(self->s, FUSE_INIT, 1));
	EXPECT_FALSE(offered(self->s));
	EXPECT_EQ(self->refs, module_refs());
	self->s->mounted = false;	/* it was never attached to a directory */
	close(context);			/* drops the superblock */
}

/* ---- ways to mount ---- */

/* A mount point beside the server's. */
static void other_dir(struct fuse_server *s, char *path, size_t size)
{
	snprintf(path, size, "%s.2", s->dir);
	mkdir(path, 0755);
}

/* The same connection mounted again is the same superblock. */
TEST_F(mounting, one_connection_twice)
{
	char dir[80], file[96], opts[96];
	struct stat a, b;

	ASSERT_EQ(0, fs_mount(self->s));
	other_dir(self->s, dir, sizeof(dir));
	snprintf(file, sizeof(file), "%s/file", dir);
	snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=0,group_id=0",
		 self->s->fd);
	ASSERT_EQ(0, mount("fmap-test", dir, "fuse", 0, opts));
	EXPECT_TRUE(is_mapped(self->s, file));
	EXPECT_TRUE(is_mapped(self->s, fs_path(self->s, "file")));
	ASSERT_EQ(0, stat(dir, &a));
	ASSERT_EQ(0, stat(self->s->dir, &b));
	EXPECT_EQ(a.st_dev, b.st_dev);
	EXPECT_EQ(1, self->s->count[FUSE_INIT]);
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(self->refs + 1, module_refs());
	/* It lives until it is unmounted everywhere. */
	EXPECT_EQ(0, umount(self->s->dir));
	EXPECT_TRUE(is_mapped(self->s, file));
	EXPECT_EQ(self->refs + 1, module_refs());
	EXPECT_EQ(0, umount(dir));
	self->s->mounted = false;
	rmdir(dir);
}

/* Two servers use the same ops, each with a device of its own. */
TEST_F(mounting, two_servers)
{
	struct scripted map = fmap_linear(1, 0, SIZE);
	struct fuse_server *t = fmap_server(SCRIPTED_OPS_NAME);

	ASSERT_NE(NULL, t);
	fs_add(t, "file", SIZE, &map, sizeof(map));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_mount(t));
	ASSERT_EQ(0, fs_fill(self->s, "file", 's', SIZE));
	ASSERT_EQ(0, fs_fill(t, "file", 't', SIZE));
	EXPECT_TRUE(is_mapped(self->s, fs_path(self->s, "file")));
	EXPECT_EQ(self->refs + 2, module_refs());
	EXPECT_EQ(0, fs_stop(t));
	EXPECT_TRUE(is_mapped(self->s, fs_path(self->s, "file")));
	EXPECT_TRUE(module_refs_wait(self->refs + 1));
}

TEST_F(mounting, remounted)
{
	unsigned char *p;
	int fd;

	ASSERT_EQ(0, fs_mount(self->s));
	p = fs_map(self->s, "file", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p);
	/* A writable shared mapping keeps the mount from becoming read-only. */
	EXPECT_EQ(-1, mount(NULL, self->s->dir, NULL, MS_REMOUNT | MS_RDONLY, NULL));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(0, touch(p, 1));
	munmap(p, SIZE);
	ASSERT_EQ(0, mount(NULL, self->s->dir, NULL, MS_REMOUNT | MS_RDONLY, NULL));
	EXPECT_EQ(-EROFS, fs_open(self->s, "file", O_RDWR));
	fd = fs_open(self->s, "file", O_RDONLY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, byte_at(fd, 0));
	close(fd);
	ASSERT_EQ(0, mount(NULL, self->s->dir, NULL, MS_REMOUNT, NULL));
	EXPECT_TRUE(is_mapped(self->s, fs_path(self->s, "file")));
}

/* Make a loop device of @size bytes; @path is its name. Returns its number or -1. */
static int loop_add(char *path, size_t len, off_t size)
{
	int control, loop, file, n;

	if (system("modprobe -q loop"))
		return -1;
	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	file = memfd_create("loop", MFD_CLOEXEC);
	n = ioctl(control, LOOP_CTL_GET_FREE);
	snprintf(path, len, "/dev/loop%d", n);
	loop = open(path, O_RDWR | O_CLOEXEC);
	if (n >= 0 && (ftruncate(file, size) || ioctl(loop, LOOP_SET_FD, file)))
		n = -1;
	close(control);
	close(file);
	close(loop);
	return n;
}

static void loop_remove(const char *path)
{
	int loop = open(path, O_RDWR | O_CLOEXEC);
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	ioctl(loop, LOOP_CLR_FD, 0);
	close(loop);
	ioctl(control, LOOP_CTL_REMOVE, atoi(path + strlen("/dev/loop")));
	close(control);
}

/* fuseblk is attached if its block size is the page size; else the log says why not. */
FIXTURE(fuseblk) {
	struct fuse_server *s;
	struct scripted map;
	char path[32];
	bool had_loop;
	long refs;
	int klog;
};

FIXTURE_SETUP(fuseblk)
{
	FMAP_REQUIRE();
	self->had_loop = !access("/sys/module/loop", F_OK);
	if (loop_add(self->path, sizeof(self->path), MIB) < 0)
		SKIP(return, "no loop device can be had");
	self->refs = module_refs();
	self->klog = klog_open();
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	self->s->type = "fuseblk";
	self->s->source = self->path;
}

FIXTURE_TEARDOWN(fuseblk)
{
	EXPECT_EQ(0, fs_stop(self->s));
	loop_remove(self->path);
	if (!self->had_loop)
		system("modprobe -qr loop");
	EXPECT_TRUE(module_refs_wait(self->refs));
}

TEST_F(fuseblk, attached)
{
	self->s->more_opts = ",blksize=4096";
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_TRUE(is_mapped(self->s, fs_path(self->s, "file")));
	EXPECT_EQ(self->refs + 1, module_refs());
	EXPECT_EQ(0, fs_umount(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
	EXPECT_EQ(1, self->s->count[FUSE_DESTROY]);
}

TEST_F(fuseblk, small_blocks)
{
	self->s->more_opts = ",blksize=512";
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(-ENOTCONN, fs_try(self->s, "file"));
	EXPECT_TRUE(klog_wait(self->klog, LOG_PREFIX, "block size"));
}

TEST_F(fuseblk, plain)
{
	self->s->ops_name[0] = 0;
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(0, self->s->count[FUSE_GET_FMAP]);
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/*
 * Only virtiofs offers automatic submounts. A server that returns FUSE_ATTR_SUBMOUNT
 * without the offer gets a single superblock, in which all files can be mapped.
 */
#define SUB_NODEID	1000

static void lookup_submount(struct fuse_server *s, const struct fuse_in_header *in,
			    const void *arg)
{
	struct fuse_entry_out entry = {
		.nodeid = SUB_NODEID,
		.entry_valid = 3600,
		.attr_valid = 3600,
		.attr = {
			.ino = SUB_NODEID,
			.mode = S_IFDIR | 0755,
			.nlink = 2,
			.blksize = 4096,
			.flags = FUSE_ATTR_SUBMOUNT,
		},
	};

	if (in->nodeid == SUB_NODEID || strcmp(arg, "sub"))
		fs_default(s, in, arg);
	else
		fs_reply(s, in, 0, &entry, sizeof(entry));
}

static void init_with_submounts(struct fuse_server *s, const struct fuse_in_header *in,
				const void *arg)
{
	struct fuse_init_in in_arg;

	memcpy(&in_arg, arg, sizeof(in_arg));
	in_arg.flags |= FUSE_SUBMOUNTS;	/* as if it had been offered */
	fs_default(s, in, &in_arg);
}

TEST_F(mounting, submount)
{
	struct stat top, sub;

	self->s->init_flags |= FUSE_SUBMOUNTS;
	self->s->hook[FUSE_INIT] = init_with_submounts;
	self->s->hook[FUSE_LOOKUP] = lookup_submount;
	ASSERT_EQ(0, fs_mount(self->s));
	EXPECT_FALSE(self->s->init.flags & FUSE_SUBMOUNTS);
	ASSERT_EQ(0, stat(self->s->dir, &top));
	ASSERT_EQ(0, stat(fs_path(self->s, "sub"), &sub));
	EXPECT_EQ(top.st_dev, sub.st_dev);
	EXPECT_TRUE(is_mapped(self->s, fs_path(self->s, "sub/file")));
}

/* ---- the mount as a whole ---- */

/* The options in mountinfo, without the descriptor. */
static int options_of(const char *dir, char *buf, size_t size)
{
	FILE *f = fopen("/proc/self/mountinfo", "r");
	char line[1024];
	int err = -ENOENT;

	while (f && fgets(line, sizeof(line), f)) {
		char *at = strstr(line, dir), *sep = strstr(line, " - ");

		if (at && sep && at < sep && at[strlen(dir)] == ' ') {
			snprintf(buf, size, "%s", sep);
			err = 0;
		}
	}
	if (f)
		fclose(f);
	return err;
}

TEST_F(mounting, as_any_other)
{
	struct fuse_server *plain = fmap_server("");
	char bound_opts[512], plain_opts[512];
	char *end;
	struct statfs sf;
	struct dqblk quota;
	int fd, fails;

	ASSERT_NE(NULL, plain);
	fs_add(plain, "file", SIZE, NULL, 0);
	ASSERT_EQ(0, fs_mount(plain));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_TRUE(is_mapped(self->s, fs_path(self->s, "file")));

	ASSERT_EQ(0, options_of(plain->dir, plain_opts, sizeof(plain_opts)));
	ASSERT_EQ(0, options_of(self->s->dir, bound_opts, sizeof(bound_opts)));
	/* An fmap mount shows that FUSE's own DAX is off. */
	end = strstr(bound_opts, ",dax=never\n");
	if (end)
		strcpy(end, "\n");
	EXPECT_STREQ(plain_opts, bound_opts);

	EXPECT_EQ(0, statfs(self->s->dir, &sf));
	EXPECT_EQ(0x65735546, sf.f_type);
	EXPECT_EQ(1, self->s->count[FUSE_STATFS]);

	fd = fs_open(self->s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, syncfs(fd));
	sync();
	/* FUSE cannot be frozen, so there is nothing to thaw. */
	EXPECT_EQ(-1, ioctl(fd, FIFREEZE, 0));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, ioctl(fd, FITHAW, 0));
	EXPECT_EQ(1, pwrite(fd, "x", 1, 0));

	/* FUSE has no quotas either. */
	fails = syscall(SYS_quotactl_fd, fd, QCMD(Q_GETQUOTA, USRQUOTA), 0, &quota);
	EXPECT_EQ(-1, fails);
	EXPECT_TRUE(errno == ENOSYS || errno == ESRCH);
	close(fd);
	EXPECT_EQ(0, fs_stop(plain));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
