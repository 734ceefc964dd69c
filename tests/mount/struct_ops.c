// SPDX-License-Identifier: GPL-2.0
/*
 * Registering ops: which ops are accepted, what their programs may do, and how long
 * the ops live.
 *
 * Names are checked and unique. A link is required: ops without one could never be
 * unregistered. The verifier lets programs write to OUT fields and their own memory
 * only, and keeps iomap_begin() from sleeping. Ops that a mount uses live as long as
 * the mount, even if their link is destroyed, or is updated to other ops.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "kselftest_harness.h"
#include "fmap_test.h"

#define POLICY	"policy.bpf.o"
#define SIZE	(64 * KIB)

/* Returns true if @name is @want, or begins with it if @want ends in "_". */
static bool wanted(const char *name, const char *want)
{
	size_t len = want ? strlen(want) : 0;

	return len && (!strcmp(name, want) ||
		       (want[len - 1] == '_' && !strncmp(name, want, len)));
}

/* Open @object with the two named maps only. */
static struct bpf_object *open_maps(const char *object, const char *a, const char *b)
{
	struct bpf_object *obj = fmap_open(object);
	struct bpf_map *map;

	if (obj)
		bpf_object__for_each_map(map, obj) {
			const char *name = bpf_map__name(map);

			if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
				bpf_map__set_autocreate(map, wanted(name, a) || wanted(name, b));
		}
	return obj;
}

static struct bpf_object *open_policy(const char *a, const char *b)
{
	return open_maps(POLICY, a, b);
}

static struct bpf_link *attach(struct bpf_object *obj, const char *map)
{
	return bpf_map__attach_struct_ops(bpf_object__find_map_by_name(obj, map));
}

/* ---- the verifier ---- */

FIXTURE(verifier) {
	struct bpf_object *obj;
};

FIXTURE_VARIANT(verifier) {
	const char *object;	/* NULL: POLICY */
	const char *map;
	const char *message;	/* in the verifier's log; NULL: any */
};

#define NOT_OUT	"only OUT fields may be written"

#define REFUSED(name, msg) \
	FIXTURE_VARIANT_ADD(verifier, name) { .map = #name, .message = msg }

REFUSED(w_blob_size, NOT_OUT);
REFUSED(w_meta_size, NOT_OUT);
REFUSED(w_blob_room, NOT_OUT);
REFUSED(w_straddle, NOT_OUT);
REFUSED(w_blob, "cannot write into rdonly_mem");
REFUSED(meta_unchecked, "mem_or_null");
REFUSED(meta_beyond, "invalid access to memory");
REFUSED(blob_variable, "is not a const");
REFUSED(p_resolve, "kernel function");
REFUSED(w_file_offset, NOT_OUT);
REFUSED(w_length, NOT_OUT);
REFUSED(w_file_size, NOT_OUT);
REFUSED(w_r_meta_size, NOT_OUT);
REFUSED(w_io_offset, NOT_OUT);
REFUSED(w_io_type_wide, NOT_OUT);
REFUSED(w_io_flags, NOT_OUT);
REFUSED(w_io_straddle, NOT_OUT);
REFUSED(w_meta, "cannot write into rdonly_mem");
REFUSED(w_first, NOT_OUT);
REFUSED(first_beyond, "access beyond struct fuse_dax_fmap_meta");
REFUSED(first_variable, "variable");
REFUSED(data_unchecked, "invalid access to packet");
REFUSED(data_beyond, "invalid access to packet");
REFUSED(data_before, "min value is outside");
REFUSED(data_variable, "invalid access to packet");
REFUSED(data_far, "invalid access to packet");
REFUSED(data_end_itself, "invalid mem access 'pkt_end'");
REFUSED(w_data, "cannot write into packet");
REFUSED(data_helper, "helper access to the packet is not allowed");
REFUSED(data_half, "invalid bpf_context access");
REFUSED(p_data, "doesn't have");
REFUSED(b_alloc, "kfunc bpf_fuse_dax_parse_alloc_meta");
REFUSED(b_blob, "kernel function");
REFUSED(b_meta, "kernel function");
REFUSED(b_sleepable, "iomap_begin");
REFUSED(b_slice, "iomap_begin");
REFUSED(b_iterator, "iomap_begin");
REFUSED(b_may_goto, "iomap_begin");
REFUSED(b_global, "iomap_begin");
REFUSED(b_probe_read, "program of this type cannot use helper bpf_probe_read_kernel");
REFUSED(b_update, "program of this type cannot use helper bpf_map_update_elem");
REFUSED(b_trie, "iomap_begin");
REFUSED(b_zero_seed, "iomap_begin");
REFUSED(b_long_key, "iomap_begin");
REFUSED(b_loop, "program of this type cannot use helper bpf_loop");
REFUSED(b_for_each, "program of this type cannot use helper bpf_for_each_map_elem");
REFUSED(b_tail_call, "iomap_begin");
FIXTURE_VARIANT_ADD(verifier, b_arena) {
	.object = "arena.bpf.o", .map = "b_arena", .message = "iomap_begin",
};

FIXTURE_SETUP(verifier)
{
	FMAP_REQUIRE();
	self->obj = open_maps(variant->object ?: POLICY, variant->map, NULL);
	ASSERT_NE(NULL, self->obj);
}

FIXTURE_TEARDOWN(verifier)
{
	bpf_object__close(self->obj);
}

TEST_F(verifier, refuses)
{
	int err = bpf_object__load(self->obj);

	EXPECT_GT(0, err);
	if (variant->message) {
		EXPECT_NE(NULL, strstr(fmap_bpf_log(), variant->message)) {
			TH_LOG("no \"%s\" in:\n%s", variant->message,
			       fmap_bpf_log());
		}
	}
	/* The verifier refused the program; libbpf did not refuse the object. */
	EXPECT_NE(NULL, strstr(fmap_bpf_log(), "processed ")) {
		TH_LOG("%s", fmap_bpf_log());
	}
}

/* ---- registration ---- */

FIXTURE(reg) {
	struct bpf_object *obj;
	struct bpf_link *link;
	long refs;
};

FIXTURE_SETUP(reg)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
}

