// SPDX-License-Identifier: GPL-2.0
//! Where each file is on the devices.
//!
//! Space that the manifest names comes first: it must lie inside its device, and
//! no two files may name the same byte unless both are shared. Files with
//! `devices` then get what is free, in the order of the manifest, each strip the
//! first hole that it fits into, aligned to 2 MiB so that a fault can map as much.
//!
//! The same manifest on devices of the same size gives the same layout every time.
//! A change of the manifest can move the files with `devices` that follow it:
//! whoever wants to keep what is in a file names its extents.

use fuse_dax_fmap::striped::{self, Extent, Strip};

use crate::manifest::{Content, Error, File, Manifest, UNIT};

/// Where a file is.
#[derive(Debug)]
pub struct Placement {
    pub extents: Vec<Extent>,
    /// The same for the kernel's BPF program.
    pub map: Vec<u8>,
}

/// Where all files are, in the order of the manifest.
#[derive(Debug)]
pub struct Layout {
    pub files: Vec<Placement>,
    /// Bytes of all devices together, as far as they are known.
    pub capacity: u64,
    /// Bytes of them that belong to files.
    pub used: u64,
}

/// A piece of a device that belongs to a file.
#[derive(Clone, Copy)]
struct Taken {
    start: u64,
    end: u64,
    /// Index of the file.
    file: usize,
    /// The line of the manifest that says so.
    line: usize,
    shared: bool,
}

/// No device is larger, whatever a manifest says.
const DEVICE_MAX: u64 = i64::MAX as u64;

/// Places the files; `sizes` has the bytes of each device where they are known.
pub fn place(manifest: &Manifest, sizes: &[Option<u64>]) -> Result<Layout, Error> {
    let sizes: Vec<_> = sizes
        .iter()
        .map(|size| size.map(|size| size.min(DEVICE_MAX)))
        .collect();
    let sizes = sizes.as_slice();
    let mut taken: Vec<Vec<Taken>> = vec![Vec::new(); manifest.devices.len()];

    for (index, file) in manifest.files.iter().enumerate() {
        if let Content::Extents { extents, shared } = &file.content {
            for (extent, line) in extents {
                take(manifest, sizes, &mut taken, extent, index, *line, *shared)?;
            }
        }
    }
    for pieces in &mut taken {
        pieces.sort_by_key(|piece| piece.start);
        refuse_overlaps(manifest, pieces)?;
    }

    let mut files = Vec::new();
    for (index, file) in manifest.files.iter().enumerate() {
        let extents = match &file.content {
            Content::Extents { extents, .. } => {
                extents.iter().map(|(extent, _)| extent.clone()).collect()
            }
            Content::Striped { devices, chunk } => {
                find_room(manifest, sizes, &mut taken, index, devices, *chunk)?
            }
        };
        let map = striped::encode(file.size, &extents)
            .map_err(|error| Error::new(file.line, error.to_string()))?;
        files.push(Placement { extents, map });
    }

    Ok(Layout {
        files,
        capacity: sizes
            .iter()
            .flatten()
            .fold(0, |sum: u64, size| sum.saturating_add(*size)),
        used: taken.iter().map(|pieces| covered(pieces)).sum(),
    })
}

/// Enters an extent that the manifest names.
fn take(
    manifest: &Manifest,
    sizes: &[Option<u64>],
    taken: &mut [Vec<Taken>],
    extent: &Extent,
    file: usize,
    line: usize,
    shared: bool,
) -> Result<(), Error> {
    let length = extent.strip_length();
    for strip in &extent.strips {
        let index = strip.device as usize;
        let end = length.and_then(|length| strip.offset.checked_add(length));
        let limit = sizes[index].unwrap_or(DEVICE_MAX);
        let Some(end) = end.filter(|&end| end <= limit) else {
            return Err(Error::new(
                line,
                format!(
                    "the extent reaches beyond the {limit} bytes of device {:?}",
                    manifest.devices[index].name
                ),
            ));
        };
        taken[index].push(Taken {
            start: strip.offset,
            end,
            file,
            line,
            shared,
        });
    }
    Ok(())
}

/// Checks pieces, sorted by start, each against all that began before it and go on.
fn refuse_overlaps(manifest: &Manifest, pieces: &[Taken]) -> Result<(), Error> {
    let mut open: Vec<&Taken> = Vec::new();
    for piece in pieces {
        open.retain(|other| other.end > piece.start);
        for other in &open {
            if other.file == piece.file || !(other.shared && piece.shared) {
                let (first, second) = match other.line <= piece.line {
                    true => (*other, piece),
                    false => (piece, *other),
                };
                let name = manifest.files[first.file].path.join("/");
                return Err(Error::new(
                    second.line,
                    format!(
                        "the extent overlaps the one in line {} ({name}); only different \
                         files that all have `shared = true` may do that",
                        first.line
                    ),
                ));
            }
        }
        open.push(piece);
    }
    Ok(())
}

