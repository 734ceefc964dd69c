// SPDX-License-Identifier: GPL-2.0
//! Mounts, their servers and users, and holders of devices, as far as the kernel tells.
//!
//! A mount is named by two numbers of /proc/self/mountinfo: its own id, and that of its
//! superblock (`major:minor`, the `st_dev` of its files). No request is sent to the servers
//! of files, which may be dead, or stuck.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use fuse_dax_fmap::module::MOUNTS;
use rustix::fs::{AtFlags, CWD, Statx, StatxFlags};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The number of a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    pub major: u32,
    pub minor: u32,
}

impl Number {
    pub fn of(statx: &Statx) -> Self {
        Self {
            major: statx.stx_dev_major,
            minor: statx.stx_dev_minor,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

/// A line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    /// The mount that it is on.
    pub on: u64,
    pub number: Number,
    pub place: PathBuf,
    pub kind: String,
    pub source: PathBuf,
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
    Some(Mount {
        id,
        on,
        number: device,
        place,
        kind: String::from_utf8_lossy(word()?).into_owned(),
        source: path(word()?),
    })
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
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
    rustix::fs::statx(CWD, path, flags, StatxFlags::MNT_ID)
}

/// A process.
#[derive(Debug, PartialEq, Eq)]
pub struct Process {
    id: u32,
    name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.id, self.name)
    }
}

/// Processes but this one that `is_one` is true for, given their directory in /proc.
fn processes(is_one: impl Fn(&Path) -> bool) -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if id != std::process::id() && is_one(&entry.path()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let name = name.trim_end().escape_default().to_string();
            found.push(Process { id, name });
        }
    }
    found.sort_by_key(|process| process.id);
    found
}

fn files_in(dir: PathBuf) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// The processes that serve a FUSE mount.
pub fn servers(number: Number) -> Vec<Process> {
    // As the kernel writes it; FUSE's superblocks have the major number 0.
    let line = format!("fuse_connection:\t{}", number.minor);
    processes(|process| {
        files_in(process.join("fdinfo")).any(|info| {
            let text = fs::read_to_string(info).unwrap_or_default();
            text.lines().any(|other| other == line)
        })
    })
}

/// The processes that have files of a superblock open or mapped, or are in one of its
/// directories.
pub fn users(number: Number) -> Vec<Process> {
    let device = format!("{:02x}:{:02x}", number.major, number.minor);
    let is_there = |path: PathBuf| look_at(&path).is_ok_and(|statx| Number::of(&statx) == number);
    processes(|process| {
        let maps = || {
            let text = fs::read(process.join("maps")).unwrap_or_default();
            // Address, rights, offset, device.
            String::from_utf8_lossy(&text)
                .lines()
                .any(|line| line.split(' ').nth(3) == Some(&device))
        };
        is_there(process.join("cwd"))
            || is_there(process.join("root"))
            || files_in(process.join("fd")).any(is_there)
            || maps()
    })
}

