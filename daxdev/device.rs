// SPDX-License-Identifier: GPL-2.0

//! The slots of a mount, and the devices in them: how a device is held, and released.

use core::{
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        AtomicU32,
        Ordering, //
    }, //
};

use kernel::{
    fmt,
    fs::File,
    page::PAGE_SIZE,
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        SetOnce, //
    },
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
            DeviceGuard,
            DeviceId, //
        },
        module::ModuleRef,
        task, //
    },
    bindings::kernel as c,
    compat::EOPNOTSUPP,
    lockless::{
        self,
        AsWritten, //
    },
    open_error::Failure,
    ratelimit::{
        pr_warn_limited,
        RateLimit, //
    },
    single_flight::SingleFlight,
    stats::DeviceStats, //
};

use super::{
    failure::{
        watch,
        Reports, //
    },
    frames::{
        frames_at,
        Frames, //
    },
    holder::{
        self,
        Cookie,
        Holder,
        HolderOps, //
    },
    poison::{
        self,
        forget,
        settled, //
    }, //
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
    /// 0 if the device is healthy, else flags.
    health: AtomicU32,
}

impl Slot {
    /// The device is being removed, or has been.
    const FAILED: u32 = 1 << 0;
    /// Memory has failed, maybe of this device: see [`poison`].
    const POISONED: u32 = 1 << 1;

    fn has_failed(&self) -> bool {
        self.health.load(Ordering::Relaxed) & Self::FAILED != 0
    }
}

/// A held device.
///
/// # Invariants
///
/// `dax_dev` sits on the dax bus, is held with `holder` and stays valid until
/// [`Device::release`] has given it back.
pub(crate) struct Device {
    dax_dev: NonNull<DaxDevice>,
    /// The size in bytes, a multiple of the page size.
    size: u64,
    /// The same if the device is in one piece, else 0.
    one_piece: u64,
    /// The first page frame, if the device is in one piece.
    first_pfn: Option<u64>,
    /// Its memory, in the order of addresses.
    pieces: KVec<Piece>,
    holder: Cookie,
    /// True once it has been given back.
    is_released: Atomic<bool>,
    /// Its slot, which is valid as long as the device is held.
    slot: NonNull<Slot>,
    /// True if the device reported a write cache before it was held.
    write_cache: bool,
    pub(crate) stats: DeviceStats,
    /// The module of its driver, if there is one.
    _driver: Option<ModuleRef>,
    /// Its own name, as in /sys/bus/dax/devices.
    name: CString,
}

// SAFETY: A held device belongs to no task.
unsafe impl Send for Device {}
// SAFETY: Nothing of it changes while it is held.
unsafe impl Sync for Device {}

impl Device {
    #[inline]
    pub(crate) fn dax_dev(&self) -> &DaxDevice {
        // SAFETY: By the type invariants the device is valid.
        unsafe { self.dax_dev.as_ref() }
    }

    fn slot(&self) -> &Slot {
        // SAFETY: A slot stays as long as its device is held.
        unsafe { self.slot.as_ref() }
    }
}

/// Memory of a device in one piece.
struct Piece {
    /// Where it begins and ends, in bytes of the device.
    start: u64,
    end: u64,
    /// Its first page frame.
    pfn: u64,
}

impl Device {
    /// Returns the page frame at `addr`, which may have been removed with the device.
    #[inline]
    pub(crate) fn frame(&self, addr: u64) -> Option<u64> {
        match self.first_pfn {
            Some(first) => Some(first + addr / PAGE_SIZE as u64),
            None => {
                let piece = self.piece_at(addr)?;
                Some(piece.pfn + (addr - piece.start) / PAGE_SIZE as u64)
            }
        }
    }

    /// Returns how many of `length` bytes from `addr` on are in one piece; `None` if they are not
    /// all inside the device.
    #[inline]
    pub(crate) fn in_one_piece(&self, addr: u64, length: u64) -> Option<u64> {
        let end = addr.checked_add(length)?;

        if end <= self.one_piece {
            return Some(length);
        }
        self.in_a_piece(addr, end)
    }

    #[cold]
    fn in_a_piece(&self, addr: u64, end: u64) -> Option<u64> {
        if end > self.size {
            return None;
        }
        Some(self.piece_at(addr)?.end.min(end) - addr)
    }

