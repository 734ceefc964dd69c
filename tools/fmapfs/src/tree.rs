// SPDX-License-Identifier: GPL-2.0
//! The tree as FUSE sees it: everything about files but what is in them.
//!
//! The manifest decides which names there are, so nothing is created, removed or resized.
//! Mode and owner may be changed, which lasts until the unmount, and times, which are
//! recorded. Since only this kernel changes anything, it may cache all of it without
//! limit. This includes times: the kernel updates them on writes and stores, and sends
//! them to the server (FUSE_WRITEBACK_CACHE).
//!
//! There are also hidden files, which only the visitor can open, while the mount is apart
//! ([`claim`], [`zero`](crate::zero)).
//!
//! READ and WRITE fail: they arrive only when a file was not mapped, and then
//! there is no other way to its data.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuse_backend_rs::abi::fuse_abi::{FsOptions, OpenOptions, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use fuse_dax_fmap::{Errno, FileMaps, striped};

use crate::claim;
use crate::layout::Layout;
use crate::manifest::{Access, Error, Manifest};
use crate::record::{Keeper, Times};

/// The validity of names and attributes: without limit.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
const BLOCK: u64 = 4096;
const ROOT: u64 = 1;
/// The first hidden node; the others follow.
const HIDDEN: u64 = 1 << 32;
/// The most bytes of a hidden file; a file may be a little longer.
const LONGEST: u64 = 8 << 40;

/// Nodes are never removed, so the number of a node is its index plus one.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    devices: Vec<PathBuf>,
    capacity: u64,
    used: u64,
    /// The files that are in no directory: one for each device, the first page of it, and
    /// then the space that has to be zeroed.
    hidden: Vec<Node>,
    /// True once they cannot be found any more.
    hiding: AtomicBool,
    /// The devices that the kernel has asked for, by index.
    asked: AtomicU64,
    /// Records the times, if they are recorded.
    keeper: Option<Arc<Keeper>>,
}

#[derive(Debug)]
struct Node {
    parent: u64,
    /// The path from the root; that of the root is empty.
    path: String,
    /// The line that describes it; none for a directory that is only part of another
    /// path.
    line: Option<usize>,
    kind: Kind,
    attr: Mutex<Attr>,
}

#[derive(Debug)]
enum Kind {
    Dir(BTreeMap<String, u64>),
    File { size: u64, map: Vec<u8> },
}

/// What SETATTR may change. Times are seconds and nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Attr {
    access: Access,
    atime: (i64, i64),
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Attr {
    fn new(access: Access) -> Self {
        let now = now();
        Self {
            access,
            atime: now,
            mtime: now,
            ctime: now,
        }
    }
}

impl Attr {
    fn times(&self) -> Times {
        let time = |(seconds, nanoseconds)| (seconds, nanoseconds as u32);
        Times {
            atime: time(self.atime),
            mtime: time(self.mtime),
            ctime: time(self.ctime),
        }
    }

    fn set_times(&mut self, times: Times) {
        let time = |(seconds, nanoseconds)| (seconds, i64::from(nanoseconds));
        self.atime = time(times.atime);
        self.mtime = time(times.mtime);
        self.ctime = time(times.ctime);
    }
}

impl Tree {
    /// The tree of a manifest whose files are placed.
    pub fn new(manifest: Manifest, layout: Layout) -> Result<Self, Error> {
        let first_pages = (0..manifest.devices.len() as u32).map(|device| (device, 0, BLOCK));
        let new_space = layout.record.new_space(manifest.devices.len());
        let new_space = new_space.into_iter().flat_map(not_too_long);
        let hidden = first_pages.chain(new_space).map(|(device, start, length)| {
            let extent = striped::Extent::linear(length, device, start);
            let line = manifest.devices[device as usize].line;
            let map = striped::encode(length, &[extent])
                .map_err(|error| Error::new(line, error.to_string()))?;
            Ok(Node::hidden(length, map))
        });
        let hidden = hidden.collect::<Result<_, _>>()?;
        let mut tree = Self {
            nodes: vec![Node::dir(ROOT, String::new())],
            devices: manifest.devices.into_iter().map(|d| d.path).collect(),
            capacity: layout.capacity,
            used: layout.used,
            hidden,
            hiding: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            keeper: None,
        };

        for dir in manifest.dirs {
            let at = tree.walk(&dir.path, dir.line)?;
            let node = &mut tree.nodes[at as usize - 1];
            if let Some(line) = node.line {
                let path = dir.path.join("/");
                let message = format!("directory {path:?} is already in line {line}");
                return Err(Error::new(dir.line, message));
            }
            node.line = Some(dir.line);
            node.attr = Mutex::new(Attr::new(dir.access));
        }

        for (file, placement) in manifest.files.into_iter().zip(layout.files) {
            let Some((name, above)) = file.path.split_last() else {
                return Err(Error::new(file.line, "a file needs a name"));
            };
            let parent = tree.walk(above, file.line)?;
            let kind = Kind::File {
                size: file.size,
                map: placement.map,
            };
            let attr = Attr::new(file.access);
            let node = Node {
                parent,
                path: file.path.join("/"),
                line: Some(file.line),
                kind,
                attr: Mutex::new(attr),
            };
            tree.add(parent, name, node, file.line)?;
        }
        Ok(tree)
    }

