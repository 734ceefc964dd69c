// SPDX-License-Identifier: GPL-2.0
//! What the system says about a DAX device.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The driver under which a device serves files.
const DRIVER: &str = "fsdev_dax";

/// Where sysfs shows the device behind a node.
fn sysfs(path: &Path) -> Option<PathBuf> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.file_type().is_char_device() {
        return None;
    }
    let (major, minor) = (
        rustix::fs::major(metadata.rdev()),
        rustix::fs::minor(metadata.rdev()),
    );
    Some(PathBuf::from(format!("/sys/dev/char/{major}:{minor}")))
}

/// Bytes of the device, if the system tells.
pub fn size(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(sysfs(path)?.join("size")).ok()?;
    text.trim().parse().ok()
}

/// Whether the kernel will be able to use the device; if not, why.
pub fn usable(path: &Path) -> Result<(), String> {
    let shown = path.display();
    fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    let device = sysfs(path).ok_or_else(|| format!("{shown} is no character device"))?;
    let in_bus = fs::canonicalize(device.join("subsystem"));
    if !in_bus.is_ok_and(|bus| bus.ends_with("bus/dax")) {
        return Err(format!("{shown} is no DAX device"));
    }
    match fs::canonicalize(device.join("driver")) {
        Ok(driver) if driver.ends_with(DRIVER) => Ok(()),
        Ok(driver) => Err(format!(
            "{shown} is bound to the driver {}: unbind it and write its name to \
             /sys/bus/dax/drivers/{DRIVER}/new_id",
            driver.file_name().unwrap_or_default().to_string_lossy()
        )),
        Err(_) => Err(format!(
            "{shown} has no driver: write its name to /sys/bus/dax/drivers/{DRIVER}/new_id"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_device_no_size() {
        for path in ["/", "/dev/null", "/nonexistent"] {
            assert_eq!(size(Path::new(path)), None, "{path}");
            assert!(usable(Path::new(path)).is_err(), "{path}");
        }
    }
}
