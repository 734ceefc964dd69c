// SPDX-License-Identifier: GPL-2.0

//! The slots of a mount, and the devices in them.

use core::{
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    fmt,
    fs::File,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        SetOnce, //
    }, //
};

use crate::{
    abstractions::device::DeviceId,
    bindings::kernel as c,
    lockless::{
        self,
        AsWritten, //
    },
    open_error::Failure,
    ratelimit::RateLimit,
    single_flight::SingleFlight, //
};

use super::{
    device::{
        Device,
        Health, //
    },
    hold::hold,
    holder::{
        self,
        Cookie,
        Holder,
        HolderOps, //
    },
    poison, //
};

/// `FUSE_DAX_FMAP_DEVICES_MAX`: the width of a device bitmap.
pub(crate) const DEVICES_MAX: usize = c::FUSE_DAX_FMAP_DEVICES_MAX as usize;

/// The devices of a mount, by index.
///
/// Only small allocations are possible while a mount is attached, so the slots are allocated later
/// ([`Devices::start`]).
///
/// # Invariants
///
/// A pointer in `healthy` is null, or points to the `device` of the slot of the same index.
#[pin_data]
pub(crate) struct Devices {
    /// The healthy devices, for the fault path.
    healthy: [AtomicPtr<Device>; DEVICES_MAX],
    slots: SetOnce<KBox<[Slot; DEVICES_MAX]>>,
    #[pin]
    acquiring: SingleFlight,
}

/// The slot of an index.
struct Slot {
    device: SetOnce<Device>,
    health: Health,
}

