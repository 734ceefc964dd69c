// SPDX-License-Identifier: GPL-2.0

//! Early files: FUSE opened them before the map of their inode was published: by CREATE, as no_rw,
//! or when another early file kept the map from being published.
//!
//! The operations of an early file call FUSE's own until another open publishes the map, and those
//! of a mapped file from then on. The map is not published while FUSE's page cache is dirty or
//! mapped by mmap(2), or while an early file is being changed ([`Changing`]): otherwise there would
//! be two sets of bytes. One window is left: a private or read-only mapping that `->mmap()` has
//! accepted, and that is not in `i_mmap` yet, is not seen. It maps FUSE's page cache until it is
//! unmapped.
//!
//! The first mmap(2) of an early file after the map was published counts the file as open
//! ([`EarlyFile::count`]), so that its release looks for pages in use.

use core::{
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    ffi,
    prelude::*,
    rbtree::RBTreeNode,
    types::Opaque, //
};

use crate::{
    bindings::kernel as c,
    compat::EOPNOTSUPP,
    fuse::{
        Inode,
        Table, //
    },
    iomap::{
        self,
        State, //
    },
    sb_info::SbInfo, //
};

use super::super::{
    connection::Connection,
    open_shim::{
        is_no_rw,
        OPEN_SHIM, //
    }, //
};

/// An early file.
///
/// # Invariants
///
/// It is open, of an fmap mount, and has the table `early`, `counted` or `no_rw`.
#[repr(transparent)]
struct EarlyFile(Opaque<c::file>);

impl EarlyFile {
    /// # Safety
    ///
    /// `file` is an early file, for `'a`.
    unsafe fn from_raw<'a>(file: *mut c::file) -> &'a Self {
        // SAFETY: `file` is valid by the safety requirements, and the types have one layout.
        unsafe { &*file.cast() }
    }

    fn inode(&self) -> &Inode {
        // SAFETY: By the type invariants the file is open, so its inode is FUSE's and in use.
        unsafe { Inode::new((*self.0.get()).f_inode) }
    }

    /// Returns true if the file is no_rw, which does not change.
    fn is_no_rw(&self) -> bool {
        // SAFETY: By the type invariants the file is open.
        is_no_rw(unsafe { (*self.0.get()).f_mode })
    }

    /// Returns the operations that its functions call at the moment.
    fn now(&self) -> &'static c::file_operations {
        static NONE: Table<c::file_operations> = Table(pin_init::zeroed());

        let Some(shim) = OPEN_SHIM.as_ref().map(|table| &table.0) else {
            return &NONE.0;
        };
        match iomap::state(self.inode()) {
            State::Mapped => &shim.mapped,
            _ => shim.orig.0,
        }
    }

    /// Counts the file as open, once, if its inode is mapped: the file is about to be mapped by
    /// mmap(2). Does nothing to a no_rw file.
    fn count(&self) {
        let inode = self.inode();
        let Some(shim) = OPEN_SHIM.as_ref().map(|table| &table.0) else {
            return;
        };
        if iomap::state(inode) != State::Mapped {
            return;
        }
        let (early, counted) = (
            ptr::from_ref(&shim.early).cast_mut(),
            ptr::from_ref(&shim.counted).cast_mut(),
        );
        // SAFETY: By the type invariants the file is open. `f_op` is a word that each call loads
        // once; both tables have the same operations, but for `release`.
        let f_op = unsafe { AtomicPtr::from_ptr((&raw mut (*self.0.get()).f_op).cast()) };
        let taken = f_op.compare_exchange(early, counted, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            iomap::opened_early(inode);
        }
    }
}

/// Guard for changing a file through FUSE. While it is held, the inode does not become mapped.
#[must_use = "the inode may become mapped as soon as this is dropped"]
pub(super) struct Changing<'a> {
    sbi: &'a SbInfo,
    key: usize,
}

impl<'a> Changing<'a> {
    /// Returns `None` if the inode is mapped.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn new(inode: &'a Inode) -> Result<Option<Self>> {
        let conn = Connection::of_inode(inode).ok_or(EIO)?;
        let (sbi, key) = (conn.sbi(), inode.key());
        if iomap::state(inode) == State::Mapped {
            return Ok(None);
        }
        let node = RBTreeNode::new(key, 1, GFP_KERNEL_ACCOUNT)?;
        let mut changing = sbi.changing.lock();

        // Checked again: a map is published with this lock held.
        if iomap::state(inode) == State::Mapped {
            return Ok(None);
        }
        match changing.get_mut(&key) {
            Some(calls) => *calls += 1,
            None => drop(changing.insert(node)),
        }
        Ok(Some(Self { sbi, key }))
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut changing = self.sbi.changing.lock();

        if let Some(calls) = changing.get_mut(&self.key) {
            *calls -= 1;
            if *calls == 0 {
                changing.remove(&self.key);
            }
        }
    }
}

/// `->mmap()` of an early file.
///
/// # Safety
///
/// Called by the VFS, for an open file with the table `early` or `counted`.
unsafe extern "C" fn mmap(raw: *mut c::file, vma: *mut c::vm_area_struct) -> ffi::c_int {
    // SAFETY: `raw` is an early file, and the VFS keeps it open until this returns.
    let file = unsafe { EarlyFile::from_raw(raw) };
    let change = match Changing::new(file.inode()) {
        Ok(change) => change,
        Err(errno) => return errno.to_errno(),
    };
    if change.is_none() {
        file.count();
    }
    let Some(mmap) = file.now().mmap else {
        return ENODEV.to_errno();
    };
    // SAFETY: `raw` and `vma` are the VFS's arguments, passed on.
    let ret = unsafe { mmap(raw, vma) };
    // With passthrough, the VMA is one of the backing file, where nothing would find it later.
    // SAFETY: `vma` is the VFS's, and being made by this task.
    if change.is_some() && ret == 0 && unsafe { (*vma).vm_file } != raw {
        iomap::remember_plain(file.inode());
    }
    ret
}

