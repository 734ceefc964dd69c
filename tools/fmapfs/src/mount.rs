// SPDX-License-Identifier: GPL-2.0
//! The mount itself: made apart from the tree of directories, attached to it when all is
//! well, and unmounted; no other mount is touched.
//!
//! ```text
//!   Apart ----------- attach() ----> Attached ----- unmount() ----> nothing
//!   reached by its descriptor,       known by its id, wherever
//!   gone when that is closed         it is moved
//! ```
//!
//! A path leads to the topmost mount. So before anything is unmounted, mountinfo tells
//! which mount is that of fmapfs, and if others are in its way; those are left alone. A directory
//! above the mount may belong to another user, and be renamed and replaced at any time: so a
//! mount is attached to a directory that was opened when it was checked, and unmounted by its
//! name in a directory that is open.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fmap_host::mountinfo::{self, Number};
use fmap_host::process;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MoveMountFlags,
    UnmountFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string,
};

use crate::options::Options;

/// The file system type of the mounts of fmapfs.
pub const KIND: &str = "fuse.fmapfs";

/// How long the server of another mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
const BRIEF: Duration = Duration::from_millis(500);

/// A directory that something can be mounted on.
#[derive(Debug)]
pub struct Place {
    /// Its path without links.
    pub path: PathBuf,
    dir: OwnedFd,
}

/// A mount that is on no directory yet.
pub struct Apart {
    mount: OwnedFd,
    read_only: bool,
}

/// Opens a connection, and mounts it apart. The kernel has sent INIT then.
pub fn new(source: &Path, options: &Options) -> Result<(File, Apart), String> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => "/dev/fuse is not there: modprobe fuse".to_owned(),
            _ => format!("/dev/fuse: {error}"),
        })?;
    let mount = make(&device, source, options).map_err(|error| match error {
        Errno::PERM | Errno::ACCESS => "only root can mount file maps".to_owned(),
        error => format!("the kernel does not mount it: {error}"),
    })?;
    let read_only = options.read_only;
    Ok((device, Apart { mount, read_only }))
}

fn make(device: &File, source: &Path, options: &Options) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = &context;
    let fd = device.as_raw_fd().to_string();
    // The kernel takes no more than 255 bytes.
    let source = match source.as_os_str().len() {
        ..256 => source,
        _ => Path::new("fmapfs"),
    };
    fsconfig_set_string(context, "source", source)?;
    for (key, value) in [
        ("subtype", "fmapfs"),
        ("fd", fd.as_str()),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        fsconfig_set_string(context, key, value)?;
    }
    for (key, wanted) in [
        ("default_permissions", true),
        ("allow_other", true),
        ("sync", options.sync),
        ("dirsync", options.dirsync),
        ("lazytime", options.lazytime),
    ] {
        if wanted {
            fsconfig_set_flag(context, key)?;
        }
    }
    fsconfig_create(context)?;
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, options.attributes)
}

impl Apart {
    /// Its root directory.
    pub fn root(&self) -> &OwnedFd {
        &self.mount
    }

    /// Puts it on a directory.
    pub fn attach(self, place: Place) -> Result<Attached, String> {
        let failed = |error| format!("cannot mount on {}: {error}", place.path.display());
        if self.read_only {
            // Not before, as new space in it has to be zeroed.
            let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
            rustix::mount::fspick(&self.mount, "", flags)
                .and_then(|context| {
                    fsconfig_set_flag(&context, "ro")?;
                    fsconfig_reconfigure(&context)
                })
                .map_err(failed)?;
        }
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let statx = rustix::fs::statx(&self.mount, "", flags, StatxFlags::MNT_ID);
        let statx = statx.map_err(failed)?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&self.mount, "", &place.dir, "", flags).map_err(failed)?;
        Ok(Attached {
            id: statx.stx_mnt_id,
            number: Number::of(&statx),
        })
    }
}

/// A mount that is on some directory, or was.
#[derive(Clone, Copy, Debug)]
pub struct Attached {
    id: u64,
    number: Number,
}

