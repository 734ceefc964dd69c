// SPDX-License-Identifier: GPL-2.0

//! The files of a mount that have been mapped by mmap(2), one after the other.

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
        ListedFile,
        MappedFiles,
        ActiveSb, //
    }, //
};

use super::mapped_inode::MappedFile;

/// That a superblock stays mounted as long as this is used.
#[derive(Clone, Copy)]
pub(super) struct StaysActive<'a>(PhantomData<&'a ()>);

impl StaysActive<'_> {
    /// # Safety
    ///
    /// The superblock stays mounted as long as the result is used.
    pub(super) unsafe fn promised() -> Self {
        Self(PhantomData)
    }
}

impl<'a> From<&'a ActiveSb> for StaysActive<'a> {
    fn from(_: &'a ActiveSb) -> Self {
        Self(PhantomData)
    }
}

/// What becomes of a file in a walk.
pub(super) enum Look {
    /// Nothing.
    Pass,
    /// Its inode is held, and the file handed on.
    Take,
    /// It was the last one.
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
    /// `None` if the inode is being evicted.
    ///
    /// # Safety
    ///
    /// The inode, which the file has, is not freed meanwhile. Its superblock is that of `_active`.
    unsafe fn new(file: &MappedFile, _active: StaysActive<'a>) -> Option<Self> {
        // SAFETY: The inode of `file` is not freed meanwhile, and its superblock stays mounted for
        // `'a`, by the safety requirements.
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
        // SAFETY: The file stays in the list as long as its inode is held.
        unsafe { self.file.as_ref() }
    }
}

impl MappedFiles {
    /// How many files are looked at with the lock held.
    const BATCH: usize = 64;

    /// Puts in a file that is about to be mapped by mmap(2) for the first time.
    ///
    /// # Safety
    ///
    /// It was made just now, with its inode, which is in use, and stays until it is taken out.
    pub(super) unsafe fn insert(&self, file: &MappedFile) {
        // SAFETY: `file` is in no list, and stays, by the safety requirements.
        unsafe {
            self.lists
                .lock()
                .mapped
                .push(&file.listed, &file.listed.link)
        };
    }

    /// Looks at one file after the other, with the lock held, which others get every now and then.
    /// A marker in the list says how far this is.
    ///
    /// What is to be taken and is being evicted is passed by, unless that is to be waited for: then
    /// it has given up its memory, or that is kept, when this returns. Files that are mapped
    /// meanwhile are passed by.
    pub(super) fn walk(
        &self,
        active: StaysActive<'_>,
        wait_for_eviction: bool,
        mut look: impl FnMut(&MappedFile) -> Look,
        mut each: impl FnMut(&Held<'_>),
    ) {
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
                            // SAFETY: The inode of a `file` in the list is not freed before it is
                            // out of it.
                            held = unsafe { Held::new(file, active) };
                            evicted = wait_for_eviction && held.is_none();
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

        // SAFETY: The list is a part of `self`, which is pinned, and is never replaced.
        unsafe {
            Marker::with(
                &self.lists,
                |lists| &mut lists.mapped,
                |marker| while step(marker) {},
            )
        };
    }

    /// Calls `each` with every file that is `wanted`, whose inode is held meanwhile. `wanted` is
    /// called with a spin lock held. See [`MappedFiles::walk`].
    pub(super) fn for_each(
        &self,
        active: StaysActive<'_>,
        wait_for_eviction: bool,
        wanted: impl Fn(&MappedFile) -> bool,
        mut each: impl FnMut(&MappedFile),
    ) {
        let look = |file: &MappedFile| {
            if wanted(file) {
                Look::Take
            } else {
                Look::Pass
            }
        };
        self.walk(active, wait_for_eviction, look, |held| each(held.file()));
    }

    /// Whether a file is `wanted`, which is called with a spin lock held.
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
        // SAFETY: No file is taken, so this is not used.
        let active = unsafe { StaysActive::promised() };
        self.walk(active, false, look, |_| ());
        found
    }

    /// Takes a reference to the inode of a mapped file, unless that is being evicted, or its memory
    /// is kept.
    pub(super) fn grab<'a>(
        &self,
        mapped: &MappedFile,
        active: StaysActive<'a>,
    ) -> Option<Held<'a>> {
        let _lists = self.lists.lock();

        mapped.inode()?;
        // SAFETY: `mapped` has its inode as long as it is in the list, which is locked. The list is
        // of the mount that stays mounted.
        unsafe { Held::new(mapped, active) }
    }
}
