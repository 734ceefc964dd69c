// SPDX-License-Identifier: GPL-2.0

//! Changes of a map that the server begins: it sets a new one, or revokes access to a range.
//!
//! When these return, nothing reaches memory that the map does not name any more, or that was
//! revoked: no page table, no direct I/O or pipe, no read or write, and no dirty cache line.
//!
//! They take the flight of the inode and `invalidate_lock`, not `i_rwsem`, which a task may hold
//! while it waits for the server.

use core::sync::atomic::Ordering;

use kernel::prelude::*;

use crate::{
    fmap_ops::Parsed,
    fuse::Inode,
    patience::Patience,
    sb_info::SbInfo,
    single_flight::Flight, //
};

use super::{
    drop_range::drop_range,
    gates::{
        revoke_range,
        NewGate, //
    },
    install::install,
    mapped_inode::{
        MappedFile,
        MappedInode,
        PAGE, //
    },
    no_faults::NoFaults,
    writeback::drain, //
};

/// Takes the flight of an inode, and returns it with the mapped inode, if it is one.
///
/// # Errors
///
/// Those of [`SingleFlight::flight_within`](crate::single_flight::SingleFlight::flight_within);
/// [`EIO`] if FUSE has marked the inode bad.
fn alone<'a>(
    inode: &'a Inode,
    sbi: &'a SbInfo,
    patience: &Patience,
) -> Result<(Flight<'a>, Option<MappedInode<'a>>)> {
    let flight = sbi.opening.flight_within(inode.key(), || false, patience)?;
    let mapped = MappedInode::of(inode);

    if inode.is_bad() {
        return Err(EIO);
    }
    Ok((flight.ok_or(EIO)?, mapped))
}

/// Installs a map, whose devices the mount holds, for the server. Opens what was revoked. Returns
/// the size of the file, or `None` if the inode is not mapped.
///
/// # Errors
///
/// [`EBUSY`] if the time is over; [`EINTR`] if the task is being killed; [`EIO`] if FUSE has marked
/// the inode bad; [`ENOMEM`]. The map is the old one then.
pub(crate) fn set_map(
    inode: &Inode,
    sbi: &SbInfo,
    parsed: Parsed,
    patience: &Patience,
) -> Result<Option<u64>> {
    let (flight, Some(mapped)) = alone(inode, sbi, patience)? else {
        return Ok(None);
    };

    install(mapped, parsed, &flight, patience)?;
    drain();
    Ok(Some(inode.size()))
}

/// Revokes access to the pages from byte `start` to `end`: it waits until the server sets a map.
/// Returns the size of the file, or `None` if the inode is not mapped.
///
/// # Errors
///
/// [`E2BIG`] if the file has too many ranges that are revoked; those of [`set_map`]. Nothing is
/// revoked then.
pub(crate) fn revoke(
    inode: &Inode,
    sbi: &SbInfo,
    (start, end): (u64, u64),
    patience: &Patience,
) -> Result<Option<u64>> {
    let (_flight, Some(mapped)) = alone(inode, sbi, patience)? else {
        return Ok(None);
    };
    let file = MappedFile::get_or_make(mapped)?;
    let start = start - start % PAGE;
    let end = end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    let mut gate = Some(NewGate::new()?);

    patience.until(|| {
        let no_faults = NoFaults::lock(file);

        drop_range(&no_faults, start, end)
            .then(|| gate.take())
            .flatten()
            .map(|gate| {
                file.changes.fetch_add(1, Ordering::Relaxed);
                revoke_range(&no_faults, gate, (start, end))
            })
    })??;
    sbi.ownership.wait_for_users();
    drain();
    Ok(Some(inode.size()))
}