/// What became of an attempt to unmount.
#[derive(Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// It is gone from the tree, and not used; or was before.
    Whole(Option<String>),
    /// It is gone from the tree, but in use, as it says.
    Detached(String),
    /// Nothing was done: something is in the way, as it says.
    InTheWay(String),
    Failed(String),
}

impl Attached {
    /// Its line in a table of mounts.
    fn find<'a>(&self, table: &'a [mountinfo::Mount]) -> Option<&'a mountinfo::Mount> {
        let mut lines = table.iter();
        // The id of a mount is reused; the number of a superblock is not, while its
        // connection exists.
        lines.find(|mount| mount.id == self.id && mount.number == self.number)
    }

    pub fn is_there(&self) -> bool {
        mountinfo::mounts().is_ok_and(|table| self.find(&table).is_some())
    }

    /// The mount on top of this one, or the one that its path leads to instead.
    fn in_the_way(&self, own: &mountinfo::Mount, table: &[mountinfo::Mount]) -> Option<String> {
        let above = table.iter().filter(|mount| mount.on == self.id);
        let above: Vec<_> = above.map(mountinfo::Mount::to_string).collect();
        if !above.is_empty() {
            return Some(above.join(", "));
        }
        match mountinfo::look_at(&own.place) {
            Ok(statx) if statx.stx_mnt_id == self.id => None,
            Ok(statx) => {
                let other = table.iter().find(|mount| mount.id == statx.stx_mnt_id);
                Some(other.map_or_else(|| "another mount".to_owned(), mountinfo::Mount::to_string))
            }
            Err(error) => Some(format!("{}: {error}", own.place.display())),
        }
    }

    /// Unmounts this mount and no other. While it is in use it is detached.
    pub fn unmount(&self) -> Unmounted {
        let look = || {
            let table = match mountinfo::mounts() {
                Ok(table) => table,
                Err(message) => return Err(Unmounted::Failed(message)),
            };
            let Some(own) = self.find(&table) else {
                return Err(Unmounted::Whole(None));
            };
            match self.in_the_way(own, &table) {
                Some(what) => Err(Unmounted::InTheWay(format!(
                    "{} stays mounted as long as something lies on it: {what}",
                    own.place.display()
                ))),
                None => Ok(own.place.clone()),
            }
        };
        let attempt = |flags| match look() {
            Ok(place) => match take_away(&place, self.id, flags) {
                Ok(()) => Ok(place),
                Err(Errno::BUSY) => Err(None),
                Err(error) => Err(Some(Unmounted::Failed(format!(
                    "{}: {error}",
                    place.display()
                )))),
            },
            Err(unmounted) => Err(Some(unmounted)),
        };
        match attempt(UnmountFlags::empty()) {
            Ok(_) => return Unmounted::Whole(self.elsewhere()),
            Err(Some(unmounted)) => return unmounted,
            Err(None) => (),
        }
        match attempt(UnmountFlags::DETACH) {
            Ok(place) => {
                let users = process::named(&process::users(self.number), 5);
                let shown = place.display();
                Unmounted::Detached(match users.as_str() {
                    "" => format!("{shown} is in use; detached, served until nobody uses it"),
                    users => format!(
                        "{shown} is in use by {users}; detached, served until nobody uses it"
                    ),
                })
            }
            Err(Some(unmounted)) => unmounted,
            Err(None) => Unmounted::Failed("the mount cannot be detached".to_owned()),
        }
    }

    /// Where the file system can still be reached, if anywhere.
    fn elsewhere(&self) -> Option<String> {
        let table = mountinfo::mounts().unwrap_or_default();
        let other = table.iter().find(|mount| mount.number == self.number)?;
        Some(format!(
            "{} has the same files, and is served until it is unmounted",
            other.place.display()
        ))
    }
}

