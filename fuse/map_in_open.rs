// SPDX-License-Identifier: GPL-2.0

//! Maps that come with the answer to OPEN, from a server that can do that.
//!
//! OPEN is FUSE's own request. Before the server can see it, the probe of requests that are being
//! sent has its answer consist of two parts, the second of which is the map:
//!
//! ```text
//!   opener                                    probe, in the same task       server
//!   MapInOpen::during()
//!     WANTED: this channel, this task, this node id
//!     FUSE's ->open(): OPEN ----------------> + flag, + room ------------->
//!     <--------------------------------------------- fuse_open_out, fuse_open_fmap_out
//!   the map, if FUSE has opened the file
//! ```
//!
//! An entry of `WANTED` is used once, by the first OPEN that this task sends to this server: FUSE's
//! `->open()` sends it before it does anything else. What it does then may open files of other
//! servers in the same task (FUSE passthrough), with node ids that those chose; their channels are
//! others.
//!
//! The room is on the opener's stack, as are the arguments of FUSE's request: who opens waits for
//! an OPEN that the server has got, even when it is being killed. The size of the second part is
//! fixed, as FUSE would take what it is told of one that varies for an error.

use core::{
    mem::{
        size_of,
        MaybeUninit, //
    },
    ptr, //
};

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock, //
    }, //
};

use crate::bindings::{
    fuse as f,
    kernel as c, //
};

use super::Inode;

/// Room for a map, and whose OPEN is to bring it.
pub(crate) struct MapInOpen {
    answer: MaybeUninit<c::fuse_open_fmap_out>,
    /// The server's.
    chan: *const f::fuse_chan,
    task: *mut c::task_struct,
    nodeid: u64,
    next: *mut MapInOpen,
}

/// A list of [`MapInOpen`] that are in [`MapInOpen::during`].
pub(crate) struct Wanted(*mut MapInOpen);

impl Wanted {
    /// Takes the first one out that `matches`.
    ///
    /// # Safety
    ///
    /// All in the list are valid.
    unsafe fn remove(&mut self, matches: impl Fn(*const MapInOpen) -> bool) -> *mut MapInOpen {
        let mut link = &raw mut self.0;

        // SAFETY: All that `self.0` leads to are valid, by the safety requirements.
        unsafe {
            while !(*link).is_null() && !matches(*link) {
                link = &raw mut (**link).next;
            }
            let found = *link;
            if !found.is_null() {
                *link = (*found).next;
                NR_WANTED.store(NR_WANTED.load(Relaxed) - 1, Relaxed);
            }
            found
        }
    }
}

// SAFETY: What is in the list is used under its lock, or by the task that it belongs to.
unsafe impl Send for Wanted {}

global_lock! {
    /// Maps that are wanted. A probe takes it, with `fiq->lock` held.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    pub(super) unsafe(uninit) static WANTED: SpinLock<Wanted> = Wanted(ptr::null_mut());
}

/// How many are in [`WANTED`]: the probe looks there only if any.
static NR_WANTED: Atomic<usize> = Atomic::new(0);

// bindgen asserts that FUSE's types have the layout of the kernel's BTF.
const _: () =
    assert!(size_of::<c::fuse_open_fmap_out>() == 8 + c::FUSE_DAX_FMAP_OPEN_MAP_MAX as usize);

impl MapInOpen {
    /// No map, so far.
    pub(crate) fn new() -> Self {
        Self {
            answer: MaybeUninit::uninit(),
            chan: ptr::null(),
            task: ptr::null_mut(),
            nodeid: 0,
            next: ptr::null_mut(),
        }
    }

    /// Calls `open`, which has FUSE open the file in the current task and returns whether it did,
    /// and has the OPEN that is sent meanwhile ask for the map.
    ///
    /// # Errors
    ///
    /// [`ERANGE`] if the map has to be asked for another way; the server's, as those of GET_FMAP;
    /// [`EIO`] if what came is no map.
    pub(crate) fn during(&mut self, inode: &Inode, open: impl FnOnce() -> bool) -> Result<&[u8]> {
        let this = ptr::from_mut(self);
        // SAFETY: This is `self`.
        let answer = unsafe { (*this).answer.as_mut_ptr() };

        // SAFETY: It is ours until it is in the list, which the room never is.
        unsafe {
            (*this).chan = (*inode.fuse_conn()).chan;
            (*this).task = c::get_current();
            (*this).nodeid = inode.nodeid();
            // What an OPEN does not bring is to be asked for.
            (*answer).size = ERANGE.to_errno();
            let mut wanted = WANTED.lock();
            (*this).next = wanted.0;
            wanted.0 = this;
            NR_WANTED.store(NR_WANTED.load(Relaxed) + 1, Relaxed);
        }

        let opened = open();

        let mut wanted = WANTED.lock();
        // SAFETY: All in the list are valid, as each is taken out before it goes, here at the
        // latest.
        unsafe { wanted.remove(|other| ptr::eq(other, this)) };
        drop(wanted);

        // An answer that FUSE did not take may be there in part.
        if !opened {
            return Err(ERANGE);
        }
        // SAFETY: `size` was set above. If it is another now, then FUSE has copied an answer, and
        // all of it, or the open had failed. FUSE is done with it.
        unsafe {
            match (*answer).size {
                size @ 0.. if size as usize <= (*answer).map.len() => Ok(
                    core::slice::from_raw_parts((&raw const (*answer).map).cast(), size as usize),
                ),
                size @ -511..=-1 => Err(Error::from_errno(size)),
                _ => Err(EIO),
            }
        }
    }
}

/// Has an OPEN that is about to be sent ask for the map, if the task that sends it wants that.
///
/// # Safety
///
/// `req` is an OPEN that is being sent by the current task, and that the server does not see yet.
#[inline]
pub(super) unsafe fn ask_for_map(req: *const f::fuse_req) {
    if NR_WANTED.load(Relaxed) != 0 {
        // SAFETY: By the safety requirements.
        unsafe { ask_if_wanted(req) };
    }
}

/// # Safety
///
/// As [`ask_for_map`].
#[cold]
#[inline(never)]
unsafe fn ask_if_wanted(req: *const f::fuse_req) {
    let mut wanted = WANTED.lock();

    // SAFETY: All in the list are valid while its lock is held. The arguments of a request that is
    // being sent are valid. Those of OPEN are FUSE's local variables (`fuse_send_open()`), so they
    // may be written; the answer has room for a second part in the kernel's type. What is wanted by
    // this task outlives the request, see the top.
    unsafe {
        let (args, task) = ((*req).args, c::get_current());

        // It is used once, and nobody else has to pass it while the server takes its time.
        let this = wanted.remove(|this| {
            ptr::eq((*this).chan, (*req).chan)
                && ptr::eq((*this).task, task)
                && (*this).nodeid == (*args).nodeid
        });
        if this.is_null()
            || (*args).out_numargs != 1
            || (*args).out_argvar()
            || (*args).in_args[0].size as usize != size_of::<f::fuse_open_in>()
        {
            return;
        }
        let open_in = (*args).in_args[0]
            .value
            .cast::<f::fuse_open_in>()
            .cast_mut();
        (*open_in).open_flags |= c::FUSE_DAX_FMAP_OPEN_MAP;
        (*args).out_numargs = 2;
        (*args).out_args[1].size = size_of::<c::fuse_open_fmap_out>() as u32;
        (*args).out_args[1].value = (*this).answer.as_mut_ptr().cast();
    }
}
