// SPDX-License-Identifier: GPL-2.0

//! Mappings that are refused: why, and what the operation ends with.

use kernel::{
    ffi,
    prelude::*, //
};

use crate::{
    abstractions::fs::inode::Inode,
    bindings::kernel as c,
    ratelimit::pr_warn_limited,
    stats::Counter, //
};

use super::mapped_inode::{
    Header,
    PAGE, //
};

/// Why a mapping is refused.
pub(super) enum MappingError {
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

impl MappingError {
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

/// Logs a refusal, and turns it into the errno of the operation.
#[cold]
pub(super) fn report_error(
    inode: &Inode,
    header: &Header,
    pos: u64,
    length: u64,
    flags: ffi::c_uint,
    error: MappingError,
) -> Error {
    let sbi = header.sbi();

    sbi.stats.inc(Counter::RefusedMappings);
    // A 2 MiB fault that is refused is tried again as one of 4 KiB, and a write of failed memory as
    // one of the whole page.
    let tried_again = match error {
        MappingError::Poisoned if flags & c::IOMAP_FAULT == 0 => flags & c::IOMAP_WRITE != 0,
        _ => flags & c::IOMAP_FAULT != 0 && length > PAGE,
    };
    if !tried_again {
        header.count_error();
        pr_warn_limited!(
            sbi.mappings,
            "ops {}: inode {} at {:#x}: {}\n",
            sbi.ops.name(),
            inode.number(),
            pos,
            error.cause()
        );
    }
    match error {
        // For a fault: SIGBUS that says so.
        MappingError::Poisoned if flags & (c::IOMAP_FAULT | c::IOMAP_WRITE) != 0 => EHWPOISON,
        // A fault knows no errno but these: ENOMEM would be retried for ever, EHWPOISON believed.
        // And a write would go about making memory well again.
        MappingError::Program(errno) if flags & c::IOMAP_FAULT == 0 && errno != EHWPOISON => errno,
        MappingError::WriteToHole if flags & c::IOMAP_FAULT == 0 => ENOSPC,
        _ => EIO,
    }
}
