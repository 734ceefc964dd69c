// SPDX-License-Identifier: GPL-2.0

//! Collapse: replaces the PTE entries of an aligned 2 MiB by a PMD entry.
//!
//! DAX keeps entries for the memory that it has mapped. While one page of an aligned 2 MiB has a
//! PTE entry, PMD faults there fall back to PTE faults, in every task, until the inode is evicted;
//! one small or misaligned VMA is enough for that. The entries only cache what the map says, and
//! the map does not change. So when a PMD fault has fallen back because of PTE entries, they are
//! dropped and the fault is retried.
//!
//! This happens once per range: a later PTE fault keeps the PMD entry, and maps its page from it.
//! Other tasks lose their page tables there, and fault again.

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

/// Collapses the range of a PMD fault that fell back, if one PMD entry can map it. Returns true if
/// the fault is worth a retry.
///
/// The caller does not hold the `invalidate_lock` of the DAX page cache.
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

/// Returns the first page frame of 2 MiB of a file, if the program maps them to one aligned piece
/// of memory, and no other file owns any of it.
fn one_piece(file: &MappedFile, pos: u64, i_size: u64) -> Option<u64> {
    let mapping = file.header().resolve(pos, PMD_SIZE, i_size).ok()?;
    let device = mapping.device?;
    let pages = PMD_SIZE / PAGE;
    let pfn = device.with_frames(mapping.addr, pages, |frames| {
        // SAFETY: `frames` are used inside `with_frames()`.
        let is_owner = unsafe { frames.are_vacant_but_for(file.mapping().as_raw()) };
        frames.pfn.filter(|pfn| is_owner && pfn % pages == 0)
    })??;

    (mapping.length >= PMD_SIZE && are_at(file, pos, pfn)).then_some(pfn)
}

/// Returns true if each page of these 2 MiB that has an entry is where the program says now, from
/// frame `pfn` on: a collapse must not let the program move a page.
fn are_at(file: &MappedFile, pos: u64, pfn: u64) -> bool {
    (0..PMD_SIZE / PAGE).all(|page| {
        let index = pos / PAGE + page;
        let entry = file.mapping().entry(index);
        let there = entry.and_then(|entry| entry.pfn_of(index));
        there.is_none_or(|there| there == pfn + page)
    })
}

/// Drops the entries of 2 MiB of a file, which begin at frame `pfn`, unless pages are pinned or
/// another fault has mapped one elsewhere since the program was called.
///
/// Flushes the range first, as the dirty marks go away with the entries.
fn drop_entries(file: &MappedFile, pos: u64, pfn: u64) -> bool {
    let (start, end) = (pos as c::loff_t, (pos + PMD_SIZE - 1) as c::loff_t);
    // With this held, nothing is mapped again after the unmap.
    let no_faults = NoFaults::lock(file);

    // Another task may have collapsed the range.
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
