// SPDX-License-Identifier: GPL-2.0
/*
 * Negotiation: which mounts are offered file maps, and what an answer leads to.
 *
 * The kernel puts an offer into FUSE_INIT only if the task that mounts has
 * CAP_SYS_RAWIO in the initial user namespace (for what else it needs, see mounting.c).
 * The server names ops in its answer, or does not. The result is one of three kinds
 * of mounts, told apart here by what the first open of a file does:
 *
 *	attached	the server gets GET_FMAP, and the module is in use
 *	plain	plain FUSE: the server gets no new request
 *	failed	every operation is ENOTCONN: a server that relies on maps
 *		must not serve a mount without them
 *
 * INIT is asynchronous, or synchronous if the server asks for that; the tests run
 * with both.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/capability.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(64 * KIB)

FIXTURE(negotiate) {
	struct fuse_server *s;
	struct scripted map;
	long refs;
	int klog;
};

FIXTURE_VARIANT(negotiate) {
	bool sync_init;
};

FIXTURE_VARIANT_ADD(negotiate, async) {
	.sync_init = false,
};

FIXTURE_VARIANT_ADD(negotiate, sync) {
	.sync_init = true,
};

FIXTURE_SETUP(negotiate)
{
	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, SIZE);
	self->refs = module_refs();
	self->klog = klog_open();
	self->s = fmap_server("");
	ASSERT_NE(NULL, self->s);
	self->s->sync_init = variant->sync_init;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
}

FIXTURE_TEARDOWN(negotiate)
{
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

static bool offered(const struct fuse_server *s)
{
	return s->init.unused[FUSE_DAX_FMAP_INIT_IN_MAGIC] == FUSE_DAX_FMAP_MAGIC;
}

/* Drop CAP_SYS_RAWIO, and no other capability, in this process. */
static int drop_rawio(void)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &hdr, data))
		return -errno;
	data[0].effective &= ~(1U << CAP_SYS_RAWIO);
	return syscall(SYS_capset, &hdr, data) ? -errno : 0;
}

static int write_id_map(const char *path)
{
	return write_file(path, "0 0 1");
}

/* Become root of a new user namespace. */
static int enter_userns(void)
{
	int err;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return -errno;
	err = write_file("/proc/self/setgroups", "deny");
	if (!err)
		err = write_id_map("/proc/self/uid_map");
	if (!err)
		err = write_id_map("/proc/self/gid_map");
	return err;
}

#define expect_bound(s) do {						\
	EXPECT_EQ(0, fs_try(s, "file"));				\
	EXPECT_EQ(1, (s)->count[FUSE_GET_FMAP]);			\
	EXPECT_EQ(self->refs + 1, module_refs());			\
} while (0)

/* Plain: I/O goes to the server, and the mount has no reference to the module. */
#define expect_plain(s) do {						\
	char c;								\
	int fd = fs_open(s, "file", O_RDWR);				\
	ASSERT_LE(0, fd);						\
	EXPECT_EQ(1, pread(fd, &c, 1, 0));				\
	EXPECT_EQ('a', c);						\
	EXPECT_EQ(1, pwrite(fd, "X", 1, 0));				\
	close(fd);							\
	EXPECT_LT(0, (s)->count[FUSE_READ]);				\
	EXPECT_EQ(1, (s)->count[FUSE_WRITE]);				\
	EXPECT_EQ(0, (s)->count[FUSE_GET_FMAP]);			\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
} while (0)

/*
 * Failed: mount(2) fails if INIT is synchronous, the first operation otherwise.
 * (The former needs a server that is not "eager", see sync_race.)
 */
#define expect_failed(s) do {						\
	struct stat st;							\
	int err = fs_mount(s);						\
	if ((s)->sync_init) {						\
		EXPECT_EQ(-ENOTCONN, err);				\
	} else {							\
		ASSERT_EQ(0, err);					\
		EXPECT_EQ(-1, stat(fs_path(s, "file"), &st));		\
		EXPECT_EQ(ENOTCONN, errno);				\
		EXPECT_EQ(-ENOTCONN, fs_try(s, "file"));		\
	}								\
	EXPECT_EQ(0, (s)->count[FUSE_GET_FMAP]);			\
	EXPECT_EQ(0, (s)->count[FUSE_LOOKUP]);				\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
} while (0)

