// SPDX-License-Identifier: GPL-2.0

//! DAX devices.
//!
//! C headers: [`include/linux/dax.h`](srctree/include/linux/dax.h),
//! [`drivers/dax/dax-private.h`](srctree/drivers/dax/dax-private.h)
//!
//! # Examples
//!
//! ```ignore
//! // SAFETY: The file is an open character device.
//! let found = unsafe { BusDevice::of(&file) }.ok_or(ENODEV)?;
//! let lock = ReadLock::new();
//! // SAFETY: The device sits on the dax bus.
//! if let Some(dev_dax) = unsafe { found.dax_dev().dev_dax(&lock) } {
//!     pr_info!("{} bytes\n", dev_dax.size());
//! }
//! ```

use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};

use kernel::{
    container_of,
    device::Device,
    error::{
        from_result,
        to_result, //
    },
    ffi,
    fs::LocalFile,
    page::PAGE_SIZE,
    prelude::*,
    str::CStr,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use crate::bindings::{
    fuse as f,
    kernel as c, //
};

use super::{
    fs::file::FileExt,
    module::Module, //
};

/// `dax_read_lock()`: a device that is alive stays so. May sleep; nests.
#[must_use = "the lock is given up when it is dropped"]
pub(crate) struct ReadLock {
    id: ffi::c_int,
    _same_task: NotThreadSafe,
}

impl ReadLock {
    pub(crate) fn new() -> Self {
        Self {
            // SAFETY: There are no requirements.
            id: unsafe { c::dax_read_lock() },
            _same_task: NotThreadSafe,
        }
    }
}

impl Drop for ReadLock {
    fn drop(&mut self) {
        // SAFETY: `new()` has taken it, in this task.
        unsafe { c::dax_read_unlock(self.id) }
    }
}

/// A `struct dax_device`, alive or not.
///
/// # Invariants
///
/// It has a reference as long as this is borrowed.
#[repr(transparent)]
pub(crate) struct DaxDevice(Opaque<c::dax_device>);

// SAFETY: A device belongs to no task.
unsafe impl Send for DaxDevice {}
// SAFETY: What is used of a device here is atomic, or has a lock of its own.
unsafe impl Sync for DaxDevice {}

impl DaxDevice {
    /// # Safety
    ///
    /// `dax_dev` is valid, and has a reference, for `'a`.
    pub(crate) unsafe fn from_raw<'a>(dax_dev: *mut c::dax_device) -> &'a Self {
        // SAFETY: `dax_dev` is valid by the safety requirements, and the types have one layout.
        unsafe { &*dax_dev.cast() }
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::dax_device {
        self.0.get()
    }

    /// What it is held with; null if it is not held.
    pub(crate) fn holder(&self) -> *mut ffi::c_void {
        // SAFETY: By the type invariants the device is valid.
        unsafe { c::dax_holder(self.as_raw()) }
    }

    /// Holds the device, and takes a reference to it: `fs_dax_get()`. Waits for the lock of the
    /// device, which no signal ends.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if it is held; [`EOPNOTSUPP`] if its driver has no memory map; [`ENODEV`] if it is
    /// not alive.
    ///
    /// # Safety
    ///
    /// The device sits on the dax bus. `holder` is not null.
    pub(crate) unsafe fn hold<T: HolderOperations>(&self, holder: *mut ffi::c_void) -> Result {
        // SAFETY: By the safety requirements its private data are a `struct dev_dax`, as this takes
        // for granted. The table is static.
        to_result(unsafe { c::fs_dax_get(self.as_raw(), holder, Vtable::<T>::OPS) })
    }

    /// Puts a reference, and ends the hold unless `holder` is null.
    ///
    /// # Safety
    ///
    /// [`Self::hold`] has taken the reference, and this is called once. `holder` is null, or the
    /// device is held with it, or with nothing: `fs_put_dax()` takes the operations off whatever
    /// holds it.
    pub(crate) unsafe fn put(&self, holder: *mut ffi::c_void) {
        // SAFETY: The reference is given up, by the safety requirements.
        unsafe { c::fs_put_dax(self.as_raw(), holder) }
    }

    /// Whether DAX flushes the CPU's caches when it writes back.
    pub(crate) fn has_write_cache(&self) -> bool {
        // SAFETY: By the type invariants the device is valid.
        unsafe { c::dax_write_cache_enabled(self.as_raw()) }
    }

    pub(crate) fn set_write_cache(&self, enabled: bool) {
        // SAFETY: By the type invariants the device is valid.
        unsafe { c::dax_write_cache(self.as_raw(), enabled) }
    }

    /// Whether what is in the CPU's caches is durable.
    pub(crate) fn is_synchronous(&self) -> bool {
        // SAFETY: By the type invariants the device is valid.
        unsafe { c::dax_synchronous(self.as_raw()) }
    }

    /// Flushes a page from the CPU's caches, if the device has a write cache.
    ///
    /// # Safety
    ///
    /// The page frame has a memory map, and is in the kernel's own mapping.
    pub(crate) unsafe fn flush(&self, pfn: u64) {
        // SAFETY: By the type invariants the device is valid; the page is there, by the safety
        // requirements.
        unsafe { c::fuse_dax_fmap_flush(self.as_raw(), pfn as ffi::c_ulong) }
    }

    /// Has reads survive memory that the CPU cannot read.
    pub(crate) fn set_nomc(&self) {
        // SAFETY: By the type invariants the device is valid.
        unsafe { c::set_dax_nomc(self.as_raw()) }
    }

    /// The device as the dax bus knows it, `None` if it is not alive.
    ///
    /// # Safety
    ///
    /// The device sits on the dax bus.
    pub(crate) unsafe fn dev_dax<'a>(&'a self, _lock: &'a ReadLock) -> Option<&'a DevDax> {
        // SAFETY: By the type invariants the device is valid.
        let dev_dax = unsafe { c::dax_get_private(self.as_raw()) };

        // SAFETY: The private data of a device on the dax bus are a `struct dev_dax`, and stay
        // under the lock; the types have one layout.
        unsafe { dev_dax.cast::<DevDax>().as_ref() }
    }

    /// A page, for [`RecoveryPage::write`].
    ///
    /// # Errors
    ///
    /// [`EIO`] if the device is not alive any more.
    ///
    /// # Safety
    ///
    /// The lock alone does not keep the device alive: its driver looks for its private data again,
    /// and follows what `dax_get_private()` returns. The device was alive when the task slept last,
    /// and what takes its life waits for such tasks.
    pub(crate) unsafe fn recovery_page<'a>(
        &'a self,
        pgoff: u64,
        _lock: &'a ReadLock,
    ) -> Result<RecoveryPage<'a>> {
        const MODE: c::dax_access_mode = c::dax_access_mode_DAX_RECOVERY_WRITE;

        let pgoff = pgoff as ffi::c_ulong;
        let (mut kaddr, mut pfn) = (ptr::null_mut(), 0);
        // SAFETY: By the type invariants the device is valid, and it is alive, by the safety
        // requirements. `kaddr` and `pfn` are written to.
        let pages =
            unsafe { c::dax_direct_access(self.as_raw(), pgoff, 1, MODE, &mut kaddr, &mut pfn) };
        if pages < 1 {
            return Err(EIO);
        }
        // INVARIANT: The driver says so; the memory map goes after the device's life, which waits
        // for the lock.
        Ok(RecoveryPage {
            dax_dev: self,
            pgoff,
            kaddr,
            pfn,
        })
    }
}

