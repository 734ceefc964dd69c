// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same file as in `one_file.rs`, with fuse-backend-rs for all that is plain FUSE.
//!
//! The server reads `/dev/fuse` itself. It lets the crate answer INIT and OPEN into a buffer,
//! changes that, and sends it; the crate sends every other reply.

mod common;

use std::error::Error;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;
use std::time::Duration;

use common::{BUFFER, FILE, NAME, OneFile, ROOT};
use fuse_backend_rs::abi::fuse_abi::{Attr, FsOptions, OpenOptions, stat64};
use fuse_backend_rs::api::filesystem::{Context, DirEntry, Entry, FileSystem};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader};
use fuse_dax_fmap::{Accepted, Intercepted, Offer, Wanted, striped};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuse_backend: {error}");
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
    let server = Server::new(Tree { size: file.size });
    let mut buffer = vec![0; BUFFER];
    let mut scratch = vec![0; BUFFER];

    let Some(request) = common::read_request(device, &mut buffer)? else {
        return Ok(());
    };
    let accepted = start(&server, device, request, &mut scratch)?;
    while let Some(request) = common::read_request(device, &mut buffer)? {
        match accepted.intercept(request, file) {
            Intercepted::Answer(reply) => common::send(device, &reply)?,
            Intercepted::Open(open) => {
                let mut reply = reply_of(&server, request, &mut scratch);
                open.complete(&mut reply, file);
                common::send(device, &reply)?;
            }
            _ => {
                let writer = FuseDevWriter::new(device.as_raw_fd(), &mut scratch)?;
                // It has told the kernel, if it could not.
                let _ = dispatch(&server, request, writer);
            }
        }
    }
    Ok(())
}

/// Answers INIT, which comes first.
fn start(
    server: &Server<Tree>,
    device: &File,
    init: &mut [u8],
    scratch: &mut [u8],
) -> Result<Accepted, Box<dyn Error>> {
    let offer = Offer::of(init).ok_or("the first request is no INIT")?;
    let wanted = Wanted::ops(striped::OPS_NAME.parse()?).with_map_in_open();
    let mut reply = reply_of(server, init, scratch);
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

/// What the crate would have sent, or nothing if it cannot.
///
/// One part of a writer that was split keeps what it is given in `scratch`; it leads to no
/// descriptor.
fn reply_of(server: &Server<Tree>, request: &mut [u8], scratch: &mut [u8]) -> Vec<u8> {
    const NOWHERE: RawFd = -1;

    scratch[..4].fill(0);
    let whole = scratch.len();
    let Ok(mut writer) = FuseDevWriter::new(NOWHERE, scratch) else {
        return Vec::new();
    };
    if writer.split_at(whole).is_ok() {
        let _ = dispatch(server, request, writer);
    }
    // The length of a reply is its first word.
    let len = scratch.first_chunk().map(|len| u32::from_le_bytes(*len));
    let reply = scratch.get(..len.unwrap_or(0) as usize);
    reply.unwrap_or_default().to_vec()
}

fn dispatch(
    server: &Server<Tree>,
    request: &mut [u8],
    writer: FuseDevWriter<'_>,
) -> Result<usize, Box<dyn Error>> {
    let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(request))?;
    Ok(server.handle_message(reader, writer.into(), None, None)?)
}

/// The directory and the file, as the crate sees them.
struct Tree {
    size: u64,
}

impl Tree {
    fn stat(&self, nodeid: u64) -> stat64 {
        let (size, mode) = match nodeid {
            FILE => (self.size, 0o100_600),
            _ => (0, 0o040_700),
        };
        Attr {
            ino: nodeid,
            size,
            blocks: size.div_ceil(512),
            mode,
            nlink: 1,
            blksize: 4096,
            ..Attr::default()
        }
        .into()
    }
}

const MINUTE: Duration = Duration::from_secs(60);

impl FileSystem for Tree {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, _capable: FsOptions) -> io::Result<FsOptions> {
        Ok(FsOptions::empty())
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        if parent != ROOT || name.to_bytes() != NAME.as_bytes() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Entry {
            inode: FILE,
            attr: self.stat(FILE),
            attr_timeout: MINUTE,
            entry_timeout: MINUTE,
            ..Entry::default()
        })
    }

    fn getattr(&self, _: &Context, nodeid: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        Ok((self.stat(nodeid), MINUTE))
    }

    fn open(
        &self,
        _: &Context,
        _nodeid: u64,
        _flags: u32,
        _fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        // An open does not throw away what the file has in memory.
        Ok((None, OpenOptions::KEEP_CACHE, None))
    }

    fn readdir(
        &self,
        _: &Context,
        _nodeid: u64,
        _handle: u64,
        _size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        const DT_REG: u32 = 8;

        if offset == 0 {
            add(DirEntry {
                ino: FILE,
                offset: 1,
                type_: DT_REG,
                name: NAME.as_bytes(),
            })?;
        }
        Ok(())
    }

    fn fsync(&self, _: &Context, _: u64, _datasync: bool, _: u64) -> io::Result<()> {
        Ok(())
    }
}
