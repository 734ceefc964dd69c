// SPDX-License-Identifier: GPL-2.0

//! FUSE's objects.
//!
//! Their layouts are private to FUSE; the bindings are made from the BTF of the kernel that is
//! built for.
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

// An inode is the first member of FUSE's.
const _: () = assert!(offset_of!(f::fuse_inode, inode) == 0);

/// A `struct fuse_conn`: what a server has negotiated.
///
/// # Invariants
///
/// It is valid as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct Conn(Opaque<f::fuse_conn>);

impl Conn {
    /// Whether the server takes set-user-id bits off a file that is written to.
    pub(crate) fn handles_killpriv(&self) -> bool {
        let fc = self.0.get();

        // SAFETY: By the type invariants `fc` is valid.
        let v1 = unsafe { f::fuse_conn::handle_killpriv_raw(fc) };
        // SAFETY: By the type invariants `fc` is valid.
        let v2 = unsafe { f::fuse_conn::handle_killpriv_v2_raw(fc) };
        v1 | v2 != 0
    }

    /// Whether the server is known to have no FLUSH. A FLUSH that fails sets it.
    pub(crate) fn has_no_flush(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { f::fuse_conn::no_flush_raw(self.0.get()) != 0 }
    }

    /// Whether the server is known to have no FSYNC. An FSYNC that fails sets it.
    pub(crate) fn has_no_fsync(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { f::fuse_conn::no_fsync_raw(self.0.get()) != 0 }
    }

    /// Whether FUSE caches writes, and keeps times, for the server.
    pub(crate) fn caches_writes(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { f::fuse_conn::writeback_cache_raw(self.0.get()) != 0 }
    }

    /// Whether directories may become mounts of their own.
    pub(crate) fn has_automatic_submounts(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { f::fuse_conn::auto_submounts_raw(self.0.get()) != 0 }
    }

    /// Whether FUSE has done with the answer to INIT, or is about to: then its memory may be gone.
    pub(crate) fn has_read_init(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        let init = unsafe { f::fuse_conn::conn_init_raw(self.0.get()) };
        // SAFETY: By the type invariants the pointer is valid.
        let error = unsafe { f::fuse_conn::conn_error_raw(self.0.get()) };

        init | error != 0
    }

    /// Who owns the mount (`user_id=`).
    pub(crate) fn owner(&self) -> Kuid {
        // SAFETY: By the type invariants the pointer is valid. The owner is set before INIT.
        let uid = unsafe { (*self.0.get()).user_id };

        Kuid::from_raw(c::kuid_t { val: uid.val })
    }

    /// Whether FUSE does DAX itself (virtiofs).
    #[cfg(CONFIG_FUSE_DAX)]
    pub(crate) fn has_dax(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { !(*self.0.get()).dax.is_null() }
    }

    /// Whether FUSE does DAX itself (virtiofs).
    #[cfg(not(CONFIG_FUSE_DAX))]
    pub(crate) fn has_dax(&self) -> bool {
        false
    }

    /// What its channel is recognized by.
    #[inline]
    pub(crate) fn channel(&self) -> ChannelId {
        // SAFETY: By the type invariants the pointer is valid. The channel does not change.
        ChannelId(unsafe { (*self.0.get()).chan } as usize)
    }
}

/// The address of a channel to a server, which is not followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelId(usize);

/// A `struct fuse_mount`: a superblock of a server.
///
/// # Invariants
///
/// It is valid, with its connection and its superblock, as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct Mount(Opaque<f::fuse_mount>);

// SAFETY: A mount belongs to no task.
unsafe impl Send for Mount {}
// SAFETY: What is used of it does not change.
unsafe impl Sync for Mount {}

impl Mount {
    #[inline]
    pub(crate) fn conn(&self) -> &Conn {
        // SAFETY: By the type invariants both pointers are valid; the types have one layout.
        unsafe { &*(*self.0.get()).fc.cast() }
    }

    pub(crate) fn super_block(&self) -> &SuperBlock {
        // SAFETY: By the type invariants the mount is valid. Its superblock does not change.
        let sb = unsafe { (*self.0.get()).sb };

        // SAFETY: By the type invariants the superblock is valid.
        unsafe { SuperBlock::from_raw(sb) }
    }
}

/// A mount that is being made: its INIT has been sent, and mount(2) has not seen the answer.
///
/// # Invariants
///
/// The superblock has its root, and neither the server nor another task uses it yet, or at most
/// begins to.
#[derive(Clone, Copy)]
pub(crate) struct Mounting<'a>(&'a Mount);

