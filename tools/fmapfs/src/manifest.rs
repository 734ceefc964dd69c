// SPDX-License-Identifier: GPL-2.0
//! The manifest: which devices there are, and which files with what in them.
//!
//! Reading it needs no device and no mount. Everything that can be said against a
//! manifest by itself is said here, with the line it is about; what depends on
//! the devices (does it fit? does it overlap?) is [`crate::layout`]'s.

use std::error;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use fuse_dax_fmap::DEVICES_MAX;
use fuse_dax_fmap::striped::{self, Extent, Strip};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

/// A manifest without the marks of its syntax.
#[derive(Debug)]
pub struct Manifest {
    pub devices: Vec<Device>,
    pub dirs: Vec<Dir>,
    pub files: Vec<File>,
}

#[derive(Debug)]
pub struct Device {
    pub name: String,
    pub path: PathBuf,
    /// Where the manifest says it: the part of the device that may be used.
    pub size: Option<u64>,
    pub line: usize,
}

/// Who may do what with a file or directory.
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
            message: message.into(),
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
    #[serde(default)]
    device: Vec<Spanned<RawDevice>>,
    #[serde(default)]
    dir: Vec<Spanned<RawDir>>,
    #[serde(default)]
    file: Vec<Spanned<RawFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    name: Spanned<String>,
    path: Spanned<PathBuf>,
    size: Option<Spanned<Bytes>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDir {
    path: Spanned<String>,
    mode: Option<Mode>,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: Spanned<String>,
    mode: Option<Mode>,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    size: Option<Spanned<Bytes>>,
    devices: Option<Spanned<Vec<Spanned<String>>>>,
    chunk: Option<Spanned<Bytes>>,
    extent: Option<Vec<Spanned<RawExtent>>>,
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

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Bytes, E> {
                parse_bytes(value)
                    .map(Bytes)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(value), &self))
            }
        }

        deserializer.deserialize_any(BytesVisitor)
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let shift = match text[digits..].trim_start() {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
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
                // Which would take a sign, too.
                match u32::from_str_radix(value, 8) {
                    Ok(mode) if mode <= 0o7777 && !value.starts_with('+') => Ok(Mode(mode)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
                }
            }
        }

        deserializer.deserialize_any(ModeVisitor)
    }
}

/// Where lines end, to turn what the parser knows (a byte) into what a person needs
/// (a line).
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    fn at(&self, span: Range<usize>) -> usize {
        1 + self.0.partition_point(|&end| end < span.start)
    }

    fn of<T>(&self, value: &Spanned<T>) -> usize {
        self.at(value.span())
    }
}

/// Reads a manifest.
pub fn parse(text: &str) -> Result<Manifest, Error> {
    let lines = Lines::new(text);
    let raw: RawManifest = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| lines.at(span));
        Error::new(line, error.message().replace('\n', ", "))
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
        .collect::<Result<_, _>>()?;

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
        let path = raw.path.get_ref();
        if !path.is_absolute() || path.as_os_str().len() > 255 {
            return Err(Error::new(
                lines.of(&raw.path),
                "the path of a device is absolute and has at most 255 bytes",
            ));
        }
        for other in &devices {
            if other.name == *raw.name.get_ref() {
                return Err(Error::new(
                    lines.of(&raw.name),
                    format!("device {:?} is already in line {}", other.name, other.line),
                ));
            }
            if other.path == *path {
                return Err(Error::new(
                    lines.of(&raw.path),
                    format!("{} is already device {:?}", path.display(), other.name),
                ));
            }
        }
        devices.push(Device {
            name: raw.name.into_inner(),
            path: raw.path.into_inner(),
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
            uid: raw.uid,
            gid: raw.gid,
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

    let (size, content) = match (raw.devices, raw.extent) {
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
            uid: raw.uid,
            gid: raw.gid,
        },
        size,
        content,
        line,
    })
}

