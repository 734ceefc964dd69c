// SPDX-License-Identifier: GPL-2.0

//! fallocate(2) of a mapped file, which cannot get more memory than its map has.
//!
//! Inside the file there is nothing to allocate, and zeros are written as by write(2): FUSE sends
//! no FALLOCATE. Modes that would change the size or free memory fail with EOPNOTSUPP.

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
    mapping_error::report_error, //
    resolve::Mapping,
};

/// The number of pages of zeros that are written at once.
const BATCH: usize = 32;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// `->fallocate()`: `FALLOC_FL_ALLOCATE_RANGE` and `FALLOC_FL_ZERO_RANGE`, each with or without
/// `FALLOC_FL_KEEP_SIZE`, inside the file.
///
/// # Errors
///
/// `EOPNOTSUPP` for another mode, or a range that does not end inside the file; `ENOSPC` for
/// allocation where the map has a hole (zeroing leaves holes, which read as zeros); `EIO` for an
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
    let result = match mode as u32 & !c::FALLOC_FL_KEEP_SIZE {
        c::FALLOC_FL_ALLOCATE_RANGE => allocate(inode, offset, len),
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

/// Checks that the range has no hole. No byte changes.
fn allocate(inode: MappedInode<'_>, offset: c::loff_t, len: c::loff_t) -> Result {
    ends_inside(inode, offset + len)?;
    let (mut pos, end) = (offset as u64, (offset + len) as u64);
    while pos < end {
        let mapping = piece(inode, pos, end - pos)?;
        if mapping.device.is_none() {
            return Err(ENOSPC);
        }
        pos = mapping.offset + mapping.length;
    }
    Ok(())
}

/// Returns the mapping at `pos`, whose memory may have failed.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed, as a program may return a mapping for each page; [`EIO`]
/// if FUSE has marked the inode bad. Those of a mapping error.
fn piece(inode: MappedInode<'_>, pos: u64, len: u64) -> Result<Mapping<'_>> {
    if fatal_signal_pending() {
        return Err(EINTR);
    }
    if inode.inode.is_bad() {
        return Err(EIO);
    }
    inode
        .header
        .locate(pos, len, inode.inode.size())
        .map_err(|error| report_error(inode.inode, inode.header, pos, len, 0, error))
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
        let mapping = piece(inode, pos, left)?;
        let piece = left.min(mapping.offset + mapping.length - pos);

        if mapping.device.is_none() {
            iocb.advance(piece as usize);
            continue;
        }
        // Up to the end of a page, because failed memory is rewritten by whole pages.
        let piece = piece.min(BATCH as u64 * PAGE - pos % PAGE) as usize;
        let zeros: [&[u8]; BATCH] = [&ZEROS; BATCH];
        let written =
            IovIter::with_source(zeros, piece, |iter| write_locked(iocb, iter, inode, locked));

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
