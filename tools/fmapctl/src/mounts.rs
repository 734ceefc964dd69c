// SPDX-License-Identifier: GPL-2.0
//! The module's list of superblocks that use ops, in debugfs.

use std::fs;
use std::io;

use fuse_dax_fmap::module::MOUNTS;

use crate::failure::reason;

/// A superblock that uses ops.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor`, as in mountinfo.
    pub number: String,
    pub ops: String,
    /// The id of the ops' map; older modules do not print it.
    pub map: Option<u32>,
    pub files: String,
    pub devices: Vec<String>,
    /// All other counters of the module, `name=number`, in its order.
    pub counters: Vec<(String, u64)>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

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
                prop_assert!(line.contains(&mount.number));
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
    }
}
