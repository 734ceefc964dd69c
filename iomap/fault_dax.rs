// SPDX-License-Identifier: GPL-2.0

//! Hard faults: those that DAX does.

use kernel::ffi;

use crate::{
    abstractions::{
        fs::dax,
        mm::fault::VmFault, //
    },
    bindings::kernel as c, //
};

use super::{
    huge::PMD_PAGE_MASK,
    resolve::IOMAP_OPS,
    mapped_inode::{
        MappedInode,
        PAGE, //
    }, //
};

/// DAX's part of a fault, if FUSE's inode allows any: DAX knows the mapped size, and not the
/// file's.
///
/// # Safety
///
/// The fault is of `inode`, and the `invalidate_lock` of its DAX page cache is held.
pub(super) unsafe fn fault_dax(
    vmf: &VmFault,
    order: ffi::c_uint,
    inode: MappedInode<'_>,
) -> c::vm_fault_t {
    let first = vmf.pgoff();
    let pages = inode.inode.size().div_ceil(PAGE);
    let bad = inode.inode.is_bad();

    if bad {
        inode.sbi().look_for_bad();
    }
    if first >= pages || bad {
        return c::vm_fault_reason_VM_FAULT_SIGBUS;
    }
    if order != 0 && first | PMD_PAGE_MASK >= pages {
        return c::vm_fault_reason_VM_FAULT_FALLBACK;
    }
    // SAFETY: What a mapping of `inode` holds shows its DAX page cache, whose lock is held.
    unsafe { dax::iomap_fault(vmf, order, &IOMAP_OPS) }
}

/// What a fault ends with if it fails.
pub(super) const FAULT_FAILED: c::vm_fault_t = c::vm_fault_reason_VM_FAULT_SIGBUS
    | c::vm_fault_reason_VM_FAULT_OOM
    | c::vm_fault_reason_VM_FAULT_HWPOISON;
