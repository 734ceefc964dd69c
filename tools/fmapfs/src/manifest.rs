// SPDX-License-Identifier: GPL-2.0
//! The manifest: the devices, and the files on them.
//!
//! Reading it needs no device and no mount. Errors in the manifest itself are found here,
//! and reported with their line; [`crate::layout`] finds those that depend on the devices
//! (does it fit? does it overlap? did it move?).

use std::error;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::PathBuf;

use fmap_host::reason::printable;
use fuse_dax_fmap::DEVICES_MAX;
use fuse_dax_fmap::striped::{self, Extent, Strip};
use nix::unistd::{Group, User};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use crate::device;

/// A parsed manifest.
#[derive(Debug)]
pub struct Manifest {
    pub devices: Vec<Device>,
    pub dirs: Vec<Dir>,
    pub files: Vec<File>,
}

#[derive(Clone, Debug)]
pub struct Device {
    pub name: String,
    /// Empty until [`crate::device::resolve`] has found it, if the manifest has an id only.
    pub path: PathBuf,
    /// The id, which stays the same wherever the kernel finds the device: from the
    /// manifest, or from sysfs.
    pub id: Option<String>,
    /// The part of the device that may be used, if the manifest limits it.
    pub size: Option<u64>,
    pub line: usize,
}

/// The owner and permissions of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug)]
pub struct Dir {
    pub path: Vec<String>,
    pub access: Access,
    pub line: usize,
}

#[derive(Debug)]
pub struct File {
    pub path: Vec<String>,
    pub access: Access,
    pub size: u64,
    pub content: Content,
    pub line: usize,
}

#[derive(Debug)]
pub enum Content {
    /// Space to be found on these devices (indices), `chunk` bytes on each in turn.
    Striped { devices: Vec<usize>, chunk: u64 },
    /// Space that the manifest names. Shared: other shared files may name it too.
    Extents {
        extents: Vec<(Extent, usize)>,
        shared: bool,
    },
}

/// What is wrong with a manifest, and in which line.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    pub line: usize,
    pub message: String,
}

