// SPDX-License-Identifier: GPL-2.0

//! The first open of a file, which decides whether its inode is mapped or plain.
//!
//! An inode is in one of three states ([`State`]). It changes once, at its first open:
//!
//! ```text
//!             GET_FMAP, dax_fmap_parse(), GET_DAXDEV for new devices
//!   Unknown ----------------------------------------------------------> Mapped
//!      |
//!      +----- "no map": ENODATA, ENOENT, ENOSYS -----------------------> Plain
//! ```
//!
//! It stays what it is until it is evicted. A failure leaves it `Unknown` and fails the open.
//!
//! A first open takes one round trip, as in plain FUSE: the server sends the map with its answer to
//! OPEN, if it can do that; else the module sends GET_FMAP, and FUSE sends OPEN while the server
//! works on that. What FUSE does at the end of an open (to its page cache, above all) must not be
//! done to a mapped inode, so the map is parsed and published after it.
//!
//! One task fetches the map of one inode, or acquires one device; other tasks that want the same
//! wait for it (`SingleFlight`), and so for its OPEN. No lock is held across a request.

use kernel::prelude::*;

use crate::{
    abstractions::{
        fs::dentry::Named,
        task::fatal_signal_pending, //
    },
    compat::{
        ENODATA,
        ENOSYS, //
    },
    fmap_ops::{
        Parsed,
        Verdict, //
    },
    fuse::{
        get_daxdev,
        get_fmap,
        Inode,
        MapInOpen,
        BLOB_MAX,
        BLOB_MIN,
        BLOB_WITH_OPEN, //
    },
    iomap::{
        self,
        State, //
    },
    open_error::Failure,
    ratelimit::pr_warn_limited,
    sb_info::SbInfo,
    stats::Counter, //
};

use super::connection::Connection;

/// Sizes of the buffer for GET_FMAP, in bytes, in the order in which they are tried.
const BUF_SIZES: [u32; 5] = [
    BLOB_MIN,
    BLOB_MIN * 4,
    BLOB_MIN * 16,
    BLOB_MIN * 64,
    BLOB_MAX,
];

/// The result of FUSE's own open during the first open of an inode.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// FUSE has opened the file.
    Yes,
    /// FUSE is to open the file once it is known whether the inode is mapped.
    NotYet,
    /// The open fails, whether the inode is mapped or not.
    Refused,
}

/// Finds out whether an inode is mapped, and fetches its map if this is its first open. May sleep.
///
/// If the map has to be fetched, `open` is called before the answer is waited for. It calls FUSE's
/// own open, unless that has to wait for the map, and returns the result. No other task publishes a
/// map of the inode while `open` runs. If the server refuses the open, its map is ignored.
///
/// # Errors
///
/// The errno for the open to fail with; the cause has been logged, unless it is a signal.
pub(super) fn map_state(
    conn: &Connection,
    inode: &Inode,
    open: impl FnOnce() -> Opened,
) -> Result<State> {
    let sbi = conn.sbi();

    let known = || match iomap::state(inode) {
        State::Unknown => None,
        state => Some(state),
    };
    if let Some(state) = known() {
        return Ok(state);
    }
    let done = || sbi.has_no_maps() || known().is_some();
    let flight = if done() {
        None
    } else {
        sbi.opening.flight(inode.key(), done)?
    };
    let Some(flight) = flight else {
        return Ok(match iomap::state(inode) {
            State::Unknown => State::Plain,
            state => state,
        });
    };
    let fetched = fetch(conn, inode, open);
    drop(flight);
    fetched.map_err(|Failure { errno, cause }| {
        // A kill is no failure of the server or of the map. (A server may answer EINTR.)
        if !fatal_signal_pending() {
            sbi.stats.inc(Counter::FailedOpens);
            pr_warn_limited!(
                sbi.opens,
                "{}: open of inode {}{} fails with {:?}: {}\n",
                conn,
                inode.number(),
                Named::new(inode),
                errno,
                cause
            );
        }
        errno
    })
}

/// Fetches and publishes the map of an inode. The caller is its single flight.
fn fetch(
    conn: &Connection,
    inode: &Inode,
    open: impl FnOnce() -> Opened,
) -> Result<State, Failure> {
    let sbi = conn.sbi();

    let Some(parsed) = get_map(conn, inode, open)? else {
        return Ok(State::Plain);
    };

    let mut devices = parsed.dev_bitmap;
    while devices != 0 {
        acquire(conn, inode, devices.trailing_zeros())?;
        devices &= devices - 1;
    }
    iomap::publish(inode, parsed, sbi).map_err(Failure::because("publishing the map"))
}

