// SPDX-License-Identifier: GPL-2.0

//! Room: more capacity for a file, which the kernel asks its server for.
//!
//! One task per inode asks; the others wait for it, killably, and look again. What the server gives
//! is installed as a new map.

use kernel::prelude::*;

use crate::patience::Patience;

use super::{
    gates::alone_without_gates,
    install::install,
    mapped_inode::MappedInode, //
};

/// Asks the server for memory up to byte `end` of a file, unless the file has it. The server may
/// give less, or more. Waits for the server, killably.
///
/// # Errors
///
/// [`ENOSPC`] if the server never gives room; the server's error; [`EINTR`] if the task is being
/// killed; [`ENOMEM`]; those of a map that is refused.
#[cold]
pub(super) fn ask_for_room(inode: MappedInode<'_>, end: u64) -> Result {
    let sbi = inode.sbi();
    let has_room = || inode.published.capacity() >= end;
    let Some(alone) = alone_without_gates(inode, has_room)? else {
        return Ok(());
    };
    let capacity = inode.published.capacity();
    let parsed = sbi.rooms.ask(inode.inode, capacity, end - capacity)?;

    install(inode, parsed, &alone, &Patience::Endless)
}
