// SPDX-License-Identifier: GPL-2.0

//! How the module gets between FUSE and the VFS: how a superblock becomes an fmap mount, and what
//! an open goes through.
//!
//! FUSE has no hooks. The module uses exported interfaces alone.
//!
//! # From a FUSE mount to an fmap mount
//!
//! 1. **INIT** (`init`) is seen by two tracepoint probes. When it is sent, the mounter is the
//!    current task: if it has CAP_SYS_RAWIO and mounts for itself, the first probe writes an offer
//!    into the request and keeps an `Offer`. When it ends, the second probe reads the server's
//!    answer. The first probe may run under a spin lock and never sleeps.
//! 2. **Attach** (`init`): if the answer names ops, the offer becomes a `Connection`, and the
//!    superblock gets a copy of FUSE's `super_operations` with four functions of the module. The
//!    copy is the first member of the [`Hooked`] that has the connection, so the module finds the
//!    connection from any inode.
//! 3. **Open** (`open`): an fsnotify mark on the superblock reports each open before `->open()` is
//!    called. A regular file then gets the *open shim*, FUSE's `file_operations` with the module's
//!    `->open()`. It finds out whether the inode is mapped, and gives the file the operations of a
//!    mapped file, or FUSE's own. The map comes with the answer to OPEN (`map_in_open`), for which
//!    the first probe extends FUSE's request, or with the answer to GET_FMAP (`first_open`). A file
//!    that is opened when its inode is known to be plain does not enter the module after that.
//! 4. **put_super** undoes all of this, once the superblock has no inodes.
//!
//! # References to the module
//!
//! An offer, and then the connection, owns a reference to the module (in its `Mounter`), and drops
//! it last. A few instructions of the module still run after that; [`Hooks`] waits for them when
//! the module is unloaded.
//!
//! # Locks
//!
//! `OFFERS`, `WANTED`, `MOUNTS` and the lock of a `Superblock` are leaves. In this order: FUSE's
//! `fiq->lock`, `OFFERS` or `WANTED`; a request's `waitq.lock`, the ops' registry, `MOUNTS`. An
//! open takes no lock of FUSE or the VFS.

mod connection;
mod first_open;
mod hooks;
mod init;
mod lists;
mod mark;
mod open;
mod open_shim;
mod umount;

pub(crate) use hooks::Hooks;
pub(crate) use init::loaded;
pub(crate) use lists::{
    DeviceList,
    FileList,
    MountList, //
};
