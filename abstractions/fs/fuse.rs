// SPDX-License-Identifier: GPL-2.0

//! Objects of FUSE.
//!
//! Their layouts are private to FUSE. The bindings are generated from the BTF of the kernel that
//! the module is built for.
//!
//! C headers: [`fs/fuse/fuse_i.h`](srctree/fs/fuse/fuse_i.h),
//! [`fs/fuse/dev.h`](srctree/fs/fuse/dev.h)

use core::{
    mem::{
        offset_of,
        size_of, //
    },
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    container_of,
    error::to_result,
    ffi,
    prelude::*,
    task::Kuid,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use crate::bindings::{
    fuse as f,
    kernel as c, //
};

use super::{
    file::OpeningFile,
    inode,
    super_block::SuperBlock, //
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
pub(crate) struct ChannelId(usize);

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
struct SpinGuard {
    lock: *mut c::spinlock_t,
    _same_task: NotThreadSafe,
}

impl SpinGuard {
    /// Locks a spin lock.
    ///
    /// # Safety
    ///
    /// `lock` must be initialized, and valid as long as the guard.
    unsafe fn new(lock: *mut c::spinlock_t) -> Self {
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

// --- Requests that a probe sees -----------------------------------------------------------------

/// A `struct fuse_req` that a tracepoint probe was called with.
///
/// # Invariants
///
/// The request and its arguments are valid as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct Request(Opaque<f::fuse_req>);

/// The address of a request, for comparison only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId(usize);

impl Request {
    pub(crate) const INIT: u32 = f::fuse_opcode_FUSE_INIT;
    pub(crate) const OPEN: u32 = f::fuse_opcode_FUSE_OPEN;

    /// Creates a reference to a [`Request`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `req` must be valid for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(req: *const f::fuse_req) -> &'a Self {
        // SAFETY: `req` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*req.cast() }
    }

    pub(crate) fn id(&self) -> RequestId {
        RequestId(self.0.get() as usize)
    }

    #[inline]
    pub(crate) fn opcode(&self) -> u32 {
        // SAFETY: By the type invariants the request is valid.
        unsafe { (*self.0.get()).in_.h.opcode }
    }

    /// Returns the negative errno of the reply, or 0. Valid once the server has replied.
    pub(crate) fn error(&self) -> i32 {
        // SAFETY: By the type invariants the request is valid.
        unsafe { (*self.0.get()).out.h.error }
    }

    /// Returns true if the request is asynchronous: no task waits for it, and `->end()` is called
    /// in the context in which the reply arrives.
    pub(crate) fn is_asynchronous(&self) -> bool {
        // SAFETY: By the type invariants the request is valid. Other bits may change concurrently.
        let flags = unsafe { (&raw const (*self.0.get()).flags).read_volatile() };

        flags & (1 << f::fuse_req_flag_FR_ASYNC) != 0
    }

    pub(crate) fn channel(&self) -> ChannelId {
        // SAFETY: By the type invariants the request is valid, and so is its channel.
        ChannelId(unsafe { (*self.0.get()).chan } as usize)
    }

    /// Aborts the channel: the server sees the end of its connection, and operations fail with
    /// ENOTCONN. Takes locks of FUSE.
    pub(crate) fn abort_channel(&self) {
        // SAFETY: By the type invariants the request is valid, and so is its channel.
        unsafe { f::fuse_chan_abort((*self.0.get()).chan, false) }
    }

    fn args(&self) -> *mut f::fuse_args {
        // SAFETY: By the type invariants the request is valid.
        unsafe { (*self.0.get()).args }
    }

    /// Returns the node id that the request is for.
    pub(crate) fn nodeid(&self) -> u64 {
        // SAFETY: By the type invariants the arguments are valid.
        unsafe { (*self.args()).nodeid }
    }

    /// Locks the wait queue of the request if a task waits there for its end. That task cannot
    /// return while the queue is locked.
    pub(crate) fn lock_waiter(&self) -> Option<Waiter<'_>> {
        // SAFETY: By the type invariants the request is valid.
        let waitq = unsafe { &raw mut (*self.0.get()).waitq };
        // SAFETY: The queue is initialized, and valid as long as the request.
        let lock = unsafe { SpinGuard::new(&raw mut (*waitq).lock) };
        // SAFETY: The queue is valid, and locked.
        let is_empty = unsafe { ptr::eq((*waitq).head.next, &raw const (*waitq).head) };

        // If the queue is empty, this drops the guard and so unlocks the queue.
        (!is_empty).then_some(Waiter {
            _lock: lock,
            _req: self,
        })
    }
}

/// A request that is being sent, and that the server does not see yet.
///
/// # Invariants
///
/// - The arguments may still be changed.
/// - If it is INIT or OPEN, the current task sends it.
pub(crate) struct Sending<'a>(&'a Request);

impl Deref for Sending<'_> {
    type Target = Request;

    #[inline]
    fn deref(&self) -> &Request {
        self.0
    }
}

