// SPDX-License-Identifier: GPL-2.0

//! What the module hangs into the kernel, and how it comes off again.

use kernel::{
    ffi,
    prelude::*,
    sync::rcu::rcu_barrier, //
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
/// Dropped when no mount is bound, no offer is out and no ops are registered: each of them keeps
/// the module.
pub(crate) struct Hooks {
    /// There once it is registered, until this is dropped.
    send: Option<Probe>,
    end: Option<Probe>,
}

impl Hooks {
    /// Gets between the VFS and FUSE. Called once, while the module is loaded.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if this kernel's FUSE has no tracepoints; [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Called once, before the first use of the locks and the limit.
        unsafe {
            UNATTACHED.init();
            OFFERS.init();
            WANTED.init();
            MOUNTS.init();
            MAKING_TABLES.init();
        }
        let names = [c"fuse_request_send", c"fuse_request_end"];
        // SAFETY: If FUSE is a module this one depends on it by its symbols, so it is loaded
        // already and stays.
        let [Some(send), Some(end)] = (unsafe { Tracepoint::find(names) })? else {
            pr_err!("this kernel's FUSE has no tracepoints: CONFIG_FUSE_FS and CONFIG_TRACEPOINTS are needed\n");
            return Err(ENOENT);
        };

        // Before nearly all other groups: a fanotify listener gets its own file with its event, and
        // that has to find the gate in the inode. Among groups of this class the address decides.
        const PRIORITY: c::fsnotify_group_prio = c::fsnotify_group_prio_FSNOTIFY_PRIO_PRE_CONTENT;
        // SAFETY: `drop()` puts the group. No superblock is attached then, and none is marked
        // later.
        GROUP.populate(unsafe { Group::new::<Opens>(PRIORITY) }?);

        // The end first: an offer whose end is not seen would stay for ever.
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
            // SAFETY: No mount is bound, so there are no marks but those that fsnotify is about to
            // free, and none is added any more.
            unsafe { group.put() };
        }
        // Somebody may have given up the last reference to the module in code of ours, or reported
        // a failure to a holder that is gone, and still be on the way out.
        daxdev::drain();
        // Mapped files are freed by RCU callbacks of ours.
        rcu_barrier();
        synchronize_rcu_tasks();
    }
}
