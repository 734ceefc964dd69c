// SPDX-License-Identifier: GPL-2.0

//! The DAX devices of a mount.
//!
//! A mount names its devices by index, 0 to 63. A slot is filled once, when the first file that
//! uses it is opened (GET_DAXDEV), and stays so until unmount:
//!
//! - A device is opened by path with the root directory and the credentials of the task that
//!   mounted: the opener of a file has no say in where `/dev/dax0.0` leads.
//! - It has to be a character device of a device on the `dax` bus, and be bound to `fsdev_dax`.
//!   Other DAX devices (pmem's) carry other private data, which `fs_dax_get()` would take for a
//!   `struct dev_dax`; so this is checked before, not after.
//! - It is held exclusively (`fs_dax_get()`), and its driver's module is pinned. `fsdev_dax`
//!   refuses to resize a bound device, so its size is read once.
//!
//! What happens when a device goes away, or some of its memory fails, is in `failure`; a slot
//! remembers it in its `health`, and takes the device out of the fault path's sight (`sound`).
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
        AtomicU32,
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
    sync::SetOnce,
    time::msecs_to_jiffies, //
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
    lockless::{
        self,
        AsWritten, //
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
    Cookie,
    Holder,
    HOLDER_OPS, //
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
/// What is in `sound` is null, or points to what is in the slot's `device`.
#[pin_data]
pub(crate) struct Devices {
    /// The devices that nothing is wrong with: what the fault path looks at.
    sound: [AtomicPtr<Device>; DEVICES_MAX],
    slots: SetOnce<KBox<[Slot; DEVICES_MAX]>>,
    #[pin]
    acquiring: InFlight,
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
/// `dax_dev` is held with `holder` and stays valid until `fs_put_dax()`; `self` owns a reference to
/// the module that drives it, if it is one.
pub(crate) struct Device {
    dax_dev: NonNull<c::dax_device>,
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
    driver: *mut c::module,
    /// Its own name, as in /sys/bus/dax/devices.
    name: CString,
}

// SAFETY: A held device belongs to no task.
unsafe impl Send for Device {}
// SAFETY: Nothing of it changes while it is held.
unsafe impl Sync for Device {}

/// Called once, while the module is loaded.
pub(crate) fn init() -> Result {
    failure::init();
    poison::init()
}

impl Device {
    pub(crate) fn as_raw(&self) -> *mut c::dax_device {
        self.dax_dev.as_ptr()
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
        let _srcu = DaxReadLock::new();
        // SAFETY: The device sits on the dax bus, and the lock is held.
        unsafe { frames_at(self.as_raw(), addr, pages) }.map(look)
    }
}

impl Device {
    /// Whether something is wrong with it, or with a part.
    pub(crate) fn may_be_unsound(&self) -> bool {
        // SAFETY: By the type invariants the slot is valid.
        unsafe { self.slot.as_ref() }.health.load(Ordering::Relaxed) != 0
    }

    /// Whether a page frame is of this device.
    pub(crate) fn has_frame(&self, pfn: u64) -> bool {
        self.pieces.iter().any(|piece| {
            let pages = (piece.end - piece.start) / PAGE_SIZE as u64;
            (piece.pfn..piece.pfn + pages).contains(&pfn)
        })
    }

    /// Reads what the device is made of. fsdev_dax refuses to resize a device that is bound to it,
    /// so it stays so.
    ///
    /// # Safety
    ///
    /// `dev_dax` is the device's, which is alive, and `dax_read_lock()` is held.
    unsafe fn read_pieces(&mut self, dev_dax: *const f::dev_dax) -> Result {
        let page = PAGE_SIZE as u64;
        // SAFETY: `dev_dax` is valid by the safety requirements, with `nr_range` ranges that do not
        // change.
        let (size, ranges) = unsafe {
            let ranges =
                core::slice::from_raw_parts((*dev_dax).ranges, (*dev_dax).nr_range as usize);
            ((*dev_dax).cached_size, ranges)
        };

        for part in ranges {
            let start = part.pgoff as u64 * page;
            let bytes = part.range.end - part.range.start + 1;
            self.pieces.push(
                Piece {
                    start,
                    end: start + (bytes - bytes % page),
                    pfn: part.range.start / page,
                },
                GFP_KERNEL,
            )?;
        }
        self.size = size - size % page;
        // SAFETY: The device is held, so `as_raw()` is valid; it is on the dax bus.
        let frames = unsafe { frames_at(self.as_raw(), 0, self.size / page) };
        self.first_pfn = frames.and_then(|frames| frames.pfn);
        self.one_piece = self.first_pfn.map_or(0, |_| self.size);
        Ok(())
    }
}

/// The frames of `pages` pages from `addr` on; `None` if the device is going away.
///
/// # Safety
///
/// The device sits on the dax bus, and `dax_read_lock()` is held: if it is alive, it stays bound to
/// its driver meanwhile, and keeps its ranges.
unsafe fn frames_at(dax_dev: *mut c::dax_device, addr: u64, pages: u64) -> Option<Frames> {
    // SAFETY: By the safety requirements. There are none if the device is not alive.
    let dev_dax = NonNull::new(unsafe { c::dax_get_private(dax_dev) })?;
    // SAFETY: `dev_dax` is of a device that is alive, and stays so under `dax_read_lock()`.
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
        // SAFETY: By the type invariants the slot is valid.
        failure::unregister(self.holder, || unsafe {
            // A device that went away has lost its holder, or is about to, and may get another one.
            let held = !self.slot.as_ref().has_failed();
            if held && !self.write_cache {
                c::dax_write_cache(self.as_raw(), false);
            }
            let holder = if held {
                self.holder.as_ptr()
            } else {
                ptr::null_mut()
            };
            c::fs_put_dax(self.as_raw(), holder);
        });
        // SAFETY: By the type invariants `self` owns this reference, if there is one.
        unsafe { c::module_put(self.driver) };
    }
}

impl Devices {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            sound: [const { AtomicPtr::new(ptr::null_mut()) }; DEVICES_MAX],
            slots: SetOnce::new(),
            acquiring <- InFlight::new(),
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

    /// Marks a device: takes it out of the fault path's sight.
    fn mark(&self, index: u32, mark: u32) {
        let Some(slot) = self.slot(index) else {
            return;
        };
        lockless::mark::<AsWritten, _>(&self.sound[index as usize], &slot.health, mark);
    }

    /// Puts a device in its slot, which has been held just now.
    fn fill(&self, index: u32, slot: &Slot, device: Device) {
        slot.device.populate(device);
        if let Some(device) = slot.device.as_ref() {
            let device = ptr::from_ref(device).cast_mut();
            lockless::fill::<AsWritten, _>(&self.sound[index as usize], &slot.health, device);
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
    pub(crate) fn get_sound(&self, index: u32) -> Option<&Device> {
        let sound = lockless::sound::<AsWritten, _>(self.sound.get(index as usize)?);

        // SAFETY: By the type invariants; a slot keeps its device as long as the mount is there.
        NonNull::new(sound).map(|device| unsafe { device.as_ref() })
    }

    /// The device of an index, whether it has failed or not.
    pub(crate) fn held(&self, index: u32) -> Option<&Device> {
        self.slot(index)?.device.as_ref()
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
            .slot(index)
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
                self.fill(index, slot, hold(slot, index, &reply, conn)?);
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
    let holder = Cookie::new();

    slot.health.store(0, Ordering::Relaxed);
    failure::register(Holder {
        cookie: holder,
        slot: NonNull::from(slot),
        index,
        mount: NonNull::from(conn.mount()),
    })
    .map_err(Failure::because("no memory"))?;
    // In this order: what fails from now on is reported, what failed before is known.
    if poison::exists() {
        conn.mount().devices.mark(index, Slot::POISONED);
    }

    // SAFETY: The device sits on the dax bus, and `file` keeps it.
    if let Err(errno) = unsafe { take(dax_dev, device, holder) } {
        failure::unregister(holder, || ());
        return Err(Failure {
            errno,
            cause: match errno {
                EBUSY => {
                    say_who_holds(conn, &name, dax_dev);
                    "the DAX device is held by another mount, or under another index"
                }
                EOPNOTSUPP => "the DAX device is not bound to fsdev_dax",
                EINTR => "waiting for the driver of the DAX device",
                _ => "the DAX device cannot be held",
            },
        });
    }
    // A driver is unbound with this lock held, and looks for a holder then. If the device is alive,
    // it finds us.
    // SAFETY: The device is kept by `file`.
    let locked = unsafe { DeviceLock::new(device) };
    // `kill_dax()` may have looked for a holder before we were one, told nobody, and cleared the
    // holder since; the driver may even be bound again, and the device be another mount's.
    // SAFETY: `dax_dev` is kept by `file`.
    if unsafe { c::dax_holder(dax_dev.as_ptr()) } != holder.as_ptr() {
        // SAFETY: `take()` has a reference to `dax_dev`, which is given up; the lock is held.
        failure::unregister(holder, || unsafe { give_back(dax_dev, holder) });
        return Err(GOES_AWAY);
    }
    // SAFETY: `file` is open, so this module has a user and may get another.
    unsafe { c::__module_get(driver) };

    // Between the CPU and the memory are caches, though the driver does not say so: DAX then
    // flushes them when it writes back. (The dax bus has write(2) go around them.)
    // SAFETY: The device is held.
    let write_cache = unsafe { c::dax_write_cache_enabled(dax_dev.as_ptr()) };
    // SAFETY: The device is held.
    unsafe { c::dax_write_cache(dax_dev.as_ptr(), true) };

    // INVARIANT: Held just now, and the reference to the module taken.
    let mut held = Device {
        dax_dev,
        size: 0,
        one_piece: 0,
        first_pfn: None,
        pieces: KVec::new(),
        holder,
        slot: NonNull::from(slot),
        write_cache,
        driver,
        name,
    };
    let srcu = DaxReadLock::new();
    // SAFETY: The device sits on the dax bus. Its private data are there as long as it is alive.
    let dev_dax = unsafe { c::dax_get_private(dax_dev.as_ptr()).cast::<f::dev_dax>() };
    let mut read = Ok(());
    if !dev_dax.is_null() {
        // SAFETY: As above. fsdev_dax sets the size before it makes the device available, and never
        // changes it.
        read = unsafe { held.read_pieces(dev_dax) };
        // SAFETY: The device is held. Reads survive poison that was not known, as pmem's do.
        unsafe { c::set_dax_nomc(dax_dev.as_ptr()) };
    }
    drop(srcu);
    drop(locked);
    read.map_err(Failure::because("no memory"))?;
    if held.size == 0 {
        return Err(GOES_AWAY);
    }
    Ok(held)
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
unsafe fn give_back(dax_dev: NonNull<c::dax_device>, holder: Cookie) {
    // Our operations may have come after `kill_dax()` had taken those off. They must not stay; but
    // if another one holds the device, they are his. Who wants to become that waits for the lock,
    // before he tries.
    // SAFETY: `dax_dev` has a reference, by the safety requirements.
    let free = unsafe { c::dax_holder(dax_dev.as_ptr()) }.is_null();
    let holder = if free {
        holder.as_ptr()
    } else {
        ptr::null_mut()
    };
    // SAFETY: `dax_dev` has a reference that may be given up, by the safety requirements.
    unsafe { c::fs_put_dax(dax_dev.as_ptr(), holder) };
}

/// The lock of a device, under which drivers are bound and unbound.
struct DeviceLock(*mut c::device);

impl DeviceLock {
    /// # Safety
    ///
    /// `device` is valid as long as the result.
    unsafe fn new(device: *mut c::device) -> Self {
        // SAFETY: `device` is valid, by the safety requirements.
        unsafe { c::device_lock(device) };
        Self(device)
    }
}

impl Drop for DeviceLock {
    fn drop(&mut self) {
        // SAFETY: `new()` locked it, and it is still there.
        unsafe { c::device_unlock(self.0) };
    }
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
///
/// # Safety
///
/// `device` is that of `dax_dev`, sits on the dax bus, and is kept by the caller.
unsafe fn take(dax_dev: NonNull<c::dax_device>, device: *mut c::device, holder: Cookie) -> Result {
    loop {
        // SAFETY: `dax_dev` is kept by the caller.
        if !unsafe { c::dax_holder(dax_dev.as_ptr()) }.is_null() {
            return Err(EBUSY);
        }
        // SAFETY: `device` is kept by the caller.
        if unsafe { c::device_trylock(device) } != 0 {
            // SAFETY: Locked just now.
            unsafe { c::device_unlock(device) };
            break;
        }
        // SAFETY: The current task may sleep: it opens a file.
        unsafe { c::schedule_timeout_killable(msecs_to_jiffies(AGAIN_MS) as ffi::c_long) };
        // SAFETY: The current task is always valid.
        if unsafe { c::fatal_signal_pending(c::get_current()) } != 0 {
            return Err(EINTR);
        }
    }
    // SAFETY: By the safety requirements its private data is a `struct dev_dax`, as `fs_dax_get()`
    // takes for granted. The table is static.
    to_result(unsafe { c::fs_dax_get(dax_dev.as_ptr(), holder.as_ptr(), &HOLDER_OPS) })
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
