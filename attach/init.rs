// SPDX-License-Identifier: GPL-2.0

//! INIT: the offer to a server, its answer, and binding the mount.
//!
//! Two tracepoint probes see every request of FUSE. INIT may be asynchronous, finished by whoever
//! ends the request, or synchronous, finished by the task that mounts; see [`end_synchronous`] for
//! what the second one takes.

use core::{
    mem::offset_of,
    ptr::NonNull,
    sync::atomic::{
        fence,
        Ordering, //
    }, //
};

use kernel::{
    ffi,
    fmt,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        global_lock, //
    }, //
};

use crate::{
    abstractions::fs::{
        fuse::{
            self,
            InitAnswer,
            Mounting,
            Request,
            RequestId,
            Sending, //
        },
        super_hooks::Hooked, //
    },
    bindings::{
        fuse as f,
        kernel as c, //
    },
    fmap_ops::{
        self,
        OpsName, //
    },
    fuse::{
        ask_for_map,
        Mounter, //
    },
    ratelimit::{
        pr_notice_limited,
        RateLimit, //
    },
    sb_info::{
        DeviceNumber,
        SbInfo,
        Released,
        Superblock, //
    }, //
};

use super::connection::{
    Connection,
    ConnectionPtr,
    MOUNTS, //
};

global_lock! {
    /// Offers whose INIT is under way.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    pub(super) unsafe(uninit) static OFFERS: SpinLock<Option<KBox<Offer>>> = None;
}

/// Limits what is logged about mounts that are not bound, and about the parameter.
// SAFETY: `Hooks::new()` initializes it before the probes are registered, and `LOADED` is set after
// that.
pub(super) static UNATTACHED: RateLimit = unsafe { RateLimit::uninit() };

/// Whether the registry can be asked. The kernel sets parameters before it calls any code of a
/// module.
static LOADED: Atomic<bool> = Atomic::new(false);

// What the protocol relies on. bindgen asserts that the types have the layout of the kernel's BTF.
const ANSWER_FLAGS: usize = c::FUSE_DAX_FMAP_INIT_OUT_FLAGS as usize;
const ANSWER_NAME: usize = c::FUSE_DAX_FMAP_INIT_OUT_NAME as usize;
const _: () = assert!(InitAnswer::SIZE == 64);
const _: () = assert!(offset_of!(f::fuse_init_out, unused) <= ANSWER_FLAGS);
const _: () = assert!(ANSWER_FLAGS + size_of::<u32>() == ANSWER_NAME);
const _: () = assert!(ANSWER_NAME + OpsName::LEN == InitAnswer::SIZE);
const _: () = assert!(size_of::<f::fuse_init_in>() == 64);
const _: () = assert!(OpsName::LEN == c::FUSE_DAX_FMAP_OPS_NAME_LEN as usize);

/// An INIT that carries our offer and has not ended.
///
/// # Invariants
///
/// `mount` is valid until the request has been put, and `answer` was so when the request was sent.
pub(super) struct Offer {
    /// The request, as what it is recognized by.
    req: RequestId,
    mount: NonNull<fuse::Mount>,
    /// Where FUSE puts the server's answer, among the arguments of the request.
    answer: NonNull<InitAnswer>,
    mounter: Pin<KBox<Mounter>>,
    next: Option<KBox<Offer>>,
}

// SAFETY: An offer is made by the task that mounts and taken by the one that ends the request.
unsafe impl Send for Offer {}

/// `fuse_request_send`: a request is about to become visible to the server, normally in the context
/// of the task that it is sent for (INIT: that mounts), with `fiq->lock` held if it goes through
/// /dev/fuse.
///
/// # Safety
///
/// Called by the tracepoint.
pub(super) unsafe extern "C" fn request_send(_data: *mut ffi::c_void, req: *const f::fuse_req) {
    // SAFETY: `req` is valid, and this is called by that tracepoint.
    let req = unsafe { Sending::from_raw(req) };
    let opcode = req.opcode();

    if opcode == Request::OPEN {
        ask_for_map(req);
    } else if opcode == Request::INIT {
        let _ = offer(req);
    }
}