/// Finds space for a file with `devices`.
fn find_room(
    manifest: &Manifest,
    sizes: &[Option<u64>],
    taken: &mut [Vec<Taken>],
    index: usize,
    devices: &[usize],
    chunk: u64,
) -> Result<Vec<Extent>, Error> {
    let file = &manifest.files[index];
    if file.size == 0 {
        return Ok(Vec::new());
    }

    let too_big = || Error::new(file.line, "no devices are big enough for this file");
    let strips = vec![
        Strip {
            device: 0,
            offset: 0
        };
        devices.len()
    ];
    let mut extent = match devices.len() {
        1 => Extent::linear(round_up(file.size, UNIT).ok_or_else(too_big)?, 0, 0),
        _ => Extent::interleaved(
            round_up(file.size, chunk).ok_or_else(too_big)?,
            chunk,
            strips,
        ),
    };
    let room = extent
        .strip_length()
        .and_then(|length| round_up(length, UNIT))
        .ok_or_else(too_big)?;

    for (strip, &device) in extent.strips.iter_mut().zip(devices) {
        let start = first_hole(manifest, sizes, &taken[device], file, device, room)?;
        *strip = Strip {
            device: device as u32,
            offset: start,
        };
        let piece = Taken {
            start,
            end: start + room,
            file: index,
            line: file.line,
            shared: false,
        };
        let at = taken[device].partition_point(|other| other.start < start);
        taken[device].insert(at, piece);
    }
    Ok(vec![extent])
}

/// The first aligned hole of `room` bytes between pieces that are sorted by start.
fn first_hole(
    manifest: &Manifest,
    sizes: &[Option<u64>],
    pieces: &[Taken],
    file: &File,
    device: usize,
    room: u64,
) -> Result<u64, Error> {
    let name = &manifest.devices[device].name;
    let size = sizes[device].ok_or_else(|| {
        Error::new(
            manifest.devices[device].line,
            format!(
                "the size of device {name:?} is unknown ({} does not tell): give `size`, or \
                 name the extents of each file on it",
                manifest.devices[device].path.display()
            ),
        )
    })?;

    let mut start = 0;
    for piece in pieces {
        if piece.start.saturating_sub(start) >= room {
            break;
        }
        // Inside a device, so far from an overflow.
        start = start.max(piece.end.next_multiple_of(UNIT));
    }
    match start.checked_add(room) {
        Some(end) if end <= size => Ok(start),
        _ => Err(Error::new(
            file.line,
            format!("device {name:?} has no {room} bytes in a row left for this file"),
        )),
    }
}

/// Bytes under pieces that are sorted by start.
fn covered(pieces: &[Taken]) -> u64 {
    let mut sum = 0;
    let mut end = 0;
    for piece in pieces {
        sum += piece.end.saturating_sub(end.max(piece.start));
        end = end.max(piece.end);
    }
    sum
}

