// SPDX-License-Identifier: GPL-2.0

//! Completions with killable waits.
//!
//! The waits of the kernel crate's `Completion` are uninterruptible.
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
/// `inner` is initialized.
#[pin_data]
pub(crate) struct Completion {
    #[pin]
    inner: Opaque<c::completion>,
}

// SAFETY: A completion is not tied to a task.
unsafe impl Send for Completion {}
// SAFETY: A completion has a lock of its own.
unsafe impl Sync for Completion {}

impl Completion {
    /// Creates a completion that is not complete.
    pub(crate) fn new() -> impl PinInit<Self> {
        // INVARIANT: `inner` is initialized here.
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and pinned.
                unsafe { c::init_completion(slot) }
            }),
        })
    }

    /// Wakes up one task that waits on the completion.
    pub(crate) fn complete(&self) {
        // SAFETY: By the type invariants `inner` is initialized.
        unsafe { c::complete(self.inner.get()) }
    }

    /// Wakes up all tasks that wait on the completion. Later waits return at once.
    pub(crate) fn complete_all(&self) {
        // SAFETY: By the type invariants `inner` is initialized.
        unsafe { c::complete_all(self.inner.get()) }
    }

    /// Returns true if a wait would return at once.
    pub(crate) fn is_done(&self) -> bool {
        // SAFETY: By the type invariants `inner` is initialized.
        unsafe { c::completion_done(self.inner.get()) }
    }

    /// Waits for the completion. The wait is killable.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed.
    pub(crate) fn wait_killable(&self) -> Result {
        // SAFETY: By the type invariants `inner` is initialized.
        let ret = unsafe { c::wait_for_completion_killable(self.inner.get()) };

        to_result(ret).map_err(|_| EINTR)
    }

    /// Waits for the completion for at most `timeout`. The wait is killable. Returns true if the
    /// completion is done.
    pub(crate) fn wait_killable_timeout(&self, timeout: Jiffies) -> bool {
        // SAFETY: By the type invariants `inner` is initialized.
        unsafe { c::wait_for_completion_killable_timeout(self.inner.get(), timeout) > 0 }
    }

    /// Waits for the completion. The wait is killable, and the task may be frozen during it.
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
