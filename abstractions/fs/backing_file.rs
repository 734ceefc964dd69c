// SPDX-License-Identifier: GPL-2.0

//! Files that stand behind a user's file, where a mapping is not to hold that itself.
//!
//! C header: [`include/linux/backing-file.h`](srctree/include/linux/backing-file.h)

use core::ptr::NonNull;

use kernel::{
    error::from_err_ptr,
    ffi,
    fs::LocalFile,
    prelude::*,
    sync::aref::ARef, //
};

use crate::{
    abstractions::fs::{
        address_space::AddressSpace,
        file::FileExt, //
    },
    bindings::kernel as c, //
};

/// Makes an open file of the inode of `user_file`, which keeps that, and shows another page cache.
/// It cannot be read nor written by descriptor, and reports no events. May sleep.
///
/// # Errors
///
/// [`ENOMEM`] or [`ENFILE`].
///
/// # Safety
///
/// The inode keeps `mapping`. `operations` end with [`release`] in their `->release()`, and belong
/// to a module that stays as long as `user_file`.
pub(crate) unsafe fn open(
    user_file: &LocalFile,
    mapping: &AddressSpace,
    operations: &'static c::file_operations,
) -> Result<ARef<LocalFile>> {
    let user = user_file.as_ptr();
    let flags = user_file.flags() as ffi::c_int;
    // SAFETY: `user` is open, and keeps its credentials.
    let raw = from_err_ptr(unsafe { c::alloc_empty_backing_file(flags, (*user).f_cred, user) })?;
    // SAFETY: `raw` was made just now, and is this function's alone.
    let file = unsafe { &mut *raw };
    // SAFETY: `user` is open, and keeps its path.
    let path = unsafe { &raw const (*user).__bindgen_anon_1.f_path };
    // What users are shown instead: that of the overlay, if a stacked file system maps it.
    let shown = if user_file.mode() & c::FMODE_BACKING != 0 {
        // SAFETY: `user` is a backing file.
        unsafe { c::backing_file_user_path(user) }
    } else {
        path
    };

    // SAFETY: `path` is valid, as `user` has a reference to it.
    unsafe { c::path_get(path) };
    // SAFETY: `path` is valid; the reference goes with the file.
    file.__bindgen_anon_1.__f_path = unsafe { *path };
    // SAFETY: `shown` is valid, as `user` has a reference to it.
    unsafe { c::path_get(shown) };
    // SAFETY: `raw` is a backing file; the reference goes with it.
    unsafe { c::backing_file_set_user_path(raw, shown) };
    file.f_inode = user_file.inode().as_raw();
    file.f_mapping = mapping.as_raw();
    file.f_iocb_flags = user_file.iocb_flags() as ffi::c_uint;
    file.private_data = ARef::into_raw(user_file.get()).as_ptr().cast();
    file.f_op = operations;
    file.f_mode &= !c::FMODE_FSNOTIFY_MASK;
    file.f_mode |= c::FMODE_NONOTIFY | c::FMODE_CAN_READ | c::FMODE_OPENED;
    // SAFETY: The first reference is this one, and `raw` is not null.
    Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(raw).cast()) })
}

/// The user's file.
///
/// # Safety
///
/// `file` was made by [`open`].
#[inline]
pub(crate) unsafe fn user_file(file: &LocalFile) -> &LocalFile {
    // SAFETY: `file` has a reference to the user's file, by the safety requirements.
    unsafe { LocalFile::from_raw_file((*file.as_ptr()).private_data.cast()) }
}

/// Gives up the user's file.
///
/// # Safety
///
/// Called once, by `->release()`, for a `file` that was made by [`open`].
pub(crate) unsafe fn release(file: *mut c::file) {
    // The inode counts its readers, for leases. This is none: the user's file is.
    // SAFETY: `file` is valid, and nothing else uses it any more.
    unsafe { (*file).f_mode &= !c::FMODE_READ };
    // SAFETY: The reference to the user's file is given up here, and is `file`'s.
    unsafe { c::fput((*file).private_data.cast()) };
}
