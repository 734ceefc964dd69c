// SPDX-License-Identifier: GPL-2.0
//! The messages of `include/uapi/linux/fuse_dax_fmap.h`, and the few bytes of
//! FUSE's own that lead to them.
//!
//! Everything is read and written at its offset: a request comes from the kernel,
//! but a server must not depend on its length being right.

use std::error;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bytes of the name of ops, with its NUL.
pub const OPS_NAME_LEN: usize = 16;
/// Bytes that a map may have.
pub const BLOB_MAX: u32 = 1 << 20;
/// Bytes of room for a map that every kernel starts with.
pub const BLOB_MIN: u32 = 4 << 10;
/// Bytes that a map may have in the reply to OPEN.
pub const OPEN_MAP_MAX: usize = 504;
/// Devices that a mount may use.
pub const DEVICES_MAX: u32 = 64;
/// What marks an offer in INIT: "FMAP".
pub const MAGIC: u32 = 0x5041_4d46;
/// The version of the protocol that this crate speaks.
pub const ABI_VERSION: u32 = 1;
/// Opcode: the map of a file.
pub const GET_FMAP: u32 = 54;
/// Opcode: the path of a device.
pub const GET_DAXDEV: u32 = 55;

/// `FUSE_INIT`, which carries offer and answer.
const INIT: u32 = 26;
/// `FUSE_OPEN`, whose reply may bring a map.
const OPEN: u32 = 14;
/// `struct fuse_in_header`.
const IN_HEADER: usize = 40;
/// `struct fuse_out_header`.
const OUT_HEADER: usize = 16;
/// `fuse_init_in.unused[9]` and `[10]`.
const INIT_IN_MAGIC: usize = IN_HEADER + 20 + 4 * 9;
const INIT_IN_VERSION: usize = IN_HEADER + 20 + 4 * 10;
/// `struct fuse_init_out` and where it holds flags and name.
const INIT_OUT: usize = 64;
const INIT_OUT_FLAGS: usize = OUT_HEADER + 44;
const INIT_OUT_NAME: usize = OUT_HEADER + 48;
const MAP_IN_OPEN: u32 = 1 << 0;
/// `fuse_open_in.open_flags` and what it says there.
const OPEN_IN_FLAGS: usize = IN_HEADER + 4;
const OPEN_MAP: u32 = 1 << 31;
/// `struct fuse_open_out`.
const OPEN_OUT: usize = 16;
/// `struct fuse_open_fmap_out` and where it holds the map.
const OPEN_FMAP_OUT: usize = OPEN_FMAP_MAP + OPEN_MAP_MAX;
const OPEN_FMAP_MAP: usize = 8;
/// `struct fuse_get_daxdev_out` and where it holds the path.
const DAXDEV_OUT: usize = 280;
const DAXDEV_NAME: usize = 24;

/// The error numbers that have a meaning here; any other fails the open.
///
/// The kernel takes 1 to 511. Whatever else a server says, 0 and negative numbers included,
/// goes out as [`EIO`](errno::EIO): the kernel would refuse the reply, and whoever asked wait for ever.
pub mod errno {
    /// No such file, or it has no map: plain FUSE I/O.
    pub const ENOENT: i32 = 2;
    /// The open fails with an I/O error.
    pub const EIO: i32 = 5;
    /// No such device.
    pub const ENODEV: i32 = 19;
    /// More room needed; [`intercept()`](super::intercept) and
    /// [`complete_open()`](super::complete_open) say this by themselves.
    pub const ERANGE: i32 = 34;
    /// Too long a path of a device.
    pub const ENAMETOOLONG: i32 = 36;
    /// No file of this server has a map.
    pub const ENOSYS: i32 = 38;
    /// This file has no map: plain FUSE I/O.
    pub const ENODATA: i32 = 61;
    /// For INIT, after a [`Refusal`](super::Refusal).
    pub const EPROTO: i32 = 71;

    /// What goes out for `errno`.
    pub(super) fn checked(errno: i32) -> i32 {
        match errno {
            1..=511 => errno,
            _ => EIO,
        }
    }
}

/// The name of ops: 1 to 15 characters of `[A-Za-z0-9_.-]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpsName([u8; OPS_NAME_LEN]);