impl Error {
    pub fn new(line: usize, message: impl Into<String>) -> Self {
        Self {
            line,
            message: printable(&message.into()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

impl error::Error for Error {}

/// Space is found in units of what a huge page maps.
pub const UNIT: u64 = 2 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    #[serde(default, deserialize_with = "tables")]
    device: Vec<Spanned<RawDevice>>,
    #[serde(default, deserialize_with = "tables")]
    dir: Vec<Spanned<RawDir>>,
    #[serde(default, deserialize_with = "tables")]
    file: Vec<Spanned<RawFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    name: Spanned<String>,
    path: Option<Spanned<PathBuf>>,
    id: Option<Spanned<String>>,
    size: Option<Spanned<Bytes>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDir {
    path: Spanned<String>,
    mode: Option<Mode>,
    #[serde(default)]
    uid: Owner<User>,
    #[serde(default)]
    gid: Owner<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: Spanned<String>,
    mode: Option<Mode>,
    #[serde(default)]
    uid: Owner<User>,
    #[serde(default)]
    gid: Owner<Group>,
    size: Option<Spanned<Bytes>>,
    devices: Option<Spanned<Names>>,
    chunk: Option<Spanned<Bytes>>,
    #[serde(default, deserialize_with = "tables")]
    extent: Vec<Spanned<RawExtent>>,
    shared: Option<Spanned<bool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExtent {
    length: Spanned<Bytes>,
    device: Option<Spanned<String>>,
    offset: Option<Spanned<Bytes>>,
    chunk: Option<Spanned<Bytes>>,
    strips: Option<Spanned<Vec<RawStrip>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStrip {
    device: Spanned<String>,
    offset: Spanned<Bytes>,
}

/// A number of bytes: `4096`, `"64K"`, `"2 MiB"`.
#[derive(Clone, Copy)]
struct Bytes(u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;

        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, as in 4096, \"64K\", \"2M\" or \"1 GiB\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Bytes, E> {
                u64::try_from(value)
                    .map(Bytes)
                    .map_err(|_| E::custom("a number of bytes cannot be negative"))
            }

            // Numbers beyond i64.
            fn visit_i128<E: de::Error>(self, value: i128) -> Result<Bytes, E> {
                Err(E::custom(format!(
                    "{value} is no number of bytes: {TOO_LARGE}"
                )))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Bytes, E> {
                let unit = value.trim_start_matches(|c: char| c.is_ascii_digit());
                match parse_bytes(value) {
                    Some(bytes) => Ok(Bytes(bytes)),
                    None if unit.len() < value.len() && parse_unit(unit).is_some() => Err(
                        E::custom(format!("{value:?} is no number of bytes: {TOO_LARGE}")),
                    ),
                    None => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
                }
            }
        }

        deserializer.deserialize_any(BytesVisitor)
    }
}

const TOO_LARGE: &str = "no device has so many";

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let shift = parse_unit(&text[digits..])?;
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The power of 2 that a unit is.
fn parse_unit(text: &str) -> Option<u32> {
    match text.trim_start() {
        "" | "B" => Some(0),
        "K" | "KiB" => Some(10),
        "M" | "MiB" => Some(20),
        "G" | "GiB" => Some(30),
        "T" | "TiB" => Some(40),
        _ => None,
    }
}

/// Permission bits. A string, because `mode = 644` would be a decimal number.
#[derive(Clone, Copy)]
struct Mode(u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ModeVisitor;

        impl Visitor<'_> for ModeVisitor {
            type Value = Mode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string of octal digits, as in \"0644\"")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Mode, E> {
                // from_str_radix() accepts a sign, too.
                match u32::from_str_radix(value, 8) {
                    Ok(mode) if mode <= 0o7777 && !value.starts_with('+') => Ok(Mode(mode)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
                }
            }
        }

        deserializer.deserialize_any(ModeVisitor)
    }
}

/// The number of a user or of a group, given as such or by name.
struct Owner<T>(u32, PhantomData<T>);

impl<T> Default for Owner<T> {
    fn default() -> Self {
        Self(0, PhantomData)
    }
}

/// What has a name and a number on this machine.
trait Named {
    const KIND: &str;
    fn number(name: &str) -> nix::Result<Option<u32>>;
}

impl Named for User {
    const KIND: &str = "user";
    fn number(name: &str) -> nix::Result<Option<u32>> {
        Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
    }
}

impl Named for Group {
    const KIND: &str = "group";
    fn number(name: &str) -> nix::Result<Option<u32>> {
        Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
    }
}

impl<'de, T: Named> Deserialize<'de> for Owner<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OwnerVisitor<T>(PhantomData<T>);

        impl<T: Named> Visitor<'_> for OwnerVisitor<T> {
            type Value = Owner<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "the name or the number of a {}", T::KIND)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                // The kernel uses the largest one for "no id".
                match u32::try_from(value) {
                    Ok(number) if number != u32::MAX => Ok(Owner(number, PhantomData)),
                    _ => Err(E::custom(format!(
                        "{value} is the number of no {}: they are 0 to {}",
                        T::KIND,
                        u32::MAX - 1
                    ))),
                }
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                let kind = T::KIND;
                match T::number(name) {
                    Ok(Some(number)) => Ok(Owner(number, PhantomData)),
                    Ok(None) => Err(E::custom(format!(
                        "this machine has no {kind} named {name:?}; a number needs no quotes"
                    ))),
                    Err(error) => Err(E::custom(format!(
                        "cannot look up the {kind} {name:?}: {error}"
                    ))),
                }
            }
        }

        deserializer.deserialize_any(OwnerVisitor(PhantomData))
    }
}

/// The message for a table where there may be several.
const SINGLE: &str = "there may be several of this table: it needs double brackets";

