/* SPDX-License-Identifier: GPL-2.0 */
#ifndef STOP_H
#define STOP_H

#include <linux/types.h>

/* In the .bss of the object. */
struct stop {
	__u32	task;		/* set by the test: the process to be stopped, if not 0 */
	__u32	go_on;		/* set by the test: stop no longer */
	__u32	stopped;	/* how often a task has been stopped */
	__u32	unbinding;	/* set by the test: stop the task that kills a DAX device */
	__u32	is_held;	/* afterwards: has the device still got a holder? */
	__u32	taking;		/* set by the test: the process to be stopped in fs_dax_get() */
	__u32	in_fs_dax_get;	/* that process is in there */
	__u32	killed;		/* how often kill_dax() has returned */
};

#endif /* STOP_H */
