// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers of kernel objects that the kernel crate does not provide yet.
//!
//! Each file has the path that it would have in `rust/kernel`, and depends on nothing else of this
//! module but the bindings.

pub(crate) mod bpf;
pub(crate) mod build_id;
pub(crate) mod cred;
pub(crate) mod dax;
pub(crate) mod debugfs;
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
