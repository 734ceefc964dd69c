// SPDX-License-Identifier: GPL-2.0

//! Connections, mounts and inodes of FUSE.
//!
//! C header: [`fs/fuse/fuse_i.h`](srctree/fs/fuse/fuse_i.h)

use core::{
    mem::offset_of,
    ops::Deref,
    ptr::NonNull, //
};

use kernel::{
    error::to_result,
    ffi,
    prelude::*,
    task::Kuid,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use crate::{
    abstractions::fs::{
        file::OpeningFile,
        inode,
        super_block::SuperBlock, //
    },
    bindings::{
        fuse as f,
        kernel as c, //
    }, //
};

// `struct inode` is the first member of `struct fuse_inode`.
const _: () = assert!(offset_of!(f::fuse_inode, inode) == 0);

/// A `struct fuse_conn`: a connection, and what its server has negotiated.
///
/// # Invariants
///
/// The connection is valid as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct Conn(Opaque<f::fuse_conn>);

impl Conn {
    /// Returns true if the server clears set-user-ID bits when a file is written to.
    pub(crate) fn handles_killpriv(&self) -> bool {
        let fc = self.0.get();

        // SAFETY: By the type invariants `fc` is valid.
        let v1 = unsafe { f::fuse_conn::handle_killpriv_raw(fc) };
        // SAFETY: By the type invariants `fc` is valid.
        let v2 = unsafe { f::fuse_conn::handle_killpriv_v2_raw(fc) };
        v1 | v2 != 0
    }

    /// Returns true if the server is known not to implement FLUSH, since a FLUSH has failed.
    pub(crate) fn has_no_flush(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { f::fuse_conn::no_flush_raw(self.0.get()) != 0 }
    }

    /// Returns true if the server is known not to implement FSYNC, since an FSYNC has failed.
    pub(crate) fn has_no_fsync(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { f::fuse_conn::no_fsync_raw(self.0.get()) != 0 }
    }

    /// Returns true if FUSE caches writes, and so keeps the times of files for the server.
    pub(crate) fn caches_writes(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { f::fuse_conn::writeback_cache_raw(self.0.get()) != 0 }
    }

    /// Returns true if FUSE may automatically mount directories as submounts.
    pub(crate) fn has_automatic_submounts(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { f::fuse_conn::auto_submounts_raw(self.0.get()) != 0 }
    }

    /// Returns true if FUSE has processed the reply to INIT, or is about to finish that. The memory
    /// of the reply may then be freed.
    pub(crate) fn has_read_init(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        let init = unsafe { f::fuse_conn::conn_init_raw(self.0.get()) };
        // SAFETY: By the type invariants the pointer is valid.
        let error = unsafe { f::fuse_conn::conn_error_raw(self.0.get()) };

        init | error != 0
    }

    /// Returns the user that owns the mount (`user_id=`).
    pub(crate) fn owner(&self) -> Kuid {
        // SAFETY: By the type invariants the pointer is valid. The owner is set before INIT.
        let uid = unsafe { (*self.0.get()).user_id };

        Kuid::from_raw(c::kuid_t { val: uid.val })
    }

    /// Returns true if FUSE itself does DAX for the connection (virtiofs).
    #[cfg(CONFIG_FUSE_DAX)]
    pub(crate) fn has_dax(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { !(*self.0.get()).dax.is_null() }
    }

    /// Returns true if FUSE itself does DAX for the connection (virtiofs).
    #[cfg(not(CONFIG_FUSE_DAX))]
    pub(crate) fn has_dax(&self) -> bool {
        false
    }

    /// Returns the identity of the channel.
    #[inline]
    pub(crate) fn channel(&self) -> ChannelId {
        // SAFETY: By the type invariants the pointer is valid. The channel does not change.
        ChannelId(unsafe { (*self.0.get()).chan } as usize)
    }
}

/// The address of a channel to a server, for comparison only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelId(pub(super) usize);

/// A `struct fuse_mount`: a superblock of a connection.
///
/// # Invariants
///
/// The mount, its connection and its superblock are valid as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct Mount(Opaque<f::fuse_mount>);

// SAFETY: A mount is not tied to a task.
unsafe impl Send for Mount {}
// SAFETY: The fields that are used here do not change.
unsafe impl Sync for Mount {}

impl Mount {
    #[inline]
    pub(super) fn as_raw(&self) -> *mut f::fuse_mount {
        self.0.get()
    }

    #[inline]
    pub(crate) fn conn(&self) -> &Conn {
        // SAFETY: By the type invariants both pointers are valid, and `Conn` is transparent.
        unsafe { &*(*self.0.get()).fc.cast() }
    }

    pub(crate) fn super_block(&self) -> &SuperBlock {
        // SAFETY: By the type invariants the mount is valid. Its superblock does not change.
        let sb = unsafe { (*self.0.get()).sb };

        // SAFETY: By the type invariants the superblock is valid.
        unsafe { SuperBlock::from_raw(sb) }
    }
}

/// A mount that is being set up: its INIT has been sent, and mount(2) has not seen the reply.
///
/// # Invariants
///
/// The superblock has its root. Neither the server nor other tasks use it yet, or only begin to.
#[derive(Clone, Copy)]
pub(crate) struct Mounting<'a>(&'a Mount);

