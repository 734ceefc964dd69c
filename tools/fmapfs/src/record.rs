// SPDX-License-Identifier: GPL-2.0
//! The record: where each file has been put, so that it stays there.
//!
//! A manifest says "64 MiB, somewhere on these devices"; the record says where that is.
//! It lies beside the manifest (`files.toml.layout`), and the two belong together: they
//! may be moved or copied together, under any name of the directory.
//!
//! ```text
//!  lock ----> place (layout.rs) ----> save: new space is `new` ----> zeros (zero.rs)
//!                                                                     |
//!  unlock <---- save: times <---- mounted, times change <---- save: nothing is `new`
//! ```
//!
//! * Space is recorded as `new` before it is zeroed; a server that finds the mark, after a
//!   crash, zeroes it again.
//! * A save is a new file, synced, that takes the name of the old one: a reader without
//!   the lock finds one or the other. The new file is locked before it has the name, so
//!   the lock goes with the name.
//! * Its directory is opened once: it may belong to another user, and that user can put something
//!   else under its name.
//! * The text carries a checksum. A record that is damaged, foreign or newer than this program
//!   is an error: without it, files would lose their places.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File as OsFile, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fmap_host::mountinfo;
use fuse_dax_fmap::striped::{Extent, Strip};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::Deserialize;
use toml::Spanned;

use crate::manifest::Lines;
use crate::mount::KIND;
use crate::say::say;

const FORMAT: &str = "fmapfs record";
const VERSION: i64 = 1;
const CHECKSUM: &str = "\nchecksum = \"";

/// What is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub devices: Vec<Device>,
    pub files: Vec<File>,
    /// By path, of files and directories; the path of the root is empty.
    pub times: BTreeMap<String, Times>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    /// The path at the last mount.
    pub path: PathBuf,
    /// The id, see [`crate::device`].
    pub id: Option<String>,
}

/// A file and all the space that belongs to it, which may be more than it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: String,
    pub size: u64,
    pub space: Space,
    /// In file order. Devices are indices into those of the record.
    pub pieces: Vec<Piece>,
    /// The line of the record that describes it; not a part of the record.
    pub line: usize,
}

/// How the space of a file was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// By fmapfs.
    Found,
    /// The manifest did.
    Named,
    /// By the manifest, and other shared files may have it too.
    Shared,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub extent: Extent,
    /// It has not been zeroed completely.
    pub new: bool,
}

impl Piece {
    /// Returns true if all of it is on the first `devices` devices.
    fn is_on(&self, devices: usize) -> bool {
        let mut strips = self.extent.strips.iter();
        strips.all(|strip| (strip.device as usize) < devices)
    }
}

/// Seconds and nanoseconds.
pub type Time = (i64, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
}

impl Record {
    /// The space to be zeroed on the first `devices` devices: device, first byte, number of
    /// bytes.
    ///
    /// A file that is gone may have more of it elsewhere.
    pub fn new_space(&self, devices: usize) -> Vec<(u32, u64, u64)> {
        let pieces = self.files.iter().flat_map(|file| &file.pieces);
        let new = pieces.filter(|piece| piece.new && piece.is_on(devices));
        let strips = |Piece { extent, .. }: &Piece| {
            let length = extent.strip_length().unwrap_or_default();
            let strips = extent.strips.clone().into_iter();
            strips.map(move |strip| (strip.device, strip.offset, length))
        };
        new.flat_map(strips).collect()
    }

    /// Marks that space as zeroed, and merges pieces that are adjacent.
    pub fn zeroed(&mut self, devices: usize) {
        for file in &mut self.files {
            for piece in &mut file.pieces {
                piece.new &= !piece.is_on(devices);
            }
            if file.pieces.iter().any(|piece| piece.new) {
                continue;
            }
            let extents = merged(file.pieces.iter().map(|piece| &piece.extent));
            let old = |extent| Piece { extent, new: false };
            file.pieces = extents.into_iter().map(old).collect();
        }
    }

