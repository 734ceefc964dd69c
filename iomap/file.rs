// SPDX-License-Identifier: GPL-2.0

//! Faults of a mapped file, and the operations of file, mapping and inode.
//!
//! A fault of an inode that FUSE has marked bad is SIGBUS, as FUSE's own. Its memory is given up
//! meanwhile (`vacating`), and may be another file's.

use core::ptr;

use kernel::{
    ffi,
    prelude::*,
    sync::SetOnce, //
};

use crate::{
    bindings::kernel as c,
    fuse::{
        Inode,
        MAKING_TABLES, //
    },
    stats::Counter, //
};

use super::{
    fallocate::fallocate,
    header,
    i_size,
    io::{
        read_iter,
        write_iter, //
    },
    judge::IOMAP_OPS,
    report::{
        fiemap,
        llseek, //
    },
    soft_fault::{
        soft_fault,
        Fault, //
    },
    state,
    tracked_fault::{
        is_tracked,
        tracked_fault, //
    },
    upgrade::{
        upgrade,
        PMD_ORDER,
        WITHIN, //
    },
    vm_file::{
        set_vm_file,
        user_file, //
    },
    writeback::fsync,
    COperations,
    Header,
    State,
    Table,
    PAGE, //
};

// --- Faults -------------------------------------------------------------------------------------

/// A page fault of any size. FUSE does not know freezing, so there is nothing to hold off.
///
/// # Safety
///
/// Called by the memory manager for a mapping of a mapped file.
unsafe fn fault(vmf: *mut c::vm_fault, order: ffi::c_uint) -> c::vm_fault_t {
    // 1 GiB is asked for, too.
    if order != 0 && order != PMD_ORDER {
        return c::vm_fault_reason_VM_FAULT_FALLBACK;
    }
    // SAFETY: The mapping of a fault has a file, which keeps its inode.
    let (vma, file, inode) = unsafe {
        let vma = (*vmf).__bindgen_anon_1.vma;
        let file = (*vma).vm_file;
        (vma, file, (*file).f_inode)
    };
    // SAFETY: The inode is a mapped one, because only `mmap()` hands out these operations.
    let header = unsafe { header(inode) };

    // SAFETY: `vmf`, `vma` and `inode` are valid, see above; `file` is a vm file.
    unsafe {
        if (*vmf).flags & c::fault_flag_FAULT_FLAG_WRITE != 0
            && (*vma).__bindgen_anon_2.vm_flags & c::VM_SHARED as ffi::c_ulong != 0
            && (*inode).i_flags & c::S_NOCMTIME == 0
        {
            c::file_update_time(user_file(file));
        }
    }
    // SAFETY: `vma` is the mapping of the fault.
    if unsafe { is_tracked(vma) } {
        // SAFETY: This is a fault of that mapping, and of `inode`.
        let ret = unsafe { tracked_fault(vmf, order, inode, header) };
        count(header, order, ret);
        return ret;
    }
    // SAFETY: The file is mapped by mmap(2).
    let invalidate_lock = unsafe { header.invalidate_lock() };
    let locked = invalidate_lock.read();
    // SAFETY: This is a fault of `inode`, with the lock.
    let soft = unsafe { soft_fault(vmf, order, inode, header) };
    let mut ret = match soft {
        Fault::Done(ret) => ret,
        // SAFETY: As for `soft_fault()`.
        Fault::Hard => unsafe { dax_fault(vmf, order, inode) },
        Fault::Alone => 0,
    };
    drop(locked);

    if let Fault::Alone = soft {
        let _locked = invalidate_lock.write();
        // SAFETY: This is a fault of `inode`, with the lock.
        ret = unsafe { dax_fault(vmf, order, inode) };
    }
    // SAFETY: This is a fault of `inode`, without the lock.
    if ret & c::vm_fault_reason_VM_FAULT_FALLBACK != 0 && unsafe { upgrade(vmf, order) } {
        let _locked = invalidate_lock.read();
        // SAFETY: This is a fault of `inode`, with the lock.
        ret = unsafe { dax_fault(vmf, order, inode) };
    }
    count(header, order, ret);
    ret
}

