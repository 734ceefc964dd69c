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
//! - A page frame that is this file's stays so, and its folio tells for which place of the file, without
//!   a look into the page cache. If the program's answer leads to that frame, it may be mapped. Whoever
//!   marks a device or its memory as failed takes the lock exclusively afterwards: until then the frame
//!   has a memory map, and what was mapped is found.
//! - An entry that is marked dirty stays so unless somebody writes back, which takes the mark off once
//!   the page is write-protected everywhere. Whoever writes back says so, and waits until the faults
//!   that did not know are over ([`super::writeback`]). Meanwhile, and if the mark is not there, a write
//!   is left to DAX. A mark that was seen is noted in the folio, so that the next fault need not look into
//!   the page cache: as the number of times that the file has been written back (`epoch`), which is
//!   another one afterwards.
//! - A table of pages and 2 MiB do not meet: mapping 2 MiB over a table is a warning of the kernel. DAX
//!   excludes that by its lock of the entry, which this file does not take. Where an entry of a page
//!   exists, no fault maps 2 MiB; where it does not, and the mapping has room for 2 MiB, a fault of a
//!   page takes the lock exclusively ([`Fault::Alone`]). Only COW does not, as it looks before it puts a
//!   table anywhere.
//!
//! What does not fit goes to DAX, which finds out why.

use core::{
    ptr,
    sync::atomic::Ordering, //
};

use kernel::ffi;

use crate::bindings::kernel as c;

use super::{
    i_size,
    tenancy::Tenancy,
    upgrade::{
        has_room_for_huge,
        PMD_ORDER,
        WITHIN, //
    },
    Header,
    PAGE, //
};

/// What became of a fault.
pub(super) enum Fault {
    /// It is over, with this result.
    Done(c::vm_fault_t),
    /// It is DAX's.
    Hard,
    /// It is DAX's, with the lock held exclusively.
    Alone,
}

/// Maps what a fault of 2^`order` pages asks for, if that needs no more than the page tables.
///
/// # Safety
///
/// Called in a fault, of a page or of 2 MiB, of the mapped `inode` that `header` is of, with the
/// `invalidate_lock` of its page cache held shared.
#[inline]
pub(super) unsafe fn soft_fault(
    vmf: *mut c::vm_fault,
    order: ffi::c_uint,
    inode: *const c::inode,
    header: &Header,
) -> Fault {
    // SAFETY: By the safety requirements.
    unsafe {
        if order == PMD_ORDER {
            soft_huge_fault(vmf, inode, header)
        } else {
            soft_page_fault(vmf, inode, header)
        }
    }
}

/// # Safety
///
/// As [`soft_fault`].
#[inline]
unsafe fn soft_huge_fault(vmf: *mut c::vm_fault, inode: *const c::inode, header: &Header) -> Fault {
    // SAFETY: The fault's mapping is valid, and its table of 2 MiB entries is there.
    unsafe {
        let first = (*vmf).__bindgen_anon_1.pgoff as u64 & !WITHIN;
        let pmd = (*vmf).pmd.read_volatile();

        if !has_room_for_huge(vmf)
            || (first | WITHIN) >= i_size(inode).div_ceil(PAGE)
            || pmd.pmd != 0 && c::pmd_none(pmd) == 0 && c::pmd_trans_huge(pmd) == 0
        {
            return Fault::Hard;
        }
        let Some((_, tenancy)) = noted(inode, header, first, WITHIN + 1) else {
            return Fault::Hard;
        };
        let write = is_write(vmf);
        if !tenancy.is_huge()
            || tenancy.first() != first
            || write && !is_dirty(inode, header, &tenancy)
        {
            return Fault::Hard;
        }
        Fault::Done(while_in_use(tenancy, |folio| {
            c::vmf_insert_folio_pmd(vmf, folio, write)
        }))
    }
}

