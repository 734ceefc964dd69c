// SPDX-License-Identifier: GPL-2.0
//! The list of devices that are bound to fsdev_dax whenever they appear, so also at boot. The
//! service fuse-dax-fmap-bind@.service, which udev starts, reads it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fmap_host::device::{Device, link_name};
use fmap_host::reason::reason;

use crate::output;

/// A path of a device in each line. Empty lines, and those that begin with #, do not count.
const LIST: &str = "/etc/fuse-dax-fmap/devices";

/// Has a device bound at boot. Returns what there is to say.
pub fn add(device: &Device) -> Result<&'static str, String> {
    let id = device.id.as_deref();
    let id = id.ok_or("it has no id that survives a reboot")?;
    let path = Path::new("/dev/dax/by-id").join(link_name(id));
    let list = read()?;
    if list
        .lines()
        .any(|line| stays(line, device) && names(line, &path, device))
    {
        return Ok("; it is bound at boot already");
    }
    let end = if list.is_empty() || list.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    output::replace_for_good(Path::new(LIST), &format!("{list}{end}{}\n", path.display()))?;
    Ok("; it is bound at boot, too")
}

/// Has a device not bound at boot any more. Returns what there is to say.
pub fn remove(device: &Device) -> Result<&'static str, String> {
    let path = device.id.as_deref().map(link_name);
    let path = path.map_or_else(PathBuf::new, |name| Path::new("/dev/dax/by-id").join(name));
    let list = read()?;
    let kept: String = list
        .split_inclusive('\n')
        .filter(|line| !names(line, &path, device))
        .collect();
    if kept == list {
        return Ok("; it is not bound at boot");
    }
    output::replace_for_good(Path::new(LIST), &kept)?;
    Ok("; it is not bound at boot any more")
}

fn read() -> Result<String, String> {
    match fs::read_to_string(LIST) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            match Path::new(LIST).parent().is_some_and(Path::is_dir) {
                true => Ok(String::new()),
                false => Err("nothing binds devices at boot here (docs/install.md)".to_owned()),
            }
        }
        list => list.map_err(|error| format!("{LIST}: {}", reason(&error))),
    }
}

fn listed(line: &str) -> &Path {
    Path::new(line.split_whitespace().next().unwrap_or_default())
}

/// Whether a line is no node, whose name may be that of another device after a reboot.
fn stays(line: &str, device: &Device) -> bool {
    listed(line) != device.node()
}

/// Whether a line is the path of this device, or of a link to it.
fn names(line: &str, path: &Path, device: &Device) -> bool {
    let listed = listed(line);
    listed.is_absolute()
        && (listed == path || fs::canonicalize(listed).is_ok_and(|node| node == device.node()))
}
