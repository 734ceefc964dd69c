// SPDX-License-Identifier: GPL-2.0

//! Ownership of memory: a page of a device is associated with one page of one file at a time.
//!
//! A file becomes the owner of memory at the first fault that maps it, and drops the memory when it
//! is evicted or the device is removed. DAX stores the association in its entry and in the folio.
//!
//! One lock (`Ownership`) protects which entries the DAX page caches of a mount have. Only the
//! first fault on a piece of memory and the dropping of memory take it exclusively.

use core::ptr;

use kernel::{
    ffi,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    abstractions::{
        fs::dax::{
            DaxMapping,
            Mark, //
        },
        mm::{
            folio::Folio,
            noio::NoioScope, //
        },
        sync::{
            rw_semaphore::WriteGuard,
            srcu_fast::{
                Reader,
                SrcuFast, //
            }, //
        }, //
    },
    bindings::kernel as c,
    daxdev::Device,
    sb_info::SbInfo, //
};

use super::{
    mapped_inode::{
        MappedFile,
        UnderRcu,
        PAGE,
        PMD_SIZE, //
    },
    mapping_error::MappingError, //
};

/// Checks that the memory that a fault is about to map is associated with this page of the file, or
/// is free.
///
/// `pages` is the number of pages that the fault may map, from `pos` on, at `addr` of the device.
/// DAX has an entry for the first of them and holds it locked, so no other fault changes it.
///
/// If the memory is free, returns a guard to be held until DAX has associated it.
#[inline]
pub(super) fn claim_pages<'a>(
    file: &'a MappedFile,
    device: &Device,
    addr: u64,
    pos: u64,
    pages: u64,
) -> Result<Option<OwnershipWriteGuard<'a>>, MappingError> {
    let entry = file.mapping().entry(pos / PAGE);

    if let Some(pfn) = entry.and_then(|entry| entry.pfn_of(pos / PAGE)) {
        return match device.with_frames(addr, 1, |frames| frames.pfn) {
            Some(claimed) if claimed == Some(pfn) => Ok(None),
            Some(_) => Err(MappingError::Moved),
            None => Err(MappingError::FailedDevice),
        };
    }
    let guard = OwnershipWriteGuard::new(file.sbi());
    // `memory_failure()` takes the same lock after the memory was marked as failed.
    if device.may_be_unhealthy() {
        match device.healthy_pages(addr, pages) {
            None => return Err(MappingError::FailedDevice),
            Some(healthy) if healthy < pages => return Err(MappingError::Poisoned),
            Some(_) => (),
        }
    }
    let vacant = device.with_frames(addr, pages, |frames| {
        // SAFETY: `frames` are used inside `with_frames()`.
        unsafe { frames.are_vacant_but_for(ptr::null()) }
    });
    match vacant {
        Some(true) => Ok(Some(guard)),
        Some(false) => Err(MappingError::SharedMemory),
        None => Err(MappingError::FailedDevice),
    }
}

/// Checks that DAX can do what `flags` say where the program says that there is a hole.
///
/// A hole has no association, and its entry is for the zero page. DAX replaces that entry if the
/// program later says that there is memory. An entry with memory stays, as in [`claim_pages`].
#[cold]
pub(super) fn may_be_hole(
    file: Option<&MappedFile>,
    pos: u64,
    flags: u32,
) -> Result<(), MappingError> {
    if flags & c::IOMAP_WRITE != 0 {
        return Err(MappingError::WriteToHole);
    }
    if flags & c::IOMAP_FAULT == 0 {
        return Ok(());
    }
    let entry = file.and_then(|file| file.mapping().entry(pos / PAGE));
    if entry.is_some_and(|entry| entry.pfn_of(pos / PAGE).is_some()) {
        return Err(MappingError::Moved);
    }
    Ok(())
}

/// An SRCU read-side critical section for flushing. It sees what has failed before, and a later
/// memory failure waits for it (`Ownership::wait_for_users()`). Entering it never waits: eviction
/// flushes, too, and may be in the reclaim of a fault that a flush waits for.
pub(super) struct Flushing<'a> {
    _reader: Option<Reader<'a>>,
}

impl<'a> Flushing<'a> {
    pub(super) fn new(sbi: &'a SbInfo) -> Self {
        Self {
            _reader: sbi.ownership.users().map(SrcuFast::read_lock),
        }
    }
}

/// Guard for changing the ownership of a mount's memory: the lock, held exclusively.
///
/// While it is held, allocations must not evict inodes of this mount, nor write to swap, which may
/// be a loop device over a file of this mount: both take the same lock. So it includes a
/// memalloc_noio scope.
pub(super) struct OwnershipWriteGuard<'a> {
    // Dropped in this order.
    lock: WriteGuard<'a>,
    noio: NoioScope,
}

