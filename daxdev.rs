// SPDX-License-Identifier: GPL-2.0

//! The DAX devices of a mount.
//!
//! A mount names its devices by index, 0 to 63. A slot is filled once, when the first file that uses
//! it is opened (GET_DAXDEV), and stays so until unmount:
//!
//! - A device is opened by path with the root directory and the credentials of the task that
//!   mounted: the opener of a file has no say in where `/dev/dax0.0` leads.
//! - It has to be a character device of a device on the `dax` bus, and be bound to `fsdev_dax`.
//!   Other DAX devices (pmem's) carry other private data, which `fs_dax_get()` would take for a
//!   `struct dev_dax`; so this is checked before, not after.
//! - It is held exclusively (`fs_dax_get()`), and its driver's module is pinned. `fsdev_dax` refuses
//!   to resize a bound device, so its size is read once.
//!
//! What happens when a device goes away, or some of its memory fails, is in `failure`; a slot remembers
//! it in its `health`, and takes the device out of the fault path's sight (`sound`).
//!
//! A page of a device belongs to one place of one file at a time, its tenant: DAX notes that in the
//! folio, takes for granted that the file system sees to it, and corrupts folios otherwise.
//!
//! Lock order: [`Devices::acquiring`] (a wait, no lock), `HOLDERS`, `POISONED`.

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
    error::to_result,
    ffi,
    fmt,
    page::PAGE_SIZE,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        SetOnce, //
    }, //
};

use crate::{
    bindings::{
        fuse as f,
        kernel as c, //
    },
    fmap_ops::{
        Failure,
        InFlight, //
    },
    fuse::{
        Connection,
        DeviceFile,
        Inode, //
    },
    ratelimit::pr_warn_limited, //
};

mod failure;
mod poison;

pub(crate) use failure::drain;
pub(crate) use poison::{
    is_poisoned,
    mark_page, //
};

use failure::{
    Holder,
    HOLDER_OPS, //
};

/// `FUSE_DAX_FMAP_DEVICES_MAX`: the width of a device bitmap.
pub(crate) const DEVICES_MAX: usize = c::FUSE_DAX_FMAP_DEVICES_MAX as usize;

/// The devices of a mount, by index.
#[pin_data]
pub(crate) struct Devices {
    slots: [Slot; DEVICES_MAX],
    #[pin]
    acquiring: InFlight,
}

/// One index. The address of a slot is what the device knows its holder by.
///
/// # Invariants
///
/// `sound` is null, or points to what is in `device`.
struct Slot {
    /// The device, if nothing is wrong with it: what the fault path looks at.
    sound: AtomicPtr<Device>,
    device: SetOnce<Device>,
    /// 0 if all is well, as nearly always.
    health: Atomic<u32>,
}

impl Slot {
    /// The device goes away or has gone.
    const FAILED: u32 = 1 << 0;
    /// Memory has failed, maybe of this device: see [`poison`].
    const POISONED: u32 = 1 << 1;

