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

/// Returns true if the current task is on its way back to user space: it is no kernel thread, no
/// worker of io_uring or vhost, and is not exiting.
pub(crate) fn returns_to_user_space() -> bool {
    const NEVER_RETURNS: u32 = c::PF_KTHREAD | c::PF_EXITING | c::PF_USER_WORKER;

    // SAFETY: The current task is valid, and no other task changes its flags.
    let flags = unsafe { (*c::get_current()).flags };

    flags & NEVER_RETURNS == 0
}

/// Returns true if the current task is being killed.
#[inline]
pub(crate) fn fatal_signal_pending() -> bool {
    // SAFETY: There are no requirements.
    let current = unsafe { c::get_current() };
    // SAFETY: `current` is the running task, so it is valid.
    unsafe { c::fatal_signal_pending(current) != 0 }
}

/// Sleeps for `jiffies`, or until the current task is killed.
pub(crate) fn sleep_killable(jiffies: Jiffies) {
    // SAFETY: The only requirement is that the task may sleep.
    unsafe { c::schedule_timeout_killable(jiffies as ffi::c_long) };
}

/// Work that a task does when it returns to user space.
pub(crate) trait WorkOnReturn: Sized + 'static {
    /// Does the work. May sleep; no lock is held.
    fn run(self);
}

/// Work that is queued for a task.
#[repr(C)]
struct Work<T> {
    head: c::callback_head,
    item: T,
}

impl<T: WorkOnReturn> Work<T> {
    /// # Safety
    ///
    /// Must only be called by the task for which [`run_on_return`] has queued this.
    unsafe extern "C" fn run(head: *mut c::callback_head) {
        const { assert!(offset_of!(Work<T>, head) == 0) };

        // SAFETY: `head` is the first member of a `Work` whose box `run_on_return()` leaked.
        let work = unsafe { KBox::from_raw(head.cast::<Self>()) };

        KBox::into_inner(work).item.run();
    }
}

/// Queues work that the current task does when it returns to user space, or when it exits. If the
/// task can no longer run work, the work is dropped at once. May sleep.
///
/// # Errors
///
/// [`ENOMEM`].
///
/// # Safety
///
/// The module must stay loaded until `item` has run or been dropped. What unloads the module after
/// that must wait for the last instructions of tasks that were running or dropping `item`
/// (`synchronize_rcu_tasks()`).
pub(crate) unsafe fn run_on_return<T: WorkOnReturn>(item: T) -> Result {
    let head = c::callback_head {
        func: Some(Work::<T>::run),
        ..pin_init::zeroed()
    };
    let work = KBox::into_raw(KBox::new(Work { head, item }, GFP_KERNEL)?);
    let mode = c::task_work_notify_mode_TWA_RESUME;

    // SAFETY: The work is owned by the task until its callback.
    if unsafe { c::task_work_add(c::get_current(), work.cast(), mode) } != 0 {
        // SAFETY: The work was not queued, so this function still owns the box.
        drop(unsafe { KBox::from_raw(work) });
    }
    Ok(())
}
