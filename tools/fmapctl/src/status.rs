// SPDX-License-Identifier: GPL-2.0
//! What is mounted: the module's list in debugfs, with the mount points that the
//! kernel knows for the same device numbers.

use std::collections::HashMap;
use std::time::Instant;

use fmap_host::attached::{self, Attached};
use fmap_host::detail::{self, Detail, Parts};
use fmap_host::mountinfo::{self, Number};
use fmap_host::reason::printable;
use fuse_dax_fmap::module::Counter;
use serde::{Serialize, Serializer};

use crate::failure::Failure;
use crate::host::check_host;
use crate::json;
use crate::registry::{self, Registered};
use crate::table::table;

/// A mount that uses ops.
#[derive(Debug, Serialize)]
pub struct Mount {
    /// Where it is, in this mount namespace; nowhere if it is detached, or in another one.
    pub paths: Vec<String>,
    /// As in mountinfo.
    #[serde(serialize_with = "as_text")]
    pub superblock: Number,
    pub ops: String,
    /// The id of their BPF map.
    pub ops_map: Option<u32>,
    pub ops_state: OpsState,
    /// How many inodes have a map.
    pub files: u64,
    pub devices: Vec<Device>,
    /// As the module calls them.
    #[serde(serialize_with = "as_map")]
    pub counters: Vec<(String, u64)>,
    /// What was counted for its files, if the module counts that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub file_counters: Vec<FileCounters>,
}

/// What was counted for a file.
#[derive(Debug, Serialize)]
pub struct FileCounters {
    /// Its path, from the root of the mount.
    pub file: String,
    /// As the module calls them.
    #[serde(serialize_with = "as_map")]
    pub counters: Vec<(String, u64)>,
}

/// What has become of the ops of a mount since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OpsState {
    Registered,
    /// Others have that name now.
    Old,
    /// No ops have that name now.
    Gone,
    /// An older module does not tell.
    Unknown,
}

/// A device of a mount.
#[derive(Debug, Serialize)]
pub struct Device {
    /// How the server names it.
    pub index: u32,
    pub name: String,
    pub failed: bool,
    /// What was counted for it, if the module counts that.
    #[serde(serialize_with = "as_map", skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<(String, u64)>,
}

