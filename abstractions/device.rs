// SPDX-License-Identifier: GPL-2.0

//! The lock of a device, under which drivers are bound and unbound.
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

/// The kernel crate's own method is private.
fn raw(device: &Device) -> *mut c::device {
    // The type is transparent.
    ptr::from_ref(device).cast_mut().cast()
}

/// A device that is locked.
///
/// # Invariants
///
/// The current task has locked it.
#[must_use = "the device is unlocked when the guard is dropped"]
pub(crate) struct DeviceGuard<'a> {
    device: &'a Device,
    _same_task: NotThreadSafe,
}

/// Locks a device. No signal ends the wait.
pub(crate) fn lock(device: &Device) -> DeviceGuard<'_> {
    // SAFETY: `device` is valid.
    unsafe { c::device_lock(raw(device)) };
    // INVARIANT: Locked just now.
    DeviceGuard {
        device,
        _same_task: NotThreadSafe,
    }
}

/// Locks a device if that is possible at once.
pub(crate) fn try_lock(device: &Device) -> Option<DeviceGuard<'_>> {
    // SAFETY: `device` is valid.
    if unsafe { c::device_trylock(raw(device)) } == 0 {
        return None;
    }
    // INVARIANT: Locked just now.
    Some(DeviceGuard {
        device,
        _same_task: NotThreadSafe,
    })
}

impl Drop for DeviceGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this task has locked it.
        unsafe { c::device_unlock(raw(self.device)) }
    }
}
