/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PEEK_H
#define PEEK_H

#include <linux/types.h>

#define PEEK_CHUNK	65536	/* bytes that one run reads into .bss, at most */

struct peek {
	__u64	phys;		/* physical address */
	__u32	len;
	__u32	reserved;
};

#endif /* PEEK_H */
