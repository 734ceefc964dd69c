// SPDX-License-Identifier: GPL-2.0

//! RCU functions that the kernel crate does not provide yet: deferred freeing, and Tasks RCU.
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

/// The head in an object that is freed by [`RcuHead::drop_later`].
#[repr(C)]
pub(crate) struct RcuHead<T> {
    head: Opaque<c::callback_head>,
    /// The object, once its freeing was requested.
    owner: AtomicPtr<T>,
}

// SAFETY: A head is not tied to a task.
unsafe impl<T> Send for RcuHead<T> {}
// SAFETY: Only the task with the last reference to the object uses the head.
unsafe impl<T> Sync for RcuHead<T> {}

impl<T: Send + 'static> RcuHead<T> {
    pub(crate) fn new() -> Self {
        Self {
            head: Opaque::uninit(),
            owner: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Drops a box in softirq context, after an RCU grace period.
    ///
    /// # Safety
    ///
    /// `head` must return the head that is part of the object in the box. The module must call
    /// `rcu_barrier()` before it is unloaded.
    pub(crate) unsafe fn drop_later(boxed: Pin<KBox<T>>, head: impl FnOnce(&T) -> &Self) {
        let this = ptr::from_ref(head(&boxed)).cast_mut();
        let owner = boxed.into_foreign().cast::<T>();

        // SAFETY: `this` is part of the box, which is valid until the callback.
        unsafe { (*this).owner.store(owner, Ordering::Relaxed) };
        // SAFETY: The head is part of the box, which only the callback uses from now on.
        unsafe { c::call_rcu(this.cast(), Some(Self::drop_now)) };
    }

    /// # Safety
    ///
    /// Must only be called by RCU, with the head in a box that nothing uses any more.
    unsafe extern "C" fn drop_now(head: *mut c::callback_head) {
        // SAFETY: By the safety requirements `head` is the first member of an `RcuHead`.
        let owner = unsafe { (*head.cast::<Self>()).owner.load(Ordering::Relaxed) };

        // SAFETY: `owner` is the box that `drop_later()` leaked, and nothing uses it any more.
        drop(unsafe { <Pin<KBox<T>>>::from_foreign(owner.cast()) });
    }
}

/// Waits for a grace period of Tasks RCU: until each task that is runnable now has slept
/// voluntarily, or been in user space. May sleep, for a long time.
pub(crate) fn synchronize_rcu_tasks() {
    // SAFETY: The only requirement is that the task may sleep.
    unsafe { c::synchronize_rcu_tasks() }
}
