// SPDX-License-Identifier: GPL-2.0

//! Unmounting while memory of the mount is in use.
//!
//! Direct I/O or a pipe may have pages of a mount's files when it is unmounted. The devices stay
//! held until those pages are dropped (`kept`, in `iomap`); the rest of the mount is freed at once.
//! So that a device is free when umount(2) returns, the calling task waits for that: killably, and
//! without any lock, on its way back to user space. If it is killed, the module still drops the
//! pages later. Another task that drops the last reference to a mount (it closes a file of it after
//! umount -l, say) does not wait: the pages may be its own.

use kernel::{
    prelude::*,
    sync::Arc,
    time::msecs_to_jiffies, //
};

use crate::{
    abstractions::{
        sync::completion::Completion,
        task, //
    },
    bindings::kernel as c,
    fuse::ModuleRef,
    sb_info::MountName, //
};

/// The wait of a task in umount(2), on its way to user space.
struct Wait {
    released: Arc<Completion>,
    mount: MountName,
    _module: ModuleRef,
}

/// Makes the current task wait on its way to user space, if it is in umount(2) and the devices of
/// the mount are not free. May sleep.
pub(super) fn wait_on_return(released: Arc<Completion>, mount: MountName) {
    if released.is_done() {
        return;
    }
    // SAFETY: The current task is no kernel thread, so it has the registers of its system call, if
    // it is in one.
    let waits = task::returns_to_user_space() && unsafe { c::fuse_dax_fmap_in_umount() };
    let (Some(_module), true) = (ModuleRef::new(), waits) else {
        pr_info!("{mount}: unmounted; its devices stay held until no memory is in use\n");
        return;
    };
    let wait = Wait {
        released,
        mount,
        _module,
    };
    // Without memory the task does not wait.
    // SAFETY: `wait` has a reference to the module, and `Hooks::drop` waits for tasks.
    let _ = unsafe { task::run_on_return(wait) };
}

impl task::WorkOnReturn for Wait {
    fn run(self) {
        // Usually the pages are idle by now, and a work item only has to find that out.
        if self
            .released
            .wait_killable_timeout(msecs_to_jiffies(PATIENCE_MS))
        {
            return;
        }
        pr_warn!(
            "{}: umount waits until direct I/O and pipes have let go of memory\n",
            self.mount
        );
        if self.released.wait_killable_freezable().is_err() {
            pr_warn!(
                "{}: unmounted; its devices stay held until no memory is in use\n",
                self.mount
            );
        }
    }
}

/// A wait that is shorter is not logged.
const PATIENCE_MS: u32 = 1000;
