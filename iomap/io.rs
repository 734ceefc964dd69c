// SPDX-License-Identifier: GPL-2.0

//! read(2) and write(2) of a mapped file.
//!
//! DAX copies between the memory of the file and the buffer of the caller, without page faults in
//! the buffer. If a page of it is missing, the copy ends there; the page is faulted in with nothing
//! held, and the I/O goes on. A fault may take as long as another server likes, and meanwhile FUSE
//! may mark the inode bad, the device may go away, and other tasks want the file.
//!
//! I/O of an inode that FUSE has marked bad is EIO, as FUSE's own. Its memory is given up meanwhile
//! (`vacating`), and may be another file's.

use kernel::{
    ffi,
    page::PAGE_SIZE,
    prelude::*,
    time::msecs_to_jiffies, //
};

use crate::{
    abstractions::sync::rw_semaphore::{
        ReadGuard,
        RwSemaphore,
        WriteGuard, //
    },
    bindings::kernel as c,
    daxdev::Device,
    fuse::{
        is_bad,
        Inode, //
    },
    stats::Counter, //
};

use super::{
    header,
    i_size,
    judge::{
        refused,
        IOMAP_OPS, //
    },
    tenancy::Flushing,
    PAGE, //
};

/// `inode->i_rwsem`, held for I/O. FUSE holds it while the server answers a SETATTR, so a task that
/// waits for it can be killed.
pub(super) enum IoLock<'a> {
    Shared(#[expect(dead_code)] ReadGuard<'a>),
    Exclusive(#[expect(dead_code)] WriteGuard<'a>),
}

impl<'a> IoLock<'a> {
    /// # Errors
    ///
    /// [`EAGAIN`] if it cannot be had at once, and that was asked for; [`EINTR`] if the task is
    /// being killed; [`EIO`] if FUSE has marked the inode bad.
    ///
    /// # Safety
    ///
    /// `iocb` is valid, and the inode of its file stays in use for `'a`.
    #[inline]
    pub(super) unsafe fn new(iocb: *const c::kiocb, exclusive: bool) -> Result<Self> {
        // SAFETY: `iocb` is valid, and its file open.
        let (flags, inode) = unsafe { ((*iocb).ki_flags, (*(*iocb).ki_filp).f_inode) };
        // SAFETY: The inode is in use for `'a`, by the safety requirements.
        let sem = unsafe { RwSemaphore::from_raw(&raw mut (*inode).i_rwsem) };
        let locked = match (flags & c::IOCB_NOWAIT != 0, exclusive) {
            (false, false) => Self::Shared(sem.read_killable()?),
            (false, true) => Self::Exclusive(sem.write_killable()?),
            (true, false) => Self::Shared(sem.try_read().ok_or(EAGAIN)?),
            (true, true) => Self::Exclusive(sem.try_write().ok_or(EAGAIN)?),
        };

        // SAFETY: The inode is FUSE's and in use.
        if unsafe { is_bad(inode) } {
            // SAFETY: The inode is a mapped one, and in use.
            unsafe { header(inode) }.mount().look_for_bad();
            return Err(EIO);
        }
        Ok(locked)
    }
}

/// Where I/O of a mapped file ends: at the smaller of its size and its mapped size.
///
/// # Safety
///
/// `iocb` is valid and for a mapped file.
unsafe fn end_of_io(iocb: *const c::kiocb) -> u64 {
    // SAFETY: The file of `iocb` is open and mapped, by the safety requirements.
    unsafe {
        let inode = (*(*iocb).ki_filp).f_inode;
        i_size(inode).min(header(inode).mapped_size)
    }
}

/// How much of a buffer is left, as `iov_iter_count()`.
///
/// # Safety
///
/// `iter` is valid.
#[inline]
unsafe fn bytes_left(iter: *const c::iov_iter) -> usize {
    // SAFETY: `iter` is valid, by the safety requirements.
    unsafe { (*iter).__bindgen_anon_1.__bindgen_anon_1.as_ref().count }
}

/// I/O through DAX up to the end, or to a page that is missing in the buffer.
///
/// Returns `None` if `ki_pos` is not before the end.
///
/// # Safety
///
/// `iocb` and `iter` are valid and for a mapped file; the inode lock is held as DAX asks for.
unsafe fn dax_rw(iocb: *mut c::kiocb, iter: *mut c::iov_iter) -> Option<isize> {
    // SAFETY: `iocb` and `iter` are valid, and the inode is locked as DAX wants it, by the caller.
    unsafe {
        let header = header((*(*iocb).ki_filp).f_inode);
        let end = end_of_io(iocb);
        let left = end.saturating_sub((*iocb).ki_pos.max(0) as u64);
        if left == 0 {
            return None;
        }

        // A mount with a mapped file has it. A memory failure waits for a step of this: its page
        // goes from the kernel's own mapping then.
        let Some(users) = header.mount().tenants.users_of_mapped() else {
            return Some(EIO.to_errno() as isize);
        };
        let mut done = c::fuse_dax_fmap_rw_nofault(iocb, iter, left, &IOMAP_OPS, users.as_raw());
        // That is what DAX says of a hole.
        if done == 0 && bytes_left(iter) > 0 && ((*iocb).ki_pos as u64) < end_of_io(iocb) {
            done = EFAULT.to_errno() as isize;
        }
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
#[inline]
pub(super) unsafe fn write(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> Option<isize> {
    // SAFETY: `iocb` and `from` are valid, and the inode is locked exclusively, by the caller.
    let result = unsafe { dax_rw(iocb, from) }?;

    // SAFETY: By the safety requirements `from` is valid.
    if unsafe { bytes_left(from) } == 0 {
        return Some(result);
    }
    // SAFETY: `iocb` and `from` are valid, and the inode is locked exclusively, by the caller.
    Some(unsafe { write_on(iocb, from, result) })
}

/// The rest of a write that has come to `result`, but not to its end.
///
/// # Safety
///
/// As [`write`].
#[cold]
unsafe fn write_on(iocb: *mut c::kiocb, from: *mut c::iov_iter, mut result: isize) -> isize {
    let mut written = 0;

    loop {
        written += result.max(0);
        // SAFETY: `from` is valid, by the safety requirements.
        if unsafe { bytes_left(from) } == 0 || result < 0 && !is_poison(result) {
            break;
        }
        // SAFETY: `iocb` and `from` are valid, and the inode is locked exclusively, by the caller.
        match unsafe { rewrite_page(iocb, from) } {
            Ok(0) => break,
            Ok(len) => written += len as isize,
            Err(errno) => {
                result = errno.to_errno() as isize;
                break;
            }
        }
        // SAFETY: `iocb` and `from` are valid, and the inode is locked exclusively, by the caller.
        match unsafe { dax_rw(iocb, from) } {
            Some(next) => result = next,
            None => break,
        }
    }
    match written {
        0 if is_poison(result) => EIO.to_errno() as isize,
        0 => result,
        _ => written,
    }
}

fn is_poison(result: isize) -> bool {
    result == EHWPOISON.to_errno() as isize
}

/// For failed memory that cannot be written anew yet, with no lock held.
pub(super) struct Wait;

impl Wait {
    /// How often in one system call: half a minute is enough for any handler of a failure.
    pub(super) const MAX: u32 = 30_000 / Self::MS;
    const MS: u32 = 20;

    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed.
    pub(super) fn one() -> Result {
        // SAFETY: The caller may sleep.
        unsafe { c::schedule_timeout_killable(msecs_to_jiffies(Self::MS) as ffi::c_long) };
        // SAFETY: The current task is always valid.
        match unsafe { c::fatal_signal_pending(c::get_current()) } {
            0 => Ok(()),
            _ => Err(EINTR),
        }
    }
}

/// Whether failed memory cannot be written anew yet. No program can say so.
fn has_to_settle(result: isize) -> bool {
    result == EJUKEBOX.to_errno() as isize
}

/// Writes the page at `ki_pos` anew if it has failed, and the write covers what the file has of it.
/// Returns how many bytes that were.
///
/// # Errors
///
/// [`EFAULT`] if a page of the source is missing; nothing is written then. [`ENOMEM`]; [`EIO`] if
/// the device is going away, or the page is in use through another file, which is closed;
/// [`EJUKEBOX`] if the failure has not settled ([`Wait`]).
///
/// # Safety
///
/// As [`write`].
#[cold]
unsafe fn rewrite_page(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> Result<usize> {
    // SAFETY: `iocb` is valid, and its file open and mapped, so that the inode has a header.
    let (inode, header, i_size, pos, nowait) = unsafe {
        let inode = (*(*iocb).ki_filp).f_inode;
        let nowait = (*iocb).ki_flags & c::IOCB_NOWAIT != 0;
        (
            inode,
            header(inode),
            i_size(inode),
            (*iocb).ki_pos as u64,
            nowait,
        )
    };
    let failed = || -> Result<Option<(&Device, u64)>> {
        let still = match header.mount().mapped_files.has_leftovers() {
            true => Some(header.mount().tenants.hold_still(nowait)?),
            false => None,
        };
        let Ok(mut mapping) = header.locate(pos, 1, i_size) else {
            return Ok(None);
        };
        let Some(device) = mapping.device else {
            return Ok(None);
        };
        if device.sound_pages(mapping.addr, 1) != Some(0) {
            return Ok(None);
        }
        if let Some(still) = &still {
            mapping
                .cut_at_leftovers(device, header, still)
                // SAFETY: The inode of an open file is in use.
                .map_err(|refusal| unsafe {
                    refused(inode, header, pos, PAGE, c::IOMAP_WRITE, refusal)
                })?;
        }
        Ok(Some((device, mapping.addr)))
    };
    if pos % PAGE != 0 || failed()?.is_none() {
        return Ok(0);
    }
    // Of the size that was looked at above: the server may make the file smaller at any time.
    let end = i_size.min(header.mapped_size);
    let len = PAGE.min(end.saturating_sub(pos)) as usize;
    // SAFETY: `from` is valid, by the safety requirements.
    if unsafe { bytes_left(from) } < len {
        return Ok(0);
    }
    let mut page = KBox::new([0; PAGE_SIZE], GFP_KERNEL)?;
    // A memory failure waits for this.
    let _flushing = Flushing::new(header.mount());
    // SAFETY: As above; `page` has room for `len` bytes.
    let copied = unsafe { c::fuse_dax_fmap_copy_nofault(page.as_mut_ptr().cast(), len, from) };
    // Asked again: the device may have gone away.
    let result = match failed() {
        _ if copied < len => Err(EFAULT),
        Err(errno) => Err(errno),
        Ok(None) => Ok(0),
        Ok(Some((device, addr))) => device.rewrite(addr, &mut page).map(|()| len),
    };
    match result {
        // SAFETY: `iocb` is valid, and the caller alone uses it.
        Ok(1..) => unsafe { (*iocb).ki_pos += len as c::loff_t },
        // SAFETY: This much was taken from it above.
        _ => unsafe { c::iov_iter_revert(from, copied) },
    }
    result
}

/// Whether I/O that came to `result` ended before the end, because of the buffer or for a reason
/// that it will meet again if it goes on.
///
/// # Safety
///
/// `iocb` and `iter` are valid and for a mapped file.
#[inline]
unsafe fn is_cut(iocb: *const c::kiocb, iter: *const c::iov_iter, result: isize) -> bool {
    // No more than the next piece can say.
    if has_to_settle(result) {
        return true;
    }
    if result < 0 && result != EFAULT.to_errno() as isize {
        return false;
    }
    // SAFETY: `iocb` and `iter` are valid, and the file is a mapped one, by the safety
    // requirements.
    unsafe { bytes_left(iter) != 0 && ((*iocb).ki_pos as u64) < end_of_io(iocb) }
}

/// One piece of I/O, without page faults in the buffer. By the time it returns it holds no lock.
type Piece = unsafe fn(*mut c::kiocb, *mut c::iov_iter) -> isize;

/// Does I/O, and goes on as long as only missing pages of the buffer keep it from its end.
///
/// # Safety
///
/// `iocb` and `iter` are valid and for a mapped file, which stays open meanwhile; `piece` asks for
/// no more.
#[inline(always)]
unsafe fn until_done(iocb: *mut c::kiocb, iter: *mut c::iov_iter, piece: Piece) -> isize {
    // SAFETY: The file of `iocb` is open and mapped, by the safety requirements.
    let refusals = unsafe { header((*(*iocb).ki_filp).f_inode) }.refusals();
    // SAFETY: `iocb` and `iter` are valid, which is all that `piece` asks for.
    let result = unsafe { piece(iocb, iter) };

    // SAFETY: `iocb` and `iter` are valid and for a mapped file, by the caller.
    if unsafe { is_cut(iocb, iter, result) } {
        // SAFETY: `iocb`, `iter` and `piece` are the caller's, with the same requirements.
        return unsafe { go_on(iocb, iter, piece, refusals, result) };
    }
    result
}

/// The part of [`until_done`] that is rarely needed.
///
/// # Safety
///
/// As [`until_done`].
#[cold]
unsafe fn go_on(
    iocb: *mut c::kiocb,
    iter: *mut c::iov_iter,
    piece: Piece,
    mut refusals: u32,
    mut result: isize,
) -> isize {
    /// How much of a buffer is faulted in at once.
    const STEP: u64 = 1 << 20;
    /// How often in a row a page of the buffer may be gone again. Memory of the file that the CPU
    /// cannot read looks like that, too, until its failure is reported.
    const TRIES: u32 = 16;
    let (mut done, mut tries, mut waits) = (0, 0, 0);
    // SAFETY: The file of `iocb` is open and mapped, by the safety requirements.
    let (header, flags) = unsafe { (header((*(*iocb).ki_filp).f_inode), (*iocb).ki_flags) };

    loop {
        done += result.max(0);
        tries = if result > 0 { 0 } else { tries + 1 };
        // SAFETY: `iocb` and `iter` are valid and for a mapped file, by the caller.
        if tries > TRIES || unsafe { !is_cut(iocb, iter, result) } {
            break;
        }
        // If something was refused meanwhile, and all of the buffer is there, then it was the rest.
        let refused = header.refusals() != refusals;
        // SAFETY: By the safety requirements `iter` is valid.
        if result > 0 && refused && unsafe { !c::fuse_dax_fmap_is_missing(iter) } {
            break;
        }
        if has_to_settle(result) {
            waits += 1;
            let waited = match flags & c::IOCB_NOWAIT {
                0 if waits > Wait::MAX => Err(EIO),
                0 => Wait::one(),
                _ => Err(EAGAIN),
            };
            if let Err(errno) = waited {
                result = errno.to_errno() as isize;
                break;
            }
            tries = 0;
        }
        // SAFETY: `iocb` and `iter` are valid and for a mapped file, by the caller.
        let wanted = unsafe {
            let left = end_of_io(iocb).saturating_sub((*iocb).ki_pos as u64);
            bytes_left(iter).min(left.min(STEP) as usize)
        };
        // The file may have become smaller, which is for `piece` to say.
        // SAFETY: By the safety requirements `iter` is valid. Nothing is locked.
        if wanted > 0 && unsafe { c::fuse_dax_fmap_fault_in(iter, wanted) } == 0 {
            result = EFAULT.to_errno() as isize;
            break;
        }
        refusals = header.refusals();
        // SAFETY: `iocb` and `iter` are valid, which is all that `piece` asks for.
        result = unsafe { piece(iocb, iter) };
    }
    if done > 0 {
        done
    } else {
        result
    }
}

/// One piece of a read.
///
/// # Safety
///
/// `iocb` and `to` are valid and for a mapped file, which stays open meanwhile.
#[inline(always)]
unsafe fn read_once(iocb: *mut c::kiocb, to: *mut c::iov_iter) -> isize {
    // SAFETY: The file of `iocb` stays open meanwhile.
    let _locked = match unsafe { IoLock::new(iocb, false) } {
        Ok(locked) => locked,
        Err(errno) => return errno.to_errno() as isize,
    };
    // SAFETY: By the safety requirements; locked shared, as reads have to be.
    unsafe { dax_rw(iocb, to) }.unwrap_or(0)
}

/// One piece of a write.
///
/// # Safety
///
/// `iocb` and `from` are valid and for a mapped file, which stays open meanwhile.
#[inline(always)]
unsafe fn write_once(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> isize {
    // SAFETY: The file of `iocb` stays open meanwhile.
    let _locked = match unsafe { IoLock::new(iocb, true) } {
        Ok(locked) => locked,
        Err(errno) => return errno.to_errno() as isize,
    };
    // SAFETY: `iocb` is valid and for a mapped file.
    if unsafe { has_to_ask_server(iocb) } {
        return EAGAIN.to_errno() as isize;
    }
    // SAFETY: `iocb` and `from` are valid, and the inode is locked.
    let checked = unsafe { c::generic_write_checks(iocb, from) };
    if checked <= 0 {
        return checked;
    }
    // SAFETY: `iocb` is valid and for a mapped file, and the inode is locked exclusively.
    let err = unsafe { modified(iocb) };
    if err != 0 {
        return err as isize;
    }
    // A file in memory that is all assigned does not grow: it is full, like a block device.
    // SAFETY: By the safety requirements; locked exclusively, as writes have to be.
    unsafe { write(iocb, from) }.unwrap_or(ENOSPC.to_errno() as isize)
}

/// read(2) and its kin.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
pub(super) unsafe extern "C" fn read_iter(iocb: *mut c::kiocb, to: *mut c::iov_iter) -> isize {
    // SAFETY: The VFS passes valid arguments, for a mapped file.
    let done = unsafe { until_done(iocb, to, read_once) };
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
    // SAFETY: The VFS passes valid arguments, for a mapped file.
    let done = unsafe { until_done(iocb, from, write_once) };
    // SAFETY: `iocb` is valid and for a mapped file.
    unsafe { count_bytes(iocb, Counter::WrittenBytes, done) };
    if done > 0 {
        // SAFETY: `iocb` is valid. Without the inode lock, which fsync may take.
        return unsafe { c::generic_write_sync(iocb, done) };
    }
    done
}

/// Whether a write that must not wait would have to ask the server: for file capabilities, of which
/// it is not known that there are none ([`modified`]), or to make the write durable.
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
    // SAFETY: `iocb` is valid, its file open, and the inode locked exclusively, by the caller.
    unsafe {
        let inode = (*(*iocb).ki_filp).f_inode;
        let ret = c::kiocb_modified(iocb);

        if ret == 0
            && (*inode).i_flags & c::S_NOSEC == 0
            && u32::from((*inode).i_mode) & (c::S_ISUID | c::S_ISGID) == 0
        {
            Inode::new(inode).change_flags(|flags| flags | c::S_NOSEC);
        }
        ret
    }
}
