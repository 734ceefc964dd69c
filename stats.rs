// SPDX-License-Identifier: GPL-2.0

//! Counters of mounts, devices and files, for users.
//!
//! Those of a mount and of a device are per CPU, so counting writes no cache line that another CPU
//! writes, and takes no lock and no atomic operation. Counting goes on while a sum is read: the sum
//! is exact when the mount is idle.
//!
//! A mount is attached under a spin lock, where per-CPU memory cannot be allocated reliably. So it
//! is allocated later, before the first file can be opened, by a task that may sleep.
//!
//! A file has no room for each CPU, as there may be millions: see [`Tally`].

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

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

    /// Counts one for the mount, and one for a device of it.
    #[inline]
    pub(crate) fn inc_with(&self, counter: Counter, device: &DeviceStats, other: DeviceCounter) {
        let address = device.0.address();

        // SAFETY: By the type invariants the counters exist, and those of `device` are borrowed.
        unsafe { self.0.inc_both(counter as usize, address, other as usize) }
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

/// What is counted of a device, in the order in which it is shown.
#[derive(Clone, Copy)]
pub(crate) enum DeviceCounter {
    /// PMD faults that have mapped memory of it.
    HugeFaults,
    /// PTE faults that have mapped memory of it, or copied from it (COW).
    PageFaults,
    /// Bytes that read(2) and its kin copied from it.
    ReadBytes,
    /// Bytes that write(2) and its kin copied to it.
    WrittenBytes,
}

/// The names that users see, by [`DeviceCounter`].
const DEVICE_NAMES: [&str; 4] = ["faults_2m", "faults_4k", "read_bytes", "written_bytes"];

const _: () = assert!(DeviceCounter::WrittenBytes as usize + 1 == DEVICE_NAMES.len());

/// The counters of a device of a mount.
pub(crate) struct DeviceStats(Counters<{ DEVICE_NAMES.len() }>);

impl DeviceStats {
    /// Begins to count. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        Counters::new().map(Self)
    }

    #[inline]
    pub(crate) fn add(&self, counter: DeviceCounter, number: u64) {
        self.0.add(counter as usize, number);
    }

    /// Returns the address of the counters as a number other than 0, for
    /// [`DeviceShortcut::from_raw`].
    #[inline]
    pub(crate) fn as_raw(&self) -> u64 {
        self.0.address().into_raw() as u64
    }
}

/// Writes ` name=sum` for each counter.
impl fmt::Display for DeviceStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (counter, name) in DEVICE_NAMES.iter().enumerate() {
            write!(f, " {name}={}", self.0.sum(counter))?;
        }
        Ok(())
    }
}

/// The per-CPU address of the counters of a device.
///
/// # Invariants
///
/// The device's [`DeviceStats`] exist as long as this is used.
pub(crate) struct DeviceShortcut(Address<{ DEVICE_NAMES.len() }>);

impl DeviceShortcut {
    /// Returns the address from [`DeviceStats::as_raw`], or `None` for 0.
    ///
    /// # Safety
    ///
    /// The caller does not use the result longer than those counters exist.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: u64) -> Option<Self> {
        // INVARIANT: By the safety requirements.
        (raw != 0).then(|| Self(Address::from_raw(raw as usize)))
    }

    #[inline]
    pub(crate) fn add(&self, counter: DeviceCounter, number: u64) {
        // SAFETY: By the type invariants the counters exist.
        unsafe { self.0.add(counter as usize, number) }
    }
}

/// A counter of a file.
///
/// All CPUs that use the file share its cache line, so it is not exact: adding is a load and a
/// store. If two CPUs add at the same moment, one of them may not be counted. A locked instruction
/// would count it, but a fault would wait for it until the other CPU has let go of the line; a
/// store is finished behind the CPU's back.
pub(crate) struct Tally(AtomicU64);

impl Tally {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds to the counter. The compiler makes one instruction of it, so interrupts and preemption
    /// lose nothing.
    #[inline(always)]
    pub(crate) fn add(&self, number: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(number);

        self.0.store(sum, Ordering::Relaxed);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.load(Ordering::Relaxed))
    }
}