TEST_F(negotiate, offer_and_bind)
{
	struct fuse_server *s = self->s;

	strcpy(s->ops_name, SCRIPTED_OPS_NAME);
	ASSERT_EQ(0, fs_mount(s));
	expect_bound(s);
	EXPECT_TRUE(offered(s));
	EXPECT_EQ(FUSE_DAX_FMAP_ABI_VERSION,
		  s->init.unused[FUSE_DAX_FMAP_INIT_IN_VERSION]);
	/* The offer is two words and no more. */
	for (int i = 0; i < FUSE_DAX_FMAP_INIT_IN_MAGIC; i++)
		EXPECT_EQ(0, s->init.unused[i]);
}

TEST_F(negotiate, server_ignores_offer)
{
	ASSERT_EQ(0, fs_mount(self->s));
	expect_plain(self->s);
	EXPECT_TRUE(offered(self->s));
}

/* Servers older than the field send shorter replies. */
TEST_F(negotiate, short_init_reply)
{
	self->s->init_len = FUSE_COMPAT_22_INIT_OUT_SIZE;
	self->s->init_minor = 12;
	ASSERT_EQ(0, fs_mount(self->s));
	expect_plain(self->s);
}

/* A reply that ends inside the field names nothing. */
TEST_F(negotiate, name_cut_off)
{
	strcpy(self->s->ops_name, SCRIPTED_OPS_NAME);
	self->s->init_len = FUSE_DAX_FMAP_INIT_OUT_NAME + 3;
	expect_failed(self->s);
}

/* The same mount with and without the capability: only the offer differs. */
TEST_F(negotiate, withheld_without_rawio)
{
	struct fuse_init_in with;
	struct fuse_server *s;

	ASSERT_EQ(0, fs_mount(self->s));
	expect_plain(self->s);
	with = self->s->init;

	s = fmap_server("");
	ASSERT_NE(NULL, s);
	s->sync_init = variant->sync_init;
	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, drop_rawio());
	ASSERT_EQ(0, fs_mount(s));
	expect_plain(s);
	EXPECT_FALSE(offered(s));
	with.unused[FUSE_DAX_FMAP_INIT_IN_MAGIC] = 0;
	with.unused[FUSE_DAX_FMAP_INIT_IN_VERSION] = 0;
	EXPECT_EQ(0, memcmp(&with, &s->init, sizeof(with)));
	EXPECT_EQ(0, fs_stop(s));
}

/* A name without an offer means nothing. */
TEST_F(negotiate, name_without_offer)
{
	strcpy(self->s->ops_name, SCRIPTED_OPS_NAME);
	ASSERT_EQ(0, drop_rawio());
	ASSERT_EQ(0, fs_mount(self->s));
	expect_plain(self->s);
	EXPECT_FALSE(offered(self->s));
}

/* The capability counts in the initial user namespace only. */
TEST_F(negotiate, withheld_in_user_namespace)
{
	int status;
	pid_t pid;

	/* A process with threads cannot enter one, and this one must survive. */
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct fuse_server *s;

		if (enter_userns())
			_exit(KSFT_SKIP);
		s = fmap_server(SCRIPTED_OPS_NAME);
		if (!s)
			_exit(KSFT_SKIP);
		s->sync_init = variant->sync_init;
		fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
		ASSERT_EQ(0, fs_mount(s));
		expect_plain(s);
		EXPECT_FALSE(offered(s));
		EXPECT_EQ(0, fs_stop(s));
		_exit(_metadata->exit_code);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_TRUE(WIFEXITED(status));
	if (WEXITSTATUS(status) == KSFT_SKIP)
		SKIP(return, "user namespaces are not available");
}

TEST_F(negotiate, unknown_ops)
{
	strcpy(self->s->ops_name, "no-such-ops");
	expect_failed(self->s);
	EXPECT_TRUE(klog_wait(self->klog, LOG_PREFIX, "no-such-ops"));
}

TEST_F(negotiate, unterminated_name)
{
	memset(self->s->ops_name, 'x', sizeof(self->s->ops_name));
	expect_failed(self->s);
	EXPECT_TRUE(klog_wait(self->klog, LOG_PREFIX, ""));
}

