// SPDX-License-Identifier: GPL-2.0

//! Taking a device: how the file behind a path becomes a device that a slot holds, while its driver
//! may be unbound and other mounts may want it.

use core::ptr;

use kernel::{
    fs::File,
    prelude::*,
    str::CString,
    sync::aref::ARef,
    time::msecs_to_jiffies, //
};

use crate::{
    abstractions::{
        dax::{
            BusDevice,
            DaxDevice,
            ReadLock, //
        },
        device::{
            self,
            Bus,
            DeviceGuard, //
        },
        task, //
    },
    compat::EOPNOTSUPP,
    open_error::Failure,
    ratelimit::{
        pr_warn_limited,
        RateLimit, //
    },
    stats::DeviceStats, //
};

use super::{
    device::{
        Device,
        Health, //
    },
    failure::{
        watch,
        Reports, //
    },
    holder::{
        self,
        Cookie, //
    }, //
};

/// Holds the device behind an open file. `announce` adds the holder of the named device, which has
/// that parent, to the list of holders.
///
/// # Safety
///
/// `file` must have been opened without O_PATH. `health` must stay valid as long as the device is
/// held.
pub(super) unsafe fn hold(
    file: &File,
    health: &Health,
    limit: &RateLimit,
    announce: impl FnOnce(
        &CStr,
        &kernel::device::Device,
        Option<&kernel::device::Device>,
    ) -> Result<Cookie, Failure>,
) -> Result<Device, Failure> {
    // SAFETY: By the safety requirements `file` was opened without O_PATH.
    let found = unsafe { BusDevice::of(file) }.ok_or(Failure {
        errno: ENODEV,
        cause: "GET_DAXDEV: this is no device of the dax bus",
    })?;
    let name = CString::try_from(found.device().name())
        .map_err(|_| Failure::because("no memory")(ENOMEM))?;
    let stats = DeviceStats::new().map_err(Failure::because("no memory"))?;
    let Family { parent, buses } = Family::of(&found).ok_or(GOES_AWAY)?;
    let parent = parent.as_deref();
    watch(buses.into_iter().flatten()).map_err(|errno| match errno {
        ENOMEM => Failure::because("no memory")(errno),
        _ => GOES_AWAY,
    })?;
    let holder = announce(&name, found.device(), parent)?;

    let parent_locked = match take(&found, parent, holder) {
        Ok(locked) => locked,
        Err(errno) => {
            holder::unregister(holder, || ());
            return Err(cannot_be_held(errno, limit, &name, found.dax_dev()));
        }
    };
    // The driver is unbound with this lock held, or the device is removed with the parent's,
    // and `holder` is looked for then. If the device is alive, it is found.
    let locked = device::lock(found.device());
    // `kill_dax()` may have looked for a holder before `fs_dax_get()` stored `holder`, and notified
    // none. It clears the holder once: before that, so that the dead device has `holder`, or after.
    // The device may even be bound again, to any driver, and another mount hold it.
    if has_memory(found.dax_dev()).is_err() || found.dax_dev().holder() != holder.as_ptr() {
        // SAFETY: `take()` has taken a reference to the device, which is dropped here. The device
        // and its parent are locked.
        holder::unregister(holder, || unsafe { give_back(found.dax_dev(), holder) });
        return Err(GOES_AWAY);
    }
    holder::taken(holder);
    // SAFETY: `take()` has held the device with `holder`, and `health` stays valid by the safety
    // requirements.
    let mut held = unsafe { Device::new(&found, health, holder, name, stats) };
    let measured = held.measure();
    drop(locked);
    drop(parent_locked);
    measured.map_err(Failure::because("no memory"))?;
    if held.size() == 0 {
        return Err(GOES_AWAY);
    }
    Ok(held)
}

/// Returns why a device cannot be held, and logs its holder.
fn cannot_be_held(errno: Error, limit: &RateLimit, name: &CStr, dax_dev: &DaxDevice) -> Failure {
    let cause = match errno {
        EBUSY => {
            say_who_holds(limit, name, dax_dev);
            "the DAX device is held by another mount, or under another index"
        }
        EOPNOTSUPP => "the DAX device is not bound to fsdev_dax",
        EINTR => "waiting for the driver of the DAX device",
        _ => "the DAX device cannot be held",
    };

    Failure { errno, cause }
}

const GOES_AWAY: Failure = Failure {
    errno: ENODEV,
    cause: "the DAX device has no memory, or goes away",
};

