// SPDX-License-Identifier: GPL-2.0
//! What is mounted: the module's list in debugfs, with the mount points that the
//! kernel knows for the same device numbers.

use std::fs;

use fuse_dax_fmap::module::Counter;

use crate::failure::{Failure, reason};
use crate::host::check_host;
use crate::mounts::mounts;
use crate::registry::{self, Registered};
use crate::table::table;

/// Prints what is mounted.
pub fn show(out: &mut String) -> Result<(), Failure> {
    check_host()?;
    let mounts = mounts()?;
    let registered = registry::registered();
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("/proc/self/mountinfo: {}", reason(&error)))?;

    let mut rows = vec![
        ["MOUNTPOINT", "OPS", "MAP", "FILES", "DEVICES"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut counters = String::new();
    for mount in mounts {
        let devices = match mount.devices.is_empty() {
            true => "-".to_owned(),
            false => mount
                .devices
                .iter()
                .map(|d| device(d))
                .collect::<Vec<_>>()
                .join(" "),
        };
        let places = places(&mountinfo, &mount.number);
        if !mount.counters.is_empty() {
            let rows: Vec<_> = mount.counters.iter().map(counter).collect();
            counters += &format!("\n{places}\n{}", table(&rows));
        }
        let map = map(mount.map, &mount.ops, &registered);
        rows.push(vec![places, mount.ops, map, mount.files, devices]);
    }
    *out += &table(&rows);
    *out += &counters;
    Ok(())
}

/// The row of a counter. A counter that fmapctl does not know has the module's name.
fn counter((name, number): &(String, u64)) -> Vec<String> {
    let text = match Counter::from_name(name) {
        Some(counter) => counter.description(),
        None => name,
    };
    vec![format!("  {text}"), number.to_string()]
}

/// The map of a mount's ops, and if it has been replaced or unregistered.
fn map(used: Option<u32>, name: &str, registered: &[Registered]) -> String {
    let Some(used) = used else {
        return "-".to_owned();
    };
    match registered.iter().find(|ops| ops.name == name) {
        None => format!("{used}(gone)"),
        Some(ops) if ops.map != used => format!("{used}(old)"),
        Some(_) => used.to_string(),
    }
}

/// `0:dax0.0`, and what the mark of a failed device means.
fn device(text: &str) -> String {
    match text.strip_suffix('!') {
        Some(name) => format!("{name}(failed)"),
        None => text.to_owned(),
    }
}

/// Where a superblock is mounted, in this mount namespace.
fn places(mountinfo: &str, number: &str) -> String {
    let places: Vec<String> = mountinfo
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.get(2) == Some(&number))
        .filter_map(|fields| fields.get(4).map(|place| unescape(place)))
        .collect();
    match places.is_empty() {
        true => format!("(detached, {number})"),
        false => places.join(" "),
    }
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|d| d.iter().all(u8::is_ascii_digit));
        let digits = digits.and_then(|d| std::str::from_utf8(d).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
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
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        assert_eq!(device("1:dax1.0!"), "1:dax1.0(failed)");
        assert_eq!(device("0:dax0.0"), "0:dax0.0");
        let row = |name: &str, number| counter(&(name.to_owned(), number));
        assert_eq!(row("faults_2m", 7), ["  page faults of 2 MiB", "7"]);
        assert_eq!(row("new", 1), ["  new", "1"]);
    }

    #[test]
    fn what_has_become_of_the_ops() {
        let registered = [("a", 3), ("b", 4)].map(|(name, map)| Registered {
            name: name.to_owned(),
            link: 1,
            map,
        });
        assert_eq!(map(Some(3), "a", &registered), "3");
        assert_eq!(map(Some(2), "a", &registered), "2(old)");
        assert_eq!(map(Some(3), "c", &registered), "3(gone)");
        assert_eq!(map(None, "b", &registered), "-");
    }

    #[test]
    fn mount_points_by_number() {
        let mountinfo = "22 1 0:5 / /dev rw - devtmpfs d rw\n\
                         30 1 0:44 / /mnt/a\\040b rw - fuse.fmapfs fmapfs rw\n\
                         31 1 0:44 /x /y rw - fuse.fmapfs fmapfs rw\n";
        assert_eq!(places(mountinfo, "0:44"), "/mnt/a b /y");
        assert_eq!(places(mountinfo, "0:4"), "(detached, 0:4)");
        assert_eq!(unescape("\\134\\04"), "\\\\04");
    }

    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    /// The same numbers every time, unless told.
    fn config() -> Config {
        let mut config = Config {
            failure_persistence: None,
            ..Config::default()
        };
        if config.rng_seed == RngSeed::Random {
            config.rng_seed = RngSeed::Fixed(20260419);
        }
        config
    }

    /// As the kernel does.
    fn escape(text: &str) -> String {
        let one = |c: char| match c {
            ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", c as u32),
            c => c.to_string(),
        };
        text.chars().map(one).collect()
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn any_mountinfo(text in "(\\PC| |\n|\\\\[0-9+-]{1,3}){0,60}", number in "[0-9]:[0-9]{1,2}") {
            prop_assert!(!places(&text, &number).is_empty() || text.contains(&number));
        }

        #[test]
        fn escaped_paths(path in "/(\\PC| |\t|\n|\\\\|\\\\[0-9+]{3}){0,30}") {
            prop_assert_eq!(unescape(&escape(&path)), path.clone());
            let line = format!("30 1 0:44 / {} rw - fuse.fmapfs fmapfs rw\n", escape(&path));
            prop_assert_eq!(places(&line, "0:44"), path);
        }

        #[test]
        fn what_is_no_escape_stays(text in "([a-z]|\\\\[+8-9a-z -][0-9+]{2}){0,20}") {
            prop_assert_eq!(unescape(&text), text);
        }
    }
}
