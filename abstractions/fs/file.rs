// SPDX-License-Identifier: GPL-2.0

//! Methods of files that the kernel crate does not provide yet, and files being opened.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use core::ptr;

use kernel::{
    error::to_result,
    ffi,
    fs::LocalFile,
    prelude::*,
    sync::aref::ARef,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use crate::{
    abstractions::fs::{
        address_space::AddressSpace,
        dentry::ShownPath,
        inode::Inode,
        path::Path, //
    },
    bindings::kernel as c, //
};

/// The type of `->release()`.
pub(crate) type Release = unsafe extern "C" fn(*mut c::inode, *mut c::file) -> ffi::c_int;

/// Methods of open files.
pub(crate) trait FileExt {
    /// Returns the inode, to which the file holds a reference.
    fn inode(&self) -> &Inode;

    /// Returns the path of the file.
    fn path(&self) -> &Path;

    /// Returns true if `release` is the `->release()` of the file's operations.
    fn is_released_by(&self, release: Release) -> bool;

    /// Returns the mode (`FMODE_*`).
    fn mode(&self) -> c::fmode_t;

    /// Returns the I/O flags (`IOCB_*`) that the flags of the file and its file system imply.
    fn iocb_flags(&self) -> ffi::c_int;

    /// Updates the inode's times before a write: `file_update_time()`. Returns 0 or a negative
    /// errno.
    fn update_time(&self) -> ffi::c_int;

    /// Does what fsync(2) does, for bytes `start` to `end`: `vfs_fsync_range()`.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    fn fsync_range(&self, start: c::loff_t, end: c::loff_t, datasync: ffi::c_int) -> Result;

    /// Sets the file position, if `offset` is between 0 and `max`: `vfs_setpos()`.
    fn set_position(&self, offset: c::loff_t, max: c::loff_t) -> c::loff_t;

    /// Does what lseek(2) does: `generic_file_llseek()`.
    fn llseek(&self, offset: c::loff_t, whence: ffi::c_int) -> c::loff_t;

    /// Takes a reference.
    fn get(&self) -> ARef<LocalFile>;

    /// Sets the page cache of the file, and samples its writeback errors.
    ///
    /// # Safety
    ///
    /// The current task must be opening the file, and the file must keep `mapping` valid.
    unsafe fn set_mapping(&self, mapping: &AddressSpace);
}

impl FileExt for LocalFile {
    #[inline]
    fn inode(&self) -> &Inode {
        // SAFETY: The inode of an open file does not change, and stays in use.
        unsafe { Inode::from_raw((*self.as_ptr()).f_inode) }
    }

    fn path(&self) -> &Path {
        // SAFETY: The file has a reference, so it is valid, and its path does not change.
        let path = unsafe { &raw const (*self.as_ptr()).__bindgen_anon_1.f_path };

        // SAFETY: A file holds a reference to its path. (The member of the union is transparent.)
        unsafe { Path::from_raw(path.cast()) }
    }

    #[inline]
    fn is_released_by(&self, release: Release) -> bool {
        // SAFETY: The file has a reference, so it is valid, and has operations.
        let own = unsafe { (*(*self.as_ptr()).f_op).release };

        own.is_some_and(|own| ptr::fn_addr_eq(own, release))
    }

    #[inline]
    fn mode(&self) -> c::fmode_t {
        // SAFETY: The file has a reference, so it is valid.
        unsafe { (*self.as_ptr()).f_mode }
    }

    fn iocb_flags(&self) -> ffi::c_int {
        // SAFETY: The file has a reference, so it is valid.
        unsafe { (*self.as_ptr()).f_iocb_flags as ffi::c_int }
    }

    #[inline]
    fn update_time(&self) -> ffi::c_int {
        // SAFETY: The file is open.
        unsafe { c::file_update_time(self.as_ptr()) }
    }

    fn fsync_range(&self, start: c::loff_t, end: c::loff_t, datasync: ffi::c_int) -> Result {
        // SAFETY: The file is open.
        to_result(unsafe { c::vfs_fsync_range(self.as_ptr(), start, end, datasync) })
    }

    fn set_position(&self, offset: c::loff_t, max: c::loff_t) -> c::loff_t {
        // SAFETY: The file is open.
        unsafe { c::vfs_setpos(self.as_ptr(), offset, max) }
    }

    fn llseek(&self, offset: c::loff_t, whence: ffi::c_int) -> c::loff_t {
        // SAFETY: The file is open.
        unsafe { c::generic_file_llseek(self.as_ptr(), offset, whence) }
    }

    fn get(&self) -> ARef<LocalFile> {
        self.into()
    }

    unsafe fn set_mapping(&self, mapping: &AddressSpace) {
        let file = self.as_ptr();

        // SAFETY: By the safety requirements only this task uses the file, which keeps `mapping`.
        unsafe { (*file).f_mapping = mapping.as_raw() };
        // SAFETY: By the safety requirements only the current task uses the file.
        unsafe { (*file).f_wb_err = mapping.sample_wb_err() };
    }
}

/// A `struct file` that the current task is opening.
///
/// # Invariants
///
/// The file is valid, and has its inode and operations. Only the current task uses it.
#[repr(transparent)]
pub(crate) struct OpeningFile {
    file: Opaque<c::file>,
    _same_task: NotThreadSafe,
}

impl OpeningFile {
    /// Creates a reference to an [`OpeningFile`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// For `'a` `file` must be valid, have its inode and operations, and be used by this task only.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(file: *mut c::file) -> &'a Self {
        // SAFETY: `file` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*file.cast() }
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::file {
        self.file.get()
    }

    #[inline]
    pub(crate) fn inode(&self) -> &Inode {
        // SAFETY: By the type invariants the file is valid.
        let inode = unsafe { (*self.as_raw()).f_inode };

        // SAFETY: By the type invariants the file has an inode, to which it holds a reference.
        unsafe { Inode::from_raw(inode) }
    }

    /// Returns the path of the mount that the file is opened through, as the current task sees it,
    /// unless that is a very long one. May sleep.
    pub(crate) fn mount_point(&self) -> Option<ShownPath> {
        ShownPath::new(|buf, len| {
            // SAFETY: By the type invariants the file is valid, and it has a path as it is being
            // opened. `buf` is valid for writes of `len` bytes.
            unsafe { c::fuse_dax_fmap_mount_point(self.as_raw(), buf, len) }
        })
    }

    /// Returns the operations.
    #[inline]
    pub(crate) fn operations(&self) -> &c::file_operations {
        // SAFETY: By the type invariants the file has operations.
        unsafe { &*(*self.as_raw()).f_op }
    }

    /// Replaces the operations.
    ///
    /// # Safety
    ///
    /// The file must be one that `operations` are for.
    #[inline]
    pub(crate) unsafe fn set_operations(&self, operations: &'static c::file_operations) {
        // SAFETY: By the type invariants only the current task uses the file.
        unsafe { (*self.as_raw()).f_op = operations };
    }

    /// Does the checks that the VFS wants in every open: `generic_file_open()`.
    ///
    /// # Errors
    ///
    /// [`EOVERFLOW`] for a large file that is opened without O_LARGEFILE.
    #[inline]
    pub(crate) fn generic_open(&self) -> Result {
        // SAFETY: By the type invariants the file is valid, and has its inode.
        match unsafe { c::generic_file_open(self.inode().as_raw(), self.as_raw()) } {
            0 => Ok(()),
            errno => to_result(errno),
        }
    }

    /// Returns true if the file system has set `private_data`.
    #[inline]
    pub(crate) fn has_private_data(&self) -> bool {
        // SAFETY: By the type invariants only the current task uses the file.
        unsafe { !(*self.as_raw()).private_data.is_null() }
    }

    /// Returns true if all of `flags` (`O_*`) are set.
    #[inline]
    pub(crate) fn has_flags(&self, flags: u32) -> bool {
        // SAFETY: By the type invariants only the current task uses the file.
        unsafe { (*self.as_raw()).f_flags & flags == flags }
    }

    #[inline]
    pub(crate) fn clear_flags(&self, flags: u32) {
        // SAFETY: By the type invariants only the current task uses the file.
        unsafe { (*self.as_raw()).f_flags &= !flags }
    }

    /// Returns the mode (`FMODE_*`).
    #[inline]
    pub(crate) fn mode(&self) -> c::fmode_t {
        // SAFETY: By the type invariants only the current task uses the file.
        unsafe { (*self.as_raw()).f_mode }
    }

    /// Sets the mode (`FMODE_*`).
    ///
    /// # Safety
    ///
    /// The operations of the file must support what `mode` allows.
    #[inline]
    pub(crate) unsafe fn set_mode(&self, mode: c::fmode_t) {
        // SAFETY: By the type invariants only the current task uses the file.
        unsafe { (*self.as_raw()).f_mode = mode }
    }
}