TEST_F(negotiate, garbage_names)
{
	static const char garbage[][FUSE_DAX_FMAP_OPS_NAME_LEN] = {
		"\x01", "\xff\xff\xff\xff", "\n\033[2J", " scripted", "scripted ",
		"SCRIPTED", "script", "%s%s%n",
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(garbage); i++) {
		struct fuse_server *s = fmap_server("");

		ASSERT_NE(NULL, s);
		s->sync_init = variant->sync_init;
		memcpy(s->ops_name, garbage[i], sizeof(s->ops_name));
		fs_add(s, "file", SIZE, NULL, 0);
		expect_failed(s);
		EXPECT_EQ(0, fs_stop(s));
	}
}

/* INIT fails in FUSE: the module must not attach to the dead connection. */
#define expect_dead(s) do {						\
	fs_mount(s);							\
	EXPECT_GT(0, fs_try(s, "file"));				\
	EXPECT_EQ(0, (s)->count[FUSE_GET_FMAP]);			\
	EXPECT_TRUE(module_refs_wait(self->refs));			\
} while (0)

TEST_F(negotiate, init_fails)
{
	strcpy(self->s->ops_name, SCRIPTED_OPS_NAME);
	self->s->error[FUSE_INIT] = -EIO;
	expect_dead(self->s);
}

static void reply_wrong_major(struct fuse_server *s,
			      const struct fuse_in_header *in, const void *arg)
{
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION - 1 };

	memcpy((char *)&out + FUSE_DAX_FMAP_INIT_OUT_NAME, SCRIPTED_OPS_NAME,
	       sizeof(SCRIPTED_OPS_NAME));
	fs_reply(s, in, 0, &out, sizeof(out));
}

/* FUSE refuses the connection; the module must not attach to it. */
TEST_F(negotiate, wrong_major)
{
	self->s->hook[FUSE_INIT] = reply_wrong_major;
	expect_dead(self->s);
}

/* An fmap mount and a plain one at the same time. */
TEST_F(negotiate, attached_beside_plain)
{
	struct fuse_server *plain = fmap_server("");

	ASSERT_NE(NULL, plain);
	plain->sync_init = variant->sync_init;
	fs_add(plain, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(plain));
	expect_plain(plain);

	strcpy(self->s->ops_name, SCRIPTED_OPS_NAME);
	ASSERT_EQ(0, fs_mount(self->s));
	expect_bound(self->s);
	EXPECT_EQ(0, fs_try(plain, "file"));
	EXPECT_EQ(0, plain->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, fs_stop(plain));
	EXPECT_EQ(self->refs + 1, module_refs());
}

/*
 * A server that answers a synchronous INIT at once may do so before mount(2) waits
 * for the answer. The mount must then be attached or fail: it must not become a plain
 * mount of a server that named ops. It may fail just after mount(2) has returned: then
 * the first request is aborted, and all later ones are ENOTCONN.
 */
TEST(sync_race)
{
	struct scripted map = fmap_linear(0, 0, SIZE);
	unsigned int dead = 0;
	int err;

	FMAP_REQUIRE();
	for (int i = 0; i < 40; i++) {
		struct fuse_server *s = fmap_server(SCRIPTED_OPS_NAME);

		ASSERT_NE(NULL, s);
		s->sync_init = true;
		s->eager = true;
		fs_add(s, "file", SIZE, &map, sizeof(map));
		err = fs_mount(s) ?: fs_try(s, "file");
		if (err == -ECONNABORTED)
			err = fs_try(s, "file");
		if (err) {
			EXPECT_EQ(-ENOTCONN, err);
			dead++;
		} else {
			EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
		}
		fs_stop(s);
	}
	/* No mount failed in 320 tries, but the module cannot rule it out. */
	EXPECT_GE(1, dead);
}

/*
 * default_ops: the ops of privileged mounts whose servers name none, for servers
 * that are older than the field.
 */
FIXTURE(default_ops) {
	struct fuse_server *s;
	struct scripted map;
	long refs;
	char old[64];
	bool set;
};

FIXTURE_VARIANT(default_ops) {
	bool sync_init;
};

FIXTURE_VARIANT_ADD(default_ops, async) {
	.sync_init = false,
};

FIXTURE_VARIANT_ADD(default_ops, sync) {
	.sync_init = true,
};

#define DEFAULT_OPS	"/sys/module/" MODULE_NAME "/parameters/default_ops"

