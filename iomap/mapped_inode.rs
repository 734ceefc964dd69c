// SPDX-License-Identifier: GPL-2.0

//! The module's state of a mapped inode: its header, its metadata, and the [`MappedFile`] that it
//! gets at its first mmap(2).
//!
//! `inode->i_private`, which FUSE does not use, has the [`State`] of a file of an fmap mount. For a
//! mapped file it points to a [`Header`]: one cache line with all that the fault path needs before
//! it calls the program. The program's metadata follow it, and fields that the fault path does not
//! need precede it ([`Published`]). A header is published once, in the single flight of an open,
//! and freed when the inode is evicted; no operation of an inode runs during its eviction.

use core::{
    alloc::Layout,
    mem::{
        offset_of,
        size_of, //
    },
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        AtomicU32,
        AtomicU64,
        Ordering, //
    }, //
};

use kernel::{
    container_of,
    ffi,
    fs::LocalFile,
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::Relaxed,
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

use crate::{
    abstractions::{
        fs::{
            self,
            address_space::AddressSpace,
            dax::{
                DaxMapping,
                Host, //
            },
            file::FileExt,
            kiocb::Kiocb, //
        },
        iov::IovIter,
        sync::rcu::RcuHead, //
    },
    bindings::kernel as c,
    fmap_ops::{
        MetaBuf,
        Metadata,
        Resolver, //
    },
    fuse::{
        is_bad,
        Inode, //
    },
    lockless::{
        self,
        AsWritten, //
    },
    sb_info::{
        ListedFile,
        ListedInode,
        SbInfo, //
    },
    stats::{
        self,
        Tally, //
    }, //
};

pub(super) const PAGE: u64 = PAGE_SIZE as u64;
pub(super) const PMD_SIZE: u64 = 2 << 20;

/// What is known about a file of an fmap mount.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// No open has published a map, or found that there is none.
    Unknown,
    /// It has no map, and is served by FUSE alone.
    Plain,
    /// It is mapped.
    Mapped,
}

/// `i_private` of a plain file. No header has this address.
pub(super) const PLAIN: *mut ffi::c_void = ptr::without_provenance_mut(1);

/// What faults, reads and writes need to know about a mapped file, besides the metadata.
///
/// # Invariants
///
/// - `meta_len` bytes of metadata follow, and zeros up to the end of their first cache line.
/// - `sbi` outlives the header: it is freed after the last inode, and after the last kept memory.
/// - `file` is null until the first mmap(2) of the file, and is freed after the header.
#[repr(C, align(64))]
pub(super) struct Header {
    pub(super) resolver: Resolver,
    pub(super) sbi: NonNull<SbInfo>,
    pub(super) dev_bitmap: u64,
    pub(super) mapped_size: u64,
    pub(super) meta_len: u32,
    /// The number of tasks in writeback of the file.
    pub(super) writers_back: AtomicU32,
    /// The mount's counters.
    pub(super) counts: stats::Shortcut,
    /// What a folio's cookie must equal, but for its dirty bit, to count for this file; see
    /// `fault_fast`.
    pub(super) validity: AtomicU64,
    pub(super) file: AtomicPtr<MappedFile>,
}

const _: () = assert!(size_of::<Header>() == 64);

/// A [`Header`] and what precedes it.
#[repr(C)]
pub(super) struct Published {
    /// The `f_mapping` of descriptors.
    pub(super) empty: Opaque<c::address_space>,
    /// The number of open files that were opened as mapped ones.
    pub(super) open_files: AtomicU32,
    /// The number of mapping errors, except those after which the operation is retried.
    pub(super) errors: AtomicU32,
    pub(super) listed: ListedInode,
    pub(super) header: Header,
}

const _: () =
    assert!(offset_of!(Published, header) + size_of::<Header>() == size_of::<Published>());

/// What a file gets at its first mmap(2): the DAX page cache, and an entry in the list of its
/// mount.
///
/// It is freed after an RCU grace period: the kernel accesses the page cache of a folio without
/// taking a reference (`dax_lock_folio()`, `gup_fast_folio_allowed()`).
///
/// # Invariants
///
/// As long as this is borrowed, except by [`UnderRcu`], `header` is valid, and the inode in
/// `listed` is null, in use or being evicted.
#[pin_data]
#[repr(C)]
pub(super) struct MappedFile {
    /// The inode that hosts the DAX page cache.
    #[pin]
    pub(super) host: Host,
    pub(super) header: NonNull<Header>,
    pub(super) faults: Faults,
    /// The part that is on a list of the mount.
    pub(super) listed: ListedFile,
    pub(super) rcu: RcuHead<Self>,
}

