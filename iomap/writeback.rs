// SPDX-License-Identifier: GPL-2.0

//! Writeback: brings stores to a mapped file to the device's persistence domain.
//!
//! No pages are written, but CPU caches have to be flushed. A write fault marks its DAX entry
//! dirty; writeback write-protects the page again, so that the next store faults, and flushes what
//! was stored (fs/dax.c). write(2) leaves nothing to be flushed: it bypasses the caches. Both rely
//! on flags of the device: its holder sets the first one (`daxdev`), the dax bus the second.
//!
//! The kernel writes back a file (`f_mapping`) or an inode (`i_mapping`). Either one is a page
//! cache without DAX entries (see `page_cache`), so the kernel flushes nothing, and takes the inode
//! for clean. The module therefore does all of it:
//!
//! | caller                                 | entry point                        |
//! |----------------------------------------|------------------------------------|
//! | fsync, msync, O_SYNC                   | [`sync_range`]                     |
//! | sync_file_range                        | [`writepages_of`], by `page_cache` |
//! | sync, syncfs, remounting, unmounting   | [`sync_all`]                       |
//! | eviction, removal of a device          | [`flush_range`], by `invalidate`   |
//! | the flusher threads                    | none, as for any DAX file          |
//!
//! Memory that has failed is never flushed ([`flush_around_poison`]).
//!
//! MAP_SYNC demands that a page is mapped for writing only if its location on the device survives a
//! crash. A map does not change as long as the file can be mapped by mmap(2), so a fault has
//! nothing to commit: IOMAP_F_DIRTY is never set. The *server* must make sure that it would find
//! the file's location again, before it answers GET_FMAP.

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
    ownership::Flushing, //
    validity::new_validity,
};

impl Header {
    /// Returns true if a device of the file has failed.
    fn has_failed_device(&self) -> bool {
        self.device_indexes()
            .any(|index| self.sbi().devices.get(index).is_none())
    }

    /// Returns true if flushing the CPU's caches makes data durable, on all devices of the file.
    pub(super) fn is_synchronous(&self) -> bool {
        self.device_indexes().all(|index| {
            let device = self.sbi().devices.held(index);

            device.is_some_and(|device| device.dax_dev().is_synchronous())
        })
    }

    fn device_indexes(&self) -> impl Iterator<Item = u32> + '_ {
        (0..u64::BITS).filter(|index| self.uses_device(*index))
    }

    /// Returns true if the file has declared the device.
    pub(super) fn uses_device(&self, index: u32) -> bool {
        self.dev_bitmap & (1 << index) != 0
    }

    /// Returns a device of the file: one that has not failed, if there is one.
    pub(super) fn any_device(&self) -> Option<&Device> {
        let devices = &self.sbi().devices;

        self.device_indexes()
            .find_map(|index| devices.get(index))
            .or_else(|| self.device_indexes().find_map(|index| devices.held(index)))
    }

    /// Returns true if memory of its devices has failed, which may be memory of this file.
    fn may_have_poison(&self) -> bool {
        self.device_indexes()
            .any(|index| self.sbi().devices.get_healthy(index).is_none())
    }
}

impl MappedFile {
    /// Returns true if there may be dirty entries. A task that flushes around poison clears their
    /// marks for a moment.
    fn may_be_dirty(&self) -> bool {
        self.mapping().any_dirty() || self.header().may_have_poison()
    }
}

/// Waits until flushes, and stores that bypass the caches, have reached the persistence domain.
fn drain() {
    // SAFETY: A store fence may be executed in any context.
    unsafe { c::fuse_dax_fmap_pmem_wmb() }
}

/// `->writepages()` of a DAX page cache: flushes dirty entries.
///
/// # Safety
///
/// Called by writeback, for the DAX page cache of a mapped file whose inode is in use.
pub(super) unsafe extern "C" fn writepages(
    mapping: *mut c::address_space,
    wbc: *mut c::writeback_control,
) -> ffi::c_int {
    // SAFETY: `mapping` is the DAX page cache of a mapped file in use, by the safety requirements.
    let file = unsafe { MappedFile::of_mapping(mapping) };
    // SAFETY: `wbc` is the caller's, which waits for this function.
    let wbc = unsafe { &*wbc };

    writepages_of(file, wbc)
}

/// Flushes dirty DAX entries. The caller must hold no lock that a fault takes.
pub(super) fn writepages_of(file: &MappedFile, wbc: &c::writeback_control) -> ffi::c_int {
    // DAX flushes for no other mode.
    if wbc.sync_mode != c::writeback_sync_modes_WB_SYNC_ALL {
        return 0;
    }
    let result = write_back(file, wbc.range_start, wbc.range_end);

    drain();
    result.map_or_else(Error::to_errno, |()| 0)
}

/// Flushes dirty DAX entries while fast faults map nothing for writing. The caller must not hold
/// the `invalidate_lock` of the DAX page cache.
///
/// Waits first for the fast faults that may have found an entry dirty, so that DAX finds what they
/// have mapped.
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
        // Cookies that say "dirty" may be wrong now.
        lockless::renew(&header.validity, new_validity());
        result
    };

    lockless::write_back::<AsWritten, _>(&header.writers_back, || drop(NoFaults::lock(file)), flush)
}

