// SPDX-License-Identifier: GPL-2.0

//! Breaking layouts: when a file is evicted, when its inode goes bad, and when a device is removed.
//!
//! A range is unmapped, flushed, and then removed from the DAX page cache. Only idle pages can be
//! removed; direct I/O or a pipe may have pinned some, for an unlimited time. Only device removal
//! waits for that (`device_failure`).

use crate::{
    bindings::kernel as c,
    daxdev::Device, //
};

use super::{
    mapped_inode::{
        MappedFile,
        PAGE, //
    },
    no_faults::{
        IdleRange,
        NoFaults, //
    },
    ownership::mark_dirty,
    writeback::flush_range, //
};

/// Breaks the layout of a mapped file: unmaps it, and drops the entries of pages that are idle.
/// Returns true if no entry is left; with `only`, if none of that device is.
pub(super) fn try_break_layout(no_faults: &NoFaults<'_>, only: Option<&Device>) -> bool {
    let file = no_faults.file();
    let (mut start, mut done) = (0, true);
    // If an earlier call found pages in use, it dropped all others.
    let was_busy = file.was_busy();

    loop {
        // This unmaps everything from `start` on; pages in use after that are pinned.
        let (idle, busy) = no_faults.unmap(start, c::loff_t::MAX);
        drop_range(idle, was_busy);
        let Some(busy) = busy else {
            return done;
        };
        done &= only.is_some_and(|device| !device.has_frame(busy.pfn));
        let first = busy.first * PAGE;
        let last = first + (busy.pages * PAGE - 1);
        file.mark_busy();
        // What was stored so far is flushed now, and not only once the page is idle.
        let _ = flush_range(no_faults, first as c::loff_t, last as c::loff_t);
        // Behind the last page of the largest file there is no offset.
        let Some(next) = (last as c::loff_t).checked_add(1) else {
            return done;
        };
        start = next;
    }
}

fn drop_range(idle: IdleRange<'_>, was_busy: bool) {
    let (start, end) = (idle.start, idle.end);
    if start >= end {
        return;
    }
    let mapping = idle.no_faults().file().mapping();
    let (first, last) = (start as u64 / PAGE, end as u64 / PAGE);
    if mapping.first_entry(first, last).is_none() {
        return;
    }
    if was_busy {
        // A user of a pinned page may have stored to it until now.
        mark_dirty(mapping, first, last);
    }
    // A writeback error has been recorded.
    let _ = flush_range(idle.no_faults(), start, end);
    idle.disassociate();
}

/// Marks all entries of a file dirty, as users of pinned pages may have stored to them until now.
pub(super) fn mark_all_dirty(file: &MappedFile) {
    let _no_faults = NoFaults::lock(file);

    mark_dirty(file.mapping(), 0, c::loff_t::MAX as u64 / PAGE);
}
