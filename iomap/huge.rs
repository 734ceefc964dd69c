// SPDX-License-Identifier: GPL-2.0

//! PMD faults.

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
/// The bits of a page offset below an aligned 2 MiB.
pub(super) const PMD_PAGE_MASK: u64 = PMD_SIZE / PAGE - 1;

/// Returns true if the VMA allows an aligned 2 MiB around a fault, by the rules of DAX.
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
