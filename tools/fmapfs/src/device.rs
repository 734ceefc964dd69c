// SPDX-License-Identifier: GPL-2.0
//! The devices of a manifest, found in this machine by their ids, or by their paths.

use fmap_host::device::{find, id_of, now_at};
use fmap_host::identity::is_id;

use crate::manifest::{Error, Manifest};

/// Checks that a text can be an id.
pub fn check_id(id: &str) -> Result<(), String> {
    match is_id(id) {
        true => Ok(()),
        false => Err(format!(
            "{id:?} is no id of a device: they begin with nvdimm:, cxl: or memory:, and \
             `fmapfs --devices` shows them"
        )),
    }
}

/// Finds the devices of a manifest: the paths of those that it names by id, the ids of
/// the others. If they are not `needed`, they may be absent.
pub fn resolve(manifest: &mut Manifest, needed: bool) -> Result<(), Error> {
    for device in &mut manifest.devices {
        if device.path.as_os_str().is_empty() {
            let id = device.id.as_deref().unwrap_or_default();
            match find(id) {
                Some(path) => device.path = path,
                None if needed => {
                    let message = format!(
                        "no DAX device of this machine is {id}; `fmapfs --devices` shows \
                         those that are there"
                    );
                    return Err(Error::new(device.line, message));
                }
                None => (),
            }
            continue;
        }
        match (&device.id, id_of(&device.path)) {
            (Some(wanted), Some(found)) if *wanted != found => {
                let shown = device.path.display();
                let message = format!("{shown} is {found}, and not {wanted}{}", now_at(wanted));
                return Err(Error::new(device.line, message));
            }
            (_, Some(found)) => device.id = Some(found),
            (_, None) => (),
        }
    }
    for (at, device) in manifest.devices.iter().enumerate() {
        for other in &manifest.devices[..at] {
            if device.id.is_some() && device.id == other.id {
                let message = format!(
                    "device {:?} is the same memory as {:?} (line {})",
                    device.name, other.name, other.line
                );
                return Err(Error::new(device.line, message));
            }
        }
    }
    Ok(())
}
