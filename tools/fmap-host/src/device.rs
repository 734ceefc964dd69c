// SPDX-License-Identifier: GPL-2.0
//! The DAX devices of this machine.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::identity::identify;
use crate::mountinfo::Number;
use crate::sysfs::{link, number, word};

/// The driver under which a device serves files.
pub const DRIVER: &str = "fsdev_dax";

/// Where udev puts the persistent names of devices.
const NAMES: &str = "/dev/dax";

/// A DAX device of this machine.
#[derive(Clone, Debug)]
pub struct Device {
    /// As the kernel calls it: `dax0.0`.
    pub name: String,
    /// Its directory in sysfs.
    pub dir: PathBuf,
    /// What identifies it for good ([`crate::identity`]).
    pub id: Option<String>,
    /// In bytes.
    pub size: Option<u64>,
    /// Its memory; only root may read where that is.
    pub ranges: Vec<Range>,
    /// The driver that it was bound to.
    pub driver: Option<String>,
}

/// Physical memory, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
}

impl Device {
    fn in_dir(sys: &Path, entry: &Path) -> Option<Self> {
        let dir = fs::canonicalize(entry).ok()?;
        let size = number(&dir, "size");
        Some(Self {
            name: entry.file_name()?.to_str()?.to_owned(),
            id: identify(sys, &dir),
            size,
            ranges: ranges(&dir, size),
            driver: link(&dir, "driver"),
            dir,
        })
    }

    /// Its node.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// The number of its node.
    pub fn number(&self) -> Option<Number> {
        Number::parse(&word(&self.dir, "dev")?)
    }

    /// The NUMA node that its memory has if it is system RAM.
    pub fn target_node(&self) -> Option<u64> {
        number(&self.dir, "target_node")
    }

    /// The names that udev gives it and that stay (`/dev/dax/by-uuid/...`), sorted.
    pub fn persistent_names(&self) -> Vec<PathBuf> {
        self.names_in(Path::new(NAMES))
    }

    fn names_in(&self, dir: &Path) -> Vec<PathBuf> {
        let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
        let mut all: Vec<_> = entries(dir)
            .flat_map(|by| entries(&by.path()).map(|entry| entry.path()))
            .filter(|path| {
                fs::read_link(path).is_ok_and(|to| to.file_name() == Some(self.name.as_ref()))
            })
            .collect();
        all.sort();
        all
    }
}

/// The memory of a device. It has a directory `mapping0` and so on for each range.
fn ranges(dir: &Path, size: Option<u64>) -> Vec<Range> {
    let mapping = |at: usize| {
        let dir = dir.join(format!("mapping{at}"));
        let (first, last) = (number(&dir, "start")?, number(&dir, "end")?);
        Some(Range { first, last })
    };
    let mut all: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            mapping(name.to_str()?.strip_prefix("mapping")?.parse().ok()?)
        })
        .collect();
    all.sort_by_key(|range| range.first);
    if let (true, Some(size)) = (all.is_empty(), size.filter(|&size| size > 0)) {
        let first = number(dir, "resource").filter(|&first| first != 0);
        all.extend(first.and_then(|first| {
            let last = first.checked_add(size - 1)?;
            Some(Range { first, last })
        }));
    }
    all
}

/// All DAX devices, by name.
pub fn present() -> Vec<Device> {
    present_in(Path::new("/sys"))
}

