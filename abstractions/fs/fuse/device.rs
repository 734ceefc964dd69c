// SPDX-License-Identifier: GPL-2.0

//! Open files of `/dev/fuse`.

use core::{
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::fs::LocalFile;

use crate::bindings::fuse as f;

use super::ChannelId;

/// The file of a server: `/dev/fuse`, open.
///
/// # Invariants
///
/// The private data of the file are a `struct fuse_dev`.
pub(crate) struct ServerFile<'a>(&'a LocalFile);

impl<'a> ServerFile<'a> {
    /// Returns `None` if `file` is no open file of `/dev/fuse`. CUSE has operations of its own.
    pub(crate) fn of(file: &'a LocalFile) -> Option<Self> {
        // SAFETY: An open file has operations, which do not change.
        let operations = unsafe { (*file.as_ptr()).f_op };

        // INVARIANT: FUSE sets the private data when a file is opened with these operations, and
        // leaves them until the file is released.
        ptr::eq(operations, &raw const f::fuse_dev_operations).then_some(Self(file))
    }

    /// Returns the channel that the server answers requests of, if it has mounted. It stays valid
    /// as long as the file.
    pub(crate) fn channel(&self) -> Option<ChannelId> {
        // SAFETY: The file is open, and its private data do not change.
        let dev = unsafe { (*self.0.as_ptr()).private_data }.cast::<f::fuse_dev>();
        // SAFETY: By the type invariants `dev` is valid. FUSE changes the pointer atomically.
        let chan = unsafe { AtomicPtr::from_ptr(&raw mut (*dev).chan) }.load(Ordering::Acquire);

        // FUSE has another special value for a file that is being released.
        (!chan.is_null()).then_some(ChannelId(chan as usize))
    }
}
