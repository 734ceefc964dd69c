// SPDX-License-Identifier: GPL-2.0

//! Validities: numbers that tell whether the cookie of a folio counts for a file (`fault_fast`).

use core::sync::atomic::AtomicU64;

use crate::{
    bindings::kernel as c,
    lockless, //
};

/// Returns a number that no cookie has had since boot. Validities are even, and the clock advances
/// faster than they are requested, so they are unique even if the module is loaded again.
pub(super) fn new_validity() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);

    // SAFETY: `ktime_get()` may be called in any context.
    lockless::next_validity(&LAST, unsafe { c::ktime_get() } as u64)
}