/// The faults of a file, in a cache line of their own: the lock that each fault takes is in another
/// one, which a fault should not lose to a CPU that only counts.
#[repr(C, align(32))]
pub(super) struct Faults {
    pub(super) huge: Tally,
    pub(super) pages: Tally,
    pub(super) failed: Tally,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self {
            huge: Tally::new(),
            pages: Tally::new(),
            failed: Tally::new(),
        }
    }
}

// SAFETY: A mapped file is not tied to a task.
unsafe impl Send for MappedFile {}
// SAFETY: Fields that change are atomic, or have a lock.
unsafe impl Sync for MappedFile {}

/// The layout of what precedes the metadata of a mapped file.
pub(crate) const HEADROOM: Layout = Layout::new::<Published>();

/// Returns the buffer of a header that is not published, or not any more.
///
/// # Safety
///
/// The header must be part of a [`Published`] in the headroom of its metadata, and no pointer to it
/// may be left.
pub(super) unsafe fn take_back(header: NonNull<Header>) -> MetaBuf {
    // SAFETY: `header` is valid, by the safety requirements.
    let meta_len = unsafe { header.as_ref() }.meta_len;
    // SAFETY: `header` is part of a `Published`, by the safety requirements.
    let published = unsafe { header.byte_sub(offset_of!(Published, header)) };

    // SAFETY: `published` is the headroom of a buffer with `meta_len` bytes of metadata.
    unsafe { MetaBuf::from_raw(published.cast(), HEADROOM, meta_len) }
}

impl Published {
    /// Returns what an entry in the list of a mount is part of.
    pub(super) fn of_listed(listed: &ListedInode) -> &Self {
        // SAFETY: By the type invariants `listed` is a field of a `Published`.
        unsafe { &*container_of!(ptr::from_ref(listed).cast_mut(), Self, listed) }
    }

    /// Returns FUSE's inode.
    pub(super) fn inode(&self) -> &Inode {
        // SAFETY: The host of the empty page cache is FUSE's inode, which is in use or being
        // evicted.
        unsafe { Inode::new(self.header.empty().host()) }
    }
}

impl MappedFile {
    /// Records that an open file, which is counted, is about to be mapped by mmap(2): the last
    /// close checks whether pages are in use.
    pub(super) fn will_be_mapped(&self) {
        lockless::used::<AsWritten>(&self.listed.may_be_busy);
    }

    /// Returns the file of an entry in a list of its mount.
    pub(super) fn of_listed(listed: &ListedFile) -> &Self {
        // SAFETY: By the type invariants `listed` is a field of a `MappedFile`.
        unsafe { &*container_of!(ptr::from_ref(listed).cast_mut(), Self, listed) }
    }

    /// Returns the mapped file of a DAX page cache.
    ///
    /// # Safety
    ///
    /// `mapping` must be the DAX page cache of a mapped file that is not freed for `'a`.
    pub(super) unsafe fn of_mapping<'a>(mapping: *mut c::address_space) -> &'a Self {
        // SAFETY: `mapping` is valid, by the safety requirements, and its host the first field.
        unsafe { &*(*mapping).host.cast() }
    }

    #[inline]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: By the type invariants `header` is valid.
        unsafe { self.header.as_ref() }
    }

    #[inline]
    pub(super) fn sbi(&self) -> &SbInfo {
        self.header().sbi()
    }

    /// Returns the DAX page cache.
    #[inline]
    pub(super) fn mapping(&self) -> &DaxMapping {
        self.host.mapping()
    }

    /// Returns FUSE's inode, or `None` if the memory is kept.
    pub(super) fn inode(&self) -> Option<&Inode> {
        let inode = NonNull::new(self.listed.inode.load(Ordering::Relaxed))?;

        // SAFETY: By the type invariants `inode` is FUSE's, and in use or being evicted.
        Some(unsafe { Inode::new(inode.as_ptr()) })
    }

    /// Returns true if FUSE has marked the inode bad.
    pub(super) fn has_bad_inode(&self) -> bool {
        self.inode().is_some_and(|inode| inode.is_bad())
    }

    /// Returns true if pages were in use at the last check ([`ListedFile::was_busy`]).
    pub(super) fn was_busy(&self) -> bool {
        self.listed.was_busy.load(Relaxed)
    }

    /// Records that pages are in use, or may be ([`ListedFile::was_busy`]).
    pub(super) fn mark_busy(&self) {
        self.listed.was_busy.store(true, Relaxed);
    }

    /// Unmaps the file, and returns true if pages are in use.
    pub(super) fn is_busy(&self) -> bool {
        self.mapping().is_busy(0, c::loff_t::MAX)
    }

    /// Records that dirty data are lost, which fsync(2) reports once for each open file. The
    /// `f_mapping` of a descriptor is one of two page caches, so both get the error.
    ///
    /// Kept memory has no open file, and no inode.
    pub(super) fn record_loss(&self) {
        if let Some(inode) = self.inode() {
            self.header().empty().set_error(EIO);
            inode.data().set_error(EIO);
        }
    }

    /// Frees a mapped file. The header and the metadata, which may be large, are freed at once:
    /// reclaim may need the memory.
    ///
    /// # Safety
    ///
    /// The file must have no memory and be in no list, and no inode may point to its header.
    pub(super) unsafe fn free(this: NonNull<Self>) {
        // SAFETY: `get_or_make()` made `this` of a box. It is only used under RCU now.
        let this = unsafe { <Pin<KBox<Self>>>::from_foreign(this.as_ptr().cast()) };

        // SAFETY: No list and no inode leads to the header any more.
        drop(unsafe { take_back(this.header) });
        // SAFETY: `rcu` is a field of `this`. `Hooks` waits for callbacks before the module goes.
        unsafe { RcuHead::drop_later(this, |this| &this.rcu) };
    }
}