/// A string that cannot name ops.
#[derive(Debug, PartialEq, Eq)]
pub struct BadOpsName(String);

impl FromStr for OpsName {
    type Err = BadOpsName;

    fn from_str(name: &str) -> Result<Self, BadOpsName> {
        let valid = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
        if name.is_empty() || name.len() >= OPS_NAME_LEN || !name.bytes().all(valid) {
            return Err(BadOpsName(name.to_owned()));
        }
        let mut bytes = [0; OPS_NAME_LEN];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self(bytes))
    }
}

impl fmt::Display for OpsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|&c| c == 0).unwrap_or(OPS_NAME_LEN);
        f.write_str(&String::from_utf8_lossy(&self.0[..end]))
    }
}

impl fmt::Display for BadOpsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no name of ops: 1 to 15 letters, digits, '_', '.' or '-'",
            self.0
        )
    }
}

impl error::Error for BadOpsName {}

/// What a server knows about its files and devices.
///
/// Errors are error numbers as in [`errno`], positive.
///
/// Both answers are owned, so they may come from behind a lock.
pub trait FileMaps {
    /// The map of a file, in the format of the ops that [`accept()`] named.
    fn map(&self, nodeid: u64) -> Result<Vec<u8>, i32>;

    /// The absolute path of a device, as the process sees it that mounted.
    fn device(&self, index: u32) -> Result<PathBuf, i32>;
}

/// What [`intercept()`] made of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Intercepted {
    /// Nothing: it is the FUSE crate's.
    Other,
    /// The FUSE crate makes the reply, [`accept()`] completes it.
    Init(Offer),
    /// The FUSE crate makes the reply, [`complete_open()`] completes it. Only after
    /// [`accept_map_in_open()`], and not every OPEN.
    Open,
    /// The whole reply, to be written as it is.
    Answer(Vec<u8>),
}

/// What [`complete_open()`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The reply has what the request wants: the map, or why there is none.
    Done,
    /// Nothing: this is no request that wants a map.
    NotWanted,
    /// Nothing: the reply is an error, and complete.
    Failed,
    /// Nothing: these bytes are no reply to OPEN. The kernel will refuse them, and whoever
    /// opens wait for one.
    NoReply,
}

/// What the kernel offers in INIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// File maps, in this version.
    Version(u32),
    /// Nothing.
    None,
}

/// Why there will be no file maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No module, or a mount without CAP_SYS_RAWIO.
    NoOffer,
    /// A kernel with another version of the protocol.
    Version(u32),
    /// The reply to INIT is an error, or too short to hold what is to be said.
    NoReply,
}

impl Offer {
    /// Whether [`accept()`] makes sense.
    pub fn check(self) -> Result<(), Refusal> {
        match self {
            Offer::Version(ABI_VERSION) => Ok(()),
            Offer::Version(other) => Err(Refusal::Version(other)),
            Offer::None => Err(Refusal::NoOffer),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoOffer => f.write_str(
                "the kernel offers no file maps: the module fuse_dax_fmap is not loaded, \
                 or whoever mounts lacks CAP_SYS_RAWIO in the initial user namespace",
            ),
            Refusal::Version(theirs) => write!(
                f,
                "the kernel offers file maps of version {theirs}, this server speaks {ABI_VERSION}"
            ),
            Refusal::NoReply => f.write_str("the reply to INIT has no room for the name of ops"),
        }
    }
}

impl error::Error for Refusal {}

/// Looks at a request, as read from `/dev/fuse`, before the FUSE crate does.
pub fn intercept(request: &[u8], maps: &(impl FileMaps + ?Sized)) -> Intercepted {
    let (Some(opcode), Some(unique), Some(nodeid)) =
        (u32_at(request, 4), u64_at(request, 8), u64_at(request, 16))
    else {
        return Intercepted::Other;
    };

    match opcode {
        INIT => Intercepted::Init(offer(request)),
        OPEN if wants_map(request) => Intercepted::Open,
        GET_FMAP => {
            let room = u32_at(request, IN_HEADER).unwrap_or(BLOB_MIN);
            Intercepted::Answer(match maps.map(nodeid) {
                Ok(map) if map.len() > room as usize => error_reply(unique, errno::ERANGE),
                Ok(map) => reply(unique, &map),
                Err(errno) => error_reply(unique, errno),
            })
        }
        GET_DAXDEV => {
            let index = u32_at(request, IN_HEADER).map_or(nodeid, u64::from);
            let path = match u32::try_from(index) {
                Ok(index) if index < DEVICES_MAX => maps.device(index),
                _ => Err(errno::ENODEV),
            };
            Intercepted::Answer(
                match path.and_then(|path| daxdev_out(index as u16, &path)) {
                    Ok(out) => reply(unique, &out),
                    Err(errno) => error_reply(unique, errno),
                },
            )
        }
        _ => Intercepted::Other,
    }
}

