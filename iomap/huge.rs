// SPDX-License-Identifier: GPL-2.0

//! Faults of 2 MiB.

use kernel::ffi;

use crate::abstractions::mm::{
    fault::VmFault,
    vma::is_shared, //
};

use super::mapped_inode::{
    PAGE,
    PMD_SIZE, //
};

pub(super) const PMD_ORDER: ffi::c_uint = (PMD_SIZE / PAGE).trailing_zeros();
/// What is below an aligned 2 MiB in a page number.
pub(super) const PMD_PAGE_MASK: u64 = PMD_SIZE / PAGE - 1;

/// Whether a mapping can have an aligned 2 MiB around a fault, as DAX sees it.
#[inline]
pub(super) fn pmd_fits(vmf: &VmFault) -> bool {
    let (vma, address) = (vmf.vma(), vmf.address());
    let (start, end) = (vma.start() as u64, vma.end() as u64);
    let huge = address & !(PMD_SIZE - 1);

    vmf.pgoff() & PMD_PAGE_MASK == address / PAGE & PMD_PAGE_MASK
        && (is_shared(vma) || !vmf.is_write())
        && huge >= start
        && end - huge >= PMD_SIZE
}
