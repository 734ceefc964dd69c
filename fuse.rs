// SPDX-License-Identifier: GPL-2.0

//! FUSE as it is: requests of the module to a server, maps in answers to OPEN, and the mounter.
//!
//! FUSE's structures are private. What the module knows of them is in `abstractions/fs/fuse.rs`,
//! and relies on exported functions, and on layouts from the BTF of the very kernel the module is
//! built for. How the module gets between FUSE and the VFS is in `attach`.

use crate::bindings::kernel as c;

mod map_in_open;
mod mounter;
mod request;
mod tables;

pub(crate) use crate::abstractions::fs::fuse::{
    is_bad,
    Inode, //
};
pub(crate) use map_in_open::{
    ask_for_map,
    MapInOpen,
    WANTED, //
};
pub(crate) use mounter::{
    ModuleRef,
    Mounter, //
};
pub(crate) use request::{
    get_daxdev,
    get_fmap, //
};
pub(crate) use tables::{
    COperations,
    Table,
    MAKING_TABLES, //
};

pub(crate) const BLOB_MIN: u32 = c::FUSE_DAX_FMAP_BLOB_MIN;
pub(crate) const BLOB_MAX: u32 = c::FUSE_DAX_FMAP_BLOB_MAX;
pub(crate) const BLOB_WITH_OPEN: u32 = c::FUSE_DAX_FMAP_OPEN_MAP_MAX;
