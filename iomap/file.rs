// SPDX-License-Identifier: GPL-2.0

//! The operations of a mapped file: faults, reads and writes, and the tables of file, mapping and inode.
//!
//! Reads, writes and faults of an inode that FUSE has marked bad fail, as FUSE's own do: EIO and SIGBUS.
//! Its memory is given up meanwhile (`vacating`), and may be another file's.

use core::ptr;

use kernel::{
    error::to_result,
    ffi,
    iov::IovIterSource,
    page::PAGE_SIZE,
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
    // SAFETY: The file of a mapping is open, so its inode is in use; it is a mapped one, because
    // only `mmap()` hands out these operations.
    unsafe {
        let vma = (*vmf).__bindgen_anon_1.vma;
        let file = (*vma).vm_file;
        let invalidate_lock = ptr::addr_of_mut!((*(*file).f_mapping).invalidate_lock);
        let inode = (*file).f_inode;

        if (*vmf).flags & c::fault_flag_FAULT_FLAG_WRITE != 0
            && (*vma).__bindgen_anon_2.vm_flags & c::VM_SHARED as ffi::c_ulong != 0
            && (*inode).i_flags & c::S_NOCMTIME == 0
        {
            c::file_update_time(user_file(file));
        }
        let header = header(inode);
        if is_tracked(vma) {
            let ret = tracked_fault(vmf, order, inode, header);
            count(header, order, ret);
            return ret;
        }
        c::down_read(invalidate_lock);
        let soft = soft_fault(vmf, order, inode, header);
        let mut ret = match soft {
            Fault::Done(ret) => ret,
            Fault::Hard => dax_fault(vmf, order, inode),
            Fault::Alone => 0,
        };
        c::up_read(invalidate_lock);

        if let Fault::Alone = soft {
            c::down_write(invalidate_lock);
            ret = dax_fault(vmf, order, inode);
            c::up_write(invalidate_lock);
        }
        if ret & c::vm_fault_reason_VM_FAULT_FALLBACK != 0 && upgrade(vmf, order) {
            c::down_read(invalidate_lock);
            ret = dax_fault(vmf, order, inode);
            c::up_read(invalidate_lock);
        }
        count(header, order, ret);
        ret
    }
}

/// DAX's part of a fault, if FUSE's inode allows any: DAX knows the mapped size, and not the file's.
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

/// Maps nothing around a fault. That there is such an operation tells the memory manager that faults of
/// a page, as those of 2 MiB, need no more than the lock of their mapping; without it, it begins each
/// twice, the second time with `mmap_lock`, which all threads share (`vmf_can_call_fault()`).
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
/// This is not `->mmap_prepare()`: a file that is changed there is leaked if the mapping is merged with
/// the one beside it (`__mmap_region()`).
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

// --- Reads and writes ---------------------------------------------------------------------------

/// `inode->i_rwsem`, held for I/O. FUSE holds it while the server answers a SETATTR, so who waits for it can be
/// killed.
pub(super) struct IoLock {
    sem: *mut c::rw_semaphore,
    exclusive: bool,
}

impl IoLock {
    /// # Errors
    ///
    /// [`EAGAIN`] if it cannot be had at once, and that was asked for; [`EINTR`] if the task is being killed;
    /// [`EIO`] if FUSE has marked the inode bad.
    ///
    /// # Safety
    ///
    /// The inode of `iocb` stays in use until the lock is dropped.
    pub(super) unsafe fn new(iocb: *mut c::kiocb, exclusive: bool) -> Result<Self> {
        // SAFETY: The iocb and its file are valid.
        unsafe {
            let inode = (*(*iocb).ki_filp).f_inode;
            let sem = &raw mut (*inode).i_rwsem;

            if (*iocb).ki_flags & c::IOCB_NOWAIT != 0 {
                let locked = if exclusive {
                    c::down_write_trylock(sem)
                } else {
                    c::down_read_trylock(sem)
                };
                if locked == 0 {
                    return Err(EAGAIN);
                }
            } else {
                to_result(if exclusive {
                    c::down_write_killable(sem)
                } else {
                    c::down_read_killable(sem)
                })?;
            }
            // Dropping it gives it up.
            let locked = Self { sem, exclusive };
            if Inode::new(inode).is_bad() {
                header(inode).mount().look_for_bad();
                return Err(EIO);
            }
            Ok(locked)
        }
    }
}

impl Drop for IoLock {
    fn drop(&mut self) {
        // SAFETY: `new()` took it in this mode, and the inode is still in use.
        unsafe {
            if self.exclusive {
                c::up_write(self.sem);
            } else {
                c::up_read(self.sem);
            }
        }
    }
}