impl Devices {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            healthy: [const { AtomicPtr::new(ptr::null_mut()) }; DEVICES_MAX],
            slots: SetOnce::new(),
            acquiring <- SingleFlight::new(),
        })
    }

    /// Allocates the slots. May sleep. Called by one task at a time.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn start(&self) -> Result {
        if self.slots.as_ref().is_none() {
            let slots = [const {
                Slot {
                    device: SetOnce::new(),
                    health: Health::new(),
                }
            }; DEVICES_MAX];
            self.slots.populate(KBox::new(slots, GFP_KERNEL)?);
        }
        Ok(())
    }

    /// Gives all devices back, when nothing uses them any more: from here on nothing calls their
    /// holder. May sleep.
    pub(crate) fn release(&self) {
        for index in 0..DEVICES_MAX as u32 {
            if let Some(device) = self.held(index) {
                device.release();
            }
        }
    }

    /// Marks a device that is being removed as failed. Returns true if it is held.
    pub(crate) fn device_fails(&self, index: u32) -> bool {
        self.mark(index, Health::FAILED);
        self.held(index).is_some()
    }

    /// Marks a device of which some memory has failed.
    pub(crate) fn memory_fails(&self, index: u32) {
        self.mark(index, Health::POISONED);
    }

    /// Marks a device, and takes it out of `healthy`, where the fault path looks.
    fn mark(&self, index: u32, mark: u32) {
        let Some(slot) = self.slot(index) else {
            return;
        };
        lockless::mark::<AsWritten, _>(&self.healthy[index as usize], &slot.health.0, mark);
    }

    /// Puts a device that has just been held into its slot.
    fn fill(&self, index: u32, slot: &Slot, device: Device) {
        slot.device.populate(device);
        if let Some(device) = slot.device.as_ref() {
            let device = ptr::from_ref(device).cast_mut();
            lockless::fill::<AsWritten, _>(&self.healthy[index as usize], &slot.health.0, device);
        }
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.as_ref()?.get(index as usize)
    }

    /// Returns the device of an index, if it is held and has not failed.
    pub(crate) fn get(&self, index: u32) -> Option<&Device> {
        let slot = self.slot(index)?;

        slot.device.as_ref().filter(|_| !slot.health.has_failed())
    }

    /// Returns the device of an index, if it is held and healthy.
    #[inline]
    pub(crate) fn get_healthy(&self, index: u32) -> Option<&Device> {
        let healthy = lockless::healthy::<AsWritten, _>(self.healthy.get(index as usize)?);

        // SAFETY: By the type invariants `healthy` is the device of the slot, which keeps it as
        // long as the mount exists.
        NonNull::new(healthy).map(|device| unsafe { device.as_ref() })
    }

    /// Returns the device of an index if it is held, failed or not.
    pub(crate) fn held(&self, index: u32) -> Option<&Device> {
        self.slot(index)?.device.as_ref()
    }

    /// Returns the first index from `from` on whose slot has a device, failed or not.
    pub(crate) fn next_held(&self, from: u32) -> Option<u32> {
        (from..DEVICES_MAX as u32).find(|&index| self.held(index).is_some())
    }

    /// Returns what is known of the device of an index if it is held, failed or not.
    pub(crate) fn record(&self, index: u32) -> Option<Record<'_>> {
        let slot = self.slot(index)?;
        let device = slot.device.as_ref()?;

        Some(Record {
            index,
            device,
            failed: slot.health.has_failed(),
        })
    }

    /// Makes sure that a device is held by `holder`. If it is not, `open` opens it, without O_PATH.
    /// `limit` is for the log. May sleep.
    ///
    /// # Errors
    ///
    /// The errno of the open(2) that needs the device, and the cause for the log.
    ///
    /// # Safety
    ///
    /// `holder` must own `self`, not be moved, and call [`Devices::release`] before any field of it
    /// is dropped.
    pub(crate) unsafe fn acquire(
        &self,
        index: u32,
        holder: &(dyn HolderOps + 'static),
        limit: &RateLimit,
        open: impl FnOnce() -> Result<ARef<File>, Failure>,
    ) -> Result<(), Failure> {
        let slot = self
            .slot(index)
            .ok_or(EINVAL)
            .map_err(Failure::because("device index"))?;

        let held = || slot.device.as_ref().is_some();
        if !held() {
            let flight = self
                .acquiring
                .flight(index as usize, held)
                .map_err(Failure::because("waiting for GET_DAXDEV"))?;

            if flight.is_some() {
                let file = open()?;
                let announce = |name: &CStr, device: &_, parent: Option<&_>| {
                    self.announce(slot, index, holder, name, (device, parent))
                };
                // SAFETY: `open` was to open the file without O_PATH. The slot stays as long as
                // `self`, which gives its devices back before.
                let device = unsafe { hold(&file, &slot.health, limit, announce) }?;
                self.fill(index, slot, device);
            }
        }
        if slot.health.has_failed() {
            return Err(Failure {
                errno: EIO,
                cause: "the device has failed",
            });
        }
        Ok(())
    }

    /// Adds a slot that is about to hold a device to the list of holders.
    fn announce(
        &self,
        slot: &Slot,
        index: u32,
        ops: &(dyn HolderOps + 'static),
        name: &CStr,
        (device, parent): (&kernel::device::Device, Option<&kernel::device::Device>),
    ) -> Result<Cookie, Failure> {
        slot.health.0.store(0, Ordering::Relaxed);
        // INVARIANT: The devices are those of `ops`, which calls `Devices::release()` before it is
        // dropped (see `acquire()`), and that takes the holder out of the list.
        let holder = holder::register(Holder {
            cookie: Cookie::NONE,
            index,
            ops: NonNull::from(ops),
            name: CString::try_from(name).map_err(|_| Failure::because("no memory")(ENOMEM))?,
            device: DeviceId::of(device),
            parent: parent.map(DeviceId::of),
            is_taken: false,
            is_logged: false,
            is_out_of_use: false,
        })
        .map_err(Failure::because("no memory"))?;
        // In this order: memory that fails from now on is reported, and memory that failed before
        // is in the list of poison.
        if poison::exists() {
            self.mark(index, Health::POISONED);
        }
        Ok(holder)
    }
}

/// For the list of mounts: `index:name`, separated by commas, `!` behind a failed device.
impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";

        for (index, slot) in self
            .slots
            .as_ref()
            .iter()
            .flat_map(|slots| slots.iter())
            .enumerate()
        {
            let Some(device) = slot.device.as_ref() else {
                continue;
            };
            let failed = if slot.health.has_failed() { "!" } else { "" };
            f.write_fmt(fmt!("{separator}{index}:{}{failed}", device.name()))?;
            separator = ",";
        }
        Ok(())
    }
}

/// What is known of a device that is held, failed or not.
pub(crate) struct Record<'a> {
    index: u32,
    device: &'a Device,
    failed: bool,
}

/// For the list of devices: `device=name`, numbers as `name=number`, and its counters. The dax bus
/// names a device by two numbers, so nothing has to be escaped.
impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!(
            "device={} index={} size={} failed={} poisoned_pages={}{}",
            self.device.name(),
            self.index,
            self.device.size(),
            u32::from(self.failed),
            self.device.poisoned_pages(),
            self.device.stats
        ))
    }
}
