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
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock, //
    },
    task::Task, //
};

use crate::{
    abstractions::{
        fs::fuse::{
            ChannelId,
            Inode,
            Sending, //
        },
        stack_list::{
            Entry,
            StackList, //
        }, //
    },
    bindings::kernel as c, //
};

const MAP_MAX: usize = c::FUSE_DAX_FMAP_OPEN_MAP_MAX as usize;

/// Room for a map.
pub(crate) struct MapInOpen(MaybeUninit<c::fuse_open_fmap_out>);

/// Whose OPEN is to bring a map, and where to.
///
/// # Invariants
///
/// `answer` is valid until the task has the answer to that OPEN.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// The server's.
    chan: ChannelId,
    task: *mut c::task_struct,
    nodeid: u64,
    answer: *mut c::fuse_open_fmap_out,
}

// SAFETY: What is in the list is used under its lock, or by the task that it belongs to.
unsafe impl Send for Wanted {}

global_lock! {
    /// Maps that are wanted, by tasks in [`MapInOpen::during`]. A probe takes it, with `fiq->lock`
    /// held.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    pub(crate) unsafe(uninit) static WANTED: SpinLock<StackList<Wanted>> = StackList::new();
}

/// How many are in [`WANTED`]: the probe looks there only if any.
static NR_WANTED: Atomic<usize> = Atomic::new(0);

/// Changes [`WANTED`].
fn with_wanted<T>(change: impl FnOnce(&mut StackList<Wanted>) -> T) -> T {
    let mut wanted = WANTED.lock();
    let result = change(&mut wanted);

    NR_WANTED.store(wanted.len(), Relaxed);
    result
}

// bindgen asserts that FUSE's types have the layout of the kernel's BTF.
const _: () = assert!(size_of::<c::fuse_open_fmap_out>() == 8 + MAP_MAX);

impl MapInOpen {
    /// No map, so far.
    pub(crate) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// Calls `open`, which has FUSE open the file in the current task and returns whether it did,
    /// and has the OPEN that is sent meanwhile ask for the map.
    ///
    /// # Errors
    ///
    /// [`ERANGE`] if the map has to be asked for another way; the server's, as those of GET_FMAP;
    /// [`EIO`] if what came is no map.
    pub(crate) fn during(&mut self, inode: &Inode, open: impl FnOnce() -> bool) -> Result<&[u8]> {
        let answer = self.0.as_mut_ptr();
        // What an OPEN does not bring is to be asked for.
        // SAFETY: `answer` is part of `self`.
        unsafe { (*answer).size = ERANGE.to_errno() };

        // INVARIANT: The task is in this function until it has the answer, see the top.
        let mut entry = Entry::new(Wanted {
            chan: inode.conn().channel(),
            task: Task::current_raw(),
            nodeid: inode.nodeid(),
            answer,
        });
        let entry = NonNull::from(&mut entry);
        // SAFETY: The entry stays where it is, and unused, until it is removed below.
        with_wanted(|wanted| unsafe { wanted.push(entry) });

        let opened = open();

        with_wanted(|wanted| wanted.remove(entry));
        // An answer that FUSE did not take may be there in part.
        if !opened {
            return Err(ERANGE);
        }
        // SAFETY: `size` was set above, and FUSE is done with it.
        match unsafe { (*answer).size } {
            size @ 0.. if size as usize <= MAP_MAX => {
                // SAFETY: `answer` is part of `self`.
                let map = unsafe { &raw const (*answer).map };
                // SAFETY: As `size` is another one now, FUSE has copied an answer, and all of it,
                // or the open had failed. It is not longer than `map`.
                Ok(unsafe { slice::from_raw_parts(map.cast(), size as usize) })
            }
            size @ -511..=-1 => Err(Error::from_errno(size)),
            _ => Err(EIO),
        }
    }
}

/// Has an OPEN that is about to be sent ask for the map, if the task that sends it wants that.
#[inline]
pub(crate) fn ask_for_map(req: Sending<'_>) {
    if NR_WANTED.load(Relaxed) != 0 {
        ask_if_wanted(req);
    }
}

#[cold]
#[inline(never)]
fn ask_if_wanted(mut req: Sending<'_>) {
    let (chan, task, nodeid) = (req.channel(), Task::current_raw(), req.nodeid());
    // It is used once, and nobody else has to pass it while the server takes its time.
    let this = with_wanted(|wanted| {
        wanted.remove_first(|this| {
            this.chan == chan && ptr::eq(this.task, task) && this.nodeid == nodeid
        })
    });
    let Some(this) = this else {
        return;
    };
    let Some(mut args) = req.open_args() else {
        return;
    };
    args.set_open_flags(c::FUSE_DAX_FMAP_OPEN_MAP);
    // SAFETY: By the type invariants of `Wanted`.
    unsafe { args.add_answer(this.answer) };
}
