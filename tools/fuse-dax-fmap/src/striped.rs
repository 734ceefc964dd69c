// SPDX-License-Identifier: GPL-2.0
//! Encodes maps in the format `striped` (`bpf/striped.h`).
//!
//! A file is a row of extents without holes. An extent is linear, one range of one
//! device, or interleaved: dealt out in chunks over several ranges, its strips.
//!
//! [`encode()`] refuses whatever the BPF program would refuse, so that a server
//! learns it when it makes the map and not when somebody opens the file.

use std::error;
use std::fmt;

/// What a server names in INIT.
pub const OPS_NAME: &str = "striped";
/// Lengths, offsets and chunks are multiples of this.
pub const ALIGN: u64 = 4096;

const MAGIC: u32 = 0x5052_5453;
const VERSION: u16 = 1;
/// No next strip.
const END: u32 = u32::MAX;
const HEADER_LEN: usize = 32;
const EXTENT_LEN: usize = 24;
const STRIP_LEN: usize = 24;
/// The extents map less than this, and no chunk is as long.
const LENGTH_MAX: u64 = 16 << 40;
/// `STRIPED_META_MAX`, metadata of a file.
const META_MAX: u64 = 65_528;
/// `STRIPED_EXTENTS_MAX`.
const EXTENTS_MAX: usize = 3840;
/// A strip ends below this.
const DEVICE_END: u64 = 1 << 63;

/// A range of a device; its length follows from the extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strip {
    /// Index of the device, as in GET_DAXDEV.
    pub device: u32,
    /// First byte on the device.
    pub offset: u64,
}

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of the file.
    pub length: u64,
    /// Bytes in a row on one strip; 0 for a linear extent.
    pub chunk: u64,
    /// One if linear, else the strips in the order they are dealt to.
    pub strips: Vec<Strip>,
}

impl Extent {
    /// `length` bytes of one device.
    pub fn linear(length: u64, device: u32, offset: u64) -> Self {
        Self {
            length,
            chunk: 0,
            strips: vec![Strip { device, offset }],
        }
    }

    /// `length` bytes dealt over `strips` in pieces of `chunk`.
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
pub enum Error {
    /// A length, chunk or offset is no multiple of [`ALIGN`].
    Unaligned {
        /// Where.
        extent: usize,
    },
    /// An extent of no bytes.
    Empty {
        /// Where.
        extent: usize,
    },
    /// No strips, or more than one in a linear extent.
    StripCount {
        /// Where.
        extent: usize,
    },
    /// A strip names a device that no mount can have.
    Device {
        /// Where.
        extent: usize,
        /// The index.
        device: u32,
    },
    /// A strip reaches beyond the end of any device.
    BeyondDevice {
        /// Where.
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
    /// The extents end before the file does, or go on for a whole extent.
    FileSize {
        /// Bytes that the extents map.
        mapped: u64,
    },
    /// More than the BPF program holds.
    TooBig,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unaligned { extent } => write!(
                f,
                "extent {extent}: lengths, chunks and offsets have to be multiples of {ALIGN}"
            ),
            Error::Empty { extent } => write!(f, "extent {extent} has no bytes"),
            Error::StripCount { extent } => write!(
                f,
                "extent {extent}: a linear extent has one strip, an interleaved one at least one"
            ),
            Error::Device { extent, device } => write!(
                f,
                "extent {extent}: device {device} is beyond the last possible one, {}",
                crate::DEVICES_MAX - 1
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
            Error::TooBig => f.write_str(
                "too many extents and strips for the 64 KiB of metadata that a file may have, \
                 or 16 TiB and more in one file",
            ),
        }
    }
}

impl error::Error for Error {}

/// A strip with what the table needs to know.
struct Placed {
    extent: usize,
    strip: Strip,
    length: u64,
    next: u32,
}

/// The map of a file of `file_size` bytes.
///
/// What the extents hold beyond the file's end is unused room.
pub fn encode(file_size: u64, extents: &[Extent]) -> Result<Vec<u8>, Error> {
    let mapped = check_extents(extents)?;
    let before_last = mapped - extents.last().map_or(0, |last| last.length);
    let fits = match extents {
        [] => file_size == 0,
        _ => before_last < file_size && file_size <= mapped,
    };
    if !fits {
        return Err(Error::FileSize { mapped });
    }

    let mut strips = place(extents)?;
    let first = sort(&mut strips)?;

    let len = HEADER_LEN + EXTENT_LEN * extents.len() + STRIP_LEN * strips.len();
    let mut blob = Vec::with_capacity(len);
    blob.extend(MAGIC.to_le_bytes());
    blob.extend(VERSION.to_le_bytes());
    blob.extend([0; 2]);
    blob.extend(file_size.to_le_bytes());
    blob.extend((extents.len() as u32).to_le_bytes());
    blob.extend((strips.len() as u32).to_le_bytes());
    blob.extend(first.to_le_bytes());
    blob.extend([0; 4]);
    for extent in extents {
        blob.extend(extent.length.to_le_bytes());
        blob.extend(extent.chunk.to_le_bytes());
        blob.extend((extent.strips.len() as u32).to_le_bytes());
        blob.extend([0; 4]);
    }
    for placed in &strips {
        blob.extend(placed.strip.offset.to_le_bytes());
        blob.extend(placed.length.to_le_bytes());
        blob.extend(placed.strip.device.to_le_bytes());
        blob.extend(placed.next.to_le_bytes());
    }
    Ok(blob)
}

/// Checks each extent alone and the limits of all; returns what they hold.
fn check_extents(extents: &[Extent]) -> Result<u64, Error> {
    let mut mapped = 0_u64;
    let mut nr_strips = 0_u64;

    for (at, extent) in extents.iter().enumerate() {
        if extent.length == 0 {
            return Err(Error::Empty { extent: at });
        }
        let aligned = |value: u64| value % ALIGN == 0;
        if !aligned(extent.length)
            || !aligned(extent.chunk)
            || !extent.strips.iter().all(|strip| aligned(strip.offset))
        {
            return Err(Error::Unaligned { extent: at });
        }
        if extent.strips.is_empty() || (extent.chunk == 0 && extent.strips.len() != 1) {
            return Err(Error::StripCount { extent: at });
        }
        if extent.chunk >= LENGTH_MAX {
            return Err(Error::TooBig);
        }
        mapped = mapped.checked_add(extent.length).ok_or(Error::TooBig)?;
        nr_strips += extent.strips.len() as u64;
    }

    if mapped >= LENGTH_MAX
        || extents.len() > EXTENTS_MAX
        || meta_size(extents.len() as u64, nr_strips) > META_MAX
    {
        return Err(Error::TooBig);
    }
    Ok(mapped)
}

/// `STRIPED_META_SIZE()`.
fn meta_size(extents: u64, strips: u64) -> u64 {
    64 + 17 * 64 + 192 * extents.div_ceil(15) + 8 * strips.min(2 * (strips - extents))
}

/// The table of strips, in the order of the extents.
fn place(extents: &[Extent]) -> Result<Vec<Placed>, Error> {
    let mut table = Vec::new();

    for (at, extent) in extents.iter().enumerate() {
        let beyond = Error::BeyondDevice { extent: at };
        let length = extent.strip_length().ok_or(beyond.clone())?;
        for &strip in &extent.strips {
            if strip.device >= crate::DEVICES_MAX {
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

/// Chains the strips by device and offset, returns the first of the chain.
fn sort(table: &mut [Placed]) -> Result<u32, Error> {
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
