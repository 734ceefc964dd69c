// SPDX-License-Identifier: GPL-2.0

//! A file that FUSE opened before the map of its inode was published: by CREATE, for neither
//! reading nor writing, or when the map could not be published because of another such file.
//!
//! Its operations are FUSE's until another open brings the map, and those of a mapped file from
//! then on. The map is not published while FUSE's page cache is dirty or mapped by mmap(2), or
//! while a write by such a file is under way ([`Changing`]): there would be two sets of bytes. One
//! window is left: a private or read-only mapping that `->mmap()` has accepted, and that is not in
//! `i_mmap` yet, is not seen. It shows FUSE's page cache as long as it lives.
//!
//! The first mmap(2) after the map was published makes such a file count as open
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

/// Such a file.
///
/// # Invariants
///
/// It is open, of a bound mount, and has the table of unsettled or idle files, or has been counted.
#[repr(transparent)]
struct EarlyFile(Opaque<c::file>);

impl EarlyFile {
    /// # Safety
    ///
    /// `file` is such a file, for `'a`.
    unsafe fn from_raw<'a>(file: *mut c::file) -> &'a Self {
        // SAFETY: `file` is valid by the safety requirements, and the types have one layout.
        unsafe { &*file.cast() }
    }

    fn inode(&self) -> &Inode {
        // SAFETY: By the type invariants the file is open, so its inode is FUSE's and in use.
        unsafe { Inode::new((*self.0.get()).f_inode) }
    }

    /// What of its mode does not change.
    fn is_no_rw(&self) -> bool {
        // SAFETY: By the type invariants the file is open.
        is_no_rw(unsafe { (*self.0.get()).f_mode })
    }

    /// The operations that it has at the moment.
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

    /// Counts it as open, once, as it is about to be mapped by mmap(2), if it is a mapped one. Does
    /// nothing to an idle file.
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
        // SAFETY: By the type invariants the file is open. The field is a word that others load
        // once; both tables have the same operations, but for the last one.
        let f_op = unsafe { AtomicPtr::from_ptr((&raw mut (*self.0.get()).f_op).cast()) };
        let taken = f_op.compare_exchange(early, counted, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            // SAFETY: `inode` is mapped, and the file keeps it in use.
            unsafe { iomap::opened(inode.as_raw()) };
        }
    }
}

/// The right to change a file through FUSE: while a task has it, the file does not become a mapped
/// one.
#[must_use = "the right ends when this is dropped"]
struct Changing<'a> {
    sbi: &'a SbInfo,
    key: usize,
}

impl<'a> Changing<'a> {
    /// `None` if the file is mapped.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    fn new(file: &'a EarlyFile) -> Result<Option<Self>> {
        let inode = file.inode();
        let conn = Connection::of_inode(inode).ok_or(EIO)?;
        let (sbi, key) = (conn.sbi(), inode.key());
        if iomap::state(inode) == State::Mapped {
            return Ok(None);
        }
        let node = RBTreeNode::new(key, 1, GFP_KERNEL_ACCOUNT)?;
        let mut changing = sbi.changing.lock();

        // Asked again: who publishes the map has the lock.
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

/// mmap(2).
///
/// # Safety
///
/// Called by the VFS, for an open file with the table of unsettled files, or one that is counted.
unsafe extern "C" fn mmap(raw: *mut c::file, vma: *mut c::vm_area_struct) -> ffi::c_int {
    // SAFETY: `raw` is such a file, and the VFS keeps it open meanwhile.
    let file = unsafe { EarlyFile::from_raw(raw) };
    let right = match Changing::new(file) {
        Ok(right) => right,
        Err(errno) => return errno.to_errno(),
    };
    if right.is_none() {
        file.count();
    }
    match file.now().mmap {
        // SAFETY: `raw` and `vma` are the VFS's arguments, passed on.
        Some(mmap) => unsafe { mmap(raw, vma) },
        None => ENODEV.to_errno(),
    }
}

/// write(2) and its kin. FUSE does direct I/O of an asynchronous one after it has returned; while
/// the file is FUSE's, there are none, so that what is under way is known.
///
/// # Safety
///
/// Called by the VFS, for an open file with the table of unsettled files, or one that is counted.
unsafe extern "C" fn write_iter(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> isize {
    // SAFETY: `iocb` is valid, and has such a file, which the VFS keeps open meanwhile.
    let file = unsafe { EarlyFile::from_raw((*iocb).ki_filp) };
    let right = match Changing::new(file) {
        Ok(right) => right,
        Err(errno) => return errno.to_errno() as isize,
    };
    let Some(write_iter) = file.now().write_iter else {
        return EINVAL.to_errno() as isize;
    };
    if right.is_none() {
        // SAFETY: The VFS's arguments, passed on.
        return unsafe { write_iter(iocb, from) };
    }
    // SAFETY: `iocb` is the VFS's, and the callee's until it returns. One without this is
    // synchronous.
    let complete = unsafe { (*iocb).ki_complete.take() };
    // SAFETY: `iocb` and `from` are the VFS's, passed on.
    let done = unsafe { write_iter(iocb, from) };
    // SAFETY: `iocb` was synchronous, so it is still there.
    unsafe { (*iocb).ki_complete = complete };
    done
}

/// Operations that are passed on to those of the moment. Those that `change` the file keep it what
/// it is meanwhile.
macro_rules! pass_on {
    (@right look, $file:expr) => {
        Ok::<_, Error>(())
    };
    (@right change, $file:expr) => {
        Changing::new($file)
    };
    ($($how:ident $name:ident($file:expr; $($arg:ident: $type:ty),*) -> $ret:ty, or $none:expr;)*) => {
        $(
            /// # Safety
            ///
            /// Called by the VFS, for an open file with the table of unsettled or idle files.
            // Results are integers of several sizes.
            #[allow(clippy::cast_lossless)]
            unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
                // SAFETY: The VFS keeps the file open meanwhile, which has one of these tables.
                let early = unsafe { EarlyFile::from_raw($file) };
                let _right = match pass_on!(@right $how, early) {
                    Ok(right) => right,
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

/// posix_fadvise(2) and readahead(2): what is read ahead would go into FUSE's page cache, where a
/// mapped file's bytes are not, and may ask the server for bytes that only the memory has.
///
/// # Safety
///
/// Called by the VFS, for an open file with the table of unsettled or idle files.
unsafe extern "C" fn fadvise(
    file: *mut c::file,
    offset: c::loff_t,
    len: c::loff_t,
    advice: ffi::c_int,
) -> ffi::c_int {
    // SAFETY: `file` has one of these tables, and the VFS keeps it open meanwhile.
    let early = unsafe { EarlyFile::from_raw(file) };
    let useless = early.is_no_rw() || iomap::state(early.inode()) == State::Mapped;
    if useless && advice == c::POSIX_FADV_WILLNEED as ffi::c_int {
        return 0;
    }
    // SAFETY: `file` is open, and the other arguments are the VFS's.
    unsafe { c::generic_fadvise(file, offset, len, advice) }
}

/// The operations of an unsettled file.
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
        // The VFS does it by splicing, which is passed on.
        copy_file_range: None,
        ..*orig
    }
}