impl<'a> Sending<'a> {
    /// Creates a [`Sending`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `req` must be valid for `'a`, and the tracepoint `fuse_request_send` must be calling a probe
    /// with it. There must be no other [`Sending`] for it at the same time.
    #[inline]
    pub(crate) unsafe fn from_raw(req: *const f::fuse_req) -> Self {
        // INVARIANT: FUSE calls the tracepoint before the server can see the request. OPEN is
        // synchronous, and INIT is the first request of its channel.
        // SAFETY: By the safety requirements `req` is valid.
        Self(unsafe { Request::from_raw(req) })
    }

    /// Returns the arguments of an INIT, or [`None`] for another request.
    pub(crate) fn init_args(&self) -> Option<&'a InitArgs> {
        if self.opcode() != Request::INIT {
            return None;
        }
        // SAFETY: The arguments of an INIT are valid, and part of a `struct fuse_init_args`.
        let init = unsafe { container_of!(self.args(), f::fuse_init_args, args) };

        // SAFETY: By the type invariants nothing else writes there before the request is sent.
        Some(unsafe { &*init.cast() })
    }

    /// Returns the arguments of an OPEN, or [`None`] for another request, or if the arguments do
    /// not have the expected form.
    pub(crate) fn open_args(&mut self) -> Option<OpenArgs<'_>> {
        if self.opcode() != Request::OPEN {
            return None;
        }
        // SAFETY: The arguments of a request are valid. Those of OPEN are local variables of
        // `fuse_send_open()`, which by the type invariants the current task is in.
        let args = unsafe { &mut *self.args() };

        if args.out_numargs != 1
            || args.out_argvar()
            || args.in_args[0].size as usize != size_of::<f::fuse_open_in>()
        {
            return None;
        }
        Some(OpenArgs { args })
    }
}

/// A guard for the locked wait queue of a request, with a task on it.
#[must_use = "the task goes on when this is dropped"]
pub(crate) struct Waiter<'a> {
    _lock: SpinGuard,
    _req: &'a Request,
}

/// A `struct fuse_init_args` of an INIT that is being sent.
///
/// # Invariants
///
/// The arguments are valid as long as they are borrowed, and nothing else writes to them.
#[repr(transparent)]
pub(crate) struct InitArgs(Opaque<f::fuse_init_args>);

impl InitArgs {
    /// Returns the mount, which stays valid until the request has been put.
    pub(crate) fn mount(&self) -> &Mount {
        // SAFETY: By the type invariants the arguments are valid. An INIT has a mount.
        unsafe { &*(*self.0.get()).fm.cast() }
    }

    /// Writes a word that FUSE leaves 0. Does nothing if there is no such word.
    pub(crate) fn set_unused(&self, index: usize, value: u32) {
        // SAFETY: By the type invariants the arguments are valid, and nothing else writes to them.
        let unused = unsafe { &mut (*self.0.get()).in_.unused };

        if let Some(word) = unused.get_mut(index) {
            *word = value;
        }
    }

    /// Returns where FUSE stores the server's reply.
    pub(crate) fn answer(&self) -> NonNull<InitAnswer> {
        // SAFETY: By the type invariants the arguments are valid, so the pointer is not null.
        unsafe { NonNull::new_unchecked(&raw mut (*self.0.get()).out).cast() }
    }
}

/// A `struct fuse_init_out`: 64 bytes of integers.
#[repr(transparent)]
pub(crate) struct InitAnswer(f::fuse_init_out);

impl InitAnswer {
    pub(crate) const SIZE: usize = size_of::<f::fuse_init_out>();

    pub(crate) fn major(&self) -> u32 {
        self.0.major
    }

    /// Makes mount(2) fail: no version of the protocol has this major number.
    pub(crate) fn refuse(&mut self) {
        self.0.major = 0;
    }

    pub(crate) fn as_bytes(&self) -> &[u8; Self::SIZE] {
        // SAFETY: `self` has this size, and consists of integers without padding.
        unsafe { &*ptr::from_ref(self).cast() }
    }

