// SPDX-License-Identifier: GPL-2.0

//! FUSE: how the module gets between it and the VFS, and how it talks to a server.
//!
//! FUSE has no hooks, and its structures are private. Everything here rests on exported interfaces,
//! and on layouts from the BTF of the very kernel the module is built for.
//!
//! # A mount's way to us
//!
//! 1. **INIT** (`init`) is seen by two tracepoint probes. When it is sent, the task that mounts is
//!    current: if it has CAP_SYS_RAWIO and mounts for itself, an offer is written into the request and
//!    kept. When it ends, the server's answer is read. The first probe runs under a spin lock and never
//!    sleeps.
//! 2. **Bind** (`init`): if the answer names ops, the offer becomes a [`Connection`], and the
//!    superblock gets a copy of FUSE's `super_operations` with four functions of ours. The copy is
//!    the first member of the connection: that is the way from any inode to it.
//! 3. **Open** (`open`): a fsnotify mark on the superblock reports each open before `->open()` is
//!    called. A regular file then gets the *gate*, FUSE's `file_operations` with our `->open()`. That
//!    settles whether the file is mapped, and hands over to the operations of a mapped file or back
//!    to FUSE's own. The map may come with the answer to OPEN (`map_in_open`), for which the first probe of
//!    requests adds to FUSE's request, or is asked for (`request`). A plain file never passes through our code again (but for one that is open for
//!    neither reading nor writing).
//! 4. **put_super** undoes it all, after the last inode is gone.
//!
//! # Who keeps the module
//!
//! An offer, and then the connection, owns a reference to it (in its [`Mounter`]), given up last. A few
//! instructions of ours are still to run then; [`Hooks`] waits for them when the module goes away.
//!
//! # Locks
//!
//! `OFFERS`, `WANTED` and `MOUNTS` are leaves. In this order: FUSE's `fiq->lock`, `OFFERS` or `WANTED`; a request's
//! `waitq.lock`, the ops' registry, `MOUNTS`; FUSE's `killsb` (only tried), `inode->i_rwsem`.

use core::{
    mem::{
        offset_of,
        MaybeUninit, //
    },
    ptr,
    sync::atomic::{
        fence,
        Ordering, //
    }, //
};

use kernel::{
    error::to_result,
    ffi,
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock,
        Mutex, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    types::Opaque, //
};

use crate::{
    bindings::{
        fuse as f,
        kernel as c, //
    },
    bpf_struct_ops::PinnedOps,
    fmap_ops::Mount,
    iomap, //
};

mod hooks;
mod init;
mod map_in_open;
mod mounter;
mod open;
mod request;

pub(crate) use hooks::Hooks;
pub(crate) use map_in_open::MapInOpen;
pub(crate) use mounter::{
    DeviceFile,
    Mounter, //
};
pub(crate) use open::{
    plain_fsync,
    MAKING_TABLES, //
};

use open::add_mark;

pub(crate) const BLOB_MIN: u32 = c::FUSE_DAX_FMAP_BLOB_MIN;
pub(crate) const BLOB_MAX: u32 = c::FUSE_DAX_FMAP_BLOB_MAX;

// An inode is the first member of FUSE's.
const _: () = assert!(offset_of!(f::fuse_inode, inode) == 0);

global_lock! {
    /// Bound mounts, for the list that users can read.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    unsafe(uninit) static MOUNTS: SpinLock<KVec<ConnectionPtr>> = KVec::new();
}

