/* SPDX-License-Identifier: GPL-2.0 */
/*
 * FUSE's and dax's private types, which are in no headers package. They are
 * dumped from the BTF of the kernel that the module is built for, so this file
 * includes no kernel header. The functions are those that FUSE exports.
 */
#include "vmlinux.h"

extern int fuse_simple_background(struct fuse_mount *fm, struct fuse_args *args,
				  gfp_t gfp_flags);
extern int fuse_do_open(struct fuse_mount *fm, u64 nodeid, struct file *file,
			bool isdir);
extern void fuse_chan_abort(struct fuse_chan *fch, bool abort_with_err);