impl Deref for Mounting<'_> {
    type Target = Mount;

    fn deref(&self) -> &Mount {
        self.0
    }
}

impl<'a> Mounting<'a> {
    /// Creates a [`Mounting`] from a pointer to the mount.
    ///
    /// # Safety
    ///
    /// `mount` must be valid, and being set up, for `'a`, and its INIT must have been sent.
    pub(crate) unsafe fn new(mount: NonNull<Mount>) -> Self {
        // INVARIANT: FUSE sets the root before it sends INIT.
        // SAFETY: By the safety requirements `mount` is valid.
        Self(unsafe { mount.as_ref() })
    }

    /// Returns the root inode.
    pub(crate) fn root(self) -> &'a Inode {
        // SAFETY: By the type invariants the superblock has a root.
        let root = unsafe { inode::Inode::root_of(self.0.super_block()) };

        // SAFETY: The superblock belongs to FUSE, and so do its inodes.
        unsafe { Inode::of(root) }
    }

    /// Makes FUSE never use DAX for an inode, whatever the server says.
    pub(crate) fn never_use_dax(self) {
        #[cfg(CONFIG_FUSE_DAX)]
        // SAFETY: By the type invariants no other task reads the field yet.
        unsafe {
            (*self.0.conn().0.get()).dax_mode = f::fuse_dax_mode_FUSE_DAX_NEVER;
        }
    }
}

/// An inode of FUSE that is in use.
///
/// # Invariants
///
/// The inode belongs to FUSE.
#[repr(transparent)]
pub(crate) struct Inode(inode::Inode);

impl Deref for Inode {
    type Target = inode::Inode;

    #[inline]
    fn deref(&self) -> &inode::Inode {
        &self.0
    }
}

impl Inode {
    /// Creates a reference to an [`Inode`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `inode` must belong to FUSE, and be in use for `'a`.
    #[inline]
    pub(crate) unsafe fn new<'a>(inode: *mut c::inode) -> &'a Self {
        // SAFETY: `inode` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*inode.cast() }
    }

    /// Converts a reference to an inode.
    ///
    /// # Safety
    ///
    /// `inode` must belong to FUSE.
    #[inline]
    pub(crate) unsafe fn of(inode: &inode::Inode) -> &Self {
        // SAFETY: By the safety requirements it belongs to FUSE. It is in use while it is borrowed.
        unsafe { Self::new(inode.as_raw()) }
    }

    fn as_fuse(&self) -> *mut f::fuse_inode {
        self.as_raw().cast()
    }

    /// Returns a key that is unique among the inodes in use.
    pub(crate) fn key(&self) -> usize {
        self.as_raw() as usize
    }

    /// Returns the node id, by which the server identifies the inode.
    #[inline]
    pub(crate) fn nodeid(&self) -> u64 {
        // SAFETY: By the type invariants this is an inode of FUSE. Its node id does not change.
        unsafe { (*self.as_fuse()).nodeid }
    }

    #[inline]
    pub(crate) fn mount(&self) -> &Mount {
        // SAFETY: By the type invariants this is an inode of FUSE, so `s_fs_info` is its
        // `struct fuse_mount`, which is valid as long as the superblock.
        unsafe { &*self.super_block().fs_info().cast() }
    }

    /// Returns the connection.
    #[inline]
    pub(crate) fn conn(&self) -> &Conn {
        self.mount().conn()
    }

    /// Returns true if FUSE leaves it to the server to clear set-user-ID bits at a write.
    pub(crate) fn server_takes_privileges_off(&self) -> bool {
        self.conn().handles_killpriv()
    }

    /// Returns true if the server must know of each close(2), not only of the last one: it
    /// implements FLUSH, or FUSE keeps the times of files for it.
    pub(crate) fn server_wants_flush(&self) -> bool {
        let conn = self.conn();

        !conn.has_no_flush() || conn.caches_writes()
    }