/// DAX's part of a fault, if FUSE's inode allows any: DAX knows the mapped size, and not the
/// file's.
///
/// # Safety
///
/// As [`fault`], with the `invalidate_lock` of the DAX page cache held; `inode` is FUSE's.
pub(super) unsafe fn dax_fault(
    vmf: *mut c::vm_fault,
    order: ffi::c_uint,
    inode: *mut c::inode,
) -> c::vm_fault_t {
    let mut pfn = 0;

    // SAFETY: By the safety requirements.
    unsafe {
        let first = (*vmf).__bindgen_anon_1.pgoff as u64;
        let pages = i_size(inode).div_ceil(PAGE);

        let bad = Inode::new(inode).is_bad();
        if bad {
            header(inode).mount().look_for_bad();
        }
        if first >= pages || bad {
            return c::vm_fault_reason_VM_FAULT_SIGBUS;
        }
        if order != 0 && first | WITHIN >= pages {
            return c::vm_fault_reason_VM_FAULT_FALLBACK;
        }
        c::dax_iomap_fault(vmf, order, &mut pfn, ptr::null_mut(), &IOMAP_OPS)
    }
}

/// What a fault ends with if it fails.
pub(super) const ERROR: c::vm_fault_t = c::vm_fault_reason_VM_FAULT_SIGBUS
    | c::vm_fault_reason_VM_FAULT_OOM
    | c::vm_fault_reason_VM_FAULT_HWPOISON;

/// Counts a fault, unless it is tried again with a smaller size.
#[inline]
fn count(header: &Header, order: ffi::c_uint, ret: c::vm_fault_t) {
    let counter = if ret & ERROR != 0 {
        Counter::FailedFaults
    } else if ret & c::vm_fault_reason_VM_FAULT_FALLBACK != 0 {
        return;
    } else if order == 0 {
        Counter::PageFaults
    } else {
        Counter::HugeFaults
    };
    header.counts.add(counter, 1);
}

/// A fault of 2^`order` pages.
///
/// # Safety
///
/// Called by the memory manager, for a mapping of a mapped file.
unsafe extern "C" fn huge_fault(vmf: *mut c::vm_fault, order: ffi::c_uint) -> c::vm_fault_t {
    // SAFETY: Called by the memory manager.
    unsafe { fault(vmf, order) }
}

/// A fault of one page.
///
/// # Safety
///
/// Called by the memory manager, for a mapping of a mapped file.
unsafe extern "C" fn page_fault(vmf: *mut c::vm_fault) -> c::vm_fault_t {
    // SAFETY: Called by the memory manager.
    unsafe { fault(vmf, 0) }
}

/// Maps nothing around a fault. That there is such an operation tells the memory manager that
/// faults of a page, as those of 2 MiB, need no more than the lock of their mapping; without it, it
/// begins each twice, the second time with `mmap_lock`, which all threads share
/// (`vmf_can_call_fault()`).
///
/// # Safety
///
/// Called by the memory manager, for a mapping of a mapped file.
unsafe extern "C" fn map_pages(
    _vmf: *mut c::vm_fault,
    _start: ffi::c_ulong,
    _end: ffi::c_ulong,
) -> c::vm_fault_t {
    0
}

static VM_OPS: Table<c::vm_operations_struct> = Table(c::vm_operations_struct {
    fault: Some(page_fault),
    huge_fault: Some(huge_fault),
    map_pages: Some(map_pages),
    page_mkwrite: Some(page_fault),
    pfn_mkwrite: Some(page_fault),
    ..pin_init::zeroed()
});

/// Maps in 2 MiB pieces where memory and addresses allow it. MAP_SYNC: see `writeback`.
///
/// This is not `->mmap_prepare()`: a file that is changed there is leaked if the mapping is merged
/// with the one beside it (`__mmap_region()`).
///
/// # Safety
///
/// Called by the VFS, for an open mapped file or a vm file.
pub(super) unsafe extern "C" fn mmap(
    file: *mut c::file,
    vma: *mut c::vm_area_struct,
) -> ffi::c_int {
    // SAFETY: The mapping is being made, and the caller's alone.
    let flags = unsafe { &raw mut (*vma).__bindgen_anon_2.vm_flags };

    // SAFETY: As above; the file is a mapped one, by the safety requirements.
    unsafe {
        if *flags & 1 << c::VMA_SYNC_BIT != 0 && !header((*file).f_inode).is_synchronous() {
            return EOPNOTSUPP.to_errno();
        }
        if let Err(errno) = set_vm_file(vma, file) {
            return errno.to_errno();
        }
        (*vma).vm_ops = &VM_OPS.0;
        *flags |= 1 << c::VMA_HUGEPAGE_BIT;
    }
    0
}

