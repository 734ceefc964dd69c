// SPDX-License-Identifier: GPL-2.0

//! `iomap_begin()` and `iomap_end()`: the program is asked, and its answer is judged.
//!
//! The program says where a byte is; [`Header::judge`] says whether it may be there. What is not
//! inside a held device that the file declared is refused with EIO; so is, in a fault, memory that
//! is mapped at another place already ([`move_in`]). A mapping ends where the device's memory is
//! not in one piece, and where it has failed ([`Mapping::cut_at_poison`]). Writes to a hole get no
//! further ([`may_be_hole`]).

use kernel::{
    ffi,
    prelude::*,
    sync::rcu, //
};

use crate::{
    bindings::kernel as c,
    bpf_struct_ops::Claim,
    daxdev::Device,
    ratelimit::pr_warn_limited,
    stats::Counter, //
};

use super::{
    header,
    i_size,
    tenancy::{
        may_be_hole,
        move_in,
        Folio,
        HoldsStill,
        MovingIn, //
    },
    Header,
    PAGE,
    PMD_SIZE, //
};

/// Where the page ends that the last of `bytes` is in. For sizes, which are at most i64::MAX.
#[inline]
pub(super) fn page_end(bytes: u64) -> u64 {
    (bytes + (PAGE - 1)) & !(PAGE - 1)
}

/// Why a mapping is refused.
pub(super) enum Refusal {
    Program(Error),
    BeyondFile,
    Empty,
    Unaligned,
    UndeclaredDevice,
    FailedDevice,
    BeyondDevice,
    SharedMemory,
    Moved,
    Poisoned,
    UnknownType,
    WriteToHole,
}

impl Refusal {
    fn cause(&self) -> &'static str {
        match self {
            Self::Program(_) => "iomap_begin() returns an error",
            Self::BeyondFile => "beyond the end of the file",
            Self::Empty => "length 0",
            Self::Unaligned => "address or length are no multiples of the page size",
            Self::UndeclaredDevice => "a device that the file has not declared",
            Self::FailedDevice => "the device has failed",
            Self::BeyondDevice => "beyond the end of the device",
            Self::SharedMemory => "memory that is mapped at another place of a file",
            Self::Moved => "another place than the one that is mapped",
            Self::Poisoned => "memory that has failed",
            Self::UnknownType => "a type of mapping that does not exist",
            Self::WriteToHole => "a write to a hole",
        }
    }
}

/// A mapping that may be used.
pub(super) struct Mapping<'a> {
    /// `None` for a hole, which has no address either.
    pub(super) device: Option<&'a Device>,
    pub(super) addr: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// No memory of the device has failed.
    pub(super) sound: bool,
}

impl Mapping<'_> {
    /// Ends the mapping where memory has failed.
    #[cold]
    fn cut_at_poison(&mut self) -> Result<(), Refusal> {
        let Some(device) = self.device else {
            return Ok(());
        };
        match device.sound_pages(self.addr, self.length / PAGE) {
            None => Err(Refusal::FailedDevice),
            Some(0) => Err(Refusal::Poisoned),
            Some(pages) => {
                self.length = self.length.min(pages * PAGE);
                Ok(())
            }
        }
    }

    /// Ends the mapping where memory is in use through another file, which is closed: what is
    /// written there, its user would read, or overwrite. Faults see to that themselves
    /// ([`move_in`]).
    ///
    /// Nothing may sleep between the judgement and the copy (`daxdev::failure`), so the caller
    /// takes the lock on ownership before it judges.
    #[cold]
    pub(super) fn cut_at_leftovers(
        &mut self,
        device: &Device,
        header: &Header,
        _still: &HoldsStill<'_>,
    ) -> Result<(), Refusal> {
        let own = header.file().map(|_| header.dax_mapping());
        let pages = (self.length / PAGE).min(PMD_SIZE / PAGE);
        let free = device
            .with_frames(self.addr, pages, |frames| {
                let _rcu = rcu::read_lock();
                let first = frames.pfn?;
                // SAFETY: We are inside, so the frames have a memory map; `_still` is held.
                (0..pages).find(|page| unsafe { Folio::of(first + page).is_leftover_but_for(own) })
            })
            .ok_or(Refusal::FailedDevice)?
            .unwrap_or(pages);

        if free == 0 {
            return Err(Refusal::SharedMemory);
        }
        self.length = self.length.min(free * PAGE);
        Ok(())
    }

    /// # Safety
    ///
    /// `iomap` is to be filled in, and zeroed.
    #[inline]
    pub(super) unsafe fn fill(&self, iomap: *mut c::iomap) {
        // SAFETY: By the safety requirements.
        unsafe {
            (*iomap).addr = self.addr;
            (*iomap).offset = self.offset as c::loff_t;
            (*iomap).length = self.length;
            // Zero is a hole without a device.
            if let Some(device) = self.device {
                (*iomap).type_ = c::IOMAP_MAPPED as u16;
                (*iomap).dax_dev = device.as_raw();
            }
        }
    }
}