impl Deref for Mounting<'_> {
    type Target = Mount;

    fn deref(&self) -> &Mount {
        self.0
    }
}

impl<'a> Mounting<'a> {
    /// # Safety
    ///
    /// `mount` is being made, for `'a`, and its INIT has been sent.
    pub(crate) unsafe fn new(mount: NonNull<Mount>) -> Self {
        // INVARIANT: FUSE sets the root before it sends INIT.
        // SAFETY: `mount` is valid, by the safety requirements.
        Self(unsafe { mount.as_ref() })
    }

    /// The inode of its root.
    pub(crate) fn root(self) -> &'a Inode {
        // SAFETY: By the type invariants there is a root.
        let root = unsafe { inode::Inode::root_of(self.0.super_block()) };

        // SAFETY: The superblock is FUSE's, and so are its inodes.
        unsafe { Inode::of(root) }
    }

    /// Has FUSE take no inode for a DAX one, whatever the server says.
    pub(crate) fn never_use_dax(self) {
        #[cfg(CONFIG_FUSE_DAX)]
        // SAFETY: By the type invariants nothing else looks there yet.
        unsafe {
            (*self.0.conn().0.get()).dax_mode = f::fuse_dax_mode_FUSE_DAX_NEVER;
        }
    }
}

/// An inode of FUSE, in use.
///
/// # Invariants
///
/// The inode is FUSE's.
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
    /// # Safety
    ///
    /// `inode` is FUSE's, and stays in use as long as the result.
    #[inline]
    pub(crate) unsafe fn new<'a>(inode: *mut c::inode) -> &'a Self {
        // SAFETY: `inode` is valid by the safety requirements, and the types have one layout.
        unsafe { &*inode.cast() }
    }

    /// # Safety
    ///
    /// `inode` is FUSE's.
    #[inline]
    pub(crate) unsafe fn of(inode: &inode::Inode) -> &Self {
        // SAFETY: By the safety requirements, and as long as it is borrowed.
        unsafe { Self::new(inode.as_raw()) }
    }

    fn as_fuse(&self) -> *mut f::fuse_inode {
        self.as_raw().cast()
    }

    /// What no other inode in use has.
    pub(crate) fn key(&self) -> usize {
        self.as_raw() as usize
    }

    /// What the server knows it by.
    #[inline]
    pub(crate) fn nodeid(&self) -> u64 {
        // SAFETY: By the type invariants the inode is FUSE's; its node id does not change.
        unsafe { (*self.as_fuse()).nodeid }
    }

    #[inline]
    pub(crate) fn mount(&self) -> &Mount {
        // SAFETY: By the type invariants the inode is FUSE's, so this is its `struct fuse_mount`,
        // which it keeps.
        unsafe { &*self.super_block().fs_info().cast() }
    }

    /// What the server has negotiated.
    #[inline]
    pub(crate) fn conn(&self) -> &Conn {
        self.mount().conn()
    }

    /// Whether FUSE leaves it to the server to take set-user-id bits off a file that is written to.
    pub(crate) fn server_takes_privileges_off(&self) -> bool {
        self.conn().handles_killpriv()
    }

    /// Whether close(2) concerns the server before the last one does: if it has FLUSH, or FUSE
    /// keeps times for it.
    pub(crate) fn server_wants_flush(&self) -> bool {
        let conn = self.conn();

        !conn.has_no_flush() || conn.caches_writes()
    }

    /// Whether the server is told of fsync(2), as far as it is known.
    pub(crate) fn server_wants_fsync(&self) -> bool {
        !self.conn().has_no_fsync()
    }

    /// Whether FUSE's page cache has what the server has not got yet, or is mapped: the two would
    /// not see each other's stores.
    pub(crate) fn uses_page_cache(&self) -> bool {
        // SAFETY: By the type invariants the inode is valid.
        let mapping = unsafe { &raw const (*self.as_raw()).i_data };
        // SAFETY: `mapping` is part of a valid inode.
        let marks = unsafe { (&raw const (*mapping).i_pages.xa_flags).read_volatile() };
        // SAFETY: `mapping` is part of a valid inode.
        let vmas = unsafe { (&raw const (*mapping).i_mmap.rb_root.rb_node).read_volatile() };
        // Counted before a mapping is in the tree.
        // SAFETY: `mapping` is part of a valid inode.
        let writable = unsafe { (&raw const (*mapping).i_mmap_writable.counter).read_volatile() };

        marks & (c::XA_FLAGS_MARK_DIRTY | c::XA_FLAGS_MARK_WRITEBACK) != 0
            || !vmas.is_null()
            || writable > 0
    }

    /// Whether FUSE has given the inode up, as its node id is another file's now, or its server
    /// talks nonsense.
    #[inline]
    pub(crate) fn is_bad(&self) -> bool {
        // SAFETY: By the type invariants the inode is FUSE's and in use.
        unsafe { is_bad(self.as_raw()) }
    }

    /// Changes `i_flags`, some of which FUSE changes too, under a lock of its own.
    pub(crate) fn change_flags(&self, change: impl FnOnce(u32) -> u32) {
        // SAFETY: By the type invariants the inode is FUSE's, which has this lock.
        let _lock = unsafe { SpinGuard::new(&raw mut (*self.as_fuse()).lock) };
        // SAFETY: By the type invariants the inode is valid. Its flags change under the lock.
        let flags = unsafe { (*self.as_raw()).i_flags };

        // SAFETY: By the type invariants the inode is valid. Its flags change under the lock.
        unsafe { (*self.as_raw()).i_flags = change(flags) };
    }

    /// Sends OPEN, and lets the server's answer come into `file`; does nothing that FUSE does else
    /// when a file is opened. May sleep.
    ///
    /// # Errors
    ///
    /// The server's; [`EINTR`] if the task is being killed.
    ///
    /// # Safety
    ///
    /// `file` is one of this inode, and FUSE has not opened it.
    pub(crate) unsafe fn do_open(&self, file: &OpeningFile) -> Result {
        let mount = self.mount().0.get();

        // SAFETY: `mount` is the inode's by the type invariants of `Inode`, and `file` is to be
        // opened, by the safety requirements.
        done(unsafe { f::fuse_do_open(mount, self.nodeid(), file.as_raw(), false) })
    }
}

