// SPDX-License-Identifier: GPL-2.0
//! Where each file is on the devices.
//!
//! A file that has been placed stays where it is; the record says where.
//!
//! | the file is              | its space                                                 |
//! |--------------------------|-----------------------------------------------------------|
//! | with extents             | what it names; if it is recorded, it has to be that place |
//! | with `devices`, recorded | what is recorded; more of it if the file has grown        |
//! | with `devices`           | the first holes that it fits into                         |
//! | recorded, and gone       | what is recorded: it is kept for the file to come back    |
//!
//! Holes are aligned to 2 MiB, so that a fault can map as much.
//! No two of them may have the same byte, unless both are shared. A file that has
//! shrunk keeps the rest of its space. A file that has another name is another file,
//! except if it names just the extents that the old one had.
//!
//! A manifest that contradicts the record is an error. With `--reallocate` it is not: the
//! space of files that are gone is freed, and a file that cannot stay is placed as if it
//! were new.

use std::collections::HashMap;

use fuse_dax_fmap::striped::{self, Extent, Strip};

use crate::device;
use crate::manifest::{Content, Error, File, Manifest, UNIT};
use crate::record::{self, Piece, Record, Space, merged};

/// Where a file is.
#[derive(Debug)]
pub struct Placement {
    pub extents: Vec<Extent>,
    /// The same in the format of the BPF program.
    pub map: Vec<u8>,
}

/// Where all files are, in the order of the manifest.
#[derive(Debug)]
pub struct Layout {
    pub files: Vec<Placement>,
    /// Bytes of all devices together, as far as they are known.
    pub capacity: u64,
    /// Bytes of them that belong to files, of the manifest or gone.
    pub used: u64,
    /// What is to be recorded. Its first devices are those of the manifest.
    pub record: Record,
    /// What the mounter should know, a sentence each.
    pub notes: Vec<String>,
}

/// The record of earlier mounts.
pub struct Past<'a> {
    pub record: &'a Record,
    /// How messages call the record.
    pub name: &'a str,
    /// Files may be placed anew.
    pub reallocate: bool,
}

/// A piece of a device that belongs to a file.
#[derive(Clone, Copy)]
struct Taken {
    start: u64,
    end: u64,
    owner: Owner,
    /// The line that says so: of the manifest, or of the record if the file is gone.
    line: usize,
    shared: bool,
}

/// A file of the manifest, or one that is only recorded, by index.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Named(usize),
    Found(usize),
    Gone(usize),
}

/// No device is larger, whatever a manifest says.
const DEVICE_MAX: u64 = i64::MAX as u64;

/// Places the files as if for the first time.
#[cfg(test)]
pub fn place(manifest: &Manifest, sizes: &[Option<u64>]) -> Result<Layout, Error> {
    let past = Past {
        record: &Record::default(),
        name: "",
        reallocate: false,
    };
    place_beside(manifest, sizes, &past)
}

