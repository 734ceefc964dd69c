// SPDX-License-Identifier: GPL-2.0

//! Requests of ours to a server: GET_FMAP and GET_DAXDEV.

use core::{
    cell::UnsafeCell,
    mem::size_of, //
};

use kernel::{
    container_of,
    error::to_result,
    ffi,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    types::Opaque, //
};

use crate::{
    bindings::{
        fuse as f,
        kernel as c, //
    },
    stats::Counter, //
};

use super::{
    Connection,
    Inode, //
};

/// A request of ours. The opener and FUSE each own a reference: an opener that is killed leaves,
/// and the request frees itself when it ends.
///
/// It keeps the inode, so that the server does not get a FORGET for a node id it is being asked
/// about.
#[pin_data(PinnedDrop)]
struct Request {
    #[pin]
    args: Opaque<f::fuse_args>,
    #[pin]
    done: Opaque<c::completion>,
    error: Atomic<i32>,
    body: [u32; 2],
    reply: UnsafeCell<KVVec<u8>>,
    /// In use, and kept so by `self`.
    inode: *mut c::inode,
}

// SAFETY: Nothing of a request belongs to a task. `reply` is written by FUSE before `done`, and
// read by the opener after it.
unsafe impl Send for Request {}
// SAFETY: As above.
unsafe impl Sync for Request {}

#[pinned_drop]
impl PinnedDrop for Request {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: `Request::send()` took this reference.
        unsafe { c::iput(self.inode) }
    }
}

/// `end` of a request.
///
/// # Safety
///
/// Called by FUSE, once, with the `args` of a [`Request`] to which it owns a reference.
unsafe extern "C" fn request_done(args: *mut f::fuse_args, error: ffi::c_int) {
    // SAFETY: By the safety requirements.
    let request = unsafe {
        Arc::from_raw(container_of!(
            args.cast::<Opaque<f::fuse_args>>(),
            Request,
            args
        ))
    };

    request.error.store(error, Relaxed);
    // SAFETY: The completion was initialized with the request.
    unsafe { c::complete(request.done.get()) };
}

/// What is asked.
struct Question {
    opcode: u32,
    nodeid: u64,
    body: [u32; 2],
    /// Room for the reply in bytes.
    room: usize,
    /// Whether a reply that is shorter is one.
    short: bool,
}

/// A request that the server has, or will get. Who drops it does not want the answer any more.
#[must_use]
pub(crate) struct Asked(Arc<Request>);

impl Request {
    /// Asks the server. May sleep, but not for the server.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; ENOTCONN without a server.
    fn send(inode: &Inode, question: &Question) -> Result<Asked> {
        // Up to 1 MiB, and for as long as the server likes: it counts as the opener's.
        let reply = KVVec::<u8>::zeroed(question.room, GFP_KERNEL_ACCOUNT)?;
        let request = Arc::pin_init(
            pin_init!(Self {
                args <- Opaque::ffi_init(|slot: *mut f::fuse_args| {
                    // SAFETY: `slot` is valid for writes; zeros are a request without arguments.
                    unsafe { slot.write_bytes(0, 1) }
                }),
                done <- Opaque::ffi_init(|slot| {
                    // SAFETY: `slot` is valid for writes and does not move: it is pinned.
                    unsafe { c::init_completion(slot) }
                }),
                error: Atomic::new(0),
                body: question.body,
                reply: UnsafeCell::new(reply),
                inode: {
                    // SAFETY: The inode is in use.
                    unsafe { c::ihold(inode.as_raw()) };
                    inode.as_raw()
                },
            }),
            GFP_KERNEL,
        )?;
        let args = request.args.get();

        // SAFETY: FUSE does not have the request yet; the body and the room for the reply live as
        // long as it.
        unsafe {
            (*args).opcode = question.opcode;
            (*args).nodeid = question.nodeid;
            (*args).in_numargs = 1;
            (*args).in_args[0].size = size_of::<[u32; 2]>() as u32;
            (*args).in_args[0].value = request.body.as_ptr().cast();
            (*args).out_numargs = 1;
            (*args).set_out_argvar(question.short);
            (*args).out_args[0].size = question.room as u32;
            (*args).out_args[0].value = (*request.reply.get()).as_mut_ptr().cast();
            (*args).end = Some(request_done);
        }
        let for_fuse = Arc::into_raw(request.clone());
        // SAFETY: The inode is FUSE's, so this is its mount. `args` is complete.
        let sent = to_result(unsafe {
            let mount = (*(*inode.as_raw()).i_sb).s_fs_info.cast();
            f::fuse_simple_background(mount, args, c::GFP_KERNEL)
        });
        if let Err(errno) = sent {
            // SAFETY: FUSE did not take the request, so its reference is still ours.
            drop(unsafe { Arc::from_raw(for_fuse) });
            return Err(errno);
        }
        Ok(Asked(request))
    }
}

impl Asked {
    /// Waits for the answer, which may take for ever; a fatal signal ends it.
    ///
    /// # Errors
    ///
    /// The server's; [`EINTR`] if the task is being killed; ENOTCONN and the like if the server is
    /// gone.
    pub(crate) fn answer(self) -> Result<KVVec<u8>> {
        let request = self.0;

        // SAFETY: The completion was initialized with the request.
        if unsafe { c::wait_for_completion_killable(request.done.get()) } != 0 {
            return Err(EINTR);
        }
        to_result(request.error.load(Relaxed))?;

        // SAFETY: The request has ended, so FUSE is done with it; it set the size of the reply.
        let (mut reply, len) = unsafe {
            (
                core::mem::take(&mut *request.reply.get()),
                (*request.args.get()).out_args[0].size as usize,
            )
        };
        reply.truncate(len);
        Ok(reply)
    }
}

impl Connection {
    /// GET_FMAP: the map of a file, at most `room` bytes. May sleep, but not for the server.
    ///
    /// # Errors
    ///
    /// As [`Request::send`].
    pub(crate) fn get_fmap(&self, inode: &Inode, room: u32) -> Result<Asked> {
        self.mount().stats.inc(Counter::GetFmap);
        Request::send(
            inode,
            &Question {
                opcode: c::FUSE_GET_FMAP,
                nodeid: inode.nodeid(),
                body: [room, 0],
                room: room as usize,
                short: true,
            },
        )
    }

    /// GET_DAXDEV: the device of an index, asked while opening `inode`. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Request::send`] and [`Asked::answer`].
    pub(crate) fn get_daxdev(&self, inode: &Inode, index: u32) -> Result<KVVec<u8>> {
        self.mount().stats.inc(Counter::GetDaxdev);
        Request::send(
            inode,
            &Question {
                opcode: c::FUSE_GET_DAXDEV,
                nodeid: index.into(),
                body: [index, 0],
                room: size_of::<c::fuse_get_daxdev_out>(),
                short: false,
            },
        )?
        .answer()
    }
}
