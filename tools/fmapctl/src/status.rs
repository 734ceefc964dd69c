// SPDX-License-Identifier: GPL-2.0
//! What is mounted: the module's list in debugfs, with the mount points that the
//! kernel knows for the same device numbers.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
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
    /// How many pages of them are known to have failed; an older module does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poisoned_pages: Option<u64>,
    /// As the module calls them.
    #[serde(serialize_with = "as_map")]
    pub counters: Vec<(String, u64)>,
    /// What was counted for the files that were used most, if that is wanted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub file_counters: Vec<FileCounters>,
}

/// What was counted for a file.
#[derive(Debug, Serialize)]
pub struct FileCounters {
    /// Its path, from the root of the mount; none, if it was removed.
    pub file: Option<String>,
    /// How the server names it.
    pub nodeid: Option<u64>,
    /// How stat(2) names it.
    pub ino: Option<u64>,
    /// As the module calls it.
    pub size: Option<u64>,
    /// What the kernel keeps of its map.
    pub meta_bytes: Option<u64>,
    /// As the module calls them.
    #[serde(serialize_with = "as_map")]
    pub counters: Vec<(String, u64)>,
    /// 0 for the one that was used most, of all mounts.
    #[serde(skip)]
    pub rank: usize,
}

impl FileCounters {
    /// Names it among the parts of its superblock. No device has such a name.
    fn key(&self) -> String {
        format!("nodeid {}", self.nodeid.unwrap_or(0))
    }
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
    /// In bytes; an older module does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// How many of its pages are known to have failed; an older module does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poisoned_pages: Option<u64>,
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

/// What is mounted, and what was counted for `files` files.
pub fn mounts(files: usize) -> Result<Vec<Mount>, String> {
    check_host()?;
    let attached = attached::attached()?;
    let registered = registry::registered();
    let table = mountinfo::mounts()?;
    let mut devices = Vec::new();
    detail::each(Parts::Devices, |device| devices.push(device))?;
    let mut most = Most::new(files);
    if files > 0 {
        detail::each(Parts::Files, |file| most.add(file))?;
    }
    let files = most.sorted();
    let known = |attached| Mount::new(attached, &registered, &table).with(&devices, &files);
    Ok(attached.into_iter().map(known).collect())
}

/// The files that were used most, of any number of files.
struct Most {
    limit: usize,
    /// The least of them first.
    files: BinaryHeap<Reverse<Used>>,
}

/// A file, ordered by its use.
struct Used(Detail);

impl Used {
    /// The bytes that the file was used for, then what failed. Faults map bytes, of which the
    /// kernel does not know how many are used.
    fn key(&self) -> (u128, u64, Reverse<Option<u64>>) {
        let number = |name| u128::from(self.0.counter(name));
        let faults = (number("faults_2m") << 21) + (number("faults_4k") << 12);
        let bytes = faults + number("read_bytes") + number("written_bytes");
        let failed = self.0.counter("faults_failed");
        let failed = failed.saturating_add(self.0.counter("mappings_refused"));
        // The same order each time.
        (bytes, failed, Reverse(self.0.fact("nodeid")))
    }
}

impl PartialEq for Used {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Used {}

impl PartialOrd for Used {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Used {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl Most {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            files: BinaryHeap::new(),
        }
    }

    fn add(&mut self, file: Detail) {
        self.files.push(Reverse(Used(file)));
        if self.files.len() > self.limit {
            self.files.pop();
        }
    }

    /// The file that was used most comes first.
    fn sorted(self) -> Vec<Detail> {
        let files = self.files.into_sorted_vec();
        files.into_iter().map(|Reverse(Used(file))| file).collect()
    }
}

impl Mount {
    fn new(attached: Attached, registered: &[Registered], table: &[mountinfo::Mount]) -> Self {
        let here = table.iter().filter(|mount| mount.number == attached.number);
        let device = |device: attached::Device| Device {
            index: device.index,
            name: device.name,
            failed: device.failed,
            size: None,
            poisoned_pages: None,
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
            poisoned_pages: None,
            counters: attached.counters,
            file_counters: Vec::new(),
        }
    }

