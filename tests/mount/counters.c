// SPDX-License-Identifier: GPL-2.0
/*
 * The counters of a mount, of its devices and of its files, compared with what tasks did to
 * them.
 *
 * Each test does a known number of operations, so each counter has one right value, and
 * the other counters must not change. The lists as such are in lists.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define SIZE	(4 * MIB)

static const char *const names[] = {
	"faults_2m", "faults_4k", "faults_failed", "collapses", "read_bytes",
	"written_bytes", "get_fmap", "maps_in_open", "get_daxdev", "maps_refused",
	"opens_failed", "mappings_refused",
};

FIXTURE(counters) {
	struct fuse_server *s;
	struct scripted good, bad, refused;
	long before[ARRAY_SIZE(names)];
	int fd;
};

FIXTURE_SETUP(counters)
{
	FMAP_REQUIRE();
	self->good = fmap_linear(0, 0, SIZE);
	self->bad = fmap_linear(0, SIZE, SIZE);
	self->bad.begin_ret = -5;
	self->refused = fmap_linear(0, 2 * SIZE, SIZE);
	self->refused.parse_ret = -22;
	self->s = fmap_server(SCRIPTED_OPS_NAME);
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "good", SIZE, &self->good, sizeof(self->good));
	fs_add(self->s, "bad", SIZE, &self->bad, sizeof(self->bad));
	fs_add(self->s, "refused", SIZE, &self->refused, sizeof(self->refused));
	fs_add(self->s, "plain", PAGE, NULL, 0);
	ASSERT_EQ(0, fs_mount(self->s));
	self->fd = fs_open(self->s, "good", O_RDWR);
	ASSERT_LE(0, self->fd);
	if (fs_counter(self->s, names[0]) < 0)
		SKIP(return, "the list of mounts cannot be read: is debugfs mounted?");
	for (int i = 0; i < ARRAY_SIZE(names); i++)
		self->before[i] = fs_counter(self->s, names[i]);
}

FIXTURE_TEARDOWN(counters)
{
	close(self->fd);
	EXPECT_EQ(0, fs_stop(self->s));
}

/* The counter @name has grown by @by since it was last read. */
#define expect_more(name, by) do {					\
	for (int _i = 0; _i < ARRAY_SIZE(names); _i++)			\
		if (!strcmp(name, names[_i])) {				\
			long _now = fs_counter(self->s, name);		\
			EXPECT_EQ(by, _now - self->before[_i])		\
				TH_LOG("%s", name);			\
			self->before[_i] = _now;			\
		}							\
} while (0)

#define expect_no_more() do {						\
	for (int _j = 0; _j < ARRAY_SIZE(names); _j++) {		\
		EXPECT_EQ(self->before[_j], fs_counter(self->s, names[_j])) \
			TH_LOG("%s", names[_j]);			\
	}								\
} while (0)

TEST_F(counters, the_first_open)
{
	EXPECT_EQ(1, fs_counter(self->s, "get_fmap"));
	EXPECT_EQ(1, fs_counter(self->s, "get_daxdev"));
	EXPECT_EQ(0, fs_try(self->s, "good"));
	expect_no_more();
	EXPECT_EQ(0, fs_try(self->s, "plain"));
	expect_more("get_fmap", 1);
	expect_no_more();
}

/* The time until the answer to GET_FMAP is counted, and the requests by it. */
TEST_F(counters, time_of_get_fmap)
{
	static const char *const within[] = {
		"get_fmap_within_100us", "get_fmap_within_1ms", "get_fmap_within_10ms",
		"get_fmap_within_100ms", "get_fmap_within_1s",
	};
	long ns = fs_counter(self->s, "get_fmap_ns"), before[ARRAY_SIZE(within)];
	pid_t pid;

	EXPECT_LT(0, ns);
	for (int i = 0; i < ARRAY_SIZE(within); i++) {
		before[i] = fs_counter(self->s, within[i]);
		EXPECT_LE(i ? before[i - 1] : 0, before[i]);
		EXPECT_GE(fs_counter(self->s, "get_fmap"), before[i]);
	}
	self->s->hold[FUSE_GET_FMAP] = true;
	pid = fs_try_in_child(self->s, "plain");
	ASSERT_LE(0, pid);
	EXPECT_TRUE(fs_wait(self->s, FUSE_GET_FMAP, 2));
	usleep(30000);
	fs_release(self->s, FUSE_GET_FMAP);
	ASSERT_EQ(0, ended(pid));
	EXPECT_LE(30000000, fs_counter(self->s, "get_fmap_ns") - ns);
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(before[i], fs_counter(self->s, within[i])) {
			TH_LOG("%s", within[i]);
		}
	}
	EXPECT_GE(before[4] + 1, fs_counter(self->s, within[4]));

	/* OPEN is sent meanwhile; how long the server takes for it does not count. */
	ns = fs_counter(self->s, "get_fmap_ns");
	self->s->hold[FUSE_OPEN] = true;
	pid = fs_try_in_child(self->s, "refused");
	ASSERT_LE(0, pid);
	EXPECT_TRUE(fs_wait(self->s, FUSE_GET_FMAP, 3));
	EXPECT_TRUE(asleep(pid));
	usleep(1000000 * fs_slowness());
	fs_release(self->s, FUSE_OPEN);
	EXPECT_EQ(EINVAL << 8, ended(pid));
	EXPECT_GT(1000000000L * fs_slowness(), fs_counter(self->s, "get_fmap_ns") - ns);
}

