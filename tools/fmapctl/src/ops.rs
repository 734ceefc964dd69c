// SPDX-License-Identifier: GPL-2.0
//! Registering ops and taking them back.
//!
//! Ops live as long as their BPF link. The link is pinned in bpffs under the name
//! of the ops, so what is registered is what lies in [`PINS`]. Removing detaches the
//! link first: whoever else holds it, the name is free again.
//!
//! Ops are replaced by pointing their link at another map. There is no moment without
//! ops of that name; mounts that use the old map keep it.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::query::{LinkInfo, LinkTypeInfo};
use libbpf_rs::{
    ErrorKind, Link, MapCore, MapType, ObjectBuilder, PrintLevel, libbpf_sys, set_print,
};

use crate::status::{self, Mount};
use crate::{MODULE, check_host, table};

const BPFFS: &str = "/sys/fs/bpf";
/// Where the links of ops are pinned.
const PINS: &str = "/sys/fs/bpf/fuse_dax_fmap";
/// `BPF_FS_MAGIC`.
const BPFFS_MAGIC: u64 = 0xcafe_4a11;
/// `BPF_F_LINK`: what libbpf sets for SEC(".struct_ops.link").
const F_LINK: u32 = 1 << 13;
/// `struct fuse_dax_fmap_ops` in a BPF object: a name and two programs.
const OPS_SIZE: usize = 16 + 2 * 8;

/// What libbpf said; with what the verifier said, if it refused.
static LOG: Mutex<String> = Mutex::new(String::new());

fn keep_log(_: PrintLevel, message: String) {
    LOG.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push_str(&message);
}

