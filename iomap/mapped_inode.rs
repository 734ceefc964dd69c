// SPDX-License-Identifier: GPL-2.0

//! The module's state of a mapped inode ([`Published`]), its map, and the [`MappedFile`] that it
//! gets at its first mmap(2).
//!
//! `inode->i_private`, which FUSE does not use, has the [`State`] of a file of an fmap mount. For a
//! mapped file it points to a [`Published`], which is published once, in the single flight of an
//! open, and freed when the inode is evicted; no operation of an inode runs during its eviction.
//!
//! A map is a [`Header`], with what the kernel has to know of it, and the program's metadata behind
//! it. A file's first map is the last part of its `Published`, in the same allocation.
//!
//! # When a map may be borrowed
//!
//! A `Published` and a `MappedFile` stay as long as the inode. The map of an inode may be replaced,
//! so it may be borrowed only
//!
//! - in a fault, with the `invalidate_lock` of the DAX page cache held;
//! - in a read-side critical section of `Ownership::users`.
//!
//! [`MapRef`] is such a section. iomap's callbacks are called where a map may be borrowed.
//!
//! A task that replaces a map holds `invalidate_lock` exclusively, and waits for `users` before it
//! frees the old one. What a reader may need outside of these does not belong to the map: the
//! capacity, which is where the map ends, is in [`Published`], the validity of cookies in
//! [`MappedFile`].

