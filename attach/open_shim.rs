// SPDX-License-Identifier: GPL-2.0

//! The operations of open files.

use kernel::{
    ffi,
    sync::SetOnce, //
};

use crate::{
    bindings::kernel as c,
    fuse::{
        COperations,
        Inode,
        Table, //
    }, //
};

/// Tables for open files, made from FUSE's own at the first open that is reported.
///
/// Their `owner` is FUSE's, not this module: an open file keeps its mount, which keeps this module.
pub(super) struct OpenShim {
    /// FUSE's own.
    pub(super) orig: Orig,
    /// The open shim: FUSE's own with the module's `->open()`. An inode has it from its first open
    /// on.
    pub(super) shim: c::file_operations,
    /// For a file that is opened as a mapped one.
    pub(super) mapped: c::file_operations,
    /// For an early file: each function calls FUSE's own until the inode is mapped, and that of a
    /// mapped file from then on. See `early`.
    pub(super) early: c::file_operations,
    /// For an early file that was mapped by mmap(2) after its inode was mapped, and counts as open.
    pub(super) counted: c::file_operations,
    /// For an early file that is no_rw.
    pub(super) no_rw: c::file_operations,
}

// SAFETY: These are tables of function pointers, and a pointer to FUSE's table, which is static.
unsafe impl COperations for OpenShim {}

/// FUSE's own operations of regular files.
///
/// # Invariants
///
/// The table is FUSE's, and FUSE stays loaded as long as this module, which depends on it.
#[derive(Clone, Copy)]
pub(super) struct Orig(pub(super) &'static c::file_operations);

impl Orig {
    /// # Safety
    ///
    /// FUSE has opened `file`, which is one of `inode`, and this is called once.
    pub(super) unsafe fn release(self, inode: &Inode, file: *mut c::file) -> ffi::c_int {
        match self.0.release {
            // SAFETY: The function is FUSE's by the type invariants. By the safety requirements
            // FUSE has opened `file`, and `inode` is its inode.
            Some(release) => unsafe { release(inode.as_raw(), file) },
            None => 0,
        }
    }
}

pub(super) static OPEN_SHIM: SetOnce<Table<OpenShim>> = SetOnce::new();

/// Returns true if a file of this mode is no_rw: open for neither reading nor writing. Such a file
/// does not count as open.
pub(super) fn is_no_rw(mode: c::fmode_t) -> bool {
    mode & (c::FMODE_READ | c::FMODE_WRITE) == 0
}
