// SPDX-License-Identifier: GPL-2.0

//! INIT: the offer to a server, its answer, and binding the mount.
//!
//! Two tracepoint probes see every request of FUSE. INIT may be asynchronous, finished by whoever
//! ends the request, or synchronous, finished by the task that mounts; see [`end_synchronous`] for
//! what the second one takes.

use core::{
    mem::{
        offset_of,
        size_of, //
    },
    ptr,
    sync::atomic::{
        fence,
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    container_of,
    ffi,
    fmt,
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
    bindings::{
        fuse as f,
        kernel as c, //
    },
    fmap_ops::{
        self,
        Mount,
        OpsName, //
    },
    ratelimit::{
        pr_notice_limited,
        RateLimit, //
    }, //
};

use super::{
    map_in_open::ask_for_map,
    Connection,
    ConnectionPtr,
    Device,
    Mounter,
    Released,
    Superblock,
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
pub(super) static UNBOUND: RateLimit = unsafe { RateLimit::uninit() };

/// Whether the registry can be asked. The kernel sets parameters before it calls any code of a
/// module.
static LOADED: Atomic<bool> = Atomic::new(false);

// What the protocol relies on. bindgen asserts that the types have the layout of the kernel's BTF.
const ANSWER_FLAGS: usize = c::FUSE_DAX_FMAP_INIT_OUT_FLAGS as usize;
const ANSWER_NAME: usize = c::FUSE_DAX_FMAP_INIT_OUT_NAME as usize;
const _: () = assert!(size_of::<f::fuse_init_out>() == 64);
const _: () = assert!(offset_of!(f::fuse_init_out, unused) <= ANSWER_FLAGS);
const _: () = assert!(ANSWER_FLAGS + size_of::<u32>() == ANSWER_NAME);
const _: () = assert!(ANSWER_NAME + OpsName::LEN == size_of::<f::fuse_init_out>());
const _: () = assert!(size_of::<f::fuse_init_in>() == 64);
const _: () = assert!(OpsName::LEN == c::FUSE_DAX_FMAP_OPS_NAME_LEN as usize);

/// An INIT that carries our offer and has not ended.
pub(super) struct Offer {
    /// The request, as what it is recognized by.
    req: *const f::fuse_req,
    mount: *mut f::fuse_mount,
    /// Where FUSE puts the server's answer, among the arguments of the request.
    answer: *mut f::fuse_init_out,
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
    // SAFETY: A request that is being sent is valid.
    let opcode = unsafe { (*req).in_.h.opcode };

    if opcode == f::fuse_opcode_FUSE_OPEN {
        // SAFETY: As above, and it is OPEN, which is sent by the task that opens.
        unsafe { ask_for_map(req) };
    } else if opcode == f::fuse_opcode_FUSE_INIT {
        // SAFETY: As above, and it is INIT.
        let _ = unsafe { offer(req) };
    }
}

/// Makes an offer, unless there is a reason not to.
///
/// # Safety
///
/// `req` is an INIT that is being sent by the current task.
// The probe sees all requests of all FUSE mounts: what is rare is out of its way.
#[cold]
#[inline(never)]
unsafe fn offer(req: *const f::fuse_req) -> Option<()> {
    // SAFETY: The arguments of a request that is being sent are valid. FUSE keeps those of INIT in
    // a `struct fuse_init_args`.
    let init = unsafe { container_of!((*req).args, f::fuse_init_args, args) };
    // SAFETY: As above, and the mount has its superblock and its owner by now.
    let (mount, user_ns, owner) = unsafe {
        let mount = (*init).fm;
        (mount, (*(*mount).sb).s_user_ns, (*(*mount).fc).user_id)
    };
    if !ptr::eq(user_ns, &raw const c::init_user_ns) {
        return None;
    }
    // What can fail comes first: a mounter must not be dropped here, for that may sleep.
    let offer = KBox::<Offer>::new_uninit(GFP_ATOMIC | __GFP_NOWARN).ok()?;
    let mounter = Mounter::current(c::kuid_t { val: owner.val })?;

    // SAFETY: As above. The server does not see the request yet, so it may still be written.
    let answer = unsafe {
        (*init).in_.unused[c::FUSE_DAX_FMAP_INIT_IN_MAGIC as usize] = c::FUSE_DAX_FMAP_MAGIC;
        (*init).in_.unused[c::FUSE_DAX_FMAP_INIT_IN_VERSION as usize] =
            c::FUSE_DAX_FMAP_ABI_VERSION;
        ptr::addr_of_mut!((*init).out)
    };
    let mut offers = OFFERS.lock();
    let next = offers.take();
    *offers = Some(KBox::write(
        offer,
        Offer {
            req,
            mount,
            answer,
            mounter,
            next,
        },
    ));
    Some(())
}

/// Takes the offer that went out with a request, if one did.
fn take_offer(req: *const f::fuse_req) -> Option<KBox<Offer>> {
    let mut offers = OFFERS.lock();
    let mut taken = None;
    let mut rest = offers.take();

    while let Some(mut offer) = rest {
        rest = offer.next.take();
        if ptr::eq(offer.req, req) {
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
    // SAFETY: A request that ends is valid until all have put it.
    let (opcode, errno, flags) = unsafe { ((*req).in_.h.opcode, (*req).out.h.error, (*req).flags) };
    if opcode != f::fuse_opcode_FUSE_INIT {
        return;
    }
    let Some(offer) = take_offer(req) else {
        return;
    };
    let Offer {
        mount,
        answer,
        mounter,
        ..
    } = KBox::into_inner(offer);

    let outcome = if errno != 0 {
        Outcome::Plain(mounter)
    } else if flags & (1 << f::fuse_req_flag_FR_ASYNC) != 0 {
        // SAFETY: The arguments of an asynchronous INIT are freed by `end`, which runs after this;
        // the mount stays until the request has been put.
        unsafe { conclude(&*answer, mount, mounter) }
    } else {
        // SAFETY: A synchronous INIT that was answered.
        unsafe { end_synchronous(req, answer, mount, mounter) }
    };
    match outcome {
        Outcome::Bound => (),
        Outcome::Plain(mounter) => Mounter::put_later(mounter),
        Outcome::Refused(mounter) => {
            // Nothing but INIT can have been sent, so the server sees the end of its connection and
            // every operation ENOTCONN.
            // SAFETY: A request that ends keeps its channel; no lock is held here.
            unsafe { f::fuse_chan_abort((*req).chan, false) };
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
/// `req` is a synchronous INIT that was answered, at `answer`, and is ending; `mount` is what it is
/// for.
unsafe fn end_synchronous(
    req: *const f::fuse_req,
    answer: *mut f::fuse_init_out,
    mount: *mut f::fuse_mount,
    mounter: Pin<KBox<Mounter>>,
) -> Outcome {
    let mut copy: f::fuse_init_out = pin_init::zeroed();

    // SAFETY: The request is valid, and so is its wait queue. The mount stays until the request has
    // been put. The arguments are only used as described.
    unsafe {
        let waitq = ptr::addr_of!((*req).waitq).cast_mut();
        let lock = ptr::addr_of_mut!((*waitq).lock);

        c::spin_lock(lock);
        if !ptr::eq((*waitq).head.next, ptr::addr_of!((*waitq).head)) {
            let outcome = match conclude(&*answer, mount, mounter) {
                Outcome::Refused(mounter) => {
                    // With another major number mount(2) fails.
                    (*answer).major = 0;
                    Outcome::Plain(mounter)
                }
                outcome => outcome,
            };
            c::spin_unlock(lock);
            return outcome;
        }
        c::spin_unlock(lock);

        let size = size_of::<f::fuse_init_out>();
        let copied = c::copy_from_kernel_nofault((&raw mut copy).cast(), answer.cast(), size) == 0;
        fence(Ordering::SeqCst);
        let fc = (*mount).fc;
        let unread = (*fc).conn_init() == 0 && (*fc).conn_error() == 0;

        if copied && unread {
            let outcome = conclude(&copy, mount, mounter);

            // Files may be there already that no inode will be allocated for. It is possible to
            // sleep here; and if this fails, the next inode tries again.
            if let (Outcome::Bound, Some(conn)) = (&outcome, Connection::of((*mount).sb)) {
                let _ = conn.mark();
            }
            return outcome;
        }
    }
    pr_err!("a FUSE server answered INIT before the mount waited for it; mount again\n");
    Outcome::Refused(mounter)
}

/// The name that the server answered.
fn name_in(answer: &f::fuse_init_out) -> [u8; OpsName::LEN] {
    let mut name = [0; OpsName::LEN];

    // SAFETY: The answer is 64 bytes of plain integers, of which the name is the last 16.
    unsafe {
        let start = ptr::from_ref(answer).cast::<u8>().add(ANSWER_NAME);
        ptr::copy_nonoverlapping(start, name.as_mut_ptr(), name.len());
    }
    name
}

/// The flags that the server answered.
fn flags_in(answer: &f::fuse_init_out) -> u32 {
    // SAFETY: The answer is 64 bytes of plain integers, and has these four.
    unsafe {
        ptr::from_ref(answer)
            .cast::<u8>()
            .add(ANSWER_FLAGS)
            .cast::<u32>()
            .read_unaligned()
    }
}

/// The parameter: the ops of servers that name none, if it is not empty.
fn default_ops() -> [u8; OpsName::LEN] {
    // SAFETY: A parameter may change meanwhile; what is read then is some name, or none.
    unsafe { ptr::addr_of!(c::fuse_dax_fmap_default_ops).read_volatile() }
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
    pr_notice_limited!(UNBOUND, "default_ops '{name}': {cause}\n");
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
    Bound,
    /// FUSE as ever.
    Plain(Pin<KBox<Mounter>>),
    /// It has to fail: a server must not believe in maps that it does not have.
    Refused(Pin<KBox<Mounter>>),
}

/// Acts on the server's answer.
///
/// # Safety
///
/// `mount` is being mounted, and stays so until this returns.
unsafe fn conclude(
    answer: &f::fuse_init_out,
    mount: *mut f::fuse_mount,
    mounter: Pin<KBox<Mounter>>,
) -> Outcome {
    if answer.major != c::FUSE_KERNEL_VERSION {
        return Outcome::Plain(mounter);
    }
    let mut name = name_in(answer);
    let named = name[0] != 0;
    if !named {
        name = default_ops();
        if name[0] == 0 {
            // SAFETY: By the safety requirements; a mount has a connection.
            let could_be_bound = unsafe { f::fuse_conn::auto_submounts_raw((*mount).fc) } == 0;
            if could_be_bound && fmap_ops::any_registered() {
                // SAFETY: As above; the superblock of a mount under way has a name.
                let sb = unsafe { Device((*(*mount).sb).s_dev) };
                pr_notice_limited!(
                    UNBOUND,
                    "{sb}: plain FUSE: the server names no ops, and default_ops is empty\n"
                );
            }
            return Outcome::Plain(mounter);
        }
    }

    // SAFETY: `mount` is being mounted by the safety requirements, as `bind()` wants.
    match unsafe { bind(&name, flags_in(answer), mount, mounter) } {
        Ok(()) => Outcome::Bound,
        Err((mounter, cause)) => {
            // SAFETY: By the safety requirements; the superblock of a mount under way has a name.
            let sb = unsafe { Device((*(*mount).sb).s_dev) };
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
///
/// # Safety
///
/// As [`conclude`].
unsafe fn bind(
    name: &[u8; OpsName::LEN],
    flags: u32,
    mount: *mut f::fuse_mount,
    mounter: Pin<KBox<Mounter>>,
) -> Result<(), (Pin<KBox<Mounter>>, &'static str)> {
    // SAFETY: By the safety requirements these are valid, and nobody else changes them meanwhile.
    let (sb, fc) = unsafe { ((*mount).sb, (*mount).fc) };

    let Ok(name) = OpsName::new(name) else {
        return Err((mounter, "this is no name of ops"));
    };
    // SAFETY: As above. FUSE sets the root before it sends INIT.
    let is_directory = unsafe {
        let root = (*(*sb).s_root).d_inode;
        u32::from((*root).i_mode) & c::S_IFMT == c::S_IFDIR
    };
    if !is_directory {
        return Err((mounter, "the root of the mount is no directory"));
    }
    // SAFETY: As above.
    if unsafe { (*sb).s_blocksize } != kernel::page::PAGE_SIZE as ffi::c_ulong {
        return Err((mounter, "the block size of the mount is not the page size"));
    }
    #[cfg(CONFIG_FUSE_DAX)]
    // SAFETY: As above.
    if !unsafe { (*fc).dax }.is_null() {
        return Err((mounter, "the mount has DAX of its own"));
    }
    // Submounts share a connection: the end of one of their superblocks does not end its requests.
    // SAFETY: `fc` is the connection of a mount under way.
    if unsafe { f::fuse_conn::auto_submounts_raw(fc) } != 0 {
        return Err((mounter, "the mount has automatic submounts"));
    }
    let Ok(ops) = fmap_ops::lookup(name) else {
        return Err((mounter, "no such ops are registered"));
    };
    let Ok(released) = Released::new() else {
        return Err((mounter, "no memory"));
    };
    // SAFETY: As above; `put_super()` says that it is gone.
    let superblock = unsafe { Superblock::new(sb) };
    let Ok(fmap) = Mount::new(superblock, ops, released) else {
        return Err((mounter, "no memory"));
    };
    let Ok(memory) = KBox::new_uninit(GFP_ATOMIC | __GFP_NOWARN) else {
        return Err((mounter, "no memory"));
    };
    let mut mounts = MOUNTS.lock();
    if mounts.reserve(1, GFP_ATOMIC | __GFP_NOWARN).is_err() {
        return Err((mounter, "no memory"));
    }
    // SAFETY: As above.
    let conn = unsafe { Connection::new(memory, sb, fmap, flags, mounter) };
    // INVARIANT: The connection is in the list until `put_super()`. There is room.
    let _ = mounts.push_within_capacity(ConnectionPtr(conn));
    drop(mounts);

    // The default compares S_DAX with what the server says, finds a difference, and forgets the
    // inode at each close.
    #[cfg(CONFIG_FUSE_DAX)]
    // SAFETY: As above.
    unsafe {
        (*fc).dax_mode = f::fuse_dax_mode_FUSE_DAX_NEVER;
    }

    // SAFETY: The superblock owns the connection from here on, until `put_super()`. Whoever loads
    // `s_op` meanwhile gets one table or the other, and both do.
    unsafe {
        pr_info!("{}: bound to ops {}\n", &*conn, (*conn).mount.ops.name());
        AtomicPtr::from_ptr(ptr::addr_of_mut!((*sb).s_op).cast::<*mut c::super_operations>())
            .store(ptr::addr_of_mut!((*conn).s_op), Ordering::Release);
    }
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
