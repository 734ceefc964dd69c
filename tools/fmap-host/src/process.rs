// SPDX-License-Identifier: GPL-2.0
//! Processes that serve a mount, or use one, or a device.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::fs::{FileType, Statx};

use crate::device::Device;
use crate::mountinfo::{Number, look_at};

/// How long a process may take to tell what it has.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many may take so long; others are waited for a moment only.
const PATIENT: usize = 4;

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

/// What a look at all processes has brought.
#[derive(Debug, Default)]
pub struct Seen {
    /// Those that were looked for.
    pub found: Vec<Process>,
    /// Those that did not tell.
    pub silent: Vec<Process>,
}

fn dir(id: u32) -> PathBuf {
    Path::new("/proc").join(id.to_string())
}

fn process(id: u32) -> Process {
    // A process may call itself anything.
    let name = fs::read(dir(id).join("comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    let name = name.trim_end().escape_default().to_string();
    Process { id, name }
}

/// Processes but this one that `is_one` is true for, given their directory in /proc.
fn processes(is_one: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Seen {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let id = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let mut ids: Vec<_> = entries.filter_map(id).collect();
    ids.retain(|&id| id != std::process::id());
    ids.sort_unstable();
    look(&ids, PATIENCE, is_one)
}

/// Looks at processes. Each read of its files in /proc may wait for ever: the memory of a process
/// is locked while it maps a file of a server that never answers, and any user can have such a
/// server. So a thread reads, and is left alone with a process that takes too long.
fn look(
    ids: &[u32],
    patience: Duration,
    is_one: impl Fn(&Path) -> bool + Send + Sync + 'static,
) -> Seen {
    let is_one = Arc::new(is_one);
    let mut seen = Seen::default();
    let mut left = ids;
    while !left.is_empty() {
        let (tell, told) = mpsc::channel();
        let (all, is_one) = (left.to_vec(), Arc::clone(&is_one));
        let read = move || {
            for id in all {
                if tell.send(is_one(&dir(id))).is_err() {
                    return;
                }
            }
        };
        if thread::Builder::new().spawn(read).is_err() {
            seen.silent.extend(left.iter().map(|&id| process(id)));
            return seen;
        }
        while let Some((&id, rest)) = left.split_first() {
            let patience = match seen.silent.len() {
                ..PATIENT => patience,
                _ => patience / 50,
            };
            let answer = told.recv_timeout(patience);
            left = rest;
            match answer {
                Ok(true) => seen.found.push(process(id)),
                Ok(false) => (),
                // Another thread goes on after it.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    seen.silent.push(process(id));
                    break;
                }
            }
        }
    }
    seen
}

fn files_in(dir: PathBuf) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// The processes that serve a FUSE mount.
pub fn servers(number: Number) -> Vec<Process> {
    // As the kernel writes it; FUSE's superblocks have the major number 0.
    let line = format!("fuse_connection:\t{}", number.minor);
    let all = processes(move |process| {
        files_in(process.join("fdinfo")).any(|info| {
            let text = fs::read_to_string(info).unwrap_or_default();
            text.lines().any(|other| other == line)
        })
    });
    all.found
}

/// The processes that have files of a superblock open or mapped, or are in one of its
/// directories.
pub fn users(number: Number) -> Vec<Process> {
    let device = format!("{:02x}:{:02x}", number.major, number.minor);
    let is_there =
        move |path: PathBuf| look_at(&path).is_ok_and(|statx| Number::of(&statx) == number);
    let all = processes(move |process| {
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
    });
    all.found
}

/// The processes that have a device open, or mapped. A mapping keeps the device open, even
/// after close(2).
pub fn openers(device: &Device) -> Seen {
    let Some(number) = device.number() else {
        return Seen::default();
    };
    // Among the files may be some of a server that is stuck, so it is not asked.
    let is_it = move |path: PathBuf| look_at(&path).is_ok_and(|statx| is_device(&statx, number));
    processes(move |process| {
        let maps = || {
            let text = fs::read(process.join("maps")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            // A path in there may lead anywhere by now, to such a server, too. These links do not.
            let link = |line: &str| Some(process.join("map_files").join(shared_file(line)?));
            text.lines().filter_map(link).any(is_it)
        };
        files_in(process.join("fd")).any(is_it) || maps()
    })
}

/// The name in map_files of what a line of maps is about, if it is a shared mapping of a file: a
/// DAX device has no others.
fn shared_file(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    let (range, rights) = (words.next()?, words.next()?);
    let inode = words.nth(2)?;
    if !rights.ends_with('s') || inode == "0" {
        return None;
    }
    let (first, end) = range.split_once('-')?;
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    Some(format!("{:x}-{:x}", number(first)?, number(end)?))
}

fn is_device(statx: &Statx, number: Number) -> bool {
    FileType::from_raw_mode(statx.stx_mode.into()) == FileType::CharacterDevice
        && (statx.stx_rdev_major, statx.stx_rdev_minor) == (number.major, number.minor)
}

/// The processes that have memory on a NUMA node.
pub fn on_node(node: u64) -> Vec<Process> {
    let mark = format!(" N{node}=");
    let all = processes(move |process| {
        let text = fs::read(process.join("numa_maps")).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(&mark)
    });
    all.found
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
    fn a_process_that_does_not_tell_is_passed_over() {
        let (hold, held) = mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let is_one = move |dir: &Path| match dir.file_name().and_then(|name| name.to_str()) {
            Some("4194305" | "4194307") => {
                // Until the end of the test.
                let _ = held.lock().map(|held| held.recv());
                true
            }
            id => id == Some("4194306") || id == Some("4194309"),
        };
        let ids: Vec<_> = (4_194_304..4_194_310).collect();
        let seen = look(&ids, Duration::from_millis(200), is_one);
        let ids = |all: &[Process]| all.iter().map(|one| one.id).collect::<Vec<_>>();
        assert_eq!(ids(&seen.silent), [4_194_305, 4_194_307]);
        assert_eq!(ids(&seen.found), [4_194_306, 4_194_309]);
        drop(hold);
    }

    #[test]
    fn shared_mappings() {
        let shared =
            "00400000-7f0000200000 rw-s 00000000 00:06 412                        /dev/dax0.0";
        assert_eq!(shared_file(shared).as_deref(), Some("400000-7f0000200000"));
        for other in [
            "7f0000000000-7f0000200000 rw-p 00000000 00:06 412   /dev/dax0.0",
            "7f0000000000-7f0000200000 rw-s 00000000 00:00 0 ",
            "7f0000000000-7f0000200000",
            "",
        ] {
            assert_eq!(shared_file(other), None, "{other:?}");
        }
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