/// A mapped file that was found in a folio, under RCU. It may be removed from its list at any time,
/// and its header freed.
#[repr(transparent)]
pub(super) struct UnderRcu<'a>(&'a MappedFile);

const _: () = assert!(offset_of!(MappedFile, host) == 0);

impl<'a> UnderRcu<'a> {
    /// Returns the mapped file of a DAX page cache.
    ///
    /// # Safety
    ///
    /// `mapping` must have been found in a folio under RCU, which is held for `'a`.
    pub(super) unsafe fn of_mapping(mapping: *mut c::address_space) -> Self {
        // SAFETY: `mapping` is not freed under RCU, by the safety requirements.
        Self(unsafe { MappedFile::of_mapping(mapping) })
    }

    /// Returns true if the file may have leftover memory (`MappedFiles::has_leftovers()`).
    pub(super) fn is_leftover(&self) -> bool {
        let inode = self.0.listed.inode.load(Ordering::Relaxed);

        // SAFETY: The file had `inode` under RCU, so that is not freed yet.
        inode.is_null() || unsafe { is_bad(inode) } || self.0.listed.is_held.load(Relaxed)
    }
}

impl Header {
    #[inline]
    pub(super) fn meta(&self) -> Metadata<'_> {
        // SAFETY: By the type invariants the metadata follow `self`; they are not written any more.
        unsafe { Metadata::new(ptr::from_ref(self).add(1).cast(), self.meta_len) }
    }

    #[inline]
    pub(super) fn sbi(&self) -> &SbInfo {
        // SAFETY: By the type invariants `sbi` outlives the header.
        unsafe { self.sbi.as_ref() }
    }

    /// Returns the [`MappedFile`], if the file has been mapped by mmap(2).
    #[inline]
    pub(super) fn file(&self) -> Option<&MappedFile> {
        // SAFETY: By the type invariants `file` is null, or valid as long as the header.
        unsafe { self.file.load(Ordering::Acquire).as_ref() }
    }

    /// Returns the [`MappedFile`] of a file that is known to have one.
    ///
    /// # Safety
    ///
    /// The file must have been mapped by mmap(2).
    #[inline]
    pub(super) unsafe fn file_unchecked(&self) -> &MappedFile {
        // SAFETY: `file` is not null, by the safety requirements, and valid as long as the header.
        unsafe { &*self.file.load(Ordering::Relaxed) }
    }

    #[inline]
    pub(super) fn published(&self) -> &Published {
        // SAFETY: A header is only borrowed after it was written into a `Published`.
        unsafe { &*container_of!(ptr::from_ref(self).cast_mut(), Published, header) }
    }

    pub(super) fn count_open_file(&self) {
        self.published().open_files.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of mapping errors so far. If I/O that ended early did not change it, they
    /// were not the cause.
    #[inline]
    pub(super) fn errors(&self) -> u32 {
        self.published().errors.load(Ordering::Relaxed)
    }

    pub(super) fn count_error(&self) {
        self.published().errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the empty page cache.
    pub(super) fn empty(&self) -> &AddressSpace {
        // SAFETY: `publish()` has initialized `empty`, which is part of the same allocation.
        unsafe { AddressSpace::from_raw(self.published().empty.get()) }
    }
}

// --- State of an inode --------------------------------------------------------------------------

/// A FUSE inode that is mapped and in use.
///
/// # Invariants
///
/// `header` is the header of `inode`.
#[derive(Clone, Copy)]
pub(super) struct MappedInode<'a> {
    pub(super) inode: &'a Inode,
    pub(super) header: &'a Header,
}

