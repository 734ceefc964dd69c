// SPDX-License-Identifier: GPL-2.0

//! What a mapped inode is made of: its header, its metadata, and what it gets besides once it is
//! mapped by mmap(2).
//!
//! `inode->i_private`, which FUSE leaves alone, says what a file of a bound mount is ([`State`]).
//! For a mapped file it points to a [`Header`]: one load from the inode, and the first cache line
//! has all that the fault path needs before it calls the program; the program's metadata lies right
//! behind, and what the fault path does not need in front ([`Published`]). A header is published
//! once, by the task that settles the file, and freed when the inode is evicted; nobody can be
//! inside an operation of an inode that is being evicted.

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
        SbInfo, //
    },
    stats, //
};

pub(super) const PAGE: u64 = PAGE_SIZE as u64;
pub(super) const PMD_SIZE: u64 = 2 << 20;

/// What is known of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing: nobody has opened it yet, or the opens failed.
    Unknown,
    /// It has no map and is served by FUSE alone.
    Plain,
    /// It is mapped.
    Mapped,
}

/// `i_private` of a file without a map. No header has this address.
pub(super) const PLAIN: *mut ffi::c_void = ptr::without_provenance_mut(1);

/// What faults, reads and writes need of a mapped file besides its metadata, which follow.
///
/// # Invariants
///
/// - `meta_len` bytes of metadata follow, and zeros up to the end of its first line.
/// - `sbi` outlives the header: it is freed after the last inode, and after the last kept memory.
/// - `file` is null until the file is mapped by mmap(2) for the first time, and is freed after the
///   header.
#[repr(C, align(64))]
pub(super) struct Header {
    pub(super) resolver: Resolver,
    pub(super) sbi: NonNull<SbInfo>,
    pub(super) dev_bitmap: u64,
    pub(super) mapped_size: u64,
    pub(super) meta_len: u32,
    /// How many write back at the moment.
    pub(super) writers_back: AtomicU32,
    /// Where the mount counts.
    pub(super) counts: stats::Shortcut,
    /// What folios are noted with; see `fault_fast`.
    pub(super) validity: AtomicU64,
    pub(super) file: AtomicPtr<MappedFile>,
}

const _: () = assert!(size_of::<Header>() == 64);

/// A [`Header`] and what is in front of it.
#[repr(C)]
pub(super) struct Published {
    /// What descriptors show.
    pub(super) empty: Opaque<c::address_space>,
    /// How many files are open that were opened as mapped ones.
    pub(super) open_files: AtomicU32,
    /// How many mappings have been refused, and not to be tried again in another way.
    pub(super) errors: AtomicU32,
    pub(super) header: Header,
}

const _: () =
    assert!(offset_of!(Published, header) + size_of::<Header>() == size_of::<Published>());

/// What a file has besides once it is mapped by mmap(2): the DAX page cache, and a place in the
/// list of its mount.
///
/// It is freed when RCU allows it: the kernel looks at a page cache that it has found in a folio
/// without taking a reference (`dax_lock_folio()`, `gup_fast_folio_allowed()`).
///
/// # Invariants
///
/// As long as this is referenced, but under RCU alone ([`UnderRcu`]), `header` is there, and the
/// inode in `listed` is null, in use or being evicted.
#[pin_data]
#[repr(C)]
pub(super) struct MappedFile {
    /// Hosts the DAX page cache.
    #[pin]
    pub(super) host: Host,
    pub(super) header: NonNull<Header>,
    /// What the lists of its mount know.
    pub(super) listed: ListedFile,
    pub(super) rcu: RcuHead<Self>,
}

// SAFETY: A mapped file belongs to no task.
unsafe impl Send for MappedFile {}
// SAFETY: What changes of it is atomic.
unsafe impl Sync for MappedFile {}

/// What is in front of the metadata of a mapped file.
pub(crate) const HEADROOM: Layout = Layout::new::<Published>();

/// Takes back what is not published any more.
///
/// # Safety
///
/// The header is part of a [`Published`] in the headroom of its metadata, and nothing points to it
/// any more.
pub(super) unsafe fn take_back(header: NonNull<Header>) -> MetaBuf {
    // SAFETY: `header` is valid, by the safety requirements.
    let meta_len = unsafe { header.as_ref() }.meta_len;
    // SAFETY: `header` is part of a `Published`, by the safety requirements.
    let published = unsafe { header.byte_sub(offset_of!(Published, header)) };

    // SAFETY: `published` is the headroom of a buffer with so many bytes.
    unsafe { MetaBuf::from_raw(published.cast(), HEADROOM, meta_len) }
}

impl MappedFile {
    /// A file of it, which is counted as open, is about to be mapped by mmap(2): its last close
    /// looks whether pages are in use.
    pub(super) fn will_be_mapped(&self) {
        lockless::used::<AsWritten>(&self.listed.may_be_busy);
    }

