// SPDX-License-Identifier: GPL-2.0

//! FUSE: how the module gets between it and the VFS, and how it talks to a server.
//!
//! FUSE has no hooks, and its structures are private. Everything here rests on exported interfaces,
//! and on layouts from the BTF of the very kernel the module is built for.
//!
//! # A mount's way to us
//!
//! 1. **INIT** (`init`) is seen by two tracepoint probes. When it is sent, the task that mounts is
//!    current: if it has CAP_SYS_RAWIO and mounts for itself, an offer is written into the request
//!    and kept. When it ends, the server's answer is read. The first probe runs under a spin lock
//!    and never sleeps.
//! 2. **Bind** (`init`): if the answer names ops, the offer becomes a [`Connection`], and the
//!    superblock gets a copy of FUSE's `super_operations` with four functions of ours. The copy is
//!    the first member of the connection: that is the way from any inode to it.
//! 3. **Open** (`open`): a fsnotify mark on the superblock reports each open before `->open()` is
//!    called. A regular file then gets the *gate*, FUSE's `file_operations` with our `->open()`.
//!    That settles whether the file is mapped, and hands over to the operations of a mapped file or
//!    back to FUSE's own. The map may come with the answer to OPEN (`map_in_open`), for which the
//!    first probe of requests adds to FUSE's request, or is asked for (`request`). A plain file
//!    never passes through our code again (but for one that is open for neither reading nor
//!    writing).
//! 4. **put_super** undoes it all, after the last inode is gone.
//!
//! # Who keeps the module
//!
//! An offer, and then the connection, owns a reference to it (in its [`Mounter`]), given up last. A
//! few instructions of ours are still to run then; [`Hooks`] waits for them when the module goes
//! away.
//!
//! # Locks
//!
//! `OFFERS`, `WANTED`, `MOUNTS` and that of a [`Superblock`] are leaves. In this order: FUSE's
//! `fiq->lock`, `OFFERS` or `WANTED`; a request's `waitq.lock`, the ops' registry, `MOUNTS`. An
//! open takes no lock of FUSE or the VFS.

use core::{
    mem::{
        offset_of,
        MaybeUninit, //
    },
    ptr, //
};

use kernel::{
    error::to_result,
    ffi,
    fmt,
    new_mutex,
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock,
        Mutex,
        SpinLock, //
    },
    types::Opaque, //
};

use crate::{
    bindings::{
        fuse as f,
        kernel as c, //
    },
    fmap_ops::Mount,
    iomap, //
};

mod hooks;
mod init;
mod map_in_open;
mod mounter;
mod open;
mod request;
mod umount;

pub(crate) use hooks::Hooks;
pub(crate) use init::loaded;
pub(crate) use map_in_open::MapInOpen;
pub(crate) use mounter::{
    DeviceFile,
    ModuleRef,
    Mounter, //
};
pub(crate) use open::{
    plain_fsync,
    MAKING_TABLES, //
};
pub(crate) use umount::Released;

use open::add_mark;
use umount::wait_on_return;

pub(crate) const BLOB_MIN: u32 = c::FUSE_DAX_FMAP_BLOB_MIN;
pub(crate) const BLOB_MAX: u32 = c::FUSE_DAX_FMAP_BLOB_MAX;
pub(crate) const BLOB_WITH_OPEN: u32 = c::FUSE_DAX_FMAP_OPEN_MAP_MAX;

// An inode is the first member of FUSE's.
const _: () = assert!(offset_of!(f::fuse_inode, inode) == 0);

global_lock! {
    /// Bound mounts, for the list that users can read.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    unsafe(uninit) static MOUNTS: SpinLock<KVec<ConnectionPtr>> = KVec::new();
}

/// A device number, as in /proc/self/mountinfo.
#[derive(Clone, Copy)]
struct Device(c::dev_t);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
    }
}

/// The superblock of a mount, which may be gone before what it has left.
///
/// # Invariants
///
/// The pointer is valid, or null from `put_super()` on.
#[pin_data]
pub(crate) struct Superblock {
    device: Device,
    #[pin]
    sb: SpinLock<SuperblockPtr>,
}

struct SuperblockPtr(*mut c::super_block);

