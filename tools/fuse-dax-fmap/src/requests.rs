// SPDX-License-Identifier: MIT OR Apache-2.0
//! The requests of a connection that has maps: GET_FMAP, GET_DAXDEV, and OPEN.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::errno::Errno;
use crate::wire::{
    BLOB_MIN, DAXDEV_NAME, DAXDEV_OUT, DEVICES_MAX, GET_DAXDEV, GET_FMAP, GET_IN_WORD, IN_NODEID,
    OPEN, OPEN_FMAP_MAP, OPEN_FMAP_OUT, OPEN_IN_FLAGS, OPEN_MAP, OPEN_MAP_MAX, OPEN_OUT, OUT_ERROR,
    OUT_HEADER, error_reply, opcode, reply, u32_at, u64_at, unique,
};

/// What a server knows about its files and devices.
///
/// An answer is borrowed from the server, or owned if it comes from behind a lock.
pub trait FileMaps {
    /// The map of a file, in the format of the ops that the server named.
    ///
    /// # Errors
    ///
    /// [`Errno::ENODATA`] and [`Errno::ENOENT`] say that this file has no map, and
    /// [`Errno::ENOSYS`] that no file has: the kernel does plain FUSE I/O. With any other error
    /// the open fails.
    fn map(&self, nodeid: u64) -> Result<Cow<'_, [u8]>, Errno>;

    /// The absolute path of a device, in the root of the mounter.
    ///
    /// # Errors
    ///
    /// With any error, opens that need the device fail.
    fn device(&self, index: u32) -> Result<Cow<'_, Path>, Errno>;
}

/// The result of [`Accepted::intercept()`](crate::Accepted::intercept).
///
/// Later versions of this crate may add variants, which the FUSE crate has to answer, like
/// [`Other`](Self::Other).
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "the kernel waits for a reply"]
pub enum Intercepted {
    /// The FUSE crate answers the request.
    Other,
    /// The FUSE crate makes the reply, and [`PendingOpen::complete()`] completes it. Only for
    /// some OPENs, and only if the server promised it
    /// ([`Wanted::with_map_in_open()`](crate::Wanted::with_map_in_open)).
    Open(PendingOpen),
    /// The whole reply, to be written as it is.
    Answer(Vec<u8>),
}

/// An OPEN whose reply carries the map of the file.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the kernel refuses a reply without the map, and the task that opens waits for one"]
pub struct PendingOpen {
    unique: u64,
    nodeid: u64,
}

/// What [`PendingOpen::complete()`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completion {
    /// The reply has what the request asks for: the map, or the error why there is none.
    Done,
    /// Nothing: the reply is an error, and complete.
    Failed,
    /// These bytes were no reply to OPEN, which is a defect of the program that made them. They
    /// are an error now, [`Errno::EIO`].
    NoReply,
}

impl PendingOpen {
    /// Adds the map to the reply to OPEN that a FUSE crate made. The reply can be sent then,
    /// whatever this returns.
    ///
    /// A map of more than [`OPEN_MAP_MAX`] bytes does not fit; the reply says so, and the
    /// kernel sends GET_FMAP. An error of [`FileMaps::map()`] means what it means there.
    pub fn complete(self, reply: &mut Vec<u8>, maps: &(impl FileMaps + ?Sized)) -> Completion {
        match u32_at(reply, OUT_ERROR) {
            Some(0) if reply.len() == OUT_HEADER + OPEN_OUT => (),
            Some(error) if error != 0 && reply.len() == OUT_HEADER => return Completion::Failed,
            _ => {
                *reply = error_reply(self.unique, Errno::EIO);
                return Completion::NoReply;
            }
        }

        let map = maps.map(self.nodeid).and_then(|map| match map.len() {
            0..=OPEN_MAP_MAX => Ok(map),
            _ => Err(Errno::ERANGE),
        });
        let mut out = [0; OPEN_FMAP_OUT];
        let size = match &map {
            Ok(map) => {
                out[OPEN_FMAP_MAP..OPEN_FMAP_MAP + map.len()].copy_from_slice(map);
                map.len() as i32
            }
            Err(errno) => -errno.get(),
        };
        out[..4].copy_from_slice(&size.to_le_bytes());
        reply.extend(out);
        let len = reply.len() as u32;
        reply[..4].copy_from_slice(&len.to_le_bytes());
        Completion::Done
    }
}