impl Header {
    /// Asks the program where `pos` is, and judges the answer.
    #[inline(always)]
    pub(super) fn resolve(
        &self,
        pos: u64,
        length: u64,
        i_size: u64,
    ) -> Result<Mapping<'_>, Refusal> {
        let mut mapping = self.locate(pos, length, i_size)?;

        if !mapping.sound {
            mapping.cut_at_poison()?;
        }
        Ok(mapping)
    }

    /// As [`Header::resolve`], but the memory may have failed.
    #[inline(always)]
    pub(super) fn locate(
        &self,
        pos: u64,
        length: u64,
        i_size: u64,
    ) -> Result<Mapping<'_>, Refusal> {
        if pos >= i_size.min(self.mapped_size) {
            return Err(Refusal::BeyondFile);
        }
        // Sizes and lengths are at most i64::MAX, so nothing overflows; `pos` is inside.
        let end = page_end(self.mapped_size);
        let offset = pos & !(PAGE - 1);
        let wanted = page_end(pos - offset + length).min(end - offset);

        let claim = self
            .resolver
            .resolve(self.meta(), offset, wanted, self.mapped_size)
            .map_err(Refusal::Program)?;
        self.judge(claim, offset, end)
    }

    /// Whether what is at `pos`, in a file of `i_size` bytes, is on a device that has failed.
    #[cold]
    pub(super) fn device_has_failed(&self, pos: u64, i_size: u64) -> bool {
        matches!(self.locate(pos, 1, i_size), Err(Refusal::FailedDevice))
    }

    /// The kernel's own opinion of a claim about `offset`, in a file that ends at `end`.
    #[inline(always)]
    fn judge(&self, claim: Claim, offset: u64, end: u64) -> Result<Mapping<'_>, Refusal> {
        let Claim {
            addr,
            length,
            dev_index,
            type_,
        } = claim;

        if u32::from(type_) != c::FUSE_IOMAP_MAPPED {
            return Self::judge_hole(claim, offset, end);
        }
        if length == 0 {
            return Err(Refusal::Empty);
        }
        if (addr | length) % PAGE != 0 {
            return Err(Refusal::Unaligned);
        }
        if dev_index >= u64::BITS || self.dev_bitmap & (1 << dev_index) == 0 {
            return Err(Refusal::UndeclaredDevice);
        }
        let devices = &self.mount().devices;
        let (device, sound) = match devices.get_sound(dev_index) {
            Some(device) => (device, true),
            None => {
                let device = devices.get(dev_index).ok_or(Refusal::FailedDevice)?;
                (device, false)
            }
        };
        // Where the device's memory is not in one piece, DAX would take the rest for nothing.
        let length = device
            .in_one_piece(addr, length)
            .ok_or(Refusal::BeyondDevice)?;
        Ok(Mapping {
            device: Some(device),
            addr,
            offset,
            length: length.min(end - offset),
            sound,
        })
    }

    /// The same for what is not mapped.
    #[cold]
    fn judge_hole(claim: Claim, offset: u64, end: u64) -> Result<Mapping<'static>, Refusal> {
        if u32::from(claim.type_) != c::FUSE_IOMAP_HOLE {
            return Err(Refusal::UnknownType);
        }
        if claim.length == 0 {
            return Err(Refusal::Empty);
        }
        if claim.length % PAGE != 0 {
            return Err(Refusal::Unaligned);
        }
        Ok(Mapping {
            device: None,
            addr: c::IOMAP_NULL_ADDR as u64,
            offset,
            length: claim.length.min(end - offset),
            sound: true,
        })
    }
}

const _: () = assert!(c::IOMAP_HOLE == 0);

pub(super) static IOMAP_OPS: c::iomap_ops = c::iomap_ops {
    iomap_begin: Some(iomap_begin),
    iomap_end: Some(iomap_end),
    ..pin_init::zeroed()
};

