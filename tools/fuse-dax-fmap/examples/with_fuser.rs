// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same file as in `one_file.rs`, with fuser for all that is plain FUSE.
//!
//! fuser reads requests and writes replies by itself, so this server is between it and the
//! kernel: fuser has one end of a pair of sockets, and takes it for `/dev/fuse`. What fuser
//! answers to INIT and OPEN is changed on its way to the kernel.

mod common;

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use common::{BUFFER, FILE, NAME, OneFile, ROOT};
use fuse_dax_fmap::{Accepted, Intercepted, Offer, PendingOpen, Wanted, striped, unique};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, OpenFlags, ReplyAttr, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
    Session, SessionACL,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("with_fuser: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (file, mountpoint) = common::arguments()?;
    let device = common::mount(&mountpoint)?;
    let served = serve(&device, &file);
    drop(device);
    if common::remove_dead(&mountpoint) {
        served?;
        return Err("the kernel has ended the connection, and its log says why".into());
    }
    served
}

fn serve(device: &File, file: &OneFile) -> Result<(), Box<dyn Error>> {
    let (ours, theirs) = UnixDatagram::pair()?;
    let tree = Tree { size: file.size };
    thread::spawn(move || {
        // It returns when the pair is shut down, or never; nothing depends on it then.
        let session = Session::from_fd(tree, theirs.into(), SessionACL::All, Config::default());
        session.and_then(Session::run)
    });

    let mut buffer = vec![0; BUFFER];
    let Some(request) = common::read_request(device, &mut buffer)? else {
        return Ok(());
    };
    let accepted = start(device, &ours, request)?;
    // OPENs that fuser has not answered yet.
    let opens = Mutex::new(HashMap::new());
    thread::scope(|scope| {
        let replies = scope.spawn(|| pass_replies(device, &ours, &opens, file));
        let passed = pass_requests(device, &ours, &opens, file, &accepted, &mut buffer);
        ours.shutdown(Shutdown::Both)?;
        passed?;
        replies.join().unwrap_or(Ok(()))?;
        Ok(())
    })
}

/// Answers INIT, which comes first.
fn start(device: &File, fuser: &UnixDatagram, init: &[u8]) -> Result<Accepted, Box<dyn Error>> {
    let offer = Offer::of(init).ok_or("the first request is no INIT")?;
    let wanted = Wanted::ops(striped::OPS_NAME.parse()?).with_map_in_open();
    fuser.send(init)?;
    let mut reply = vec![0; BUFFER];
    let len = fuser.recv(&mut reply)?;
    reply.truncate(len);
    match offer.accept(&mut reply, &wanted) {
        Ok(accepted) => {
            common::send(device, &reply)?;
            Ok(accepted)
        }
        Err(refusal) => {
            common::send(device, &offer.refuse())?;
            Err(refusal.into())
        }
    }
}

type Opens = Mutex<HashMap<u64, PendingOpen>>;

/// From the kernel to fuser, until the mount is gone.
fn pass_requests(
    device: &File,
    fuser: &UnixDatagram,
    opens: &Opens,
    file: &OneFile,
    accepted: &Accepted,
    buffer: &mut [u8],
) -> io::Result<()> {
    while let Some(request) = common::read_request(device, buffer)? {
        match accepted.intercept(request, file) {
            Intercepted::Answer(reply) => {
                common::send(device, &reply)?;
                continue;
            }
            Intercepted::Open(open) => {
                let mut opens = opens.lock().unwrap_or_else(PoisonError::into_inner);
                opens.insert(unique(request), open);
            }
            _ => (),
        }
        fuser.send(request)?;
    }
    Ok(())
}

/// From fuser to the kernel. A reply has the number of its request where a request has its own.
fn pass_replies(
    device: &File,
    fuser: &UnixDatagram,
    opens: &Opens,
    file: &OneFile,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = fuser.recv(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let reply = &buffer[..len];
        let mut waiting = opens.lock().unwrap_or_else(PoisonError::into_inner);
        let open = waiting.remove(&unique(reply));
        drop(waiting);
        match open {
            Some(open) => {
                let mut reply = reply.to_vec();
                open.complete(&mut reply, file);
                common::send(device, &reply)?;
            }
            None => common::send(device, reply)?,
        }
    }
}

/// The directory and the file, as fuser sees them.
struct Tree {
    size: u64,
}

impl Tree {
    fn attributes(&self, nodeid: u64) -> FileAttr {
        let (size, kind, perm) = match nodeid {
            FILE => (self.size, FileType::RegularFile, 0o600),
            _ => (0, FileType::Directory, 0o700),
        };
        FileAttr {
            ino: INodeNo(nodeid),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

impl Filesystem for Tree {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A message on a socket may not be as long as one on /dev/fuse.
        let _ = config.set_max_write(64 << 10);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match parent.0 == ROOT && name == NAME {
            true => reply.entry(&MINUTE, &self.attributes(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&MINUTE, &self.attributes(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // An open does not throw away what the file has in memory.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if offset == 0 {
            // One entry fits.
            let _ = reply.add(INodeNo(FILE), 1, FileType::RegularFile, NAME);
        }
        reply.ok();
    }
}
