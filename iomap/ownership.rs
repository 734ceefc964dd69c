// SPDX-License-Identifier: GPL-2.0

//! Who has which memory: a page of a device belongs to one place of one file at a time.
//!
//! A file becomes the tenant of memory at the first fault that maps it, and gives it up when it is
//! evicted or the device goes away. DAX notes the tenant in its entry and in the folio.
//!
//! What comes and goes in the DAX page caches of a mount is guarded by one lock (`Ownership`). Only
//! the first touch of a piece of memory takes it, and who gives memory up.

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

/// Makes sure that a fault maps memory that this place of the file has, or may have.
///
/// `pages` are the pages that the fault may map: from `pos` on, at `addr` of the device. DAX has an
/// entry for the first of them, and holds it locked: another fault does not change it meanwhile.
///
/// If nobody has the memory yet, the result is a lock to be held until DAX has noted the tenant.
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
    // Who marks memory as failed takes the same lock afterwards (`memory_failure()`).
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

/// Makes sure that DAX can do what `flags` say where the program says that there is a hole.
///
/// A hole has no tenant, and its entry in the page cache is the zero page. DAX replaces that,
/// should the program say later that there is memory; but what is memory once, stays so, as in
/// [`claim_pages`].
#[cold]
pub(super) fn may_be_hole(file: Option<&MappedFile>, pos: u64, flags: u32) -> Result<(), MappingError> {
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

/// The right to flush: what has failed by now is known as that, and a memory failure that comes
/// later waits (`Ownership::wait_for_users()`). To get it never waits: eviction flushes, too, and
/// reclaim may have called that in a fault which a flush waits for.
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

/// The right to change who has memory of a mount.
///
/// A task that holds it must not wait for it once more by allocating memory: reclaim evicts inodes
/// of this mount, and writes to swap, which may be a loop device over a file of this mount; both
/// take the same lock. So it begins a memalloc_noio scope.
pub(super) struct OwnershipWriteGuard<'a> {
    // Dropped in this order.
    lock: WriteGuard<'a>,
    noio: NoioScope,
}

impl<'a> OwnershipWriteGuard<'a> {
    /// Waits until no other task has it.
    pub(super) fn new(sbi: &'a SbInfo) -> Self {
        let noio = NoioScope::new();

        Self {
            lock: sbi.ownership.lock.write(),
            noio,
        }
    }

    /// A bit of the address that an aligned lock does not use: whether the scope is the outermost.
    const OUTERMOST: usize = 1;

    /// For `iomap->private`: null for nothing.
    pub(super) fn into_raw(guard: Option<Self>) -> *mut ffi::c_void {
        guard.map_or(ptr::null_mut(), |Self { lock, noio }| {
            let outermost = usize::from(noio.into_raw());
            lock.into_raw().map_addr(|lock| lock | outermost).cast()
        })
    }

    /// # Safety
    ///
    /// `raw` comes from [`OwnershipWriteGuard::into_raw`], by the same task, and is used only once. The mount
    /// is there for `'a`.
    pub(super) unsafe fn from_raw(raw: *mut ffi::c_void) -> Option<Self> {
        if raw.is_null() {
            return None;
        }
        let lock = raw.map_addr(|lock| lock & !Self::OUTERMOST).cast();
        Some(Self {
            // SAFETY: `raw` has the lock, which is locked, and the mount's.
            lock: unsafe { WriteGuard::from_raw(lock) },
            // SAFETY: `raw` has what the scope was, which this task has begun.
            noio: unsafe { NoioScope::from_raw(raw.addr() & Self::OUTERMOST != 0) },
        })
    }
}

/// What DAX has noted in a folio: the pages of a file that it backs.
#[derive(Clone, Copy)]
pub(super) struct Association<'a> {
    folio: Folio<'a>,
    pages: u64,
}

impl<'a> Association<'a> {
    /// What a folio says of its tenant, if that is page `index` of `mapping` for the page frame
    /// that it was found by.
    ///
    /// That it was the frame's folio a moment ago does not count: a folio may have been taken apart
    /// since. So what it is now says where in it the frame is, and a folio is aligned.
    #[inline(always)]
    pub(super) fn of(folio: Folio<'a>, mapping: &DaxMapping, index: u64) -> Option<Self> {
        let pages = folio.nr_pages();
        let owner = folio.mapping();
        let within = folio.pfn() & pages.wrapping_sub(1);
        let is_there = ptr::eq(owner, mapping.as_raw()) && folio.index() + within == index;

        is_there.then_some(Self { folio, pages })
    }

    /// The first page of the file.
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

/// Whether a folio is in use through a file that is closed, and not `own`.
///
/// # Safety
///
/// The folio is of a device that a mount of ours holds, and was looked up with `OwnershipReadGuard`:
/// without it, the page may be a tail page by now, whose `mapping` is no pointer. This is called
/// under RCU.
pub(super) unsafe fn is_leftover_but_for(folio: Folio<'_>, own: Option<&MappedFile>) -> bool {
    let mapping = folio.mapping();
    let is_own = own.is_some_and(|own| ptr::eq(own.mapping().as_raw(), mapping));

    // SAFETY: `mapping` was found under RCU, by the safety requirements.
    !mapping.is_null() && !is_own && unsafe { UnderRcu::of_mapping(mapping) }.is_leftover()
}

/// Marks the entries of pages `first` to `last` that are backed as dirty. Who writes one back
/// meanwhile is waited for: he may have flushed it already, and takes the mark off later.
///
/// No fault is under way.
pub(super) fn mark_dirty(mapping: &DaxMapping, first: u64, last: u64) {
    mapping.for_each(first, last, Mark::Present, |index, _| {
        while !try_mark_dirty(mapping, index) {
            fsleep(Delta::from_millis(1));
        }
    });
}

/// Marks the entry of page `index` as dirty, if it is backed. Returns whether it was not locked:
/// only then.
fn try_mark_dirty(mapping: &DaxMapping, index: u64) -> bool {
    let entries = mapping.lock_entries();
    let entry = entries.entry(index);
    let is_locked = entry.is_some_and(|entry| entry.is_locked());

    if !is_locked && entry.is_some_and(|entry| entry.pfn_of(index).is_some()) {
        entries.set_dirty(index);
    }
    !is_locked
}
