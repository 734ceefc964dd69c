// SPDX-License-Identifier: GPL-2.0

//! Synchronisation primitives.

pub(crate) mod completion;
pub(crate) mod rcu;
pub(crate) mod rw_semaphore;
pub(crate) mod srcu_fast;