/// Names the ops in the reply to INIT that a FUSE crate made.
///
/// Only after [`Offer::check()`]: a kernel that offered nothing does not look.
pub fn accept(init_reply: &mut [u8], name: &OpsName) -> Result<(), Refusal> {
    check_init_reply(init_reply)?;
    init_reply[INIT_OUT_NAME..INIT_OUT_NAME + OPS_NAME_LEN].copy_from_slice(&name.0);
    Ok(())
}

/// Promises, in the reply to INIT that has the name, that [`complete_open()`] will
/// see every [`Intercepted::Open`].
///
/// It saves a request per file. A kernel that does not know of it asks by GET_FMAP
/// as ever, so there is nothing to check.
pub fn accept_map_in_open(init_reply: &mut [u8]) -> Result<(), Refusal> {
    check_init_reply(init_reply)?;
    init_reply[INIT_OUT_FLAGS..INIT_OUT_FLAGS + 4].copy_from_slice(&MAP_IN_OPEN.to_le_bytes());
    Ok(())
}

/// Adds the map to the reply to OPEN that a FUSE crate made.
///
/// A reply that is an error is complete, and so is one to an OPEN that wants no map:
/// both stay as they are. So does what is no reply to OPEN, and that is a mistake of
/// whoever made it: answer an error instead ([`Completion::NoReply`]).
///
/// A map of more than [`OPEN_MAP_MAX`] bytes does not fit. The kernel is told, and
/// asks for it by GET_FMAP. An error of [`FileMaps::map()`] means what it means there.
pub fn complete_open(
    request: &[u8],
    reply: &mut Vec<u8>,
    maps: &(impl FileMaps + ?Sized),
) -> Completion {
    let (Some(OPEN), Some(nodeid), true) =
        (opcode(request), u64_at(request, 16), wants_map(request))
    else {
        return Completion::NotWanted;
    };
    match u32_at(reply, 4) {
        Some(0) if reply.len() == OUT_HEADER + OPEN_OUT => (),
        Some(error) if error != 0 && reply.len() == OUT_HEADER => return Completion::Failed,
        _ => return Completion::NoReply,
    }

    let map = maps.map(nodeid).and_then(|map| match map.len() {
        0..=OPEN_MAP_MAX => Ok(map),
        _ => Err(errno::ERANGE),
    });
    let mut out = [0; OPEN_FMAP_OUT];
    let size = match &map {
        Ok(map) => {
            out[OPEN_FMAP_MAP..OPEN_FMAP_MAP + map.len()].copy_from_slice(map);
            map.len() as i32
        }
        Err(errno) => -errno::checked(*errno),
    };
    out[..4].copy_from_slice(&size.to_le_bytes());
    reply.extend(out);
    let len = reply.len() as u32;
    reply[..4].copy_from_slice(&len.to_le_bytes());
    Completion::Done
}

/// A reply that fails the request `unique` with `errno`, for example INIT after a
/// [`Refusal`]. A number that the kernel does not take is EIO, see [`errno`].
pub fn error_reply(unique: u64, errno: i32) -> Vec<u8> {
    out_message(unique, -errno::checked(errno), &[])
}

/// The number that ties a reply to its request; 0 if this is no request.
pub fn unique(request: &[u8]) -> u64 {
    u64_at(request, 8).unwrap_or(0)
}

/// The opcode of a request.
pub fn opcode(request: &[u8]) -> Option<u32> {
    u32_at(request, 4)
}

