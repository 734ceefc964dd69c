// SPDX-License-Identifier: GPL-2.0
//! The memory of a device whose driver is kmem: system RAM, in blocks that go offline one by one.
//!
//! If the driver loses the device while a block is online, nothing can remove that block, or use
//! the device, until the next boot ("Hotplug regions stuck online until reboot"). So all blocks
//! have to be offline before that, and none may come back in between. Since 7.3 the device has a
//! file `state`: "unplugged" removes the memory, if it is offline, so nothing can bring it back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fmap_host::device::Range;
use fmap_host::process::{self, Process};
use fmap_host::reason::reason;
use serde::Serialize;

use crate::driver::{Slot, write};
use crate::interrupt::Interrupt;
use crate::output;

const MEMORY: &str = "/sys/devices/system/memory";

/// How many of a device's blocks of memory are in use as system RAM.
#[derive(Serialize)]
pub struct Blocks {
    pub online: usize,
    pub all: usize,
}

/// A block of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    name: String,
    dir: PathBuf,
    zone: Zone,
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zone {
    Offline,
    Movable,
    /// The kernel's own data may be there.
    Kernel,
}

impl Block {
    /// Where it is now.
    fn zone_now(&self) -> Zone {
        zone_in(&self.dir)
    }

    /// Brings it to a zone.
    fn set(&self, zone: Zone) -> Result<(), String> {
        if self.zone_now() == zone {
            return Ok(());
        }
        let state = self.dir.join("state");
        let put = |word| write(&state, word).map_err(|error| reason(&error));
        if self.zone_now() != Zone::Offline {
            put("offline")?;
        }
        match zone {
            Zone::Offline => Ok(()),
            Zone::Movable => put("online_movable"),
            Zone::Kernel => put("online_kernel"),
        }
    }
}

fn zone_in(dir: &Path) -> Zone {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    match (read("state").trim(), read("valid_zones").trim()) {
        ("offline", _) => Zone::Offline,
        (_, "Movable") => Zone::Movable,
        _ => Zone::Kernel,
    }
}

/// The blocks of some memory that are there: those that are wholly in it, as for kmem.
fn blocks(sys: &Path, ranges: &[Range]) -> Result<Vec<Block>, String> {
    let path = sys.join("block_size_bytes");
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("{}: {}", path.display(), reason(&error)))?;
    let size = u64::from_str_radix(text.trim(), 16)
        .ok()
        .filter(|&size| size > 0)
        .ok_or_else(|| format!("{}: not understood: {text:?}", path.display()))?;
    let inside = |range: &Range| {
        let (first, end) = (range.first.div_ceil(size), (range.last + 1) / size);
        first..end
    };
    let all = ranges.iter().flat_map(inside).map(|number| {
        let name = format!("memory{number}");
        let dir = sys.join(&name);
        let zone = zone_in(&dir);
        Block { name, dir, zone }
    });
    Ok(all.filter(|block| block.dir.exists()).collect())
}

/// How much of the memory of a device is system RAM now.
pub fn count(ranges: &[Range]) -> Result<Blocks, String> {
    let all = blocks(Path::new(MEMORY), ranges)?;
    let online = all.iter().filter(|block| block.zone != Zone::Offline);
    Ok(Blocks {
        online: online.count(),
        all: all.len(),
    })
}

/// The memory of a device that is offline, and was something else before.
pub struct Taken {
    ranges: Vec<Range>,
    before: Vec<Block>,
}

/// Takes all memory of a device out of use, or none. Afterwards its driver may be unbound.
pub fn take(
    device: &Slot,
    ranges: &[Range],
    node: Option<u64>,
    time: Duration,
) -> Result<Taken, String> {
    if ranges.is_empty() {
        return Err("nothing says where its memory is (mapping0/start in sysfs)".to_owned());
    }
    let taken = Taken {
        ranges: ranges.to_vec(),
        before: blocks(Path::new(MEMORY), ranges)?,
    };
    match offline(device, &taken, node, time) {
        Ok(()) => Ok(taken),
        Err(message) => match taken.put_back() {
            Ok(()) => Err(format!("{message}; all of it is in use as before")),
            Err(left) => Err(format!("{message}; {left}")),
        },
    }
}

fn offline(device: &Slot, taken: &Taken, node: Option<u64>, time: Duration) -> Result<(), String> {
    let interrupt = Interrupt::new()?;
    let mut said = Instant::now();
    let all = taken.before.len();

    for (done, block) in taken.before.iter().enumerate() {
        if said.elapsed() > Duration::from_secs(3) {
            output::tell(&format!(
                "{}: {done} of {all} blocks of memory are offline",
                device.name
            ));
            said = Instant::now();
        }
        let _timer = interrupt.after(time);
        if let Err(why) = block.set(Zone::Offline) {
            let why = interrupt.cause(time).unwrap_or(why);
            return Err(in_use(block, &why, &users(node, taken)));
        }
        if interrupt.by_user() {
            return Err("a signal ended the attempt to take its memory offline".to_owned());
        }
    }
    let state = device.dir.join("state");
    if state.exists() {
        let _timer = interrupt.after(time);
        write(&state, "unplugged")
            .map_err(|error| format!("its memory cannot be removed: {}", reason(&error)))?;
    }
    let now = blocks(Path::new(MEMORY), &taken.ranges)?;
    match now.iter().find(|block| block.zone != Zone::Offline) {
        None => Ok(()),
        Some(block) => Err(format!(
            "{} came back online at once, so another program puts memory online (a udev rule, or \
             daxctl): have it leave this device alone",
            block.name
        )),
    }
}

