// SPDX-License-Identifier: GPL-2.0

//! Device removal and memory failure, as a mount handles them.
//!
//! The memory map of a device is freed when the device is removed, so removal waits until no page
//! is in use. It waits with no lock held: a task that has pinned some pages of a buffer may be
//! faulting in the next, and must be able to finish and unpin them.

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
    abstractions::{
        fs::dentry::Named,
        mm::folio::Folio, //
    },
    bindings::kernel as c,
    daxdev::{
        is_poisoned,
        mark_page,
        Device,
        HolderOps,
        HolderRef, //
    },
    sb_info::{
        ActiveSb, //
        SbInfo,
    }, //
};

use super::{
    invalidate::try_break_layout,
    mapped_files::{
        Held,
        StaysActive, //
    },
    mapped_inode::{
        MappedFile,
        PAGE, //
    },
    no_faults::NoFaults,
    ownership::OwnershipWriteGuard,
    writeback::flush_around_poison, //
};

impl HolderOps for SbInfo {
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("mount {} (ops {})", self, self.ops.name()))
    }

    fn get(&self) -> Option<HolderRef> {
        // SAFETY: `self` is borrowed, so it has not been freed.
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
        // If there is no active reference left, no file is mapped by mmap(2) any more.
        let active = ActiveSb::new(self);

        // SAFETY: The caller guarantees what `pfn` and `flags` have to be.
        unsafe { memory_failure(self, active.as_ref(), pfn, flags) }
    }
}

/// How long removal waits before it logs that memory is still in use.
const PATIENCE_MS: i64 = 5000;

/// The longest interval between two checks.
const STEP_MS_MAX: i64 = 50;

/// Unmaps all files of a mount that declare a device that is being removed, and drops their memory
/// on it. Later mappings are validated again, and those on this device are rejected. Waits until no
/// page of it is in use.
///
/// Nothing is held while it waits: the mount may be unmounted, and leave kept memory.
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

/// Goes through all files once. Returns true if memory of the device is, or may be, left.
///
/// The `first` pass locks every file, so that no fault remains that found the device healthy. A
/// file without entries gets none after that, and later passes skip it.
fn invalidate_once(sbi: &SbInfo, index: u32, device: &Device, first: bool) -> bool {
    let wanted = |file: &MappedFile| {
        file.header().uses_device(index) && (first || !file.mapping().is_empty())
    };
    let mut busy = false;
    // An inode that is being evicted has no faults. `evict()` waits for writeback of the inode, and
    // that for the server, so this does not wait for it with the superblock held: the next pass
    // finds the memory dropped, or kept.
    let mut walk = |active: StaysActive<'_>| {
        sbi.mapped_files.for_each(active, false, wanted, |file| {
            let no_faults = NoFaults::lock(file);
            busy |= !try_break_layout(&no_faults, Some(device));
        })
    };
    let skipped = match ActiveSb::new(sbi) {
        Some(active) => walk((&active).into()),
        // A task in umount(2) may be waiting for the server, which may never be done.
        None => match sbi.mapped_files.before_shut_down(walk) {
            Some(skipped) => skipped,
            // Now it waits for no server any more. It may leave kept memory.
            None if !sbi.superblock.has_gone() => return true,
            None => false,
        },
    };
    sbi.mapped_files.release_kept_of(device) || busy || skipped
}

/// Handles a failed page frame: unmaps it, and sends SIGBUS to the tasks that the kernel's policy
/// selects: the task that consumed the poison, and those that asked for an early kill. Other tasks
/// get SIGBUS at their next access, when the fault fails.
///
/// Drops the entry of the page, with all pages of a PMD entry; the healthy ones come back by PTE
/// faults. If pages of the entry are pinned, it stays, and is cleaned: a page that the machine
/// check handler has unmapped from the direct map must never be flushed. The data stored there are
/// lost, which fsync(2) reports.
///
/// # Errors
///
/// Those of `mf_dax_kill_procs()`.
///
/// # Safety
///
/// The frame must be of a device that the mount holds, have a memory map, and be recorded as
/// poisoned. The caller must handle a memory failure with these `flags`.
unsafe fn memory_failure(
    sbi: &SbInfo,
    active: Option<&ActiveSb>,
    pfn: u64,
    flags: ffi::c_int,
) -> Result {
    // After this, no flush is under way that does not know that the page has failed.
    sbi.ownership.wait_for_users();
    // With this held no entry is removed, and a mapped file that owns a folio is not freed.
    let ownership = OwnershipWriteGuard::new(sbi);
    // SAFETY: The frame is of a device that the mount holds, and has a memory map. The ownership
    // lock is held.
    let Some(owner) = (unsafe { Owner::of(sbi, active, pfn) }) else {
        // The frame has no owner, or an evicted one: it is not mapped, and dropping the memory does
        // not flush failed pages.
        // SAFETY: By the safety requirements frame `pfn` has a memory map.
        unsafe { mark_page(pfn, true) };
        return Ok(());
    };
    drop(ownership);
    let file = owner.held.file();
    let start = (owner.first * PAGE) as c::loff_t;
    let end = ((owner.first + owner.pages) * PAGE - 1) as c::loff_t;

    // This waits for faults that began before the failure was recorded.
    let no_faults = NoFaults::lock(file);
    let index = owner.first + (pfn - owner.head);
    let killed = file.mapping().kill_procs(index, flags);
    // Unmap even if no task was killed.
    let (idle, busy) = no_faults.unmap(start, end);
    flush_around_poison(&no_faults, start, end);
    if busy.is_none() {
        idle.disassociate();
    }
    drop(no_faults);
    if let Some(inode) = file.inode() {
        pr_err!(
            "{}: inode {}{} at {:#x}: its memory has failed\n",
            sbi,
            inode.number(),
            Named::new(inode),
            index * PAGE
        );
    }
    // `mf_dax_kill_procs()` has marked the first page of the folio.
    if !is_poisoned(owner.head) {
        // SAFETY: `owner.head` is of the folio that frame `pfn` was in, of the same device.
        unsafe { mark_page(owner.head, false) };
    }
    // SAFETY: By the safety requirements frame `pfn` has a memory map.
    unsafe { mark_page(pfn, true) };
    killed
}

/// The owner of a page frame.
struct Owner<'a> {
    held: Held<'a>,
    /// The page offset in the file at which the frame's folio begins.
    first: u64,
    /// The first page frame of that folio.
    head: u64,
    pages: u64,
}

impl<'a> Owner<'a> {
    /// Finds the owner. Returns `None` if there is none, or its inode is being evicted.
    ///
    /// # Safety
    ///
    /// The frame must be of a device that the mount holds, and have a memory map. The caller must
    /// have an [`OwnershipWriteGuard`].
    unsafe fn of(sbi: &SbInfo, active: Option<&'a ActiveSb>, pfn: u64) -> Option<Self> {
        // SAFETY: By the safety requirements frame `pfn` has a memory map.
        let folio = unsafe { Folio::of(pfn) };
        let mapping = folio.mapping();
        if mapping.is_null() {
            return None;
        }
        // SAFETY: A folio of the device is in this DAX page cache, and the caller has the ownership
        // lock, so its file is not freed.
        let file = unsafe { MappedFile::of_mapping(mapping) };
        Some(Self {
            held: sbi.mapped_files.grab(file, active?.into())?,
            first: folio.index(),
            head: folio.first_pfn(),
            pages: folio.nr_pages(),
        })
    }
}
