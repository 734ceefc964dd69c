// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a file is made of, whatever the format of its map.
//!
//! A file is a sequence of extents without holes. An extent is linear, one range of one device,
//! or interleaved: distributed in chunks, round robin, over several ranges, its strips.

use std::error;
use std::fmt;

use crate::wire::DEVICES_MAX;

/// A strip ends below this.
const DEVICE_END: u64 = 1 << 63;

/// A range of a device; its length follows from the extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Strip {
    /// Index of the device, as in GET_DAXDEV.
    pub device: u32,
    /// First byte on the device.
    pub offset: u64,
}

impl Strip {
    /// From byte `offset` of device `device` on.
    pub const fn new(device: u32, offset: u64) -> Self {
        Self { device, offset }
    }
}

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Extent {
    /// Bytes of the file.
    pub length: u64,
    /// Bytes in a row on one strip; 0 for a linear extent.
    pub chunk: u64,
    /// One if linear, else the strips in the order in which they get chunks.
    pub strips: Vec<Strip>,
}

impl Extent {
    /// `length` bytes of one device.
    pub fn linear(length: u64, device: u32, offset: u64) -> Self {
        Self {
            length,
            chunk: 0,
            strips: vec![Strip::new(device, offset)],
        }
    }

    /// `length` bytes distributed over `strips` in chunks of `chunk` bytes; with a chunk of 0
    /// and one strip it is linear.
    pub fn interleaved(length: u64, chunk: u64, strips: Vec<Strip>) -> Self {
        Self {
            length,
            chunk,
            strips,
        }
    }

    /// Bytes that each strip takes on its device: a whole number of chunks, or the
    /// length of a linear extent. `None` if there is no such number.
    pub fn strip_length(&self) -> Option<u64> {
        if self.chunk == 0 {
            return Some(self.length);
        }
        let row = self.chunk.checked_mul(self.strips.len() as u64)?;
        if row == 0 {
            return None;
        }
        self.length.div_ceil(row).checked_mul(self.chunk)
    }
}

/// Why extents make no map. Extents and strips are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A length, chunk or offset is no multiple of what the format requires.
    Unaligned {
        /// The extent.
        extent: usize,
        /// The required alignment.
        align: u64,
    },
    /// An extent of no bytes.
    Empty {
        /// The extent.
        extent: usize,
    },
    /// No strips, or more than one in a linear extent.
    StripCount {
        /// The extent.
        extent: usize,
    },
    /// A strip names a device that no mount can have.
    Device {
        /// The extent.
        extent: usize,
        /// The index.
        device: u32,
    },
    /// A strip reaches beyond the end of any device.
    BeyondDevice {
        /// The extent.
        extent: usize,
    },
    /// Two strips use the same bytes.
    Overlap {
        /// The extents of the two.
        extents: (usize, usize),
        /// The device.
        device: u32,
        /// A byte that both use.
        offset: u64,
    },
    /// The extents end before the file does, or a whole extent is behind its end.
    FileSize {
        /// Bytes that the extents map.
        mapped: u64,
    },
    /// The extents end before the file does.
    TooShort {
        /// Bytes that they map.
        mapped: u64,
    },
    /// More than the BPF program of the format `striped` holds.
    TooBig,
    /// More than the format `famfs` allows.
    TooMany,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unaligned { extent, align } => write!(
                f,
                "extent {extent}: lengths, chunks and offsets have to be multiples of {align}"
            ),
            Error::Empty { extent } => write!(f, "extent {extent} has no bytes"),
            Error::StripCount { extent } => write!(
                f,
                "extent {extent}: a linear extent has one strip, an interleaved one at least one"
            ),
            Error::Device { extent, device } => write!(
                f,
                "extent {extent}: device {device} is beyond the last possible one, {}",
                DEVICES_MAX - 1
            ),
            Error::BeyondDevice { extent } => {
                write!(f, "extent {extent} ends beyond the end of any device")
            }
            Error::Overlap {
                extents: (a, b),
                device,
                offset,
            } => {
                if a == b {
                    write!(f, "extent {a} uses")?;
                } else {
                    write!(f, "extents {a} and {b} both use")?;
                }
                write!(f, " byte {offset:#x} of device {device}")?;
                if a == b { write!(f, " twice") } else { Ok(()) }
            }
            Error::FileSize { mapped } => write!(
                f,
                "the extents hold {mapped} bytes, and the last byte of the file \
                 has to be in the last of them"
            ),
            Error::TooShort { mapped } => {
                write!(f, "the extents hold {mapped} bytes, and the file has more")
            }
            Error::TooBig => f.write_str(
                "too many extents and strips for the 64 KiB of metadata that a file may have, \
                 or 16 TiB and more in one file",
            ),
            Error::TooMany => f.write_str(
                "more extents, strips, bytes of map or bytes of file than the format famfs allows",
            ),
        }
    }
}

impl error::Error for Error {}

/// No next strip.
pub(crate) const END: u32 = u32::MAX;

/// A strip with what the table needs to know.
pub(crate) struct Placed {
    extent: usize,
    pub(crate) strip: Strip,
    pub(crate) length: u64,
    pub(crate) next: u32,
}

/// Returns the table of strips, in the order of the extents. `length` gives the length of the
/// strips of an extent.
pub(crate) fn place(
    extents: &[Extent],
    length: impl Fn(&Extent) -> Option<u64>,
) -> Result<Vec<Placed>, Error> {
    let mut table = Vec::new();

    for (at, extent) in extents.iter().enumerate() {
        let beyond = Error::BeyondDevice { extent: at };
        let length = length(extent).ok_or(beyond.clone())?;
        for &strip in &extent.strips {
            if strip.device >= DEVICES_MAX {
                return Err(Error::Device {
                    extent: at,
                    device: strip.device,
                });
            }
            let end = strip.offset.checked_add(length);
            if end.is_none_or(|end| end >= DEVICE_END) {
                return Err(beyond);
            }
            table.push(Placed {
                extent: at,
                strip,
                length,
                next: END,
            });
        }
    }
    Ok(table)
}

/// Links the strips by device and offset, and returns the first of the chain.
pub(crate) fn sort(table: &mut [Placed]) -> Result<u32, Error> {
    let mut order: Vec<usize> = (0..table.len()).collect();
    order.sort_by_key(|&at| (table[at].strip.device, table[at].strip.offset));

    for pair in order.windows(2) {
        let (a, b) = (&table[pair[0]], &table[pair[1]]);
        if a.strip.device == b.strip.device && a.strip.offset + a.length > b.strip.offset {
            return Err(Error::Overlap {
                extents: (a.extent.min(b.extent), a.extent.max(b.extent)),
                device: b.strip.device,
                offset: b.strip.offset,
            });
        }
        table[pair[0]].next = pair[1] as u32;
    }
    Ok(order.first().map_or(END, |&first| first as u32))
}
