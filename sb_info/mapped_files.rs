// SPDX-License-Identifier: GPL-2.0

//! What a mount notes of its files that have been mapped by mmap(2). What is done with them is in
//! `iomap`.

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

/// How long kept memory is left alone before it is looked at again, at first and in the end.
const KEPT_MIN_MS: u32 = 10;
const KEPT_MAX_MS: u32 = 250;

/// The files of a mount that have been mapped by mmap(2): no others have DAX entries.
#[pin_data]
pub(crate) struct MappedFiles {
    #[pin]
    pub(crate) lists: SpinLock<Lists>,
    /// Held while a file gets its DAX page cache.
    #[pin]
    pub(crate) making: Mutex<()>,
    /// Held while kept memory is given up.
    #[pin]
    pub(crate) releasing: Mutex<()>,
    /// How many inodes are held, and how many files are in the list of kept memory.
    pub(crate) leftovers: Atomic<i64>,
    /// How often there was a reason to look for inodes that FUSE has marked bad.
    suspicions: Atomic<u64>,
    /// How many of those reasons are known to be none any more.
    cleared: Atomic<u64>,
    patience_ms: Atomic<u32>,
}

/// # Invariants
///
/// Each file in `mapped` is one whose header is published, and whose inode is in use or being
/// evicted. The markers there are those of `MappedFiles::walk()`.
///
/// Each file in `kept` belongs to the list, and has no inode.
pub(crate) struct Lists {
    pub(crate) mapped: List<ListedFile>,
    pub(crate) kept: List<ListedFile>,
    /// No inode is held any more.
    pub(crate) shuts_down: bool,
}

/// The part of a mapped file (`iomap`'s `MappedFile`) that its mount knows.
///
/// # Invariants
///
/// It is a part of one.
pub(crate) struct ListedFile {
    /// FUSE's. In use, or being evicted, as long as the file is in the list of its mount; null if
    /// its memory is kept.
    pub(crate) inode: AtomicPtr<c::inode>,
    /// Its place in a list of the mount.
    pub(crate) link: Link<Self>,
    /// Whether it has been mapped by mmap(2) since it was last seen idle.
    pub(crate) may_be_busy: AtomicBool,
    /// Whether pages were in use, or may have been, when somebody looked last. Who had them may
    /// have stored there since, and writeback does not know.
    pub(crate) was_busy: Atomic<bool>,
    /// Whether the mount has a reference to the inode. Changed under the lock of the list.
    pub(crate) is_held: Atomic<bool>,
}

impl ListedFile {
    /// # Safety
    ///
    /// The result becomes a part of a mapped file.
    pub(crate) unsafe fn new(inode: *mut c::inode) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            inode: AtomicPtr::new(inode),
            link: Link::new(),
            may_be_busy: AtomicBool::new(true),
            was_busy: Atomic::new(false),
            is_held: Atomic::new(false),
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
            releasing <- new_mutex!((), "fuse_dax_fmap::MappedFiles::giving_up"),
            leftovers: Atomic::new(0),
            suspicions: Atomic::new(0),
            cleared: Atomic::new(0),
            patience_ms: Atomic::new(KEPT_MIN_MS),
        })
    }

    /// Whether there may be memory that is in use though its file is closed: of inodes that are
    /// held, of those that FUSE has marked bad, and kept memory.
    #[inline]
    pub(crate) fn has_leftovers(&self) -> bool {
        self.leftovers.load(Relaxed) != 0
            || self.suspicions.load(Relaxed) != self.cleared.load(Relaxed)
    }

    /// An inode may have been marked bad: until somebody has looked, its memory may be in use.
    pub(crate) fn suspect(&self) {
        self.suspicions.add(1, Relaxed);
    }

    /// Looks, and remembers if no memory of inodes that FUSE has marked bad is in use: what is not
    /// `busy`.
    pub(crate) fn clear(&self, look: impl FnOnce() -> bool) -> bool {
        // What is bad by then is seen.
        let seen = self.suspicions.load(Acquire);
        let busy = look();

        if !busy {
            self.cleared.store(seen, Release);
        }
        busy
    }

    /// How long kept memory is to be left alone now, in milliseconds: longer each time.
    pub(crate) fn patience(&self) -> u32 {
        let ms = self.patience_ms.load(Relaxed);

        self.patience_ms.store((ms * 2).min(KEPT_MAX_MS), Relaxed);
        ms
    }

    /// Kept memory is to be looked at soon.
    pub(crate) fn soon(&self) {
        self.patience_ms.store(KEPT_MIN_MS, Relaxed);
    }
}
