// SPDX-License-Identifier: GPL-2.0

//! Counters of a mount, for people.
//!
//! They are per CPU, so counting writes no cache line that another CPU writes, and takes no lock
//! and no atomic operation. A sum is read without stopping anybody: it is exact when the mount is
//! idle.
//!
//! Memory per CPU cannot be had reliably where a mount is bound, under a spin lock. So it is
//! allocated before the first file can be opened, where that may sleep.

use core::ptr::NonNull;

use kernel::{
    ffi,
    fmt,
    prelude::*,
    sync::SetOnce, //
};

use crate::bindings::kernel as c;

/// What is counted, in the order in which it is shown.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    /// Faults that mapped 2 MiB.
    HugeFaults,
    /// Faults that mapped a page.
    PageFaults,
    /// Faults that ended with a signal.
    FailedFaults,
    /// Ranges of 2 MiB that were mapped by page and can be mapped as one again.
    Upgrades,
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
    /// Answers of `iomap_begin()` that were refused, or that were errors.
    RefusedMappings,
}

/// The names that users see, by [`Counter`].
const NAMES: [&str; 12] = [
    "faults_2m",
    "faults_4k",
    "faults_failed",
    "upgrades",
    "read_bytes",
    "written_bytes",
    "get_fmap",
    "maps_in_open",
    "get_daxdev",
    "maps_refused",
    "opens_failed",
    "mappings_refused",
];

const _: () = assert!(Counter::RefusedMappings as usize + 1 == NAMES.len());

/// One value for each [`Counter`].
type Values = [u64; NAMES.len()];

/// [`Values`] for each CPU.
///
/// # Invariants
///
/// The pointer is a per-CPU one, and owned by `self`.
struct PerCpu(NonNull<Values>);

// SAFETY: Memory per CPU belongs to no task.
unsafe impl Send for PerCpu {}
// SAFETY: Each CPU writes its own, and readers load single words.
unsafe impl Sync for PerCpu {}

impl PerCpu {
    fn new() -> Result<Self> {
        // SAFETY: Size and alignment are those of a type. May sleep, as here.
        let memory = unsafe {
            c::pcpu_alloc_noprof(
                size_of::<Values>(),
                align_of::<Values>(),
                false,
                c::GFP_KERNEL,
            )
        };
        // INVARIANT: Allocated just now, and zeroed.
        NonNull::new(memory.cast()).map(Self).ok_or(ENOMEM)
    }

    /// The per-CPU address of one value.
    #[inline]
    fn value(&self, counter: usize) -> usize {
        self.0.as_ptr().addr() + counter * size_of::<u64>()
    }
}

impl Drop for PerCpu {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { c::free_percpu(self.0.as_ptr().cast()) }
    }
}

/// The counters of a mount.
pub(crate) struct Stats(SetOnce<PerCpu>);

impl Stats {
    pub(crate) fn new() -> Self {
        Self(SetOnce::new())
    }

    /// Begins to count. May sleep. One task at a time.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn start(&self) -> Result {
        if self.0.as_ref().is_none() {
            self.0.populate(PerCpu::new()?);
        }
        Ok(())
    }

    pub(crate) fn inc(&self, counter: Counter) {
        if let Some(per_cpu) = self.0.as_ref() {
            // SAFETY: By the type invariants of `PerCpu` this is the per-CPU address of a value.
            unsafe { c::fuse_dax_fmap_count(per_cpu.value(counter as usize), 1) }
        }
    }

    /// The way to the counters for who counts in the fault path, or `None` if they have not begun.
    ///
    /// # Safety
    ///
    /// The caller does not use it longer than `self`.
    pub(crate) unsafe fn shortcut(&self) -> Option<Shortcut> {
        // INVARIANT: The caller sees to it.
        self.0.as_ref().map(|per_cpu| Shortcut(per_cpu.value(0)))
    }
}

/// The per-CPU address of the counters of a mount.
///
/// # Invariants
///
/// The mount's [`Stats`] are there as long as this is used ([`Stats::shortcut`]).
pub(crate) struct Shortcut(usize);

impl Shortcut {
    #[inline]
    pub(crate) fn add(&self, counter: Counter, number: u64) {
        let value = self.0 + counter as usize * size_of::<u64>();
        // SAFETY: By the type invariants this is the per-CPU address of a value.
        unsafe { c::fuse_dax_fmap_count(value, number) }
    }
}

/// ` name=sum` for each counter.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (counter, name) in NAMES.iter().enumerate() {
            let sum: ffi::c_ulonglong = self.0.as_ref().map_or(0, |per_cpu| {
                // SAFETY: As in `add()`.
                unsafe { c::fuse_dax_fmap_sum(per_cpu.value(counter)) }
            });
            write!(f, " {name}={sum}")?;
        }
        Ok(())
    }
}