    /// The same, with what was counted for its parts.
    fn with(mut self, devices: &[Detail], files: &[Detail]) -> Self {
        let number = self.superblock;
        let here = |part: &&Detail| part.number == number;
        for part in devices.iter().filter(here) {
            if let Some(device) = self
                .devices
                .iter_mut()
                .find(|device| Some(&device.name) == part.name.as_ref())
            {
                device.size = part.fact("size");
                device.poisoned_pages = part.fact("poisoned_pages");
                device.counters.clone_from(&part.counters);
            }
        }
        let known = self
            .devices
            .iter()
            .filter_map(|device| device.poisoned_pages);
        self.poisoned_pages = known.reduce(u64::saturating_add);
        let file = |(rank, part): (usize, &Detail)| FileCounters {
            nodeid: part.fact("nodeid"),
            ino: part.fact("ino"),
            size: part.fact("size"),
            meta_bytes: part.fact("meta_bytes"),
            file: part.name.clone(),
            counters: part.counters.clone(),
            rank,
        };
        let files = files.iter().enumerate().filter(|(_, part)| here(part));
        self.file_counters = files.map(file).collect();
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

/// What to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub json: bool,
    /// Of devices, instead of mounts.
    pub devices: bool,
    /// Of so many files, instead of mounts.
    pub files: Option<usize>,
}

impl Options {
    fn mounts(&self) -> Result<Vec<Mount>, String> {
        mounts(self.files.unwrap_or(0))
    }

