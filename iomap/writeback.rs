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
//! | fsync, msync, O_SYNC                   | [`sync_range`]                  |
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
    abstractions::fs::dax::{
        Entry,
        Mark, //
    },
    bindings::kernel as c,
    daxdev::{
        is_poisoned,
        Device, //
    },
    lockless::{
        self,
        AsWritten, //
    },
    sb_info::SbInfo, //
};

use super::{
    mapped_files::StaysActive,
    mapped_inode::{
        open_file,
        Header,
        MappedFile,
        MappedInode,
        PAGE,
        PMD_SIZE, //
    },
    no_faults::NoFaults,
    validity::new_validity,
    ownership::Flushing, //
};

impl Header {
    /// Whether a device of the file has gone away.
    fn has_failed_device(&self) -> bool {
        self.device_indexes()
            .any(|index| self.sbi().devices.get(index).is_none())
    }

    /// Whether what is flushed from the CPU's caches is durable, on all devices of the file.
    pub(super) fn is_synchronous(&self) -> bool {
        self.device_indexes().all(|index| {
            let device = self.sbi().devices.held(index);

            device.is_some_and(|device| device.dax_dev().is_synchronous())
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
        let devices = &self.sbi().devices;

        self.device_indexes()
            .find_map(|index| devices.get(index))
            .or_else(|| self.device_indexes().find_map(|index| devices.held(index)))
    }

    /// Whether some memory of its devices has failed, maybe of this file.
    fn may_have_poison(&self) -> bool {
        self.device_indexes()
            .any(|index| self.sbi().devices.get_healthy(index).is_none())
    }
}

impl MappedFile {
    /// Whether it has dirty entries, maybe. Another task that flushes around poison has taken their
    /// marks off for a moment.
    fn may_be_dirty(&self) -> bool {
        self.mapping().any_dirty() || self.header().may_have_poison()
    }
}

/// Waits until what was flushed, and what went around the caches, has left the CPU.
fn drain() {
    // SAFETY: A store fence may be anywhere.
    unsafe { c::fuse_dax_fmap_pmem_wmb() }
}

/// Flushes dirty DAX entries, of the DAX page cache of a mapped file.
///
/// # Safety
///
/// Called by writeback, for the DAX page cache of a mapped file whose inode is in use.
pub(super) unsafe extern "C" fn writepages(
    mapping: *mut c::address_space,
    wbc: *mut c::writeback_control,
) -> ffi::c_int {
    // SAFETY: `mapping` is a DAX page cache, by the safety requirements.
    let file = unsafe { MappedFile::of_mapping(mapping) };
    // SAFETY: `wbc` is the caller's, which waits.
    let wbc = unsafe { &*wbc };

    writepages_of(file, wbc)
}

/// Flushes dirty DAX entries. Writeback holds no lock that a fault would take.
pub(super) fn writepages_of(file: &MappedFile, wbc: &c::writeback_control) -> ffi::c_int {
    // Else DAX does nothing.
    if wbc.sync_mode != c::writeback_sync_modes_WB_SYNC_ALL {
        return 0;
    }
    let result = write_back(file, wbc.range_start, wbc.range_end);

    drain();
    result.map_or_else(Error::to_errno, |()| 0)
}

/// Flushes dirty DAX entries while soft faults leave them alone. The caller does not have the
/// `invalidate_lock` of the DAX page cache.
///
/// Those that found an entry dirty before are over then, and DAX finds what they have mapped.
fn write_back(file: &MappedFile, start: c::loff_t, end: c::loff_t) -> Result {
    let header = file.header();
    let flush = || {
        let result = for_each_chunk(file, (start, end), |start, end| {
            let flushing = Flushing::new(file.sbi());
            if !header.may_have_poison() {
                return flush_entries(file, start, end, &flushing, None);
            }
            drop(flushing);
            let no_faults = NoFaults::lock(file);
            let flushing = Flushing::new(file.sbi());
            flush_entries(file, start, end, &flushing, Some(&no_faults))
        });
        // What was dirty may not be so any more.
        lockless::renew(&header.validity, new_validity());
        result
    };

    lockless::write_back::<AsWritten, _>(&header.writers_back, || drop(NoFaults::lock(file)), flush)
}

/// Calls `flush` with pieces of bytes `start` to `end` of a file that have dirty entries, as long
/// as there are any: a memory failure waits for one piece at most.
///
/// # Errors
///
/// The first one that `flush` returns; it is called for the rest all the same.
fn for_each_chunk(
    file: &MappedFile,
    (start, end): (c::loff_t, c::loff_t),
    mut flush: impl FnMut(c::loff_t, c::loff_t) -> Result,
) -> Result {
    /// How much memory is flushed at once, at most, in pages: one entry of 2 MiB, or some of a
    /// page.
    const CHUNK: u64 = PMD_SIZE / PAGE;
    let (mut next, last) = (start as u64 / PAGE, end as u64 / PAGE);
    let mut result = Ok(());

    while let Some(dirty) = file.mapping().first_marked(next, last, Mark::Dirty) {
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

/// Flushes dirty DAX entries. Soft faults are held off. If some memory has failed as far as is
/// known with `_flushing`, no fault is under way at all (`poison`).
///
/// Entries do not know their device, and flushing does not depend on it: any device of the file
/// will do, even one that is going away.
fn flush_entries(
    file: &MappedFile,
    start: c::loff_t,
    end: c::loff_t,
    _flushing: &Flushing<'_>,
    poison: Option<&NoFaults<'_>>,
) -> Result {
    let mut wbc = c::writeback_control {
        sync_mode: c::writeback_sync_modes_WB_SYNC_ALL,
        nr_to_write: ffi::c_long::MAX,
        range_start: start,
        range_end: end,
        ..pin_init::zeroed()
    };

    let hidden = poison.and_then(|no_faults| hide_poison(no_faults, start, end));
    let result = file.header().any_device().map_or(Ok(()), |device| {
        // SAFETY: `device` is held as long as the mount is there.
        to_result(unsafe { file.mapping().write_back(device.dax_dev(), &mut wbc) })
    });
    // The rest of 2 MiB may still be mapped for writing. Whether the page that has failed is well
    // by now does not matter. No fault is under way, so the entry is there still.
    if let Some(index) = hidden {
        file.mapping().lock_entries().set_dirty(index);
    }
    if result.is_err() {
        file.record_loss();
    }
    result
}

/// Whether an entry has memory that is known to have failed.
fn has_poison(entry: Entry) -> bool {
    entry
        .frames()
        .is_some_and(|(first, pages)| (first..first + pages).any(is_poisoned))
}

/// Calls `each` with one page of each dirty entry from byte `start` to `end` that has failed
/// memory, and whether it is 2 MiB. What has not failed of it is flushed.
fn for_each_poisoned(
    no_faults: &NoFaults<'_>,
    (start, end): (c::loff_t, c::loff_t),
    mut each: impl FnMut(u64, bool),
) {
    let (first, last) = (start as u64 / PAGE, end as u64 / PAGE);
    let file = no_faults.file();

    file.mapping()
        .for_each(first, last, Mark::Dirty, |index, entry| {
            let Some((first, pages)) = entry.frames().filter(|_| has_poison(entry)) else {
                return;
            };
            if let Some(device) = file.header().any_device() {
                for pfn in (first..first + pages).filter(|pfn| !is_poisoned(*pfn)) {
                    // SAFETY: The frames of an entry have a memory map, and those that have not
                    // failed are in the kernel's own mapping.
                    unsafe { device.dax_dev().flush(pfn) };
                }
            }
            each(index, entry.is_huge());
        });
}

/// Takes the dirty mark off entries with failed memory, so that DAX does not flush them as a whole.
/// A single page is lost, and that is recorded. Returns a page of the entry of 2 MiB from which the
/// mark was taken: a chunk has one at most.
fn hide_poison(no_faults: &NoFaults<'_>, start: c::loff_t, end: c::loff_t) -> Option<u64> {
    let file = no_faults.file();
    let mut hidden = None;

    for_each_poisoned(no_faults, (start, end), |index, is_huge| {
        file.mapping().lock_entries().clear_dirty(index);
        if is_huge {
            hidden = Some(index);
        } else {
            file.record_loss();
        }
    });
    hidden
}

/// Memory has failed from byte `start` to `end`, and that range has been unmapped: what has not
/// failed of it is flushed, and it is clean then. What was stored to the rest is lost, which is
/// recorded.
pub(super) fn flush_around_poison(no_faults: &NoFaults<'_>, start: c::loff_t, end: c::loff_t) {
    let file = no_faults.file();

    for_each_poisoned(no_faults, (start, end), |index, _| {
        file.mapping().lock_entries().clear_dirty(index);
        file.record_loss();
    });
    lockless::renew(&file.header().validity, new_validity());
    drain();
}

/// Flushes what is dirty of bytes `start` to `end` of a file in which nothing faults.
pub(super) fn flush_range(no_faults: &NoFaults<'_>, start: c::loff_t, end: c::loff_t) -> Result {
    let file = no_faults.file();
    let result = for_each_chunk(file, (start, end), |start, end| {
        let flushing = Flushing::new(file.sbi());
        let poison = file.header().may_have_poison().then_some(no_faults);
        flush_entries(file, start, end, &flushing, poison)
    });
    // What is in the range may not be there for much longer.
    lockless::renew(&file.header().validity, new_validity());
    drain();
    result
}

/// Flushes what is dirty of bytes `start` to `end` of a file. The caller does not have the
/// `invalidate_lock` of the DAX page cache.
pub(super) fn write_back_range(file: &MappedFile, start: c::loff_t, end: c::loff_t) -> Result {
    if end < start || !file.may_be_dirty() {
        return Ok(());
    }
    write_back(file, start, end)
}

/// The same, of a file that may never have been mapped by mmap(2).
pub(super) fn write_back_inode(inode: MappedInode<'_>, start: c::loff_t, end: c::loff_t) -> Result {
    match inode.header.file() {
        Some(file) => write_back_range(file, start, end),
        None => Ok(()),
    }
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
pub(crate) unsafe fn sync_all(sbi: &SbInfo) -> Result {
    let mut result = Ok(());

    let dirty = |file: &MappedFile| file.may_be_dirty();
    // SAFETY: The caller keeps the superblock mounted.
    let active = unsafe { StaysActive::promised() };
    sbi.mapped_files.for_each(active, true, dirty, |file| {
        result = result.and(write_back_range(file, 0, c::loff_t::MAX));
    });
    drain();
    result
}

/// The memory's part of fsync(2) and its kin: flushes what was stored to a file.
///
/// # Errors
///
/// [`EIO`] if that failed, or if a device of the file has gone away.
///
/// # Safety
///
/// The file is open, and its inode mapped.
pub(crate) unsafe fn sync_range(file: *const c::file, start: c::loff_t, end: c::loff_t) -> Result {
    // SAFETY: `file` is open, and its inode mapped, by the safety requirements.
    let (_, inode) = unsafe { open_file(file) };
    let flushed = write_back_inode(inode, start, end);
    drain();
    let lost = if inode.header.has_failed_device() {
        Err(EIO)
    } else {
        Ok(())
    };

    flushed.and(lost)
}
