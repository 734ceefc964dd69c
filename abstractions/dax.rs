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

/// Evidence that `dax_read_lock()` is held: a device that is alive stays alive. A holder may sleep,
/// and locks may be nested.
#[must_use = "the lock is released when it is dropped"]
pub(crate) struct ReadLock {
    id: ffi::c_int,
    _same_task: NotThreadSafe,
}

impl ReadLock {
    /// Takes the lock.
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
        // SAFETY: `new()` has taken the lock, in this task.
        unsafe { c::dax_read_unlock(self.id) }
    }
}

/// A `struct dax_device`, alive or not.
///
/// # Invariants
///
/// The device has a reference as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct DaxDevice(Opaque<c::dax_device>);

// SAFETY: A device is not tied to a task.
unsafe impl Send for DaxDevice {}
// SAFETY: The fields that are used here are atomic, or protected by a lock of the device.
unsafe impl Sync for DaxDevice {}

impl DaxDevice {
    /// Creates a reference to a [`DaxDevice`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `dax_dev` must be valid, and have a reference, for `'a`.
    pub(crate) unsafe fn from_raw<'a>(dax_dev: *mut c::dax_device) -> &'a Self {
        // SAFETY: `dax_dev` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*dax_dev.cast() }
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::dax_device {
        self.0.get()
    }

    /// Returns the holder data of the device, or null if it is not held.
    pub(crate) fn holder(&self) -> *mut ffi::c_void {
        // SAFETY: By the type invariants the device is valid.
        unsafe { c::dax_holder(self.as_raw()) }
    }

    /// Becomes the holder of the device, and takes a reference to it: `fs_dax_get()`. Waits
    /// uninterruptibly for the lock of the device.
    ///
    /// # Errors
    ///
    /// - [`EBUSY`] if the device has a holder.
    /// - [`EOPNOTSUPP`] if it is bound to another driver than fsdev_dax.
    /// - [`ENODEV`] if it is not alive, or not bound to a driver.
    ///
    /// # Safety
    ///
    /// The device must be on the dax bus, and `holder` must not be null.
    pub(crate) unsafe fn hold<T: HolderOperations>(&self, holder: *mut ffi::c_void) -> Result {
        // SAFETY: By the safety requirements the private data are a `struct dev_dax`, as
        // `fs_dax_get()` expects. The table is static.
        to_result(unsafe { c::fs_dax_get(self.as_raw(), holder, Vtable::<T>::OPS) })
    }

    /// Drops a reference, and stops holding the device unless `holder` is null.
    ///
    /// # Safety
    ///
    /// [`Self::hold`] must have taken the reference, and this must be called once for it. `holder`
    /// must be null, or the device must be held with it, or not be held: `fs_put_dax()` removes the
    /// operations of any holder.
    pub(crate) unsafe fn put(&self, holder: *mut ffi::c_void) {
        // SAFETY: By the safety requirements this drops a reference that `hold()` has taken.
        unsafe { c::fs_put_dax(self.as_raw(), holder) }
    }

    /// Returns true if DAX flushes the CPU's caches at writeback.
    pub(crate) fn has_write_cache(&self) -> bool {
        // SAFETY: By the type invariants the device is valid.
        unsafe { c::dax_write_cache_enabled(self.as_raw()) }
    }

    /// Sets what [`Self::has_write_cache`] returns.
    pub(crate) fn set_write_cache(&self, enabled: bool) {
        // SAFETY: By the type invariants the device is valid.
        unsafe { c::dax_write_cache(self.as_raw(), enabled) }
    }

    /// Returns true if the device supports synchronous flushes: data are durable once they are
    /// flushed from the CPU's caches.
    pub(crate) fn is_synchronous(&self) -> bool {
        // SAFETY: By the type invariants the device is valid.
        unsafe { c::dax_synchronous(self.as_raw()) }
    }

    /// Flushes a page from the CPU's caches, if the device has a write cache.
    ///
    /// # Safety
    ///
    /// The page frame must have a struct page, and be mapped in the direct map.
    pub(crate) unsafe fn flush(&self, pfn: u64) {
        // SAFETY: The device is valid by the type invariants, the page by the safety requirements.
        unsafe { c::fuse_dax_fmap_flush(self.as_raw(), pfn as ffi::c_ulong) }
    }

    /// Makes reads of memory with uncorrectable errors return short instead of crashing the kernel.
    pub(crate) fn set_nomc(&self) {
        // SAFETY: By the type invariants the device is valid.
        unsafe { c::set_dax_nomc(self.as_raw()) }
    }

    /// Returns the `struct dev_dax` of the device, or [`None`] if the device is not alive.
    ///
    /// # Safety
    ///
    /// The device must be on the dax bus.
    pub(crate) unsafe fn dev_dax<'a>(&'a self, _lock: &'a ReadLock) -> Option<&'a DevDax> {
        // SAFETY: By the type invariants the device is valid.
        let dev_dax = unsafe { c::dax_get_private(self.as_raw()) };

        // SAFETY: The private data of a device on the dax bus are a `struct dev_dax`, which stays
        // valid under the lock, and `DevDax` is transparent.
        unsafe { dev_dax.cast::<DevDax>().as_ref() }
    }

    /// Checks that the device's driver gives DAX its memory.
    ///
    /// # Errors
    ///
    /// `ENXIO` if the device is not alive; `EOPNOTSUPP` if its driver has no operations; those of
    /// the driver.
    ///
    /// # Safety
    ///
    /// The device must be on the dax bus, and locked: its driver gets its private data again, and
    /// dereferences what `dax_get_private()` returns.
    pub(crate) unsafe fn try_access(&self, _lock: &ReadLock) -> Result {
        const MODE: c::dax_access_mode = c::dax_access_mode_DAX_ACCESS;
        let (no_kaddr, no_pfn) = (ptr::null_mut(), ptr::null_mut());

        // SAFETY: By the type invariants the device is valid. The addresses are not wanted.
        let pages = unsafe { c::dax_direct_access(self.as_raw(), 0, 1, MODE, no_kaddr, no_pfn) };
        to_result(pages.min(0) as ffi::c_int)
    }

    /// Returns a page for [`RecoveryPage::write`].
    ///
    /// # Errors
    ///
    /// [`EIO`] if the device has no such page, or is no longer alive.
    ///
    /// # Safety
    ///
    /// The device must have been alive when the task last slept, and what makes it no longer alive
    /// must wait for such tasks first. The lock alone does not keep it alive: its driver gets its
    /// private data again, and dereferences what `dax_get_private()` returns.
    pub(crate) unsafe fn recovery_page<'a>(
        &'a self,
        pgoff: u64,
        _lock: &'a ReadLock,
    ) -> Result<RecoveryPage<'a>> {
        const MODE: c::dax_access_mode = c::dax_access_mode_DAX_RECOVERY_WRITE;