FIXTURE_SETUP(default_ops)
{
	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, SIZE);
	self->refs = module_refs();
	ASSERT_EQ(0, read_file(DEFAULT_OPS, self->old, sizeof(self->old)));
	self->set = true;
	ASSERT_EQ(0, write_file(DEFAULT_OPS, SCRIPTED_OPS_NAME "\n"));
	self->s = fmap_server("");
	ASSERT_NE(NULL, self->s);
	self->s->sync_init = variant->sync_init;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "other", SIZE, &self->map, sizeof(self->map));
}

/* The parameter has to be put back even if the test died. */
FIXTURE_TEARDOWN_PARENT(default_ops)
{
	char text[72];

	if (!self->set)
		return;
	snprintf(text, sizeof(text), "%s\n", self->old);
	EXPECT_EQ(0, write_file(DEFAULT_OPS, text));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

TEST_F(default_ops, reads_back)
{
	char now[64];

	ASSERT_EQ(0, read_file(DEFAULT_OPS, now, sizeof(now)));
	EXPECT_STREQ(SCRIPTED_OPS_NAME, now);
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(default_ops, server_names_none)
{
	ASSERT_EQ(0, fs_mount(self->s));
	expect_bound(self->s);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* A name in the answer to INIT takes precedence. */
TEST_F(default_ops, server_names_others)
{
	strcpy(self->s->ops_name, "no-such-ops");
	expect_failed(self->s);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* The log says so when the parameter is set, before a mount needs the ops. */
TEST_F(default_ops, nobody_registered_them)
{
	int log = klog_open();

	EXPECT_EQ(0, write_file(DEFAULT_OPS, "no-such-ops\n"));
	EXPECT_TRUE(log < 0 || klog_wait(log, "default_ops 'no-such-ops'", "registered"));
	EXPECT_EQ(0, write_file(DEFAULT_OPS, "a/b\n"));
	EXPECT_TRUE(log < 0 || klog_wait(log, "default_ops 'a/b'", "no name"));
	EXPECT_EQ(0, write_file(DEFAULT_OPS, "\n"));
	EXPECT_EQ(0, write_file(DEFAULT_OPS, SCRIPTED_OPS_NAME));
	EXPECT_EQ(0, klog_count(log, "default_ops"));
	EXPECT_EQ(0, fs_stop(self->s));
	close(log);
}

/* Ops are registered, but neither the server nor default_ops names them: one line. */
TEST_F(default_ops, there_is_none)
{
	int log = klog_open();

	/* The rate limit is ten lines in five seconds; earlier tests have used it, too. */
	sleep(6);
	ASSERT_EQ(0, write_file(DEFAULT_OPS, "\n"));
	ASSERT_EQ(0, fs_mount(self->s));
	expect_plain(self->s);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(log < 0 || klog_wait(log, LOG_PREFIX, "names no ops"));
	EXPECT_EQ(0, klog_count(log, LOG_PREFIX));
	close(log);
}

/* A server without GET_FMAP gets plain FUSE I/O, and the request only once. */
TEST_F(default_ops, server_without_maps)
{
	struct fuse_server *s = self->s;
	char c;
	int fd;

	s->error[FUSE_GET_FMAP] = -ENOSYS;
	ASSERT_EQ(0, fs_mount(s));
	fd = fs_open(s, "file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, pread(fd, &c, 1, 0));
	EXPECT_EQ('a', c);
	EXPECT_EQ(1, pwrite(fd, "X", 1, 0));
	close(fd);
	EXPECT_EQ(0, fs_try(s, "other"));
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, s->count[FUSE_WRITE]);
	EXPECT_EQ(0, fs_stop(s));
}

TEST_F(default_ops, not_for_the_unprivileged)
{
	ASSERT_EQ(0, drop_rawio());
	ASSERT_EQ(0, fs_mount(self->s));
	expect_plain(self->s);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* A mount that had no offer leaves no such line in the log. */
TEST_F(default_ops, nothing_to_say_to_the_unprivileged)
{
	int log = klog_open();

	ASSERT_EQ(0, write_file(DEFAULT_OPS, "\n"));
	ASSERT_EQ(0, drop_rawio());
	ASSERT_EQ(0, fs_mount(self->s));
	expect_plain(self->s);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_EQ(0, klog_count(log, LOG_PREFIX));
	close(log);
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
