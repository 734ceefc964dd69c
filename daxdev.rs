// SPDX-License-Identifier: GPL-2.0

//! The DAX devices of a mount.
//!
//! The devices of a mount have indexes, 0 to 63. A slot is filled once, when the first file that
//! uses its index is opened (GET_DAXDEV), and stays so until unmount:
//!
//! - A device is opened by path with the root directory and the credentials of the mounter: the
//!   opener of a file cannot choose where `/dev/dax0.0` leads.
//! - It has to be a character device of a device on the `dax` bus, and be bound to `fsdev_dax`.
//!   Other DAX devices (pmem) have other private data, which `fs_dax_get()` would take for a
//!   `struct dev_dax`, so the bus is checked before.
//! - It is held exclusively (`fs_dax_get()`), and its driver's module is pinned. `fsdev_dax`
//!   refuses to resize a bound device, so its size is read once.
//!
//! The removal of a device, and the failure of some of its memory, are handled in `failure`. A slot
//! records both in its `health`, and the device is taken out of `healthy`, where the fault path
//! looks.
//!
//! A page of a device is associated with one index of one file at a time. DAX stores the
//! association in the folio, relies on the file system to allow only one, and corrupts folios
//! otherwise.
//!
//! Lock order: `Devices::acquiring` (a wait, no lock), the lock of a device's parent, that of the
//! device, `HOLDERS`, `POISONED`.

use kernel::prelude::*;

mod device;
mod failure;
mod frames;
mod hold;
mod holder;
mod poison;
mod slots;

pub(crate) use device::Device;
pub(crate) use failure::{
    drain,
    wait_for_reports, //
};
pub(crate) use holder::{
    HolderOps,
    HolderRef, //
};
pub(crate) use poison::{
    is_poisoned,
    mark_page, //
};
pub(crate) use slots::Devices;

/// Initializes the lists of holders and of poison. Called once, while the module is loaded. May
/// sleep.
///
/// # Errors
///
/// [`ENOMEM`].
pub(crate) fn init() -> Result {
    holder::init();
    failure::init();
    poison::init()
}