/// A device number, as in /proc/self/mountinfo.
struct Device(c::dev_t);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
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
    /// The page cache that FUSE sees of every mapped file. See [`iomap`].
    #[pin]
    empty_page_cache: Opaque<c::address_space>,
    /// Whether opens are reported.
    marked: Atomic<bool>,
    /// Whether the server can bring maps along with the answer to OPEN.
    pub(crate) brings_maps: bool,
    #[pin]
    marking: Mutex<()>,
    #[pin]
    mount: Mount,
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
        ops: PinnedOps,
        flags: u32,
        mounter: Pin<KBox<Mounter>>,
    ) -> *mut Self {
        // SAFETY: By the safety requirements.
        let (plain_s_op, root) = unsafe { ((*sb).s_op, (*(*sb).s_root).d_inode) };
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
            // SAFETY: The root inode is evicted last but for the inodes that nobody uses, and
            // empties it then.
            empty_page_cache <- unsafe { iomap::empty_page_cache(root) },
            marked: Atomic::new(false),
            brings_maps: flags & c::FUSE_DAX_FMAP_MAP_IN_OPEN != 0,
            marking <- new_mutex!((), "fuse_dax_fmap::Connection::marking"),
            mount <- Mount::new(ops),
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

    pub(crate) fn superblock(&self) -> *mut c::super_block {
        self.sb
    }

    /// Holds off notifications for a moment, in which no request may be sent.
    ///
    /// It does not queue for that: it would hold up further notifications, and the server may need
    /// one of them to end the one that is under way.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if one is under way for more than a second.
    pub(crate) fn hold_off_notifications(&self) -> Result<Silence> {
        const TRIES: usize = 1000;

        // SAFETY: By the type invariants; FUSE's data lives as long as the superblock is mounted.
        let killsb = unsafe {
            let mount = (*self.sb).s_fs_info.cast::<f::fuse_mount>();
            ptr::addr_of_mut!((*(*mount).fc).killsb)
        };
        for _ in 0..TRIES {
            // SAFETY: As above.
            if unsafe { c::down_write_trylock(killsb) } != 0 {
                return Ok(Silence(killsb));
            }
            fsleep(Delta::from_millis(1));
        }
        Err(EBUSY)
    }

    pub(crate) fn mounter(&self) -> &Mounter {
        &self.mounter
    }

    pub(crate) fn empty_page_cache(&self) -> *mut c::address_space {
        self.empty_page_cache.get()
    }

    /// Makes sure that opens are reported, and counted. May sleep.
    fn mark(&self) -> Result {
        if self.marked.load(Relaxed) {
            return Ok(());
        }
        let _marking = self.marking.lock();
        if !self.marked.load(Relaxed) {
            self.mount.stats.start()?;
            // SAFETY: By the type invariants the superblock is valid.
            unsafe { add_mark(self.sb) }?;
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
    // SAFETY: It is still FUSE's.
    conn.mount.idle.forget(unsafe { Inode::new(inode) });

    // The server can store pages in what it takes for the page cache of a mapped file. Nobody sees
    // them there, but they have to go while their host, the root, is there. No more can come: at
    // unmount FUSE lets no notification through before it gives up the root.
    let empty = conn.empty_page_cache();
    // SAFETY: The page cache is ours, and initialized.
    if ptr::eq(inode, unsafe { (*empty).host }) {
        // SAFETY: As above.
        unsafe { c::truncate_inode_pages_final(empty) };
    }
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
        unsafe { iomap::sync_all(sb) }
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
    drop(unsafe { Pin::new_unchecked(KBox::from_raw(conn)) });
}

/// The list of bound mounts that users can read.
pub(crate) struct Mounts;

impl Mounts {
    /// A line for each mount: `major:minor ops=name map=id files=number devices=index:path,...`, and
    /// its counters (`stats`), each as `name=number`.
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

/// `inode->i_rwsem`, held exclusively.
pub(crate) struct InodeLock<'a>(&'a Inode);

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

    pub(crate) fn lock(&self) -> InodeLock<'_> {
        // SAFETY: The inode is in use.
        unsafe { c::down_write(ptr::addr_of_mut!((*self.as_raw()).i_rwsem)) };
        InodeLock(self)
    }

    /// Files of this inode that are open for reading or writing, or being opened.
    pub(crate) fn opens(&self) -> usize {
        // Whoever opened unnoticed counted itself first and then took the inode's table. The gate is
        // in that table: either it is counted here, or it goes through the gate.
        fence(Ordering::SeqCst);
        // SAFETY: The inode is in use; each counter is read once.
        let (readers, writers) = unsafe {
            (
                ptr::addr_of!((*self.as_raw()).i_readcount.counter).read_volatile(),
                ptr::addr_of!((*self.as_raw()).i_writecount.counter).read_volatile(),
            )
        };
        // A negative number of writers is programs that run from the file.
        (readers.max(0) + writers.max(0)) as usize
    }

    /// Whether FUSE leaves it to the server to take set-user-id bits off a file that is written to.
    pub(crate) fn server_takes_privileges_off(&self) -> bool {
        let fc = self.fuse_conn();

        // SAFETY: The inode is in use, so its connection is there.
        unsafe {
            f::fuse_conn::handle_killpriv_raw(fc) | f::fuse_conn::handle_killpriv_v2_raw(fc) != 0
        }
    }

    /// Whether close(2) concerns the server before the last one does: if it has FLUSH, or FUSE keeps times
    /// for it.
    fn server_wants_flush(&self) -> bool {
        let fc = self.fuse_conn();

        // SAFETY: The inode is in use, so its connection is there. A FLUSH that fails sets `no_flush`.
        unsafe { f::fuse_conn::no_flush_raw(fc) == 0 || f::fuse_conn::writeback_cache_raw(fc) != 0 }
    }

    /// Writes back and drops what FUSE has cached. May sleep, and ask the server.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] and others if it cannot be done.
    pub(crate) fn empty_page_cache(&self) -> Result {
        // SAFETY: The inode is FUSE's, regular and in use.
        to_result(unsafe { c::invalidate_inode_pages2(ptr::addr_of_mut!((*self.as_raw()).i_data)) })
    }

    pub(crate) fn has_empty_page_cache(&self) -> bool {
        // SAFETY: The inode is in use.
        unsafe { ptr::addr_of!((*self.as_raw()).i_data.nrpages).read_volatile() == 0 }
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

/// `killsb` of a connection, held exclusively: FUSE takes no notification from the server.
pub(crate) struct Silence(*mut c::rw_semaphore);

impl Drop for Silence {
    fn drop(&mut self) {
        // SAFETY: `Connection::hold_off_notifications()` took it.
        unsafe { c::up_write(self.0) }
    }
}

impl Drop for InodeLock<'_> {
    fn drop(&mut self) {
        // SAFETY: `Inode::lock()` took it.
        unsafe { c::up_write(ptr::addr_of_mut!((*self.0.as_raw()).i_rwsem)) }
    }
}