TEST_F(counters, faults)
{
	unsigned char *p = mmap(address_range(0, SIZE), SIZE, PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_FIXED, self->fd, 0);

	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 1));
	EXPECT_EQ(0, touch(p + HUGE, 1));
	EXPECT_EQ(0, touch(p + HUGE + PAGE, 1));
	expect_more("faults_2m", 2);
	munmap(p, SIZE);
	p = mmap(address_range(PAGE, SIZE), SIZE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 1));
	EXPECT_EQ(0, touch(p + HUGE, -1));
	EXPECT_EQ(0, touch(p + 5 * PAGE, -1));
	expect_more("faults_4k", 3);
	expect_no_more();
	munmap(p, SIZE);
}

TEST_F(counters, failed_faults)
{
	unsigned char *p = fs_map(self->s, "bad", SIZE, PROT_READ);

	ASSERT_NE(MAP_FAILED, p);
	expect_more("get_fmap", 1);
	EXPECT_EQ(SIGBUS, touch(p, -1));
	expect_more("faults_failed", 1);
	EXPECT_LE(1, fs_counter(self->s, "mappings_refused"));
	munmap(p, SIZE);
}

TEST_F(counters, bytes)
{
	static char buf[100 * KIB];

	EXPECT_EQ(sizeof(buf), pread(self->fd, buf, sizeof(buf), 5));
	EXPECT_EQ(7, pread(self->fd, buf, sizeof(buf), SIZE - 7));
	EXPECT_EQ(0, pread(self->fd, buf, sizeof(buf), SIZE));
	expect_more("read_bytes", sizeof(buf) + 7);
	EXPECT_EQ(sizeof(buf), pwrite(self->fd, buf, sizeof(buf), 5));
	EXPECT_EQ(-1, pwrite(self->fd, buf, sizeof(buf), SIZE));
	EXPECT_EQ(ENOSPC, errno);
	expect_more("written_bytes", sizeof(buf));
	expect_no_more();
}

TEST_F(counters, refusals)
{
	char c;
	int fd;

	EXPECT_EQ(-EINVAL, fs_try(self->s, "refused"));
	expect_more("get_fmap", 1);
	expect_more("maps_refused", 1);
	expect_more("opens_failed", 1);
	expect_no_more();

	self->s->error[FUSE_GET_FMAP] = -EACCES;
	EXPECT_EQ(-EACCES, fs_try(self->s, "refused"));
	self->s->error[FUSE_GET_FMAP] = 0;
	expect_more("get_fmap", 1);
	expect_more("opens_failed", 1);
	expect_no_more();

	fd = fs_open(self->s, "bad", O_RDWR);
	ASSERT_LE(0, fd);
	expect_more("get_fmap", 1);
	EXPECT_EQ(-1, pread(fd, &c, 1, 0));
	EXPECT_EQ(EIO, errno);
	expect_more("mappings_refused", 1);
	expect_no_more();
	close(fd);
}

/* What is counted of a device and of a file. */
static const char *const of_parts[] = {
	"faults_2m", "faults_4k", "read_bytes", "written_bytes",
};

struct part {
	char		list[16];
	char		word[64];
	long		before[ARRAY_SIZE(of_parts)];
};

static struct part part(struct fuse_server *s, const char *list, const char *word,
			const char *name)
{
	struct part p;

	snprintf(p.list, sizeof(p.list), "%s", list);
	snprintf(p.word, sizeof(p.word), "%s%s", word, name);
	for (int i = 0; i < ARRAY_SIZE(of_parts); i++)
		p.before[i] = fs_number_of(s, p.list, p.word, of_parts[i]);
	return p;
}