/// [`Inode::is_bad`].
///
/// # Safety
///
/// `inode` is FUSE's and in use.
#[inline]
pub(crate) unsafe fn is_bad(inode: *const c::inode) -> bool {
    // SAFETY: `inode` is FUSE's by the safety requirements; other bits change meanwhile, this one
    // is only set.
    let state = unsafe { (&raw const (*inode.cast::<f::fuse_inode>()).state).read_volatile() };

    state & (1 << f::FUSE_I_BAD) != 0
}

/// [`to_result`], which is a call, for what nearly always succeeds.
#[inline]
fn done(ret: ffi::c_int) -> Result {
    if ret == 0 {
        return Ok(());
    }
    to_result(ret)
}

/// A spin lock of FUSE's that is locked.
#[must_use = "the lock is unlocked when the guard is dropped"]
struct SpinGuard {
    lock: *mut c::spinlock_t,
    _same_task: NotThreadSafe,
}

impl SpinGuard {
    /// # Safety
    ///
    /// `lock` is an initialized lock, and stays valid as long as the result.
    unsafe fn new(lock: *mut c::spinlock_t) -> Self {
        // SAFETY: `lock` is valid, by the safety requirements.
        unsafe { c::spin_lock(lock) };
        Self {
            lock,
            _same_task: NotThreadSafe,
        }
    }
}

impl Drop for SpinGuard {
    fn drop(&mut self) {
        // SAFETY: `new()` has locked it, and it is still valid.
        unsafe { c::spin_unlock(self.lock) }
    }
}

// --- Requests that a probe sees -----------------------------------------------------------------

/// A `struct fuse_req` that a probe is called for.
///
/// # Invariants
///
/// It is valid, and has its arguments, as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct Request(Opaque<f::fuse_req>);

/// The address of a request, which is not followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId(usize);

impl Request {
    pub(crate) const INIT: u32 = f::fuse_opcode_FUSE_INIT;
    pub(crate) const OPEN: u32 = f::fuse_opcode_FUSE_OPEN;

    /// # Safety
    ///
    /// `req` is valid for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(req: *const f::fuse_req) -> &'a Self {
        // SAFETY: `req` is valid by the safety requirements, and the types have one layout.
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

    /// The server's errno, once it has answered; 0 if it is none.
    pub(crate) fn error(&self) -> i32 {
        // SAFETY: By the type invariants the request is valid.
        unsafe { (*self.0.get()).out.h.error }
    }

    /// Whether its end is called where the server's answer comes in, and no task waits for it.
    pub(crate) fn is_asynchronous(&self) -> bool {
        // SAFETY: By the type invariants the request is valid. Other bits may change meanwhile.
        let flags = unsafe { (&raw const (*self.0.get()).flags).read_volatile() };

        flags & (1 << f::fuse_req_flag_FR_ASYNC) != 0
    }

