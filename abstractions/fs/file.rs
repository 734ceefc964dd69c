// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's files do not say yet, and files that are being opened.
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
        inode::Inode,
        path::Path, //
    },
    bindings::kernel as c, //
};

/// A `->release()`.
pub(crate) type Release = unsafe extern "C" fn(*mut c::inode, *mut c::file) -> ffi::c_int;

/// What is known of each open file.
pub(crate) trait FileExt {
    /// Its inode, which it keeps.
    fn inode(&self) -> &Inode;

    /// Where it was opened.
    fn path(&self) -> &Path;

    /// Whether this is the `->release()` of its operations.
    fn is_released_by(&self, release: Release) -> bool;

    /// Its mode: `FMODE_READ` and others.
    fn mode(&self) -> c::fmode_t;

    /// `IOCB_DSYNC` and others, as its flags and its file system have them.
    fn iocb_flags(&self) -> ffi::c_int;

    /// `file_update_time()`: the inode's times, before it is written to. Returns an errno, or 0.
    fn update_time(&self) -> ffi::c_int;

    /// `vfs_fsync_range()`: what fsync(2) does, for bytes `start` to `end`.
    ///
    /// # Errors
    ///
    /// The file system's own.
    fn fsync_range(&self, start: c::loff_t, end: c::loff_t, datasync: ffi::c_int) -> Result;

    /// `vfs_setpos()`.
    fn set_position(&self, offset: c::loff_t, max: c::loff_t) -> c::loff_t;

    /// `generic_file_llseek()`.
    fn llseek(&self, offset: c::loff_t, whence: ffi::c_int) -> c::loff_t;

    /// A reference of its own.
    fn get(&self) -> ARef<LocalFile>;

    /// Has the file show a page cache, and sample the errors of writeback there.
    ///
    /// # Safety
    ///
    /// The file is being opened by this task, and keeps what `mapping` is a part of.
    unsafe fn set_mapping(&self, mapping: &AddressSpace);
}

impl FileExt for LocalFile {
    #[inline]
    fn inode(&self) -> &Inode {
        // SAFETY: An open file has an inode for good, which stays in use.
        unsafe { Inode::from_raw((*self.as_ptr()).f_inode) }
    }

    fn path(&self) -> &Path {
        // SAFETY: The file is valid, as it is referenced; its path does not change.
        let path = unsafe { &raw const (*self.as_ptr()).__bindgen_anon_1.f_path };

        // SAFETY: A file keeps its path. (The union's member is transparent.)
        unsafe { Path::from_raw(path.cast()) }
    }

    #[inline]
    fn is_released_by(&self, release: Release) -> bool {
        // SAFETY: The file is valid, as it is referenced, and has operations.
        let theirs = unsafe { (*(*self.as_ptr()).f_op).release };

        theirs.is_some_and(|theirs| ptr::fn_addr_eq(theirs, release))
    }

    #[inline]
    fn mode(&self) -> c::fmode_t {
        // SAFETY: The file is valid, as it is referenced.
        unsafe { (*self.as_ptr()).f_mode }
    }

    fn iocb_flags(&self) -> ffi::c_int {
        // SAFETY: The file is valid, as it is referenced.
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

        // SAFETY: The file is this task's alone, and keeps `mapping`, by the safety requirements.
        unsafe { (*file).f_mapping = mapping.as_raw() };
        // SAFETY: The file is this task's alone, by the safety requirements.
        unsafe { (*file).f_wb_err = mapping.sample_wb_err() };
    }
}

/// A `struct file` that the current task is opening.
///
/// # Invariants
///
/// The file is valid, has its inode and operations, and nothing but the current task uses it.
#[repr(transparent)]
pub(crate) struct OpeningFile {
    file: Opaque<c::file>,
    _same_task: NotThreadSafe,
}

impl OpeningFile {
    /// # Safety
    ///
    /// For `'a` `file` is valid, has its inode and operations, and nothing but the current task
    /// uses it.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(file: *mut c::file) -> &'a Self {
        // SAFETY: `file` is valid by the safety requirements, and the types have one layout.
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

        // SAFETY: By the type invariants the file has its inode, and keeps it.
        unsafe { Inode::from_raw(inode) }
    }

    /// Its operations.
    #[inline]
    pub(crate) fn operations(&self) -> &c::file_operations {
        // SAFETY: By the type invariants the file has operations.
        unsafe { &*(*self.as_raw()).f_op }
    }

    /// Gives it other operations.
    ///
    /// # Safety
    ///
    /// The file is what `operations` expect.
    #[inline]
    pub(crate) unsafe fn set_operations(&self, operations: &'static c::file_operations) {
        // SAFETY: By the type invariants the file is this task's alone.
        unsafe { (*self.as_raw()).f_op = operations };
    }

    /// What the VFS asks of every open: `generic_file_open()`.
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

    /// Whether `->open()` of the file system has left something there.
    #[inline]
    pub(crate) fn has_private_data(&self) -> bool {
        // SAFETY: By the type invariants the file is this task's alone.
        unsafe { !(*self.as_raw()).private_data.is_null() }
    }

    /// Whether all of these flags (`O_*`) are set.
    #[inline]
    pub(crate) fn has_flags(&self, flags: u32) -> bool {
        // SAFETY: By the type invariants the file is this task's alone.
        unsafe { (*self.as_raw()).f_flags & flags == flags }
    }

    #[inline]
    pub(crate) fn clear_flags(&self, flags: u32) {
        // SAFETY: By the type invariants the file is this task's alone.
        unsafe { (*self.as_raw()).f_flags &= !flags }
    }

    /// What may be done with it (`FMODE_*`).
    #[inline]
    pub(crate) fn mode(&self) -> c::fmode_t {
        // SAFETY: By the type invariants the file is this task's alone.
        unsafe { (*self.as_raw()).f_mode }
    }

    /// # Safety
    ///
    /// The operations of the file can do what `mode` says.
    #[inline]
    pub(crate) unsafe fn set_mode(&self, mode: c::fmode_t) {
        // SAFETY: By the type invariants the file is this task's alone.
        unsafe { (*self.as_raw()).f_mode = mode }
    }
}