use core::{
    alloc::Layout,
    mem::{
        self,
        offset_of,
        size_of, //
    },
    ops::Deref,
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
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
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
        sync::{
            rcu::RcuHead,
            srcu_fast::{
                Reader,
                SrcuFast, //
            }, //
        }, //
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

/// `i_private` of a plain file. No [`Published`] has this address.
pub(super) const PLAIN: *mut ffi::c_void = ptr::without_provenance_mut(1);

/// What the kernel has to know of a map, besides the metadata.
///
/// # Invariants
///
/// - `meta_len` bytes of metadata follow, and zeros up to the end of their first cache line.
/// - `sbi` outlives the map: it is freed after the last inode, and after the last kept memory.
#[repr(C)]
pub(super) struct Header {
    pub(super) resolver: Resolver,
    pub(super) sbi: NonNull<SbInfo>,
    pub(super) dev_bitmap: u64,
    /// Where the map ends, in bytes. A file that becomes smaller loses the end of its map, with
    /// `invalidate_lock` held exclusively.
    pub(super) mapped_size: AtomicU64,
    pub(super) meta_len: u32,
    /// True if there are [gates](super::gates). Changes with `invalidate_lock` held exclusively.
    pub(super) has_gates: Atomic<bool>,
}

/// What the module knows of a mapped inode, and its first map. The last fields, in a cache line of
/// their own, are those that each read and write needs.
///
/// # Invariants
///
/// `file` is null until the first mmap(2) of the file, and is freed after this.
#[repr(C, align(64))]
pub(super) struct Published {
    /// The `f_mapping` of descriptors.
    pub(super) empty: Opaque<c::address_space>,
    /// The number of open files that were opened as mapped ones.
    pub(super) open_files: AtomicU32,
    /// The number of mapping errors, except those after which the operation is retried.
    pub(super) errors: AtomicU32,
    pub(super) listed: ListedInode,
    pub(super) file: AtomicPtr<MappedFile>,
    /// The mount's counters.
    pub(super) counts: stats::Shortcut,
    /// Where the map ends, in bytes: `mapped_size` of the present one.
    pub(super) capacity: AtomicU64,
    /// The first map.
    pub(super) first_map: Header,
}

const _: () = assert!(size_of::<Published>() == 256);
const _: () =
    assert!(offset_of!(Published, first_map) + size_of::<Header>() == size_of::<Published>());
const _: () = assert!(offset_of!(Published, file) % 64 == 0);

/// What a file gets at its first mmap(2): the DAX page cache, and an entry in the list of its
/// mount.
///
/// It is freed after an RCU grace period: the kernel accesses the page cache of a folio without
/// taking a reference (`dax_lock_folio()`, `gup_fast_folio_allowed()`).
///
/// # Invariants
///
/// As long as this is borrowed, except by [`UnderRcu`], `published` is valid, and the inode in
/// `listed` is null, in use or being evicted. `present` is the map, which is valid where it
/// may be borrowed (see the top).
#[pin_data]
#[repr(C)]
pub(super) struct MappedFile {
    /// The inode that hosts the DAX page cache.
    #[pin]
    pub(super) host: Host,
    pub(super) present: AtomicPtr<Header>,
    pub(super) published: NonNull<Published>,
    /// The mount's counters.
    pub(super) counts: stats::Shortcut,
    /// What a folio's cookie must equal, but for its dirty bit, to count for this file; see
    /// `fault_fast`.
    pub(super) validity: AtomicU64,
    /// The number of tasks in writeback of the file.
    pub(super) writers_back: AtomicU32,
    /// The number of times that the map has changed, or access to a range was revoked. Changes with
    /// `invalidate_lock` held exclusively, before the task that does it waits for `users`.
    pub(super) changes: AtomicU32,
    pub(super) faults: Faults,
    /// The part that is on a list of the mount.
    pub(super) listed: ListedFile,
    pub(super) rcu: RcuHead<Self>,
}

/// The faults of a file, in a cache line of their own: what each fault reads, and the lock that it
/// takes, are in others, which a fault should not lose to a CPU that only counts.
#[repr(C, align(64))]
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

/// Returns the buffer of what is not published, or not any more.
///
/// # Safety
///
/// It must be in the headroom of the metadata of its first map, and no pointer to it may be left.
pub(super) unsafe fn take_back(published: NonNull<Published>) -> MetaBuf {
    // SAFETY: `published` is valid, by the safety requirements.
    let meta_len = unsafe { published.as_ref() }.first_map.meta_len;

    // SAFETY: `published` is the headroom of a buffer with `meta_len` bytes of metadata.
    unsafe { MetaBuf::from_raw(published.cast(), HEADROOM, meta_len) }
}

/// A map that is not the first one of its file. It has a headroom that is as large as that of a
/// first one, of which it uses the end.
///
/// # Invariants
///
/// This owns the allocation of the map.
pub(super) struct LaterMap(NonNull<Header>);

impl LaterMap {
    pub(super) fn new(meta: MetaBuf, map: Header) -> Self {
        // SAFETY: The headroom is that of a `Published`, so this is inside it.
        let slot = unsafe { meta.into_raw().add(offset_of!(Published, first_map)) };
        let slot = slot.cast::<Header>();

        // SAFETY: `slot` has the layout of the type, at the end of the headroom.
        unsafe { slot.write(map) };
        // INVARIANT: The buffer was `meta`'s.
        Self(slot)
    }

    /// Takes over a map of a file.
    ///
    /// # Safety
    ///
    /// `map` must come from [`LaterMap::into_raw`], and nothing may use it any more.
    pub(super) unsafe fn from_raw(map: NonNull<Header>) -> Self {
        // INVARIANT: By the safety requirements.
        Self(map)
    }

    pub(super) fn into_raw(self) -> NonNull<Header> {
        let map = self.0;

        mem::forget(self);
        map
    }

    pub(super) fn map(&self) -> &Header {
        // SAFETY: By the type invariants the map is valid.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for LaterMap {
    fn drop(&mut self) {
        let meta_len = self.map().meta_len;
        // SAFETY: `new()` put the map at this offset of the headroom.
        let start = unsafe { self.0.byte_sub(offset_of!(Published, first_map)) };

        // SAFETY: By the type invariants `self` owns the buffer, which has this headroom.
        drop(unsafe { MetaBuf::from_raw(start.cast(), HEADROOM, meta_len) });
    }
}

/// A borrowed map, in a read-side critical section of `Ownership::users`: it is not freed before
/// this is dropped. Taking it never waits. A task that has one must not wait for a server, and not
/// for `users`.
///
/// # Invariants
///
/// `header` was the map of its file since the critical section began.
pub(super) struct MapRef<'a> {
    header: &'a Header,
    // A mount with a mapped file has `users`.
    _reader: Option<Reader<'a>>,
}

impl<'a> MapRef<'a> {
    fn new(sbi: &'a SbInfo, header: impl FnOnce() -> &'a Header) -> Self {
        let reader = sbi.ownership.users_of_mapped().map(SrcuFast::read_lock);

        // INVARIANT: The critical section has begun.
        Self {
            header: header(),
            _reader: reader,
        }
    }
}

impl Deref for MapRef<'_> {
    type Target = Header;

    #[inline]
    fn deref(&self) -> &Header {
        self.header
    }
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
        unsafe { Inode::new(self.empty().host()) }
    }

    #[inline]
    pub(super) fn sbi(&self) -> &SbInfo {
        self.first_map.sbi()
    }

    /// Returns the [`MappedFile`], if the file has been mapped by mmap(2).
    #[inline]
    pub(super) fn file(&self) -> Option<&MappedFile> {
        // SAFETY: By the type invariants `file` is null, or valid as long as `self`.
        unsafe { self.file.load(Ordering::Acquire).as_ref() }
    }

    /// Borrows the map.
    pub(super) fn map(&self) -> MapRef<'_> {
        // SAFETY: `MapRef` calls this in a critical section of `users`.
        MapRef::new(self.sbi(), || unsafe { self.present_map() })
    }

    /// Returns the map, to a task that has begun a critical section itself.
    ///
    /// # Safety
    ///
    /// The caller must be in a critical section of `users` for as long as it uses the map.
    #[inline]
    pub(super) unsafe fn present_map(&self) -> &Header {
        match self.file() {
            // SAFETY: The caller is in a critical section, by the safety requirements.
            Some(file) => unsafe { file.present_map() },
            // A file without a `MappedFile` has its first map.
            None => &self.first_map,
        }
    }

    /// Returns where the map ends.
    #[inline]
    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Returns the flags of [`size`](super::size).
    pub(super) fn flags(&self) -> &AtomicU32 {
        &self.listed.size_flags
    }

    pub(super) fn count_open_file(&self) {
        self.open_files.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of mapping errors so far. If I/O that ended early did not change it, they
    /// were not the cause.
    #[inline]
    pub(super) fn errors(&self) -> u32 {
        self.errors.load(Ordering::Relaxed)
    }

    pub(super) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the empty page cache.
    pub(super) fn empty(&self) -> &AddressSpace {
        // SAFETY: `publish()` has initialized `empty`, and `self` stays as long as the inode.
        unsafe { AddressSpace::from_raw(self.empty.get()) }
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

    /// Returns the mapped file that hosts a DAX page cache.
    ///
    /// # Safety
    ///
    /// `host` must be the host of the DAX page cache of a mapped file.
    #[inline]
    pub(super) unsafe fn of_host(host: &fs::inode::Inode) -> &Self {
        // SAFETY: The host is the first field of its file, which is valid, by the safety
        // requirements.
        unsafe { &*host.as_raw().cast() }
    }

    #[inline]
    pub(super) fn published(&self) -> &Published {
        // SAFETY: By the type invariants `published` is valid.
        unsafe { self.published.as_ref() }
    }

    #[inline]
    pub(super) fn sbi(&self) -> &SbInfo {
        self.published().sbi()
    }

    /// Returns the map, to a task that has taken the locks itself.
    ///
    /// # Safety
    ///
    /// The caller must be in a fault with `invalidate_lock`, or in a critical section of `users`,
    /// for as long as it uses the map.
    #[inline]
    pub(super) unsafe fn present_map(&self) -> &Header {
        // A task that replaces the map has written it before, and the address leads to it.
        // SAFETY: By the type invariants the map is valid where the caller is.
        unsafe { &*self.present.load(Ordering::Relaxed) }
    }

    /// Borrows the map.
    pub(super) fn map(&self) -> MapRef<'_> {
        // SAFETY: `MapRef` calls this in a critical section of `users`.
        MapRef::new(self.sbi(), || unsafe { self.present_map() })
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
            self.published().empty().set_error(EIO);
            inode.data().set_error(EIO);
        }
    }

    /// Frees a mapped file. Its map, whose metadata may be large, is freed at once: reclaim may
    /// need the memory.
    ///
    /// # Safety
    ///
    /// The file must have no memory and be in no list, and no inode may lead to it.
    pub(super) unsafe fn free(this: NonNull<Self>) {
        // SAFETY: `get_or_make()` made `this` of a box. It is only used under RCU now.
        let this = unsafe { <Pin<KBox<Self>>>::from_foreign(this.as_ptr().cast()) };

        let (present, published) = (this.present.load(Ordering::Relaxed), this.published);
        // SAFETY: By the type invariants `published` is valid.
        let first = unsafe { &raw const (*published.as_ptr()).first_map };
        if let Some(later) = NonNull::new(present).filter(|later| !ptr::eq(later.as_ptr(), first)) {
            // SAFETY: No list and no inode leads to it any more. A map but the first is later.
            drop(unsafe { LaterMap::from_raw(later) });
        }
        // SAFETY: No list and no inode leads to it any more.
        drop(unsafe { take_back(published) });
        // SAFETY: `rcu` is a field of `this`. `Hooks` waits for callbacks before the module goes.
        unsafe { RcuHead::drop_later(this, |this| &this.rcu) };
    }
}