/// An array of tables; one table, with single brackets, is an error that says so.
fn tables<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_any(List(
        "tables in double brackets, as in [[file]]",
        PhantomData,
    ))
}

/// Names of devices.
struct Names(Vec<Spanned<String>>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const WANTED: &str = "a list of names, as in [\"a\", \"b\"]";
        deserializer
            .deserialize_any(List(WANTED, PhantomData))
            .map(Self)
    }
}

/// An array, and the message for anything else.
struct List<T>(&'static str, PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = seq.next_element()? {
            all.push(one);
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Vec<T>, A::Error> {
        Err(de::Error::custom(SINGLE))
    }
}

/// Where lines end, to turn the byte that the parser reports into a line.
pub struct Lines(Vec<usize>);

impl Lines {
    pub fn new(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    fn at(&self, span: Range<usize>) -> usize {
        1 + self.0.partition_point(|&end| end < span.start)
    }

    pub fn of<T>(&self, value: &Spanned<T>) -> usize {
        self.at(value.span())
    }
}

/// The bytes of a manifest as text.
pub fn text(bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..at];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let bad = error.as_bytes()[at];
        Error::new(
            line,
            format!("a manifest is text in UTF-8, and byte {bad:#04x} is not"),
        )
    })
}

/// The parser's message, or a better one where that is hard to understand.
fn syntax_error(text: &str, line: usize, error: &toml::de::Error) -> Error {
    let source = text.lines().nth(line - 1).unwrap_or_default().trim();
    let (key, value) = source.split_once('=').unwrap_or((source, ""));
    let (key, value) = (key.trim(), value.trim());
    let message = match error.message() {
        _ if key == "mode" && value.len() > 1 && value.bytes().all(|c| c.is_ascii_digit()) => {
            format!("a mode is a string of octal digits, in quotes: \"{value}\"")
        }
        SINGLE if source.starts_with('[') => {
            format!("there may be several of {source}: it needs double brackets, [{source}]")
        }
        "duplicate key" => format!("there is a `{key}` already"),
        "invalid basic string, expected `\"`" => "the string has no end in this line".to_owned(),
        message => message.replace('\n', ", "),
    };
    Error::new(line, message)
}

/// Reads a manifest.
pub fn parse(text: &str) -> Result<Manifest, Error> {
    let lines = Lines::new(text);
    let raw: RawManifest = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| lines.at(span));
        syntax_error(text, line, &error)
    })?;

    let devices = devices(&lines, raw.device)?;
    let dirs = raw
        .dir
        .into_iter()
        .map(|raw| dir(&lines, raw))
        .collect::<Result<_, _>>()?;
    let files = raw
        .file
        .into_iter()
        .map(|raw| file(&lines, &devices, raw))
        .collect::<Result<Vec<_>, _>>()?;
    if files.is_empty() {
        return Err(Error::new(1, "there is nothing to mount: no [[file]]"));
    }

    Ok(Manifest {
        devices,
        dirs,
        files,
    })
}

