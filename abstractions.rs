// SPDX-License-Identifier: GPL-2.0

//! Objects of the kernel as safe types, where the kernel crate has none yet.
//!
//! Each file stands where its like would stand in `rust/kernel`, and knows nothing of this module.

pub(crate) mod bpf;
pub(crate) mod cred;
pub(crate) mod dax;
pub(crate) mod device;
pub(crate) mod fs;
pub(crate) mod fsnotify;
pub(crate) mod iomap;
pub(crate) mod iov;
pub(crate) mod list;
pub(crate) mod mm;
pub(crate) mod module;
pub(crate) mod percpu;
pub(crate) mod ratelimit;
pub(crate) mod stack_list;
pub(crate) mod sync;
pub(crate) mod task;
pub(crate) mod tracepoint;
