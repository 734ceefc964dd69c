// SPDX-License-Identifier: GPL-2.0

//! The virtual file system.

pub(crate) mod address_space;
pub(crate) mod backing_file;
pub(crate) mod dax;
pub(crate) mod dentry;
pub(crate) mod file;
pub(crate) mod fuse;
pub(crate) mod inode;
pub(crate) mod kiocb;
pub(crate) mod path;
pub(crate) mod super_block;
pub(crate) mod super_hooks;