/// `->write_iter()` of an early file. While the inode is not mapped, an asynchronous write is done
/// synchronously: FUSE would do direct I/O of it after the end of [`Changing`].
///
/// # Safety
///
/// Called by the VFS, for an open file with the table `early` or `counted`.
unsafe extern "C" fn write_iter(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> isize {
    // SAFETY: `iocb` is valid, and its file is an early file, which the VFS keeps open until this
    // returns.
    let file = unsafe { EarlyFile::from_raw((*iocb).ki_filp) };
    let change = match Changing::new(file.inode()) {
        Ok(change) => change,
        Err(errno) => return errno.to_errno() as isize,
    };
    let Some(write_iter) = file.now().write_iter else {
        return EINVAL.to_errno() as isize;
    };
    if change.is_none() {
        // SAFETY: The VFS's arguments, passed on.
        return unsafe { write_iter(iocb, from) };
    }
    // SAFETY: `iocb` is the VFS's, and this function may change it until it returns. Without
    // `ki_complete` an I/O is synchronous.
    let complete = unsafe { (*iocb).ki_complete.take() };
    // SAFETY: `iocb` and `from` are the VFS's, passed on.
    let done = unsafe { write_iter(iocb, from) };
    // SAFETY: The I/O was synchronous, so `iocb` is still valid.
    unsafe { (*iocb).ki_complete = complete };
    done
}

/// Defines functions that call the same function of [`EarlyFile::now`]. While one that may `change`
/// the file runs, the inode does not become mapped.
macro_rules! pass_on {
    (@guard look, $file:expr) => {
        Ok::<_, Error>(())
    };
    (@guard change, $file:expr) => {
        Changing::new($file.inode())
    };
    ($($how:ident $name:ident($file:expr; $($arg:ident: $type:ty),*) -> $ret:ty, or $none:expr;)*) => {
        $(
            /// # Safety
            ///
            /// Called by the VFS, for an open early file.
            // Results are integers of several sizes.
            #[allow(clippy::cast_lossless)]
            unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
                // SAFETY: `$file` is an early file, and the VFS keeps it open until this returns.
                let early = unsafe { EarlyFile::from_raw($file) };
                let _change = match pass_on!(@guard $how, early) {
                    Ok(change) => change,
                    Err(errno) => return errno.to_errno() as $ret,
                };
                match early.now().$name {
                    // SAFETY: The VFS's arguments, passed on.
                    Some($name) => unsafe { $name($($arg),*) },
                    None => $none,
                }
            }
        )*
    };
}

pass_on! {
    look llseek(file; file: *mut c::file, offset: c::loff_t, whence: ffi::c_int) -> c::loff_t,
        or ESPIPE.to_errno().into();
    look read_iter((*iocb).ki_filp; iocb: *mut c::kiocb, to: *mut c::iov_iter) -> isize,
        or EINVAL.to_errno() as isize;
    look flush(file; file: *mut c::file, id: c::fl_owner_t) -> ffi::c_int,
        or 0;
    look fsync(file; file: *mut c::file, start: c::loff_t, end: c::loff_t, datasync: ffi::c_int)
        -> ffi::c_int, or EINVAL.to_errno();
    look splice_read(file; file: *mut c::file, pos: *mut c::loff_t, pipe: *mut c::pipe_inode_info,
        len: usize, flags: ffi::c_uint) -> isize, or EINVAL.to_errno() as isize;
    change splice_write(file; pipe: *mut c::pipe_inode_info, file: *mut c::file,
        pos: *mut c::loff_t, len: usize, flags: ffi::c_uint) -> isize,
        or EINVAL.to_errno() as isize;
    change fallocate(file; file: *mut c::file, mode: ffi::c_int, offset: c::loff_t, len: c::loff_t)
        -> ffi::c_long, or EOPNOTSUPP.to_errno() as ffi::c_long;
}

/// `->fadvise()` of an early file: posix_fadvise(2) and readahead(2). If the file is no_rw or the
/// inode mapped, nothing is read ahead: that would fill FUSE's page cache, which a mapped file does
/// not use, and may ask the server for bytes that only the memory has.
///
/// # Safety
///
/// Called by the VFS, for an open early file.
unsafe extern "C" fn fadvise(
    file: *mut c::file,
    offset: c::loff_t,
    len: c::loff_t,
    advice: ffi::c_int,
) -> ffi::c_int {
    // SAFETY: `file` is an early file, and the VFS keeps it open until this returns.
    let early = unsafe { EarlyFile::from_raw(file) };
    let useless = early.is_no_rw() || iomap::state(early.inode()) == State::Mapped;
    if useless && advice == c::POSIX_FADV_WILLNEED as ffi::c_int {
        return 0;
    }
    // SAFETY: `file` is open, and the other arguments are the VFS's.
    unsafe { c::generic_fadvise(file, offset, len, advice) }
}

/// Returns the operations of an early file, made from FUSE's own.
pub(super) fn file_operations(orig: &c::file_operations) -> c::file_operations {
    c::file_operations {
        llseek: Some(llseek),
        read_iter: Some(read_iter),
        write_iter: Some(write_iter),
        mmap: Some(mmap),
        flush: Some(flush),
        fsync: Some(fsync),
        splice_read: Some(splice_read),
        splice_write: Some(splice_write),
        fallocate: Some(fallocate),
        fadvise: Some(fadvise),
        // The VFS splices instead, which is passed on.
        copy_file_range: None,
        ..*orig
    }
}
