// SPDX-License-Identifier: GPL-2.0

//! Files of lines in debugfs.
//!
//! The position of a reader is a number, and no memory: lines may come and go while a file is open,
//! and each read(2) writes those that fit in its buffer. No lock is held between two lines.
//!
//! Unlike the files of the kernel crate's `debugfs`, one that is open keeps its module loaded:
//! `full_proxy_release()` calls the file's own `->release()` when it is closed, even if it was
//! removed before, and that would be in a module that is gone.
//!
//! C headers: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h),
//! [`include/linux/seq_file.h`](srctree/include/linux/seq_file.h)
//!
//! # Examples
//!
//! ```ignore
//! struct Squares;
//!
//! impl Lines for Squares {
//!     type Module = crate::LocalModule;
//!
//!     fn next(from: u64) -> Option<u64> {
//!         (from < 10).then_some(from)
//!     }
//!
//!     fn show(line: u64, f: &SeqFile) {
//!         seq_print!(f, "{}\n", line * line);
//!     }
//! }
//!
//! let dir = Dir::new(c"example");
//! dir.file::<Squares>(c"squares");
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

/// What a file has in it: lines with numbers.
pub(crate) trait Lines: 'static {
    /// The module that this code is part of.
    type Module: ModuleMetadata;

    /// Returns the number of the first line from `from` on, at most [`LAST`]. May sleep.
    fn next(from: u64) -> Option<u64>;

    /// Writes a line, or nothing if it is not there any more. May sleep. It is called again, with
    /// more room, if the line is longer than what is left of the buffer.
    fn show(line: u64, f: &SeqFile);
}

/// The largest number of a line: the position after it is a `loff_t`, too.
const LAST: u64 = i64::MAX as u64 - 1;

/// A directory at the root of debugfs. Dropping it removes it with its files, and waits for calls
/// of [`Lines`] that are under way.
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
    pub(crate) fn file<T: Lines>(&self, name: &'static CStr) {
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

impl<T: Lines> Ops<T> {
    const FILE: &'static c::file_operations = &c::file_operations {
        owner: this_module::<T::Module>().as_ptr(),
        open: Some(Self::open),
        read: Some(c::seq_read),
        llseek: Some(c::seq_lseek),
        release: Some(c::seq_release),
        ..pin_init::zeroed()
    };

    const SEQ: &'static c::seq_operations = &c::seq_operations {
        start: Some(Self::start),
        stop: Some(Self::stop),
        next: Some(Self::next),
        show: Some(Self::show),
    };

    /// # Safety
    ///
    /// debugfs calls this for a file that is being opened.
    unsafe extern "C" fn open(_: *mut c::inode, file: *mut c::file) -> ffi::c_int {
        // SAFETY: debugfs passes `file`, which is being opened.
        unsafe { c::seq_open(file, Self::SEQ) }
    }

    /// Returns the first line from `*pos` on, for `next` and `show`, and stores its number in
    /// `*pos`: a pointer that is never dereferenced, and null behind the last line.
    ///
    /// # Safety
    ///
    /// `seq_read()` calls this with its `seq_file` and that one's position.
    unsafe extern "C" fn start(_: *mut c::seq_file, pos: *mut c::loff_t) -> *mut ffi::c_void {
        // SAFETY: `seq_read()` passes `pos`, and holds the lock of its `seq_file`.
        let pos = unsafe { &mut *pos };
        let line = u64::try_from(*pos).ok().and_then(T::next);

        match line.filter(|&line| line <= LAST) {
            Some(line) => {
                *pos = line as c::loff_t;
                ptr::without_provenance_mut(line as usize + 1)
            }
            None => ptr::null_mut(),
        }
    }

    /// # Safety
    ///
    /// `seq_read()` calls this with its `seq_file`, what `start` or this has returned last, and
    /// the position of that.
    unsafe extern "C" fn next(
        seq: *mut c::seq_file,
        line: *mut ffi::c_void,
        pos: *mut c::loff_t,
    ) -> *mut ffi::c_void {
        // A line has the number of its address less one, so the next one may have that address.
        // SAFETY: `seq_read()` passes `pos`, and holds the lock of its `seq_file`.
        unsafe { *pos = line.addr() as c::loff_t };
        // SAFETY: `seq` and `pos` are the caller's.
        unsafe { Self::start(seq, pos) }
    }

    /// # Safety
    ///
    /// `seq_read()` calls this with its `seq_file`, and what `start` or `next` has returned.
    unsafe extern "C" fn show(seq: *mut c::seq_file, line: *mut ffi::c_void) -> ffi::c_int {
        // SAFETY: `seq_read()` passes `seq`, and holds its lock until this returns.
        T::show(line.addr() as u64 - 1, unsafe { SeqFile::from_raw(seq) });
        0
    }

    /// Nothing is held between two lines.
    ///
    /// # Safety
    ///
    /// There are no requirements.
    unsafe extern "C" fn stop(_: *mut c::seq_file, _: *mut ffi::c_void) {}
}
