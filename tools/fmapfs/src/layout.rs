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

use fmap_host::device::now_at;
use fuse_dax_fmap::striped::{self, Extent, Strip};

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
                Some(id) => format!("{id}{}", now_at(id)),
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
mod tests;