FIXTURE_TEARDOWN(reg)
{
	bpf_link__destroy(self->link);
	bpf_object__close(self->obj);
	/* The map is freed after a grace period. */
	EXPECT_TRUE(module_refs_wait(self->refs));
}

TEST_F(reg, names)
{
	static const struct {
		const char *map;
		bool good;
	} names[] = {
		{ "name_all_chars", true },
		{ "name_15", true },
		{ "name_1", true },
		{ "name_16", false },
		{ "name_empty", false },
		{ "name_space", false },
		{ "name_slash", false },
		{ "name_newline", false },
		{ "name_percent", false },
		{ "name_utf8", false },
		{ "name_late", false },
	};

	self->obj = open_policy("name_", NULL);
	ASSERT_NE(NULL, self->obj);
	ASSERT_EQ(0, bpf_object__load(self->obj)) TH_LOG("%s", fmap_bpf_log());
	for (unsigned int i = 0; i < ARRAY_SIZE(names); i++) {
		struct bpf_link *link = attach(self->obj, names[i].map);

		EXPECT_EQ(names[i].good, !!link) {
			TH_LOG("%s: %s", names[i].map, strerror(errno));
		}
		if (!names[i].good)
			EXPECT_EQ(EINVAL, errno);
		bpf_link__destroy(link);
	}
}

/* A bounded loop, which the verifier can follow, and a static function. */
TEST_F(reg, bounded_loop)
{
	self->obj = open_policy("bounded_loop", NULL);
	ASSERT_NE(NULL, self->obj);
	ASSERT_EQ(0, bpf_object__load(self->obj)) TH_LOG("%s", fmap_bpf_log());
	self->link = attach(self->obj, "bounded_loop");
	EXPECT_NE(NULL, self->link);
}

/* A program may leave out arguments that it does not use. */
TEST_F(reg, two_arguments)
{
	self->obj = open_policy("two_arguments", NULL);
	ASSERT_NE(NULL, self->obj);
	ASSERT_EQ(0, bpf_object__load(self->obj)) TH_LOG("%s", fmap_bpf_log());
	self->link = attach(self->obj, "two_arguments");
	EXPECT_NE(NULL, self->link);
}

TEST_F(reg, name_is_unique)
{
	struct bpf_link *second;

	self->obj = open_policy("accepted", "same_name");
	ASSERT_NE(NULL, self->obj);
	ASSERT_EQ(0, bpf_object__load(self->obj)) TH_LOG("%s", fmap_bpf_log());
	self->link = attach(self->obj, "accepted");
	ASSERT_NE(NULL, self->link);
	EXPECT_EQ(NULL, attach(self->obj, "same_name"));
	EXPECT_EQ(EEXIST, errno);
	/* The name is free once the link is destroyed. */
	bpf_link__destroy(self->link);
	self->link = NULL;
	second = attach(self->obj, "same_name");
	EXPECT_NE(NULL, second);
	bpf_link__destroy(second);
}

