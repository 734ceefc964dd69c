// SPDX-License-Identifier: GPL-2.0

//! Single flight: of several tasks that want the same thing done, one does it, and the others wait
//! for the outcome. No lock is held meanwhile.

use kernel::{
    new_mutex,
    prelude::*,
    rbtree::RBTree,
    sync::{
        Arc,
        Mutex, //
    }, //
};

use crate::abstractions::sync::completion::Completion;

/// Things that one task at a time does while others wait for the outcome.
#[pin_data]
pub(crate) struct SingleFlight {
    /// The key of each task, and what others wait for, once there are any.
    #[pin]
    busy: Mutex<RBTree<usize, Option<Arc<Completion>>>>,
}

/// The right to do the thing named by `key`, given up on drop.
#[must_use = "the turn is over when this is dropped"]
pub(crate) struct Flight<'a> {
    flights: &'a SingleFlight,
    key: usize,
}

impl SingleFlight {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            busy <- new_mutex!(RBTree::new(), "fuse_dax_fmap::in_flight"),
        })
    }

    /// Waits until nobody else is at `key`, or the thing is done: `None`.
    ///
    /// Those who wait for the same all go on when it is done, and not one after the other.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed; [`ENOMEM`].
    pub(crate) fn flight(&self, key: usize, done: impl Fn() -> bool) -> Result<Option<Flight<'_>>> {
        loop {
            let mut busy = self.busy.lock();
            if done() {
                return Ok(None);
            }
            let Some(left) = busy.get_mut(&key) else {
                busy.try_create_and_insert(key, None, GFP_KERNEL)?;
                return Ok(Some(Flight {
                    flights: self,
                    key,
                }));
            };
            let left = match left {
                Some(left) => left.clone(),
                None => left
                    .insert(Arc::pin_init(Completion::new(), GFP_KERNEL)?)
                    .clone(),
            };
            drop(busy);
            left.wait_killable()?;
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let left = self.flights.busy.lock().remove(&self.key);

        if let Some(left) = left.flatten() {
            left.complete_all();
        }
    }
}
