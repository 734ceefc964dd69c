// SPDX-License-Identifier: GPL-2.0

//! A mapped file: what an inode has to be one, from its first open until it is evicted. What is
//! done with it has files of its own; `judge` is where the program is asked.
//!
//! `inode->i_private`, which FUSE leaves alone, says what a file of a bound mount is ([`State`]).
//! For a mapped file it points to a [`Header`]: one load from the inode, and the first cache line
//! has all that the fault path needs before it calls the program; the program's metadata lies right
//! behind, and what the fault path does not need in front ([`MappedFile`]). A header is published
//! once, with the inode lock held, and freed when the inode is evicted; nobody can be inside an
//! operation of an inode that is being evicted.
//!
//! # Page caches
//!
//! FUSE's page cache of the inode stays FUSE's. The DAX entries of a mapped file are in a page
//! cache of its own, which it gets when it is mapped by mmap(2) for the first time
//! ([`page_cache`]). So to publish a map empties nothing, takes no lock, and asks nobody to wait.
//!
//! # The end of a map
//!
//! Eviction gives the memory up. Pages that are in use by direct I/O or a pipe then, are kept by
//! the mount and given up later ([`mapped_files`]); nothing in eviction waits for them. An inode
//! that FUSE has marked bad, because its server uses the node id again, loses its memory while it
//! is still open (`vacating`).
//!
//! # Locks
//!
//! In this order: `inode->i_rwsem` (writes exclusively, reads shared), `mmap_lock`,
//! `invalidate_lock` of the DAX page cache (faults, nearly always shared), a DAX entry, the mount's
//! lock on who has which memory (`tenancy`; the first touch of a piece of memory). The fault path
//! takes no lock of ours. Dropping entries takes `invalidate_lock` exclusively (`upgrade`,
//! `vacating`), and who writes back passes through it (`writeback`). Who flushes is in a read side
//! of SRCU, which memory that fails waits for with nothing held. Innermost are the lock of a page
//! table and, inside it, that of a page cache's tree (`tracked_fault`), and the list of mapped
//! files, a spin lock with an inode's `i_lock` inside.

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
        AtomicBool,
        AtomicPtr,
        AtomicU32,
        AtomicU64,
        Ordering, //
    }, //
};

use kernel::{
    alloc::{
        allocator::KVmalloc,
        Allocator,
        NumaNode, //
    },
    container_of,
    ffi,
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::Opaque, //
};

use crate::{
    abstractions::sync::rw_semaphore::RwSemaphore,
    bindings::kernel as c,
    bpf_struct_ops::{
        Metadata,
        Parsed,
        Resolver, //
    },
    fmap_ops::Mount,
    fuse::{
        Connection,
        Inode, //
    },
    lockless::{
        self,
        AsWritten, //
    },
    stats, //
};

mod fallocate;
mod file;
mod io;
mod judge;
mod mapped_files;
mod page_cache;
mod report;
mod soft_fault;
mod tenancy;
mod tracked_fault;
mod upgrade;
mod vacating;
mod vm_file;
mod writeback;

pub(crate) use file::file_operations;
pub(crate) use mapped_files::MappedFiles;
pub(crate) use page_cache::show_page_cache;
pub(crate) use tenancy::Tenants;
pub(crate) use vacating::{
    end_bad_maps,
    kill_tenants,
    vacate_all, //
};
pub(crate) use writeback::sync_all;

use file::inode_operations;
use mapped_files::Link;
use page_cache::{
    aops,
    init_host,
    init_shown, //
};
use soft_fault::new_stamp;
use tenancy::DaxEntry;
use vacating::give_up_idle;

const PAGE: u64 = PAGE_SIZE as u64;
const PMD_SIZE: u64 = 2 << 20;

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
const PLAIN: *mut ffi::c_void = ptr::without_provenance_mut(1);

/// What faults, reads and writes need of a mapped file besides its metadata, which follow.
///
/// # Invariants
///
/// - `meta_len` bytes of metadata follow, and zeros up to the end of its first line.
/// - `mount` outlives the header: it is freed after the last inode, and after the last kept memory.
/// - `file` is null until the file is mapped by mmap(2) for the first time, and is freed after the
///   header.
#[repr(C, align(64))]
struct Header {
    resolver: Resolver,
    mount: NonNull<Mount>,
    dev_bitmap: u64,
    mapped_size: u64,
    meta_len: u32,
    /// How many write back at the moment.
    writers_back: AtomicU32,
    /// Where the mount counts.
    counts: stats::Shortcut,
    /// What folios are noted with; see `soft_fault`.
    stamp: AtomicU64,
    file: AtomicPtr<MappedFile>,
}

