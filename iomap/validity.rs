// SPDX-License-Identifier: GPL-2.0

//! Stamps: what the folios of a file are noted with (`fault_fast`).

use core::sync::atomic::AtomicU64;

use crate::{
    bindings::kernel as c,
    lockless, //
};

/// A number that is in no folio's note, and never was since the machine was started: stamps are
/// even, and the clock is faster than anybody asks for them, also from one load of the module to
/// the next.
pub(super) fn new_validity() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);

    // SAFETY: `ktime_get()` may be called anywhere.
    lockless::next_validity(&LAST, unsafe { c::ktime_get() } as u64)
}
