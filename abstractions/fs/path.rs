// SPDX-License-Identifier: GPL-2.0

//! Paths: a dentry and the mount that it is looked up in.
//!
//! C headers: [`include/linux/path.h`](srctree/include/linux/path.h),
//! [`include/linux/fs_struct.h`](srctree/include/linux/fs_struct.h)
//!
//! # Examples
//!
//! ```ignore
//! let root = Path::root_of_current().ok_or(ESRCH)?;
//! let file = root.open(c"/etc/motd", flags::O_RDONLY)?;
//! ```

use core::ptr::NonNull;

use kernel::{
    error::from_err_ptr,
    ffi,
    fs::File,
    prelude::*,
    str::CStr,
    sync::aref::ARef, //
};

use crate::bindings::kernel as c;

/// A `struct path`.
///
/// # Invariants
///
/// The path owns a reference to the mount and one to the dentry. References behind a borrowed path
/// are owned by what it is borrowed from.
#[repr(transparent)]
pub(crate) struct Path(c::path);

// SAFETY: Neither of the references belongs to a task.
unsafe impl Send for Path {}
// SAFETY: A path is immutable.
unsafe impl Sync for Path {}

impl Path {
    /// Creates a reference to a [`Path`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `path` must be valid, and must not change, for `'a`.
    pub(crate) unsafe fn from_raw<'a>(path: *const c::path) -> &'a Self {
        // SAFETY: `path` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*path.cast() }
    }

    /// Returns the root directory of the current task, or [`None`] if the task is exiting and has
    /// already dropped its root. Does not sleep; dropping the result may.
    pub(crate) fn root_of_current() -> Option<Self> {
        let mut root = c::path {
            mnt: core::ptr::null_mut(),
            dentry: core::ptr::null_mut(),
        };
        // SAFETY: The current task is valid, and no other task changes its `fs`.
        let fs = unsafe { (*c::get_current()).fs };
        if fs.is_null() {
            return None;
        }
        // SAFETY: `fs` is the current task's, so it is valid; `root` is valid for writes.
        unsafe { c::get_fs_root(fs, &mut root) };
        // INVARIANT: `get_fs_root()` has taken both references.
        Some(Self(root))
    }

    /// Opens a file with `self` as the root directory and the credentials of the current task. An
    /// empty name opens `self`. May sleep.
    ///
    /// # Errors
    ///
    /// Those of open(2).
    pub(crate) fn open(&self, name: &CStr, flags: u32) -> Result<ARef<File>> {
        // SAFETY: By the type invariants `self` is a valid path; `name` is a C string.
        let file =
            unsafe { c::file_open_root(&self.0, name.as_char_ptr(), flags as ffi::c_int, 0) };
        let file = NonNull::new(from_err_ptr(file)?).ok_or(ENODEV)?;

        // SAFETY: This function owns the reference `file`. No descriptor refers to the file, so
        // there are no active calls to `fdget_pos()`.
        Ok(unsafe { ARef::from_raw(file.cast()) })
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns both references.
        unsafe { c::path_put(&self.0) }
    }
}