/// A page of a device that the CPU may not be able to read.
///
/// # Invariants
///
/// `kaddr` and `pfn` are those of page `pgoff` of the device. The page has a memory map as long as
/// this is used, in the read side of a [`ReadLock`], and the task does not sleep meanwhile.
pub(crate) struct RecoveryPage<'a> {
    dax_dev: &'a DaxDevice,
    pgoff: ffi::c_ulong,
    kaddr: *mut ffi::c_void,
    pfn: ffi::c_ulong,
}

impl RecoveryPage<'_> {
    /// Its page frame.
    pub(crate) fn pfn(&self) -> u64 {
        self.pfn as u64
    }

    /// Writes it past the caches. That replaces whole lines, and with them what the CPU could not
    /// read there, on hardware that can.
    ///
    /// # Errors
    ///
    /// [`EIO`] if the driver cannot.
    pub(crate) fn write(&self, page: &mut [u8; PAGE_SIZE]) -> Result {
        // SAFETY: By the type invariants the page is the device's. The machine check handler may
        // have taken it out of the kernel's own mapping.
        unsafe { c::clear_mce_nospec(self.pfn) };
        let source = c::kvec {
            iov_base: page.as_mut_ptr().cast(),
            iov_len: PAGE_SIZE,
        };
        let mut iter = MaybeUninit::uninit();
        let iter = iter.as_mut_ptr();
        // SAFETY: `source` is valid as long as `iter`.
        unsafe { c::iov_iter_kvec(iter, c::ITER_SOURCE, &source, 1, PAGE_SIZE) };
        // SAFETY: By the type invariants `kaddr` is the page's, and `iter` has as many bytes.
        let written = unsafe {
            c::dax_recovery_write(
                self.dax_dev.as_raw(),
                self.pgoff,
                self.kaddr,
                PAGE_SIZE,
                iter,
            )
        };
        if written < PAGE_SIZE {
            return Err(EIO);
        }
        Ok(())
    }
}