fn as_text<S: Serializer>(number: &Number, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

fn as_map<S: Serializer>(counters: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(counters.iter().map(|(name, number)| (name, number)))
}

/// What is mounted.
pub fn mounts() -> Result<Vec<Mount>, String> {
    check_host()?;
    let attached = attached::attached()?;
    let registered = registry::registered();
    let table = mountinfo::mounts()?;
    let devices = detail::details(Parts::Devices)?;
    let files = detail::details(Parts::Files)?;
    let known = |attached| Mount::new(attached, &registered, &table).with(&devices, &files);
    Ok(attached.into_iter().map(known).collect())
}

impl Mount {
    fn new(attached: Attached, registered: &[Registered], table: &[mountinfo::Mount]) -> Self {
        let here = table.iter().filter(|mount| mount.number == attached.number);
        let device = |device: attached::Device| Device {
            index: device.index,
            name: device.name,
            failed: device.failed,
            counters: Vec::new(),
        };
        Self {
            paths: here
                .map(|mount| mount.place.display().to_string())
                .collect(),
            superblock: attached.number,
            ops_state: ops_state(attached.map, &attached.ops, registered),
            ops: attached.ops,
            ops_map: attached.map,
            files: attached.files,
            devices: attached.devices.into_iter().map(device).collect(),
            counters: attached.counters,
            file_counters: Vec::new(),
        }
    }

    /// The same, with what was counted for its parts.
    fn with(mut self, devices: &[Detail], files: &[Detail]) -> Self {
        let here = |all: &[Detail]| -> Vec<Detail> {
            let here = all.iter().filter(|part| part.number == self.superblock);
            here.cloned().collect()
        };
        let (devices, files) = (here(devices), here(files));
        for part in devices {
            if let Some(device) = self
                .devices
                .iter_mut()
                .find(|device| device.name == part.name)
            {
                device.counters = part.counters;
            }
        }
        let file = |part: Detail| FileCounters {
            file: part.name,
            counters: part.counters,
        };
        self.file_counters = files.into_iter().map(file).collect();
        self
    }

    /// Where it is, in words.
    pub fn place(&self) -> String {
        match self.paths.is_empty() {
            true => format!("(detached, {})", self.superblock),
            false => printable(&self.paths.join(" ")),
        }
    }

    fn row(&self) -> Vec<String> {
        let map = self.ops_map.map(|map| map.to_string()).unwrap_or_default();
        let map = match self.ops_state {
            OpsState::Registered => map,
            OpsState::Old => format!("{map}(old)"),
            OpsState::Gone => format!("{map}(gone)"),
            OpsState::Unknown => "-".to_owned(),
        };
        let devices: Vec<_> = self.devices.iter().map(Device::text).collect();
        let devices = match devices.is_empty() {
            true => "-".to_owned(),
            false => devices.join(" "),
        };
        let files = self.files.to_string();
        vec![self.place(), self.ops.clone(), map, files, devices]
    }
}

impl Device {
    fn text(&self) -> String {
        let mark = if self.failed { "(failed)" } else { "" };
        format!("{}:{}{mark}", self.index, self.name)
    }
}

fn ops_state(used: Option<u32>, name: &str, registered: &[Registered]) -> OpsState {
    let Some(used) = used else {
        return OpsState::Unknown;
    };
    match registered.iter().find(|ops| ops.name == name) {
        None => OpsState::Gone,
        Some(ops) if ops.map != used => OpsState::Old,
        Some(_) => OpsState::Registered,
    }
}

/// Prints what is mounted.
pub fn show(as_json: bool, out: &mut String) -> Result<(), Failure> {
    let mounts = mounts()?;
    match as_json {
        true => json::print(&Status { mounts: &mounts }, out),
        false => {
            *out += &text(&mounts, None);
            Ok(())
        }
    }
}

#[derive(Serialize)]
struct Status<'a> {
    mounts: &'a [Mount],
}

/// What was counted at some time.
pub struct Seen {
    at: Instant,
    counters: HashMap<(String, String), u64>,
}

/// Prints what is mounted, and what was counted per second since the last time.
pub fn again(as_json: bool, last: Option<Seen>, out: &mut String) -> Result<Seen, Failure> {
    let mounts = mounts()?;
    let at = Instant::now();
    match as_json {
        true => json::print_line(&Status { mounts: &mounts }, out)?,
        false => *out += &text(&mounts, last.as_ref().map(|last| (last, at))),
    }
    let mut counters = HashMap::new();
    for mount in &mounts {
        for (name, number) in &mount.counters {
            counters.insert((mount.superblock.to_string(), name.clone()), *number);
        }
    }
    Ok(Seen { at, counters })
}

