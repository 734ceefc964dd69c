// SPDX-License-Identifier: GPL-2.0

//! fallocate(2) of a mapped file, which has all the memory it will ever have.
//!
//! Inside the file there is nothing to allocate, and zeros are written as write(2) would write
//! them: the server is not asked. What would change the size, or give memory back, fails with
//! EOPNOTSUPP.

use core::mem::MaybeUninit;

use kernel::{
    error::to_result,
    ffi,
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::{
    bindings::kernel as c,
    fuse::Inode,
    stats::Counter, //
};

use super::{
    header,
    i_size,
    io::{
        count_bytes,
        modified,
        write,
        IoLock, //
        Wait,
    },
    judge::{
        refused,
        Mapping, //
    },
    Header,
    PAGE, //
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
    let result = match mode as u32 & !c::FALLOC_FL_KEEP_SIZE {
        // SAFETY: `file` is an open mapped one, by the safety requirements.
        c::FALLOC_FL_ALLOCATE_RANGE => unsafe { allocate(file, offset, len) },
        // SAFETY: `file` is an open mapped one, by the safety requirements.
        c::FALLOC_FL_ZERO_RANGE => unsafe { zero(file, offset, len) },
        _ => Err(EOPNOTSUPP),
    };
    result.map_or_else(|errno| errno.to_errno() as ffi::c_long, |()| 0)
}

/// Whether `end` is not behind the end of I/O: the smaller of the file's size and its mapped size.
///
/// # Safety
///
/// `inode` is a mapped one, and in use.
unsafe fn ends_inside(inode: *const c::inode, end: c::loff_t) -> Result {
    // SAFETY: `inode` is mapped and in use, by the safety requirements.
    let inside = unsafe { i_size(inode).min(header(inode).mapped_size) };

    if end as u64 > inside {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}

/// Says whether the range is all memory; no byte changes.
///
/// # Safety
///
/// As [`fallocate`].
unsafe fn allocate(file: *mut c::file, offset: c::loff_t, len: c::loff_t) -> Result {
    // SAFETY: The inode of an open file is in use.
    let inode = unsafe { (*file).f_inode };

    // SAFETY: As above; the file is a mapped one by the safety requirements.
    unsafe { ends_inside(inode, offset + len) }?;
    // SAFETY: `inode` is in use, as its file is open.
    if unsafe { Inode::new(inode) }.is_bad() {
        return Err(EIO);
    }
    // SAFETY: As above; the inode stays in use meanwhile.
    let (header, mut pos, end) = unsafe { (header(inode), offset as u64, (offset + len) as u64) };
    while pos < end {
        // SAFETY: `inode` is mapped and in use, and `header` its.
        let mapping = unsafe { piece(inode, header, pos, end - pos) }?;
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
///
/// # Safety
///
/// `inode` is a mapped one, and in use; `header` is its.
unsafe fn piece<'a>(
    inode: *const c::inode,
    header: &'a Header,
    pos: u64,
    len: u64,
) -> Result<Mapping<'a>> {
    // SAFETY: The current task is always valid.
    if unsafe { c::fatal_signal_pending(c::get_current()) } != 0 {
        return Err(EINTR);
    }
    // SAFETY: `inode` is in use, by the safety requirements.
    let i_size = unsafe { i_size(inode) };
    header
        .locate(pos, len, i_size)
        // SAFETY: `inode` is mapped and in use, by the safety requirements.
        .map_err(|refusal| unsafe { refused(inode, header, pos, len, 0, refusal) })
}

/// Writes zeros, and makes them durable if the file was opened so.
///
/// # Safety
///
/// As [`fallocate`].
unsafe fn zero(file: *mut c::file, offset: c::loff_t, len: c::loff_t) -> Result {
    let mut iocb = c::kiocb {
        ki_filp: file,
        ki_pos: offset,
        // SAFETY: The VFS keeps the file open meanwhile.
        ki_flags: unsafe { (*file).f_iocb_flags } as ffi::c_int,
        ..pin_init::zeroed()
    };
    let mut waits = 0;
    loop {
        // SAFETY: The VFS keeps the file open meanwhile, so its inode stays in use.
        let locked = unsafe { IoLock::new(&iocb, true) }?;

        // SAFETY: The inode of an open file is in use; the file is a mapped one by the safety
        // requirements.
        unsafe { ends_inside((*file).f_inode, offset + len) }?;
        // SAFETY: `iocb` is valid, for this file, and the inode is locked exclusively.
        to_result(unsafe { modified(&mut iocb) })?;
        // SAFETY: `iocb` is valid, for this file, and the inode is locked exclusively.
        let result = unsafe { write_zeros(&mut iocb, offset + len) };
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
    // SAFETY: As above; without the inode lock, which fsync may take.
    let synced = unsafe { c::generic_write_sync(&mut iocb, len as isize) };
    if synced < 0 {
        return to_result(synced as ffi::c_int);
    }
    Ok(())
}

/// Writes zeros from `iocb.ki_pos` to `end`, but for holes.
///
/// # Safety
///
/// `iocb` is valid and for a mapped file, whose inode is locked exclusively.
unsafe fn write_zeros(iocb: &mut c::kiocb, end: c::loff_t) -> Result {
    // SAFETY: The file of `iocb` is open and mapped, by the safety requirements.
    let (inode, header) = unsafe {
        let inode = (*iocb.ki_filp).f_inode;
        (inode, header(inode))
    };
    while iocb.ki_pos < end {
        let (pos, left) = (iocb.ki_pos as u64, (end - iocb.ki_pos) as u64);

        // SAFETY: `inode` is mapped and in use, as its file is open, and `header` its.
        let mapping = unsafe { piece(inode, header, pos, left) }?;
        let piece = left.min(mapping.offset + mapping.length - pos);

        if mapping.device.is_none() {
            iocb.ki_pos += piece as c::loff_t;
            continue;
        }
        // Up to the end of a page, because memory that has failed is written by whole ones.
        let piece = piece.min(BATCH as u64 * PAGE - pos % PAGE) as usize;
        let source = [c::kvec {
            iov_base: ZEROS.as_ptr().cast_mut().cast(),
            iov_len: PAGE_SIZE,
        }; BATCH];
        let mut iter = MaybeUninit::<c::iov_iter>::uninit();

        // SAFETY: `source` and the zeros it names are valid as long as `iter`, and are only read.
        unsafe {
            c::iov_iter_kvec(
                iter.as_mut_ptr(),
                c::ITER_SOURCE,
                source.as_ptr(),
                BATCH,
                piece,
            );
        }
        // SAFETY: `iter` was made above; the rest by the safety requirements.
        match unsafe { write(iocb, iter.as_mut_ptr()) } {
            None | Some(0) => return Err(EIO),
            Some(done) => {
                // SAFETY: `iocb` is valid and for a mapped file, by the safety requirements.
                unsafe { count_bytes(iocb, Counter::WrittenBytes, done) };
                to_result(done.min(0) as ffi::c_int)?;
            }
        }
    }
    Ok(())
}
