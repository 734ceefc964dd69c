// SPDX-License-Identifier: GPL-2.0

//! Faults of a mapped file.
//!
//! A fault of an inode that FUSE has marked bad is SIGBUS, as in FUSE. The module drops the inode's
//! memory (`bad_inodes`), and the server may give it to another file.

use kernel::ffi;

use crate::{
    abstractions::{
        fs::file::FileExt,
        mm::{
            fault::VmFault,
            vma::{
                is_nohugepage,
                is_shared,
                is_uffd_wp, //
            }, //
        }, //
    },
    bindings::kernel as c,
    daxdev::Device,
    fuse::Table,
    stats::{
        Counter,
        DeviceCounter, //
    }, //
};

use super::{
    collapse::collapse,
    fault_dax::{
        fault_dax,
        FAULT_FAILED, //
    },
    fault_fast::{
        fault_fast,
        Fault, //
    },
    fault_uffd_wp::fault_uffd_wp,
    huge::PMD_ORDER,
    mapped_inode::{
        Header,
        MappedFile,
        MappedInode, //
    },
    vm_file::user_file, //
};

/// Handles a PMD fault or a PTE fault. There is no `sb_start_pagefault()`, as in FUSE's own: only
/// fuseblk can be frozen at all, by its block device.
///
/// # Safety
///
/// The fault is in a VMA of a mapped file.
unsafe fn fault(vmf: &VmFault, order: ffi::c_uint) -> c::vm_fault_t {
    let (vma, vm_file) = (vmf.vma(), vmf.file());
    // SAFETY: The file of the VMA is of a mapped inode, by the safety requirements.
    let inode = unsafe { MappedInode::new(vm_file.inode()) };
    // SAFETY: `inode` has been mapped by mmap(2), as this is a fault.
    let file = unsafe { inode.header.file_unchecked() };

    if vmf.is_write() && is_shared(vma) && inode.inode.flags() & c::S_NOCMTIME == 0 {
        user_file(vm_file).update_time();
    }
    if is_uffd_wp(vma) {
        // SAFETY: This is a fault of `inode`, in a VMA with uffd-wp, without `invalidate_lock`.
        let ret = unsafe { fault_uffd_wp(vmf, order, inode, file) };
        count(inode.header, file, order, ret);
        return ret;
    }
    let invalidate_lock = file.mapping().invalidate_lock();
    let locked = invalidate_lock.read();
    // SAFETY: This is a fault of `inode`, with `invalidate_lock` held shared.
    let fast = unsafe { fault_fast(vmf, order, inode) };
    let mut ret = match fast {
        Fault::Mapped(device) => {
            drop(locked);
            count_fast(inode.header, file, order, device);
            return c::vm_fault_reason_VM_FAULT_NOPAGE;
        }
        Fault::Failed(ret) => ret,
        // SAFETY: This is a fault of `inode`, with `invalidate_lock` held.
        Fault::NeedsDax => unsafe { fault_dax(vmf, order, inode) },
        Fault::NeedsDaxExclusive => 0,
    };
    drop(locked);

    if let Fault::NeedsDaxExclusive = fast {
        let _locked = invalidate_lock.write();
        // SAFETY: This is a fault of `inode`, with `invalidate_lock` held.
        ret = unsafe { fault_dax(vmf, order, inode) };
    }
    if ret & c::vm_fault_reason_VM_FAULT_FALLBACK != 0 && collapse(vmf, order, inode, file) {
        let _locked = invalidate_lock.read();
        // SAFETY: This is a fault of `inode`, with `invalidate_lock` held.
        ret = unsafe { fault_dax(vmf, order, inode) };
    }
    count(inode.header, file, order, ret);
    ret
}

/// Counts a fast fault that has mapped memory of a device.
#[inline]
fn count_fast(header: &Header, file: &MappedFile, order: ffi::c_uint, device: &Device) {
    let (counts, stats) = (&header.counts, &device.stats);

    if order == 0 {
        counts.inc_with(Counter::PageFaults, stats, DeviceCounter::PageFaults);
        file.faults.pages.add(1);
    } else {
        counts.inc_with(Counter::HugeFaults, stats, DeviceCounter::HugeFaults);
        file.faults.huge.add(1);
    }
}

/// Counts another fault, unless the memory manager retries it with a smaller size. `iomap_end()`
/// has counted it for the device.
#[inline]
fn count(header: &Header, file: &MappedFile, order: ffi::c_uint, ret: c::vm_fault_t) {
    let (counter, of_file) = if ret & FAULT_FAILED != 0 {
        (Counter::FailedFaults, &file.faults.failed)
    } else if ret & c::vm_fault_reason_VM_FAULT_FALLBACK != 0 {
        return;
    } else if order == 0 {
        (Counter::PageFaults, &file.faults.pages)
    } else {
        (Counter::HugeFaults, &file.faults.huge)
    };
    header.counts.add(counter, 1);
    of_file.add(1);
}

/// `->huge_fault()`: a fault of 2^`order` pages.
///
/// # Safety
///
/// Called by the memory manager, for a VMA of a mapped file.
unsafe extern "C" fn huge_fault(vmf: *mut c::vm_fault, order: ffi::c_uint) -> c::vm_fault_t {
    // The memory manager also tries PUD faults.
    if order != PMD_ORDER {
        return c::vm_fault_reason_VM_FAULT_FALLBACK;
    }
    // SAFETY: `vmf` is the memory manager's argument, in a PMD fault.
    let vmf = unsafe { VmFault::from_raw(vmf) };
    // It asks for a PMD entry to become writable even where madvise(2) has forbidden new ones since
    // it was made. PTE faults there rely on it that none comes.
    if is_nohugepage(vmf.vma()) {
        return c::vm_fault_reason_VM_FAULT_FALLBACK;
    }
    // SAFETY: This is a PMD fault in a VMA of a mapped file.
    unsafe { fault(vmf, order) }
}

/// `->fault()`, `->page_mkwrite()` and `->pfn_mkwrite()`: a PTE fault.
///
/// # Safety
///
/// Called by the memory manager, for a VMA of a mapped file.
unsafe extern "C" fn page_fault(vmf: *mut c::vm_fault) -> c::vm_fault_t {
    // SAFETY: `vmf` is the memory manager's argument, in a fault in a VMA of a mapped file.
    unsafe { fault(VmFault::from_raw(vmf), 0) }
}

/// `->map_pages()`, which maps nothing around a fault. Its existence tells the memory manager that
/// PTE faults, like PMD faults, need no more than the VMA lock. Otherwise the memory manager starts
/// each PTE fault twice, the second time with `mmap_lock`, which all threads share
/// (`vmf_can_call_fault()`).
///
/// # Safety
///
/// Called by the memory manager, for a VMA of a mapped file.
unsafe extern "C" fn map_pages(
    _vmf: *mut c::vm_fault,
    _start: ffi::c_ulong,
    _end: ffi::c_ulong,
) -> c::vm_fault_t {
    0
}

pub(super) static VM_OPS: Table<c::vm_operations_struct> = Table(c::vm_operations_struct {
    fault: Some(page_fault),
    huge_fault: Some(huge_fault),
    map_pages: Some(map_pages),
    page_mkwrite: Some(page_fault),
    pfn_mkwrite: Some(page_fault),
    ..pin_init::zeroed()
});
