// SPDX-License-Identifier: GPL-2.0

//! Maps that come with the answer to OPEN, from a server that can do that.
//!
//! OPEN is FUSE's own request. Before the server can see it, the probe of `fuse_request_send` adds
//! a second part to the answer, which is the map:
//!
//! ```text
//!   opener                                    probe, in the same task       server
//!   MapInOpen::during()
//!     WANTED: this channel, this task, this node id
//!     FUSE's ->open(): OPEN ----------------> + flag, + buffer ----------->
//!     <--------------------------------------------- fuse_open_out, fuse_open_fmap_out
//!   the map, if FUSE has opened the file
//! ```
//!
//! An entry of `WANTED` is used once, by the first OPEN that its task sends to its server: FUSE's
//! `->open()` sends it before it does anything else. After that, FUSE may open files of other
//! servers in the same task (passthrough), with node ids of those servers; their channels are
//! others.
//!
//! The buffer is on the opener's stack, as are the arguments of FUSE's request: the opener waits
//! for an OPEN that the server has read, even when it is being killed. The size of the second part
//! is fixed: if it varied (`out_argvar`), FUSE would return the size, which its open takes for an
//! error.

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

/// The buffer for a map.
pub(crate) struct MapInOpen(MaybeUninit<c::fuse_open_fmap_out>);

/// The OPEN that is to return a map, and the buffer for it.
///
/// # Invariants
///
/// `answer` is valid until the task has the answer to that OPEN.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// The channel to the server.
    chan: ChannelId,
    task: *mut c::task_struct,
    nodeid: u64,
    answer: *mut c::fuse_open_fmap_out,
}

// SAFETY: An entry is used with the lock of the list held, or by the task that it belongs to.
unsafe impl Send for Wanted {}

global_lock! {
    /// Maps that are wanted by tasks in [`MapInOpen::during`]. The probe takes the lock with
    /// `fiq->lock` held.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    pub(crate) unsafe(uninit) static WANTED: SpinLock<StackList<Wanted>> = StackList::new();
}

/// The number of entries in [`WANTED`]. If it is 0, the probe does not take the lock.
static NR_WANTED: Atomic<usize> = Atomic::new(0);

/// Changes [`WANTED`], and [`NR_WANTED`] with it.
fn with_wanted<T>(change: impl FnOnce(&mut StackList<Wanted>) -> T) -> T {
    let mut wanted = WANTED.lock();
    let result = change(&mut wanted);

    NR_WANTED.store(wanted.len(), Relaxed);
    result
}

// bindgen asserts that FUSE's types have the layout of the kernel's BTF.
const _: () = assert!(size_of::<c::fuse_open_fmap_out>() == 8 + MAP_MAX);

impl MapInOpen {
    /// Makes a buffer without a map.
    pub(crate) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// Calls `open`, and returns the map that came with the answer to its OPEN. `open` calls FUSE's
    /// own open in the current task, and returns true if FUSE has opened the file.
    ///
    /// # Errors
    ///
    /// [`ERANGE`] if GET_FMAP has to be sent; an error of the server, with the meaning that it has
    /// for GET_FMAP; [`EIO`] if the answer is no map.
    pub(crate) fn during(&mut self, inode: &Inode, open: impl FnOnce() -> bool) -> Result<&[u8]> {
        let answer = self.0.as_mut_ptr();
        // If no OPEN returns a map, GET_FMAP is to be sent.
        // SAFETY: `answer` points into `self`.
        unsafe { (*answer).size = ERANGE.to_errno() };

        // INVARIANT: The task is in this function until it has the answer, see the top.
        let mut entry = Entry::new(Wanted {
            chan: inode.conn().channel(),
            task: Task::current_raw(),
            nodeid: inode.nodeid(),
            answer,
        });
        let entry = NonNull::from(&mut entry);
        // SAFETY: `entry` is valid and not used otherwise until it is removed below.
        with_wanted(|wanted| unsafe { wanted.push(entry) });

        let opened = open();

        with_wanted(|wanted| wanted.remove(entry));
        // If FUSE did not accept an answer, it may have copied a part.
        if !opened {
            return Err(ERANGE);
        }
        // SAFETY: `size` was set above, and FUSE is done with `answer`.
        match unsafe { (*answer).size } {
            size @ 0.. if size as usize <= MAP_MAX => {
                // SAFETY: `answer` points into `self`.
                let map = unsafe { &raw const (*answer).map };
                // SAFETY: `size` is not the one set above, so FUSE has copied an answer, and all of
                // it, as the open has not failed. It is not longer than `map`.
                Ok(unsafe { slice::from_raw_parts(map.cast(), size as usize) })
            }
            size @ -511..=-1 => Err(Error::from_errno(size)),
            _ => Err(EIO),
        }
    }
}

/// Makes an OPEN that is about to be sent ask for the map, if its task wants that.
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
    // Used once, an entry is not in the way of other tasks that search the list.
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
    // SAFETY: By the type invariants of `Wanted`, `answer` is valid until the task has the answer.
    unsafe { args.add_answer(this.answer) };
}
