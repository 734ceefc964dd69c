// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells the holder of a device: that memory has failed, or that the device goes away.
//!
//! Both come through [`notify_failure`], in the middle of somebody else's work: of the task that
//! consumed the poison, of whoever unbinds the driver.
//!
//! **A device that goes away** is marked failed, everything on it is unmapped, and every later mapping
//! of it is refused. Its memory map goes with it as soon as the report returns, so the report waits
//! until nobody has a page of it any more.
//!
//! **Memory that has failed** is remembered ([`poison`]), its page is unmapped, and the tasks that map
//! it get SIGBUS: at once if they consumed it or asked for that (PR_MCE_KILL), else at their next
//! access. Nothing else of the device changes.
//!
//! A report names a device, and its holder is the slot that the dax core knows as such: there may be
//! other slots that had the device once, or are about to find that they cannot have it.

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
    fuse::Connection,
    iomap, //
};

use super::{
    frames_at,
    poison,
    Slot, //
};

/// A slot that holds, or is about to hold, a device.
///
/// # Invariants
///
/// While it is in `HOLDERS` the slot and the connection are valid.
#[derive(PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) slot: NonNull<Slot>,
    /// The index of the slot.
    pub(super) index: u32,
    /// Whose files are in the device.
    pub(super) conn: NonNull<Connection>,
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
        let slot = unsafe { c::dax_holder(dax_dev) };

        holders
            .iter()
            .find(|holder| ptr::eq(holder.slot.as_ptr().cast(), slot))
    }

    fn slot(&self) -> &Slot {
        // SAFETY: By the type invariants, and it is in the list.
        unsafe { self.slot.as_ref() }
    }

    fn conn(&self) -> &Connection {
        // SAFETY: By the type invariants, and it is in the list.
        unsafe { self.conn.as_ref() }
    }

    /// Takes a reference that keeps the superblock mounted, unless it is about to go.
    fn keep_mounted(&self) -> Option<Mounted> {
        let sb = self.conn().superblock();
        // SAFETY: A connection's superblock is valid.
        let active = unsafe { c::atomic_inc_not_zero(ptr::addr_of_mut!((*sb).s_active)) };

        // INVARIANT: Taken just now. Made only then: dropping it gives it up.
        active.then(|| Mounted(self.conn))
    }
}

/// For the log: who has a device.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conn = self.conn();

        f.write_fmt(fmt!(
            "mount {} (ops {}), index {}",
            conn,
            conn.mount().ops.name(),
            self.index
        ))
    }
}

/// A mount that stays mounted.
///
/// # Invariants
///
/// `self` owns an active reference to the superblock of the connection.
struct Mounted(NonNull<Connection>);

impl Mounted {
    fn conn(&self) -> &Connection {
        // SAFETY: By the type invariants the superblock is mounted, and so the connection is there.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let sb = self.conn().superblock();

        // SAFETY: By the type invariants.
        unsafe { c::deactivate_super(sb) }
    }
}

/// Puts a slot into the list. First, then the device may be held: a failure may be reported as soon
/// as it is.
pub(super) fn register(holder: Holder) -> Result {
    Ok(HOLDERS.lock().push(holder, GFP_KERNEL)?)
}

/// Takes a slot out of the list.
pub(super) fn unregister(slot: *const Slot) {
    let mut holders = HOLDERS.lock();

    holders.retain(|other| !ptr::eq(other.slot.as_ptr(), slot));
    if holders.is_empty() {
        *holders = KVec::new();
    }
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
    while NOTIFYING.load(Relaxed) != 0 {
        fsleep(Delta::from_millis(1));
    }
    poison::forget_all();
}

/// The dax core's report about a device.
///
/// `EOPNOTSUPP` would have the generic code kill the tasks that map the page, but that takes the first
/// page of a 2 MiB folio for the one that failed: wrong address, wrong page, and at times no task.
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
    holder.slot().mark(Slot::FAILED);
    let Some(mounted) = holder.keep_mounted() else {
        return Progress::Again;
    };
    // Nothing is mapped yet of what is still being acquired.
    let Some(device) = holder.slot().device.as_ref() else {
        return Progress::Done;
    };
    pr_err!(
        "{} goes away under {}; what is in it fails from now on\n",
        &*device.name,
        holder
    );
    let (index, conn) = (holder.index, mounted.conn());
    // SAFETY: `mounted` keeps the mount, and with it its devices.
    let device = unsafe { &*ptr::from_ref(device) };
    drop(holders);

    // SAFETY: As above; the dax core reports first.
    unsafe { iomap::vacate_all(conn.superblock(), index, device) };
    // From the moment on that the dax core has taken the device's life, its driver must not be asked
    // for an address any more: it would follow a NULL pointer (`__fsdev_dax_direct_access()` relies on
    // `dax_get_private()`, which looks at the life again). No fault is at that; reads and writes that
    // were judged before have not slept since.
    // SAFETY: May sleep.
    unsafe { c::synchronize_rcu_tasks() };
    Progress::Done
}

/// Takes failed memory out of use, and tells who maps it.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if there is nobody to tell, [`ENOMEM`] if it cannot be remembered; the generic code
/// then does what it can.
fn memory_has_failed(
    dax_dev: *mut c::dax_device,
    offset: u64,
    len: u64,
    flags: ffi::c_int,
) -> Result {
    let page = PAGE_SIZE as u64;
    let pages = len.div_ceil(page);

    for at in (0..pages).map(|n| offset.saturating_add(n * page)) {
        let holders = HOLDERS.lock();
        let Some(holder) = Holder::of(&holders, dax_dev) else {
            return Err(EOPNOTSUPP);
        };
        // SAFETY: It is on the dax bus, as we hold it; who reports has the lock.
        let frames = unsafe { frames_at(dax_dev, at, 1) };
        let pfn = frames.and_then(|frames| frames.pfn).ok_or(EOPNOTSUPP)?;
        poison::remember(pfn).map_err(|_| EOPNOTSUPP)?;
        // From here on nobody maps, reads or writes it.
        holder.slot().mark(Slot::POISONED);
        pr_err!(
            "{:#x} of a device of {} has failed (page frame {:#x})\n",
            at,
            holder,
            pfn
        );
        let mounted = holder.keep_mounted();
        drop(holders);

        // The files of a mount that goes away are not mapped any more.
        if let Some(mounted) = mounted {
            // SAFETY: `mounted` keeps the mount, which holds the device, and so the memory map.
            unsafe { iomap::kill_tenants(mounted.conn(), pfn, flags) }?;
        }
    }
    Ok(())
}