    /// Returns true if FUSE tells the server of fsync(2), as far as is known.
    pub(crate) fn server_wants_fsync(&self) -> bool {
        !self.conn().has_no_fsync()
    }

    /// Returns true if FUSE's page cache has data that the server has not got yet, or is mapped.
    /// That page cache and the memory of devices would not see each other's stores.
    pub(crate) fn uses_page_cache(&self) -> bool {
        // SAFETY: By the type invariants the inode is valid.
        let mapping = unsafe { &raw const (*self.as_raw()).i_data };
        // SAFETY: `mapping` is part of a valid inode, and the field is read once.
        let marks = unsafe { (&raw const (*mapping).i_pages.xa_flags).read_volatile() };
        // SAFETY: `mapping` is part of a valid inode, and the field is read once.
        let vmas = unsafe { (&raw const (*mapping).i_mmap.rb_root.rb_node).read_volatile() };
        // A writable VMA is counted before it is in the tree.
        // SAFETY: `mapping` is part of a valid inode, and the field is read once.
        let writable = unsafe { (&raw const (*mapping).i_mmap_writable.counter).read_volatile() };

        marks & (c::XA_FLAGS_MARK_DIRTY | c::XA_FLAGS_MARK_WRITEBACK) != 0
            || !vmas.is_null()
            || writable > 0
    }

    /// Returns true if FUSE has marked the inode as bad, because its node id now belongs to another
    /// file, or because the server sent something invalid.
    #[inline]
    pub(crate) fn is_bad(&self) -> bool {
        // SAFETY: By the type invariants the inode belongs to FUSE, and is in use.
        unsafe { is_bad(self.as_raw()) }
    }

    /// Changes `i_flags`. FUSE changes some of them as well, under the same lock.
    pub(crate) fn change_flags(&self, change: impl FnOnce(u32) -> u32) {
        // SAFETY: By the type invariants this is an inode of FUSE, which has this lock.
        let _lock = unsafe { SpinGuard::new(&raw mut (*self.as_fuse()).lock) };
        // SAFETY: By the type invariants the inode is valid. Its flags only change under the lock.
        let flags = unsafe { (*self.as_raw()).i_flags };

        // SAFETY: By the type invariants the inode is valid. Its flags only change under the lock.
        unsafe { (*self.as_raw()).i_flags = change(flags) };
    }

    /// Sends OPEN, and stores the server's reply in `file`. Omits the rest of FUSE's open. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// The server's error; [`EINTR`] if the task is being killed.
    ///
    /// # Safety
    ///
    /// `file` must be a file of this inode, and FUSE must not have opened it.
    pub(crate) unsafe fn do_open(&self, file: &OpeningFile) -> Result {
        let mount = self.mount().0.get();

        // SAFETY: By the type invariants `mount` is the mount of the inode. By the safety
        // requirements FUSE has not opened `file` yet.
        done(unsafe { f::fuse_do_open(mount, self.nodeid(), file.as_raw(), false) })
    }
}

/// Does what [`Inode::is_bad`] does, for a raw pointer.
///
/// # Safety
///
/// `inode` must belong to FUSE, and be in use.
#[inline]
pub(crate) unsafe fn is_bad(inode: *const c::inode) -> bool {
    // SAFETY: By the safety requirements `inode` belongs to FUSE. Other bits may change
    // concurrently; this bit is only ever set.
    let state = unsafe { (&raw const (*inode.cast::<f::fuse_inode>()).state).read_volatile() };

    state & (1 << f::FUSE_I_BAD) != 0
}

/// An inline fast path for [`to_result`], which is a function call.
#[inline]
fn done(ret: ffi::c_int) -> Result {
    if ret == 0 {
        return Ok(());
    }
    to_result(ret)
}

/// A guard for a locked spin lock of FUSE.
#[must_use = "the lock is unlocked when the guard is dropped"]
pub(super) struct SpinGuard {
    lock: *mut c::spinlock_t,
    _same_task: NotThreadSafe,
}

impl SpinGuard {
    /// Locks a spin lock.
    ///
    /// # Safety
    ///
    /// `lock` must be initialized, and valid as long as the guard.
    pub(super) unsafe fn new(lock: *mut c::spinlock_t) -> Self {
        // SAFETY: By the safety requirements `lock` is valid.
        unsafe { c::spin_lock(lock) };
        Self {
            lock,
            _same_task: NotThreadSafe,
        }
    }
}

impl Drop for SpinGuard {
    fn drop(&mut self) {
        // SAFETY: `new()` has locked `lock`, which is still valid.
        unsafe { c::spin_unlock(self.lock) }
    }
}
