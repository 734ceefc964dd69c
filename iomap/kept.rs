// SPDX-License-Identifier: GPL-2.0

//! Memory that outlives its file.
//!
//! When the last file of an inode is closed, direct I/O to another file system, or a pipe, may
//! still have pages of it pinned. Then the mount holds the inode, and a work item of the mount
//! releases it once they are idle. No task waits for that, no other file gets the memory before,
//! and the server gets no FORGET.
//!
//! Unmounting evicts such an inode all the same. Eviction flushes everything, drops what is idle,
//! and puts the rest, the [`MappedFile`] with its DAX page cache, on the list of kept memory, which
//! the same work item releases. Until then the mount holds its devices.
//!
//! A user of a pinned page may store to it at any time, even after fsync(2) has flushed it. So what
//! was in use is marked dirty once it is idle, before the memory is dropped.

use core::{
    mem,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::Ordering, //
};

use kernel::{
    sync::{
        aref::ARef,
        atomic::Relaxed, //
    },
    workqueue::WorkItem, //
};

use crate::{
    abstractions::{
        fs::{
            dax::Mark,
            inode::{
                Inode,
                InodeRef, //
            }, //
        },
        list::List, //
    },
    daxdev::Device,
    lockless::{
        self,
        AsWritten, //
    },
    sb_info::{
        Lists,
        MappedFiles,
        SbInfo,
        RELEASING, //
    }, //
};

use super::{
    invalidate::{
        mark_all_dirty,
        try_break_layout, //
    }, //
    mapped_files::{
        Held,
        Look,
        StaysActive, //
    },
    mapped_inode::MappedFile,
    no_faults::NoFaults,
};

/// A mapped file whose inode is being evicted, or is gone.
///
/// # Invariants
///
/// Only the memory management uses the file, and no VMA maps it. It is only freed through this
/// type, or through the list of kept memory.
pub(super) struct Evicted(NonNull<MappedFile>);

impl Evicted {
    /// # Safety
    ///
    /// The file satisfies the type invariants. It is in the list of its mount.
    pub(super) unsafe fn new(file: NonNull<MappedFile>) -> Self {
        Self(file)
    }

    fn file(&self) -> &MappedFile {
        // SAFETY: By the type invariants the file has not been freed.
        unsafe { self.0.as_ref() }
    }

    /// Drops what is idle of its memory. Returns true if that was all.
    fn drop_idle(&self) -> bool {
        let file = self.file();
        // SAFETY: By the type invariants the inode of `file` is being evicted, or is gone.
        let no_faults = unsafe { NoFaults::of_evicted(file) };

        try_break_layout(&no_faults, None)
    }

    /// Frees the file.
    ///
    /// # Safety
    ///
    /// The file has no memory, and is in no list.
    unsafe fn free(self) {
        // SAFETY: By the type invariants nothing uses the file any more.
        unsafe { MappedFile::free(self.0) }
    }
}

impl Lists {
    /// Puts a file into the list of kept memory.
    fn keep(&mut self, file: &Evicted) {
        let file = file.file();

        // SAFETY: `file` is in no list, and only what takes it out frees it.
        unsafe { self.kept.push(&file.listed, &file.listed.link) };
    }
}

impl WorkItem<RELEASING> for SbInfo {
    type Pointer = ARef<Self>;

    fn run(sbi: ARef<Self>) {
        if sbi.mapped_files.release_kept() {
            sbi.release_kept_later();
        }
    }
}

impl MappedFiles {
    /// Takes a file whose inode is being evicted off its list, drops what is idle of its memory,
    /// and frees it, or keeps the rest.
    pub(super) fn evict(&self, sbi: &SbInfo, evicted: Evicted) {
        let file = evicted.file();
        let is_idle = file.mapping().is_empty() || evicted.drop_idle();

        let mut lists = self.lists.lock();
        // SAFETY: `file` is in the list, by the safety requirements of `Evicted::new()`.
        unsafe { lists.mapped.remove(&file.listed.link) };
        file.listed.inode.store(ptr::null_mut(), Ordering::Relaxed);
        if is_idle {
            drop(lists);
            // SAFETY: The file has no memory, and was taken out of the list.
            unsafe { evicted.free() };
            return;
        }
        if let Some(device) = file.header().any_device() {
            // Nothing asks FUSE's superblock about kept memory.
            // SAFETY: The mount holds `device` until its last kept memory is released.
            unsafe { file.host.move_to(device.dax_dev()) };
        }
        lists.keep(&evicted);
        self.leftovers.add(1, Relaxed);
        drop(lists);
        self.soon();
        sbi.release_kept_later();
    }

    /// Holds the inode of a mapped file, whose last open file is being closed, if pages are in use.
    #[inline]
    pub(super) fn hold_if_busy(&self, inode: &Inode, file: &MappedFile) {
        // If the file is mapped again after this, its last close checks again.
        if lockless::may_be_left::<AsWritten>(&file.listed.may_be_busy) {
            self.hold_if_in_use(inode, file);
        }
    }