    /// Takes the times that are recorded, and records the others, from now on.
    pub fn keep_times(&mut self, keeper: Arc<Keeper>) {
        for node in &self.nodes {
            let mut attr = node.attr();
            match keeper.times(&node.path) {
                Some(times) => attr.set_times(times),
                None => keeper.set_times(&node.path, attr.times()),
            }
        }
        let paths: HashSet<&str> = self.nodes.iter().map(|node| node.path.as_str()).collect();
        keeper.keep_times_of(|path| paths.contains(path));
        self.keeper = Some(keeper);
    }

    /// How many files there are.
    pub fn nr_files(&self) -> usize {
        let is_file = |node: &&Node| matches!(node.kind, Kind::File { .. });
        self.nodes.iter().filter(is_file).count()
    }

    /// Returns true if the kernel has asked for a device.
    pub fn has_asked_for(&self, device: usize) -> bool {
        self.asked.load(Ordering::Relaxed) & (1 << device) != 0
    }

    /// The names of the hidden files for new space.
    pub fn new_space(&self) -> impl Iterator<Item = String> {
        (self.devices.len()..self.hidden.len()).map(claim::name)
    }

    /// The size of that space.
    pub fn bytes_to_zero(&self) -> u64 {
        let new = self.hidden.iter().skip(self.devices.len());
        let size = |node: &Node| match node.kind {
            Kind::File { size, .. } => size,
            Kind::Dir(_) => 0,
        };
        new.map(size).fold(0, u64::saturating_add)
    }

    /// Makes the hidden files unreachable from here on, and returns their names.
    pub fn hide(&self) -> impl Iterator<Item = String> {
        self.hiding.store(true, Ordering::Relaxed);
        (0..self.hidden.len()).map(claim::name)
    }

    /// Returns the directory at `path`, and makes it if necessary.
    fn walk(&mut self, path: &[String], line: usize) -> Result<u64, Error> {
        let mut at = ROOT;
        for (depth, name) in path.iter().enumerate() {
            let Kind::Dir(children) = &self.nodes[at as usize - 1].kind else {
                unreachable!("walked into a file");
            };
            at = match children.get(name) {
                None => {
                    let node = Node::dir(at, path[..=depth].join("/"));
                    self.add(at, name, node, line)?
                }
                Some(&child) => {
                    let node = &self.nodes[child as usize - 1];
                    if let Kind::File { .. } = node.kind {
                        return Err(exists(name, node, line));
                    }
                    child
                }
            };
        }
        Ok(at)
    }

    fn add(&mut self, parent: u64, name: &str, node: Node, line: usize) -> Result<u64, Error> {
        let new = self.nodes.len() as u64 + 1;
        let Kind::Dir(children) = &mut self.nodes[parent as usize - 1].kind else {
            unreachable!("a parent is a directory");
        };
        if let Some(&other) = children.get(name) {
            return Err(exists(name, &self.nodes[other as usize - 1], line));
        }
        children.insert(name.to_owned(), new);
        self.nodes.push(node);
        Ok(new)
    }

