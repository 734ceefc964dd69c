// SPDX-License-Identifier: GPL-2.0
//! Registering and unregistering ops.
//!
//! Ops live as long as their BPF link. `load` pins it in bpffs under the name of the ops
//! ([`pins`]), so that it outlives fmapctl; but other programs may register ops, too, so the
//! kernel is asked what is registered ([`registry`]). Removing detaches the link first, which
//! frees the name even if another process holds the link.
//!
//! Ops are replaced by pointing their link at another map. There is no moment without
//! ops of that name; mounts that use the old map keep it.
//!
//! Several objects are loaded as one: what has been done is undone ([`Changes`]) when
//! something fails.

use std::fmt::Write;
use std::fs;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fmap_host::attached::{Attached, attached};
use fmap_host::reason::reason;
use fuse_dax_fmap::module::{DEFAULT_OPS, NAME as MODULE};
use libbpf_rs::query::LinkInfo;
use libbpf_rs::{Link, MapHandle};

use crate::bpf;
use crate::failure::Failure;
use crate::host::check_host;
use crate::object::{self, Loaded};
use crate::pins::{self, Pins};
use crate::registry::{self, Registered};
use crate::table::table;

/// How objects are loaded.
pub struct Options {
    /// Replace ops of the same name.
    pub replace: bool,
    /// Make them the `default_ops`.
    pub default: bool,
}

/// Registers all ops of all objects, or none.
pub fn load(objects: &[PathBuf], options: &Options, out: &mut String) -> Result<(), Failure> {
    check_host()?;
    pins::check_bpffs()?;
    if !Path::new("/sys/kernel/btf").join(MODULE).exists() {
        return Err(Failure::from(format!(
            "the module {MODULE} was loaded without its BTF: no program can be loaded for it"
        )));
    }

    let mut opened = Vec::new();
    let mut names: Vec<(String, &Path)> = Vec::new();
    for path in objects {
        let object = object::open(path)?;
        for name in &object.names {
            if let Some((_, other)) = names.iter().find(|(other, _)| other == name) {
                return Err(twice(name, other, path).into());
            }
            names.push((name.clone(), path));
        }
        opened.push(object);
    }
    if options.default && names.len() != 1 {
        let all: Vec<_> = names.iter().map(|(name, _)| name.as_str()).collect();
        return Err(format!(
            "--default takes one object with one struct fuse_dax_fmap_ops, these have {}",
            all.join(", ")
        )
        .into());
    }
    if !options.replace {
        for (name, _) in &names {
            no_others(name)?;
        }
    }

    let mut loaded = Vec::new();
    for object in opened {
        loaded.push(object.load()?);
    }
    let pins = Pins::make()?;
    let result = register(&mut loaded, options, &pins, out);
    pins.remove_if_empty();
    result
}

fn twice(name: &str, a: &Path, b: &Path) -> String {
    let (a, b) = (a.display(), b.display());
    match a.to_string() == b.to_string() {
        true => format!("there are ops named {name} twice in {a}, or it is named twice"),
        false => format!("{a} and {b} both have ops named {name}: load one of them"),
    }
}

/// Fails if ops of a name are registered.
fn no_others(name: &str) -> Result<(), String> {
    match registry::find(name) {
        None => Ok(()),
        Some(ops) => Err(format!(
            "ops named {name} are registered already, by link {} (`--replace` replaces them, \
             `fmapctl unload {name}` removes them)",
            ops.link
        )),
    }
}

/// What `load` has done so far. Dropped, it is undone, the last thing first.
struct Changes<'a> {
    pins: &'a Pins,
    done: Vec<Change>,
}

enum Change {
    /// Closing the link unregisters the ops, unless it is pinned.
    Registered(#[expect(dead_code, reason = "held")] Link),
    Replaced(OwnedFd, MapHandle),
    Pinned(String),
}

impl Changes<'_> {
    fn keep(mut self) {
        mem::take(&mut self.done);
    }
}

impl Drop for Changes<'_> {
    fn drop(&mut self) {
        while let Some(change) = self.done.pop() {
            // Errors are ignored: the first error, which caused this, is the one to report.
            match change {
                Change::Registered(_) => (),
                Change::Replaced(link, old) => drop(bpf::update(link.as_fd(), old.as_fd())),
                Change::Pinned(name) => drop(self.pins.remove(&name)),
            }
        }
    }
}