// --- Tables -------------------------------------------------------------------------------------

/// The operations of an open mapped file: FUSE's for what concerns the server (FLUSH, RELEASE,
/// locks, ioctls), ours for what concerns memory.
///
/// What is left out fails as it does for any file that cannot do it: copy_file_range falls back to
/// reading and writing.
pub(crate) fn file_operations(plain: &c::file_operations) -> c::file_operations {
    c::file_operations {
        llseek: Some(llseek),
        read_iter: Some(read_iter),
        write_iter: Some(write_iter),
        mmap: Some(mmap),
        mmap_prepare: None,
        get_unmapped_area: Some(c::thp_get_unmapped_area),
        splice_read: Some(c::copy_splice_read),
        splice_write: Some(c::iter_file_splice_write),
        fsync: Some(fsync),
        fallocate: Some(fallocate),
        copy_file_range: None,
        remap_file_range: None,
        // A write that is not to wait does not: there is no device that it would wait for.
        fop_flags: plain.fop_flags | c::FOP_BUFFER_WASYNC | c::FOP_MMAP_SYNC,
        ..*plain
    }
}

/// FUSE's operations of a regular file's inode, and those of a mapped one.
struct InodeOperations {
    mapped: c::inode_operations,
    plain_setattr: SetAttr,
    plain_getattr: GetAttr,
    plain_permission: Permission,
}

// SAFETY: Tables of function pointers.
unsafe impl COperations for InodeOperations {}

static INODE_OPERATIONS: SetOnce<Table<InodeOperations>> = SetOnce::new();

type SetAttr = unsafe extern "C" fn(*mut c::mnt_idmap, *mut c::dentry, *mut c::iattr) -> ffi::c_int;
type GetAttr = unsafe extern "C" fn(
    *mut c::mnt_idmap,
    *const c::path,
    *mut c::kstat,
    u32,
    ffi::c_uint,
) -> ffi::c_int;
type Permission = unsafe extern "C" fn(*mut c::mnt_idmap, *mut c::inode, ffi::c_int) -> ffi::c_int;

/// The operations of a mapped inode. An inode has them for a moment before its map is published, so
/// each of ours asks first ([`is_mapped`]).
pub(super) fn inode_operations(inode: &Inode) -> Result<*const c::inode_operations> {
    // SAFETY: An inode in use has operations.
    let plain = unsafe { &*(*inode.as_raw()).i_op };
    let plain_setattr = plain.setattr.ok_or(EIO)?;
    let plain_getattr = plain.getattr.ok_or(EIO)?;
    let plain_permission = plain.permission.ok_or(EIO)?;

    if INODE_OPERATIONS.as_ref().is_none() {
        let _making = MAKING_TABLES.lock();
        INODE_OPERATIONS.populate(Table(InodeOperations {
            mapped: c::inode_operations {
                setattr: Some(setattr),
                getattr: Some(getattr),
                permission: Some(permission),
                fiemap: Some(fiemap),
                ..*plain
            },
            plain_setattr,
            plain_getattr,
            plain_permission,
        }));
    }
    let table = INODE_OPERATIONS.as_ref().ok_or(EIO)?;
    Ok(&table.0.mapped)
}

/// Whether the map of an inode is published, that has the operations of a mapped one.
pub(super) fn is_mapped(inode: &Inode) -> bool {
    state(inode) == State::Mapped
}

/// The server's attributes may have told FUSE that the inode is another file's.
fn look_for_bad(inode: &Inode) {
    if inode.is_bad() && is_mapped(inode) {
        // SAFETY: It is mapped, and in use.
        unsafe { header(inode.as_raw()) }.mount().look_for_bad();
    }
}