/// Calls `flush` for bytes `start` to `end` of a file, in chunks that have dirty entries: a memory
/// failure waits for at most one chunk.
///
/// # Errors
///
/// The first error of `flush`, which is called for the remaining chunks all the same.
fn for_each_chunk(
    file: &MappedFile,
    (start, end): (c::loff_t, c::loff_t),
    mut flush: impl FnMut(c::loff_t, c::loff_t) -> Result,
) -> Result {
    /// The maximum number of pages in a chunk: one PMD entry, or several PTE entries.
    const CHUNK: u64 = PMD_SIZE / PAGE;
    let (mut next, last) = (start as u64 / PAGE, end as u64 / PAGE);
    let mut result = Ok(());

    while let Some(dirty) = file.mapping().first_marked(next, last, Mark::Dirty) {
        // A PMD entry may be found at any of its pages, and is flushed as a whole.
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

/// Flushes dirty DAX entries. No fast fault may map an entry for writing. If memory is known, under
/// `_flushing`, to have failed, the caller passes a [`NoFaults`] as `poison`.
///
/// An entry does not say which device it is on, and flushing does not depend on that: any device of
/// the file is used, even one that is being removed.
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
        // SAFETY: `device` is held as long as the mount's `SbInfo` exists.
        to_result(unsafe { file.mapping().write_back(device.dax_dev(), &mut wbc) })
    });
    // The rest of the PMD entry may still be mapped for writing, so it is marked dirty again, even
    // if the failed page has been rewritten. As no fault is running, the entry is still there.
    if let Some(index) = hidden {
        file.mapping().lock_entries().set_dirty(index);
    }
    if result.is_err() {
        file.record_loss();
    }
    result
}

/// Returns true if an entry has memory that is known to have failed.
fn has_poison(entry: Entry) -> bool {
    entry
        .frames()
        .is_some_and(|(first, pages)| (first..first + pages).any(is_poisoned))
}

/// Flushes the healthy pages of each dirty entry with failed memory from byte `start` to `end`.
/// Then calls `each` with a page of the entry, and true if it is a PMD entry.
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
                    // SAFETY: Frame `pfn` is of an entry, and so has a memory map. It has not
                    // failed, and so is in the kernel's own mapping.
                    unsafe { device.dax_dev().flush(pfn) };
                }
            }
            each(index, entry.is_huge());
        });
}

/// Clears the dirty marks of entries with failed memory, so that DAX does not flush them as a
/// whole. The contents of a PTE entry are lost, which is recorded. Returns a page of the PMD entry
/// whose mark was cleared: a chunk has at most one.
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

/// Flushes the healthy pages of dirty entries with failed memory from byte `start` to `end`, which
/// are unmapped, and marks those entries clean. What was stored to the failed pages is lost, which
/// is recorded.
pub(super) fn flush_around_poison(no_faults: &NoFaults<'_>, start: c::loff_t, end: c::loff_t) {
    let file = no_faults.file();

    for_each_poisoned(no_faults, (start, end), |index, _| {
        file.mapping().lock_entries().clear_dirty(index);
        file.record_loss();
    });
    lockless::renew(&file.header().validity, new_validity());
    drain();
}

/// Flushes dirty entries in bytes `start` to `end` of a file without faults.
pub(super) fn flush_range(no_faults: &NoFaults<'_>, start: c::loff_t, end: c::loff_t) -> Result {
    let file = no_faults.file();
    let result = for_each_chunk(file, (start, end), |start, end| {
        let flushing = Flushing::new(file.sbi());
        let poison = file.header().may_have_poison().then_some(no_faults);
        flush_entries(file, start, end, &flushing, poison)
    });
    // The entries in the range may be about to be removed.
    lockless::renew(&file.header().validity, new_validity());
    drain();
    result
}

/// Flushes dirty entries in bytes `start` to `end` of a file. The caller must not hold the
/// `invalidate_lock` of the DAX page cache.
pub(super) fn write_back_range(file: &MappedFile, start: c::loff_t, end: c::loff_t) -> Result {
    if end < start || !file.may_be_dirty() {
        return Ok(());
    }
    write_back(file, start, end)
}

/// Does the same as [`write_back_range`], for a file that may never have been mapped by mmap(2).
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
/// The caller must keep the superblock mounted.
///
/// # Errors
///
/// The first error; the other files are flushed all the same.
pub(crate) unsafe fn sync_all(sbi: &SbInfo) -> Result {
    let mut result = Ok(());

    let dirty = |file: &MappedFile| file.may_be_dirty();
    // SAFETY: The caller keeps the superblock mounted, by the safety requirements.
    let active = unsafe { StaysActive::promised() };
    sbi.mapped_files.for_each(active, true, dirty, |file| {
        result = result.and(write_back_range(file, 0, c::loff_t::MAX));
    });
    drain();
    result
}

/// Flushes what was stored to a file, for fsync(2) and its kin.
///
/// # Errors
///
/// [`EIO`] if flushing failed, or if a device of the file has failed.
///
/// # Safety
///
/// The file must be open, and its inode mapped.
pub(crate) unsafe fn sync_range(file: *const c::file, start: c::loff_t, end: c::loff_t) -> Result {
    // SAFETY: `file` is open, and its inode is mapped, by the safety requirements.
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
