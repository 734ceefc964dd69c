// SPDX-License-Identifier: GPL-2.0

//! lseek(2), which reports the data and holes of a mapped file, and FIEMAP, which reports where the
//! data are.
//!
//! Both call the program for one mapping after the other, and validate each as any other. From the
//! mapped size to the file size there is a hole. No lock is held, as a map does not change: a
//! program may return a mapping per page, and then this may run until the task is killed.
//!
//! FIEMAP has no field for a device: `fe_physical` is the offset in the device of that extent.
//! Extents on different devices cannot be told apart.

use kernel::{
    error::from_result,
    ffi,
    prelude::*, //
};

use crate::{
    abstractions::{
        fs::{
            file::FileExt,
            inode, //
        },
        iomap::{
            self,
            FiemapInfo,
            Iomap,
            Operations, //
        },
        task::fatal_signal_pending, //
    },
    bindings::kernel as c,
    compat::EOPNOTSUPP,
    fuse::Inode, //
};

use super::{
    mapped_inode::{
        open_file,
        MappedInode, //
    },
    mapping_error::report_error,
    resolve::page_end,
    writeback::write_back_inode, //
};

static SEEK_FIEMAP_OPS: c::iomap_ops = ForSeekFiemap::OPS;

/// The iomap operations of lseek(2) and FIEMAP. They associate no memory, and take no lock.
struct ForSeekFiemap;

impl Operations for ForSeekFiemap {
    unsafe fn begin(
        inode: &inode::Inode,
        pos: u64,
        length: u64,
        flags: ffi::c_uint,
        iomap: &mut Iomap,
    ) -> Result {
        // SAFETY: `inode` is FUSE's and mapped, as iomap is called for such an inode.
        let mapped = unsafe { MappedInode::new(inode) };
        let (header, i_size) = (mapped.header, mapped.inode.size());

        if fatal_signal_pending() {
            return Err(EINTR);
        }
        let end = i_size.min(header.mapped_size);
        if pos >= end {
            iomap.set_hole(pos, length);
            return Ok(());
        }
        // Failed memory is reported as data.
        let mapping = header
            .locate(pos, length, i_size)
            .map_err(|error| report_error(inode, header, pos, length, flags, error))?;
        mapping.fill(iomap);
        // Whole pages: the last page of the file is mapped as a whole.
        iomap.set_length(mapping.length.min(page_end(end) - mapping.offset));
        Ok(())
    }
}

/// `->llseek()`. SEEK_DATA and SEEK_HOLE end where reads do, at the smaller of the file's size and
/// its mapped size.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
pub(super) unsafe extern "C" fn llseek(
    file: *mut c::file,
    offset: c::loff_t,
    whence: ffi::c_int,
) -> c::loff_t {
    // SAFETY: `file` is open, and its inode is mapped, by the safety requirements.
    let (file, inode) = unsafe { open_file(file) };
    let seek = match whence as u32 {
        c::SEEK_DATA => iomap::seek_data,
        c::SEEK_HOLE => iomap::seek_hole,
        _ => return file.llseek(offset, whence),
    };
    // The sizes are at most i64::MAX.
    let end = inode.end_of_io() as c::loff_t;

    if offset < 0 || offset >= end {
        return ENXIO.to_errno().into();
    }
    // SAFETY: `inode` is FUSE's and mapped.
    let found = unsafe { seek(inode.inode, offset, &SEEK_FIEMAP_OPS) };
    if found < 0 {
        return found;
    }
    file.set_position(found.min(end), inode.inode.super_block().max_bytes())
}

/// `->fiemap()`, for FS_IOC_FIEMAP.
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
    // SAFETY: `inode` is FUSE's, and in use.
    let inode = unsafe { Inode::new(inode) };
    // SAFETY: The VFS passes a valid `info`.
    let info = unsafe { FiemapInfo::from_raw(info) };

    from_result(|| {
        // FUSE's inodes have no `->fiemap()`.
        let mapped = MappedInode::of(inode).ok_or(EOPNOTSUPP)?;
        // iomap would write back `i_mapping`, which is FUSE's page cache.
        if info.wants_sync() {
            write_back_inode(mapped, 0, c::loff_t::MAX)?;
        }
        // SAFETY: `inode` is FUSE's and mapped.
        unsafe { iomap::fiemap(inode, info, start, len, &SEEK_FIEMAP_OPS) }?;
        Ok(0)
    })
}
