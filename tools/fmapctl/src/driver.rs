// SPDX-License-Identifier: GPL-2.0
//! The drivers of the dax bus, and how a device is given to one.
//!
//! A driver probes a device that has no driver, if it is for devices of that kind, or has the
//! device's name in its list of ids. Writing to `bind` probes one device, and fails if the driver
//! does. Writing to `new_id` adds a name to the list, and probes all devices of the bus that have
//! no driver; it succeeds whether or not that did anything, so only the link `driver` counts.
//!
//! A name stays in the list as long as the device is bound, as daxctl does it, and is removed
//! with that: otherwise the driver would take the device, or the next one of that name, at the
//! next occasion.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use fmap_host::reason::reason;
use rustix::io::Errno;

/// A driver that a device can be given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// Programs map the device itself
    #[value(name = "device_dax")]
    DeviceDax,
    /// File systems use it, and this module
    #[value(name = "fsdev_dax")]
    FsdevDax,
    /// The kernel uses it as system RAM
    #[value(name = "kmem")]
    Kmem,
}

impl Driver {
    pub const ALL: [Self; 3] = [Self::DeviceDax, Self::FsdevDax, Self::Kmem];

    /// As the bus calls it, which is also the name of its module.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeviceDax => "device_dax",
            Self::FsdevDax => "fsdev_dax",
            Self::Kmem => "kmem",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|driver| driver.name() == name)
    }

    fn dir(self) -> PathBuf {
        Path::new("/sys/bus/dax/drivers").join(self.name())
    }

    /// Loads its module, if it is not there.
    pub fn load(self) -> Result<(), String> {
        if self.dir().exists() {
            return Ok(());
        }
        let said = match Command::new("modprobe").arg(self.name()).output() {
            Ok(_) if self.dir().exists() => return Ok(()),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => format!("modprobe: {}", reason(&error)),
        };
        let said = match said.lines().next() {
            Some(line) => format!(" ({line})"),
            None => String::new(),
        };
        Err(format!(
            "this kernel has no driver {self}{said}: it needs its module, which the package of the \
             kernel has if CONFIG_{} is set",
            self.option()
        ))
    }

    fn option(self) -> &'static str {
        match self {
            Self::DeviceDax => "DEV_DAX",
            Self::FsdevDax => "DEV_DAX_FSDEV",
            Self::Kmem => "DEV_DAX_KMEM",
        }
    }

    /// Waits until this driver has probed a device to the end. In sysfs it is the device's driver
    /// from the beginning of the probe: some blocks of system RAM may be missing then, and would
    /// come online after this process has taken the others offline.
    pub fn settle(self, name: &str) {
        // The kernel waits for the lock of the device, and refuses, as it has a driver.
        let _ = write(&self.dir().join("bind"), name);
    }

    /// Binds a device that has no driver.
    pub fn attach(self, device: &Slot) -> Result<(), String> {
        let name = device.name.as_str();
        for other in Self::ALL.into_iter().filter(|other| *other != self) {
            other.forget(name);
        }
        let bind = self.dir().join("bind");
        let mut bound = match write_within(&bind, name, PATIENCE) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(format!(
                    "{self} has not taken it within {} s, for which the kernel goes on waiting: \
                     something may have its memory still since it was unbound (docs/operate.md, \
                     \"umount or unbind does not return\")",
                    PATIENCE.as_secs()
                ));
            }
            // Why not, another attempt says: nothing is waited for any more.
            Err(_) if device.driver().is_none() => write(&bind, name),
            bound => bound,
        };
        if matches!(&bound, Err(error) if error.raw_os_error() == Some(NODEV)) {
            // It is for devices of another kind, so it has to be told of this one.
            write(&self.dir().join("new_id"), name)
                .map_err(|error| format!("{self}/new_id: {}", reason(&error)))?;
            if device.driver().as_deref() != Some(self.name()) {
                bound = write(&bind, name);
            }
        }
        match (device.driver(), bound) {
            (Some(now), _) if now == self.name() => Ok(()),
            (Some(now), _) => Err(format!("the driver {now} has it now, and not {self}")),
            (None, bound) => {
                self.forget(name);
                Err(match bound {
                    Err(error) => format!("{self} did not take it: {}", reason(&error)),
                    Ok(()) => format!("{self} did not take it"),
                })
            }
        }
    }

    /// Unbinds a device. The caller has made sure that nothing there is in use, as far as can be
    /// known.
    pub fn detach(self, device: &Slot, time: Duration) -> Result<(), String> {
        // First: another program's new_id must not bring it back.
        self.forget(&device.name);
        let result = write_within(&self.dir().join("unbind"), &device.name, time);
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::TimedOut) {
            return Err(format!(
                "{self} has not let go of it within {} s, as something has its memory, such as a \
                 pipe, direct I/O, or what used a mount that is gone (docs/operate.md, \"umount or \
                 unbind does not return\"); nothing can stop the kernel, and it has no driver when \
                 that has ended",
                time.as_secs()
            ));
        }
        match (device.driver(), result) {
            (None, _) => Ok(()),
            (Some(now), Err(error)) => Err(format!(
                "it could not be unbound from {now}: {}",
                reason(&error)
            )),
            (Some(now), Ok(())) => Err(format!("the driver {now} has it, although it was unbound")),
        }
    }

    /// Removes a device from the list of ids.
    fn forget(self, name: &str) {
        // Nothing depends on it.
        let _ = write(&self.dir().join("remove_id"), name);
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How long a driver may take to get a device, which includes all memory of system RAM.
const PATIENCE: Duration = Duration::from_secs(300);

const NODEV: i32 = Errno::NODEV.raw_os_error();

/// A device of the bus.
pub struct Slot {
    pub name: String,
    /// Its directory in sysfs.
    pub dir: PathBuf,
}

impl Slot {
    /// The driver that it is bound to now.
    pub fn driver(&self) -> Option<String> {
        let to = fs::read_link(self.dir.join("driver")).ok()?;
        to.file_name()?.to_str().map(str::to_owned)
    }
}

/// Writes a word to a file of sysfs, once: a call that a signal ends is not repeated.
pub fn write(path: &Path, word: &str) -> io::Result<()> {
    use std::io::Write;

    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write(word.as_bytes()).map(drop)
}

/// The same by another process, which is left alone if it takes longer: before a driver lets go of
/// a device, the kernel waits until its memory is in no use, and no signal ends that wait.
fn write_within(path: &Path, word: &str, time: Duration) -> io::Result<()> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", r#"printf %s "$1" >"$2""#, "sh", word])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Signals from a terminal are for this process only.
        .process_group(0)
        .spawn()?;
    let begin = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(_) => return Err(io::Error::other("the kernel refuses")),
            None if begin.elapsed() > time => return Err(io::ErrorKind::TimedOut.into()),
            None => thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b");
        write_within(&path, "dax0.0", Duration::from_secs(60)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "dax0.0");
        assert!(write_within(&path.join("no"), "x", Duration::from_secs(60)).is_err());

        // To open a pipe for writing takes until there is a reader.
        let pipe = dir.path().join("pipe");
        assert!(
            Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        let error = write_within(&pipe, "x", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(fs::read_to_string(&pipe).unwrap(), "x");
    }

    #[test]
    fn names_lead_back() {
        for driver in Driver::ALL {
            assert_eq!(Driver::from_name(driver.name()), Some(driver));
            assert_eq!(
                <Driver as ValueEnum>::from_str(driver.name(), false),
                Ok(driver)
            );
        }
        assert_eq!(Driver::from_name("cxl"), None);
    }
}
