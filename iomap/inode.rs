// SPDX-License-Identifier: GPL-2.0

//! The inode operations of a mapped file: stat(2), permissions, and changes of attributes.

use kernel::{
    ffi,
    prelude::*,
    sync::SetOnce, //
};

use crate::{
    bindings::kernel as c,
    compat::EOPNOTSUPP,
    fuse::{
        COperations,
        Inode,
        Table,
        MAKING_TABLES, //
    }, //
};

use super::{
    mapped_inode::MappedInode,
    seek_fiemap::fiemap, //
};

/// The inode operations of a mapped file, and FUSE's that they replace.
struct InodeOperations {
    mapped: c::inode_operations,
    orig_setattr: SetAttr,
    orig_getattr: GetAttr,
    orig_permission: Permission,
}

// SAFETY: The tables have nothing but function pointers.
unsafe impl COperations for InodeOperations {}

static INODE_OPERATIONS: SetOnce<Table<InodeOperations>> = SetOnce::new();

type SetAttr = unsafe extern "C" fn(*mut c::mnt_idmap, *mut c::dentry, *mut c::iattr) -> ffi::c_int;
type GetAttr = unsafe extern "C" fn(
    *mut c::mnt_idmap,
    *const c::path,
    *mut c::kstat,
    u32,
    ffi::c_uint,
) -> ffi::c_int;
type Permission = unsafe extern "C" fn(*mut c::mnt_idmap, *mut c::inode, ffi::c_int) -> ffi::c_int;

/// Returns the operations of a mapped inode. An inode gets them before its map is published, so
/// each function of the module looks for the map first ([`MappedInode::of`]).
pub(super) fn inode_operations(inode: &Inode) -> Result<*const c::inode_operations> {
    let orig = inode.operations();
    let orig_setattr = orig.setattr.ok_or(EIO)?;
    let orig_getattr = orig.getattr.ok_or(EIO)?;
    let orig_permission = orig.permission.ok_or(EIO)?;

    if INODE_OPERATIONS.as_ref().is_none() {
        let _making = MAKING_TABLES.lock();
        INODE_OPERATIONS.populate(Table(InodeOperations {
            mapped: c::inode_operations {
                setattr: Some(setattr),
                getattr: Some(getattr),
                permission: Some(permission),
                fiemap: Some(fiemap),
                ..*orig
            },
            orig_setattr,
            orig_getattr,
            orig_permission,
        }));
    }
    let table = INODE_OPERATIONS.as_ref().ok_or(EIO)?;
    Ok(&table.0.mapped)
}

/// Schedules a look for bad inodes, if the server's attributes have made FUSE mark this one bad.
fn look_for_bad(inode: &Inode) {
    if inode.is_bad() {
        if let Some(mapped) = MappedInode::of(inode) {
            mapped.sbi().look_for_bad();
        }
    }
}

/// `->getattr()`: FUSE's, and STATX_ATTR_DAX, which FUSE's does not set.
///
/// # Safety
///
/// Called by the VFS, for an inode with the operations of a mapped one.
unsafe extern "C" fn getattr(
    idmap: *mut c::mnt_idmap,
    path: *const c::path,
    stat: *mut c::kstat,
    request_mask: u32,
    flags: ffi::c_uint,
) -> ffi::c_int {
    let Some(table) = INODE_OPERATIONS.as_ref() else {
        return EIO.to_errno();
    };
    // SAFETY: FUSE's own function gets the VFS's arguments.
    let ret = unsafe { (table.0.orig_getattr)(idmap, path, stat, request_mask, flags) };
    // SAFETY: `path` is the VFS's, and keeps the inode, which is FUSE's.
    let inode = unsafe { Inode::new((*(*path).dentry).d_inode) };

    if MappedInode::of(inode).is_some() {
        // SAFETY: `stat` is the VFS's, and is to be filled in.
        unsafe { (*stat).attributes |= u64::from(c::STATX_ATTR_DAX) };
    }
    if ret != 0 {
        look_for_bad(inode);
    }
    ret
}