        let pgoff = pgoff as ffi::c_ulong;
        let (mut kaddr, mut pfn) = (ptr::null_mut(), 0);
        // SAFETY: By the type invariants the device is valid. By the safety requirements it is
        // alive. The pointers are valid for writes.
        let pages =
            unsafe { c::dax_direct_access(self.as_raw(), pgoff, 1, MODE, &mut kaddr, &mut pfn) };
        if pages < 1 {
            return Err(EIO);
        }
        // INVARIANT: `dax_direct_access()` has set `kaddr` and `pfn` for page `pgoff`. The memory
        // map is freed after the device is no longer alive, and that waits for the lock.
        Ok(RecoveryPage {
            dax_dev: self,
            pgoff,
            kaddr,
            pfn,
        })
    }
}

/// A page of a device that may have uncorrectable memory errors.
///
/// # Invariants
///
/// `kaddr` and `pfn` are those of page `pgoff` of the device. The page has a memory map as long as
/// this is used, under a [`ReadLock`]: removing the device waits for that. Once [`Self::write`] has
/// slept, [`DaxDevice::recovery_page`] must not be called again without a new look at the device.
pub(crate) struct RecoveryPage<'a> {
    dax_dev: &'a DaxDevice,
    pgoff: ffi::c_ulong,
    kaddr: *mut ffi::c_void,
    pfn: ffi::c_ulong,
}

impl RecoveryPage<'_> {
    /// Returns the page frame number.
    pub(crate) fn pfn(&self) -> u64 {
        self.pfn as u64
    }

    /// Overwrites the page, bypassing the caches. This replaces whole cache lines, which clears
    /// uncorrectable errors on hardware that can.
    ///
    /// # Errors
    ///
    /// [`EIO`] if the driver does not write the whole page.
    pub(crate) fn write(&self, page: &mut [u8; PAGE_SIZE]) -> Result {
        // SAFETY: By the type invariants the page is one of the device. The machine check handler
        // may have removed it from the direct map.
        unsafe { c::clear_mce_nospec(self.pfn) };
        let source = c::kvec {
            iov_base: page.as_mut_ptr().cast(),
            iov_len: PAGE_SIZE,
        };
        let mut iter = MaybeUninit::uninit();
        let iter = iter.as_mut_ptr();
        // SAFETY: `source` is valid for as long as `iter` is used.
        unsafe { c::iov_iter_kvec(iter, c::ITER_SOURCE, &source, 1, PAGE_SIZE) };
        // SAFETY: By the type invariants `kaddr` is the page's address. `iter` has PAGE_SIZE bytes.
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
/// The device and its ranges are valid as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct DevDax(Opaque<f::dev_dax>);

/// A physically contiguous range of a device's memory.
pub(crate) struct Range {
    /// Offset on the device, in pages.
    pub(crate) pgoff: u64,
    /// Physical address, in bytes.
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl DevDax {
    /// Returns the size in bytes.
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: By the type invariants this is valid.
        unsafe { (*self.0.get()).cached_size }
    }

    /// Returns the ranges of the device, in the order of their offsets.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        // SAFETY: By the type invariants this is valid.
        let (first, number) = unsafe { ((*self.0.get()).ranges, (*self.0.get()).nr_range) };
        let ranges = if first.is_null() {
            &[]
        } else {
            // SAFETY: There are `nr_range` entries, which do not change while the device is bound.
            unsafe { slice::from_raw_parts(first, number as usize) }
        };

        ranges.iter().map(|part| Range {
            pgoff: part.pgoff as u64,
            start: part.range.start,
            len: part.range.end - part.range.start + 1,
        })
    }

    /// Returns the physical address of `size` bytes from page `pgoff` on, or [`None`] if they are
    /// out of range or not contiguous.
    pub(crate) fn pgoff_to_phys(&self, pgoff: u64, size: u64) -> Option<u64> {
        let dev_dax = self.0.get().cast();
        let (pgoff, size) = (pgoff as ffi::c_ulong, size as ffi::c_ulong);
        // SAFETY: By the type invariants this is valid.
        let phys = unsafe { c::dax_pgoff_to_phys(dev_dax, pgoff, size) };

        (phys != c::phys_addr_t::MAX).then_some(phys)
    }
}