/// Registers, or replaces, and pins.
fn register(
    loaded: &mut [Loaded],
    options: &Options,
    pins: &Pins,
    out: &mut String,
) -> Result<(), Failure> {
    let done = Vec::new();
    let mut changes = Changes { pins, done };
    let mut said = String::new();
    let mut replaced = Vec::new();
    let mut names = Vec::new();

    for mut ops in loaded.iter_mut().flat_map(Loaded::ops) {
        let name = ops.name.to_owned();
        if let Some(link) = ops.register()? {
            let fd = clone(&link)?;
            changes.done.push(Change::Registered(link));
            pin(&mut changes, &name, &fd)?;
            let _ = writeln!(said, "{name}: registered");
        } else {
            if !options.replace {
                no_others(&name)?;
            }
            // The failed attempt has prepared the map, as an update requires.
            let (link, old) = replace(&name, &ops)?;
            let fd = clone(&link)?;
            changes.done.push(Change::Replaced(link, old));
            pin(&mut changes, &name, &fd)?;
            let _ = writeln!(said, "{name}: replaced");
            replaced.push(name.clone());
        }
        names.push(name);
    }
    if let (true, [name]) = (options.default, &names[..]) {
        fs::write(DEFAULT_OPS, name)
            .map_err(|error| format!("{DEFAULT_OPS}: {}", reason(&error)))?;
        let _ = writeln!(said, "{name}: the default for servers that name no ops");
    }
    changes.keep();
    for name in replaced {
        tell_users(&name, &mut said);
    }
    out.push_str(&said);
    Ok(())
}

fn clone(link: &impl AsFd) -> Result<OwnedFd, String> {
    let fd = link.as_fd().try_clone_to_owned();
    fd.map_err(|error| format!("cannot open a link: {}", reason(&error)))
}

/// Points the link of registered ops at another map; returns it, and the old map.
fn replace(name: &str, ops: &object::Ops<'_>) -> Result<(OwnedFd, MapHandle), String> {
    let changed = || format!("the ops {name} changed just now: try again");
    let old = registry::find(name).ok_or_else(changed)?;
    let link = registry::link_of(&old).ok_or_else(changed)?;
    let map = MapHandle::from_map_id(old.map).map_err(|_| changed())?;
    bpf::update(link.as_fd(), ops.map.as_fd())
        .map_err(|error| format!("cannot replace {name}: {}", reason(&error)))?;
    Ok((link, map))
}

/// Pins the link of ops, unless it is pinned.
fn pin(changes: &mut Changes<'_>, name: &str, link: &OwnedFd) -> Result<(), String> {
    let pins = changes.pins;
    if let Some((_, info)) = pins.link(name)? {
        if !may_be(&info, name) {
            return Err(pins::no_link(name, "a link of something else"));
        }
        if !registry::is_detached(&info) {
            return Ok(());
        }
        // Another program has detached it: otherwise the name would not have been free.
        pins.remove(name)?;
    }
    bpf::pin(link.as_fd(), &pins.path(name))
        .map_err(|error| format!("cannot pin {}/{name}: {}", pins::DIR, reason(&error)))?;
    changes.done.push(Change::Pinned(name.to_owned()));
    Ok(())
}

/// Returns true if a link is that of ops of a name, or may have been before it was detached.
fn may_be(link: &LinkInfo, name: &str) -> bool {
    registry::is_detached(link) || registry::ops_of(link).is_some_and(|ops| ops.name == name)
}

/// Prints how many mounts still use older ops of a name.
fn tell_users(name: &str, out: &mut String) {
    let current = registry::find(name).map(|ops| ops.map);
    let older = |mount: &&Attached| mount.ops == name && mount.map != current;
    let used = attached().map_or(0, |all| all.iter().filter(older).count());

    if used > 0 {
        let _ = writeln!(
            out,
            "{name}: {used} mount(s) keep the old ones until they are unmounted"
        );
    }
}