TEST_F(reg, both_members_are_required)
{
	self->obj = open_policy("no_parse", "no_begin");
	ASSERT_NE(NULL, self->obj);
	/* Either loading or registering fails. */
	if (bpf_object__load(self->obj))
		return;
	EXPECT_EQ(NULL, attach(self->obj, "no_parse"));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(NULL, attach(self->obj, "no_begin"));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(reg, link_is_required)
{
	self->obj = open_policy("no_link", NULL);
	ASSERT_NE(NULL, self->obj);
	ASSERT_EQ(0, bpf_object__load(self->obj)) TH_LOG("%s", fmap_bpf_log());
	self->link = attach(self->obj, "no_link");
	EXPECT_EQ(NULL, self->link);
	EXPECT_EQ(EOPNOTSUPP, errno);
}

/* A link can only be updated to ops of the same name. */
TEST_F(reg, update_to_another_name)
{
	struct bpf_map *other;
	uint32_t id;

	self->obj = open_policy("name_1", "accepted");
	ASSERT_NE(NULL, self->obj);
	ASSERT_EQ(0, bpf_object__load(self->obj)) TH_LOG("%s", fmap_bpf_log());
	self->link = attach(self->obj, "accepted");
	ASSERT_NE(NULL, self->link);
	id = fmap_map_id(self->link);
	other = bpf_object__find_map_by_name(self->obj, "name_1");
	EXPECT_EQ(-EINVAL, bpf_link__update_map(self->link, other));
	EXPECT_EQ(id, fmap_map_id(self->link));
	/* One name is still taken, the other one still free. */
	EXPECT_EQ(NULL, attach(self->obj, "accepted"));
	EXPECT_EQ(EEXIST, errno);
	bpf_link__destroy(attach(self->obj, "name_1"));
}

/* The old ops can come back by another update, but not beside the new ones. */
TEST_F(reg, update_back_and_forth)
{
	struct bpf_map *a, *b;

	self->obj = open_policy("accepted", "same_name");
	ASSERT_NE(NULL, self->obj);
	ASSERT_EQ(0, bpf_object__load(self->obj)) TH_LOG("%s", fmap_bpf_log());
	a = bpf_object__find_map_by_name(self->obj, "accepted");
	b = bpf_object__find_map_by_name(self->obj, "same_name");
	self->link = bpf_map__attach_struct_ops(a);
	ASSERT_NE(NULL, self->link);
	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, bpf_link__update_map(self->link, b));
		EXPECT_EQ(NULL, bpf_map__attach_struct_ops(a));
		EXPECT_EQ(EEXIST, errno);
		EXPECT_EQ(0, bpf_link__update_map(self->link, a));
		/* An update to the same ops works, too. */
		EXPECT_EQ(0, bpf_link__update_map(self->link, a));
	}
	ASSERT_EQ(0, bpf_link__detach(self->link));
	EXPECT_EQ(-ENOLINK, bpf_link__update_map(self->link, b));
	/* The name is free again. */
	bpf_link__destroy(self->link);
	self->link = bpf_map__attach_struct_ops(b);
	EXPECT_NE(NULL, self->link);
}

/* BPF_F_REPLACE: the update needs the link to have the ops that the caller names. */
TEST_F(reg, update_of_the_expected)
{
	struct bpf_link_update_opts opts = {
		.sz = sizeof(opts),
		.flags = BPF_F_REPLACE,
	};
	struct bpf_map *a, *b;

	self->obj = open_policy("accepted", "same_name");
	ASSERT_NE(NULL, self->obj);
	ASSERT_EQ(0, bpf_object__load(self->obj)) TH_LOG("%s", fmap_bpf_log());
	a = bpf_object__find_map_by_name(self->obj, "accepted");
	b = bpf_object__find_map_by_name(self->obj, "same_name");
	self->link = bpf_map__attach_struct_ops(a);
	ASSERT_NE(NULL, self->link);
	/* The map is ready for an update, but the name is taken. */
	EXPECT_EQ(NULL, bpf_map__attach_struct_ops(b));
	opts.old_map_fd = bpf_map__fd(b);
	EXPECT_EQ(-EPERM, bpf_link_update(bpf_link__fd(self->link), bpf_map__fd(b), &opts));
	opts.old_map_fd = bpf_map__fd(a);
	EXPECT_EQ(0, bpf_link_update(bpf_link__fd(self->link), bpf_map__fd(b), &opts));
}