/// A `struct dev_dax` that is alive.
///
/// # Invariants
///
/// It is valid as long as it is borrowed, with its ranges.
#[repr(transparent)]
pub(crate) struct DevDax(Opaque<f::dev_dax>);

/// Memory of a device in one piece.
pub(crate) struct Range {
    /// Where it begins on the device, in pages.
    pub(crate) pgoff: u64,
    /// Where it is, in bytes.
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl DevDax {
    /// Bytes.
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: By the type invariants this is valid.
        unsafe { (*self.0.get()).cached_size }
    }

    /// Its memory, in the order of addresses.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        // SAFETY: By the type invariants this is valid.
        let (first, number) = unsafe { ((*self.0.get()).ranges, (*self.0.get()).nr_range) };
        let ranges = if first.is_null() {
            &[]
        } else {
            // SAFETY: There are so many, which do not change while the device is bound.
            unsafe { slice::from_raw_parts(first, number as usize) }
        };

        ranges.iter().map(|part| Range {
            pgoff: part.pgoff as u64,
            start: part.range.start,
            len: part.range.end - part.range.start + 1,
        })
    }

    /// The physical address of `size` bytes from page `pgoff` on, `None` if they are not there, or
    /// not in one piece.
    pub(crate) fn pgoff_to_phys(&self, pgoff: u64, size: u64) -> Option<u64> {
        let dev_dax = self.0.get().cast();
        let (pgoff, size) = (pgoff as ffi::c_ulong, size as ffi::c_ulong);
        // SAFETY: By the type invariants this is valid.
        let phys = unsafe { c::dax_pgoff_to_phys(dev_dax, pgoff, size) };

        (phys != c::phys_addr_t::MAX).then_some(phys)
    }
}

/// A device of the dax bus.
///
/// # Invariants
///
/// All are those of one device, which is on the dax bus.
pub(crate) struct BusDevice<'a> {
    dax_dev: &'a DaxDevice,
    device: &'a Device,
    driver: Option<&'a Module>,
}

