// SPDX-License-Identifier: GPL-2.0

//! Writeback: what was stored to a mapped file reaches the device's persistence domain.
//!
//! There are no pages to be written, only CPU caches in front of the memory. A write fault marks
//! its DAX entry dirty; writeback write-protects the page again, so that the next store is noticed,
//! and flushes what was stored (fs/dax.c). write(2) leaves nothing to be flushed: it goes around
//! the caches. Both rest on flags of the device: the first is set by its holder (`daxdev`), the
//! second by the dax bus.
//!
//! The kernel writes back by file (`f_mapping`) or by inode (`i_mapping`). Either way it finds a
//! page cache without DAX entries (see `page_cache`), is done at once, and takes the inode for
//! clean. So all of it is ours to do:
//!
//! | who asks                               | what leads here                 |
//! |----------------------------------------|---------------------------------|
//! | fsync, msync, O_SYNC                   | [`fsync`]                       |
//! | sync_file_range                        | [`writepages`], by `page_cache` |
//! | sync, syncfs, remounting, unmounting   | [`sync_all`]                    |
//! | eviction, a device that goes away      | [`flush_range`], by `vacating`  |
//! | the flusher threads                    | nothing, as in any DAX file     |
//!
//! Memory that has failed is never flushed ([`flush_around_poison`]).
//!
//! MAP_SYNC asks that a page is mapped for writing only if its place on the device would be found
//! again after a crash. A map does not change as long as anybody can have it mapped, so a fault has
//! nothing to commit: IOMAP_F_DIRTY is never set. Whether the *server* would find the file again is
//! the server's own affair; it has to see to that before it answers GET_FMAP.

use kernel::{
    error::to_result,
    ffi,
    prelude::*, //
};

use crate::{
    bindings::kernel as c,
    daxdev::{
        is_poisoned,
        Device, //
    },
    fmap_ops::Mount,
    fuse,
    lockless::{
        self,
        AsWritten, //
    },
};

use super::{
    header,
    page_cache::record_loss,
    soft_fault::new_stamp,
    tenancy::{
        DaxEntry,
        Flushing, //
    },
    Header,
    PAGE,
    PMD_SIZE, //
};

impl Header {
    /// Whether a device of the file has gone away.
    fn has_failed_device(&self) -> bool {
        self.device_indexes()
            .any(|index| self.mount().devices.get(index).is_none())
    }

    /// Whether what is flushed from the CPU's caches is durable, on all devices of the file.
    pub(super) fn is_synchronous(&self) -> bool {
        self.device_indexes().all(|index| {
            self.mount().devices.held(index).is_some_and(|device| {
                // SAFETY: The device is held.
                unsafe { c::dax_synchronous(device.as_raw()) }
            })
        })
    }

    fn device_indexes(&self) -> impl Iterator<Item = u32> + '_ {
        (0..u64::BITS).filter(|index| self.uses_device(*index))
    }

    /// Whether the file has declared the device.
    pub(super) fn uses_device(&self, index: u32) -> bool {
        self.dev_bitmap & (1 << index) != 0
    }

    /// A device of the file: one that has not failed, if there is one.
    pub(super) fn any_device(&self) -> Option<&Device> {
        let devices = &self.mount().devices;

        self.device_indexes()
            .find_map(|index| devices.get(index))
            .or_else(|| self.device_indexes().find_map(|index| devices.held(index)))
    }

    /// Whether it has dirty entries, maybe. Another task that flushes around poison has taken their
    /// marks off for a moment.
    fn may_be_dirty(&self) -> bool {
        // SAFETY: A file that has been mapped by mmap(2) has a DAX page cache.
        let any_dirty = || unsafe { DaxEntry::any_dirty(self.dax_mapping()) };

        self.file().is_some() && (any_dirty() || self.may_have_poison())
    }

    /// Whether some memory of its devices has failed, maybe of this file.
    fn may_have_poison(&self) -> bool {
        self.device_indexes()
            .any(|index| self.mount().devices.get_sound(index).is_none())
    }
}

/// Waits until what was flushed, and what went around the caches, has left the CPU.
fn drain() {
    // SAFETY: A store fence.
    unsafe { c::fuse_dax_fmap_pmem_wmb() }
}

/// Flushes dirty DAX entries.
///
/// # Safety
///
/// Called by writeback, for the DAX page cache of a mapped file whose inode is in use.
pub(super) unsafe extern "C" fn writepages(
    mapping: *mut c::address_space,
    wbc: *mut c::writeback_control,
) -> ffi::c_int {
    // Else DAX does nothing.
    // SAFETY: The request is the caller's.
    let (sync_mode, start, end) =
        unsafe { ((*wbc).sync_mode, (*wbc).range_start, (*wbc).range_end) };
    if sync_mode != c::writeback_sync_modes_WB_SYNC_ALL {
        return 0;
    }
    // SAFETY: By the safety requirements; the host has the header. Writeback holds no lock that a
    // fault would take.
    let result = unsafe { write_back(header((*mapping).host), start, end) };

    drain();
    result.map_or_else(Error::to_errno, |()| 0)
}

