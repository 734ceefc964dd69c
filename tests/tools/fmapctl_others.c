// SPDX-License-Identifier: GPL-2.0
/*
 * fmapctl beside other programs that register ops, and other users that write to bpffs.
 *
 * A loader needs no more than a BPF link. Ops that another program has registered are
 * listed, and not as gone, and can be replaced and unloaded: the remedy that "load" names
 * works. After that they are pinned, and outlive that program.
 *
 * mount(8) makes a bpffs with mode 1777, so an ordinary user can create the directory of
 * fmapctl's pins first, with any contents. Such a directory is refused, and named in the
 * message. In a good one, a symbolic link, or the link of something else, is left alone.
 * Here that is a BPF program at a cgroup: it has to stay attached.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define PINS	"/sys/fs/bpf/fuse_dax_fmap"
#define PIN	PINS "/striped"
#define OTHER	"/sys/fs/bpf/fmapctl_others"
#define NOBODY	65534

/* The output of the last command, stdout and stderr. */
static char said[16384];

/* Runs a shell command. Returns its exit status, or -1 if it has none. */
__printf(1, 2) static int run(const char *format, ...)
{
	char command[512];
	va_list args;
	size_t n;
	int status;
	FILE *f;

	va_start(args, format);
	n = vsnprintf(command, sizeof(command) - 6, format, args);
	va_end(args);
	strcpy(command + n, " 2>&1");
	f = popen(command, "r");
	if (!f)
		return -1;
	n = fread(said, 1, sizeof(said) - 1, f);
	said[n] = 0;
	status = pclose(f);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool says(const char *text)
{
	return strstr(said, text);
}

static const char *object(void)
{
	const char *dir = getenv("FMAP_BPF_DIR");
	static char path[256];

	snprintf(path, sizeof(path), "%s/striped.bpf.o", dir ?: "/lib/fuse-dax-fmap/bpf");
	return path;
}

static const char *missing(void)
{
	if (fmap_missing())
		return fmap_missing();
	if (run("type fmapctl"))
		return "there is no fmapctl";
	if (access(object(), R_OK))
		return "there is no striped.bpf.o";
	if (!access(PINS, F_OK))
		return "there are ops already";
	return NULL;
}

/* The line of striped in `fmapctl list`. */
struct listed {
	unsigned int link, map, mounts, older;
};

static bool listed(struct listed *l)
{
	const char *line;

	*l = (struct listed){ 0 };
	if (run("fmapctl list"))
		return false;
	line = strstr(said, "\nstriped ");
	return line && sscanf(line, " striped %u %u %u %u", &l->link, &l->map,
			      &l->mounts, &l->older) == 4;
}

static struct bpf_link_info info_of(int fd)
{
	struct bpf_link_info info = { 0 };
	__u32 len = sizeof(info);

	bpf_obj_get_info_by_fd(fd, &info, &len);
	return info;
}

/* ---- ops of another program ---- */

FIXTURE(other) {
	struct bpf_object *obj;
	struct bpf_link *link;
	unsigned int id, map;
	long refs;
};

FIXTURE_SETUP(other)
{
	struct bpf_map *map;

	if (missing())
		SKIP(return, "%s", missing());
	self->refs = module_refs();
	self->obj = fmap_load("striped.bpf.o");
	ASSERT_NE(NULL, self->obj) TH_LOG("%s", fmap_bpf_log());
	map = bpf_object__find_map_by_name(self->obj, "striped");
	ASSERT_NE(NULL, map);
	self->link = bpf_map__attach_struct_ops(map);
	ASSERT_NE(NULL, self->link);
	self->id = info_of(bpf_link__fd(self->link)).id;
	self->map = fmap_map_id(self->link);
}

FIXTURE_TEARDOWN(other)
{
	run("fmapctl unload striped");
	if (self->link)
		bpf_link__destroy(self->link);
	bpf_object__close(self->obj);
	EXPECT_TRUE(module_refs_wait(self->refs));
	EXPECT_NE(0, access(PINS, F_OK));
}

TEST_F(other, are_listed)
{
	struct listed l;

	EXPECT_TRUE(listed(&l)) TH_LOG("%s", said);
	EXPECT_EQ(self->id, l.link);
	EXPECT_EQ(self->map, l.map);
	EXPECT_EQ(0, l.mounts);
}

TEST_F(other, are_gone_when_they_are)
{
	struct fuse_server *s = fmap_server("striped");
	struct listed l;

	ASSERT_NE(NULL, s);
	ASSERT_EQ(0, fs_mount(s));
	EXPECT_TRUE(listed(&l)) TH_LOG("%s", said);
	EXPECT_EQ(1, l.mounts);
	EXPECT_EQ(0, l.older);
	EXPECT_EQ(0, run("fmapctl status"));
	EXPECT_TRUE(says("striped"));
	EXPECT_FALSE(says("(gone)")) TH_LOG("%s", said);
	EXPECT_FALSE(says("(old)")) TH_LOG("%s", said);

	bpf_link__destroy(self->link);
	self->link = NULL;
	EXPECT_FALSE(listed(&l));
	EXPECT_TRUE(says("(gone)")) TH_LOG("%s", said);
	EXPECT_EQ(0, run("fmapctl status"));
	EXPECT_TRUE(says("(gone)")) TH_LOG("%s", said);
	EXPECT_EQ(0, fs_stop(s));
}

TEST_F(other, the_remedy_works)
{
	struct listed l;

	EXPECT_EQ(1, run("fmapctl load %s", object()));
	EXPECT_TRUE(says("fmapctl unload striped")) TH_LOG("%s", said);
	EXPECT_TRUE(says("--replace")) TH_LOG("%s", said);
	EXPECT_EQ(0, run("fmapctl unload striped")) TH_LOG("%s", said);
	EXPECT_FALSE(listed(&l)) TH_LOG("%s", said);
	EXPECT_EQ(0, run("fmapctl load %s", object())) TH_LOG("%s", said);
	EXPECT_TRUE(listed(&l)) TH_LOG("%s", said);
	EXPECT_NE(self->id, l.link);
}

TEST_F(other, are_replaced_and_kept)
{
	struct listed l;

	EXPECT_EQ(0, run("fmapctl load --replace %s", object())) TH_LOG("%s", said);
	EXPECT_TRUE(says("striped: replaced"));
	EXPECT_TRUE(listed(&l)) TH_LOG("%s", said);
	EXPECT_EQ(self->id, l.link);
	EXPECT_NE(self->map, l.map);

	/* The ops belong to fmapctl now. */
	bpf_link__destroy(self->link);
	self->link = NULL;
	EXPECT_TRUE(listed(&l)) TH_LOG("%s", said);
	EXPECT_EQ(0, run("fmapctl unload striped")) TH_LOG("%s", said);
	EXPECT_FALSE(listed(&l));
}

/* ---- what other users put into bpffs ---- */

FIXTURE(pins) {
	int prog, link;
	long refs;
};

FIXTURE_SETUP(pins)
{
	struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = 1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	int cgroup;

	if (missing())
		SKIP(return, "%s", missing());
	self->refs = module_refs();
	cgroup = open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY);
	self->prog = bpf_prog_load(BPF_PROG_TYPE_CGROUP_SKB, NULL, "GPL", insns, 2, NULL);
	self->link = bpf_link_create(self->prog, cgroup, BPF_CGROUP_INET_INGRESS, NULL);
	close(cgroup);
	if (self->link < 0)
		SKIP(return, "no link to a cgroup can be made here");
	ASSERT_EQ(0, bpf_obj_pin(self->link, OTHER));
}

