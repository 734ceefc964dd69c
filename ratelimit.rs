// SPDX-License-Identifier: GPL-2.0

//! Rate limits for the kernel log.
//!
//! Whoever opens a file decides how often it fails, so a line about that is limited. The limit
//! belongs to a mount, not to a line of code: a noisy mount does not silence the others. What is
//! said about no bound mount has a limit of its own, in a static.

pub(crate) use crate::abstractions::ratelimit::RateLimit;

/// `pr_warn!`, if the [`RateLimit`] allows it.
macro_rules! pr_warn_limited {
    ($limit:expr, $($arg:tt)*) => {
        if $limit.allow(c"fuse_dax_fmap") {
            ::kernel::pr_warn!($($arg)*);
        }
    };
}
pub(crate) use pr_warn_limited;

/// `pr_notice!`, if the [`RateLimit`] allows it.
macro_rules! pr_notice_limited {
    ($limit:expr, $($arg:tt)*) => {
        if $limit.allow(c"fuse_dax_fmap") {
            ::kernel::pr_notice!($($arg)*);
        }
    };
}
pub(crate) use pr_notice_limited;
