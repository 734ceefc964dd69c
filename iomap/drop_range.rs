// SPDX-License-Identifier: GPL-2.0

//! Takes memory of a file out of use, so that it can be given to another one.

use crate::bindings::kernel as c;

use super::{
    mapped_inode::{
        PAGE,
        PMD_SIZE, //
    },
    no_faults::NoFaults,
    writeback::flush_range, //
};

/// Takes pages from byte `start` to `end` of a file out of the page cache: unmapped and flushed.
/// Entries go whole. Returns false if some of it is in use by direct I/O or a pipe. What was
/// dropped comes back by faults.
///
/// The user of a page may need faults to finish, so the caller drops the lock before it tries
/// again.
pub(super) fn drop_range(no_faults: &NoFaults<'_>, start: u64, end: u64) -> bool {
    let mapping = no_faults.file().mapping();
    let is_huge = |pos: u64| {
        mapping
            .entry(pos / PAGE)
            .is_some_and(|entry| entry.is_huge())
    };
    let start = match is_huge(start) {
        true => start - start % PMD_SIZE,
        false => start,
    };
    let last = match is_huge(end - 1) {
        true => (end - 1) | (PMD_SIZE - 1),
        false => end - 1,
    };
    let last = c::loff_t::try_from(last).unwrap_or(c::loff_t::MAX);

    let (idle, busy) = no_faults.unmap(start as c::loff_t, last);
    if busy.is_some() {
        return false;
    }
    // An error has been recorded.
    let _ = flush_range(no_faults, start as c::loff_t, last);
    idle.disassociate();
    true
}