// SAFETY: A superblock belongs to no task.
unsafe impl Send for SuperblockPtr {}

impl Superblock {
    /// # Safety
    ///
    /// `sb` is being mounted; [`Superblock::is_gone`] is called before it is freed.
    unsafe fn new(sb: *mut c::super_block) -> impl PinInit<Self> {
        // SAFETY: By the safety requirements.
        let device = Device(unsafe { (*sb).s_dev });

        // INVARIANT: By the safety requirements.
        pin_init!(Self {
            device,
            sb <- new_spinlock!(SuperblockPtr(sb), "fuse_dax_fmap::Superblock::sb"),
        })
    }

    /// Whether it is gone.
    pub(crate) fn has_gone(&self) -> bool {
        self.sb.lock().0.is_null()
    }

    fn is_gone(&self) {
        self.sb.lock().0 = ptr::null_mut();
    }
}

impl fmt::Display for Superblock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("{}", self.device))
    }
}

/// A superblock that stays mounted.
///
/// Dropping it never waits. If it is what is left of the mount, a work item ends the mount: FUSE
/// waits for the server then, as long as that likes.
///
/// # Invariants
///
/// `self` owns an active reference to `sb`.
pub(crate) struct Mounted {
    sb: *mut c::super_block,
    mount: ARef<Mount>,
}

impl Mounted {
    /// Keeps a mount, unless it is about to go.
    pub(crate) fn new(mount: &Mount) -> Option<Self> {
        let locked = mount.superblock.sb.lock();
        let sb = locked.0;

        if sb.is_null() {
            return None;
        }
        // SAFETY: By the type invariants the superblock is valid, with the lock held.
        let active = unsafe { c::atomic_inc_not_zero(&raw mut (*sb).s_active) };
        let mount = ARef::from(mount);

        // INVARIANT: Taken just now. Made only then: dropping it gives it up.
        active.then(|| Self { sb, mount })
    }

    /// Gives up the last active reference, and waits for the end of the mount.
    ///
    /// # Safety
    ///
    /// The caller owns an active reference of `mount`.
    pub(crate) unsafe fn end(mount: &Mount) {
        let sb = mount.superblock.sb.lock().0;

        // SAFETY: The caller's reference keeps the superblock up to here.
        unsafe { c::deactivate_super(sb) }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the superblock is valid.
        let given_up = unsafe { c::atomic_add_unless(&raw mut (*self.sb).s_active, -1, 1) };

        if !given_up {
            // What is left is ours, and becomes the work item's.
            self.mount.end_later();
        }
    }
}

/// A bound mount.
///
/// # Invariants
///
/// - `s_op` is the first member, and `sb->s_op` points to it from [`bind`] to [`put_super`].
/// - `plain_s_op` are the operations the superblock had, and `sb` outlives `self`.
#[pin_data]
#[repr(C)]
pub(crate) struct Connection {
    s_op: c::super_operations,
    plain_s_op: *const c::super_operations,
    sb: *mut c::super_block,
    /// Whether opens are reported.
    marked: Atomic<bool>,
    /// Whether the server can bring maps along with the answer to OPEN.
    pub(crate) brings_maps: bool,
    #[pin]
    marking: Mutex<()>,
    mount: ARef<Mount>,
    /// Dropped last: it keeps the module.
    mounter: Pin<KBox<Mounter>>,
}

type PutSuper = unsafe extern "C" fn(*mut c::super_block);

/// A bound mount in the list.
///
/// # Invariants
///
/// The connection is valid while it is in `MOUNTS`.
#[derive(PartialEq, Eq)]
struct ConnectionPtr(*mut Connection);

// SAFETY: Only used under the lock of `MOUNTS`.
unsafe impl Send for ConnectionPtr {}