/// `iomap_begin()` of a mapped file.
///
/// # Safety
///
/// Called by the DAX core for a mapped file: with its inode, which is in use, for reads and writes,
/// and with the host of its DAX page cache, of the mapped size, for faults.
unsafe extern "C" fn iomap_begin(
    inode: *mut c::inode,
    pos: c::loff_t,
    length: c::loff_t,
    flags: ffi::c_uint,
    iomap: *mut c::iomap,
    _srcmap: *mut c::iomap,
) -> ffi::c_int {
    // SAFETY: By the safety requirements; either has the header.
    let (header, i_size) = unsafe { (header(inode), i_size(inode)) };
    let (pos, length) = (pos as u64, length as u64);

    let still = match still_for_write(header, flags) {
        Ok(still) => still,
        Err(errno) => return errno.to_errno(),
    };
    let resolved = header.resolve(pos, length, i_size).and_then(|mut mapping| {
        let moving_in = match mapping.device {
            Some(device) if flags & c::IOMAP_FAULT != 0 => {
                let pages = length.min(mapping.length - (pos - mapping.offset)) / PAGE;
                let addr = mapping.addr + (pos - mapping.offset);
                move_in(header, device, addr, pos, pages)?
            }
            Some(device) => {
                if let Some(still) = &still {
                    mapping.cut_at_leftovers(device, header, still)?;
                }
                None
            }
            None => {
                may_be_hole(header, pos, flags)?;
                None
            }
        };
        Ok((mapping, moving_in))
    });
    match resolved {
        Ok((mapping, moving_in)) => {
            // SAFETY: `iomap` is the caller's, zeroed, to be filled in.
            unsafe {
                mapping.fill(iomap);
                (*iomap).private = MovingIn::into_raw(moving_in);
            }
            0
        }
        // SAFETY: By the safety requirements.
        Err(refusal) => unsafe { refused(inode, header, pos, length, flags, refusal) }.to_errno(),
    }
}

/// Holds the mount's memory still for a write that may meet memory which is in use though its file
/// is closed. That was counted before the server was told that the file is closed, and so before
/// it gave the memory to another file.
///
/// # Errors
///
/// [`EAGAIN`] if the write would have to wait and must not.
#[inline]
fn still_for_write(header: &Header, flags: ffi::c_uint) -> Result<Option<HoldsStill<'_>>> {
    let mount = header.mount();

    if flags & c::IOMAP_WRITE == 0
        || flags & c::IOMAP_FAULT != 0
        || !mount.mapped_files.has_leftovers()
    {
        return Ok(None);
    }
    let nowait = flags & c::IOMAP_NOWAIT != 0;
    mount.tenants.hold_still(nowait).map(Some)
}

/// `iomap_end()`: a first touch is over.
///
/// # Safety
///
/// Called by the DAX core after [`iomap_begin`], by the same task.
unsafe extern "C" fn iomap_end(
    _inode: *mut c::inode,
    _pos: c::loff_t,
    _length: c::loff_t,
    _written: isize,
    _flags: ffi::c_uint,
    iomap: *mut c::iomap,
) -> ffi::c_int {
    // SAFETY: `iomap_begin()` left this there, and it is called once.
    drop(unsafe { MovingIn::from_raw((*iomap).private) });
    0
}

/// Logs a refusal, and turns it into the errno of the operation.
///
/// # Safety
///
/// The inode is valid.
#[cold]
pub(super) unsafe fn refused(
    inode: *const c::inode,
    header: &Header,
    pos: u64,
    length: u64,
    flags: ffi::c_uint,
    refusal: Refusal,
) -> Error {
    let mount = header.mount();

    mount.stats.inc(Counter::RefusedMappings);
    // A 2 MiB fault that is refused is tried again as one of 4 KiB, and a write of failed memory as
    // one of the whole page.
    let tried_again = match refusal {
        Refusal::Poisoned if flags & c::IOMAP_FAULT == 0 => flags & c::IOMAP_WRITE != 0,
        _ => flags & c::IOMAP_FAULT != 0 && length > PAGE,
    };
    if !tried_again {
        header.note_refusal();
        pr_warn_limited!(
            mount.mappings,
            "ops {}: inode {} at {:#x}: {}\n",
            mount.ops.name(),
            // SAFETY: By the safety requirements.
            unsafe { (*inode).i_ino },
            pos,
            refusal.cause()
        );
    }
    match refusal {
        // For a fault: SIGBUS that says so.
        Refusal::Poisoned if flags & (c::IOMAP_FAULT | c::IOMAP_WRITE) != 0 => EHWPOISON,
        // A fault knows no errno but these: ENOMEM would be retried for ever, EHWPOISON believed.
        // And a write would go about making memory well again.
        Refusal::Program(errno) if flags & c::IOMAP_FAULT == 0 && errno != EHWPOISON => errno,
        Refusal::WriteToHole if flags & c::IOMAP_FAULT == 0 => ENOSPC,
        _ => EIO,
    }
}
