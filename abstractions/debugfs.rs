// SPDX-License-Identifier: GPL-2.0

//! Files of text in debugfs.
//!
//! Unlike those of the kernel crate's `debugfs`, a file that is open keeps its module loaded:
//! `full_proxy_release()` calls the file's own `->release()` when it is closed, even if it was
//! removed before, and that would be in a module that is gone.
//!
//! C headers: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h),
//! [`include/linux/seq_file.h`](srctree/include/linux/seq_file.h)
//!
//! # Examples
//!
//! ```ignore
//! struct Answer;
//!
//! impl Text for Answer {
//!     type Module = crate::LocalModule;
//!
//!     fn show(f: &SeqFile) {
//!         seq_print!(f, "{}\n", 42);
//!     }
//! }
//!
//! let dir = Dir::new(c"example");
//! dir.file::<Answer>(c"answer");
//! ```

use core::{
    marker::PhantomData,
    ptr, //
};

use kernel::{
    ffi,
    prelude::*,
    seq_file::SeqFile,
    str::CStr, //
};

use crate::{
    bindings::kernel as c,
    compat::module::{
        this_module,
        ModuleMetadata, //
    }, //
};

/// What a file has in it.
pub(crate) trait Text: 'static {
    /// The module that this code is part of.
    type Module: ModuleMetadata;

    /// Writes all of it. May sleep. It is called again, with more room, if the text is longer than
    /// the buffer.
    fn show(f: &SeqFile);
}

/// A directory at the root of debugfs. Dropping it removes it with its files, and waits for calls
/// of [`Text::show`] that are under way.
///
/// # Invariants
///
/// `self.0` is what `debugfs_create_dir()` has returned, and only [`Drop`] removes it.
pub(crate) struct Dir(*mut c::dentry);

// SAFETY: A directory is not tied to a task.
unsafe impl Send for Dir {}
// SAFETY: debugfs has its own locks.
unsafe impl Sync for Dir {}

impl Dir {
    /// Creates a directory. If that fails, its files are not there, which is no error, as usual
    /// with debugfs.
    pub(crate) fn new(name: &'static CStr) -> Self {
        // SAFETY: `name` is a string. Without a parent the directory is at the root.
        let dir = unsafe { c::debugfs_create_dir(name.as_char_ptr(), ptr::null_mut()) };

        // INVARIANT: The directory has just been created.
        Self(dir)
    }

    /// Creates a file that root can read.
    pub(crate) fn file<T: Text>(&self, name: &'static CStr) {
        // SAFETY: `name` is a string, by the type invariants `self.0` is a directory of debugfs or
        // an error that it returned, and the operations are static.
        unsafe {
            c::debugfs_create_file_full(
                name.as_char_ptr(),
                0o400,
                self.0,
                ptr::null_mut(),
                ptr::null(),
                Ops::<T>::FILE,
            )
        };
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: By the type invariants only this removes `self.0`. An error is ignored.
        unsafe { c::debugfs_remove(self.0) }
    }
}

/// The operations of a file.
struct Ops<T>(PhantomData<T>);

impl<T: Text> Ops<T> {
    const FILE: &'static c::file_operations = &c::file_operations {
        owner: this_module::<T::Module>().as_ptr(),
        open: Some(Self::open),
        read: Some(c::seq_read),
        llseek: Some(c::seq_lseek),
        release: Some(c::single_release),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// debugfs calls this for a file that is being opened.
    unsafe extern "C" fn open(_: *mut c::inode, file: *mut c::file) -> ffi::c_int {
        // SAFETY: debugfs passes `file`, which is being opened.
        unsafe { c::single_open(file, Some(Self::show), ptr::null_mut()) }
    }

    /// # Safety
    ///
    /// `seq_read()` calls this with its `seq_file`.
    unsafe extern "C" fn show(seq: *mut c::seq_file, _: *mut ffi::c_void) -> ffi::c_int {
        // SAFETY: `seq_read()` passes `seq`, and holds its lock until this returns.
        T::show(unsafe { SeqFile::from_raw(seq) });
        0
    }
}