    fn node(&self, nodeid: u64) -> io::Result<&Node> {
        let (nodes, first) = match nodeid {
            HIDDEN.. => (&self.hidden, HIDDEN),
            _ => (&self.nodes, ROOT),
        };
        let at = nodeid.checked_sub(first);
        at.and_then(|at| nodes.get(usize::try_from(at).ok()?))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    /// Looks up a hidden file.
    fn hidden(&self, parent: u64, name: &str) -> Option<io::Result<Entry>> {
        if parent != ROOT || self.hiding.load(Ordering::Relaxed) {
            return None;
        }
        let index = claim::index(name).filter(|&index| index < self.hidden.len())?;
        let found = self.entry(HIDDEN + index as u64).map(|entry| Entry {
            // No caching: each use looks it up.
            entry_timeout: Duration::ZERO,
            ..entry
        });
        Some(found)
    }

    fn children(&self, nodeid: u64) -> io::Result<&BTreeMap<String, u64>> {
        match &self.node(nodeid)?.kind {
            Kind::Dir(children) => Ok(children),
            Kind::File { .. } => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        }
    }

    fn stat(&self, nodeid: u64) -> io::Result<stat64> {
        let node = self.node(nodeid)?;
        let attr = *node.attr();
        // A `stat64` of zeroes.
        let mut stat = Entry::default().attr;
        let kind = match &node.kind {
            Kind::Dir(children) => {
                let is_dir = |&&child: &&u64| self.children(child).is_ok();
                stat.st_nlink = 2 + children.values().filter(is_dir).count() as u64;
                libc::S_IFDIR
            }
            Kind::File { size, .. } => {
                stat.st_nlink = 1;
                stat.st_size = *size as i64;
                stat.st_blocks = size.div_ceil(512) as i64;
                libc::S_IFREG
            }
        };
        stat.st_ino = nodeid;
        stat.st_mode = kind | attr.access.mode;
        stat.st_uid = attr.access.uid;
        stat.st_gid = attr.access.gid;
        stat.st_blksize = BLOCK as i64;
        (stat.st_atime, stat.st_atime_nsec) = attr.atime;
        (stat.st_mtime, stat.st_mtime_nsec) = attr.mtime;
        (stat.st_ctime, stat.st_ctime_nsec) = attr.ctime;
        Ok(stat)
    }

    fn entry(&self, nodeid: u64) -> io::Result<Entry> {
        Ok(Entry {
            inode: nodeid,
            attr: self.stat(nodeid)?,
            attr_timeout: FOREVER,
            entry_timeout: FOREVER,
            ..Entry::default()
        })
    }

    /// Lists a directory from the position `offset` on, until `add` has no space.
    fn list(
        &self,
        nodeid: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, bool) -> io::Result<usize>,
    ) -> io::Result<()> {
        let parent = self.node(nodeid)?.parent;
        let dots = [(".", nodeid), ("..", parent)].into_iter();
        let children = self.children(nodeid)?.iter();
        let names = dots
            .map(|(name, ino)| (name, ino, true))
            .chain(children.map(|(name, &ino)| (name.as_str(), ino, false)));

        for (at, (name, ino, dot)) in (1..).zip(names).skip(offset as usize) {
            let kind = match self.node(ino)?.kind {
                Kind::Dir(_) => libc::DT_DIR,
                Kind::File { .. } => libc::DT_REG,
            };
            let entry = DirEntry {
                ino,
                offset: at,
                type_: u32::from(kind),
                name: name.as_bytes(),
            };
            if add(entry, dot)? == 0 {
                break;
            }
        }
        Ok(())
    }
}

impl Node {
    fn dir(parent: u64, path: String) -> Self {
        let access = Access {
            mode: 0o755,
            uid: 0,
            gid: 0,
        };
        Self {
            parent,
            path,
            line: None,
            kind: Kind::Dir(BTreeMap::new()),
            attr: Mutex::new(Attr::new(access)),
        }
    }

    /// A file that is in no directory.
    fn hidden(size: u64, map: Vec<u8>) -> Self {
        let access = Access {
            mode: 0o600,
            uid: 0,
            gid: 0,
        };
        Self {
            parent: ROOT,
            path: String::new(),
            line: None,
            kind: Kind::File { size, map },
            attr: Mutex::new(Attr::new(access)),
        }
    }

    fn attr(&self) -> MutexGuard<'_, Attr> {
        // Plain values: a panic elsewhere cannot leave them inconsistent.
        self.attr.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileMaps for Tree {
    fn map(&self, nodeid: u64) -> Result<Cow<'_, [u8]>, Errno> {
        match &self.node(nodeid).map_err(|_| Errno::ENOENT)?.kind {
            Kind::File { map, .. } => Ok(Cow::Borrowed(map)),
            Kind::Dir(_) => Err(Errno::ENODATA),
        }
    }

    fn device(&self, index: u32) -> Result<Cow<'_, Path>, Errno> {
        let path = self.devices.get(index as usize).ok_or(Errno::ENODEV)?;
        self.asked.fetch_or(1 << index, Ordering::Relaxed);
        Ok(Cow::Borrowed(path))
    }
}

