// SPDX-License-Identifier: GPL-2.0

//! The mount's list of mapped inodes, for users. `iomap` fills and shows it.
//!
//! The lists of `MappedFiles` have only those that have been mapped by mmap(2).

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

use crate::{
    abstractions::xarray::Numbered,
    stats::Tally, //
};

/// The mapped inodes of a mount, by number. An inode keeps its number until it is evicted.
#[pin_data]
pub(crate) struct MappedInodes {
    #[pin]
    inodes: Numbered<ListedInode>,
}

/// The part of a mapped inode (`iomap`'s `Published`) that is on the list of its mount, and what is
/// counted of it, besides its faults.
///
/// # Invariants
///
/// It is a field of a `Published`.
pub(crate) struct ListedInode {
    pub(crate) read_bytes: Tally,
    pub(crate) written_bytes: Tally,
    pub(crate) refused_mappings: Tally,
    number: Atomic<u32>,
}

impl ListedInode {
    /// # Safety
    ///
    /// The result becomes a field of a `Published`.
    pub(crate) unsafe fn new() -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            read_bytes: Tally::new(),
            written_bytes: Tally::new(),
            refused_mappings: Tally::new(),
            number: Atomic::new(0),
        }
    }
}

impl MappedInodes {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inodes <- Numbered::new(),
        })
    }

    /// Inserts an inode that is not in the list. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// What `inode` is part of must stay valid until [`Self::remove`] has returned.
    pub(crate) unsafe fn insert(&self, inode: &ListedInode) -> Result {
        // SAFETY: By the safety requirements.
        let number = unsafe { self.inodes.insert(inode) }?;

        inode.number.store(number, Relaxed);
        Ok(())
    }

    /// Removes an inode, which must be in the list. No task looks at it any more when this returns.
    /// Does not sleep.
    pub(crate) fn remove(&self, inode: &ListedInode) {
        self.inodes.remove(inode.number.load(Relaxed));
    }

    /// Returns the first number from `from` on that an inode has.
    pub(crate) fn next(&self, from: u32) -> Option<u32> {
        self.inodes.next(from)
    }

    /// Calls `look` with the inode that has a number, if there is one, with the list locked. `look`
    /// must not sleep.
    pub(crate) fn with(&self, number: u32, look: impl FnOnce(&ListedInode)) {
        self.inodes.with(number, look);
    }
}
