// SPDX-License-Identifier: GPL-2.0

//! How the module gets between FUSE and the VFS: what attaches to a superblock, and what an open
//! goes through.
//!
//! FUSE has no hooks. All of this rests on exported interfaces.
//!
//! # A mount's way to us
//!
//! 1. **INIT** (`init`) is seen by two tracepoint probes. When it is sent, the task that mounts is
//!    current: if it has CAP_SYS_RAWIO and mounts for itself, an offer is written into the request
//!    and kept. When it ends, the server's answer is read. The first probe runs under a spin lock
//!    and never sleeps.
//! 2. **Bind** (`init`): if the answer names ops, the offer becomes a `Connection`, and the
//!    superblock gets a copy of FUSE's `super_operations` with four functions of ours. The copy is
//!    the first member of what has the connection ([`Hooked`]): that is the way from any inode to
//!    it.
//! 3. **Open** (`open`): a fsnotify mark on the superblock reports each open before `->open()` is
//!    called. A regular file then gets the *gate*, FUSE's `file_operations` with our `->open()`.
//!    That settles whether the file is mapped, and hands over to the operations of a mapped file or
//!    back to FUSE's own. The map may come with the answer to OPEN (`map_in_open`), for which the
//!    first probe of requests adds to FUSE's request, or is asked for (`first_open`). A plain file
//!    never passes through our code again (but for one that is open for neither reading nor
//!    writing).
//! 4. **put_super** undoes it all, after the last inode is gone.
//!
//! # Who keeps the module
//!
//! An offer, and then the connection, owns a reference to it (in its `Mounter`), given up last. A
//! few instructions of ours are still to run then; [`Hooks`] waits for them when the module goes
//! away.
//!
//! # Locks
//!
//! `OFFERS`, `WANTED`, `MOUNTS` and that of a `Superblock` are leaves. In this order: FUSE's
//! `fiq->lock`, `OFFERS` or `WANTED`; a request's `waitq.lock`, the ops' registry, `MOUNTS`. An
//! open takes no lock of FUSE or the VFS.

mod connection;
mod first_open;
mod hooks;
mod init;
mod mark;
mod open;
mod open_shim;
mod umount;

pub(crate) use connection::MountList;
pub(crate) use hooks::Hooks;
pub(crate) use init::loaded;