/// # Safety
///
/// As [`soft_fault`].
#[inline]
unsafe fn soft_page_fault(vmf: *mut c::vm_fault, inode: *const c::inode, header: &Header) -> Fault {
    const NOHUGEPAGE: ffi::c_ulong = c::VM_NOHUGEPAGE as ffi::c_ulong;

    // SAFETY: The fault's mapping is valid, and its table of 2 MiB entries is there.
    unsafe {
        let index = (*vmf).__bindgen_anon_1.pgoff as u64;
        let flags = (*(*vmf).__bindgen_anon_1.vma).__bindgen_anon_2.vm_flags;

        if !(*vmf).cow_page.is_null() {
            return Fault::Hard;
        }
        let noted = noted(inode, header, index, 1);
        let small = noted
            .as_ref()
            .is_some_and(|(_, tenancy)| !tenancy.is_huge());
        if !small && flags & NOHUGEPAGE == 0 && has_room_for_huge(vmf) {
            return Fault::Alone;
        }
        let Some((pfn, tenancy)) = noted else {
            return Fault::Hard;
        };
        let write = is_write(vmf);
        if c::pmd_trans_huge((*vmf).pmd.read_volatile()) != 0
            || write && !is_dirty(inode, header, &tenancy)
        {
            return Fault::Hard;
        }
        Fault::Done(while_in_use(tenancy, |_| {
            c::vmf_insert_page_mkwrite(vmf, c::fuse_dax_fmap_page(pfn as ffi::c_ulong), write)
        }))
    }
}

/// # Safety
///
/// Called in a fault.
#[inline]
unsafe fn is_write(vmf: *const c::vm_fault) -> bool {
    // SAFETY: By the safety requirements.
    unsafe { (*vmf).flags & c::fault_flag_FAULT_FLAG_WRITE != 0 }
}

/// The frame where `pages` pages from `index` on begin, if they are in one piece and this file has that
/// frame for this page already.
///
/// # Safety
///
/// As [`soft_fault`].
#[inline]
unsafe fn noted(
    inode: *const c::inode,
    header: &Header,
    index: u64,
    pages: u64,
) -> Option<(u64, Tenancy)> {
    // SAFETY: The inode is in use.
    let i_size = unsafe { i_size(inode) };
    let mapping = header.locate(index * PAGE, pages * PAGE, i_size).ok()?;
    if !mapping.sound || mapping.length < pages * PAGE {
        return None;
    }
    let pfn = mapping.device?.frame(mapping.addr)?;
    // SAFETY: The device has not failed, or at least nobody has got the lock since it has: its memory
    // map is there.
    let tenancy = unsafe { Tenancy::of(pfn) };
    // SAFETY: The inode is in use.
    let ours = unsafe { tenancy.is_of(&raw const (*inode).i_data, pfn, index) };
    ours.then_some((pfn, tenancy))
}

/// Whether a page that is mapped for writing now will be flushed.
///
/// # Safety
///
/// As [`soft_fault`]; the inode is the tenant.
#[inline]
unsafe fn is_dirty(inode: *const c::inode, header: &Header, tenancy: &Tenancy) -> bool {
    if header.writers_back.load(Ordering::Acquire) != 0 {
        return false;
    }
    let epoch = header.epoch.load(Ordering::Relaxed);
    // SAFETY: By the safety requirements. Whoever writes back from now on waits for the lock.
    unsafe { tenancy.note() == epoch || is_marked(inode, tenancy) && tenancy.set_note(epoch) }
}

/// Whether the entry in the page cache is marked dirty.
///
/// # Safety
///
/// As [`is_dirty`].
#[cold]
unsafe fn is_marked(inode: *const c::inode, tenancy: &Tenancy) -> bool {
    // SAFETY: By the safety requirements.
    unsafe {
        c::xa_get_mark(
            ptr::addr_of!((*inode).i_data.i_pages).cast_mut(),
            tenancy.first() as ffi::c_ulong,
            c::PAGECACHE_TAG_DIRTY,
        )
    }
}

/// A page that nobody maps has no references, and is not to be seen so by the memory manager.
///
/// # Safety
///
/// The folio is in the page cache of a file meanwhile.
#[inline]
unsafe fn while_in_use<T>(tenancy: Tenancy, map: impl FnOnce(*mut c::folio) -> T) -> T {
    // SAFETY: By the safety requirements.
    unsafe {
        c::folio_ref_inc(tenancy.folio());
        let mapped = map(tenancy.folio());
        c::folio_put(tenancy.folio());
        mapped
    }
}
