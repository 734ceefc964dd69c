// SPDX-License-Identifier: GPL-2.0

//! mmap(2) of a mapped file, and the operations of the vm file (`vm_file`).

use kernel::{
    error::from_result,
    ffi,
    fs::LocalFile,
    prelude::*, //
};

use crate::{
    abstractions::{
        fs::{
            backing_file,
            file::FileExt, //
        },
        mm::vma::VmaBeingMade, //
    },
    bindings::kernel as c,
    compat::EOPNOTSUPP,
    fuse::Table, //
};

use super::{
    fault::VM_OPS,
    io::read,
    mapped_inode::{
        open_file,
        Io,
        MappedFile,
        MappedInode, //
    },
    vm_file::{
        is_vm_file,
        release,
        user_file, //
    }, //
};

/// `->mmap()` of a mapped file and of a vm file. Allows PMD faults. For MAP_SYNC, see `writeback`.
///
/// This is not `->mmap_prepare()`: a file that is set there is leaked if the VMA is merged with an
/// adjacent one (`__mmap_region()`).
///
/// # Safety
///
/// Called by the VFS, for an open mapped file or a vm file.
pub(super) unsafe extern "C" fn mmap(
    file: *mut c::file,
    vma: *mut c::vm_area_struct,
) -> ffi::c_int {
    // SAFETY: `file` is open, and its inode is mapped, by the safety requirements.
    let (file, inode) = unsafe { open_file(file) };
    // SAFETY: `vma` is the VFS's argument, and being made.
    let mut vma = unsafe { VmaBeingMade::from_raw(vma) };

    from_result(|| {
        if vma.is_sync() && !inode.header.is_synchronous() {
            return Err(EOPNOTSUPP);
        }
        // The kernel reads an instruction for a uprobe from FUSE's page cache, and would take a
        // page that is left there for this file's. It removes breakpoints only from what maps that
        // cache.
        if vma.may_have_uprobes() {
            inode.inode.data().drop_clean_pages();
        }
        set_vm_file(&mut vma, file, inode)?;
        vma.set_hugepage();
        // SAFETY: `vma` now holds a vm file of a mapped inode.
        unsafe { vma.set_operations(&VM_OPS.0) };
        Ok(0)
    })
}

/// Replaces the file of a VMA by a new vm file, unless it is a vm file already. May sleep.
///
/// `vma` is being made for `file`, which is a file of `inode` or a vm file.
fn set_vm_file(vma: &mut VmaBeingMade<'_>, file: &LocalFile, inode: MappedInode<'_>) -> Result {
    if !is_vm_file(file) {
        let mapped = MappedFile::get_or_make(inode)?;
        // SAFETY: The inode keeps the DAX page cache valid, and `->release()` is `release()`. The
        // user's file keeps the mount, which keeps the module.
        let vm_file = unsafe { backing_file::open(file, mapped.mapping(), &VM_FILE_OPERATIONS.0) }?;
        vma.set_file(&vm_file);
    }
    Ok(())
}

/// The operations of a vm file, for the memory manager; `->read_iter()` is for build ids.
static VM_FILE_OPERATIONS: Table<c::file_operations> = Table(c::file_operations {
    read_iter: Some(vm_file_read_iter),
    // remap_file_pages(2) maps the vm file again.
    mmap: Some(mmap),
    get_unmapped_area: Some(c::thp_get_unmapped_area),
    fsync: Some(vm_file_fsync),
    release: Some(release),
    ..pin_init::zeroed()
});

/// Reads by the user's file: `dax_iomap_rw()` gets the inode from its `f_mapping`.
///
/// # Safety
///
/// Called by the VFS, for a vm file.
unsafe extern "C" fn vm_file_read_iter(iocb: *mut c::kiocb, to: *mut c::iov_iter) -> isize {
    // SAFETY: `iocb` and `to` are the VFS's, and the inode of a vm file is mapped.
    let io = unsafe { Io::new(iocb, to) };

    // The vm file keeps the user's file open.
    io.iocb
        .with_file(user_file(io.file), |iocb| read(iocb, io.iter, io.inode))
}

/// `->fsync()` of a vm file, for msync(2).
///
/// # Safety
///
/// Called by the VFS, for a vm file.
unsafe extern "C" fn vm_file_fsync(
    file: *mut c::file,
    start: c::loff_t,
    end: c::loff_t,
    datasync: ffi::c_int,
) -> ffi::c_int {
    // SAFETY: The VFS keeps `file` open during the call.
    let file = unsafe { LocalFile::from_raw_file(file) };

    from_result(|| {
        user_file(file)
            .fsync_range(start, end, datasync)
            .map(|()| 0)
    })
}
