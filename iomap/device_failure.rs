// SPDX-License-Identifier: GPL-2.0

//! What a mount does when one of its devices goes away, or some of its memory fails.
//!
//! The memory map of a device goes away with it, so that waits until no page is in use. While it
//! waits no lock is held: a task that has some pages of a buffer may be in a fault for the next,
//! and has to get through to give the others back.

use core::ptr::NonNull;

use kernel::{
    ffi,
    fmt,
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    abstractions::mm::folio::Folio,
    bindings::kernel as c,
    daxdev::{
        is_poisoned,
        mark_page,
        Device,
        HolderOps,
        HolderRef, //
    },
    sb_info::{
        SbInfo,
        ActiveSb, //
    }, //
};

use super::{
    mapped_files::Held,
    mapped_inode::{
        MappedFile,
        PAGE, //
    },
    no_faults::NoFaults,
    ownership::OwnershipWriteGuard,
    invalidate::try_break_layout,
    writeback::flush_around_poison, //
};

impl HolderOps for SbInfo {
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("mount {} (ops {})", self, self.ops.name()))
    }

    fn get(&self) -> Option<HolderRef> {
        // SAFETY: `self` has not been freed.
        unsafe { SbInfo::hold(NonNull::from(self)) }.map(HolderRef::new)
    }

    fn device_fails(&self, index: u32) -> bool {
        self.devices.device_fails(index)
    }

    fn device_removed(&self, index: u32) {
        if let Some(device) = self.devices.held(index) {
            invalidate_device(self, index, device);
        }
    }

    fn memory_fails(&self, index: u32) {
        self.devices.memory_fails(index);
    }

    unsafe fn memory_failed(&self, pfn: u64, flags: ffi::c_int) -> Result {
        // The files of a mount that goes away are not mapped any more.
        let active = ActiveSb::new(self);

        // SAFETY: The frame and `flags` are the caller's, by the safety requirements.
        unsafe { memory_failure(self, active.as_ref(), pfn, flags) }
    }
}

/// How long memory may be in use before the log says so.
const PATIENCE_MS: i64 = 5000;

/// The longest time between two looks.
const STEP_MS_MAX: i64 = 50;

/// A device that goes away: all files of a mount that declare it are unmapped, and give up what
/// they have of it. What they map again is judged again. Waits until no page of the device is in
/// use.
///
/// While it waits, nothing is held: the mount may be unmounted, and what is left is kept memory
/// then.
fn invalidate_device(sbi: &SbInfo, index: u32, device: &Device) {
    let (mut waited_ms, mut step_ms) = (0, 1);
    let mut told = false;
    let mut first = true;

    while invalidate_once(sbi, index, device, first) {
        first = false;
        if waited_ms >= PATIENCE_MS && !told {
            told = true;
            pr_warn!(
                "{}: a device goes away once direct I/O to its memory has ended, and pipes have let go of it\n",
                sbi
            );
        }
        fsleep(Delta::from_millis(step_ms));
        waited_ms += step_ms;
        step_ms = (step_ms * 2).min(STEP_MS_MAX);
    }
}

/// One look at all files. Returns whether some memory of the device is left, or may be.
///
/// In the `first` one each file is locked, so that no fault is under way that found the device
/// sound; what has no entries after that gets none.
fn invalidate_once(sbi: &SbInfo, index: u32, device: &Device, first: bool) -> bool {
    let Some(active) = ActiveSb::new(sbi) else {
        // If it is about to go, it leaves kept memory.
        return !sbi.superblock.has_gone() || sbi.mapped_files.release_kept_of(device);
    };
    let wanted = |file: &MappedFile| {
        file.header().uses_device(index) && (first || !file.mapping().is_empty())
    };
    let mut busy = false;
    sbi
        .mapped_files
        .for_each((&active).into(), true, wanted, |file| {
            let no_faults = NoFaults::lock(file);
            busy |= !try_break_layout(&no_faults, Some(device));
        });
    sbi.mapped_files.release_kept_of(device) || busy
}