impl Connection {
    /// Makes a connection in `memory`, pinned there until it is a box again. Does not sleep.
    ///
    /// # Safety
    ///
    /// `sb` is being mounted, and has a root.
    unsafe fn new(
        memory: KBox<MaybeUninit<Self>>,
        sb: *mut c::super_block,
        mount: ARef<Mount>,
        flags: u32,
        mounter: Pin<KBox<Mounter>>,
    ) -> *mut Self {
        // SAFETY: By the safety requirements.
        let plain_s_op = unsafe { (*sb).s_op };
        let s_op = c::super_operations {
            alloc_inode: Some(alloc_inode),
            evict_inode: Some(evict_inode),
            put_super: Some(put_super),
            sync_fs: Some(sync_fs),
            // SAFETY: A superblock's operations are valid.
            ..unsafe { *plain_s_op }
        };

        let conn = memory.write_pin_init(pin_init!(Self {
            s_op,
            plain_s_op,
            sb,
            marked: Atomic::new(false),
            brings_maps: flags & c::FUSE_DAX_FMAP_MAP_IN_OPEN != 0,
            marking <- new_mutex!((), "fuse_dax_fmap::Connection::marking"),
            mount,
            mounter,
        }));
        match conn {
            // SAFETY: The caller leaves it where it is.
            Ok(conn) => KBox::into_raw(unsafe { Pin::into_inner_unchecked(conn) }),
            Err(never) => match never {},
        }
    }

    /// The connection of a superblock, if it is bound.
    ///
    /// # Safety
    ///
    /// `sb` is valid, and stays mounted while the result is used.
    unsafe fn of<'a>(sb: *const c::super_block) -> Option<&'a Self> {
        // SAFETY: By the safety requirements.
        let s_op = unsafe { ptr::addr_of!((*sb).s_op).read_volatile() };
        // SAFETY: A superblock's operations are valid.
        let theirs = unsafe { (*s_op).put_super };
        let ours =
            theirs.is_some_and(|theirs| core::ptr::fn_addr_eq(theirs, put_super as PutSuper));

        // SAFETY: Only `bind()` hands out tables with this function, each the first member of a
        // connection that lives until the superblock is put.
        ours.then(|| unsafe { &*s_op.cast::<Self>() })
    }

    pub(crate) fn mount(&self) -> &Mount {
        &self.mount
    }

    pub(crate) fn mounter(&self) -> &Mounter {
        &self.mounter
    }

    /// Makes sure that opens are reported, and counted. May sleep.
    fn mark(&self) -> Result {
        if self.marked.load(Relaxed) {
            return Ok(());
        }
        let _marking = self.marking.lock();
        if !self.marked.load(Relaxed) {
            self.mount.start()?;
            // SAFETY: By the type invariants the superblock is valid.
            unsafe { add_mark(self.sb, self) }?;
            self.marked.store(true, Relaxed);
        }
        Ok(())
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: By the type invariants.
        f.write_fmt(fmt!("{}", Device(unsafe { (*self.sb).s_dev })))
    }
}

/// `->alloc_inode()`: FUSE's, once opens are reported. No file but the root directory can have been
/// opened before.
///
/// # Safety
///
/// Called by the VFS, for a bound superblock.
unsafe extern "C" fn alloc_inode(sb: *mut c::super_block) -> *mut c::inode {
    // SAFETY: Called by the VFS for a bound superblock.
    let Some(conn) = (unsafe { Connection::of(sb) }) else {
        return ptr::null_mut();
    };
    if conn.mark().is_err() {
        return ptr::null_mut();
    }
    // A node id that is used again, for another file, makes the old inode bad; the next thing that
    // FUSE does is to allocate the new one.
    conn.mount.look_for_bad();
    // SAFETY: By the type invariants; FUSE's own, with the VFS's argument.
    match unsafe { (*conn.plain_s_op).alloc_inode } {
        // SAFETY: As above.
        Some(alloc_inode) => unsafe { alloc_inode(sb) },
        None => ptr::null_mut(),
    }
}

/// `->evict_inode()`: ours first, then FUSE's.
///
/// # Safety
///
/// Called by the VFS, for an inode of a bound superblock that nobody has any more.
unsafe extern "C" fn evict_inode(inode: *mut c::inode) {
    // SAFETY: Called by the VFS for an inode of a bound superblock.
    let Some(conn) = (unsafe { Connection::of((*inode).i_sb) }) else {
        return;
    };
    // SAFETY: As above; nobody has the inode any more.
    unsafe { iomap::evict(inode) };
    // SAFETY: By the type invariants of `Connection`.
    if let Some(evict_inode) = unsafe { (*conn.plain_s_op).evict_inode } {
        // SAFETY: FUSE's own, with the VFS's argument.
        unsafe { evict_inode(inode) };
    }
}

