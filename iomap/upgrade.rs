// SPDX-License-Identifier: GPL-2.0

//! From pages back to 2 MiB.
//!
//! DAX keeps an entry for what it has mapped, and prefers small ones: while one page of an aligned
//! 2 MiB has an entry, a huge fault there falls back to pages, for every task, until the inode is
//! evicted. One small or misaligned mapping would be enough for that. Entries are only DAX's notes,
//! though: a map that says where 2 MiB are in one piece says so still. So the entries of such a
//! range are dropped when a huge fault has fallen back because of them, and it is tried again.
//!
//! That happens once: a small fault leaves a huge entry as it is, and maps its page out of it.
//! Tables of pages that other tasks have there are taken down, and come back as they touch them.

use kernel::ffi;

use crate::{
    bindings::kernel as c,
    stats::Counter, //
};

use super::{
    header,
    i_size,
    tenancy::{
        DaxEntry,
        MovingIn, //
    },
    writeback::flush_range,
    Header,
    PAGE,
    PMD_SIZE, //
};

pub(super) const PMD_ORDER: ffi::c_uint = (PMD_SIZE / PAGE).trailing_zeros();
/// What is below an aligned 2 MiB in a page number.
pub(super) const WITHIN: u64 = PMD_SIZE / PAGE - 1;

/// After a fault that fell back to pages: whether it is worth trying again, because its range could
/// be mapped as one and has been made ready for that.
///
/// # Safety
///
/// Called in a fault of a mapped file, without the `invalidate_lock` of its page cache.
#[cold]
pub(super) unsafe fn upgrade(vmf: *mut c::vm_fault, order: ffi::c_uint) -> bool {
    // SAFETY: The fault's mapping and its open file are valid, and a mapped file's inode stays so.
    unsafe {
        let inode = (*(*(*vmf).__bindgen_anon_1.vma).vm_file).f_inode;
        let header = header(inode);
        let first = (*vmf).__bindgen_anon_1.pgoff as u64 & !WITHIN;

        order == PMD_ORDER
            && has_room_for_huge(vmf)
            && (first | WITHIN) < i_size(inode).div_ceil(PAGE)
            && match DaxEntry::first(header.dax_mapping(), first, first | WITHIN) {
                Some(entry) if entry.is_huge() => entry.pfn_of(first).is_some(),
                Some(_) => one_piece(header, first * PAGE, i_size(inode))
                    .is_some_and(|pfn| drop_entries(header, first * PAGE, pfn)),
                None => false,
            }
    }
}

/// Whether a mapping can have an aligned 2 MiB around a fault, as DAX sees it.
///
/// # Safety
///
/// Called in a fault.
#[inline]
pub(super) unsafe fn has_room_for_huge(vmf: *const c::vm_fault) -> bool {
    // SAFETY: By the safety requirements the fault's mapping is valid.
    let (pgoff, address, write, start, end, shared) = unsafe {
        let vma = (*vmf).__bindgen_anon_1.vma;
        (
            (*vmf).__bindgen_anon_1.pgoff as u64,
            (*vmf).__bindgen_anon_1.address as u64,
            (*vmf).flags & c::fault_flag_FAULT_FLAG_WRITE != 0,
            (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start as u64,
            (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_end as u64,
            (*vma).__bindgen_anon_2.vm_flags & c::VM_SHARED as ffi::c_ulong != 0,
        )
    };
    let huge = address & !(PMD_SIZE - 1);

    pgoff & WITHIN == address / PAGE & WITHIN
        && (shared || !write)
        && huge >= start
        && end - huge >= PMD_SIZE
}

/// The first page frame of 2 MiB of a file, if they are in one aligned piece, and none of it is
/// another file's.
///
/// # Safety
///
/// The file is mapped, and its inode in use.
unsafe fn one_piece(header: &Header, pos: u64, i_size: u64) -> Option<u64> {
    let mapping_of_file = header.dax_mapping();
    let mapping = header.resolve(pos, PMD_SIZE, i_size).ok()?;
    let device = mapping.device?;
    let pages = PMD_SIZE / PAGE;
    let pfn = device.with_frames(mapping.addr, pages, |frames| {
        // SAFETY: We are inside, and the page cache is that of a mapped file.
        let ours = unsafe { frames.are_vacant_but_for(mapping_of_file) };
        frames.pfn.filter(|pfn| ours && pfn % pages == 0)
    })??;
    // SAFETY: The file is mapped, and its inode in use, by the safety requirements.
    (mapping.length >= PMD_SIZE && unsafe { are_at(header, pos, pfn) }).then_some(pfn)
}

/// Whether those pages of 2 MiB that are mapped already are where the program says that all of them
/// are, from frame `pfn` on: giving them up must not let it change its mind.
///
/// # Safety
///
/// The file is mapped, and its inode in use.
unsafe fn are_at(header: &Header, pos: u64, pfn: u64) -> bool {
    (0..PMD_SIZE / PAGE).all(|page| {
        let index = pos / PAGE + page;
        // SAFETY: The file is mapped, by the safety requirements.
        let entry = unsafe { DaxEntry::at(header.dax_mapping(), index) };
        let there = entry.and_then(|entry| entry.pfn_of(index));
        there.is_none_or(|there| there == pfn + page)
    })
}

/// Drops the entries of 2 MiB of a file, which are from frame `pfn` on, unless the
/// pages are pinned. A page that another fault has mapped elsewhere, since the program was
/// asked, stays.
///
/// What was stored through them is flushed first: the entries know that it has to be.
///
/// # Safety
///
/// As [`one_piece`], and without the `invalidate_lock` of the page cache.
unsafe fn drop_entries(header: &Header, pos: u64, pfn: u64) -> bool {
    let (start, end) = (pos as c::loff_t, (pos + PMD_SIZE - 1) as c::loff_t);

    // SAFETY: By the safety requirements. With the lock no fault is under way, so nothing is mapped
    // again once it has been unmapped, which `dax_layout_busy_page_range()` begins with.
    unsafe {
        let mapping = header.dax_mapping();
        let _no_faults = header.invalidate_lock().write();
        // Another fault may have been here.
        let already =
            DaxEntry::first(mapping, pos / PAGE, pos / PAGE).is_some_and(DaxEntry::is_huge);
        let dropped = !already
            && are_at(header, pos, pfn)
            && c::dax_layout_busy_page_range(mapping, start, end).is_null()
            && flush_range(header, start, end).is_ok();
        if dropped {
            MovingIn::new(header.mount()).move_out(header, start, end);
            header.mount().stats.inc(Counter::Upgrades);
        }
        already || dropped
    }
}
