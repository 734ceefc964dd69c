// SPDX-License-Identifier: GPL-2.0
//! Gives a DAX device to another driver, or leaves everything as it was.
//!
//! What uses the device, and memory of it that is system RAM, is looked at first, when refusing
//! costs nothing. From the moment at which the old driver has lost the device, a failure means to
//! give it back; if that fails, too, the message says what the state is. Signals are without effect
//! from there on.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fmap_host::device::{self, Device};
use fmap_host::holder::known_holder;
use fmap_host::identity::is_id;
use fmap_host::process::{self, named};
use fmap_host::reason::reason;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use crate::at_boot;
use crate::devices::{self, Shown};
use crate::driver::{Driver, Slot};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::json;
use crate::memory;
use crate::output;
use crate::record;

/// What is wanted.
pub struct Options<'a> {
    /// Its name, its node, a link to that, or its id.
    pub device: &'a str,
    /// How long each block of memory may take to go offline, and the old driver to let go.
    pub patience: Duration,
    /// Change also what happens at boot.
    pub at_boot: bool,
    /// Say in JSON what was done.
    pub json: bool,
}

/// What was done, for programs: what `fmapctl devices --json` shows of the device now, and more.
#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    device: Shown,
    /// The driver that it had.
    was: Option<String>,
    /// Whether it is bound at boot from now on, if that was asked for.
    at_boot: Option<bool>,
}

/// What is to happen to the list of devices that are bound at boot.
#[derive(Clone, Copy, PartialEq)]
enum AtBoot {
    Add,
    Remove,
}

impl AtBoot {
    fn apply(self, device: &Device) -> Result<&'static str, String> {
        match self {
            AtBoot::Add => at_boot::add(device),
            AtBoot::Remove => at_boot::remove(device),
        }
    }
}

/// Gives a device to fsdev_dax.
pub fn bind(options: &Options<'_>, out: &mut String) -> Result<(), Failure> {
    change(options, Some(Driver::FsdevDax), AtBoot::Add, out)
}

/// Gives a device to another driver: the one that it had before, if none is named.
pub fn unbind(options: &Options<'_>, to: Option<Driver>, out: &mut String) -> Result<(), Failure> {
    change(options, to, AtBoot::Remove, out)
}

fn change(
    options: &Options<'_>,
    to: Option<Driver>,
    at_boot: AtBoot,
    out: &mut String,
) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::from("this needs root".to_owned()));
    }
    let _lock = lock()?;
    change_locked(options, to, at_boot, true, out)
}

fn change_locked(
    options: &Options<'_>,
    to: Option<Driver>,
    at_boot: AtBoot,
    may_retry: bool,
    out: &mut String,
) -> Result<(), Failure> {
    let mut device = find(options.device)?;
    if device.driver.as_deref() == Some(Driver::Kmem.name()) {
        // It may be about to get the device: udev starts this as soon as there is one.
        Driver::Kmem.settle(&device.name);
        device = find(&device.name)?;
    }
    let name = device.name.as_str();
    let failed = |message: String| format!("{name}: {message}");
    let to = to.unwrap_or_else(|| record::before(&device).unwrap_or(Driver::DeviceDax));
    let listed = || match options.at_boot {
        true => at_boot.apply(&device).map_err(|message| {
            failed(format!(
                "bound to {to}, but at boot all is as before: {message}"
            ))
        }),
        false => Ok(""),
    };
    let from = match device.driver.as_deref() {
        None => None,
        Some(driver) if driver == to.name() => {
            let more = listed()?;
            if options.json {
                return print(options, &device, at_boot, out);
            }
            let state = state(&device, to);
            let _ = writeln!(out, "{name}: bound to {to} already{state}{more}");
            return Ok(());
        }
        Some(driver) => Some(Driver::from_name(driver).ok_or_else(|| {
            format!("{name} is bound to the driver {driver}, which fmapctl does not know")
        })?),
    };
    to.load().map_err(failed)?;
    if let Some(from) = from {
        check_unused(&device, from).map_err(failed)?;
    }
    let given = give(&device, from, to, options.patience);
    if may_retry && given.is_err() && from.is_none() && slot(&device).driver().is_some() {
        // The kernel gave it to a driver meanwhile.
        return change_locked(options, Some(to), at_boot, false, out);
    }
    given.map_err(failed)?;
    wait_for_names();
    match (from, to) {
        (_, Driver::FsdevDax) => record::keep(&device, from),
        _ => record::forget(&device),
    }
    let more = listed()?;
    if options.json {
        return print(options, &device, at_boot, out);
    }
    let was = match from {
        Some(from) => format!(", and was bound to {from}"),
        None => String::new(),
    };
    let state = state(&device, to);
    let _ = writeln!(out, "{name}: bound to {to}{was}{state}{more}");
    Ok(())
}

/// Prints what was done to a device. `before` is what it was.
fn print(
    options: &Options<'_>,
    before: &Device,
    at_boot: AtBoot,
    out: &mut String,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Devices {
        devices: [Done; 1],
    }
    let done = Done {
        device: devices::look(find(&before.name)?),
        was: before.driver.clone(),
        at_boot: options.at_boot.then_some(at_boot == AtBoot::Add),
    };
    json::print(&Devices { devices: [done] }, out)
}