/// Makes sure that the mount holds a device; asks the server for its path if it does not.
fn acquire(conn: &Connection, inode: &Inode, index: u32) -> Result<(), Failure> {
    let sbi = conn.sbi();

    let open = || {
        sbi.stats.inc(Counter::GetDaxdev);
        let path = get_daxdev(inode, index)?;
        conn.mounter()
            .open(&path)
            .map_err(Failure::because("the DAX device cannot be opened"))
    };
    // SAFETY: `devices` is part of `sbi`, which is pinned, and is released before `sbi` is dropped
    // (`SbInfo::dec_ref()`).
    unsafe { sbi.devices.acquire(index, sbi, &sbi.opens, open) }
}

/// Gets the map of an inode from the server and parses it. Returns `None` if there is no map, or if
/// the server refuses the open.
///
/// If a map does not fit in the buffer, the server answers ERANGE, or the program says so about an
/// answer in the server's own format. Then GET_FMAP is sent again, with the next size that is not
/// less than what the program wants. So no size is tried twice.
fn get_map(
    conn: &Connection,
    inode: &Inode,
    open: impl FnOnce() -> Opened,
) -> Result<Option<Parsed>, Failure> {
    let sbi = conn.sbi();
    let mut open = Some(open);
    let mut wanted = 0;
    let mut too_short = too_large();

    if conn.map_in_open {
        if let Some(open) = open.take() {
            let mut in_open = MapInOpen::new();
            let mut opened = Opened::NotYet;
            let answer = in_open.during(inode, || {
                opened = open();
                opened == Opened::Yes
            });

            match answer {
                _ if opened == Opened::Refused => return Ok(None),
                Err(ERANGE) => (),
                Ok(blob) => {
                    sbi.stats.inc(Counter::MapsInOpen);
                    match parse(sbi, blob, BLOB_WITH_OPEN)? {
                        Verdict::Map(parsed) => return Ok(Some(parsed)),
                        Verdict::NeedsBufSize(size) => wanted = size,
                    }
                }
                Err(errno) => return no_map(conn, inode, errno, "the map that came with OPEN"),
            }
        }
    }
    for buf_size in BUF_SIZES {
        if buf_size < wanted {
            continue;
        }
        sbi.stats.inc(Counter::GetFmap);
        let pending = get_fmap(inode, buf_size).map_err(Failure::because("GET_FMAP"))?;

        if open.take().map(|open| open()) == Some(Opened::Refused) {
            return Ok(None);
        }
        let answer = pending.answer().map_err(Failure::because("GET_FMAP"))?;
        sbi.stats.get_fmap_took(answer.took);
        too_short = match answer.reply {
            Ok(blob) => match parse(sbi, &blob, buf_size)? {
                Verdict::Map(parsed) => return Ok(Some(parsed)),
                Verdict::NeedsBufSize(size) => {
                    wanted = size;
                    parse_failed(ERANGE)
                }
            },
            Err(ERANGE) => too_large(),
            Err(errno) => return no_map(conn, inode, errno, "GET_FMAP"),
        };
    }
    if too_short.errno == ERANGE {
        sbi.stats.inc(Counter::RefusedMaps);
    }
    Err(too_short)
}

/// Calls `dax_fmap_parse()` with an answer for which there was a buffer of `buf_size` bytes.
fn parse(sbi: &SbInfo, blob: &[u8], buf_size: u32) -> Result<Verdict, Failure> {
    let verdict = match sbi.ops.parse(blob, buf_size, iomap::HEADROOM) {
        Ok(Verdict::NeedsBufSize(wanted)) if wanted > BLOB_MAX => Err(too_large()),
        verdict => verdict.map_err(parse_failed),
    };
    verdict.inspect_err(|_| sbi.stats.inc(Counter::RefusedMaps))
}

fn too_large() -> Failure {
    Failure {
        errno: E2BIG,
        cause: "the map does not fit in 1 MiB",
    }
}

fn parse_failed(errno: Error) -> Failure {
    Failure {
        errno,
        cause: "dax_fmap_parse() refuses the map",
    }
}

/// Interprets an error that the server sent instead of a map: no map, or a failed open.
fn no_map<T>(
    conn: &Connection,
    inode: &Inode,
    errno: Error,
    cause: &'static str,
) -> Result<Option<T>, Failure> {
    match errno {
        ENOSYS => conn.sbi().set_no_maps(),
        ENODATA | ENOENT => iomap::remember_plain(inode),
        errno => return Err(Failure { errno, cause }),
    }
    Ok(None)
}
