// SPDX-License-Identifier: GPL-2.0

//! The probes and the fsnotify group: registering and unregistering them.

use kernel::{
    ffi,
    prelude::*, //
};

use crate::{
    abstractions::{
        fsnotify::Group,
        sync::rcu::synchronize_rcu_tasks,
        tracepoint::{
            synchronize_unregister,
            Probe,
            Tracepoint, //
        }, //
    },
    bindings::kernel as c,
    compat::rcu_barrier,
    daxdev,
    fuse::{
        MAKING_TABLES,
        WANTED, //
    }, //
};

use super::{
    connection::MOUNTS,
    init::{
        request_end,
        request_send,
        OFFERS,
        UNATTACHED, //
    },
    mark::GROUP,
    open::Opens, //
};

/// The probes, and the group of marks ([`GROUP`]).
///
/// Dropped when there are no fmap mounts, no offers and no registered ops: each of them owns a
/// reference to the module.
pub(crate) struct Hooks {
    /// `Some` once it is registered, until this is dropped.
    send: Option<Probe>,
    end: Option<Probe>,
}

impl Hooks {
    /// Registers the probes and makes the group. Called once, when the module is loaded.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if this kernel's FUSE has no tracepoints; [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: This is called once, before the first use of the limit.
        unsafe { UNATTACHED.init() };
        // SAFETY: This is called once, before the first use of the lock.
        unsafe { OFFERS.init() };
        // SAFETY: This is called once, before the first use of the lock.
        unsafe { WANTED.init() };
        // SAFETY: This is called once, before the first use of the lock.
        unsafe { MOUNTS.init() };
        // SAFETY: This is called once, before the first use of the lock.
        unsafe { MAKING_TABLES.init() };
        let names = [c"fuse_request_send", c"fuse_request_end"];
        // SAFETY: If FUSE is a module, this one uses its symbols, so FUSE is loaded and stays
        // loaded as long as this module.
        let [Some(send), Some(end)] = (unsafe { Tracepoint::find(names) })? else {
            pr_err!("this kernel's FUSE has no tracepoints: CONFIG_FUSE_FS and CONFIG_TRACEPOINTS are needed\n");
            return Err(ENOENT);
        };

        // The highest priority, so that the inode has the open shim before a fanotify listener is
        // told: the listener gets a file of its own, whose open is not reported. Groups of one
        // priority are ordered by address.
        const PRIORITY: c::fsnotify_group_prio = c::fsnotify_group_prio_FSNOTIFY_PRIO_PRE_CONTENT;
        // SAFETY: `drop()` puts the group. There is no fmap mount then, and no superblock is marked
        // after that.
        GROUP.populate(unsafe { Group::new::<Opens>(PRIORITY) }?);

        // The end probe first: it frees the offers that the other probe makes.
        let mut hooks = Self {
            send: None,
            end: None,
        };
        // SAFETY: The probe has the signature of the tracepoint; `drop()` waits for it.
        hooks.end = Some(unsafe { Probe::register(end, request_end as *mut ffi::c_void) }?);
        // SAFETY: The probe has the signature of the tracepoint; `drop()` waits for it.
        hooks.send = Some(unsafe { Probe::register(send, request_send as *mut ffi::c_void) }?);
        Ok(hooks)
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        drop(self.send.take());
        drop(self.end.take());
        synchronize_unregister();
        if let Some(group) = GROUP.as_ref() {
            // SAFETY: There is no fmap mount, so the only marks are those that fsnotify is about to
            // free, and no mark is added any more.
            unsafe { group.put() };
        }
        // A task may have dropped the last reference to the module in its code, or reported a
        // failure to a holder that is gone, and not have left that code yet.
        daxdev::drain();
        // Mapped files are freed by RCU callbacks of the module.
        rcu_barrier();
        // The dax core may have found the holder's functions of a device that was removed, and have
        // called them while this waited.
        daxdev::wait_for_reports();
        synchronize_rcu_tasks();
    }
}
