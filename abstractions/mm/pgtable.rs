// SPDX-License-Identifier: GPL-2.0

//! Page table entries, as values.
//!
//! C header: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h)

use crate::bindings::kernel as c;

/// A page table entry, as it was read at some time.
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

    /// Returns true if the entries are equal except for the bits that the CPU sets.
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

    /// Returns true if the entry marks a page that is not present as protected by userfaultfd.
    #[inline]
    pub(crate) fn is_uffd_wp_marker(self) -> bool {
        // SAFETY: This looks at a value.
        unsafe { c::pte_is_uffd_wp_marker(self.0) }
    }

    /// Returns the page frame of an entry that is present.
    #[inline]
    pub(crate) fn pfn(self) -> u64 {
        // SAFETY: This looks at a value.
        unsafe { c::pte_pfn(self.0) as u64 }
    }

    /// Returns the entry, protected by userfaultfd.
    #[inline]
    pub(crate) fn mkuffd(self) -> Self {
        // SAFETY: This computes a value from another one.
        Self(unsafe { c::pte_mkuffd(self.0) })
    }

    /// Returns the entry, writable, dirty and accessed.
    #[inline]
    pub(crate) fn mkwritten(self) -> Self {
        // SAFETY: This computes a value from another one.
        let pte = unsafe { c::pte_mkwrite_novma(self.0) };
        // SAFETY: This computes a value from another one.
        let pte = unsafe { c::pte_mkdirty(pte) };
        // SAFETY: This computes a value from another one.
        Self(unsafe { c::pte_mkyoung(pte) })
    }
}

/// A PMD entry, as it was read at some time.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Pmd(c::pmd_t);

impl Pmd {
    #[inline]
    pub(super) fn from_raw(pmd: c::pmd_t) -> Self {
        Self(pmd)
    }

    /// Returns true if the entry is empty.
    #[inline]
    pub(crate) fn is_none(self) -> bool {
        // SAFETY: This looks at a value.
        self.0.pmd == 0 || unsafe { c::pmd_none(self.0) != 0 }
    }

    /// Returns true if the entry maps 2 MiB.
    #[inline]
    pub(crate) fn is_huge(self) -> bool {
        // SAFETY: This looks at a value.
        unsafe { c::pmd_trans_huge(self.0) != 0 }
    }
}