    /// Holds the inode if pages are in use, or were: those still have to be marked dirty.
    // Not inlined, so that a close without mmap(2) does not save the registers that this takes.
    #[inline(never)]
    fn hold_if_in_use(&self, inode: &Inode, file: &MappedFile) {
        if !file.is_busy() && !file.was_busy() {
            return;
        }
        lockless::left(&file.listed.may_be_busy);
        let lists = self.lists.lock();
        if !file.listed.is_held.load(Relaxed) && !lists.shuts_down {
            file.listed.is_held.store(true, Relaxed);
            self.leftovers.add(1, Relaxed);
            // SAFETY: A file of the inode is being closed, and has a reference to the inode. The
            // superblock stays mounted until `shut_down()`, and `let_go()` drops this reference
            // before that.
            unsafe { inode.get() }.into_raw();
            drop(lists);
            self.soon();
            file.sbi().release_kept_later();
        }
    }

    /// Releases inodes that are held: those without pages in use and those that are open again, or
    /// `all`. Returns true if some are still held.
    ///
    /// The caller holds `releasing`.
    fn let_go(&self, all: bool) -> bool {
        let mut left = false;
        let is_held = |file: &MappedFile| match file.listed.is_held.load(Relaxed) {
            true => Look::Take,
            false => Look::Pass,
        };

        let let_go = |held: &Held<'_>| {
            let file = held.file();
            let open_files = &file.header().published().open_files;

            // From here on, mmap(2) sets `may_be_busy` again.
            let was_open = lockless::look::<AsWritten>(&file.listed.may_be_busy, open_files);
            if !all && !was_open && file.is_busy() {
                lockless::left(&file.listed.may_be_busy);
                left = true;
                return;
            }
            // What was in use is idle now, or is checked again later.
            mark_all_dirty(file);
            let lists = self.lists.lock();
            // A task that has since opened, used and closed the file found the inode held, and did
            // not hold it again. A task that closes the file after this holds it, if pages are in
            // use.
            let was_used = was_open || file.listed.may_be_busy.load(Ordering::Relaxed);
            let is_open =
                was_used && lockless::use_again::<AsWritten>(&file.listed.may_be_busy, open_files);
            if !all && was_used && !is_open {
                left = true;
                return;
            }
            // A user of pages that are still in use may store to them after they were marked dirty.
            file.listed.was_busy.store(all || was_used, Relaxed);
            file.listed.is_held.store(false, Relaxed);
            self.leftovers.add(-1, Relaxed);
            drop(lists);
            self.soon();
            // SAFETY: `hold_if_busy()` took this reference to `held.inode()` for the mount. The
            // superblock is still mounted.
            drop(unsafe { InodeRef::from_raw(NonNull::from(held.inode())) });
        };
        // SAFETY: The mount releases inodes before its superblock looks for any that are left.
        let active = unsafe { StaysActive::promised() };
        self.walk(active, false, is_held, let_go);
        left
    }

    /// Releases all inodes. Called when the superblock is being shut down, before it looks for
    /// inodes that are left.
    pub(crate) fn shut_down(&self) {
        let _alone = self.releasing.lock();

        self.lists.lock().shuts_down = true;
        self.let_go(true);
    }

    /// Calls `walk`, unless the superblock, which may have no active reference any more, may have
    /// begun to look for inodes in use: returns `None` then.
    ///
    /// Unmounting begins with a wait for the server. After that it waits until `walk` returns.
    pub(super) fn before_shut_down<T>(&self, walk: impl FnOnce(StaysActive<'_>) -> T) -> Option<T> {
        let _alone = self.releasing.lock();

        if self.lists.lock().shuts_down {
            return None;
        }
        // SAFETY: `shut_down()`, which waits for `releasing`, is called before the superblock looks
        // for inodes that are left, and before it is freed.
        Some(walk(unsafe { StaysActive::promised() }))
    }

    /// Drops what is idle of the memory that was in use when its file was closed. Returns true if
    /// some is left. May sleep, but does not wait for pages.
    pub(crate) fn release_kept(&self) -> bool {
        let _alone = self.releasing.lock();
        let holds = !self.lists.lock().shuts_down && self.let_go(false);
        let mut rest = mem::replace(&mut self.lists.lock().kept, List::new());

        while let Some(listed) = rest.pop() {
            // SAFETY: A file that is taken off that list stays until it is freed below.
            let file = MappedFile::of_listed(unsafe { listed.as_ref() });
            // INVARIANT: The files in that list have been evicted.
            let evicted = Evicted(NonNull::from(file));
            if evicted.drop_idle() {
                self.leftovers.add(-1, Relaxed);
                self.soon();
                // SAFETY: The file has no memory, and is in no list.
                unsafe { evicted.free() };
            } else {
                self.lists.lock().keep(&evicted);
            }
        }
        holds || !self.lists.lock().kept.is_empty()
    }

    /// Drops what is idle of the kept memory. Returns true if some of a device is left.
    pub(super) fn release_kept_of(&self, device: &Device) -> bool {
        self.release_kept();
        // With this held, no file is missing from the list, and none leaves it; new ones are put in
        // front.
        let _alone = self.releasing.lock();
        // SAFETY: No file leaves the list as long as `_alone` is held.
        let mut kept = unsafe { self.lists.lock().kept.iter() };

        kept.any(|listed| {
            let mut found = false;
            MappedFile::of_listed(listed).mapping().for_each(
                0,
                u64::MAX,
                Mark::Present,
                |_, entry| {
                    found |= entry.frames().is_some_and(|(pfn, _)| device.has_frame(pfn));
                },
            );
            found
        })
    }
}