    #[cold]
    fn piece_at(&self, addr: u64) -> Option<&Piece> {
        self.pieces
            .iter()
            .find(|piece| (piece.start..piece.end).contains(&addr))
    }

    /// Calls `look` with the frames of `pages` pages from `addr` on, which do not change until it
    /// returns. Returns `None` if the device is being removed.
    pub(crate) fn with_frames<T>(
        &self,
        addr: u64,
        pages: u64,
        look: impl FnOnce(Frames) -> T,
    ) -> Option<T> {
        let lock = ReadLock::new();
        // SAFETY: By the type invariants the device sits on the dax bus.
        let dev_dax = unsafe { self.dax_dev().dev_dax(&lock) }?;

        Some(look(frames_at(dev_dax, addr, pages)))
    }
}

impl Device {
    /// Returns true if the device, or some of its memory, may have failed.
    pub(crate) fn may_be_unhealthy(&self) -> bool {
        self.slot().health.load(Ordering::Relaxed) != 0
    }

    /// Returns true if a page frame is of this device.
    pub(crate) fn has_frame(&self, pfn: u64) -> bool {
        self.pieces.iter().any(|piece| {
            let pages = (piece.end - piece.start) / PAGE_SIZE as u64;
            (piece.pfn..piece.pfn + pages).contains(&pfn)
        })
    }

    /// Returns the number of its pages that are known to have failed.
    fn poisoned_pages(&self) -> usize {
        let of_piece = |piece: &Piece| {
            let pages = (piece.end - piece.start) / PAGE_SIZE as u64;
            poison::known(piece.pfn, pages)
        };
        self.pieces.iter().map(of_piece).sum()
    }

    /// Reads the ranges and the size of the device; leaves it empty if it is not alive. The size
    /// stays the same: fsdev_dax sets it before it makes the device available, and refuses to
    /// resize a device that is bound to it.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    fn measure(&mut self) -> Result {
        let page = PAGE_SIZE as u64;
        let lock = ReadLock::new();
        // SAFETY: By the type invariants the device is valid.
        let dax_dev = unsafe { self.dax_dev.as_ref() };
        // SAFETY: By the type invariants the device sits on the dax bus.
        let Some(dev_dax) = (unsafe { dax_dev.dev_dax(&lock) }) else {
            return Ok(());
        };

        // Reads survive unknown poison, as those of pmem do.
        dax_dev.set_nomc();
        for range in dev_dax.ranges() {
            let start = range.pgoff * page;
            self.pieces.push(
                Piece {
                    start,
                    end: start + (range.len - range.len % page),
                    pfn: range.start / page,
                },
                GFP_KERNEL,
            )?;
        }
        let size = dev_dax.size();
        self.size = size - size % page;
        self.first_pfn = frames_at(dev_dax, 0, self.size / page).pfn;
        self.one_piece = self.first_pfn.map_or(0, |_| self.size);
        Ok(())
    }
}

impl Device {
    /// Returns how many of `pages` pages from `addr` on come before the first one that has failed;
    /// `None` if the device is being removed.
    #[cold]
    pub(crate) fn healthy_pages(&self, addr: u64, pages: u64) -> Option<u64> {
        let healthy = self.with_frames(addr, pages, |frames| {
            frames.pfn.is_some().then(|| frames.healthy())
        })?;
        match healthy {
            Some(healthy) => Some(healthy),
            // The pages are not in one piece, but the first page is.
            None => self.with_frames(addr, 1, |frames| frames.healthy()),
        }
    }

    /// Rewrites a page that has failed, and takes it back into use.
    ///
    /// The driver's stores bypass the caches. They replace whole cache lines, and with them the
    /// poison, if the hardware can do that; if not, the next access reports the poison again.
    ///
    /// # Errors
    ///
    /// [`EIO`] if the device is being removed, or cannot be written; [`EJUKEBOX`] if a report of
    /// the failure has not settled: the caller retries, with no locks held in between.
    ///
    /// # Safety
    ///
    /// The caller must have validated a mapping of the device, and not have slept since (see
    /// `failure`).
    pub(crate) unsafe fn rewrite(&self, addr: u64, page: &mut [u8; PAGE_SIZE]) -> Result {
        let lock = ReadLock::new();
        let pgoff = addr / PAGE_SIZE as u64;
        // SAFETY: By the safety requirements the device was alive when the task last slept.
        let failed = unsafe { self.dax_dev().recovery_page(pgoff, &lock) }?;
        let report = settled(&failed)?;

        failed.write(page)?;
        forget(&failed, report)?;
        pr_info!(
            "{}: {:#x} was written anew and is in use again\n",
            &*self.name,
            addr
        );
        Ok(())
    }
}

