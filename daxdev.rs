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
//! The kernel tells a holder about failing memory through [`notify_failure`]. A device that is going
//! away is marked failed, and every later mapping of it is refused. A poisoned page is left to the
//! generic code, which kills exactly the tasks that map it.
//!
//! Lock order: [`Devices::acquiring`] (a wait, no lock), `HOLDERS`. [`Devices::moving_in`] is a leaf but
//! for what DAX takes inside a fault.

use core::{
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    error::to_result,
    ffi,
    fmt,
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock,
        Mutex,
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
        DeviceFile,
        Mounter, //
    }, //
};

/// `FUSE_DAX_FMAP_DEVICES_MAX`: the width of a device bitmap.
pub(crate) const DEVICES_MAX: usize = c::FUSE_DAX_FMAP_DEVICES_MAX as usize;

/// The devices of a mount, by index.
#[pin_data]
pub(crate) struct Devices {
    slots: [Slot; DEVICES_MAX],
    #[pin]
    acquiring: InFlight,
    /// See [`Devices::moving_in`].
    #[pin]
    moving_in: [Mutex<()>; MOVING_IN],
}

/// Locks for first touches, each for every sixteenth 2 MiB of a device.
const MOVING_IN: usize = 16;

/// One index. The address of a slot is what the device knows its holder by.
struct Slot {
    device: SetOnce<Device>,
    failed: Atomic<bool>,
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
    holder: *const Slot,
    driver: *mut c::module,
    /// Its own name, as in /sys/bus/dax/devices.
    name: CString,
}

// SAFETY: A held device belongs to no task.
unsafe impl Send for Device {}
// SAFETY: Nothing of it changes while it is held.
unsafe impl Sync for Device {}

/// A slot that holds, or is about to hold, a device.
///
/// # Invariants
///
/// While it is in `HOLDERS` the slot is valid.
#[derive(PartialEq, Eq)]
struct Holder {
    dax_dev: NonNull<c::dax_device>,
    slot: NonNull<Slot>,
}

// SAFETY: Only used under the lock of `HOLDERS`.
unsafe impl Send for Holder {}

global_lock! {
    /// All slots that hold a device.
    ///
    /// A failure is reported by device, at any time until `fs_put_dax()` and a moment longer; what
    /// is not in here any more gets no report.
    // SAFETY: `init()` runs before any mount is bound.
    unsafe(uninit) static HOLDERS: Mutex<KVec<Holder>> = KVec::new();
}

/// Called once, while the module is loaded.
pub(crate) fn init() {
    // SAFETY: Called once, before the first use of the lock.
    unsafe { HOLDERS.init() }
}

impl Device {
    pub(crate) fn as_raw(&self) -> *mut c::dax_device {
        self.dax_dev.as_ptr()
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// Who has a piece of a device's memory mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tenant {
    /// The file that asks, at this very place.
    Ours,
    /// Nobody.
    Nobody,
    /// Another file, or the same at another place.
    Other,
}

/// A piece of a file's page cache, as what it may be the tenant of memory.
#[derive(Clone, Copy)]
pub(crate) struct Tenancy {
    /// Only compared.
    pub(crate) mapping: *const c::address_space,
    /// First page in the file.
    pub(crate) index: u64,
    /// Number of pages.
    pub(crate) pages: u64,
}

impl Device {
    /// Who has the memory from `addr` on mapped, as far as `wanted` reaches.
    ///
    /// DAX notes in a folio which page of which file it is. It takes for granted that a file system
    /// gives every page of a device to one file at a time, and corrupts its folios otherwise.
    pub(crate) fn tenant(&self, addr: u64, wanted: Tenancy) -> Tenant {
        let page_shift = PAGE_SIZE.trailing_zeros();
        let mut tenant = Tenant::Ours;

        // SAFETY: The device is held. While the lock is taken and the device is alive its driver
        // stays bound, and with it the folios of its memory stay.
        unsafe {
            let srcu = c::dax_read_lock();
            if c::dax_alive(self.as_raw()) {
                let phys = c::dax_pgoff_to_phys(
                    c::dax_get_private(self.as_raw()).cast(),
                    (addr >> page_shift) as ffi::c_ulong,
                    (wanted.pages << page_shift) as ffi::c_ulong,
                );
                // Memory in several pieces is never mapped as one.
                if phys != c::phys_addr_t::MAX {
                    tenant = Self::folios_tenant((phys >> page_shift) as ffi::c_ulong, wanted);
                }
            }
            c::dax_read_unlock(srcu);
        }
        tenant
    }

