// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's RCU does not have: freeing things when readers allow it, and the flavour
//! that waits for tasks.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use core::{
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    prelude::*,
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

use crate::bindings::kernel as c;

/// A part of what is to be freed by [`RcuHead::drop_later`].
#[repr(C)]
pub(crate) struct RcuHead<T> {
    head: Opaque<c::callback_head>,
    /// What is to be freed, once that has been asked for.
    owner: AtomicPtr<T>,
}

// SAFETY: It belongs to no task.
unsafe impl<T> Send for RcuHead<T> {}
// SAFETY: It is only used by the task that has the last reference to what it is a part of.
unsafe impl<T> Sync for RcuHead<T> {}

impl<T: Send + 'static> RcuHead<T> {
    pub(crate) fn new() -> Self {
        Self {
            head: Opaque::uninit(),
            owner: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Drops a box once all readers of RCU that there are now have ended, in a softirq.
    ///
    /// # Safety
    ///
    /// `head` says where in the box its head is. The module waits for callbacks of RCU before it
    /// goes.
    pub(crate) unsafe fn drop_later(boxed: Pin<KBox<T>>, head: impl FnOnce(&T) -> &Self) {
        let this = ptr::from_ref(head(&boxed)).cast_mut();
        let owner = boxed.into_foreign().cast::<T>();

        // SAFETY: `this` is a part of the box, which is there until the callback.
        unsafe { (*this).owner.store(owner, Ordering::Relaxed) };
        // SAFETY: The head is a part of the box, which only the callback has from now on.
        unsafe { c::call_rcu(this.cast(), Some(Self::drop_now)) };
    }

    /// # Safety
    ///
    /// Called by RCU for the head of a box that nothing uses any more.
    unsafe extern "C" fn drop_now(head: *mut c::callback_head) {
        // SAFETY: `head` is the first member of one, by the safety requirements.
        let owner = unsafe { (*head.cast::<Self>()).owner.load(Ordering::Relaxed) };

        // SAFETY: `owner` was a box, and nothing uses it any more.
        drop(unsafe { <Pin<KBox<T>>>::from_foreign(owner.cast()) });
    }
}

/// Waits until each task has slept, or been in user space, that was not asleep before this. May
/// sleep, for long.
pub(crate) fn synchronize_rcu_tasks() {
    // SAFETY: The only requirement is that the task may sleep.
    unsafe { c::synchronize_rcu_tasks() }
}
