// SPDX-License-Identifier: GPL-2.0

//! What a mapped file says of itself: where it has data and holes (lseek), and where they are
//! (FIEMAP).
//!
//! Both ask the program for one mapping after the other, and judge each as any other. What the file
//! size promises beyond the mapped size is a hole. A map does not change, so no lock is held
//! meanwhile: a program may call every page a mapping of its own, and then this takes as long as
//! its caller lives.
//!
//! FIEMAP has no place for a device: `fe_physical` is the byte inside the device of that extent.
//! Files on several devices are not told apart.

use kernel::{
    ffi,
    prelude::*, //
};

use crate::{
    bindings::kernel as c,
    fuse::Inode, //
};

use super::{
    file::is_mapped,
    header,
    i_size,
    judge::{
        page_end,
        refused, //
    },
    state,
    writeback::write_back_range,
    State, //
};

/// For asking: no fault, no tenant, no lock.
static REPORT_OPS: c::iomap_ops = c::iomap_ops {
    iomap_begin: Some(iomap_begin),
    ..pin_init::zeroed()
};

/// `iomap_begin()` for who only wants to know.
///
/// # Safety
///
/// Called by iomap for a mapped inode that is in use.
unsafe extern "C" fn iomap_begin(
    inode: *mut c::inode,
    pos: c::loff_t,
    length: c::loff_t,
    flags: ffi::c_uint,
    iomap: *mut c::iomap,
    _srcmap: *mut c::iomap,
) -> ffi::c_int {
    // SAFETY: By the safety requirements.
    let (header, i_size) = unsafe { (header(inode), i_size(inode)) };
    let (at, wanted) = (pos as u64, length as u64);

    // SAFETY: The current task is always valid.
    if unsafe { c::fatal_signal_pending(c::get_current()) } != 0 {
        return EINTR.to_errno();
    }
    let end = i_size.min(header.mapped_size);
    if at >= end {
        // SAFETY: `iomap` is the caller's, zeroed, to be filled in.
        unsafe {
            (*iomap).type_ = c::IOMAP_HOLE as u16;
            (*iomap).addr = c::IOMAP_NULL_ADDR as u64;
            (*iomap).offset = pos;
            (*iomap).length = wanted;
        }
        return 0;
    }
    // Memory that has failed is data all the same.
    match header.locate(at, wanted, i_size) {
        Ok(mapping) => {
            // SAFETY: As above. In whole pages, for the last one is mapped whole.
            unsafe {
                mapping.fill(iomap);
                (*iomap).length = mapping.length.min(page_end(end) - mapping.offset);
            }
            0
        }
        // SAFETY: By the safety requirements.
        Err(refusal) => unsafe { refused(inode, header, at, wanted, flags, refusal) }.to_errno(),
    }
}

/// lseek(2): SEEK_DATA and SEEK_HOLE end where reads do, at the smaller of the file's size and its
/// mapped size.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
pub(super) unsafe extern "C" fn llseek(
    file: *mut c::file,
    offset: c::loff_t,
    whence: ffi::c_int,
) -> c::loff_t {
    let seek = match whence as u32 {
        c::SEEK_DATA => c::iomap_seek_data,
        c::SEEK_HOLE => c::iomap_seek_hole,
        // SAFETY: The VFS's arguments, passed on.
        _ => return unsafe { c::generic_file_llseek(file, offset, whence) },
    };
    // SAFETY: An open file has an inode, which is in use and mapped.
    let (inode, end) = unsafe {
        let inode = (*file).f_inode;
        (inode, i_size(inode).min(header(inode).mapped_size))
    };
    // The sizes are at most i64::MAX.
    let end = end as c::loff_t;

    if offset < 0 || offset >= end {
        return ENXIO.to_errno().into();
    }
    // SAFETY: As above.
    let found = unsafe { seek(inode, offset, &REPORT_OPS) };
    if found < 0 {
        return found;
    }
    // SAFETY: The VFS's file, with an offset inside it.
    unsafe { c::vfs_setpos(file, found.min(end), (*(*inode).i_sb).s_maxbytes) }
}

/// FS_IOC_FIEMAP.
///
/// # Safety
///
/// Called by the VFS, for an inode with the operations of a mapped one.
pub(super) unsafe extern "C" fn fiemap(
    inode: *mut c::inode,
    info: *mut kernel::bindings::fiemap_extent_info,
    start: u64,
    len: u64,
) -> ffi::c_int {
    // SAFETY: The VFS passes an inode in use.
    if !is_mapped(unsafe { Inode::new(inode) }) {
        return EOPNOTSUPP.to_errno();
    }
    // The kernel crate does not know its fields.
    let info = info.cast::<c::fiemap_extent_info>();

    // SAFETY: The VFS passes an inode in use and what the user asked for.
    unsafe {
        // As FUSE's, which have no such operation.
        if state(Inode::new(inode)) != State::Mapped {
            return EOPNOTSUPP.to_errno();
        }
        // iomap would look at `i_mapping` for this.
        if (*info).fi_flags & c::FIEMAP_FLAG_SYNC != 0 {
            if let Err(errno) = write_back_range(header(inode), 0, c::loff_t::MAX) {
                return errno.to_errno();
            }
        }
        c::iomap_fiemap(inode, info, start, len, &REPORT_OPS)
    }
}