/// Flushes dirty DAX entries while soft faults leave them alone.
///
/// Those that found an entry dirty before are over then, and DAX finds what they have mapped.
///
/// # Safety
///
/// The file is mapped, its inode in use, and the caller does not have the `invalidate_lock` of the
/// DAX page cache.
unsafe fn write_back(header: &Header, start: c::loff_t, end: c::loff_t) -> Result {
    lockless::write_back::<AsWritten, _>(
        &header.writers_back,
        // SAFETY: `header` is of a mapped file in use, and the caller does not have its
        // `invalidate_lock`.
        || drop(unsafe { header.invalidate_lock().write() }),
        || {
            let result = for_each_chunk(header, (start, end), |start, end| {
                let flushing = Flushing::new(header.mount());
                if !header.may_have_poison() {
                    // SAFETY: Soft faults are held off, and `flushing` is held.
                    return unsafe { flush_entries(header, start, end, false) };
                }
                drop(flushing);
                // SAFETY: As above, and no fault is under way.
                unsafe {
                    let _no_faults = header.invalidate_lock().write();
                    let _flushing = Flushing::new(header.mount());
                    flush_entries(header, start, end, true)
                }
            });
            // What was dirty may not be so any more.
            lockless::renew(&header.stamp, new_stamp());
            result
        },
    )
}

/// Calls `flush` with pieces of bytes `start` to `end` of a file that have dirty entries, as long
/// as there are any: a memory failure waits for one piece at most.
///
/// # Errors
///
/// The first one that `flush` returns; it is called for the rest all the same.
fn for_each_chunk(
    header: &Header,
    (start, end): (c::loff_t, c::loff_t),
    mut flush: impl FnMut(c::loff_t, c::loff_t) -> Result,
) -> Result {
    /// How much memory is flushed at once, at most, in pages: one entry of 2 MiB, or some of a
    /// page.
    const CHUNK: u64 = PMD_SIZE / PAGE;
    let (mut next, last) = (start as u64 / PAGE, end as u64 / PAGE);
    let mut result = Ok(());

    // SAFETY: A file with dirty entries has a DAX page cache, which stays as long as the header.
    while let Some(dirty) = unsafe { DaxEntry::first_dirty(header.dax_mapping(), next, last) } {
        // An entry of 2 MiB may be found at any of its pages, and is flushed as a whole.
        let chunk = (dirty - dirty % CHUNK).max(next);
        next = (dirty - dirty % CHUNK) + CHUNK;
        let from = (chunk * PAGE) as c::loff_t;
        let to = (next * PAGE - 1) as c::loff_t;
        result = result.and(flush(from.max(start), to.min(end)));
        if next > last {
            break;
        }
    }
    result
}

/// Flushes dirty DAX entries.
///
/// Entries do not know their device, and flushing does not depend on it: any device of the file
/// will do, even one that is going away.
///
/// # Safety
///
/// The file is mapped, or its memory kept, soft faults are held off, and the caller has
/// [`Flushing`]. If some memory has failed as far as is known with that (`poison`), no fault is
/// under way at all.
unsafe fn flush_entries(header: &Header, start: c::loff_t, end: c::loff_t, poison: bool) -> Result {
    let mapping = header.dax_mapping();
    let mut wbc = c::writeback_control {
        sync_mode: c::writeback_sync_modes_WB_SYNC_ALL,
        nr_to_write: ffi::c_long::MAX,
        range_start: start,
        range_end: end,
        ..pin_init::zeroed()
    };

    let hidden = if poison {
        // SAFETY: `header` is of a file whose entries the caller may flush.
        unsafe { hide_poison(header, start, end) }
    } else {
        None
    };
    let result = header.any_device().map_or(Ok(()), |device| {
        // SAFETY: As above; the device is held as long as the mount is there.
        to_result(unsafe { c::dax_writeback_mapping_range(mapping, device.as_raw(), &mut wbc) })
    });
    // The rest of 2 MiB may still be mapped for writing. Whether the page that has failed is well
    // by now does not matter.
    if let Some(index) = hidden {
        // SAFETY: No fault is under way in the file of `header`, so the entry is there still.
        unsafe { DaxEntry::set_dirty(mapping, index, true) };
    }
    if result.is_err() {
        // SAFETY: `header` is of a mapped file, or its memory is kept.
        unsafe { record_loss(header) };
    }
    result
}

/// Whether an entry has memory that is known to have failed.
fn has_poison(entry: DaxEntry) -> bool {
    entry
        .frames()
        .is_some_and(|(first, pages)| (first..first + pages).any(is_poisoned))
}

