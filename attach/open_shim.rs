// SPDX-License-Identifier: GPL-2.0

//! The tables of open files.

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

/// The tables of open files, made from FUSE's when the first one is seen.
///
/// They name the module that FUSE's name, and not this one: an open file keeps its mount, and that
/// keeps this module.
pub(super) struct OpenShim {
    /// FUSE's own.
    pub(super) orig: Orig,
    /// FUSE's own, with `->open()` ours. What an inode has from its first open on.
    pub(super) shim: c::file_operations,
    /// Those of an open mapped file.
    pub(super) mapped: c::file_operations,
    /// For a file that FUSE opened when it was not known whether it is mapped: FUSE's own until it
    /// is, and then those of a mapped file. See `early`.
    pub(super) early: c::file_operations,
    /// The same for one that has been mapped by mmap(2) as a mapped file, and counts as open.
    pub(super) counted: c::file_operations,
    /// The same as `early` for one that is open for neither reading nor writing.
    pub(super) no_rw: c::file_operations,
}

// SAFETY: Tables of function pointers, and a pointer to one of FUSE's that is static.
unsafe impl COperations for OpenShim {}

/// FUSE's own operations of regular files.
///
/// # Invariants
///
/// The table is FUSE's, which stays as long as this module, as that depends on it.
#[derive(Clone, Copy)]
pub(super) struct Orig(pub(super) &'static c::file_operations);

impl Orig {
    /// # Safety
    ///
    /// FUSE has opened `file`, which is one of `inode`, and this is called once.
    pub(super) unsafe fn release(self, inode: &Inode, file: *mut c::file) -> ffi::c_int {
        match self.0.release {
            // SAFETY: The function is FUSE's by the type invariants, and both are its own by the
            // safety requirements.
            Some(release) => unsafe { release(inode.as_raw(), file) },
            None => 0,
        }
    }
}

pub(super) static OPEN_SHIM: SetOnce<Table<OpenShim>> = SetOnce::new();

/// Whether a file of this mode is open for neither reading nor writing. Then it cannot be used for
/// either, and does not count as open.
pub(super) fn is_no_rw(mode: c::fmode_t) -> bool {
    mode & (c::FMODE_READ | c::FMODE_WRITE) == 0
}