    /// The text of the record of a manifest.
    fn text(&self, of: &str) -> String {
        let mut body = String::new();
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        for device in &self.devices {
            body += &format!("\n[[device]]\nname = {}\n", quoted(&device.name));
            body += &format!("path = {}\n", quoted(&device.path.to_string_lossy()));
            if let Some(id) = &device.id {
                body += &format!("id = {}\n", quoted(id));
            }
        }
        for file in &self.files {
            let space = match file.space {
                Space::Found => "found",
                Space::Named => "named",
                Space::Shared => "shared",
            };
            body += &format!("\n[[file]]\npath = {}\n", quoted(&file.path));
            body += &format!("size = {}\nspace = \"{space}\"\n", file.size);
            for piece in &file.pieces {
                let Extent {
                    length,
                    chunk,
                    strips,
                    ..
                } = &piece.extent;
                body += &format!("[[file.extent]]\nlength = {length}\n");
                if *chunk != 0 {
                    body += &format!("chunk = {chunk}\n");
                }
                if piece.new {
                    body += "new = true\n";
                }
                let one = |strip: &Strip| {
                    let name = quoted(&self.devices[strip.device as usize].name);
                    format!("{{ device = {name}, offset = {} }}", strip.offset)
                };
                let strips: Vec<_> = strips.iter().map(one).collect();
                body += &format!("strips = [{}]\n", strips.join(", "));
            }
        }
        for (path, times) in &self.times {
            body += &format!("\n[[times]]\npath = {}\n", quoted(path));
            let all = [
                ("atime", times.atime),
                ("mtime", times.mtime),
                ("ctime", times.ctime),
            ];
            for (name, (seconds, nanoseconds)) in all {
                body += &format!("{name} = [{seconds}, {nanoseconds}]\n");
            }
        }

        let sum = crc32fast::hash(body.as_bytes());
        format!(
            "# Where fmapfs has put the files of {of}: they stay there, whatever is changed in\n\
             # the manifest. Keep the two together. fmapfs writes this file, and refuses it if\n\
             # the checksum says that somebody else did.\n\
             format = \"{FORMAT}\"\n\
             version = {VERSION}\
             {CHECKSUM}{sum:08x}\"\n{body}"
        )
    }

    /// Parses the output of [`Record::text`].
    fn parse(text: &str) -> Result<Self, String> {
        const NONE: &str = "is no record of fmapfs, or only the beginning of one; move it away, \
                            or name another place with --record";
        let (head, rest) = text.split_once(CHECKSUM).unwrap_or((text, ""));
        let head: RawHead = toml::from_str(head).map_err(|_| NONE)?;
        if head.format != FORMAT {
            return Err(NONE.to_owned());
        }
        if head.version != VERSION {
            return Err(format!(
                "has version {}, and this fmapfs knows version {VERSION} only",
                head.version
            ));
        }
        let (sum, body) = rest.split_once("\"\n").ok_or(NONE)?;
        if sum != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
            return Err(
                "is damaged, or somebody has changed it: bring back a good copy, or move it \
                 away to have all files placed anew, with zeros in them"
                    .to_owned(),
            );
        }

        let lines = Lines::new(text);
        let raw: RawRecord = toml::from_str(text)
            .map_err(|error| format!("is not understood: {}", error.message()))?;
        raw.cooked(&lines)
            .ok_or_else(|| "contradicts itself".to_owned())
    }
}

/// Extents of a file, with adjacent ones merged.
pub fn merged<'a>(extents: impl Iterator<Item = &'a Extent>) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    for extent in extents {
        let mut extent = extent.clone();
        if extent.strips.len() == 1 {
            extent.chunk = 0;
        }
        if let Some(last) = all.last_mut() {
            let strip = last.strip_length().unwrap_or_default();
            let goes_on = |(a, b): (&Strip, &Strip)| {
                a.device == b.device && a.offset.checked_add(strip) == Some(b.offset)
            };
            let whole = strip.checked_mul(last.strips.len() as u64) == Some(last.length);
            let together = last.length.checked_add(extent.length);
            if let (true, Some(length)) = (whole && last.chunk == extent.chunk, together) {
                if last.strips.len() == extent.strips.len()
                    && last.strips.iter().zip(&extent.strips).all(goes_on)
                {
                    last.length = length;
                    continue;
                }
            }
        }
        all.push(extent);
    }
    all
}