const _: () = assert!(size_of::<Header>() == 64);

/// A [`Header`] and what is in front of it.
#[repr(C)]
struct Published {
    /// What descriptors show.
    shown: Opaque<c::address_space>,
    /// How many files are open that were opened as mapped ones.
    open_files: AtomicU32,
    /// How many mappings have been refused, and not to be tried again in another way.
    refusals: AtomicU32,
    header: Header,
}

const _: () =
    assert!(offset_of!(Published, header) + size_of::<Header>() == size_of::<Published>());

/// What a file has besides once it is mapped by mmap(2): the DAX page cache, and a place in the
/// list of its mount.
///
/// It is freed when RCU allows it: the kernel looks at a page cache that it has found in a folio
/// without taking a reference (`dax_lock_folio()`, `gup_fast_folio_allowed()`).
#[repr(C)]
struct MappedFile {
    /// Hosts the DAX page cache, its `i_data`.
    host: Opaque<c::inode>,
    header: NonNull<Header>,
    /// FUSE's. In use, or being evicted, as long as the file is in the list of its mount; null if
    /// its memory is kept.
    inode: *mut c::inode,
    /// Its place in a list of the mount.
    link: Link,
    /// Whether it has been mapped by mmap(2) since it was last seen idle.
    may_be_busy: AtomicBool,
    /// Whether pages were in use, or may have been, when somebody looked last. Who had them may
    /// have stored there since, and writeback does not know.
    was_busy: Atomic<bool>,
    /// Whether the mount has a reference to the inode. Under the lock of the list.
    is_held: bool,
    rcu: c::callback_head,
}

/// A mapped file that is not published yet: only the metadata is there.
///
/// # Invariants
///
/// The pointer owns an allocation of [`Fmap::layout`], zeroed or written.
pub(crate) struct Fmap {
    published: NonNull<Published>,
    meta_len: u32,
}

impl Fmap {
    fn layout(meta_len: u32) -> Result<Layout> {
        let room = size_of::<c::fuse_dax_fmap_meta>().max(meta_len as usize);
        let size = size_of::<Published>() + room;
        Layout::from_size_align(size, align_of::<Published>()).map_err(|_| EINVAL)
    }

    /// Room for [`Published`] and `meta_len` zeroed bytes of metadata, accounted to the opener. May
    /// sleep.
    pub(crate) fn new(meta_len: u32) -> Result<Self> {
        let flags = GFP_KERNEL_ACCOUNT | __GFP_ZERO;
        let memory = KVmalloc::alloc(Self::layout(meta_len)?, flags, NumaNode::NO_NODE)?;

        // INVARIANT: Allocated just now.
        Ok(Self {
            published: memory.cast(),
            meta_len,
        })
    }

    pub(crate) fn meta_mut(&mut self) -> &mut [u8] {
        // SAFETY: By the type invariants this many bytes follow, they are initialized, and `self`
        // owns them.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.published.add(1).cast().as_ptr(),
                self.meta_len as usize,
            )
        }
    }

    /// Makes the rest of it, for a file that is to be published. Does not sleep.
    fn complete(self, inode: &Inode, header: Header) -> *mut Header {
        let published = self.published.as_ptr();

        core::mem::forget(self);
        // SAFETY: By the type invariants the allocation has room for both, and was ours; it stays
        // until `Fmap::of()` takes it back.
        unsafe {
            init_shown((&raw mut (*published).shown).cast(), inode.as_raw());
            (&raw mut (*published).open_files).write(AtomicU32::new(0));
            (&raw mut (*published).refusals).write(AtomicU32::new(0));
            (&raw mut (*published).header).write(header);
            &raw mut (*published).header
        }
    }

    /// Takes back what is not published any more.
    ///
    /// # Safety
    ///
    /// Nothing points to the header any more.
    unsafe fn of(header: NonNull<Header>) -> Self {
        // SAFETY: By the safety requirements; `complete()` wrote it, behind the rest.
        // INVARIANT: The length is that of the allocation.
        unsafe {
            let published = container_of!(header.as_ptr(), Published, header);
            Self {
                published: NonNull::new_unchecked(published),
                meta_len: header.as_ref().meta_len,
            }
        }
    }
}

impl Drop for Fmap {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.meta_len) {
            // SAFETY: By the type invariants; allocated with this layout.
            unsafe { KVmalloc::free(self.published.cast(), layout) };
        }
    }
}

