// SPDX-License-Identifier: GPL-2.0
//! Which driver a device had before `fmapctl bind`, until the next boot.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fmap_host::device::Device;
use fmap_host::reason::reason;

use crate::driver::Driver;

const DIR: &str = "/run/fuse-dax-fmap";

/// The directory for files that last until the next boot.
pub fn dir() -> Result<PathBuf, String> {
    let dir = Path::new(DIR);
    let made = DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.map_err(|error| format!("{DIR}: {}", reason(&error)))?;
    Ok(dir.to_owned())
}

fn file(device: &Device) -> PathBuf {
    Path::new(DIR).join(&device.name)
}

/// A device may get the name of another one, so its id is there, too.
fn text(driver: &str, device: &Device) -> String {
    format!("{driver} {}\n", device.id.as_deref().unwrap_or("-"))
}

/// Records the driver of a device.
pub fn keep(device: &Device, driver: Option<Driver>) {
    match driver {
        // It is a help for `fmapctl unbind`, which has a default.
        Some(driver) => drop(fs::write(file(device), text(driver.name(), device))),
        None => forget(device),
    }
}

/// The recorded driver.
pub fn before(device: &Device) -> Option<Driver> {
    let recorded = fs::read_to_string(file(device)).ok()?;
    let all = Driver::ALL.into_iter();
    all.filter(|&driver| driver != Driver::FsdevDax)
        .find(|driver| recorded == text(driver.name(), device))
}

/// Forgets it.
pub fn forget(device: &Device) {
    let _ = fs::remove_file(file(device));
}