/// Places the files; `sizes` has the bytes of each device where they are known.
pub fn place_beside(
    manifest: &Manifest,
    sizes: &[Option<u64>],
    past: &Past<'_>,
) -> Result<Layout, Error> {
    let sizes: Vec<_> = sizes
        .iter()
        .map(|size| size.map(|size| size.min(DEVICE_MAX)))
        .collect();
    let sizes = sizes.as_slice();
    let devices = same_devices(manifest, past)?;
    let here = |piece: &Piece| on_devices(piece, &devices);

    // What each file has had until now.
    let names: Vec<String> = manifest
        .files
        .iter()
        .map(|file| file.path.join("/"))
        .collect();
    let mut gone: Vec<usize> = Vec::new();
    let mut had: Vec<Option<&record::File>> = vec![None; names.len()];
    let index: HashMap<&str, usize> = names.iter().map(String::as_str).zip(0..).collect();
    for (at, old) in past.record.files.iter().enumerate() {
        match index.get(old.path.as_str()) {
            Some(&file) => had[file] = Some(old),
            None if old.pieces.is_empty() => (),
            None => gone.push(at),
        }
    }
    let mut kept: Vec<Vec<Piece>> = vec![Vec::new(); names.len()];
    let mut renamed = Vec::new();
    for (index, file) in manifest.files.iter().enumerate() {
        match (&file.content, had[index]) {
            (Content::Striped { devices, chunk }, Some(old)) => {
                match usable(
                    manifest,
                    file,
                    old,
                    &old.pieces,
                    here,
                    devices,
                    *chunk,
                    past,
                ) {
                    Ok(pieces) => kept[index] = pieces,
                    Err(_) if past.reallocate => (),
                    Err(error) => return Err(error),
                }
            }
            (Content::Striped { .. }, None) => (),
            (Content::Extents { extents, .. }, Some(old)) => {
                let before: Option<Vec<_>> = old.pieces.iter().map(here).collect();
                let upto = old.size.min(file.size);
                let stays = before.is_some_and(|before| same_place(&before, extents, upto));
                if !stays && !past.reallocate {
                    return Err(Error::new(
                        file.line,
                        format!(
                            "these extents are not where {} is recorded ({}:{}), and its data \
                             would be left behind; --reallocate does that",
                            names[index], past.name, old.line
                        ),
                    ));
                }
            }
            (Content::Extents { extents, .. }, None) => {
                // The same extents under another name: the file was renamed.
                let same = gone.iter().position(|&at| {
                    let old = &past.record.files[at];
                    let before: Option<Vec<_>> = old.pieces.iter().map(here).collect();
                    old.size == file.size
                        && file.size != 0
                        && before.is_some_and(|before| same_place(&before, extents, file.size))
                });
                if let Some(same) = same {
                    let old = &past.record.files[gone.remove(same)];
                    renamed.push((old.path.clone(), names[index].clone()));
                }
            }
        }
    }
    if past.reallocate {
        gone.clear();
    }

    let mut taken: Vec<Vec<Taken>> = vec![Vec::new(); manifest.devices.len()];
    for (index, file) in manifest.files.iter().enumerate() {
        if let Content::Extents { extents, shared } = &file.content {
            for (extent, line) in extents {
                let owner = Owner::Named(index);
                take(manifest, sizes, &mut taken, extent, owner, *line, *shared)?;
            }
        }
    }
    for (index, pieces) in kept.iter_mut().enumerate() {
        let lost = |piece: &Piece| hits(&piece.extent, &taken) || !inside(&piece.extent, sizes);
        if past.reallocate && pieces.iter().any(lost) {
            // The manifest names its space for another file, or the space does not exist any
            // more.
            pieces.clear();
        }
        for piece in pieces.iter() {
            let line = manifest.files[index].line;
            let owner = Owner::Found(index);
            take(
                manifest,
                sizes,
                &mut taken,
                &piece.extent,
                owner,
                line,
                false,
            )?;
        }
    }
    for &at in &gone {
        let old = &past.record.files[at];
        let shared = old.space == Space::Shared;
        for piece in &old.pieces {
            reserve(&mut taken, &piece.extent, &devices, at, old.line, shared);
        }
    }
    for pieces in &mut taken {
        pieces.sort_by_key(|piece| piece.start);
        refuse_overlaps(manifest, past, pieces)?;
    }

    let mut files = Vec::new();
    let mut recorded = Vec::new();
    for (index, file) in manifest.files.iter().enumerate() {
        let (space, pieces, extents) = match &file.content {
            Content::Extents { extents, shared } => {
                let extents: Vec<_> = extents.iter().map(|(extent, _)| extent.clone()).collect();
                let old = |extent| Piece { extent, new: false };
                let pieces = extents.iter().cloned().map(old).collect();
                let space = if *shared { Space::Shared } else { Space::Named };
                (space, pieces, extents)
            }
            Content::Striped { devices, chunk } => {
                let mut pieces = std::mem::take(&mut kept[index]);
                let room = Room {
                    manifest,
                    sizes,
                    past,
                    index,
                };
                room.find(&mut taken, &mut pieces, devices, *chunk)?;
                let extents = trimmed(&pieces, file.size);
                (Space::Found, pieces, extents)
            }
        };
        let map = striped::encode(file.size, &extents)
            .map_err(|error| Error::new(file.line, error.to_string()))?;
        files.push(Placement { extents, map });
        recorded.push(record::File {
            path: names[index].clone(),
            size: file.size,
            space,
            pieces,
            line: 0,
        });
    }

    let small = note_small(&recorded);
    let mut times = past.record.times.clone();
    for (from, to) in renamed {
        if let Some(moved) = times.remove(&from) {
            times.insert(to, moved);
        }
    }
    let mut record = Record {
        devices: manifest
            .devices
            .iter()
            .map(|device| record::Device {
                name: device.name.clone(),
                path: device.path.clone(),
                id: device.id.clone(),
            })
            .collect(),
        files: recorded,
        times,
    };
    keep_gone(&mut record, past, &devices, &gone);

    Ok(Layout {
        files,
        capacity: sizes
            .iter()
            .flatten()
            .fold(0, |sum: u64, size| sum.saturating_add(*size)),
        used: used(&taken),
        record,
        notes: note_gone(past, &gone).into_iter().chain(small).collect(),
    })
}

/// Which device of the manifest each recorded device is, if it is one of them.
///
/// It is an error if a name means another device than before and files are there: they would
/// have the bytes of other files.
fn same_devices(manifest: &Manifest, past: &Past<'_>) -> Result<Vec<Option<usize>>, Error> {
    let mut same = Vec::new();
    for (at, old) in past.record.devices.iter().enumerate() {
        let by_name = manifest.devices.iter().position(|new| new.name == old.name);
        let Some(index) = by_name else {
            // It may have another name now.
            let is_old = |new: &crate::manifest::Device| new.id.is_some() && new.id == old.id;
            let known = |new: &crate::manifest::Device| {
                past.record.devices.iter().any(|old| old.name == new.name)
            };
            same.push(
                manifest
                    .devices
                    .iter()
                    .position(|new| is_old(new) && !known(new)),
            );
            continue;
        };
        let new = &manifest.devices[index];
        let is_same = match (&old.id, &new.id) {
            (Some(old), Some(new)) => old == new,
            // The manifest is checked on another machine, or without the rights to read ids.
            _ => old.path == new.path || new.path.as_os_str().is_empty(),
        };
        if is_same {
            same.push(Some(index));
            continue;
        }
        let on_it = |file: &&record::File| {
            let strips = |piece: &Piece| piece.extent.strips.iter().any(|s| s.device == at as u32);
            file.pieces.iter().any(strips)
        };
        let files = past.record.files.iter().filter(on_it).count();
        if files != 0 && !past.reallocate {
            let shown = new.path.display();
            let is = new.id.as_deref().unwrap_or("of unknown identity");
            let was = match &old.id {
                Some(id) => format!("{id}{}", device::now_at(id)),
                None => old.path.display().to_string(),
            };
            return Err(Error::new(
                new.line,
                format!(
                    "device {:?} ({shown}) is {is}, and {} placed on {was} ({}); name that \
                     one, or give up what is on it with --reallocate",
                    new.name,
                    match files {
                        1 => "1 file was".to_owned(),
                        n => format!("{n} files were"),
                    },
                    past.name
                ),
            ));
        }
        same.push(None);
    }
    Ok(same)
}

