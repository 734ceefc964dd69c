// SPDX-License-Identifier: GPL-2.0

//! Counters per CPU.
//!
//! Counting writes no cache line that another CPU writes, and takes no lock and no atomic
//! operation.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)
//!
//! # Examples
//!
//! ```ignore
//! let counters = Counters::<2>::new()?;
//! counters.add(1, 42);
//! pr_info!("{}\n", counters.sum(1));
//! ```

use core::ptr::NonNull;

use kernel::prelude::*;

use crate::bindings::kernel as c;

/// `N` counters for each CPU.
///
/// # Invariants
///
/// The pointer is a per-CPU one of `N` values, which `self` owns.
pub(crate) struct Counters<const N: usize>(NonNull<[u64; N]>);

// SAFETY: Memory per CPU belongs to no task.
unsafe impl<const N: usize> Send for Counters<N> {}
// SAFETY: Each CPU writes its own values, and a sum loads single words.
unsafe impl<const N: usize> Sync for Counters<N> {}

impl<const N: usize> Counters<N> {
    /// All 0. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        let (size, align) = (size_of::<[u64; N]>(), align_of::<[u64; N]>());
        // SAFETY: `size` and `align` are those of a type.
        let memory = unsafe { c::pcpu_alloc_noprof(size, align, false, c::GFP_KERNEL) };

        // INVARIANT: Allocated just now, and zeroed.
        NonNull::new(memory.cast()).map(Self).ok_or(ENOMEM)
    }

    /// The same counters, for counting. It is no longer valid than `self`, which no lifetime says:
    /// see [`Address`].
    #[inline]
    pub(crate) fn address(&self) -> Address<N> {
        Address(self.0.as_ptr().addr())
    }

    /// Adds to a counter; to none if there is no such one.
    #[inline]
    pub(crate) fn add(&self, counter: usize, number: u64) {
        // SAFETY: `self` is there.
        unsafe { self.address().add(counter, number) }
    }

    /// What all CPUs have counted: exact if none counts at the moment.
    pub(crate) fn sum(&self, counter: usize) -> u64 {
        if counter >= N {
            return 0;
        }
        // SAFETY: By the type invariants this is the per-CPU address of one of the values.
        unsafe { c::fuse_dax_fmap_sum(self.address().of(counter)) }
    }
}

impl<const N: usize> Drop for Counters<N> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns this memory.
        unsafe { c::free_percpu(self.0.as_ptr().cast()) }
    }
}

/// The per-CPU address of [`Counters`], to be kept apart from them.
#[derive(Clone, Copy)]
pub(crate) struct Address<const N: usize>(usize);

impl<const N: usize> Address<N> {
    #[inline]
    fn of(self, counter: usize) -> usize {
        self.0 + counter * size_of::<u64>()
    }

    /// Adds to a counter; to none if there is no such one. The compiler knows whether there is, as
    /// it knows the number.
    ///
    /// # Safety
    ///
    /// The [`Counters`] that it is from are there.
    #[inline(always)]
    pub(crate) unsafe fn add(self, counter: usize, number: u64) {
        if counter < N {
            // SAFETY: By the safety requirements this is the per-CPU address of one of the values.
            unsafe { c::fuse_dax_fmap_count(self.of(counter), number) }
        }
    }
}