fn text(mounts: &[Mount], last: Option<(&Seen, Instant)>) -> String {
    let mut rows = vec![
        ["MOUNTPOINT", "OPS", "MAP", "FILES", "DEVICES"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut counters = String::new();
    for mount in mounts {
        rows.push(mount.row());
        if mount.counters.is_empty() {
            continue;
        }
        let row = |(name, number): &(String, u64)| {
            let mut row = counter(name, *number);
            row.extend(last.and_then(|(last, now)| {
                let key = (mount.superblock.to_string(), name.clone());
                let before = *last.counters.get(&key)?;
                per_second(before, *number, now.duration_since(last.at).as_secs_f64())
            }));
            row
        };
        let rows: Vec<_> = mount.counters.iter().map(row).collect();
        counters += &format!("\n{}\n{}", mount.place(), table(&rows));
    }
    table(&rows) + &counters
}

/// The row of a counter. A counter that fmapctl does not know has the module's name.
fn counter(name: &str, number: u64) -> Vec<String> {
    let text = match Counter::from_name(name) {
        Some(counter) => counter.description(),
        None => name,
    };
    vec![format!("  {text}"), number.to_string()]
}

/// How fast a counter has grown, if it has.
fn per_second(before: u64, now: u64, seconds: f64) -> Option<String> {
    let more = now.checked_sub(before).filter(|&more| more > 0)?;
    (seconds > 0.0).then(|| format!("{:.0}/s", more as f64 / seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(map: Option<u32>) -> Attached {
        Attached {
            number: Number::parse("0:44").unwrap(),
            ops: "striped".to_owned(),
            map,
            files: 3,
            devices: vec![
                attached::Device {
                    index: 0,
                    name: "dax0.0".to_owned(),
                    failed: false,
                },
                attached::Device {
                    index: 1,
                    name: "dax1.0".to_owned(),
                    failed: true,
                },
            ],
            counters: [("faults_2m", 7), ("new", 1)]
                .map(|(name, number)| (name.to_owned(), number))
                .to_vec(),
        }
    }

    const MOUNTINFO: &[u8] = b"22 1 0:5 / /dev rw - devtmpfs d rw\n\
        30 1 0:44 / /mnt/a\\040b rw - fuse.fmapfs fmapfs rw\n\
        31 1 0:44 /x /y rw - fuse.fmapfs fmapfs rw\n";

    fn mount(mountinfo: &[u8]) -> Mount {
        Mount::new(attached(Some(17)), &[], &mountinfo::mounts_in(mountinfo))
    }

    #[test]
    fn rows() {
        let row = mount(MOUNTINFO).row();
        let cells = [
            "/mnt/a b /y",
            "striped",
            "17(gone)",
            "3",
            "0:dax0.0 1:dax1.0(failed)",
        ];
        assert_eq!(row, cells);
        assert_eq!(mount(b"").place(), "(detached, 0:44)");
        let odd = mount(b"30 1 0:44 / /mnt/\x1b[2Ja\\012b rw - fuse.fmapfs fmapfs rw\n");
        assert_eq!(odd.place(), "/mnt/\\u{1b}[2Ja\\nb");
        assert_eq!(counter("faults_2m", 7), ["  page faults of 2 MiB", "7"]);
        assert_eq!(counter("new", 1), ["  new", "1"]);
    }

    #[test]
    fn as_json() {
        let json = serde_json::to_value(mount(MOUNTINFO)).unwrap();
        assert_eq!(json["paths"][0], "/mnt/a b");
        assert_eq!(json["superblock"], "0:44");
        assert_eq!(json["ops_state"], "gone");
        assert_eq!(json["devices"][1]["failed"], true);
        assert_eq!(json["counters"]["faults_2m"], 7);
    }

    #[test]
    fn what_was_counted_for_parts() {
        let detail = |minor, name: &str, number| Detail {
            number: Number { major: 0, minor },
            name: name.to_owned(),
            counters: vec![("faults_2m".to_owned(), number)],
        };
        let devices = [detail(44, "dax1.0", 1), detail(45, "dax0.0", 2)];
        let files = [detail(44, "a/b", 3), detail(45, "c", 4)];
        let json = serde_json::to_value(mount(MOUNTINFO).with(&devices, &files)).unwrap();
        assert_eq!(json["devices"][0].get("counters"), None);
        assert_eq!(json["devices"][1]["counters"]["faults_2m"], 1);
        let file = serde_json::json!([{ "file": "a/b", "counters": { "faults_2m": 3 } }]);
        assert_eq!(json["file_counters"], file);
    }

    #[test]
    fn what_has_become_of_the_ops() {
        let registered = [("a", 3), ("b", 4)].map(|(name, map)| Registered {
            name: name.to_owned(),
            link: 1,
            map,
        });
        assert_eq!(ops_state(Some(3), "a", &registered), OpsState::Registered);
        assert_eq!(ops_state(Some(2), "a", &registered), OpsState::Old);
        assert_eq!(ops_state(Some(3), "c", &registered), OpsState::Gone);
        assert_eq!(ops_state(None, "b", &registered), OpsState::Unknown);
    }

    #[test]
    fn how_fast() {
        assert_eq!(per_second(10, 30, 2.0).as_deref(), Some("10/s"));
        assert_eq!(per_second(10, 10, 2.0), None);
        // Another mount has that number now.
        assert_eq!(per_second(10, 9, 2.0), None);
        assert_eq!(per_second(10, 11, 0.0), None);
    }
}