/// Makes an offer, unless there is a reason not to.
// The probe sees all requests of all FUSE mounts: what is rare is out of its way.
#[cold]
#[inline(never)]
fn offer(req: Sending<'_>) -> Option<()> {
    let init = req.init_args()?;
    let mount = init.mount();

    if !mount.super_block().is_of_initial_user_namespace() {
        return None;
    }
    // What can fail comes first: a mounter must not be dropped here, for that may sleep.
    let offer = KBox::<Offer>::new_uninit(GFP_ATOMIC | __GFP_NOWARN).ok()?;
    let mounter = Mounter::current(mount.conn().owner())?;

    init.set_unused(
        c::FUSE_DAX_FMAP_INIT_IN_MAGIC as usize,
        c::FUSE_DAX_FMAP_MAGIC,
    );
    init.set_unused(
        c::FUSE_DAX_FMAP_INIT_IN_VERSION as usize,
        c::FUSE_DAX_FMAP_ABI_VERSION,
    );
    let mut offers = OFFERS.lock();
    let next = offers.take();
    // INVARIANT: A request keeps its mount, and both are valid at this moment.
    *offers = Some(KBox::write(
        offer,
        Offer {
            req: req.id(),
            mount: NonNull::from(mount),
            answer: init.answer(),
            mounter,
            next,
        },
    ));
    Some(())
}

/// Takes the offer that went out with a request, if one did.
fn take_offer(req: RequestId) -> Option<KBox<Offer>> {
    let mut offers = OFFERS.lock();
    let mut taken = None;
    let mut rest = offers.take();

    while let Some(mut offer) = rest {
        rest = offer.next.take();
        if offer.req == req {
            taken = Some(offer);
        } else {
            offer.next = offers.take();
            *offers = Some(offer);
        }
    }
    taken
}

/// `fuse_request_end`: a request has been answered, or given up.
///
/// # Safety
///
/// Called by the tracepoint.
pub(super) unsafe extern "C" fn request_end(_data: *mut ffi::c_void, req: *const f::fuse_req) {
    // SAFETY: `req` ends, and is valid until all have put it.
    let req = unsafe { Request::from_raw(req) };
    if req.opcode() != Request::INIT {
        return;
    }
    let Some(offer) = take_offer(req.id()) else {
        return;
    };
    let Offer {
        mount,
        answer,
        mounter,
        ..
    } = KBox::into_inner(offer);

    let outcome = if req.error() != 0 {
        Outcome::Plain(mounter)
    } else {
        // SAFETY: By the type invariants of `Offer` it is valid, as `req` has not been put. The
        // server has answered, and FUSE has not done anything with the answer yet.
        let mount = unsafe { Mounting::new(mount) };
        if req.is_asynchronous() {
            // SAFETY: The arguments of an asynchronous INIT are freed by its `end`, which runs
            // after this.
            let answer = unsafe { answer.as_ref() };
            conclude(answer, mount, mounter)
        } else {
            // SAFETY: `req` is a synchronous INIT that was answered at `answer`.
            unsafe { end_synchronous(req, answer, mount, mounter) }
        }
    };
    match outcome {
        Outcome::Attached => (),
        Outcome::Plain(mounter) => Mounter::put_later(mounter),
        Outcome::Refused(mounter) => {
            // Nothing but INIT can have been sent, so the server sees the end of its connection and
            // every operation ENOTCONN.
            req.abort_channel();
            Mounter::put_later(mounter);
        }
    }
}

