// SPDX-License-Identifier: GPL-2.0

//! Writeback: what was stored to a mapped file reaches the device's persistence domain.
//!
//! There are no pages to be written, only CPU caches in front of the memory. A write fault marks its
//! DAX entry dirty; writeback write-protects the page again, so that the next store is noticed, and
//! flushes what was stored (fs/dax.c). write(2) leaves nothing to be flushed: it goes around the
//! caches. Both rest on flags of the device: the first is set by its holder (`daxdev`), the second by
//! the dax bus.
//!
//! The kernel writes back by file (`f_mapping`) or by inode (`i_mapping`). Either way it finds an empty
//! page cache (see [`super`]), is done at once, and takes the inode for clean. So all of it is ours to
//! do:
//!
//! | who asks                               | what leads here                 |
//! |----------------------------------------|---------------------------------|
//! | fsync, msync, O_SYNC                   | [`fsync`]                       |
//! | sync_file_range                        | [`writepages`], by `page_cache` |
//! | sync, syncfs, remounting, unmounting   | [`sync_all`]                    |
//! | eviction, a device that goes away      | [`flush`], by `vacating`        |
//! | the flusher threads                    | nothing, as in any DAX file     |
//!
//! MAP_SYNC asks that a page is mapped for writing only if its place on the device would be found again
//! after a crash. A map does not change as long as anybody can have it mapped, so a fault has nothing to
//! commit: IOMAP_F_DIRTY is never set. Whether the *server* would find the file again is the server's
//! own affair; it has to see to that before it answers GET_FMAP.

use core::{
    ptr,
    sync::atomic::Ordering, //
};

use kernel::{
    error::to_result,
    ffi,
    prelude::*, //
};

use crate::{
    bindings::kernel as c,
    fuse, //
};

