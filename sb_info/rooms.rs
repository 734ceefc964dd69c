// SPDX-License-Identifier: GPL-2.0

//! Where the module gets room for files from.

use kernel::prelude::*;

use crate::{
    fmap_ops::Parsed,
    fuse::Inode, //
};

/// Asks servers for room. `attach` implements this, for `iomap`.
pub(crate) trait Rooms: Sync {
    /// Asks for memory for `length` bytes of a file from `offset` on, and returns its new map,
    /// whose devices the mount holds. The caller is the single flight of the inode. Waits for the
    /// server, killably.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] if the server never gives room; the server's error; [`EINTR`] if the task is
    /// being killed; those of a map that is refused. They have been logged, unless they are the
    /// server's refusal.
    fn ask(&self, inode: &Inode, offset: u64, length: u64) -> Result<Parsed>;

    /// Asks whether the server takes back the memory of `length` bytes from `offset` on. Returns
    /// `None` if it keeps that for the file; else its new map, or why it is refused: that has been
    /// logged. The caller is the single flight of the inode. Waits for the server, even if the task
    /// is being killed.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if it never does; the server's error; [`ENOMEM`]. It has taken nothing then.
    fn punch(&self, inode: &Inode, offset: u64, length: u64) -> Result<Option<Result<Parsed>>>;
}