    pub(crate) fn channel(&self) -> ChannelId {
        // SAFETY: By the type invariants the request is valid, and keeps its channel.
        ChannelId(unsafe { (*self.0.get()).chan } as usize)
    }

    /// Cuts the server off: it sees the end of its connection, and every operation ENOTCONN. Takes
    /// locks of FUSE.
    pub(crate) fn abort_channel(&self) {
        // SAFETY: By the type invariants the request is valid, and keeps its channel.
        unsafe { f::fuse_chan_abort((*self.0.get()).chan, false) }
    }

    fn args(&self) -> *mut f::fuse_args {
        // SAFETY: By the type invariants the request is valid.
        unsafe { (*self.0.get()).args }
    }

    /// The node id that it concerns.
    pub(crate) fn nodeid(&self) -> u64 {
        // SAFETY: By the type invariants the arguments are valid.
        unsafe { (*self.args()).nodeid }
    }

    /// Locks the queue on which a task waits for the end of the request, if one is there: as long
    /// as it is locked, that task cannot go on.
    pub(crate) fn lock_waiter(&self) -> Option<Waiter<'_>> {
        // SAFETY: By the type invariants the request is valid.
        let waitq = unsafe { &raw mut (*self.0.get()).waitq };
        // SAFETY: The queue is initialized, and as valid as the request.
        let lock = unsafe { SpinGuard::new(&raw mut (*waitq).lock) };
        // SAFETY: The queue is valid, and locked.
        let is_empty = unsafe { ptr::eq((*waitq).head.next, &raw const (*waitq).head) };

        // Dropped, and so unlocked, if there is none.
        (!is_empty).then_some(Waiter {
            _lock: lock,
            _req: self,
        })
    }
}

/// A request that is being sent, before the server sees it.
///
/// # Invariants
///
/// - The arguments may still be written.
/// - The current task sends it, if it is INIT or OPEN.
pub(crate) struct Sending<'a>(&'a Request);

impl Deref for Sending<'_> {
    type Target = Request;

    #[inline]
    fn deref(&self) -> &Request {
        self.0
    }
}

impl<'a> Sending<'a> {
    /// # Safety
    ///
    /// `req` is valid for `'a`, and the tracepoint `fuse_request_send` is called with it. There is
    /// no other result for it meanwhile.
    #[inline]
    pub(crate) unsafe fn from_raw(req: *const f::fuse_req) -> Self {
        // INVARIANT: FUSE calls the tracepoint before the server can see the request. OPEN is
        // synchronous, and INIT the first request of its channel.
        // SAFETY: `req` is valid, by the safety requirements.
        Self(unsafe { Request::from_raw(req) })
    }

    /// What INIT is about to ask; `None` if this is another request.
    pub(crate) fn init_args(&self) -> Option<&'a InitArgs> {
        if self.opcode() != Request::INIT {
            return None;
        }
        // SAFETY: The arguments of a request are valid. FUSE keeps those of INIT in a
        // `struct fuse_init_args`.
        let init = unsafe { container_of!(self.args(), f::fuse_init_args, args) };

        // SAFETY: By the type invariants nothing else writes there before the request is sent.
        Some(unsafe { &*init.cast() })
    }

    /// What OPEN is about to ask; `None` if this is another request, or if FUSE asks in another way
    /// than this knows.
    pub(crate) fn open_args(&mut self) -> Option<OpenArgs<'_>> {
        if self.opcode() != Request::OPEN {
            return None;
        }
        // SAFETY: The arguments of a request are valid. Those of OPEN are local variables of the
        // task (`fuse_send_open()`), which is here, by the type invariants.
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

/// The queue of a request is locked, and a task is in it.
#[must_use = "the task goes on when this is dropped"]
pub(crate) struct Waiter<'a> {
    _lock: SpinGuard,
    _req: &'a Request,
}

/// A `struct fuse_init_args`, of an INIT that is being sent.
///
/// # Invariants
///
/// It is valid as long as it is borrowed, and nothing else writes there.
#[repr(transparent)]
pub(crate) struct InitArgs(Opaque<f::fuse_init_args>);

impl InitArgs {
    /// The mount, which stays until the request has been put.
    pub(crate) fn mount(&self) -> &Mount {
        // SAFETY: By the type invariants this is valid, and INIT has its mount.
        unsafe { &*(*self.0.get()).fm.cast() }
    }

    /// Writes a word that FUSE leaves 0; none if there is no such word.
    pub(crate) fn set_unused(&self, index: usize, value: u32) {
        // SAFETY: By the type invariants this is valid, and ours to write.
        let unused = unsafe { &mut (*self.0.get()).in_.unused };

        if let Some(word) = unused.get_mut(index) {
            *word = value;
        }
    }