/// `->permission()`: FUSE's, which may ask the server for attributes.
///
/// # Safety
///
/// Called by the VFS, for an inode with the operations of a mapped one.
unsafe extern "C" fn permission(
    idmap: *mut c::mnt_idmap,
    inode: *mut c::inode,
    mask: ffi::c_int,
) -> ffi::c_int {
    let Some(table) = INODE_OPERATIONS.as_ref() else {
        return EIO.to_errno();
    };
    // SAFETY: FUSE's own function gets the VFS's arguments.
    let ret = unsafe { (table.0.orig_permission)(idmap, inode, mask) };
    if ret != 0 && mask & c::MAY_NOT_BLOCK as ffi::c_int == 0 {
        // SAFETY: `inode` is FUSE's, and in use.
        look_for_bad(unsafe { Inode::new(inode) });
    }
    ret
}

/// What [`setattr`] does after it has checked a change.
enum SetAttrOf {
    /// Calls FUSE's, with these attributes (`ATTR_MODE` and others).
    Fuse(ffi::c_uint),
    /// Updates the times of the file in `ia_file`, and nothing else.
    Times,
    /// Does nothing.
    Nothing,
}

/// Checks a change of the attributes in `valid`.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if it changes the size; [`EIO`] if it sets the size of an inode that FUSE has
/// marked bad.
fn setattr_of(inode: &Inode, mut valid: ffi::c_uint, size: c::loff_t) -> Result<SetAttrOf> {
    const KILL: ffi::c_uint = c::ATTR_KILL_SUID | c::ATTR_KILL_SGID;

    if MappedInode::of(inode).is_none() {
        return Ok(SetAttrOf::Fuse(valid));
    }
    if valid & c::ATTR_SIZE != 0 {
        // The VFS has locked the inode.
        if size as u64 != inode.size() {
            return Err(EOPNOTSUPP);
        }
        if inode.is_bad() {
            look_for_bad(inode);
            return Err(EIO);
        }
        valid &= !(c::ATTR_SIZE | c::ATTR_OPEN);
        if valid & (c::ATTR_MODE | c::ATTR_UID | c::ATTR_GID | KILL) == 0 {
            if valid & c::ATTR_MTIME == 0 || valid & c::ATTR_FILE == 0 {
                return Ok(SetAttrOf::Nothing);
            }
            return Ok(SetAttrOf::Times);
        }
    }
    let by_write = valid & KILL != 0 && valid & (c::ATTR_UID | c::ATTR_GID) == 0;
    if by_write && inode.server_takes_privileges_off() {
        // For these flags the VFS has put the new mode into the change.
        valid &= !KILL;
    }
    Ok(SetAttrOf::Fuse(valid))
}

/// `->setattr()`: rejects a change of a mapped file's size before FUSE sees it, and passes the rest
/// to FUSE. Setting the size that the file already has changes only times and set-user-ID bits, so
/// the server is asked for those alone.
///
/// Some servers promise to clear set-user-ID bits themselves, at each WRITE. A mapped file sends no
/// WRITE, so such a server gets the mode that the VFS has computed.
///
/// # Safety
///
/// Called by the VFS, for an inode with the operations of a mapped one.
unsafe extern "C" fn setattr(
    idmap: *mut c::mnt_idmap,
    dentry: *mut c::dentry,
    attr: *mut c::iattr,
) -> ffi::c_int {
    // SAFETY: `dentry` is the VFS's, and keeps the inode, which is FUSE's.
    let inode = unsafe { Inode::new((*dentry).d_inode) };
    // SAFETY: `attr` is the VFS's, and only this task uses it.
    let change = unsafe { &mut *attr };

    match setattr_of(inode, change.ia_valid, change.ia_size) {
        Ok(SetAttrOf::Fuse(valid)) => change.ia_valid = valid,
        // SAFETY: The VFS has put an open file into `ia_file`.
        Ok(SetAttrOf::Times) => return unsafe { c::file_update_time(change.ia_file) },
        Ok(SetAttrOf::Nothing) => return 0,
        Err(errno) => return errno.to_errno(),
    }
    let Some(table) = INODE_OPERATIONS.as_ref() else {
        return EIO.to_errno();
    };
    // SAFETY: FUSE's own function gets the VFS's arguments.
    let ret = unsafe { (table.0.orig_setattr)(idmap, dentry, attr) };
    if ret != 0 {
        look_for_bad(inode);
    }
    ret
}