    /// The one that is in a list of its mount.
    pub(super) fn of_listed(listed: &ListedFile) -> &Self {
        // SAFETY: By the type invariants of `ListedFile` it is a part of a mapped file.
        unsafe { &*container_of!(ptr::from_ref(listed).cast_mut(), Self, listed) }
    }

    /// The one that hosts a DAX page cache.
    ///
    /// # Safety
    ///
    /// `mapping` is a DAX page cache, which is not freed for `'a`.
    pub(super) unsafe fn of_mapping<'a>(mapping: *mut c::address_space) -> &'a Self {
        // SAFETY: `mapping` is one, by the safety requirements, and its host the first member.
        unsafe { &*(*mapping).host.cast() }
    }

    #[inline]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: By the type invariants the header is there.
        unsafe { self.header.as_ref() }
    }

    #[inline]
    pub(super) fn sbi(&self) -> &SbInfo {
        self.header().sbi()
    }

    /// The DAX page cache.
    #[inline]
    pub(super) fn mapping(&self) -> &DaxMapping {
        self.host.mapping()
    }

    /// FUSE's inode, unless the memory is kept.
    pub(super) fn inode(&self) -> Option<&Inode> {
        let inode = NonNull::new(self.listed.inode.load(Ordering::Relaxed))?;

        // SAFETY: By the type invariants it is FUSE's, and in use or being evicted.
        Some(unsafe { Inode::new(inode.as_ptr()) })
    }

    /// Whether FUSE has marked the inode bad.
    pub(super) fn has_bad_inode(&self) -> bool {
        self.inode().is_some_and(|inode| inode.is_bad())
    }

    /// Whether pages were in use when somebody looked last ([`ListedFile::was_busy`]).
    pub(super) fn was_busy(&self) -> bool {
        self.listed.was_busy.load(Relaxed)
    }

    /// Pages are in use, or may be: see [`ListedFile::was_busy`].
    pub(super) fn mark_busy(&self) {
        self.listed.was_busy.store(true, Relaxed);
    }

    /// Whether pages are in use. What is mapped is unmapped.
    pub(super) fn is_busy(&self) -> bool {
        self.mapping().is_busy(0, c::loff_t::MAX)
    }

    /// Records that dirty data are lost: fsync(2) says so once, for each open file. Descriptors
    /// show one of two page caches.
    ///
    /// Kept memory has no open file that could be told, and no inode.
    pub(super) fn record_loss(&self) {
        if let Some(inode) = self.inode() {
            self.header().empty().set_error(EIO);
            inode.data().set_error(EIO);
        }
    }

    /// Frees a mapped file: the header and the metadata at once, as they may be large, and reclaim
    /// may want them.
    ///
    /// # Safety
    ///
    /// It has no memory, is in no list, and its inode does not point to it.
    pub(super) unsafe fn free(this: NonNull<Self>) {
        // SAFETY: `page_cache` made a box of it, which nothing uses any more but by RCU.
        let this = unsafe { <Pin<KBox<Self>>>::from_foreign(this.as_ptr().cast()) };

        // SAFETY: Only what is in a list of the mount has its header used.
        drop(unsafe { take_back(this.header) });
        // SAFETY: The head is a part of it. `Hooks` waits for callbacks before the module goes.
        unsafe { RcuHead::drop_later(this, |this| &this.rcu) };
    }
}

/// A mapped file that was found in a folio, under RCU: it may be taken out of its list meanwhile,
/// and its header freed.
#[repr(transparent)]
pub(super) struct UnderRcu<'a>(&'a MappedFile);

const _: () = assert!(offset_of!(MappedFile, host) == 0);

impl<'a> UnderRcu<'a> {
    /// The one that hosts a DAX page cache.
    ///
    /// # Safety
    ///
    /// The page cache was found in a folio under RCU, which is held for `'a`.
    pub(super) unsafe fn of_mapping(mapping: *mut c::address_space) -> Self {
        // SAFETY: `mapping` is not freed under RCU, by the safety requirements.
        Self(unsafe { MappedFile::of_mapping(mapping) })
    }

    /// Whether its memory may be in use though the file is closed.
    pub(super) fn is_leftover(&self) -> bool {
        let inode = self.0.listed.inode.load(Ordering::Relaxed);

        // SAFETY: An inode that the file had under RCU is not freed yet.
        inode.is_null() || unsafe { is_bad(inode) } || self.0.listed.is_held.load(Relaxed)
    }
}

