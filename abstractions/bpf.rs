// SPDX-License-Identifier: GPL-2.0

//! Programs of BPF, as the verifier sees them, and types of struct_ops.
//!
//! C headers: [`include/linux/bpf.h`](srctree/include/linux/bpf.h),
//! [`include/linux/bpf_verifier.h`](srctree/include/linux/bpf_verifier.h),
//! [`include/linux/btf.h`](srctree/include/linux/btf.h)

pub(crate) mod btf;
pub(crate) mod prog;
pub(crate) mod struct_ops;