/* The counters of @part have grown by so much since they were last read. */
#define expect_of(part, huge, small, read, written) do {		\
	long _more[] = { huge, small, read, written };			\
	for (int _i = 0; _i < ARRAY_SIZE(of_parts); _i++) {		\
		long _now = fs_number_of(self->s, (part)->list, (part)->word, of_parts[_i]); \
		EXPECT_EQ(_more[_i], _now - (part)->before[_i])		\
			TH_LOG("%s of %s", of_parts[_i], (part)->word);	\
		(part)->before[_i] = _now;				\
	}								\
} while (0)

/* Faults that DAX handles, and fast ones, and those of private mappings. */
TEST_F(counters, faults_of_parts)
{
	struct part device = part(self->s, "devices", "device=", daxdev[0].name);
	struct part file = part(self->s, "files", "file=/", "good");
	unsigned char *p;

	ASSERT_EQ(0, file.before[0]);
	for (int again = 0; again < 2; again++) {
		p = mmap(address_range(0, SIZE), SIZE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, self->fd, 0);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_EQ(0, touch(p, 1));
		EXPECT_EQ(0, touch(p + PAGE, 1));
		EXPECT_EQ(0, touch(p + HUGE, -1));
		expect_of(&device, 2, 0, 0, 0);
		expect_of(&file, 2, 0, 0, 0);
		expect_more("faults_2m", 2);
		munmap(p, SIZE);
	}
	for (int again = 0; again < 2; again++) {
		p = mmap(address_range(PAGE, SIZE), SIZE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, self->fd, 0);
		ASSERT_NE(MAP_FAILED, p);
		EXPECT_EQ(0, touch(p, 1));
		EXPECT_EQ(0, touch(p + HUGE, -1));
		expect_of(&device, 0, 2, 0, 0);
		expect_of(&file, 0, 2, 0, 0);
		expect_more("faults_4k", 2);
		munmap(p, SIZE);
	}
	/* The copy of a page is a fault, too. */
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 1));
	expect_of(&device, 0, 1, 0, 0);
	expect_of(&file, 0, 1, 0, 0);
	expect_more("faults_4k", 1);
	munmap(p, PAGE);
	expect_no_more();
}

TEST_F(counters, bytes_of_parts)
{
	struct part device = part(self->s, "devices", "device=", daxdev[0].name);
	struct part file = part(self->s, "files", "file=/", "good");
	static char buf[100 * KIB];

	EXPECT_EQ(sizeof(buf), pread(self->fd, buf, sizeof(buf), 5));
	EXPECT_EQ(7, pread(self->fd, buf, sizeof(buf), SIZE - 7));
	EXPECT_EQ(0, pread(self->fd, buf, sizeof(buf), SIZE));
	expect_of(&device, 0, 0, sizeof(buf) + 7, 0);
	expect_of(&file, 0, 0, sizeof(buf) + 7, 0);
	EXPECT_EQ(sizeof(buf), pwrite(self->fd, buf, sizeof(buf), 5));
	EXPECT_EQ(-1, pwrite(self->fd, buf, sizeof(buf), SIZE));
	expect_of(&device, 0, 0, 0, sizeof(buf));
	expect_of(&file, 0, 0, 0, sizeof(buf));
	EXPECT_EQ(0, fallocate(self->fd, FALLOC_FL_ZERO_RANGE, PAGE, 3 * PAGE + 1));
	expect_of(&device, 0, 0, 0, 3 * PAGE + 1);
	expect_of(&file, 0, 0, 0, 3 * PAGE + 1);
}

