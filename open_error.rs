// SPDX-License-Identifier: GPL-2.0

//! Why an open fails.

use kernel::prelude::*;

/// Why an open fails: the errno for the opener and the cause for the log.
pub(crate) struct Failure {
    pub(crate) errno: Error,
    pub(crate) cause: &'static str,
}

impl Failure {
    /// For `map_err()`: keeps the errno, and adds the cause.
    pub(crate) fn because(cause: &'static str) -> impl FnOnce(Error) -> Self {
        move |errno| Self { errno, cause }
    }
}
