// SPDX-License-Identifier: GPL-2.0

//! The file that a mapping holds.
//!
//! DAX keeps its entries where a mapping's file says (`f_mapping`): in the DAX page cache of the
//! file. That is not what a descriptor may show (see `page_cache`), so these are two files:
//!
//! ```text
//!   descriptor ---> user's file --f_mapping--> the shown page cache, empty
//!                     ^
//!                     | private_data
//!   mapping -----> vm file ------f_mapping--> the DAX page cache
//! ```
//!
//! Each mmap(2) makes one, and what becomes of that mapping shares it: pieces, copies, those of a
//! child. It keeps the user's file: the server gets RELEASE when neither a descriptor nor a mapping
//! is left, and may use the memory again.

use core::ptr;

use kernel::{
    error::from_err_ptr,
    ffi,
    prelude::*, //
};

use crate::bindings::kernel as c;

use super::{
    file::mmap,
    header,
    io::read_iter,
    writeback::fsync,
    MappedFile,
    Table, //
};

/// Has a mapping hold a vm file in place of `file`, unless that is one. May sleep.
///
/// # Safety
///
/// `vma` is being made, of `file`, which is an open mapped file or a vm file.
pub(super) unsafe fn set_vm_file(vma: *mut c::vm_area_struct, file: *mut c::file) -> Result {
    // SAFETY: `file` is open, and its mapping being made by this task, by the safety requirements.
    unsafe {
        if is_vm_file(file) {
            return Ok(());
        }
        let vm_file = new(file)?;
        c::vma_set_file(vma, vm_file);
        // The mapping has a reference of its own.
        c::fput(vm_file);
    }
    Ok(())
}

/// A vm file, and the first reference to it.
///
/// # Safety
///
/// `user_file` is an open mapped file.
unsafe fn new(user_file: *mut c::file) -> Result<*mut c::file> {
    // SAFETY: By the safety requirements the inode is mapped and in use.
    unsafe { MappedFile::get_or_make((*user_file).f_inode) }?;
    // SAFETY: By the safety requirements; a file keeps its credentials.
    let file = from_err_ptr(unsafe {
        let flags = (*user_file).f_flags as ffi::c_int;
        c::alloc_empty_backing_file(flags, (*user_file).f_cred, user_file)
    })?;

    // SAFETY: The file is ours alone, and has a place for two references to a path: of the file,
    // and of what users are shown instead (that of the overlay, if a stacked file system maps it).
    // The user's file has them, and an inode in use, which is mapped.
    unsafe {
        let inode = (*user_file).f_inode;
        let path = &raw const (*user_file).__bindgen_anon_1.f_path;
        let shown_path = if (*user_file).f_mode & c::FMODE_BACKING != 0 {
            c::backing_file_user_path(user_file)
        } else {
            path
        };

        c::path_get(path);
        (*file).__bindgen_anon_1.__f_path = *path;
        c::path_get(shown_path);
        c::backing_file_set_user_path(file, shown_path);
        (*file).f_inode = inode;
        (*file).f_mapping = header(inode).dax_mapping();
        (*file).f_iocb_flags = (*user_file).f_iocb_flags;
        (*file).private_data = c::get_file(user_file).cast();
        (*file).f_op = &VM_FILE_OPERATIONS.0;
        (*file).f_mode &= !c::FMODE_FSNOTIFY_MASK;
        (*file).f_mode |= c::FMODE_NONOTIFY | c::FMODE_CAN_READ | c::FMODE_OPENED;
    }
    Ok(file)
}

/// What the memory manager asks of a mapping's file; reading is for those who look for a build id.
///
/// A vm file keeps the user's file, and that keeps the mount: it needs no module.
static VM_FILE_OPERATIONS: Table<c::file_operations> = Table(c::file_operations {
    read_iter: Some(vm_file_read_iter),
    // remap_file_pages(2) maps it once more.
    mmap: Some(mmap),
    get_unmapped_area: Some(c::thp_get_unmapped_area),
    fsync: Some(vm_file_fsync),
    release: Some(vm_file_release),
    ..pin_init::zeroed()
});

/// The user's file, of what a mapping holds.
///
/// # Safety
///
/// `file` is what a mapping of a mapped file holds.
pub(super) unsafe fn user_file(file: *mut c::file) -> *mut c::file {
    // SAFETY: By the safety requirements; the user's file is there since `new()`.
    unsafe {
        if is_vm_file(file) {
            (*file).private_data.cast()
        } else {
            file
        }
    }
}

/// Whether this is what a mapping of memory holds.
///
/// # Safety
///
/// The file is open.
pub(super) unsafe fn is_vm_file(file: *const c::file) -> bool {
    // SAFETY: By the safety requirements.
    ptr::eq(unsafe { (*file).f_op }, &VM_FILE_OPERATIONS.0)
}

/// Reads by the user's file: `dax_iomap_rw()` goes from its `f_mapping` to the inode.
///
/// # Safety
///
/// As `->read_iter()`, for a vm file.
unsafe extern "C" fn vm_file_read_iter(iocb: *mut c::kiocb, to: *mut c::iov_iter) -> isize {
    // SAFETY: The VFS passes valid arguments. Who has the vm file keeps the user's.
    unsafe {
        let vm_file = (*iocb).ki_filp;
        (*iocb).ki_filp = user_file(vm_file);
        let done = read_iter(iocb, to);
        (*iocb).ki_filp = vm_file;
        done
    }
}

/// msync(2).
///
/// # Safety
///
/// As `->fsync()`, for a vm file.
unsafe extern "C" fn vm_file_fsync(
    file: *mut c::file,
    start: c::loff_t,
    end: c::loff_t,
    datasync: ffi::c_int,
) -> ffi::c_int {
    // SAFETY: The VFS's arguments, passed on with an open mapped file.
    unsafe { fsync(user_file(file), start, end, datasync) }
}

/// The last mapping is gone.
///
/// # Safety
///
/// As `->release()`, for a vm file.
unsafe extern "C" fn vm_file_release(_inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: By the safety requirements nobody has the file any more; the reference to the user's
    // file is its own to give up.
    unsafe {
        // The inode counts its readers, for leases. This is none: the user's file is.
        (*file).f_mode &= !c::FMODE_READ;
        c::fput(user_file(file));
    }
    0
}
