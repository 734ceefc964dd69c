// SPDX-License-Identifier: GPL-2.0

//! A completion for the release of a mount's devices.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::abstractions::sync::completion::Completion;

/// Completes its event when it is dropped. `SbInfo` drops it after the devices.
pub(crate) struct Released(Arc<Completion>);

impl Released {
    /// Allocates the event. Does not sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Arc::pin_init(
            Completion::new(),
            GFP_ATOMIC | __GFP_NOWARN,
        )?))
    }

    /// Returns the event.
    pub(crate) fn event(&self) -> Arc<Completion> {
        self.0.clone()
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        self.0.complete_all();
    }
}
