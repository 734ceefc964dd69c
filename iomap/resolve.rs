// SPDX-License-Identifier: GPL-2.0

//! `iomap_begin()` and `iomap_end()`: calls the program, and validates its answer.
//!
//! The program returns where a byte is; [`Header::validate`] checks that it may be there. A mapping
//! that is not inside a held device that the file declared fails with EIO; so does a fault on
//! memory that is associated with another page ([`claim_pages`]). A mapping is cut where the
//! device's memory is not contiguous, and where it has failed ([`Mapping::cut_at_poison`]). Writes
//! to a hole fail ([`may_be_hole`]).

use kernel::{
    ffi,
    prelude::*,
    sync::rcu, //
};

use crate::{
    abstractions::{
        fs::{
            fuse::is_bad,
            inode::Inode, //
        },
        iomap::{
            Iomap,
            Operations, //
        },
        mm::folio::Folio, //
    },
    bindings::kernel as c,
    daxdev::Device,
    fmap_ops::RawMapping,
    sb_info::OwnershipReadGuard,
    stats::{
        DeviceCounter,
        DeviceShortcut, //
    }, //
};

use super::{
    mapped_inode::{
        header,
        Header,
        PAGE,
        PMD_SIZE, //
    },
    mapping_error::{
        report_error,
        MappingError, //
    },
    ownership::{
        claim_pages,
        is_leftover_but_for,
        may_be_hole,
        OwnershipWriteGuard, //
    }, //
};

/// Rounds up to the page size. `bytes` is at most i64::MAX.
#[inline]
pub(super) fn page_end(bytes: u64) -> u64 {
    (bytes + (PAGE - 1)) & !(PAGE - 1)
}

/// A validated mapping.
pub(super) struct Mapping<'a> {
    /// `None` for a hole, whose `addr` is IOMAP_NULL_ADDR.
    pub(super) device: Option<&'a Device>,
    pub(super) addr: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// True for a hole, and if no memory of the device has failed.
    pub(super) healthy: bool,
}

impl Mapping<'_> {
    /// Cuts the mapping where memory has failed.
    #[cold]
    fn cut_at_poison(&mut self) -> Result<(), MappingError> {
        let Some(device) = self.device else {
            return Ok(());
        };
        match device.healthy_pages(self.addr, self.length / PAGE) {
            None => Err(MappingError::FailedDevice),
            Some(0) => Err(MappingError::Poisoned),
            Some(pages) => {
                self.length = self.length.min(pages * PAGE);
                Ok(())
            }
        }
    }

    /// Cuts the mapping where leftover memory of another file begins: direct I/O or a pipe would
    /// read what is written there, or overwrite it. Faults call [`claim_pages`] instead.
    ///
    /// The task must not sleep between validating and copying (`daxdev::failure`), so the caller
    /// takes the ownership lock before it validates.
    #[cold]
    pub(super) fn cut_at_leftovers(
        &mut self,
        device: &Device,
        header: &Header,
        _still: &OwnershipReadGuard<'_>,
    ) -> Result<(), MappingError> {
        let own = header.file();
        let pages = (self.length / PAGE).min(PMD_SIZE / PAGE);
        let free = device
            .with_frames(self.addr, pages, |frames| {
                let _rcu = rcu::read_lock();
                let first = frames.pfn?;
                (0..pages).find(|page| {
                    // SAFETY: Frame `first + page` has a memory map inside `with_frames()`.
                    let folio = unsafe { Folio::of(first + page) };
                    // SAFETY: `folio` is of a held device, and was looked up with the ownership
                    // lock (`_still`) and RCU held.
                    unsafe { is_leftover_but_for(folio, own) }
                })
            })
            .ok_or(MappingError::FailedDevice)?
            .unwrap_or(pages);

        if free == 0 {
            return Err(MappingError::SharedMemory);
        }
        self.length = self.length.min(free * PAGE);
        Ok(())
    }

    /// Fills in `iomap`.
    #[inline]
    pub(super) fn fill(&self, iomap: &mut Iomap) {
        iomap.set_range(self.addr, self.offset, self.length);
        // A zeroed `iomap` is a hole without a device.
        if let Some(device) = self.device {
            // SAFETY: The mount holds `device` until its last inode is gone.
            unsafe { iomap.set_dax_dev(device.dax_dev()) };
            iomap.set_cookie(device.stats.as_raw());
        }
    }
}

