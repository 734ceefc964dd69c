// SPDX-License-Identifier: GPL-2.0

//! The current task.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h),
//! [`include/linux/task_work.h`](srctree/include/linux/task_work.h)

use core::mem::offset_of;

use kernel::{
    ffi,
    prelude::*,
    time::Jiffies, //
};

use crate::bindings::kernel as c;

/// The flags of the current task (`PF_*`).
pub(crate) fn flags() -> u32 {
    // SAFETY: The current task is valid, and changes its flags itself.
    unsafe { (*c::get_current()).flags }
}

/// Whether the current task is being killed.
#[inline]
pub(crate) fn fatal_signal_pending() -> bool {
    // SAFETY: May be called in any task.
    let current = unsafe { c::get_current() };
    // SAFETY: `current` is the task that runs, so it stays valid.
    unsafe { c::fatal_signal_pending(current) != 0 }
}

/// Sleeps for a while, or until the task is killed.
pub(crate) fn sleep_killable(jiffies: Jiffies) {
    // SAFETY: The only requirement is that the task may sleep.
    unsafe { c::schedule_timeout_killable(jiffies as ffi::c_long) };
}

/// What a task does on its way to user space.
pub(crate) trait WorkOnReturn: Sized + 'static {
    /// May sleep; no lock is held.
    fn run(self);
}

/// Work of a task.
#[repr(C)]
struct Work<T> {
    head: c::callback_head,
    item: T,
}

impl<T: WorkOnReturn> Work<T> {
    /// # Safety
    ///
    /// Called by the task for which [`run_on_return`] has queued this.
    unsafe extern "C" fn run(head: *mut c::callback_head) {
        const { assert!(offset_of!(Work<T>, head) == 0) };

        // SAFETY: `head` is the first member of a `Work` that `run_on_return()` made of a box and
        // gave away.
        let work = unsafe { KBox::from_raw(head.cast::<Self>()) };

        KBox::into_inner(work).item.run();
    }
}

/// Has the current task do something on its way to user space, which is before it ends. It may be
/// dropped instead, if the task is exiting already. May sleep.
///
/// # Errors
///
/// [`ENOMEM`].
///
/// # Safety
///
/// The module stays loaded until `item` has run or been dropped; what unloads it then waits for the
/// last instructions of tasks that were at it (`synchronize_rcu_tasks()`).
pub(crate) unsafe fn run_on_return<T: WorkOnReturn>(item: T) -> Result {
    let head = c::callback_head {
        func: Some(Work::<T>::run),
        ..pin_init::zeroed()
    };
    let work = KBox::into_raw(KBox::new(Work { head, item }, GFP_KERNEL)?);
    let mode = c::task_work_notify_mode_TWA_RESUME;

    // SAFETY: The work is the task's until it is called back.
    if unsafe { c::task_work_add(c::get_current(), work.cast(), mode) } != 0 {
        // SAFETY: The work was not taken, so the box is still ours.
        drop(unsafe { KBox::from_raw(work) });
    }
    Ok(())
}
