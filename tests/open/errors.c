// SPDX-License-Identifier: GPL-2.0
/*
 * Errors and wrong answers of a server to GET_FMAP and GET_DAXDEV.
 *
 * After each of them the open must fail with the right errno, the mount must stay
 * usable, and the next open must start from scratch: the server gives the right answer
 * then, and the file has to work. A path that does not lead to a DAX device bound to
 * fsdev_dax must never be used as one, nor even be opened.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(64 * KIB)

FIXTURE(errors) {
	struct fuse_server *s;
	struct scripted map;
	int klog;
};

/* The answer that the hooks send; the server is a thread of the test. */
static unsigned char answer[FUSE_DAX_FMAP_BLOB_MAX + 4096];
static size_t answer_len;
static _Atomic int answer_refused;

static void reply_answer(struct fuse_server *s, const struct fuse_in_header *in,
			 const void *arg)
{
	answer_refused = fs_reply(s, in, 0, answer, answer_len);
	/* If FUSE refused the reply, it has ended the request with an error. */
}

/* The errno with which FUSE refused the answer. The opener may return before that is known. */
static int refused(void)
{
	int err = 0;

	for (int ms = 0; !err && ms < FS_PATIENCE; ms++) {
		err = atomic_exchange(&answer_refused, 0);
		if (!err)
			usleep(1000);
	}
	return err;
}

FIXTURE_SETUP(errors)
{
	FMAP_REQUIRE();
	self->klog = klog_open();
	FMAP_MOUNT_ONE_FILE(0, SIZE);
}

FIXTURE_TEARDOWN(errors)
{
	EXPECT_EQ(0, fs_stop(self->s));
}

/* With right answers the file opens and works, whatever was tried before. */
#define expect_recovered() do {						\
	self->s->hook[FUSE_GET_FMAP] = NULL;				\
	self->s->hook[FUSE_GET_DAXDEV] = NULL;				\
	self->s->error[FUSE_GET_FMAP] = 0;				\
	self->s->error[FUSE_GET_DAXDEV] = 0;				\
	self->s->devices[0] = daxdev[0].path;				\
	unsigned char *p = fs_map(self->s, "file", SIZE, PROT_READ | PROT_WRITE); \
	ASSERT_NE(MAP_FAILED, p);					\
	EXPECT_EQ(0, touch(p, 1));					\
	munmap(p, SIZE);						\
} while (0)

static bool has_a_meaning(int error)
{
	return error == ENODATA || error == ENOENT || error == ENOSYS ||
	       error == ERANGE;
}

TEST_F(errors, get_fmap_fails)
{
	struct fuse_server *s = self->s;

	for (int error = 1; error <= EHWPOISON; error++) {
		if (has_a_meaning(error))
			continue;
		s->error[FUSE_GET_FMAP] = -error;
		EXPECT_EQ(-error, fs_try(s, "file")) {
			TH_LOG("GET_FMAP answered with %s", strerrorname_np(error));
		}
	}
	EXPECT_EQ(0, s->count[FUSE_GET_DAXDEV]);
	EXPECT_EQ(0, s->refused);
	expect_recovered();
}

TEST_F(errors, get_daxdev_fails)
{
	struct fuse_server *s = self->s;

	for (int error = 1; error <= EHWPOISON; error++) {
		s->error[FUSE_GET_DAXDEV] = -error;
		EXPECT_EQ(-error, fs_try(s, "file")) {
			TH_LOG("GET_DAXDEV answered with %s", strerrorname_np(error));
		}
	}
	expect_recovered();
}

/* FUSE refuses replies with invalid errors, and continues to wait. */
static void reply_impossible(struct fuse_server *s,
			     const struct fuse_in_header *in, const void *arg)
{
	fs_reply(s, in, -512, NULL, 0);
	fs_reply(s, in, INT_MIN, NULL, 0);
	fs_reply(s, in, 5, NULL, 0);
	fs_default(s, in, arg);
}

TEST_F(errors, impossible_errno)
{
	self->s->hook[FUSE_GET_FMAP] = reply_impossible;
	self->s->hook[FUSE_GET_DAXDEV] = reply_impossible;
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(6, self->s->refused);
}

/* FUSE refuses replies to requests that it did not send, or that have been answered. */
static void reply_twice(struct fuse_server *s, const struct fuse_in_header *in,
			const void *arg)
{
	struct fuse_in_header other = *in;

	other.unique += 1000;
	fs_default(s, &other, arg);
	fs_default(s, in, arg);
	fs_default(s, in, arg);
}

