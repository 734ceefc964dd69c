// SPDX-License-Identifier: GPL-2.0
//! What is mounted in this mount namespace.
//!
//! A mount is named by two numbers of /proc/self/mountinfo: its own id, and that of its
//! superblock (`major:minor`, the `st_dev` of its files).

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The number of a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// 0, if there is no block device.
    pub major: u32,
    /// For FUSE, the number of the connection.
    pub minor: u32,
}

impl Number {
    /// That of the superblock of a file.
    pub fn of(statx: &Statx) -> Self {
        Self {
            major: statx.stx_dev_major,
            minor: statx.stx_dev_minor,
        }
    }

    /// `major:minor`, in decimal.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its own number.
    pub id: u64,
    /// The mount that it is on.
    pub on: u64,
    /// Its superblock.
    pub number: Number,
    /// The directory that it is on.
    pub place: PathBuf,
    /// The type of the file system.
    pub kind: String,
    /// What was mounted.
    pub source: PathBuf,
    /// An ordinary user has mounted it, with any source that user liked: FUSE.
    pub by_user: bool,
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, place) = (self.source.display(), self.place.display());
        write!(f, "the {} of {source} on {place}", self.kind)
    }
}

/// What is mounted in this mount namespace.
pub fn mounts() -> Result<Vec<Mount>, String> {
    let text = fs::read(MOUNTINFO).map_err(|error| format!("{MOUNTINFO}: {error}"))?;
    Ok(mounts_in(&text))
}

/// The same from the bytes of mountinfo.
pub fn mounts_in(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_mount)
        .collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|&byte| byte == b' ');
    let mut word = || words.next();
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
    let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(unescape(bytes)));

    let (id, on) = (number(word()?)?, number(word()?)?);
    let device = Number::parse(std::str::from_utf8(word()?).ok()?)?;
    word()?; // the root of the mount in its file system
    let place = path(word()?);
    // Options, some words about propagation, and a dash.
    while word()? != b"-" {}
    let kind = String::from_utf8_lossy(word()?).into_owned();
    let source = path(word()?);
    let options = word().unwrap_or_default().split(|&byte| byte == b',');
    let mut owners = options.filter_map(|option| option.strip_prefix(b"user_id="));
    Some(Mount {
        id,
        on,
        number: device,
        place,
        by_user: kind.starts_with("fuse") && owners.any(|owner| owner != b"0"),
        kind,
        source,
    })
}

/// mountinfo writes blanks and backslashes as three octal digits.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)))
            .map(|digits| {
                digits
                    .iter()
                    .fold(0, |n, digit| n * 8 + u32::from(digit - b'0'))
            })
            .and_then(|n| u8::try_from(n).ok());
        match octal {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

/// What is known of a path without asking a server.
pub fn look_at(path: &Path) -> rustix::io::Result<Statx> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(CWD, path, flags, StatxFlags::MNT_ID | StatxFlags::TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let text = b"22 1 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw\n\
                     30 22 0:44 / /mnt/a\\040b rw - fuse.fmapfs /x\\134y rw,user_id=0\n\
                     nonsense\n31 22 0:44 / /mnt rw\n\
                     32 22 0:45 / /mnt rw - fuse.x /dev/dax0.0 rw,user_id=1000,group_id=1000";
        let mounts = mounts_in(text);
        assert_eq!(mounts.len(), 3);
        assert!(mounts[2].by_user);
        assert_eq!((mounts[0].id, mounts[0].on), (22, 1));
        let fuse = Mount {
            id: 30,
            on: 22,
            number: Number {
                major: 0,
                minor: 44,
            },
            place: "/mnt/a b".into(),
            kind: "fuse.fmapfs".into(),
            source: "/x\\y".into(),
            by_user: false,
        };
        assert_eq!(mounts[1], fuse);
        assert_eq!(fuse.to_string(), "the fuse.fmapfs of /x\\y on /mnt/a b");
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(b"a\\040b\\011"), b"a b\t");
        for same in [&b"\\04"[..], b"\\777", b"\\08 ", b"040"] {
            assert_eq!(unescape(same), same);
        }
    }
}
