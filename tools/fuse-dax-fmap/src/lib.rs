// SPDX-License-Identifier: MIT OR Apache-2.0
//! File maps for FUSE servers whose files live in DAX memory.
//!
//! With the kernel module fuse_dax_fmap, a FUSE server can hand out files that are ranges of CXL
//! or persistent memory: after `open()` every read, write and page fault goes straight to that
//! memory, and never to the server. The server tells once per file where it is, in a *map*,
//! whose format a BPF program in the kernel understands: the *ops* that the server names.
//!
//! This crate implements the module's part of the FUSE protocol, on bytes, beside the code that
//! serves the rest of FUSE. It has no dependencies, and does no I/O.
//!
//! ```text
//!  /dev/fuse --> Offer::of() ---------------> FUSE crate --> Offer::accept() --+
//!      |          (INIT, once)                                    |            |
//!      |                                                        Accepted       |
//!      |                                                          |            |
//!      +--> Accepted::intercept() --+--> Other --> FUSE crate -----------------+--> /dev/fuse
//!                                   +--> Open ---> FUSE crate --> complete() --+
//!                                   +--> Answer -------------------------------+
//! ```
//!
//! * INIT, the first request of a connection, carries the kernel's [`Offer`].
//!   [`Offer::accept()`] writes the name of the wanted ops into the reply that the FUSE crate
//!   made, and returns an [`Accepted`]. Without one there are no maps.
//! * GET_FMAP asks for the map of a file, GET_DAXDEV for the path of a device:
//!   [`Accepted::intercept()`] answers both from a [`FileMaps`].
//! * The reply to OPEN may carry a small map, which saves the request for it:
//!   [`PendingOpen::complete()`] appends it to the reply that the FUSE crate made. This is
//!   optional: the kernel asks for it only if the server promised it
//!   ([`Wanted::with_map_in_open()`]).
//!
//! The map itself is opaque here, as it is to the kernel. [`striped`] writes and reads one
//! format, [`famfs`] writes another; a server with its own BPF programs has its own format.
//!
//! ```
//! use std::borrow::Cow;
//! use std::path::{Path, PathBuf};
//! use std::sync::Mutex;
//!
//! use fuse_dax_fmap::{Accepted, Errno, FileMaps, Intercepted, Offer, OpsName, Wanted, striped};
//!
//! /// One file, on a device that may get another name while it is served.
//! struct OneFile {
//!     map: Vec<u8>,
//!     device: Mutex<PathBuf>,
//! }
//!
//! impl FileMaps for OneFile {
//!     fn map(&self, _nodeid: u64) -> Result<Cow<'_, [u8]>, Errno> {
//!         Ok(Cow::Borrowed(&self.map))
//!     }
//!     fn device(&self, _index: u32) -> Result<Cow<'_, Path>, Errno> {
//!         let device = self.device.lock().map_err(|_| Errno::EIO)?;
//!         Ok(Cow::Owned(device.clone()))
//!     }
//! }
//!
//! /// The first request. A server that can do without maps sends the reply as it is if there is
//! /// a refusal; this one fails the mount, and says why.
//! fn start(init: &[u8], ops: OpsName) -> (Vec<u8>, Result<Accepted, String>) {
//!     let Some(offer) = Offer::of(init) else {
//!         return (Vec::new(), Err("the first request is no INIT".to_owned()));
//!     };
//!     let mut reply = fuse_crate(init);
//!     match offer.accept(&mut reply, &Wanted::ops(ops).with_map_in_open()) {
//!         Ok(accepted) => (reply, Ok(accepted)),
//!         Err(refusal) => (offer.refuse(), Err(refusal.to_string())),
//!     }
//! }
//!
//! /// All others.
//! fn serve(accepted: &Accepted, request: &[u8], files: &OneFile) -> Vec<u8> {
//!     match accepted.intercept(request, files) {
//!         Intercepted::Answer(reply) => reply,
//!         Intercepted::Open(open) => {
//!             let mut reply = fuse_crate(request);
//!             open.complete(&mut reply, files);
//!             reply
//!         }
//!         _ => fuse_crate(request),
//!     }
//! }
//!
//! # // A FUSE crate that has an answer to INIT only.
//! # fn fuse_crate(request: &[u8]) -> Vec<u8> {
//! #     let mut reply = fuse_dax_fmap::error_reply(fuse_dax_fmap::unique(request), Errno::EIO);
//! #     reply[4..8].fill(0);
//! #     reply.resize(80, 0);
//! #     reply[0] = 80;
//! #     reply
//! # }
//! # fn init(magic: &[u8; 4]) -> Vec<u8> {
//! #     let mut request = vec![0; 104];
//! #     (request[0], request[4], request[8]) = (104, 26, 7);
//! #     request[96..100].copy_from_slice(magic);
//! #     request[100] = 1;
//! #     request
//! # }
//! let extents = [striped::Extent::linear(2 << 20, 0, 0)];
//! let files = OneFile {
//!     map: striped::encode(1_000_000, &extents)?,
//!     device: Mutex::new("/dev/dax0.0".into()),
//! };
//! let ops: OpsName = striped::OPS_NAME.parse()?;
//!
//! // A kernel that offers maps, and asks for one.
//! let (reply, accepted) = start(&init(b"FMAP"), ops);
//! assert_eq!(&reply[64..71], b"striped");
//! # let mut get_fmap = vec![0; 48];
//! # (get_fmap[0], get_fmap[4], get_fmap[16], get_fmap[41]) = (48, 54, 2, 16);
//! let reply = serve(&accepted?, &get_fmap, &files);
//! assert_eq!(&reply[16..20], b"STRP");
//!
//! // One that does not is answered, too.
//! let (reply, accepted) = start(&init(&[0; 4]), ops);
//! assert_eq!(reply[4..8], (-71_i32).to_le_bytes());
//! assert!(accepted.unwrap_err().contains("the kernel offers no file maps"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The directory `examples` has whole servers, which mount.
//!
//! # Which FUSE crate
//!
//! A crate has to let the server see each request before the crate handles it, and change its
//! replies to INIT and OPEN.
//!
//! * **fuse-backend-rs** allows both, and fmapfs uses it: its server decodes any byte slice and
//!   writes to any file descriptor, or into a buffer. So the server reads `/dev/fuse` itself,
//!   and lets the crate answer INIT and OPEN into a buffer. That is some 30 lines, and every
//!   other opcode is the crate's work. (Its own channel would use one buffer for request and
//!   reply, and would not tell an unmount from an error.)
//! * **A raw loop** has complete control and no dependencies, but has to implement every
//!   structure of FUSE and every version of it. Right for a test that must send a malformed
//!   reply, wrong for a file system.
//! * **fuser** has a private loop and answers unknown opcodes with ENOSYS. It works behind a
//!   socket pair that a server puts between `/dev/fuse` and the crate
//!   (`examples/with_fuser.rs`), which costs two copies of each message; once its files are
//!   mapped there are few.
//!
//! # Features
//!
//! * `striped` (default): the format [`striped`].
//! * `famfs` (default): the format [`famfs`].
//!
//! # The header
//!
//! `include/linux/fuse_dax_fmap.h`, which comes with this crate, is the whole protocol, for
//! servers in C and for BPF objects. The tests of this crate compare it with the numbers here.

#![warn(missing_debug_implementations, rust_2018_idioms, unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod errno;
#[cfg(any(feature = "famfs", feature = "striped"))]
mod extent;
#[cfg(feature = "famfs")]
#[cfg_attr(docsrs, doc(cfg(feature = "famfs")))]
pub mod famfs;
mod init;
pub mod module;
mod ops;
mod requests;
#[cfg(feature = "striped")]
#[cfg_attr(docsrs, doc(cfg(feature = "striped")))]
pub mod striped;
mod wire;

pub use errno::Errno;
pub use init::{Accepted, Offer, Refusal, Wanted};
pub use ops::{BadOpsName, OPS_NAME_LEN, OPS_SIZE, OpsName};
pub use requests::{Completion, FileMaps, Intercepted, PendingOpen};
pub use wire::{
    ABI_VERSION, BLOB_MAX, BLOB_MIN, DEVICES_MAX, GET_DAXDEV, GET_FMAP, MAGIC, OPEN_MAP_MAX,
    error_reply, opcode, unique,
};

/// The example in README compiles.
#[cfg(all(doctest, feature = "striped"))]
#[doc = include_str!("../README.md")]
struct Readme;