impl Device {
    /// Gives the device back, unless that has been done. It is not used after that. May sleep.
    fn release(&self) {
        if self.is_released.xchg(true, Relaxed) {
            return;
        }
        holder::unregister(self.holder, || {
            let dax_dev = self.dax_dev();
            // As long as the device is alive under the lock, `kill_dax()` does not clear its
            // holder. Once it is not, the dax core no longer calls the holder's operations, and
            // clears them: the device was alive when `hold()` had stored them.
            let lock = ReadLock::new();
            // SAFETY: By the type invariants the device sits on the dax bus.
            let is_alive = unsafe { dax_dev.dev_dax(&lock) }.is_some();
            // If it has been unbound, and bound again, another mount may hold it.
            let held = is_alive && dax_dev.holder() == self.holder.as_ptr();
            if held && !self.write_cache {
                dax_dev.set_write_cache(false);
            }
            let holder = if held {
                self.holder.as_ptr()
            } else {
                ptr::null_mut()
            };
            // SAFETY: By the type invariants `self` owns this reference, and only the first call of
            // `release()` drops it.
            unsafe { dax_dev.put(holder) };
            drop(lock);
        });
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.release();
    }
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
                    health: AtomicU32::new(0),
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
        self.mark(index, Slot::FAILED);
        self.held(index).is_some()
    }

    /// Marks a device of which some memory has failed.
    pub(crate) fn memory_fails(&self, index: u32) {
        self.mark(index, Slot::POISONED);
    }

    /// Marks a device, and takes it out of `healthy`, where the fault path looks.
    fn mark(&self, index: u32, mark: u32) {
        let Some(slot) = self.slot(index) else {
            return;
        };
        lockless::mark::<AsWritten, _>(&self.healthy[index as usize], &slot.health, mark);
    }

    /// Puts a device that has just been held into its slot.
    fn fill(&self, index: u32, slot: &Slot, device: Device) {
        slot.device.populate(device);
        if let Some(device) = slot.device.as_ref() {
            let device = ptr::from_ref(device).cast_mut();
            lockless::fill::<AsWritten, _>(&self.healthy[index as usize], &slot.health, device);
        }
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.as_ref()?.get(index as usize)
    }

    /// Returns the device of an index, if it is held and has not failed.
    pub(crate) fn get(&self, index: u32) -> Option<&Device> {
        let slot = self.slot(index)?;

        slot.device.as_ref().filter(|_| !slot.has_failed())
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
            failed: slot.has_failed(),
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
                self.fill(index, slot, self.hold(slot, index, &file, holder, limit)?);
            }
        }
        if slot.has_failed() {
            return Err(Failure {
                errno: EIO,
                cause: "the device has failed",
            });
        }
        Ok(())
    }

    /// Holds the device behind an open file.
    fn hold(
        &self,
        slot: &Slot,
        index: u32,
        file: &File,
        ops: &(dyn HolderOps + 'static),
        limit: &RateLimit,
    ) -> Result<Device, Failure> {
        // SAFETY: `acquire()` requires that `file` was opened without O_PATH.
        let found = unsafe { BusDevice::of(file) }.ok_or(Failure {
            errno: ENODEV,
            cause: "GET_DAXDEV: this is no device of the dax bus",
        })?;
        let name = CString::try_from(found.device().name())
            .map_err(|_| Failure::because("no memory")(ENOMEM))?;
        let stats = DeviceStats::new().map_err(Failure::because("no memory"))?;
        let parent = parent_of(&found).ok_or(GOES_AWAY)?;
        let parent = parent.as_deref();
        watch(found.device(), parent).map_err(Failure::because("no memory"))?;
        let holder = self.announce(slot, index, ops, &name, (found.device(), parent))?;

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
        // `kill_dax()` may have looked for a holder before `fs_dax_get()` stored `holder`, and
        // notified none. It clears the holder once: before that, so that the dead device has
        // `holder`, or after. The driver may even be bound again, and another mount hold the
        // device.
        if !is_alive(found.dax_dev()) || found.dax_dev().holder() != holder.as_ptr() {
            // SAFETY: `take()` has taken a reference to the device, which is dropped here. The
            // device and its parent are locked.
            holder::unregister(holder, || unsafe { give_back(found.dax_dev(), holder) });
            return Err(GOES_AWAY);
        }
        holder::taken(holder);
        let mut held = held(&found, slot, holder, name, stats);
        let measured = held.measure();
        drop(locked);
        drop(parent_locked);
        measured.map_err(Failure::because("no memory"))?;
        if held.size == 0 {
            return Err(GOES_AWAY);
        }
        Ok(held)
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
        slot.health.store(0, Ordering::Relaxed);
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
            self.mark(index, Slot::POISONED);
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
            let failed = if slot.has_failed() { "!" } else { "" };
            f.write_fmt(fmt!("{separator}{index}:{}{failed}", &*device.name))?;
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
            &*self.device.name,
            self.index,
            self.device.size,
            u32::from(self.failed),
            self.device.poisoned_pages(),
            self.device.stats
        ))
    }
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

