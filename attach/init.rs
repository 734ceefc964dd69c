// SPDX-License-Identifier: GPL-2.0

//! INIT: the offer to a server, the server's answer, and attaching.
//!
//! Two tracepoint probes see every request of FUSE. The answer to an asynchronous INIT is processed
//! by the task that ends the request, that to a synchronous one by the mounter
//! ([`end_synchronous`]).

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
        Released,
        SbInfo,
        Superblock, //
    }, //
};

use super::connection::{
    Connection,
    ConnectionPtr,
    MOUNTS, //
};

global_lock! {
    /// Offers whose INIT has not ended.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    pub(super) unsafe(uninit) static OFFERS: SpinLock<Option<KBox<Offer>>> = None;
}

/// Limits what is logged about mounts that are not attached, and about `default_ops`.
// SAFETY: `Hooks::new()` initializes it before the probes are registered, and `LOADED` is set after
// that.
pub(super) static UNATTACHED: RateLimit = unsafe { RateLimit::uninit() };

/// True once the registry may be used. The kernel sets parameters before it calls any code of a
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

/// An INIT that carries the module's offer and has not ended.
///
/// # Invariants
///
/// `mount` is valid until the request has been put, and `answer` was valid when the request was
/// sent.
pub(super) struct Offer {
    /// Identifies the request.
    req: RequestId,
    mount: NonNull<fuse::Mount>,
    /// Where FUSE puts the server's answer, among the arguments of the request.
    answer: NonNull<InitAnswer>,
    mounter: Pin<KBox<Mounter>>,
    next: Option<KBox<Offer>>,
}

// SAFETY: The mounter makes an offer, and the task that ends the request takes it.
unsafe impl Send for Offer {}

/// Probe of `fuse_request_send`: a request is about to become visible to the server. The current
/// task is normally the one that the request is sent for (for INIT, the mounter). `fiq->lock` is
/// held if the request goes through /dev/fuse.
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

/// Makes an offer, if the mounter may offer maps to the server and there is memory.
// Out of line: the probe runs for all requests of all FUSE mounts, and INIT is rare.
#[cold]
#[inline(never)]
fn offer(req: Sending<'_>) -> Option<()> {
    let init = req.init_args()?;
    let mount = init.mount();

    if !mount.super_block().is_of_initial_user_namespace() {
        return None;
    }
    // Allocated first: if it failed later, the mounter would be dropped here, which may sleep.
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
    // INVARIANT: The request keeps its mount. `mount` and `answer` are valid now.
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

/// Takes the offer that a request carries, if it carries one.
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

/// Probe of `fuse_request_end`: a request has been answered or aborted.
///
/// # Safety
///
/// Called by the tracepoint.
pub(super) unsafe extern "C" fn request_end(_data: *mut ffi::c_void, req: *const f::fuse_req) {
    // SAFETY: `req` is ending, and FUSE puts its reference to it after the tracepoint.
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
        // server has answered `req`, an INIT, and FUSE has not processed the answer yet.
        let mount = unsafe { Mounting::new(mount) };
        if req.is_asynchronous() {
            // SAFETY: `answer` is among the arguments of an asynchronous INIT, which its `end`
            // frees, after this.
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
            // INIT is the first request, so the server sees the end of its connection, and every
            // operation fails with ENOTCONN.
            req.abort_channel();
            Mounter::put_later(mounter);
        }
    }
}

