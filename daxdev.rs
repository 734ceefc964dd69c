// SPDX-License-Identifier: GPL-2.0

//! The DAX devices of a mount.
//!
//! A mount names its devices by index, 0 to 63. A slot is filled once, when the first file that
//! uses it is opened (GET_DAXDEV), and stays so until unmount:
//!
//! - A device is opened by path with the root directory and the credentials of the task that
//!   mounted: the opener of a file has no say in where `/dev/dax0.0` leads.
//! - It has to be a character device of a device on the `dax` bus, and be bound to `fsdev_dax`.
//!   Other DAX devices (pmem's) carry other private data, which `fs_dax_get()` would take for a
//!   `struct dev_dax`; so this is checked before, not after.
//! - It is held exclusively (`fs_dax_get()`), and its driver's module is pinned. `fsdev_dax`
//!   refuses to resize a bound device, so its size is read once.
//!
//! What happens when a device goes away, or some of its memory fails, is in `failure`; a slot
//! remembers it in its `health`, and takes the device out of the fault path's sight (`healthy`).
//!
//! A page of a device belongs to one place of one file at a time, its tenant: DAX notes that in the
//! folio, takes for granted that the file system sees to it, and corrupts folios otherwise.
//!
//! Lock order: `Devices::acquiring` (a wait, no lock), `HOLDERS`, `POISONED`.

use kernel::prelude::*;

mod device;
mod failure;
mod frames;
mod holder;
mod poison;

pub(crate) use device::{
    Device,
    Devices, //
};
pub(crate) use failure::drain;
pub(crate) use holder::{
    HolderOps,
    HolderRef, //
};
pub(crate) use poison::{
    is_poisoned,
    mark_page, //
};

/// Called once, while the module is loaded. May sleep.
///
/// # Errors
///
/// [`ENOMEM`].
pub(crate) fn init() -> Result {
    holder::init();
    poison::init()
}
