// SPDX-License-Identifier: GPL-2.0
//! What a module counts for the parts of a mount, if it does: beside its list of mounts it has
//! lists `devices` and `files` then, with a line for each part of each mount: `<major>:<minor>`,
//! `device=<name>` or `file=<path>`, and ` <name>=<number>` for each number. Blanks and backslashes
//! in paths are written as in mountinfo. A file that was removed has no path.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};

use fuse_dax_fmap::module::{DEVICES, FILES};

use crate::mountinfo::{Number, unescape};
use crate::reason::reason;

/// A part of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    /// The superblock.
    pub number: Number,
    /// The name of the device, or the path of the file, if it has one.
    pub name: Option<String>,
    /// What else is known of it, as the module calls it.
    pub facts: Vec<(String, u64)>,
    /// What was counted for it, as the module calls it.
    pub counters: Vec<(String, u64)>,
}

impl Detail {
    /// A number of that name that is no counter.
    pub fn fact(&self, name: &str) -> Option<u64> {
        let found = self.facts.iter().find(|(fact, _)| fact == name);
        found.map(|&(_, number)| number)
    }

    /// What was counted by that name; 0 if nothing was.
    pub fn counter(&self, name: &str) -> u64 {
        let found = self.counters.iter().find(|(counter, _)| counter == name);
        found.map_or(0, |&(_, number)| number)
    }
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
            Self::Devices => DEVICES,
            Self::Files => FILES,
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Devices => "device",
            Self::Files => "file",
        }
    }

    /// Numbers that are no counters.
    fn facts(self) -> &'static [&'static str] {
        match self {
            Self::Devices => &["index", "size", "failed", "poisoned_pages"],
            Self::Files => &["nodeid", "ino", "size", "meta_bytes"],
        }
    }
}

/// Calls `each` with the parts of all mounts, of which there may be millions; with none, if this
/// module does not count them.
pub fn each(parts: Parts, mut each: impl FnMut(Detail)) -> Result<(), String> {
    let shown = parts.list();
    let file = match File::open(shown) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file.map_err(|error| format!("{shown}: {}", reason(&error)))?,
    };
    // A path need not be UTF-8.
    for line in BufReader::with_capacity(1 << 16, file).split(b'\n') {
        let line = line.map_err(|error| format!("{shown}: {}", reason(&error)))?;
        match parse(&line, parts) {
            Some(detail) => each(detail),
            None => {
                let line = String::from_utf8_lossy(&line);
                return Err(format!("{shown}: not understood: {line:?}"));
            }
        }
    }
    Ok(())
}

fn parse(line: &[u8], parts: Parts) -> Option<Detail> {
    let mut words = line.split(|&byte| byte == b' ');
    let number = Number::parse(std::str::from_utf8(words.next()?).ok()?)?;
    let mut detail = Detail {
        number,
        name: None,
        facts: Vec::new(),
        counters: Vec::new(),
    };
    for word in words {
        let at = word.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (std::str::from_utf8(&word[..at]).ok()?, &word[at + 1..]);
        if key == parts.key() {
            detail.name = Some(String::from_utf8_lossy(&unescape(value)).into_owned());
            continue;
        }
        // Newer modules may say more.
        let value = std::str::from_utf8(value).ok();
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            match parts.facts().contains(&key) {
                true => detail.facts.push((key.to_owned(), value)),
                false => detail.counters.push((key.to_owned(), value)),
            }
        }
    }
    // A device has a name, and a file a number.
    match parts {
        Parts::Devices => detail.name.as_ref().map(drop)?,
        Parts::Files => detail.fact("nodeid").map(drop)?,
    }
    Some(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(all: &[(&str, u64)]) -> Vec<(String, u64)> {
        all.iter()
            .map(|&(name, number)| (name.to_owned(), number))
            .collect()
    }

    fn detail(name: Option<&str>, facts: &[(&str, u64)], counters: &[(&str, u64)]) -> Detail {
        Detail {
            number: Number {
                major: 0,
                minor: 44,
            },
            name: name.map(str::to_owned),
            facts: numbers(facts),
            counters: numbers(counters),
        }
    }

    #[test]
    fn lines() {
        assert_eq!(
            parse(
                b"0:44 device=dax0.0 index=3 failed=1 faults_2m=7 state=x new=1",
                Parts::Devices
            ),
            Some(detail(
                Some("dax0.0"),
                &[("index", 3), ("failed", 1)],
                &[("faults_2m", 7), ("new", 1)]
            ))
        );
        let file = parse(
            b"0:44 nodeid=5 size=9 read_bytes=5 file=/a\\040b=c\\134\xff",
            Parts::Files,
        )
        .unwrap();
        let name = Some("/a b=c\\\u{fffd}");
        let facts = [("nodeid", 5), ("size", 9)];
        assert_eq!(file, detail(name, &facts, &[("read_bytes", 5)]));
        assert_eq!(file.fact("size"), Some(9));
        assert_eq!(file.fact("read_bytes"), None);
        assert_eq!(file.counter("read_bytes"), 5);
        assert_eq!(file.counter("written_bytes"), 0);
        assert_eq!(
            parse(b"0:44 nodeid=5", Parts::Files),
            Some(detail(None, &[("nodeid", 5)], &[]))
        );
        for bad in [
            "",
            "0:44",
            "0:44 faults_2m=7",
            "x nodeid=1 file=y",
            "0:44 nodeid=1 file=x y",
        ] {
            assert_eq!(parse(bad.as_bytes(), Parts::Files), None, "{bad:?}");
        }
        assert_eq!(parse(b"0:44 index=0", Parts::Devices), None);
    }
}