fn devices(lines: &Lines, raw: Vec<Spanned<RawDevice>>) -> Result<Vec<Device>, Error> {
    let mut devices: Vec<Device> = Vec::new();

    for spanned in raw {
        let line = lines.of(&spanned);
        let raw = spanned.into_inner();
        if devices.len() == DEVICES_MAX as usize {
            return Err(Error::new(
                line,
                format!("a mount has at most {DEVICES_MAX} devices"),
            ));
        }
        let mut path = PathBuf::new();
        let mut path_line = line;
        match (raw.path, &raw.id) {
            (Some(named), _) => {
                path_line = lines.of(&named);
                path = named.into_inner();
                if !path.is_absolute() || path.as_os_str().len() > 255 {
                    return Err(Error::new(
                        path_line,
                        "the path of a device is absolute and has at most 255 bytes",
                    ));
                }
            }
            (None, Some(_)) => (),
            (None, None) => {
                return Err(Error::new(
                    line,
                    "which device is this? Give `path`, or the `id` that `fmapfs --devices` shows",
                ));
            }
        }
        if let Some(id) = &raw.id {
            device::check_id(id.get_ref()).map_err(|message| Error::new(lines.of(id), message))?;
        }
        for other in &devices {
            if other.name == *raw.name.get_ref() {
                return Err(Error::new(
                    lines.of(&raw.name),
                    format!("device {:?} is already in line {}", other.name, other.line),
                ));
            }
            if other.path == path && !path.as_os_str().is_empty() {
                return Err(Error::new(
                    path_line,
                    format!("{} is already device {:?}", path.display(), other.name),
                ));
            }
            if let (Some(id), Some(other_id)) = (&raw.id, &other.id) {
                if id.get_ref() == other_id {
                    return Err(Error::new(
                        lines.of(id),
                        format!("{other_id} is already device {:?}", other.name),
                    ));
                }
            }
        }
        devices.push(Device {
            name: raw.name.into_inner(),
            path,
            id: raw.id.map(Spanned::into_inner),
            size: raw.size.map(|size| size.into_inner().0),
            line,
        });
    }
    Ok(devices)
}

fn dir(lines: &Lines, raw: Spanned<RawDir>) -> Result<Dir, Error> {
    let raw = raw.into_inner();
    Ok(Dir {
        line: lines.of(&raw.path),
        path: components(lines, &raw.path)?,
        access: Access {
            mode: raw.mode.map_or(0o755, |mode| mode.0),
            uid: raw.uid.0,
            gid: raw.gid.0,
        },
    })
}

fn file(lines: &Lines, devices: &[Device], raw: Spanned<RawFile>) -> Result<File, Error> {
    let raw = raw.into_inner();
    let line = lines.of(&raw.path);
    let path = components(lines, &raw.path)?;
    if path.is_empty() {
        return Err(Error::new(line, "the top of the tree is a directory"));
    }

    let extents = Some(raw.extent).filter(|extents| !extents.is_empty());
    let (size, content) = match (raw.devices, extents) {
        (Some(over), None) => {
            let size = raw.size.ok_or_else(|| {
                Error::new(line, "`devices` says where the file is, `size` is missing")
            })?;
            if let Some(shared) = raw.shared {
                return Err(Error::new(
                    lines.of(&shared),
                    "`shared` is for a file with [[file.extent]]: a file with `devices` \
                     gets space of its own",
                ));
            }
            (
                size.into_inner().0,
                striped_over(lines, devices, over, raw.chunk)?,
            )
        }
        (None, Some(raw_extents)) => {
            if let Some(chunk) = raw.chunk {
                return Err(Error::new(
                    lines.of(&chunk),
                    "`chunk` belongs to `devices`, or into an extent",
                ));
            }
            let extents = raw_extents
                .into_iter()
                .map(|raw| extent(lines, devices, raw))
                .collect::<Result<Vec<_>, _>>()?;
            let whole = extents
                .iter()
                .try_fold(0_u64, |sum, (extent, _)| sum.checked_add(extent.length))
                .ok_or_else(|| Error::new(line, "the extents are longer than a file can be"))?;
            (
                raw.size.map_or(whole, |size| size.into_inner().0),
                Content::Extents {
                    extents,
                    shared: raw.shared.is_some_and(Spanned::into_inner),
                },
            )
        }
        (Some(over), Some(_)) => {
            return Err(Error::new(
                lines.of(&over),
                "a file has `devices` or [[file.extent]], not both",
            ));
        }
        (None, None) => {
            return Err(Error::new(
                line,
                "where is this file? Give `size` and `devices`, or [[file.extent]]",
            ));
        }
    };

    Ok(File {
        path,
        access: Access {
            mode: raw.mode.map_or(0o644, |mode| mode.0),
            uid: raw.uid.0,
            gid: raw.gid.0,
        },
        size,
        content,
        line,
    })
}

