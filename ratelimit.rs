// SPDX-License-Identifier: GPL-2.0

//! Rate limits for the kernel log.
//!
//! The task that opens a file decides how often that fails, so lines about it are limited. The
//! limit belongs to a mount, not to a line of code, so a noisy mount does not silence the others.
//! Lines about no fmap mount have a limit of their own, in a static.

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
