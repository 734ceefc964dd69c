// SPDX-License-Identifier: GPL-2.0

//! The mount's list of mapped inodes, for users. `iomap` fills and shows it.
//!
//! The lists of `MappedFiles` have only those that have been mapped by mmap(2).

use core::{
    mem,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    new_spinlock,
    prelude::*,
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
    inodes: SpinLock<Slots>,
}

/// A slot for each number.
struct Slots {
    slots: KVVec<Slot>,
    /// The first slot of the list of vacant ones, or [`NONE`].
    vacant: u32,
}

/// No number.
const NONE: u32 = u32::MAX;

/// A pointer to an inode, or, with the lowest bit set, the number of the next vacant slot.
///
/// # Invariants
///
/// If it is a pointer, the inode is valid while it is in the list.
#[derive(Clone, Copy)]
struct Slot(*mut ListedInode);

// SAFETY: The fields of a `ListedInode` are atomic.
unsafe impl Send for Slot {}

impl Slot {
    fn vacant(next: u32) -> Self {
        // INVARIANT: It is no pointer.
        Self(ptr::without_provenance_mut((next as usize) << 1 | 1))
    }

    fn inode(self) -> Option<NonNull<ListedInode>> {
        NonNull::new(self.0).filter(|inode| inode.addr().get() & 1 == 0)
    }

    fn next_vacant(self) -> u32 {
        (self.0.addr() >> 1) as u32
    }
}

impl Slots {
    /// Puts an inode into a vacant slot, and returns its number. Returns `None` if there is none.
    fn put(&mut self, slot: Slot) -> Option<u32> {
        let number = self.vacant;

        if let Some(place) = self.slots.get_mut(number as usize) {
            self.vacant = place.next_vacant();
            *place = slot;
            return Some(number);
        }
        let number = u32::try_from(self.slots.len())
            .ok()
            .filter(|&n| n != NONE)?;
        self.slots.push_within_capacity(slot).ok()?;
        Some(number)
    }

    /// Moves the slots to a larger array, and returns the one that they were in.
    fn move_to(&mut self, mut larger: KVVec<Slot>) -> KVVec<Slot> {
        for &slot in self.slots.iter() {
            // The array is larger.
            let _ = larger.push_within_capacity(slot);
        }
        mem::replace(&mut self.slots, larger)
    }
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
    /// Its number in the list, or [`NONE`].
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
            number: Atomic::new(NONE),
        }
    }
}

impl MappedInodes {
    pub(crate) fn new() -> impl PinInit<Self> {
        let slots = Slots {
            slots: KVVec::new(),
            vacant: NONE,
        };
        pin_init!(Self {
            inodes <- new_spinlock!(slots, "fuse_dax_fmap::MappedInodes::inodes"),
        })
    }

    /// Inserts an inode that is not in the list. May sleep. Without memory the inode is not shown.
    ///
    /// # Safety
    ///
    /// What `inode` is part of must stay valid until [`Self::remove`] has returned.
    pub(crate) unsafe fn insert(&self, inode: &ListedInode) {
        /// The number of slots at first, and that by which each new array is larger at least.
        const STEP: usize = 64;
        // INVARIANT: It is valid while it is in the list, by the safety requirements.
        let slot = Slot(ptr::from_ref(inode).cast_mut());
        let mut larger: Option<KVVec<Slot>> = None;

        loop {
            let mut inodes = self.inodes.lock();
            if let Some(number) = inodes.put(slot) {
                inode.number.store(number, Relaxed);
                return;
            }
            let len = inodes.slots.len();
            // Arrays are freed without the lock.
            match larger.take() {
                Some(larger) if larger.capacity() > len => {
                    let old = inodes.move_to(larger);
                    drop(inodes);
                    drop(old);
                    continue;
                }
                // Another task was faster, and its array is full by now.
                small => {
                    drop(inodes);
                    drop(small);
                }
            }
            let flags = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
            let Ok(array) = KVVec::with_capacity(len * 2 + STEP, flags) else {
                return;
            };
            larger = Some(array);
        }
    }

    /// Removes an inode. No task looks at it any more when this returns. Does not sleep.
    pub(crate) fn remove(&self, inode: &ListedInode) {
        let number = inode.number.load(Relaxed);
        let mut inodes = self.inodes.lock();
        let next = inodes.vacant;

        if let Some(slot) = inodes.slots.get_mut(number as usize) {
            *slot = Slot::vacant(next);
            inodes.vacant = number;
        }
    }

    /// Returns the first number from `from` on that an inode has.
    pub(crate) fn next(&self, from: u32) -> Option<u32> {
        let inodes = self.inodes.lock();
        let rest = inodes.slots.get(from as usize..)?;

        rest.iter()
            .position(|slot| slot.inode().is_some())
            .map(|at| from + at as u32)
    }

    /// Calls `look` with the inode that has a number, if there is one, with the list locked. `look`
    /// must not sleep.
    pub(crate) fn with(&self, number: u32, look: impl FnOnce(&ListedInode)) {
        let inodes = self.inodes.lock();
        let slot = inodes.slots.get(number as usize);

        if let Some(inode) = slot.and_then(|slot| slot.inode()) {
            // SAFETY: By the type invariants the inode is valid: nothing removes it from the list
            // while the lock is held.
            look(unsafe { inode.as_ref() });
        }
    }
}
