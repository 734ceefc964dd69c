// SPDX-License-Identifier: GPL-2.0

//! The operations of a mapped file: faults, reads and writes, and the tables of file, mapping, page
//! cache and inode.

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
    tracked_fault::{
        is_tracked,
        tracked_fault, //
    },
    upgrade::{
        upgrade,
        PMD_ORDER, //
    },
    vm_file::{
        set_vm_file,
        user_file, //
    },
    writeback::{
        fsync,
        writepages, //
    },
    Header,
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
        let mut pfn = 0;

        if (*vmf).flags & c::fault_flag_FAULT_FLAG_WRITE != 0
            && (*vma).__bindgen_anon_2.vm_flags & c::VM_SHARED as ffi::c_ulong != 0
            && (*(*file).f_inode).i_flags & c::S_NOCMTIME == 0
        {
            c::file_update_time(user_file(file));
        }
        let inode = (*file).f_inode;
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
            Fault::Hard => c::dax_iomap_fault(vmf, order, &mut pfn, ptr::null_mut(), &IOMAP_OPS),
            Fault::Alone => 0,
        };
        c::up_read(invalidate_lock);

        if let Fault::Alone = soft {
            c::down_write(invalidate_lock);
            ret = c::dax_iomap_fault(vmf, order, &mut pfn, ptr::null_mut(), &IOMAP_OPS);
            c::up_write(invalidate_lock);
        }
        if ret & c::vm_fault_reason_VM_FAULT_FALLBACK != 0 && upgrade(vmf, order) {
            c::down_read(invalidate_lock);
            ret = c::dax_iomap_fault(vmf, order, &mut pfn, ptr::null_mut(), &IOMAP_OPS);
            c::up_read(invalidate_lock);
        }
        count(header, order, ret);
        ret
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

/// `inode->i_rwsem`, held for I/O.
struct IoLock {
    sem: *mut c::rw_semaphore,
    exclusive: bool,
}

impl IoLock {
    /// # Safety
    ///
    /// The inode of `iocb` stays in use until the lock is dropped.
    unsafe fn new(iocb: *mut c::kiocb, exclusive: bool) -> Result<Self> {
        // SAFETY: The iocb and its file are valid.
        unsafe {
            let sem = ptr::addr_of_mut!((*(*(*iocb).ki_filp).f_inode).i_rwsem);
            let nowait = (*iocb).ki_flags & c::IOCB_NOWAIT != 0;

            let locked = match (nowait, exclusive) {
                (true, true) => c::down_write_trylock(sem) != 0,
                (true, false) => c::down_read_trylock(sem) != 0,
                (false, true) => {
                    c::down_write(sem);
                    true
                }
                (false, false) => {
                    c::down_read(sem);
                    true
                }
            };
            // Made only if it is held: dropping it gives it up.
            locked.then(|| Self { sem, exclusive }).ok_or(EAGAIN)
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
unsafe fn write(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> Option<isize> {
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
    // SAFETY: As above.
    unsafe { count_bytes(iocb, Counter::ReadBytes, done) };
    done
}

/// write(2) and its kin.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
unsafe extern "C" fn write_iter(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> isize {
    // SAFETY: The VFS passes valid arguments, and keeps the file open meanwhile.
    let locked = match unsafe { IoLock::new(iocb, true) } {
        Ok(locked) => locked,
        Err(errno) => return errno.to_errno() as isize,
    };
    // SAFETY: As above.
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
    // SAFETY: As above.
    unsafe { count_bytes(iocb, Counter::WrittenBytes, done) };
    drop(locked);
    if done > 0 {
        // SAFETY: As above; without the inode lock, which fsync may take.
        return unsafe { c::generic_write_sync(iocb, done) };
    }
    done
}

/// Counts what a read or a write has done.
///
/// # Safety
///
/// `iocb` is valid and for a mapped file.
unsafe fn count_bytes(iocb: *const c::kiocb, counter: Counter, done: isize) {
    // SAFETY: By the safety requirements.
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
unsafe fn modified(iocb: *mut c::kiocb) -> ffi::c_int {
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

pub(super) static AOPS: Table<c::address_space_operations> = Table(c::address_space_operations {
    writepages: Some(writepages),
    dirty_folio: Some(c::noop_dirty_folio),
    ..pin_init::zeroed()
});

/// The operations of an open mapped file: FUSE's for what concerns the server (FLUSH, RELEASE,
/// locks, ioctls), ours for what concerns memory.
///
/// What is left out fails as it does for any file that cannot do it: fallocate with EOPNOTSUPP;
/// copy_file_range falls back to reading and writing.
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
        fallocate: None,
        copy_file_range: None,
        remap_file_range: None,
        // A write that is not to wait does not: there is no device that it would wait for.
        fop_flags: plain.fop_flags | c::FOP_BUFFER_WASYNC | c::FOP_MMAP_SYNC,
        ..*plain
    }
}

/// FUSE's operations of a regular file's inode, with `setattr` and `fiemap` ours.
static INODE_OPERATIONS: SetOnce<(Table<c::inode_operations>, SetAttr)> = SetOnce::new();

type SetAttr = unsafe extern "C" fn(*mut c::mnt_idmap, *mut c::dentry, *mut c::iattr) -> ffi::c_int;

pub(super) fn inode_operations(inode: &Inode) -> Result<*const c::inode_operations> {
    // SAFETY: An inode in use has operations.
    let plain = unsafe { &*(*inode.as_raw()).i_op };
    let plain_setattr = plain.setattr.ok_or(EIO)?;

    let _making = MAKING_TABLES.lock();
    INODE_OPERATIONS.populate((
        Table(c::inode_operations {
            setattr: Some(setattr),
            fiemap: Some(fiemap),
            ..*plain
        }),
        plain_setattr,
    ));
    let (table, _) = INODE_OPERATIONS.as_ref().ok_or(EIO)?;
    Ok(&table.0)
}

/// Refuses to change the size of a mapped file, before FUSE sees it; the rest is FUSE's.
///
/// Some servers promise to take set-user-id bits off by themselves, with each WRITE they get. A
/// mapped file sends none, so they are told the mode that the VFS has worked out.
///
/// # Safety
///
/// Called by the VFS, for a mapped inode.
unsafe extern "C" fn setattr(
    idmap: *mut c::mnt_idmap,
    dentry: *mut c::dentry,
    attr: *mut c::iattr,
) -> ffi::c_int {
    const KILL: ffi::c_uint = c::ATTR_KILL_SUID | c::ATTR_KILL_SGID;

    // SAFETY: The VFS passes valid arguments.
    let (inode, valid) = unsafe { (Inode::new((*dentry).d_inode), (*attr).ia_valid) };
    if valid & c::ATTR_SIZE != 0 {
        return EOPNOTSUPP.to_errno();
    }
    let by_write = valid & KILL != 0 && valid & (c::ATTR_UID | c::ATTR_GID) == 0;
    if by_write && inode.server_takes_privileges_off() {
        // SAFETY: As above. With these flags the VFS has put the new mode there.
        unsafe { (*attr).ia_valid &= !KILL };
    }
    match INODE_OPERATIONS.as_ref() {
        // SAFETY: FUSE's own, with the VFS's arguments.
        Some((_, plain_setattr)) => unsafe { plain_setattr(idmap, dentry, attr) },
        None => EIO.to_errno(),
    }
}