/// Calls `each` with each dirty entry from byte `start` to `end` that has failed memory, and one of
/// its pages. What has not failed of it is flushed.
///
/// # Safety
///
/// As [`flush_entries`].
unsafe fn for_each_poisoned(
    header: &Header,
    (start, end): (c::loff_t, c::loff_t),
    mut each: impl FnMut(u64, DaxEntry),
) {
    let (first, last) = (start as u64 / PAGE, end as u64 / PAGE);

    // SAFETY: By the safety requirements. The frames of an entry have a memory map, and those that
    // have not failed are in the kernel's own mapping.
    unsafe {
        let mapping = header.dax_mapping();
        DaxEntry::for_each(
            mapping,
            first,
            last,
            c::PAGECACHE_TAG_DIRTY,
            |index, entry| {
                let Some((first, pages)) = entry.frames().filter(|_| has_poison(entry)) else {
                    return;
                };
                if let Some(device) = header.any_device() {
                    for pfn in (first..first + pages).filter(|pfn| !is_poisoned(*pfn)) {
                        c::fuse_dax_fmap_flush(device.as_raw(), pfn as ffi::c_ulong);
                    }
                }
                each(index, entry);
            },
        );
    }
}

/// Takes the dirty mark off entries with failed memory, so that DAX does not flush them as a whole.
/// A single page is lost, and that is recorded. Returns a page of the entry of 2 MiB from which the
/// mark was taken: a chunk has one at most.
///
/// # Safety
///
/// As [`flush_entries`].
unsafe fn hide_poison(header: &Header, start: c::loff_t, end: c::loff_t) -> Option<u64> {
    let mut hidden = None;

    // SAFETY: No fault is under way in the file of `header`, by the safety requirements.
    unsafe {
        for_each_poisoned(header, (start, end), |index, entry| {
            DaxEntry::set_dirty(header.dax_mapping(), index, false);
            if entry.is_huge() {
                hidden = Some(index);
            } else {
                record_loss(header);
            }
        });
    }
    hidden
}

/// Memory has failed from byte `start` to `end`, and that range has been unmapped: what has not
/// failed of it is flushed, and it is clean then. What was stored to the rest is lost, which is
/// recorded.
///
/// # Safety
///
/// The file is mapped, its inode in use, and no fault is under way.
pub(super) unsafe fn flush_around_poison(header: &Header, start: c::loff_t, end: c::loff_t) {
    // SAFETY: No fault is under way in the file of `header`, by the safety requirements.
    unsafe {
        for_each_poisoned(header, (start, end), |index, _| {
            DaxEntry::set_dirty(header.dax_mapping(), index, false);
            record_loss(header);
        });
    }
    lockless::renew(&header.stamp, new_stamp());
    drain();
}

/// Flushes what is dirty of bytes `start` to `end` of a file in which nothing faults.
///
/// # Safety
///
/// The file is mapped, and its inode evicted, or no fault is under way.
pub(super) unsafe fn flush_range(header: &Header, start: c::loff_t, end: c::loff_t) -> Result {
    let result = for_each_chunk(header, (start, end), |start, end| {
        let _flushing = Flushing::new(header.mount());
        // SAFETY: No fault is under way in the file of `header`, and `_flushing` is held.
        unsafe { flush_entries(header, start, end, header.may_have_poison()) }
    });
    // What is in the range may not be there for much longer.
    lockless::renew(&header.stamp, new_stamp());
    drain();
    result
}

/// Flushes what is dirty of bytes `start` to `end` of a file.
///
/// # Safety
///
/// The file is mapped, and its inode in use.
pub(super) unsafe fn write_back_range(header: &Header, start: c::loff_t, end: c::loff_t) -> Result {
    if end < start || !header.may_be_dirty() {
        return Ok(());
    }
    // SAFETY: `header` is of a mapped file in use.
    unsafe { write_back(header, start, end) }
}

/// Flushes all mapped files of a mount.
///
/// # Safety
///
/// The superblock is kept mounted by the caller.
///
/// # Errors
///
/// The first one; the other files are flushed all the same.
pub(crate) unsafe fn sync_all(mount: &Mount) -> Result {
    let mut result = Ok(());

    let dirty = |header: &Header, _: *mut c::inode| header.may_be_dirty();
    // SAFETY: By the safety requirements the mount stays, and its inodes are held while they are
    // written.
    unsafe {
        mount.mapped_files.for_each(true, dirty, |header, _| {
            result = result.and(write_back_range(header, 0, c::loff_t::MAX));
        });
    }
    drain();
    result
}

/// fsync(2) and its kin: flushes first, and then asks the server, if there is one to be asked.
///
/// What is durable does not depend on the server: after ENOTCONN, too, the data are flushed.
///
/// # Safety
///
/// Called by the VFS, for an open file of a mapped inode.
pub(super) unsafe extern "C" fn fsync(
    file: *mut c::file,
    start: c::loff_t,
    end: c::loff_t,
    datasync: ffi::c_int,
) -> ffi::c_int {
    // SAFETY: The VFS passes an open file, and it is mapped.
    let header = unsafe { header((*file).f_inode) };
    // SAFETY: `header` is that of the file's inode, which is in use.
    let flushed = unsafe { write_back_range(header, start, end) };
    drain();
    let lost = if header.has_failed_device() {
        Err(EIO)
    } else {
        Ok(())
    };
    // It also reports what was recorded as lost, once for each open file.
    // SAFETY: As above, with the VFS's arguments.
    let asked = unsafe { fuse::plain_fsync(file, start, end, datasync) };

    match flushed.and(lost).and(asked) {
        Ok(()) => 0,
        Err(errno) => errno.to_errno(),
    }
}
