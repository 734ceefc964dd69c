// SPDX-License-Identifier: GPL-2.0

//! Soft faults: memory that DAX has noted for this place of the file already, and that only has to be
//! put into the page tables once more.
//!
//! That is nearly every fault of a long-lived file, and all that a mapping in a new process causes. The
//! program is asked and its answer judged as in any fault. What is left out is what `dax_iomap_fault()`
//! does for files whose map may change meanwhile: it locks the entry in the page cache, asks the driver
//! for an address, stores the entry again, asks the file system a second time, and unlocks the entry.
//!
//! Here nobody changes the entry. What removes one has the `invalidate_lock` exclusively (`upgrade`,
//! `vacating`), and DAX itself replaces only what is not backed by memory. So under the shared lock:
//!
//! - The page frame of an entry stays what it is, and stays this file's. If it is the frame that the
//!   program's answer leads to, it may be mapped. Whoever marks a device or its memory as failed takes
//!   the lock exclusively afterwards, and so finds what was mapped before.
//! - An entry that is marked dirty stays so unless somebody writes back, which takes the mark off once
//!   the page is write-protected everywhere. Whoever writes back says so, and waits until the faults
//!   that did not know are over ([`super::writeback`]). Meanwhile, and if the mark is not there, a write
//!   is left to DAX.
//! - A table of pages and 2 MiB do not meet: mapping 2 MiB over a table is a warning of the kernel. DAX
//!   excludes that by its lock of the entry, which this file does not take. Where an entry of a page
//!   exists, no fault maps 2 MiB; where it does not, and the mapping has room for 2 MiB, a fault of a
//!   page takes the lock exclusively ([`may_meet_huge`]). Only COW does not, as it looks before it puts
//!   a table anywhere.
//!
//! What does not fit goes to DAX, which finds out why.

use core::sync::atomic::Ordering;

use kernel::ffi;

use crate::bindings::kernel as c;

use super::{
    i_size,
    tenancy::{
        DaxEntry,
        Marked, //
    },
    upgrade::{
        has_room_for_huge,
        PMD_ORDER,
        WITHIN, //
    },
    Header,
    PAGE, //
};

/// Maps what a fault of 2^`order` pages asks for, if that needs no more than the page tables.
///
/// # Safety
///
/// Called in a fault of a page or of 2 MiB of the file that `header` is of, with the `invalidate_lock` of its page cache held
/// shared, and not for a page that [`may_meet_huge`].
#[inline]
pub(super) unsafe fn soft_fault(
    vmf: *mut c::vm_fault,
    order: ffi::c_uint,
    inode: *const c::inode,
    header: &Header,
    entry: Marked,
) -> Option<c::vm_fault_t> {
    // SAFETY: The fault's mapping is valid, and its table of 2 MiB entries is there.
    let (pgoff, write, shared, cow, pmd) = unsafe {
        let vma = (*vmf).__bindgen_anon_1.vma;
        (
            (*vmf).__bindgen_anon_1.pgoff as u64,
            (*vmf).flags & c::fault_flag_FAULT_FLAG_WRITE != 0,
            (*vma).__bindgen_anon_2.vm_flags & c::VM_SHARED as ffi::c_ulong != 0,
            !(*vmf).cow_page.is_null(),
            (*vmf).pmd.read_volatile(),
        )
    };
    let huge = order == PMD_ORDER;
    let (first, last) = if huge {
        (pgoff & !WITHIN, pgoff | WITHIN)
    } else {
        (pgoff, pgoff)
    };

    let known = entry.entry.filter(|entry| !entry.is_locked())?;
    let pfn = known.pfn_of(first)?;
    if cow || write && (!entry.dirty || !shared || header.is_being_written_back()) {
        return None;
    }
    // SAFETY: Looks at a value.
    let (none, leaf) = unsafe { (c::pmd_none(pmd) != 0, c::pmd_trans_huge(pmd) != 0) };
    if huge {
        // SAFETY: The fault's mapping is valid, and the inode in use.
        let room = unsafe { has_room_for_huge(vmf) && last < i_size(inode).div_ceil(PAGE) };
        if !known.is_huge() || !room || !none && !leaf {
            return None;
        }
    } else if leaf {
        return None;
    }

    // SAFETY: The inode is in use.
    let mapping = header
        .resolve(first * PAGE, (last - first + 1) * PAGE, unsafe {
            i_size(inode)
        })
        .ok()?;
    let device = mapping.device?;
    if mapping.length < (last - first + 1) * PAGE || device.frame(mapping.addr) != Some(pfn) {
        return None;
    }
    // SAFETY: The frame is this file's as long as the lock is held, and its folio as large as the
    // entry says. A page that nobody maps has no references; the extra one is DAX's way to have it in
    // use while it is mapped.
    Some(unsafe {
        let folio = c::pfn_folio(pfn as ffi::c_ulong);

        c::folio_ref_inc(folio);
        let ret = if huge {
            c::vmf_insert_folio_pmd(vmf, folio, write)
        } else {
            c::vmf_insert_page_mkwrite(vmf, c::fuse_dax_fmap_page(pfn as ffi::c_ulong), write)
        };
        c::folio_put(folio);
        ret
    })
}

/// Whether a fault of one page has to be alone, because others might map 2 MiB around it.
///
/// # Safety
///
/// As [`soft_fault`].
#[inline]
pub(super) unsafe fn may_meet_huge(vmf: *const c::vm_fault, entry: Option<DaxEntry>) -> bool {
    const NOHUGEPAGE: ffi::c_ulong = c::VM_NOHUGEPAGE as ffi::c_ulong;

    if entry.is_some_and(|entry| !entry.is_huge() && entry.is_backed()) {
        return false;
    }
    // SAFETY: The fault's mapping is valid.
    unsafe {
        let vma = (*vmf).__bindgen_anon_1.vma;

        (*vmf).cow_page.is_null()
            && (*vma).__bindgen_anon_2.vm_flags & NOHUGEPAGE == 0
            && has_room_for_huge(vmf)
    }
}

impl Header {
    /// Whether somebody is about to take marks off dirty entries.
    #[inline]
    fn is_being_written_back(&self) -> bool {
        self.writers_back.load(Ordering::Acquire) != 0
    }
}