/// Unmounts a mount, if its path still leads to it.
fn take_away(place: &Path, id: u64, flags: UnmountFlags) -> rustix::io::Result<()> {
    let (Some(above), Some(name)) = (place.parent(), place.file_name()) else {
        return Err(Errno::INVAL);
    };
    let above = rustix::fs::open(
        above,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let look = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    if rustix::fs::statx(&above, name, look, StatxFlags::MNT_ID)?.stx_mnt_id != id {
        return Err(Errno::NOENT);
    }
    // A name that something is mounted on cannot be given to anything else.
    let place = Path::new("/proc/self/fd")
        .join(above.as_raw_fd().to_string())
        .join(name);
    rustix::mount::unmount(&place, flags | UnmountFlags::NOFOLLOW)
}

/// Takes away mounts of fmapfs whose server has ended, and no other: nothing can be mounted on one.
pub fn unmount_dead(path: &Path) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", path.display());
    loop {
        let statx = match mountinfo::look_at(path) {
            Err(Errno::NOENT) => return Ok(()),
            statx => statx.map_err(failed)?,
        };
        let table = mountinfo::mounts()?;
        let Some(mount) = table.iter().find(|mount| mount.id == statx.stx_mnt_id) else {
            return Ok(());
        };
        let is_root = statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        if !is_root || mount.kind != KIND || !is_dead(path, PATIENCE) {
            return Ok(());
        }
        take_away(&mount.place, mount.id, UnmountFlags::DETACH).map_err(failed)?;
    }
}

/// Returns true if a mount has no server. A process that has its connection open tells nothing: the
/// number may have been that of an earlier mount, whose server has not ended yet.
fn is_dead(place: &Path, patience: Duration) -> bool {
    ask(place, patience).is_some_and(|said| dead(&said))
}

/// Has the server of a mount look at its root, as cached attributes outlive it; `None` if it does
/// not answer in time.
fn ask(place: &Path, patience: Duration) -> Option<rustix::io::Result<()>> {
    let (tell, told) = mpsc::channel();
    let place = place.to_owned();
    // If the server hangs, so does this thread, until the process ends.
    thread::spawn(move || {
        let flags = AtFlags::STATX_FORCE_SYNC | AtFlags::NO_AUTOMOUNT;
        let asked = rustix::fs::statx(CWD, &place, flags, StatxFlags::BASIC_STATS);
        let _ = tell.send(asked.map(drop));
    });
    told.recv_timeout(patience).ok()
}

/// Returns true if a server has not answered because there is none.
fn dead(said: &rustix::io::Result<()>) -> bool {
    matches!(said, Err(Errno::NOTCONN | Errno::CONNABORTED))
}

/// Waits for changes of the mount table.
pub struct Changes(File);

impl Changes {
    /// Changes from here on.
    pub fn new() -> Result<Self, String> {
        let file = File::open("/proc/self/mountinfo");
        file.map(Self)
            .map_err(|error| format!("/proc/self/mountinfo: {error}"))
    }

    pub fn wait(&self) {
        let mut polled = [PollFd::new(&self.0, PollFlags::PRI)];
        let _ = rustix::event::poll(&mut polled, None);
    }
}