/// A device on the dax bus.
///
/// # Invariants
///
/// All fields belong to one device, which is on the dax bus.
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

    /// Returns the module of the driver, or [`None`] if the driver is built in.
    pub(crate) fn driver(&self) -> Option<&'a Module> {
        self.driver
    }

    /// Returns the device of an open file, or [`None`] if it is not on the dax bus.
    ///
    /// # Safety
    ///
    /// `file` must not have been opened with O_PATH.
    pub(crate) unsafe fn of(file: &'a LocalFile) -> Option<Self> {
        let inode = file.inode();
        if !inode.is_character_device() {
            return None;
        }
        // SAFETY: By the safety requirements `chrdev_open()` has opened `file`, and set `i_cdev`.
        let cdev = unsafe { (*inode.as_raw()).__bindgen_anon_5.i_cdev };
        let cdev = NonNull::new(cdev)?.as_ptr();
        // SAFETY: An open file holds a reference to its cdev, and a cdev to its parent kobject.
        let parent = unsafe { (*cdev).kobj.parent };
        // Not the owner of the cdev: another driver may have been bound since.
        // SAFETY: `file` holds a reference to the module that its operations are from.
        let driver = unsafe { (*(*file.as_ptr()).f_op).owner };
        // A kobject is part of a `struct device` if it has the type of one that certainly is.
        // SAFETY: `platform_bus` is a static device, initialized at boot.
        let ktype = unsafe { (&raw const c::platform_bus.kobj.ktype).read() };
        // SAFETY: `parent` is null, or valid as long as `file`.
        if unsafe { parent.as_ref() }?.ktype != ktype {
            return None;
        }
        // SAFETY: `parent` is the kobject of a device.
        let device = unsafe { container_of!(parent, c::device, kobj) };
        // SAFETY: `device` is valid as long as `file`.
        let bus = NonNull::new(unsafe { (*device).bus }.cast_mut())?;
        // SAFETY: A device holds a reference to its bus, and a bus has a name.
        let name = unsafe { CStr::from_char_ptr((*bus.as_ptr()).name) };
        if name.to_bytes() != b"dax" {
            return None;
        }
        // SAFETY: The inode of a character device on the dax bus is part of a `struct dax_device`.
        let dax_dev = NonNull::new(unsafe { c::inode_dax(inode.as_raw()) })?;
        // INVARIANT: The name of the bus was checked above.
        Some(Self {
            // SAFETY: `file` holds a reference to its inode, and so to the DAX device.
            dax_dev: unsafe { DaxDevice::from_raw(dax_dev.as_ptr()) },
            // SAFETY: `device` is valid as long as `file`.
            device: unsafe { Device::from_raw(device) },
            // SAFETY: `file` holds a reference to the module that its operations are from.
            driver: unsafe { Module::from_raw(driver) },
        })
    }
}

/// Callbacks for the holder of a device.
pub(crate) trait HolderOperations: 'static {
    /// Called when memory of the device has failed or is about to be removed (`flags`, of `MF_*`).
    /// With [`EOPNOTSUPP`] the kernel falls back to its own handling.
    ///
    /// The dax core calls this under a [`ReadLock`], with a device that is alive. The device is
    /// held, or was held when the dax core looked.
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
    /// Must only be called by the dax core, with a device that is alive.
    unsafe extern "C" fn notify_failure(
        dax_dev: *mut c::dax_device,
        offset: u64,
        len: u64,
        flags: ffi::c_int,
    ) -> ffi::c_int {
        // SAFETY: The dax core holds a reference to `dax_dev` during the call.
        let dax_dev = unsafe { DaxDevice::from_raw(dax_dev) };

        from_result(|| T::notify_failure(dax_dev, offset, len, flags).map(|()| 0))
    }
}