FIXTURE_TEARDOWN(pins)
{
	struct listed l;

	/* The foreign link is still attached. */
	EXPECT_NE(0, info_of(self->link).cgroup.cgroup_id);
	EXPECT_FALSE(listed(&l)) TH_LOG("%s", said);
	unlink(PIN);
	if (unlink(PINS))
		rmdir(PINS);
	unlink(OTHER);
	close(self->link);
	close(self->prog);
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* The commands change nothing, and print @why and the remedy. */
#define EXPECT_REFUSED(why) do {						\
	EXPECT_EQ(1, run("fmapctl load %s", object()));				\
	EXPECT_TRUE(says(why) && says("rm")) TH_LOG("%s", said);		\
	EXPECT_EQ(1, run("fmapctl load --replace %s", object()));		\
	EXPECT_TRUE(says(why) && says("rm")) TH_LOG("%s", said);		\
	EXPECT_EQ(1, run("fmapctl unload striped"));				\
	EXPECT_TRUE(says(why) && says("rm")) TH_LOG("%s", said);		\
} while (0)

TEST_F(pins, directory_of_somebody_else)
{
	ASSERT_EQ(0, mkdir(PINS, 0700));
	ASSERT_EQ(0, symlink(OTHER, PIN));
	ASSERT_EQ(0, chown(PINS, NOBODY, NOBODY));
	EXPECT_REFUSED("belongs to user 65534");
	EXPECT_EQ(0, access(PIN, F_OK));
}

TEST_F(pins, directory_that_others_write)
{
	ASSERT_EQ(0, mkdir(PINS, 0700));
	ASSERT_EQ(0, chmod(PINS, 01777));
	EXPECT_REFUSED("(mode 1777)");
	ASSERT_EQ(0, chmod(PINS, 0720));
	EXPECT_REFUSED("(mode 0720)");
}

TEST_F(pins, directory_elsewhere)
{
	ASSERT_EQ(0, symlink("/tmp", PINS));
	EXPECT_REFUSED("is no directory");
}

TEST_F(pins, symbolic_link)
{
	ASSERT_EQ(0, mkdir(PINS, 0700));
	ASSERT_EQ(0, symlink(OTHER, PIN));
	EXPECT_REFUSED("symbolic link");
}

TEST_F(pins, link_of_another_type)
{
	ASSERT_EQ(0, mkdir(PINS, 0700));
	ASSERT_EQ(0, bpf_obj_pin(self->link, PIN));
	EXPECT_REFUSED("not the link of ops");
}

TEST_F(pins, no_link)
{
	ASSERT_EQ(0, mkdir(PINS, 0700));
	ASSERT_EQ(0, bpf_obj_pin(self->prog, PIN));
	EXPECT_REFUSED("no BPF link");
}

/* The directory is made for root alone, even if an older fmapctl made it, and removed again. */
TEST_F(pins, the_directory_is_roots)
{
	struct stat st = { 0 };

	for (int older = 0; older < 2; older++) {
		if (older) {
			ASSERT_EQ(0, mkdir(PINS, 0700));
			ASSERT_EQ(0, chmod(PINS, 0755));
		}
		EXPECT_EQ(0, run("umask 0; fmapctl load %s", object())) TH_LOG("%s", said);
		EXPECT_EQ(0, stat(PINS, &st));
		EXPECT_EQ(0700, st.st_mode & 07777);
		EXPECT_EQ(0, st.st_uid);
		EXPECT_EQ(0, run("fmapctl unload striped")) TH_LOG("%s", said);
		EXPECT_EQ(-1, access(PINS, F_OK));
	}
	/* It is removed after a failure, too. */
	EXPECT_EQ(1, run("fmapctl load %s /dev/null", object()));
	EXPECT_EQ(-1, access(PINS, F_OK));
}

TEST_HARNESS_MAIN
