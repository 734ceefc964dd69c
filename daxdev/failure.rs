// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells the holder of a device: that memory has failed, or that the device goes
//! away.
//!
//! Both come through [`notify_failure`], in the middle of somebody else's work: of the task that
//! consumed the poison, of whoever unbinds the driver.
//!
//! **A device that goes away** is marked failed, everything on it is unmapped, and every later
//! mapping of it is refused. Its memory map goes with it as soon as the report returns, so the
//! report waits until nobody has a page of it any more.
//!
//! **Memory that has failed** is remembered ([`poison`]), its page is unmapped, and the tasks that
//! map it get SIGBUS: at once if they consumed it or asked for that (PR_MCE_KILL), else at their
//! next access. Nothing else of the device changes.
//!
//! A report names a device, and its holder is the slot whose [`Cookie`] the dax core knows: there
//! may be other slots that had the device once, or are about to find that they cannot have it.

use core::ptr::{
    self,
    NonNull, //
};

use kernel::{
    ffi,
    fmt,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    bindings::kernel as c,
    fmap_ops::Mount,
    fuse::Mounted,
    iomap, //
};

use super::{
    frames_at,
    poison,
    Slot, //
};

/// What the dax core knows a holder by: a number that is used once, as the address of a slot may be
/// another slot's by the time that the dax core forgets it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Cookie(usize);

impl Cookie {
    pub(super) fn new() -> Self {
        static LAST: Atomic<usize> = Atomic::new(0);

        Self(LAST.fetch_add(1, Relaxed) + 1)
    }

    /// Never null, and never followed.
    pub(super) fn as_ptr(self) -> *mut ffi::c_void {
        ptr::without_provenance_mut(self.0)
    }
}

/// A slot that holds, or is about to hold, a device.
///
/// # Invariants
///
/// While it is in `HOLDERS` the slot and the mount are valid.
pub(super) struct Holder {
    pub(super) cookie: Cookie,
    pub(super) slot: NonNull<Slot>,
    /// The index of the slot.
    pub(super) index: u32,
    /// Whose files are in the device.
    pub(super) mount: NonNull<Mount>,
}

// SAFETY: Only used under the lock of `HOLDERS`.
unsafe impl Send for Holder {}

global_lock! {
    /// All slots that hold a device, or did until it went away.
    ///
    /// A failure is reported by device, at any time until `fs_put_dax()` and a moment longer; what
    /// is not in here any more gets no report.
    // SAFETY: `init()` runs before any mount is bound.
    unsafe(uninit) static HOLDERS: Mutex<KVec<Holder>> = KVec::new();
}

/// Called once, while the module is loaded.
pub(super) fn init() {
    // SAFETY: Called once, before the first use of the lock.
    unsafe { HOLDERS.init() }
}

impl Holder {
    /// The holder of a device, if it is one of us.
    fn of(holders: &[Self], dax_dev: *mut c::dax_device) -> Option<&Self> {
        // SAFETY: The device is valid: somebody reports about it, or has it open.
        let cookie = unsafe { c::dax_holder(dax_dev) };

        holders
            .iter()
            .find(|holder| ptr::eq(holder.cookie.as_ptr(), cookie))
    }

    fn mount(&self) -> &Mount {
        // SAFETY: By the type invariants, and it is in the list.
        unsafe { self.mount.as_ref() }
    }
}

/// For the log: who has a device.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mount = self.mount();

        f.write_fmt(fmt!(
            "mount {} (ops {}), index {}",
            mount,
            mount.ops.name(),
            self.index
        ))
    }
}

/// Puts a slot into the list. First, then the device may be held: a failure may be reported as soon
/// as it is.
pub(super) fn register(holder: Holder) -> Result {
    Ok(HOLDERS.lock().push(holder, GFP_KERNEL)?)
}

/// Takes a slot out of the list, and calls `give_up` meanwhile: no report begins before that is
/// done.
pub(super) fn unregister(cookie: Cookie, give_up: impl FnOnce()) {
    let mut holders = HOLDERS.lock();

    holders.retain(|other| other.cookie != cookie);
    if holders.is_empty() {
        *holders = KVec::new();
    }
    give_up();
}

/// Calls `tell` with the holder of a device, `None` if that is none of us.
pub(super) fn with_holder(dax_dev: *mut c::dax_device, tell: impl FnOnce(Option<&Holder>)) {
    tell(Holder::of(&HOLDERS.lock(), dax_dev));
}

pub(super) static HOLDER_OPS: c::dax_holder_operations = c::dax_holder_operations {
    notify_failure: Some(notify_failure),
};

/// Calls of [`notify_failure`] that are under way. The dax core cannot be waited for.
static NOTIFYING: Atomic<i64> = Atomic::new(0);

