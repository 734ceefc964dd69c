// SPDX-License-Identifier: GPL-2.0

//! The file that a VMA holds.
//!
//! DAX keeps its entries in the `f_mapping` of a VMA's file, which has to be the DAX page cache.
//! A descriptor must not have that as its `f_mapping` (see `page_cache`), so there are two files:
//!
//! ```text
//!   descriptor ---> user's file --f_mapping--> the empty page cache
//!                     ^
//!                     | private_data
//!   VMA ---------> vm file ------f_mapping--> the DAX page cache
//! ```
//!
//! Each mmap(2) makes a vm file. All VMAs that come from it share it: those after a split or
//! mremap(2), and those of a child. It holds a reference to the user's file, so the server gets
//! RELEASE when neither a descriptor nor a VMA is left, and may then reuse the memory.

use kernel::{
    ffi,
    fs::LocalFile, //
};

use crate::{
    abstractions::fs::{
        backing_file,
        file::FileExt, //
    },
    bindings::kernel as c, //
};

/// Returns true if `file` is a vm file.
pub(super) fn is_vm_file(file: &LocalFile) -> bool {
    file.is_released_by(release)
}

/// Returns the user's file of a vm file, and any other file itself.
pub(super) fn user_file(file: &LocalFile) -> &LocalFile {
    if is_vm_file(file) {
        // SAFETY: `file` is a vm file, which `mmap` has opened.
        unsafe { backing_file::user_file(file) }
    } else {
        file
    }
}

/// `->release()` of a vm file, and of no other file: its last VMA is gone.
///
/// # Safety
///
/// As `->release()`, for a vm file.
pub(super) unsafe extern "C" fn release(_inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: `file` is a vm file that is being released.
    unsafe { backing_file::release(file) };
    0
}
