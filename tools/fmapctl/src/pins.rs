// SPDX-License-Identifier: GPL-2.0
//! Where links are pinned, so that they outlive the process that made them.
//!
//! Any user may be able to write to a bpffs: mount(8) mounts it with mode 1777. So no name
//! in it is trusted. The directory has to belong to root, and only root may write to it; it
//! is made with mode 0700, opened once, and its pins are reached through that descriptor. A
//! pin has to be a file of bpffs, and no symbolic link. `ops` checks the type of the link
//! before it does anything to it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::Link;
use libbpf_rs::query::LinkInfo;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use fmap_host::reason::reason;

const BPFFS: &str = "/sys/fs/bpf";
/// The directory.
pub const DIR: &str = "/sys/fs/bpf/fuse_dax_fmap";
/// `BPF_FS_MAGIC`.
const BPFFS_MAGIC: u64 = 0xcafe_4a11;
/// How long another fmapctl may hold the lock.
const PATIENCE: Duration = Duration::from_secs(30);

/// The directory of pins, checked.
pub struct Pins(OwnedFd);

/// Fails unless there is a bpffs.
pub fn check_bpffs() -> Result<(), String> {
    if has_bpffs() {
        return Ok(());
    }
    Err(format!(
        "there is no bpffs on {BPFFS}: mount -t bpf -o mode=700 bpf {BPFFS}"
    ))
}

fn has_bpffs() -> bool {
    rustix::fs::statfs(BPFFS).is_ok_and(|stat| stat.f_type as u64 == BPFFS_MAGIC)
}

impl Pins {
    /// Opens the directory, for reading; `None` if there is none.
    pub fn open() -> Result<Option<Self>, String> {
        if !has_bpffs() {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(DIR, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(planted("is no directory")),
            Err(error) => return Err(failed(error)),
        };
        let stat = rustix::fs::fstat(&dir).map_err(failed)?;
        let fs = rustix::fs::fstatfs(&dir).map_err(failed)?;
        match unfit(&stat) {
            Some(reason) => Err(planted(&reason)),
            None if fs.f_type as u64 != BPFFS_MAGIC => Err(format!(
                "another file system is mounted on {DIR}: umount {DIR}"
            )),
            None => Ok(Some(Self(dir))),
        }
    }

    /// The same, with the lock: no other fmapctl changes the directory while it is held.
    pub fn lock() -> Result<Option<Self>, String> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(pins) = Self::open()? {
            match rustix::fs::flock(&pins.0, FlockOperation::NonBlockingLockExclusive) {
                // The previous owner of the lock may have removed the directory.
                Ok(()) if !pins.is_current() => (),
                Ok(()) => {
                    // An older fmapctl made it readable by all.
                    rustix::fs::fchmod(&pins.0, Mode::RWXU).map_err(failed)?;
                    return Ok(Some(pins));
                }
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(format!("another fmapctl has been at {DIR} for too long"));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(None)
    }

    /// The same; makes the directory if it is missing.
    pub fn make() -> Result<Self, String> {
        loop {
            match rustix::fs::mkdir(DIR, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => (),
                Err(error) => return Err(failed(error)),
            }
            if let Some(pins) = Self::lock()? {
                return Ok(pins);
            }
        }
    }

    fn is_current(&self) -> bool {
        let (Ok(mine), Ok(there)) = (rustix::fs::fstat(&self.0), rustix::fs::lstat(DIR)) else {
            return false;
        };
        (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
    }

    /// The path of a pin, by the descriptor: renames of the directories above do not
    /// matter.
    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// Names of the pins, sorted.
    pub fn names(&self) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path("")).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The link that is pinned under a name, and what it is; `None` if nothing is.
    pub fn link(&self, name: &str) -> Result<Option<(Link, LinkInfo)>, String> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Ok(None);
        }
        let stat = match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(format!("{DIR}/{name}: {}", reason(&error.into()))),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => (),
            FileType::Symlink => return Err(no_link(name, "a symbolic link")),
            FileType::Directory => return Err(no_link(name, "a directory")),
            _ => return Err(no_link(name, "no file")),
        }
        let link = Link::open(self.path(name)).map_err(|_| no_link(name, "no BPF link"))?;
        let info = LinkInfo::from_fd(link.as_fd()).map_err(|_| no_link(name, "no BPF link"))?;
        Ok(Some((link, info)))
    }

    /// Removes a pin.
    pub fn remove(&self, name: &str) -> Result<(), String> {
        rustix::fs::unlinkat(&self.0, name, AtFlags::empty())
            .map_err(|error| format!("{DIR}/{name}: {}", reason(&error.into())))
    }

    /// Removes the directory if nothing is in it.
    pub fn remove_if_empty(&self) {
        if self.is_current() {
            let _ = rustix::fs::rmdir(DIR);
        }
    }
}

/// What is wrong with a directory of this owner and mode.
fn unfit(stat: &Stat) -> Option<String> {
    if stat.st_uid != 0 {
        return Some(format!("belongs to user {} and not to root", stat.st_uid));
    }
    let others = Mode::WGRP | Mode::WOTH;
    let mode = Mode::from_raw_mode(stat.st_mode);
    mode.intersects(others).then(|| {
        format!(
            "can be written by others than root (mode {:04o})",
            mode.bits() & 0o7777
        )
    })
}

fn planted(reason: &str) -> String {
    format!(
        "{DIR} {reason}, so nothing in it can be trusted: remove it (rm -r {DIR}), and have \
         nobody else write to {BPFFS} (chmod 700 {BPFFS})"
    )
}

/// A pin that is left alone.
pub fn no_link(name: &str, what: &str) -> String {
    format!("{DIR}/{name} is {what}, not the link of ops: remove it (rm {DIR}/{name})")
}

fn failed(error: impl Into<io::Error>) -> String {
    format!("{DIR}: {}", reason(&error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_directory() {
        let mut stat = rustix::fs::stat("/").unwrap();
        let mut of = |uid, mode: u32| {
            (stat.st_uid, stat.st_mode) = (uid, 0o040_000 | mode);
            unfit(&stat)
        };
        assert_eq!(of(0, 0o700), None);
        assert_eq!(of(0, 0o755), None);
        assert!(of(0, 0o770).unwrap().contains("(mode 0770)"));
        assert!(of(0, 0o1777).unwrap().contains("(mode 1777)"));
        assert!(of(0, 0o702).is_some());
        assert!(of(1000, 0o700).unwrap().contains("user 1000"));
    }
}
