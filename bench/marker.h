/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How a program in the guest marks instructions for trace_plugin.c, in QEMU: with two
 * no-operations that no compiler emits. Without the plugin they do nothing.
 */
#ifndef MARKER_H
#define MARKER_H

/* nopl DISPLACEMENT(%rax) */
#define MARKER_BEGIN	0x464d4231	/* "1BMF" */
#define MARKER_END	0x464d4531	/* "1EMF" */

#define MARKER_STR_(x)	#x
#define MARKER_STR(x)	MARKER_STR_(x)
#define marker(x)	asm volatile("nopl " MARKER_STR(x) "(%%rax)" ::: "memory")

#endif /* MARKER_H */