/// Waits until no report of a failure is under way any more. There are no holders left.
pub(crate) fn drain() {
    // A task of the dax core that has found our operations, and does not count itself yet, has not
    // slept since.
    // SAFETY: May sleep.
    unsafe { c::synchronize_rcu_tasks() };
    while NOTIFYING.load(Relaxed) != 0 || poison::are_ending() {
        fsleep(Delta::from_millis(1));
    }
    poison::forget_all();
}

/// The dax core's report about a device.
///
/// `EOPNOTSUPP` would have the generic code kill the tasks that map the page, but that takes the
/// first page of a 2 MiB folio for the one that failed: wrong address, wrong page, and at times no
/// task.
///
/// # Safety
///
/// Called by the dax core, with a device that is alive, and is or was held by a slot.
unsafe extern "C" fn notify_failure(
    dax_dev: *mut c::dax_device,
    offset: u64,
    len: u64,
    flags: ffi::c_int,
) -> ffi::c_int {
    NOTIFYING.add(1, Relaxed);
    let result = if flags & c::mf_flags_MF_MEM_PRE_REMOVE as ffi::c_int != 0 {
        // A mount that is going away cannot be used, but is soon gone.
        while take_out_of_use(dax_dev) == Progress::Again {
            fsleep(Delta::from_millis(1));
        }
        Ok(())
    } else {
        memory_has_failed(dax_dev, offset, len, flags)
    };
    NOTIFYING.add(-1, Relaxed);
    result.map_or_else(Error::to_errno, |()| 0)
}

#[derive(PartialEq, Eq)]
enum Progress {
    Done,
    Again,
}

fn take_out_of_use(dax_dev: *mut c::dax_device) -> Progress {
    let holders = HOLDERS.lock();
    let Some(holder) = Holder::of(&holders, dax_dev) else {
        return Progress::Done;
    };
    // SAFETY: By the type invariants the mount is valid as long as the holder is in the list.
    let Some(mount) = (unsafe { Mount::hold(holder.mount) }) else {
        // Its devices are about to be given up.
        return Progress::Again;
    };
    holder.mount().devices.mark(holder.index, Slot::FAILED);
    let (index, slot) = (holder.index, holder.slot);
    // SAFETY: As above; a mount that is held keeps its slots.
    let device = unsafe { slot.as_ref() }.device.as_ref();
    if let Some(device) = device {
        pr_err!(
            "{} goes away under {}; what is in it fails from now on\n",
            &*device.name,
            holder
        );
    }
    // Who gives up the last reference to a superblock, or to a mount, takes this lock.
    drop(holders);
    let Some(device) = device else {
        // Nothing is mapped yet of what is still being acquired.
        return Progress::Done;
    };
    iomap::vacate_all(&mount, index, device);
    // From the moment on that the dax core has taken the device's life, its driver must not be
    // asked for an address any more: it would follow a NULL pointer (`__fsdev_dax_direct_access()`
    // relies on `dax_get_private()`, which looks at the life again). No fault is at that; reads and
    // writes that were judged before have not slept since.
    // SAFETY: May sleep.
    unsafe { c::synchronize_rcu_tasks() };
    Progress::Done
}

/// Takes failed memory out of use, and tells who maps it.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if there is nobody to tell, [`ENOMEM`] if it cannot be remembered; the generic
/// code then does what it can.
fn memory_has_failed(
    dax_dev: *mut c::dax_device,
    offset: u64,
    len: u64,
    flags: ffi::c_int,
) -> Result {
    let page = PAGE_SIZE as u64;
    let pages = len.div_ceil(page);

    for at in (0..pages).map(|n| offset.saturating_add(n * page)) {
        // If there is no memory, what is there has to do.
        let _ = poison::make_room();
        let holders = HOLDERS.lock();
        let Some(holder) = Holder::of(&holders, dax_dev) else {
            return Err(EOPNOTSUPP);
        };
        // SAFETY: It is on the dax bus, as we hold it; who reports has the lock.
        let frames = unsafe { frames_at(dax_dev, at, 1) };
        let pfn = frames.and_then(|frames| frames.pfn).ok_or(EOPNOTSUPP)?;
        let report = poison::Report::begin(pfn).map_err(|_| EOPNOTSUPP)?;
        // From here on nobody maps, reads or writes it.
        holder.mount().devices.mark(holder.index, Slot::POISONED);
        pr_err!(
            "{:#x} of a device of {} has failed (page frame {:#x})\n",
            at,
            holder,
            pfn
        );
        // SAFETY: By the type invariants the mount is valid as long as the holder is in the list.
        let mount = unsafe { Mount::hold(holder.mount) };
        drop(holders);

        if let Some(mount) = mount {
            // The files of a mount that goes away are not mapped any more.
            let mounted = Mounted::new(&mount);
            // SAFETY: The mount holds the device, and so the memory map.
            unsafe { iomap::kill_tenants(&mount, mounted.as_ref(), pfn, flags) }?;
        }
        drop(report);
    }
    Ok(())
}