TEST_F(errors, answered_twice)
{
	self->s->hook[FUSE_GET_FMAP] = reply_twice;
	self->s->hook[FUSE_GET_DAXDEV] = reply_twice;
	EXPECT_EQ(0, fs_try(self->s, "file"));
	/* The opener goes on with the second answer, while the server writes the third. */
	for (int ms = 0; ms < FS_PATIENCE && self->s->refused < 4; ms++)
		usleep(1000);
	EXPECT_EQ(4, self->s->refused);
	EXPECT_EQ(1, self->s->count[FUSE_GET_FMAP]);
}

/* The parser gets a map that is too short, even an empty one, and refuses it. */
TEST_F(errors, short_map)
{
	struct fuse_server *s = self->s;

	s->hook[FUSE_GET_FMAP] = reply_answer;
	memcpy(answer, &self->map, sizeof(self->map));
	for (answer_len = 0; answer_len < sizeof(self->map); answer_len++) {
		EXPECT_GT(0, fs_try(s, "file")) {
			TH_LOG("a map of %zu bytes", answer_len);
		}
	}
	EXPECT_EQ(0, s->count[FUSE_GET_DAXDEV]);
	expect_recovered();
}

/* A map larger than the request allows: FUSE refuses the reply, and the open fails. */
TEST_F(errors, long_map)
{
	struct fuse_server *s = self->s;

	s->hook[FUSE_GET_FMAP] = reply_answer;
	memcpy(answer, &self->map, sizeof(self->map));
	answer_len = FUSE_DAX_FMAP_BLOB_MIN + 1;
	EXPECT_GT(0, fs_try(s, "file"));
	EXPECT_EQ(EINVAL, refused());
	answer_len = sizeof(answer);
	EXPECT_GT(0, fs_try(s, "file"));
	EXPECT_EQ(EINVAL, refused());
	expect_recovered();
}

/* The kernel does not interpret a map, and the parser gets all of it. */
TEST_F(errors, garbage_map)
{
	struct fuse_server *s = self->s;

	s->hook[FUSE_GET_FMAP] = reply_answer;
	srandom(1);
	for (int round = 0; round < 50; round++) {
		struct scripted *map = (void *)answer;

		answer_len = sizeof(*map) + random() % 1000;
		for (size_t i = 0; i < answer_len; i++)
			answer[i] = random();
		map->dev_bitmap &= 1;
		/* The parser may accept garbage; then it must be safe to fault, too. */
		unsigned char *p = fs_map(s, "file", SIZE, PROT_READ);

		EXPECT_EQ(answer_len, fmap_seen()->blob_size);
		if (p == MAP_FAILED)
			continue;
		touch(p, -1);
		munmap(p, SIZE);
	}
}

TEST_F(errors, short_daxdev)
{
	struct fuse_get_daxdev_out *out = (void *)answer;
	struct fuse_server *s = self->s;

	s->hook[FUSE_GET_DAXDEV] = reply_answer;
	memset(answer, 0, sizeof(*out));
	strcpy(out->name, daxdev[0].path);
	for (answer_len = 0; answer_len < sizeof(*out); answer_len++) {
		EXPECT_GT(0, fs_try(s, "file")) {
			TH_LOG("a device of %zu bytes", answer_len);
		}
	}
	answer_len = sizeof(*out) + 1;
	EXPECT_GT(0, fs_try(s, "file"));
	EXPECT_EQ(EINVAL, refused());
	expect_recovered();
}

TEST_F(errors, unterminated_path)
{
	struct fuse_get_daxdev_out *out = (void *)answer;
	struct fuse_server *s = self->s;

	s->hook[FUSE_GET_DAXDEV] = reply_answer;
	answer_len = sizeof(*out);
	memset(answer, 0, sizeof(*out));
	memset(out->name, '/', sizeof(out->name));
	memcpy(out->name + sizeof(out->name) - strlen(daxdev[0].path),
	       daxdev[0].path, strlen(daxdev[0].path));
	EXPECT_GT(0, fs_try(s, "file"));
	expect_recovered();
}

/* The index in the reply and the reserved fields are ignored. */
TEST_F(errors, index_is_not_checked)
{
	struct fuse_get_daxdev_out *out = (void *)answer;
	struct fuse_server *s = self->s;

	s->hook[FUSE_GET_DAXDEV] = reply_answer;
	answer_len = sizeof(*out);
	memset(answer, 0xff, offsetof(struct fuse_get_daxdev_out, name));
	memset(out->name, 0, sizeof(out->name));
	strcpy(out->name, daxdev[0].path);
	EXPECT_EQ(0, fs_try(s, "file"));
}