/// A mapped file that was found in a folio, under RCU. It may be removed from its list at any time,
/// and its [`Published`] freed.
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
    /// Returns where the map ends.
    #[inline]
    pub(super) fn mapped_size(&self) -> u64 {
        self.mapped_size.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn meta(&self) -> Metadata<'_> {
        // SAFETY: By the type invariants the metadata follow `self`; they are not written any more.
        unsafe { Metadata::new(ptr::from_ref(self).add(1).cast(), self.meta_len) }
    }

    #[inline]
    pub(super) fn sbi(&self) -> &SbInfo {
        // SAFETY: By the type invariants `sbi` outlives the map.
        unsafe { self.sbi.as_ref() }
    }
}

// --- State of an inode --------------------------------------------------------------------------

/// A FUSE inode that is mapped and in use.
///
/// # Invariants
///
/// `published` is that of `inode`.
#[derive(Clone, Copy)]
pub(super) struct MappedInode<'a> {
    pub(super) inode: &'a Inode,
    pub(super) published: &'a Published,
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
            published: unsafe { published(inode) },
        }
    }

    #[inline]
    pub(super) fn sbi(self) -> &'a SbInfo {
        self.published.sbi()
    }

    /// Borrows the map.
    pub(super) fn map(self) -> MapRef<'a> {
        self.published.map()
    }

    /// Returns where I/O ends: the smaller of the file's size and its capacity.
    #[inline]
    pub(super) fn end_of_io(self) -> u64 {
        self.inode.size().min(self.published.capacity())
    }

    /// Returns where a write ends: the same, unless the file can grow.
    #[inline]
    pub(super) fn end_of_write(self) -> u64 {
        if self.sbi().resizes {
            return self.published.capacity();
        }
        self.end_of_io()
    }
}