/// Waits until udev has given the device its names (`/dev/dax/fsdev/...`), which a manifest has,
/// for five seconds at most. Does nothing without udev.
fn wait_for_names() {
    if Path::new("/run/udev/control").exists() {
        let _ = Command::new("udevadm")
            .args(["settle", "--timeout=5"])
            .stderr(Stdio::null())
            .status();
    }
}

/// How long another fmapctl may change drivers.
const PATIENCE: Duration = Duration::from_secs(300);

/// Nobody but this process changes the drivers of devices, as far as fmapctl goes.
fn lock() -> Result<rustix::fd::OwnedFd, String> {
    let path = record::dir()?.join("lock");
    let failed = |error: Errno| format!("{}: {}", path.display(), reason(&error.into()));
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let begin = Instant::now();
    let mut told = false;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if begin.elapsed() < PATIENCE => (),
            Err(Errno::WOULDBLOCK) => {
                return Err(format!(
                    "another fmapctl has been changing the driver of a device for {} s: try again \
                     when it has ended",
                    PATIENCE.as_secs()
                ));
            }
            Err(error) => return Err(failed(error)),
        }
        if begin.elapsed() > Duration::from_secs(3) && !std::mem::replace(&mut told, true) {
            output::tell("waiting for another fmapctl, which changes the driver of a device");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The device that a user means: by its name, its node, a link to that, or its id.
fn find(named: &str) -> Result<Device, String> {
    let all = device::present();
    let name = match is_id(named) {
        true => None,
        false if named.contains('/') => {
            let path = Path::new(named);
            fs::metadata(path).map_err(|error| format!("{named}: {}", reason(&error)))?;
            let name = device::name_of(path);
            Some(name.ok_or_else(|| format!("{named} is no DAX device"))?)
        }
        false => Some(named.to_owned()),
    };
    let is_it = |device: &&Device| match &name {
        Some(name) => device.name == *name,
        None => device.id.as_deref() == Some(named),
    };
    all.iter().find(is_it).cloned().ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|device| device.name.as_str()).collect();
        match names.is_empty() {
            true => format!(
                "there is no DAX device {named}, nor any other: `ndctl create-namespace -m devdax` \
                 makes one of an NVDIMM, `cxl create-region` one of CXL memory"
            ),
            false => format!(
                "there is no DAX device {named} (but {}), see `fmapctl devices`",
                names.join(", ")
            ),
        }
    })
}

/// Fails if a mount or a program uses a device.
fn check_unused(device: &Device, driver: Driver) -> Result<(), String> {
    if let Some(holder) = known_holder(&device.name)? {
        return Err(format!(
            "it is used by {}: unmount that first (umount {})",
            holder.in_words(),
            holder.place()
        ));
    }
    // To have a node of the other drivers open means nothing.
    if driver == Driver::DeviceDax {
        let seen = process::openers(device);
        let node = device.node();
        match (seen.found.as_slice(), seen.silent.as_slice()) {
            ([], []) => (),
            ([], silent) => {
                return Err(format!(
                    "{} does not tell whether it has {} mapped, as it hangs: end that first",
                    named(silent, 3),
                    node.display()
                ));
            }
            (openers, _) => {
                return Err(format!(
                    "{} has {} open: end that first",
                    named(openers, 3),
                    node.display()
                ));
            }
        }
    }
    Ok(())
}

fn slot(device: &Device) -> Slot {
    Slot {
        name: device.name.clone(),
        dir: device.dir.clone(),
    }
}

fn give(
    device: &Device,
    from: Option<Driver>,
    to: Driver,
    patience: Duration,
) -> Result<(), String> {
    let slot = slot(device);
    let taken = match from {
        Some(Driver::Kmem) => {
            let node = device.target_node();
            Some(memory::take(&slot, &device.ranges, node, patience)?)
        }
        _ => None,
    };
    let restore = |message: String| {
        let left = taken.as_ref().and_then(|taken| taken.restore(&slot).err());
        match left {
            Some(left) => format!("{message}; {left}"),
            None => message,
        }
    };
    // A signal must not end this process while the device has no driver.
    let _interrupt = Interrupt::new().map_err(restore)?;
    if let Some(from) = from {
        from.detach(&slot, patience).map_err(restore)?;
    }
    let Err(message) = to.attach(&slot) else {
        return Ok(());
    };
    Err(match from {
        None => format!("{message}; it has no driver, as before (the kernel log may say why)"),
        Some(from) => match from.attach(&slot) {
            Ok(()) => restore(format!(
                "{message} (the kernel log may say why); it is bound to {from} again, as before"
            )),
            Err(again) => format!(
                "{message}; it has no driver now, as {again} either (the kernel log may say why)"
            ),
        },
    })
}

/// What there is to say of a device that a driver has.
fn state(device: &Device, driver: Driver) -> String {
    if driver != Driver::Kmem {
        return String::new();
    }
    match memory::count(&device.ranges) {
        Ok(blocks) if blocks.online == 0 => format!(
            " (none of its {} blocks of memory is online: daxctl online-memory {})",
            blocks.all, device.name
        ),
        Ok(blocks) => format!(
            " ({} of its {} blocks of memory are online)",
            blocks.online, blocks.all
        ),
        Err(_) => String::new(),
    }
}
