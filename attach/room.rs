// SPDX-License-Identifier: GPL-2.0

//! Room for files that grow: how the server is asked for it, and what it may answer.
//!
//! The module sends FALLOCATE. The server answers with the new map of the file; with nothing, and
//! then the module sends GET_FMAP; or with an error.

use kernel::prelude::*;

use crate::{
    abstractions::{
        fs::dentry::Named,
        task::fatal_signal_pending, //
    },
    compat::{
        ENOSYS,
        EOPNOTSUPP, //
    },
    fmap_ops::{
        Parsed,
        Verdict, //
    },
    fuse::{
        ask_room,
        ask_to_punch,
        Inode,
        BLOB_MIN, //
    },
    open_error::Failure,
    ratelimit::pr_warn_limited,
    sb_info::Rooms, //
};

use super::{
    connection::Connection,
    first_open::{
        acquire_all,
        get_by_request,
        parse, //
    }, //
};

/// Asks servers by FALLOCATE.
pub(super) struct ByFallocate;

impl Rooms for ByFallocate {
    fn ask(&self, inode: &Inode, offset: u64, length: u64) -> Result<Parsed> {
        let conn = Connection::of_inode(inode).ok_or(EIO)?;
        // The server's refusal is no failure, and needs no line.
        let answer = ask_room(inode, offset, length, BLOB_MIN)
            .and_then(|pending| pending.answer())?
            .reply;
        let blob = match answer {
            Ok(blob) => Some(blob).filter(|blob| !blob.is_empty()),
            Err(ERANGE) => None,
            Err(ENOSYS | EOPNOTSUPP) => return Err(ENOSPC),
            Err(errno) => return Err(errno),
        };

        map_of_answer(conn, inode, blob.as_deref()).map_err(|failure| refused(conn, inode, failure))
    }

    fn punch(&self, inode: &Inode, offset: u64, length: u64) -> Result<Option<Result<Parsed>>> {
        let conn = Connection::of_inode(inode).ok_or(EIO)?;
        let answer = ask_to_punch(inode, offset, length, BLOB_MIN)?.answer_uninterruptible();
        let blob = match answer.reply {
            Ok(blob) if blob.is_empty() => return Ok(None),
            Ok(blob) => Some(blob),
            Err(ERANGE) => None,
            Err(ENOSYS) => return Err(EOPNOTSUPP),
            Err(errno) => return Err(errno),
        };
        let map = map_of_answer(conn, inode, blob.as_deref());

        Ok(Some(map.map_err(|failure| refused(conn, inode, failure))))
    }
}

/// Logs why a map is refused, and returns the errno.
fn refused(conn: &Connection, inode: &Inode, Failure { errno, cause }: Failure) -> Error {
    if !fatal_signal_pending() {
        pr_warn_limited!(
            conn.sbi().opens,
            "{}: another map of inode {}{} fails with {:?}: {}\n",
            conn.sbi(),
            inode.number(),
            Named::new(inode),
            errno,
            cause
        );
    }
    errno
}

/// Returns the map that came with an answer, or that of GET_FMAP if none came, and makes sure that
/// the mount holds its devices.
fn map_of_answer(conn: &Connection, inode: &Inode, blob: Option<&[u8]>) -> Result<Parsed, Failure> {
    let sbi = conn.sbi();
    let mut wanted = 0;

    if let Some(blob) = blob {
        match parse(sbi, blob, BLOB_MIN)? {
            Verdict::Map(parsed) => {
                acquire_all(conn, inode, parsed.dev_bitmap)?;
                return Ok(parsed);
            }
            Verdict::NeedsBufSize(size) => wanted = size,
        }
    }
    let parsed = get_by_request(conn, inode, wanted)?.ok_or(Failure {
        errno: ENOSPC,
        cause: "the server has no map for it any more",
    })?;
    acquire_all(conn, inode, parsed.dev_bitmap)?;
    Ok(parsed)
}