impl MappedFile {
    /// The one of an inode that is about to be mapped by mmap(2), which is made if there is none
    /// yet. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// The inode is mapped and in use.
    unsafe fn get_or_make(inode: *mut c::inode) -> Result<NonNull<Self>> {
        // SAFETY: `inode` is mapped and in use, by the safety requirements.
        let header = unsafe { header(inode) };
        if let Some(file) = header.file() {
            // SAFETY: It stays as long as the inode is in use.
            unsafe { (*file.as_ptr()).will_be_mapped() };
            return Ok(file);
        }
        let mapped_files = &header.mount().mapped_files;
        let _making = mapped_files.making.lock();
        if let Some(file) = header.file() {
            // SAFETY: `file` stays as long as the inode is in use.
            unsafe { (*file.as_ptr()).will_be_mapped() };
            return Ok(file);
        }
        let memory = KBox::<Self>::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let file = NonNull::from(KBox::leak(memory)).cast::<Self>();
        let raw = file.as_ptr();
        // SAFETY: The memory is ours, and stays until `free()`.
        unsafe {
            (&raw mut (*raw).header).write(NonNull::from(header));
            (&raw mut (*raw).inode).write(inode);
            (&raw mut (*raw).link).write(Link::new(raw));
            (&raw mut (*raw).may_be_busy).write(AtomicBool::new(true));
            (&raw mut (*raw).was_busy).write(Atomic::new(false));
            (&raw mut (*raw).is_held).write(false);
            init_host((&raw mut (*raw).host).cast(), inode, header);
        }
        // In this order: what can be faulted in is found in the list.
        mapped_files.insert(file);
        header.file.store(raw, Ordering::Release);
        Ok(file)
    }

    /// A file of it, which is counted as open, is about to be mapped by mmap(2): its last close
    /// looks whether pages are in use.
    fn will_be_mapped(&self) {
        lockless::used::<AsWritten>(&self.may_be_busy);
    }

    /// # Safety
    ///
    /// `mapping` is a DAX page cache.
    unsafe fn of_mapping(mapping: *mut c::address_space) -> *mut Self {
        // SAFETY: By the safety requirements its host is that of a mapped file, the first member.
        unsafe { (*mapping).host.cast() }
    }

    /// # Safety
    ///
    /// The file is in the list of its mount, or its memory kept.
    unsafe fn header<'a>(this: *const Self) -> &'a Header {
        // SAFETY: `this` has a header as long as it is in a list, by the safety requirements.
        unsafe { (*this).header.as_ref() }
    }

    /// Frees a mapped file: the header and the metadata at once, as they may be large, and reclaim
    /// may want them.
    ///
    /// # Safety
    ///
    /// It has no memory, is in no list, and its inode does not point to it.
    unsafe fn free(this: NonNull<Self>) {
        /// # Safety
        ///
        /// Called by RCU, for a file that nothing uses any more.
        unsafe extern "C" fn free(head: *mut c::callback_head) {
            // SAFETY: By the safety requirements; `get_or_make()` made a box of it.
            unsafe { c::kfree(container_of!(head, MappedFile, rcu).cast()) };
        }

        // SAFETY: By the safety requirements. The module waits for callbacks before it goes.
        unsafe {
            drop(Fmap::of((*this.as_ptr()).header));
            c::call_rcu(&raw mut (*this.as_ptr()).rcu, Some(free));
        }
    }
}

const _: () = assert!(offset_of!(MappedFile, host) == 0);

