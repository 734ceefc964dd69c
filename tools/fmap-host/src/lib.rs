// SPDX-License-Identifier: GPL-2.0
//! What this machine tells of its DAX devices, its mounts and their users: sysfs, /proc and the
//! module's debugfs, read for fmapfs and fmapctl. Nothing here changes anything, and no request
//! is sent to a FUSE server, which may be dead, or stuck.

pub mod attached;
pub mod detail;
pub mod device;
pub mod holder;
pub mod identity;
pub mod mountinfo;
pub mod process;
pub mod reason;
mod sysfs;
