// SPDX-License-Identifier: GPL-2.0

//! The connection of a bound mount, which is kept with the superblock's operations
//! ([`Hooked`]), and the list of all bound mounts.

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
    /// Bound mounts, for the list that users can read.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    pub(super) unsafe(uninit) static MOUNTS: SpinLock<KVec<ConnectionPtr>> = KVec::new();
}

/// A bound mount. Its superblock owns it, from `attach()` until it is put, and goes through the
/// hooks below.
#[pin_data]
pub(super) struct Connection {
    /// Whether opens are reported.
    marked: Atomic<bool>,
    /// Whether the server can bring maps along with the answer to OPEN.
    pub(super) map_in_open: bool,
    #[pin]
    marking: Mutex<()>,
    pub(super) sbi: ARef<SbInfo>,
    /// Dropped last: it keeps the module.
    mounter: Pin<KBox<Mounter>>,
}

/// A bound mount in the list.
///
/// # Invariants
///
/// The connection is valid while it is in `MOUNTS`.
#[derive(PartialEq, Eq)]
pub(super) struct ConnectionPtr(pub(super) NonNull<Hooked<Connection>>);

// SAFETY: Only used under the lock of `MOUNTS`.
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

    /// The connection of an inode, if its superblock is bound.
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

    /// Makes sure that opens are reported, and counted. May sleep.
    pub(super) fn mark(this: &Hooked<Self>) -> Result {
        if this.marked.load(Relaxed) {
            return Ok(());
        }
        let _marking = this.marking.lock();
        if !this.marked.load(Relaxed) {
            this.sbi.start()?;
            // SAFETY: The superblock owns the connection, which keeps the mount.
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
    /// Opens are reported before there is an inode: no file but the root directory can have been
    /// opened before.
    fn alloc_inode(this: &Hooked<Self>) -> Result {
        Self::mark(this)?;
        // A node id that is used again, for another file, makes the old inode bad; the next thing
        // that FUSE does is to allocate the new one.
        this.sbi.look_for_bad();
        Ok(())
    }

    unsafe fn evict_inode(inode: *mut c::inode) {
        // SAFETY: `inode` is being evicted by the VFS, and FUSE's own has not been called.
        unsafe { iomap::evict(inode) };
    }

    /// What is in the CPU's caches first, and then FUSE's, which may ask the server.
    fn sync_fs(this: &Hooked<Self>) -> Result {
        // SAFETY: The superblock of `this` stays mounted meanwhile.
        unsafe { iomap::sync_all(&this.sbi) }
    }

    /// The last inode is gone, and so is the mark.
    fn put_super(this: Pin<KBox<Hooked<Self>>>) {
        let listed = ConnectionPtr(NonNull::from(&*this));

        let mut mounts = MOUNTS.lock();
        mounts.retain(|other| *other != listed);
        if mounts.is_empty() {
            *mounts = KVec::new();
        }
        drop(mounts);

        this.sbi.superblock.is_gone();
        this.sbi.stop_looking();
        let (released, device) = (this.sbi.released.event(), this.sbi.superblock.device);
        // The mounter keeps the module no longer than this.
        this.sbi.keep_module();
        drop(this);
        wait_on_return(released, device);
    }
}

/// The list of bound mounts that users can read.
pub(crate) struct MountList;

impl MountList {
    /// A line for each mount: `major:minor ops=name map=id files=number devices=index:path,...`,
    /// and its counters (`stats`), each as `name=number`.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for conn in MOUNTS.lock().iter() {
            // SAFETY: By the type invariants of `ConnectionPtr` it is valid, with the lock held.
            let conn = unsafe { conn.0.as_ref() };
            let sbi = &conn.sbi;

            f.write_fmt(fmt!(
                "{} ops={} map={} files={} devices={}{}\n",
                **conn,
                sbi.ops.name(),
                sbi.ops.map_id(),
                sbi.files.load(Relaxed),
                sbi.devices,
                sbi.stats
            ))?;
        }
        Ok(())
    }
}