pub(crate) fn intercept(
    request: &[u8],
    maps: &(impl FileMaps + ?Sized),
    map_in_open: bool,
) -> Intercepted {
    let (Some(opcode), Some(nodeid)) = (opcode(request), u64_at(request, IN_NODEID)) else {
        return Intercepted::Other;
    };
    let unique = unique(request);
    let answer = |made: Result<Vec<u8>, Errno>| {
        Intercepted::Answer(made.unwrap_or_else(|errno| error_reply(unique, errno)))
    };

    match opcode {
        OPEN if map_in_open && wants_map(request) => {
            Intercepted::Open(PendingOpen { unique, nodeid })
        }
        GET_FMAP => {
            let size = u32_at(request, GET_IN_WORD).unwrap_or(BLOB_MIN);
            answer(maps.map(nodeid).and_then(|map| {
                if map.len() > size as usize {
                    return Err(Errno::ERANGE);
                }
                Ok(reply(unique, &map))
            }))
        }
        GET_DAXDEV => {
            let index = u32_at(request, GET_IN_WORD).map_or(nodeid, u64::from);
            let path = match u32::try_from(index) {
                Ok(index) if index < DEVICES_MAX => maps.device(index),
                _ => Err(Errno::ENODEV),
            };
            answer(path.and_then(|path| Ok(reply(unique, &daxdev_out(index as u16, &path)?))))
        }
        _ => Intercepted::Other,
    }
}

/// Returns true if an OPEN asks for the map.
fn wants_map(request: &[u8]) -> bool {
    u32_at(request, OPEN_IN_FLAGS).is_some_and(|flags| flags & OPEN_MAP != 0)
}

