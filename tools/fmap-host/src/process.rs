// SPDX-License-Identifier: GPL-2.0
//! Processes that serve a mount, or use one, or a device.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Statx};

use crate::device::Device;
use crate::mountinfo::{Number, look_at};

/// A process.
#[derive(Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub id: u32,
    /// What it calls itself.
    pub name: String,
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

/// The processes that have a device open, or mapped. A mapping keeps the device open, even
/// after close(2).
pub fn openers(device: &Device) -> Vec<Process> {
    let Some(number) = device.number() else {
        return Vec::new();
    };
    // Among the files may be some of a server that is stuck, so it is not asked.
    let is_it = |path: &Path| look_at(path).is_ok_and(|statx| is_device(&statx, number));
    processes(|process| {
        let maps = || {
            let text = fs::read(process.join("maps")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let path = |line: &str| line.find("/dev/").map(|at| line[at..].to_owned());
            let mapped: BTreeSet<_> = text.lines().filter_map(path).collect();
            mapped.iter().any(|path| is_it(Path::new(path)))
        };
        files_in(process.join("fd")).any(|file| is_it(&file)) || maps()
    })
}

fn is_device(statx: &Statx, number: Number) -> bool {
    FileType::from_raw_mode(statx.stx_mode.into()) == FileType::CharacterDevice
        && (statx.stx_rdev_major, statx.stx_rdev_minor) == (number.major, number.minor)
}

/// The processes that have memory on a NUMA node.
pub fn on_node(node: u64) -> Vec<Process> {
    let mark = format!(" N{node}=");
    processes(|process| {
        let text = fs::read(process.join("numa_maps")).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(&mark)
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

#[cfg(test)]
mod tests {
    use super::*;

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
