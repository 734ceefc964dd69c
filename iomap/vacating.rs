// SPDX-License-Identifier: GPL-2.0

//! Giving memory up: when a file is evicted, when its device goes away, when the memory has failed.
//!
//! What is given up is unmapped first, flushed, and then taken out of the page cache. Only pages that
//! nobody uses can be taken out; direct I/O may still have some of them, for a moment as a rule, but
//! nobody else decides for how long. While that is waited for, no lock is held: who has some of the
//! pages of a buffer may be in a fault for the next, and has to get through to give the others back.

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
    fuse::Connection, //
};

use super::{
    header,
    tenancy::{
        folio_index,
        for_each_mapped,
        MovingIn, //
    },
    writeback::flush,
    PAGE, //
};

/// Unmaps a mapped inode and gives up the memory it has; if `only` is given, at least what it has of
/// that device. `false` if some of that is in use by direct I/O: then it is unmapped, and not more.
///
/// # Safety
///
/// The inode is mapped, and either being evicted, or in use with the lock against faults held.
unsafe fn try_vacate(inode: *mut c::inode, only: Option<&Device>) -> bool {
    // SAFETY: By the safety requirements.
    let mapping = unsafe { ptr::addr_of_mut!((*inode).i_data) };
    let mut start = 0;

    loop {
        // SAFETY: By the safety requirements. This unmaps everything from `start` on; what is left
        // then are references to pages.
        let busy = unsafe { c::dax_layout_busy_page_range(mapping, start, c::loff_t::MAX) };
        if busy.is_null() {
            // SAFETY: By the safety requirements.
            unsafe { give_up(inode, start, c::loff_t::MAX) };
            return true;
        }
        let Some(device) = only else {
            return false;
        };
        let folio = busy.cast::<c::folio>();
        // SAFETY: A page that the mount has stays what it is while the lock is held.
        let (pfn, index, pages) = unsafe {
            (
                c::folio_pfn(folio),
                folio_index(folio),
                c::folio_nr_pages(folio) as u64,
            )
        };
        if device.has_frame(pfn as u64) {
            return false;
        }
        // Of another device, and in use: it stays where it is.
        // SAFETY: By the safety requirements.
        unsafe { give_up(inode, start, (index * PAGE) as c::loff_t - 1) };
        start = ((index + pages) * PAGE) as c::loff_t;
    }
}

/// # Safety
///
/// As [`try_vacate`]; from byte `start` to `end` nothing is mapped or in use.
unsafe fn give_up(inode: *mut c::inode, start: c::loff_t, end: c::loff_t) {
    if start < end {
        // SAFETY: By the safety requirements. An error of writeback is in the page cache.
        unsafe {
            let _ = flush(inode);
            MovingIn::new(inode).move_out(inode, start, end);
        }
    }
}

/// An inode that is being evicted: gives up the memory it has, once nobody does I/O to it any more.
///
/// # Safety
///
/// The inode is mapped, and being evicted.
pub(super) unsafe fn vacate(inode: *mut c::inode) {
    // SAFETY: By the safety requirements.
    while !unsafe { try_vacate(inode, None) } {
        fsleep(Delta::from_millis(1));
    }
}

/// How often, about once in a millisecond, memory may be in use before the log says so.
const PATIENCE: usize = 5000;

/// A device that goes away: all files of a mount that declare it are unmapped, and give up what they
/// have of it. What they map again is judged again.
///
/// # Safety
///
/// `sb` is bound, and kept mounted by the caller; `device` is its device number `index`, and alive.
pub(crate) unsafe fn vacate_all(sb: *mut c::super_block, index: u32, device: &Device) {
    let each = |inode: *mut c::inode| {
        // SAFETY: The inode is mapped and held.
        let (header, invalidate_lock) = unsafe {
            let mapping = ptr::addr_of_mut!((*inode).i_data);
            (header(inode), ptr::addr_of_mut!((*mapping).invalidate_lock))
        };
        if header.dev_bitmap & (1 << index) == 0 {
            return;
        }
        let mut tries = 0;
        // SAFETY: As above. With the lock no fault is under way.
        while !unsafe {
            c::down_write(invalidate_lock);
            let vacated = try_vacate(inode, Some(device));
            c::up_write(invalidate_lock);
            vacated
        } {
            tries += 1;
            if tries == PATIENCE {
                pr_warn!(
                    "a device goes away once direct I/O to memory of inode {} has ended\n",
                    // SAFETY: As above.
                    unsafe { (*inode).i_ino }
                );
            }
            fsleep(Delta::from_millis(1));
        }
    };

    // SAFETY: By the safety requirements.
    unsafe { for_each_mapped(sb, each) };
}

/// Memory that has failed: unmaps the page frame, and sends SIGBUS to the tasks that the kernel's
/// policy names, the one that consumed it and those that want to know early. The others get it when
/// they touch the page again, as the fault is refused.
///
/// The entry of the page is dropped, with the other pages of 2 MiB. They come back one by one; but a
/// page that the machine check handler has taken out of the kernel's own mapping must not be flushed
/// any more.
///
/// # Errors
///
/// Those of `mf_dax_kill_procs()`.
///
/// # Safety
///
/// The frame is of a device that the mount holds, and is known as poisoned; the mount stays mounted.
/// The caller handles a memory failure with these `flags`.
pub(crate) unsafe fn kill_tenants(conn: &Connection, pfn: u64, flags: ffi::c_int) -> Result {
    // SAFETY: By the safety requirements. A folio in a page cache keeps the inode from going away as
    // long as nobody can move out.
    let (inode, index, head, pages) = unsafe {
        let _nobody_moves = MovingIn::of(conn);
        let folio = c::pfn_folio(pfn as ffi::c_ulong);
        let mapping = (*folio).__bindgen_anon_1.__bindgen_anon_1.mapping;
        let inode = if mapping.is_null() {
            ptr::null_mut()
        } else {
            c::igrab((*mapping).host)
        };

        if inode.is_null() {
            mark_page(pfn, true);
            return Ok(());
        }
        (
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
        let mapping = ptr::addr_of_mut!((*inode).i_data);
        let invalidate_lock = ptr::addr_of_mut!((*mapping).invalidate_lock);

        // A fault that did not know yet is over then.
        c::down_write(invalidate_lock);
        let killed =
            c::mf_dax_kill_procs(mapping, (index + (pfn - head)) as ffi::c_ulong, 1, flags);
        // Also where nobody was told.
        let busy = c::dax_layout_busy_page_range(mapping, start, end);
        if busy.is_null() && flush(inode).is_ok() {
            MovingIn::new(inode).move_out(inode, start, end);
        }
        c::up_write(invalidate_lock);
        killed
    };
    // The kernel has marked the first page of the folio.
    // SAFETY: By the safety requirements.
    unsafe {
        if !is_poisoned(head) {
            mark_page(head, false);
        }
        mark_page(pfn, true);
        c::iput(inode);
    }
    to_result(killed)
}
