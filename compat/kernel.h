/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What C headers of older kernels lack or name otherwise, put as the newest has it. Each
 * difference with the kernel up to which it is one. bindings/kernel_helper.h begins with this, so
 * that what is here looks to bindgen as if the kernel had it.
 */
#ifndef FUSE_DAX_FMAP_COMPAT_KERNEL_H
#define FUSE_DAX_FMAP_COMPAT_KERNEL_H

#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 3, 0)
/* Before 7.3, linux/leafops.h uses this one and does not include it. */
#include <linux/swap.h>
#include <linux/pgtable.h>

/* 7.3 dropped the "_wp" of the names of page table bits that userfaultfd uses for more than that. */
static inline pte_t pte_mkuffd(pte_t pte)
{
	return pte_mkuffd_wp(pte);
}
#endif

#endif
