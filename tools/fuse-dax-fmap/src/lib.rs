// SPDX-License-Identifier: GPL-2.0
//! File maps for FUSE servers whose files live in DAX memory.
//!
//! A server that wants its files mapped answers two requests and changes one
//! reply, or two of them. This crate does that, on bytes, next to whatever serves
//! the rest of FUSE:
//!
//! ```text
//!  /dev/fuse --> intercept() --+--> Intercepted::Other ---> FUSE crate -----------> /dev/fuse
//!                              +--> Intercepted::Init ----> FUSE crate -> accept() -> /dev/fuse
//!                              +--> Intercepted::Open ----> FUSE crate -> complete_open()
//!                              |                                                 +--> /dev/fuse
//!                              +--> Intercepted::Answer --------------------------> /dev/fuse
//! ```
//!
//! * INIT carries the kernel's offer; [`accept()`] writes the name of the wanted
//!   ops into the reply that the FUSE crate made.
//! * GET_FMAP asks for the map of a file, GET_DAXDEV for the path of a device:
//!   [`intercept()`] answers both from a [`FileMaps`].
//! * OPEN may bring a small map along, which saves the request for it:
//!   [`complete_open()`] appends it to the reply that the FUSE crate made. A server
//!   need not: it is asked for that only if it promised it with
//!   [`accept_map_in_open()`].
//!
//! The map itself is opaque here, as it is to the kernel. [`striped`] writes and reads one
//! format, [`famfs`] writes another; a server with BPF programs of its own brings its own.
//!
//! A server has to answer INIT in any case: one that is not answered leaves a mount on
//! which every system call waits.
//!
//! ```
//! use fuse_dax_fmap::{
//!     Completion, FileMaps, Intercepted, OpsName, Refusal, accept, accept_map_in_open,
//!     complete_open, errno, error_reply, intercept, striped, unique,
//! };
//! use std::path::PathBuf;
//! use std::sync::Mutex;
//!
//! /// One file, on a device that may get another name while it is served.
//! struct OneFile {
//!     device: Mutex<PathBuf>,
//! }
//!
//! impl FileMaps for OneFile {
//!     fn map(&self, _nodeid: u64) -> Result<Vec<u8>, i32> {
//!         let extents = [striped::Extent::linear(2 << 20, 0, 0)];
//!         striped::encode(1_000_000, &extents).map_err(|_| errno::EIO)
//!     }
//!     fn device(&self, _index: u32) -> Result<PathBuf, i32> {
//!         let device = self.device.lock().map_err(|_| errno::EIO)?;
//!         Ok(device.clone())
//!     }
//! }
//!
//! /// What goes back to `/dev/fuse`. With a [`Refusal`] it is an error, and mount(2) fails, or
//! /// whatever is done on the mount; the server says why, unmounts and ends.
//! fn answer_init(
//!     offer: fuse_dax_fmap::Offer,
//!     reply: &mut Vec<u8>,
//!     ops: &OpsName,
//! ) -> Result<(), Refusal> {
//!     offer.check()?;
//!     accept(reply, ops)?;
//!     accept_map_in_open(reply)
//! }
//!
//! fn serve(request: &[u8], files: &OneFile, ops: &OpsName) -> (Vec<u8>, Option<Refusal>) {
//!     match intercept(request, files) {
//!         Intercepted::Answer(reply) => (reply, None),
//!         Intercepted::Init(offer) => {
//!             let mut reply = fuse_crate(request);
//!             match answer_init(offer, &mut reply, ops) {
//!                 Ok(()) => (reply, None),
//!                 Err(refusal) => (error_reply(unique(request), errno::EPROTO), Some(refusal)),
//!             }
//!         }
//!         Intercepted::Open => {
//!             let mut reply = fuse_crate(request);
//!             if complete_open(request, &mut reply, files) == Completion::NoReply {
//!                 reply = error_reply(unique(request), errno::EIO);
//!             }
//!             (reply, None)
//!         }
//!         Intercepted::Other => (fuse_crate(request), None),
//!     }
//! }
//!
//! # // A FUSE crate that has an answer to INIT only.
//! # fn fuse_crate(request: &[u8]) -> Vec<u8> {
//! #     let mut reply = error_reply(unique(request), 0);
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
//! let files = OneFile { device: Mutex::new("/dev/dax0.0".into()) };
//! let ops: OpsName = striped::OPS_NAME.parse()?;
//!
//! // A kernel that offers maps.
//! let (reply, refusal) = serve(&init(b"FMAP"), &files, &ops);
//! assert_eq!((&reply[64..71], refusal), (&b"striped"[..], None));
//!
//! // One that does not is answered, too.
//! let (reply, refusal) = serve(&init(&[0; 4]), &files, &ops);
//! assert_eq!(reply, error_reply(7, errno::EPROTO));
//! assert_eq!(refusal, Some(Refusal::NoOffer));
//! # Ok::<(), fuse_dax_fmap::BadOpsName>(())
//! ```
//!
//! # Which FUSE crate
//!
//! What a crate has to allow is a look at each request before it does, and a
//! change of its replies to INIT and OPEN.
//!
//! * **fuse-backend-rs** allows both, and fmapfs uses it: its server decodes any
//!   byte slice and writes to any file descriptor, or into a buffer. So the server
//!   reads `/dev/fuse` itself, and lets the crate answer INIT and OPEN into a buffer.
//!   That is some 30 lines, and every other opcode is the crate's work. (Its own
//!   channel would lend one buffer to request and reply, and report an unmount as
//!   an error like any other.)
//! * **A raw loop** has complete control and no dependencies, at the price of
//!   every structure of FUSE and every version of it, once more. Right for a test
//!   that must send a malformed reply, wrong for a file system.
//! * **fuser** keeps its loop to itself and answers opcodes that it does not know
//!   with ENOSYS. It works behind a socket pair that a server puts between
//!   `/dev/fuse` and the crate, which costs two copies of each message.

mod extent;
pub mod famfs;
pub mod striped;
mod wire;

pub use wire::*;
