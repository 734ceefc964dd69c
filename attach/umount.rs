// SPDX-License-Identifier: GPL-2.0

//! The end of a mount whose memory is still in use.
//!
//! Direct I/O or a pipe may have pages of a mount's files when it is unmounted. The devices stay
//! held until those are given up (`kept`, in `iomap`); the rest of the mount goes at
//! once. So that a device is free when umount(2) returns, its caller waits for that: killably, and
//! without any lock, on its way back to user space. A killed one leaves the rest to the module.
//! Another task that happens to be the last one to use a mount (that closes a file of it after
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
    sb_info::DeviceNumber, //
};

/// A task that waits on its way to user space.
struct Wait {
    released: Arc<Completion>,
    device: DeviceNumber,
    _module: ModuleRef,
}

/// Has the current task wait until the devices of a mount are free, if they are not, and if it can
/// be killed. May sleep.
pub(super) fn wait_on_return(released: Arc<Completion>, device: DeviceNumber) {
    const NO_SYSTEM_CALL: u32 = c::PF_KTHREAD | c::PF_EXITING | c::PF_USER_WORKER;

    if released.is_done() {
        return;
    }
    // SAFETY: A task that is no thread of the kernel has registers of a system call if it is in
    // one.
    let waits = task::flags() & NO_SYSTEM_CALL == 0 && unsafe { c::fuse_dax_fmap_in_umount() };
    let (Some(_module), true) = (ModuleRef::new(), waits) else {
        pr_info!("{device}: unmounted; its devices stay held until no memory is in use\n");
        return;
    };
    let wait = Wait {
        released,
        device,
        _module,
    };
    // Without memory the task does not wait.
    // SAFETY: `wait` has a reference to the module, and `Hooks::drop` waits for tasks.
    let _ = unsafe { task::run_on_return(wait) };
}

impl task::WorkOnReturn for Wait {
    fn run(self) {
        // A look at what is idle is nearly always all that it takes.
        if self
            .released
            .wait_killable_timeout(msecs_to_jiffies(PATIENCE_MS))
        {
            return;
        }
        pr_warn!(
            "{}: umount waits until direct I/O and pipes have let go of memory\n",
            self.device
        );
        if self.released.wait_killable_freezable().is_err() {
            pr_warn!(
                "{}: unmounted; its devices stay held until no memory is in use\n",
                self.device
            );
        }
    }
}

/// How long a wait is not worth a line in the log.
const PATIENCE_MS: u32 = 1000;