#[derive(Deserialize)]
struct RawHead {
    format: String,
    version: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecord {
    #[serde(rename = "format")]
    _format: String,
    #[serde(rename = "version")]
    _version: i64,
    #[serde(rename = "checksum")]
    _checksum: String,
    #[serde(default)]
    device: Vec<RawDevice>,
    #[serde(default)]
    file: Vec<RawFile>,
    #[serde(default)]
    times: Vec<RawTimes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    name: String,
    path: PathBuf,
    id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: Spanned<String>,
    size: u64,
    space: Space,
    #[serde(default)]
    extent: Vec<RawExtent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExtent {
    length: u64,
    #[serde(default)]
    chunk: u64,
    #[serde(default)]
    new: bool,
    strips: Vec<RawStrip>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStrip {
    device: String,
    offset: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTimes {
    path: String,
    atime: Time,
    mtime: Time,
    ctime: Time,
}

impl RawRecord {
    /// None if a name is not defined, or the numbers make no extents.
    fn cooked(self, lines: &Lines) -> Option<Record> {
        let mut record = Record::default();
        for RawDevice { name, path, id } in self.device {
            if record.devices.iter().any(|other| other.name == name) {
                return None;
            }
            record.devices.push(Device { name, path, id });
        }
        for raw in self.file {
            let mut pieces = Vec::new();
            for raw in raw.extent {
                let mut strips = Vec::new();
                for RawStrip { device, offset } in raw.strips {
                    let at = record
                        .devices
                        .iter()
                        .position(|other| other.name == device)?;
                    let device = at as u32;
                    strips.push(Strip::new(device, offset));
                }
                if raw.length == 0 || (raw.chunk == 0) && strips.len() != 1 {
                    return None;
                }
                let extent = Extent::interleaved(raw.length, raw.chunk, strips);
                extent.strip_length()?;
                pieces.push(Piece {
                    extent,
                    new: raw.new,
                });
            }
            let lengths = pieces.iter().map(|piece| piece.extent.length);
            lengths
                .clone()
                .try_fold(0_u64, |sum, length| sum.checked_add(length))?;
            record.files.push(File {
                line: lines.of(&raw.path),
                path: raw.path.into_inner(),
                size: raw.size,
                space: raw.space,
                pieces,
            });
        }
        for raw in self.times {
            let times = Times {
                atime: raw.atime,
                mtime: raw.mtime,
                ctime: raw.ctime,
            };
            record.times.insert(raw.path, times);
        }
        Some(record)
    }
}

/// The default path of the record of a manifest.
pub fn beside(manifest: &Path) -> Result<PathBuf, String> {
    let shown = manifest.display();
    // A symbolic link and its target are one manifest.
    let whole = fs::canonicalize(manifest).map_err(|error| format!("{shown}: {error}"))?;
    let name = whole.file_name().filter(|_| whole.is_file());
    let Some(name) = name else {
        return Err(format!(
            "{shown} is no regular file, so its record has no place: name one with --record"
        ));
    };
    let mut name = name.to_owned();
    name.push(".layout");
    Ok(whole.with_file_name(name))
}

/// Reads a record without a lock; an empty one if there is none.
pub fn read(path: &Path) -> Result<Record, String> {
    match open(path, path)? {
        Some(file) => Ok(contents(path, file)?.1),
        None => Ok(Record::default()),
    }
}

/// Opens the record of a path, which is there.
fn open(path: &Path, there: &Path) -> Result<Option<OsFile>, String> {
    let failed = |error: io::Error| format!("the record {}: {error}", path.display());
    let opened = OpenOptions::new()
        .read(true)
        // Follow no symbolic link, and do not wait for a FIFO.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(there);
    match opened {
        Ok(file) if file.metadata().map_err(failed)?.is_file() => Ok(Some(file)),
        Ok(_) => Err(format!("the record {} is no regular file", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            Err(format!("the record {} is a symbolic link", path.display()))
        }
        Err(error) => Err(failed(error)),
    }
}

fn contents(path: &Path, mut file: OsFile) -> Result<(String, Record), String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error| format!("the record {shown}: {error}"))?;
    // Bytes that are not UTF-8 fail by the checksum.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let record = Record::parse(&text).map_err(|message| format!("the record {shown} {message}"))?;
    Ok((text, record))
}

/// The place of a record, locked; there may be no record yet.
#[derive(Debug)]
pub struct Store {
    /// For messages.
    path: PathBuf,
    dir: OwnedFd,
    name: OsString,
    /// Name of the manifest, for readers of the record.
    of: String,
    /// The file that has the name, with the lock on it.
    locked: Option<OsFile>,
    /// The contents of that file.
    text: String,
}

impl Store {
    /// Locks the record of a manifest. Waits a while, as a server that has it may be about to
    /// end.
    pub fn lock(path: &Path, manifest: &Path) -> Result<(Self, Record), String> {
        let of = manifest.file_name().unwrap_or_default().to_string_lossy();
        let above = match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => above,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(above, flags, Mode::empty())
            .map_err(|error| not_written(path, &error.into()))?;
        let mut store = Self {
            path: path.to_owned(),
            dir,
            name: path.file_name().unwrap_or_default().to_owned(),
            of: of.chars().filter(|c| !c.is_control()).collect(),
            locked: None,
            text: String::new(),
        };
        let begin = Instant::now();
        loop {
            let Some(file) = open(path, &store.there())? else {
                return Ok((store, Record::default()));
            };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                if begin.elapsed() > patience() {
                    return Err(format!(
                        "the record {} is in use{}: this manifest is mounted already",
                        path.display(),
                        holder(&file)
                    ));
                }
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            // It may have lost its name before it was locked.
            let there = fs::symlink_metadata(store.there());
            let same = there.ok().zip(file.metadata().ok());
            if same.is_some_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino())) {
                let copy = file
                    .try_clone()
                    .map_err(|error| format!("the record {}: {error}", path.display()))?;
                let (text, record) = contents(path, copy)?;
                store.text = text;
                store.locked = Some(file);
                return Ok((store, record));
            }
        }
    }

    /// Writes the record to the disk, if it has changed.
    pub fn save(&mut self, record: &Record) -> Result<(), String> {
        let text = record.text(&self.of);
        if self.locked.is_some() && text == self.text {
            return Ok(());
        }
        match self.replace(&text) {
            Ok(file) => {
                self.locked = Some(file);
                self.text = text;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(format!(
                "the record {} has just been made by another fmapfs",
                self.path.display()
            )),
            Err(error) => Err(not_written(&self.path, &error)),
        }
    }

    fn dir(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.dir.as_raw_fd().to_string())
    }

    fn there(&self) -> PathBuf {
        self.dir().join(&self.name)
    }

    fn replace(&self, text: &str) -> io::Result<OsFile> {
        let dir = self.dir();
        let mut file = tempfile::Builder::new()
            .prefix(".fmapfs-")
            .tempfile_in(&dir)
            // Without the temporary name, which would not help the user.
            .map_err(|error| io::Error::from(error.kind()))?;
        if let Some(old) = &self.locked {
            // It is no program: another user may have chosen the mode of what becomes root's file.
            let mode = old.metadata()?.mode() & 0o666;
            let permissions = PermissionsExt::from_mode(mode);
            file.as_file().set_permissions(permissions)?;
        }
        rustix::fs::flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        let file = match self.locked {
            Some(_) => file.persist(self.there()),
            None => file.persist_noclobber(self.there()),
        }
        .map_err(|error| error.error)?;
        OsFile::open(dir)?.sync_all()?;
        Ok(file)
    }
}

fn not_written(path: &Path, error: &io::Error) -> String {
    format!(
        "cannot write the record {}: {error}; --record names another place for it",
        path.display()
    )
}

/// How long to wait for a record: a server that was unmounted a moment ago still has to save
/// it. If nothing is mounted, that is the only possible holder.
fn patience() -> Duration {
    let mounts = mountinfo::mounts().unwrap_or_default();
    match mounts.iter().any(|mount| mount.kind == KIND) {
        true => Duration::from_secs(1),
        false => Duration::from_secs(10),
    }
}

/// Half a sentence: which process has locked a file, as far as the system tells.
fn holder(file: &OsFile) -> String {
    let find = || {
        let inode = file.metadata().ok()?.ino();
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let line = locks
            .lines()
            .find(|line| line.contains(" FLOCK ") && line.contains(&format!(":{inode} ")))?;
        line.split_whitespace().nth(4)?.parse::<u32>().ok()
    };
    find().map_or(String::new(), |pid: u32| format!(" by process {pid}"))
}

/// The record of the mounted tree, shared by the threads that change times in it.
#[derive(Debug)]
pub struct Keeper {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    store: Store,
    record: Record,
    dirty: bool,
}

impl Keeper {
    /// Changes of times in this period may be lost in a crash.
    const DELAY: Duration = Duration::from_secs(1);

