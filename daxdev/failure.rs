// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells the holder of a device: that memory has failed, or that the device goes
//! away.
//!
//! Both come through [`Reports::notify_failure`], in the middle of somebody else's work: of the
//! task that consumed the poison, of whoever unbinds the driver.
//!
//! **A device that goes away** is marked failed, everything on it is unmapped, and every later
//! mapping of it is refused. Its memory map goes with it as soon as the report returns, so the
//! report waits until nobody has a page of it any more.
//!
//! **Memory that has failed** is remembered ([`poison`]), its page is unmapped, and the tasks that
//! map it get SIGBUS: at once if they consumed it or asked for that (PR_MCE_KILL), else at their
//! next access. Nothing else of the device changes.
//!
//! A report names a device, and its holder is the slot whose cookie the dax core knows: there
//! may be other slots that had the device once, or are about to find that they cannot have it.

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
    bindings::kernel as c, //
};

use super::{
    frames::frames_at,
    holder::{
        Holder,
        HOLDERS, //
    },
    poison, //
};

/// Calls of [`Reports::notify_failure`] that are under way. The dax core cannot be waited for.
static NOTIFYING: Atomic<i64> = Atomic::new(0);

/// Waits until no report of a failure is under way any more. There are no holders left.
pub(crate) fn drain() {
    // A task of the dax core that has found our operations, and does not count itself yet, has not
    // slept since.
    synchronize_rcu_tasks();
    while NOTIFYING.load(Relaxed) != 0 || poison::are_ending() {
        fsleep(Delta::from_millis(1));
    }
    poison::forget_all();
}

/// What the dax core reports about a device that is or was held by a slot.
pub(super) struct Reports;

impl HolderOperations for Reports {
    /// `EOPNOTSUPP` would have the generic code kill the tasks that map the page, but that takes
    /// the first page of a 2 MiB folio for the one that failed: wrong address, wrong page, and at
    /// times no task.
    fn notify_failure(dax_dev: &DaxDevice, offset: u64, len: u64, flags: ffi::c_int) -> Result {
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
        // Its devices are about to be given up.
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
    // Who gives up the last reference to a superblock, or to a mount, takes this lock.
    drop(holders);
    if !is_held {
        // Nothing is mapped yet of what is still being acquired.
        return Progress::Done;
    }
    ops.device_removed(index);
    // From the moment on that the dax core has taken the device's life, its driver must not be
    // asked for an address any more: it would follow a NULL pointer (`__fsdev_dax_direct_access()`
    // relies on `dax_get_private()`, which looks at the life again). No fault is at that; reads and
    // writes that were judged before have not slept since.
    synchronize_rcu_tasks();
    Progress::Done
}

/// Takes failed memory out of use, and tells who maps it.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if there is nobody to tell, or it cannot be remembered; the generic code then
/// does what it can. Those of `mf_dax_kill_procs()`.
fn memory_has_failed(dax_dev: &DaxDevice, offset: u64, len: u64, flags: ffi::c_int) -> Result {
    let page = PAGE_SIZE as u64;
    let pages = len.div_ceil(page);

    for at in (0..pages).map(|n| offset.saturating_add(n * page)) {
        // If there is no memory, what is there has to do.
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
        // From here on nobody maps, reads or writes it.
        holder.ops().memory_fails(holder.index);
        pr_err!(
            "{:#x} of a device of {} has failed (page frame {:#x})\n",
            at,
            holder,
            pfn
        );
        let ops = holder.ops().get();
        drop(holders);

        if let Some(ops) = ops {
            // SAFETY: The dax core reports in a read side of `dax_read_lock()`, in which the device
            // was alive just now: its driver is unbound, and the memory map freed, after that.
            unsafe { ops.memory_failed(pfn, flags) }?;
        }
        drop(report);
    }
    Ok(())
}