impl Header {
    #[inline]
    fn meta(&self) -> Metadata<'_> {
        // SAFETY: By the type invariants this is what follows, and nobody writes it any more.
        unsafe { Metadata::new(ptr::from_ref(self).add(1).cast(), self.meta_len) }
    }

    #[inline]
    fn mount(&self) -> &Mount {
        // SAFETY: By the type invariants.
        unsafe { self.mount.as_ref() }
    }

    /// What the file has if it has been mapped by mmap(2).
    #[inline]
    fn file(&self) -> Option<NonNull<MappedFile>> {
        NonNull::new(self.file.load(Ordering::Acquire))
    }

    /// The DAX page cache. Only for a file that has been mapped by mmap(2); else this is no valid
    /// pointer.
    #[inline]
    fn dax_mapping(&self) -> *mut c::address_space {
        let host = self.file.load(Ordering::Relaxed).cast::<c::inode>();

        // The host is the first member.
        host.wrapping_byte_add(offset_of!(c::inode, i_data)).cast()
    }

    /// `invalidate_lock` of the DAX page cache: held shared by faults.
    ///
    /// # Safety
    ///
    /// The file has been mapped by mmap(2).
    #[inline]
    unsafe fn invalidate_lock(&self) -> &RwSemaphore {
        // SAFETY: The page cache is there, by the safety requirements, as long as the header.
        unsafe { RwSemaphore::from_raw(&raw mut (*self.dax_mapping()).invalidate_lock) }
    }

    /// Whether pages were in use when somebody looked last ([`MappedFile::was_busy`]).
    fn was_busy(&self) -> bool {
        self.file()
            // SAFETY: The file is freed after the header, by the type invariants.
            .is_some_and(|file| unsafe { (*file.as_ptr()).was_busy.load(Relaxed) })
    }

    /// Pages are in use, or may be: see [`MappedFile::was_busy`].
    fn note_busy(&self) {
        if let Some(file) = self.file() {
            // SAFETY: The file is freed after the header, by the type invariants.
            unsafe { (*file.as_ptr()).was_busy.store(true, Relaxed) };
        }
    }

    fn published(&self) -> &Published {
        // SAFETY: A header that is not on the stack is part of one.
        unsafe { &*container_of!(ptr::from_ref(self).cast_mut(), Published, header) }
    }

    /// How many mappings have been refused so far. If it is the same after I/O that came to a short
    /// end, none of that was.
    #[inline]
    fn refusals(&self) -> u32 {
        self.published().refusals.load(Ordering::Relaxed)
    }

    fn note_refusal(&self) {
        self.published().refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// What descriptors show.
    fn shown(&self) -> *mut c::address_space {
        self.published().shown.get()
    }
}

/// A table of C operations.
#[repr(transparent)]
pub(crate) struct Table<T: COperations>(pub(crate) T);

/// Tables of function pointers and plain pointers to other such tables.
///
/// # Safety
///
/// The type has nothing that belongs to a task, and nothing that is written once the table is made.
pub(crate) unsafe trait COperations {}

// SAFETY: Function pointers, and pointers to static tables.
unsafe impl COperations for c::address_space_operations {}
// SAFETY: As above, and a pointer to the module.
unsafe impl COperations for c::file_operations {}
// SAFETY: As above.
unsafe impl COperations for c::inode_operations {}
// SAFETY: As above.
unsafe impl COperations for c::vm_operations_struct {}

// SAFETY: By the safety requirements of the trait.
unsafe impl<T: COperations> Send for Table<T> {}
// SAFETY: As above.
unsafe impl<T: COperations> Sync for Table<T> {}

// --- State of an inode --------------------------------------------------------------------------

/// The header of a mapped inode.
///
/// # Safety
///
/// The inode is mapped, and not being evicted.
#[inline]
unsafe fn header<'a>(inode: *const c::inode) -> &'a Header {
    // SAFETY: The inode is valid by the safety requirements, its header was published before
    // anybody got here, and it stays until eviction.
    unsafe {
        &*ptr::addr_of!((*inode).i_private)
            .read_volatile()
            .cast::<Header>()
    }
}

/// `i_size_read()` on a 64-bit machine; negative sizes do not occur.
///
/// # Safety
///
/// The inode is valid.
#[inline]
pub(crate) unsafe fn i_size(inode: *const c::inode) -> u64 {
    // SAFETY: `inode` is valid, by the safety requirements.
    unsafe { ptr::addr_of!((*inode).i_size).read_volatile() }.max(0) as u64
}

/// The pointer that says what is known of a file, as an atomic.
fn i_private(inode: &Inode) -> &AtomicPtr<ffi::c_void> {
    // SAFETY: The inode is valid as long as `inode`, and the field is accessed atomically by all
    // who may race: here, and by single loads in the fault path.
    unsafe { AtomicPtr::from_ptr(ptr::addr_of_mut!((*inode.as_raw()).i_private)) }
}

pub(crate) fn state(inode: &Inode) -> State {
    match lockless::published::<AsWritten, _>(i_private(inode)) {
        private if private.is_null() => State::Unknown,
        PLAIN => State::Plain,
        _ => State::Mapped,
    }
}

/// Remembers that a file has no map, until it is evicted.
pub(crate) fn remember_plain(inode: &Inode) {
    // The caller alone settles this file, so it is unknown still.
    lockless::publish::<AsWritten, _>(i_private(inode), PLAIN);
}

