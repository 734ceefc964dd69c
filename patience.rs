// SPDX-License-Identifier: GPL-2.0

//! How long a task waits, killably, until something is not in use any more.

use kernel::{
    prelude::*,
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::abstractions::task::{
    fatal_signal_pending,
    sleep_killable, //
};

/// How long a task waits.
pub(crate) enum Patience {
    /// Until it is killed.
    Endless,
    /// At most until then.
    Until(Instant<Monotonic>, Delta),
}

impl Patience {
    /// Returns the patience of a task that waits for at most `ms` milliseconds, from now on.
    pub(crate) fn of_ms(ms: u32) -> Self {
        Self::Until(Instant::now(), Delta::from_millis(ms.into()))
    }

    /// Returns how many milliseconds are left, rounded up; `None` if it is endless.
    pub(crate) fn left(&self) -> Option<u32> {
        match self {
            Self::Endless => None,
            Self::Until(start, delta) => {
                let us = delta.as_micros_ceil() - start.elapsed().as_micros_ceil();
                Some((us.max(0) as u64).div_ceil(1000) as u32)
            }
        }
    }

    /// Calls `attempt` until it returns something. The task sleeps in between.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed; [`EBUSY`] if the time is over.
    pub(crate) fn until<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> Result<T> {
        /// The longest interval between two attempts.
        const STEP_MS_MAX: u32 = 50;
        let mut step_ms = 1;

        loop {
            if let Some(result) = attempt() {
                return Ok(result);
            }
            match self.left() {
                Some(0) => return Err(EBUSY),
                left => sleep_killable(msecs_to_jiffies(step_ms.min(left.unwrap_or(u32::MAX)))),
            }
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            step_ms = (step_ms * 2).min(STEP_MS_MAX);
        }
    }
}