TEST_F(reg, holds_the_module)
{
	self->obj = open_policy("accepted", NULL);
	ASSERT_NE(NULL, self->obj);
	ASSERT_EQ(0, bpf_object__load(self->obj)) TH_LOG("%s", fmap_bpf_log());
	self->link = attach(self->obj, "accepted");
	ASSERT_NE(NULL, self->link);
	EXPECT_LT(self->refs, module_refs());
	EXPECT_EQ(-EAGAIN, module_unload());
}

/* ---- lifetime ---- */

/*
 * Load the scripted ops under another, shorter name. Bytes of the old name remain
 * behind the NUL, and are ignored.
 */
static struct bpf_object *load_scripted(const char *name)
{
	struct bpf_object *obj = fmap_open("scripted.bpf.o");
	struct bpf_map *map;
	char *ops;
	size_t len;

	if (!obj)
		return NULL;
	map = bpf_object__find_map_by_name(obj, "scripted");
	ops = bpf_map__initial_value(map, &len);
	if (ops)
		snprintf(ops, FUSE_DAX_FMAP_OPS_NAME_LEN, "%s", name);
	if (!ops || bpf_object__load(obj)) {
		bpf_object__close(obj);
		return NULL;
	}
	return obj;
}

FIXTURE(in_use) {
	struct bpf_object *obj;
	struct bpf_link *link;
	struct fuse_server *s;
	struct scripted map;
	long refs;
};

FIXTURE_SETUP(in_use)
{
	FMAP_REQUIRE();
	self->refs = module_refs();
	self->obj = load_scripted("in_use");
	ASSERT_NE(NULL, self->obj) TH_LOG("%s", fmap_bpf_log());
	self->link = attach(self->obj, "scripted");
	ASSERT_NE(NULL, self->link);
	self->map = fmap_linear(0, 0, SIZE);
	self->s = fmap_server("in_use");
	ASSERT_NE(NULL, self->s);
	fs_add(self->s, "a", SIZE, &self->map, sizeof(self->map));
	fs_add(self->s, "b", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(self->s));
	ASSERT_EQ(0, fs_try(self->s, "a"));
}

FIXTURE_TEARDOWN(in_use)
{
	bpf_link__destroy(self->link);
	bpf_object__close(self->obj);
	EXPECT_EQ(0, fs_stop(self->s));
	EXPECT_TRUE(module_refs_wait(self->refs));
}

/* The mount can still open files and take faults without link and object. */
#define expect_alive() do {						\
	static const char *const names[] = { "a", "b" };		\
	for (int i = 0; i < 2; i++) {					\
		unsigned char *p = fs_map(self->s, names[i], SIZE,	\
					  PROT_READ | PROT_WRITE);	\
		ASSERT_NE(MAP_FAILED, p);				\
		EXPECT_EQ(0, touch(p + i * PAGE, 1));			\
		munmap(p, SIZE);					\
	}								\
	EXPECT_EQ(-EAGAIN, module_unload());				\
} while (0)

/* A new mount does not find the ops by their name any more. */
#define expect_unknown() do {						\
	struct fuse_server *s = fmap_server("in_use");			\
	struct stat st;							\
	ASSERT_NE(NULL, s);						\
	ASSERT_EQ(0, fs_mount(s));					\
	EXPECT_EQ(-1, stat(fs_path(s, "x"), &st));			\
	EXPECT_EQ(ENOTCONN, errno);					\
	EXPECT_EQ(0, fs_stop(s));					\
} while (0)

TEST_F(in_use, link_destroyed)
{
	bpf_link__destroy(self->link);
	self->link = NULL;
	bpf_object__close(self->obj);
	self->obj = NULL;
	expect_alive();
	expect_unknown();
	expect_alive();
}

TEST_F(in_use, link_detached)
{
	EXPECT_EQ(0, bpf_link__detach(self->link));
	expect_alive();
	expect_unknown();
}

