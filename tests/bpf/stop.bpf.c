// SPDX-License-Identifier: GPL-2.0
/*
 * Stops a task where it frees per-CPU memory, which the module does while it frees a mount,
 * so that other tasks can look at what is left of the mount.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "stop.h"

struct stop stop;

/* A call spins in here, and must end even if the test has died. */
#define NSEC_MAX	2000000000ULL

static long is_over(__u32 n, __u64 *start)
{
	return *(volatile __u32 *)&stop.go_on || bpf_ktime_get_ns() - *start > NSEC_MAX;
}

SEC("fentry/free_percpu")
int BPF_PROG(stop_there, void *memory)
{
	__u64 start = bpf_ktime_get_ns();

	if (!stop.task || bpf_get_current_pid_tgid() >> 32 != stop.task)
		return 0;
	__sync_fetch_and_add(&stop.stopped, 1);
	bpf_loop(1 << 23, is_over, &start, 0);
	return 0;
}

char _license[] SEC("license") = "GPL";
