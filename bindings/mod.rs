// SPDX-License-Identifier: GPL-2.0

//! Raw bindings, named only by the files that wrap them.
//!
//! Three sources, none written by hand: the kernel crate's own bindings, the kernel headers it
//! does not bind (`kernel.rs`), and FUSE's private types from the BTF of the kernel that the
//! module is built for (`fuse.rs`). bindgen asserts every layout it emits at compile time.

// Only newer compilers have some of these lints (unknown_lints).
#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unknown_lints,
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

/// Kernel headers, with what they need from the kernel crate.
pub(crate) mod kernel {
    pub(crate) use ::kernel::bindings::*;
    use ::kernel::ffi;
    use pin_init::MaybeZeroable;
    include!(concat!(env!("FUSE_DAX_FMAP_BINDINGS"), "/kernel.rs"));
}

/// FUSE's private types.
pub(crate) mod fuse {
    use super::kernel::*;
    use ::kernel::ffi;
    use pin_init::MaybeZeroable;
    include!(concat!(env!("FUSE_DAX_FMAP_BINDINGS"), "/fuse.rs"));
}
