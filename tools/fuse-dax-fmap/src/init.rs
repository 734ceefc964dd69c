// SPDX-License-Identifier: MIT OR Apache-2.0
//! INIT: the kernel's offer, and the server's answer to it.

use std::error;
use std::fmt;

use crate::errno::Errno;
use crate::ops::{OPS_NAME_LEN, OpsName};
use crate::requests::{self, FileMaps, Intercepted};
use crate::wire::{
    ABI_VERSION, IN_NODEID, INIT, INIT_IN_MAGIC, INIT_IN_VERSION, INIT_OUT, INIT_OUT_FLAGS,
    INIT_OUT_NAME, MAGIC, MAP_IN_OPEN, OUT_ERROR, OUT_HEADER, error_reply, opcode, u32_at, u64_at,
    unique,
};

/// What the kernel offers in INIT, the first request of a connection.
///
/// A server has to answer each INIT, also if nothing is offered: without an answer, every system
/// call on the mount waits.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the mount waits for an answer to INIT"]
pub struct Offer {
    unique: u64,
    version: Option<u32>,
}

impl Offer {
    /// The offer in a request; `None` if it is another request than INIT.
    pub fn of(request: &[u8]) -> Option<Self> {
        u64_at(request, IN_NODEID)?;
        if opcode(request) != Some(INIT) {
            return None;
        }
        let magic = u32_at(request, INIT_IN_MAGIC);
        let version = u32_at(request, INIT_IN_VERSION);
        Some(Self {
            unique: unique(request),
            version: version.filter(|_| magic == Some(MAGIC)),
        })
    }

    /// The version of the protocol that the kernel offers; `None` if it offers nothing.
    pub fn version(&self) -> Option<u32> {
        self.version
    }

    /// Returns `Ok` if [`accept()`](Self::accept) can succeed, for a server that has to know
    /// before it makes a reply.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoOffer`] and [`Refusal::Version`].
    pub fn check(&self) -> Result<(), Refusal> {
        match self.version {
            Some(ABI_VERSION) => Ok(()),
            Some(other) => Err(Refusal::Version(other)),
            None => Err(Refusal::NoOffer),
        }
    }

    /// Adds what the server wants to the reply to INIT that a FUSE crate made.
    ///
    /// # Errors
    ///
    /// A [`Refusal`]; the reply is unchanged, and there will be no file maps. The server may
    /// send the reply, and serve plain FUSE, or fail the mount with [`refuse()`](Self::refuse).
    pub fn accept(&self, reply: &mut [u8], wanted: &Wanted) -> Result<Accepted, Refusal> {
        self.check()?;
        let failed = u32_at(reply, OUT_ERROR) != Some(0);
        if failed || reply.len() < OUT_HEADER + INIT_OUT {
            return Err(Refusal::NoReply);
        }
        let Wanted { ops, map_in_open } = *wanted;
        reply[INIT_OUT_NAME..INIT_OUT_NAME + OPS_NAME_LEN].copy_from_slice(&ops.to_bytes());
        if map_in_open {
            reply[INIT_OUT_FLAGS..INIT_OUT_FLAGS + 4].copy_from_slice(&MAP_IN_OPEN.to_le_bytes());
        }
        Ok(Accepted { map_in_open })
    }

    /// The reply that fails the mount: mount(2), or each operation on it, returns an error.
    pub fn refuse(&self) -> Vec<u8> {
        error_reply(self.unique, Errno::EPROTO)
    }
}

/// What a server wants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    ops: OpsName,
    map_in_open: bool,
}

impl Wanted {
    /// Maps that the ops of this name understand.
    pub const fn ops(ops: OpsName) -> Self {
        Self {
            ops,
            map_in_open: false,
        }
    }

    /// Maps in the replies to OPEN, too: the server promises to complete each reply to
    /// [`Intercepted::Open`].
    ///
    /// It saves a request per file. A kernel without this feature sends GET_FMAP, so there is
    /// nothing to check.
    #[must_use]
    pub const fn with_map_in_open(self) -> Self {
        Self {
            map_in_open: true,
            ..self
        }
    }
}

/// A connection whose offer the server has accepted: the kernel asks for maps.
///
/// Only [`Offer::accept()`] makes it. Threads that read from the same connection each have a
/// copy, or share one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the kernel will ask for maps"]
pub struct Accepted {
    map_in_open: bool,
}

