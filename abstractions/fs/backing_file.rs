// SPDX-License-Identifier: GPL-2.0

//! Backing files: what a VMA holds in place of the user's file.
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

/// Opens a backing file of the inode of `user_file`, to which it holds a reference, with `mapping`
/// as its page cache. It supports neither read(2) nor write(2), and reports no events. May sleep.
///
/// # Errors
///
/// [`ENOMEM`] or [`ENFILE`].
///
/// # Safety
///
/// The inode must keep `mapping` valid. The `->release()` of `operations` must end with
/// [`release`], and their module must stay loaded as long as `user_file` is open.
pub(crate) unsafe fn open(
    user_file: &LocalFile,
    mapping: &AddressSpace,
    operations: &'static c::file_operations,
) -> Result<ARef<LocalFile>> {
    let user = user_file.as_ptr();
    let flags = user_file.flags() as ffi::c_int;
    // SAFETY: `user` is open, and holds a reference to its credentials.
    let raw = from_err_ptr(unsafe { c::alloc_empty_backing_file(flags, (*user).f_cred, user) })?;
    // SAFETY: `raw` was allocated just above, and only this function uses it.
    let file = unsafe { &mut *raw };
    // SAFETY: `user` is open, and holds a reference to its path.
    let path = unsafe { &raw const (*user).__bindgen_anon_1.f_path };
    // The path that user space sees: that of the overlay, if a stacked file system maps the file.
    let shown = if user_file.mode() & c::FMODE_BACKING != 0 {
        // SAFETY: `user` is a backing file.
        unsafe { c::backing_file_user_path(user) }
    } else {
        path
    };

    // SAFETY: `path` is valid, as `user` has a reference to it.
    unsafe { c::path_get(path) };
    // SAFETY: `path` is valid; the reference is now owned by the file.
    file.__bindgen_anon_1.__f_path = unsafe { *path };
    // SAFETY: `shown` is valid, as `user` has a reference to it.
    unsafe { c::path_get(shown) };
    // SAFETY: `raw` is a backing file, which owns the reference from now on.
    unsafe { c::backing_file_set_user_path(raw, shown) };
    file.f_inode = user_file.inode().as_raw();
    file.f_mapping = mapping.as_raw();
    file.f_iocb_flags = user_file.iocb_flags() as ffi::c_uint;
    file.private_data = ARef::into_raw(user_file.get()).as_ptr().cast();
    file.f_op = operations;
    file.f_mode &= !c::FMODE_FSNOTIFY_MASK;
    file.f_mode |= c::FMODE_NONOTIFY | c::FMODE_CAN_READ | c::FMODE_OPENED;
    // SAFETY: The initial reference is transferred to the `ARef`, and `raw` is not null.
    Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(raw).cast()) })
}

/// Returns the user's file.
///
/// # Safety
///
/// `file` must have been opened by [`open`].
#[inline]
pub(crate) unsafe fn user_file(file: &LocalFile) -> &LocalFile {
    // SAFETY: By the safety requirements `file` holds a reference to the user's file.
    unsafe { LocalFile::from_raw_file((*file.as_ptr()).private_data.cast()) }
}

/// Drops the reference to the user's file.
///
/// # Safety
///
/// Must be called once, by `->release()`, for a `file` that was opened by [`open`].
pub(crate) unsafe fn release(file: *mut c::file) {
    // `FMODE_READ` makes `__fput()` decrement `i_readcount`, which is for leases. Only the user's
    // file was counted there.
    // SAFETY: `file` is valid, and its last reference is gone.
    unsafe { (*file).f_mode &= !c::FMODE_READ };
    // SAFETY: `file` owns the reference to the user's file, which is dropped here.
    unsafe { c::fput((*file).private_data.cast()) };
}
