// SPDX-License-Identifier: GPL-2.0

//! Giving memory up: when a file is evicted or its inode goes bad, when its device goes away, when
//! the memory has failed.
//!
//! What is given up is unmapped first, flushed, and then taken out of the DAX page cache. Only
//! pages that are idle can be taken out; direct I/O or a pipe may still have some of them, and
//! there is no bound for how long. Only unbinding a device waits for that, as its memory map goes
//! away. While it waits no lock is held: a task that has some pages of a buffer may be in a fault
//! for the next, and has to get through to give the others back.

use core::ptr;

use kernel::{
    error::to_result,
    ffi,
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    bindings::kernel as c,
    daxdev::{
        is_poisoned,
        mark_page,
        Device, //
    },
    fmap_ops::Mount,
    fuse::{
        Inode,
        Mounted, //
    }, //
};

use super::{
    tenancy::{
        folio_index,
        DaxEntry,
        MovingIn, //
    },
    writeback::{
        flush_around_poison,
        flush_range, //
    },
    Header,
    MappedFile,
    PAGE, //
};

/// Unmaps a mapped file and gives up what is idle of its memory. Returns whether nothing is left;
/// if `only` is given, nothing of that device.
///
/// # Safety
///
/// The file is mapped, and either its inode is evicted, or its `invalidate_lock` is held
/// exclusively.
unsafe fn try_vacate(header: &Header, only: Option<&Device>) -> bool {
    let mapping = header.dax_mapping();
    let (mut start, mut vacated) = (0, true);
    // What an earlier call has found in use, for it gave up all else.
    let was_busy = header.was_busy();

    loop {
        // SAFETY: By the safety requirements. This unmaps everything from `start` on; what is left
        // then are references to pages.
        let busy = unsafe { c::dax_layout_busy_page_range(mapping, start, c::loff_t::MAX) };
        if busy.is_null() {
            // SAFETY: Nothing of the file is mapped or in use from `start` on, as `busy` is null.
            unsafe { give_up(header, start, c::loff_t::MAX, was_busy) };
            return vacated;
        }
        let folio = busy.cast::<c::folio>();
        // SAFETY: A page that the file has stays what it is while no fault is under way.
        let (pfn, index, pages) = unsafe {
            (
                c::folio_pfn(folio),
                folio_index(folio),
                c::folio_nr_pages(folio) as u64,
            )
        };
        vacated &= only.is_some_and(|device| !device.has_frame(pfn as u64));
        let (first, end) = (index * PAGE, ((index + pages) * PAGE) as c::loff_t);
        // SAFETY: Nothing of the file is mapped or in use before the page that is busy.
        unsafe { give_up(header, start, first as c::loff_t - 1, was_busy) };
        header.note_busy();
        // What was stored until now is not to wait until the page is idle.
        // SAFETY: The inode of `header` is evicted or no fault is under way, by the safety
        // requirements.
        let _ = unsafe { flush_range(header, first as c::loff_t, end - 1) };
        start = end;
    }
}

/// # Safety
///
/// As [`try_vacate`]; from byte `start` to `end` nothing is mapped or in use.
unsafe fn give_up(header: &Header, start: c::loff_t, end: c::loff_t, was_busy: bool) {
    if start >= end {
        return;
    }
    // SAFETY: By the safety requirements. An error of writeback has been recorded.
    unsafe {
        let (first, last) = (start as u64 / PAGE, end as u64 / PAGE);
        if DaxEntry::first(header.dax_mapping(), first, last).is_none() {
            return;
        }
        if was_busy {
            // Who had a page of it may have stored there until now.
            DaxEntry::mark_dirty(header.dax_mapping(), first, last);
        }
        let _ = flush_range(header, start, end);
        MovingIn::new(header.mount()).move_out(header, start, end);
    }
}

/// A file whose inode is evicted: gives up the memory that is idle, and returns whether that is
/// all.
///
/// # Safety
///
/// The file is mapped, and no file of its inode is open.
pub(super) unsafe fn give_up_idle(header: &Header) -> bool {
    // SAFETY: No file of the inode of `header` is open, by the safety requirements.
    unsafe { try_vacate(header, None) }
}

