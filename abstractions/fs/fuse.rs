// SPDX-License-Identifier: GPL-2.0

//! Objects of FUSE.
//!
//! Their layouts are private to FUSE. The bindings are generated from the BTF of the kernel that
//! the module is built for.
//!
//! C headers: [`fs/fuse/fuse_i.h`](srctree/fs/fuse/fuse_i.h),
//! [`fs/fuse/dev.h`](srctree/fs/fuse/dev.h)

mod mount;
mod request;

pub(crate) use mount::{
    is_bad,
    ChannelId,
    Inode,
    Mount,
    Mounting, //
};
pub(crate) use request::{
    Args,
    InitAnswer,
    Request,
    RequestArgs,
    RequestId,
    Sending, //
};
