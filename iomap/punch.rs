// SPDX-License-Identifier: GPL-2.0

//! Punching holes: the server gets memory back from the middle of a file.
//!
//! As for files that become smaller, nothing reaches the memory when the server is asked, and a
//! gate keeps faults, reads and writes out until it has answered. `i_rwsem` is not held meanwhile.
//!
//! The server answers with a map that has a hole there; or with nothing, if it keeps the memory for
//! the file, and then the kernel writes zeros. Once it has answered with a map, the memory is its
//! own, whatever becomes of the map: if that cannot be installed, the range stays closed, as if the
//! server had revoked it, until it sets a map.

use kernel::prelude::*;

use crate::{
    abstractions::task::fatal_signal_pending,
    fmap_ops::Parsed,
    patience::Patience,
    single_flight::Flight, //
};

use super::{
    drop_range::drop_range,
    gates::{
        alone_without_gates,
        ClosedGate,
        NewGate, //
    },
    install::{
        install_made,
        make_map, //
    },
    mapped_inode::{
        MappedFile,
        MappedInode,
        PAGE, //
    },
    no_faults::NoFaults,
    ownership::Flushing, //
};

/// Takes whole pages, from byte `start` to `end`, away from a file whose size can change: they read
/// as zeros afterwards. Waits for the server; killably until that is asked.
///
/// # Errors
///
/// `EOPNOTSUPP` if the server never does this, and the server's other errors: nothing has changed
/// then. [`EINTR`] if the task is being killed; [`ENOMEM`]; [`EIO`] if memory or a device has
/// failed, for a mapping error, or for a map that has memory there.
pub(super) fn punch(inode: MappedInode<'_>, (start, end): (u64, u64)) -> Result {
    let sbi = inode.sbi();
    let alone = alone_without_gates(inode, || false)?.ok_or(EIO)?;
    let file = MappedFile::get_or_make(inode)?;
    let gate = close(file, (start, end))?;

    let Some(parsed) = sbi.rooms.punch(inode.inode, start, end - start)? else {
        return zero(inode, (start, end));
    };
    let installed = parsed.and_then(|parsed| install_hole(inode, parsed, (start, end), &alone));

    if installed.is_err() {
        gate.stay_closed();
    }
    installed
}

/// Takes a range out of use, and closes a gate there.
fn close(file: &MappedFile, (start, end): (u64, u64)) -> Result<ClosedGate<'_>> {
    let mut gate = Some(NewGate::new()?);

    Patience::Endless
        .until(|| {
            let no_faults = NoFaults::lock(file);

            drop_range(&no_faults, start, end).then(|| {
                let map = no_faults.map();
                gate.take()
                    .map(|gate| gate.close(&no_faults, map, (start, end)))
            })
        })?
        .ok_or(EIO)
}

/// Installs a map that has a hole in a range.
fn install_hole(
    inode: MappedInode<'_>,
    parsed: Parsed,
    (start, end): (u64, u64),
    alone: &Flight<'_>,
) -> Result {
    let new = make_map(inode, parsed)?;
    let end = end.min(new.map().mapped_size());
    let mut pos = start;

    while pos < end {
        // A program may return a hole for each page.
        if fatal_signal_pending() {
            return Err(EINTR);
        }
        let mapping = new.map().locate_any(pos, end - pos).map_err(|_| EIO)?;
        if mapping.device.is_some() {
            return Err(EIO);
        }
        pos = mapping.offset + mapping.length;
    }
    install_made(inode, new, alone, &Patience::Endless)
}

/// Writes zeros to pages that nothing else reaches.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed; [`EIO`] for memory that has failed, and for a mapping
/// error. Some of it is zeroed then.
fn zero(inode: MappedInode<'_>, (start, end): (u64, u64)) -> Result {
    let sbi = inode.sbi();
    let mut pos = start;
    let mut result = Ok(());

    while pos < end {
        if fatal_signal_pending() {
            return Err(EINTR);
        }
        // A memory failure waits until this is dropped.
        let _flushing = Flushing::new(sbi);
        let map = inode.map();
        if pos >= map.mapped_size() {
            break;
        }
        let mapping = map.locate_any(pos, end - pos).map_err(|_| EIO)?;
        let piece_end = (mapping.offset + mapping.length).min(end);
        let Some(device) = mapping.device else {
            pos = piece_end;
            continue;
        };
        let addr = mapping.addr + (pos - mapping.offset);
        if device.healthy_pages(addr, 1) == Some(1) {
            device.zero_part(addr, PAGE as usize);
        } else {
            result = Err(EIO);
        }
        pos += PAGE;
    }
    result
}