/// Makes a file a mapped one, and returns what it is now: `Plain` means for this open, not for
/// ever.
///
/// The caller alone settles this file at the moment. Files of it may be open, and do what they like
/// meanwhile: FUSE's page cache is not touched. If it has data that are not written back, or is
/// mapped by one of those, or is being changed by one, the file stays FUSE's for now: there would
/// be two sets of bytes.
///
/// # Errors
///
/// [`ENOMEM`].
pub(crate) fn publish(inode: &Inode, parsed: Parsed, conn: &Connection) -> Result<State> {
    let raw = inode.as_raw();
    let file_i_op = inode_operations(inode)?;
    // SAFETY: The inode is FUSE's, regular, in use, and not mapped.
    let file_aops = unsafe { aops((*raw).i_data.a_ops) }?;
    let mount = conn.mount();
    // SAFETY: The mount, which owns the pin, outlives the header.
    let resolver = unsafe { mount.ops.resolver() }?;
    // SAFETY: As above.
    let counts = unsafe { mount.stats.shortcut() }.ok_or(EIO)?;
    let meta_len = parsed.fmap.meta_len;
    // INVARIANT: `meta_len` is that of the allocation; the mount is the inode's.
    let header = Header {
        resolver,
        mount: NonNull::from(mount),
        dev_bitmap: parsed.dev_bitmap,
        mapped_size: parsed.file_size,
        meta_len,
        writers_back: AtomicU32::new(0),
        counts,
        stamp: AtomicU64::new(new_stamp()),
        file: AtomicPtr::new(ptr::null_mut()),
    };
    let header = parsed.fmap.complete(inode, header);

    // SAFETY: The inode is in use. These are single words that others load once. An operation of
    // ours that is called before the header is there, by path or for a file that was open already,
    // looks for that (`state`).
    unsafe {
        AtomicPtr::from_ptr((&raw mut (*raw).i_data.a_ops).cast())
            .store(file_aops.cast_mut(), Ordering::Release);
        AtomicPtr::from_ptr((&raw mut (*raw).i_op).cast())
            .store(file_i_op.cast_mut(), Ordering::Release);
    }
    // Who changes the file through FUSE has asked before, with this lock, whether it is mapped.
    let changing = mount.changing.lock();
    if changing.get(&inode.key()).is_some() || inode.uses_page_cache() {
        drop(changing);
        // SAFETY: It was made just now, and is not published.
        drop(unsafe { Fmap::of(NonNull::new_unchecked(header)) });
        return Ok(State::Plain);
    }
    lockless::publish::<AsWritten, _>(i_private(inode), header.cast());
    drop(changing);
    mount.files.add(1, Relaxed);
    Ok(State::Mapped)
}

/// A file of a mapped inode has been opened as a mapped one.
///
/// # Safety
///
/// The inode is mapped, and in use.
pub(crate) unsafe fn opened(inode: *const c::inode) {
    // SAFETY: `inode` is mapped and in use, by the safety requirements.
    let published = unsafe { header(inode) }.published();

    published.open_files.fetch_add(1, Ordering::Relaxed);
}

/// A file that was counted ([`opened`]) is being closed, and its mappings are gone. If it was the
/// last one and pages are in use by direct I/O or a pipe, the inode is held until they are not: the
/// server learns of its end only then (FORGET), and may give the memory to another file.
///
/// # Safety
///
/// The inode is FUSE's, mapped, and in use.
pub(crate) unsafe fn closed(inode: *mut c::inode) {
    // SAFETY: `inode` is mapped and in use, by the safety requirements.
    let header = unsafe { header(inode) };
    let open_files = &header.published().open_files;

    if !lockless::closed::<AsWritten>(open_files) {
        return;
    }
    if let Some(file) = header.file() {
        header
            .mount()
            .mapped_files
            .hold_if_busy(header.mount(), file);
    }
}

/// Takes everything of ours off an inode that is being evicted, so that FUSE finds its own. Does
/// not wait: what is busy is kept by the mount.
///
/// # Safety
///
/// Called by `->evict_inode()` of a bound mount, before FUSE's.
pub(crate) unsafe fn evict(inode: *mut c::inode) {
    // SAFETY: The inode is valid and nobody else has it any more, by the safety requirements.
    let private = unsafe { (*inode).i_private };

    if private.is_null() || private == PLAIN {
        // SAFETY: As above.
        unsafe { (*inode).i_private = ptr::null_mut() };
        return;
    }
    // SAFETY: `publish()` put a header there, and by its type invariants the mount is still there.
    // No file of the inode is open, so nothing is mapped any more.
    unsafe {
        let header = header(inode);
        let mount = header.mount.as_ref();
        (*inode).i_private = ptr::null_mut();
        mount.files.add(-1, Relaxed);
        let Some(file) = header.file() else {
            drop(Fmap::of(NonNull::from(header)));
            return;
        };
        let given_up = DaxEntry::is_empty(header.dax_mapping()) || give_up_idle(header);
        mount.mapped_files.remove(mount, file, given_up);
    }
}
