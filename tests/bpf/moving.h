/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A file map for moving.bpf.c: it has the index of a variable that says where the
 * file is. User space writes the variable.
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

/* The object's .bss: where on device 0 each file is now, if it is no hole. */
struct moving_to {
	__u64	addr[MOVING_FILES];
	__u32	hole[MOVING_FILES];	/* the whole file, if not 0 */
};

#endif /* MOVING_H */
