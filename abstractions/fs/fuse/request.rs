// SPDX-License-Identifier: GPL-2.0

//! Requests of FUSE: those that a tracepoint probe sees, and those that the module sends.
//!
//! C headers: [`fs/fuse/dev.h`](srctree/fs/fuse/dev.h),
//! [`fs/fuse/fuse_trace.h`](srctree/fs/fuse/fuse_trace.h)

use core::{
    mem::size_of,
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
    types::Opaque, //
};

use crate::bindings::{
    fuse as f,
    kernel as c, //
};

use super::mount::{
    ChannelId,
    Inode,
    Mount,
    SpinGuard, //
};

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
            f::fuse_simple_background(inode.mount().as_raw().cast(), self.0.get(), c::GFP_KERNEL)
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
