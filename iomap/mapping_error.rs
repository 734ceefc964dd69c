// SPDX-License-Identifier: GPL-2.0

//! Mapping errors: why a mapping is not used, and the errno of the operation.

use kernel::{
    ffi,
    fmt,
    prelude::*, //
};

use crate::{
    abstractions::fs::{
        dentry::Named,
        inode::Inode, //
    },
    bindings::kernel as c,
    compat::EHWPOISON,
    ratelimit::pr_warn_limited,
    stats::Counter, //
};

use super::mapped_inode::{
    Header,
    PAGE, //
};

/// Why a mapping is not used.
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

/// The cause, for the log.
impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self {
            Self::Program(errno) => {
                return f.write_fmt(fmt!("iomap_begin() returns {errno:?}"));
            }
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
        };
        f.write_str(cause)
    }
}

/// Logs a mapping error, and returns the errno of the operation.
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
    header.published().listed.refused_mappings.add(1);
    // A PMD fault that fails is retried as a PTE fault, and a write to failed memory as a write of
    // the whole page.
    let tried_again = match error {
        MappingError::Poisoned if flags & c::IOMAP_FAULT == 0 => flags & c::IOMAP_WRITE != 0,
        _ => flags & c::IOMAP_FAULT != 0 && length > PAGE,
    };
    if !tried_again {
        header.count_error();
        // A fault passes the host of the DAX page cache, which has no name.
        let named = header.file().and_then(|file| file.inode());
        pr_warn_limited!(
            sbi.mappings,
            "{}: ops {}: inode {}{} at {:#x}: {}\n",
            sbi,
            sbi.ops.name(),
            inode.number(),
            Named::new(named.map_or(inode, |named| named)),
            pos,
            error
        );
    }
    match error {
        // A fault sends SIGBUS with BUS_MCEERR_AR, and a write rewrites the page.
        MappingError::Poisoned if flags & (c::IOMAP_FAULT | c::IOMAP_WRITE) != 0 => EHWPOISON,
        // A fault never gets the program's errno: the memory manager retries endlessly after
        // ENOMEM. No operation gets the program's EHWPOISON and EFAULT, which stand for failed
        // memory and for a missing page of the buffer: the operation would be tried again.
        MappingError::Program(EHWPOISON | EFAULT) => EIO,
        MappingError::Program(errno) if flags & c::IOMAP_FAULT == 0 => errno,
        MappingError::WriteToHole if flags & c::IOMAP_FAULT == 0 => ENOSPC,
        _ => EIO,
    }
}
