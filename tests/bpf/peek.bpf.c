// SPDX-License-Identifier: GPL-2.0
/*
 * Reads physical memory, for tests that check the contents of a DAX device
 * without the code under test. fsdev_dax offers neither mmap nor read, and
 * /dev/mem is closed in distribution kernels; but the memory of the device is
 * in the kernel's direct map, which a BPF program can read.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "peek.h"

/* Where the direct map begins. */
extern const void page_offset_base __ksym;

unsigned char chunk[PEEK_CHUNK];

SEC("syscall")
int peek(struct peek *arg)
{
	__u32 len = arg->len;
	__u64 base;
	long err;

	if (len > sizeof(chunk))
		return -1;

	err = bpf_probe_read_kernel(&base, sizeof(base), &page_offset_base);
	if (err)
		return err;
	return bpf_probe_read_kernel(chunk, len, (void *)(base + arg->phys));
}

char _license[] SEC("license") = "GPL";