/// A piece of the record on the devices of the manifest; none if one of them is not there.
fn on_devices(piece: &Piece, devices: &[Option<usize>]) -> Option<Piece> {
    let mut piece = piece.clone();
    for strip in &mut piece.extent.strips {
        strip.device = (*devices.get(strip.device as usize)?)? as u32;
    }
    Some(piece)
}

/// The recorded pieces of a file with `devices`, if they are what it asks for.
#[expect(clippy::too_many_arguments, reason = "two files and where they are")]
fn usable(
    manifest: &Manifest,
    file: &File,
    old: &record::File,
    pieces: &[Piece],
    here: impl Fn(&Piece) -> Option<Piece>,
    devices: &[usize],
    chunk: u64,
    past: &Past<'_>,
) -> Result<Vec<Piece>, Error> {
    let refused = |what: &str| {
        Error::new(
            file.line,
            format!(
                "{} is recorded {what} ({}:{}), and its data would be left behind; \
                 --reallocate does that",
                file.path.join("/"),
                past.name,
                old.line
            ),
        )
    };
    let mut usable = Vec::new();
    for piece in pieces {
        let Some(piece) = here(piece) else {
            let of = |strip: &Strip| past.record.devices.get(strip.device as usize);
            let names: Vec<_> = piece.extent.strips.iter().filter_map(of).collect();
            let names: Vec<_> = names.iter().map(|device| device.name.as_str()).collect();
            return Err(refused(&format!("on {}", names.join(", "))));
        };
        let strips = &piece.extent.strips;
        if !strips
            .iter()
            .map(|strip| strip.device as usize)
            .eq(devices.iter().copied())
        {
            let name = |strip: &Strip| manifest.devices[strip.device as usize].name.as_str();
            let names: Vec<_> = strips.iter().map(name).collect();
            return Err(refused(&format!("on {}, in this order", names.join(", "))));
        }
        if strips.len() > 1 && piece.extent.chunk != chunk {
            return Err(refused(&format!(
                "in chunks of {} bytes",
                piece.extent.chunk
            )));
        }
        usable.push(piece);
    }
    Ok(usable)
}

/// Returns true if the first `upto` bytes of a file are in the same place, as far as both
/// go.
fn same_place(before: &[Piece], now: &[(Extent, usize)], upto: u64) -> bool {
    let before = merged(before.iter().map(|piece| &piece.extent));
    let now = merged(now.iter().map(|(extent, _)| extent));
    let mut at = 0_u64;
    for (a, b) in before.iter().zip(&now) {
        if at >= upto {
            break;
        }
        if (a.chunk, &a.strips) != (b.chunk, &b.strips) {
            return false;
        }
        at = at.saturating_add(a.length.min(b.length));
        if a.length != b.length {
            break;
        }
    }
    at >= upto
}

/// Returns true if a strip of the extent overlaps space in `taken`, which is sorted by
/// start.
fn hits(extent: &Extent, taken: &[Vec<Taken>]) -> bool {
    let length = extent.strip_length().unwrap_or_default();
    extent.strips.iter().any(|strip| {
        let end = strip.offset.saturating_add(length);
        let mut pieces = taken[strip.device as usize].iter();
        pieces.any(|piece| piece.start < end && strip.offset < piece.end)
    })
}

/// Returns true if the devices are long enough for an extent.
fn inside(extent: &Extent, sizes: &[Option<u64>]) -> bool {
    extent.strips.iter().all(|strip| {
        let end = extent
            .strip_length()
            .and_then(|length| strip.offset.checked_add(length));
        end.is_some_and(|end| end <= sizes[strip.device as usize].unwrap_or(DEVICE_MAX))
    })
}

/// Enters an extent of a file of the manifest.
fn take(
    manifest: &Manifest,
    sizes: &[Option<u64>],
    taken: &mut [Vec<Taken>],
    extent: &Extent,
    owner: Owner,
    line: usize,
    shared: bool,
) -> Result<(), Error> {
    let length = extent.strip_length();
    for strip in &extent.strips {
        let index = strip.device as usize;
        let end = length.and_then(|length| strip.offset.checked_add(length));
        let limit = sizes[index].unwrap_or(DEVICE_MAX);
        let Some(end) = end.filter(|&end| end <= limit) else {
            let what = match owner {
                Owner::Named(_) => "the extent reaches",
                _ => "the recorded space of this file reaches",
            };
            return Err(Error::new(
                line,
                format!(
                    "{what} beyond the {limit} bytes of device {:?}",
                    manifest.devices[index].name
                ),
            ));
        };
        taken[index].push(Taken {
            start: strip.offset,
            end,
            owner,
            line,
            shared,
        });
    }
    Ok(())
}