/// Says what cannot go offline.
fn in_use(block: &Block, why: &str, users: &[Process]) -> String {
    let what = match block.zone {
        Zone::Kernel => {
            "the kernel has data of its own there, which it cannot move (the zone is not \
             Movable): try again later, or boot with memhp_default_state=offline and bind it then"
        }
        _ => {
            "pages there that a program or a device has pinned cannot be moved: end what has \
             them, or try again later"
        }
    };
    let who = match users {
        [] => String::new(),
        users => format!("; {} has memory there", process::named(users, 3)),
    };
    format!(
        "its memory is in use as system RAM, and {} does not go offline ({why}): {what}{who}",
        block.name
    )
}

/// The processes that have memory on a NUMA node, if all memory of that node is this device's.
fn users(node: Option<u64>, taken: &Taken) -> Vec<Process> {
    let Some(node) = node else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(format!("/sys/devices/system/node/node{node}")) else {
        return Vec::new();
    };
    let mut all = entries.flatten().map(|entry| entry.file_name());
    let of_device = |name: &str| taken.before.iter().any(|block| block.name == name);
    let others = all.any(|name| {
        let name = name.to_string_lossy();
        let digits = name.strip_prefix("memory").unwrap_or_default();
        digits.starts_with(|c: char| c.is_ascii_digit()) && !of_device(&name)
    });
    match others {
        true => Vec::new(),
        false => process::on_node(node),
    }
}

impl Taken {
    /// Puts back online what was, in the same zone. The driver has the device.
    pub fn restore(&self, device: &Slot) -> Result<(), String> {
        let state = device.dir.join("state");
        let is_unplugged =
            fs::read_to_string(&state).is_ok_and(|state| state.trim() == "unplugged");
        let first = self.before.iter().find(|block| block.zone != Zone::Offline);
        if let (true, Some(first)) = (is_unplugged, first) {
            let word = match first.zone {
                Zone::Movable => "online_movable",
                _ => "online_kernel",
            };
            write(&state, word).map_err(|error| {
                format!(
                    "its memory is not in use, and could not be put back ({}): echo {word} > {}",
                    reason(&error),
                    state.display()
                )
            })?;
        }
        self.put_back()
    }

    fn put_back(&self) -> Result<(), String> {
        let mut left = Vec::new();
        for block in self.before.iter().rev() {
            if let Err(why) = block.set(block.zone) {
                left.push((block, why));
            }
        }
        match left.as_slice() {
            [] => Ok(()),
            [(block, why), ..] => Err(format!(
                "{} of its {} blocks of memory could not be put back online ({}: {why}): echo \
                 online > {}/state",
                left.len(),
                self.before.len(),
                block.name,
                block.dir.display()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn blocks_that_are_wholly_inside() {
        let made = tempfile::tempdir().unwrap();
        let sys = made.path();
        put(sys.join("block_size_bytes"), "8000000\n");
        for number in 30..36 {
            put(sys.join(format!("memory{number}/state")), "online\n");
            put(sys.join(format!("memory{number}/valid_zones")), "Movable\n");
        }
        put(sys.join("memory33/state"), "offline\n");
        put(sys.join("memory34/valid_zones"), "Normal\n");
        let block = 0x800_0000;
        let range = |first, last| Range { first, last };
        let found = |ranges: &[Range]| -> Vec<_> {
            let all = blocks(sys, ranges).unwrap();
            all.into_iter()
                .map(|block| (block.name, block.zone))
                .collect()
        };
        let named = |number, zone| (format!("memory{number}"), zone);
        // 2 MiB are missing at the begin, as for the metadata of an NVDIMM.
        assert_eq!(
            found(&[range(31 * block + 0x20_0000, 35 * block - 1)]),
            [
                named(32, Zone::Movable),
                named(33, Zone::Offline),
                named(34, Zone::Kernel)
            ]
        );
        assert_eq!(
            found(&[range(35 * block, 40 * block - 1)]),
            [named(35, Zone::Movable)]
        );
        assert_eq!(found(&[range(31 * block + 1, 32 * block)]), []);
        put(sys.join("block_size_bytes"), "nothing\n");
        assert!(blocks(sys, &[]).unwrap_err().contains("not understood"));
    }

    #[test]
    fn what_is_in_the_way_is_said() {
        let block = |zone| Block {
            name: "memory40".to_owned(),
            dir: PathBuf::new(),
            zone,
        };
        let process = Process {
            id: 7,
            name: "redis".to_owned(),
        };
        let said = in_use(&block(Zone::Kernel), "Device or resource busy", &[]);
        assert!(said.contains("memory40") && said.contains("busy") && said.contains("zone"));
        let said = in_use(&block(Zone::Movable), "x", &[process]);
        assert!(said.contains("pinned") && said.contains("process 7 (redis) has memory there"));
    }
}
