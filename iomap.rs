// SPDX-License-Identifier: GPL-2.0

//! A mapped file: what an inode has to be one, from its first open until it is evicted. What is done
//! with it has files of its own; `judge` is where the program is asked.
//!
//! `inode->i_private`, which FUSE leaves alone, says what a file of a bound mount is ([`State`]). For
//! a mapped file it points to a [`Header`]: one load from the inode, and the first cache line has all
//! that the fault path needs before it calls the program; the program's metadata lies right behind,
//! and what the fault path does not need in front ([`MappedFile`]).
//! A header is published once, with the inode lock held, and freed when the inode is evicted; nobody
//! can be inside an operation of an inode that is being evicted.
//!
//! # Three page caches
//!
//! FUSE invalidates and truncates the page cache of an inode whenever its server's attributes,
//! notifications or opens say so. It must not do that to DAX entries, which are mapped memory and not
//! copies. So a mapped file does what a block device does: its mappings use `inode->i_data`, and
//! `inode->i_mapping`, which is what FUSE works on, is an empty page cache that all mapped files of
//! the mount share. What a descriptor shows is another empty one, of its inode (see `page_cache`).
//!
//! # Locks
//!
//! In this order: `inode->i_rwsem` (writes exclusively, reads shared, publishing exclusively),
//! `mmap_lock`, `i_data.invalidate_lock` (faults, nearly always shared), a DAX entry, `i_mapping->invalidate_lock`
//! (the first touch of a piece of memory; see `tenancy`). The fault path takes no lock of ours. Dropping
//! entries of a page cache takes its `invalidate_lock` exclusively (`upgrade`, `vacating`), and whoever
//! writes back passes through it (`writeback`). Innermost are the lock of a page table and, inside it, that
//! of a page cache's tree (`tracked_fault`).

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
    alloc::{
        allocator::KVmalloc,
        Allocator,
        NumaNode, //
    },
    container_of,
    ffi,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::atomic::Relaxed,
    types::Opaque, //
};

use crate::{
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
    stats, //
};

mod file;
mod judge;
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
pub(crate) use page_cache::{
    empty_page_cache,
    show_page_cache,
    IdlePageCaches, //
};
pub(crate) use vacating::{
    kill_tenants,
    vacate_all, //
};
pub(crate) use writeback::{
    sync_all,
    write_back_range, //
};

use file::{
    inode_operations,
    AOPS, //
};
use page_cache::init_shown;
use soft_fault::new_stamp;
use vacating::vacate;

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
/// - `mount` outlives the inode: its connection is freed after the last inode.
#[repr(C, align(64))]
struct Header {
    resolver: Resolver,
    mount: NonNull<Mount>,
    dev_bitmap: u64,
    mapped_size: u64,
    meta_len: u32,
    /// Where the mount counts.
    counts: stats::Shortcut,
    /// How many write back at the moment.
    writers_back: AtomicU32,
    /// What folios are noted with; see `soft_fault`.
    stamp: AtomicU64,
}

const _: () = assert!(size_of::<Header>() == 64);

/// All that a mapped file costs besides its metadata, which follow.
#[repr(C)]
struct MappedFile {
    /// What its files show.
    page_cache: Opaque<c::address_space>,
    header: Header,
}

const _: () =
    assert!(offset_of!(MappedFile, header) + size_of::<Header>() == size_of::<MappedFile>());

/// A mapped file that is not published yet: only the metadata is there.
///
/// # Invariants
///
/// The pointer owns an allocation of [`Fmap::layout`], zeroed or written.
pub(crate) struct Fmap {
    mapped: NonNull<MappedFile>,
    meta_len: u32,
}

impl Fmap {
    fn layout(meta_len: u32) -> Result<Layout> {
        let room = size_of::<c::fuse_dax_fmap_meta>().max(meta_len as usize);
        let size = size_of::<MappedFile>() + room;
        Layout::from_size_align(size, align_of::<MappedFile>()).map_err(|_| EINVAL)
    }

    /// Room for [`MappedFile`] and `meta_len` zeroed bytes of metadata, accounted to the opener. May sleep.
    pub(crate) fn new(meta_len: u32) -> Result<Self> {
        let flags = GFP_KERNEL_ACCOUNT | __GFP_ZERO;
        let memory = KVmalloc::alloc(Self::layout(meta_len)?, flags, NumaNode::NO_NODE)?;

        // INVARIANT: Allocated just now.
        Ok(Self {
            mapped: memory.cast(),
            meta_len,
        })
    }

    pub(crate) fn meta_mut(&mut self) -> &mut [u8] {
        // SAFETY: By the type invariants this many bytes follow, they are initialized, and `self` owns
        // them.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.mapped.add(1).cast().as_ptr(),
                self.meta_len as usize,
            )
        }
    }

    /// Makes the rest of it, for a file that is to be published. Does not sleep.
    fn complete(self, inode: &Inode, header: Header) -> *mut Header {
        let mapped = self.mapped.as_ptr();

        core::mem::forget(self);
        // SAFETY: By the type invariants the allocation has room for both, and was ours; it stays until
        // the inode is evicted.
        unsafe {
            init_shown((&raw mut (*mapped).page_cache).cast(), inode.as_raw());
            (&raw mut (*mapped).header).write(header);
            &raw mut (*mapped).header
        }
    }
}

impl MappedFile {
    /// # Safety
    ///
    /// The inode is mapped.
    unsafe fn of(inode: *const c::inode) -> *mut Self {
        // SAFETY: By the safety requirements that is the header, which `Fmap::complete()` made.
        unsafe { container_of!((*inode).i_private.cast::<Header>(), Self, header) }
    }
}

