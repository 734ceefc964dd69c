// SPDX-License-Identifier: GPL-2.0

//! The end of a mount whose memory is still in use.
//!
//! Direct I/O or a pipe may have pages of a mount's files when it is unmounted. The devices stay
//! held until those are given up ([`crate::iomap::MappedFiles`]); the rest of the mount goes at
//! once. So that a device is free when umount(2) returns, its caller waits for that: killably, and
//! without any lock, on its way back to user space. A killed one leaves the rest to the module.
//! Another task that happens to be the last one to use a mount (that closes a file of it after
//! umount -l, say) does not wait: the pages may be its own.

use kernel::{
    container_of,
    prelude::*,
    sync::Arc,
    time::msecs_to_jiffies,
    types::Opaque, //
};

use crate::bindings::kernel as c;

use super::{
    Device,
    ModuleRef, //
};

/// Something that happens once, to be waited for.
#[pin_data]
pub(crate) struct Once {
    #[pin]
    completion: Opaque<c::completion>,
}

// SAFETY: A completion belongs to no task.
unsafe impl Send for Once {}
// SAFETY: A completion may be used by several tasks at once.
unsafe impl Sync for Once {}

impl Once {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            completion <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and pinned.
                unsafe { c::init_completion(slot) }
            }),
        })
    }

    fn has_happened(&self) -> bool {
        // SAFETY: The completion was initialized in `new()`.
        unsafe { c::completion_done(self.completion.get()) }
    }
}

/// Owned by what holds the devices: when it is dropped, they are free.
pub(crate) struct Released(Arc<Once>);

impl Released {
    /// Does not sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Arc::pin_init(Once::new(), GFP_ATOMIC | __GFP_NOWARN)?))
    }

    /// What happens then.
    pub(super) fn event(&self) -> Arc<Once> {
        self.0.clone()
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        // SAFETY: The completion was initialized in `Once::new()`.
        unsafe { c::complete_all(self.0.completion.get()) }
    }
}

/// A task that waits on its way to user space.
#[repr(C)]
struct Wait {
    work: c::callback_head,
    released: Arc<Once>,
    device: Device,
    _module: ModuleRef,
}

/// Has the current task wait until the devices of a mount are free, if they are not, and if it can
/// be killed. May sleep.
pub(super) fn wait_on_return(released: Arc<Once>, device: Device) {
    const NO_SYSTEM_CALL: u32 = c::PF_KTHREAD | c::PF_EXITING | c::PF_USER_WORKER;

    if released.has_happened() {
        return;
    }
    // SAFETY: The current task is valid, and has registers of a system call if it is in one.
    let waits =
        unsafe { (*c::get_current()).flags & NO_SYSTEM_CALL == 0 && c::fuse_dax_fmap_in_umount() };
    let (Some(_module), true) = (ModuleRef::new(), waits) else {
        pr_info!("{device}: unmounted; its devices stay held until no memory is in use\n");
        return;
    };
    let wait = Wait {
        work: pin_init::zeroed(),
        released,
        device,
        _module,
    };
    let Ok(mut wait) = KBox::new(wait, GFP_KERNEL) else {
        return;
    };
    wait.work.func = Some(wait_for_release);
    let wait = KBox::into_raw(wait);
    // SAFETY: The work is the task's until it is called back; if it is not taken, it is ours still.
    unsafe {
        let work = &raw mut (*wait).work;
        let mode = c::task_work_notify_mode_TWA_RESUME;
        if c::task_work_add(c::get_current(), work, mode) != 0 {
            drop(KBox::from_raw(wait));
        }
    }
}

/// # Safety
///
/// Called by the task for which [`wait_on_return`] has queued this.
unsafe extern "C" fn wait_for_release(work: *mut c::callback_head) {
    // SAFETY: `work` is that of a `Wait` that `wait_on_return()` gave away, and the task's once.
    let wait = unsafe { KBox::from_raw(container_of!(work, Wait, work)) };

    // A look at what is idle is nearly always all that it takes.
    // SAFETY: The completion is kept by `wait`. No lock is held on the way to user space.
    let released = unsafe {
        let completion = wait.released.completion.get();
        c::wait_for_completion_killable_timeout(completion, msecs_to_jiffies(PATIENCE_MS)) > 0
    };
    if released {
        return;
    }
    pr_warn!(
        "{}: umount waits until direct I/O and pipes have let go of memory\n",
        wait.device
    );
    // SAFETY: As above. The task may be frozen meanwhile.
    let killed = unsafe {
        let completion = wait.released.completion.get();
        c::wait_for_completion_state(completion, c::TASK_KILLABLE | c::TASK_FREEZABLE) != 0
    };
    if killed {
        pr_warn!(
            "{}: unmounted; its devices stay held until no memory is in use\n",
            wait.device
        );
    }
}

/// How long a wait is not worth a line in the log.
const PATIENCE_MS: u32 = 1000;

const _: () = assert!(core::mem::offset_of!(Wait, work) == 0);