fn take_log() -> String {
    mem::take(&mut *LOG.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Registers all ops of an object, or none; or, to `replace` ops, one after the other.
pub fn load(object: &Path, replace: bool) -> Result<(), String> {
    let shown = object.display();
    check_host()?;
    check_bpffs()?;
    if !Path::new("/sys/kernel/btf").join(MODULE).exists() {
        return Err(format!(
            "the module {MODULE} was loaded without its BTF: no program can be loaded for it"
        ));
    }

    set_print(Some((PrintLevel::Info, keep_log)));
    fs::metadata(object).map_err(|error| format!("{shown}: {error}"))?;
    let open = ObjectBuilder::default()
        .open_file(object)
        .map_err(|error| with_log(format!("{shown} is no BPF object: {error:#}")))?;

    let mut names = Vec::new();
    for map in open.maps() {
        if map.map_type() != MapType::StructOps {
            continue;
        }
        let variable = map.name().to_string_lossy();
        let name = map.initial_value().and_then(ops_name).ok_or_else(|| {
            format!("{shown}: {variable} is no struct fuse_dax_fmap_ops with a name")
        })?;
        if map.map_flags() & F_LINK == 0 {
            return Err(format!(
                "{shown}: {variable} has to be in SEC(\".struct_ops.link\")"
            ));
        }
        if !replace && pin_of(&name).exists() {
            return Err(registered(&name));
        }
        names.push(name);
    }
    if names.is_empty() {
        return Err(format!("{shown} contains no struct fuse_dax_fmap_ops"));
    }

    let mut loaded = open
        .load()
        .map_err(|error| with_log(format!("the kernel refused {shown}: {error:#}")))?;

    let mut links = Vec::new();
    let maps = loaded
        .maps_mut()
        .filter(|map| map.map_type() == MapType::StructOps);
    for (mut map, name) in maps.zip(names) {
        match map.attach_struct_ops() {
            Ok(link) => links.push((link, name)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && replace => {
                // The attempt has made the map ready to be registered.
                update(&name, map.as_fd())?;
                println!("{name}: replaced");
                tell_users(&name);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(registered(&name));
            }
            Err(error) => {
                let log = take_log();
                return Err(format!("{log}the kernel refused the ops {name}: {error:#}"));
            }
        }
    }

    // An error drops the links, and with them what was registered so far.
    fs::create_dir_all(PINS).map_err(|error| format!("{PINS}: {error}"))?;
    for at in 0..links.len() {
        let pin = pin_of(&links[at].1);
        if replace && pin.exists() {
            // Of a link that somebody has detached, for the name was free.
            fs::remove_file(&pin).map_err(|error| format!("{}: {error}", pin.display()))?;
        }
        if let Err(error) = links[at].0.pin(&pin) {
            for (link, _) in &mut links[..at] {
                let _ = link.unpin();
            }
            return Err(format!("cannot pin {}: {error}", pin.display()));
        }
    }
    for (_, name) in links {
        println!("{name}: registered");
    }
    Ok(())
}

/// Points the pinned link of ops at another map.
fn update(name: &str, map: BorrowedFd<'_>) -> Result<(), String> {
    let pin = pin_of(name);
    let link = Link::open(&pin).map_err(|_| {
        format!(
            "ops named {name} are registered by a link that is not pinned as {}",
            pin.display()
        )
    })?;
    let (link, map) = (link.as_fd().as_raw_fd(), map.as_raw_fd());
    // libbpf has a function for links that it attached itself, and only for those.
    // SAFETY: Both descriptors are open, and null stands for no options.
    match unsafe { libbpf_sys::bpf_link_update(link, map, ptr::null()) } {
        0 => Ok(()),
        error => Err(format!(
            "cannot replace {name}: {}",
            io::Error::from_raw_os_error(-error)
        )),
    }
}

/// How many mounts go on with ops of a name that is not theirs any more.
fn tell_users(name: &str) {
    let current = registered_map(name);
    let older = |mount: &&Mount| mount.ops == name && mount.map != current;
    let used = status::mounts().map_or(0, |all| all.iter().filter(older).count());

    if used > 0 {
        println!("{name}: {used} mount(s) keep the old ones until they are unmounted");
    }
}

/// The map that is registered under a name, if it is known.
pub fn registered_map(name: &str) -> Option<u32> {
    let info = Link::open(pin_of(name)).and_then(|link| link.info());
    map_of(&info.ok()?)
}

/// Prints the registered ops.
pub fn list() -> Result<(), String> {
    check_host()?;
    check_bpffs()?;
    let mounts = status::mounts();

    let mut rows = vec![
        ["NAME", "LINK", "MAP", "MOUNTS", "OLDER"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for name in pinned()? {
        let info = Link::open(pin_of(&name))
            .and_then(|link| link.info())
            .map_err(|error| format!("{}: {error}", pin_of(&name).display()))?;
        let map = match map_of(&info) {
            Some(id) => id.to_string(),
            None => "(detached)".to_owned(),
        };
        let mut row = vec![name.clone(), info.id.to_string(), map];
        row.extend(used(&mounts, &name, map_of(&info)));
        rows.push(row);
    }
    // What has no link any more, and still has mounts.
    let mut gone: Vec<String> = mounts.iter().flatten().map(|m| m.ops.clone()).collect();
    gone.sort_unstable();
    gone.dedup();
    gone.retain(|name| !pin_of(name).exists());
    for name in gone {
        let mut row = vec![name.clone(), "-".to_owned(), "(gone)".to_owned()];
        row.extend(used(&mounts, &name, None));
        rows.push(row);
    }
    print!("{}", table(&rows));
    Ok(())
}

/// How many mounts use ops of a name: those that are registered, and others.
fn used(mounts: &Result<Vec<Mount>, String>, name: &str, map: Option<u32>) -> [String; 2] {
    let Ok(mounts) = mounts else {
        return ["?", "?"].map(str::to_owned);
    };
    let all = mounts.iter().filter(|mount| mount.ops == name);
    let (current, older): (Vec<_>, Vec<_>) =
        all.partition(|mount| map.is_some() && mount.map == map);
    [current.len().to_string(), older.len().to_string()]
}

/// Unregisters ops.
pub fn unload(name: &str) -> Result<(), String> {
    // Not check_host(): a pin may be left when the module is gone.
    if !rustix::process::geteuid().is_root() {
        return Err("this needs root".to_owned());
    }
    check_bpffs()?;
    if !pinned()?.iter().any(|pinned| pinned == name) {
        return Err(format!(
            "no ops named {name:?} are registered, see `fmapctl list`"
        ));
    }
    let pin = pin_of(name);
    Link::open(&pin)
        .and_then(|link| link.detach())
        .map_err(|error| format!("cannot detach {name}: {error}"))?;
    fs::remove_file(&pin).map_err(|error| format!("{}: {error}", pin.display()))?;
    println!("{name}: unregistered");

    let used = status::mounts().map_or(0, |all| all.iter().filter(|m| m.ops == name).count());
    if used > 0 {
        println!("{name}: {used} mount(s) keep using it until they are unmounted");
    } else if pinned()?.is_empty() {
        wait_for_programs();
    }
    Ok(())
}

/// Waits until the last programs are gone, so that `rmmod` after `unload` works: the
/// kernel frees them, and with them their hold on the module, a moment later.
fn wait_for_programs() {
    let refcnt = Path::new("/sys/module").join(MODULE).join("refcnt");
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        match fs::read_to_string(&refcnt) {
            Ok(count) if count.trim() != "0" => thread::sleep(Duration::from_millis(10)),
            _ => return,
        }
    }
}

fn check_bpffs() -> Result<(), String> {
    match rustix::fs::statfs(BPFFS) {
        Ok(stat) if stat.f_type as u64 == BPFFS_MAGIC => Ok(()),
        _ => Err(format!(
            "there is no bpffs on {BPFFS}: mount -t bpf bpf {BPFFS}"
        )),
    }
}

fn registered(name: &str) -> String {
    format!(
        "ops named {name} are registered already (`--replace` replaces them, \
         `fmapctl unload {name}` removes them)"
    )
}

fn pin_of(name: &str) -> PathBuf {
    Path::new(PINS).join(name)
}

/// Names of the pins, sorted.
fn pinned() -> Result<Vec<String>, String> {
    let failed = |error: io::Error| format!("{PINS}: {error}");
    let entries = match fs::read_dir(PINS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into());
    }
    names.sort_unstable();
    Ok(names)
}

fn map_of(info: &LinkInfo) -> Option<u32> {
    match &info.info {
        LinkTypeInfo::StructOps(info) if info.map_id != 0 => Some(info.map_id),
        _ => None,
    }
}

/// The name in the image of a `struct fuse_dax_fmap_ops`, which begins with it.
fn ops_name(image: &[u8]) -> Option<String> {
    if image.len() != OPS_SIZE {
        return None;
    }
    let end = image[..16].iter().position(|&c| c == 0)?;
    let name = std::str::from_utf8(&image[..end]).ok()?;
    let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (!name.is_empty() && name.chars().all(valid)).then(|| name.to_owned())
}

/// What libbpf said, then the sentence that sums it up.
fn with_log(message: String) -> String {
    let log = take_log();
    if log.is_empty() {
        return message;
    }
    format!(
        "what libbpf and the verifier said:\n{}\nfmapctl: {message}",
        log.trim_end()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &[u8]) -> Vec<u8> {
        let mut image = name.to_vec();
        image.resize(OPS_SIZE, 0);
        image
    }

    #[test]
    fn names_of_ops() {
        assert_eq!(ops_name(&image(b"striped")).as_deref(), Some("striped"));
        assert_eq!(
            ops_name(&image(b"123456789012345")).as_deref(),
            Some("123456789012345")
        );
        assert_eq!(ops_name(&image(b"")), None);
        assert_eq!(ops_name(&image(b"1234567890123456")), None);
        assert_eq!(ops_name(&image(b"../x")), None);
        assert_eq!(ops_name(&image(b"a b")), None);
        assert_eq!(ops_name(b"striped\0"), None);
    }
}
