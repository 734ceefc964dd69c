// SPDX-License-Identifier: GPL-2.0

//! Files without faults: what is unmapped stays unmapped.

use core::sync::atomic::Ordering;

use crate::{
    abstractions::{
        fs::dax::Mark,
        mm::folio::Folio,
        sync::rw_semaphore::WriteGuard, //
    },
    bindings::kernel as c, //
};

use super::{
    mapped_inode::{
        MappedFile,
        PAGE, //
    },
    ownership::OwnershipWriteGuard, //
};

/// A mapped file in which no fault is running or can begin.
///
/// # Invariants
///
/// Either the `invalidate_lock` of the DAX page cache is held exclusively, or no file of the inode
/// is open any more.
pub(super) struct NoFaults<'a> {
    file: &'a MappedFile,
    _lock: Option<WriteGuard<'a>>,
}

impl<'a> NoFaults<'a> {
    /// Waits for running faults, and blocks new ones.
    pub(super) fn lock(file: &'a MappedFile) -> Self {
        // INVARIANT: `invalidate_lock` is held exclusively.
        Self {
            file,
            _lock: Some(file.mapping().invalidate_lock().write()),
        }
    }

    /// Needs no lock.
    ///
    /// # Safety
    ///
    /// The inode of `file` must be being evicted, or be gone.
    pub(super) unsafe fn of_evicted(file: &'a MappedFile) -> Self {
        // INVARIANT: No file of an evicted inode is open.
        Self { file, _lock: None }
    }

    pub(super) fn file(&self) -> &'a MappedFile {
        self.file
    }

    /// Unmaps bytes `start` to `end`. Returns the first folio in the range that is in use by direct
    /// I/O or a pipe, and the range before it: all if there is none.
    pub(super) fn unmap(
        &self,
        start: c::loff_t,
        end: c::loff_t,
    ) -> (IdleRange<'_>, Option<BusyFolio>) {
        // SAFETY: Only the owner of a `NoFaults` removes entries. The memory map of a device stays
        // as long as there is an entry for it: unbinding the device waits until there is none.
        let busy = unsafe { self.file.mapping().busy_folio(start, end) };
        let busy = busy.map(|folio| BusyFolio {
            first: folio.index(),
            pages: folio.nr_pages(),
            pfn: folio.first_pfn(),
        });
        let end = busy
            .as_ref()
            .map_or(end, |busy| (busy.first * PAGE) as c::loff_t - 1);

        // INVARIANT: The range was unmapped above, and none of it is in use.
        let idle = IdleRange {
            no_faults: self,
            start,
            end,
        };
        (idle, busy)
    }
}

/// A folio of a file that is in use.
pub(super) struct BusyFolio {
    /// The first page of the file that the folio backs, and the number of pages.
    pub(super) first: u64,
    pub(super) pages: u64,
    /// The first page frame.
    pub(super) pfn: u64,
}

/// A range of bytes of a file that is neither mapped nor in use.
///
/// # Invariants
///
/// The range stays unmapped and unused as long as `no_faults`.
pub(super) struct IdleRange<'a> {
    no_faults: &'a NoFaults<'a>,
    pub(super) start: c::loff_t,
    pub(super) end: c::loff_t,
}

impl<'a> IdleRange<'a> {
    pub(super) fn no_faults(&self) -> &'a NoFaults<'a> {
        self.no_faults
    }

    /// Deletes the entries of the range from the DAX page cache, and clears the cookies in the
    /// folios: `private` of pages that become a large folio must be 0.
    pub(super) fn disassociate(self) {
        let (first, last) = (self.start as u64 / PAGE, self.end as u64 / PAGE);
        let file = self.no_faults.file;
        let mapping = file.mapping();
        let _ownership = OwnershipWriteGuard::new(file.sbi());

        mapping.for_each(first, last, Mark::Present, |index, entry| {
            if let Some(pfn) = entry.pfn_of(index) {
                // SAFETY: Frame `pfn` is of an entry, and has a memory map.
                unsafe { Folio::of(pfn) }.set_cookie(0, Ordering::Relaxed);
            }
        });
        // SAFETY: By the type invariants the range is neither mapped nor in use.
        unsafe { mapping.delete_range(self.start, self.end) };
    }
}
