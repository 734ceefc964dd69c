/* SPDX-License-Identifier: GPL-2.0 */
#ifndef FLUSH_H
#define FLUSH_H

#include <linux/types.h>

/* Bytes written to the persistence domain since the object was loaded; in its .bss. */
struct flush_seen {
	__u64	flushed;	/* bytes written back from the CPU's caches */
	__u64	copied;		/* bytes that write(2) copied around them */
	__u64	watched;	/* set by the test: a physical address, if not 0 */
	__u64	through;	/* how often @watched was written back */
};

#endif /* FLUSH_H */