/// Acts on the answer to a synchronous INIT.
///
/// The task that mounts waits for FR_FINISHED, which was set before the tracepoint was reached, and
/// then frees the arguments with the answer. While it is on the request's wait queue it cannot go
/// on: it needs the queue's lock to leave. Normally it is.
///
/// If it is not (it was preempted before it came to wait, or a signal took it off), the answer is
/// copied, and the copy counts if FUSE had not finished with the answer by then: it says so, in
/// `conn_init`, before it frees the answer. Otherwise nobody knows what the server wanted, and it
/// is cut off.
///
/// # Safety
///
/// `req` is a synchronous INIT that was answered, at `answer`, and is ending.
unsafe fn end_synchronous(
    req: &Request,
    answer: NonNull<InitAnswer>,
    mount: Mounting<'_>,
    mounter: Pin<KBox<Mounter>>,
) -> Outcome {
    if let Some(waiter) = req.lock_waiter() {
        // SAFETY: The arguments are there as long as the task that waits cannot go on. Only that
        // task uses them besides.
        let answer = unsafe { &mut *answer.as_ptr() };
        let outcome = match conclude(answer, mount, mounter) {
            Outcome::Refused(mounter) => {
                // With another major number mount(2) fails.
                answer.refuse();
                Outcome::Plain(mounter)
            }
            outcome => outcome,
        };
        drop(waiter);
        return outcome;
    }

    // SAFETY: `answer` was valid when the request was sent.
    let copy = unsafe { InitAnswer::copy_nofault(answer) };
    fence(Ordering::SeqCst);
    if let (Some(copy), false) = (copy, mount.conn().has_read_init()) {
        let outcome = conclude(&copy, mount, mounter);

        // Files may be there already that no inode will be allocated for. It is possible to sleep
        // here; and if this fails, the next inode tries again.
        if matches!(outcome, Outcome::Attached) {
            if let Some(conn) = Connection::of_inode(mount.root()) {
                let _ = Connection::mark(conn);
            }
        }
        return outcome;
    }
    pr_err!("a FUSE server answered INIT before the mount waited for it; mount again\n");
    Outcome::Refused(mounter)
}

/// The name that the server answered.
fn name_in(answer: &InitAnswer) -> [u8; OpsName::LEN] {
    let (_, rest) = answer.as_bytes().split_at(ANSWER_NAME);

    *rest.first_chunk().unwrap_or(&[0; OpsName::LEN])
}