FIXTURE(path) {
	struct fuse_server *s;
	struct scripted map;
	char file[32];
	int klog;
};

FIXTURE_VARIANT(path) {
	const char *path;	/* NULL: a regular file */
	int error;		/* 0: any */
};

#define BAD_PATH(name, p, e) FIXTURE_VARIANT_ADD(path, name) { .path = p, .error = e }
BAD_PATH(missing, "/dev/dax99.99", -ENOENT);
BAD_PATH(empty, "", 0);
BAD_PATH(relative, "dev/dax0.0", -EINVAL);
BAD_PATH(directory, "/dev", 0);
BAD_PATH(regular, NULL, 0);
BAD_PATH(null, "/dev/null", 0);
BAD_PATH(fuse, "/dev/fuse", 0);
BAD_PATH(console, "/dev/console", 0);
BAD_PATH(proc, "/proc/self/mem", 0);
BAD_PATH(below_a_file, "/dev/null/x", -ENOTDIR);

FIXTURE_SETUP(path)
{
	int fd;

	FMAP_REQUIRE();
	strcpy(self->file, "/tmp/fmap.XXXXXX");
	fd = mkstemp(self->file);
	ASSERT_LE(0, fd);
	close(fd);
	self->map = fmap_linear(0, 0, SIZE);
	self->klog = klog_open();
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	self->s->devices[0] = variant->path ?: self->file;
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
}

FIXTURE_TEARDOWN(path)
{
	unlink(self->file);
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(path, refused)
{
	int err = fs_try(self->s, "file");

	EXPECT_GT(0, err);
	if (variant->error)
		EXPECT_EQ(variant->error, err);
	EXPECT_TRUE(klog_wait(self->klog, LOG_PREFIX, ""));
	expect_recovered();
}

/*
 * The path is looked up as the mounter, when the device is needed. So it may be a
 * symbolic link, also one that is made after mount(2).
 */
TEST_F(errors, symlink)
{
	char link[] = "/tmp/fmap.XXXXXX";

	close(mkstemp(link));
	unlink(link);
	ASSERT_EQ(0, symlink(daxdev[0].path, link));
	self->s->devices[0] = link;
	EXPECT_EQ(0, fs_try(self->s, "file"));
	unlink(link);
}

/* The path leads to the file that is being opened: an error, and no deadlock. */
TEST_F(errors, path_into_itself)
{
	char path[128];

	strcpy(path, fs_path(self->s, "file"));
	self->s->devices[0] = path;
	EXPECT_GT(0, fs_try(self->s, "file"));
	expect_recovered();
}

/* A FIFO, whose open would block. */
TEST_F(errors, path_to_a_fifo)
{
	char fifo[] = "/tmp/fmap.XXXXXX";

	close(mkstemp(fifo));
	unlink(fifo);
	ASSERT_EQ(0, mkfifo(fifo, 0600));
	self->s->devices[0] = fifo;
	EXPECT_GT(0, fs_try(self->s, "file"));
	unlink(fifo);
	expect_recovered();
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/*
 * GET_DAXDEV names a file that is no device. The module must check that without opening
 * it: an open might block, have effects, or need the same map.
 */
FIXTURE(device_path) {
	struct fuse_server *s, *other;
	struct scripted map, next;
	char path[3][128];
};

enum target { ITSELF, NEXT, CHAIN, ROOT, FIFO, LOOP, ELSEWHERE };

FIXTURE_VARIANT(device_path) {
	enum target target;
	int error;
};

#define TARGET(name, t, e) \
	FIXTURE_VARIANT_ADD(device_path, name) { .target = t, .error = e }

TARGET(itself, ITSELF, -ENODEV);
TARGET(another_file, NEXT, -ENODEV);
TARGET(chain_of_files, CHAIN, -ENODEV);
TARGET(directory, ROOT, -ENODEV);
TARGET(fifo, FIFO, -ENODEV);
TARGET(symlink_to_itself, LOOP, -ELOOP);
TARGET(file_of_another_mount, ELSEWHERE, -ENODEV);

static void readlink_loop(struct fuse_server *s, const struct fuse_in_header *in,
			  const void *arg)
{
	fs_reply(s, in, 0, "link", 4);
}

FIXTURE_SETUP(device_path)
{
	struct fuse_server *s;

	FMAP_REQUIRE();
	self->map = fmap_linear(0, 0, SIZE);
	self->next = fmap_linear(1, 0, SIZE);
	self->s = s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, s);
	fs_add(s, "file", SIZE, &self->map, sizeof(self->map));
	fs_add(s, "next", SIZE, &self->next, sizeof(self->next));
	fs_add(s, "fifo", 0, NULL, 0)->mode = S_IFIFO | 0644;
	fs_add(s, "link", 4, NULL, 0)->mode = S_IFLNK | 0777;
	s->hook[FUSE_READLINK] = readlink_loop;
	ASSERT_EQ(0, fs_mount(s));
	self->other = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->other);
	fs_add(self->other, "elsewhere", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->other));

	strcpy(self->path[0], fs_path(s, "file"));
	strcpy(self->path[1], fs_path(s, "next"));
	switch (variant->target) {
	case ITSELF:
		s->devices[0] = self->path[0];
		break;
	case CHAIN:
		s->devices[1] = self->path[0];
		__attribute__((__fallthrough__));
	case NEXT:
		s->devices[0] = self->path[1];
		break;
	case ROOT:
		s->devices[0] = s->dir;
		break;
	case FIFO:
		s->devices[0] = strcpy(self->path[2], fs_path(s, "fifo"));
		break;
	case LOOP:
		s->devices[0] = strcpy(self->path[2], fs_path(s, "link"));
		break;
	case ELSEWHERE:
		s->devices[0] = strcpy(self->path[2],
				       fs_path(self->other, "elsewhere"));
		break;
	}
}