    pub fn new(store: Store, record: Record) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                store,
                record,
                dirty: false,
            }),
            changed: Condvar::new(),
        })
    }

    /// Starts a thread that saves changes, each after `DELAY`.
    pub fn save_in_background(self: &Arc<Self>) {
        let keeper = Arc::clone(self);
        thread::spawn(move || {
            let mut told = false;
            loop {
                let mut state = keeper.state();
                while !state.dirty {
                    let waited = keeper.changed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
                drop(state);
                thread::sleep(Self::DELAY);
                if let Err(message) = keeper.save() {
                    // Report it once: a later save may succeed.
                    if !std::mem::replace(&mut told, true) {
                        say!("{message}");
                    }
                }
            }
        });
    }

    /// The times of a file or directory, if they are recorded.
    pub fn times(&self, path: &str) -> Option<Times> {
        self.state().record.times.get(path).copied()
    }

    /// Records the times of a file or directory.
    pub fn set_times(&self, path: &str, times: Times) {
        let mut state = self.state();
        if state.record.times.insert(path.to_owned(), times) != Some(times) {
            state.dirty = true;
            self.changed.notify_one();
        }
    }

    /// Forgets the times of paths that are neither in the tree nor recorded as files.
    pub fn keep_times_of(&self, in_tree: impl Fn(&str) -> bool) {
        let State { record, .. } = &mut *self.state();
        let files = &record.files;
        record
            .times
            .retain(|path, _| in_tree(path) || files.iter().any(|file| file.path == *path));
    }

    /// Saves the record, if it has changed.
    pub fn save(&self) -> Result<(), String> {
        let State {
            store,
            record,
            dirty,
        } = &mut *self.state();
        *dirty = false;
        store.save(record)
    }

    /// Records that new space on the first `devices` devices has been zeroed.
    pub fn zeroed(&self, devices: usize) -> Result<(), String> {
        self.state().record.zeroed(devices);
        self.save()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