use super::{
    header,
    soft_fault::new_stamp,
    tenancy::for_each_mapped,
    Header, //
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
        (0..u64::BITS).filter(|index| self.dev_bitmap & (1 << index) != 0)
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
/// Called by writeback, for `i_data` of a mapped inode.
pub(super) unsafe extern "C" fn writepages(
    mapping: *mut c::address_space,
    wbc: *mut c::writeback_control,
) -> ffi::c_int {
    // SAFETY: The host of a page cache that has these operations is a mapped inode in use; writeback
    // holds a reference to it, and no lock that a fault would take.
    let ret = unsafe { write_back(mapping, wbc) };

    drain();
    ret
}

/// Flushes dirty DAX entries while soft faults leave them alone.
///
/// Those that found an entry dirty before are over then, and DAX finds what they have mapped.
///
/// # Safety
///
/// `mapping` is the page cache of a mapped inode in use, and the caller does not have its
/// `invalidate_lock`.
unsafe fn write_back(mapping: *mut c::address_space, wbc: *mut c::writeback_control) -> ffi::c_int {
    // SAFETY: By the safety requirements.
    let (header, invalidate_lock) = unsafe {
        (
            header((*mapping).host),
            ptr::addr_of_mut!((*mapping).invalidate_lock),
        )
    };

    header.writers_back.fetch_add(1, Ordering::Relaxed);
    // SAFETY: As above. A fault that begins later sees the number.
    let ret = unsafe {
        c::down_write(invalidate_lock);
        c::up_write(invalidate_lock);
        flush_entries(mapping, wbc)
    };
    // A fault that sees this sees the new stamp, and which marks were taken off, too.
    header.writers_back.fetch_sub(1, Ordering::Release);
    ret
}

/// Flushes dirty DAX entries.
///
/// Entries do not know their device, and flushing does not depend on it: any device of the file will
/// do, even one that is going away.
///
/// # Safety
///
/// `mapping` is the page cache of a mapped inode in use or being evicted, and soft faults are held off.
unsafe fn flush_entries(
    mapping: *mut c::address_space,
    wbc: *mut c::writeback_control,
) -> ffi::c_int {
    // SAFETY: By the safety requirements.
    let header = unsafe { header((*mapping).host) };
    let device = header
        .device_indexes()
        .find_map(|index| header.mount().devices.held(index));
    let ret = device.map_or(0, |device| {
        // SAFETY: As above; the device is held until the last inode is gone.
        unsafe { c::dax_writeback_mapping_range(mapping, device.as_raw(), wbc) }
    });

    // What was dirty may not be so any more, or may not be there for much longer.
    header.stamp.store(new_stamp(), Ordering::Relaxed);
    ret
}

/// All of bytes `start` to `end`.
fn everything_from(start: c::loff_t, end: c::loff_t) -> c::writeback_control {
    c::writeback_control {
        sync_mode: c::writeback_sync_modes_WB_SYNC_ALL,
        nr_to_write: ffi::c_long::MAX,
        range_start: start,
        range_end: end,
        ..pin_init::zeroed()
    }
}

/// Flushes what is dirty of bytes `start` to `end` of an inode that nobody faults in.
///
/// # Safety
///
/// The inode is mapped, and being evicted, or in use with the `invalidate_lock` of its page cache held
/// exclusively.
pub(super) unsafe fn flush_range(inode: *mut c::inode, start: c::loff_t, end: c::loff_t) -> Result {
    let mut wbc = everything_from(start, end);
    // SAFETY: By the safety requirements.
    let ret = unsafe { flush_entries(ptr::addr_of_mut!((*inode).i_data), &mut wbc) };

    drain();
    to_result(ret)
}

/// [`flush_range`] of the whole file.
///
/// # Safety
///
/// As [`flush_range`].
pub(super) unsafe fn flush(inode: *mut c::inode) -> Result {
    // SAFETY: By the safety requirements.
    unsafe { flush_range(inode, 0, c::loff_t::MAX) }
}

/// Writes back what an inode has, mapped or not, and waits for it.
///
/// # Safety
///
/// The inode is in use.
///
/// # Errors
///
/// That of anybody who wrote.
pub(crate) unsafe fn write_back_range(
    inode: *mut c::inode,
    start: c::loff_t,
    end: c::loff_t,
) -> Result {
    // SAFETY: By the safety requirements.
    to_result(unsafe { c::filemap_write_and_wait_range(&raw mut (*inode).i_data, start, end) })
}

/// Flushes all mapped files of a mount.
///
/// # Safety
///
/// `sb` is bound, and kept mounted by the caller.
///
/// # Errors
///
/// The first one; the other files are flushed all the same.
pub(crate) unsafe fn sync_all(sb: *mut c::super_block) -> Result {
    let mut result = Ok(());

    let each = |inode: *mut c::inode| {
        let mut wbc = everything_from(0, c::loff_t::MAX);
        // SAFETY: The inode is mapped and held, and no lock of it is.
        let ret = unsafe { write_back(ptr::addr_of_mut!((*inode).i_data), &mut wbc) };
        result = result.and(to_result(ret));
    };
    // SAFETY: By the safety requirements.
    unsafe { for_each_mapped(sb, each) };
    drain();
    result
}

/// `file_write_and_wait_range()`, for what is in `i_data` whatever the file shows. DAX does not have to
/// be waited for.
///
/// # Safety
///
/// `file` is an open mapped file.
unsafe fn flush_file(file: *mut c::file, start: c::loff_t, end: c::loff_t) -> Result {
    if end < start {
        return Ok(());
    }
    // SAFETY: By the safety requirements the inode is in use; `f_lock` guards `f_wb_err`.
    let (flushed, seen) = unsafe {
        let i_data = &raw mut (*(*file).f_inode).i_data;
        let lock = &raw mut (*file).f_lock;

        let flushed = c::filemap_fdatawrite_range(i_data, start, end);
        c::spin_lock(lock);
        let seen =
            c::errseq_check_and_advance(&raw mut (*i_data).wb_err, &raw mut (*file).f_wb_err);
        c::spin_unlock(lock);
        // Forgets it for those who do not keep count.
        c::filemap_check_errors(i_data);
        (flushed, seen)
    };
    to_result(flushed).and(to_result(seen))
}

/// fsync(2) and its kin: flushes first, and then asks the server, if there is one to be asked.
///
/// What is durable does not depend on the server: after ENOTCONN, too, the data are flushed.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
pub(super) unsafe extern "C" fn fsync(
    file: *mut c::file,
    start: c::loff_t,
    end: c::loff_t,
    datasync: ffi::c_int,
) -> ffi::c_int {
    // SAFETY: The VFS passes an open file.
    let flushed = unsafe { flush_file(file, start, end) };
    drain();
    // SAFETY: As above, and it is mapped.
    let lost = if unsafe { header((*file).f_inode) }.has_failed_device() {
        Err(EIO)
    } else {
        Ok(())
    };
    // SAFETY: As above, with the VFS's arguments.
    let asked = unsafe { fuse::plain_fsync(file, start, end, datasync) };

    match flushed.and(lost).and(asked) {
        Ok(()) => 0,
        Err(errno) => errno.to_errno(),
    }
}
