// SPDX-License-Identifier: GPL-2.0

//! read(2) and write(2) of a mapped file.
//!
//! DAX copies between the memory of the file and the caller's buffer, with page faults in the
//! buffer disabled. If a page of the buffer is missing, the copy ends there; the page is faulted in
//! with no lock held, and the I/O continues. Such a fault may take as long as another server likes.
//! FUSE may mark the inode bad during it, the device may be removed, and other tasks may need the
//! file.
//!
//! I/O on an inode that FUSE has marked bad is EIO, as in FUSE. The module drops the inode's memory
//! (`bad_inodes`), and the server may give it to another file.

use kernel::{
    ffi,
    page::PAGE_SIZE,
    prelude::*,
    time::msecs_to_jiffies, //
};

use crate::{
    abstractions::{
        fs::{
            dax,
            kiocb::Kiocb, //
        },
        iov::IovIter,
        sync::rw_semaphore::{
            ReadGuard,
            WriteGuard, //
        },
        task, //
    },
    bindings::kernel as c,
    compat::EHWPOISON,
    daxdev::Device,
    stats::{
        Counter,
        DeviceCounter, //
    }, //
};

use super::{
    mapped_inode::{
        Io,
        MappedInode,
        PAGE, //
    },
    mapping_error::report_error,
    ownership::Flushing, //
    resolve::IOMAP_OPS,
};

