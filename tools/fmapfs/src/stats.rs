// SPDX-License-Identifier: GPL-2.0
//! Requests, counted by opcode. READ and WRITE are always printed, also if they
//! are 0, to show that data bypass the server.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::files::Replaced;

const NAMES: [&str; 56] = [
    "0",
    "LOOKUP",
    "FORGET",
    "GETATTR",
    "SETATTR",
    "READLINK",
    "SYMLINK",
    "7",
    "MKNOD",
    "MKDIR",
    "UNLINK",
    "RMDIR",
    "RENAME",
    "LINK",
    "OPEN",
    "READ",
    "WRITE",
    "STATFS",
    "RELEASE",
    "19",
    "FSYNC",
    "SETXATTR",
    "GETXATTR",
    "LISTXATTR",
    "REMOVEXATTR",
    "FLUSH",
    "INIT",
    "OPENDIR",
    "READDIR",
    "RELEASEDIR",
    "FSYNCDIR",
    "GETLK",
    "SETLK",
    "SETLKW",
    "ACCESS",
    "CREATE",
    "INTERRUPT",
    "BMAP",
    "DESTROY",
    "IOCTL",
    "POLL",
    "NOTIFY_REPLY",
    "BATCH_FORGET",
    "FALLOCATE",
    "READDIRPLUS",
    "RENAME2",
    "LSEEK",
    "COPY_FILE_RANGE",
    "SETUPMAPPING",
    "REMOVEMAPPING",
    "SYNCFS",
    "TMPFILE",
    "STATX",
    "COPY_FILE_RANGE_64",
    "GET_FMAP",
    "GET_DAXDEV",
];

/// Printed whatever their number is.
const ALWAYS: [&str; 4] = ["READ", "WRITE", "GET_FMAP", "GET_DAXDEV"];

#[derive(Debug)]
pub struct Stats {
    counts: [AtomicU64; NAMES.len()],
    unknown: AtomicU64,
}

impl Stats {
    pub fn new() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; NAMES.len()],
            unknown: AtomicU64::new(0),
        }
    }

    pub fn count(&self, opcode: u32) {
        self.counts
            .get(opcode as usize)
            .unwrap_or(&self.unknown)
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Writes them to a file, or to stderr.
    pub fn report(&self, file: Option<&Replaced>) -> Result<(), String> {
        match file {
            Some(file) => file.write(&self.to_string()),
            None => {
                // An error of stderr cannot be reported.
                let _ = io::stderr().write_all(self.to_string().as_bytes());
                Ok(())
            }
        }
    }
}

/// One line for each opcode: name, space, number.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in NAMES.iter().zip(&self.counts) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 || ALWAYS.contains(name) {
                writeln!(f, "{name} {count}")?;
            }
        }
        match self.unknown.load(Ordering::Relaxed) {
            0 => Ok(()),
            count => writeln!(f, "OTHER {count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_linux_fuse_h() {
        for (opcode, name) in [
            (3, "GETATTR"),
            (15, "READ"),
            (16, "WRITE"),
            (26, "INIT"),
            (38, "DESTROY"),
            (44, "READDIRPLUS"),
            (52, "STATX"),
            (54, "GET_FMAP"),
            (55, "GET_DAXDEV"),
        ] {
            assert_eq!(NAMES[opcode], name);
        }
    }

    #[test]
    fn zeroes_that_matter_are_printed() {
        let stats = Stats::new();
        assert_eq!(
            stats.to_string(),
            "READ 0\nWRITE 0\nGET_FMAP 0\nGET_DAXDEV 0\n"
        );
        for opcode in [26, 54, 54, 4096] {
            stats.count(opcode);
        }
        assert_eq!(
            stats.to_string(),
            "READ 0\nWRITE 0\nINIT 1\nGET_FMAP 2\nGET_DAXDEV 0\nOTHER 1\n"
        );
    }
}
