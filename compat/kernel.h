/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Definitions that C headers of older kernels lack or have under another name, as the newest kernel
 * has them. Each difference says before which kernel it exists. bindings/kernel_helper.h includes
 * this file first, so to bindgen these definitions look like the kernel's. What is a function there
 * has to be one here: bindgen does not bind a macro in its place, and does not say so.
 */
#ifndef FUSE_DAX_FMAP_COMPAT_KERNEL_H
#define FUSE_DAX_FMAP_COMPAT_KERNEL_H

#ifdef FMAP_BEFORE_7_3
/* Before 7.3, linux/swapops.h uses this header and does not include it. */
#include <linux/swap.h>
#include <linux/pgtable.h>

/* Before 7.3, the page table bit of userfaultfd has "_wp" in its name. */
static inline pte_t pte_mkuffd(pte_t pte)
{
	return pte_mkuffd_wp(pte);
}

/* The macro came with a change of the names inside of struct dentry. */
#include <linux/dcache.h>
#ifndef for_each_alias
#define for_each_alias(dentry, inode) \
	hlist_for_each_entry(dentry, &(inode)->i_dentry, d_u.d_alias)
#endif
#endif

#endif
