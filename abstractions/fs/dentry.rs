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

    /// Returns the path from the root of the file system, unless it is very long:
    /// `dentry_path_raw()`. Does not sleep.
    fn path(&self) -> Option<ShownPath> {
        ShownPath::new(|buf, len| {
            // SAFETY: By the type invariants the dentry is in use; `buf` is valid for writes of
            // `len` bytes.
            unsafe { c::dentry_path_raw(self.0.as_ptr(), buf, len) }
        })
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

/// A path for the log, in quotes. Quotes in it, and what is no printable ASCII character, are
/// escaped.
pub(crate) struct ShownPath {
    /// The path, at the end, with a NUL.
    buf: [u8; SHOWN],
    len: usize,
}

impl ShownPath {
    /// Calls `write` with a buffer and its length, at whose end it writes a path with a NUL. It
    /// returns a pointer to the path, or an error pointer if there is none, or a longer one.
    pub(super) fn new(
        write: impl FnOnce(*mut ffi::c_char, ffi::c_int) -> *mut ffi::c_char,
    ) -> Option<Self> {
        let mut buf = [0; SHOWN];
        let path = from_err_ptr(write(buf.as_mut_ptr().cast(), SHOWN as ffi::c_int)).ok()?;
        let len = (buf.as_ptr().addr() + SHOWN - 1).saturating_sub(path.addr());

        (len != 0).then_some(Self { buf, len })
    }
}

impl fmt::Display for ShownPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The NUL is the last byte.
        let end = SHOWN - 1;
        let path = self.buf.get(end.saturating_sub(self.len)..end);

        f.write_fmt(fmt!("{:?}", BStr::from_bytes(path.unwrap_or_default())))
    }
}

/// The path of an inode from the root of its file system, for the log: ` ("/path")`, or nothing if
/// it has none or a very long one.
pub(crate) struct Named(Option<ShownPath>);

impl Named {
    /// Finds the path. May sleep, so not while the line is being printed: printk formats its
    /// arguments with interrupts disabled.
    pub(crate) fn new(inode: &Inode) -> Self {
        Self(Dentry::find_alias(inode).and_then(|dentry| dentry.path()))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => f.write_fmt(fmt!(" ({path})")),
            None => Ok(()),
        }
    }
}
