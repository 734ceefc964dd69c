// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <bpf/bpf_helpers.h>
#include "kernel.h"

/* The programs get a pointer into these, which container_of() finds, as in the kernel. */
struct parse {
	struct fuse_dax_fmap_parse_ctx ctx;
	__u8 *blob;
	__u8 *meta;
};

struct resolve {
	struct fuse_dax_fmap_resolve_ctx ctx;
	const __u8 *meta;
};

unsigned long nr_kfuncs;

const __u8 *bpf_fuse_dax_parse_get_blob(struct fuse_dax_fmap_parse_ctx *ctx,
					__u32 offset, __u32 size)
{
	nr_kfuncs++;
	if ((__u64)offset + size > ctx->blob_size)
		return NULL;
	return ((struct parse *)ctx)->blob + offset;
}

int bpf_fuse_dax_parse_alloc_meta(struct fuse_dax_fmap_parse_ctx *ctx, __u32 size)
{
	struct parse *parse = (struct parse *)ctx;

	nr_kfuncs++;
	if (!size || size > FUSE_DAX_FMAP_META_MAX)
		return -EINVAL;
	if (parse->meta)
		return -EBUSY;
	parse->meta = calloc(1, size);
	ctx->meta_buf_size = size;
	return parse->meta ? 0 : -ENOMEM;
}

__u8 *bpf_fuse_dax_parse_get_meta(struct fuse_dax_fmap_parse_ctx *ctx,
				  __u32 offset, __u32 size)
{
	nr_kfuncs++;
	if ((__u64)offset + size > ctx->meta_buf_size)
		return NULL;
	return ((struct parse *)ctx)->meta + offset;
}

const __u8 *bpf_fuse_dax_resolve_get_meta(struct fuse_dax_fmap_resolve_ctx *ctx,
					  __u32 offset, __u32 size)
{
	if ((__u64)offset + size > ctx->meta_buf_size)
		return NULL;
	return ((struct resolve *)ctx)->meta + offset;
}

int file_open(struct file *file, const struct fuse_dax_fmap_ops *ops,
	      const void *blob, __u32 blob_size)
{
	__u32 room = FUSE_DAX_FMAP_BLOB_MIN, wanted;

	while (room < blob_size)
		room *= 4;
	return file_open_in_room(file, ops, blob, blob_size, room, &wanted);
}

int file_open_in_room(struct file *file, const struct fuse_dax_fmap_ops *ops,
		      const void *blob, __u32 blob_size, __u32 room, __u32 *wanted)
{
	struct parse parse = { .ctx = { .blob_size = blob_size, .blob_room = room } };
	int err;

	/* A copy of exactly this size: the sanitizer detects a read behind its end. */
	parse.blob = malloc(blob_size);
	if (blob_size)
		memcpy(parse.blob, blob, blob_size);
	err = ops->dax_fmap_parse(&parse.ctx);
	free(parse.blob);
	*wanted = parse.ctx.blob_wanted;
	if (err) {
		free(parse.meta);
		return err;
	}
	*file = (struct file){
		.ops = ops,
		.size = parse.ctx.file_size,
		.dev_bitmap = parse.ctx.dev_bitmap,
		.meta_size = parse.ctx.meta_buf_size,
		.meta = parse.meta,
	};
	if (parse.meta)
		memcpy(&file->first, parse.meta,
		       file->meta_size < sizeof(file->first) ? file->meta_size :
							       sizeof(file->first));
	return 0;
}

int file_resolve(const struct file *file, __u64 offset, struct fuse_iomap_io *io)
{
	struct resolve resolve = {
		.ctx = {
			.meta_buf_size = file->meta_size,
			.file_offset = offset,
			.length = 4096,
			.file_size = file->size,
		},
		.meta = file->meta,
	};

	const __u64 args[] = {
		(__u64)&resolve.ctx, (__u64)io, (__u64)&file->first, (__u64)file->meta,
		(__u64)file->meta + file->meta_size,
	};
	/* A program gets its arguments as u64s. */
	int (*iomap_begin)(const __u64 *args) = (void *)file->ops->iomap_begin;

	*io = (struct fuse_iomap_io){ .offset = offset };
	return iomap_begin(args);
}

void file_close(struct file *file)
{
	free(file->meta);
}

static int nr_planned, nr_passed, nr_failed;

void plan(int nr_tests)
{
	nr_planned = nr_tests;
	printf("KTAP version 1\n1..%d\n", nr_tests);
}

void ok(bool passed, const char *fmt, ...)
{
	va_list args;

	nr_passed += passed;
	nr_failed += !passed;
	printf("%sok %d ", passed ? "" : "not ", nr_passed + nr_failed);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

void comment(const char *fmt, ...)
{
	va_list args;

	printf("# ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
}

int finish(void)
{
	if (nr_passed + nr_failed != nr_planned) {
		comment("planned %d tests, ran %d", nr_planned, nr_passed + nr_failed);
		nr_failed++;
	}
	comment("Totals: pass:%d fail:%d xfail:0 xpass:0 skip:0 error:0",
		nr_passed, nr_failed);
	return nr_failed ? 1 : 0;
}