/// The flags that the server answered.
fn flags_in(answer: &InitAnswer) -> u32 {
    let (_, rest) = answer.as_bytes().split_at(ANSWER_FLAGS);

    rest.first_chunk()
        .map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// The parameter: the ops of servers that name none, if it is not empty.
fn default_ops() -> [u8; OpsName::LEN] {
    // SAFETY: The parameter may change meanwhile; what is read then is some name, or none.
    unsafe { (&raw const c::fuse_dax_fmap_default_ops).read_volatile() }
        // What was written with echo ends in a newline.
        .map(|byte| if byte == b'\n' { 0 } else { byte })
}

/// Says so if the parameter names ops that nobody has registered: mounts would get plain FUSE, and
/// only then say why. May sleep.
fn check_default_ops() {
    let name = default_ops();
    if name[0] == 0 {
        return;
    }
    let cause = match OpsName::new(&name).map(fmap_ops::lookup) {
        Ok(Ok(_)) => return,
        Ok(Err(_)) => "no such ops are registered yet",
        Err(_) => "this is no name of ops",
    };
    let name = Printable(&name);
    pr_notice_limited!(UNATTACHED, "default_ops '{name}': {cause}\n");
}

/// Looks at the parameter as it was set when the module was loaded; later, when it is set.
pub(crate) fn loaded() {
    LOADED.store(true, Release);
    check_default_ops();
}

/// The parameter has been set.
///
/// # Safety
///
/// Called by C, where it is possible to sleep.
#[no_mangle]
unsafe extern "C" fn fuse_dax_fmap_default_ops_set() {
    if LOADED.load(Acquire) {
        check_default_ops();
    }
}

// What C calls has the signature C declares.
const _: () = {
    let _ = [
        fuse_dax_fmap_default_ops_set,
        c::fuse_dax_fmap_default_ops_set,
    ];
};

/// What becomes of a mount that got an offer.
enum Outcome {
    Attached,
    /// FUSE as ever.
    Plain(Pin<KBox<Mounter>>),
    /// It has to fail: a server must not believe in maps that it does not have.
    Refused(Pin<KBox<Mounter>>),
}

/// Acts on the server's answer.
fn conclude(answer: &InitAnswer, mount: Mounting<'_>, mounter: Pin<KBox<Mounter>>) -> Outcome {
    if answer.major() != c::FUSE_KERNEL_VERSION {
        return Outcome::Plain(mounter);
    }
    let mut name = name_in(answer);
    let named = name[0] != 0;
    if !named {
        name = default_ops();
        if name[0] == 0 {
            if !mount.conn().has_automatic_submounts() && fmap_ops::any_registered() {
                let sb = DeviceNumber(mount.super_block().dev());
                pr_notice_limited!(
                    UNATTACHED,
                    "{sb}: plain FUSE: the server names no ops, and default_ops is empty\n"
                );
            }
            return Outcome::Plain(mounter);
        }
    }

    match attach(&name, flags_in(answer), mount, mounter) {
        Ok(()) => Outcome::Attached,
        Err((mounter, cause)) => {
            let sb = DeviceNumber(mount.super_block().dev());
            let name = Printable(&name);
            if named {
                pr_err!("{sb}: mount refused: ops '{name}': {cause}\n");
                Outcome::Refused(mounter)
            } else {
                pr_warn!("{sb}: plain FUSE: default_ops '{name}': {cause}\n");
                Outcome::Plain(mounter)
            }
        }
    }
}

/// Binds a mount to ops.
fn attach(
    name: &[u8; OpsName::LEN],
    flags: u32,
    mount: Mounting<'_>,
    mounter: Pin<KBox<Mounter>>,
) -> Result<(), (Pin<KBox<Mounter>>, &'static str)> {
    let (sb, fc) = (mount.super_block(), mount.conn());

    let Ok(name) = OpsName::new(name) else {
        return Err((mounter, "this is no name of ops"));
    };
    if !mount.root().is_directory() {
        return Err((mounter, "the root of the mount is no directory"));
    }
    if sb.block_size() != PAGE_SIZE {
        return Err((mounter, "the block size of the mount is not the page size"));
    }
    if fc.has_dax() {
        return Err((mounter, "the mount has DAX of its own"));
    }
    // Submounts share a connection: the end of one of their superblocks does not end its requests.
    if fc.has_automatic_submounts() {
        return Err((mounter, "the mount has automatic submounts"));
    }
    let Ok(ops) = fmap_ops::lookup(name) else {
        return Err((mounter, "no such ops are registered"));
    };
    let Ok(released) = Released::new() else {
        return Err((mounter, "no memory"));
    };
    // SAFETY: `put_super()` says that `sb` is gone; it is called once `sb` is bound, and if it does
    // not come to that, nothing is left of this.
    let superblock = unsafe { Superblock::new(sb) };
    let Ok(fmap) = SbInfo::new(superblock, ops, released) else {
        return Err((mounter, "no memory"));
    };
    let Ok(memory) = KBox::new_uninit(GFP_ATOMIC | __GFP_NOWARN) else {
        return Err((mounter, "no memory"));
    };
    let mut mounts = MOUNTS.lock();
    if mounts.reserve(1, GFP_ATOMIC | __GFP_NOWARN).is_err() {
        return Err((mounter, "no memory"));
    }
    let data = Connection::new(fmap, flags, mounter);
    // SAFETY: The operations of `sb` are FUSE's, which stays as this module depends on it. `sb`
    // owns the connection.
    let conn = unsafe { Hooked::new(memory, sb, data) };
    // INVARIANT: The connection is in the list until `put_super()`. There is room.
    let _ = mounts.push_within_capacity(ConnectionPtr(conn));
    drop(mounts);

    // The default compares S_DAX with what the server says, finds a difference, and forgets the
    // inode at each close.
    mount.never_use_dax();

    // SAFETY: The connection stays until `put_super()`, which cannot have come yet.
    let attached = unsafe { conn.as_ref() };
    pr_info!(
        "{}: bound to ops {}\n",
        *attached.sbi,
        attached.sbi.ops.name()
    );
    // SAFETY: `conn` was made just now, and its superblock is being mounted. The `Mounter` in it
    // keeps the module, and `Hooks::drop` waits for the rest of `put_super()`.
    unsafe { Hooked::attach(conn) };
    Ok(())
}

/// Bytes of somebody's string.
struct Printable<'a>(&'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.iter().take_while(|&&byte| byte != 0) {
            write!(
                f,
                "{}",
                if byte.is_ascii_graphic() {
                    char::from(byte)
                } else {
                    '?'
                }
            )?;
        }
        Ok(())
    }
}
