// SPDX-License-Identifier: MIT OR Apache-2.0
//! Maps in the format `striped` (`bpf/striped.h`), written and read.
//!
//! [`encode()`] rejects whatever the BPF program would reject, so that a server gets the
//! error when it makes the map, and not a user at open(2). [`decode()`] accepts what the
//! BPF program accepts, and nothing else: for a server that stores maps, and for tools
//! that show what a server sent.

use std::error;
use std::fmt;

pub use crate::extent::{Error, Extent, Strip};
use crate::extent::{place, sort};
use crate::wire::{u32_at, u64_at};

/// What a server names in INIT.
pub const OPS_NAME: &str = "striped";
/// Lengths, offsets and chunks are multiples of this.
pub const ALIGN: u64 = 4096;

const MAGIC: u32 = 0x5052_5453;
const VERSION: u16 = 1;
const HEADER_LEN: usize = 32;
const EXTENT_LEN: usize = 24;
const STRIP_LEN: usize = 24;
/// The extents map less than this, and no chunk is as long.
const LENGTH_MAX: u64 = 16 << 40;
/// `STRIPED_META_MAX`, metadata of a file.
const META_MAX: u64 = 65_528;
/// `STRIPED_EXTENTS_MAX`.
const EXTENTS_MAX: usize = 3840;

/// A decoded map.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Map {
    /// Bytes of the file.
    pub file_size: u64,
    /// Where they are.
    pub extents: Vec<Extent>,
}

/// Why bytes are no map.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Another format: the magic number is not that of this one.
    Magic,
    /// A version that is not known here.
    Version(u16),
    /// More or fewer bytes than the header says.
    Size {
        /// What it says.
        expected: u64,
    },
    /// A field that has to be 0 is not.
    Reserved {
        /// The byte at which it begins.
        at: usize,
    },
    /// The extents do not use all strips, or more than there are.
    StripCount,
    /// The length of a strip does not follow from its extent.
    StripLength {
        /// Its index, counted from 0.
        strip: usize,
    },
    /// The chain does not lead through all strips in the order of devices and offsets.
    Chain,
    /// The extents make no map.
    Extents(Error),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Magic => f.write_str("this is no map of the format striped"),
            DecodeError::Version(version) => write!(
                f,
                "the map is of version {version} of the format striped, not {VERSION}"
            ),
            DecodeError::Size { expected } => {
                write!(f, "the map has to have {expected} bytes, by its header")
            }
            DecodeError::Reserved { at } => {
                write!(f, "the field at byte {at} of the map has to be 0")
            }
            DecodeError::StripCount => {
                f.write_str("the extents of the map have to use each of its strips once")
            }
            DecodeError::StripLength { strip } => write!(
                f,
                "strip {strip} of the map is longer or shorter than its extent needs"
            ),
            DecodeError::Chain => f.write_str(
                "the chain of the map has to lead through its strips by device and offset",
            ),
            DecodeError::Extents(error) => error.fmt(f),
        }
    }
}

impl error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            DecodeError::Extents(error) => Some(error),
            _ => None,
        }
    }
}

/// Decodes a map.
///
/// It accepts only maps that [`encode()`] makes of the result, byte for byte.
pub fn decode(map: &[u8]) -> Result<Map, DecodeError> {
    let short = DecodeError::Size {
        expected: HEADER_LEN as u64,
    };
    let word = |at| u32_at(map, at).ok_or(short.clone());
    let long = |at| u64_at(map, at).ok_or(short.clone());
    let zero = |at| match word(at)? {
        0 => Ok(()),
        _ => Err(DecodeError::Reserved { at }),
    };

    if map.len() < HEADER_LEN {
        return Err(short);
    }
    if word(0)? != MAGIC {
        return Err(DecodeError::Magic);
    }
    let [a, b, reserved @ ..] = word(4)?.to_le_bytes();
    match u16::from_le_bytes([a, b]) {
        VERSION if reserved == [0, 0] => (),
        VERSION => return Err(DecodeError::Reserved { at: 6 }),
        version => return Err(DecodeError::Version(version)),
    }
    let (file_size, nr_extents, nr_strips) = (long(8)?, word(16)?, word(20)?);
    zero(28)?;
    let expected = HEADER_LEN as u64
        + EXTENT_LEN as u64 * u64::from(nr_extents)
        + STRIP_LEN as u64 * u64::from(nr_strips);
    if map.len() as u64 != expected {
        return Err(DecodeError::Size { expected });
    }

    let (nr_extents, mut left) = (nr_extents as usize, nr_strips as usize);
    let mut strip = HEADER_LEN + EXTENT_LEN * nr_extents;
    let mut extents = Vec::with_capacity(nr_extents);
    for at in (HEADER_LEN..).step_by(EXTENT_LEN).take(nr_extents) {
        let n = word(at + 16)? as usize;
        zero(at + 20)?;
        left = left.checked_sub(n).ok_or(DecodeError::StripCount)?;
        let mut strips = Vec::with_capacity(n);
        for _ in 0..n {
            strips.push(Strip::new(word(strip + 16)?, long(strip)?));
            strip += STRIP_LEN;
        }
        extents.push(Extent::interleaved(long(at)?, long(at + 8)?, strips));
    }
    if left != 0 {
        return Err(DecodeError::StripCount);
    }

    // What is left follows from the extents: the length of each strip, and the chain.
    let whole = encode(file_size, &extents).map_err(DecodeError::Extents)?;
    let table = HEADER_LEN + EXTENT_LEN * nr_extents;
    let length = |strip: usize| {
        let at = table + STRIP_LEN * strip + 8;
        at..at + 8
    };
    if let Some(strip) =
        (0..nr_strips as usize).find(|&strip| map[length(strip)] != whole[length(strip)])
    {
        return Err(DecodeError::StripLength { strip });
    }
    if map != whole {
        return Err(DecodeError::Chain);
    }
    Ok(Map { file_size, extents })
}

/// The map of a file of `file_size` bytes.
///
/// Bytes of the extents beyond the end of the file are unused.
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

    let mut strips = place(extents, Extent::strip_length)?;
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
            return Err(Error::Unaligned {
                extent: at,
                align: ALIGN,
            });
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
