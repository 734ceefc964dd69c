// SPDX-License-Identifier: GPL-2.0

//! The slots of a mount, and the devices in them: how one is held, and given up.

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
        device,
        module::ModuleRef,
        task, //
    },
    bindings::kernel as c,
    lockless::{
        self,
        AsWritten, //
    },
    open_error::Failure,
    ratelimit::{
        pr_warn_limited,
        RateLimit, //
    },
    single_flight::SingleFlight, //
};

use super::{
    failure::Reports,
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
/// A mount is bound where memory can only be had in small pieces, so the slots come later
/// ([`Devices::start`]).
///
/// # Invariants
///
/// What is in `healthy` is null, or points to what is in the slot's `device`.
#[pin_data]
pub(crate) struct Devices {
    /// The devices that nothing is wrong with: what the fault path looks at.
    healthy: [AtomicPtr<Device>; DEVICES_MAX],
    slots: SetOnce<KBox<[Slot; DEVICES_MAX]>>,
    #[pin]
    acquiring: SingleFlight,
}

/// One index.
struct Slot {
    device: SetOnce<Device>,
    /// 0 if all is well, as nearly always.
    health: AtomicU32,
}

impl Slot {
    /// The device goes away or has gone.
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
/// `dax_dev` sits on the dax bus, is held with `holder` and stays valid until `fs_put_dax()`.
pub(crate) struct Device {
    dax_dev: NonNull<DaxDevice>,
    /// Bytes, a multiple of the page size.
    size: u64,
    /// The same if all of them are in one piece, else 0.
    one_piece: u64,
    /// The first page frame, if all are in one piece.
    first_pfn: Option<u64>,
    /// Its memory, in the order of addresses.
    pieces: KVec<Piece>,
    holder: Cookie,
    /// Its slot is valid as long as it is held.
    slot: NonNull<Slot>,
    /// Whether it said that it has a write cache before it was held.
    write_cache: bool,
    /// What drives it, if that is a module.
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
    /// The page frame at `addr`, which may be gone with the device already.
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

    /// How many of `length` bytes from `addr` on are in one piece; `None` if they are not all
    /// inside the device.
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

    /// Calls `look` with the frames of `pages` pages from `addr` on, which stay what they are
    /// meanwhile; `None` if the device is going away.
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
    /// Whether something is wrong with it, or with a part.
    pub(crate) fn may_be_unhealthy(&self) -> bool {
        self.slot().health.load(Ordering::Relaxed) != 0
    }

    /// Whether a page frame is of this device.
    pub(crate) fn has_frame(&self, pfn: u64) -> bool {
        self.pieces.iter().any(|piece| {
            let pages = (piece.end - piece.start) / PAGE_SIZE as u64;
            (piece.pfn..piece.pfn + pages).contains(&pfn)
        })
    }

    /// Reads what the device is made of, and how large it is; leaves it empty if it is not alive.
    /// fsdev_dax sets the size before it makes the device available, and refuses to resize a device
    /// that is bound to it, so it stays so.
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

        // Reads survive poison that was not known, as pmem's do.
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
    /// How many of `pages` pages from `addr` on come before the first one that has failed; `None`
    /// if the device is going away.
    #[cold]
    pub(crate) fn healthy_pages(&self, addr: u64, pages: u64) -> Option<u64> {
        let healthy = self.with_frames(addr, pages, |frames| {
            frames.pfn.is_some().then(|| frames.healthy())
        })?;
        match healthy {
            Some(healthy) => Some(healthy),
            // Not in one piece: then at least the first page is.
            None => self.with_frames(addr, 1, |frames| frames.healthy()),
        }
    }

    /// Writes a page that has failed anew, and takes it back into use.
    ///
    /// The driver stores past the caches. That replaces whole lines, and with them the poison, on
    /// hardware that can; if it cannot, the next access reports it again.
    ///
    /// # Errors
    ///
    /// [`EIO`] if the device is going away; [`EJUKEBOX`] if a report of the failure has not
    /// settled: come again, without locks.
    ///
    /// # Safety
    ///
    /// The caller has validated a mapping of the device, and not slept since (see `failure`).
    pub(crate) unsafe fn rewrite(&self, addr: u64, page: &mut [u8; PAGE_SIZE]) -> Result {
        let lock = ReadLock::new();
        let pgoff = addr / PAGE_SIZE as u64;
        // SAFETY: The device was alive when the task slept last, by the safety requirements.
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

impl Drop for Device {
    fn drop(&mut self) {
        holder::unregister(self.holder, || {
            let dax_dev = self.dax_dev();
            // A device that went away has lost its holder, or is about to, and may get another one.
            let held = !self.slot().has_failed();
            if held && !self.write_cache {
                dax_dev.set_write_cache(false);
            }
            let holder = if held {
                self.holder.as_ptr()
            } else {
                ptr::null_mut()
            };
            // SAFETY: By the type invariants `self` owns this reference.
            unsafe { dax_dev.put(holder) };
        });
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

    /// Makes room for devices. May sleep. One task at a time.
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

    /// A device goes away: marks it failed. Returns whether it is held.
    pub(crate) fn device_fails(&self, index: u32) -> bool {
        self.mark(index, Slot::FAILED);
        self.held(index).is_some()
    }

    /// Some memory of a device has failed.
    pub(crate) fn memory_fails(&self, index: u32) {
        self.mark(index, Slot::POISONED);
    }

    /// Marks a device: takes it out of the fault path's sight.
    fn mark(&self, index: u32, mark: u32) {
        let Some(slot) = self.slot(index) else {
            return;
        };
        lockless::mark::<AsWritten, _>(&self.healthy[index as usize], &slot.health, mark);
    }

    /// Puts a device in its slot, which has been held just now.
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

    /// The device of an index, if it is held and has not failed.
    pub(crate) fn get(&self, index: u32) -> Option<&Device> {
        let slot = self.slot(index)?;

        slot.device.as_ref().filter(|_| !slot.has_failed())
    }

    /// The device of an index, if it is held and nothing is wrong with it, not even with a part.
    #[inline]
    pub(crate) fn get_healthy(&self, index: u32) -> Option<&Device> {
        let healthy = lockless::healthy::<AsWritten, _>(self.healthy.get(index as usize)?);

        // SAFETY: By the type invariants; a slot keeps its device as long as the mount is there.
        NonNull::new(healthy).map(|device| unsafe { device.as_ref() })
    }

    /// The device of an index, whether it has failed or not.
    pub(crate) fn held(&self, index: u32) -> Option<&Device> {
        self.slot(index)?.device.as_ref()
    }

    /// Makes sure that a device is held, by `holder`; if it is not, `open` opens it, without
    /// O_PATH. `limit` is for the log. May sleep.
    ///
    /// # Errors
    ///
    /// Whatever an open that needs the device fails with.
    ///
    /// # Safety
    ///
    /// `holder` owns `self`, outlives it, and stays where it is.
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

    /// Holds a device that is open.
    fn hold(
        &self,
        slot: &Slot,
        index: u32,
        file: &File,
        ops: &(dyn HolderOps + 'static),
        limit: &RateLimit,
    ) -> Result<Device, Failure> {
        // SAFETY: `acquire()` asks for a file that was opened without O_PATH.
        let found = unsafe { BusDevice::of(file) }.ok_or(Failure {
            errno: ENODEV,
            cause: "GET_DAXDEV: this is no device of the dax bus",
        })?;
        let name = CString::try_from(found.device().name())
            .map_err(|_| Failure::because("no memory")(ENOMEM))?;
        let holder = self.announce(slot, index, ops, &name)?;

        if let Err(errno) = take(&found, holder) {
            holder::unregister(holder, || ());
            return Err(cannot_be_held(errno, limit, &name, found.dax_dev()));
        }
        // A driver is unbound with this lock held, and looks for a holder then. If the device is
        // alive, it finds us.
        let locked = device::lock(found.device());
        // `kill_dax()` may have looked for a holder before we were one, told nobody, and cleared
        // the holder since; the driver may even be bound again, and the device be another mount's.
        if found.dax_dev().holder() != holder.as_ptr() {
            // SAFETY: `take()` has a reference to the device, which is given up; the lock is held.
            holder::unregister(holder, || unsafe { give_back(found.dax_dev(), holder) });
            return Err(GOES_AWAY);
        }
        let mut held = held(&found, slot, holder, name);
        let measured = held.measure();
        drop(locked);
        measured.map_err(Failure::because("no memory"))?;
        if held.size == 0 {
            return Err(GOES_AWAY);
        }
        Ok(held)
    }

    /// Makes a slot known that is about to hold a device.
    fn announce(
        &self,
        slot: &Slot,
        index: u32,
        ops: &(dyn HolderOps + 'static),
        name: &CStr,
    ) -> Result<Cookie, Failure> {
        let holder = Cookie::new();

        slot.health.store(0, Ordering::Relaxed);
        // INVARIANT: The devices are those of `ops`, which outlives them (see `acquire()`), and
        // `Device::drop` takes the holder out.
        holder::register(Holder {
            cookie: holder,
            index,
            ops: NonNull::from(ops),
            name: CString::try_from(name).map_err(|_| Failure::because("no memory")(ENOMEM))?,
        })
        .map_err(Failure::because("no memory"))?;
        // In this order: what fails from now on is reported, what failed before is known.
        if poison::exists() {
            self.mark(index, Slot::POISONED);
        }
        Ok(holder)
    }
}

/// For the list of mounts: `index:name`, separated by commas, `!` behind a failed one.
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

/// Why a device cannot be held.
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

/// The device that has been taken just now, and is locked. It is not measured yet.
fn held(found: &BusDevice<'_>, slot: &Slot, holder: Cookie, name: CString) -> Device {
    // Between the CPU and the memory are caches, though the driver does not say so: DAX then
    // flushes them when it writes back. (The dax bus has write(2) go around them.)
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
        slot: NonNull::from(slot),
        write_cache,
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

/// Gives up a device that was taken, and is not ours any more: it was unbound before its driver
/// could know of us.
///
/// # Safety
///
/// `dax_dev` has a reference that is the caller's to give up, and its device is locked.
unsafe fn give_back(dax_dev: &DaxDevice, holder: Cookie) {
    // Our operations may have come after `kill_dax()` had taken those off. They must not stay; but
    // if another one holds the device, they are his. Who wants to become that waits for the lock,
    // before he tries.
    let holder = if dax_dev.holder().is_null() {
        holder.as_ptr()
    } else {
        ptr::null_mut()
    };
    // SAFETY: `dax_dev` has a reference that may be given up, by the safety requirements.
    unsafe { dax_dev.put(holder) };
}

/// How often somebody looks whether a driver is done with a device.
const AGAIN_MS: u32 = 10;

/// Takes a device for a holder.
///
/// `fs_dax_get()` waits for the lock of the device, and nobody can kill it. The lock is held while
/// a driver is unbound, as long as pages are in use (`failure`). So it is called when the lock is
/// free, and nobody holds the device: then there are no pages to wait for, whoever takes the lock
/// first.
///
/// # Errors
///
/// [`EBUSY`] if the device is held; [`EINTR`] if the task is being killed; those of `fs_dax_get()`.
fn take(found: &BusDevice<'_>, holder: Cookie) -> Result {
    loop {
        if !found.dax_dev().holder().is_null() {
            return Err(EBUSY);
        }
        if device::try_lock(found.device()).is_some() {
            // Unlocked at once.
            break;
        }
        task::sleep_killable(msecs_to_jiffies(AGAIN_MS));
        if task::fatal_signal_pending() {
            return Err(EINTR);
        }
    }
    // SAFETY: A `BusDevice` sits on the dax bus.
    unsafe { found.dax_dev().hold::<Reports>(holder.as_ptr()) }
}

/// Logs who has a device that cannot be held.
fn say_who_holds(limit: &RateLimit, name: &CStr, dax_dev: &DaxDevice) {
    holder::with_holder(dax_dev, |holder| match holder {
        Some(holder) => pr_warn_limited!(limit, "{name} is held by {holder}\n"),
        None => pr_warn_limited!(limit, "{name} is held by another file system\n"),
    });
}
