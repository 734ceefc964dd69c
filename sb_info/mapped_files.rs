// SPDX-License-Identifier: GPL-2.0

//! The mount's lists of files that have been mapped by mmap(2). `iomap` walks and changes them.

use core::sync::atomic::{
    AtomicBool,
    AtomicPtr, //
};

use kernel::{
    new_mutex,
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Mutex,
        SpinLock, //
    }, //
};

use crate::{
    abstractions::list::{
        Link,
        List, //
    },
    bindings::kernel as c, //
};

/// The bounds of the delay, in milliseconds, before kept memory is checked again.
const KEPT_MIN_MS: u32 = 10;
const KEPT_MAX_MS: u32 = 250;

/// The files of a mount that have been mapped by mmap(2). No other file has DAX entries.
#[pin_data]
pub(crate) struct MappedFiles {
    #[pin]
    pub(crate) lists: SpinLock<Lists>,
    /// Held while `iomap` creates a `MappedFile`.
    #[pin]
    pub(crate) making: Mutex<()>,
    /// Held while kept memory is released.
    #[pin]
    pub(crate) releasing: Mutex<()>,
    /// The number of inodes that are held, plus that of files in the list of kept memory.
    pub(crate) leftovers: Atomic<i64>,
    /// The number of reasons, so far, to look for inodes that FUSE has marked bad.
    suspicions: Atomic<u64>,
    /// The number of those reasons that a later look has cleared.
    cleared: Atomic<u64>,
    /// The next delay before kept memory is checked again.
    patience_ms: Atomic<u32>,
}

/// The lists of [`MappedFiles`].
///
/// # Invariants
///
/// The header of each file in `mapped` is published, and its inode is in use or being evicted. The
/// markers in that list belong to `MappedFiles::walk()`.
///
/// Each file in `kept` is owned by the list, and has no inode.
pub(crate) struct Lists {
    pub(crate) mapped: List<ListedFile>,
    pub(crate) kept: List<ListedFile>,
    /// True once the superblock is being shut down: no inode is held from then on.
    pub(crate) shuts_down: bool,
}

/// The part of a mapped file (`iomap`'s `MappedFile`) that is on a list of its mount.
///
/// # Invariants
///
/// It is a field of a `MappedFile`.
pub(crate) struct ListedFile {
    /// FUSE's inode. It is in use or being evicted as long as the file is in `mapped`, and null if
    /// the memory is kept.
    pub(crate) inode: AtomicPtr<c::inode>,
    /// The links of its list.
    pub(crate) link: Link<Self>,
    /// True if the file has been mapped by mmap(2) since it was last seen idle.
    pub(crate) may_be_busy: AtomicBool,
    /// True if pages were in use, or may have been, at the last check. Their users may have stored
    /// to them since, which writeback does not see.
    pub(crate) was_busy: Atomic<bool>,
    /// True if the mount holds a reference to the inode. Changed with the lock of the lists held.
    pub(crate) is_held: Atomic<bool>,
    /// True once the inode was found bad. It stays so.
    pub(crate) found_bad: Atomic<bool>,
}

impl ListedFile {
    /// # Safety
    ///
    /// The result becomes a field of a `MappedFile`.
    pub(crate) unsafe fn new(inode: *mut c::inode) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            inode: AtomicPtr::new(inode),
            link: Link::new(),
            may_be_busy: AtomicBool::new(true),
            was_busy: Atomic::new(false),
            is_held: Atomic::new(false),
            found_bad: Atomic::new(false),
        }
    }
}

impl MappedFiles {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            lists <- new_spinlock!(
                Lists {
                    mapped: List::new(),
                    kept: List::new(),
                    shuts_down: false,
                },
                "fuse_dax_fmap::MappedFiles::lists"
            ),
            making <- new_mutex!((), "fuse_dax_fmap::MappedFiles::making"),
            releasing <- new_mutex!((), "fuse_dax_fmap::MappedFiles::releasing"),
            leftovers: Atomic::new(0),
            suspicions: Atomic::new(0),
            cleared: Atomic::new(0),
            patience_ms: Atomic::new(KEPT_MIN_MS),
        })
    }

    /// Returns true if there may be leftover memory: memory in use of inodes that are held or that
    /// FUSE has marked bad, and kept memory.
    #[inline]
    pub(crate) fn has_leftovers(&self) -> bool {
        self.leftovers.load(Relaxed) != 0
            || self.suspicions.load(Relaxed) != self.cleared.load(Relaxed)
    }

    /// Records that an inode may have been marked bad. Its memory may be in use until
    /// [`Self::clear`] finds that it is not.
    pub(crate) fn suspect(&self) {
        self.suspicions.add(1, Relaxed);
    }

    /// Calls `look`, which returns true if memory of bad inodes is in use, and returns the same. If
    /// that is false, clears the suspicions from before the call.
    pub(crate) fn clear(&self, look: impl FnOnce() -> bool) -> bool {
        // `look` sees every inode that these suspicions are about.
        let seen = self.suspicions.load(Acquire);
        let busy = look();

        if !busy {
            self.cleared.store(seen, Release);
        }
        busy
    }

    /// Returns the delay before kept memory is checked again, in milliseconds, and doubles it.
    pub(crate) fn patience(&self) -> u32 {
        let ms = self.patience_ms.load(Relaxed);

        self.patience_ms.store((ms * 2).min(KEPT_MAX_MS), Relaxed);
        ms
    }

    /// Resets [`Self::patience`] to its minimum.
    pub(crate) fn soon(&self) {
        self.patience_ms.store(KEPT_MIN_MS, Relaxed);
    }
}