impl Drop for Fmap {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.meta_len) {
            // SAFETY: By the type invariants; allocated with this layout.
            unsafe { KVmalloc::free(self.mapped.cast(), layout) };
        }
    }
}

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
    // SAFETY: The inode is valid by the safety requirements, its header was published before anybody
    // got here, and it stays until eviction.
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
unsafe fn i_size(inode: *const c::inode) -> u64 {
    // SAFETY: By the safety requirements.
    unsafe { ptr::addr_of!((*inode).i_size).read_volatile() }.max(0) as u64
}

/// The pointer that says what is known of a file, as an atomic.
fn i_private(inode: &Inode) -> &AtomicPtr<ffi::c_void> {
    // SAFETY: The inode is valid as long as `inode`, and the field is accessed atomically by all who
    // may race: here, and by single loads in the fault path.
    unsafe { AtomicPtr::from_ptr(ptr::addr_of_mut!((*inode.as_raw()).i_private)) }
}

pub(crate) fn state(inode: &Inode) -> State {
    // Pairs with the release in `publish()`.
    match i_private(inode).load(Ordering::Acquire) {
        private if private.is_null() => State::Unknown,
        PLAIN => State::Plain,
        _ => State::Mapped,
    }
}

/// As [`state`], for a file that is counted as open already and does not wait for its turn: if this
/// says `Unknown`, [`publish`] finds the file in use.
pub(crate) fn state_for_good(inode: &Inode) -> State {
    let _locked = inode.lock();

    state(inode)
}

/// Remembers that a file has no map, until it is evicted.
pub(crate) fn remember_plain(inode: &Inode) {
    let _locked = inode.lock();

    i_private(inode).store(PLAIN, Ordering::Release);
}

/// How often [`publish`] tries to find an empty page cache.
const EMPTYING_TRIES: usize = 100;

/// Makes a file a mapped one, if its page cache can be emptied, and returns what it is now: `Plain`
/// means for this open, not for ever.
///
/// The caller alone settles this file at the moment; `unused` tells whether nobody else has it open.
///
/// # Errors
///
/// [`EBUSY`] if the server is in the middle of a notification for too long.
pub(crate) fn publish(
    inode: &Inode,
    parsed: Parsed,
    conn: &Connection,
    unused: impl FnOnce() -> bool,
) -> Result<State> {
    let file_i_op = inode_operations(inode)?;

    // Nothing comes into the page cache while notifications are held off; but it has to be emptied
    // before that, for it may take requests. A server that goes on storing pages loses in the end.
    let mut tries = 0;
    let (_silence, _locked) = loop {
        if tries == EMPTYING_TRIES || inode.empty_page_cache().is_err() {
            return Ok(State::Plain);
        }
        tries += 1;
        let silence = conn.hold_off_notifications()?;
        let locked = inode.lock();
        if inode.has_empty_page_cache() {
            break (silence, locked);
        }
    };
    if !unused() {
        return Ok(State::Plain);
    }
    // SAFETY: The connection, which owns the pin, is freed after the last inode.
    let resolver = unsafe { conn.mount().ops.resolver() }?;
    // SAFETY: As above.
    let counts = unsafe { conn.mount().stats.shortcut() }.ok_or(EIO)?;
    let raw = inode.as_raw();
    let meta_len = parsed.fmap.meta_len;
    // INVARIANT: `meta_len` is that of the allocation; the mount is the inode's.
    let header = Header {
        resolver,
        mount: NonNull::from(conn.mount()),
        dev_bitmap: parsed.dev_bitmap,
        mapped_size: parsed.file_size,
        meta_len,
        counts,
        writers_back: AtomicU32::new(0),
        stamp: AtomicU64::new(new_stamp()),
    };
    let header = parsed.fmap.complete(inode, header);

    // SAFETY: The inode is valid and locked, its page cache is empty, and nobody has it open: nobody
    // else looks at these fields in a way that could mind.
    unsafe {
        (*raw).i_data.a_ops = &AOPS.0;
        (*raw).i_mapping = conn.empty_page_cache();
        (*raw).i_op = file_i_op;
        // DAX insists, and a fuseblk mount may have smaller blocks.
        (*raw).i_blkbits = PAGE_SHIFT as u8;
    }
    inode.change_flags(|flags| flags | c::S_DAX);
    i_private(inode).store(header.cast(), Ordering::Release);
    conn.mount().files.add(1, Relaxed);
    Ok(State::Mapped)
}

/// Takes everything of ours off an inode that is being evicted, so that FUSE finds its own.
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
    let (mapped, mount, meta_len) = unsafe {
        let Header {
            mount, meta_len, ..
        } = header(inode);
        (MappedFile::of(inode), mount.as_ref(), *meta_len)
    };

    // SAFETY: As above, and the inode is mapped: it has DAX entries in `i_data` and nowhere else.
    // Without S_DAX FUSE does not look for DAX state of its own.
    unsafe {
        vacate(inode);
        (*inode).i_private = ptr::null_mut();
        c::truncate_inode_pages_final(ptr::addr_of_mut!((*inode).i_data));
        (*inode).i_mapping = ptr::addr_of_mut!((*inode).i_data);
        (*inode).i_flags &= !c::S_DAX;
    }
    mount.files.add(-1, Relaxed);
    if let Some(mapped) = NonNull::new(mapped) {
        // INVARIANT: Nobody points to the allocation any more: a file would keep the inode.
        drop(Fmap { mapped, meta_len });
    }
}
