/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's side of a BPF program, as far as a program can see it: opening a file by
 * its map, and resolving offsets. And the little KTAP that the tests need.
 */
#ifndef _KERNEL_H
#define _KERNEL_H

#include <stdbool.h>
#include <linux/fuse_dax_fmap.h>

struct file {
	const struct fuse_dax_fmap_ops *ops;
	__u64	size;
	__u64	dev_bitmap;
	__u32	meta_size;
	void	*meta;
	struct fuse_dax_fmap_meta first;
};

/* Returns 0 or a negative errno. After 0, call file_close(). */
int file_open(struct file *file, const struct fuse_dax_fmap_ops *ops,
	      const void *blob, __u32 blob_size);
/*
 * The same, with a buffer of @room bytes for the answer. After -ERANGE, *@wanted is the
 * size that the program wants.
 */
int file_open_in_room(struct file *file, const struct fuse_dax_fmap_ops *ops,
		      const void *blob, __u32 blob_size, __u32 room, __u32 *wanted);
/* Number of kfunc calls so far: each step of a parser that depends on the map makes one. */
extern unsigned long nr_kfuncs;
int file_resolve(const struct file *file, __u64 offset, struct fuse_iomap_io *io);
void file_close(struct file *file);

/* KTAP: ok() once for each test, finish() as the last thing main() does. */
void plan(int nr_tests);
__attribute__((format(printf, 2, 3))) void ok(bool passed, const char *fmt, ...);
__attribute__((format(printf, 1, 2))) void comment(const char *fmt, ...);
int finish(void);

#endif
