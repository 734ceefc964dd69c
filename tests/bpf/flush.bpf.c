// SPDX-License-Identifier: GPL-2.0
/*
 * Counts bytes that are written to the persistence domain. An emulated CPU has
 * no caches, so the contents of a device do not show if it was flushed; but the
 * two functions that do it can be traced.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "flush.h"

struct flush_seen seen;

/* Where the direct map begins. */
extern const void page_offset_base __ksym;

SEC("fentry/arch_wb_cache_pmem")
int BPF_PROG(count_flush, void *addr, __u64 size)
{
	__u64 base, watched = seen.watched;

	__sync_fetch_and_add(&seen.flushed, size);
	if (watched && !bpf_probe_read_kernel(&base, sizeof(base), &page_offset_base) &&
	    watched + base - (__u64)addr < size)
		__sync_fetch_and_add(&seen.through, 1);
	return 0;
}

SEC("fentry/copy_user_flushcache")
int BPF_PROG(count_copy, void *to, const void *from, __u64 size)
{
	__sync_fetch_and_add(&seen.copied, size);
	return 0;
}

char _license[] SEC("license") = "GPL";
