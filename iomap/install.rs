// SPDX-License-Identifier: GPL-2.0

//! Puts a new map in place of the one that a file has.
//!
//! What is in a page table, or pinned, has an entry in the DAX page cache, so only entries have to
//! be compared: those that lead to the same frames in the new map stay, with all that is mapped;
//! the others are dropped, as collapse and removal of a device do. That, and the exchange of the
//! maps, is one critical section of `invalidate_lock`: a fault sees the old map or the new one.
//! Reads and writes that use the old map have ended when this returns.

use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    }, //
};

use kernel::{
    prelude::*,
    sync::atomic::Atomic, //
};

use crate::{
    abstractions::fs::dax::Mark,
    fmap_ops::Parsed,
    lockless,
    patience::Patience,
    single_flight::Flight, //
};

use super::{
    drop_range::drop_range,
    gates::open_all,
    last_page::zero_behind_end,
    mapped_inode::{
        Header,
        LaterMap,
        MappedFile,
        MappedInode,
        PAGE,
        PMD_SIZE, //
    },
    no_faults::NoFaults,
    resolve::page_end,
    validity::new_validity, //
};

/// Installs a map, whose devices the mount holds. Waits, killably, until what goes is not in use.
/// Gates that the old map has are open then.
///
/// `_alone` is the flight of the inode: no other task changes its map.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed; [`EBUSY`] if the time is over; [`ENOMEM`]. The map is the
/// old one then.
pub(super) fn install(
    inode: MappedInode<'_>,
    parsed: Parsed,
    alone: &Flight<'_>,
    patience: &Patience,
) -> Result {
    install_made(inode, make_map(inode, parsed)?, alone, patience)
}

/// Makes a map of what was parsed, for [`install_made`].
///
/// # Errors
///
/// Those of the ops' pin.
pub(super) fn make_map(inode: MappedInode<'_>, parsed: Parsed) -> Result<LaterMap> {
    let sbi = inode.sbi();
    // SAFETY: The mount owns the pin of the ops, and outlives the map.
    let resolver = unsafe { sbi.ops.resolver() }?;
    let meta_len = parsed.meta.len();
    // INVARIANT: `meta_len` is that of the allocation; the mount is the inode's.
    let map = Header {
        resolver,
        sbi: NonNull::from(sbi),
        dev_bitmap: parsed.dev_bitmap,
        mapped_size: AtomicU64::new(parsed.file_size),
        meta_len,
        has_gates: Atomic::new(false),
    };
    Ok(LaterMap::new(parsed.meta, map))
}

/// Does what [`install`] does, for a map that is made.
pub(super) fn install_made(
    inode: MappedInode<'_>,
    new: LaterMap,
    _alone: &Flight<'_>,
    patience: &Patience,
) -> Result {
    let sbi = inode.sbi();
    let file = MappedFile::get_or_make(inode)?;
    let mut new = Some(new);

    let old = patience.until(|| {
        let no_faults = NoFaults::lock(file);
        // It is there until it is installed.
        let is_idle = new
            .as_ref()
            .is_none_or(|new| drop_what_goes(&no_faults, new.map()));

        is_idle
            .then(|| new.take())
            .flatten()
            .map(|new| exchange(&no_faults, new, inode.inode.size()))
    })?;
    sbi.ownership.wait_for_users();
    drop(old);
    Ok(())
}

/// Drops the entries that do not lead to the same memory in a new map. Returns false if some of it
/// is in use. An entry that was dropped comes back by a fault, if the map stays.
fn drop_what_goes(no_faults: &NoFaults<'_>, new: &Header) -> bool {
    let mapping = no_faults.file().mapping();
    let mut next = 0;

    while let Some(index) = mapping.first_marked(next, u64::MAX / PAGE, Mark::Present) {
        let Some(entry) = mapping.entry(index) else {
            next = index + 1;
            continue;
        };
        let pages = match entry.is_huge() {
            true => PMD_SIZE / PAGE,
            false => 1,
        };
        let first = index - index % pages;
        next = first + pages;
        let frames = entry.frames().map(|(pfn, _)| pfn);
        if stays(new, first, pages, frames) {
            continue;
        }
        if !drop_range(no_faults, first * PAGE, next * PAGE) {
            return false;
        }
    }
    true
}

/// Returns true if a map has these frames at these pages: memory from `pfn` on, or a hole.
fn stays(map: &Header, first: u64, pages: u64, pfn: Option<u64>) -> bool {
    let (pos, length) = (first * PAGE, pages * PAGE);
    let inside = pos + length <= page_end(map.mapped_size());

    inside
        && map.locate_any(pos, length).is_ok_and(|mapping| {
            let frame = mapping.device.and_then(|device| device.frame(mapping.addr));
            mapping.length >= length && frame == pfn
        })
}

/// Makes `new` the map of a file of `size` bytes, and returns the old one, unless that is the first
/// one, which stays as long as the inode. The caller frees it when nothing uses it any more.
fn exchange(no_faults: &NoFaults<'_>, new: LaterMap, size: u64) -> Option<LaterMap> {
    let file = no_faults.file();
    let published = file.published();
    let old = NonNull::from(no_faults.map());
    let last = size - size % PAGE;

    // The page with the end of the file has other memory now, or has memory at last.
    if size % PAGE != 0 && !is_same_place(no_faults.map(), new.map(), last) {
        zero_behind_end(new.map(), size);
    }
    let capacity = new.map().mapped_size();
    // Readers follow the pointer.
    file.present
        .store(new.into_raw().as_ptr(), Ordering::Release);
    published.capacity.store(capacity, Ordering::Relaxed);
    // SAFETY: `invalidate_lock` is held exclusively.
    unsafe { file.host.set_size(capacity) };
    lockless::renew(&file.validity, new_validity());
    file.changes.fetch_add(1, Ordering::Relaxed);
    // SAFETY: The caller frees the old map after this.
    open_all(file.sbi(), unsafe { old.as_ref() });

    // SAFETY: A map but the first comes from `into_raw()`, and no pointer leads to it any more; the
    // caller waits for those that have followed one.
    (old != NonNull::from(&published.first_map)).then(|| unsafe { LaterMap::from_raw(old) })
}

/// Returns true if two maps have the same memory for the page at `pos`.
fn is_same_place(old: &Header, new: &Header, pos: u64) -> bool {
    let place = |map: &Header| {
        if pos >= map.mapped_size() {
            return None;
        }
        let mapping = map.locate_any(pos, PAGE).ok()?;
        mapping.device?.frame(mapping.addr)
    };
    place(old).is_some_and(|old| place(new) == Some(old))
}
