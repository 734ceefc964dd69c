// SPDX-License-Identifier: GPL-2.0

//! The file that a mapping holds.
//!
//! DAX keeps its entries where a mapping's file says (`f_mapping`): in the DAX page cache of the
//! file. That is not what a descriptor may show (see `page_cache`), so these are two files:
//!
//! ```text
//!   descriptor ---> user's file --f_mapping--> the shown page cache, empty
//!                     ^
//!                     | private_data
//!   mapping -----> vm file ------f_mapping--> the DAX page cache
//! ```
//!
//! Each mmap(2) makes one, and what becomes of that mapping shares it: pieces, copies, those of a
//! child. It keeps the user's file: the server gets RELEASE when neither a descriptor nor a mapping
//! is left, and may use the memory again.

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

/// Whether this is what a mapping of memory holds.
pub(super) fn is_vm_file(file: &LocalFile) -> bool {
    file.is_released_by(release)
}

/// The user's file, of what a mapping holds.
pub(super) fn user_file(file: &LocalFile) -> &LocalFile {
    if is_vm_file(file) {
        // SAFETY: `file` is a vm file, which `mmap` has made.
        unsafe { backing_file::user_file(file) }
    } else {
        file
    }
}

/// `->release()` of a vm file, and of no other: the last mapping is gone.
///
/// # Safety
///
/// As `->release()`, for a vm file.
pub(super) unsafe extern "C" fn release(_inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: `file` is a vm file, which nothing has any more.
    unsafe { backing_file::release(file) };
    0
}
