// SPDX-License-Identifier: GPL-2.0

//! iomap: translation of file ranges to device ranges.
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

/// A `struct iomap` that is to be filled in. It is zeroed before, which is a hole.
#[repr(transparent)]
pub(crate) struct Iomap(c::iomap);

impl Iomap {
    #[inline]
    pub(crate) fn set_hole(&mut self, offset: u64, length: u64) {
        self.0.type_ = c::IOMAP_HOLE as u16;
        self.set_range(c::IOMAP_NULL_ADDR as u64, offset, length);
    }

    /// Sets the range of the file, and the address on the device where it begins. It is a hole
    /// unless [`Self::set_dax_dev`] is called.
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

    /// Makes this a mapping to a device.
    ///
    /// # Safety
    ///
    /// The device must be held until the operation ends.
    #[inline]
    pub(crate) unsafe fn set_dax_dev(&mut self, dax_dev: &DaxDevice) {
        self.0.type_ = c::IOMAP_MAPPED as u16;
        self.0.dax_dev = dax_dev.as_raw();
    }

    /// Sets a pointer for [`Operations::end`].
    #[inline]
    pub(crate) fn set_private(&mut self, private: *mut ffi::c_void) {
        self.0.private = private;
    }

    #[inline]
    pub(crate) fn private(&self) -> *mut ffi::c_void {
        self.0.private
    }

    /// Sets a number for [`Operations::end`], which is 0 otherwise. Only file systems that write
    /// through the page cache have another use for the field.
    #[inline]
    pub(crate) fn set_cookie(&mut self, cookie: u64) {
        self.0.validity_cookie = cookie;
    }

    #[inline]
    pub(crate) fn cookie(&self) -> u64 {
        self.0.validity_cookie
    }
}

/// Callbacks of a file system.
pub(crate) trait Operations: Sized {
    /// True if [`Self::end`] is to be called.
    const HAS_END: bool = false;

    /// The table of C functions.
    const OPS: c::iomap_ops = c::iomap_ops {
        iomap_begin: Some(iomap_begin::<Self>),
        iomap_end: if Self::HAS_END {
            Some(iomap_end::<Self>)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    /// Maps byte `pos` of a file, and up to `length` bytes from there.
    ///
    /// # Safety
    ///
    /// The inode must be one for which `OPS` was passed to iomap.
    unsafe fn begin(
        inode: &Inode,
        pos: u64,
        length: u64,
        flags: ffi::c_uint,
        iomap: &mut Iomap,
    ) -> Result;

    /// Called at the end of the operation that [`Self::begin`] was called for, with the same
    /// `flags`. `done` is how many bytes the operation has read, written or mapped.
    ///
    /// # Safety
    ///
    /// `begin()` must have filled in `iomap`, in the same task. This must be called once for each
    /// call.
    unsafe fn end(_iomap: &Iomap, _done: isize, _flags: ffi::c_uint) {}
}

/// # Safety
///
/// Must only be called by iomap or the DAX core, for an inode for which the table was passed to it.
unsafe extern "C" fn iomap_begin<T: Operations>(
    inode: *mut c::inode,
    pos: c::loff_t,
    length: c::loff_t,
    flags: ffi::c_uint,
    iomap: *mut c::iomap,
    _srcmap: *mut c::iomap,
) -> ffi::c_int {
    // SAFETY: `inode` is in use during the call.
    let inode = unsafe { Inode::from_raw(inode) };
    // SAFETY: `iomap` is valid and to be filled in, and `Iomap` is transparent.
    let iomap = unsafe { &mut *iomap.cast::<Iomap>() };

    // SAFETY: By the safety requirements the table was passed to iomap for `inode`.
    match unsafe { T::begin(inode, pos as u64, length as u64, flags, iomap) } {
        Ok(()) => 0,
        Err(errno) => errno.to_errno(),
    }
}

/// # Safety
///
/// Must only be called by iomap or the DAX core, after [`iomap_begin`], in the same task.
unsafe extern "C" fn iomap_end<T: Operations>(
    _inode: *mut c::inode,
    _pos: c::loff_t,
    _length: c::loff_t,
    written: isize,
    flags: ffi::c_uint,
    iomap: *mut c::iomap,
) -> ffi::c_int {
    // SAFETY: `iomap_begin()` has filled in `iomap`.
    unsafe { T::end(&*iomap.cast::<Iomap>(), written, flags) };
    0
}

/// Does what lseek(2) with SEEK_DATA does. Returns the offset, or a negative errno.
///
/// # Safety
///
/// The inode must be one that `ops` are for.
pub(crate) unsafe fn seek_data(
    inode: &Inode,
    offset: c::loff_t,
    ops: &'static c::iomap_ops,
) -> c::loff_t {
    // SAFETY: `inode` is in use; the caller guarantees the rest.
    unsafe { c::iomap_seek_data(inode.as_raw(), offset, ops) }
}

/// Does what lseek(2) with SEEK_HOLE does. Returns the offset, or a negative errno.
///
/// # Safety
///
/// The inode must be one that `ops` are for.
pub(crate) unsafe fn seek_hole(
    inode: &Inode,
    offset: c::loff_t,
    ops: &'static c::iomap_ops,
) -> c::loff_t {
    // SAFETY: `inode` is in use; the caller guarantees the rest.
    unsafe { c::iomap_seek_hole(inode.as_raw(), offset, ops) }
}

/// A `struct fiemap_extent_info`: a request of FS_IOC_FIEMAP.
#[repr(transparent)]
pub(crate) struct FiemapInfo(c::fiemap_extent_info);

impl FiemapInfo {
    /// Creates a reference to a [`FiemapInfo`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `info` must be the argument of a `->fiemap()` that is being called for `'a`.
    pub(crate) unsafe fn from_raw<'a>(
        info: *mut kernel::bindings::fiemap_extent_info,
    ) -> &'a mut Self {
        // In the bindings of the kernel crate the type is opaque.
        // SAFETY: `info` is valid, and used by nothing else; `Self` is transparent.
        unsafe { &mut *info.cast() }
    }

    /// Returns true if the file is to be written back first.
    pub(crate) fn wants_sync(&self) -> bool {
        self.0.fi_flags & c::FIEMAP_FLAG_SYNC != 0
    }
}

/// Does what FS_IOC_FIEMAP does.
///
/// # Errors
///
/// Those of `iomap_fiemap()`.
///
/// # Safety
///
/// The inode must be one that `ops` are for.
pub(crate) unsafe fn fiemap(
    inode: &Inode,
    info: &mut FiemapInfo,
    start: u64,
    len: u64,
    ops: &'static c::iomap_ops,
) -> Result {
    // SAFETY: `inode` and `info` are valid; the caller guarantees the rest.
    to_result(unsafe { c::iomap_fiemap(inode.as_raw(), &mut info.0, start, len, ops) })
}