    /// Where FUSE puts the server's answer.
    pub(crate) fn answer(&self) -> NonNull<InitAnswer> {
        // SAFETY: By the type invariants this is valid; the place is part of it, and not null.
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

    /// Has mount(2) fail: no version of the protocol has this number.
    pub(crate) fn refuse(&mut self) {
        self.0.major = 0;
    }

    pub(crate) fn as_bytes(&self) -> &[u8; Self::SIZE] {
        // SAFETY: `self` is as large, and consists of integers without padding.
        unsafe { &*ptr::from_ref(self).cast() }
    }

    /// A copy of what may go away meanwhile; then it may be any bytes, or `None`.
    ///
    /// # Safety
    ///
    /// `answer` was valid once.
    pub(crate) unsafe fn copy_nofault(answer: NonNull<Self>) -> Option<Self> {
        let mut copy = Self(pin_init::zeroed());
        let (to, from) = ((&raw mut copy).cast(), answer.as_ptr().cast());

        // SAFETY: `to` has as many bytes, of integers, for which any value will do. `from` is an
        // address of the kernel's memory, which is not followed if it is not there any more.
        let ret = unsafe { c::copy_from_kernel_nofault(to, from, Self::SIZE) };
        (ret == 0).then_some(copy)
    }
}

/// The arguments of an OPEN that is being sent. The answer consists of one part.
pub(crate) struct OpenArgs<'a> {
    args: &'a mut f::fuse_args,
}

impl OpenArgs<'_> {
    /// Sets flags that the server sees, of those that FUSE does not use.
    pub(crate) fn set_open_flags(&mut self, flags: u32) {
        let open_in = self.args.in_args[0].value.cast_mut();

        // SAFETY: The first argument of OPEN is a local variable of this type.
        unsafe { (*open_in.cast::<f::fuse_open_in>()).open_flags |= flags };
    }

    /// Has the answer consist of two parts, the second of which goes to `part`.
    ///
    /// # Safety
    ///
    /// `part` is valid for writes until the task has the answer.
    pub(crate) unsafe fn add_answer<T>(&mut self, part: *mut T) {
        self.args.out_numargs = 2;
        self.args.out_args[1].size = size_of::<T>() as u32;
        self.args.out_args[1].value = part.cast();
    }
}

// --- Requests of our own ------------------------------------------------------------------------

/// A `struct fuse_args`.
#[repr(transparent)]
pub(crate) struct Args(Opaque<f::fuse_args>);

/// What [`Args`] are made of.
pub(crate) struct RequestArgs {
    pub(crate) opcode: u32,
    pub(crate) nodeid: u64,
    /// Whether a reply that is shorter than there is room is one.
    pub(crate) may_be_short: bool,
}

/// What FUSE calls when a request has ended.
pub(crate) type End = unsafe extern "C" fn(*mut f::fuse_args, ffi::c_int);

impl Args {
    /// Those of no request.
    pub(crate) fn zeroed() -> impl PinInit<Self> {
        // SAFETY: Zeros are a value of the type.
        unsafe {
            pin_init::pin_init_from_closure(|slot: *mut Self| {
                // SAFETY: `slot` is valid for writes.
                slot.write_bytes(0, 1);
                Ok(())
            })
        }
    }

    /// Sends a request to the server of `inode`, which has `body` and whose reply goes to `reply`.
    /// May sleep, but not for the server.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; ENOTCONN without a server. Then `end` is not called.
    ///
    /// # Safety
    ///
    /// `self` is pinned, and of no other request. It, `body` and `reply` stay valid until `end` is
    /// called, and `reply` is used by nothing else before.
    pub(crate) unsafe fn send_background<T>(
        &self,
        inode: &Inode,
        request_args: &RequestArgs,
        body: *const T,
        reply: *mut [u8],
        end: End,
    ) -> Result {
        // SAFETY: By the safety requirements `self` is of no request yet, so it is the caller's.
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
        // SAFETY: The mount is the inode's. `args` is complete, and stays valid by the safety
        // requirements, as does what it points to.
        to_result(unsafe {
            f::fuse_simple_background(inode.mount().0.get().cast(), self.0.get(), c::GFP_KERNEL)
        })
    }

    /// How long the reply is.
    ///
    /// # Safety
    ///
    /// The request has ended, and the caller knows that it has.
    pub(crate) unsafe fn reply_len(&self) -> usize {
        // SAFETY: By the safety requirements FUSE is done with it, and has set the size.
        unsafe { (*self.0.get()).out_args[0].size as usize }
    }
}