fn present_in(sys: &Path) -> Vec<Device> {
    let mut all: Vec<_> = fs::read_dir(sys.join("bus/dax/devices"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Device::in_dir(sys, &entry.ok()?.path()))
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Where a device with this id is now.
pub fn find(id: &str) -> Option<PathBuf> {
    let mut all = present().into_iter();
    let found = all.find(|device| device.id.as_deref() == Some(id));
    found.map(|device| device.node())
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

/// The name of the link to a device with this id, in /dev/dax/by-id: udev allows no comma, and a
/// slash would make a directory.
pub fn link_name(id: &str) -> String {
    id.replace([',', '/'], "_")
}

/// Half a sentence: where the device of this id is.
pub fn now_at(id: &str) -> String {
    match find(id) {
        Some(path) => format!(", which is {} now", path.display()),
        None => ", which is not in this machine".to_owned(),
    }
}

/// The id of the device behind a node.
pub fn id_of(path: &Path) -> Option<String> {
    identify(Path::new("/sys"), &fs::canonicalize(sysfs(path)?).ok()?)
}

/// The kernel's name for the DAX device behind a node, or behind a link to one.
pub fn name_of(path: &Path) -> Option<String> {
    let dir = fs::canonicalize(sysfs(path)?).ok()?;
    let in_bus = link(&dir, "subsystem").is_some_and(|bus| bus == "dax");
    let name = dir.file_name()?.to_str()?.to_owned();
    in_bus.then_some(name)
}

/// Returns true if two paths lead to one device.
pub fn same_device(one: &Path, other: &Path) -> bool {
    name_of(one).is_some_and(|name| Some(name) == name_of(other))
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
    word(&sysfs(path)?, "size")?.parse().ok()
}

/// Checks that the kernel will be able to use the device.
pub fn usable(path: &Path) -> Result<(), String> {
    let shown = path.display();
    fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    let device = sysfs(path).ok_or_else(|| format!("{shown} is no character device"))?;
    let name = name_of(path).ok_or_else(|| format!("{shown} is no DAX device"))?;
    match unfit(&name, link(&device, "driver").as_deref()) {
        Some(reason) => Err(format!("{shown} {reason}")),
        None => Ok(()),
    }
}

/// What is wrong with a device that has this driver, and what to do.
fn unfit(name: &str, driver: Option<&str>) -> Option<String> {
    let bind = format!("`fmapctl bind {name}`");
    match driver {
        Some(DRIVER) => None,
        Some("kmem") => Some(format!(
            "is system RAM now (driver kmem): {bind} takes that memory offline, if nothing there \
             is in use, and binds it to {DRIVER}"
        )),
        Some(driver) => Some(format!(
            "is bound to the driver {driver}: {bind} binds it to {DRIVER}"
        )),
        None => Some(format!("has no driver: {bind} binds it to {DRIVER}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::is_id;

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
        let one = |device: Device| (device.name, device.id);
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
            assert!(is_id(&id.unwrap()));
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
    fn memory_and_names() {
        let made = tempfile::tempdir().unwrap();
        let sys = &fs::canonicalize(made.path()).unwrap();
        put(sys, "devices/r/dax3.0/size", "8192\n");
        put(sys, "devices/r/dax3.0/resource", "0x9000\n");
        link(sys, "devices/r/dax3.0", "bus/dax/devices/dax3.0");
        let (first, last) = (0x9000, 0xafff);
        assert_eq!(present_in(sys)[0].ranges, [Range { first, last }]);
        for (at, start, end) in [(1, "0x9000", "0x9fff"), (0, "0xc000", "0xcfff")] {
            put(sys, &format!("devices/r/dax3.0/mapping{at}/start"), start);
            put(sys, &format!("devices/r/dax3.0/mapping{at}/end"), end);
        }
        // `mapping`, without a number, is a file to write to.
        put(sys, "devices/r/dax3.0/mapping", "");
        let device = &present_in(sys)[0];
        let range = |first, last| Range { first, last };
        assert_eq!(
            device.ranges,
            [range(0x9000, 0x9fff), range(0xc000, 0xcfff)]
        );

        for name in ["by-path/a", "by-uuid/b"] {
            let path = sys.join("dev").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink("../../dax3.0", path).unwrap();
        }
        std::os::unix::fs::symlink("../../dax3.1", sys.join("dev/by-path/c")).unwrap();
        let names = ["dev/by-path/a", "dev/by-uuid/b"].map(|name| sys.join(name));
        assert_eq!(device.names_in(&sys.join("dev")), names);
    }

    #[test]
    fn the_way_out_is_one_command() {
        assert_eq!(unfit("dax0.0", Some(DRIVER)), None);
        for driver in [None, Some("kmem"), Some("device_dax")] {
            let said = unfit("dax0.0", driver).unwrap();
            assert!(said.contains("`fmapctl bind dax0.0`"), "{said}");
        }
    }
}
