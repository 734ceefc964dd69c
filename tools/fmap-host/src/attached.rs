// SPDX-License-Identifier: GPL-2.0
//! The module's list of superblocks that use ops, in debugfs.

use std::fs;
use std::io;

use fuse_dax_fmap::module::MOUNTS;

use crate::mountinfo::Number;
use crate::reason::reason;

/// A superblock that uses ops.
#[derive(Debug, PartialEq, Eq)]
pub struct Attached {
    /// As in mountinfo.
    pub number: Number,
    /// The name of its ops.
    pub ops: String,
    /// The id of the ops' map; older modules do not print it.
    pub map: Option<u32>,
    /// How many of its inodes have a map.
    pub files: u64,
    /// The devices that it holds, or held until they failed.
    pub devices: Vec<Device>,
    /// All other counters of the module, `name=number`, in its order.
    pub counters: Vec<(String, u64)>,
}

/// A device of a superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// How the server names it.
    pub index: u32,
    /// As the kernel calls it: `dax0.0`.
    pub name: String,
    /// It was removed, or its driver was.
    pub failed: bool,
}

/// The superblocks that use ops.
pub fn attached() -> Result<Vec<Attached>, String> {
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

/// `<major>:<minor> ops=<name> map=<id> files=<number> devices=<index>:<name>[!],...`, and
/// ` <counter>=<number>` for each counter.
fn parse(line: &str) -> Option<Attached> {
    let mut words = line.split_whitespace();
    let number = Number::parse(words.next()?)?;
    let (mut ops, mut map, mut files, mut devices) = (None, None, None, None);
    let mut counters = Vec::new();
    for word in words {
        let (key, value) = word.split_once('=')?;
        match key {
            "ops" => ops = Some(value.to_owned()),
            "map" => map = Some(value.parse().ok()?),
            "files" => files = Some(value.parse().ok()?),
            "devices" => {
                let named = value.split(',').filter(|device| !device.is_empty());
                devices = Some(named.map(device).collect::<Option<_>>()?);
            }
            _ => counters.extend(value.parse().ok().map(|number| (key.to_owned(), number))),
        }
    }
    Some(Attached {
        number,
        ops: ops?,
        map,
        files: files?,
        devices: devices?,
        counters,
    })
}

/// `<index>:<name>`, and a mark if the device has failed.
fn device(text: &str) -> Option<Device> {
    let (index, name) = text.split_once(':')?;
    Some(Device {
        index: index.parse().ok()?,
        name: name.strip_suffix('!').unwrap_or(name).to_owned(),
        failed: name.ends_with('!'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    #[test]
    fn lines_of_the_module() {
        let mount = parse("0:44 ops=striped map=17 files=3 devices=0:dax0.0,1:dax1.0!").unwrap();
        assert_eq!(mount.number.to_string(), "0:44");
        assert_eq!(mount.ops, "striped");
        assert_eq!(mount.map, Some(17));
        assert_eq!(mount.files, 3);
        let named = |index, name: &str, failed| Device {
            index,
            name: name.to_owned(),
            failed,
        };
        let devices = [named(0, "dax0.0", false), named(1, "dax1.0", true)];
        assert_eq!(mount.devices, devices);

        assert!(
            parse("0:44 ops=x files=0 devices=")
                .unwrap()
                .devices
                .is_empty()
        );
        let mount = parse("0:44 ops=x files=0 devices= faults_2m=7 new=1 other=x").unwrap();
        let counters = [("faults_2m".to_owned(), 7), ("new".to_owned(), 1)];
        assert_eq!(mount.counters, counters);
        for bad in [
            "",
            "0:44",
            "0:44 ops=x devices=",
            "0:44 ops=x files=1 devices",
            "0:44 ops=x map=y files=1 devices=",
            "0:44 ops=x files=many devices=",
            "0:44 ops=x files=1 devices=dax0.0",
            "x ops=x files=1 devices=",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

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

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn any_line(line in "\\PC{0,80}|[0-9]:[0-9] (ops|files|devices|x)=[a-z0-9:,!= ]{0,60}") {
            if let Some(mount) = parse(&line) {
                prop_assert!(line.contains(&mount.ops));
            }
        }

        #[test]
        fn a_line_is_what_it_says(
            (major, minor) in any::<(u16, u32)>(),
            ops in "[A-Za-z0-9_.-]{1,15}",
            files in any::<u32>(),
            devices in vec("(0|[1-9][0-9]?):dax[0-9]\\.[0-9]!?", 0..5),
            counters in vec(("[a-z_]{9,12}", any::<u64>()), 0..5),
        ) {
            let mut line = format!(
                "{major}:{minor} ops={ops} files={files} devices={}", devices.join(",")
            );
            for (name, number) in &counters {
                line += &format!(" {name}={number}");
            }
            let mount = parse(&line).unwrap();
            prop_assert_eq!(mount.number.to_string(), format!("{}:{}", major, minor));
            prop_assert_eq!(mount.ops, ops);
            prop_assert_eq!(mount.files, u64::from(files));
            let text = |d: &Device| format!("{}:{}{}", d.index, d.name, if d.failed { "!" } else { "" });
            prop_assert_eq!(mount.devices.iter().map(text).collect::<Vec<_>>(), devices);
            prop_assert_eq!(mount.counters, counters);
        }
    }
}