impl<'a> BusDevice<'a> {
    pub(crate) fn dax_dev(&self) -> &'a DaxDevice {
        self.dax_dev
    }

    pub(crate) fn device(&self) -> &'a Device {
        self.device
    }

    /// The module of its driver, unless that is part of the kernel.
    pub(crate) fn driver(&self) -> Option<&'a Module> {
        self.driver
    }

    /// The device behind an open character device, if it is one of the dax bus.
    ///
    /// # Safety
    ///
    /// `file` was not opened with O_PATH.
    pub(crate) unsafe fn of(file: &'a LocalFile) -> Option<Self> {
        let inode = file.inode();
        if !inode.is_character_device() {
            return None;
        }
        // SAFETY: `file` is open, by the safety requirements, so `chrdev_open()` has set this.
        let cdev = unsafe { (*inode.as_raw()).__bindgen_anon_5.i_cdev };
        let cdev = NonNull::new(cdev)?.as_ptr();
        // SAFETY: An open file keeps its cdev, and that the kobject that is its parent.
        let (parent, driver) = unsafe { ((*cdev).kobj.parent, (*cdev).owner) };
        // A kobject is a device if it has the type of one that certainly is.
        // SAFETY: `platform_bus` is a device, which is there from boot on.
        let ktype = unsafe { (&raw const c::platform_bus.kobj.ktype).read() };
        // SAFETY: `parent` is null, or kept by `file`.
        if unsafe { parent.as_ref() }?.ktype != ktype {
            return None;
        }
        // SAFETY: `parent` is the kobject of a device.
        let device = unsafe { container_of!(parent, c::device, kobj) };
        // SAFETY: `device` is kept by `file`.
        let bus = NonNull::new(unsafe { (*device).bus }.cast_mut())?;
        // SAFETY: A device on a bus keeps that, and a bus has a name.
        let name = unsafe { CStr::from_char_ptr((*bus.as_ptr()).name) };
        if name.to_bytes() != b"dax" {
            return None;
        }
        // SAFETY: The inode of a character device on the dax bus is that of its DAX device.
        let dax_dev = NonNull::new(unsafe { c::inode_dax(inode.as_raw()) })?;
        // INVARIANT: The name of the bus says so.
        Some(Self {
            // SAFETY: `file` keeps its inode, and so the DAX device.
            dax_dev: unsafe { DaxDevice::from_raw(dax_dev.as_ptr()) },
            // SAFETY: `file` keeps `device`.
            device: unsafe { Device::from_raw(device) },
            // SAFETY: `file` keeps the module that its operations are from.
            driver: unsafe { Module::from_raw(driver) },
        })
    }
}

/// What the holder of a device is told.
pub(crate) trait HolderOperations: 'static {
    /// Memory of the device has failed, or goes away (`flags`, of `MF_*`). [`EOPNOTSUPP`] has the
    /// kernel do what it can.
    ///
    /// Called by the dax core with a device that is alive, and is or was held, in a
    /// [`ReadLock`] of the caller's.
    fn notify_failure(dax_dev: &DaxDevice, offset: u64, len: u64, flags: ffi::c_int) -> Result;
}

/// The functions that the dax core calls.
struct Vtable<T: HolderOperations>(PhantomData<T>);

impl<T: HolderOperations> Vtable<T> {
    const OPS: &'static c::dax_holder_operations = &c::dax_holder_operations {
        notify_failure: Some(Self::notify_failure),
    };

    /// # Safety
    ///
    /// Called by the dax core, with a device that is alive.
    unsafe extern "C" fn notify_failure(
        dax_dev: *mut c::dax_device,
        offset: u64,
        len: u64,
        flags: ffi::c_int,
    ) -> ffi::c_int {
        // SAFETY: `dax_dev` has a reference of the dax core's.
        let dax_dev = unsafe { DaxDevice::from_raw(dax_dev) };

        from_result(|| T::notify_failure(dax_dev, offset, len, flags).map(|()| 0))
    }
}