fn daxdev_out(index: u16, path: &Path) -> Result<[u8; DAXDEV_OUT], Errno> {
    let path = path.as_os_str().as_bytes();
    if DAXDEV_NAME + path.len() >= DAXDEV_OUT {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut out = [0; DAXDEV_OUT];
    out[..2].copy_from_slice(&index.to_le_bytes());
    out[DAXDEV_NAME..DAXDEV_NAME + path.len()].copy_from_slice(path);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::IN_HEADER;

    /// Node 7 has a map of 5,000 bytes, nodes 504 and 505 one of so many, devices 3 and 64 are
    /// /dev/dax0.0, device 4 has a path that is one byte too long.
    struct Files(String);

    impl Files {
        fn new() -> Self {
            Self(format!("/{}", "x".repeat(255)))
        }
    }

    impl FileMaps for Files {
        fn map(&self, nodeid: u64) -> Result<Cow<'_, [u8]>, Errno> {
            match nodeid {
                7 => Ok(vec![0xaa; 5000].into()),
                504 | 505 => Ok(vec![0xaa; nodeid as usize].into()),
                _ => Err(Errno::ENODATA),
            }
        }

        fn device(&self, index: u32) -> Result<Cow<'_, Path>, Errno> {
            match index {
                3 | 64 => Ok(Path::new("/dev/dax0.0").into()),
                4 => Ok(Path::new(&self.0).into()),
                5 => Ok(Path::new(&self.0[..255]).into()),
                _ => Err(Errno::ENODEV),
            }
        }
    }

    fn seen(request: &[u8]) -> Intercepted {
        intercept(request, &Files::new(), true)
    }

    fn request(opcode: u32, nodeid: u64, body: &[u8]) -> Vec<u8> {
        let mut request = vec![0; IN_HEADER];
        request[0..4].copy_from_slice(&((IN_HEADER + body.len()) as u32).to_le_bytes());
        request[4..8].copy_from_slice(&opcode.to_le_bytes());
        request[8..16].copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
        request[16..24].copy_from_slice(&nodeid.to_le_bytes());
        request.extend(body);
        request
    }

    fn body(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn answer(request: &[u8]) -> (i32, Vec<u8>) {
        let Intercepted::Answer(reply) = seen(request) else {
            panic!("not answered");
        };
        assert_eq!(u32_at(&reply, 0), Some(reply.len() as u32));
        assert_eq!(u64_at(&reply, 8), Some(unique(request)));
        (-(u32_at(&reply, 4).unwrap() as i32), reply[16..].to_vec())
    }

    fn open(nodeid: u64, open_flags: u32) -> Vec<u8> {
        request(OPEN, nodeid, &body(&[u32::MAX, open_flags]))
    }

    fn pending(request: &[u8]) -> PendingOpen {
        match seen(request) {
            Intercepted::Open(pending) => pending,
            other => panic!("{other:?}"),
        }
    }

    /// What is behind `fuse_open_out`: size, reserved, and the space for the map.
    fn brought(nodeid: u64) -> (i32, u32, Vec<u8>) {
        let request = open(nodeid, OPEN_MAP | 1);
        let made = reply(unique(&request), &[0x55; 16]);
        let mut reply = made.clone();
        let done = pending(&request).complete(&mut reply, &Files::new());
        assert_eq!(done, Completion::Done);
        assert_eq!(u32_at(&reply, 0), Some(reply.len() as u32));
        assert_eq!(reply[4..32], made[4..]);
        let word = |at| u32_at(&reply, at).unwrap();
        (word(32) as i32, word(36), reply[40..].to_vec())
    }

    #[test]
    fn an_open_brings_what_fits() {
        let error = |errno: Errno| (-errno.get(), 0, vec![0; 504]);
        assert_eq!(brought(504), (504, 0, vec![0xaa; 504]));
        assert_eq!(brought(505), error(Errno::ERANGE));
        assert_eq!(brought(7), error(Errno::ERANGE));
        assert_eq!(brought(8), error(Errno::ENODATA));
    }

    #[test]
    fn an_open_that_wants_no_map_is_left_alone() {
        for other in [
            open(504, 0),
            open(504, !OPEN_MAP),
            request(15, 504, &[0xff; 8]),
        ] {
            assert_eq!(seen(&other), Intercepted::Other);
        }
        let whole = open(504, OPEN_MAP);
        for len in 0..whole.len() {
            assert_eq!(seen(&whole[..len]), Intercepted::Other);
        }
        // Nothing was promised.
        let unasked = intercept(&whole, &Files::new(), false);
        assert_eq!(unasked, Intercepted::Other);
    }

    #[test]
    fn what_is_no_reply_to_open_becomes_an_error() {
        let whole = open(504, OPEN_MAP);
        let complete = |made: &[u8]| {
            let mut reply = made.to_vec();
            let done = pending(&whole).complete(&mut reply, &Files::new());
            (reply, done)
        };
        let failed = error_reply(unique(&whole), Errno::ENOENT);
        assert_eq!(complete(&failed), (failed, Completion::Failed));

        let mut long = reply(1, &[0; 16]);
        long[4..8].copy_from_slice(&(-5_i32).to_le_bytes());
        let lengths = (0..32).chain(33..40);
        let instead = error_reply(unique(&whole), Errno::EIO);
        for made in lengths.map(|len| vec![0; len]).chain([long]) {
            assert_eq!(complete(&made), (instead.clone(), Completion::NoReply));
        }
    }

    #[test]
    fn any_kind_of_server_will_do() {
        let files: Box<dyn FileMaps> = Box::new(Files::new());
        let seen = intercept(&request(GET_DAXDEV, 3, &body(&[3, 0])), &*files, true);
        assert!(matches!(seen, Intercepted::Answer(reply) if reply.len() == 296));
    }

    #[test]
    fn a_map_that_fits_is_the_whole_reply() {
        let fmap = |nodeid, size| answer(&request(GET_FMAP, nodeid, &body(&[size, 0])));
        assert_eq!(fmap(7, 5000), (0, vec![0xaa; 5000]));
        assert_eq!(fmap(7, 4999), (Errno::ERANGE.get(), vec![]));
        assert_eq!(fmap(8, 4096), (Errno::ENODATA.get(), vec![]));
        // No body: the size that every kernel starts with.
        let short = answer(&request(GET_FMAP, 7, &[]));
        assert_eq!(short, (Errno::ERANGE.get(), vec![]));
    }

    #[test]
    fn a_device_is_280_bytes() {
        let (error, out) = answer(&request(GET_DAXDEV, 3, &body(&[3, 0])));
        assert_eq!((error, out.len()), (0, 280));
        assert_eq!(&out[..2], [3, 0]);
        assert_eq!(&out[2..24], [0; 22]);
        assert_eq!(&out[24..36], b"/dev/dax0.0\0");
        assert!(out[36..].iter().all(|&byte| byte == 0));

        // No body: the nodeid.
        assert_eq!(answer(&request(GET_DAXDEV, 3, &[])), (0, out));
        // 255 bytes and the NUL fit.
        assert_eq!(answer(&request(GET_DAXDEV, 5, &body(&[5, 0]))).0, 0);
        for (index, errno) in [
            (4, Errno::ENAMETOOLONG),
            (6, Errno::ENODEV),
            (64, Errno::ENODEV),
            (u32::MAX, Errno::ENODEV),
        ] {
            let request = request(GET_DAXDEV, u64::from(index), &body(&[index, 0]));
            assert_eq!(answer(&request), (errno.get(), vec![]));
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        for opcode in [0, 1, 3, 14, 15, 26, 53, 56, 4096, u32::MAX] {
            assert_eq!(seen(&request(opcode, 7, &[0; 64])), Intercepted::Other);
        }
        let whole = request(GET_FMAP, 7, &body(&[5000, 0]));
        for len in 0..24 {
            assert_eq!(seen(&whole[..len]), Intercepted::Other);
        }
    }
}