/// Prints the registered ops.
pub fn list(out: &mut String) -> Result<(), Failure> {
    check_host()?;
    let mounts = attached();
    let registered = registry::registered();
    let is_registered = |name: &str| registered.iter().any(|ops| ops.name == name);

    let mut rows = vec![
        ["NAME", "LINK", "MAP", "MOUNTS", "OLDER"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut add = |name: &str, link: &str, map: &str, id: Option<u32>| {
        let mut row = [name, link, map].map(str::to_owned).to_vec();
        row.extend(used(&mounts, name, id));
        rows.push(row);
    };
    for Registered { name, link, map } in &registered {
        add(name, &link.to_string(), &map.to_string(), Some(*map));
    }
    // Pins of links that have been detached.
    let left = detached();
    for (name, link) in left.iter().flatten() {
        if !is_registered(name) {
            add(name, &link.to_string(), "(detached)", None);
        }
    }
    // Ops without a link that mounts still use.
    let mut gone: Vec<&str> = mounts.iter().flatten().map(|m| m.ops.as_str()).collect();
    gone.sort_unstable();
    gone.dedup();
    for name in gone {
        let pinned = left.iter().flatten().any(|(left, _)| left == name);
        if !is_registered(name) && !pinned {
            add(name, "-", "(gone)", None);
        }
    }
    *out += &table(&rows);
    match default_ops() {
        Some(name) if is_registered(&name) => {
            let _ = writeln!(out, "default_ops: {name}");
        }
        Some(name) => {
            let _ = writeln!(out, "default_ops: {name} (not registered)");
        }
        None => (),
    }
    left.map(drop).map_err(Failure::from)
}

/// The pins of detached links, with the ids of the links.
fn detached() -> Result<Vec<(String, u32)>, String> {
    let Some(pins) = Pins::open()? else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for name in pins.names()? {
        let link = pins.link(&name)?;
        let link = link.filter(|(_, info)| registry::is_detached(info));
        all.extend(link.map(|(_, info)| (name, info.id)));
    }
    Ok(all)
}

/// What the module's parameter says.
fn default_ops() -> Option<String> {
    let text = fs::read_to_string(DEFAULT_OPS).ok()?;
    let name = text.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// How many mounts use ops of a name: the registered ops, and older ones.
fn used(mounts: &Result<Vec<Attached>, String>, name: &str, map: Option<u32>) -> [String; 2] {
    let Ok(mounts) = mounts else {
        return ["?", "?"].map(str::to_owned);
    };
    let all = mounts.iter().filter(|mount| mount.ops == name);
    let (current, older): (Vec<_>, Vec<_>) =
        all.partition(|mount| map.is_some() && mount.map == map);
    [current.len().to_string(), older.len().to_string()]
}

/// Unregisters ops; none of them if one is not there.
pub fn unload(names: &[String], out: &mut String) -> Result<(), Failure> {
    // Not check_host(): a pin may be left when the module is gone.
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::from("this needs root".to_owned()));
    }
    let pins = Pins::lock()?;
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();

    let mut found = Vec::new();
    for name in &names {
        let pin = match &pins {
            Some(pins) => pins.link(name)?,
            None => None,
        };
        let is_pinned = pin.is_some();
        if pin.is_some_and(|(_, info)| !may_be(&info, name)) {
            return Err(pins::no_link(name, "a link of something else").into());
        }
        let ops = registry::find(name);
        if ops.is_none() && !is_pinned {
            return Err(format!("no ops named {name:?} are registered, see `fmapctl list`").into());
        }
        found.push((name, ops, is_pinned));
    }

    for (name, ops, is_pinned) in found {
        // If another program has detached it since, there is nothing left to do.
        if let Some(link) = ops.as_ref().and_then(registry::link_of) {
            bpf::detach(link.as_fd())
                .map_err(|error| format!("cannot detach {name}: {}", reason(&error)))?;
        }
        if let (Some(pins), true) = (&pins, is_pinned) {
            pins.remove(name)?;
        }
        let _ = writeln!(out, "{name}: unregistered");
        let all = attached().unwrap_or_default();
        let used = all.iter().filter(|mount| mount.ops == *name).count();
        if used > 0 {
            let _ = writeln!(
                out,
                "{name}: {used} mount(s) keep using it until they are unmounted"
            );
        }
        if default_ops().is_some_and(|default| default == *name) {
            let _ = writeln!(
                out,
                "{name}: default_ops still names it, so servers that name no ops get plain FUSE \
                 (echo > {DEFAULT_OPS} empties it)"
            );
        }
    }
    if let Some(pins) = &pins {
        pins.remove_if_empty();
    }
    if attached().map_or(true, |all| all.is_empty()) && registry::registered().is_empty() {
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
