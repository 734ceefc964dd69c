// SPDX-License-Identifier: GPL-2.0

//! iomap: where bytes of a file are.
//!
//! C header: [`include/linux/iomap.h`](srctree/include/linux/iomap.h)
//!
//! # Examples
//!
//! ```ignore
//! struct Zeros;
//!
//! impl Operations for Zeros {
//!     unsafe fn begin(_: &Inode, pos: u64, len: u64, _: u32, iomap: &mut Iomap) -> Result {
//!         iomap.set_hole(pos, len);
//!         Ok(())
//!     }
//! }
//!
//! static ZEROS_OPS: c::iomap_ops = Zeros::OPS;
//! ```

use kernel::{
    error::to_result,
    ffi,
    prelude::*, //
};

use crate::{
    abstractions::{
        dax::DaxDevice,
        fs::inode::Inode, //
    },
    bindings::kernel as c, //
};

/// A `struct iomap` that is to be filled in: zeroed before, which is a hole.
#[repr(transparent)]
pub(crate) struct Iomap(c::iomap);

impl Iomap {
    #[inline]
    pub(crate) fn set_hole(&mut self, offset: u64, length: u64) {
        self.0.type_ = c::IOMAP_HOLE as u16;
        self.set_range(c::IOMAP_NULL_ADDR as u64, offset, length);
    }

    /// What is at byte `addr` of a device, or a hole if there is none.
    #[inline]
    pub(crate) fn set_range(&mut self, addr: u64, offset: u64, length: u64) {
        self.0.addr = addr;
        self.0.offset = offset as c::loff_t;
        self.0.length = length;
    }

    #[inline]
    pub(crate) fn set_length(&mut self, length: u64) {
        self.0.length = length;
    }

    /// # Safety
    ///
    /// The device is held until the operation is over.
    #[inline]
    pub(crate) unsafe fn set_dax_dev(&mut self, dax_dev: &DaxDevice) {
        self.0.type_ = c::IOMAP_MAPPED as u16;
        self.0.dax_dev = dax_dev.as_raw();
    }

    /// What [`Operations::end`] gets.
    #[inline]
    pub(crate) fn set_private(&mut self, private: *mut ffi::c_void) {
        self.0.private = private;
    }

    #[inline]
    pub(crate) fn private(&self) -> *mut ffi::c_void {
        self.0.private
    }
}

/// What a file system answers.
pub(crate) trait Operations: Sized {
    /// Whether [`Self::end`] is to be called.
    const HAS_END: bool = false;

    /// The table, for the C side.
    const OPS: c::iomap_ops = c::iomap_ops {
        iomap_begin: Some(iomap_begin::<Self>),
        iomap_end: if Self::HAS_END {
            Some(iomap_end::<Self>)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    /// Where byte `pos` is, and up to `length` of those behind it.
    ///
    /// # Safety
    ///
    /// The inode is one that the table was given to iomap for.
    unsafe fn begin(
        inode: &Inode,
        pos: u64,
        length: u64,
        flags: ffi::c_uint,
        iomap: &mut Iomap,
    ) -> Result;

    /// The operation is over that [`Self::begin`] was called for.
    ///
    /// # Safety
    ///
    /// `begin()` has filled in `iomap`, in the same task; this is called once for each time.
    unsafe fn end(_iomap: &Iomap) {}
}

/// # Safety
///
/// Called by iomap or the DAX core, for an inode that the table was given to it for.
unsafe extern "C" fn iomap_begin<T: Operations>(
    inode: *mut c::inode,
    pos: c::loff_t,
    length: c::loff_t,
    flags: ffi::c_uint,
    iomap: *mut c::iomap,
    _srcmap: *mut c::iomap,
) -> ffi::c_int {
    // SAFETY: `inode` is in use meanwhile, by the safety requirements.
    let inode = unsafe { Inode::from_raw(inode) };
    // SAFETY: `iomap` is the caller's, to be filled in, and `Iomap` is transparent.
    let iomap = unsafe { &mut *iomap.cast::<Iomap>() };

    // SAFETY: `inode` is one that the table was given to iomap for.
    match unsafe { T::begin(inode, pos as u64, length as u64, flags, iomap) } {
        Ok(()) => 0,
        Err(errno) => errno.to_errno(),
    }
}

/// # Safety
///
/// Called by iomap or the DAX core, after [`iomap_begin`], in the same task.
unsafe extern "C" fn iomap_end<T: Operations>(
    _inode: *mut c::inode,
    _pos: c::loff_t,
    _length: c::loff_t,
    _written: isize,
    _flags: ffi::c_uint,
    iomap: *mut c::iomap,
) -> ffi::c_int {
    // SAFETY: `iomap` is what `iomap_begin()` has filled in.
    unsafe { T::end(&*iomap.cast::<Iomap>()) };
    0
}

/// lseek(2) with SEEK_DATA. Returns the offset, or an errno.
///
/// # Safety
///
/// The inode is one that `ops` understand.
pub(crate) unsafe fn seek_data(
    inode: &Inode,
    offset: c::loff_t,
    ops: &'static c::iomap_ops,
) -> c::loff_t {
    // SAFETY: `inode` is in use; the rest is the caller's to promise.
    unsafe { c::iomap_seek_data(inode.as_raw(), offset, ops) }
}

/// lseek(2) with SEEK_HOLE. Returns the offset, or an errno.
///
/// # Safety
///
/// The inode is one that `ops` understand.
pub(crate) unsafe fn seek_hole(
    inode: &Inode,
    offset: c::loff_t,
    ops: &'static c::iomap_ops,
) -> c::loff_t {
    // SAFETY: `inode` is in use; the rest is the caller's to promise.
    unsafe { c::iomap_seek_hole(inode.as_raw(), offset, ops) }
}

/// What a user has asked for with FS_IOC_FIEMAP.
#[repr(transparent)]
pub(crate) struct FiemapInfo(c::fiemap_extent_info);

impl FiemapInfo {
    /// # Safety
    ///
    /// `info` is the argument of `->fiemap()`, which is called for `'a`.
    pub(crate) unsafe fn from_raw<'a>(
        info: *mut kernel::bindings::fiemap_extent_info,
    ) -> &'a mut Self {
        // The kernel crate does not know its fields.
        // SAFETY: `info` is valid and the caller's, and `Self` is transparent.
        unsafe { &mut *info.cast() }
    }

    /// Whether the file is to be written back first.
    pub(crate) fn wants_sync(&self) -> bool {
        self.0.fi_flags & c::FIEMAP_FLAG_SYNC != 0
    }
}

/// FS_IOC_FIEMAP.
///
/// # Errors
///
/// Those of `iomap_fiemap()`.
///
/// # Safety
///
/// The inode is one that `ops` understand.
pub(crate) unsafe fn fiemap(
    inode: &Inode,
    info: &mut FiemapInfo,
    start: u64,
    len: u64,
    ops: &'static c::iomap_ops,
) -> Result {
    // SAFETY: `inode` and `info` are valid; the rest is the caller's to promise.
    to_result(unsafe { c::iomap_fiemap(inode.as_raw(), &mut info.0, start, len, ops) })
}
