/* SPDX-License-Identifier: GPL-2.0 */
#ifndef PEEK_H
#define PEEK_H

#include <linux/types.h>

#define PEEK_CHUNK	65536	/* bytes that one run reads into .bss */

struct peek {
	__u64	phys;		/* physical address, a multiple of PEEK_CHUNK */
};

#endif /* PEEK_H */
