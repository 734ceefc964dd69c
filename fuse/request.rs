// SPDX-License-Identifier: GPL-2.0

//! Requests of the module to a server: GET_FMAP and GET_DAXDEV.

use core::{
    cell::UnsafeCell,
    mem, //
};

use kernel::{
    container_of,
    error::to_result,
    ffi,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::{
    abstractions::{
        fs::{
            fuse::{
                Args,
                Inode,
                RequestArgs, //
            },
            inode::InodeRef, //
        },
        sync::completion::Completion, //
    },
    bindings::{
        fuse as f,
        kernel as c, //
    },
    compat,
    open_error::Failure, //
};

/// A request of the module. The opener and FUSE each own a reference: an opener that is killed
/// drops its own, and the request is freed when it ends.
///
/// It keeps the inode, so that the server gets no FORGET for the node id that the request is about.
#[pin_data]
struct Request {
    #[pin]
    args: Args,
    #[pin]
    done: Completion,
    error: Atomic<i32>,
    sent: Instant<Monotonic>,
    /// The time until the request ended, in nanoseconds.
    took: Atomic<i64>,
    body: [u32; 2],
    reply: UnsafeCell<KVVec<u8>>,
    _inode: InodeRef,
}

// SAFETY: No field belongs to a task. FUSE writes `reply` before `done`, and the opener reads it
// after that.
unsafe impl Send for Request {}
// SAFETY: Each field that changes is atomic, or belongs to FUSE and then to the opener, as said
// above.
unsafe impl Sync for Request {}

/// `end` of a request.
///
/// # Safety
///
/// Called by FUSE, once, with the `args` of a [`Request`] to which it owns a reference.
unsafe extern "C" fn request_done(args: *mut f::fuse_args, error: ffi::c_int) {
    // SAFETY: `args` are those of a `Request`, by the safety requirements.
    let request = unsafe { container_of!(args.cast::<Args>(), Request, args) };
    // SAFETY: FUSE owns a reference to `request`, and passes it to this function.
    let request = unsafe { Arc::from_raw(request) };

    request.error.store(error, Relaxed);
    request
        .took
        .store(request.sent.elapsed().as_nanos(), Relaxed);
    request.done.complete();
}

/// How a request ended.
pub(crate) struct Answer {
    /// The reply, or the server's error; ENOTCONN and the like if the server is gone.
    pub(crate) reply: Result<KVVec<u8>>,
    /// The time from sending the request until it ended.
    pub(crate) took: Delta,
}

/// A request that has been sent. Dropping it discards the answer.
#[must_use]
pub(crate) struct PendingRequest(Arc<Request>);

impl Request {
    /// Sends a request. May sleep, killably, until the server has answered others if there are many
    /// in the background; does not wait for the answer.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; ENOTCONN without a server.
    fn send(
        inode: &Inode,
        request_args: &RequestArgs,
        body: [u32; 2],
        buf_size: usize,
    ) -> Result<PendingRequest> {
        // Up to 1 MiB, for as long as the server likes: charged to the opener's memory cgroup.
        let reply = compat::zeroed(buf_size, GFP_KERNEL_ACCOUNT)?;
        let request = Arc::pin_init(
            pin_init!(Self {
                args <- Args::zeroed(),
                done <- Completion::new(),
                error: Atomic::new(0),
                sent: Instant::now(),
                took: Atomic::new(0),
                body,
                reply: UnsafeCell::new(reply),
                // SAFETY: The opener keeps the inode in use. FUSE ends all requests before the
                // superblock of a mount is shut down, and so drops this reference.
                _inode: unsafe { inode.get() },
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: FUSE does not have the request yet, so nothing else uses `reply`.
        let reply = unsafe { (*request.reply.get()).as_mut_slice() };
        let (body, reply) = (&raw const request.body, &raw mut *reply);
        let for_fuse = Arc::into_raw(request.clone());
        let args = &request.args;
        // SAFETY: `request` is pinned and new. FUSE's reference keeps it, with body and reply,
        // until `request_done()`; the opener takes the reply after that.
        let sent = unsafe { args.send_background(inode, request_args, body, reply, request_done) };
        if let Err(errno) = sent {
            // SAFETY: FUSE did not take the request, so this function still owns the reference
            // `for_fuse`.
            drop(unsafe { Arc::from_raw(for_fuse) });
            return Err(errno);
        }
        Ok(PendingRequest(request))
    }
}

impl PendingRequest {
    /// Waits for the answer, without a time limit. A fatal signal ends the wait.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed.
    pub(crate) fn answer(self) -> Result<Answer> {
        let request = self.0;

        request.done.wait_killable()?;
        let reply = to_result(request.error.load(Relaxed)).map(|()| {
            // SAFETY: The request has ended, so FUSE is done with `reply`, and this takes it once.
            let mut reply = unsafe { mem::take(&mut *request.reply.get()) };
            // SAFETY: The request has ended, and `done` has said so.
            let len = unsafe { request.args.reply_len() };

            reply.truncate(len);
            reply
        });
        Ok(Answer {
            reply,
            took: Delta::from_nanos(request.took.load(Relaxed)),
        })
    }
}

/// Sends GET_FMAP: asks for the map of a file, at most `buf_size` bytes. May sleep, but not for the
/// server.
///
/// # Errors
///
/// As [`Request::send`].
pub(crate) fn get_fmap(inode: &Inode, buf_size: u32) -> Result<PendingRequest> {
    Request::send(
        inode,
        &RequestArgs {
            opcode: c::FUSE_GET_FMAP,
            nodeid: inode.nodeid(),
            may_be_short: true,
        },
        [buf_size, 0],
        buf_size as usize,
    )
}

/// Sends GET_DAXDEV, while opening `inode`, and returns the path of the device of an index. May
/// sleep.
///
/// # Errors
///
/// As [`Request::send`] and [`PendingRequest::answer`], and those of the server; [`EINVAL`] if the
/// answer is no path.
pub(crate) fn get_daxdev(inode: &Inode, index: u32) -> Result<CString, Failure> {
    let request_args = RequestArgs {
        opcode: c::FUSE_GET_DAXDEV,
        nodeid: index.into(),
        may_be_short: false,
    };
    let buf_size = size_of::<c::fuse_get_daxdev_out>();
    let reply = Request::send(inode, &request_args, [index, 0], buf_size)
        .and_then(PendingRequest::answer)
        .and_then(|answer| answer.reply)
        .map_err(Failure::because("GET_DAXDEV"))?;

    path_of(&reply)
}

/// Returns the path in a GET_DAXDEV reply.
fn path_of(reply: &[u8]) -> Result<CString, Failure> {
    const NAME: usize = core::mem::offset_of!(c::fuse_get_daxdev_out, name);

    let name = reply.get(NAME..).unwrap_or_default();
    let name = CStr::from_bytes_until_nul(name)
        .map_err(|_| EINVAL)
        .map_err(Failure::because("GET_DAXDEV: the path has no end"))?;
    if name.to_bytes().first() != Some(&b'/') {
        return Err(Failure {
            errno: EINVAL,
            cause: "GET_DAXDEV: the path is not absolute",
        });
    }
    CString::try_from(name)
        .map_err(|_| ENOMEM)
        .map_err(Failure::because("GET_DAXDEV"))
}
