// SPDX-License-Identifier: GPL-2.0

//! That the devices of a mount are not held any more, to be waited for.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::abstractions::sync::completion::Completion;

/// Owned by what holds the devices: when it is dropped, they are free.
pub(crate) struct Released(Arc<Completion>);

impl Released {
    /// Does not sleep.
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

    /// What happens then.
    pub(crate) fn event(&self) -> Arc<Completion> {
        self.0.clone()
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        self.0.complete_all();
    }
}