/// Marks all that a file has as dirty: who had a page of it in use may have stored there, however,
/// until now.
///
/// # Safety
///
/// The inode of the file is held.
pub(super) unsafe fn mark_all_dirty(header: &Header) {
    // SAFETY: By the safety requirements the file stays mapped.
    unsafe {
        let _no_faults = header.invalidate_lock().write();
        DaxEntry::mark_dirty(header.dax_mapping(), 0, c::loff_t::MAX as u64 / PAGE);
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
pub(crate) fn vacate_all(mount: &Mount, index: u32, device: &Device) {
    let (mut waited_ms, mut step_ms) = (0, 1);
    let mut told = false;
    let mut first = true;

    while vacate_once(mount, index, device, first) {
        first = false;
        if waited_ms >= PATIENCE_MS && !told {
            told = true;
            pr_warn!(
                "{}: a device goes away once direct I/O to its memory has ended, and pipes have let go of it\n",
                mount
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
fn vacate_once(mount: &Mount, index: u32, device: &Device, first: bool) -> bool {
    let Some(_mounted) = Mounted::new(mount) else {
        // If it is about to go, it leaves kept memory.
        return !mount.superblock.has_gone() || mount.mapped_files.give_up_kept_of(device);
    };
    let wanted = |header: &Header, _: *mut c::inode| {
        // SAFETY: A file in the list has a DAX page cache.
        header.uses_device(index) && (first || unsafe { !DaxEntry::is_empty(header.dax_mapping()) })
    };
    let mut busy = false;
    // SAFETY: `_mounted` keeps the mount. With the lock no fault is under way.
    unsafe {
        mount.mapped_files.for_each(true, wanted, |header, _| {
            let _no_faults = header.invalidate_lock().write();
            busy |= !try_vacate(header, Some(device));
        });
    }
    mount.mapped_files.give_up_kept_of(device) || busy
}

/// Ends the maps of inodes that FUSE has marked bad: their files are unmapped and give up what is
/// idle of their memory. Returns whether some of it is busy.
///
/// FUSE does that when the server answers that a node id is another file now. It tells no one; but
/// reads, writes and faults look at the mark themselves, so nothing is mapped anew.
pub(crate) fn end_bad_maps(mount: &Mount) -> bool {
    let is_bad = |header: &Header, inode: *mut c::inode| {
        // SAFETY: An inode in the list is there.
        unsafe { Inode::new(inode).is_bad() && !DaxEntry::is_empty(header.dax_mapping()) }
    };
    mount.mapped_files.clear(|| {
        // Nearly always there is none, and then the mount must not be kept.
        if !mount.mapped_files.any(is_bad) {
            return false;
        }
        let Some(_mounted) = Mounted::new(mount) else {
            return false;
        };
        let mut busy = false;
        // SAFETY: `_mounted` keeps the mount. With the lock no fault is under way, and the next one
        // sees the mark.
        unsafe {
            mount.mapped_files.for_each(false, is_bad, |header, _| {
                let _no_faults = header.invalidate_lock().write();
                busy |= !try_vacate(header, None);
            });
        }
        busy
    })
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
/// The frame is of a device that the mount holds, and is known as poisoned. The caller handles a
/// memory failure with these `flags`.
pub(crate) unsafe fn kill_tenants(
    mount: &Mount,
    mounted: Option<&Mounted>,
    pfn: u64,
    flags: ffi::c_int,
) -> Result {
    // From here on nothing flushes that does not know.
    mount.tenants.wait_for_users();
    // SAFETY: By the safety requirements. A folio in a DAX page cache keeps the mapped file from
    // being freed as long as nothing can move out.
    let (header, inode, index, head, pages) = unsafe {
        let _nobody_moves = MovingIn::new(mount);
        let folio = c::pfn_folio(pfn as ffi::c_ulong);
        let mapping = (*folio).__bindgen_anon_1.__bindgen_anon_1.mapping;

        if mapping.is_null() {
            mark_page(pfn, true);
            return Ok(());
        }
        let mapped = MappedFile::of_mapping(mapping);
        let inode = match mounted {
            Some(_) => mount.mapped_files.grab(mapped),
            None => ptr::null_mut(),
        };
        if inode.is_null() {
            // Evicted: not mapped, and whoever gives it up does not flush what has failed.
            mark_page(pfn, true);
            return Ok(());
        }
        (
            MappedFile::header(mapped),
            inode,
            folio_index(folio),
            c::folio_pfn(folio) as u64,
            c::folio_nr_pages(folio) as u64,
        )
    };
    let start = (index * PAGE) as c::loff_t;
    let end = ((index + pages) * PAGE - 1) as c::loff_t;

    // SAFETY: The inode is held, and mapped, as it has DAX memory.
    let killed = unsafe {
        let mapping = header.dax_mapping();

        // A fault that did not know yet is over then.
        let _no_faults = header.invalidate_lock().write();
        let killed =
            c::mf_dax_kill_procs(mapping, (index + (pfn - head)) as ffi::c_ulong, 1, flags);
        // Also where no task was told.
        let busy = c::dax_layout_busy_page_range(mapping, start, end);
        flush_around_poison(header, start, end);
        if busy.is_null() {
            MovingIn::new(mount).move_out(header, start, end);
        }
        killed
    };
    // The kernel has marked the first page of the folio.
    // SAFETY: The frames have a memory map, as the device is held; `inode` was grabbed above.
    unsafe {
        if !is_poisoned(head) {
            mark_page(head, false);
        }
        mark_page(pfn, true);
        c::iput(inode);
    }
    to_result(killed)
}
