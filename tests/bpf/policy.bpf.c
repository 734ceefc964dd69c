// SPDX-License-Identifier: GPL-2.0
/*
 * Many small ops, for the tests of what can be registered and what a program may do.
 * struct_ops.c creates one map at a time, so that one refused program does not keep the
 * others from being loaded.
 *
 * The programs of "accepted" use everything that is allowed. Each of the others differs
 * from them in one thing, which its name says.
 */
#include <linux/bpf.h>
#include <linux/fuse_dax_fmap.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define PARSE(name) \
SEC("struct_ops.s/dax_fmap_parse") \
int BPF_PROG(name, struct fuse_dax_fmap_parse_ctx *parse)

#define BEGIN(name) \
SEC("struct_ops/iomap_begin") \
int BPF_PROG(name, struct fuse_dax_fmap_resolve_ctx *resolve, struct fuse_iomap_io *io, \
	     const struct fuse_dax_fmap_meta *first, const __u8 *data, const __u8 *data_end)

#define OPS(var, opsname, p, b)				\
SEC(".struct_ops.link")					\
struct fuse_dax_fmap_ops var = {			\
	.name = opsname,				\
	.dax_fmap_parse = (void *)p,			\
	.iomap_begin = (void *)b,			\
}

PARSE(good_parse)
{
	const __u8 *blob;
	__u8 *meta;
	int err;

	if (!parse->blob_size || parse->meta_buf_size || !parse->blob_room)
		return -1;
	err = bpf_fuse_dax_parse_alloc_meta(parse, 8);
	if (err)
		return err;
	blob = bpf_fuse_dax_parse_get_blob(parse, 0, 8);
	meta = bpf_fuse_dax_parse_get_meta(parse, 0, 8);
	if (!blob || !meta)
		return -1;
	meta[7] = blob[7];
	parse->file_size = 1;
	parse->dev_bitmap = 1;
	parse->blob_wanted = 1;
	return 0;
}

BEGIN(good_begin)
{
	const __u8 *meta = bpf_fuse_dax_resolve_get_meta(resolve, 0, 8);

	if (!meta || io->offset != resolve->file_offset || io->type || io->flags)
		return -1;
	if (data + 8 > data_end || data + (resolve->length & 0xff) + 8 > data_end)
		return -1;
	io->addr = data[7] + data[(resolve->length & 0xff) + 7];
	io->addr += meta[7] + first->word[7] + *(const __u8 *)first + *((const __u32 *)first + 3);
	io->length = resolve->length + resolve->file_size + resolve->meta_buf_size;
	io->dev_index = 1;
	io->type = FUSE_IOMAP_HOLE;
	return 0;
}

OPS(accepted, "accepted", good_parse, good_begin);

/* ---- what can be registered ---- */

OPS(same_name, "accepted", good_parse, good_begin);
OPS(no_parse, "no_parse", 0, good_begin);
OPS(no_begin, "no_begin", good_parse, 0);

SEC(".struct_ops")
struct fuse_dax_fmap_ops no_link = {
	.name = "no_link",
	.dax_fmap_parse = (void *)good_parse,
	.iomap_begin = (void *)good_begin,
};

OPS(name_all_chars, "aZ09_.-", good_parse, good_begin);
OPS(name_15, "123456789012345", good_parse, good_begin);
OPS(name_1, "x", good_parse, good_begin);
OPS(name_empty, "", good_parse, good_begin);
OPS(name_space, "a b", good_parse, good_begin);
OPS(name_slash, "a/b", good_parse, good_begin);
OPS(name_newline, "a\n", good_parse, good_begin);
OPS(name_percent, "%s", good_parse, good_begin);
OPS(name_utf8, "\xc3\xa4", good_parse, good_begin);
OPS(name_late, "\0late", good_parse, good_begin);

/* All 16 bytes taken, none left for the NUL. */
SEC(".struct_ops.link")
struct fuse_dax_fmap_ops name_16 = {
	.name = { '1', '2', '3', '4', '5', '6', '7', '8',
		  '9', '0', '1', '2', '3', '4', '5', '6' },
	.dax_fmap_parse = (void *)good_parse,
	.iomap_begin = (void *)good_begin,
};

/* ---- what dax_fmap_parse may not do ---- */