/// `inode->i_rwsem`, held for I/O. FUSE holds it while the server answers a SETATTR, so the wait
/// for it is killable.
pub(super) enum IoLock<'a> {
    Shared(#[expect(dead_code)] ReadGuard<'a>),
    Exclusive(#[expect(dead_code)] WriteGuard<'a>),
}

impl<'a> IoLock<'a> {
    /// # Errors
    ///
    /// [`EAGAIN`] if the lock is taken and `IOCB_NOWAIT` is set; [`EINTR`] if the task is being
    /// killed; [`EIO`] for a write, if FUSE has marked the inode bad.
    #[inline]
    pub(super) fn new(iocb: &Kiocb, inode: MappedInode<'a>, exclusive: bool) -> Result<Self> {
        let sem = inode.inode.rwsem();
        let locked = match (iocb.flags() & c::IOCB_NOWAIT != 0, exclusive) {
            (false, false) => Self::Shared(sem.read_killable()?),
            (false, true) => Self::Exclusive(sem.write_killable()?),
            (true, false) => Self::Shared(sem.try_read().ok_or(EAGAIN)?),
            (true, true) => Self::Exclusive(sem.try_write().ok_or(EAGAIN)?),
        };

        // A read finds that in `iomap_begin()`.
        if exclusive && inode.inode.is_bad() {
            inode.sbi().look_for_bad();
            return Err(EIO);
        }
        Ok(locked)
    }
}

/// Does I/O through DAX up to the end of I/O, or to a page that is missing in the buffer. The inode
/// is locked as DAX requires.
///
/// Returns `None` if `ki_pos` is not before the end of I/O.
fn dax_rw(
    iocb: &Kiocb,
    iter: &IovIter,
    inode: MappedInode<'_>,
    _locked: &IoLock<'_>,
) -> Option<isize> {
    let header = inode.header;
    let end = inode.end_of_io();
    let left = end.saturating_sub(iocb.pos().max(0) as u64);
    if left == 0 {
        return None;
    }

    // A mount with a mapped file has `users`. A memory failure waits for each step of this, before
    // its page is unmapped from the direct map.
    let Some(users) = header.sbi().ownership.users_of_mapped() else {
        return Some(EIO.to_errno() as isize);
    };
    // SAFETY: `inode` is mapped, and locked.
    let mut done = unsafe { dax::iomap_rw_nofault(iocb, iter, left, &IOMAP_OPS, users) };
    // DAX returns 0 for a hole.
    if done == 0 && iter.count() > 0 && (iocb.pos() as u64) < inode.end_of_io() {
        done = EFAULT.to_errno() as isize;
    }
    // If the device is removed during the copy, DAX returns ENXIO or EFAULT, as for a bad device or
    // a bad buffer.
    if done < 0 && header.device_has_failed(iocb.pos() as u64, end) {
        return Some(EIO.to_errno() as isize);
    }
    Some(done)
}

/// [`dax_rw`] for a write, which rewrites failed memory where it covers a whole page. The inode is
/// locked exclusively.
#[inline]
pub(super) fn write_locked(
    iocb: &Kiocb,
    from: &IovIter,
    inode: MappedInode<'_>,
    locked: &IoLock<'_>,
) -> Option<isize> {
    let result = dax_rw(iocb, from, inode, locked)?;

    if from.count() == 0 {
        return Some(result);
    }
    Some(write_on(iocb, from, inode, locked, result))
}

/// Continues a write that returned `result` before its end.
#[cold]
fn write_on(
    iocb: &Kiocb,
    from: &IovIter,
    inode: MappedInode<'_>,
    locked: &IoLock<'_>,
    mut result: isize,
) -> isize {
    let mut written = 0;

    loop {
        written += result.max(0);
        if from.count() == 0 || result < 0 && !is_poison(result) {
            break;
        }
        match rewrite_page(iocb, from, inode) {
            Ok(0) => break,
            Ok(len) => written += len as isize,
            Err(errno) => {
                result = errno.to_errno() as isize;
                break;
            }
        }
        match dax_rw(iocb, from, inode, locked) {
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

/// The wait for failed memory that cannot be rewritten yet, with no lock held.
pub(super) struct Wait;

impl Wait {
    /// The most waits in one system call: half a minute is enough for any failure handler.
    pub(super) const MAX: u32 = 30_000 / Self::MS;
    const MS: u32 = 20;

    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed.
    pub(super) fn one() -> Result {
        task::sleep_killable(msecs_to_jiffies(Self::MS));
        if task::fatal_signal_pending() {
            return Err(EINTR);
        }
        Ok(())
    }
}

/// Returns true if failed memory cannot be rewritten yet. A program cannot return this errno.
fn is_unsettled(result: isize) -> bool {
    result == EJUKEBOX.to_errno() as isize
}

/// Rewrites the page at `ki_pos` if it has failed, and the write covers all that the file has of
/// it. The inode is locked exclusively. Returns the number of bytes written.
///
/// # Errors
///
/// [`EFAULT`] if a page of the source is missing; nothing is written then. [`ENOMEM`]; [`EAGAIN`]
/// if it would have to wait and must not; [`EIO`] if the device is going away, the page is in use
/// through another file, which is closed, or FUSE has marked the inode bad; [`EJUKEBOX`] if the
/// failure has not settled ([`Wait`]).
#[cold]
fn rewrite_page(iocb: &Kiocb, from: &IovIter, inode: MappedInode<'_>) -> Result<usize> {
    let header = inode.header;
    let (i_size, pos) = (inode.inode.size(), iocb.pos() as u64);
    let nowait = iocb.flags() & c::IOCB_NOWAIT != 0;
    let failed = || -> Result<Option<(&Device, u64)>> {
        if inode.inode.is_bad() {
            inode.sbi().look_for_bad();
            return Err(EIO);
        }
        let still = match header.sbi().mapped_files.has_leftovers() {
            true => Some(header.sbi().ownership.lock_shared(nowait)?),
            false => None,
        };
        let Ok(mut mapping) = header.locate(pos, 1, i_size) else {
            return Ok(None);
        };
        let Some(device) = mapping.device else {
            return Ok(None);
        };
        if device.healthy_pages(mapping.addr, 1) != Some(0) {
            return Ok(None);
        }
        let cut = match &still {
            Some(still) => mapping.cut_at_leftovers(device, header, still),
            None => Ok(()),
        };
        // A report may allocate memory, and reclaim may wait for this lock.
        drop(still);
        cut.map_err(|error| report_error(inode.inode, header, pos, PAGE, c::IOMAP_WRITE, error))?;
        Ok(Some((device, mapping.addr)))
    };
    if pos % PAGE != 0 || failed()?.is_none() {
        return Ok(0);
    }
    // Use the size that was checked above: the server may make the file smaller at any time.
    let end = i_size.min(header.mapped_size);
    let len = PAGE.min(end.saturating_sub(pos)) as usize;
    if from.count() < len {
        return Ok(0);
    }
    let mut page = KBox::new([0; PAGE_SIZE], GFP_KERNEL)?;
    // A memory failure waits until this is dropped.
    let _flushing = Flushing::new(header.sbi());
    let copied = from.copy_from_nofault(page.get_mut(..len).ok_or(EIO)?);
    // Checked again, as the device may have been removed.
    let result = match failed() {
        _ if copied < len => Err(EFAULT),
        Err(errno) => Err(errno),
        Ok(None) => Ok(0),
        // SAFETY: `failed()` has validated the mapping just above.
        Ok(Some((device, addr))) => unsafe { device.rewrite(addr, &mut page) }.map(|()| {
            device.stats.add(DeviceCounter::WrittenBytes, len as u64);
            len
        }),
    };
    match result {
        Ok(1..) => iocb.advance(len),
        // SAFETY: `copied` bytes were taken from `from` above.
        _ => unsafe { from.revert(copied) },
    }
    result
}

/// Returns true if I/O that returned `result` ended early because of the buffer, or for a reason
/// that it will meet again if it continues.
#[inline]
fn is_cut(iocb: &Kiocb, iter: &IovIter, inode: MappedInode<'_>, result: isize) -> bool {
    // Only another piece can tell whether the memory can be rewritten now.
    if is_unsettled(result) {
        return true;
    }
    if result < 0 && result != EFAULT.to_errno() as isize {
        return false;
    }
    iter.count() != 0 && (iocb.pos() as u64) < inode.end_of_io()
}

/// One piece of I/O, without page faults in the buffer. It has dropped its locks when it returns.
type Piece = fn(&Kiocb, &IovIter, MappedInode<'_>) -> isize;

/// Does I/O, and continues as long as only missing pages of the buffer end it early.
#[inline(always)]
fn until_done(iocb: &Kiocb, iter: &IovIter, inode: MappedInode<'_>, piece: Piece) -> isize {
    let errors = inode.header.errors();
    let result = piece(iocb, iter, inode);

    if is_cut(iocb, iter, inode, result) {
        return go_on(iocb, iter, inode, piece, errors, result);
    }
    result
}

/// The slow path of [`until_done`].
#[cold]
fn go_on(
    iocb: &Kiocb,
    iter: &IovIter,
    inode: MappedInode<'_>,
    piece: Piece,
    mut errors: u32,
    mut result: isize,
) -> isize {
    /// The most bytes of a buffer that are faulted in at once.
    const STEP: u64 = 1 << 20;
    /// The most times in a row that a page of the buffer may be missing again. Memory of the file
    /// that the CPU cannot read looks the same, until its failure is reported.
    const TRIES: u32 = 16;
    let (mut done, mut tries, mut waits) = (0, 0, 0);

    loop {
        done += result.max(0);
        tries = if result > 0 { 0 } else { tries + 1 };
        if tries > TRIES || !is_cut(iocb, iter, inode, result) {
            break;
        }
        // If there was a mapping error, and no page of the buffer is missing, the error ended the
        // I/O.
        let has_error = inode.header.errors() != errors;
        if result > 0 && has_error && !iter.is_missing() {
            break;
        }
        if is_unsettled(result) {
            waits += 1;
            let waited = match iocb.flags() & c::IOCB_NOWAIT {
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
        let left = inode.end_of_io().saturating_sub(iocb.pos() as u64);
        let wanted = iter.count().min(left.min(STEP) as usize);
        // The file may have become smaller, which `piece` will find. No lock is held.
        if wanted > 0 && iter.fault_in(wanted) == 0 {
            result = EFAULT.to_errno() as isize;
            break;
        }
        errors = inode.header.errors();
        result = piece(iocb, iter, inode);
    }
    if done > 0 {
        done
    } else {
        result
    }
}

/// Does one piece of a read.
#[inline(always)]
fn read_once(iocb: &Kiocb, to: &IovIter, inode: MappedInode<'_>) -> isize {
    let locked = match IoLock::new(iocb, inode, false) {
        Ok(locked) => locked,
        Err(errno) => return errno.to_errno() as isize,
    };
    match dax_rw(iocb, to, inode, &locked) {
        Some(result) => result,
        None if inode.inode.is_bad() => EIO.to_errno() as isize,
        None => 0,
    }
}

/// Does one piece of a write.
#[inline(always)]
fn write_once(iocb: &Kiocb, from: &IovIter, inode: MappedInode<'_>) -> isize {
    let locked = match IoLock::new(iocb, inode, true) {
        Ok(locked) => locked,
        Err(errno) => return errno.to_errno() as isize,
    };
    if has_to_ask_server(iocb, inode) {
        return EAGAIN.to_errno() as isize;
    }
    let checked = iocb.write_checks(from);
    if checked <= 0 {
        return checked;
    }
    let err = modified(iocb, inode);
    if err != 0 {
        return err as isize;
    }
    // A mapped file gets no more memory, so it does not grow: it is full, like a block device.
    write_locked(iocb, from, inode, &locked).unwrap_or(ENOSPC.to_errno() as isize)
}

/// Reads from `inode`, through any of its files.
#[inline]
pub(super) fn read(iocb: &Kiocb, to: &IovIter, inode: MappedInode<'_>) -> isize {
    let done = until_done(iocb, to, inode, read_once);

    count_read(inode, done);
    done
}

/// `->read_iter()`.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
pub(super) unsafe extern "C" fn read_iter(iocb: *mut c::kiocb, to: *mut c::iov_iter) -> isize {
    // SAFETY: `iocb` and `to` are the VFS's, and the file is a mapped one.
    let io = unsafe { Io::new(iocb, to) };

    read(io.iocb, io.iter, io.inode)
}

/// `->write_iter()`.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
pub(super) unsafe extern "C" fn write_iter(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> isize {
    // SAFETY: `iocb` and `from` are the VFS's, and the file is a mapped one.
    let io = unsafe { Io::new(iocb, from) };
    let done = until_done(io.iocb, io.iter, io.inode, write_once);

    count_written(io.inode, done);
    if done > 0 {
        // The inode lock is not held, as fsync may take it.
        return io.iocb.write_sync(done);
    }
    done
}

/// Returns true if a write that must not wait would have to ask the server: for file capabilities,
/// unless it is known that there are none ([`modified`]), or to make the write durable.
fn has_to_ask_server(iocb: &Kiocb, inode: MappedInode<'_>) -> bool {
    let flags = iocb.flags();

    flags & c::IOCB_NOWAIT != 0
        && (inode.inode.flags() & c::S_NOSEC == 0
            || flags & c::IOCB_DSYNC != 0 && inode.inode.server_wants_fsync())
}

/// Counts the bytes of a read.
fn count_read(inode: MappedInode<'_>, done: isize) {
    if let Ok(bytes @ 1..) = u64::try_from(done) {
        inode.header.counts.add(Counter::ReadBytes, bytes);
        inode.header.published().listed.read_bytes.add(bytes);
    }
}

/// Counts the bytes of a write.
pub(super) fn count_written(inode: MappedInode<'_>, done: isize) {
    if let Ok(bytes @ 1..) = u64::try_from(done) {
        inode.header.counts.add(Counter::WrittenBytes, bytes);
        inode.header.published().listed.written_bytes.add(bytes);
    }
}

/// Removes privileges and updates times before a write. The inode is locked exclusively. Returns an
/// errno, or 0.
///
/// FUSE asks its server for file capabilities before every write, unless the inode is known to have
/// none. After the first time that is known, until a task sets them through this mount or the
/// server's attributes change: both clear S_NOSEC.
pub(super) fn modified(iocb: &Kiocb, inode: MappedInode<'_>) -> ffi::c_int {
    let ret = iocb.modified();
    let inode = inode.inode;

    if ret == 0 && inode.flags() & c::S_NOSEC == 0 && inode.mode() & (c::S_ISUID | c::S_ISGID) == 0
    {
        inode.change_flags(|flags| flags | c::S_NOSEC);
    }
    ret
}