/// Returns what the module knows of a mapped inode.
///
/// # Safety
///
/// The inode must be FUSE's, mapped and in use.
#[inline]
pub(super) unsafe fn published(inode: &fs::inode::Inode) -> &Published {
    // SAFETY: FUSE leaves the field to this module.
    let private = unsafe { inode.private() }.load(Ordering::Relaxed);

    // SAFETY: `private` is a `Published`, by the safety requirements, and stays until eviction.
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

/// Returns the mapped inode of a vm file, and its mapped file. This leads to the map without a load
/// from FUSE's inode.
///
/// # Safety
///
/// `file` must be a vm file.
#[inline]
pub(super) unsafe fn faulting(file: &LocalFile) -> (MappedInode<'_>, &MappedFile) {
    // SAFETY: The `f_mapping` of a vm file is the DAX page cache, which stays as long as `file`.
    let mapped = unsafe { MappedFile::of_mapping(file.mapping()) };
    // INVARIANT: The inode of a vm file is that of the user's file, which is mapped.
    let inode = MappedInode {
        // SAFETY: The inode of a vm file is FUSE's.
        inode: unsafe { Inode::of(file.inode()) },
        published: mapped.published(),
    };
    (inode, mapped)
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

/// Returns `i_private`, which is null, [`PLAIN`], or a pointer to a [`Published`].
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
