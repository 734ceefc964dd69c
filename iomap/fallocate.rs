// SPDX-License-Identifier: GPL-2.0

//! fallocate(2) of a mapped file, which has all the memory it will ever have.
//!
//! Inside the file there is nothing to allocate, and zeros are written as write(2) would write
//! them: the server is not asked. What would change the size, or give memory back, fails with
//! EOPNOTSUPP.

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
    stats::Counter, //
};

use super::{
    io::{
        count_bytes,
        modified,
        write_locked,
        IoLock,
        Wait, //
    },
    resolve::Mapping,
    mapped_inode::{
        open_file,
        MappedInode,
        PAGE, //
    },
    mapping_error::report_error, //
};

/// So many pages of zeros are written at once.
const BATCH: usize = 32;

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// `->fallocate()`: `FALLOC_FL_ZERO_RANGE`, and allocation, both with or without
/// `FALLOC_FL_KEEP_SIZE`, inside the file.
///
/// # Errors
///
/// `EOPNOTSUPP` for another mode, or a range that does not end inside the file; `ENOSPC` for
/// allocation where the map has a hole (zeroing leaves holes as they are: they read as zeros);
/// `EIO` for an inode that FUSE has marked bad, a device that has failed, or failed memory that is
/// not zeroed by whole pages; `EINTR` if the task is being killed, with part of the range zeroed.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file, with a range that ends before `i64::MAX`.
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

/// Whether `end` is not behind the end of I/O.
fn ends_inside(inode: MappedInode<'_>, end: c::loff_t) -> Result {
    if end as u64 > inode.end_of_io() {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}

/// Says whether the range is all memory; no byte changes.
fn allocate(inode: MappedInode<'_>, offset: c::loff_t, len: c::loff_t) -> Result {
    ends_inside(inode, offset + len)?;
    if inode.inode.is_bad() {
        return Err(EIO);
    }
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

/// The mapping at `pos`, where the memory may have failed.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed: a program may call every page a mapping of its own. Those
/// of a mapping that is refused.
fn piece(inode: MappedInode<'_>, pos: u64, len: u64) -> Result<Mapping<'_>> {
    if fatal_signal_pending() {
        return Err(EINTR);
    }
    inode
        .header
        .locate(pos, len, inode.inode.size())
        .map_err(|error| report_error(inode.inode, inode.header, pos, len, 0, error))
}

/// Writes zeros, and makes them durable if the file was opened so.
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
                // What has failed can be written soon; it may fail once more meanwhile.
                Err(EJUKEBOX) if waits < Wait::MAX => {
                    waits += 1;
                    Wait::one()?;
                }
                Err(EJUKEBOX) => return Err(EIO),
                result => break result?,
            }
        }
        // Without the inode lock, which fsync may take.
        let synced = iocb.write_sync(len as isize);
        if synced < 0 {
            return to_result(synced as ffi::c_int);
        }
        Ok(())
    })
}

/// Writes zeros from `iocb.ki_pos` to `end`, but for holes.
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
        // Up to the end of a page, because memory that has failed is written by whole ones.
        let piece = piece.min(BATCH as u64 * PAGE - pos % PAGE) as usize;
        let zeros: [&[u8]; BATCH] = [&ZEROS; BATCH];
        let written =
            IovIter::with_source(zeros, piece, |iter| write_locked(iocb, iter, inode, locked));

        match written {
            None | Some(0) => return Err(EIO),
            Some(done) => {
                count_bytes(inode, Counter::WrittenBytes, done);
                to_result(done.min(0) as ffi::c_int)?;
            }
        }
    }
    Ok(())
}