/// Processes as a part of a sentence; empty if there are none.
pub fn named(processes: &[Process], most: usize) -> String {
    let mut text: Vec<String> = processes
        .iter()
        .take(most)
        .map(Process::to_string)
        .collect();
    if processes.len() > most {
        text.push(format!("{} more", processes.len() - most));
    }
    match text.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// The number of a DAX device's node, and its own name.
fn name_of(device: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let node = fs::metadata(device).ok()?.rdev();
    let (major, minor) = (rustix::fs::major(node), rustix::fs::minor(node));
    let device = fs::canonicalize(format!("/sys/dev/char/{major}:{minor}")).ok()?;
    Some(device.file_name()?.to_str()?.to_owned())
}

/// Returns true if two paths lead to one device.
pub fn same_device(one: &Path, other: &Path) -> bool {
    name_of(one).is_some_and(|name| Some(name) == name_of(other))
}

/// The holder of a DAX device that is held, as a part of a sentence.
pub fn holder(device: &Path) -> String {
    let Some(name) = name_of(device) else {
        return "somebody else".to_owned();
    };
    let mounts = mounts().unwrap_or_default();
    let bound = match fs::read_to_string(MOUNTS) {
        Ok(text) => holder_in(&text, &name),
        Err(_) => {
            return "another mount (debugfs, if it is mounted on /sys/kernel/debug, has a list)"
                .to_owned();
        }
    };
    if let Some(number) = bound {
        return mount_in_words(number, &mounts);
    }
    // A mount of another file system type may have it as its source.
    let source = mounts
        .iter()
        .find(|mount| same_device(&mount.source, device));
    match source {
        Some(mount) => mount.to_string(),
        None => "another file system".to_owned(),
    }
}

/// Returns true if a device that is held may be free in a moment: the mount that has it is
/// on no directory.
pub fn may_let_go(device: &Path) -> bool {
    let mounts = mounts().unwrap_or_default();
    let list = fs::read_to_string(MOUNTS).unwrap_or_default();
    let bound = name_of(device).and_then(|name| holder_in(&list, &name));
    !mounts.iter().any(|mount| match bound {
        Some(number) => mount.number == number,
        None => same_device(&mount.source, device),
    })
}

/// The superblock in the module's list that has a device.
fn holder_in(list: &str, device: &str) -> Option<Number> {
    let has_it = |line: &&str| {
        line.split(' ')
            .filter_map(|word| word.strip_prefix("devices="))
            .flat_map(|devices| devices.split(','))
            .filter_map(|entry| entry.split_once(':'))
            .any(|(_, name)| name == device)
    };
    Number::parse(list.lines().find(has_it)?.split(' ').next()?)
}

/// A FUSE mount as a part of a sentence: where it is, its servers, and how to end it.
fn mount_in_words(number: Number, mounts: &[Mount]) -> String {
    let place = mounts.iter().find(|mount| mount.number == number);
    let what = match place {
        Some(mount) => format!("the mount on {}", mount.place.display()),
        None => "a mount that is on no directory here".to_owned(),
    };
    let servers = servers(number);
    let users = || match users(number) {
        users if users.is_empty() => String::new(),
        users => format!(", and which {} has in use", named(&users, 3)),
    };
    match (place, servers.as_slice()) {
        (_, [_, ..]) => format!("{what}, which {} serves", named(&servers, 3)),
        (Some(mount), []) => format!(
            "{what}, whose server has ended{} (umount -l {})",
            users(),
            mount.place.display()
        ),
        (None, []) => format!("{what}, whose server has ended{}", users()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let text = b"22 1 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw\n\
                     30 22 0:44 / /mnt/a\\040b rw - fuse.fmapfs /x\\134y rw,user_id=0\n\
                     nonsense\n31 22 0:44 / /mnt rw\n";
        let mounts = mounts_in(text);
        assert_eq!(mounts.len(), 2);
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

    #[test]
    fn the_list_of_the_module() {
        let list = "0:44 ops=striped map=1 files=0 devices=0:dax0.0,1:dax1.0! get_fmap=0\n\
                    0:45 ops=striped map=1 files=0 devices=0:dax10.0 get_fmap=0\n";
        let number = |minor| Some(Number { major: 0, minor });
        assert_eq!(holder_in(list, "dax0.0"), number(44));
        assert_eq!(holder_in(list, "dax10.0"), number(45));
        assert_eq!(holder_in(list, "dax1.0"), None);
        assert_eq!(holder_in("", "dax1.0"), None);
    }

    #[test]
    fn some_processes() {
        let process = |id| Process {
            id,
            name: "x".into(),
        };
        let some: Vec<_> = (1..=4).map(process).collect();
        assert_eq!(named(&[], 3), "");
        assert_eq!(named(&some[..1], 3), "process 1 (x)");
        assert_eq!(named(&some[..2], 3), "process 1 (x) and process 2 (x)");
        assert_eq!(named(&some, 2), "process 1 (x), process 2 (x) and 2 more");
    }
}
