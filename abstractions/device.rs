// SPDX-License-Identifier: GPL-2.0

//! The lock of a device, which serializes binding and unbinding of its driver.
//!
//! C header: [`include/linux/device.h`](srctree/include/linux/device.h)
//!
//! # Examples
//!
//! ```ignore
//! let locked = lock(device);
//! // Its driver is neither bound nor unbound here.
//! drop(locked);
//! ```

use core::ptr;

use kernel::{
    device::Device,
    types::NotThreadSafe, //
};

use crate::bindings::kernel as c;

/// Returns the raw pointer. The method of the kernel crate is private.
fn raw(device: &Device) -> *mut c::device {
    // `Device` is transparent.
    ptr::from_ref(device).cast_mut().cast()
}

/// A guard for a locked device.
///
/// # Invariants
///
/// The current task has locked `device`.
#[must_use = "the device is unlocked when the guard is dropped"]
pub(crate) struct DeviceGuard<'a> {
    device: &'a Device,
    _same_task: NotThreadSafe,
}

/// Locks a device. The wait is uninterruptible.
pub(crate) fn lock(device: &Device) -> DeviceGuard<'_> {
    // SAFETY: `device` is valid.
    unsafe { c::device_lock(raw(device)) };
    // INVARIANT: The device was locked just above.
    DeviceGuard {
        device,
        _same_task: NotThreadSafe,
    }
}

/// Tries to lock a device, without waiting.
pub(crate) fn try_lock(device: &Device) -> Option<DeviceGuard<'_>> {
    // SAFETY: `device` is valid.
    if unsafe { c::device_trylock(raw(device)) } == 0 {
        return None;
    }
    // INVARIANT: The device was locked just above.
    Some(DeviceGuard {
        device,
        _same_task: NotThreadSafe,
    })
}

impl Drop for DeviceGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the current task has locked the device.
        unsafe { c::device_unlock(raw(self.device)) }
    }
}
