// SPDX-License-Identifier: GPL-2.0

//! fuse_dax_fmap: FUSE files that live in DAX memory, mapped by BPF, on a kernel nobody patched.
//!
//! A FUSE server describes a file in any format it likes, a BPF program that it registered turns
//! that into mappings, and from `open()` on every read, write and page fault goes straight to
//! memory.
//!
//! | room             | knows                                                                    |
//! |------------------|--------------------------------------------------------------------------|
//! | `fuse`           | FUSE's private structures: INIT, binding a superblock, sending a request |
//! | `fmap_ops`       | opening a file: GET_FMAP, parse, publish; the registry of named ops      |
//! | `daxdev`         | GET_DAXDEV, the devices of a mount and their failure                     |
//! | `iomap`          | `iomap_begin` and the operations of a mapped file                        |
//! | `bpf_struct_ops` | the struct_ops type, the verifier's policy, the kfuncs                   |
//!
//! Only the rooms that wrap raw bindings contain `unsafe`. What they do without locks is in
//! `lockless`, which runs on the host, too (`tools/model`).

// A constant that is not there, such as an errno that the prelude lacks, is no error in a pattern:
// it becomes a variable that matches everything. What the compiler notices of that is an error
// here.
#![deny(irrefutable_let_patterns, non_snake_case, unreachable_patterns)]

use core::sync::atomic as atomics;

use kernel::{
    c_str,
    debugfs,
    prelude::*, //
};

mod abstractions;
mod bindings;
mod bpf_struct_ops;
mod daxdev;
mod fmap_ops;
mod fuse;
mod iomap;
mod lockless;
mod ratelimit;
mod stats;

module! {
    type: FuseDaxFmap,
    name: "fuse_dax_fmap",
    authors: ["The fuse_dax_fmap authors"],
    description: "FUSE files in DAX memory, mapped by BPF",
    license: "GPL",
}

/// Everything that is registered. The order of the fields is the order in which it goes away.
///
/// The struct_ops type is not among them: it goes with the module's BTF.
#[pin_data]
struct FuseDaxFmap {
    /// The list of bound mounts, for users.
    #[pin]
    mounts: debugfs::File<fuse::Mounts>,
    /// Keeps the directory of that file.
    _dir: debugfs::Dir,
    /// What finds new mounts and opens.
    _hooks: fuse::Hooks,
}

impl kernel::InPlaceModule for FuseDaxFmap {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            daxdev::init()?;
            bpf_struct_ops::register()?;
            let hooks = fuse::Hooks::new()?;
            let dir = debugfs::Dir::new(c_str!("fuse_dax_fmap"));
            fuse::loaded();

            Ok(try_pin_init!(Self {
                mounts <- dir.read_callback_file(c_str!("mounts"), fuse::Mounts, &fuse::Mounts::show),
                _dir: dir.clone(),
                _hooks: hooks,
            }? Error))
        })
    }
}
