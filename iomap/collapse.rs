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
    abstractions::mm::fault::VmFault,
    bindings::kernel as c,
    stats::Counter, //
};

use super::{
    huge::{
        pmd_fits,
        PMD_ORDER,
        PMD_PAGE_MASK, //
    },
    mapped_inode::{
        MappedFile,
        MappedInode,
        PAGE,
        PMD_SIZE, //
    },
    no_faults::NoFaults,
    writeback::flush_range, //
};

/// After a fault that fell back to pages: whether it is worth trying again, because its range could
/// be mapped as one and has been made ready for that.
///
/// The caller does not hold the `invalidate_lock` of the page cache.
#[cold]
pub(super) fn collapse(
    vmf: &VmFault,
    order: ffi::c_uint,
    inode: MappedInode<'_>,
    file: &MappedFile,
) -> bool {
    let first = vmf.pgoff() & !PMD_PAGE_MASK;

    order == PMD_ORDER
        && pmd_fits(vmf)
        && (first | PMD_PAGE_MASK) < inode.inode.size().div_ceil(PAGE)
        && match file.mapping().first_entry(first, first | PMD_PAGE_MASK) {
            Some(entry) if entry.is_huge() => entry.pfn_of(first).is_some(),
            Some(_) => one_piece(file, first * PAGE, inode.inode.size())
                .is_some_and(|pfn| drop_entries(file, first * PAGE, pfn)),
            None => false,
        }
}

/// The first page frame of 2 MiB of a file, if they are in one aligned piece, and none of it is
/// another file's.
fn one_piece(file: &MappedFile, pos: u64, i_size: u64) -> Option<u64> {
    let mapping = file.header().resolve(pos, PMD_SIZE, i_size).ok()?;
    let device = mapping.device?;
    let pages = PMD_SIZE / PAGE;
    let pfn = device.with_frames(mapping.addr, pages, |frames| {
        // SAFETY: `frames` are used inside `with_frames()`.
        let ours = unsafe { frames.are_vacant_but_for(file.mapping().as_raw()) };
        frames.pfn.filter(|pfn| ours && pfn % pages == 0)
    })??;

    (mapping.length >= PMD_SIZE && are_at(file, pos, pfn)).then_some(pfn)
}

/// Whether those pages of 2 MiB that are mapped already are where the program says that all of them
/// are, from frame `pfn` on: giving them up must not let it change its mind.
fn are_at(file: &MappedFile, pos: u64, pfn: u64) -> bool {
    (0..PMD_SIZE / PAGE).all(|page| {
        let index = pos / PAGE + page;
        let entry = file.mapping().entry(index);
        let there = entry.and_then(|entry| entry.pfn_of(index));
        there.is_none_or(|there| there == pfn + page)
    })
}

/// Drops the entries of 2 MiB of a file, which are from frame `pfn` on, unless the
/// pages are pinned. A page that another fault has mapped elsewhere, since the program was
/// asked, stays.
///
/// What was stored through them is flushed first: the entries know that it has to be.
fn drop_entries(file: &MappedFile, pos: u64, pfn: u64) -> bool {
    let (start, end) = (pos as c::loff_t, (pos + PMD_SIZE - 1) as c::loff_t);
    // Nothing is mapped again once it has been unmapped.
    let no_faults = NoFaults::lock(file);

    // Another fault may have been here.
    let first = file.mapping().first_entry(pos / PAGE, pos / PAGE);
    if first.is_some_and(|entry| entry.is_huge()) {
        return true;
    }
    if !are_at(file, pos, pfn) {
        return false;
    }
    let (idle, None) = no_faults.unmap(start, end) else {
        return false;
    };
    if flush_range(&no_faults, start, end).is_err() {
        return false;
    }
    idle.disassociate();
    file.sbi().stats.inc(Counter::Collapses);
    true
}