/// Enters an extent of a file that is gone, where its devices are there.
fn reserve(
    taken: &mut [Vec<Taken>],
    extent: &Extent,
    devices: &[Option<usize>],
    gone: usize,
    line: usize,
    shared: bool,
) {
    let length = extent.strip_length().unwrap_or_default();
    for strip in &extent.strips {
        if let Some(Some(index)) = devices.get(strip.device as usize) {
            taken[*index].push(Taken {
                start: strip.offset,
                end: strip.offset.saturating_add(length).min(DEVICE_MAX),
                owner: Owner::Gone(gone),
                line,
                shared,
            });
        }
    }
}

/// Checks pieces, sorted by start, each against all that began before it and go on.
fn refuse_overlaps(manifest: &Manifest, past: &Past<'_>, pieces: &[Taken]) -> Result<(), Error> {
    let mut open: Vec<&Taken> = Vec::new();
    for piece in pieces {
        open.retain(|other| other.end > piece.start);
        for other in &open {
            if other.owner == piece.owner || !(other.shared && piece.shared) {
                if let Some(error) = overlap(manifest, past, other, piece) {
                    return Err(error);
                }
            }
        }
        open.push(piece);
    }
    Ok(())
}

/// What is wrong with two pieces that overlap; nothing if both are of files that are gone.
fn overlap(manifest: &Manifest, past: &Past<'_>, a: &Taken, b: &Taken) -> Option<Error> {
    let name = |index: usize| manifest.files[index].path.join("/");
    let in_order = match a.line <= b.line {
        true => (a, b),
        false => (b, a),
    };
    let (line, message) = match (a.owner, b.owner) {
        (Owner::Gone(_), Owner::Gone(_)) => return None,
        (Owner::Gone(old), Owner::Named(_) | Owner::Found(_))
        | (Owner::Named(_) | Owner::Found(_), Owner::Gone(old)) => {
            let line = match a.owner {
                Owner::Gone(_) => b.line,
                _ => a.line,
            };
            let old = &past.record.files[old];
            let message = format!(
                "the extent overlaps the space of {}, which is gone from the manifest but \
                 recorded ({}:{}); --reallocate gives that up",
                old.path, past.name, old.line
            );
            (line, message)
        }
        (Owner::Named(first), Owner::Named(second)) => {
            let file = if a.line <= b.line { first } else { second };
            let message = format!(
                "the extent overlaps the one in line {} ({}); only different files that all \
                 have `shared = true` may do that",
                in_order.0.line,
                name(file)
            );
            (in_order.1.line, message)
        }
        (Owner::Named(_), Owner::Found(file)) | (Owner::Found(file), Owner::Named(_)) => {
            let (named, found) = match a.owner {
                Owner::Named(_) => (a, b),
                _ => (b, a),
            };
            let message = format!(
                "the extent overlaps the space that {} (line {}) has got ({}); --reallocate \
                 places that file anew and gives up its data",
                name(file),
                found.line,
                past.name
            );
            (named.line, message)
        }
        (Owner::Found(first), Owner::Found(second)) => {
            let file = if a.line <= b.line { first } else { second };
            let message = format!(
                "this file and {} (line {}) are recorded in the same space ({})",
                name(file),
                in_order.0.line,
                past.name
            );
            (in_order.1.line, message)
        }
    };
    Some(Error::new(line, message))
}

/// Finds space for a file with `devices`.
struct Room<'a> {
    manifest: &'a Manifest,
    sizes: &'a [Option<u64>],
    past: &'a Past<'a>,
    /// The file.
    index: usize,
}

impl Room<'_> {
    fn file(&self) -> &File {
        &self.manifest.files[self.index]
    }

    /// Adds the space that the file still needs to the pieces.
    fn find(
        &self,
        taken: &mut [Vec<Taken>],
        pieces: &mut Vec<Piece>,
        devices: &[usize],
        chunk: u64,
    ) -> Result<(), Error> {
        let file = self.file();
        let have: u64 = pieces.iter().map(|piece| piece.extent.length).sum();
        let Some(more) = file.size.checked_sub(have).filter(|&more| more != 0) else {
            return Ok(());
        };

        let too_big = || Error::new(file.line, "no devices are big enough for this file");
        let strips = vec![Strip::new(0, 0); devices.len()];
        let mut extent = match devices.len() {
            1 => Extent::linear(round_up(more, UNIT).ok_or_else(too_big)?, 0, 0),
            _ => Extent::interleaved(round_up(more, chunk).ok_or_else(too_big)?, chunk, strips),
        };
        let room = extent
            .strip_length()
            .and_then(|length| round_up(length, UNIT))
            .ok_or_else(too_big)?;
        if devices.len() > 1 {
            // All that the strips hold: the file may grow into it.
            let rows = room / chunk * chunk;
            extent.length = rows.checked_mul(devices.len() as u64).ok_or_else(too_big)?;
        }

        let behind = behind(pieces, taken, self.sizes, room);
        for (at, &device) in devices.iter().enumerate() {
            let start = match &behind {
                Some(starts) => starts[at],
                None => self.first_hole(&taken[device], device, room)?,
            };
            extent.strips[at] = Strip::new(device as u32, start);
            let piece = Taken {
                start,
                end: start + room,
                owner: Owner::Found(self.index),
                line: file.line,
                shared: false,
            };
            let at = taken[device].partition_point(|other| other.start < start);
            taken[device].insert(at, piece);
        }
        pieces.push(Piece { extent, new: true });
        Ok(())
    }

    /// The first aligned hole of `room` bytes between pieces that are sorted by start.
    fn first_hole(&self, pieces: &[Taken], device: usize, room: u64) -> Result<u64, Error> {
        let named = &self.manifest.devices[device];
        let name = &named.name;
        let size = self.sizes[device].ok_or_else(|| {
            Error::new(
                named.line,
                format!(
                    "the size of device {name:?} is unknown ({} does not tell): give `size`, or \
                     name the extents of each file on it",
                    named.path.display()
                ),
            )
        })?;

        let mut start = 0;
        let mut largest = 0;
        for piece in pieces {
            let hole = piece.start.saturating_sub(start);
            if hole >= room {
                break;
            }
            largest = largest.max(hole);
            // Inside a device, so far from an overflow.
            start = start.max(piece.end.next_multiple_of(UNIT));
        }
        if start.checked_add(room).is_some_and(|end| end <= size) {
            return Ok(start);
        }

        let largest = largest.max(size.saturating_sub(start)) / UNIT * UNIT;
        let mut message = format!(
            "device {name:?} has no {room} bytes in a row left for this file of {} bytes: the \
             largest hole has {largest}, and space is given out by {UNIT}",
            self.file().size
        );
        let gone = |piece: &&Taken| matches!(piece.owner, Owner::Gone(_));
        let kept: Vec<_> = pieces.iter().filter(gone).copied().collect();
        if let Some(Taken { line, .. }) = kept.first() {
            message += &format!(
                "; {} bytes are kept for files that are gone from the manifest ({}:{line}), \
                 and --reallocate gives them up",
                covered(&kept),
                self.past.name
            );
        }
        Err(Error::new(self.file().line, message))
    }
}

