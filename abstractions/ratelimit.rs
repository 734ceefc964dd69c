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

/// A `struct ratelimit_state`: at most ten lines in five seconds, as the kernel's own
/// `pr_*_ratelimited`.
///
/// # Invariants
///
/// The state is initialized.
#[pin_data]
pub(crate) struct RateLimit {
    #[pin]
    state: Opaque<c::ratelimit_state>,
}

// SAFETY: `struct ratelimit_state` belongs to no task.
unsafe impl Send for RateLimit {}
// SAFETY: A lock of its own protects `struct ratelimit_state`.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    const INTERVAL_MS: u32 = 5000;
    const BURST: i32 = 10;

    /// Not a multiple of HZ: what bindgen sees of it is user space's.
    fn interval() -> i32 {
        msecs_to_jiffies(Self::INTERVAL_MS) as i32
    }

    pub(crate) fn new() -> impl PinInit<Self> {
        // INVARIANT: Initialized here.
        pin_init!(Self {
            state <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes, and pinned.
                unsafe { c::ratelimit_state_init(slot, Self::interval(), Self::BURST) }
            }),
        })
    }

    /// For a static, to be initialized when the module is loaded.
    ///
    /// # Safety
    ///
    /// [`RateLimit::init`] is called before [`RateLimit::allow`].
    pub(crate) const unsafe fn uninit() -> Self {
        // INVARIANT: Initialized before it is used, by the safety requirements.
        Self {
            state: Opaque::uninit(),
        }
    }

    /// Initializes what [`RateLimit::uninit`] made.
    ///
    /// # Safety
    ///
    /// It is called once, before any other use.
    pub(crate) unsafe fn init(&'static self) {
        // SAFETY: `state` is part of a static, so it does not move; nothing else uses it, by the
        // safety requirements.
        unsafe { c::ratelimit_state_init(self.state.get(), Self::interval(), Self::BURST) }
    }

    /// Whether a line may be printed now. `name` is in the kernel's own line about those that were
    /// not.
    pub(crate) fn allow(&self, name: &CStr) -> bool {
        // SAFETY: By the type invariants `state` is initialized. `name` is only printed.
        unsafe { c::___ratelimit(self.state.get(), name.as_char_ptr()) != 0 }
    }
}
