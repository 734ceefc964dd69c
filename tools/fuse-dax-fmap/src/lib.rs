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
//! The map itself is opaque here, as it is to the kernel. [`striped`] encodes one
//! format; a server with BPF programs of its own brings its own.
//!
//! ```
//! use fuse_dax_fmap::{
//!     FileMaps, Intercepted, OpsName, accept, accept_map_in_open, complete_open, errno, intercept,
//!     striped,
//! };
//! use std::path::Path;
//!
//! struct OneFile;
//!
//! impl FileMaps for OneFile {
//!     fn map(&self, _nodeid: u64) -> Result<Vec<u8>, i32> {
//!         let extents = [striped::Extent::linear(2 << 20, 0, 0)];
//!         striped::encode(1_000_000, &extents).map_err(|_| errno::EIO)
//!     }
//!     fn device(&self, _index: u32) -> Result<&Path, i32> {
//!         Ok(Path::new("/dev/dax0.0"))
//!     }
//! }
//!
//! # fn fuse_crate(_: &[u8]) -> Vec<u8> { vec![0; 80] }
//! fn serve(request: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
//!     let name: OpsName = striped::OPS_NAME.parse()?;
//!     match intercept(request, &OneFile) {
//!         Intercepted::Answer(reply) => Ok(reply),
//!         Intercepted::Init(offer) => {
//!             let mut reply = fuse_crate(request);
//!             offer.check()?;
//!             accept(&mut reply, &name)?;
//!             accept_map_in_open(&mut reply)?;
//!             Ok(reply)
//!         }
//!         Intercepted::Open => {
//!             let mut reply = fuse_crate(request);
//!             complete_open(request, &mut reply, &OneFile);
//!             Ok(reply)
//!         }
//!         Intercepted::Other => Ok(fuse_crate(request)),
//!     }
//! }
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

pub mod striped;
mod wire;

pub use wire::*;
