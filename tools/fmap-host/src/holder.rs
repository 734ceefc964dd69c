// SPDX-License-Identifier: GPL-2.0
//! Which mount holds a device.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use fuse_dax_fmap::module::{MOUNTS, NAME as MODULE};

use crate::device::name_of;
use crate::mountinfo::{Mount, Number, mounts};
use crate::process::{named, servers, users};
use crate::reason::reason;

/// The holder of a DAX device that is held, as a part of a sentence.
pub fn holder(device: &Path) -> String {
    let Some(name) = name_of(device) else {
        return "somebody else".to_owned();
    };
    match known_holder(&name) {
        Ok(Some(holder)) => holder.in_words(),
        Ok(None) => "another file system".to_owned(),
        Err(_) => {
            "another mount (debugfs, if it is mounted on /sys/kernel/debug, has a list)".to_owned()
        }
    }
}

/// A mount that holds a device.
pub enum Holder {
    /// One of the module's.
    Fmap(Number),
    /// One of a file system that has the device as its source.
    Other(Mount),
}

impl Holder {
    /// As a part of a sentence.
    pub fn in_words(&self) -> String {
        match self {
            Self::Fmap(number) => mount_in_words(*number, &mounts().unwrap_or_default()),
            Self::Other(mount) => mount.to_string(),
        }
    }

    /// Where it is, by the kernel's numbers if that is nowhere.
    pub fn place(&self) -> String {
        match self {
            Self::Fmap(number) => places(*number, &mounts().unwrap_or_default()),
            Self::Other(mount) => mount.place.display().to_string(),
        }
    }
}

/// Where a superblock is mounted, in this mount namespace.
pub fn places(number: Number, mounts: &[Mount]) -> String {
    let here = mounts.iter().filter(|mount| mount.number == number);
    let places: Vec<_> = here
        .map(|mount| mount.place.display().to_string())
        .collect();
    match places.is_empty() {
        true => format!("(detached, {number})"),
        false => places.join(" "),
    }
}

/// The mount that holds a device, as far as the kernel tells.
///
/// # Errors
///
/// The module is loaded, and its list cannot be read.
pub fn known_holder(name: &str) -> Result<Option<Holder>, String> {
    if Path::new("/sys/module").join(MODULE).exists() {
        let list = fs::read_to_string(MOUNTS).map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!(
                "{MOUNTS} is not there, which lists the mounts that use {name}: \
                 mount -t debugfs debugfs /sys/kernel/debug"
            ),
            _ => format!("{MOUNTS}: {}", reason(&error)),
        })?;
        if let Some(number) = holder_in(&list, name) {
            return Ok(Some(Holder::Fmap(number)));
        }
    }
    // A mount of another file system type may have it as its source.
    let mut mounts = mounts().unwrap_or_default().into_iter();
    Ok(mounts
        .find(|mount| is_source(mount, name))
        .map(Holder::Other))
}

/// Returns true if a device is the source of a mount.
fn is_source(mount: &Mount, device: &str) -> bool {
    // Only nodes are looked at, of mounts that root has made: behind another path may be a server
    // that is stuck, and a user can name any path, also that of a device.
    !mount.by_user
        && mount.source.starts_with("/dev")
        && name_of(&mount.source).as_deref() == Some(device)
}

/// Returns true if a device that is held may be free in a moment: the mount that has it is
/// on no directory.
pub fn may_let_go(device: &Path) -> bool {
    let mounts = mounts().unwrap_or_default();
    let list = fs::read_to_string(MOUNTS).unwrap_or_default();
    let Some(name) = name_of(device) else {
        return false;
    };
    let bound = holder_in(&list, &name);
    !mounts.iter().any(|mount| match bound {
        Some(number) => mount.number == number,
        None => is_source(mount, &name),
    })
}

/// The superblock in the module's list that has a device.
fn holder_in(list: &str, device: &str) -> Option<Number> {
    let has_it = |line: &&str| {
        line.split(' ')
            .filter_map(|word| word.strip_prefix("devices="))
            .flat_map(|devices| devices.split(','))
            .filter_map(|entry| entry.split_once(':'))
            .any(|(_, name)| name == device)
    };
    Number::parse(list.lines().find(has_it)?.split(' ').next()?)
}

/// A FUSE mount as a part of a sentence: where it is, its servers, and how to end it.
fn mount_in_words(number: Number, mounts: &[Mount]) -> String {
    let place = mounts.iter().find(|mount| mount.number == number);
    let what = match place {
        Some(mount) => format!("the mount on {}", mount.place.display()),
        None => "a mount that is on no directory here".to_owned(),
    };
    let servers = servers(number);
    let users = || match users(number) {
        users if users.is_empty() => String::new(),
        users => format!(", and which {} has in use", named(&users, 3)),
    };
    match (place, servers.as_slice()) {
        (_, [_, ..]) => format!("{what}, which {} serves", named(&servers, 3)),
        (Some(mount), []) => format!(
            "{what}, whose server has ended{} (umount -l {})",
            users(),
            mount.place.display()
        ),
        (None, []) => format!("{what}, whose server has ended{}", users()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_cannot_claim_a_device() {
        let text = b"30 1 0:44 / /mnt rw - fuse.x /dev/null rw,user_id=1000,group_id=1000\n";
        let mounts = crate::mountinfo::mounts_in(text);
        // It would be looked at, and /dev/null is no DAX device.
        assert!(mounts[0].by_user && !is_source(&mounts[0], "dax0.0"));
    }

    #[test]
    fn the_list_of_the_module() {
        let list = "0:44 ops=striped map=1 files=0 devices=0:dax0.0,1:dax1.0! get_fmap=0\n\
                    0:45 ops=striped map=1 files=0 devices=0:dax10.0 get_fmap=0\n";
        let number = |minor| Some(Number { major: 0, minor });
        assert_eq!(holder_in(list, "dax0.0"), number(44));
        assert_eq!(holder_in(list, "dax10.0"), number(45));
        assert_eq!(holder_in(list, "dax1.0"), None);
        assert_eq!(holder_in("", "dax1.0"), None);
    }
}
