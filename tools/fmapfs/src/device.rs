// SPDX-License-Identifier: GPL-2.0
//! What the system knows of a DAX device.
//!
//! `/dev/dax0.0` is the device that the kernel found first. The name may change, but not the
//! id, which is made of what sysfs has:
//!
//! * `nvdimm:UUID`: a namespace of an NVDIMM, by the UUID that `ndctl list` shows.
//! * `cxl:SERIAL@DPA[,...][/BYTES]+OFFSET`: a part, from OFFSET on, of a region of CXL
//!   devices: their serial numbers, and where on each of them the region begins; several
//!   are interleaved by BYTES.
//! * `memory:ADDRESS`: other memory, by its physical address.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::manifest::{Error, Manifest};

/// The driver under which a device serves files.
const DRIVER: &str = "fsdev_dax";

/// A DAX device of this machine.
pub struct Present {
    /// As the kernel calls it: `dax0.0`.
    pub name: String,
    pub id: Option<String>,
    pub size: Option<u64>,
    pub driver: Option<String>,
}

/// Checks that a text can be an id.
pub fn check_id(id: &str) -> Result<(), String> {
    let known = ["nvdimm:", "cxl:", "memory:"];
    let sound = id.bytes().all(|byte| byte.is_ascii_graphic())
        && known
            .iter()
            .any(|kind| id.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()));
    match sound {
        true => Ok(()),
        false => Err(format!(
            "{id:?} is no id of a device: they begin with nvdimm:, cxl: or memory:, and \
             `fmapfs --devices` shows them"
        )),
    }
}

/// All DAX devices, by name.
pub fn present() -> Vec<Present> {
    present_in(Path::new("/sys"))
}