/// Checks that something can be mounted on a directory, and opens it. No server of another mount is
/// waited for, which may hang.
pub fn check_place(path: &Path, nonempty: bool) -> Result<Place, String> {
    // This sends no request to a dead server.
    let place = fs::canonicalize(path).or_else(|error| match error.kind() {
        ErrorKind::NotConnected => std::path::absolute(path),
        _ => Err(error),
    });
    let path = place.map_err(|error| format!("{}: {error}", path.display()))?;
    let shown = path.display();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&path, flags, Mode::empty())
        .map_err(|error| format!("{shown}: {error}"))?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let wanted = StatxFlags::MNT_ID | StatxFlags::TYPE;
    let statx =
        rustix::fs::statx(&dir, "", flags, wanted).map_err(|error| format!("{shown}: {error}"))?;
    let is_root = statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    let table = mountinfo::mounts()?;
    let mount = table.iter().find(|mount| mount.id == statx.stx_mnt_id);
    if is_root && mount.is_some_and(|mount| mount.kind == "autofs") {
        // The automount waits for this mount, so an access would deadlock
        // (x-systemd.automount).
        return Ok(Place { path, dir });
    }
    if is_root {
        let what = mount.map_or_else(|| "something".to_owned(), mountinfo::Mount::to_string);
        let servers = process::named(&process::servers(Number::of(&statx)), 3);
        // One that serves it may hang, and is not waited for.
        let patience = if servers.is_empty() { PATIENCE } else { BRIEF };
        if is_dead(&path, patience) {
            return Err(
                match process::named(&process::users(Number::of(&statx)), 5).as_str() {
                    "" => {
                        format!("{what} is still there, but its server has ended: umount {shown}")
                    }
                    users => format!(
                        "{what} is still there, but its server has ended, and {users} uses it: \
                     umount -l {shown}"
                    ),
                },
            );
        }
        if !nonempty {
            return Err(match servers.as_str() {
                "" => format!("{shown} is a mount point already: {what}"),
                servers => format!("{shown} is a mount point already: {what}, served by {servers}"),
            });
        }
    }
    if FileType::from_raw_mode(statx.stx_mode.into()) != FileType::Directory {
        return Err(format!("{shown} is no directory"));
    }
    let mut entries = match nonempty {
        true => None,
        false => Some(fs::read_dir(&path).map_err(|error| format!("{shown}: {error}"))?),
    };
    if entries.as_mut().is_some_and(|all| all.next().is_some()) {
        return Err(format!(
            "{shown} is not empty: its files would be hidden (--nonempty allows that)"
        ));
    }
    Ok(Place { path, dir })
}

/// Changes the options of an existing mount.
pub fn remount(place: &Path, options: &Options) -> Result<(), String> {
    let shown = place.display();
    let statx = mountinfo::look_at(place).map_err(|error| format!("{shown}: {error}"))?;
    let table = mountinfo::mounts()?;
    let mount = table.iter().find(|mount| mount.id == statx.stx_mnt_id);
    let is_root = statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    if !mount.is_some_and(|mount| is_root && mount.kind == KIND) {
        return Err(format!("{shown} is no mount of fmapfs"));
    }
    rustix::mount::mount_remount(place, flags(options), "").map_err(|error| match error {
        Errno::BUSY => match process::named(&process::users(Number::of(&statx)), 5).as_str() {
            "" => format!("{shown}: a file is open for writing"),
            users => format!("{shown}: a file is open for writing; {users} uses it"),
        },
        Errno::PERM => "only root can remount it".to_owned(),
        error => format!("{shown}: {error}"),
    })
}

/// Options as mount(2) takes them.
fn flags(options: &Options) -> MountFlags {
    type A = MountAttrFlags;
    let has = |attribute| options.attributes.contains(attribute);
    let mut flags = MountFlags::empty();
    for (flag, wanted) in [
        (MountFlags::RDONLY, options.read_only),
        (MountFlags::SYNCHRONOUS, options.sync),
        (MountFlags::DIRSYNC, options.dirsync),
        (MountFlags::LAZYTIME, options.lazytime),
        (MountFlags::NOSUID, has(A::MOUNT_ATTR_NOSUID)),
        (MountFlags::NODEV, has(A::MOUNT_ATTR_NODEV)),
        (MountFlags::NOEXEC, has(A::MOUNT_ATTR_NOEXEC)),
        (MountFlags::NOSYMFOLLOW, has(A::MOUNT_ATTR_NOSYMFOLLOW)),
        (MountFlags::NODIRATIME, has(A::MOUNT_ATTR_NODIRATIME)),
        (MountFlags::NOATIME, has(A::MOUNT_ATTR_NOATIME)),
        (MountFlags::STRICTATIME, has(A::MOUNT_ATTR_STRICTATIME)),
    ] {
        flags.set(flag, wanted);
    }
    flags
}
