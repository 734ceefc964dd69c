// SPDX-License-Identifier: GPL-2.0
//! Checks a new mount before it is visible: does the kernel accept the ops, do the ops
//! understand the maps of fmapfs, are the devices free?
//!
//! The kernel holds a device from the first open of a file that is in it until the end of the
//! mount. So each device has a hidden file, which the [`Visitor`] opens while the mount is
//! [`Apart`](crate::mount::Apart), that is, reachable by the visitor only. After that, the tree
//! denies that these files exist.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fmap_host::device::same_device;
use fmap_host::holder;
use fuse_dax_fmap::OpsName;
use rustix::io::Errno;

use crate::manifest;
use crate::tree::Tree;
use crate::visitor::Visitor;

/// A device of the manifest, for messages.
#[derive(Debug)]
pub struct Device {
    pub name: String,
    pub path: PathBuf,
}

impl Device {
    pub fn new(device: &manifest::Device) -> Self {
        Self {
            name: device.name.clone(),
            path: device.path.clone(),
        }
    }
}

/// How long to wait for a device of a mount that is on no directory any more: a server that was
/// unmounted or killed a moment ago may not have released it yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waits until the kernel accepts or rejects the mount, and takes the devices.
pub fn check(
    visitor: &mut Visitor,
    tree: &Tree,
    ops: &OpsName,
    devices: &[Device],
) -> Result<(), String> {
    visitor.stat("")?.map_err(|error| match error {
        Errno::NOTCONN | Errno::CONNREFUSED | Errno::CONNABORTED => format!(
            "the kernel refuses the mount, most likely because no ops named {ops} are registered: \
             `fmapctl list` shows those that are, `fmapctl load` registers more, and the kernel \
             log says if it was something else"
        ),
        error => format!("the new mount cannot be used: {error}"),
    })?;

    for (index, device) in devices.iter().enumerate() {
        let begin = Instant::now();
        let opened = loop {
            match visitor.open(&name(index))? {
                Err(Errno::BUSY)
                    if begin.elapsed() < PATIENCE && holder::may_let_go(&device.path) =>
                {
                    thread::sleep(Duration::from_millis(20));
                }
                opened => break opened,
            }
        };
        let shown = device.path.display();
        match (opened, tree.has_asked_for(index)) {
            (Ok(()), true) => (),
            (Ok(()), false) => {
                return Err(format!(
                    "the ops {ops} make something else of the maps of fmapfs: they are of another \
                     format than striped"
                ));
            }
            (Err(error), false) => {
                return Err(format!(
                    "the ops {ops} refuse the maps of fmapfs ({error}): they are of another format \
                     than striped"
                ));
            }
            (Err(Errno::BUSY), true) => {
                let before = &devices[..index];
                let twice = |other: &&Device| same_device(&other.path, &device.path);
                return Err(match before.iter().find(twice) {
                    Some(other) => same(device, other),
                    None => format!("{shown} is held by {}", holder::holder(&device.path)),
                });
            }
            (Err(error), true) => {
                return Err(format!(
                    "the kernel cannot use {shown}: {error}; its log says more"
                ));
            }
        }
    }
    Ok(())
}

/// Checks, before anything is mounted, that no device is named twice.
pub fn check_devices(devices: &[Device]) -> Result<(), String> {
    for (index, device) in devices.iter().enumerate() {
        let twice = |other: &&Device| same_device(&other.path, &device.path);
        if let Some(other) = devices[..index].iter().find(twice) {
            return Err(same(device, other));
        }
    }
    Ok(())
}

fn same(device: &Device, other: &Device) -> String {
    let shown = |path: &Path| path.display().to_string();
    format!(
        "device {:?} ({}) is device {:?} ({}) once more",
        device.name,
        shown(&device.path),
        other.name,
        shown(&other.path)
    )
}

/// The name of a hidden file.
pub fn name(index: usize) -> String {
    format!("{PREFIX}{index}")
}

/// The prefix of that name.
const PREFIX: &str = ".fmapfs-hidden-";

/// The index in the name of a hidden file.
pub fn index(name: &str) -> Option<usize> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for at in [0, 1, 63] {
            assert_eq!(index(&name(at)), Some(at));
        }
        for other in ["", "f", ".fmapfs-hidden-", ".fmapfs-hidden-x"] {
            assert_eq!(index(other), None);
        }
    }
}
