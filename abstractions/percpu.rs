// SPDX-License-Identifier: GPL-2.0

//! Per-CPU counters.
//!
//! An increment takes no lock and no atomic operation, and writes no other CPU's cache line.
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
/// The pointer is a per-CPU pointer to `N` values, which `self` owns.
pub(crate) struct Counters<const N: usize>(NonNull<[u64; N]>);

// SAFETY: Per-CPU memory is not tied to a task.
unsafe impl<const N: usize> Send for Counters<N> {}
// SAFETY: Each CPU only writes its own values, and a sum reads single words.
unsafe impl<const N: usize> Sync for Counters<N> {}

impl<const N: usize> Counters<N> {
    /// Allocates counters, which are all 0. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        let (size, align) = (size_of::<[u64; N]>(), align_of::<[u64; N]>());
        // SAFETY: `size` and `align` are those of a type.
        let memory = unsafe { c::pcpu_alloc_noprof(size, align, false, c::GFP_KERNEL) };

        // INVARIANT: The memory was allocated just above, and is zeroed.
        NonNull::new(memory.cast()).map(Self).ok_or(ENOMEM)
    }

    /// Returns the per-CPU address of the counters. No lifetime ties it to `self`: see [`Address`].
    #[inline]
    pub(crate) fn address(&self) -> Address<N> {
        Address(self.0.as_ptr().addr())
    }

    /// Adds to a counter. Does nothing if there is no such counter.
    #[inline]
    pub(crate) fn add(&self, counter: usize, number: u64) {
        // SAFETY: The counters are valid as long as `self`.
        unsafe { self.address().add(counter, number) }
    }

    /// Returns the sum over all CPUs. It is exact if no CPU counts at the same time.
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

/// The per-CPU address of [`Counters`], which may be stored apart from them.
#[derive(Clone, Copy)]
pub(crate) struct Address<const N: usize>(usize);

impl<const N: usize> Address<N> {
    #[inline]
    fn of(self, counter: usize) -> usize {
        self.0 + counter * size_of::<u64>()
    }

    /// Returns the address as a number other than 0, for [`Self::from_raw`].
    #[inline]
    pub(crate) fn into_raw(self) -> usize {
        self.0
    }

    /// Returns the address that [`Self::into_raw`] has made a number of.
    #[inline]
    pub(crate) fn from_raw(raw: usize) -> Self {
        Self(raw)
    }

    /// Adds to a counter. Does nothing if there is no such counter; the check is resolved at
    /// compile time, as callers pass a constant.
    ///
    /// # Safety
    ///
    /// The [`Counters`] must still exist.
    #[inline(always)]
    pub(crate) unsafe fn add(self, counter: usize, number: u64) {
        if counter < N {
            // SAFETY: By the safety requirements this is the per-CPU address of one of the values.
            unsafe { c::fuse_dax_fmap_count(self.of(counter), number) }
        }
    }

    /// Adds 1 to a counter, and to one of `others`. Does nothing if one of them does not exist, as
    /// [`Self::add`].
    ///
    /// # Safety
    ///
    /// Both [`Counters`] must still exist.
    #[inline(always)]
    pub(crate) unsafe fn inc_both<const M: usize>(
        self,
        counter: usize,
        others: Address<M>,
        other: usize,
    ) {
        if counter < N && other < M {
            // SAFETY: By the safety requirements these are the per-CPU addresses of two values.
            unsafe { c::fuse_dax_fmap_count_both(self.of(counter), others.of(other)) }
        }
    }
}
