// SPDX-License-Identifier: GPL-2.0

//! DAX faults: those that go through `dax_iomap_fault()`.

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
    mapped_inode::{
        MappedInode,
        PAGE, //
    }, //
    resolve::IOMAP_OPS,
};

/// Calls `dax_iomap_fault()`, unless the inode is bad or the fault is beyond the end of the file:
/// DAX knows the mapped size, and not the size of FUSE's inode.
///
/// # Safety
///
/// The fault is of `inode`, and the `invalidate_lock` of its DAX page cache is held. During a PTE
/// fault, but for copy-on-write, no task may map 2 MiB there.
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
    // Memory is associated under a lock of the mount. A task that exceeds `memory.high` of its
    // cgroup sleeps when it allocates, so the page table is there before.
    if order == 0 && !vmf.is_cow() && vmf.pmd().is_none() {
        // SAFETY: The PMD entry is none, or was, and no task maps 2 MiB, by the safety
        // requirements.
        unsafe { vmf.change_pte(|_| None) };
    }
    // SAFETY: The `f_mapping` of the vm file is the DAX page cache of `inode`, whose lock is held.
    unsafe { dax::iomap_fault(vmf, order, &IOMAP_OPS) }
}

/// The bits of the result of a fault that failed.
pub(super) const FAULT_FAILED: c::vm_fault_t = c::vm_fault_reason_VM_FAULT_SIGBUS
    | c::vm_fault_reason_VM_FAULT_OOM
    | c::vm_fault_reason_VM_FAULT_HWPOISON;
