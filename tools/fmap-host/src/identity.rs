// SPDX-License-Identifier: GPL-2.0
//! What identifies a DAX device for good.
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
use std::path::Path;

use crate::sysfs::{number, word};

const KINDS: [&str; 3] = ["nvdimm:", "cxl:", "memory:"];

/// Returns true if a text can be an id.
pub fn is_id(id: &str) -> bool {
    let known = |kind: &&str| id.strip_prefix(kind).is_some_and(|rest| !rest.is_empty());
    id.bytes().all(|byte| byte.is_ascii_graphic()) && KINDS.iter().any(known)
}

/// The id of the device with this directory in sysfs, if enough is known (some of it only
/// root may read).
pub fn identify(sys: &Path, dir: &Path) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_an_id() {
        for id in ["nvdimm:7448", "cxl:0x1@0x0+0x0", "memory:0x100"] {
            assert!(is_id(id), "{id}");
        }
        for no in [
            "",
            "dax0.0",
            "cxl:",
            "other:1",
            "memory:0x1 ",
            "/dev/dax0.0",
        ] {
            assert!(!is_id(no), "{no}");
        }
    }
}
