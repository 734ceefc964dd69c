// SPDX-License-Identifier: GPL-2.0

//! The connection of an fmap mount, which is kept with the superblock's operations ([`Hooked`]),
//! and the list of all fmap mounts.

use core::ptr::NonNull;

use kernel::{
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock,
        Mutex, //
    }, //
};

use crate::{
    abstractions::fs::{
        inode::Inode,
        super_hooks::{
            Hooked,
            SuperHooks, //
        }, //
    },
    bindings::kernel as c,
    fuse::Mounter,
    iomap,
    sb_info::SbInfo, //
};

use super::{
    mark::report_opens,
    umount::wait_on_return, //
};

global_lock! {
    /// All fmap mounts, in the order of their device numbers, for the lists in debugfs.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    pub(super) unsafe(uninit) static MOUNTS: SpinLock<KVec<ConnectionPtr>> = KVec::new();
}

/// An fmap mount. Its superblock owns it, from `attach()` until `->put_super()`, and calls the
/// hooks below.
#[pin_data]
pub(super) struct Connection {
    /// True once the superblock has its fsnotify mark.
    marked: Atomic<bool>,
    /// True if the server can send maps with its answer to OPEN.
    pub(super) map_in_open: bool,
    #[pin]
    marking: Mutex<()>,
    pub(super) sbi: ARef<SbInfo>,
    /// Dropped last, as it owns the reference to the module.
    mounter: Pin<KBox<Mounter>>,
}

/// A connection in the list of fmap mounts.
///
/// # Invariants
///
/// The connection is valid while it is in `MOUNTS`, and `device` is its superblock's.
pub(super) struct ConnectionPtr {
    pub(super) device: c::dev_t,
    pub(super) conn: NonNull<Hooked<Connection>>,
}

// SAFETY: The pointer is only used with the lock of `MOUNTS` held.
unsafe impl Send for ConnectionPtr {}

impl Connection {
    pub(super) fn new(
        sbi: ARef<SbInfo>,
        flags: u32,
        mounter: Pin<KBox<Mounter>>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            marked: Atomic::new(false),
            map_in_open: flags & c::FUSE_DAX_FMAP_MAP_IN_OPEN != 0,
            marking <- new_mutex!((), "fuse_dax_fmap::Connection::marking"),
            sbi,
            mounter,
        })
    }

    /// Returns the connection of an inode's superblock, if that is an fmap mount.
    #[inline]
    pub(super) fn of_inode(inode: &Inode) -> Option<&Hooked<Self>> {
        Hooked::of_inode(inode)
    }

    pub(super) fn sbi(&self) -> &SbInfo {
        &self.sbi
    }

    pub(super) fn mounter(&self) -> &Mounter {
        &self.mounter
    }

    /// Allocates what files need, and marks the superblock, unless that has been done. May sleep.
    pub(super) fn mark(this: &Hooked<Self>) -> Result {
        if this.marked.load(Relaxed) {
            return Ok(());
        }
        let _marking = this.marking.lock();
        if !this.marked.load(Relaxed) {
            this.sbi.start()?;
            // SAFETY: The superblock owns the connection, which owns a reference to `sbi`.
            unsafe { report_opens(this.sb(), &this.sbi) }?;
            this.marked.store(true, Relaxed);
        }
        Ok(())
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("{}", *self.sbi))
    }
}

impl SuperHooks for Connection {
    /// Marks the superblock before it has an inode besides the root, so that no open of a file is
    /// missed.
    fn alloc_inode(this: &Hooked<Self>) -> Result {
        Self::mark(this)?;
        // When a node id is used again, FUSE marks the old inode bad, and allocates the new one
        // next.
        this.sbi.look_for_bad();
        Ok(())
    }

    unsafe fn evict_inode(inode: *mut c::inode) {
        // SAFETY: The VFS is evicting `inode`, and calls FUSE's own function after this.
        unsafe { iomap::evict(inode) };
    }

    /// Flushes the CPU's caches, before FUSE's own function, which may send a request.
    fn sync_fs(this: &Hooked<Self>) -> Result {
        // SAFETY: The VFS keeps the superblock of `this` mounted until this returns.
        unsafe { iomap::sync_all(&this.sbi) }
    }

    /// Ends the mount. The superblock has no inodes and no mark any more.
    fn put_super(this: Pin<KBox<Hooked<Self>>>) {
        let conn = NonNull::from(&*this);

        let mut mounts = MOUNTS.lock();
        mounts.retain(|other| other.conn != conn);
        if mounts.is_empty() {
            *mounts = KVec::new();
        }
        drop(mounts);

        this.sbi.superblock.is_gone();
        this.sbi.stop_looking();
        let (released, mount) = (this.sbi.released.event(), this.sbi.superblock.name());
        // Until now the mounter, a part of `this`, owned the reference to the module.
        this.sbi.keep_module();
        drop(this);
        wait_on_return(released, mount);
    }
}
