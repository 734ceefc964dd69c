// SPDX-License-Identifier: GPL-2.0

//! Single flight: of several tasks that want the same, one does it, and the others wait for it. No
//! lock is held while it is done.

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

/// Keys of things that one task at a time does, while other tasks wait.
#[pin_data]
pub(crate) struct SingleFlight {
    /// The keys of all flights, with what other tasks wait for, once there are any.
    #[pin]
    busy: Mutex<RBTree<usize, Option<Arc<Completion>>>>,
}

/// Guard of the task that does the thing of `key`. Tasks that wait go on when it is dropped.
#[must_use = "the flight ends when this is dropped"]
pub(crate) struct Flight<'a> {
    flights: &'a SingleFlight,
    key: usize,
}

impl SingleFlight {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            busy <- new_mutex!(RBTree::new(), "fuse_dax_fmap::SingleFlight::busy"),
        })
    }

    /// Waits for the flight of `key`, and takes it. Returns `None` as soon as `done` returns true.
    ///
    /// Once it is done, all tasks that wait go on at once, not one after the other.
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
                return Ok(Some(Flight { flights: self, key }));
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
