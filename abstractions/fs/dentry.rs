// SPDX-License-Identifier: GPL-2.0

//! Names of inodes.
//!
//! C header: [`include/linux/dcache.h`](srctree/include/linux/dcache.h)
//!
//! # Examples
//!
//! ```ignore
//! pr_warn!("inode {}{} is bad\n", inode.number(), Named::new(inode));
//! ```

use core::ptr::{
    self,
    NonNull, //
};

use kernel::{
    error::from_err_ptr,
    ffi,
    fmt,
    prelude::*,
    seq_file::SeqFile,
    str::BStr, //
};

use super::inode::Inode;
use crate::bindings::kernel as c;

/// The longest path that is shown, with its NUL: it is on the stack.
const SHOWN: usize = 192;

/// A reference to a dentry.
///
/// # Invariants
///
/// `self` owns a reference to the dentry.
#[must_use = "the reference is put when it is dropped"]
struct Dentry(NonNull<c::dentry>);

impl Dentry {
    /// Returns a hashed dentry of the inode: `d_find_alias()`. Does not sleep; dropping the result
    /// may.
    fn find_alias(inode: &Inode) -> Option<Self> {
        // SAFETY: By the type invariants of `Inode` the inode is initialized and is not freed.
        let dentry = unsafe { c::d_find_alias(inode.as_raw()) };

        // INVARIANT: `d_find_alias()` has taken a reference.
        NonNull::new(dentry).map(Self)
    }

    /// Writes the path from the root of the file system to the end of `buf`, with a NUL, and
    /// returns its length, or 0 if it is longer than `buf`: `dentry_path_raw()`. Does not sleep.
    fn path(&self, buf: &mut [u8; SHOWN]) -> usize {
        // SAFETY: By the type invariants the dentry is in use; `buf` is valid for writes of its
        // length, which fits in an `int`.
        let path = unsafe {
            c::dentry_path_raw(
                self.0.as_ptr(),
                buf.as_mut_ptr().cast(),
                SHOWN as ffi::c_int,
            )
        };

        match from_err_ptr(path) {
            Ok(path) => (buf.as_ptr().addr() + SHOWN - 1).saturating_sub(path.addr()),
            Err(_) => 0,
        }
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns the reference.
        unsafe { c::dput(self.0.as_ptr()) }
    }
}

/// Writes ` file=` and the path of an inode from the root of its file system, if it has one;
/// blanks, tabs, newlines and backslashes as in mountinfo. Takes no reference, and does not sleep.
pub(crate) fn write_path(f: &SeqFile, inode: &Inode) {
    let seq = ptr::from_ref(f).cast_mut().cast();

    // SAFETY: `f` is a `struct seq_file` that only this task uses. By the type invariants of
    // `Inode` the inode is not freed.
    unsafe { c::fuse_dax_fmap_seq_file(seq, inode.as_raw()) }
}

/// The path of an inode from the root of its file system, for the log: ` ("/path")`, or nothing if
/// it has none or a very long one. Quotes, and what is no printable ASCII character, are escaped.
pub(crate) struct Named {
    /// The path, at the end.
    buf: [u8; SHOWN],
    len: usize,
}

impl Named {
    /// Finds the path. May sleep, so not while the line is being printed: printk formats its
    /// arguments with interrupts disabled.
    pub(crate) fn new(inode: &Inode) -> Self {
        let mut buf = [0; SHOWN];
        let len = Dentry::find_alias(inode).map_or(0, |dentry| dentry.path(&mut buf));

        Self { buf, len }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The NUL is the last byte.
        let end = SHOWN - 1;

        match self.buf.get(end.saturating_sub(self.len)..end) {
            Some(path) if !path.is_empty() => f.write_fmt(fmt!(" ({:?})", BStr::from_bytes(path))),
            _ => Ok(()),
        }
    }
}
