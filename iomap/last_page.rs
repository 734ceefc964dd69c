// SPDX-License-Identifier: GPL-2.0

//! The last page of a file, which is mapped as a whole: what is behind the end in it reads as zeros.

use super::{
    mapped_inode::Header,
    ownership::Flushing,
    resolve::page_end, //
};

/// Zeroes what is behind the end of the file in its last page, for a map that is about to be
/// published. Does not sleep.
///
/// Nothing is mapped yet, and no task reads or writes. If the memory has failed, or the program
/// gives an error, no task can map the page either.
pub(super) fn zero_behind_end(map: &Header, size: u64) {
    let end = page_end(size);

    if size > map.mapped_size() || end == size {
        return;
    }
    // A memory failure waits until this is dropped.
    let _flushing = Flushing::new(map.sbi());
    let Ok(mapping) = map.resolve_any(size, end - size) else {
        return;
    };
    if let Some(device) = mapping.device {
        let addr = mapping.addr + (size - mapping.offset);
        device.zero_part(addr, (end - size) as usize);
    }
}