/// I/O through DAX, cut at the end of the file: the smaller of its size and its mapped size.
///
/// Returns `None` if `ki_pos` is not before the end.
///
/// # Safety
///
/// `iocb` and `iter` are valid and for a mapped file; the inode lock is held as DAX asks for.
unsafe fn dax_rw(iocb: *mut c::kiocb, iter: *mut c::iov_iter) -> Option<isize> {
    // SAFETY: By the safety requirements.
    unsafe {
        let inode = (*(*iocb).ki_filp).f_inode;
        let header = header(inode);
        let end = i_size(inode).min(header.mapped_size);
        let left = end.saturating_sub((*iocb).ki_pos.max(0) as u64);
        if left == 0 {
            return None;
        }

        let count = c::iov_iter_count(iter);
        let cut = count.saturating_sub(left as usize);
        c::iov_iter_truncate(iter, left);
        let done = c::dax_iomap_rw(iocb, iter, &IOMAP_OPS);
        c::iov_iter_reexpand(iter, c::iov_iter_count(iter) + cut);
        // If the device goes away in the middle, DAX says ENXIO or EFAULT, as if this were a bad
        // device or a bad buffer.
        if done < 0 && header.device_has_failed((*iocb).ki_pos as u64, end) {
            return Some(EIO.to_errno() as isize);
        }
        Some(done)
    }
}

