// SPDX-License-Identifier: GPL-2.0

//! Places in a tree of mounts.
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
/// It owns a reference to the mount and one to the dentry; a borrowed one is kept by what it is
/// borrowed from.
#[repr(transparent)]
pub(crate) struct Path(c::path);

// SAFETY: Neither of the references belongs to a task.
unsafe impl Send for Path {}
// SAFETY: A path is not changed once it is made.
unsafe impl Sync for Path {}

impl Path {
    /// # Safety
    ///
    /// `path` is valid for `'a`, and does not change.
    pub(crate) unsafe fn from_raw<'a>(path: *const c::path) -> &'a Self {
        // SAFETY: `path` is valid by the safety requirements, and the types have one layout.
        unsafe { &*path.cast() }
    }

    /// The root directory of the current task, `None` if that is exiting and has given its own up.
    /// Does not sleep; dropping the result may.
    pub(crate) fn root_of_current() -> Option<Self> {
        let mut root = c::path {
            mnt: core::ptr::null_mut(),
            dentry: core::ptr::null_mut(),
        };
        // SAFETY: The current task is valid, and `fs` is changed by itself alone.
        let fs = unsafe { (*c::get_current()).fs };
        if fs.is_null() {
            return None;
        }
        // SAFETY: `fs` is the current task's, so it stays; `root` is written to.
        unsafe { c::get_fs_root(fs, &mut root) };
        // INVARIANT: The references were taken just now.
        Some(Self(root))
    }

    /// Opens a file, as if `self` was the root directory of the task, by the credentials of the
    /// task. An empty name opens `self`. May sleep.
    ///
    /// # Errors
    ///
    /// Those of open(2).
    pub(crate) fn open(&self, name: &CStr, flags: u32) -> Result<ARef<File>> {
        // SAFETY: By the type invariants `self` is a valid path; `name` is a string.
        let file =
            unsafe { c::file_open_root(&self.0, name.as_char_ptr(), flags as ffi::c_int, 0) };
        let file = NonNull::new(from_err_ptr(file)?).ok_or(ENODEV)?;

        // SAFETY: `file` is a reference that is ours; no descriptor refers to it, so no call of
        // `fdget_pos()` is under way.
        Ok(unsafe { ARef::from_raw(file.cast()) })
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns both references.
        unsafe { c::path_put(&self.0) }
    }
}