    fn mark(&self, mark: u32) {
        let mut seen = self.health.load(Relaxed);

        while let Err(now) = self.health.cmpxchg(seen, seen | mark, Full) {
            seen = now;
        }
        self.sound.store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// Puts in the device, which has been held just now.
    fn fill(&self, device: Device) {
        self.device.populate(device);
        if let Some(device) = self.device.as_ref() {
            self.sound
                .store(ptr::from_ref(device).cast_mut(), Ordering::SeqCst);
        }
        // What was marked meanwhile found nothing to take away.
        if self.health.load(Relaxed) != 0 {
            self.sound.store(ptr::null_mut(), Ordering::Relaxed);
        }
    }

    fn has_failed(&self) -> bool {
        self.health.load(Relaxed) & Self::FAILED != 0
    }
}

/// A held device.
///
/// # Invariants
///
/// `dax_dev` is held with `holder` and stays valid until `fs_put_dax()`; `self` owns a reference to
/// the module that drives it, if it is one.
pub(crate) struct Device {
    dax_dev: NonNull<c::dax_device>,
    /// Bytes, a multiple of the page size.
    size: u64,
    /// The first page frame, if all are in one piece.
    first_pfn: Option<u64>,
    holder: *const Slot,
    /// Whether it said that it has a write cache before it was held.
    write_cache: bool,
    driver: *mut c::module,
    /// Its own name, as in /sys/bus/dax/devices.
    name: CString,
}

// SAFETY: A held device belongs to no task.
unsafe impl Send for Device {}
// SAFETY: Nothing of it changes while it is held.
unsafe impl Sync for Device {}

/// Called once, while the module is loaded.
pub(crate) fn init() {
    failure::init();
    poison::init();
}

impl Device {
    pub(crate) fn as_raw(&self) -> *mut c::dax_device {
        self.dax_dev.as_ptr()
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// Memory of a device, as the page frames it is made of.
#[derive(Clone, Copy)]
pub(crate) struct Frames {
    /// The first one, or `None` if they are not all there in one piece: DAX does not map those as
    /// one.
    pub(crate) pfn: Option<u64>,
    pub(crate) pages: u64,
}

impl Device {
    /// The page frame at `addr`, which may be gone with the device already.
    #[inline]
    pub(crate) fn frame(&self, addr: u64) -> Option<u64> {
        match self.first_pfn {
            Some(first) => Some(first + addr / PAGE_SIZE as u64),
            None => self.with_frames(addr, 1, |frames| frames.pfn)?,
        }
    }

    /// Calls `look` with the frames of `pages` pages from `addr` on, which stay what they are
    /// meanwhile; `None` if the device is going away.
    pub(crate) fn with_frames<T>(
        &self,
        addr: u64,
        pages: u64,
        look: impl FnOnce(Frames) -> T,
    ) -> Option<T> {
        let _srcu = DaxReadLock::new();
        // SAFETY: The device sits on the dax bus, and the lock is held.
        unsafe { frames_at(self.as_raw(), addr, pages) }.map(look)
    }
}

impl Device {
    /// Whether a page frame is of this device, which has to be alive.
    pub(crate) fn has_frame(&self, pfn: u64) -> bool {
        let _srcu = DaxReadLock::new();
        // SAFETY: The device is held, and sits on the dax bus.
        let dev_dax = unsafe { c::dax_get_private(self.as_raw()).cast::<f::dev_dax>() };
        let phys = pfn * PAGE_SIZE as u64;

        let Some(dev_dax) = NonNull::new(dev_dax) else {
            return false;
        };
        // SAFETY: The device is alive: it stays bound while the lock is held, and keeps its ranges.
        let ranges = unsafe {
            let dev_dax = dev_dax.as_ref();
            core::slice::from_raw_parts(dev_dax.ranges, dev_dax.nr_range as usize)
        };
        ranges
            .iter()
            .any(|part| (part.range.start..=part.range.end).contains(&phys))
    }
}

/// The frames of `pages` pages from `addr` on; `None` if the device is going away.
///
/// # Safety
///
/// The device sits on the dax bus, and `dax_read_lock()` is held: if it is alive, it stays bound to its
/// driver meanwhile, and keeps its ranges.
unsafe fn frames_at(dax_dev: *mut c::dax_device, addr: u64, pages: u64) -> Option<Frames> {
    // SAFETY: By the safety requirements. There are none if the device is not alive.
    let dev_dax = NonNull::new(unsafe { c::dax_get_private(dax_dev) })?;
    // SAFETY: As above.
    let phys = unsafe {
        c::dax_pgoff_to_phys(
            dev_dax.as_ptr().cast(),
            (addr / PAGE_SIZE as u64) as ffi::c_ulong,
            (pages * PAGE_SIZE as u64) as ffi::c_ulong,
        )
    };
    Some(Frames {
        pfn: (phys != c::phys_addr_t::MAX).then_some(phys / PAGE_SIZE as u64),
        pages,
    })
}

impl Frames {
    /// Whether no page of them is in the page cache of any file but `own`, which may be null.
    ///
    /// # Safety
    ///
    /// Called inside [`Device::with_frames`].
    pub(crate) unsafe fn are_vacant_but_for(&self, own: *const c::address_space) -> bool {
        let Some(pfn) = self.pfn else {
            return true;
        };
        // SAFETY: By the safety requirements these frames have a memory map.
        unsafe { c::fuse_dax_fmap_are_vacant(pfn as ffi::c_ulong, self.pages, own) }
    }
}

/// `dax_read_lock()`: what is alive stays so.
struct DaxReadLock(ffi::c_int);

impl DaxReadLock {
    fn new() -> Self {
        // SAFETY: May be called anywhere that may sleep.
        Self(unsafe { c::dax_read_lock() })
    }
}

impl Drop for DaxReadLock {
    fn drop(&mut self) {
        // SAFETY: `new()` took it.
        unsafe { c::dax_read_unlock(self.0) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        failure::unregister(self.holder);
        // SAFETY: By the type invariants the device was held with this holder, and is still valid. One
        // that went away has lost its holder, and may have got another since.
        unsafe {
            let holder: *mut ffi::c_void = self.holder.cast_mut().cast();
            let held = ptr::eq(c::dax_holder(self.as_raw()), holder);
            if held && !self.write_cache {
                c::dax_write_cache(self.as_raw(), false);
            }
            c::fs_put_dax(self.as_raw(), if held { holder } else { ptr::null_mut() });
        }
        // SAFETY: By the type invariants `self` owns this reference, if there is one.
        unsafe { c::module_put(self.driver) };
    }
}

impl Devices {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            slots: [const {
                Slot {
                    sound: AtomicPtr::new(ptr::null_mut()),
                    device: SetOnce::new(),
                    health: Atomic::new(0),
                }
            }; DEVICES_MAX],
            acquiring <- InFlight::new(),
        })
    }