fn present_in(sys: &Path) -> Vec<Present> {
    let mut all: Vec<_> = fs::read_dir(sys.join("bus/dax/devices"))
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let dir = fs::canonicalize(entry.path()).ok()?;
            let driver = fs::canonicalize(dir.join("driver")).ok();
            Some(Present {
                name: entry.file_name().into_string().ok()?,
                id: identify(sys, &dir),
                size: word(&dir, "size").and_then(|size| size.parse().ok()),
                driver: driver
                    .and_then(|driver| Some(driver.file_name()?.to_string_lossy().into_owned())),
            })
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Where a device with this id is now.
pub fn find(id: &str) -> Option<PathBuf> {
    present()
        .into_iter()
        .find(|device| device.id.as_deref() == Some(id))
        .map(|device| Path::new("/dev").join(device.name))
}

/// What udev imports of a device: its id, and the name of its link in /dev/dax/by-id. Nothing, if
/// it has no id.
pub fn for_udev(name: &str) -> String {
    let mut all = present().into_iter();
    let id = all
        .find(|device| device.name == name)
        .and_then(|device| device.id);
    id.map_or(String::new(), |id| {
        format!("FMAP_ID={id}\nFMAP_LINK={}\n", link_name(&id))
    })
}

/// An id as the name of a link: udev allows no comma, and a slash would make a directory.
fn link_name(id: &str) -> String {
    id.replace([',', '/'], "_")
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
        let found = sysfs(&device.path)
            .and_then(|dir| identify(Path::new("/sys"), &fs::canonicalize(dir).ok()?));
        match (&device.id, found) {
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

/// Half a sentence: where the device of this id is.
pub fn now_at(id: &str) -> String {
    match find(id) {
        Some(path) => format!(", which is {} now", path.display()),
        None => ", which is not in this machine".to_owned(),
    }
}

/// What a file of sysfs says, if anything.
fn word(dir: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(dir.join(name)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    let text = word(dir, name)?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The id of the device with this directory in sysfs, if enough is known (some of it only
/// root may read).
fn identify(sys: &Path, dir: &Path) -> Option<String> {
    let above = dir.parent()?;
    match word(above, "devtype").as_deref() {
        Some("nd_dax") => {
            if let Some(uuid) = word(above, "uuid") {
                return Some(format!("nvdimm:{uuid}"));
            }
        }
        Some("cxl_dax_region") => {
            if let Some(id) = cxl(sys, dir, above.parent()?) {
                return Some(id);
            }
        }
        _ => (),
    }
    let address = number(dir, "resource").filter(|&address| address != 0)?;
    Some(format!("memory:{address:#x}"))
}

fn cxl(sys: &Path, dir: &Path, region: &Path) -> Option<String> {
    let ways = number(region, "interleave_ways")?;
    let mut targets = Vec::new();
    for way in 0..ways {
        let decoder = word(region, &format!("target{way}"))?;
        let decoder = fs::canonicalize(sys.join("bus/cxl/devices").join(decoder)).ok()?;
        // An endpoint, whose upper end is the memory device itself.
        let memory = decoder.parent()?.join("uport");
        let serial = number(&memory, "serial").filter(|&serial| serial != 0)?;
        let start = number(&decoder, "dpa_resource")?;
        targets.push(format!("{serial:#x}@{start:#x}"));
    }
    if targets.is_empty() {
        return None;
    }
    let mut id = format!("cxl:{}", targets.join(","));
    if ways > 1 {
        id += &format!("/{}", number(region, "interleave_granularity")?);
    }
    let offset = number(dir, "resource")?.checked_sub(number(region, "resource")?)?;
    Some(format!("{id}+{offset:#x}"))
}

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

/// Checks that the kernel will be able to use the device.
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

/// What is wrong with a device that has this driver, and what to do.
///
/// `new_id` binds a device that has no driver. For other devices it succeeds, too, but does
/// nothing.
fn unfit(name: &str, driver: Option<&str>) -> Option<String> {
    let bind = format!("echo {name} > /sys/bus/dax/drivers/{DRIVER}/new_id");
    match driver {
        Some(DRIVER) => None,
        // If it is unbound while its memory is online, the memory is lost until the next
        // boot.
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

    /// A file of a made-up sysfs.
    fn put(sys: &Path, path: &str, text: &str) {
        let path = sys.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(sys: &Path, to: &str, path: &str) {
        let path = sys.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(sys.join(to), path).unwrap();
    }

    fn ids(sys: &Path) -> Vec<(String, Option<String>)> {
        let one = |device: Present| (device.name, device.id);
        present_in(sys).into_iter().map(one).collect()
    }

    #[test]
    fn ids_stay_whatever_the_order() {
        let made = tempfile::tempdir().unwrap();
        let sys = &fs::canonicalize(made.path()).unwrap();

        let nvdimm = "devices/ndbus0/region0/dax0.0";
        put(sys, &format!("{nvdimm}/devtype"), "nd_dax\n");
        put(sys, &format!("{nvdimm}/uuid"), "74481202-bd7f\n");
        put(sys, &format!("{nvdimm}/dax0.0/resource"), "0x110600000\n");
        link(sys, &format!("{nvdimm}/dax0.0"), "bus/dax/devices/dax0.0");

        let region = "devices/root0/decoder0.0/region1";
        put(sys, &format!("{region}/interleave_ways"), "2\n");
        put(sys, &format!("{region}/interleave_granularity"), "256\n");
        put(sys, &format!("{region}/resource"), "0x200000000\n");
        put(sys, &format!("{region}/target0"), "decoder3.0\n");
        put(sys, &format!("{region}/target1"), "decoder2.1\n");
        put(
            sys,
            &format!("{region}/dax_region1/devtype"),
            "cxl_dax_region\n",
        );
        let dax = format!("{region}/dax_region1/dax1.0");
        put(sys, &format!("{dax}/resource"), "0x210000000\n");
        put(sys, &format!("{dax}/size"), "268435456\n");
        link(sys, &dax, "bus/dax/devices/dax1.0");
        for (decoder, memory, serial, start) in [
            ("3.0", "mem1", "0x1", "0x0"),
            ("2.1", "mem0", "0xc0ffee", "0x4000000"),
        ] {
            let endpoint = format!("devices/root0/endpoint{}", &decoder[..1]);
            put(
                sys,
                &format!("{endpoint}/decoder{decoder}/dpa_resource"),
                start,
            );
            put(sys, &format!("devices/pci/{memory}/serial"), serial);
            link(
                sys,
                &format!("devices/pci/{memory}"),
                &format!("{endpoint}/uport"),
            );
            let of_bus = format!("bus/cxl/devices/decoder{decoder}");
            link(sys, &format!("{endpoint}/decoder{decoder}"), &of_bus);
        }

        put(sys, "devices/hmem.0/dax2.0/resource", "0x330000000\n");
        link(sys, "devices/hmem.0/dax2.0", "bus/dax/devices/dax2.0");

        let id = |text: &str| Some(text.to_owned());
        assert_eq!(
            ids(sys),
            [
                ("dax0.0".to_owned(), id("nvdimm:74481202-bd7f")),
                (
                    "dax1.0".to_owned(),
                    id("cxl:0x1@0x0,0xc0ffee@0x4000000/256+0x10000000")
                ),
                ("dax2.0".to_owned(), id("memory:0x330000000")),
            ]
        );
        assert_eq!(present_in(sys)[1].size, Some(256 << 20));
        for (_, id) in ids(sys) {
            assert_eq!(check_id(&id.unwrap()), Ok(()));
        }

        // A serial number of 0 is none.
        put(sys, "devices/pci/mem1/serial", "0x0\n");
        assert_eq!(ids(sys)[1].1, id("memory:0x210000000"));
        // It has no stable property, so it has no id.
        put(sys, "devices/hmem.0/dax2.0/resource", "0x0\n");
        assert_eq!(ids(sys)[2].1, None);
    }

    #[test]
    fn names_of_links() {
        assert_eq!(
            link_name("cxl:0x1@0x0,0xc0ffee@0x4000000/256+0x10000000"),
            "cxl:0x1@0x0_0xc0ffee@0x4000000_256+0x10000000"
        );
        assert_eq!(link_name("nvdimm:74481202-bd7f"), "nvdimm:74481202-bd7f");
        assert_eq!(for_udev("no-such"), "");
    }

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