/// stat(2): FUSE's, and that this is DAX, which FUSE's inode does not say.
///
/// # Safety
///
/// Called by the VFS, for an inode with the operations of a mapped one.
unsafe extern "C" fn getattr(
    idmap: *mut c::mnt_idmap,
    path: *const c::path,
    stat: *mut c::kstat,
    request_mask: u32,
    flags: ffi::c_uint,
) -> ffi::c_int {
    let Some(table) = INODE_OPERATIONS.as_ref() else {
        return EIO.to_errno();
    };
    // SAFETY: FUSE's own, with the VFS's arguments.
    let ret = unsafe { (table.0.plain_getattr)(idmap, path, stat, request_mask, flags) };
    // SAFETY: The VFS passes valid arguments; the file's inode is in use.
    let inode = unsafe { Inode::new((*(*path).dentry).d_inode) };

    if is_mapped(inode) {
        // SAFETY: `stat` is the VFS's, to be filled in.
        unsafe { (*stat).attributes |= u64::from(c::STATX_ATTR_DAX) };
    }
    if ret != 0 {
        look_for_bad(inode);
    }
    ret
}

/// FUSE's, which may ask the server for attributes.
///
/// # Safety
///
/// Called by the VFS, for an inode with the operations of a mapped one.
unsafe extern "C" fn permission(
    idmap: *mut c::mnt_idmap,
    inode: *mut c::inode,
    mask: ffi::c_int,
) -> ffi::c_int {
    let Some(table) = INODE_OPERATIONS.as_ref() else {
        return EIO.to_errno();
    };
    // SAFETY: FUSE's own, with the VFS's arguments.
    let ret = unsafe { (table.0.plain_permission)(idmap, inode, mask) };
    if ret != 0 && mask & c::MAY_NOT_BLOCK as ffi::c_int == 0 {
        // SAFETY: The inode is in use.
        look_for_bad(unsafe { Inode::new(inode) });
    }
    ret
}

/// Refuses to change the size of a mapped file, before FUSE sees it; the rest is FUSE's. To set the
/// size that it has changes nothing but times, and set-user-id bits, so the server is asked for
/// those alone.
///
/// Some servers promise to take set-user-id bits off by themselves, with each WRITE they get. A
/// mapped file sends none, so they are told the mode that the VFS has worked out.
///
/// # Safety
///
/// Called by the VFS, for an inode with the operations of a mapped one.
unsafe extern "C" fn setattr(
    idmap: *mut c::mnt_idmap,
    dentry: *mut c::dentry,
    attr: *mut c::iattr,
) -> ffi::c_int {
    const KILL: ffi::c_uint = c::ATTR_KILL_SUID | c::ATTR_KILL_SGID;

    // SAFETY: The VFS passes valid arguments.
    let (inode, mut valid) = unsafe { (Inode::new((*dentry).d_inode), (*attr).ia_valid) };
    let mapped = is_mapped(inode);
    if mapped && valid & c::ATTR_SIZE != 0 {
        // SAFETY: The VFS passes valid arguments.
        let (size, file) = unsafe { ((*attr).ia_size, (*attr).ia_file) };
        // SAFETY: The inode is in use, and the VFS has locked it.
        if size as u64 != unsafe { i_size(inode.as_raw()) } {
            return EOPNOTSUPP.to_errno();
        }
        if inode.is_bad() {
            look_for_bad(inode);
            return EIO.to_errno();
        }
        valid &= !(c::ATTR_SIZE | c::ATTR_OPEN);
        if valid & (c::ATTR_MODE | c::ATTR_UID | c::ATTR_GID | KILL) == 0 {
            if valid & c::ATTR_MTIME == 0 || valid & c::ATTR_FILE == 0 {
                return 0;
            }
            // SAFETY: With this flag the VFS has put an open file there.
            return unsafe { c::file_update_time(file) };
        }
        // SAFETY: The VFS passes valid arguments.
        unsafe { (*attr).ia_valid = valid };
    }
    let by_write = mapped && valid & KILL != 0 && valid & (c::ATTR_UID | c::ATTR_GID) == 0;
    if by_write && inode.server_takes_privileges_off() {
        // SAFETY: As above. With these flags the VFS has put the new mode there.
        unsafe { (*attr).ia_valid &= !KILL };
    }
    let Some(table) = INODE_OPERATIONS.as_ref() else {
        return EIO.to_errno();
    };
    // SAFETY: FUSE's own, with the VFS's arguments.
    let ret = unsafe { (table.0.plain_setattr)(idmap, dentry, attr) };
    if ret != 0 {
        look_for_bad(inode);
    }
    ret
}