impl Header {
    /// Calls the program for the mapping at `pos`, and validates it.
    #[inline(always)]
    pub(super) fn resolve(
        &self,
        pos: u64,
        length: u64,
        i_size: u64,
    ) -> Result<Mapping<'_>, MappingError> {
        let mut mapping = self.locate(pos, length, i_size)?;

        if !mapping.healthy {
            mapping.cut_at_poison()?;
        }
        Ok(mapping)
    }

    /// Does the same as [`Header::resolve`], but the memory may have failed.
    #[inline(always)]
    pub(super) fn locate(
        &self,
        pos: u64,
        length: u64,
        i_size: u64,
    ) -> Result<Mapping<'_>, MappingError> {
        if pos >= i_size.min(self.mapped_size) {
            return Err(MappingError::BeyondFile);
        }
        // Nothing overflows: sizes and lengths are at most i64::MAX, and `pos` is inside the file.
        let end = page_end(self.mapped_size);
        let offset = pos & !(PAGE - 1);
        let wanted = page_end(pos - offset + length).min(end - offset);

        let raw = self
            .resolver
            .resolve(self.meta(), offset, wanted, self.mapped_size)
            .map_err(MappingError::Program)?;
        self.validate(raw, offset, end)
    }

    /// Returns true if `pos`, in a file of `i_size` bytes, is on a device that has failed.
    #[cold]
    pub(super) fn device_has_failed(&self, pos: u64, i_size: u64) -> bool {
        matches!(self.locate(pos, 1, i_size), Err(MappingError::FailedDevice))
    }

    /// Validates a mapping that the program returned for `offset`, in a file that ends at `end`.
    #[inline(always)]
    fn validate(
        &self,
        raw: RawMapping,
        offset: u64,
        end: u64,
    ) -> Result<Mapping<'_>, MappingError> {
        let RawMapping {
            addr,
            length,
            dev_index,
            type_,
        } = raw;

        if u32::from(type_) != c::FUSE_IOMAP_MAPPED {
            return Self::validate_hole(raw, offset, end);
        }
        if length == 0 {
            return Err(MappingError::Empty);
        }
        if (addr | length) % PAGE != 0 {
            return Err(MappingError::Unaligned);
        }
        if dev_index >= u64::BITS || self.dev_bitmap & (1 << dev_index) == 0 {
            return Err(MappingError::UndeclaredDevice);
        }
        let devices = &self.sbi().devices;
        let (device, healthy) = match devices.get_healthy(dev_index) {
            Some(device) => (device, true),
            None => {
                let device = devices.get(dev_index).ok_or(MappingError::FailedDevice)?;
                (device, false)
            }
        };
        // Faults and I/O of DAX need contiguous memory.
        let length = device
            .in_one_piece(addr, length)
            .ok_or(MappingError::BeyondDevice)?;
        Ok(Mapping {
            device: Some(device),
            addr,
            offset,
            length: length.min(end - offset),
            healthy,
        })
    }

    /// Validates a mapping whose type is not FUSE_IOMAP_MAPPED.
    #[cold]
    fn validate_hole(
        raw: RawMapping,
        offset: u64,
        end: u64,
    ) -> Result<Mapping<'static>, MappingError> {
        if u32::from(raw.type_) != c::FUSE_IOMAP_HOLE {
            return Err(MappingError::UnknownType);
        }
        if raw.length == 0 {
            return Err(MappingError::Empty);
        }
        if raw.length % PAGE != 0 {
            return Err(MappingError::Unaligned);
        }
        Ok(Mapping {
            device: None,
            addr: c::IOMAP_NULL_ADDR as u64,
            offset,
            length: raw.length.min(end - offset),
            healthy: true,
        })
    }
}

const _: () = assert!(c::IOMAP_HOLE == 0);

/// The iomap operations of a mapped file, for DAX. Reads and writes pass FUSE's inode, and faults
/// the host of the DAX page cache, whose size is the mapped size.
pub(super) static IOMAP_OPS: c::iomap_ops = ForDax::OPS;

struct ForDax;

impl Operations for ForDax {
    const HAS_END: bool = true;

