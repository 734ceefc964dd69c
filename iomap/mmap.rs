// SPDX-License-Identifier: GPL-2.0

//! mmap(2) of a mapped file, and what a mapping holds (`vm_file`).

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

/// Maps in 2 MiB pieces where memory and addresses allow it. MAP_SYNC: see `writeback`.
///
/// This is not `->mmap_prepare()`: a file that is changed there is leaked if the mapping is merged
/// with the one beside it (`__mmap_region()`).
///
/// # Safety
///
/// Called by the VFS, for an open mapped file or a vm file.
pub(super) unsafe extern "C" fn mmap(
    file: *mut c::file,
    vma: *mut c::vm_area_struct,
) -> ffi::c_int {
    // SAFETY: `file` is open, and its inode mapped, by the safety requirements.
    let (file, inode) = unsafe { open_file(file) };
    // SAFETY: `vma` is the VFS's argument.
    let mut vma = unsafe { VmaBeingMade::from_raw(vma) };

    from_result(|| {
        if vma.is_sync() && !inode.header.is_synchronous() {
            return Err(EOPNOTSUPP);
        }
        set_vm_file(&mut vma, file, inode)?;
        vma.set_hugepage();
        // SAFETY: The mapping holds a vm file of a mapped inode now.
        unsafe { vma.set_operations(&VM_OPS.0) };
        Ok(0)
    })
}

/// Has a mapping hold a vm file in place of `file`, unless that is one. May sleep.
///
/// `vma` is being made, of `file`, which is a file of `inode` or a vm file.
fn set_vm_file(vma: &mut VmaBeingMade<'_>, file: &LocalFile, inode: MappedInode<'_>) -> Result {
    if !is_vm_file(file) {
        let mapped = MappedFile::get_or_make(inode)?;
        // SAFETY: The inode keeps the DAX page cache. A vm file keeps the user's file, and that the
        // mount, which keeps the module.
        let vm_file = unsafe { backing_file::open(file, mapped.mapping(), &VM_FILE_OPERATIONS.0) }?;
        vma.set_file(&vm_file);
    }
    Ok(())
}

/// What the memory manager asks of a mapping's file; reading is for those who look for a build id.
static VM_FILE_OPERATIONS: Table<c::file_operations> = Table(c::file_operations {
    read_iter: Some(vm_file_read_iter),
    // remap_file_pages(2) maps it once more.
    mmap: Some(mmap),
    get_unmapped_area: Some(c::thp_get_unmapped_area),
    fsync: Some(vm_file_fsync),
    release: Some(release),
    ..pin_init::zeroed()
});

/// Reads by the user's file: `dax_iomap_rw()` goes from its `f_mapping` to the inode.
///
/// # Safety
///
/// Called by the VFS, for a vm file.
unsafe extern "C" fn vm_file_read_iter(iocb: *mut c::kiocb, to: *mut c::iov_iter) -> isize {
    // SAFETY: `iocb` and `to` are the VFS's, and the inode of a vm file is mapped.
    let io = unsafe { Io::new(iocb, to) };

    // The vm file keeps the user's.
    io.iocb
        .with_file(user_file(io.file), |iocb| read(iocb, io.iter, io.inode))
}

/// msync(2).
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
    // SAFETY: The VFS keeps `file` open meanwhile.
    let file = unsafe { LocalFile::from_raw_file(file) };

    from_result(|| {
        user_file(file)
            .fsync_range(start, end, datasync)
            .map(|()| 0)
    })
}
