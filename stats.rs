// SPDX-License-Identifier: GPL-2.0

//! Counters of a mount, for users.
//!
//! They are per CPU, so counting writes no cache line that another CPU writes, and takes no lock
//! and no atomic operation. Counting goes on while a sum is read: the sum is exact when the mount
//! is idle.
//!
//! A mount is attached under a spin lock, where per-CPU memory cannot be allocated reliably. So it
//! is allocated later, before the first file can be opened, by a task that may sleep.

use kernel::{
    fmt,
    prelude::*,
    sync::SetOnce,
    time::{
        Delta,
        NSEC_PER_MSEC,
        NSEC_PER_SEC,
        NSEC_PER_USEC, //
    }, //
};

use crate::abstractions::percpu::{
    Address,
    Counters, //
};

/// What is counted, in the order in which it is shown.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    /// PMD faults that succeeded.
    HugeFaults,
    /// PTE faults that succeeded.
    PageFaults,
    /// Faults that ended with a signal.
    FailedFaults,
    /// Aligned ranges of 2 MiB that had PTE entries and can be mapped by a PMD entry again.
    Collapses,
    /// Bytes that read(2) and its kin copied.
    ReadBytes,
    /// Bytes that write(2) and its kin copied.
    WrittenBytes,
    /// GET_FMAP requests.
    GetFmap,
    /// Maps that came with the answer to OPEN.
    MapsInOpen,
    /// GET_DAXDEV requests.
    GetDaxdev,
    /// Maps that `dax_fmap_parse()` refused.
    RefusedMaps,
    /// Opens that failed for another reason than a signal, refused maps included.
    FailedOpens,
    /// Answers of `iomap_begin()` that were errors, or not valid (`MappingError`).
    RefusedMappings,
    /// Nanoseconds from sending GET_FMAP to its answer, error replies included.
    GetFmapTime,
    /// GET_FMAP requests that were answered within the first time of [`WITHIN`]. The counters of
    /// the other times follow.
    GetFmapWithin,
}

/// The times by which answered GET_FMAP requests are counted, in nanoseconds.
const WITHIN: [i64; 5] = [
    100 * NSEC_PER_USEC,
    NSEC_PER_MSEC,
    10 * NSEC_PER_MSEC,
    100 * NSEC_PER_MSEC,
    NSEC_PER_SEC,
];

/// The names that users see, by [`Counter`].
const NAMES: [&str; 18] = [
    "faults_2m",
    "faults_4k",
    "faults_failed",
    "collapses",
    "read_bytes",
    "written_bytes",
    "get_fmap",
    "maps_in_open",
    "get_daxdev",
    "maps_refused",
    "opens_failed",
    "mappings_refused",
    "get_fmap_ns",
    "get_fmap_within_100us",
    "get_fmap_within_1ms",
    "get_fmap_within_10ms",
    "get_fmap_within_100ms",
    "get_fmap_within_1s",
];

const _: () = assert!(Counter::GetFmapWithin as usize + WITHIN.len() == NAMES.len());

/// The counters of a mount.
pub(crate) struct Stats(SetOnce<Counters<{ NAMES.len() }>>);

impl Stats {
    pub(crate) fn new() -> Self {
        Self(SetOnce::new())
    }

    /// Begins to count. May sleep. Called by one task at a time.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn start(&self) -> Result {
        if self.0.as_ref().is_none() {
            self.0.populate(Counters::new()?);
        }
        Ok(())
    }

    pub(crate) fn inc(&self, counter: Counter) {
        if let Some(counters) = self.0.as_ref() {
            counters.add(counter as usize, 1);
        }
    }

    /// Counts that GET_FMAP was answered after `time`.
    pub(crate) fn get_fmap_took(&self, time: Delta) {
        let (Some(counters), Ok(ns)) = (self.0.as_ref(), u64::try_from(time.as_nanos())) else {
            return;
        };
        counters.add(Counter::GetFmapTime as usize, ns);
        for (n, &within) in WITHIN.iter().enumerate() {
            if time.as_nanos() <= within {
                counters.add(Counter::GetFmapWithin as usize + n, 1);
            }
        }
    }

    /// Returns the address of the counters, for the fault path, or `None` if counting has not
    /// begun.
    ///
    /// # Safety
    ///
    /// The caller does not use the result longer than `self`.
    pub(crate) unsafe fn shortcut(&self) -> Option<Shortcut> {
        // INVARIANT: By the safety requirements.
        self.0.as_ref().map(|counters| Shortcut(counters.address()))
    }
}

/// The per-CPU address of the counters of a mount.
///
/// # Invariants
///
/// The mount's [`Stats`] exist as long as this is used ([`Stats::shortcut`]).
pub(crate) struct Shortcut(Address<{ NAMES.len() }>);

impl Shortcut {
    #[inline]
    pub(crate) fn add(&self, counter: Counter, number: u64) {
        // SAFETY: By the type invariants the counters exist.
        unsafe { self.0.add(counter as usize, number) }
    }
}

/// Writes ` name=sum` for each counter.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (counter, name) in NAMES.iter().enumerate() {
            let sum = self.0.as_ref().map_or(0, |counters| counters.sum(counter));
            write!(f, " {name}={sum}")?;
        }
        Ok(())
    }
}