/// `->sync_fs()`: what is in the CPU's caches first, and then FUSE's, which may ask the server.
///
/// # Safety
///
/// Called by the VFS, for a bound superblock that stays mounted.
unsafe extern "C" fn sync_fs(sb: *mut c::super_block, wait: ffi::c_int) -> ffi::c_int {
    // SAFETY: Called by the VFS for a bound superblock.
    let Some(conn) = (unsafe { Connection::of(sb) }) else {
        return EIO.to_errno();
    };
    let flushed = if wait != 0 {
        // SAFETY: As above.
        unsafe { iomap::sync_all(&conn.mount) }
    } else {
        Ok(())
    };
    // SAFETY: By the type invariants of `Connection`.
    let asked = match unsafe { (*conn.plain_s_op).sync_fs } {
        // SAFETY: FUSE's own, with the VFS's arguments.
        Some(plain_sync_fs) => to_result(unsafe { plain_sync_fs(sb, wait) }),
        None => Ok(()),
    };
    match flushed.and(asked) {
        Ok(()) => 0,
        Err(errno) => errno.to_errno(),
    }
}

/// `->put_super()`: the last inode is gone, and so is the mark.
///
/// # Safety
///
/// Called by the VFS, for a bound superblock that is being shut down.
unsafe extern "C" fn put_super(sb: *mut c::super_block) {
    // SAFETY: Called by the VFS for a bound superblock, whose operations begin a connection.
    let (conn, plain_s_op) = unsafe {
        let conn = (*sb).s_op.cast::<Connection>().cast_mut();
        (conn, (*conn).plain_s_op)
    };

    let mut mounts = MOUNTS.lock();
    mounts.retain(|other| other.0 != conn);
    if mounts.is_empty() {
        *mounts = KVec::new();
    }
    drop(mounts);

    // SAFETY: The superblock is being shut down: nobody else has it.
    unsafe { (*sb).s_op = plain_s_op };
    // SAFETY: A superblock's operations are valid.
    if let Some(put_super) = unsafe { (*plain_s_op).put_super } {
        // SAFETY: FUSE's own, if it ever has one, with the VFS's argument.
        unsafe { put_super(sb) };
    }
    // SAFETY: `bind()` gave the connection to the superblock, and nothing points to it any more.
    let conn = unsafe { Pin::new_unchecked(KBox::from_raw(conn)) };
    conn.mount.superblock.is_gone();
    conn.mount.stop_looking();
    let (released, device) = (conn.mount.released.event(), conn.mount.superblock.device);
    // The mounter keeps the module no longer than this.
    conn.mount.keep_module();
    drop(conn);
    wait_on_return(released, device);
}

/// The list of bound mounts that users can read.
pub(crate) struct Mounts;

impl Mounts {
    /// A line for each mount: `major:minor ops=name map=id files=number devices=index:path,...`,
    /// and its counters (`stats`), each as `name=number`.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for conn in MOUNTS.lock().iter() {
            // SAFETY: By the type invariants of `ConnectionPtr`.
            let conn = unsafe { &*conn.0 };
            let mount = &conn.mount;

            f.write_fmt(fmt!(
                "{} ops={} map={} files={} devices={}{}\n",
                conn,
                mount.ops.name(),
                mount.ops.map_id(),
                mount.files.load(Relaxed),
                mount.devices,
                mount.stats
            ))?;
        }
        Ok(())
    }
}

// --- Inodes -------------------------------------------------------------------------------------

/// An inode of FUSE, in use.
#[repr(transparent)]
pub(crate) struct Inode(Opaque<c::inode>);

impl Inode {
    /// # Safety
    ///
    /// `inode` is FUSE's, and stays in use as long as the result.
    pub(crate) unsafe fn new<'a>(inode: *mut c::inode) -> &'a Self {
        // SAFETY: By the safety requirements; the types have one layout.
        unsafe { &*inode.cast() }
    }

    pub(crate) fn as_raw(&self) -> *mut c::inode {
        self.0.get()
    }

    fn as_fuse(&self) -> *mut f::fuse_inode {
        self.as_raw().cast()
    }