FIXTURE_TEARDOWN(device_path)
{
	EXPECT_EQ(0, fs_stop(self->other));
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(device_path, looked_at_and_not_opened)
{
	struct fuse_server *s = self->s;
	long start = now_ms();

	EXPECT_EQ(variant->error, fs_try(s, "file"));
	EXPECT_GT(2000, now_ms() - start);
	EXPECT_EQ(1, s->count[FUSE_GET_FMAP]);
	EXPECT_EQ(1, s->count[FUSE_GET_DAXDEV]);
	/* Only the OPEN of the file itself. */
	EXPECT_EQ(1, s->count[FUSE_OPEN] + s->count[FUSE_OPENDIR]);
	EXPECT_EQ(0, self->other->count[FUSE_GET_FMAP]);
	EXPECT_EQ(0, self->other->count[FUSE_OPEN]);

	/* Right paths work afterwards. */
	s->devices[0] = daxdev[0].path;
	s->devices[1] = daxdev[1].path;
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_EQ(0, fs_try(s, "next"));
}

/* One mount holds a device: another one gets EBUSY, and can have it after the unmount. */
TEST_F(errors, busy)
{
	struct fuse_server *second = fmap_server(SCRIPTED_OPS_NAME);
	int log = klog_open();
	char holder[256];
	struct stat st;

	ASSERT_NE(NULL, second);
	fs_add(second, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(second));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	ASSERT_EQ(0, stat(self->s->dir, &st));
	EXPECT_EQ(-EBUSY, fs_try(second, "file"));
	/* The log names the mount that holds it. */
	snprintf(holder, sizeof(holder), "%s is held by mount %u:%u (\"%s\") (ops %s), index 0",
		 daxdev[0].name, major(st.st_dev), minor(st.st_dev), self->s->dir,
		 SCRIPTED_OPS_NAME);
	EXPECT_TRUE(log < 0 || klog_wait(log, LOG_PREFIX, holder)) TH_LOG("%s", holder);
	close(log);
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(0, fs_umount(self->s));
	EXPECT_EQ(0, fs_try(second, "file"));
	EXPECT_EQ(0, fs_stop(second));
}

/* A mount cannot use one device under two indices. */
TEST_F(errors, busy_index)
{
	struct fuse_server *s = self->s;
	struct scripted map = fmap_linear(1, 0, SIZE);
	int log = klog_open();
	char holder[64];

	fs_add(s, "again", SIZE, &map, sizeof(map));
	s->devices[1] = daxdev[0].path;
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_EQ(-EBUSY, fs_try(s, "again"));
	snprintf(holder, sizeof(holder), "(ops %s), index 0", SCRIPTED_OPS_NAME);
	EXPECT_TRUE(log < 0 || klog_wait(log, "is held by mount", holder));
	close(log);
	s->devices[1] = daxdev[1].path;
	EXPECT_EQ(0, fs_try(s, "again"));
}

/*
 * The log names the file and the errno, for an open and for a fault. A file's name cannot begin a
 * line of the log, or end its own quotes: what is not printable, and what quotes, is escaped.
 */
TEST_F(errors, log_names)
{
	static const char name[] = "two\nlines\"";
	int log = klog_open();
	unsigned char *p;
	char line[128];

	self->map.parse_ret = -ENAVAIL;
	fs_add(self->s, name, SIZE, &self->map, sizeof(self->map));
	EXPECT_EQ(-ENAVAIL, fs_try(self->s, name));
	/* A reader of /dev/kmsg gets a backslash as \x5c. */
	snprintf(line, sizeof(line), " (\"/two\\x5cnlines\\x5c\"\") fails with %s: ",
		 klog_errno(ENAVAIL));
	EXPECT_TRUE(log < 0 || klog_wait(log, LOG_PREFIX, line));
	self->map.parse_ret = 0;
	self->map.begin_ret = -ENAVAIL;
	p = fs_map(self->s, name, SIZE, PROT_READ);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(SIGBUS, touch(p, -1));
	snprintf(line, sizeof(line), "lines\\x5c\"\") at 0x0: iomap_begin() returns %s",
		 klog_errno(ENAVAIL));
	EXPECT_TRUE(log < 0 || klog_wait(log, LOG_PREFIX, line));
	munmap(p, SIZE);
	close(log);
}

/* A server may answer EINTR: that is its error, and not a signal of the opener. */
TEST_F(errors, server_says_eintr)
{
	int log = klog_open();
	long failed = fs_counter(self->s, "opens_failed");
	char line[64];

	snprintf(line, sizeof(line), " fails with %s: GET_FMAP", klog_errno(EINTR));
	self->s->error[FUSE_GET_FMAP] = -EINTR;
	EXPECT_EQ(-EINTR, fs_try(self->s, "file"));
	self->s->error[FUSE_GET_FMAP] = 0;
	EXPECT_EQ(failed + 1, fs_counter(self->s, "opens_failed"));
	EXPECT_TRUE(log < 0 || klog_wait(log, LOG_PREFIX, line));
	close(log);
	EXPECT_EQ(0, fs_try(self->s, "file"));
}

/* A map with a good and a bad device fails; the good one stays held for the next open. */
TEST_F(errors, second_device_fails)
{
	struct fuse_server *s = self->s;

	self->map.dev_bitmap = 3;
	s->devices[1] = "/dev/null";
	EXPECT_GT(0, fs_try(s, "file"));
	s->devices[1] = daxdev[1].path;
	EXPECT_EQ(0, fs_try(s, "file"));
	EXPECT_GE(4, s->count[FUSE_GET_DAXDEV]);
}

/*
 * A device of the dax bus that has another driver, or none: fs-dax would misinterpret
 * its private data.
 */
FIXTURE(driver) {
	struct fuse_server *s;
	struct scripted map;
	bool unbound;
};

FIXTURE_SETUP(driver)
{
	FMAP_REQUIRE();
	if (access("/sys/bus/dax/drivers/device_dax", R_OK))
		SKIP(return, "driver device_dax is not loaded");
	self->map = fmap_linear(1, 0, SIZE);
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "file", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	self->unbound = true;
	ASSERT_EQ(0, write_file("/sys/bus/dax/drivers/fsdev_dax/unbind",
				daxdev[1].name));
}

/* In the parent: the device must be bound again even if the test died. */
FIXTURE_TEARDOWN_PARENT(driver)
{
	char path[PATH_MAX];

	if (!self->unbound)
		return;
	write_file("/sys/bus/dax/drivers/device_dax/unbind", daxdev[1].name);
	write_file("/sys/bus/dax/drivers/fsdev_dax/bind", daxdev[1].name);
	snprintf(path, sizeof(path), "/sys/bus/dax/drivers/fsdev_dax/%s",
		 daxdev[1].name);
	EXPECT_EQ(0, access(path, F_OK));
}

TEST_F(driver, none)
{
	EXPECT_GT(0, fs_try(self->s, "file"));
	EXPECT_EQ(0, fs_stop(self->s));
}

TEST_F(driver, device_dax)
{
	if (write_file("/sys/bus/dax/drivers/device_dax/bind", daxdev[1].name)) {
		fs_stop(self->s);
		SKIP(return, "%s does not bind to device_dax", daxdev[1].name);
	}
	EXPECT_GT(0, fs_try(self->s, "file"));
	/* The device works once it is bound to fsdev_dax again. */
	EXPECT_EQ(0, write_file("/sys/bus/dax/drivers/device_dax/unbind",
				daxdev[1].name));
	EXPECT_EQ(0, write_file("/sys/bus/dax/drivers/fsdev_dax/bind",
				daxdev[1].name));
	EXPECT_EQ(0, fs_try(self->s, "file"));
	EXPECT_EQ(0, fs_stop(self->s));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