    /// # Safety
    ///
    /// `pfn` and the `wanted.pages` that follow are memory of a DAX device whose driver is bound.
    unsafe fn folios_tenant(pfn: ffi::c_ulong, wanted: Tenancy) -> Tenant {
        let mut tenant = Tenant::Ours;
        let mut page = 0;

        while page < wanted.pages {
            // SAFETY: By the safety requirements. What is read may change at once, but not into
            // `wanted.mapping` or from it: that is the caller's, who holds its entry locked.
            let (mapping, index, start, end) = unsafe {
                let folio = c::pfn_folio(pfn + page as ffi::c_ulong);
                let fields = ptr::addr_of!((*folio).__bindgen_anon_1.__bindgen_anon_1);
                let start = c::folio_pfn(folio);
                (
                    ptr::addr_of!((*fields).mapping).read_volatile(),
                    ptr::addr_of!((*fields).__bindgen_anon_2.index).read_volatile() as u64,
                    start,
                    start + (1 << c::folio_order(folio)),
                )
            };
            let here = pfn + page as ffi::c_ulong;
            if mapping.is_null() {
                tenant = Tenant::Nobody;
                page += 1;
            } else if ptr::eq(mapping, wanted.mapping)
                && index + (here - start) as u64 == wanted.index + page
            {
                page += (end - here) as u64;
            } else {
                return Tenant::Other;
            }
        }
        tenant
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut holders = HOLDERS.lock();

        holders.retain(|other| !ptr::eq(other.slot.as_ptr(), self.holder));
        if holders.is_empty() {
            *holders = KVec::new();
        }
        drop(holders);
        // SAFETY: By the type invariants the device is held with this holder.
        unsafe { c::fs_put_dax(self.as_raw(), self.holder.cast_mut().cast()) };
        // SAFETY: By the type invariants `self` owns this reference, if there is one.
        unsafe { c::module_put(self.driver) };
    }
}

impl Devices {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            slots: [const {
                Slot {
                    device: SetOnce::new(),
                    failed: Atomic::new(false),
                }
            }; DEVICES_MAX],
            acquiring <- InFlight::new(),
            moving_in <- pin_init::pin_init_array_from_fn(
                |_| new_mutex!((), "fuse_dax_fmap::Devices::moving_in")
            ),
        })
    }

    /// The lock that is held from seeing that memory has no tenant until DAX has made the file its
    /// tenant. Only the first touch of a piece of memory takes it.
    pub(crate) fn moving_in(&self, addr: u64) -> &Mutex<()> {
        &self.moving_in[(addr >> 21) as usize % MOVING_IN]
    }

    /// The device of an index, if it is held and has not failed.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Device> {
        let slot = self.slots.get(index as usize)?;

        slot.device.as_ref().filter(|_| !slot.failed.load(Relaxed))
    }

    /// Makes sure that a device is held, asking the server for its path if need be. May sleep.
    ///
    /// # Errors
    ///
    /// Whatever an open that needs the device fails with.
    pub(crate) fn acquire(
        &self,
        index: u32,
        get_daxdev: impl FnOnce() -> Result<KVVec<u8>>,
        mounter: &Mounter,
    ) -> Result<(), Failure> {
        let slot = self
            .slots
            .get(index as usize)
            .ok_or(EINVAL)
            .map_err(Failure::because("device index"))?;

        if slot.device.as_ref().is_none() {
            let _turn = self
                .acquiring
                .turn(index as usize)
                .map_err(Failure::because("waiting for GET_DAXDEV"))?;

            if slot.device.as_ref().is_none() {
                let reply = get_daxdev().map_err(Failure::because("GET_DAXDEV"))?;
                slot.device.populate(hold(slot, &reply, mounter)?);
            }
        }
        if slot.failed.load(Relaxed) {
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
            let failed = if slot.failed.load(Relaxed) { "!" } else { "" };
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
fn hold(slot: &Slot, reply: &[u8], mounter: &Mounter) -> Result<Device, Failure> {
    let path = path_of(reply)?;
    let file = mounter
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

    // In the list first: a failure may be reported as soon as the device is held.
    HOLDERS
        .lock()
        .push(
            Holder {
                dax_dev,
                slot: NonNull::from(slot),
            },
            GFP_KERNEL,
        )
        .map_err(|_| Failure::because("no memory")(ENOMEM))?;

    // SAFETY: The device sits on the dax bus, so its private data is a `struct dev_dax`, as
    // `fs_dax_get()` takes for granted; `file` keeps it until here. The table is static.
    let held = to_result(unsafe {
        c::fs_dax_get(dax_dev.as_ptr(), holder.cast_mut().cast(), &HOLDER_OPS)
    });
    if let Err(errno) = held {
        HOLDERS
            .lock()
            .retain(|other| !ptr::eq(other.slot.as_ptr(), holder));
        return Err(Failure {
            errno,
            cause: match errno {
                EBUSY => "the DAX device is held by another mount, or under another index",
                EOPNOTSUPP => "the DAX device is not bound to fsdev_dax",
                _ => "the DAX device cannot be held",
            },
        });
    }
    // SAFETY: `file` is open, so this module has a user and may get another.
    unsafe { c::__module_get(driver) };

    // SAFETY: `fs_dax_get()` found a `struct dev_dax` bound to fsdev_dax, which sets the size
    // before it makes the device available and never changes it.
    let size = unsafe { (*c::dax_get_private(dax_dev.as_ptr()).cast::<f::dev_dax>()).cached_size };

    // INVARIANT: Held just now, and the reference to the module taken.
    Ok(Device {
        dax_dev,
        size: size - size % PAGE_SIZE as u64,
        holder,
        driver,
        name,
    })
}

static HOLDER_OPS: c::dax_holder_operations = c::dax_holder_operations {
    notify_failure: Some(notify_failure),
};

/// Marks a device that is going away as failed.
///
/// Returns `EOPNOTSUPP` always: 0 would keep the generic code from killing the tasks that map a
/// poisoned page.
///
/// # Safety
///
/// Called by the dax core, with a device that is or was held by a slot.
unsafe extern "C" fn notify_failure(
    dax_dev: *mut c::dax_device,
    _offset: u64,
    _len: u64,
    flags: ffi::c_int,
) -> ffi::c_int {
    if flags & c::mf_flags_MF_MEM_PRE_REMOVE as ffi::c_int != 0 {
        let holders = HOLDERS.lock();

        for holder in holders
            .iter()
            .filter(|holder| ptr::eq(holder.dax_dev.as_ptr(), dax_dev))
        {
            // SAFETY: By the type invariants of `Holder`, a listed slot is valid.
            unsafe { holder.slot.as_ref() }.failed.store(true, Relaxed);
            pr_err!("a DAX device goes away under a mount; its files fail from now on\n");
        }
    }
    EOPNOTSUPP.to_errno()
}
