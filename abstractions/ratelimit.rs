// SPDX-License-Identifier: GPL-2.0

//! Rate limits.
//!
//! C header: [`include/linux/ratelimit.h`](srctree/include/linux/ratelimit.h)
//!
//! # Examples
//!
//! ```ignore
//! let limit = KBox::pin_init(RateLimit::new(), GFP_KERNEL)?;
//! if limit.allow(c"example") {
//!     pr_warn!("at most ten of these lines in five seconds\n");
//! }
//! ```

use kernel::{
    prelude::*,
    str::CStr,
    time::msecs_to_jiffies,
    types::Opaque, //
};

use crate::bindings::kernel as c;

/// A `struct ratelimit_state` for at most ten lines in five seconds, as in `pr_*_ratelimited()`.
///
/// # Invariants
///
/// The state is initialized.
#[pin_data]
pub(crate) struct RateLimit {
    #[pin]
    state: Opaque<c::ratelimit_state>,
}

// SAFETY: `struct ratelimit_state` is not tied to a task.
unsafe impl Send for RateLimit {}
// SAFETY: `struct ratelimit_state` has a lock of its own.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    const INTERVAL_MS: u32 = 5000;
    const BURST: i32 = 10;

    /// Returns the interval in jiffies. It does not use HZ, of which bindgen sees user space's.
    fn interval() -> i32 {
        msecs_to_jiffies(Self::INTERVAL_MS) as i32
    }

    /// Creates a rate limit.
    pub(crate) fn new() -> impl PinInit<Self> {
        // INVARIANT: The state is initialized here.
        pin_init!(Self {
            state <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and pinned.
                unsafe { c::ratelimit_state_init(slot, Self::interval(), Self::BURST) }
            }),
        })
    }

    /// Creates a rate limit for a static, which is initialized when the module is loaded.
    ///
    /// # Safety
    ///
    /// [`RateLimit::init`] must be called before [`RateLimit::allow`].
    pub(crate) const unsafe fn uninit() -> Self {
        // INVARIANT: By the safety requirements the state is initialized before it is used.
        Self {
            state: Opaque::uninit(),
        }
    }

    /// Initializes a rate limit from [`RateLimit::uninit`].
    ///
    /// # Safety
    ///
    /// This must be called once, before any other use.
    pub(crate) unsafe fn init(&'static self) {
        // SAFETY: `state` is part of a static, so it does not move. By the safety requirements
        // nothing else uses it.
        unsafe { c::ratelimit_state_init(self.state.get(), Self::interval(), Self::BURST) }
    }

    /// Returns true if a line may be printed now. The kernel prints `name` when it reports how many
    /// lines were suppressed.
    pub(crate) fn allow(&self, name: &CStr) -> bool {
        // SAFETY: By the type invariants `state` is initialized. `name` is only printed.
        unsafe { c::___ratelimit(self.state.get(), name.as_char_ptr()) != 0 }
    }
}