#define BAD_PARSE(bad, body)			\
PARSE(bad##_prog) { body; return 0; }		\
OPS(bad, #bad, bad##_prog, good_begin)

BAD_PARSE(w_blob_size, parse->blob_size = 1);
BAD_PARSE(w_meta_size, parse->meta_buf_size = 1);
BAD_PARSE(w_blob_room, parse->blob_room = 1);
BAD_PARSE(w_straddle, *(volatile __u64 *)&parse->blob_size = 1);
BAD_PARSE(w_blob, {
	__u8 *p = (__u8 *)bpf_fuse_dax_parse_get_blob(parse, 0, 8);

	if (p)
		p[0] = 1;
});
BAD_PARSE(meta_unchecked, *bpf_fuse_dax_parse_get_meta(parse, 0, 8) = 1);
BAD_PARSE(meta_beyond, {
	volatile __u8 *p = bpf_fuse_dax_parse_get_meta(parse, 0, 8);

	if (p)
		p[8] = 1;
});
BAD_PARSE(blob_variable, {
	const __u8 *p = bpf_fuse_dax_parse_get_blob(parse, 0, parse->blob_size);

	if (p)
		parse->file_size = p[0];
});
BAD_PARSE(p_resolve, {
	const __u8 *p = bpf_fuse_dax_resolve_get_meta((void *)parse, 0, 8);

	if (p)
		parse->file_size = p[0];
});

/* ---- what iomap_begin may not do ---- */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

#define BAD_BEGIN(bad, body)			\
BEGIN(bad##_prog) { body; return 0; }		\
OPS(bad, #bad, good_parse, bad##_prog)

BAD_BEGIN(w_file_offset, resolve->file_offset = 0);
BAD_BEGIN(w_length, resolve->length = 0);
BAD_BEGIN(w_file_size, resolve->file_size = 0);
BAD_BEGIN(w_r_meta_size, resolve->meta_buf_size = 0);
BAD_BEGIN(w_io_offset, io->offset = 0);
BAD_BEGIN(w_io_type_wide, *(volatile __u32 *)&io->type = 1);
BAD_BEGIN(w_io_flags, io->flags = 1);
BAD_BEGIN(w_io_straddle, *(volatile __u64 *)&io->type = 1);
BAD_BEGIN(w_meta, {
	__u8 *p = (__u8 *)bpf_fuse_dax_resolve_get_meta(resolve, 0, 8);

	if (p)
		p[0] = 1;
});
BAD_BEGIN(w_first, *(volatile __u64 *)&first->word[0] = 1);
BAD_BEGIN(first_beyond, io->addr = ((const volatile __u64 *)first)[8]);
BAD_BEGIN(first_variable, io->addr = first->word[resolve->length & 7]);
BAD_BEGIN(data_unchecked, io->addr = data[0]);
BAD_BEGIN(data_beyond, {
	if (data + 8 <= data_end)
		io->addr = data[8];
});
BAD_BEGIN(data_before, {
	if (data + 8 <= data_end)
		io->addr = data[-1];
});
BAD_BEGIN(data_variable, {
	if (data + 8 <= data_end)
		io->addr = data[resolve->length & 7];
});
BAD_BEGIN(data_far, {
	const __u8 *p = data + (resolve->length & 0xffff);

	if (p + 8 <= data_end)
		io->addr = p[0];
});
BAD_BEGIN(data_end_itself, io->addr = data_end[-1]);
BAD_BEGIN(w_data, {
	if (data + 8 <= data_end)
		*(volatile __u8 *)data = 1;
});
BAD_BEGIN(data_helper, {
	if (data + 8 <= data_end)
		io->addr = !bpf_map_lookup_elem(&array, data);
});

/* Half of the pointer. */
SEC("struct_ops/iomap_begin")
int data_half_prog(__u64 *args)
{
	return ((volatile __u32 *)args)[6];
}

OPS(data_half, "data_half", good_parse, data_half_prog);

/* dax_fmap_parse() has no such arguments. */
SEC("struct_ops.s/dax_fmap_parse")
int p_data_prog(__u64 *args)
{
	return args[3] == args[4];
}

OPS(p_data, "p_data", p_data_prog, good_begin);

BAD_BEGIN(b_alloc, io->addr = bpf_fuse_dax_parse_alloc_meta((void *)resolve, 8));
BAD_BEGIN(b_blob, {
	const __u8 *p = bpf_fuse_dax_parse_get_blob((void *)resolve, 0, 8);

	if (p)
		io->addr = p[0];
});
BAD_BEGIN(b_meta, {
	const __u8 *p = bpf_fuse_dax_parse_get_meta((void *)resolve, 0, 8);

	if (p)
		io->addr = p[0];
});

/* iomap_begin() runs in page faults, so it has to be bounded, and may only read. */
extern void *bpf_dynptr_slice(const struct bpf_dynptr *p, __u64 offset, void *buffer__nullable,
			      __u64 buffer__szk) __ksym __weak;

/* If the dynptr is not contiguous, the kfunc writes to the buffer: to the metadata. */
BAD_BEGIN(b_slice, {
	__u32 zero = 0;
	struct bpf_dynptr ptr;
	__u64 *value = bpf_map_lookup_elem(&array, &zero);

	if (!value || bpf_dynptr_from_mem(value, 8, 0, &ptr))
		return 0;
	if (data + 8 <= data_end)
		io->addr = !bpf_dynptr_slice(&ptr, 0, (void *)data, 8);
});
BAD_BEGIN(b_iterator, {
	int i;

	bpf_for(i, 0, 1000000)
		io->addr = i;
});
BAD_BEGIN(b_may_goto, {
	for (;;) {
		asm volatile goto("1: .byte 0xe5; .byte 0;"
				  ".long ((%l[out] - 1b - 8) / 8) & 0xffff; .short 0" : : : : out);
		io->addr = 1;
	}
out:
	io->addr = 2;
});

struct bpf_map;

static int callback(__u32 i, void *ctx)
{
	return 0;
}

static long callback_for_each(struct bpf_map *map, const void *key, void *value, void *ctx)
{
	return 0;
}

/* Fast for a small size, but not for all sizes. */
BAD_BEGIN(b_probe_read, {
	__u64 *value = bpf_map_lookup_elem(&array, &(__u32){ 0 });

	if (value)
		bpf_probe_read_kernel(value, 8, io);
});
BAD_BEGIN(b_update, bpf_map_update_elem(&array, &(__u32){ 0 }, &(__u64){ 1 }, 0));

/* The time of a lookup depends on the length of the key, or on the contents of the map. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__uint(key_size, 8);
	__uint(value_size, 8);
} trie SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_ZERO_SEED);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} zero_seed SEC(".maps");

BAD_BEGIN(b_trie, io->addr = !bpf_map_lookup_elem(&trie, &(__u64){ 0 }));
BAD_BEGIN(b_zero_seed, io->addr = !bpf_map_lookup_elem(&zero_seed, &(__u32){ 0 }));
/* A lookup hashes the whole key. This key is a value of another map, and could have 2 MiB. */
struct long_key {
	char byte[65];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct long_key);
} long_keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct long_key);
	__type(value, __u64);
} long_hash SEC(".maps");

BAD_BEGIN(b_long_key, {
	struct long_key *key = bpf_map_lookup_elem(&long_keys, &(__u32){ 0 });

	if (key)
		io->addr = !bpf_map_lookup_elem(&long_hash, key);
});
BAD_BEGIN(b_loop, bpf_loop(1000000, callback, 0, 0));
BAD_BEGIN(b_for_each, bpf_for_each_map_elem(&array, callback_for_each, 0, 0));
BAD_BEGIN(b_tail_call, bpf_tail_call((void *)ctx, &programs, 0));

__noinline int global(int i)
{
	volatile int steps = i & 0xfff;
	int n = 0;

	while (n < 4096 && n < steps)
		n++;
	return n;
}

BAD_BEGIN(b_global, io->addr = global(resolve->length));

static __noinline int own(int i)
{
	int n = 0;

	while (n < 100 && n < i)
		n++;
	return n;
}

/* A loop that the verifier follows to its end is bounded. */
BEGIN(loop_prog)
{
	for (int i = 0; i < 100; i++)
		io->addr += own(resolve->length & 0xff);
	return 0;
}

OPS(bounded_loop, "bounded_loop", good_parse, loop_prog);

/* A program need not take all arguments. */
SEC("struct_ops/iomap_begin")
int BPF_PROG(two_arguments_prog, struct fuse_dax_fmap_resolve_ctx *resolve,
	     struct fuse_iomap_io *io)
{
	io->addr = resolve->file_offset;
	return 0;
}

OPS(two_arguments, "two_arguments", good_parse, two_arguments_prog);

SEC("struct_ops.s/iomap_begin")
int BPF_PROG(sleepable_prog, struct fuse_dax_fmap_resolve_ctx *resolve,
	     struct fuse_iomap_io *io)
{
	return 0;
}

OPS(b_sleepable, "b_sleepable", good_parse, sleepable_prog);

char _license[] SEC("license") = "GPL";
