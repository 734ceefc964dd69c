// SPDX-License-Identifier: GPL-2.0

//! fallocate(2) of a mapped file, which cannot get more memory than its map has.
//!
//! Inside the file there is nothing to allocate, and zeros are written as by write(2): FUSE sends
//! no FALLOCATE. A file that can grow grows inside its capacity. Modes that would change another
//! file's size, or free memory, fail with EOPNOTSUPP.

use kernel::{
    error::to_result,
    ffi,
    fs::LocalFile,
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::{
    abstractions::{
        fs::kiocb::Kiocb,
        iov::IovIter,
        task::fatal_signal_pending, //
    },
    bindings::kernel as c,
    compat::EOPNOTSUPP, //
};

use super::{
    gates::wait_in_io,
    io::{
        count_written,
        modified,
        write_locked,
        IoLock,
        Wait, //
    },
    mapped_inode::{
        open_file,
        MappedInode,
        PAGE, //
    },
    mapping_error::{
        report_error,
        MappingError,
        GATE, //
    }, //
    punch::punch,
    resolve::page_end,
    room::ask_for_room,
    size::Resizing,
};

/// The number of pages of zeros that are written at once.
const BATCH: usize = 32;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// `->fallocate()`: `FALLOC_FL_ALLOCATE_RANGE` and `FALLOC_FL_ZERO_RANGE`, each with or without
/// `FALLOC_FL_KEEP_SIZE`, inside the file.
///
/// # Errors
///
/// `EOPNOTSUPP` for another mode, or a range that does not end inside a file that cannot grow;
/// `ENOSPC` for one that ends beyond the capacity, and for allocation where the map has a hole
/// (zeroing leaves holes, which read as zeros); `EIO` for an
/// inode that FUSE has marked bad, a device that has failed, or failed memory that is not zeroed by
/// whole pages; `EINTR` if the task is being killed, with part of the range zeroed.
///
/// # Safety
///
/// Called by the VFS for an open mapped file, with a range that ends before `i64::MAX`.
pub(super) unsafe extern "C" fn fallocate(
    file: *mut c::file,
    mode: ffi::c_int,
    offset: c::loff_t,
    len: c::loff_t,
) -> ffi::c_long {
    // SAFETY: `file` is open, and its inode mapped, by the safety requirements.
    let (file, inode) = unsafe { open_file(file) };
    let keep_size = mode as u32 & c::FALLOC_FL_KEEP_SIZE != 0;
    let result = match mode as u32 & !c::FALLOC_FL_KEEP_SIZE {
        c::FALLOC_FL_ALLOCATE_RANGE if inode.sbi().resizes => room(inode, offset + len)
            .and_then(|()| has_no_hole(inode, offset, len))
            .and_then(|()| grow(file, inode, offset + len, keep_size)),
        c::FALLOC_FL_ZERO_RANGE if inode.sbi().resizes => room(inode, offset + len)
            .and_then(|()| zero_inside(file, inode, offset, len))
            .and_then(|()| grow(file, inode, offset + len, keep_size)),
        c::FALLOC_FL_PUNCH_HOLE if inode.sbi().resizes => punch_hole(file, inode, offset, len),
        c::FALLOC_FL_ALLOCATE_RANGE => {
            ends_inside(inode, offset + len).and_then(|()| has_no_hole(inode, offset, len))
        }
        c::FALLOC_FL_ZERO_RANGE => zero(file, inode, offset, len),
        _ => Err(EOPNOTSUPP),
    };
    result.map_or_else(|errno| errno.to_errno() as ffi::c_long, |()| 0)
}

/// Returns an error if `end` is beyond the end of I/O.
fn ends_inside(inode: MappedInode<'_>, end: c::loff_t) -> Result {
    if end as u64 > inode.end_of_io() {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}

/// Makes sure that `end` is not beyond the capacity of a file that can grow.
fn room(inode: MappedInode<'_>, end: c::loff_t) -> Result {
    if inode.inode.is_bad() {
        return Err(EIO);
    }
    if end as u64 > inode.published.capacity() {
        ask_for_room(inode, end as u64)?;
    }
    if end as u64 > inode.published.capacity() {
        return Err(ENOSPC);
    }
    Ok(())
}

/// Makes a file that can grow end at `end`, with zeros, unless it is longer, or `keep_size`. Then
/// reports its size: a program that calls fallocate(2) before it maps the file with MAP_SYNC needs
/// that.
fn grow(file: &LocalFile, inode: MappedInode<'_>, end: c::loff_t, keep_size: bool) -> Result {
    if !keep_size {
        Kiocb::with_sync(file, end, |iocb| {
            let _locked = IoLock::new(iocb, inode, true)?;
            if inode.inode.size() >= end as u64 {
                return Ok(());
            }
            // SAFETY: `i_rwsem` is held exclusively.
            let resizing = unsafe { Resizing::new(inode) }.ok_or(EOPNOTSUPP)?;
            // SAFETY: The inode is in use. This may send SIGXFSZ to the task.
            to_result(unsafe { c::inode_newsize_ok(inode.inode.as_raw(), end) })?;
            to_result(modified(iocb, inode))?;
            resizing.grow(end as u64)
        })?;
    }
    inode.report()
}

/// Makes a range read as zeros. The server may take back its whole pages.
fn punch_hole(
    file: &LocalFile,
    inode: MappedInode<'_>,
    offset: c::loff_t,
    len: c::loff_t,
) -> Result {
    let size = inode.inode.size();
    let (start, mut end) = (offset as u64, (offset + len) as u64);
    if start >= size {
        return Ok(());
    }
    // A page that ends behind the file has no other bytes.
    if end >= size {
        end = page_end(size);
    }
    let (first, last) = (page_end(start), end - end % PAGE);
    Kiocb::with_sync(file, offset, |iocb| {
        let _locked = IoLock::new(iocb, inode, true)?;
        to_result(modified(iocb, inode))
    })?;

    if first >= last {
        return zero_inside(file, inode, offset, len);
    }
    punch(inode, (first, last))?;
    for (from, to) in [(start, first), (last, end)] {
        if from < to {
            zero_inside(file, inode, from as c::loff_t, (to - from) as c::loff_t)?;
        }
    }
    Ok(())
}

/// Writes zeros to what is inside the file.
fn zero_inside(
    file: &LocalFile,
    inode: MappedInode<'_>,
    offset: c::loff_t,
    len: c::loff_t,
) -> Result {
    match len.min(inode.inode.size() as c::loff_t - offset) {
        inside @ 1.. => zero(file, inode, offset, inside),
        _ => Ok(()),
    }
}

/// Checks that the range has no hole. No byte changes.
fn has_no_hole(inode: MappedInode<'_>, offset: c::loff_t, len: c::loff_t) -> Result {
    let (mut pos, end) = (offset as u64, (offset + len) as u64);
    while pos < end {
        let piece = piece(inode, pos, end - pos)?;
        if piece.is_hole {
            return Err(ENOSPC);
        }
        pos = piece.end;
    }
    Ok(())
}

/// What the map has at a position, up to `end`. The memory may have failed.
struct Piece {
    is_hole: bool,
    end: u64,
}

/// Returns what the map has at `pos`.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed, as a program may return a mapping for each page; [`EIO`]
/// if FUSE has marked the inode bad. Those of a mapping error.
fn piece(inode: MappedInode<'_>, pos: u64, len: u64) -> Result<Piece> {
    if fatal_signal_pending() {
        return Err(EINTR);
    }
    if inode.inode.is_bad() {
        return Err(EIO);
    }
    let map = inode.map();
    // Gates do not matter to a look.
    let mapping = match pos < inode.end_of_write() {
        true => map.locate_any(pos, len),
        false => Err(MappingError::BeyondFile),
    };
    let mapping =
        mapping.map_err(|error| report_error(inode.inode, inode.published, pos, len, 0, error))?;

    Ok(Piece {
        is_hole: mapping.device.is_none(),
        end: mapping.offset + mapping.length,
    })
}

/// Writes zeros, and makes them durable if the file is synchronous.
fn zero(file: &LocalFile, inode: MappedInode<'_>, offset: c::loff_t, len: c::loff_t) -> Result {
    Kiocb::with_sync(file, offset, |iocb| {
        let mut waits = 0;
        loop {
            let locked = IoLock::new(iocb, inode, true)?;

            ends_inside(inode, offset + len)?;
            to_result(modified(iocb, inode))?;
            let result = write_zeros(iocb, inode, &locked, offset + len);
            drop(locked);
            match result {
                // The page can be rewritten once the failure is handled; it may fail again before
                // that.
                Err(EJUKEBOX) if waits < Wait::MAX => {
                    waits += 1;
                    Wait::one()?;
                }
                Err(EJUKEBOX) => return Err(EIO),
                Err(GATE) => wait_in_io(inode, iocb.pos() as u64, iocb.pos() as u64 + 1)?,
                result => break result?,
            }
        }
        // The inode lock is not held, as fsync may take it.
        let synced = iocb.write_sync(len as isize);
        if synced < 0 {
            return to_result(synced as ffi::c_int);
        }
        Ok(())
    })
}

/// Writes zeros from `iocb.ki_pos` to `end`, except to holes.
fn write_zeros(
    iocb: &Kiocb,
    inode: MappedInode<'_>,
    locked: &IoLock<'_>,
    end: c::loff_t,
) -> Result {
    while iocb.pos() < end {
        let (pos, left) = (iocb.pos() as u64, (end - iocb.pos()) as u64);
        let piece = piece(inode, pos, left)?;
        let length = left.min(piece.end - pos);

        if piece.is_hole {
            iocb.advance(length as usize);
            continue;
        }
        // Up to the end of a page, because failed memory is rewritten by whole pages.
        let length = length.min(BATCH as u64 * PAGE - pos % PAGE) as usize;
        let zeros: [&[u8]; BATCH] = [&ZEROS; BATCH];
        let written = IovIter::with_source(zeros, length, |iter| {
            write_locked(iocb, iter, inode, locked)
        });

        match written {
            None | Some(0) => return Err(EIO),
            Some(done) => {
                count_written(inode, done);
                to_result(done.min(0) as ffi::c_int)?;
            }
        }
    }
    Ok(())
}