fn striped_over(
    lines: &Lines,
    devices: &[Device],
    over: Spanned<Vec<Spanned<String>>>,
    chunk: Option<Spanned<Bytes>>,
) -> Result<Content, Error> {
    let line = lines.of(&over);
    let mut indices = Vec::new();
    for name in over.into_inner() {
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
                strips.push(Strip {
                    device: device_index(lines, devices, &raw.device)? as u32,
                    offset: multiple(lines, &raw.offset, "offset")?,
                });
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
mod tests {
    use super::*;

    const TWO_DEVICES: &str = "\
[[device]]
name = \"a\"
path = \"/dev/dax0.0\"
[[device]]
name = \"b\"
path = \"/dev/dax1.0\"
size = \"1G\"
";

    fn with(more: &str) -> Result<Manifest, Error> {
        parse(&format!("{TWO_DEVICES}{more}"))
    }

    /// Every refusal: the lines after the seven of TWO_DEVICES, the line to blame,
    /// a part of the message.
    const REFUSED: &[(&str, usize, &str)] = &[
        ("[[file]]\npath = \"x\n", 9, "string"),
        (
            "[[file]]\nsize = 1\ndevices = [\"a\"]\n",
            8,
            "missing field `path`",
        ),
        (
            "[[file]]\npath = \"x\"\nsise = 1\n",
            10,
            "unknown field `sise`",
        ),
        ("[[fil]]\npath = \"x\"\n", 8, "unknown field `fil`"),
        ("[[file]]\npath = \"x\"\n", 9, "where is this file?"),
        (
            "[[file]]\npath = \"/\"\nsize = 1\ndevices = [\"a\"]\n",
            9,
            "is a directory",
        ),
        (
            "[[file]]\npath = \"x/../y\"\nsize = 1\ndevices = [\"a\"]\n",
            9,
            "empty, . or ..",
        ),
        (
            "[[file]]\npath = \"x\"\nsize = \"1 KB\"\n",
            10,
            "number of bytes",
        ),
        ("[[file]]\npath = \"x\"\nsize = -1\n", 10, "negative"),
        (
            "[[file]]\npath = \"x\"\nsize = \"99999999T\"\n",
            10,
            "number of bytes",
        ),
        ("[[file]]\npath = \"x\"\nmode = 644\n", 10, "octal"),
        ("[[file]]\npath = \"x\"\nmode = \"0888\"\n", 10, "octal"),
        ("[[file]]\npath = \"x\"\nmode = \"+644\"\n", 10, "octal"),
        ("[[file]]\npath = \"x\"\nmode = \"10000\"\n", 10, "octal"),
        (
            "[[file]]\npath = \"x\"\ndevices = [\"a\"]\n",
            9,
            "`size` is missing",
        ),
        (
            "[[file]]\npath = \"x\"\nsize = 1\ndevices = []\n",
            11,
            "no device",
        ),
        (
            "[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"c\"]\n",
            11,
            "named \"c\"",
        ),
        (
            "[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\",\n\"a\"]\n",
            12,
            "twice",
        ),
        (
            "[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\nchunk = 512\n",
            12,
            "4096",
        ),
        (
            "[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\nchunk = 0\n",
            11,
            "cannot be 0",
        ),
        (
            "[[file]]\npath = \"x\"\nsize = 1\ndevices = [\"a\"]\nshared = true\n",
            12,
            "shared",
        ),
        (
            "[[file]]\npath = \"x\"\ndevices = [\"a\"]\n[[file.extent]]\nlength = \"2M\"\n",
            10,
            "not both",
        ),
        (
            "[[file]]\npath = \"x\"\n[[file.extent]]\nlength = \"2M\"\ndevice = \"a\"\n",
            11,
            "`device` and `offset`",
        ),
        (
            "[[file]]\npath = \"x\"\n[[file.extent]]\nlength = 0\ndevice = \"a\"\noffset = 0\n",
            11,
            "at least one byte",
        ),
        (
            "[[file]]\npath = \"x\"\n[[file.extent]]\nlength = 8192\ndevice = \"a\"\noffset = 7\n",
            13,
            "multiple of 4096",
        ),
        (
            "[[file]]\npath = \"x\"\n[[file.extent]]\nlength = 8192\nchunk = 4096\nstrips = [\n\
             {device=\"a\", offset=0},\n{device=\"z\", offset=0}]\n",
            15,
            "named \"z\"",
        ),
        (
            "[[device]]\nname = \"a\"\npath = \"/dev/dax2.0\"\n",
            9,
            "already in line 1",
        ),
        (
            "[[device]]\nname = \"c\"\npath = \"/dev/dax0.0\"\n",
            10,
            "already device \"a\"",
        ),
        (
            "[[device]]\nname = \"c\"\npath = \"dax0.0\"\n",
            10,
            "absolute",
        ),
    ];

    #[test]
    fn refusals_name_the_line() {
        for (more, line, message) in REFUSED {
            let error = with(more).expect_err(more);
            assert_eq!(error.line, *line, "{more}: {error}");
            assert!(error.message.contains(message), "{more}: {error}");
            assert!(!error.message.contains('\n'), "{more}: {error}");
        }
    }

    #[test]
    fn numbers_of_bytes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65536),
            ("2 MiB", 2 << 20),
            ("1G", 1 << 30),
            ("3TiB", 3 << 40),
            ("7 B", 7),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1.5G", "1 KB", "1k", "16777216T", " 1"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn a_whole_manifest() {
        let manifest = with(
            r#"
            [[dir]]
            path = "/logs"
            mode = "0750"
            gid = 4
            [[file]]
            path = "logs/a"
            size = "64M"
            devices = ["b", "a"]
            [[file]]
            path = "b"
            mode = "0600"
            uid = 1000
            shared = true
            [[file.extent]]
            length = "4M"
            device = "a"
            offset = "2M"
            [[file.extent]]
            length = "8M"
            chunk = "64K"
            strips = [{ device = "a", offset = "8M" }, { device = "b", offset = 0 }]
            "#,
        )
        .unwrap();

        assert_eq!(manifest.devices[0].size, None);
        assert_eq!(manifest.devices[1].size, Some(1 << 30));
        let dir = &manifest.dirs[0];
        assert_eq!(dir.path, ["logs"]);
        assert_eq!((dir.access.mode, dir.access.gid), (0o750, 4));

        let a = &manifest.files[0];
        assert_eq!(a.path, ["logs", "a"]);
        assert_eq!((a.size, a.access.mode), (64 << 20, 0o644));
        let Content::Striped { devices, chunk } = &a.content else {
            panic!("{a:?}");
        };
        assert_eq!((devices.as_slice(), *chunk), (&[1, 0][..], UNIT));

        let b = &manifest.files[1];
        assert_eq!((b.size, b.access.mode), (12 << 20, 0o600));
        let Content::Extents { extents, shared } = &b.content else {
            panic!("{b:?}");
        };
        assert!(shared);
        assert_eq!(extents[0].0, Extent::linear(4 << 20, 0, 2 << 20));
        assert_eq!(extents[1].0.strips.len(), 2);
    }
}
