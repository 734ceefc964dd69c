// SPDX-License-Identifier: GPL-2.0

//! Walks over the files of a mount that have been mapped by mmap(2).

use core::{
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::Ordering, //
};

use kernel::{
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    abstractions::{
        fs::inode::{
            Inode,
            InodeRef, //
        },
        list::Marker, //
    },
    sb_info::{
        ActiveSb, //
        ListedFile,
        MappedFiles,
    }, //
};

use super::mapped_inode::MappedFile;

/// A token: the superblock stays mounted as long as this is used.
#[derive(Clone, Copy)]
pub(super) struct StaysActive<'a>(PhantomData<&'a ()>);

impl StaysActive<'_> {
    /// Creates a token without an [`ActiveSb`].
    ///
    /// # Safety
    ///
    /// The superblock must stay mounted as long as the result is used.
    pub(super) unsafe fn promised() -> Self {
        Self(PhantomData)
    }
}

impl<'a> From<&'a ActiveSb> for StaysActive<'a> {
    fn from(_: &'a ActiveSb) -> Self {
        Self(PhantomData)
    }
}

/// What a walk does with a file.
pub(super) enum Look {
    /// Goes on to the next file.
    Pass,
    /// Takes a reference to the inode, and calls `each` with the file.
    Take,
    /// Ends the walk.
    Stop,
}

/// A mapped file, and a reference to its inode, which keeps it in the list. The superblock stays
/// mounted for `'a`.
pub(super) struct Held<'a> {
    file: NonNull<MappedFile>,
    inode: InodeRef,
    _active: StaysActive<'a>,
}

impl<'a> Held<'a> {
    /// Takes a reference to the inode of a file. Returns `None` if it is being evicted.
    ///
    /// # Safety
    ///
    /// The file must still have its inode, which must not be freed during the call, and whose
    /// superblock must be that of `_active`.
    unsafe fn new(file: &MappedFile, _active: StaysActive<'a>) -> Option<Self> {
        // SAFETY: By the safety requirements the inode of `file` is not freed here, and its
        // superblock stays mounted for `'a`.
        let inode = unsafe { Inode::grab(file.listed.inode.load(Ordering::Relaxed)) }?;

        Some(Self {
            file: NonNull::from(file),
            inode,
            _active,
        })
    }

    pub(super) fn inode(&self) -> &Inode {
        &self.inode
    }

    pub(super) fn file(&self) -> &MappedFile {
        // SAFETY: `file` stays in the list as long as `inode` holds its inode.
        unsafe { self.file.as_ref() }
    }
}

impl MappedFiles {
    /// The number of files that a walk visits before it drops the lock.
    const BATCH: usize = 64;

    /// Inserts a file that is about to be mapped by mmap(2) for the first time.
    ///
    /// # Safety
    ///
    /// The file must be new, of an inode that is in use, and stay valid until it is removed.
    pub(super) unsafe fn insert(&self, file: &MappedFile) {
        let mut lists = self.lists.lock();

        // SAFETY: `file` is in no list, and stays valid, by the safety requirements.
        unsafe { lists.mapped.push(&file.listed, &file.listed.link) };
    }

    /// Calls `look` with each file, with the lock held, and `each` with those to be taken, without
    /// it. The lock is dropped every now and then; a marker in the list keeps the position.
    ///
    /// A file to be taken whose inode is being evicted is skipped, unless `wait_for_eviction` is
    /// set: then its memory is dropped or kept when this returns. Files that are inserted during
    /// the walk are skipped.
    ///
    /// Returns true if a file was skipped because its inode is being evicted.
    pub(super) fn walk(
        &self,
        active: StaysActive<'_>,
        wait_for_eviction: bool,
        mut look: impl FnMut(&MappedFile) -> Look,
        mut each: impl FnMut(&Held<'_>),
    ) -> bool {
        let mut skipped = false;
        let mut step = |marker: &Marker<ListedFile>| {
            let mut held = None;
            let mut evicted = false;
            let mut more = true;
            let mut lists = self.lists.lock();
            for _ in 0..Self::BATCH {
                let Some(next) = marker.next(&lists.mapped) else {
                    more = false;
                    break;
                };
                if let Some(file) = next.map(MappedFile::of_listed) {
                    match look(file) {
                        Look::Pass => (),
                        Look::Take => {
                            // SAFETY: The inode of `file` is not freed before `file` is out of
                            // the list.
                            held = unsafe { Held::new(file, active) };
                            evicted = wait_for_eviction && held.is_none();
                            skipped |= !evicted && held.is_none();
                        }
                        Look::Stop => more = false,
                    }
                }
                if evicted || !more {
                    break;
                }
                marker.advance(&mut lists.mapped);
                if held.is_some() {
                    break;
                }
            }
            drop(lists);
            if let Some(held) = held {
                each(&held);
            } else if evicted {
                fsleep(Delta::from_millis(1));
            }
            more
        };

        let walk = |marker: &Marker<ListedFile>| while step(marker) {};
        // SAFETY: The list is part of `self`, which is pinned, and is never replaced.
        unsafe { Marker::with(&self.lists, |lists| &mut lists.mapped, walk) };
        skipped
    }

    /// Calls `each` with every file that is `wanted`, with a reference to its inode held. `wanted`
    /// is called with a spin lock held. For the result, see [`MappedFiles::walk`].
    pub(super) fn for_each(
        &self,
        active: StaysActive<'_>,
        wait_for_eviction: bool,
        wanted: impl Fn(&MappedFile) -> bool,
        mut each: impl FnMut(&MappedFile),
    ) -> bool {
        let look = |file: &MappedFile| {
            if wanted(file) {
                Look::Take
            } else {
                Look::Pass
            }
        };
        self.walk(active, wait_for_eviction, look, |held| each(held.file()))
    }

    /// Returns true if there is a file that is `wanted`, which is called with a spin lock held.
    pub(super) fn any(&self, wanted: impl Fn(&MappedFile) -> bool) -> bool {
        let mut found = false;
        let look = |file: &MappedFile| {
            found = wanted(file);
            if found {
                Look::Stop
            } else {
                Look::Pass
            }
        };
        // SAFETY: `look` never returns `Look::Take`, so `walk()` does not use `active`.
        let active = unsafe { StaysActive::promised() };
        self.walk(active, false, look, |_| ());
        found
    }

    /// Takes a reference to the inode of a mapped file. Returns `None` if the inode is being
    /// evicted, or the memory is kept.
    pub(super) fn grab<'a>(
        &self,
        mapped: &MappedFile,
        active: StaysActive<'a>,
    ) -> Option<Held<'a>> {
        let _lists = self.lists.lock();

        mapped.inode()?;
        // SAFETY: `mapped` has its inode as long as it is in the list, which is locked. The list is
        // that of the mount that stays mounted.
        unsafe { Held::new(mapped, active) }
    }
}