/* New ops take the name; the old mount keeps its ops, and a new one gets the new ops. */
TEST_F(in_use, replaced)
{
	struct fuse_server *s;
	struct bpf_object *obj;
	struct bpf_link *link;

	bpf_link__destroy(self->link);
	self->link = NULL;
	obj = load_scripted("in_use");
	ASSERT_NE(NULL, obj);
	link = attach(obj, "scripted");
	ASSERT_NE(NULL, link);

	s = fmap_server("in_use");
	ASSERT_NE(NULL, s);
	self->map.dev_bitmap = 2;
	self->map.dev_index = 1;
	fs_add(s, "a", SIZE, &self->map, sizeof(self->map));
	ASSERT_EQ(0, fs_mount(s));
	EXPECT_EQ(0, fs_try(s, "a"));
	EXPECT_EQ(0, fs_stop(s));
	bpf_link__destroy(link);
	bpf_object__close(obj);
	self->map = fmap_linear(0, 0, SIZE);
	expect_alive();
}

static struct scripted_seen *seen_by(struct bpf_object *obj)
{
	size_t size;

	return bpf_map__initial_value(bpf_object__find_map_by_name(obj, ".bss"), &size);
}

/* A link update: live mounts keep what they have, new ones get the new ops. */
TEST_F(in_use, updated)
{
	struct bpf_object *obj = load_scripted("in_use");
	struct scripted map = fmap_linear(1, 0, SIZE);
	struct scripted_seen *old_seen, *new_seen;
	uint32_t old_id = fmap_map_id(self->link);
	struct fuse_server *s;
	unsigned char *p;

	ASSERT_NE(NULL, obj);
	old_seen = seen_by(self->obj);
	new_seen = seen_by(obj);
	EXPECT_EQ(1, old_seen->parses);
	ASSERT_EQ(0, bpf_link__update_map(self->link,
					  bpf_object__find_map_by_name(obj, "scripted")));
	EXPECT_NE(old_id, fmap_map_id(self->link));

	s = fmap_server("in_use");
	ASSERT_NE(NULL, s);
	fs_add(s, "a", SIZE, &map, sizeof(map));
	ASSERT_EQ(0, fs_mount(s));
	p = fs_map(s, "a", SIZE, PROT_READ | PROT_WRITE);
	ASSERT_NE(MAP_FAILED, p);
	EXPECT_EQ(0, touch(p, 1));
	EXPECT_EQ(1, new_seen->parses);
	EXPECT_LT(0, new_seen->begins);
	EXPECT_EQ(1, old_seen->parses);
	EXPECT_EQ(0, old_seen->begins);

	/* A file of the old mount that is opened for the first time: the old ops. */
	EXPECT_EQ(0, fs_try(self->s, "b"));
	EXPECT_EQ(2, old_seen->parses);
	EXPECT_EQ(1, new_seen->parses);

	/* debugfs shows which mount has which ops. */
	EXPECT_EQ(old_id, fmap_map_id_of(self->s));
	EXPECT_EQ(fmap_map_id(self->link), fmap_map_id_of(s));

	/* Only the mount keeps the old ops; the new ones outlive their link, too. */
	bpf_object__close(self->obj);
	self->obj = obj;
	expect_alive();
	bpf_link__destroy(self->link);
	self->link = NULL;
	expect_unknown();
	expect_alive();
	EXPECT_EQ(0, touch(p + PAGE, 1));
	munmap(p, SIZE);
	EXPECT_EQ(0, fs_stop(s));
}

/* A mount during an update finds either the old ops or the new ones. */
TEST_F(in_use, updated_all_the_time)
{
	struct bpf_object *obj = load_scripted("in_use");
	struct bpf_map *maps[2];
	unsigned int updates = 0;
	int status;
	pid_t pid;

	ASSERT_NE(NULL, obj);
	maps[0] = bpf_object__find_map_by_name(obj, "scripted");
	maps[1] = bpf_object__find_map_by_name(self->obj, "scripted");
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct scripted map = fmap_linear(1, 0, SIZE);

		for (int i = 0; i < 30; i++) {
			struct fuse_server *s = fmap_server("in_use");

			if (!s)
				_exit(1);
			fs_add(s, "a", SIZE, &map, sizeof(map));
			if (fs_mount(s) || fs_try(s, "a") || fs_stop(s))
				_exit(2);
		}
		_exit(0);
	}
	while (waitpid(pid, &status, WNOHANG) == 0) {
		EXPECT_EQ(0, bpf_link__update_map(self->link, maps[updates % 2]));
		updates++;
	}
	EXPECT_EQ(0, status);
	EXPECT_LT(5, updates) {
		TH_LOG("only %u updates", updates);
	}
	expect_alive();
	bpf_link__destroy(self->link);
	self->link = NULL;
	bpf_object__close(obj);
}

int main(int argc, char **argv)
{
	return test_harness_run(argc, argv);
}