    #[inline(always)]
    unsafe fn begin(
        inode: &Inode,
        pos: u64,
        length: u64,
        flags: ffi::c_uint,
        iomap: &mut Iomap,
    ) -> Result {
        // SAFETY: `inode` is mapped, or the host of a DAX page cache, and in use.
        let header = unsafe { header(inode) };
        // Looked at by each step of a read or write, inside `users`: see `bad_inodes`.
        // SAFETY: Reads and writes pass FUSE's inode, which is in use.
        if flags & c::IOMAP_FAULT == 0 && unsafe { is_bad(inode.as_raw()) } {
            header.sbi().look_for_bad();
            return Err(EIO);
        }
        let still = lock_for_write(header, flags)?;
        let place = |mut mapping: Mapping<'_>| {
            let guard = match mapping.device {
                Some(device) if flags & c::IOMAP_FAULT != 0 => {
                    let pages = length.min(mapping.length - (pos - mapping.offset)) / PAGE;
                    let addr = mapping.addr + (pos - mapping.offset);
                    // SAFETY: The file has been mapped by mmap(2), as this is a fault.
                    let file = unsafe { header.file_unchecked() };
                    claim_pages(file, device, addr, pos, pages)?
                }
                Some(device) => {
                    if let Some(still) = &still {
                        mapping.cut_at_leftovers(device, header, still)?;
                    }
                    None
                }
                None => {
                    may_be_hole(header.file(), pos, flags)?;
                    None
                }
            };
            mapping.fill(iomap);
            iomap.set_private(OwnershipWriteGuard::into_raw(guard));
            Ok(())
        };

        let placed = header.resolve(pos, length, inode.size()).and_then(place);
        // A report may allocate memory, and reclaim may wait for this lock.
        drop(still);
        placed.map_err(|error| report_error(inode, header, pos, length, flags, error))
    }

    /// Ends the association of memory: drops the guard of `begin()`, if there is one. Counts what
    /// the device has done.
    #[inline(always)]
    unsafe fn end(iomap: &Iomap, done: isize, flags: ffi::c_uint) {
        if !iomap.private().is_null() {
            // SAFETY: `begin()` stored the pointer in `iomap`, in the same task, and `end()` is
            // called once for it.
            return unsafe { end_association(iomap, done, flags) };
        }
        count_done(iomap, done, flags);
    }
}

/// [`ForDax::end`] of a fault that has associated memory. Out of line, so that the others need no
/// stack.
///
/// # Safety
///
/// `ForDax::begin()` must have filled in `iomap`, with a guard, in the same task. This must be
/// called once for each call.
#[cold]
#[inline(never)]
unsafe fn end_association(iomap: &Iomap, done: isize, flags: ffi::c_uint) {
    // SAFETY: By the safety requirements the pointer is from `OwnershipWriteGuard::into_raw()`.
    drop(unsafe { OwnershipWriteGuard::from_raw(iomap.private()) });
    count_done(iomap, done, flags);
}

/// Counts for the device what an operation has done.
#[inline(always)]
fn count_done(iomap: &Iomap, done: isize, flags: ffi::c_uint) {
    // SAFETY: `Mapping::fill()` has stored the cookie, and the mount holds the device until its
    // last inode is gone.
    let stats = unsafe { DeviceShortcut::from_raw(iomap.cookie()) };
    let (Some(stats), Ok(done @ 1..)) = (stats, u64::try_from(done)) else {
        return;
    };
    let (counter, number) = match flags & (c::IOMAP_FAULT | c::IOMAP_WRITE) {
        0 => (DeviceCounter::ReadBytes, done),
        c::IOMAP_WRITE => (DeviceCounter::WrittenBytes, done),
        _ if done == PAGE => (DeviceCounter::PageFaults, 1),
        _ => (DeviceCounter::HugeFaults, 1),
    };
    stats.add(counter, number);
}

/// Takes the ownership lock for a write, if there may be leftover memory. That is counted before
/// the server learns that the file is closed, and so before the server gives it to another file.
///
/// # Errors
///
/// [`EAGAIN`] if the write must not wait and the lock is not free.
#[inline]
fn lock_for_write(header: &Header, flags: ffi::c_uint) -> Result<Option<OwnershipReadGuard<'_>>> {
    let sbi = header.sbi();

    if flags & c::IOMAP_WRITE == 0
        || flags & c::IOMAP_FAULT != 0
        || !sbi.mapped_files.has_leftovers()
    {
        return Ok(None);
    }
    let nowait = flags & c::IOMAP_NOWAIT != 0;
    sbi.ownership.lock_shared(nowait).map(Some)
}