/// Releases a device that was taken, but whose driver was unbound before it could notify `holder`.
///
/// # Safety
///
/// The caller owns a reference to `dax_dev`, which this drops, and has locked its device and the
/// device's parent.
unsafe fn give_back(dax_dev: &DaxDevice, holder: Cookie) {
    // `fs_dax_get()` may have stored `holder_ops` after `kill_dax()` had cleared it, and it must
    // not stay. But if the device has another holder, `holder_ops` belongs to that one. A task that
    // wants to become the holder locks the parent before it tries.
    let current = dax_dev.holder();
    let holder = if current.is_null() || current == holder.as_ptr() {
        holder.as_ptr()
    } else {
        ptr::null_mut()
    };
    // SAFETY: By the safety requirements the caller owns a reference to `dax_dev`.
    unsafe { dax_dev.put(holder) };
}

/// Checks that a device is bound to a driver that gives DAX its memory: fsdev_dax. It stays so as
/// long as it and its parent are locked.
///
/// # Errors
///
/// `EOPNOTSUPP` if it is bound to another driver; others if it is bound to none.
fn has_memory(dax_dev: &DaxDevice) -> Result {
    let lock = ReadLock::new();

    // SAFETY: Devices are taken only from the dax bus, and this one is locked.
    unsafe { dax_dev.try_access(&lock) }
}

/// What a device is a part of.
struct Family {
    parent: Option<ARef<kernel::device::Device>>,
    /// The bus of the device, and that of its parent.
    buses: [Option<Bus>; 2],
}

impl Family {
    /// Returns `None` if the device is being removed.
    fn of(found: &BusDevice<'_>) -> Option<Self> {
        let lock = ReadLock::new();
        // The device is alive, so it is registered, and so is its parent: `unregister_dev_dax()`
        // waits in `kill_dax()` for this lock before it calls `device_del()`, and a device is
        // unregistered after those that its driver has made.
        // SAFETY: A `BusDevice` is on the dax bus.
        unsafe { found.dax_dev().dev_dax(&lock) }?;

        // SAFETY: The device is registered, as said above.
        let parent = unsafe { device::parent(found.device()) };
        // SAFETY: The device is registered, as said above.
        let own = unsafe { Bus::of(found.device()) };
        let above = parent.as_deref().and_then(|parent| {
            // SAFETY: The parent is registered, as said above.
            unsafe { Bus::of(parent) }
        });
        Some(Self {
            parent,
            buses: [own, above],
        })
    }
}

/// Interval between attempts to lock a device.
const AGAIN_MS: u32 = 10;

/// Takes a device for a holder. Returns the lock of the device's parent: as long as it is held, the
/// parent's driver, which has made the device, does not remove it.
///
/// `fs_dax_get()` waits for the lock of the device, and is not killable. The task that unbinds a
/// driver has the lock as long as pages are in use (`failure`). So `fs_dax_get()` is called when
/// the lock is free, the driver is the right one, and the device has no holder: then there are no
/// pages to wait for, even if another task takes the lock first. No other mount becomes the holder
/// meanwhile, as it would need the parent's lock.
///
/// # Errors
///
/// [`EBUSY`] if the device is held; [`EINTR`] if the task is being killed; those of [`has_memory`]
/// and `fs_dax_get()`.
fn take<'a>(
    found: &BusDevice<'_>,
    parent: Option<&'a kernel::device::Device>,
    holder: Cookie,
) -> Result<Option<DeviceGuard<'a>>> {
    let is_held = || !found.dax_dev().holder().is_null();
    let parent_locked = loop {
        // A device that is held is not waited for.
        if is_held() {
            return Err(EBUSY);
        }
        let parent_locked = parent.map(device::lock_killable).transpose()?;
        if is_held() {
            return Err(EBUSY);
        }
        if let Some(locked) = device::try_lock(found.device()) {
            has_memory(found.dax_dev())?;
            drop(locked);
            break parent_locked;
        }
        drop(parent_locked);
        task::sleep_killable(msecs_to_jiffies(AGAIN_MS));
        if task::fatal_signal_pending() {
            return Err(EINTR);
        }
    };
    // SAFETY: A `BusDevice` sits on the dax bus, and a cookie is never null.
    unsafe { found.dax_dev().hold::<Reports>(holder.as_ptr()) }?;
    Ok(parent_locked)
}

/// Logs the holder of a device that cannot be held.
fn say_who_holds(limit: &RateLimit, name: &CStr, dax_dev: &DaxDevice) {
    holder::with_holder(dax_dev, |holder| match holder {
        Some(holder) => pr_warn_limited!(limit, "{name} is held by {holder}\n"),
        None => pr_warn_limited!(limit, "{name} is held by another file system\n"),
    });
}
