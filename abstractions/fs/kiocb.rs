// SPDX-License-Identifier: GPL-2.0

//! I/O of a file, which may be asynchronous.
//!
//! The kernel crate's `Kiocb` requires that the private data of the file belong to a Rust type.
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
/// Callers only get a `&Kiocb`: what a `struct kiocb` points to is tied to its address, so two of
/// them must not be swapped.
///
/// # Invariants
///
/// The `struct kiocb` is valid, its file stays open while it is used, and only one task uses it.
#[repr(transparent)]
pub(crate) struct Kiocb(Opaque<c::kiocb>);

impl Kiocb {
    /// Creates a reference to a [`Kiocb`] from a raw pointer, and returns it with its file.
    ///
    /// # Safety
    ///
    /// For `'a` `iocb` must be valid and used by nothing else, and its file must stay open.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(iocb: *mut c::kiocb) -> (&'a Self, &'a LocalFile) {
        // SAFETY: By the safety requirements the file of `iocb` stays open for `'a`.
        let file = unsafe { LocalFile::from_raw_file((*iocb).ki_filp) };

        // SAFETY: `iocb` is valid, and used by nothing else; `Self` is transparent.
        (unsafe { &*iocb.cast() }, file)
    }

    /// Calls `with` with a synchronous [`Kiocb`] for a file, with the I/O flags of the file.
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

        // SAFETY: `iocb` is a local variable, and `file` stays open until this function returns.
        with(unsafe { Self::from_raw(&mut iocb) }.0)
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::kiocb {
        self.0.get()
    }

    /// Returns the flags (`IOCB_*`).
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

    /// Calls `with` while the file of the I/O is replaced by `file`.
    #[inline]
    pub(crate) fn with_file<T>(&self, file: &LocalFile, with: impl FnOnce(&Self) -> T) -> T {
        let iocb = self.as_raw();
        // SAFETY: By the type invariants `iocb` is valid, and only this task uses it. `file` stays
        // open until it is replaced again below.
        let own = unsafe { core::ptr::replace(&raw mut (*iocb).ki_filp, file.as_ptr()) };
        let done = with(self);

        // SAFETY: By the type invariants `iocb` is valid, and only this task uses it. `own` is the
        // file that it had before.
        unsafe { (*iocb).ki_filp = own };
        done
    }

    /// Returns the number of bytes that may be written, or a negative errno:
    /// `generic_write_checks()`. The inode must be locked.
    #[inline]
    pub(crate) fn write_checks(&self, from: &IovIter) -> isize {
        // SAFETY: By the type invariants both are valid, and only this task uses them.
        unsafe { c::generic_write_checks(self.as_raw(), from.as_raw()) }
    }

    /// Removes privileges and updates times before a write: `kiocb_modified()`. The inode must be
    /// locked exclusively.
    #[inline]
    pub(crate) fn modified(&self) -> ffi::c_int {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { c::kiocb_modified(self.as_raw()) }
    }

    /// Makes `done` bytes that were written durable, if the I/O requires that:
    /// `generic_write_sync()`. The inode must not be locked.
    #[inline]
    pub(crate) fn write_sync(&self, done: isize) -> isize {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { c::generic_write_sync(self.as_raw(), done) }
    }
}