impl Header {
    #[inline]
    pub(super) fn meta(&self) -> Metadata<'_> {
        // SAFETY: By the type invariants this is what follows, and nobody writes it any more.
        unsafe { Metadata::new(ptr::from_ref(self).add(1).cast(), self.meta_len) }
    }

    #[inline]
    pub(super) fn sbi(&self) -> &SbInfo {
        // SAFETY: By the type invariants the mount outlives the header.
        unsafe { self.sbi.as_ref() }
    }

    /// What the file has if it has been mapped by mmap(2).
    #[inline]
    pub(super) fn file(&self) -> Option<&MappedFile> {
        // SAFETY: By the type invariants it is null, or valid as long as the header.
        unsafe { self.file.load(Ordering::Acquire).as_ref() }
    }

    /// The same, of a file that is known to have it.
    ///
    /// # Safety
    ///
    /// The file has been mapped by mmap(2).
    #[inline]
    pub(super) unsafe fn file_unchecked(&self) -> &MappedFile {
        // SAFETY: It is not null, by the safety requirements, and valid as long as the header.
        unsafe { &*self.file.load(Ordering::Relaxed) }
    }

    #[inline]
    pub(super) fn published(&self) -> &Published {
        // SAFETY: A header that is not on the stack is part of one.
        unsafe { &*container_of!(ptr::from_ref(self).cast_mut(), Published, header) }
    }

    /// How many mappings have been refused so far. If it is the same after I/O that came to a short
    /// end, none of that was.
    #[inline]
    pub(super) fn errors(&self) -> u32 {
        self.published().errors.load(Ordering::Relaxed)
    }

    pub(super) fn count_error(&self) {
        self.published().errors.fetch_add(1, Ordering::Relaxed);
    }

    /// What descriptors show.
    pub(super) fn empty(&self) -> &AddressSpace {
        // SAFETY: `publish()` has initialized it, and it stays as long as the header.
        unsafe { AddressSpace::from_raw(self.published().empty.get()) }
    }
}

// --- State of an inode --------------------------------------------------------------------------

/// A FUSE inode that is mapped and in use.
///
/// # Invariants
///
/// `header` is that of `inode`.
#[derive(Clone, Copy)]
pub(super) struct MappedInode<'a> {
    pub(super) inode: &'a Inode,
    pub(super) header: &'a Header,
}

impl<'a> MappedInode<'a> {
    /// An inode, if it is mapped.
    pub(super) fn of(inode: &'a Inode) -> Option<Self> {
        // SAFETY: The inode is mapped, and in use as long as `inode`.
        (state(inode) == State::Mapped).then(|| unsafe { Self::new(inode) })
    }

    /// # Safety
    ///
    /// The inode is FUSE's, and mapped.
    #[inline]
    pub(super) unsafe fn new(inode: &'a fs::inode::Inode) -> Self {
        Self {
            // SAFETY: The inode is FUSE's, by the safety requirements, and in use as long as it is
            // borrowed.
            inode: unsafe { Inode::new(inode.as_raw()) },
            // SAFETY: The inode is mapped, by the safety requirements.
            header: unsafe { header(inode) },
        }
    }

    #[inline]
    pub(super) fn sbi(self) -> &'a SbInfo {
        self.header.sbi()
    }

    /// Where I/O ends: at the smaller of the file's size and its mapped size.
    #[inline]
    pub(super) fn end_of_io(self) -> u64 {
        self.inode.size().min(self.header.mapped_size)
    }
}

/// The header of a mapped inode, or of the host of a DAX page cache.
///
/// # Safety
///
/// The inode is one of these, and in use.
#[inline]
pub(super) unsafe fn header(inode: &fs::inode::Inode) -> &Header {
    // SAFETY: FUSE leaves the field to this module.
    let private = unsafe { inode.private() }.load(Ordering::Relaxed);

    // SAFETY: `private` is a header, which was published before anything got here, by the safety
    // requirements, and stays until eviction.
    unsafe { &*private.cast() }
}

/// An open file of a mapped inode, of a C callback.
///
/// # Safety
///
/// The file stays open for `'a`, and its inode is mapped.
#[inline]
pub(super) unsafe fn open_file<'a>(file: *const c::file) -> (&'a LocalFile, MappedInode<'a>) {
    // SAFETY: `file` is open, by the safety requirements.
    let file = unsafe { LocalFile::from_raw_file(file) };

    // SAFETY: The inode of `file` is mapped, by the safety requirements.
    (file, unsafe { MappedInode::new(file.inode()) })
}

/// I/O of a C callback.
pub(super) struct Io<'a> {
    pub(super) iocb: &'a Kiocb,
    pub(super) iter: &'a IovIter,
    pub(super) file: &'a LocalFile,
    pub(super) inode: MappedInode<'a>,
}

impl Io<'_> {
    /// # Safety
    ///
    /// `iocb` and `iter` are valid as long as the result, and nothing else uses them meanwhile. The
    /// file of `iocb` stays open as long, and its inode is mapped.
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

pub(crate) fn state(inode: &Inode) -> State {
    // SAFETY: FUSE leaves the field to this module.
    match lockless::published::<AsWritten, _>(unsafe { inode.private() }) {
        private if private.is_null() => State::Unknown,
        PLAIN => State::Plain,
        _ => State::Mapped,
    }
}

/// Remembers that a file has no map, until it is evicted.
pub(crate) fn remember_plain(inode: &Inode) {
    // The caller alone settles this file, so it is unknown still.
    // SAFETY: FUSE leaves the field to this module, where this value stands for a plain file.
    lockless::publish::<AsWritten, _>(unsafe { inode.private() }, PLAIN);
}
