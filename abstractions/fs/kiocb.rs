// SPDX-License-Identifier: GPL-2.0

//! I/O of a file, of which the kernel may know when it ends.
//!
//! The kernel crate's `Kiocb` is for files whose private data are Rust's.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use kernel::{
    ffi,
    fs::LocalFile,
    types::Opaque, //
};

use crate::{
    abstractions::{
        fs::file::FileExt,
        iov::IovIter, //
    },
    bindings::kernel as c, //
};

/// A `struct kiocb`.
///
/// It is only handed out as `&Kiocb`: what it names goes with its place, so two must not be
/// swapped.
///
/// # Invariants
///
/// It is valid, its file stays open as long as it is used, and only one task uses it.
#[repr(transparent)]
pub(crate) struct Kiocb(Opaque<c::kiocb>);

impl Kiocb {
    /// It, and its file.
    ///
    /// # Safety
    ///
    /// `iocb` is valid for `'a`, and nothing else uses it meanwhile. Its file stays open as long.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(iocb: *mut c::kiocb) -> (&'a Self, &'a LocalFile) {
        // SAFETY: The file of `iocb` stays open for `'a`, by the safety requirements.
        let file = unsafe { LocalFile::from_raw_file((*iocb).ki_filp) };

        // SAFETY: `iocb` is valid and the caller's, and `Self` is transparent.
        (unsafe { &*iocb.cast() }, file)
    }

    /// Calls `with` with synchronous I/O of a file, as its flags want it.
    pub(crate) fn with_sync<T>(
        file: &LocalFile,
        pos: c::loff_t,
        with: impl FnOnce(&Self) -> T,
    ) -> T {
        let mut iocb = c::kiocb {
            ki_filp: file.as_ptr(),
            ki_pos: pos,
            ki_flags: file.iocb_flags(),
            ..pin_init::zeroed()
        };

        // SAFETY: `iocb` is this function's, and `file` stays open as long as that.
        with(unsafe { Self::from_raw(&mut iocb) }.0)
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::kiocb {
        self.0.get()
    }

    /// `IOCB_NOWAIT` and others.
    #[inline]
    pub(crate) fn flags(&self) -> ffi::c_int {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { (*self.0.get()).ki_flags }
    }

    #[inline]
    pub(crate) fn pos(&self) -> c::loff_t {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { (*self.0.get()).ki_pos }
    }

    #[inline]
    pub(crate) fn advance(&self, bytes: usize) {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { (*self.0.get()).ki_pos += bytes as c::loff_t }
    }

    /// Calls `with` while the I/O is of another file.
    #[inline]
    pub(crate) fn with_file<T>(&self, file: &LocalFile, with: impl FnOnce(&Self) -> T) -> T {
        let iocb = self.as_raw();
        // SAFETY: By the type invariants `iocb` is valid and this task's; `file` is open, and stays
        // so until it is taken back below.
        let own = unsafe { core::ptr::replace(&raw mut (*iocb).ki_filp, file.as_ptr()) };
        let done = with(self);

        // SAFETY: By the type invariants `iocb` is valid and this task's; `own` is what it had.
        unsafe { (*iocb).ki_filp = own };
        done
    }

    /// `generic_write_checks()`: the number of bytes that may be written, or an errno. The inode is
    /// locked.
    #[inline]
    pub(crate) fn write_checks(&self, from: &IovIter) -> isize {
        // SAFETY: By the type invariants both are valid and this task's.
        unsafe { c::generic_write_checks(self.as_raw(), from.as_raw()) }
    }

    /// `kiocb_modified()`: takes privileges off and updates times before a write. The inode is
    /// locked exclusively.
    #[inline]
    pub(crate) fn modified(&self) -> ffi::c_int {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { c::kiocb_modified(self.as_raw()) }
    }

    /// `generic_write_sync()`: makes `done` bytes that were written durable if the I/O asks for
    /// that. The inode is not locked.
    #[inline]
    pub(crate) fn write_sync(&self, done: isize) -> isize {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { c::generic_write_sync(self.as_raw(), done) }
    }
}