impl<'a> MappedInode<'a> {
    /// Returns the inode as a mapped one, if it is mapped.
    pub(super) fn of(inode: &'a Inode) -> Option<Self> {
        // SAFETY: `inode` is FUSE's, and mapped.
        (state(inode) == State::Mapped).then(|| unsafe { Self::new(inode) })
    }

    /// # Safety
    ///
    /// The inode must be FUSE's, and mapped.
    #[inline]
    pub(super) unsafe fn new(inode: &'a fs::inode::Inode) -> Self {
        Self {
            // SAFETY: `inode` is FUSE's, by the safety requirements, and in use as long as it is
            // borrowed.
            inode: unsafe { Inode::new(inode.as_raw()) },
            // SAFETY: `inode` is mapped, by the safety requirements.
            header: unsafe { header(inode) },
        }
    }

    #[inline]
    pub(super) fn sbi(self) -> &'a SbInfo {
        self.header.sbi()
    }

    /// Returns where I/O ends: the smaller of the file's size and its mapped size.
    #[inline]
    pub(super) fn end_of_io(self) -> u64 {
        self.inode.size().min(self.header.mapped_size)
    }
}

/// Returns the header of a mapped inode, or of the host of a DAX page cache.
///
/// # Safety
///
/// The inode must be one of these, and in use.
#[inline]
pub(super) unsafe fn header(inode: &fs::inode::Inode) -> &Header {
    // SAFETY: FUSE leaves the field to this module.
    let private = unsafe { inode.private() }.load(Ordering::Relaxed);

    // SAFETY: `private` is a header, by the safety requirements, and stays until eviction.
    unsafe { &*private.cast() }
}

/// Returns the open file that a C callback got, and its mapped inode.
///
/// # Safety
///
/// The file must stay open for `'a`, and its inode must be mapped.
#[inline]
pub(super) unsafe fn open_file<'a>(file: *const c::file) -> (&'a LocalFile, MappedInode<'a>) {
    // SAFETY: `file` is open, by the safety requirements.
    let file = unsafe { LocalFile::from_raw_file(file) };

    // SAFETY: The inode of `file` is mapped, by the safety requirements.
    (file, unsafe { MappedInode::new(file.inode()) })
}

/// The arguments of a C callback for I/O.
pub(super) struct Io<'a> {
    pub(super) iocb: &'a Kiocb,
    pub(super) iter: &'a IovIter,
    pub(super) file: &'a LocalFile,
    pub(super) inode: MappedInode<'a>,
}

impl Io<'_> {
    /// # Safety
    ///
    /// `iocb` and `iter` must be valid, and not used otherwise, as long as the result. The file of
    /// `iocb` must stay open as long, and its inode must be mapped.
    #[inline]
    pub(super) unsafe fn new(iocb: *mut c::kiocb, iter: *mut c::iov_iter) -> Self {
        // SAFETY: `iocb` and its file are valid, by the safety requirements.
        let (iocb, file) = unsafe { Kiocb::from_raw(iocb) };

        Self {
            iocb,
            // SAFETY: `iter` is valid, by the safety requirements.
            iter: unsafe { IovIter::from_raw(iter) },
            file,
            // SAFETY: The inode of `file` is mapped, by the safety requirements.
            inode: unsafe { MappedInode::new(file.inode()) },
        }
    }
}

/// Returns `i_private`, which is null, [`PLAIN`], or a pointer to a published [`Header`].
#[inline]
pub(super) fn private(inode: &Inode) -> &AtomicPtr<ffi::c_void> {
    // SAFETY: FUSE leaves the field to this module, of which only `iomap` uses it.
    unsafe { inode.private() }
}

/// Returns what is known about a file.
pub(crate) fn state(inode: &Inode) -> State {
    match lockless::published::<AsWritten, _>(private(inode)) {
        private if private.is_null() => State::Unknown,
        PLAIN => State::Plain,
        _ => State::Mapped,
    }
}

/// Records that a file is plain, until its inode is evicted.
pub(crate) fn remember_plain(inode: &Inode) {
    // The caller is the single flight for this file, or keeps a map from being published, so its
    // state is unknown or plain.
    lockless::publish::<AsWritten, _>(private(inode), PLAIN);
}