/// Memory that has failed: unmaps the page frame, and sends SIGBUS to the tasks that the kernel's
/// policy names, the one that consumed it and those that want to know early. The others get it when
/// they touch the page again, as the fault is refused.
///
/// The entry of the page is dropped, with the other pages of 2 MiB, which come back one by one. If
/// the entry is busy it stays, and is not dirty any more: a page that the machine check handler has
/// taken out of the kernel's own mapping must never be flushed. What was stored there is lost,
/// which fsync(2) reports.
///
/// # Errors
///
/// Those of `mf_dax_kill_procs()`.
///
/// # Safety
///
/// The frame is of a device that the mount holds, has a memory map, and is known as poisoned. The
/// caller handles a memory failure with these `flags`.
unsafe fn memory_failure(
    sbi: &SbInfo,
    active: Option<&ActiveSb>,
    pfn: u64,
    flags: ffi::c_int,
) -> Result {
    // From here on nothing flushes that does not know.
    sbi.ownership.wait_for_users();
    // A folio in a DAX page cache keeps the mapped file from being freed as long as nothing can
    // move out.
    let nobody_moves = OwnershipWriteGuard::new(sbi);
    // SAFETY: The frame is of a device that the mount holds, with a memory map, and nothing moves.
    let Some(owner) = (unsafe { Owner::of(sbi, active, pfn) }) else {
        // It has none, or an evicted one: not mapped, and whoever gives it up does not flush what
        // has failed.
        // SAFETY: Frame `pfn` has a memory map, by the safety requirements.
        unsafe { mark_page(pfn, true) };
        return Ok(());
    };
    drop(nobody_moves);
    let file = owner.held.file();
    let start = (owner.first * PAGE) as c::loff_t;
    let end = ((owner.first + owner.pages) * PAGE - 1) as c::loff_t;

    // A fault that did not know yet is over then.
    let no_faults = NoFaults::lock(file);
    let index = owner.first + (pfn - owner.head);
    let killed = file.mapping().kill_procs(index, flags);
    // Also where no task was told.
    let (idle, busy) = no_faults.unmap(start, end);
    flush_around_poison(&no_faults, start, end);
    if busy.is_none() {
        idle.disassociate();
    }
    drop(no_faults);
    // The kernel has marked the first page of the folio.
    if !is_poisoned(owner.head) {
        // SAFETY: `owner.head` is of the folio that frame `pfn` was in, of the same device.
        unsafe { mark_page(owner.head, false) };
    }
    // SAFETY: Frame `pfn` has a memory map, by the safety requirements.
    unsafe { mark_page(pfn, true) };
    killed
}

/// Who has a page frame.
struct Owner<'a> {
    held: Held<'a>,
    /// The page of the file where the frame's folio begins.
    first: u64,
    /// The first page frame of that.
    head: u64,
    pages: u64,
}

impl<'a> Owner<'a> {
    /// `None` if there is none, or its inode is being evicted.
    ///
    /// # Safety
    ///
    /// The frame is of a device that the mount holds, and has a memory map. The caller has
    /// [`OwnershipWriteGuard`].
    unsafe fn of(sbi: &SbInfo, active: Option<&'a ActiveSb>, pfn: u64) -> Option<Self> {
        // SAFETY: Frame `pfn` has a memory map, by the safety requirements.
        let folio = unsafe { Folio::of(pfn) };
        let mapping = folio.mapping();
        if mapping.is_null() {
            return None;
        }
        // SAFETY: A folio of the device is in this DAX page cache, of a file that is not freed.
        let file = unsafe { MappedFile::of_mapping(mapping) };
        Some(Self {
            held: sbi.mapped_files.grab(file, active?.into())?,
            first: folio.index(),
            head: folio.first_pfn(),
            pages: folio.nr_pages(),
        })
    }
}
