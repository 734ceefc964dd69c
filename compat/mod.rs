// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate of older kernels lacks, under the names that the newest one has.
//!
//! Other files import these names from here, and get the kernel crate's own where it has them. So
//! each name is here twice, for kernels that have it and for those that do not. `Kbuild.include`
//! defines the names in `cfg()`.

use kernel::{
    alloc::{
        AllocError,
        Flags,
        KVVec, //
    },
    prelude::*, //
};

#[cfg(not(before_7_3))]
pub(crate) use kernel::{
    error::code::{
        EHWPOISON,
        ENODATA,
        ENOSYS,
        EOPNOTSUPP, //
    },
    module,
    sync::rcu::rcu_barrier, //
};

/// Before 7.3 the kernel crate has the errnos of `errno-base.h`, and few others.
#[cfg(before_7_3)]
macro_rules! errno {
    ($($name:ident)*) => {
        $(
            // SAFETY: An `Error` is a negative errno as an `i32`, and `-$name` is one.
            pub(crate) const $name: Error =
                unsafe { core::mem::transmute(-(crate::bindings::kernel::$name as i32)) };
        )*
    };
}
#[cfg(before_7_3)]
errno! { EHWPOISON ENODATA ENOSYS EOPNOTSUPP }

/// Before 7.3, what `module!` makes is a static of the crate's root.
#[cfg(before_7_3)]
pub(crate) mod module {
    pub(crate) use kernel::ModuleMetadata;
    use kernel::ThisModule;

    /// Returns the module's `THIS_MODULE`. `M` is this crate's module, the only one.
    pub(crate) const fn this_module<M: ModuleMetadata>() -> &'static ThisModule {
        &crate::THIS_MODULE
    }
}

/// Before 7.3 the kernel crate does not wrap it.
#[cfg(before_7_3)]
pub(crate) fn rcu_barrier() {
    // SAFETY: There are no requirements, but that the caller may sleep.
    unsafe { crate::bindings::kernel::rcu_barrier() }
}

/// `KVVec::zeroed()`, which came with 7.3.
///
/// # Errors
///
/// [`AllocError`] if there is no memory.
pub(crate) fn zeroed(n: usize, flags: Flags) -> Result<KVVec<u8>, AllocError> {
    #[cfg(not(before_7_3))]
    return KVVec::zeroed(n, flags);
    #[cfg(before_7_3)]
    KVVec::from_elem(0, n, flags)
}