impl FileSystem for Tree {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, _capable: FsOptions) -> io::Result<FsOptions> {
        Ok(FsOptions::ASYNC_READ
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
            // The kernel keeps the times of files, and sends them.
            | FsOptions::WRITEBACK_CACHE
            // To tell an aborted connection from an unmounted one.
            | FsOptions::ABORT_ERROR)
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let children = self.children(parent)?;
        if let Some(found) = name
            .to_str()
            .ok()
            .and_then(|name| self.hidden(parent, name))
        {
            return found;
        }
        match name.to_str().ok().and_then(|name| children.get(name)) {
            Some(&child) => self.entry(child),
            // Inode 0: a negative entry, which stays valid.
            None => Ok(Entry {
                entry_timeout: FOREVER,
                ..Entry::default()
            }),
        }
    }

    fn getattr(&self, _: &Context, nodeid: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        Ok((self.stat(nodeid)?, FOREVER))
    }

    fn setattr(
        &self,
        _: &Context,
        nodeid: u64,
        new: stat64,
        _: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        if valid.contains(SetattrValid::SIZE) {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let node = self.node(nodeid)?;
        let mut attr = node.attr();
        let now = now();
        attr.ctime = match valid.contains(SetattrValid::CTIME) {
            true => (new.st_ctime, new.st_ctime_nsec),
            false => now,
        };
        if valid.contains(SetattrValid::MODE) {
            attr.access.mode = new.st_mode & 0o7777;
        }
        if valid.contains(SetattrValid::UID) {
            attr.access.uid = new.st_uid;
        }
        if valid.contains(SetattrValid::GID) {
            attr.access.gid = new.st_gid;
        }
        if valid.contains(SetattrValid::ATIME) {
            attr.atime = (new.st_atime, new.st_atime_nsec);
        }
        if valid.contains(SetattrValid::ATIME_NOW) {
            attr.atime = now;
        }
        if valid.contains(SetattrValid::MTIME) {
            attr.mtime = (new.st_mtime, new.st_mtime_nsec);
        }
        if valid.contains(SetattrValid::MTIME_NOW) {
            attr.mtime = now;
        }
        let times = attr.times();
        drop(attr);
        if let (Some(keeper), ..HIDDEN) = (&self.keeper, nodeid) {
            keeper.set_times(&node.path, times);
        }
        Ok((self.stat(nodeid)?, FOREVER))
    }

    fn open(
        &self,
        _: &Context,
        nodeid: u64,
        _flags: u32,
        _fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        self.node(nodeid)?;
        // Without it each open would invalidate what earlier faults have mapped.
        Ok((None, OpenOptions::KEEP_CACHE, None))
    }

    fn release(
        &self,
        _: &Context,
        _: u64,
        _flags: u32,
        _: u64,
        _flush: bool,
        _flock_release: bool,
        _lock_owner: Option<u64>,
    ) -> io::Result<()> {
        Ok(())
    }

    fn read(
        &self,
        _: &Context,
        _: u64,
        _: u64,
        _: &mut dyn ZeroCopyWriter,
        _size: u32,
        _offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    fn write(
        &self,
        _: &Context,
        _: u64,
        _: u64,
        _: &mut dyn ZeroCopyReader,
        _size: u32,
        _offset: u64,
        _lock_owner: Option<u64>,
        _delayed_write: bool,
        _flags: u32,
        _fuse_flags: u32,
    ) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    fn readdir(
        &self,
        _: &Context,
        nodeid: u64,
        _: u64,
        _size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list(nodeid, offset, &mut |entry, _| add(entry))
    }

    fn readdirplus(
        &self,
        _: &Context,
        nodeid: u64,
        _: u64,
        _size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list(nodeid, offset, &mut |entry, dot| {
            // The kernel looks "." and ".." up by itself: they come without a node.
            let node = match dot {
                true => Entry::default(),
                false => self.entry(entry.ino)?,
            };
            add(entry, node)
        })
    }

    fn releasedir(&self, _: &Context, _: u64, _flags: u32, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn statfs(&self, _: &Context, _: u64) -> io::Result<statvfs64> {
        // SAFETY: A structure of integers; all of them may be 0.
        let mut stat: statvfs64 = unsafe { std::mem::zeroed() };
        stat.f_bsize = BLOCK;
        stat.f_frsize = BLOCK;
        stat.f_blocks = self.capacity.max(self.used) / BLOCK;
        stat.f_bfree = self.capacity.saturating_sub(self.used) / BLOCK;
        stat.f_bavail = stat.f_bfree;
        stat.f_files = self.nodes.len() as u64;
        stat.f_namemax = 255;
        Ok(stat)
    }
}

/// Splits a range of a device into ranges that a hidden file can have.
fn not_too_long((device, start, length): (u32, u64, u64)) -> impl Iterator<Item = (u32, u64, u64)> {
    let starts = (0..length).step_by(LONGEST as usize);
    starts.map(move |done| (device, start + done, LONGEST.min(length - done)))
}

fn exists(name: &str, node: &Node, line: usize) -> Error {
    let kind = match node.kind {
        Kind::Dir(_) => "directory",
        Kind::File { .. } => "file",
    };
    let place = match node.line {
        Some(line) => format!(" (line {line})"),
        None => String::new(),
    };
    Error::new(line, format!("{name:?} is already a {kind}{place}"))
}

fn now() -> (i64, i64) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (now.as_secs() as i64, i64::from(now.subsec_nanos()))
}

#[cfg(test)]
mod tests;
