// SPDX-License-Identifier: GPL-2.0

//! Tables of C operations, most of them copies of FUSE's with some functions of the module.

use kernel::{
    prelude::*,
    sync::global_lock, //
};

use crate::bindings::kernel as c;

global_lock! {
    /// Held while a table is made from FUSE's.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    pub(crate) unsafe(uninit) static MAKING_TABLES: Mutex<()> = ();
}

/// A table of C operations.
#[repr(transparent)]
pub(crate) struct Table<T: COperations>(pub(crate) T);

/// Tables of function pointers and plain pointers to other such tables.
///
/// # Safety
///
/// The type has nothing that belongs to a task, and nothing that is written once the table is made.
pub(crate) unsafe trait COperations {}

// SAFETY: Function pointers, and pointers to static tables.
unsafe impl COperations for c::address_space_operations {}
// SAFETY: Function pointers, and a pointer to the module.
unsafe impl COperations for c::file_operations {}
// SAFETY: Function pointers.
unsafe impl COperations for c::inode_operations {}
// SAFETY: Function pointers.
unsafe impl COperations for c::vm_operations_struct {}

// SAFETY: `T` belongs to no task, by the safety requirements of `COperations`.
unsafe impl<T: COperations> Send for Table<T> {}
// SAFETY: `T` is not written any more, by the safety requirements of `COperations`.
unsafe impl<T: COperations> Sync for Table<T> {}
