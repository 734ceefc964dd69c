/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A file map for moving.bpf.c: it does not say where the file is but in which
 * variable that stands, and user space writes the variable.
 */
#ifndef MOVING_H
#define MOVING_H

#include <linux/types.h>

#define MOVING_OPS_NAME	"moving"
#define MOVING_FILES	4

struct moving {
	__u64	size;
	__u32	index;		/* in moving_to.addr[] */
	__u32	reserved;
};

/* The object's .bss: where on device 0 each file is at the moment, if anywhere. */
struct moving_to {
	__u64	addr[MOVING_FILES];
	__u32	hole[MOVING_FILES];	/* the whole file, if not 0 */
};

#endif /* MOVING_H */