fn round_up(value: u64, unit: u64) -> Option<u64> {
    value.checked_next_multiple_of(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;

    const MIB: u64 = 1 << 20;

    fn layout(files: &str, sizes: &[Option<u64>]) -> Result<Layout, Error> {
        let mut text = String::new();
        for index in 0..sizes.len() {
            text += &format!("[[device]]\nname = \"{index}\"\npath = \"/dev/dax{index}.0\"\n");
        }
        place(&parse(&(text + files)).unwrap(), sizes)
    }

    fn striped(name: &str, size: u64, devices: &str) -> String {
        format!("[[file]]\npath = \"{name}\"\nsize = {size}\ndevices = {devices}\n")
    }

    fn linear(name: &str, device: u32, offset: u64, length: u64, more: &str) -> String {
        format!(
            "[[file]]\npath = \"{name}\"\n{more}\n[[file.extent]]\nlength = {length}\n\
             device = \"{device}\"\noffset = {offset}\n"
        )
    }

    fn strips(layout: &Layout, file: usize) -> Vec<(u32, u64)> {
        let extents = &layout.files[file].extents;
        extents
            .iter()
            .flat_map(|extent| extent.strips.iter().map(|s| (s.device, s.offset / MIB)))
            .collect()
    }

    #[test]
    fn files_fill_the_holes_in_order() {
        let files = [
            striped("a", 5 * MIB, "[\"0\"]"),
            linear("x", 0, 4 * MIB, MIB, ""),
            striped("b", 3 * MIB, "[\"0\", \"1\"]"),
            striped("c", 1, "[\"0\"]"),
            striped("empty", 0, "[\"0\"]"),
        ]
        .concat();
        let layout = layout(&files, &[Some(32 * MIB), Some(32 * MIB)]).unwrap();
        // 6 MiB do not fit below x, nor does anything between x's end and 6 MiB.
        assert_eq!(strips(&layout, 0), [(0, 6)]);
        assert_eq!(strips(&layout, 1), [(0, 4)]);
        assert_eq!(strips(&layout, 2), [(0, 0), (1, 0)]);
        assert_eq!(strips(&layout, 3), [(0, 2)]);
        assert_eq!(strips(&layout, 4), []);
        assert_eq!(layout.capacity, 64 * MIB);
        assert_eq!(layout.used, (6 + 1 + 2 + 2 + 2) * MIB);
    }

    #[test]
    fn a_device_is_used_to_its_end_and_no_further() {
        let fits = striped("a", 16 * MIB, "[\"0\", \"1\"]");
        assert!(layout(&fits, &[Some(8 * MIB), Some(8 * MIB)]).is_ok());
        for sizes in [[8 * MIB, 8 * MIB - 1], [8 * MIB - 1, 8 * MIB]] {
            let error = layout(&fits, &sizes.map(Some)).unwrap_err();
            assert_eq!(error.line, 8, "{error}");
        }
        // One byte more begins a row of chunks.
        let more = striped("a", 16 * MIB + 1, "[\"0\", \"1\"]");
        assert!(layout(&more, &[Some(8 * MIB), Some(8 * MIB)]).is_err());

        let named = linear("a", 0, 6 * MIB, 2 * MIB, "");
        assert!(layout(&named, &[Some(8 * MIB)]).is_ok());
        let error = layout(&named, &[Some(8 * MIB - 1)]).unwrap_err();
        assert_eq!(error.line, 8, "{error}");
        // Unknown is as big as it takes, but nothing is placed there.
        assert!(layout(&named, &[None]).is_ok());
        let error = layout(&striped("a", 1, "[\"0\"]"), &[None]).unwrap_err();
        assert_eq!(error.line, 1, "{error}");
        assert!(error.message.contains("unknown"), "{error}");
    }

    #[test]
    fn overlaps() {
        let size = &[Some(64 * MIB)];
        let pair = |shared_a, shared_b, offset| {
            let a = linear("a", 0, 0, 8 * MIB, shared_a);
            let b = linear("b", 0, offset, 2 * MIB, shared_b);
            layout(&(a + &b), size)
        };
        let shared = "shared = true";
        assert!(pair("", "", 8 * MIB).is_ok());
        let error = pair("", "", 8 * MIB - 4096).unwrap_err();
        assert_eq!(error.line, 15, "{error}");
        assert!(error.message.contains("line 8 (a)"), "{error}");
        assert!(pair(shared, "", 2 * MIB).is_err());
        assert!(pair("", shared, 2 * MIB).is_err());
        assert_eq!(pair(shared, shared, 2 * MIB).unwrap().used, 8 * MIB);

        // A long one under two short ones is not forgotten at the first.
        let three = [
            linear("a", 0, 0, 32 * MIB, shared),
            linear("b", 0, 0, 2 * MIB, shared),
            linear("c", 0, 16 * MIB, 2 * MIB, ""),
        ];
        assert!(layout(&three.concat(), size).is_err());

        // Not even a shared file may use a byte twice.
        let twice = linear("a", 0, 0, 4 * MIB, shared)
            + "[[file.extent]]\nlength = \"2M\"\ndevice = \"0\"\noffset = \"2M\"\n";
        assert_eq!(layout(&twice, size).unwrap_err().line, 12);
    }

    #[test]
    fn what_is_placed_never_overlaps() {
        // The encoder refuses overlaps inside a file, this looks across files.
        let mut files = String::new();
        for at in 0..40_u64 {
            let devices = ["[\"0\"]", "[\"1\", \"0\"]", "[\"2\", \"0\", \"1\"]"][at as usize % 3];
            files += &striped(&format!("f{at}"), at * 777_777 + 1, devices);
            if at % 5 == 0 {
                files += &linear(&format!("x{at}"), 1, at * 8 * MIB + 4096, 4096, "");
            }
        }
        let layout = layout(&files, &[Some(1 << 30); 3]).unwrap();
        let mut ranges: Vec<(u32, u64, u64)> = Vec::new();
        for placement in &layout.files {
            for extent in &placement.extents {
                let length = extent.strip_length().unwrap();
                for strip in &extent.strips {
                    ranges.push((strip.device, strip.offset, strip.offset + length));
                }
            }
        }
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert!(
                pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1,
                "{pair:x?}"
            );
        }
    }
}
