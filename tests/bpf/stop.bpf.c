// SPDX-License-Identifier: GPL-2.0
/*
 * Stops a task where it frees per-CPU memory, which the module does while it frees a mount,
 * so that other tasks can look at what is left of the mount; or where the driver of a DAX
 * device is unbound, after it has been announced and before the dax core forgets the holder;
 * or where it takes a device, after it has looked at the driver and before it is the holder.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
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

struct dax_device {
	void *holder_data;
} __attribute__((preserve_access_index));

SEC("fentry/kill_dax")
int BPF_PROG(stop_killing, struct dax_device *dax_dev)
{
	__u64 start = bpf_ktime_get_ns();

	if (!stop.unbinding)
		return 0;
	__sync_fetch_and_add(&stop.stopped, 1);
	bpf_loop(1 << 23, is_over, &start, 0);
	stop.is_held = BPF_CORE_READ(dax_dev, holder_data) != 0;
	return 0;
}

SEC("fexit/kill_dax")
int BPF_PROG(killed)
{
	__sync_fetch_and_add(&stop.killed, 1);
	return 0;
}

SEC("fentry/fs_dax_get")
int BPF_PROG(takes)
{
	if (stop.taking && bpf_get_current_pid_tgid() >> 32 == stop.taking)
		stop.in_fs_dax_get = 1;
	return 0;
}

/* fs_dax_get() unlocks the device, and nothing else. */
SEC("fexit/mutex_unlock")
int BPF_PROG(stop_taking)
{
	__u64 start = bpf_ktime_get_ns();

	if (!stop.in_fs_dax_get || bpf_get_current_pid_tgid() >> 32 != stop.taking)
		return 0;
	stop.in_fs_dax_get = 0;
	__sync_fetch_and_add(&stop.stopped, 1);
	bpf_loop(1 << 23, is_over, &start, 0);
	return 0;
}

char _license[] SEC("license") = "GPL";
