// SPDX-License-Identifier: GPL-2.0

//! The kernel's reports to the holder of a device: memory has failed, or the device is being
//! removed.
//!
//! [`Reports::notify_failure`] gets both, in the task that handles the failure (often the one that
//! consumed the poison), or that unbinds the driver.
//!
//! **A device that is being removed** is marked failed, everything on it is unmapped, and every
//! later mapping of it is an error. Its memory map is freed after the report returns, so the report
//! waits until no page of it is in use.
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
    sync::atomic::{
        Atomic,
        Relaxed, //
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
        sync::rcu::synchronize_rcu_tasks, //
    },
    bindings::kernel as c,
    compat::EOPNOTSUPP, //
};

use super::{
    frames::frames_at,
    holder::{
        Holder,
        HOLDERS, //
    },
    poison, //
};

/// The number of calls of [`Reports::notify_failure`] in progress. The dax core has no way to wait
/// for them.
static NOTIFYING: Atomic<i64> = Atomic::new(0);

/// Waits until no report of a failure is in progress. Called when there are no holders left.
pub(crate) fn drain() {
    // A task in the dax core that has found `Reports`, but is not counted in `NOTIFYING` yet, has
    // not slept since.
    synchronize_rcu_tasks();
    while NOTIFYING.load(Relaxed) != 0 || poison::are_ending() {
        fsleep(Delta::from_millis(1));
    }
    poison::forget_all();
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
            // A mount without references cannot be used any more, but releases its devices soon.
            while take_out_of_use(dax_dev) == Progress::Again {
                fsleep(Delta::from_millis(1));
            }
            Ok(())
        } else {
            memory_has_failed(dax_dev, offset, len, flags)
        };
        NOTIFYING.add(-1, Relaxed);
        result
    }
}

#[derive(PartialEq, Eq)]
enum Progress {
    Done,
    Again,
}

fn take_out_of_use(dax_dev: &DaxDevice) -> Progress {
    let holders = HOLDERS.lock();
    let Some(holder) = Holder::of(&holders, dax_dev) else {
        return Progress::Done;
    };
    let Some(ops) = holder.ops().get() else {
        // The mount is about to release its devices.
        return Progress::Again;
    };
    let index = holder.index;
    let is_held = ops.device_fails(index);
    if is_held {
        pr_err!(
            "{} goes away under {}; what is in it fails from now on\n",
            &*holder.name,
            holder
        );
    }
    // Dropping the last reference to a superblock, or to `ops`, takes this lock.
    drop(holders);
    if !is_held {
        // A device that is still being acquired has no mappings.
        return Progress::Done;
    }
    ops.device_removed(index);
    // Once the dax core has cleared `DAXDEV_ALIVE`, the driver must not be asked for an address: it
    // would dereference NULL (`__fsdev_dax_direct_access()` does not check `dax_get_private()`,
    // which then returns NULL). No fault is in the driver now; reads and writes whose mapping was
    // validated before have not slept since.
    synchronize_rcu_tasks();
    Progress::Done
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