/// Acts on the answer to a synchronous INIT.
///
/// The mounter waits for FR_FINISHED, which FUSE set before the tracepoint, and then frees the
/// arguments with the answer. While the mounter is on the request's wait queue it cannot go on: it
/// needs the queue's lock to leave. Normally it is there.
///
/// If it is not (it was preempted before it came to wait, or a signal took it off), the answer is
/// copied, and the copy is used if FUSE had not processed the answer by then: before FUSE frees an
/// answer that it accepts, it sets `conn_init`. Otherwise it is unknown what the server wanted, and
/// the module cuts it off.
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
        // SAFETY: `answer` is among the arguments, which only the mounter uses and frees. It cannot
        // go on as long as `waiter` exists.
        let answer = unsafe { &mut *answer.as_ptr() };
        let outcome = match conclude(answer, mount, mounter) {
            Outcome::Refused(mounter) => {
                // mount(2) fails if the answer has another major number.
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

        // Inodes may have been allocated before the superblock had the hooks. This task may sleep;
        // and if this fails, the next `->alloc_inode()` tries again.
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

/// Returns the name of ops in the server's answer.
fn name_in(answer: &InitAnswer) -> [u8; OpsName::LEN] {
    let (_, rest) = answer.as_bytes().split_at(ANSWER_NAME);

    *rest.first_chunk().unwrap_or(&[0; OpsName::LEN])
}

/// Returns the flags in the server's answer.
fn flags_in(answer: &InitAnswer) -> u32 {
    let (_, rest) = answer.as_bytes().split_at(ANSWER_FLAGS);

    rest.first_chunk()
        .map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// Returns the parameter `default_ops`: the ops for servers that name none, unless it is empty.
fn default_ops() -> [u8; OpsName::LEN] {
    // SAFETY: The parameter is a static array. If it changes meanwhile, the result is some name, or
    // none.
    unsafe { (&raw const c::fuse_dax_fmap_default_ops).read_volatile() }
        // What was written with echo ends in a newline.
        .map(|byte| if byte == b'\n' { 0 } else { byte })
}

/// Logs a line if the parameter names ops that are not registered. Otherwise the log would only say
/// so when a mount gets plain FUSE. May sleep.
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

/// Checks the parameter as it was set when the module was loaded.
pub(crate) fn loaded() {
    LOADED.store(true, Release);
    check_default_ops();
}

/// Checks the parameter, which has been set after that.
///
/// # Safety
///
/// Called by C, in a task that may sleep.
#[no_mangle]
unsafe extern "C" fn fuse_dax_fmap_default_ops_set() {
    if LOADED.load(Acquire) {
        check_default_ops();
    }
}

// The function has the signature that C declares.
const _: () = {
    let _ = [
        fuse_dax_fmap_default_ops_set,
        c::fuse_dax_fmap_default_ops_set,
    ];
};

/// What becomes of a mount whose server got an offer.
enum Outcome {
    Attached,
    /// It is plain FUSE.
    Plain(Pin<KBox<Mounter>>),
    /// It has to fail: its server named ops, and would rely on maps that are not used.
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

/// Attaches a mount to ops.
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
    // SAFETY: Once `sb` is attached, `put_super()` calls `is_gone()` before `sb` is freed. If this
    // function fails before that, it drops the result.
    let superblock = unsafe { Superblock::new(sb) };
    let Ok(sbi) = SbInfo::new(superblock, ops, released) else {
        return Err((mounter, "no memory"));
    };
    let Ok(memory) = KBox::new_uninit(GFP_ATOMIC | __GFP_NOWARN) else {
        return Err((mounter, "no memory"));
    };
    let mut mounts = MOUNTS.lock();
    if mounts.reserve(1, GFP_ATOMIC | __GFP_NOWARN).is_err() {
        return Err((mounter, "no memory"));
    }
    let data = Connection::new(sbi, flags, mounter);
    // SAFETY: The operations of `sb` are FUSE's, and FUSE stays loaded as this module depends on
    // it. `sb` owns the connection.
    let conn = unsafe { Hooked::new(memory, sb, data) };
    let device = sb.dev();
    let at = mounts.partition_point(|other| other.device < device);
    // INVARIANT: The connection is in the list until `put_super()`. The list has capacity.
    let _ = mounts.insert_within_capacity(at, ConnectionPtr { device, conn });
    drop(mounts);

    // In its default mode FUSE does not cache an inode whose S_DAX differs from the server's
    // FUSE_ATTR_DAX.
    mount.never_use_dax();

    // SAFETY: `conn` stays valid until `put_super()`, which is not called before it is attached.
    let attached = unsafe { conn.as_ref() };
    pr_info!(
        "{}: attached to ops {}\n",
        *attached.sbi,
        attached.sbi.ops.name()
    );
    // SAFETY: `conn` was made just above, and its superblock is being mounted. The `Mounter` in it
    // owns a reference to the module, and `Hooks::drop` waits for the rest of `put_super()`.
    unsafe { Hooked::attach(conn) };
    Ok(())
}

/// A string from user space: what is no graphic ASCII character is printed as `?`.
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
