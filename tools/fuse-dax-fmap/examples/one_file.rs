// SPDX-License-Identifier: MIT OR Apache-2.0
//! A FUSE server without a FUSE crate: one file, which is the first bytes of a DAX device.
//!
//! ```text
//! fmapctl load striped.bpf.o
//! one_file /dev/dax0.0 4194304 /mnt &
//! dd if=/dev/urandom of=/mnt/file bs=1M count=4 conv=notrunc
//! umount /mnt
//! ```
//!
//! It answers what the kernel asks for such a file, and ENOSYS to all the rest. It ends when the
//! directory is unmounted.

mod common;

use std::error::Error;
use std::fs::File;
use std::process::ExitCode;

use common::{BUFFER, FILE, NAME, OneFile, ROOT};
use fuse_dax_fmap::{
    Accepted, Errno, Intercepted, Offer, Wanted, error_reply, opcode, striped, unique,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("one_file: {error}");
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
    let mut buffer = vec![0; BUFFER];
    let Some(request) = common::read_request(device, &mut buffer)? else {
        return Ok(());
    };
    let accepted = start(device, request)?;
    while let Some(request) = common::read_request(device, &mut buffer)? {
        let reply = match accepted.intercept(request, file) {
            Intercepted::Answer(reply) => Some(reply),
            Intercepted::Open(open) => answer(request, file).map(|mut reply| {
                open.complete(&mut reply, file);
                reply
            }),
            _ => answer(request, file),
        };
        if let Some(reply) = reply {
            common::send(device, &reply)?;
        }
    }
    Ok(())
}

/// Answers INIT, which comes first.
fn start(device: &File, init: &[u8]) -> Result<Accepted, Box<dyn Error>> {
    let offer = Offer::of(init).ok_or("the first request is no INIT")?;
    let wanted = Wanted::ops(striped::OPS_NAME.parse()?).with_map_in_open();

    // struct fuse_init_out: version 7.36, and 4 KiB in a WRITE; times have nanoseconds.
    let mut out = [0; 64];
    out[..8].copy_from_slice(&words(&[7, 36]));
    out[20..28].copy_from_slice(&words(&[4096, 1]));
    let mut reply = ok(init, &out);
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

/// What a FUSE crate would do. `None` is for requests that want no answer.
fn answer(request: &[u8], file: &OneFile) -> Option<Vec<u8>> {
    const LOOKUP: u32 = 1;
    const FORGET: u32 = 2;
    const GETATTR: u32 = 3;
    const OPEN: u32 = 14;
    const STATFS: u32 = 17;
    const RELEASE: u32 = 18;
    const FSYNC: u32 = 20;
    const FLUSH: u32 = 25;
    const OPENDIR: u32 = 27;
    const READDIR: u32 = 28;
    const RELEASEDIR: u32 = 29;
    const INTERRUPT: u32 = 36;
    const DESTROY: u32 = 38;
    const BATCH_FORGET: u32 = 42;
    // fuse_open_out.open_flags: an open does not throw away what the file has in memory.
    const KEEP_CACHE: u32 = 1 << 1;

    let nodeid = long_at(request, 16);
    let body = &request[40..];
    Some(match opcode(request)? {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        LOOKUP if nodeid == ROOT && body == [NAME.as_bytes(), b"\0"].concat() => {
            // Node and generation; for how long name and attributes hold.
            let mut out = longs(&[FILE, 0, 60, 60, 0]);
            out.extend(attributes(FILE, file));
            ok(request, &out)
        }
        LOOKUP => error_reply(unique(request), Errno::ENOENT),
        GETATTR => {
            let mut out = longs(&[60, 0]);
            out.extend(attributes(nodeid, file));
            ok(request, &out)
        }
        OPEN => ok(request, &words(&[0, 0, KEEP_CACHE, 0])),
        OPENDIR => ok(request, &[0; 16]),
        // From the beginning, or from behind the only entry.
        READDIR if long_at(body, 8) == 0 => ok(request, &entry()),
        READDIR | RELEASE | RELEASEDIR | FLUSH | FSYNC | DESTROY => ok(request, &[]),
        STATFS => ok(request, &[0; 80]),
        _ => error_reply(unique(request), Errno::ENOSYS),
    })
}

/// `struct fuse_attr`.
fn attributes(nodeid: u64, file: &OneFile) -> Vec<u8> {
    let (size, mode) = match nodeid {
        FILE => (file.size, 0o100_600),
        _ => (0, 0o040_700),
    };
    // Inode number, size, blocks; three times, and their nanoseconds.
    let mut out = longs(&[nodeid, size, size.div_ceil(512), 0, 0, 0]);
    out.extend(words(&[0, 0, 0]));
    // Mode, links, owner, device number, size of a block, flags.
    out.extend(words(&[mode, 1, 0, 0, 0, 4096, 0]));
    out
}

/// `struct fuse_dirent` of the file, padded to a multiple of 8.
fn entry() -> Vec<u8> {
    const DT_REG: u32 = 8;

    let mut out = longs(&[FILE, 1]);
    out.extend(words(&[NAME.len() as u32, DT_REG]));
    out.extend(NAME.as_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

/// A reply that is no error.
fn ok(request: &[u8], body: &[u8]) -> Vec<u8> {
    let mut reply = words(&[16 + body.len() as u32, 0]);
    reply.extend(unique(request).to_le_bytes());
    reply.extend(body);
    reply
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}

/// 0 if the request is too short.
fn long_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..at + 8).and_then(|b| b.first_chunk());
    field.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