fn offer(request: &[u8]) -> Offer {
    match (
        u32_at(request, INIT_IN_MAGIC),
        u32_at(request, INIT_IN_VERSION),
    ) {
        (Some(MAGIC), Some(version)) => Offer::Version(version),
        _ => Offer::None,
    }
}

fn check_init_reply(reply: &[u8]) -> Result<(), Refusal> {
    let failed = u32_at(reply, 4) != Some(0);
    if failed || reply.len() < OUT_HEADER + INIT_OUT {
        return Err(Refusal::NoReply);
    }
    Ok(())
}

/// Whether an OPEN does.
fn wants_map(request: &[u8]) -> bool {
    u32_at(request, OPEN_IN_FLAGS).is_some_and(|flags| flags & OPEN_MAP != 0)
}

fn daxdev_out(index: u16, path: &Path) -> Result<[u8; DAXDEV_OUT], i32> {
    let path = path.as_os_str().as_bytes();
    if DAXDEV_NAME + path.len() >= DAXDEV_OUT {
        return Err(errno::ENAMETOOLONG);
    }
    let mut out = [0; DAXDEV_OUT];
    out[..2].copy_from_slice(&index.to_le_bytes());
    out[DAXDEV_NAME..DAXDEV_NAME + path.len()].copy_from_slice(path);
    Ok(out)
}

fn reply(unique: u64, body: &[u8]) -> Vec<u8> {
    out_message(unique, 0, body)
}