    /// The device of an index, if it is held and has not failed.
    pub(crate) fn get(&self, index: u32) -> Option<&Device> {
        let slot = self.slots.get(index as usize)?;

        slot.device.as_ref().filter(|_| !slot.has_failed())
    }

    /// The device of an index, if it is held and nothing is wrong with it, not even with a part.
    #[inline]
    pub(crate) fn get_sound(&self, index: u32) -> Option<&Device> {
        let sound = self
            .slots
            .get(index as usize)?
            .sound
            .load(Ordering::Acquire);

        // SAFETY: By the type invariants of the slot, which keeps its device until unmount.
        NonNull::new(sound).map(|device| unsafe { device.as_ref() })
    }

    /// The device of an index, whether it has failed or not.
    pub(crate) fn held(&self, index: u32) -> Option<&Device> {
        self.slots.get(index as usize)?.device.as_ref()
    }

    /// Makes sure that a device is held, asking the server for its path if need be. May sleep.
    ///
    /// # Errors
    ///
    /// Whatever an open that needs the device fails with.
    pub(crate) fn acquire(
        &self,
        index: u32,
        conn: &Connection,
        inode: &Inode,
    ) -> Result<(), Failure> {
        let slot = self
            .slots
            .get(index as usize)
            .ok_or(EINVAL)
            .map_err(Failure::because("device index"))?;

        let held = || slot.device.as_ref().is_some();
        if !held() {
            let turn = self
                .acquiring
                .turn(index as usize, held)
                .map_err(Failure::because("waiting for GET_DAXDEV"))?;

            if turn.is_some() {
                let reply = conn
                    .get_daxdev(inode, index)
                    .map_err(Failure::because("GET_DAXDEV"))?;
                slot.fill(hold(slot, index, &reply, conn)?);
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
}

/// For the list of mounts: `index:name`, separated by commas, `!` behind a failed one.
impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";

        for (index, slot) in self.slots.iter().enumerate() {
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

/// The path in a GET_DAXDEV reply.
fn path_of(reply: &[u8]) -> Result<CString, Failure> {
    const NAME: usize = core::mem::offset_of!(c::fuse_get_daxdev_out, name);

    let name = reply.get(NAME..).unwrap_or_default();
    let name = CStr::from_bytes_until_nul(name)
        .map_err(|_| EINVAL)
        .map_err(Failure::because("GET_DAXDEV: the path has no end"))?;
    if name.to_bytes().first() != Some(&b'/') {
        return Err(Failure {
            errno: EINVAL,
            cause: "GET_DAXDEV: the path is not absolute",
        });
    }
    CString::try_from(name)
        .map_err(|_| ENOMEM)
        .map_err(Failure::because("GET_DAXDEV"))
}

/// A device of the dax bus, kept by an open file.
struct DaxBusDevice {
    dax_dev: NonNull<c::dax_device>,
    device: *mut c::device,
    driver: *mut c::module,
}

/// The DAX device behind an open character device, if that sits on the dax bus.
fn dax_bus_device(file: &DeviceFile) -> Option<DaxBusDevice> {
    let inode = file.inode();

    // SAFETY: The inode of an open file is valid. Being a character device, its `i_cdev` was set by
    // `chrdev_open()` and is kept by the open file, together with the kobject that is its parent.
    unsafe {
        if u32::from((*inode).i_mode) & c::S_IFMT != c::S_IFCHR {
            return None;
        }
        let cdev = (*inode).__bindgen_anon_5.i_cdev;
        if cdev.is_null() {
            return None;
        }
        // A kobject is a device if it has the type of one that certainly is.
        let parent = (*cdev).kobj.parent;
        if parent.is_null() || (*parent).ktype != (*ptr::addr_of!(c::platform_bus)).kobj.ktype {
            return None;
        }
        let device = kernel::container_of!(parent, c::device, kobj);
        let bus = (*device).bus;
        if bus.is_null() || CStr::from_char_ptr((*bus).name).to_bytes() != b"dax" {
            return None;
        }
        Some(DaxBusDevice {
            dax_dev: NonNull::new(c::inode_dax(inode))?,
            device,
            driver: (*cdev).owner,
        })
    }
}

/// Opens and holds the device that a reply names.
fn hold(slot: &Slot, index: u32, reply: &[u8], conn: &Connection) -> Result<Device, Failure> {
    let path = path_of(reply)?;
    let file = conn
        .mounter()
        .open(&path)
        .map_err(Failure::because("the DAX device cannot be opened"))?;
    let Some(DaxBusDevice {
        dax_dev,
        device,
        driver,
    }) = dax_bus_device(&file)
    else {
        return Err(Failure {
            errno: ENODEV,
            cause: "GET_DAXDEV: this is no device of the dax bus",
        });
    };
    // SAFETY: The device is kept by `file`, and its name does not change while it is in use.
    let name = unsafe { CStr::from_char_ptr(c::dev_name(device)) };
    let name = CString::try_from(name).map_err(|_| Failure::because("no memory")(ENOMEM))?;
    let holder = ptr::from_ref(slot);

    slot.health.store(0, Relaxed);
    failure::register(Holder {
        slot: NonNull::from(slot),
        index,
        conn: NonNull::from(conn),
    })
    .map_err(Failure::because("no memory"))?;
    // In this order: what fails from now on is reported, what failed before is known.
    if poison::exists() {
        slot.mark(Slot::POISONED);
    }

    // SAFETY: The device sits on the dax bus, so its private data is a `struct dev_dax`, as
    // `fs_dax_get()` takes for granted; `file` keeps it until here. The table is static.
    let held = to_result(unsafe {
        c::fs_dax_get(dax_dev.as_ptr(), holder.cast_mut().cast(), &HOLDER_OPS)
    });
    if let Err(errno) = held {
        failure::unregister(holder);
        return Err(Failure {
            errno,
            cause: match errno {
                EBUSY => {
                    say_who_holds(conn, &name, dax_dev);
                    "the DAX device is held by another mount, or under another index"
                }
                EOPNOTSUPP => "the DAX device is not bound to fsdev_dax",
                _ => "the DAX device cannot be held",
            },
        });
    }
    // SAFETY: `file` is open, so this module has a user and may get another.
    unsafe { c::__module_get(driver) };

    // Between the CPU and the memory are caches, though the driver does not say so: DAX then flushes
    // them when it writes back. (The dax bus has write(2) go around them.)
    // SAFETY: The device was held just now.
    let write_cache = unsafe {
        let before = c::dax_write_cache_enabled(dax_dev.as_ptr());
        c::dax_write_cache(dax_dev.as_ptr(), true);
        before
    };

    // INVARIANT: Held just now, and the reference to the module taken.
    let mut held = Device {
        dax_dev,
        size: 0,
        first_pfn: None,
        holder,
        write_cache,
        driver,
        name,
    };
    // A driver is unbound with this lock held, and looks for a holder then. If the device is alive, it
    // finds us.
    // SAFETY: The device is kept by `file`.
    unsafe { c::device_lock(device) };
    let srcu = DaxReadLock::new();
    // SAFETY: The device sits on the dax bus. Its private data are there as long as it is alive.
    let dev_dax = unsafe { c::dax_get_private(dax_dev.as_ptr()).cast::<f::dev_dax>() };
    if let Some(dev_dax) = NonNull::new(dev_dax) {
        // SAFETY: fsdev_dax sets the size before it makes the device available, and never changes it.
        let size = unsafe { (*dev_dax.as_ptr()).cached_size };
        held.size = size - size % PAGE_SIZE as u64;
        // SAFETY: As above.
        let frames = unsafe { frames_at(dax_dev.as_ptr(), 0, held.size / PAGE_SIZE as u64) };
        held.first_pfn = frames.and_then(|frames| frames.pfn);
        // SAFETY: The device is held. Reads survive poison that nobody knew of, as pmem's do.
        unsafe { c::set_dax_nomc(dax_dev.as_ptr()) };
    }
    drop(srcu);
    // SAFETY: Locked just now.
    unsafe { c::device_unlock(device) };
    if held.size == 0 {
        return Err(Failure {
            errno: ENODEV,
            cause: "the DAX device has no memory, or goes away",
        });
    }
    Ok(held)
}

/// Logs who has a device that cannot be held.
fn say_who_holds(conn: &Connection, name: &CStr, dax_dev: NonNull<c::dax_device>) {
    failure::with_holder(dax_dev.as_ptr(), |holder| {
        let opens = &conn.mount().opens;

        match holder {
            Some(holder) => pr_warn_limited!(opens, "{name} is held by {holder}\n"),
            None => pr_warn_limited!(opens, "{name} is held by another file system\n"),
        }
    });
}
