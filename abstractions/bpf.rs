// SPDX-License-Identifier: GPL-2.0

//! BPF programs, as the verifier sees them, and struct_ops types.
//!
//! C headers: [`include/linux/bpf.h`](srctree/include/linux/bpf.h),
//! [`include/linux/bpf_verifier.h`](srctree/include/linux/bpf_verifier.h),
//! [`include/linux/btf.h`](srctree/include/linux/btf.h)

pub(crate) mod btf;
pub(crate) mod prog;
pub(crate) mod struct_ops;
