// SPDX-License-Identifier: GPL-2.0

//! The lock of a device, which serializes binding and unbinding of its driver, and notifiers of a
//! bus, which are told before a driver is unbound.
//!
//! C headers: [`include/linux/device.h`](srctree/include/linux/device.h),
//! [`include/linux/device/bus.h`](srctree/include/linux/device/bus.h)
//!
//! # Examples
//!
//! ```ignore
//! let locked = lock(device);
//! // Its driver is neither bound nor unbound here.
//! drop(locked);
//! ```

use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    device::Device,
    error::to_result,
    ffi,
    prelude::*,
    sync::aref::ARef,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use crate::bindings::kernel as c;

/// Returns the raw pointer. The method of the kernel crate is private.
fn raw(device: &Device) -> *mut c::device {
    // `Device` is transparent.
    ptr::from_ref(device).cast_mut().cast()
}

/// The address of a device, for comparison only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceId(usize);

impl DeviceId {
    pub(crate) fn of(device: &Device) -> Self {
        Self(raw(device).addr())
    }
}

/// Returns the parent, if there is one.
///
/// # Safety
///
/// The device must be registered, and not be unregistered during the call: it has a reference to
/// its parent for no longer.
pub(crate) unsafe fn parent(device: &Device) -> Option<ARef<Device>> {
    // SAFETY: `device` is valid; its parent does not change.
    let parent = unsafe { (*raw(device)).parent };

    if parent.is_null() {
        return None;
    }
    // SAFETY: By the safety requirements `device` has a reference to its parent.
    let parent: &Device = unsafe { Device::from_raw(parent) };
    Some(ARef::from(parent))
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

/// Locks a device. The wait is killable.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed.
pub(crate) fn lock_killable(device: &Device) -> Result<DeviceGuard<'_>> {
    // SAFETY: `device` is valid.
    to_result(unsafe { c::fuse_dax_fmap_device_lock_killable(raw(device)) })?;
    // INVARIANT: The device was locked just above.
    Ok(DeviceGuard {
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

/// A bus that a device is on, or was.
///
/// The bus may be unregistered, and another one be registered at its address. The reference to the
/// kset, which each registration has of its own, tells them apart.
///
/// # Invariants
///
/// `self` owns a reference to `kset`, which belongs to a registration of `bus`.
pub(crate) struct Bus {
    bus: *const c::bus_type,
    kset: NonNull<c::kset>,
}

// SAFETY: A bus belongs to no task.
unsafe impl Send for Bus {}

impl Bus {
    /// Returns the bus that a device is on, if it is on one.
    ///
    /// # Safety
    ///
    /// The device must be registered, and not be unregistered during the call.
    pub(crate) unsafe fn of(device: &Device) -> Option<Self> {
        // SAFETY: `device` is valid; its bus does not change.
        let bus = unsafe { (*raw(device)).bus };

        // SAFETY: The function compares the address with those of the buses that are registered.
        let kset = NonNull::new(unsafe { c::bus_get_kset(bus) })?;
        // SAFETY: By the safety requirements `device` is on the bus, which is registered as long.
        unsafe { c::kobject_get(&raw mut (*kset.as_ptr()).kobj) };
        // INVARIANT: The reference was taken above.
        Some(Self { bus, kset })
    }
}

impl PartialEq for Bus {
    fn eq(&self, other: &Self) -> bool {
        self.kset == other.kset
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns this reference.
        unsafe { c::kobject_put(&raw mut (*self.kset.as_ptr()).kobj) }
    }
}

/// What a [`BusNotifier`] calls.
pub(crate) trait Unbinding: 'static {
    /// Called before the driver of a device is unbound, with the device locked. May sleep. Until it
    /// returns, no notifier of the bus can be registered or unregistered; other drivers can be
    /// bound and unbound.
    fn unbinding(device: DeviceId);
}

/// A notifier of a bus. Dropping it waits for calls that are under way.
///
/// # Invariants
///
/// `block` is registered with the bus, as long as that is registered itself.
#[pin_data(PinnedDrop)]
pub(crate) struct BusNotifier<T: Unbinding> {
    bus: Bus,
    #[pin]
    block: Opaque<c::notifier_block>,
    _calls: PhantomData<T>,
}

// SAFETY: A notifier belongs to no task.
unsafe impl<T: Unbinding> Send for BusNotifier<T> {}

impl<T: Unbinding> BusNotifier<T> {
    /// Registers a notifier. May sleep.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the bus is not registered.
    pub(crate) fn new(bus: Bus) -> impl PinInit<Self, Error> {
        let address = bus.bus;

        // INVARIANT: `block` is registered here.
        try_pin_init!(Self {
            bus,
            block <- Opaque::try_ffi_init(move |slot: *mut c::notifier_block| {
                let block = c::notifier_block {
                    notifier_call: Some(Self::call),
                    ..pin_init::zeroed()
                };

                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(block) };
                // SAFETY: `slot` is pinned, and stays until `drop()`. The function compares the
                // address of the bus with those of the buses that are registered.
                to_result(unsafe { c::bus_register_notifier(address, slot) })
            }),
            _calls: PhantomData,
        })
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// # Safety
    ///
    /// Must only be called by the driver core, with a device.
    unsafe extern "C" fn call(
        _block: *mut c::notifier_block,
        event: ffi::c_ulong,
        device: *mut ffi::c_void,
    ) -> ffi::c_int {
        if event == c::bus_notifier_event_BUS_NOTIFY_UNBIND_DRIVER as ffi::c_ulong {
            T::unbinding(DeviceId(device.addr()));
        }
        0
    }
}

#[pinned_drop]
impl<T: Unbinding> PinnedDrop for BusNotifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // An error means that the bus is gone, and its notifiers with it.
        // SAFETY: By the type invariants `block` is registered, or the bus is not.
        unsafe { c::bus_unregister_notifier(self.bus.bus, self.block.get()) };
    }
}
