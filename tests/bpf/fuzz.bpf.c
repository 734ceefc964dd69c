// SPDX-License-Identifier: GPL-2.0
/* Ops that return whatever the fuzzer wants: see fuzz.h. */
#include <linux/bpf.h>
#include <linux/fuse_dax_fmap.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "fuzz.h"

#define EBADMSG	74

struct fuzz_calls calls;

SEC("struct_ops.s/dax_fmap_parse")
int BPF_PROG(fuzz_parse_prog, struct fuse_dax_fmap_parse_ctx *parse)
{
	const struct fuzz_parse *blob;
	__u32 *meta;

	blob = (const void *)bpf_fuse_dax_parse_get_blob(parse, 0, sizeof(*blob));
	if (!blob)
		return -EBADMSG;
	/* If this fails, the getter returns NULL. */
	bpf_fuse_dax_parse_alloc_meta(parse, blob->alloc);
	meta = (void *)bpf_fuse_dax_parse_get_meta(parse, 0, sizeof(*meta));
	if (meta)
		*meta = blob->cookie;
	/* The last bytes of the metadata have to be there, too. */
	meta = (void *)bpf_fuse_dax_parse_get_meta(parse, parse->meta_buf_size - sizeof(*meta),
						   sizeof(*meta));
	if (meta)
		*meta = blob->cookie;
	parse->file_size = blob->file_size;
	parse->dev_bitmap = blob->dev_bitmap;
	return blob->ret;
}

static __always_inline __u32 cookie(struct fuse_dax_fmap_resolve_ctx *resolve)
{
	const __u32 *first, *last;

	first = (const void *)bpf_fuse_dax_resolve_get_meta(resolve, 0, sizeof(*first));
	last = (const void *)bpf_fuse_dax_resolve_get_meta(resolve,
		resolve->meta_buf_size - sizeof(*last), sizeof(*last));
	return first && last && *first == *last ? *first : FUZZ_NO_META;
}

SEC("struct_ops/iomap_begin")
int BPF_PROG(fuzz_begin_prog, struct fuse_dax_fmap_resolve_ctx *resolve,
	     struct fuse_iomap_io *io)
{
	__u32 n = __sync_fetch_and_add(&calls.asked, 1) % FUZZ_CALLS;
	const struct fuzz_answer *a = &calls.answer[n];
	struct fuzz_question *q = &calls.question[n];

	q->file_offset = resolve->file_offset;
	q->length = resolve->length;
	q->file_size = resolve->file_size;
	q->meta_buf_size = resolve->meta_buf_size;
	q->io_offset = io->offset;
	q->type_flags = (__u32)io->type << 16 | io->flags;
	q->cookie = cookie(resolve);

	if (a->flags & FUZZ_ADDR)
		io->addr = a->addr + (a->flags & FUZZ_RELATIVE ? io->offset : 0);
	if (a->flags & FUZZ_LENGTH)
		io->length = a->length;
	if (a->flags & FUZZ_TYPE)
		io->type = a->type;
	if (a->flags & FUZZ_DEV)
		io->dev_index = a->dev_index;
	return a->ret;
}

SEC(".struct_ops.link")
struct fuse_dax_fmap_ops fuzz = {
	.name = FUZZ_OPS_NAME,
	.dax_fmap_parse = (void *)fuzz_parse_prog,
	.iomap_begin = (void *)fuzz_begin_prog,
};

char _license[] SEC("license") = "GPL";
