// SPDX-License-Identifier: GPL-2.0

//! Files in which nothing faults: what is taken away from one stays away.

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

/// A mapped file in which no fault is under way, nor begins.
///
/// # Invariants
///
/// Either the `invalidate_lock` of its DAX page cache is held exclusively, or no file of its inode
/// is open any more.
pub(super) struct NoFaults<'a> {
    file: &'a MappedFile,
    _lock: Option<WriteGuard<'a>>,
}

impl<'a> NoFaults<'a> {
    /// Waits for the faults that are under way, and holds off others.
    pub(super) fn lock(file: &'a MappedFile) -> Self {
        // INVARIANT: Locked here.
        Self {
            file,
            _lock: Some(file.mapping().invalidate_lock().write()),
        }
    }

    /// # Safety
    ///
    /// The inode is being evicted, or is gone.
    pub(super) unsafe fn of_evicted(file: &'a MappedFile) -> Self {
        // INVARIANT: By the safety requirements.
        Self { file, _lock: None }
    }

    pub(super) fn file(&self) -> &'a MappedFile {
        self.file
    }

    /// Unmaps bytes `start` to `end`. Returns the first folio of them that is in use by direct I/O
    /// or a pipe, and what is in front of it: all if there is none.
    pub(super) fn unmap(
        &self,
        start: c::loff_t,
        end: c::loff_t,
    ) -> (IdleRange<'_>, Option<BusyFolio>) {
        // SAFETY: Only a task that has the like of `self` removes entries. A device's memory map
        // stays as long as there is an entry of it: unbinding waits until there is none.
        let busy = unsafe { self.file.mapping().busy_folio(start, end) };
        let busy = busy.map(|folio| BusyFolio {
            first: folio.index(),
            pages: folio.nr_pages(),
            pfn: folio.first_pfn(),
        });
        let end = busy
            .as_ref()
            .map_or(end, |busy| (busy.first * PAGE) as c::loff_t - 1);

        // INVARIANT: Unmapped here, and none of it is in use.
        let idle = IdleRange {
            no_faults: self,
            start,
            end,
        };
        (idle, busy)
    }
}

/// Pages of a file that are in use.
pub(super) struct BusyFolio {
    /// The first page of the file, and how many there are.
    pub(super) first: u64,
    pub(super) pages: u64,
    /// The first page frame.
    pub(super) pfn: u64,
}

/// A range of bytes of a file, which is not mapped nor in use.
///
/// # Invariants
///
/// That is so as long as `no_faults`.
pub(super) struct IdleRange<'a> {
    no_faults: &'a NoFaults<'a>,
    pub(super) start: c::loff_t,
    pub(super) end: c::loff_t,
}

impl<'a> IdleRange<'a> {
    pub(super) fn no_faults(&self) -> &'a NoFaults<'a> {
        self.no_faults
    }

    /// Takes what is backed of it out of the DAX page cache, and what was noted in the folios out
    /// of them: pages that are put together to a folio have to be blank.
    pub(super) fn disassociate(self) {
        let (first, last) = (self.start as u64 / PAGE, self.end as u64 / PAGE);
        let file = self.no_faults.file;
        let mapping = file.mapping();
        let _moving = OwnershipWriteGuard::new(file.sbi());

        mapping.for_each(first, last, Mark::Present, |index, entry| {
            if let Some(pfn) = entry.pfn_of(index) {
                // SAFETY: The frame of an entry has a memory map.
                unsafe { Folio::of(pfn) }.set_cookie(0, Ordering::Relaxed);
            }
        });
        // SAFETY: By the type invariants the range is not mapped nor in use.
        unsafe { mapping.delete_range(self.start, self.end) };
    }
}
