// SPDX-License-Identifier: GPL-2.0

//! `/dev/fuse_dax_fmap`: how a server changes the maps of files that are open.
//!
//! Anybody can open the device. The right to change a mount is the open `/dev/fuse` of its server,
//! which each command names: who has that answers GET_FMAP, and so can give a file any memory of
//! the mount's devices already.

use core::mem::size_of;

use kernel::{
    ffi,
    fs::LocalFile,
    ioctl::_IOWR,
    prelude::*,
    sync::aref::ARef,
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

use crate::{
    abstractions::{
        fs::fuse::{
            Mount,
            ServerFile, //
        },
        miscdevice::Ioctl, //
    },
    bindings::kernel as c,
    compat::{
        ENOTCONN, //
        EOPNOTSUPP,
    },
    fmap_ops::{
        Parsed,
        Verdict, //
    },
    fuse::{
        Inode,
        BLOB_MAX, //
    },
    iomap,
    patience::Patience,
    sb_info::{
        ActiveSb,
        SbInfo, //
    }, //
};

use super::{
    connection::MOUNTS,
    first_open::parse, //
};

const IOC: u32 = c::FUSE_DAX_FMAP_IOC;
const SET_MAP: u32 = _IOWR::<c::fuse_dax_fmap_set_map>(IOC, 1);
const REVOKE: u32 = _IOWR::<c::fuse_dax_fmap_revoke>(IOC, 2);

// SAFETY: Any bytes are integers, of which the type consists.
unsafe impl FromBytes for c::fuse_dax_fmap_set_map {}
// SAFETY: The type has no padding.
unsafe impl AsBytes for c::fuse_dax_fmap_set_map {}
// SAFETY: Any bytes are integers, of which the type consists.
unsafe impl FromBytes for c::fuse_dax_fmap_revoke {}
// SAFETY: The type has no padding.
unsafe impl AsBytes for c::fuse_dax_fmap_revoke {}

/// The device.
pub(crate) struct Control;

impl Ioctl for Control {
    type Module = crate::LocalModule;

    fn ioctl(cmd: u32, arg: UserPtr) -> Result<ffi::c_long> {
        match cmd {
            SET_MAP => exchange(arg, set_map)?,
            REVOKE => exchange(arg, revoke)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

/// Reads the argument of a command, and writes it back once `handle` has changed it.
fn exchange<T: FromBytes + AsBytes>(arg: UserPtr, handle: fn(&mut T) -> Result) -> Result {
    let (mut reader, mut writer) = UserSlice::new(arg, size_of::<T>()).reader_writer();
    let mut args = reader.read::<T>()?;

    handle(&mut args)?;
    writer.write(&args)
}

/// FUSE_DAX_FMAP_SET_MAP.
fn set_map(args: &mut c::fuse_dax_fmap_set_map) -> Result {
    if args.flags != 0 || args.reserved != 0 {
        return Err(EINVAL);
    }
    let patience = Patience::of_ms(args.timeout_ms);
    let mount = ServedMount::of_server(args.fuse_fd)?;
    let map = mount.parse(args.map, args.map_size)?;
    let changed = mount.with_inode(args.nodeid, |inode| {
        iomap::set_map(inode, &mount.sbi, map, &patience)
    })?;

    (args.size, args.state) = said(changed);
    Ok(())
}

/// FUSE_DAX_FMAP_REVOKE.
fn revoke(args: &mut c::fuse_dax_fmap_revoke) -> Result {
    if args.reserved != 0 {
        return Err(EINVAL);
    }
    let end = match args.length {
        0 => u64::MAX,
        length => args.offset.checked_add(length).ok_or(EINVAL)?,
    };
    let patience = Patience::of_ms(args.timeout_ms);
    let mount = ServedMount::of_server(args.fuse_fd)?;
    let changed = mount.with_inode(args.nodeid, |inode| {
        iomap::revoke(inode, &mount.sbi, (args.offset, end), &patience)
    })?;

    (args.size, args.state) = said(changed);
    Ok(())
}

/// Returns the size and the state for the server.
fn said(changed: Option<u64>) -> (u64, u32) {
    match changed {
        Some(size) => (size, c::FUSE_DAX_FMAP_CHANGED),
        None => (0, c::FUSE_DAX_FMAP_NOT_MAPPED),
    }
}

/// The fmap mount of a server, which stays mounted as long as this.
struct ServedMount {
    active: ActiveSb,
    sbi: ARef<SbInfo>,
}

impl ServedMount {
    /// Finds the mount whose server has a descriptor of the current task.
    ///
    /// # Errors
    ///
    /// [`EBADF`] if it is not open; [`EINVAL`] if it is no `/dev/fuse`; `ENOTCONN` if that is not
    /// mounted, or is being unmounted; `EOPNOTSUPP` if the mount has no maps that can change.
    fn of_server(fd: i32) -> Result<Self> {
        let file = LocalFile::fget(u32::try_from(fd).map_err(|_| EBADF)?)?;
        let server = ServerFile::of(&file).ok_or(EINVAL)?;
        let channel = server.channel().ok_or(ENOTCONN)?;
        let mounts = MOUNTS.lock();
        let sbi = mounts.iter().find_map(|mount| {
            // SAFETY: By the type invariants the connection is valid, as the lock is held.
            let conn = unsafe { mount.conn.as_ref() };
            // SAFETY: The superblock of an fmap mount is FUSE's, and has its root.
            let mount = unsafe { Mount::of(conn.sb()) };
            (mount.conn().channel() == channel).then(|| ARef::from(conn.sbi()))
        });
        drop(mounts);
        let sbi = sbi.filter(|sbi| sbi.resizes).ok_or(EOPNOTSUPP)?;
        let active = ActiveSb::new(&sbi).ok_or(ENOTCONN)?;

        Ok(Self { active, sbi })
    }

    /// Calls `change` with the inode of a node id, if it is in memory.
    fn with_inode(
        &self,
        nodeid: u64,
        change: impl FnOnce(&Inode) -> Result<Option<u64>>,
    ) -> Result<Option<u64>> {
        // SAFETY: The superblock is FUSE's, and stays mounted until `self` is dropped.
        let find = |sb| unsafe { Inode::find(sb, nodeid) };

        self.active
            .super_block()
            .and_then(find)
            // SAFETY: The inode is FUSE's.
            .map_or(Ok(None), |inode| change(unsafe { Inode::of(&inode) }))
    }

    /// Parses a map of the caller's.
    ///
    /// # Errors
    ///
    /// [`E2BIG`] if it is too large; [`EINVAL`] if it is not all of the map; [`ENODEV`] if the
    /// mount does not hold one of its devices, for which it would have to ask the caller; those of
    /// `dax_fmap_parse()`; [`EFAULT`], [`ENOMEM`].
    fn parse(&self, map: u64, size: u32) -> Result<Parsed> {
        if size > BLOB_MAX {
            return Err(E2BIG);
        }
        let mut blob = KVVec::new();
        UserSlice::new(UserPtr::from_addr(map as usize), size as usize)
            .read_all(&mut blob, GFP_KERNEL_ACCOUNT)?;
        match parse(&self.sbi, &blob, size).map_err(|failure| failure.errno)? {
            Verdict::Map(parsed) if self.sbi.devices.has_all(parsed.dev_bitmap) => Ok(parsed),
            Verdict::Map(_) => Err(ENODEV),
            Verdict::NeedsBufSize(_) => Err(EINVAL),
        }
    }
}