/// [`dax_rw`] for a write, which makes failed memory well again where it covers a whole page.
///
/// # Safety
///
/// As [`dax_rw`], with the inode locked exclusively.
pub(super) unsafe fn write(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> Option<isize> {
    // SAFETY: By the safety requirements, here and below.
    let mut result = unsafe { dax_rw(iocb, from) }?;
    let mut written = 0;

    loop {
        written += result.max(0);
        // SAFETY: As above.
        if unsafe { c::iov_iter_count(from) } == 0 || result < 0 && !is_poison(result) {
            break;
        }
        // SAFETY: As above.
        match unsafe { rewrite_page(iocb, from) } {
            Ok(0) => break,
            Ok(len) => written += len as isize,
            Err(errno) => {
                result = errno.to_errno() as isize;
                break;
            }
        }
        // SAFETY: As above.
        match unsafe { dax_rw(iocb, from) } {
            Some(next) => result = next,
            None => break,
        }
    }
    Some(match written {
        0 if is_poison(result) => EIO.to_errno() as isize,
        0 => result,
        _ => written,
    })
}

fn is_poison(result: isize) -> bool {
    result == EHWPOISON.to_errno() as isize
}

/// Writes the page at `ki_pos` anew if it has failed, and the write covers what the file has of it.
/// Returns how many bytes that were.
///
/// # Errors
///
/// [`EFAULT`] if the source cannot be read; nothing is written then. [`ENOMEM`]; [`EIO`] if the device
/// is going away.
///
/// # Safety
///
/// As [`write`].
#[cold]
unsafe fn rewrite_page(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> Result<usize> {
    // SAFETY: By the safety requirements.
    let (header, i_size, pos, from) = unsafe {
        let inode = (*(*iocb).ki_filp).f_inode;
        (
            header(inode),
            i_size(inode),
            (*iocb).ki_pos as u64,
            IovIterSource::from_raw(from),
        )
    };
    let failed = || {
        let mapping = header.locate(pos, 1, i_size).ok()?;
        let device = mapping.device?;
        (device.sound_pages(mapping.addr, 1) == Some(0)).then_some((device, mapping.addr))
    };
    if pos % PAGE != 0 || failed().is_none() {
        return Ok(0);
    }
    let len = PAGE.min(i_size.min(header.mapped_size) - pos) as usize;
    if from.len() < len {
        return Ok(0);
    }
    let mut page = KBox::new([0; PAGE_SIZE], GFP_KERNEL)?;
    let copied = from.copy_from_iter(&mut page[..len]);
    // Asked again: reading the source may have taken a while.
    let result = match failed() {
        _ if copied < len => Err(EFAULT),
        None => Ok(0),
        Some((device, addr)) => device.rewrite(addr, &mut page).map(|()| len),
    };
    match result {
        // SAFETY: By the safety requirements.
        Ok(1..) => unsafe { (*iocb).ki_pos += len as c::loff_t },
        // SAFETY: This much was taken from it above.
        _ => unsafe { from.revert(copied) },
    }
    result
}

/// read(2) and its kin.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
pub(super) unsafe extern "C" fn read_iter(iocb: *mut c::kiocb, to: *mut c::iov_iter) -> isize {
    // SAFETY: The VFS passes valid arguments, and keeps the file open meanwhile.
    let _locked = match unsafe { IoLock::new(iocb, false) } {
        Ok(locked) => locked,
        Err(errno) => return errno.to_errno() as isize,
    };
    // SAFETY: As above; locked shared, as reads have to be.
    let done = unsafe { dax_rw(iocb, to) }.unwrap_or(0);
    // SAFETY: `iocb` is valid and for a mapped file.
    unsafe { count_bytes(iocb, Counter::ReadBytes, done) };
    done
}

/// write(2) and its kin.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
pub(super) unsafe extern "C" fn write_iter(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> isize {
    // SAFETY: The VFS passes valid arguments, and keeps the file open meanwhile.
    if unsafe { has_to_ask_server(iocb) } {
        return EAGAIN.to_errno() as isize;
    }
    // SAFETY: `iocb` and its open file are the VFS's.
    let locked = match unsafe { IoLock::new(iocb, true) } {
        Ok(locked) => locked,
        Err(errno) => return errno.to_errno() as isize,
    };
    // SAFETY: `iocb` and `from` are the VFS's, and the inode is locked.
    let checked = unsafe { c::generic_write_checks(iocb, from) };
    if checked <= 0 {
        return checked;
    }
    // SAFETY: As above, with the inode locked exclusively.
    if let Err(errno) = to_result(unsafe { modified(iocb) }) {
        return errno.to_errno() as isize;
    }
    // A file in memory that is all assigned does not grow: it is full, like a block device.
    // SAFETY: As above; locked exclusively, as writes have to be.
    let done = unsafe { write(iocb, from) }.unwrap_or(ENOSPC.to_errno() as isize);
    // SAFETY: `iocb` is valid and for a mapped file.
    unsafe { count_bytes(iocb, Counter::WrittenBytes, done) };
    drop(locked);
    if done > 0 {
        // SAFETY: As above; without the inode lock, which fsync may take.
        return unsafe { c::generic_write_sync(iocb, done) };
    }
    done
}

/// Whether a write that must not wait would have to ask the server: for file capabilities, of which it is not
/// known that there are none ([`modified`]), or to make the write durable.
///
/// # Safety
///
/// `iocb` is valid and for a mapped file.
unsafe fn has_to_ask_server(iocb: *const c::kiocb) -> bool {
    // SAFETY: `iocb` is valid, and its file open, by the safety requirements.
    unsafe {
        let (flags, inode) = ((*iocb).ki_flags, (*(*iocb).ki_filp).f_inode);

        flags & c::IOCB_NOWAIT != 0
            && ((*inode).i_flags & c::S_NOSEC == 0
                || flags & c::IOCB_DSYNC != 0 && Inode::new(inode).server_wants_fsync())
    }
}

/// Counts what a read or a write has done.
///
/// # Safety
///
/// `iocb` is valid and for a mapped file.
pub(super) unsafe fn count_bytes(iocb: *const c::kiocb, counter: Counter, done: isize) {
    // SAFETY: `iocb` is valid and for a mapped file, by the safety requirements.
    let header = unsafe { header((*(*iocb).ki_filp).f_inode) };

    if let Ok(bytes @ 1..) = u64::try_from(done) {
        header.counts.add(counter, bytes);
    }
}

/// Takes privileges off and updates times before a write.
///
/// FUSE asks its server for file capabilities before every write, unless the inode is known to have
/// none. Once asked, it is known, until somebody sets them through this mount or the server's
/// attributes change: both clear S_NOSEC again.
///
/// # Safety
///
/// `iocb` is valid and for a mapped file; the inode lock is held exclusively.
pub(super) unsafe fn modified(iocb: *mut c::kiocb) -> ffi::c_int {
    // SAFETY: By the safety requirements.
    unsafe {
        let inode = (*(*iocb).ki_filp).f_inode;
        let ret = c::kiocb_modified(iocb);

        if ret == 0 && u32::from((*inode).i_mode) & (c::S_ISUID | c::S_ISGID) == 0 {
            Inode::new(inode).change_flags(|flags| flags | c::S_NOSEC);
        }
        ret
    }
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

/// The operations of a mapped inode. An inode has them for a moment before its map is published, so each of ours
/// asks first ([`is_mapped`]).
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

/// Refuses to change the size of a mapped file, before FUSE sees it; the rest is FUSE's. To set the size that
/// it has changes nothing but times, and set-user-id bits, so the server is asked for those alone.
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