impl Accepted {
    /// Looks at a request, as read from `/dev/fuse`, before the FUSE crate does.
    pub fn intercept(&self, request: &[u8], maps: &(impl FileMaps + ?Sized)) -> Intercepted {
        requests::intercept(request, maps, self.map_in_open)
    }
}

/// Why there will be no file maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// No module, or a mount without CAP_SYS_RAWIO.
    NoOffer,
    /// A kernel with another version of the protocol.
    Version(u32),
    /// The reply to INIT is an error, or too short for the flags and the name of ops.
    NoReply,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::IN_HEADER;

    fn init(words: &[(usize, u32)], len: usize) -> Offer {
        let mut request = vec![0; IN_HEADER + len];
        request[4] = INIT as u8;
        request[8] = 7;
        for &(at, word) in words {
            request[IN_HEADER + at..IN_HEADER + at + 4].copy_from_slice(&word.to_le_bytes());
        }
        Offer::of(&request).unwrap()
    }

    fn offered() -> Offer {
        init(&[(56, MAGIC), (60, 1)], 64)
    }

    fn striped() -> Wanted {
        Wanted::ops("striped".parse().unwrap())
    }

    #[test]
    fn the_offer_is_in_the_last_two_words_of_init() {
        let other = |version| init(&[(56, MAGIC), (60, version)], 64);
        assert_eq!(offered().version(), Some(1));
        assert_eq!(offered().check(), Ok(()));
        assert_eq!(other(2).check(), Err(Refusal::Version(2)));
        assert_eq!(other(0).check(), Err(Refusal::Version(0)));

        for none in [
            init(&[], 64),
            init(&[(56, MAGIC + 1), (60, 1)], 64),
            init(&[(52, MAGIC), (56, 1)], 64),
            // Kernels before 5.17 sent 16 bytes.
            init(&[], 16),
            init(&[(56, MAGIC)], 60),
        ] {
            assert_eq!(none.version(), None);
            assert_eq!(none.check(), Err(Refusal::NoOffer));
        }
    }

    #[test]
    fn other_requests_offer_nothing() {
        for opcode in [0, 1, 14, 25, 27, 54, 55, u32::MAX] {
            let mut request = vec![0; 104];
            request[4..8].copy_from_slice(&opcode.to_le_bytes());
            assert_eq!(Offer::of(&request), None);
        }
        let mut request = vec![0; 24];
        request[4] = INIT as u8;
        assert!(Offer::of(&request).is_some());
        assert_eq!(Offer::of(&request[..23]), None);
    }

    #[test]
    fn the_name_ends_the_reply_to_init() {
        let mut reply = vec![0; 80];
        let accepted = offered().accept(&mut reply, &striped()).unwrap();
        assert!(!accepted.map_in_open);
        assert_eq!(&reply[..64], [0; 64]);
        assert_eq!(&reply[64..], b"striped\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn the_promise_is_in_front_of_the_name() {
        let (mut named, mut promised) = (vec![0; 80], vec![0; 80]);
        assert!(offered().accept(&mut named, &striped()).is_ok());
        let wanted = striped().with_map_in_open();
        assert!(
            offered()
                .accept(&mut promised, &wanted)
                .unwrap()
                .map_in_open
        );
        assert_eq!(promised[60..64], [1, 0, 0, 0]);
        assert_eq!(promised[..60], named[..60]);
        assert_eq!(promised[64..], named[64..]);
    }

    #[test]
    fn a_refusal_leaves_the_reply_alone() {
        let mut failed = error_reply(1, Errno::EIO);
        failed.resize(80, 0);
        let good = vec![0; 80];
        for (offer, made, refusal) in [
            (offered(), vec![0; 79], Refusal::NoReply),
            (offered(), vec![], Refusal::NoReply),
            (offered(), failed, Refusal::NoReply),
            (init(&[], 64), good.clone(), Refusal::NoOffer),
            (init(&[(56, MAGIC)], 64), good, Refusal::Version(0)),
        ] {
            let mut reply = made.clone();
            let wanted = striped().with_map_in_open();
            assert_eq!(offer.accept(&mut reply, &wanted), Err(refusal));
            assert_eq!(reply, made);
            assert_eq!(offer.refuse(), error_reply(7, Errno::EPROTO));
        }
    }
}