impl<'a> OwnershipWriteGuard<'a> {
    /// Takes the lock. May sleep.
    pub(super) fn new(sbi: &'a SbInfo) -> Self {
        let noio = NoioScope::new();

        Self {
            lock: sbi.ownership.lock.write(),
            noio,
        }
    }

    /// A bit of the address that an aligned lock does not use: set if the scope is the outermost.
    const OUTERMOST: usize = 1;

    /// Returns a pointer for `iomap->private`, which is null for `None`.
    pub(super) fn into_raw(guard: Option<Self>) -> *mut ffi::c_void {
        guard.map_or(ptr::null_mut(), |Self { lock, noio }| {
            let outermost = usize::from(noio.into_raw());
            lock.into_raw().map_addr(|lock| lock | outermost).cast()
        })
    }

    /// Takes over a guard from [`Self::into_raw`].
    ///
    /// # Safety
    ///
    /// `raw` must be from [`Self::into_raw`], called by the same task, and be used once. The mount
    /// must stay for `'a`.
    pub(super) unsafe fn from_raw(raw: *mut ffi::c_void) -> Option<Self> {
        if raw.is_null() {
            return None;
        }
        let lock = raw.map_addr(|lock| lock & !Self::OUTERMOST).cast();
        Some(Self {
            // SAFETY: `lock` is locked, and part of the mount, which stays for `'a`.
            lock: unsafe { WriteGuard::from_raw(lock) },
            // SAFETY: The bit is from `NoioScope::into_raw()`, of a scope of this task.
            noio: unsafe { NoioScope::from_raw(raw.addr() & Self::OUTERMOST != 0) },
        })
    }
}

/// What DAX has stored in a folio: which pages of a file it backs.
#[derive(Clone, Copy)]
pub(super) struct Association<'a> {
    folio: Folio<'a>,
    pages: u64,
}

impl<'a> Association<'a> {
    /// Returns the association of a folio, if it associates the page frame by which the folio was
    /// looked up with page `index` of `mapping`.
    ///
    /// The folio may have been split since the lookup, and the frame be a part of another one. So
    /// the position of the frame is computed from the present size of the folio, which is aligned
    /// to that, and has to be inside it.
    #[inline(always)]
    pub(super) fn of(folio: Folio<'a>, mapping: &DaxMapping, index: u64) -> Option<Self> {
        let pages = folio.nr_pages();
        let owner = folio.mapping();
        let within = folio.pfn() & pages.wrapping_sub(1);
        let is_there = ptr::eq(owner, mapping.as_raw())
            && folio.index() + within == index
            && folio.first_pfn() + within == folio.pfn();

        is_there.then_some(Self { folio, pages })
    }

    /// Returns the first page of the file that the folio backs.
    #[inline]
    pub(super) fn first(&self) -> u64 {
        self.folio.index()
    }

    #[inline]
    pub(super) fn folio(&self) -> Folio<'a> {
        self.folio
    }

    #[inline]
    pub(super) fn is_huge(&self) -> bool {
        self.pages == PMD_SIZE / PAGE
    }
}

/// Returns true if a folio is leftover memory of another file than `own`
/// ([`UnderRcu::is_leftover`]).
///
/// # Safety
///
/// The folio must be of a device that an fmap mount holds, and have been looked up with that
/// mount's `OwnershipReadGuard` held: without it, the page may be a tail page by now, whose
/// `mapping` is no pointer. RCU must be held.
pub(super) unsafe fn is_leftover_but_for(folio: Folio<'_>, own: Option<&MappedFile>) -> bool {
    let mapping = folio.mapping();
    let is_own = own.is_some_and(|own| ptr::eq(own.mapping().as_raw(), mapping));

    // SAFETY: `mapping` was found in a folio under RCU, by the safety requirements.
    !mapping.is_null() && !is_own && unsafe { UnderRcu::of_mapping(mapping) }.is_leftover()
}

/// Marks the entries with memory from page `first` to `last` as dirty. Waits for the writeback of
/// an entry, which may have flushed already, and will clear the mark.
///
/// No fault of the file may be running.
pub(super) fn mark_dirty(mapping: &DaxMapping, first: u64, last: u64) {
    mapping.for_each(first, last, Mark::Present, |index, _| {
        while !try_mark_dirty(mapping, index) {
            fsleep(Delta::from_millis(1));
        }
    });
}

/// Marks the entry of page `index` as dirty, if it has memory. Returns false, and does nothing, if
/// the entry is locked.
fn try_mark_dirty(mapping: &DaxMapping, index: u64) -> bool {
    let entries = mapping.lock_entries();
    let entry = entries.entry(index);
    let is_locked = entry.is_some_and(|entry| entry.is_locked());

    if !is_locked && entry.is_some_and(|entry| entry.pfn_of(index).is_some()) {
        entries.set_dirty(index);
    }
    !is_locked
}