fn out_message(unique: u64, error: i32, body: &[u8]) -> Vec<u8> {
    let len = OUT_HEADER + body.len();
    let mut message = Vec::with_capacity(len);
    message.extend((len as u32).to_le_bytes());
    message.extend(error.to_le_bytes());
    message.extend(unique.to_le_bytes());
    message.extend(body);
    message
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node 7 has a map of 5,000 bytes, nodes 504 and 505 one of so many, devices 3 and 64 are /dev/dax0.0, device 4
    /// has a path that is one byte too long.
    struct Files(String);

    impl Files {
        fn new() -> Self {
            Self(format!("/{}", "x".repeat(255)))
        }
    }

    impl FileMaps for Files {
        fn map(&self, nodeid: u64) -> Result<Vec<u8>, i32> {
            match nodeid {
                7 => Ok(vec![0xaa; 5000]),
                504 | 505 => Ok(vec![0xaa; nodeid as usize]),
                _ => Err(errno::ENODATA),
            }
        }

        fn device(&self, index: u32) -> Result<PathBuf, i32> {
            match index {
                3 | 64 => Ok("/dev/dax0.0".into()),
                4 => Ok(PathBuf::from(&self.0)),
                5 => Ok(PathBuf::from(&self.0[..255])),
                _ => Err(errno::ENODEV),
            }
        }
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
        let Intercepted::Answer(reply) = intercept(request, &Files::new()) else {
            panic!("not answered");
        };
        assert_eq!(u32_at(&reply, 0), Some(reply.len() as u32));
        assert_eq!(u64_at(&reply, 8), Some(unique(request)));
        (u32_at(&reply, 4).unwrap() as i32, reply[16..].to_vec())
    }

    fn init(words: &[(usize, u32)], len: usize) -> Intercepted {
        let mut body = vec![0; len];
        for &(at, word) in words {
            body[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        intercept(&request(INIT, 0, &body), &Files::new())
    }

    #[test]
    fn names_of_ops() {
        assert_eq!("striped".parse::<OpsName>().unwrap().to_string(), "striped");
        assert!("a.b-c_D9".parse::<OpsName>().is_ok());
        assert!("123456789012345".parse::<OpsName>().is_ok());
        for bad in ["", "1234567890123456", "a b", "a/b", "\u{e4}", "a\0"] {
            assert!(bad.parse::<OpsName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_offer_is_in_the_last_two_words_of_init() {
        let offered = init(&[(56, MAGIC), (60, 1)], 64);
        assert_eq!(offered, Intercepted::Init(Offer::Version(1)));
        assert_eq!(Offer::Version(1).check(), Ok(()));
        assert_eq!(Offer::Version(2).check(), Err(Refusal::Version(2)));
        assert_eq!(Offer::None.check(), Err(Refusal::NoOffer));

        let none = Intercepted::Init(Offer::None);
        assert_eq!(init(&[], 64), none);
        assert_eq!(init(&[(56, MAGIC + 1), (60, 1)], 64), none);
        assert_eq!(init(&[(52, MAGIC), (56, 1)], 64), none);
        // Kernels before 5.17 sent 16 bytes.
        assert_eq!(init(&[], 16), none);
        assert_eq!(init(&[(56, MAGIC)], 60), none);
    }

    #[test]
    fn the_name_ends_the_reply_to_init() {
        let name = "striped".parse().unwrap();
        let mut reply = vec![0; 80];
        accept(&mut reply, &name).unwrap();
        assert_eq!(&reply[..64], [0; 64]);
        assert_eq!(&reply[64..], b"striped\0\0\0\0\0\0\0\0\0");

        assert_eq!(accept(&mut [0; 79], &name), Err(Refusal::NoReply));
        assert_eq!(accept(&mut [], &name), Err(Refusal::NoReply));
        let mut failed = error_reply(1, errno::EIO);
        failed.resize(80, 0);
        assert_eq!(accept(&mut failed, &name), Err(Refusal::NoReply));
    }

    #[test]
    fn the_promise_is_in_front_of_the_name() {
        let mut reply = vec![0; 80];
        accept(&mut reply, &"striped".parse().unwrap()).unwrap();
        let named = reply.clone();
        accept_map_in_open(&mut reply).unwrap();
        assert_eq!(reply[60..64], [1, 0, 0, 0]);
        assert_eq!((&reply[..60], &reply[64..]), (&named[..60], &named[64..]));

        assert_eq!(accept_map_in_open(&mut [0; 79]), Err(Refusal::NoReply));
        assert_eq!(accept_map_in_open(&mut []), Err(Refusal::NoReply));
        let mut failed = error_reply(1, errno::EIO);
        failed.resize(80, 0);
        assert_eq!(accept_map_in_open(&mut failed), Err(Refusal::NoReply));
    }

    fn open(nodeid: u64, open_flags: u32) -> Vec<u8> {
        request(OPEN, nodeid, &body(&[u32::MAX, open_flags]))
    }

    /// What is behind `fuse_open_out`: size, reserved and room.
    fn brought(nodeid: u64) -> (i32, u32, Vec<u8>) {
        let request = open(nodeid, OPEN_MAP | 1);
        assert_eq!(intercept(&request, &Files::new()), Intercepted::Open);
        let made = reply(unique(&request), &[0x55; 16]);
        let mut reply = made.clone();
        let done = complete_open(&request, &mut reply, &Files::new());
        assert_eq!(done, Completion::Done);
        assert_eq!(u32_at(&reply, 0), Some(reply.len() as u32));
        assert_eq!(reply[4..32], made[4..]);
        let word = |at| u32_at(&reply, at).unwrap();
        (word(32) as i32, word(36), reply[40..].to_vec())
    }

    #[test]
    fn an_open_brings_what_fits() {
        assert_eq!(brought(504), (504, 0, vec![0xaa; 504]));
        assert_eq!(brought(505), (-errno::ERANGE, 0, vec![0; 504]));
        assert_eq!(brought(7), (-errno::ERANGE, 0, vec![0; 504]));
        assert_eq!(brought(8), (-errno::ENODATA, 0, vec![0; 504]));
    }

    #[test]
    fn an_open_that_wants_no_map_is_left_alone() {
        let made = reply(1, &[0; 16]);
        for other in [
            open(504, 0),
            open(504, !OPEN_MAP),
            request(15, 504, &[0xff; 8]),
        ] {
            assert_eq!(intercept(&other, &Files::new()), Intercepted::Other);
            let mut reply = made.clone();
            let done = complete_open(&other, &mut reply, &Files::new());
            assert_eq!((reply, done), (made.clone(), Completion::NotWanted));
        }
        let whole = open(504, OPEN_MAP);
        for len in 0..whole.len() {
            let seen = intercept(&whole[..len], &Files::new());
            assert_eq!(seen, Intercepted::Other);
            let mut reply = made.clone();
            let done = complete_open(&whole[..len], &mut reply, &Files::new());
            assert_eq!((reply, done), (made.clone(), Completion::NotWanted));
        }
    }

    #[test]
    fn what_is_no_reply_to_open_is_left_alone() {
        let mut failed = reply(1, &[0; 16]);
        failed[4..8].copy_from_slice(&(-errno::EIO).to_le_bytes());
        let mut replies = vec![
            (failed, Completion::NoReply),
            (error_reply(1, errno::ENOENT), Completion::Failed),
        ];
        let lengths = (0..32).chain(33..40);
        replies.extend(lengths.map(|len| (vec![0; len], Completion::NoReply)));
        for (made, said) in replies {
            let mut reply = made.clone();
            let done = complete_open(&open(504, OPEN_MAP), &mut reply, &Files::new());
            assert_eq!((reply, done), (made, said));
        }
    }

    /// A server that gets its error numbers wrong: everything fails with the one it was made of.
    struct Wrong(i32);

    impl FileMaps for Wrong {
        fn map(&self, _nodeid: u64) -> Result<Vec<u8>, i32> {
            Err(self.0)
        }

        fn device(&self, _index: u32) -> Result<PathBuf, i32> {
            Err(self.0)
        }
    }

    #[test]
    fn errors_that_the_kernel_does_not_take() {
        for (errno, sent) in [
            (1, 1),
            (511, 511),
            (0, errno::EIO),
            (-errno::ENOENT, errno::EIO),
            (512, errno::EIO),
            (4095, errno::EIO),
            (i32::MAX, errno::EIO),
            (i32::MIN, errno::EIO),
        ] {
            let failed = error_reply(0x1122_3344_5566_7788, sent);
            assert_eq!(u32_at(&failed, 4), Some(-sent as u32));
            assert_eq!(error_reply(0x1122_3344_5566_7788, errno), failed);
            for opcode in [GET_FMAP, GET_DAXDEV] {
                let seen = intercept(&request(opcode, 1, &body(&[1, 0])), &Wrong(errno));
                assert_eq!(seen, Intercepted::Answer(failed.clone()), "{errno}");
            }
            // As a size it would be a map of so many bytes.
            let mut reply = reply(1, &[0; 16]);
            complete_open(&open(1, OPEN_MAP), &mut reply, &Wrong(errno));
            assert_eq!(u32_at(&reply, 32), Some(-sent as u32), "{errno}");
        }
    }

    #[test]
    fn any_kind_of_server_will_do() {
        let files: Box<dyn FileMaps> = Box::new(Files::new());
        let seen = intercept(&request(GET_DAXDEV, 3, &body(&[3, 0])), &*files);
        assert!(matches!(seen, Intercepted::Answer(reply) if reply.len() == 296));
    }

    #[test]
    fn a_map_that_fits_is_the_whole_reply() {
        assert_eq!(
            answer(&request(GET_FMAP, 7, &body(&[5000, 0]))),
            (0, vec![0xaa; 5000])
        );
        assert_eq!(
            answer(&request(GET_FMAP, 7, &body(&[4999, 0]))),
            (-errno::ERANGE, vec![])
        );
        assert_eq!(
            answer(&request(GET_FMAP, 8, &body(&[4096, 0]))),
            (-errno::ENODATA, vec![])
        );
        // No body: the room that every kernel starts with.
        assert_eq!(answer(&request(GET_FMAP, 7, &[])), (-errno::ERANGE, vec![]));
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
            (4, errno::ENAMETOOLONG),
            (6, errno::ENODEV),
            (64, errno::ENODEV),
            (u32::MAX, errno::ENODEV),
        ] {
            let request = request(GET_DAXDEV, u64::from(index), &body(&[index, 0]));
            assert_eq!(answer(&request), (-errno, vec![]));
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        for opcode in [0, 1, 3, 14, 15, 53, 56, 4096, u32::MAX] {
            let request = request(opcode, 7, &[0; 64]);
            assert_eq!(intercept(&request, &Files::new()), Intercepted::Other);
        }
        let whole = request(GET_FMAP, 7, &body(&[5000, 0]));
        for len in 0..24 {
            let seen = intercept(&whole[..len], &Files::new());
            assert_eq!(seen, Intercepted::Other);
        }
    }
}