/// Where a file could go on without a gap, on all its devices.
fn behind(
    pieces: &[Piece],
    taken: &[Vec<Taken>],
    sizes: &[Option<u64>],
    room: u64,
) -> Option<Vec<u64>> {
    let extent = &pieces.last()?.extent;
    let length = extent.strip_length()?;
    let free = |strip: &Strip| {
        let start = strip.offset.checked_add(length)?;
        let end = start.checked_add(room)?;
        let device = strip.device as usize;
        let free = !taken[device]
            .iter()
            .any(|piece| piece.start < end && start < piece.end);
        (free && start % UNIT == 0 && end <= sizes[device]?).then_some(start)
    };
    extent.strips.iter().map(free).collect()
}

/// The extents that a file of this size uses of its pieces.
fn trimmed(pieces: &[Piece], size: u64) -> Vec<Extent> {
    let mut left = size;
    let mut extents = Vec::new();
    for Piece { extent, .. } in pieces {
        if left == 0 {
            break;
        }
        let unit = if extent.chunk == 0 {
            UNIT
        } else {
            extent.chunk
        };
        let length = round_up(left, unit).map_or(extent.length, |all| all.min(extent.length));
        left = left.saturating_sub(extent.length);
        let strips = extent.strips.clone();
        extents.push(Extent::interleaved(length, extent.chunk, strips));
    }
    extents
}

/// Adds the files that are gone, with their devices, to a record.
fn keep_gone(record: &mut Record, past: &Past<'_>, devices: &[Option<usize>], gone: &[usize]) {
    let mut at = devices.to_vec();
    for &index in gone {
        let mut old = past.record.files[index].clone();
        for strip in old
            .pieces
            .iter_mut()
            .flat_map(|piece| &mut piece.extent.strips)
        {
            let device = strip.device as usize;
            let new = *at[device].get_or_insert_with(|| {
                record.devices.push(past.record.devices[device].clone());
                record.devices.len() - 1
            });
            strip.device = new as u32;
        }
        record.files.push(old);
    }
}

/// The note about new files that got much more space than they need.
fn note_small(files: &[record::File]) -> Option<String> {
    let new = |file: &&record::File| file.pieces.iter().any(|piece| piece.new);
    let is_small = |file: &&record::File| file.size <= UNIT / 2;
    let small = files.iter().filter(new).filter(is_small).count();
    (small != 0).then(|| {
        format!(
            "{small} new file(s) of at most {} bytes take {UNIT} each: space is given out by that, \
             unless a manifest names extents",
            UNIT / 2
        )
    })
}

/// The note about files that are gone.
fn note_gone(past: &Past<'_>, gone: &[usize]) -> Option<String> {
    const SHOWN: usize = 3;

    let files: Vec<_> = gone.iter().map(|&at| &past.record.files[at]).collect();
    let names: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let more = match names.len() {
        n if n > SHOWN => format!(" and {} more", n - SHOWN),
        _ => String::new(),
    };
    Some(format!(
        "gone from the manifest, but recorded, with their space, in {}: {}{more}; --reallocate \
         gives it up",
        past.name,
        names[..names.len().min(SHOWN)].join(", ")
    ))
}

