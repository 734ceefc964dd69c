// SPDX-License-Identifier: GPL-2.0
//! The DAX devices of this machine, and who uses them.

use std::fmt::Write;
use std::path::PathBuf;

use fmap_host::device::{self, Device};
use fmap_host::holder::{Holder, known_holder};
use fmap_host::process::{Process, named, openers};
use fmap_host::reason::printable;
use serde::Serialize;

use crate::driver::Driver;
use crate::failure::Failure;
use crate::json;
use crate::memory::{self, Blocks};

/// What is known of a device.
#[derive(Serialize)]
pub struct Shown {
    name: String,
    node: PathBuf,
    /// Links to the node that stay when devices are renumbered.
    links: Vec<PathBuf>,
    id: Option<String>,
    size: Option<u64>,
    ranges: Vec<Range>,
    driver: Option<String>,
    used_by: UsedBy,
}

#[derive(Serialize)]
struct Range {
    start: u64,
    size: u64,
}

#[derive(Default, Serialize)]
struct UsedBy {
    /// Where the file system is mounted that uses it.
    mount: Option<String>,
    /// Programs that have the device open, or mapped.
    processes: Vec<User>,
    /// If it is system RAM.
    memory_blocks: Option<Blocks>,
    /// Why it is not known.
    unknown: Option<String>,
}

#[derive(Serialize)]
struct User {
    pid: u32,
    name: String,
}

/// Prints them.
pub fn show(as_json: bool, out: &mut String) -> Result<(), Failure> {
    let all: Vec<_> = device::present().into_iter().map(look).collect();
    if as_json {
        #[derive(Serialize)]
        struct Devices {
            devices: Vec<Shown>,
        }
        return json::print(&Devices { devices: all }, out);
    }
    if all.is_empty() {
        let _ = writeln!(out, "there are no DAX devices");
    }
    for (at, device) in all.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        out.push_str(&device.text());
    }
    Ok(())
}

/// Finds out what there is to show of one.
pub fn look(device: Device) -> Shown {
    let links = device.persistent_names();
    Shown {
        node: device.node(),
        links,
        used_by: users(&device),
        ranges: device
            .ranges
            .iter()
            .map(|range| Range {
                start: range.first,
                size: range.last - range.first + 1,
            })
            .collect(),
        name: device.name,
        id: device.id,
        size: device.size,
        driver: device.driver,
    }
}

fn users(device: &Device) -> UsedBy {
    let mut used = UsedBy::default();
    match known_holder(&device.name) {
        Ok(holder) => used.mount = holder.as_ref().map(Holder::place),
        Err(message) => used.unknown = Some(message),
    }
    match device.driver.as_deref().and_then(Driver::from_name) {
        Some(Driver::DeviceDax) => {
            let of = |process: Process| User {
                pid: process.id,
                name: process.name,
            };
            let seen = openers(device);
            used.processes = seen.found.into_iter().map(of).collect();
            if !seen.silent.is_empty() {
                let silent = named(&seen.silent, 3);
                used.unknown = Some(format!("{silent} does not tell what it has mapped"));
            }
        }
        Some(Driver::Kmem) => used.memory_blocks = memory::count(&device.ranges).ok(),
        _ => (),
    }
    used
}

impl Shown {
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.name);
        let mut line = |what: &str, value: &str| {
            let _ = writeln!(text, "  {what:<8}{}", printable(value));
        };
        line("driver", self.driver.as_deref().unwrap_or("none"));
        line("size", &self.size.map_or("not known".to_owned(), in_words));
        for range in &self.ranges {
            let last = range.start + (range.size - 1);
            line("memory", &format!("{:#x}-{last:#x}", range.start));
        }
        line("id", self.id.as_deref().unwrap_or("not known"));
        for link in &self.links {
            line("name", &link.display().to_string());
        }
        line("used by", &self.used_by.text());
        text
    }
}

impl UsedBy {
    fn text(&self) -> String {
        let mut all = Vec::new();
        all.extend(
            self.mount
                .as_ref()
                .map(|place| format!("the mount on {place}")),
        );
        if !self.processes.is_empty() {
            let of = |user: &User| Process {
                id: user.pid,
                name: user.name.clone(),
            };
            let processes: Vec<_> = self.processes.iter().map(of).collect();
            all.push(named(&processes, 3));
        }
        if let Some(Blocks {
            online,
            all: blocks,
        }) = self.memory_blocks
        {
            all.push(format!(
                "the kernel, as system RAM: {online} of {blocks} blocks of memory are online"
            ));
        }
        all.extend(self.unknown.as_ref().map(|why| format!("not known: {why}")));
        match all.is_empty() {
            true => "nobody".to_owned(),
            false => all.join(", "),
        }
    }
}

/// Bytes, and how many MiB or GiB that is.
fn in_words(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = units.iter().find(|(shift, _)| bytes >> shift > 0);
    match fits {
        Some((shift, unit)) => {
            let number = bytes as f64 / (1_u64 << shift) as f64;
            let number = format!("{number:.2}");
            let number = number.trim_end_matches('0').trim_end_matches('.');
            format!("{bytes} ({number} {unit})")
        }
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(in_words(0), "0");
        assert_eq!(in_words(266_338_304), "266338304 (254 MiB)");
        assert_eq!(in_words(3 << 29), "1610612736 (1.5 GiB)");
    }

    fn shown() -> Shown {
        Shown {
            name: "dax0.0".to_owned(),
            node: "/dev/dax0.0".into(),
            links: vec!["/dev/dax/by-uuid/x".into()],
            id: Some("nvdimm:x".to_owned()),
            size: Some(4096),
            ranges: vec![Range {
                start: 0x1000,
                size: 0x1000,
            }],
            driver: Some("fsdev_dax".to_owned()),
            used_by: UsedBy::default(),
        }
    }

    #[test]
    fn a_device_in_text() {
        assert_eq!(
            shown().text(),
            "dax0.0\n  driver  fsdev_dax\n  size    4096 (4 KiB)\n  memory  0x1000-0x1fff\n  \
             id      nvdimm:x\n  name    /dev/dax/by-uuid/x\n  used by nobody\n"
        );
    }

    #[test]
    fn a_device_in_json() {
        let mut device = shown();
        device.used_by.mount = Some("/mnt/\"a".to_owned());
        let json = serde_json::to_value(&device).unwrap();
        assert_eq!(json["ranges"][0]["start"], 0x1000);
        assert_eq!(json["used_by"]["mount"], "/mnt/\"a");
        assert_eq!(json["used_by"]["processes"], serde_json::json!([]));
    }
}