    /// Copies a reply that may be freed concurrently. The result may then be any bytes, or
    /// [`None`].
    ///
    /// # Safety
    ///
    /// `answer` must have been valid at some time.
    pub(crate) unsafe fn copy_nofault(answer: NonNull<Self>) -> Option<Self> {
        let mut copy = Self(pin_init::zeroed());
        let (to, from) = ((&raw mut copy).cast(), answer.as_ptr().cast());

        // SAFETY: `to` points to as many bytes, of integers, for which any value is valid. `from`
        // is an address of kernel memory, and a fault there is handled.
        let ret = unsafe { c::copy_from_kernel_nofault(to, from, Self::SIZE) };
        (ret == 0).then_some(copy)
    }
}

/// The arguments of an OPEN that is being sent. The reply has one part.
pub(crate) struct OpenArgs<'a> {
    args: &'a mut f::fuse_args,
}

impl OpenArgs<'_> {
    /// Sets flags in the request. FUSE must not use them itself.
    pub(crate) fn set_open_flags(&mut self, flags: u32) {
        let open_in = self.args.in_args[0].value.cast_mut();

        // SAFETY: The first argument of OPEN is a local variable of this type.
        unsafe { (*open_in.cast::<f::fuse_open_in>()).open_flags |= flags };
    }

    /// Makes the reply consist of two parts, the second of which is stored in `part`.
    ///
    /// # Safety
    ///
    /// `part` must be valid for writes until the task has the reply.
    pub(crate) unsafe fn add_answer<T>(&mut self, part: *mut T) {
        self.args.out_numargs = 2;
        self.args.out_args[1].size = size_of::<T>() as u32;
        self.args.out_args[1].value = part.cast();
    }
}

// --- Requests of the module ---------------------------------------------------------------------

/// A `struct fuse_args`.
#[repr(transparent)]
pub(crate) struct Args(Opaque<f::fuse_args>);

/// The parameters of a request.
pub(crate) struct RequestArgs {
    pub(crate) opcode: u32,
    pub(crate) nodeid: u64,
    /// True if the reply may be shorter than its buffer.
    pub(crate) may_be_short: bool,
}

/// The type of the function that FUSE calls when a request has ended.
pub(crate) type End = unsafe extern "C" fn(*mut f::fuse_args, ffi::c_int);

impl Args {
    /// Creates arguments that belong to no request.
    pub(crate) fn zeroed() -> impl PinInit<Self> {
        // SAFETY: All zeroes is a valid value of the type.
        unsafe {
            pin_init::pin_init_from_closure(|slot: *mut Self| {
                // SAFETY: `slot` is valid for writes.
                slot.write_bytes(0, 1);
                Ok(())
            })
        }
    }

    /// Sends a request with `body` to the server of `inode`. The reply is stored in `reply`. May
    /// sleep, but does not wait for the server.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; ENOTCONN if there is no server. `end` is not called on error.
    ///
    /// # Safety
    ///
    /// `self` must be pinned, and belong to no other request. `self`, `body` and `reply` must stay
    /// valid until `end` is called, and `reply` must not be used before.
    pub(crate) unsafe fn send_background<T>(
        &self,
        inode: &Inode,
        request_args: &RequestArgs,
        body: *const T,
        reply: *mut [u8],
        end: End,
    ) -> Result {
        // SAFETY: By the safety requirements `self` belongs to no request, so only the caller uses
        // it.
        let args = unsafe { &mut *self.0.get() };

        args.opcode = request_args.opcode;
        args.nodeid = request_args.nodeid;
        args.in_numargs = 1;
        args.in_args[0].size = size_of::<T>() as u32;
        args.in_args[0].value = body.cast();
        args.out_numargs = 1;
        args.set_out_argvar(request_args.may_be_short);
        args.out_args[0].size = reply.len() as u32;
        args.out_args[0].value = reply.cast();
        args.end = Some(end);
        // SAFETY: The mount is that of the inode. By the safety requirements `args`, which is
        // complete, and what it points to stay valid until the request has ended.
        to_result(unsafe {
            f::fuse_simple_background(inode.mount().0.get().cast(), self.0.get(), c::GFP_KERNEL)
        })
    }

    /// Returns the length of the reply.
    ///
    /// # Safety
    ///
    /// The request must have ended, and the caller must have synchronized with its end.
    pub(crate) unsafe fn reply_len(&self) -> usize {
        // SAFETY: By the safety requirements FUSE has set the size, and is done with `self`.
        unsafe { (*self.0.get()).out_args[0].size as usize }
    }
}
