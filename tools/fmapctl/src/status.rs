// SPDX-License-Identifier: GPL-2.0
//! What is mounted: the module's list in debugfs, with the mount points that the
//! kernel knows for the same device numbers.

use std::fs;
use std::io;

use crate::registry::{self, Registered};
use crate::{Failure, check_host, reason, table};

const MOUNTS: &str = "/sys/kernel/debug/fuse_dax_fmap/mounts";

/// A superblock that uses ops.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor`, as in mountinfo.
    pub number: String,
    pub ops: String,
    /// The id of the ops' map; not of every module that there was.
    pub map: Option<u32>,
    pub files: String,
    pub devices: Vec<String>,
    /// Whatever else the module counts, as `name=number`, in its order.
    pub counters: Vec<(String, u64)>,
}

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

/// The superblocks that use ops.
pub fn mounts() -> Result<Vec<Mount>, String> {
    let text = fs::read_to_string(MOUNTS).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{MOUNTS} is not there: mount -t debugfs debugfs /sys/kernel/debug")
        }
        _ => format!("{MOUNTS}: {}", reason(&error)),
    })?;
    text.lines()
        .map(|line| parse(line).ok_or_else(|| format!("{MOUNTS}: not understood: {line:?}")))
        .collect()
}

/// A row about a counter. What is not known here is shown under the module's own name.
fn counter((name, number): &(String, u64)) -> Vec<String> {
    let known = [
        ("faults_2m", "page faults of 2 MiB"),
        ("faults_4k", "page faults of 4 KiB"),
        ("faults_failed", "page faults that ended with a signal"),
        ("upgrades", "ranges back from 4 KiB to 2 MiB"),
        ("read_bytes", "bytes read"),
        ("written_bytes", "bytes written"),
        ("get_fmap", "GET_FMAP requests"),
        ("maps_in_open", "maps that came with OPEN"),
        ("get_daxdev", "GET_DAXDEV requests"),
        ("maps_refused", "maps refused by dax_fmap_parse()"),
        ("opens_failed", "opens that failed"),
        ("mappings_refused", "mappings of iomap_begin() refused"),
    ];
    let text = known.iter().find(|(key, _)| key == name);
    vec![
        format!("  {}", text.map_or(name.as_str(), |(_, text)| text)),
        number.to_string(),
    ]
}

/// `<major>:<minor> ops=<name> map=<id> files=<number> devices=<index>:<name>[!],...`, and
/// ` <counter>=<number>` for each counter.
fn parse(line: &str) -> Option<Mount> {
    let mut words = line.split_whitespace();
    let number = words.next()?.to_owned();
    let (mut ops, mut map, mut files, mut devices) = (None, None, None, None);
    let mut counters = Vec::new();
    for word in words {
        let (key, value) = word.split_once('=')?;
        match key {
            "ops" => ops = Some(value.to_owned()),
            "map" => map = Some(value.parse().ok()?),
            "files" => files = Some(value.to_owned()),
            "devices" => {
                let named = value.split(',').filter(|device| !device.is_empty());
                devices = Some(named.map(str::to_owned).collect());
            }
            _ => counters.extend(value.parse().ok().map(|number| (key.to_owned(), number))),
        }
    }
    Some(Mount {
        number,
        ops: ops?,
        map,
        files: files?,
        devices: devices?,
        counters,
    })
}

/// The map of a mount's ops, and what has become of it.
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
    fn lines_of_the_module() {
        let mount = parse("0:44 ops=striped map=17 files=3 devices=0:dax0.0,1:dax1.0!").unwrap();
        assert_eq!(
            (mount.number.as_str(), mount.ops.as_str()),
            ("0:44", "striped")
        );
        assert_eq!(mount.map, Some(17));
        assert_eq!(mount.files, "3");
        assert_eq!(mount.devices, ["0:dax0.0", "1:dax1.0!"]);
        assert_eq!(device("1:dax1.0!"), "1:dax1.0(failed)");
        assert_eq!(device("0:dax0.0"), "0:dax0.0");

        assert!(
            parse("0:44 ops=x files=0 devices=")
                .unwrap()
                .devices
                .is_empty()
        );
        let mount = parse("0:44 ops=x files=0 devices= faults_2m=7 new=1 other=x").unwrap();
        let rows: Vec<_> = mount.counters.iter().map(counter).collect();
        assert_eq!(rows, [["  page faults of 2 MiB", "7"], ["  new", "1"]]);
        for bad in [
            "",
            "0:44",
            "0:44 ops=x devices=",
            "0:44 ops=x files=1 devices",
            "0:44 ops=x map=y files=1 devices=",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
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

    use proptest::collection::vec;
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
        fn any_line(line in "\\PC{0,80}|[0-9]:[0-9] (ops|files|devices|x)=[a-z0-9:,!= ]{0,60}") {
            if let Some(mount) = parse(&line) {
                prop_assert!(line.contains(&mount.number));
                mount.devices.iter().for_each(|name| drop(device(name)));
            }
        }

        #[test]
        fn a_line_is_what_it_says(
            (major, minor) in any::<(u16, u32)>(),
            ops in "[A-Za-z0-9_.-]{1,15}",
            files in any::<u32>(),
            devices in vec("[0-9]{1,2}:dax[0-9]\\.[0-9]!?", 0..5),
            counters in vec(("[a-z_]{9,12}", any::<u64>()), 0..5),
        ) {
            let mut line = format!(
                "{major}:{minor} ops={ops} files={files} devices={}", devices.join(",")
            );
            for (name, number) in &counters {
                line += &format!(" {name}={number}");
            }
            let mount = parse(&line).unwrap();
            prop_assert_eq!(mount.number, format!("{}:{}", major, minor));
            prop_assert_eq!(mount.ops, ops);
            prop_assert_eq!(mount.files, files.to_string());
            prop_assert_eq!(mount.devices, devices);
            prop_assert_eq!(mount.counters, counters);
        }

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
