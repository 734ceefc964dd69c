// SPDX-License-Identifier: GPL-2.0

//! The mount's list of mapped inodes, for users. `iomap` fills and shows it.
//!
//! The lists of `MappedFiles` have only those that have been mapped by mmap(2).

use core::ptr::NonNull;

use kernel::{
    new_spinlock,
    prelude::*,
    rbtree::{
        Entry,
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SpinLock, //
    }, //
};

use crate::stats::Tally;

/// The mapped inodes of a mount, by number. An inode keeps its number until it is evicted, so a
/// reader of the list can stop anywhere and go on later, and holds nothing meanwhile.
#[pin_data]
pub(crate) struct MappedInodes {
    #[pin]
    inodes: SpinLock<Inodes>,
}

struct Inodes {
    by_number: RBTree<u32, ListedInodePtr>,
    /// The number that was given last.
    last: u32,
}

/// A pointer to an inode in the list.
///
/// # Invariants
///
/// The inode is valid while it is in the list.
struct ListedInodePtr(NonNull<ListedInode>);

// SAFETY: The fields of a `ListedInode` are atomic.
unsafe impl Send for ListedInodePtr {}

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
        let inodes = Inodes {
            by_number: RBTree::new(),
            last: 0,
        };
        pin_init!(Self {
            inodes <- new_spinlock!(inodes, "fuse_dax_fmap::MappedInodes::inodes"),
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
        let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
        let mut inodes = self.inodes.lock();

        loop {
            let number = inodes.last.wrapping_add(1);
            inodes.last = number;
            // The number is taken only if 2^32 files were opened since.
            if let Entry::Vacant(entry) = inodes.by_number.entry(number) {
                // INVARIANT: It is valid while it is in the list, by the safety requirements.
                entry.insert(ListedInodePtr(NonNull::from(inode)), node);
                inode.number.store(number, Relaxed);
                return Ok(());
            }
        }
    }

    /// Removes an inode, which must be in the list. No task looks at it any more when this returns.
    /// Does not sleep.
    pub(crate) fn remove(&self, inode: &ListedInode) {
        let number = inode.number.load(Relaxed);
        let node = self.inodes.lock().by_number.remove_node(&number);

        // It is freed without the lock.
        drop(node);
    }

    /// Returns the first number from `from` on that an inode has.
    pub(crate) fn next(&self, from: u32) -> Option<u32> {
        let inodes = self.inodes.lock();

        inodes
            .by_number
            .cursor_lower_bound(&from)
            .map(|cursor| *cursor.current().0)
    }

    /// Calls `look` with the inode that has a number, if there is one, with the list locked. `look`
    /// must not sleep.
    pub(crate) fn with(&self, number: u32, look: impl FnOnce(&ListedInode)) {
        let inodes = self.inodes.lock();

        if let Some(inode) = inodes.by_number.get(&number) {
            // SAFETY: By the type invariants the inode is valid: nothing removes it from the list
            // while the lock is held.
            look(unsafe { inode.0.as_ref() });
        }
    }
}
