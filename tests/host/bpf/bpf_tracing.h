/* SPDX-License-Identifier: GPL-2.0 */
/* Stands in for libbpf's header; see bpf_helpers.h. */
#define BPF_PROG(name, args...) name(args)
