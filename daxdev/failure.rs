// SPDX-License-Identifier: GPL-2.0

//! The kernel's reports to the holder of a device: memory has failed, or the device is being
//! removed.
//!
//! [`Reports::notify_failure`] gets both, in the task that handles the failure (often the one that
//! consumed the poison), or that unbinds the driver.
//!
//! **A device that is being removed** is marked failed, everything on it is unmapped, and every
//! later mapping of it is an error. Its memory map is freed after the report returns, so the module
//! waits until no page of it is in use, which may take as long as a user likes. In the report that
//! would be in a read-side critical section of `dax_read_lock()`, which all DAX devices of the
//! kernel share: not even a device of LVM could be removed meanwhile. So the module waits before:
//! the buses of the device and of its parent tell it that their drivers are about to be unbound
//! ([`watch`]). The report has nothing left to do then.
//!
//! **Memory that has failed** is recorded ([`poison`]), its page is unmapped, and the tasks that
//! map it get SIGBUS: at once if they consumed it or asked for that (PR_MCE_KILL), else at their
//! next access. Nothing else of the device changes.
//!
//! A report names a device, and its holder is the slot whose cookie the dax core has. Other slots
//! may have held the device before, or may be about to fail to hold it.

use kernel::{
    ffi,
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
    abstractions::{
        dax::{
            DaxDevice,
            HolderOperations,
            ReadLock, //
        },
        device::{
            Bus,
            BusNotifier,
            DeviceId,
            Unbinding, //
        },
        sync::rcu::synchronize_rcu_tasks, //
    },
    bindings::kernel as c,
    compat::EOPNOTSUPP, //
};

use super::{
    frames::frames_at,
    holder::{
        Cookie,
        Holder,
        HOLDERS, //
    },
    poison, //
};

/// The number of calls of [`Reports::notify_failure`] in progress. The dax core has no way to wait
/// for them.
static NOTIFYING: Atomic<i64> = Atomic::new(0);

global_lock! {
    /// The notifiers of all buses that a held device, or the parent of one, has been on.
    // SAFETY: `init()` runs before any mount is attached.
    unsafe(uninit) static BUSES: Mutex<KVec<Pin<KBox<BusNotifier<Reports>>>>> = KVec::new();
}

/// Initializes the list. Called once, while the module is loaded.
pub(super) fn init() {
    // SAFETY: Called once, before the first use of the lock.
    unsafe { BUSES.init() }
}

/// Makes sure that the module is told before the driver of a device on one of these buses is
/// unbound. May sleep.
///
/// # Errors
///
/// [`ENOMEM`]; [`EINVAL`] if a bus is not registered any more.
pub(super) fn watch(on: impl IntoIterator<Item = Bus>) -> Result {
    for bus in on {
        let mut buses = BUSES.lock();
        if buses.iter().any(|notifier| *notifier.bus() == bus) {
            continue;
        }
        buses.reserve(1, GFP_KERNEL)?;
        buses.push(
            KBox::pin_init(BusNotifier::new(bus), GFP_KERNEL)?,
            GFP_KERNEL,
        )?;
    }
    Ok(())
}

/// Waits until no report of a failure is in progress. Called when there are no holders left.
pub(crate) fn drain() {
    *BUSES.lock() = KVec::new();
    wait_for_reports();
    poison::forget_all();
}

/// Waits until no report of a failure is in progress. The dax core may begin one as long as it has
/// a removed device that was held.
pub(crate) fn wait_for_reports() {
    // A task in the dax core that has found `Reports`, but is not counted in `NOTIFYING` yet, has
    // not slept since.
    synchronize_rcu_tasks();
    while NOTIFYING.load(Relaxed) != 0 || poison::are_ending() {
        fsleep(Delta::from_millis(1));
    }
}

/// Handles the dax core's reports about a device that is or was held by a slot.
pub(super) struct Reports;

impl HolderOperations for Reports {
    /// If this returned `EOPNOTSUPP` for failed memory, generic code would kill the tasks that map
    /// the page. But it takes the first page of a 2 MiB folio for the failed one: it reports the
    /// wrong address and the wrong page, and sometimes finds no task.
    fn notify_failure(dax_dev: &DaxDevice, offset: u64, len: u64, flags: ffi::c_int) -> Result {
        NOTIFYING.add(1, Relaxed);
        let result = if flags & c::mf_flags_MF_MEM_PRE_REMOVE as ffi::c_int != 0 {
            let cookie = dax_dev.holder();
            take_all_out_of_use(|holder| holder.cookie.as_ptr() == cookie);
            Ok(())
        } else {
            memory_has_failed(dax_dev, offset, len, flags)
        };
        NOTIFYING.add(-1, Relaxed);
        result
    }
}

