// SPDX-License-Identifier: GPL-2.0
//! Prints a manifest with the extents of each file, as a manifest.

use crate::layout::Layout;
use crate::manifest::{Access, Content, Manifest};

/// A string of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn access(access: &Access) -> String {
    let Access { mode, uid, gid } = access;
    format!("mode = \"{mode:04o}\"\nuid = {uid}\ngid = {gid}\n")
}

/// Returns the manifest with the extents of each file.
pub fn freeze(manifest: &Manifest, layout: &Layout) -> String {
    let mut text = "# Every file with the space that it has: wherever this is mounted from, the \
                    files are there.\n"
        .to_owned();
    for device in &manifest.devices {
        text += &format!("\n[[device]]\nname = {}\n", quoted(&device.name));
        // A device with an id is found by it.
        match &device.id {
            Some(id) => text += &format!("id = {}\n", quoted(id)),
            None => text += &format!("path = {}\n", quoted(&device.path.to_string_lossy())),
        }
        if let Some(size) = device.size {
            text += &format!("size = {size}\n");
        }
    }
    for dir in &manifest.dirs {
        text += &format!("\n[[dir]]\npath = {}\n", quoted(&dir.path.join("/")));
        text += &access(&dir.access);
    }

    let name = |index: usize| quoted(&manifest.devices[index].name);
    for (file, placement) in manifest.files.iter().zip(&layout.files) {
        text += &format!("\n[[file]]\npath = {}\n", quoted(&file.path.join("/")));
        text += &access(&file.access);
        text += &format!("size = {}\n", file.size);
        match &file.content {
            Content::Extents { shared: true, .. } => text += "shared = true\n",
            Content::Striped { devices, chunk } if placement.extents.is_empty() => {
                let names: Vec<_> = devices.iter().map(|&index| name(index)).collect();
                text += &format!("devices = [{}]\nchunk = {chunk}\n", names.join(", "));
            }
            _ => (),
        }
        for extent in &placement.extents {
            text += &format!("[[file.extent]]\nlength = {}\n", extent.length);
            if extent.chunk == 0 {
                for strip in &extent.strips {
                    let device = name(strip.device as usize);
                    text += &format!("device = {device}\noffset = {}\n", strip.offset);
                }
                continue;
            }
            let strips = extent.strips.iter().map(|strip| {
                let device = name(strip.device as usize);
                format!("{{ device = {device}, offset = {} }}", strip.offset)
            });
            let strips: Vec<_> = strips.collect();
            text += &format!(
                "chunk = {}\nstrips = [{}]\n",
                extent.chunk,
                strips.join(", ")
            );
        }
    }
    text
}
