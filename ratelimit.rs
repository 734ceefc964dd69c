// SPDX-License-Identifier: GPL-2.0

//! Rate limits for the kernel log.
//!
//! Whoever opens a file decides how often it fails, so a line about that is limited. The limit
//! belongs to a mount, not to a line of code: a noisy mount does not silence the others. What is
//! said about no bound mount has a limit of its own, in a static.

use kernel::{
    prelude::*,
    time::msecs_to_jiffies,
    types::Opaque, //
};

use crate::bindings::kernel as c;

/// At most ten lines in five seconds, as the kernel's own `pr_*_ratelimited`.
#[pin_data]
pub(crate) struct RateLimit {
    #[pin]
    state: Opaque<c::ratelimit_state>,
}

// SAFETY: `struct ratelimit_state` belongs to no task, and its own lock protects it.
unsafe impl Send for RateLimit {}
// SAFETY: As above.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    const INTERVAL_MS: u32 = 5000;
    const BURST: i32 = 10;

    pub(crate) fn new() -> impl PinInit<Self> {
        // Not a multiple of HZ: what bindgen sees of it is user space's.
        let interval = msecs_to_jiffies(Self::INTERVAL_MS) as i32;

        pin_init!(Self {
            state <- Opaque::ffi_init(move |slot| {
                // SAFETY: `slot` is valid for writes and stays where it is: it is pinned.
                unsafe { c::ratelimit_state_init(slot, interval, Self::BURST) }
            }),
        })
    }

    /// For a static, to be initialized when the module is loaded.
    ///
    /// # Safety
    ///
    /// [`RateLimit::init`] has to come before [`RateLimit::allow`].
    pub(crate) const unsafe fn uninit() -> Self {
        Self {
            state: Opaque::uninit(),
        }
    }

    /// Initializes what [`RateLimit::uninit`] made.
    ///
    /// # Safety
    ///
    /// Called once, when nobody else uses it.
    pub(crate) unsafe fn init(&'static self) {
        let interval = msecs_to_jiffies(Self::INTERVAL_MS) as i32;

        // SAFETY: A static stays where it is, and nobody else uses it, by the safety requirements.
        unsafe { c::ratelimit_state_init(self.state.get(), interval, Self::BURST) }
    }

    /// Whether a line may be printed now.
    pub(crate) fn allow(&self) -> bool {
        // SAFETY: `new()` initialized the state; the name is only printed.
        unsafe { c::___ratelimit(self.state.get(), c"fuse_dax_fmap".as_char_ptr()) != 0 }
    }
}

/// `pr_warn!`, if the [`RateLimit`] allows it.
macro_rules! pr_warn_limited {
    ($limit:expr, $($arg:tt)*) => {
        if $limit.allow() {
            ::kernel::pr_warn!($($arg)*);
        }
    };
}
pub(crate) use pr_warn_limited;

/// `pr_notice!`, if the [`RateLimit`] allows it.
macro_rules! pr_notice_limited {
    ($limit:expr, $($arg:tt)*) => {
        if $limit.allow() {
            ::kernel::pr_notice!($($arg)*);
        }
    };
}
pub(crate) use pr_notice_limited;
