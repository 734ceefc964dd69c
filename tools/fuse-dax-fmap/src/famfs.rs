// SPDX-License-Identifier: MIT OR Apache-2.0
//! Maps in the format of famfs (`bpf/famfs.h`), written.
//!
//! A map is a list of linear extents, or of interleaved ones, each followed by its strips.
//! Where a file has both, a linear extent is written as an interleaved one with one strip.
//!
//! The format has two versions ([`Format`]), which differ in one field and in how long a list
//! may be. In the newer one, a server whose map does not fit in the buffer answers the first
//! [`HEADER_LEN`] bytes, whose length field has the size of the map. A server with this crate
//! need not: [`Accepted::intercept()`](crate::Accepted::intercept) answers ERANGE, and the
//! kernel asks again.
//!
//! This module rejects what the rules of the format do not allow. Only the BPF program knows
//! if a list of many extents fits in the metadata that a file may have.

pub use crate::extent::{Error, Extent, Strip};
use crate::extent::{Placed, place, sort};
use crate::wire::BLOB_MAX;

/// What a server would name in INIT. famfs's own names none: its ops are the module's
/// `default_ops`.
pub const OPS_NAME: &str = "famfs";
/// Offsets and chunks are multiples of this, and lengths but for the last one.
pub const ALIGN: u64 = 2 << 20;
/// Bytes of the header.
pub const HEADER_LEN: usize = 32;
/// Bytes of an extent, and of a strip.
const ENTRY_LEN: usize = 24;

const VERSION: u16 = 1;
const SIMPLE: u32 = 0;
const INTERLEAVED: u32 = 1;
/// Extents in a map, but for the long lists of [`Format::Next`].
const EXTENTS_MAX: usize = 32;
/// Strips of an extent.
const STRIPS_MAX: usize = 32;
/// Bytes of a map, but for those lists.
const MAP_MAX: usize = 4096;
/// The extents map less than this.
const LENGTH_MAX: u64 = 16 << 40;

/// The version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Revisions up to 10 of famfs for FUSE: the length field is 0, and a map has up to 32
    /// extents.
    V10,
    /// What follows them: the length field says how long the map is. A list of linear extents
    /// may be as long as a map can be ([`BLOB_MAX`]), and the last of them
    /// may end with the file.
    Next,
}

/// The map of a file of `file_size` bytes.
///
/// Bytes of the extents beyond the end of the file are unused.
pub fn encode(file_size: u64, extents: &[Extent], format: Format) -> Result<Vec<u8>, Error> {
    let simple = extents.iter().all(|extent| extent.chunk == 0);
    let entries = extents.iter().map(|extent| match simple {
        true => 1,
        false => 1 + extent.strips.len(),
    });
    let len = HEADER_LEN + ENTRY_LEN * entries.sum::<usize>();
    let fits = match format {
        Format::Next if simple => len <= BLOB_MAX as usize,
        _ => extents.len() <= EXTENTS_MAX && len <= MAP_MAX,
    };
    if !fits {
        return Err(Error::TooMany);
    }
    check_extents(file_size, extents, simple, format)?;
    let mut strips = place(extents, |extent| strip_length(extent, simple))?;
    sort(&mut strips)?;

    let length_field = match format {
        Format::V10 => 0,
        Format::Next => len as u32,
    };
    let mut map = Vec::with_capacity(len);
    map.extend([0; 2]);
    map.extend(VERSION.to_le_bytes());
    map.extend(if simple { SIMPLE } else { INTERLEAVED }.to_le_bytes());
    map.extend((extents.len() as u32).to_le_bytes());
    map.extend(length_field.to_le_bytes());
    map.extend(file_size.to_le_bytes());
    map.extend([0; 8]);
    let mut strips = strips.iter();
    for extent in extents {
        if !simple {
            map.extend((extent.strips.len() as u32).to_le_bytes());
            map.extend((chunk(extent) as u32).to_le_bytes());
            map.extend(extent.length.to_le_bytes());
            map.extend([0; 8]);
        }
        for Placed { strip, length, .. } in strips.by_ref().take(extent.strips.len()) {
            map.extend(strip.device.to_le_bytes());
            map.extend([0; 4]);
            map.extend(strip.offset.to_le_bytes());
            map.extend(length.to_le_bytes());
        }
    }
    Ok(map)
}

/// Checks each extent alone, and what all of them hold.
fn check_extents(
    file_size: u64,
    extents: &[Extent],
    simple: bool,
    format: Format,
) -> Result<(), Error> {
    let mut mapped = 0_u64;

    for (at, extent) in extents.iter().enumerate() {
        if extent.length == 0 {
            return Err(Error::Empty { extent: at });
        }
        mapped = mapped.checked_add(extent.length).ok_or(Error::TooMany)?;
        let cut = at + 1 == extents.len()
            && match (simple, format) {
                (false, _) => true,
                (true, Format::V10) => false,
                (true, Format::Next) => mapped == file_size,
            };
        let aligned = |value: u64| value % ALIGN == 0;
        if !(aligned(extent.length) || cut)
            || !aligned(extent.chunk)
            || !extent.strips.iter().all(|strip| aligned(strip.offset))
        {
            return Err(Error::Unaligned {
                extent: at,
                align: ALIGN,
            });
        }
        if extent.strips.is_empty() || (extent.chunk == 0 && extent.strips.len() != 1) {
            return Err(Error::StripCount { extent: at });
        }
        if extent.strips.len() > STRIPS_MAX || u32::try_from(extent.chunk).is_err() {
            return Err(Error::TooMany);
        }
    }
    // What is mapped ends with a page.
    if mapped.next_multiple_of(4096) >= LENGTH_MAX {
        return Err(Error::TooMany);
    }
    if mapped < file_size {
        return Err(Error::TooShort { mapped });
    }
    Ok(())
}

/// Bytes in a row on one strip, where linear extents are interleaved ones.
fn chunk(extent: &Extent) -> u64 {
    match extent.chunk {
        0 => ALIGN,
        chunk => chunk,
    }
}

/// Bytes that each strip takes.
fn strip_length(extent: &Extent, simple: bool) -> Option<u64> {
    if simple {
        return Some(extent.length);
    }
    let row = chunk(extent).checked_mul(extent.strips.len() as u64)?;
    extent.length.div_ceil(row).checked_mul(chunk(extent))
}
