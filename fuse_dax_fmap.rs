// SPDX-License-Identifier: GPL-2.0

//! fuse_dax_fmap: FUSE files that live in DAX memory, mapped by BPF, on an unpatched kernel.
//!
//! A FUSE server describes a file in any format it likes, a BPF program that it registered turns
//! that into mappings, and after `open()` every read, write and page fault goes straight to memory.
//!
//! The layers, from the top down. A file uses none of a higher layer, and there are no circles
//! (`scripts/check-layers`).
//!
//! | layer            | knows                                                                     |
//! |------------------|---------------------------------------------------------------------------|
//! | `attach`         | how a superblock becomes an fmap mount: INIT, hooks, opening a file       |
//! | `iomap`          | a mapped inode: `iomap_begin`, faults, reads, writes, writeback           |
//! | `sb_info`        | the state of an fmap mount, to which every mapped inode points            |
//! | `bpf_struct_ops` | how the BPF core hands ops over: the type, the verifier's policy, kfuncs  |
//! | `daxdev`         | the devices of a mount and their failure                                  |
//! | `fmap_ops`       | what ops are: names, the registry, how their programs are called          |
//! | `fuse`           | FUSE as it is: requests to a server, the mounter                          |
//! | `abstractions`   | objects of the kernel as safe types                                       |
//!
//! The other files are used by several layers, and use none but `abstractions`. What is done
//! without locks is in `lockless`, which runs on the host, too (`tools/model`).

// In a pattern, a constant that does not exist, such as an errno that the prelude lacks, is no
// error: it becomes a variable that matches everything. What the compiler notices of that is an
// error here.
#![deny(irrefutable_let_patterns, non_snake_case, unreachable_patterns)]

use core::sync::atomic as atomics;

use kernel::prelude::*;

use crate::abstractions::{
    build_id::BuildId,
    debugfs, //
};

mod abstractions;
mod attach;
mod bindings;
mod bpf_struct_ops;
mod compat;
mod daxdev;
mod fmap_ops;
mod fuse;
mod iomap;
mod lockless;
mod open_error;
mod ratelimit;
mod sb_info;
mod single_flight;
mod stats;

module! {
    type: FuseDaxFmap,
    name: "fuse_dax_fmap",
    authors: ["The fuse_dax_fmap authors"],
    description: "FUSE files in DAX memory, mapped by BPF",
    license: "GPL",
}

/// Everything that the module registers. Fields are dropped in this order.
///
/// The struct_ops type is not among them: it is unregistered with the module's BTF.
#[pin_data]
struct FuseDaxFmap {
    /// The lists in debugfs.
    _debugfs: debugfs::Dir,
    /// The probes and the fsnotify group, which report new mounts and opens.
    _hooks: attach::Hooks,
}

/// Checks that the running kernel is the build that the module was built for.
///
/// Version magic holds little more than the release: a kernel that was built again with another
/// patch has the same version magic, and the layouts that the module takes from the kernel's
/// headers and BTF may differ.
///
/// # Errors
///
/// [`ENOEXEC`], as for version magic, if it is another build.
fn check_kernel() -> Result {
    // If the kernel tree has no build id, the build has said that nothing is compared.
    let Some(tree) = BuildId::of_tree() else {
        return Ok(());
    };
    match BuildId::of_kernel() {
        Some(kernel) if kernel == tree => Ok(()),
        Some(kernel) => {
            pr_err!("built for the kernel with the build id {tree}, and this one has {kernel}: build the module for it\n");
            Err(ENOEXEC)
        }
        None => {
            pr_err!("built for the kernel with the build id {tree}, and this one does not tell which it has\n");
            Err(ENOEXEC)
        }
    }
}

impl kernel::InPlaceModule for FuseDaxFmap {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            check_kernel()?;
            bpf_struct_ops::register()?;
            daxdev::init()?;
            let hooks = attach::Hooks::new().inspect_err(|_| daxdev::drain())?;
            let debugfs = debugfs::Dir::new(c"fuse_dax_fmap");
            debugfs.file::<attach::MountList>(c"mounts");
            debugfs.file::<attach::DeviceList>(c"devices");
            debugfs.file::<attach::FileList>(c"files");
            attach::loaded();

            Ok(try_pin_init!(Self {
                _debugfs: debugfs,
                _hooks: hooks,
            }? Error))
        })
    }
}
