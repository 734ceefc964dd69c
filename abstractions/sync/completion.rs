// SPDX-License-Identifier: GPL-2.0

//! Completions that a fatal signal ends the wait for.
//!
//! The kernel crate's `Completion` has only waits that no signal ends.
//!
//! C header: [`include/linux/completion.h`](srctree/include/linux/completion.h)
//!
//! # Examples
//!
//! ```ignore
//! let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
//! // Another task calls `done.complete()`.
//! done.wait_killable()?;
//! ```

use kernel::{
    error::to_result,
    ffi,
    prelude::*,
    time::Jiffies,
    types::Opaque, //
};

use crate::bindings::kernel as c;

/// A `struct completion`.
///
/// # Invariants
///
/// It is initialized.
#[pin_data]
pub(crate) struct Completion {
    #[pin]
    inner: Opaque<c::completion>,
}

// SAFETY: A completion belongs to no task.
unsafe impl Send for Completion {}
// SAFETY: A completion has a lock of its own, for several tasks at once.
unsafe impl Sync for Completion {}

impl Completion {
    /// One that is not complete.
    pub(crate) fn new() -> impl PinInit<Self> {
        // INVARIANT: Initialized here.
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and pinned.
                unsafe { c::init_completion(slot) }
            }),
        })
    }

    /// Wakes one task that waits.
    pub(crate) fn complete(&self) {
        // SAFETY: By the type invariants `inner` is initialized.
        unsafe { c::complete(self.inner.get()) }
    }

    /// Wakes all tasks that wait, and lets all later ones through.
    pub(crate) fn complete_all(&self) {
        // SAFETY: By the type invariants `inner` is initialized.
        unsafe { c::complete_all(self.inner.get()) }
    }

    /// Whether a wait would return at once.
    pub(crate) fn is_done(&self) -> bool {
        // SAFETY: By the type invariants `inner` is initialized.
        unsafe { c::completion_done(self.inner.get()) }
    }

    /// Waits, until the task is killed.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed.
    pub(crate) fn wait_killable(&self) -> Result {
        // SAFETY: By the type invariants `inner` is initialized.
        let ret = unsafe { c::wait_for_completion_killable(self.inner.get()) };

        to_result(ret).map_err(|_| EINTR)
    }

    /// Waits for `timeout` at most, and until the task is killed. Returns whether it is complete.
    pub(crate) fn wait_killable_timeout(&self, timeout: Jiffies) -> bool {
        // SAFETY: By the type invariants `inner` is initialized.
        unsafe { c::wait_for_completion_killable_timeout(self.inner.get(), timeout) > 0 }
    }

    /// Waits, until the task is killed. The task may be frozen meanwhile.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed.
    pub(crate) fn wait_killable_freezable(&self) -> Result {
        const STATE: ffi::c_uint = c::TASK_KILLABLE | c::TASK_FREEZABLE;

        // SAFETY: By the type invariants `inner` is initialized.
        let ret = unsafe { c::wait_for_completion_state(self.inner.get(), STATE) };

        to_result(ret).map_err(|_| EINTR)
    }
}
