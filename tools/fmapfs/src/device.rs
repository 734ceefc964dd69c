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
    let name = fs::canonicalize(&device).unwrap_or_default();
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    let driver = fs::canonicalize(device.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name);
    match unfit(
        &name,
        driver.map(|driver| driver.to_string_lossy()).as_deref(),
    ) {
        Some(reason) => Err(format!("{shown} {reason}")),
        None => Ok(()),
    }
}

/// What is wrong with a device that has this driver, and the way out.
///
/// `new_id` binds a device that is free. It succeeds for any other, too, and does nothing then.
fn unfit(name: &str, driver: Option<&str>) -> Option<String> {
    let bind = format!("echo {name} > /sys/bus/dax/drivers/{DRIVER}/new_id");
    match driver {
        Some(DRIVER) => None,
        // Unbound while it is online, its memory is lost until the next boot.
        Some("kmem") => Some(format!(
            "is system RAM now (driver kmem) and must not be unbound: `daxctl offline-memory \
             {name}`, then `daxctl reconfigure-device --mode=devdax {name}` make it a device again"
        )),
        Some(driver) => Some(format!(
            "is bound to the driver {driver}: echo {name} > /sys/bus/dax/drivers/{driver}/unbind, \
             then {bind} (which does nothing before that)"
        )),
        None => Some(format!("has no driver: modprobe {DRIVER}, then {bind}")),
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

    #[test]
    fn the_way_out_is_safe() {
        assert_eq!(unfit("dax0.0", Some(DRIVER)), None);
        let kmem = unfit("dax0.0", Some("kmem")).unwrap();
        assert!(
            !kmem.contains("unbind") && !kmem.contains("new_id"),
            "{kmem}"
        );
        assert!(kmem.contains("daxctl offline-memory dax0.0"), "{kmem}");
        assert!(kmem.contains("daxctl reconfigure-device --mode=devdax dax0.0"));
        let other = unfit("dax0.0", Some("device_dax")).unwrap();
        let unbind = other.find("drivers/device_dax/unbind").unwrap();
        assert!(unbind < other.find("drivers/fsdev_dax/new_id").unwrap());
        let none = unfit("dax0.0", None).unwrap();
        assert!(none.contains("echo dax0.0 > /sys/bus/dax/drivers/fsdev_dax/new_id"));
    }
}
