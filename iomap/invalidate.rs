// SPDX-License-Identifier: GPL-2.0

//! Giving memory up: when a file is evicted or its inode goes bad, when its device goes away, when
//! the memory has failed.
//!
//! What is given up is unmapped first, flushed, and then taken out of the DAX page cache. Only
//! pages that are idle can be taken out; direct I/O or a pipe may still have some of them, and
//! there is no bound for how long. Only unbinding a device waits for that (`device_failure`).

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

/// Unmaps a mapped file and gives up what is idle of its memory. Returns whether nothing is left;
/// if `only` is given, nothing of that device.
pub(super) fn try_break_layout(no_faults: &NoFaults<'_>, only: Option<&Device>) -> bool {
    let file = no_faults.file();
    let (mut start, mut done) = (0, true);
    // What an earlier call has found in use, for it gave up all else.
    let was_busy = file.was_busy();

    loop {
        // This unmaps everything from `start` on; what is left then are references to pages.
        let (idle, busy) = no_faults.unmap(start, c::loff_t::MAX);
        drop_range(idle, was_busy);
        let Some(busy) = busy else {
            return done;
        };
        done &= only.is_some_and(|device| !device.has_frame(busy.pfn));
        let first = busy.first * PAGE;
        let end = ((busy.first + busy.pages) * PAGE) as c::loff_t;
        file.mark_busy();
        // What was stored until now is not to wait until the page is idle.
        let _ = flush_range(no_faults, first as c::loff_t, end - 1);
        start = end;
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
        // Who had a page of it may have stored there until now.
        mark_dirty(mapping, first, last);
    }
    // An error of writeback has been recorded.
    let _ = flush_range(idle.no_faults(), start, end);
    idle.disassociate();
}

/// Marks all that a file has as dirty: who had a page of it in use may have stored there, however,
/// until now.
pub(super) fn mark_all_dirty(file: &MappedFile) {
    let _no_faults = NoFaults::lock(file);

    mark_dirty(file.mapping(), 0, c::loff_t::MAX as u64 / PAGE);
}
