// SPDX-License-Identifier: GPL-2.0

//! Memory that outlives its file.
//!
//! When the last file of an inode is closed, pages of it may still be in use: by direct I/O to
//! another file system, or in a pipe. Then the mount holds the inode, and a work item of the mount
//! lets it go once they are idle. Nothing waits for that, no other file gets the memory meanwhile,
//! and the server is not told to forget the file.
//!
//! Unmounting evicts such an inode all the same. Eviction flushes all, gives up what is idle and
//! leaves the rest, the [`MappedFile`] with its DAX page cache, in the list of kept memory, which
//! the same work item gives up. Until then the mount's devices stay held.
//!
//! Who has a page in use may store there at any time, and fsync(2) may have flushed it before. So
//! what was in use is marked dirty once it is idle, before the memory is given up.

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
    mapped_files::{
        Held,
        Look,
        StaysActive, //
    },
    mapped_inode::MappedFile,
    no_faults::NoFaults,
    invalidate::{
        mark_all_dirty,
        try_break_layout, //
    }, //
};

/// A mapped file whose inode is being evicted, or is gone.
///
/// # Invariants
///
/// Nothing but the memory management uses the file, and nothing of it is mapped. It is only freed
/// by way of this, or of the list of kept memory.
pub(super) struct Evicted(NonNull<MappedFile>);

impl Evicted {
    /// # Safety
    ///
    /// The file is as the type invariants say. It is in the list of its mount.
    pub(super) unsafe fn new(file: NonNull<MappedFile>) -> Self {
        Self(file)
    }

    fn file(&self) -> &MappedFile {
        // SAFETY: By the type invariants the file is there.
        unsafe { self.0.as_ref() }
    }

    /// Gives up what is idle of its memory. Returns whether that was all.
    fn drop_idle(&self) -> bool {
        let file = self.file();
        // SAFETY: By the type invariants the inode of `file` is being evicted, or is gone.
        let no_faults = unsafe { NoFaults::of_evicted(file) };

        try_break_layout(&no_faults, None)
    }

    /// Frees it.
    ///
    /// # Safety
    ///
    /// It has no memory, and is in no list.
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
    /// Takes out a file whose inode is being evicted, gives up what is idle of its memory, and
    /// frees it, or keeps the rest.
    pub(super) fn evict(&self, sbi: &SbInfo, evicted: Evicted) {
        let file = evicted.file();
        let is_no_rw = file.mapping().is_empty() || evicted.drop_idle();

        let mut lists = self.lists.lock();
        // SAFETY: `file` is in the list, as `Evicted::new()` asks for.
        unsafe { lists.mapped.remove(&file.listed.link) };
        file.listed.inode.store(ptr::null_mut(), Ordering::Relaxed);
        if is_no_rw {
            drop(lists);
            // SAFETY: The file has no memory, and was taken out of the list.
            unsafe { evicted.free() };
            return;
        }
        if let Some(device) = file.header().any_device() {
            // Nothing asks FUSE's superblock about kept memory.
            // SAFETY: The mount holds `device` until its last kept memory is given up.
            unsafe { file.host.move_to(device.dax_dev()) };
        }
        lists.keep(&evicted);
        self.leftovers.add(1, Relaxed);
        drop(lists);
        self.soon();
        sbi.release_kept_later();
    }

    /// Holds the inode of a file that is being closed, the last one of its inode, if pages of it
    /// are in use.
    pub(super) fn hold_if_busy(&self, inode: &Inode, file: &MappedFile) {
        // What is mapped anew after this is looked at when that is closed. What was in use before
        // is yet to be marked dirty.
        if !lockless::may_be_left::<AsWritten>(&file.listed.may_be_busy)
            || !file.is_busy() && !file.was_busy()
        {
            return;
        }
        lockless::left(&file.listed.may_be_busy);
        let lists = self.lists.lock();
        if !file.listed.is_held.load(Relaxed) && !lists.shuts_down {
            file.listed.is_held.store(true, Relaxed);
            self.leftovers.add(1, Relaxed);
            // SAFETY: A file of the inode is being closed, which has a reference. The superblock
            // stays mounted until `shut_down()`; `let_go()` puts the reference before that.
            unsafe { inode.get() }.into_raw();
            drop(lists);
            self.soon();
            file.sbi().release_kept_later();
        }
    }

    /// Lets inodes go that are held: those with no page in use any more and those that are open
    /// again, or all. Returns whether some are held still.
    ///
    /// The caller has `releasing`.
    fn let_go(&self, all: bool) -> bool {
        let mut left = false;
        let is_held = |file: &MappedFile| match file.listed.is_held.load(Relaxed) {
            true => Look::Take,
            false => Look::Pass,
        };

        let let_go = |held: &Held<'_>| {
            let file = held.file();
            let open_files = &file.header().published().open_files;

            // From here on, mmap(2) sets this again.
            let was_open = lockless::look::<AsWritten>(&file.listed.may_be_busy, open_files);
            if !all && !was_open && file.is_busy() {
                lockless::left(&file.listed.may_be_busy);
                left = true;
                return;
            }
            // What was in use is idle, or is looked at once more.
            mark_all_dirty(file);
            let lists = self.lists.lock();
            // A task that has opened, used and closed the file since found it held, and did not
            // hold it again. One that closes it after this does so itself, if pages are in use.
            let was_used = was_open || file.listed.may_be_busy.load(Ordering::Relaxed);
            let is_open =
                was_used && lockless::use_again::<AsWritten>(&file.listed.may_be_busy, open_files);
            if !all && was_used && !is_open {
                left = true;
                return;
            }
            // Who has pages in use still may store there after this mark.
            file.listed.was_busy.store(all || was_used, Relaxed);
            file.listed.is_held.store(false, Relaxed);
            self.leftovers.add(-1, Relaxed);
            drop(lists);
            self.soon();
            // SAFETY: The mount's reference to `held.inode()` is that of `hold_if_busy()`, and the
            // superblock is still mounted.
            drop(unsafe { InodeRef::from_raw(NonNull::from(held.inode())) });
        };
        // SAFETY: The mount lets inodes go before its superblock looks for any that are left.
        let active = unsafe { StaysActive::promised() };
        self.walk(active, false, is_held, let_go);
        left
    }

    /// The superblock is being shut down: lets all inodes go, before it looks for any that are
    /// left.
    pub(crate) fn shut_down(&self) {
        let _alone = self.releasing.lock();

        self.lists.lock().shuts_down = true;
        self.let_go(true);
    }

    /// Gives up what is idle of the memory that was busy when its file was closed. Returns whether
    /// some is left. May sleep, but not for pages.
    pub(crate) fn release_kept(&self) -> bool {
        let _alone = self.releasing.lock();
        let holds = !self.lists.lock().shuts_down && self.let_go(false);
        let mut rest = mem::replace(&mut self.lists.lock().kept, List::new());

        while let Some(listed) = rest.pop() {
            // SAFETY: What is taken out of that list stays until it is freed below.
            let file = MappedFile::of_listed(unsafe { listed.as_ref() });
            // INVARIANT: What was in that list has been evicted.
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

    /// Gives up what is idle of the kept memory. Returns whether some is left of a device.
    pub(super) fn release_kept_of(&self, device: &Device) -> bool {
        self.release_kept();
        // With this held, nothing is missing from the list, and nothing leaves it; what comes is
        // put in front.
        let _alone = self.releasing.lock();
        // SAFETY: Nothing leaves the list as long as `_alone` is held.
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
