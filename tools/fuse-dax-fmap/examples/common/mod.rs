// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the examples have in common: the command line, the one file, and mount(2).

use std::borrow::Cow;
use std::error::Error;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use fuse_dax_fmap::{Errno, FileMaps, striped};
use rustix::mount::{MountFlags, UnmountFlags};

/// The root directory of every FUSE mount.
pub const ROOT: u64 = 1;
/// The one file, and its name.
pub const FILE: u64 = 2;
pub const NAME: &str = "file";

/// The first bytes of a DAX device, as a file.
pub struct OneFile {
    pub size: u64,
    device: PathBuf,
    map: Vec<u8>,
}

impl OneFile {
    /// Makes the map. Its only extent is as long as the file, in whole pages.
    fn new(device: PathBuf, size: u64) -> Result<Self, striped::Error> {
        let length = size.next_multiple_of(striped::ALIGN);
        let extents = [striped::Extent::linear(length, 0, 0)];
        let map = striped::encode(size, &extents)?;
        Ok(Self { size, device, map })
    }
}

impl FileMaps for OneFile {
    fn map(&self, nodeid: u64) -> Result<Cow<'_, [u8]>, Errno> {
        match nodeid {
            FILE => Ok(Cow::Borrowed(&self.map)),
            _ => Err(Errno::ENODATA),
        }
    }

    fn device(&self, index: u32) -> Result<Cow<'_, Path>, Errno> {
        match index {
            0 => Ok(Cow::Borrowed(&self.device)),
            _ => Err(Errno::ENODEV),
        }
    }
}

/// The file and the directory that the command line names.
pub fn arguments() -> Result<(OneFile, PathBuf), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(device), Some(size), Some(mountpoint)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err(
            "it takes three arguments: DEVICE, such as /dev/dax0.0, SIZE and DIRECTORY".into(),
        );
    };
    let size = size.to_string_lossy().parse()?;
    Ok((OneFile::new(device.into(), size)?, mountpoint.into()))
}

/// A mount of type fuse, and the device on which its requests arrive. The kernel offers maps only
/// to a task with CAP_SYS_RAWIO that mounts for itself: root, and not through fusermount3.
pub fn mount(mountpoint: &Path) -> Result<File, Box<dyn Error>> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")?;
    let (uid, gid) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let options = CString::new(format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid}",
        device.as_raw_fd()
    ))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("one_file", mountpoint, "fuse", flags, &*options)?;
    Ok(device)
}

/// Reads a request into `buffer`; `None` when the mount is gone.
pub fn read_request<'a>(
    mut device: &File,
    buffer: &'a mut [u8],
) -> io::Result<Option<&'a mut [u8]>> {
    loop {
        match device.read(buffer) {
            Ok(len) => return Ok(Some(&mut buffer[..len])),
            Err(error) => match rustix::io::Errno::from_io_error(&error) {
                Some(rustix::io::Errno::NODEV) => return Ok(None),
                // The request was interrupted before it was read.
                Some(rustix::io::Errno::NOENT | rustix::io::Errno::INTR) => (),
                _ => return Err(error),
            },
        }
    }
}

/// Sends a reply, which the kernel takes whole or not at all.
pub fn send(mut device: &File, reply: &[u8]) -> io::Result<()> {
    match device.write(reply) {
        // The task that made the request was killed meanwhile.
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT.get()) => Ok(()),
        sent => sent.map(drop),
    }
}

/// Removes what is left of a mount whose connection is gone, if anything is; says whether it was.
/// A mount that was unmounted has left nothing.
pub fn remove_dead(mountpoint: &Path) -> bool {
    use rustix::io::Errno;

    let dead = matches!(
        rustix::fs::statfs(mountpoint),
        Err(Errno::NOTCONN | Errno::CONNREFUSED | Errno::CONNABORTED)
    );
    dead && rustix::mount::unmount(mountpoint, UnmountFlags::DETACH).is_ok()
}

/// Longer than any request: 1 MiB, and its headers.
pub const BUFFER: usize = (1 << 20) + 4096;
