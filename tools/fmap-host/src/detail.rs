// SPDX-License-Identifier: GPL-2.0
//! What a module counts for the parts of a mount, if it does: beside its list of mounts it has
//! lists `devices` and `files` then, with a line for each part of each mount:
//! `<major>:<minor> device=<name>` or `file=<path>`, and ` <counter>=<number>` for each counter.
//! Blanks and backslashes in paths are written as in mountinfo.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use fuse_dax_fmap::module::MOUNTS;

use crate::mountinfo::{Number, unescape};
use crate::reason::reason;

/// A part of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// The superblock.
    pub number: Number,
    /// The name of the device, or the path of the file.
    pub name: String,
    /// As the module calls them.
    pub counters: Vec<(String, u64)>,
}

/// Which parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Devices of mounts.
    Devices,
    /// Mapped files.
    Files,
}

impl Parts {
    fn list(self) -> &'static str {
        match self {
            Self::Devices => "devices",
            Self::Files => "files",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Devices => "device",
            Self::Files => "file",
        }
    }
}

/// The parts of all mounts; none, if this module does not count them.
pub fn details(parts: Parts) -> Result<Vec<Detail>, String> {
    let path = Path::new(MOUNTS).with_file_name(parts.list());
    let shown = path.display();
    let text = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|error| format!("{shown}: {}", reason(&error)))?,
    };
    // A path may be any bytes.
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .map(|line| parse(line, parts).ok_or_else(|| format!("{shown}: not understood: {line:?}")))
        .collect()
}

fn parse(line: &str, parts: Parts) -> Option<Detail> {
    let mut words = line.split(' ');
    let number = Number::parse(words.next()?)?;
    let (mut name, mut counters) = (None, Vec::new());
    for word in words {
        let (key, value) = word.split_once('=')?;
        match key == parts.key() {
            true => name = Some(String::from_utf8_lossy(&unescape(value.as_bytes())).into_owned()),
            // Newer modules may say more.
            false => counters.extend(value.parse().ok().map(|number| (key.to_owned(), number))),
        }
    }
    Some(Detail {
        number,
        name: name?,
        counters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let detail = |name: &str, counters: &[(&str, u64)]| Detail {
            number: Number {
                major: 0,
                minor: 44,
            },
            name: name.to_owned(),
            counters: counters
                .iter()
                .map(|&(name, number)| (name.to_owned(), number))
                .collect(),
        };
        assert_eq!(
            parse(
                "0:44 device=dax0.0 faults_2m=7 state=x new=1",
                Parts::Devices
            ),
            Some(detail("dax0.0", &[("faults_2m", 7), ("new", 1)]))
        );
        assert_eq!(
            parse("0:44 file=a\\040b=c\\134 read_bytes=5", Parts::Files),
            Some(detail("a b=c\\", &[("read_bytes", 5)]))
        );
        for bad in ["", "0:44", "0:44 faults_2m=7", "x file=y", "0:44 file=x y"] {
            assert_eq!(parse(bad, Parts::Files), None, "{bad:?}");
        }
    }
}