    fn text(&self, mounts: &[Mount], last: Option<(&Seen, Instant)>) -> String {
        let mut tables = Vec::new();
        if self.devices {
            tables.push(table(&device_rows(mounts, last)));
        }
        if self.files.is_some() {
            tables.push(table(&file_rows(mounts, last)));
        }
        match tables.is_empty() {
            true => text(mounts, last),
            false => tables.join("\n"),
        }
    }
}

/// Prints what is mounted.
pub fn show(options: &Options, out: &mut String) -> Result<(), Failure> {
    let mounts = options.mounts()?;
    match options.json {
        true => json::print(&Status { mounts: &mounts }, out),
        false => {
            *out += &options.text(&mounts, None);
            Ok(())
        }
    }
}

#[derive(Serialize)]
struct Status<'a> {
    mounts: &'a [Mount],
}

/// What was counted at some time: of a superblock, of one of its devices, or of one of its files.
pub struct Seen {
    at: Instant,
    counters: HashMap<(String, String, String), u64>,
}

impl Seen {
    /// How fast a counter has grown since then, if it has.
    fn per_second(
        &self,
        now: Instant,
        part: (&str, &str),
        counter: &str,
        number: u64,
    ) -> Option<String> {
        let key = (part.0.to_owned(), part.1.to_owned(), counter.to_owned());
        let before = *self.counters.get(&key)?;
        per_second(before, number, now.duration_since(self.at).as_secs_f64())
    }
}

/// Prints what is mounted, and what was counted per second since the last time.
pub fn again(options: &Options, last: Option<Seen>, out: &mut String) -> Result<Seen, Failure> {
    let mounts = options.mounts()?;
    let at = Instant::now();
    match options.json {
        true => json::print_line(&Status { mounts: &mounts }, out)?,
        false => *out += &options.text(&mounts, last.as_ref().map(|last| (last, at))),
    }
    let mut counters = HashMap::new();
    for mount in &mounts {
        let superblock = mount.superblock.to_string();
        for (name, number) in &mount.counters {
            let key = (superblock.clone(), String::new(), name.clone());
            counters.insert(key, *number);
        }
        let devices = mount.devices.iter();
        let devices = devices.map(|device| (device.name.clone(), &device.counters));
        let files = mount.file_counters.iter();
        let files = files.map(|file| (file.key(), &file.counters));
        for (part, of_part) in devices.chain(files) {
            for (name, number) in of_part {
                let key = (superblock.clone(), part.clone(), name.clone());
                counters.insert(key, *number);
            }
        }
    }
    Ok(Seen { at, counters })
}

/// The columns of counters of a device and of a file, and what the module calls them.
const COLUMNS: [(&str, &str); 4] = [
    ("FAULTS_2M", "faults_2m"),
    ("FAULTS_4K", "faults_4k"),
    ("READ", "read_bytes"),
    ("WRITTEN", "written_bytes"),
];

/// What was counted, and how fast it grows.
fn cells(
    names: &[(&str, &str)],
    counters: &[(String, u64)],
    part: (&str, &str),
    last: Option<(&Seen, Instant)>,
) -> Vec<String> {
    let cell = |&(_, name): &(&str, &str)| {
        let Some(&(_, number)) = counters.iter().find(|(counter, _)| counter == name) else {
            return "-".to_owned();
        };
        let more = last.and_then(|(last, now)| last.per_second(now, part, name, number));
        match more {
            Some(more) => format!("{number} ({more})"),
            None => number.to_string(),
        }
    };
    names.iter().map(cell).collect()
}

fn heading(first: &[&str], columns: &[(&str, &str)], then: &[&str]) -> Vec<String> {
    let columns = columns.iter().map(|&(heading, _)| heading);
    let all = first.iter().copied().chain(columns);
    let all = all.chain(then.iter().copied());
    all.map(str::to_owned).collect()
}

fn device_rows(mounts: &[Mount], last: Option<(&Seen, Instant)>) -> Vec<Vec<String>> {
    let mut rows = vec![heading(
        &["DEVICE", "STATE", "POISONED"],
        &COLUMNS,
        &["MOUNTPOINT"],
    )];
    for mount in mounts {
        let superblock = mount.superblock.to_string();
        for device in &mount.devices {
            let poisoned = device.poisoned_pages;
            let mut row = vec![
                format!("{}:{}", device.index, device.name),
                if device.failed { "failed" } else { "ok" }.to_owned(),
                poisoned.map_or("-".to_owned(), |pages| pages.to_string()),
            ];
            let part = (&*superblock, &*device.name);
            row.extend(cells(&COLUMNS, &device.counters, part, last));
            row.push(mount.place());
            rows.push(row);
        }
    }
    rows
}

fn file_rows(mounts: &[Mount], last: Option<(&Seen, Instant)>) -> Vec<Vec<String>> {
    const MORE: [(&str, &str); 6] = [
        COLUMNS[0],
        COLUMNS[1],
        COLUMNS[2],
        COLUMNS[3],
        ("FAILED", "faults_failed"),
        ("REFUSED", "mappings_refused"),
    ];
    let mut files: Vec<_> = mounts
        .iter()
        .flat_map(|mount| mount.file_counters.iter().map(move |file| (mount, file)))
        .collect();
    // Those of all mounts together; a mount has them in this order.
    files.sort_by_cached_key(|(_, file)| file.rank);
    let mut rows = vec![heading(&["NODEID", "SIZE"], &MORE, &["FILE", "MOUNTPOINT"])];
    for (mount, file) in files {
        let superblock = mount.superblock.to_string();
        let text = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
        let mut row = vec![text(file.nodeid), text(file.size)];
        let part = (&*superblock, &*file.key());
        row.extend(cells(&MORE, &file.counters, part, last));
        let name = file.file.as_deref().map(str::escape_debug);
        row.push(name.map_or("(removed)".to_owned(), |name| name.to_string()));
        row.push(mount.place());
        rows.push(row);
    }
    rows
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
            let superblock = mount.superblock.to_string();
            row.extend(
                last.and_then(|(last, now)| last.per_second(now, (&superblock, ""), name, *number)),
            );
            row
        };
        let mut rows: Vec<_> = mount.counters.iter().map(row).collect();
        rows.extend(mount.poisoned_pages.map(|pages| {
            let what = "  pages of its devices that have failed";
            vec![what.to_owned(), pages.to_string()]
        }));
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

