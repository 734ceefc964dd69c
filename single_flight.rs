// SPDX-License-Identifier: GPL-2.0

//! Single flight: of several tasks that want the same thing done, one does it, and the others wait
//! for the outcome. No lock is held meanwhile.

use kernel::{
    new_condvar,
    new_mutex,
    prelude::*,
    rbtree::RBTree,
    sync::{
        CondVar,
        Mutex, //
    }, //
};

/// Things that one task at a time does while others wait for the outcome.
#[pin_data]
pub(crate) struct InFlight {
    /// The key of each task.
    #[pin]
    busy: Mutex<RBTree<usize, ()>>,
    #[pin]
    left: CondVar,
}

/// The right to do the thing named by `key`, given up on drop.
#[must_use = "the turn is over when this is dropped"]
pub(crate) struct Turn<'a> {
    in_flight: &'a InFlight,
    key: usize,
}

impl InFlight {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            busy <- new_mutex!(RBTree::new(), "fuse_dax_fmap::in_flight"),
            left <- new_condvar!("fuse_dax_fmap::in_flight_left"),
        })
    }

    /// Waits until nobody else is at `key`, or the thing is done: `None`.
    ///
    /// Those who wait for the same all go on when it is done, and not one after the other.
    ///
    /// # Errors
    ///
    /// [`ERESTARTSYS`] if a signal came first; [`ENOMEM`].
    pub(crate) fn turn(&self, key: usize, done: impl Fn() -> bool) -> Result<Option<Turn<'_>>> {
        let mut busy = self.busy.lock();
        let mut interrupted = false;

        while !interrupted && !done() && busy.get(&key).is_some() {
            interrupted = self.left.wait_interruptible(&mut busy);
        }
        if done() {
            return Ok(None);
        }
        if interrupted {
            return Err(ERESTARTSYS);
        }
        busy.try_create_and_insert(key, (), GFP_KERNEL)?;
        Ok(Some(Turn {
            in_flight: self,
            key,
        }))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.in_flight.busy.lock().remove(&self.key);
        self.in_flight.left.notify_all();
    }
}