/// Makes a [`Device`] of a device that has just been taken, and is locked. It is not measured yet.
fn held(
    found: &BusDevice<'_>,
    slot: &Slot,
    holder: Cookie,
    name: CString,
    stats: DeviceStats,
) -> Device {
    // There are CPU caches in front of the memory, although the driver reports no write cache. With
    // this, DAX flushes them when it writes back. (On the dax bus, write(2) bypasses them.)
    let write_cache = found.dax_dev().has_write_cache();
    found.dax_dev().set_write_cache(true);

    // INVARIANT: Held with `holder`; it is on the dax bus.
    Device {
        dax_dev: NonNull::from(found.dax_dev()),
        size: 0,
        one_piece: 0,
        first_pfn: None,
        pieces: KVec::new(),
        holder,
        is_released: Atomic::new(false),
        slot: NonNull::from(slot),
        write_cache,
        stats,
        _driver: found.driver().map(|driver| {
            // SAFETY: The device is open, which keeps its driver's module.
            unsafe { driver.get() }
        }),
        name,
    }
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

/// Returns true if the device is alive. It stays alive as long as it and its parent are locked.
fn is_alive(dax_dev: &DaxDevice) -> bool {
    let lock = ReadLock::new();

    // SAFETY: Devices are taken only from the dax bus.
    unsafe { dax_dev.dev_dax(&lock) }.is_some()
}

/// Returns the parent of a device, if it has one; `None` if the device is being removed.
fn parent_of(found: &BusDevice<'_>) -> Option<Option<ARef<kernel::device::Device>>> {
    let lock = ReadLock::new();
    // SAFETY: A `BusDevice` is on the dax bus.
    unsafe { found.dax_dev().dev_dax(&lock) }?;

    // SAFETY: The device is alive, so it is registered: `unregister_dev_dax()` waits in
    // `kill_dax()` for this lock before it calls `device_del()`.
    Some(unsafe { device::parent(found.device()) })
}

/// Interval between attempts to lock a device.
const AGAIN_MS: u32 = 10;

/// Takes a device for a holder. Returns the lock of the device's parent: as long as it is held, the
/// parent's driver, which has made the device, does not remove it.
///
/// `fs_dax_get()` waits for the lock of the device, and is not killable. The task that unbinds a
/// driver has the lock as long as pages are in use (`failure`). So `fs_dax_get()` is called when
/// the lock is free and the device has no holder: then there are no pages to wait for, even if
/// another task takes the lock first. No other mount becomes the holder meanwhile, as it would need
/// the parent's lock.
///
/// # Errors
///
/// [`EBUSY`] if the device is held; [`EINTR`] if the task is being killed; those of `fs_dax_get()`.
fn take<'a>(
    found: &BusDevice<'_>,
    parent: Option<&'a kernel::device::Device>,
    holder: Cookie,
) -> Result<Option<DeviceGuard<'a>>> {
    let parent_locked = loop {
        let parent_locked = parent.and_then(device::try_lock);
        if !found.dax_dev().holder().is_null() {
            return Err(EBUSY);
        }
        if parent_locked.is_some() == parent.is_some() && device::try_lock(found.device()).is_some()
        {
            // The guard of the device itself is dropped, so it is unlocked.
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
