// SPDX-License-Identifier: GPL-2.0

//! Entries of page tables, as values.
//!
//! C header: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h)

use crate::bindings::kernel as c;

/// An entry of a table of pages, as it was at some time.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub(crate) struct Pte(c::pte_t);

impl Pte {
    #[inline]
    pub(super) fn from_raw(pte: c::pte_t) -> Self {
        Self(pte)
    }

    #[inline]
    pub(super) fn into_raw(self) -> c::pte_t {
        self.0
    }

    /// Whether it is the same, but for what the CPU sets.
    #[inline]
    pub(crate) fn is_same(self, other: Self) -> bool {
        // SAFETY: This compares values.
        unsafe { c::pte_same(self.0, other.0) != 0 }
    }

    #[inline]
    pub(crate) fn is_present(self) -> bool {
        // SAFETY: This looks at a value.
        unsafe { c::pte_present(self.0) != 0 }
    }

    #[inline]
    pub(crate) fn is_writable(self) -> bool {
        // SAFETY: This looks at a value.
        unsafe { c::pte_write(self.0) != 0 }
    }

    /// Whether it marks a page that is not there as protected by userfaultfd.
    #[inline]
    pub(crate) fn is_uffd_wp_marker(self) -> bool {
        // SAFETY: This looks at a value.
        unsafe { c::pte_is_uffd_wp_marker(self.0) }
    }

    /// The page frame, of an entry that is present.
    #[inline]
    pub(crate) fn pfn(self) -> u64 {
        // SAFETY: This looks at a value.
        unsafe { c::pte_pfn(self.0) as u64 }
    }

    /// The same, protected by userfaultfd.
    #[inline]
    pub(crate) fn mkuffd(self) -> Self {
        // SAFETY: This makes a value of another.
        Self(unsafe { c::pte_mkuffd(self.0) })
    }

    /// The same, writable and stored to.
    #[inline]
    pub(crate) fn mkwritten(self) -> Self {
        // SAFETY: This makes a value of another.
        let pte = unsafe { c::pte_mkwrite_novma(self.0) };
        // SAFETY: This makes a value of another.
        let pte = unsafe { c::pte_mkdirty(pte) };
        // SAFETY: This makes a value of another.
        Self(unsafe { c::pte_mkyoung(pte) })
    }
}

/// An entry of a table of 2 MiB, as it was at some time.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Pmd(c::pmd_t);

impl Pmd {
    #[inline]
    pub(super) fn from_raw(pmd: c::pmd_t) -> Self {
        Self(pmd)
    }

    /// Whether there is nothing.
    #[inline]
    pub(crate) fn is_none(self) -> bool {
        // SAFETY: This looks at a value.
        self.0.pmd == 0 || unsafe { c::pmd_none(self.0) != 0 }
    }

    /// Whether it is 2 MiB.
    #[inline]
    pub(crate) fn is_huge(self) -> bool {
        // SAFETY: This looks at a value.
        unsafe { c::pmd_trans_huge(self.0) != 0 }
    }
}