/* What fails is counted for the file. Other files have nothing to do with it. */
TEST_F(counters, refusals_of_files)
{
	struct part good = part(self->s, "files", "file=/", "good");
	unsigned char *p = fs_map(self->s, "bad", SIZE, PROT_READ);
	int fd = fs_open(self->s, "bad", O_RDWR);
	long refused;
	char c;

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, fs_number_of(self->s, "files", "file=/bad", "mappings_refused"));
	EXPECT_EQ(-1, pread(fd, &c, 1, 0));
	EXPECT_EQ(1, fs_number_of(self->s, "files", "file=/bad", "mappings_refused"));
	EXPECT_EQ(SIGBUS, touch(p, -1));
	EXPECT_EQ(1, fs_number_of(self->s, "files", "file=/bad", "faults_failed"));
	refused = fs_number_of(self->s, "files", "file=/bad", "mappings_refused");
	EXPECT_LE(2, refused);
	EXPECT_EQ(refused, fs_counter(self->s, "mappings_refused") -
		  self->before[ARRAY_SIZE(names) - 1]);
	EXPECT_EQ(0, fs_number_of(self->s, "files", "file=/good", "mappings_refused"));
	EXPECT_EQ(0, fs_number_of(self->s, "files", "file=/good", "faults_failed"));
	expect_of(&good, 0, 0, 0, 0);
	/* A file without a map is not in the list. */
	EXPECT_EQ(0, fs_try(self->s, "plain"));
	EXPECT_EQ(-1, fs_number_of(self->s, "files", "file=/plain", "nodeid"));
	EXPECT_EQ(2, fs_counter(self->s, "files"));
	close(fd);
	munmap(p, SIZE);
}

/* What else is said of them. */
TEST_F(counters, facts_of_parts)
{
	char word[64];
	struct stat st;

	snprintf(word, sizeof(word), "device=%s", daxdev[0].name);
	EXPECT_EQ(0, fs_number_of(self->s, "devices", word, "index"));
	EXPECT_EQ(daxdev[0].size, fs_number_of(self->s, "devices", word, "size"));
	EXPECT_EQ(0, fs_number_of(self->s, "devices", word, "failed"));
	EXPECT_EQ(0, fs_number_of(self->s, "devices", word, "poisoned_pages"));
	/* No file has used the other one. */
	snprintf(word, sizeof(word), "device=%s", daxdev[1].name);
	EXPECT_EQ(-1, fs_number_of(self->s, "devices", word, "index"));

	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(self->s->file[0].nodeid,
		  fs_number_of(self->s, "files", "file=/good", "nodeid"));
	EXPECT_EQ(st.st_ino, fs_number_of(self->s, "files", "file=/good", "ino"));
	EXPECT_EQ(SIZE, fs_number_of(self->s, "files", "file=/good", "size"));
	EXPECT_LT(0, fs_number_of(self->s, "files", "file=/good", "meta_bytes"));
}

/* Runs of the program @name so far, as BPF counts them; -1: there is none. */
static long runs(const char *name)
{
	__u32 id = 0;

	while (!bpf_prog_get_next_id(id, &id)) {
		struct bpf_prog_info info = { 0 };
		__u32 len = sizeof(info);
		int fd = bpf_prog_get_fd_by_id(id), err;

		if (fd < 0)
			continue;
		err = bpf_prog_get_info_by_fd(fd, &info, &len);
		close(fd);
		if (!err && !strcmp(info.name, name))
			return info.run_cnt;
	}
	return -1;
}

/* BPF statistics count each call of iomap_begin(), if they are switched on. */
TEST_F(counters, statistics_of_bpf)
{
	int stats = bpf_enable_stats(BPF_STATS_RUN_TIME);
	long before, begins;
	char c;

	ASSERT_LE(0, stats);
	before = runs("scripted_begin");
	ASSERT_LE(0, before);
	begins = fmap_seen()->begins;
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(1, pread(self->fd, &c, 1, 0));
	begins = fmap_seen()->begins - begins;
	EXPECT_LE(3, begins);
	EXPECT_EQ(begins, runs("scripted_begin") - before);
	close(stats);

	before = runs("scripted_begin");
	ASSERT_EQ(1, pread(self->fd, &c, 1, 0));
	EXPECT_EQ(before, runs("scripted_begin"));
}

/* Each mount has its own counters. */
TEST_F(counters, of_two_mounts)
{
	struct fuse_server *other = fmap_server(SCRIPTED_OPS_NAME);
	struct scripted map = fmap_linear(1, 0, SIZE);
	char c;
	int fd;

	ASSERT_NE(NULL, other);
	fs_add(other, "file", SIZE, &map, sizeof(map));
	ASSERT_EQ(0, fs_mount(other));
	fd = fs_open(other, "file", O_RDWR);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, pread(fd, &c, 1, 0));
	EXPECT_EQ(1, fs_counter(other, "get_fmap"));
	EXPECT_EQ(1, fs_counter(other, "read_bytes"));
	expect_no_more();
	close(fd);
	EXPECT_EQ(0, fs_stop(other));
}

int main(int argc, char **argv)
{
	fmap_register("scripted.bpf.o");
	return test_harness_run(argc, argv);
}