fn striped_over(
    lines: &Lines,
    devices: &[Device],
    over: Spanned<Names>,
    chunk: Option<Spanned<Bytes>>,
) -> Result<Content, Error> {
    let line = lines.of(&over);
    let mut indices = Vec::new();
    for name in over.into_inner().0 {
        let index = device_index(lines, devices, &name)?;
        if indices.contains(&index) {
            return Err(Error::new(
                lines.of(&name),
                format!("device {:?} is named twice", name.get_ref()),
            ));
        }
        indices.push(index);
    }
    if indices.is_empty() {
        return Err(Error::new(line, "`devices` names no device"));
    }

    let chunk = match chunk {
        Some(chunk) => multiple(lines, &chunk, "chunk")?,
        None => UNIT,
    };
    if chunk == 0 {
        return Err(Error::new(line, "`chunk` cannot be 0"));
    }
    Ok(Content::Striped {
        devices: indices,
        chunk,
    })
}

fn extent(
    lines: &Lines,
    devices: &[Device],
    raw: Spanned<RawExtent>,
) -> Result<(Extent, usize), Error> {
    let raw = raw.into_inner();
    let line = lines.of(&raw.length);
    let length = multiple(lines, &raw.length, "length")?;
    if length == 0 {
        return Err(Error::new(line, "an extent has at least one byte"));
    }

    let extent = match (raw.device, raw.offset, raw.chunk, raw.strips) {
        (Some(device), Some(offset), None, None) => Extent::linear(
            length,
            device_index(lines, devices, &device)? as u32,
            multiple(lines, &offset, "offset")?,
        ),
        (None, None, Some(chunk), Some(raw_strips)) => {
            let size = multiple(lines, &chunk, "chunk")?;
            if size == 0 || raw_strips.get_ref().is_empty() {
                return Err(Error::new(
                    lines.of(&chunk),
                    "an interleaved extent has a chunk of at least one page, and strips",
                ));
            }
            let mut strips = Vec::new();
            for raw in raw_strips.get_ref() {
                let device = device_index(lines, devices, &raw.device)? as u32;
                strips.push(Strip::new(device, multiple(lines, &raw.offset, "offset")?));
            }
            Extent::interleaved(length, size, strips)
        }
        _ => {
            return Err(Error::new(
                line,
                "an extent has `device` and `offset`, or `chunk` and `strips`",
            ));
        }
    };
    Ok((extent, line))
}

fn device_index(lines: &Lines, devices: &[Device], name: &Spanned<String>) -> Result<usize, Error> {
    devices
        .iter()
        .position(|device| device.name == *name.get_ref())
        .ok_or_else(|| {
            Error::new(
                lines.of(name),
                format!("there is no [[device]] named {:?}", name.get_ref()),
            )
        })
}

fn multiple(lines: &Lines, bytes: &Spanned<Bytes>, what: &str) -> Result<u64, Error> {
    let value = bytes.get_ref().0;
    if value % striped::ALIGN != 0 {
        return Err(Error::new(
            lines.of(bytes),
            format!("`{what}` has to be a multiple of {}", striped::ALIGN),
        ));
    }
    Ok(value)
}

/// `a/b` and `/a/b` are the same place; the top has no components.
fn components(lines: &Lines, path: &Spanned<String>) -> Result<Vec<String>, Error> {
    let text = path.get_ref();
    let inside = text.strip_prefix('/').unwrap_or(text);
    if inside.is_empty() {
        return Ok(Vec::new());
    }
    inside
        .split('/')
        .map(|name| match name {
            "" | "." | ".." => Err(format!("{text:?}: a path has no empty, . or .. parts")),
            _ if name.len() > 255 => Err(format!("{text:?}: a name has at most 255 bytes")),
            _ if name.contains('\0') => Err(format!("{text:?}: a name has no NUL")),
            _ => Ok(name.to_owned()),
        })
        .collect::<Result<_, _>>()
        .map_err(|message| Error::new(lines.of(path), message))
}

#[cfg(test)]
mod tests;
