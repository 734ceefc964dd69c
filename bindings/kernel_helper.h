/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Kernel headers that the module uses and the kernel crate does not bind.
 * bindgen reads this with the flags of the C compiler; Kbuild names what is
 * taken from it.
 */
#include <linux/bpf.h>
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/cred.h>
#include <linux/dax.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/fsnotify_backend.h>
#include <linux/iomap.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/ratelimit.h>
#include <linux/tracepoint.h>
#include <uapi/linux/fuse_dax_fmap.h>

/* Exported, but declared in a private header only (drivers/dax). */
struct dax_device *inode_dax(struct inode *inode);

#include "../fuse_dax_fmap_btf.h"