    /// Its number, for people.
    pub(crate) fn number(&self) -> u64 {
        // SAFETY: The inode is in use.
        unsafe { (*self.as_raw()).i_ino }
    }

    /// What no other inode in use has.
    pub(crate) fn key(&self) -> usize {
        self.as_raw() as usize
    }

    /// What the server knows it by.
    fn nodeid(&self) -> u64 {
        // SAFETY: The inode is FUSE's and in use; its node id does not change.
        unsafe { (*self.as_fuse()).nodeid }
    }

    /// What the server has negotiated.
    fn fuse_conn(&self) -> *mut f::fuse_conn {
        // SAFETY: The inode is FUSE's and in use, so its mount is there.
        unsafe { (*(*(*self.as_raw()).i_sb).s_fs_info.cast::<f::fuse_mount>()).fc }
    }

    /// Whether FUSE leaves it to the server to take set-user-id bits off a file that is written to.
    pub(crate) fn server_takes_privileges_off(&self) -> bool {
        let fc = self.fuse_conn();

        // SAFETY: The inode is in use, so its connection is there.
        unsafe {
            f::fuse_conn::handle_killpriv_raw(fc) | f::fuse_conn::handle_killpriv_v2_raw(fc) != 0
        }
    }

    /// Whether close(2) concerns the server before the last one does: if it has FLUSH, or FUSE
    /// keeps times for it.
    fn server_wants_flush(&self) -> bool {
        let fc = self.fuse_conn();

        // SAFETY: The inode is in use, so its connection is there. A FLUSH that fails sets
        // `no_flush`.
        unsafe { f::fuse_conn::no_flush_raw(fc) == 0 || f::fuse_conn::writeback_cache_raw(fc) != 0 }
    }

    /// Whether the server is told of fsync(2), as far as it is known.
    pub(crate) fn server_wants_fsync(&self) -> bool {
        // SAFETY: The inode is in use, so its connection is there. An FSYNC that fails sets
        // `no_fsync`.
        unsafe { f::fuse_conn::no_fsync_raw(self.fuse_conn()) == 0 }
    }

    /// Whether FUSE's page cache has what the server has not got yet, or is mapped: the two would
    /// not see each other's stores.
    pub(crate) fn uses_page_cache(&self) -> bool {
        // SAFETY: The inode is in use; each word is read once.
        unsafe {
            let mapping = &raw const (*self.as_raw()).i_data;
            let marks = ptr::addr_of!((*mapping).i_pages.xa_flags).read_volatile();
            let mappings = ptr::addr_of!((*mapping).i_mmap.rb_root.rb_node).read_volatile();
            // Counted before a mapping is in the tree.
            let writable = ptr::addr_of!((*mapping).i_mmap_writable.counter).read_volatile();

            marks & (c::XA_FLAGS_MARK_DIRTY | c::XA_FLAGS_MARK_WRITEBACK) != 0
                || !mappings.is_null()
                || writable > 0
        }
    }

    /// Whether FUSE has given the inode up, as its node id is another file's now, or its server
    /// talks nonsense.
    #[inline]
    pub(crate) fn is_bad(&self) -> bool {
        // SAFETY: The inode is FUSE's and in use.
        unsafe { is_bad(self.as_raw()) }
    }

    /// Changes `i_flags`, some of which FUSE changes too, under a lock of its own.
    pub(crate) fn change_flags(&self, change: impl FnOnce(u32) -> u32) {
        // SAFETY: The inode is FUSE's and in use.
        unsafe {
            let lock = ptr::addr_of_mut!((*self.as_fuse()).lock);
            c::spin_lock(lock);
            (*self.as_raw()).i_flags = change((*self.as_raw()).i_flags);
            c::spin_unlock(lock);
        }
    }
}

/// [`Inode::is_bad`].
///
/// # Safety
///
/// `inode` is FUSE's and in use.
#[inline]
pub(crate) unsafe fn is_bad(inode: *const c::inode) -> bool {
    // SAFETY: By the safety requirements; other bits change meanwhile, this one is only set.
    let state = unsafe { ptr::addr_of!((*inode.cast::<f::fuse_inode>()).state).read_volatile() };

    state & (1 << f::FUSE_I_BAD) != 0
}