impl Unbinding for Reports {
    fn unbinding(device: DeviceId) {
        let concerns = |holder: &Holder| {
            holder.is_taken && (holder.device == device || holder.parent == Some(device))
        };
        take_all_out_of_use(concerns);
    }
}

enum Progress {
    /// This device is out of use.
    Done(Cookie),
    /// A mount is about to release its devices.
    Again,
    /// There is no such device.
    End,
}

/// Takes the devices of some holders out of use: they are about to be removed. Waits until no page
/// of them is in use.
fn take_all_out_of_use(is_one: impl Fn(&Holder) -> bool) {
    let mut last = Cookie::NONE;

    loop {
        match take_out_of_use(|holder| holder.cookie > last && is_one(holder)) {
            Progress::Done(cookie) => last = cookie,
            Progress::Again => fsleep(Delta::from_millis(1)),
            Progress::End => break,
        }
    }
}

/// Takes the first device out of use whose holder `is_next`.
fn take_out_of_use(is_next: impl Fn(&Holder) -> bool) -> Progress {
    let mut holders = HOLDERS.lock();
    let Some(holder) = holders.iter_mut().find(|holder| is_next(holder)) else {
        return Progress::End;
    };
    let cookie = holder.cookie;
    if holder.is_out_of_use {
        return Progress::Done(cookie);
    }
    // A mount without references cannot be used any more, but releases its devices soon.
    let Some(ops) = holder.ops().get() else {
        return Progress::Again;
    };
    let index = holder.index;
    let is_held = ops.device_fails(index);
    if is_held && !holder.is_logged {
        holder.is_logged = true;
        pr_err!(
            "{} goes away under {}; what is in it fails from now on\n",
            &*holder.name,
            *holder
        );
    }
    if !is_held {
        // A device that is still being acquired has no mappings, and gets none, as it has failed.
        holder.is_out_of_use = true;
    }
    // Dropping the last reference to a superblock, or to `ops`, takes this lock.
    drop(holders);
    if !is_held {
        return Progress::Done(cookie);
    }
    ops.device_removed(index);
    // Once the dax core has cleared `DAXDEV_ALIVE`, the driver must not be asked for an address: it
    // would dereference NULL (`__fsdev_dax_direct_access()` does not check `dax_get_private()`,
    // which then returns NULL). No fault is in the driver now; reads and writes whose mapping was
    // validated before have not slept since.
    synchronize_rcu_tasks();
    let mut holders = HOLDERS.lock();
    if let Some(holder) = holders.iter_mut().find(|holder| holder.cookie == cookie) {
        holder.is_out_of_use = true;
    }
    Progress::Done(cookie)
}

/// Takes failed memory out of use, and notifies the tasks that map it.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if the device has no holder or is not alive, or if the page cannot be recorded:
/// generic code then does what it can. Those of `HolderOps::memory_failed()`.
fn memory_has_failed(dax_dev: &DaxDevice, offset: u64, len: u64, flags: ffi::c_int) -> Result {
    let page = PAGE_SIZE as u64;
    let pages = len.div_ceil(page);

    for at in (0..pages).map(|n| offset.saturating_add(n * page)) {
        // Without a holder nothing is recorded, and nothing must be allocated for that: `drain()`,
        // which frees the list, may be over.
        if Holder::of(&HOLDERS.lock(), dax_dev).is_none() {
            return Err(EOPNOTSUPP);
        }
        // If this fails, the spare entries have to suffice.
        let _ = poison::make_room();
        let holders = HOLDERS.lock();
        let Some(holder) = Holder::of(&holders, dax_dev) else {
            return Err(EOPNOTSUPP);
        };
        let lock = ReadLock::new();
        // SAFETY: The device is on the dax bus, as a slot holds it.
        let dev_dax = unsafe { dax_dev.dev_dax(&lock) }.ok_or(EOPNOTSUPP)?;
        let pfn = frames_at(dev_dax, at, 1).pfn.ok_or(EOPNOTSUPP)?;
        drop(lock);
        let report = poison::Report::begin(pfn).map_err(|_| EOPNOTSUPP)?;
        // From here on no task maps, reads or writes the page.
        holder.ops().memory_fails(holder.index);
        pr_err!(
            "{}: {:#x} has failed (page frame {:#x}), under {}\n",
            &*holder.name,
            at,
            pfn,
            holder
        );
        let ops = holder.ops().get();
        drop(holders);

        if let Some(ops) = ops {
            // SAFETY: `ops` holds the device of `pfn`. This handles a memory failure, which the dax
            // core reports in a read-side critical section of `dax_read_lock()`. In it the device
            // was alive just now: its driver is unbound, and the memory map freed, after that.
            unsafe { ops.memory_failed(pfn, flags) }?;
        }
        drop(report);
    }
    Ok(())
}