    fn detail(minor: u32, name: Option<&str>, facts: &[(&str, u64)], faults: u64) -> Detail {
        let facts = facts.iter();
        Detail {
            number: Number { major: 0, minor },
            name: name.map(str::to_owned),
            facts: facts
                .map(|&(name, number)| (name.to_owned(), number))
                .collect(),
            counters: vec![("faults_2m".to_owned(), faults)],
        }
    }

    #[test]
    fn what_was_counted_for_parts() {
        let devices = [
            detail(44, Some("dax1.0"), &[("size", 8), ("poisoned_pages", 2)], 1),
            detail(45, Some("dax0.0"), &[], 2),
        ];
        let files = [
            detail(45, Some("/c"), &[("nodeid", 2)], 4),
            detail(44, Some("/a\tb"), &[("nodeid", 7), ("size", 9)], 3),
            detail(44, None, &[("nodeid", 8)], 0),
        ];
        let mount = mount(MOUNTINFO).with(&devices, &files);
        let json = serde_json::to_value(&mount).unwrap();
        assert_eq!(json["devices"][0].get("counters"), None);
        assert_eq!(json["devices"][0].get("poisoned_pages"), None);
        assert_eq!(json["devices"][1]["counters"]["faults_2m"], 1);
        assert_eq!(json["devices"][1]["poisoned_pages"], 2);
        assert_eq!(json["poisoned_pages"], 2);
        let file = serde_json::json!({
            "file": "/a\tb", "nodeid": 7, "ino": null, "size": 9, "meta_bytes": null,
            "counters": { "faults_2m": 3 }
        });
        assert_eq!(json["file_counters"][0], file);
        assert_eq!(json["file_counters"][1]["file"], serde_json::Value::Null);

        let mounts = [mount];
        assert!(text(&mounts, None).ends_with("\n  pages of its devices that have failed  2\n"));
        let rows = device_rows(&mounts, None);
        assert_eq!(rows[1][..4], ["0:dax0.0", "ok", "-", "-"]);
        assert_eq!(rows[2][..4], ["1:dax1.0", "failed", "2", "1"]);
        assert_eq!(rows[2].last().unwrap(), "/mnt/a b /y");
        let rows = file_rows(&mounts, None);
        assert_eq!(rows[1][..3], ["7", "9", "3"]);
        assert_eq!(rows[1][8..], ["/a\\tb", "/mnt/a b /y"]);
        assert_eq!(rows[2][8], "(removed)");
        assert!(rows.iter().all(|row| row.len() == rows[0].len()));
    }

    #[test]
    fn pages_of_all_devices_of_a_mount() {
        let device = |name, pages| detail(44, Some(name), &[("poisoned_pages", pages)], 0);
        let of = |devices: &[Detail]| mount(MOUNTINFO).with(devices, &[]).poisoned_pages;
        assert_eq!(of(&[device("dax0.0", 3), device("dax1.0", 2)]), Some(5));
        assert_eq!(of(&[device("dax0.0", 0)]), Some(0));
        // An older module does not tell.
        assert_eq!(of(&[detail(44, Some("dax0.0"), &[], 0)]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn the_files_that_were_used_most() {
        let file = |nodeid, counters: &[(&str, u64)]| {
            let counters = counters.iter();
            let mut file = detail(44, None, &[("nodeid", nodeid)], 0);
            file.counters = counters
                .map(|&(name, number)| (name.to_owned(), number))
                .collect();
            file
        };
        let mut most = Most::new(4);
        for file in [
            file(1, &[]),
            file(2, &[("faults_4k", 513)]),
            file(3, &[("mappings_refused", 1)]),
            file(4, &[("faults_2m", 1), ("new", 1 << 40)]),
            file(5, &[]),
            file(6, &[("read_bytes", u64::MAX), ("written_bytes", u64::MAX)]),
        ] {
            most.add(file);
        }
        let sorted = most.sorted();
        let order: Vec<_> = sorted.iter().map(|file| file.fact("nodeid")).collect();
        assert_eq!(order, [Some(6), Some(2), Some(4), Some(3)]);
        assert!(Most::new(0).sorted().is_empty());
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