/// Bytes under the pieces of all devices, or as many as a number holds.
fn used(taken: &[Vec<Taken>]) -> u64 {
    taken
        .iter()
        .fold(0, |sum: u64, pieces| sum.saturating_add(covered(pieces)))
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
        // A device of unknown size is large enough for named extents, but nothing is placed
        // on it.
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

    // --- Edits of a manifest: what is in the files stays ----------------------------------

    /// Devices as byte arrays, one byte for each UNIT.
    type Memory = Vec<Vec<u8>>;

    /// A manifest that is mounted again and again, with its record.
    struct Host {
        record: Record,
        memory: Memory,
    }

    const DEVICES: &str = r#"[[device]]
name = "a"
path = "/dev/dax0.0"
id = "nvdimm:0"
[[device]]
name = "b"
path = "/dev/dax1.0"
id = "nvdimm:1"
"#;
    const FILES: &str = r#"[[file]]
path = "one"
size = "4M"
devices = ["a"]
[[file]]
path = "two"
size = "6M"
devices = ["a", "b"]
[[file]]
path = "three"
size = "2M"
devices = ["a"]
[[file]]
path = "four"
size = "2M"
devices = ["b"]
"#;

    fn chunks(extents: &[Extent]) -> Vec<(usize, usize)> {
        let mut all = Vec::new();
        for extent in extents {
            let chunk = if extent.chunk == 0 {
                UNIT
            } else {
                extent.chunk
            };
            for at in 0..extent.length / chunk {
                let n = extent.strips.len() as u64;
                let strip = &extent.strips[(at % n) as usize];
                let step = if extent.chunk == 0 { at } else { at / n } * chunk;
                all.push((
                    strip.device as usize,
                    ((strip.offset + step) / UNIT) as usize,
                ));
            }
        }
        all
    }

    impl Host {
        /// Mounted once; each file is full of its number, counted from 1.
        fn new() -> (Self, String) {
            let mut host = Self {
                record: Record::default(),
                memory: vec![vec![0xee; 16]; 2],
            };
            let text = DEVICES.to_owned() + FILES;
            let (manifest, layout) = host.mount(&text, false).unwrap();
            assert!(
                host.read(&manifest, &layout, "two")
                    .iter()
                    .all(|&byte| byte == 0)
            );
            for (placement, value) in layout.files.iter().zip(1..) {
                for (device, at) in chunks(&placement.extents) {
                    host.memory[device][at] = value;
                }
            }
            (host, text)
        }

        /// As main.rs does it; devices are found by their ids.
        fn mount(&mut self, text: &str, reallocate: bool) -> Result<(Manifest, Layout), Error> {
            let manifest = parse(text)?;
            let past = Past {
                record: &self.record,
                name: "m.layout",
                reallocate,
            };
            let sizes = vec![Some(16 * UNIT); manifest.devices.len()];
            let layout = place_beside(&manifest, &sizes, &past)?;
            for (device, start, length) in layout.record.new_space(usize::MAX) {
                let real = real(&manifest, device as usize);
                let range = (start / UNIT) as usize..((start + length) / UNIT) as usize;
                self.memory[real][range].fill(0);
            }
            self.record = layout.record.clone();
            self.record.zeroed(usize::MAX);
            Ok((manifest, layout))
        }

        fn read(&self, manifest: &Manifest, layout: &Layout, name: &str) -> Vec<u8> {
            let is = |file: &File| file.path.join("/") == name;
            let at = manifest.files.iter().position(is).unwrap();
            chunks(&layout.files[at].extents)
                .into_iter()
                .map(|(device, at)| self.memory[real(manifest, device)][at])
                .collect()
        }

        /// Mounts it, and compares files with what they have to hold.
        #[track_caller]
        fn holds(&mut self, text: &str, files: &[(&str, &[u8])]) {
            let (manifest, layout) = self.mount(text, false).unwrap();
            for (name, bytes) in files {
                assert_eq!(
                    self.read(&manifest, &layout, name),
                    *bytes,
                    "{name} in {text}"
                );
            }
        }

        #[track_caller]
        fn refuses(&mut self, text: &str, sentence: &str) {
            let before = self.memory.clone();
            let error = self.mount(text, false).unwrap_err();
            assert_eq!(error.to_string(), sentence, "{text}");
            assert_eq!(self.memory, before);
        }
    }

    fn real(manifest: &Manifest, device: usize) -> usize {
        let id = manifest.devices[device].id.as_deref().unwrap();
        id.strip_prefix("nvdimm:").unwrap().parse().unwrap()
    }

    const WHOLE: [(&str, &[u8]); 4] = [
        ("one", &[1, 1]),
        ("two", &[2, 2, 2]),
        ("three", &[3]),
        ("four", &[4]),
    ];

    fn entry(name: &str, size: &str, devices: &str) -> String {
        format!("[[file]]\npath = \"{name}\"\nsize = \"{size}\"\ndevices = {devices}\n")
    }

    #[test]
    fn nothing_is_changed() {
        let (mut host, text) = Host::new();
        let record = host.record.clone();
        host.holds(&text, &WHOLE);
        assert_eq!(host.record, record);
    }

    #[test]
    fn an_entry_is_inserted() {
        let (mut host, text) = Host::new();
        let new = entry("new", "4M", "[\"a\"]");
        let text = text.replacen("[[file]]", &(new + "[[file]]"), 1);
        host.holds(&text, &WHOLE);
        host.holds(&text, &[("new", &[0, 0])]);
    }

    #[test]
    fn an_entry_is_deleted_and_comes_back() {
        let (mut host, text) = Host::new();
        let without = text.replace(&entry("one", "4M", "[\"a\"]"), "");
        assert_ne!(without, text);
        host.holds(&without, &WHOLE[1..]);
        // Another file does not get its space.
        let other = without.clone() + &entry("other", "2M", "[\"a\"]");
        host.holds(&other, &[("other", &[0])]);
        assert!(host.mount(&other, false).unwrap().1.notes[0].contains("m.layout: one;"));
        host.holds(&text, &WHOLE);
    }

    #[test]
    fn space_of_a_deleted_entry_is_given_up_when_told_and_zeroed() {
        let (mut host, text) = Host::new();
        let without = text.replace(&entry("one", "4M", "[\"a\"]"), "");
        let other = without.clone() + &entry("other", "22M", "[\"a\"]");
        assert!(host.mount(&other, false).is_ok());
        let full = other.clone() + &entry("full", "2M", "[\"a\"]");
        host.refuses(
            &full,
            "26: device \"a\" has no 2097152 bytes in a row left for this file of 2097152 \
             bytes: the largest hole has 0, and space is given out by 2097152; 4194304 bytes \
             are kept for files that are gone from the manifest (m.layout:0), and --reallocate \
             gives them up",
        );
        let (manifest, layout) = host.mount(&full, true).unwrap();
        assert_eq!(host.read(&manifest, &layout, "full"), [0]);
        host.holds(&full, &WHOLE[1..]);
    }

    #[test]
    fn entries_are_swapped() {
        let (mut host, text) = Host::new();
        let (one, three) = (
            entry("one", "4M", "[\"a\"]"),
            entry("three", "2M", "[\"a\"]"),
        );
        let swapped = text
            .replace(&one, "@")
            .replace(&three, &one)
            .replace('@', &three);
        assert_ne!(swapped, text);
        host.holds(&swapped, &WHOLE);
        let mut reversed: Vec<_> = FILES.split_inclusive("]\n[[").collect();
        reversed.reverse();
        assert_eq!(reversed.len(), 4);
        let reversed = [
            entry("four", "2M", "[\"b\"]"),
            three,
            entry("two", "6M", "[\"a\", \"b\"]"),
            one,
        ];
        host.holds(&(DEVICES.to_owned() + &reversed.concat()), &WHOLE);
    }

    #[test]
    fn an_entry_is_renamed_and_moves() {
        let (mut host, text) = Host::new();
        let one = entry("one", "4M", "[\"a\"]");
        let renamed = text.replace(&one, "") + &one.replace("one", "zero/one");
        host.holds(&renamed, &WHOLE[1..]);
        host.holds(&renamed, &[("zero/one", &[0, 0])]);
        // What was there is found again.
        host.holds(&text, &WHOLE);

        // The extents of the old name are that file.
        let named = "[[file]]\npath = \"uno\"\n[[file.extent]]\nlength = \"4M\"\n\
                     device = \"a\"\noffset = 0\n";
        host.holds(&(text.replace(&one, "") + named), &[("uno", &[1, 1])]);
        assert!(host.record.files.iter().all(|file| file.path != "one"));
    }

    #[test]
    fn a_file_grows_and_shrinks() {
        let (mut host, text) = Host::new();
        let grown = text.replace("size = \"4M\"", "size = \"6M\"");
        host.holds(&grown, &WHOLE[1..]);
        host.holds(&grown, &[("one", &[1, 1, 0])]);
        let shrunk = text.replace("size = \"4M\"", "size = \"2M\"");
        host.holds(&shrunk, &WHOLE[1..]);
        host.holds(&shrunk, &[("one", &[1])]);
        // Its space was kept for it.
        host.holds(&grown, &[("one", &[1, 1, 0])]);

        let grown = text.replace("size = \"6M\"", "size = \"12M\"");
        host.holds(
            &grown,
            &[("two", &[2, 2, 2, 0, 0, 0]), WHOLE[0], WHOLE[2], WHOLE[3]],
        );
        let empty = text.replace("size = \"6M\"", "size = 0");
        host.holds(&empty, &[("two", &[]), WHOLE[0], WHOLE[2], WHOLE[3]]);
        host.holds(&text, &WHOLE);
    }

    #[test]
    fn a_file_that_grows_where_it_is_remains_one_extent() {
        let (mut host, text) = Host::new();
        for size in 2..=5 {
            let size = format!("size = \"{size}M\"\ndevices = [\"b\"]");
            let text = text.replace("size = \"2M\"\ndevices = [\"b\"]", &size);
            host.holds(&text, &WHOLE[..3]);
        }
        assert_eq!(host.record.files[3].pieces.len(), 1);
        assert_eq!(host.record.files[3].pieces[0].extent.length, 3 * UNIT);
    }

    #[test]
    fn another_list_of_devices_or_chunk() {
        let (mut host, text) = Host::new();
        let end = "and its data would be left behind; --reallocate does that";
        host.refuses(
            &text.replace("[\"a\", \"b\"]", "[\"b\", \"a\"]"),
            &format!("14: two is recorded on a, b, in this order (m.layout:0), {end}"),
        );
        let moved = text.replace(
            "path = \"one\"\nsize = \"4M\"\ndevices = [\"a\"]",
            "path = \"one\"\nsize = \"4M\"\ndevices = [\"b\"]",
        );
        host.refuses(
            &moved,
            &format!("10: one is recorded on a, in this order (m.layout:0), {end}"),
        );
        host.refuses(
            &text.replace("[\"a\", \"b\"]\n", "[\"a\", \"b\"]\nchunk = \"4K\"\n"),
            &format!("14: two is recorded in chunks of 2097152 bytes (m.layout:0), {end}"),
        );
        // --reallocate loses only that file.
        let (manifest, layout) = host.mount(&moved, true).unwrap();
        assert_eq!(host.read(&manifest, &layout, "one"), [0, 0]);
        host.holds(&moved, &WHOLE[1..]);
    }

    #[test]
    fn an_extent_at_the_end() {
        let (mut host, text) = Host::new();
        let named = |offset: &str| {
            format!(
                "{text}[[file]]\npath = \"x\"\n[[file.extent]]\nlength = \"2M\"\n\
                 device = \"a\"\noffset = \"{offset}\"\n"
            )
        };
        host.refuses(
            &named("2M"),
            "28: the extent overlaps the space that one (line 10) has got (m.layout); \
             --reallocate places that file anew and gives up its data",
        );
        host.holds(&named("30M"), &WHOLE);
        host.holds(&named("30M"), &[("x", &[0xee])]);
        // It cannot be moved, either.
        host.refuses(
            &named("28M"),
            "26: these extents are not where x is recorded (m.layout:0), and its data would \
             be left behind; --reallocate does that",
        );
        host.refuses(
            &text.replace(
                "path = \"one\"\nsize = \"4M\"\ndevices = [\"a\"]",
                "path = \"y\"\n\
                [[file.extent]]\nlength = \"2M\"\ndevice = \"a\"\noffset = \"2M\"",
            ),
            "12: the extent overlaps the space of one, which is gone from the manifest but \
             recorded (m.layout:0); --reallocate gives that up",
        );
        let (manifest, layout) = host.mount(&named("2M"), true).unwrap();
        assert_eq!(host.read(&manifest, &layout, "x"), [1]);
        assert_eq!(host.read(&manifest, &layout, "one"), [0, 0]);
        host.holds(&named("2M"), &WHOLE[1..]);
    }

    #[test]
    fn devices_are_exchanged() {
        let (mut host, text) = Host::new();
        // What main.rs finds there: other ids.
        let exchanged = text
            .replace("dax0.0\"\nid = \"nvdimm:0", "dax1.0\"\nid = \"nvdimm:@")
            .replace("dax1.0\"\nid = \"nvdimm:1", "dax0.0\"\nid = \"nvdimm:0")
            .replace('@', "1");
        assert_ne!(exchanged, text);
        host.refuses(
            &exchanged,
            "1: device \"a\" (/dev/dax1.0) is nvdimm:1, and 3 files were placed on nvdimm:0, \
             which is not in this machine (m.layout); name that one, or give up what is on it \
             with --reallocate",
        );
        // Other names of the nodes are none of it, nor other names of the devices.
        let nodes = text
            .replace("dax0.0", "dax@.0")
            .replace("dax1.0", "dax0.0")
            .replace('@', "1");
        host.holds(&nodes, &WHOLE);
        host.holds(&text.replace("\"a\"", "\"left\""), &WHOLE);
        // Another one in place of one.
        host.refuses(
            &text.replace("nvdimm:1", "nvdimm:7"),
            "5: device \"b\" (/dev/dax1.0) is nvdimm:7, and 2 files were placed on nvdimm:1, \
             which is not in this machine (m.layout); name that one, or give up what is on it \
             with --reallocate",
        );
        // The order of devices in the manifest does not matter.
        let (first, second) = DEVICES.split_at(DEVICES.len() / 2);
        host.holds(&format!("{second}{first}{FILES}"), &WHOLE);
    }

    #[test]
    fn a_device_is_left_out_and_comes_back() {
        let (mut host, text) = Host::new();
        let (first, _) = DEVICES.split_at(DEVICES.len() / 2);
        let some = entry("one", "4M", "[\"a\"]") + &entry("three", "2M", "[\"a\"]");
        host.holds(&format!("{first}{some}"), &[WHOLE[0], WHOLE[2]]);
        host.holds(&text, &WHOLE);
    }

    #[test]
    fn a_frozen_manifest_is_the_same() {
        let (mut host, text) = Host::new();
        let text = text + &entry("empty", "0", "[\"b\", \"a\"]");
        let (manifest, layout) = host.mount(&text, false).unwrap();
        let frozen = crate::freeze::freeze(&manifest, &layout);
        host.holds(&frozen, &WHOLE);
        // Without a record, too.
        host.record = Record::default();
        host.holds(&frozen, &WHOLE);
        host.holds(&text, &WHOLE);
    }

    #[test]
    fn small_files_are_told_what_they_take() {
        let small = striped("a", 4096, "[\"0\"]") + &striped("b", 0, "[\"0\"]");
        let notes = layout(&small, &[Some(8 * MIB)]).unwrap().notes;
        assert_eq!(
            notes,
            [
                "1 new file(s) of at most 1048576 bytes take 2097152 each: space is given out by that, \
              unless a manifest names extents"
            ]
        );
        let large = striped("a", 2 * MIB, "[\"0\"]");
        assert!(layout(&large, &[Some(8 * MIB)]).unwrap().notes.is_empty());
    }

    #[test]
    fn used_is_no_more_than_a_number_holds() {
        let all = vec![Taken {
            start: 0,
            end: DEVICE_MAX,
            owner: Owner::Named(0),
            line: 1,
            shared: false,
        }];
        assert_eq!(used(&[all.clone(), all.clone()]), u64::MAX - 1);
        assert_eq!(used(&[all.clone(), all.clone(), all]), u64::MAX);
    }
}
