// SPDX-License-Identifier: GPL-2.0

//! FUSE: how the module gets between it and the VFS, and how it talks to a server.
//!
//! FUSE has no hooks, and its structures are private. Everything here rests on exported interfaces,
//! and on layouts from the BTF of the very kernel the module is built for.
//!
//! # A mount's way to us
//!
//! 1. **INIT** is seen by two tracepoint probes. When it is sent, the task that mounts is current: if
//!    it has CAP_SYS_RAWIO, an [`Offer`] is written into the request and kept. When it ends, the
//!    server's answer is read. Neither probe may sleep.
//! 2. **Bind**: if the answer names ops, the offer becomes a [`Connection`], and the superblock gets
//!    a copy of FUSE's `super_operations` with three functions of ours. The copy is the first member
//!    of the connection: that is the way from any inode to it.
//! 3. **Open**: a fsnotify mark on the superblock reports each open before `->open()` is called. A
//!    regular file then gets the *gate*, FUSE's `file_operations` with our `->open()`. That settles
//!    whether the file is mapped, and hands over to the operations of a mapped file or back to FUSE's
//!    own. A plain file never passes through our code again.
//! 4. **put_super** undoes it all, after the last inode is gone.
//!
//! # Who keeps the module
//!
//! An offer, and then the connection, owns a reference to it ([`ModuleRef`]), given up last. A few
//! instructions of ours are still to run then; [`Hooks`] waits for them when the module goes away.
//!
//! # Locks
//!
//! `OFFERS` and `MOUNTS` are leaves. In this order: FUSE's `fiq->lock`, `OFFERS`; a request's
//! `waitq.lock`, the ops' registry, `MOUNTS`.

use core::{
    cell::UnsafeCell,
    mem::{
        offset_of,
        size_of, //
    },
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    container_of,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi,
    fmt,
    new_mutex,
    new_work,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock,
        Arc,
        Mutex,
        SetOnce, //
    },
    types::Opaque,
    workqueue::{
        self,
        Work,
        WorkItem, //
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
    iomap::{
        self,
        State,
        Table, //
    }, //
};

pub(crate) const BLOB_MIN: u32 = c::FUSE_DAX_FMAP_BLOB_MIN;
pub(crate) const BLOB_MAX: u32 = c::FUSE_DAX_FMAP_BLOB_MAX;

// What the protocol relies on. bindgen asserts that the types have the layout of the kernel's BTF.
const ANSWER_NAME: usize = c::FUSE_DAX_FMAP_INIT_OUT_NAME as usize;
const _: () = assert!(size_of::<f::fuse_init_out>() == 64);
const _: () = assert!(offset_of!(f::fuse_init_out, unused) <= ANSWER_NAME);
const _: () = assert!(ANSWER_NAME + OpsName::LEN == size_of::<f::fuse_init_out>());
const _: () = assert!(size_of::<f::fuse_init_in>() == 64);
const _: () = assert!(OpsName::LEN == c::FUSE_DAX_FMAP_OPS_NAME_LEN as usize);
// An inode is the first member of FUSE's.
const _: () = assert!(offset_of!(f::fuse_inode, inode) == 0);

global_lock! {
    /// Offers whose INIT is under way.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    unsafe(uninit) static OFFERS: SpinLock<Option<KBox<Offer>>> = None;
}

global_lock! {
    /// Bound mounts, for the list that users can read.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    unsafe(uninit) static MOUNTS: SpinLock<KVec<ConnectionPtr>> = KVec::new();
}

// --- Who mounts ---------------------------------------------------------------------------------

/// A reference to this module. Dropping it may be the last thing that code of ours does.
struct ModuleRef;

impl ModuleRef {
    fn this() -> *mut c::module {
        kernel::module::this_module::<crate::LocalModule>().as_ptr()
    }

    /// `None` if the module is going away.
    fn new() -> Option<Self> {
        // SAFETY: This module is loaded: its code runs.
        unsafe { c::try_module_get(Self::this()) }.then_some(Self)
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: `new()` took the reference.
        unsafe { c::module_put(Self::this()) }
    }
}

/// The task that mounted: its credentials and its root directory, with which devices are opened.
///
/// # Invariants
///
/// `cred` and `root` are references that `self` owns.
#[pin_data(PinnedDrop)]
pub(crate) struct Mounter {
    cred: *const c::cred,
    root: c::path,
    #[pin]
    put: Work<Mounter>,
    /// Dropped last.
    _module: ModuleRef,
}

// SAFETY: References to credentials and directories belong to no task.
unsafe impl Send for Mounter {}
// SAFETY: Nothing of it is written once it is made.
unsafe impl Sync for Mounter {}

kernel::impl_has_work! {
    impl HasWork<Self> for Mounter { self.put }
}

impl WorkItem for Mounter {
    type Pointer = Pin<KBox<Self>>;

    fn run(mounter: Pin<KBox<Self>>) {
        drop(mounter);
    }
}

#[pinned_drop]
impl PinnedDrop for Mounter {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants `self` owns the reference.
        unsafe { c::path_put(&self.root) };
        // SAFETY: As above.
        unsafe { c::put_cred(self.cred) };
    }
}

/// A device file, opened by a [`Mounter`].
///
/// # Invariants
///
/// `self` owns a reference to the file.
pub(crate) struct DeviceFile(NonNull<c::file>);

impl DeviceFile {
    pub(crate) fn inode(&self) -> *mut c::inode {
        // SAFETY: By the type invariants.
        unsafe { (*self.0.as_ptr()).f_inode }
    }
}

impl Drop for DeviceFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns the reference.
        unsafe { c::fput(self.0.as_ptr()) }
    }
}

impl Mounter {
    /// The current task, if it may offer file maps. Does not sleep.
    fn current() -> Option<Pin<KBox<Self>>> {
        // SAFETY: The namespace is static; the check neither sleeps nor logs.
        let capable = unsafe {
            c::ns_capable_noaudit(&raw mut c::init_user_ns, c::CAP_SYS_RAWIO as ffi::c_int)
        };
        if !capable {
            return None;
        }
        let _module = ModuleRef::new()?;
        let mut root = c::path {
            mnt: ptr::null_mut(),
            dentry: ptr::null_mut(),
        };
        // SAFETY: The current task's own credentials and file system information.
        let cred = unsafe {
            let task = c::get_current();
            c::get_fs_root((*task).fs, &mut root);
            c::get_cred((*task).cred)
        };
        // INVARIANT: The references were taken just now.
        let mounter = pin_init!(Self {
            cred,
            root,
            put <- new_work!("fuse_dax_fmap::Mounter::put"),
            _module,
        });
        match KBox::pin_init(mounter, GFP_ATOMIC | __GFP_NOWARN) {
            Ok(mounter) => Some(mounter),
            Err(_) => {
                pr_warn!("no memory for an offer to a FUSE server\n");
                None
            }
        }
    }

    /// Lets go of a mounter where it is not possible to sleep.
    fn put_later(mounter: Pin<KBox<Self>>) {
        workqueue::system_long().enqueue(mounter);
    }

    /// Opens a device as the task that mounted would. May sleep.
    ///
    /// # Errors
    ///
    /// Those of open(2).
    pub(crate) fn open(&self, path: &CString) -> Result<DeviceFile> {
        const FLAGS: u32 = c::O_RDWR | c::O_NONBLOCK | c::O_NOCTTY | c::O_LARGEFILE;

        // SAFETY: By the type invariants the credentials and the directory are valid; the former
        // credentials are put back before anything else runs.
        let file = unsafe {
            let old = c::override_creds(self.cred);
            let file = c::file_open_root(&self.root, path.as_char_ptr(), FLAGS as ffi::c_int, 0);
            c::revert_creds(old);
            file
        };
        let file = NonNull::new(from_err_ptr(file)?).ok_or(ENODEV)?;
        // INVARIANT: `file_open_root()` returned a reference.
        Ok(DeviceFile(file))
    }
}

// --- INIT ---------------------------------------------------------------------------------------

/// An INIT that carries our offer and has not ended.
struct Offer {
    /// The request, as what it is recognized by.
    req: *const f::fuse_req,
    mount: *mut f::fuse_mount,
    mounter: Pin<KBox<Mounter>>,
    /// See [`Offer::synchronous`].
    redirected: Option<Redirected>,
    next: Option<KBox<Offer>>,
}

// SAFETY: An offer is made by the task that mounts and taken by the one that ends the request.
unsafe impl Send for Offer {}

/// `fuse_request_send`: INIT is about to become visible to the server, in the context of the task
/// that mounts, with `fiq->lock` held.
///
/// # Safety
///
/// Called by the tracepoint.
unsafe extern "C" fn request_send(_data: *mut ffi::c_void, req: *const f::fuse_req) {
    // SAFETY: A request that is being sent is valid.
    if unsafe { (*req).in_.h.opcode } != f::fuse_opcode_FUSE_INIT {
        return;
    }
    // SAFETY: As above, and it is INIT.
    let _ = unsafe { offer(req) };
}

/// Makes an offer, unless there is a reason not to.
///
/// # Safety
///
/// `req` is an INIT that is being sent by the current task.
unsafe fn offer(req: *const f::fuse_req) -> Option<()> {
    const FLAGS: kernel::alloc::Flags = GFP_ATOMIC;

    // SAFETY: The arguments of a request that is being sent are valid.
    let (args, flags) = unsafe { ((*req).args, (*req).flags) };
    // SAFETY: As above. FUSE keeps the arguments of INIT in a `struct fuse_init_args`.
    let init = unsafe { container_of!(args, f::fuse_init_args, args) };

    // What can fail comes first: a mounter must not be dropped here, for that may sleep.
    let offer = KBox::<Offer>::new_uninit(FLAGS | __GFP_NOWARN).ok()?;
    let redirected = if flags & (1 << f::fuse_req_flag_FR_ASYNC) == 0 {
        // SAFETY: As above.
        Some(Redirected::new(unsafe {
            (*args).out_args[0].value.cast()
        })?)
    } else {
        None
    };
    let mounter = Mounter::current()?;

    // SAFETY: As above; the server does not see the request yet, so it may still be written.
    unsafe {
        if let Some(redirected) = &redirected {
            (*args).out_args[0].value = redirected.answer.get().cast();
        }
        (*init).in_.unused[c::FUSE_DAX_FMAP_INIT_IN_MAGIC as usize] = c::FUSE_DAX_FMAP_MAGIC;
        (*init).in_.unused[c::FUSE_DAX_FMAP_INIT_IN_VERSION as usize] =
            c::FUSE_DAX_FMAP_ABI_VERSION;
    }
    let mut offers = OFFERS.lock();
    let next = offers.take();
    *offers = Some(KBox::write(
        offer,
        Offer {
            req,
            // SAFETY: As above.
            mount: unsafe { (*init).fm },
            mounter,
            redirected,
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

/// The answer to a synchronous INIT, in memory of ours.
///
/// The task that mounts waits for FR_FINISHED, which is set before `fuse_request_end`, and frees the
/// arguments. It is certainly still there only while it is on the request's wait queue: to leave it,
/// it needs the queue's lock. So the answer is received here, and passed on under that lock.
///
/// A task that never came to wait finds an answer of zeros, and its mount fails. It would have to be
/// away for the whole round trip of the request between sending it and waiting for it.
struct Redirected {
    answer: KBox<UnsafeCell<f::fuse_init_out>>,
    original: *mut f::fuse_init_out,
}

impl Redirected {
    fn new(original: *mut f::fuse_init_out) -> Option<Self> {
        let answer = UnsafeCell::new(pin_init::zeroed());

        Some(Self {
            answer: KBox::new(answer, GFP_ATOMIC | __GFP_NOWARN).ok()?,
            original,
        })
    }
}

/// `fuse_request_end`: a request has been answered, or given up. Preemption may be off.
///
/// # Safety
///
/// Called by the tracepoint.
unsafe extern "C" fn request_end(_data: *mut ffi::c_void, req: *const f::fuse_req) {
    // SAFETY: A request that ends is valid until all have put it.
    let (opcode, errno) = unsafe { ((*req).in_.h.opcode, (*req).out.h.error) };
    if opcode != f::fuse_opcode_FUSE_INIT {
        return;
    }
    let Some(offer) = take_offer(req) else {
        return;
    };
    let Offer {
        mount,
        mounter,
        redirected,
        ..
    } = KBox::into_inner(offer);

    let unused = match redirected {
        _ if errno != 0 => Some(mounter),
        None => {
            // SAFETY: An asynchronous INIT: its arguments are freed by `end`, which runs after
            // this; and so does, for the same reason, everything that could unmount.
            let answer = unsafe { &*(*(*req).args).out_args[0].value.cast() };
            // SAFETY: As above.
            match unsafe { conclude(answer, mount, mounter) } {
                Outcome::Bound => None,
                Outcome::Plain(mounter) => Some(mounter),
                Outcome::Refused(mounter) => {
                    // The mount is there already, so all that is left is to cut the connection.
                    // Nothing but INIT can have been sent on it.
                    // SAFETY: A request that ends keeps its channel; no lock is held here.
                    unsafe { f::fuse_chan_abort((*req).chan, false) };
                    Some(mounter)
                }
            }
        }
        Some(Redirected { answer, original }) => {
            // SAFETY: `req` is valid, and so is its wait queue.
            unsafe {
                let waitq = ptr::addr_of!((*req).waitq).cast_mut();
                let lock = ptr::addr_of_mut!((*waitq).lock);

                c::spin_lock(lock);
                let unused = if ptr::eq((*waitq).head.next, ptr::addr_of!((*waitq).head)) {
                    pr_err!("a FUSE server answered INIT before the mount waited; mount again\n");
                    Some(mounter)
                } else {
                    // The task that mounts cannot leave, see `Redirected`.
                    let answer = &mut *answer.get();
                    let unused = match conclude(answer, mount, mounter) {
                        Outcome::Bound => None,
                        Outcome::Plain(mounter) => Some(mounter),
                        Outcome::Refused(mounter) => {
                            // With another major number mount(2) fails.
                            answer.major = 0;
                            Some(mounter)
                        }
                    };
                    ptr::copy_nonoverlapping(answer, original, 1);
                    unused
                };
                c::spin_unlock(lock);
                unused
            }
        }
    };
    if let Some(mounter) = unused {
        Mounter::put_later(mounter);
    }
}

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
    let mut name = [0; OpsName::LEN];
    // SAFETY: The answer is 64 bytes of plain integers, of which the name is the last 16.
    unsafe {
        let start = ptr::from_ref(answer).cast::<u8>().add(ANSWER_NAME);
        ptr::copy_nonoverlapping(start, name.as_mut_ptr(), name.len());
    }
    let named = name[0] != 0;
    if !named {
        // SAFETY: A parameter may change meanwhile; what is read then is some name, or none.
        name = unsafe { ptr::addr_of!(c::fuse_dax_fmap_default_ops).read_volatile() }
            // What was written with echo ends in a newline.
            .map(|byte| if byte == b'\n' { 0 } else { byte });
        if name[0] == 0 {
            return Outcome::Plain(mounter);
        }
    }

    // SAFETY: By the safety requirements.
    match unsafe { bind(&name, mount, mounter) } {
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
    let Ok(ops) = fmap_ops::lookup(name) else {
        return Err((mounter, "no such ops are registered"));
    };
    // SAFETY: As above.
    let conn = match unsafe { Connection::new(sb, Mount::new(ops)) } {
        Ok(conn) => conn,
        Err(_) => return Err((mounter, "no memory")),
    };
    if MOUNTS
        .lock()
        .push(ConnectionPtr(ptr::from_ref(&*conn)), GFP_ATOMIC)
        .is_err()
    {
        // Nobody has seen the connection yet. It has nothing whose end would sleep but the mounter.
        return Err((mounter, "no memory"));
    }
    conn.mounter.populate(mounter);
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
        let conn = KBox::into_raw(Pin::into_inner_unchecked(conn));
        pr_info!("{}: bound to ops {}\n", &*conn, (*conn).mount.ops.name());
        ptr::addr_of_mut!((*sb).s_op).write_volatile(ptr::addr_of!((*conn).s_op));
    }
    Ok(())
}

/// A device number, as in /proc/self/mountinfo.
struct Device(c::dev_t);

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
    }
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

// --- A bound mount ------------------------------------------------------------------------------

/// A bound mount.
///
/// # Invariants
///
/// - `s_op` is the first member, and `sb->s_op` points to it from [`bind`] to [`put_super`].
/// - `plain_s_op` are the operations the superblock had, and `sb` outlives `self`.
#[pin_data]
#[repr(C)]
pub(crate) struct Connection {
    s_op: c::super_operations,
    plain_s_op: *const c::super_operations,
    sb: *mut c::super_block,
    /// The page cache that FUSE sees of every mapped file. See [`iomap`].
    #[pin]
    empty_page_cache: Opaque<c::address_space>,
    /// Whether opens are reported.
    marked: Atomic<bool>,
    #[pin]
    marking: Mutex<()>,
    #[pin]
    mount: Mount,
    /// Dropped last: it keeps the module.
    mounter: SetOnce<Pin<KBox<Mounter>>>,
}

type PutSuper = unsafe extern "C" fn(*mut c::super_block);

/// A bound mount in the list.
///
/// # Invariants
///
/// The connection is valid while it is in `MOUNTS`.
#[derive(PartialEq, Eq)]
struct ConnectionPtr(*const Connection);

// SAFETY: Only used under the lock of `MOUNTS`.
unsafe impl Send for ConnectionPtr {}

impl Connection {
    /// # Safety
    ///
    /// `sb` is being mounted, and has a root.
    unsafe fn new(sb: *mut c::super_block, mount: impl PinInit<Mount>) -> Result<Pin<KBox<Self>>> {
        // SAFETY: By the safety requirements.
        let plain_s_op = unsafe { (*sb).s_op };
        // SAFETY: As above.
        let root = unsafe { (*(*sb).s_root).d_inode };
        let s_op = c::super_operations {
            alloc_inode: Some(alloc_inode),
            evict_inode: Some(evict_inode),
            put_super: Some(put_super),
            // SAFETY: A superblock's operations are valid.
            ..unsafe { *plain_s_op }
        };

        let conn = pin_init!(Self {
            s_op,
            plain_s_op,
            sb,
            empty_page_cache <- Opaque::ffi_init(move |slot: *mut c::address_space| {
                // SAFETY: `slot` is valid for writes. The root inode lives as long as any other.
                unsafe {
                    slot.write_bytes(0, 1);
                    c::address_space_init_once(slot);
                    (*slot).host = root;
                    (*slot).a_ops = iomap::empty_aops();
                }
            }),
            marked: Atomic::new(false),
            marking <- new_mutex!((), "fuse_dax_fmap::Connection::marking"),
            mount <- mount,
            mounter: SetOnce::new(),
        });
        KBox::pin_init(conn, GFP_ATOMIC | __GFP_NOWARN)
    }

    /// The connection of a superblock, if it is bound.
    ///
    /// # Safety
    ///
    /// `sb` is valid, and stays mounted while the result is used.
    unsafe fn of<'a>(sb: *const c::super_block) -> Option<&'a Self> {
        // SAFETY: By the safety requirements.
        let s_op = unsafe { ptr::addr_of!((*sb).s_op).read_volatile() };
        // SAFETY: A superblock's operations are valid.
        let theirs = unsafe { (*s_op).put_super };
        let ours =
            theirs.is_some_and(|theirs| core::ptr::fn_addr_eq(theirs, put_super as PutSuper));

        // SAFETY: Only `bind()` hands out tables with this function, each the first member of a
        // connection that lives until the superblock is put.
        ours.then(|| unsafe { &*s_op.cast::<Self>() })
    }

    pub(crate) fn mount(&self) -> &Mount {
        &self.mount
    }

    pub(crate) fn mounter(&self) -> Result<&Mounter> {
        self.mounter.as_ref().map(|mounter| &**mounter).ok_or(EIO)
    }

    pub(crate) fn empty_page_cache(&self) -> *mut c::address_space {
        self.empty_page_cache.get()
    }

    /// Makes sure that opens are reported. May sleep.
    fn mark(&self) -> Result {
        if self.marked.load(Relaxed) {
            return Ok(());
        }
        let _marking = self.marking.lock();
        if !self.marked.load(Relaxed) {
            // SAFETY: By the type invariants the superblock is valid.
            unsafe { add_mark(self.sb) }?;
            self.marked.store(true, Relaxed);
        }
        Ok(())
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: By the type invariants.
        f.write_fmt(fmt!("{}", Device(unsafe { (*self.sb).s_dev })))
    }
}

/// `->alloc_inode()`: FUSE's, once opens are reported. No file but the root directory can have been
/// opened before.
///
/// # Safety
///
/// Called by the VFS, for a bound superblock.
unsafe extern "C" fn alloc_inode(sb: *mut c::super_block) -> *mut c::inode {
    // SAFETY: Called by the VFS for a bound superblock.
    let Some(conn) = (unsafe { Connection::of(sb) }) else {
        return ptr::null_mut();
    };
    if conn.mark().is_err() {
        return ptr::null_mut();
    }
    // SAFETY: By the type invariants; FUSE's own, with the VFS's argument.
    match unsafe { (*conn.plain_s_op).alloc_inode } {
        // SAFETY: As above.
        Some(alloc_inode) => unsafe { alloc_inode(sb) },
        None => ptr::null_mut(),
    }
}

/// `->evict_inode()`: ours first, then FUSE's.
///
/// # Safety
///
/// Called by the VFS, for an inode of a bound superblock that nobody has any more.
unsafe extern "C" fn evict_inode(inode: *mut c::inode) {
    // SAFETY: Called by the VFS for an inode of a bound superblock that nobody has any more.
    let conn = unsafe {
        iomap::evict(inode);
        Connection::of((*inode).i_sb)
    };
    // SAFETY: By the type invariants of `Connection`.
    if let Some(evict_inode) = conn.and_then(|conn| unsafe { (*conn.plain_s_op).evict_inode }) {
        // SAFETY: FUSE's own, with the VFS's argument.
        unsafe { evict_inode(inode) };
    }
}

/// `->put_super()`: the last inode is gone, and so is the mark.
///
/// # Safety
///
/// Called by the VFS, for a bound superblock that is being shut down.
unsafe extern "C" fn put_super(sb: *mut c::super_block) {
    // SAFETY: Called by the VFS for a bound superblock.
    let Some(conn) = (unsafe { Connection::of(sb) }) else {
        return;
    };
    let this = ConnectionPtr(conn);
    let plain_s_op = conn.plain_s_op;

    let mut mounts = MOUNTS.lock();
    mounts.retain(|other| *other != this);
    if mounts.is_empty() {
        *mounts = KVec::new();
    }
    drop(mounts);

    // SAFETY: The superblock is being shut down: nobody else has it.
    unsafe { (*sb).s_op = plain_s_op };
    // SAFETY: A superblock's operations are valid.
    if let Some(put_super) = unsafe { (*plain_s_op).put_super } {
        // SAFETY: FUSE's own, if it ever has one, with the VFS's argument.
        unsafe { put_super(sb) };
    }
    // SAFETY: `bind()` gave the connection to the superblock, and nothing points to it any more.
    drop(unsafe { Pin::new_unchecked(KBox::from_raw(this.0.cast_mut())) });
}

/// The list of bound mounts that users can read.
pub(crate) struct Mounts;

impl Mounts {
    /// A line for each mount: `major:minor ops=name files=number devices=index:path,...`
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for conn in MOUNTS.lock().iter() {
            // SAFETY: By the type invariants of `ConnectionPtr`.
            let conn = unsafe { &*conn.0 };
            let mount = &conn.mount;

            f.write_fmt(fmt!(
                "{} ops={} files={} devices={}\n",
                conn,
                mount.ops.name(),
                mount.files.load(Relaxed),
                mount.devices
            ))?;
        }
        Ok(())
    }
}

// --- Opening a file -----------------------------------------------------------------------------

/// The tables of open files, made from FUSE's when the first one is seen.
struct Gate {
    /// FUSE's own.
    plain: *const c::file_operations,
    /// FUSE's own, with `->open()` ours. What an inode has from its first open on.
    gate: c::file_operations,
    /// Those of an open mapped file.
    mapped: c::file_operations,
}

static GATE: SetOnce<Table<Gate>> = SetOnce::new();

/// The gate, if `plain` are the operations it was made from, or it has not been made yet.
///
/// # Safety
///
/// `plain` are the operations of an inode of a bound mount.
unsafe fn gate_for(plain: *const c::file_operations) -> Option<&'static Gate> {
    if GATE.as_ref().is_none() {
        // SAFETY: By the safety requirements.
        let template = unsafe { &*plain };
        GATE.populate(Table(Gate {
            plain,
            gate: c::file_operations {
                owner: ModuleRef::this(),
                open: Some(open),
                ..*template
            },
            mapped: iomap::file_operations(template, ModuleRef::this()),
        }));
    }
    GATE.as_ref()
        .map(|table| &table.0)
        .filter(|gate| ptr::eq(gate.plain, plain))
}

/// Gives an open file other operations, and with them another module to keep.
///
/// # Safety
///
/// `file` is being opened by the current task; the module of `new` is loaded and stays so.
unsafe fn replace_f_op(file: *mut c::file, new: *const c::file_operations) {
    // SAFETY: By the safety requirements; the file owns a reference to the module of its old table.
    unsafe {
        let old = (*file).f_op;
        c::__module_get((*new).owner);
        (*file).f_op = new;
        c::module_put((*old).owner);
    }
}

/// FS_OPEN_PERM on a bound superblock: the file has its `f_op` but has not been opened.
///
/// # Safety
///
/// Called by fsnotify.
unsafe extern "C" fn handle_event(
    _group: *mut c::fsnotify_group,
    mask: u32,
    data: *const ffi::c_void,
    data_type: ffi::c_int,
    _dir: *mut c::inode,
    _file_name: *const c::qstr,
    _cookie: u32,
    _iter_info: *mut c::fsnotify_iter_info,
) -> ffi::c_int {
    if mask & c::FS_OPEN_PERM == 0
        || data_type != c::fsnotify_data_type_FSNOTIFY_EVENT_PATH as ffi::c_int
    {
        return 0;
    }
    const F_PATH: usize = offset_of!(c::file, __bindgen_anon_1);

    // SAFETY: FS_OPEN_PERM is reported with `&file->f_path`, by the task that opens.
    unsafe {
        let file = data.byte_sub(F_PATH).cast::<c::file>().cast_mut();
        let inode = (*file).f_inode;

        if u32::from((*inode).i_mode) & c::S_IFMT != c::S_IFREG
            || Connection::of((*inode).i_sb).is_none()
        {
            return 0;
        }
        // Being created by open(2), the file has been opened already, and is FUSE's. A server that
        // answers CREATE with a file that is mapped makes a mistake.
        let opened = !(*file).private_data.is_null();
        if opened && iomap::state(Inode::new(inode)) == State::Mapped {
            return EIO.to_errno();
        }
        // The file's table was loaded from the inode, maybe before another task changed it there.
        if let Some(gate) = gate_for((*file).f_op) {
            ptr::addr_of_mut!((*inode).__bindgen_anon_3.i_fop).write_volatile(&gate.gate);
            if !opened {
                replace_f_op(file, &gate.gate);
            }
        }
    }
    0
}

/// `->open()` of the gate.
///
/// # Safety
///
/// Called by the VFS, for a file that has the gate's table.
unsafe extern "C" fn open(inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: Called by the VFS, for a file that got the gate's table.
    match unsafe { try_open(inode, file) } {
        Ok(()) => 0,
        Err(errno) => errno.to_errno(),
    }
}

/// # Safety
///
/// As `->open()`, for a file that has the gate's table.
unsafe fn try_open(inode: *mut c::inode, file: *mut c::file) -> Result {
    let gate = &GATE.as_ref().ok_or(EIO)?.0;
    // SAFETY: Only files of bound superblocks get here, and an open file keeps its mount.
    let conn = unsafe { Connection::of((*inode).i_sb) }.ok_or(EIO)?;
    // SAFETY: The inode is in use by the open.
    let wrapped = unsafe { Inode::new(inode) };

    // SAFETY: As above.
    if unsafe { is_bad(inode) } {
        return Err(EIO);
    }
    // A file that is open for neither reading nor writing cannot be used for either, and does not
    // count as open.
    // SAFETY: The file is being opened by this task.
    let useful = unsafe { (*file).f_mode } & (c::FMODE_READ | c::FMODE_WRITE) != 0;
    let state = if useful {
        fmap_ops::settle(conn, wrapped)?
    } else {
        iomap::state(wrapped)
    };
    if state != State::Mapped {
        // SAFETY: The file is being opened, and FUSE's module has it open.
        unsafe { replace_f_op(file, gate.plain) };
        // SAFETY: The table is FUSE's own.
        return match unsafe { (*gate.plain).open } {
            // SAFETY: As above, with the VFS's arguments.
            Some(plain_open) => to_result(unsafe { plain_open(inode, file) }),
            None => Ok(()),
        };
    }

    // SAFETY: The file is being opened by this task alone.
    unsafe {
        if (*file).f_flags & c::O_TRUNC != 0 {
            return Err(EOPNOTSUPP);
        }
        to_result(c::generic_file_open(inode, file))?;
        // OPEN, and no more: what FUSE then does concerns its page cache and its own I/O.
        let mount = (*(*inode).i_sb).s_fs_info.cast::<f::fuse_mount>();
        to_result(f::fuse_do_open(mount, wrapped.nodeid(), file, false))?;

        replace_f_op(file, &gate.mapped);
        (*file).f_mapping = ptr::addr_of_mut!((*inode).i_data);
        (*file).f_wb_err = c::filemap_sample_wb_err((*file).f_mapping);
        (*file).f_mode |= c::FMODE_CAN_ODIRECT | c::FMODE_NOWAIT;
    }
    Ok(())
}

/// # Safety
///
/// `inode` is FUSE's and in use.
unsafe fn is_bad(inode: *const c::inode) -> bool {
    // SAFETY: By the safety requirements; other bits change meanwhile, this one is only set.
    let state = unsafe { ptr::addr_of!((*inode.cast::<f::fuse_inode>()).state).read_volatile() };

    state & (1 << f::FUSE_I_BAD) != 0
}

/// The group of all marks. It only ever sees opens.
static FSNOTIFY_OPS: c::fsnotify_ops = c::fsnotify_ops {
    handle_event: Some(handle_event),
    free_mark: Some(free_mark),
    ..pin_init::zeroed()
};

static GROUP: Atomic<usize> = Atomic::new(0);

/// # Safety
///
/// Called by fsnotify, when nobody has the mark any more.
unsafe extern "C" fn free_mark(mark: *mut c::fsnotify_mark) {
    // SAFETY: `add_mark()` allocated it.
    drop(unsafe { KBox::from_raw(mark) });
}

/// Has opens on a superblock reported, until it is shut down. May sleep.
///
/// # Safety
///
/// `sb` is mounted and bound.
unsafe fn add_mark(sb: *mut c::super_block) -> Result {
    let group = GROUP.load(Relaxed) as *mut c::fsnotify_group;
    let mark = KBox::into_raw(KBox::new(
        pin_init::zeroed::<c::fsnotify_mark>(),
        GFP_KERNEL,
    )?);

    // SAFETY: The group lives as long as any mount is bound, for that keeps the module. The mark is
    // ours until it is added, and then fsnotify's; `fsnotify_put_mark()` gives up our reference.
    unsafe {
        c::fsnotify_init_mark(mark, group);
        (*mark).mask = c::FS_OPEN_PERM;
        let ret = c::fsnotify_add_mark(
            mark,
            sb.cast(),
            c::fsnotify_obj_type_FSNOTIFY_OBJ_TYPE_SB as ffi::c_uint,
            0,
        );
        c::fsnotify_put_mark(mark);
        to_result(ret)
    }
}

// --- Inodes and requests ------------------------------------------------------------------------

/// An inode of FUSE, in use.
#[repr(transparent)]
pub(crate) struct Inode(Opaque<c::inode>);

/// `inode->i_rwsem`, held exclusively.
pub(crate) struct InodeLock<'a>(&'a Inode);

impl Inode {
    /// # Safety
    ///
    /// `inode` is FUSE's, and stays in use as long as the result.
    unsafe fn new<'a>(inode: *mut c::inode) -> &'a Self {
        // SAFETY: By the safety requirements; the types have one layout.
        unsafe { &*inode.cast() }
    }

    pub(crate) fn as_raw(&self) -> *mut c::inode {
        self.0.get()
    }

    fn as_fuse(&self) -> *mut f::fuse_inode {
        self.as_raw().cast()
    }

    /// Its number, for people.
    pub(crate) fn number(&self) -> u64 {
        // SAFETY: The inode is in use.
        unsafe { (*self.as_raw()).i_ino }
    }

    /// What no other inode in use has.
    pub(crate) fn key(&self) -> usize {
        self.as_raw() as usize
    }

    /// What the server knows it by.
    fn nodeid(&self) -> u64 {
        // SAFETY: The inode is FUSE's and in use; its node id does not change.
        unsafe { (*self.as_fuse()).nodeid }
    }

    pub(crate) fn lock(&self) -> InodeLock<'_> {
        // SAFETY: The inode is in use.
        unsafe { c::down_write(ptr::addr_of_mut!((*self.as_raw()).i_rwsem)) };
        InodeLock(self)
    }

    /// Files of this inode that are open for reading or writing, or being opened.
    pub(crate) fn opens(&self) -> usize {
        // Whoever opened unnoticed counted itself first and then took the inode's table. The gate is
        // in that table: either it is counted here, or it goes through the gate.
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        // SAFETY: The inode is in use; each counter is read once.
        let (readers, writers) = unsafe {
            (
                ptr::addr_of!((*self.as_raw()).i_readcount.counter).read_volatile(),
                ptr::addr_of!((*self.as_raw()).i_writecount.counter).read_volatile(),
            )
        };
        // A negative number of writers is programs that run from the file.
        (readers.max(0) + writers.max(0)) as usize
    }

    /// Empties the page cache, which nobody uses any more. The inode lock is held.
    pub(crate) fn empty_page_cache(&self) -> Result {
        // SAFETY: The inode is FUSE's, regular and in use.
        unsafe {
            to_result(c::invalidate_inode_pages2(ptr::addr_of_mut!(
                (*self.as_raw()).i_data
            )))?;
            if (*self.as_raw()).i_data.nrpages != 0 {
                return Err(EBUSY);
            }
        }
        Ok(())
    }
}

impl Drop for InodeLock<'_> {
    fn drop(&mut self) {
        // SAFETY: `Inode::lock()` took it.
        unsafe { c::up_write(ptr::addr_of_mut!((*self.0.as_raw()).i_rwsem)) }
    }
}

/// A request of ours. The opener and FUSE each own a reference: an opener that is killed leaves, and
/// the request frees itself when it ends.
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

// SAFETY: Nothing of a request belongs to a task. `reply` is written by FUSE before `done`, and read
// by the opener after it.
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

impl Request {
    /// Asks the server and waits for its answer, which may take for ever; a fatal signal ends it.
    ///
    /// # Errors
    ///
    /// The server's; [`EINTR`] if the task is being killed; ENOTCONN and the like without a server.
    fn send(inode: &Inode, question: &Question) -> Result<KVVec<u8>> {
        let reply = KVVec::from_elem(0u8, question.room, GFP_KERNEL)?;
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
        // SAFETY: The completion was initialized with the request.
        if unsafe { c::wait_for_completion_killable(request.done.get()) } != 0 {
            return Err(EINTR);
        }
        to_result(request.error.load(Relaxed))?;

        // SAFETY: The request has ended, so FUSE is done with it; it set the size of the reply.
        let (mut reply, len) = unsafe {
            (
                core::mem::take(&mut *request.reply.get()),
                (*args).out_args[0].size as usize,
            )
        };
        reply.truncate(len);
        Ok(reply)
    }
}

impl Connection {
    /// GET_FMAP: the map of a file, at most `room` bytes. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Request::send`].
    pub(crate) fn get_fmap(&self, inode: &Inode, room: u32) -> Result<KVVec<u8>> {
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
    /// As [`Request::send`].
    pub(crate) fn get_daxdev(&self, inode: &Inode, index: u32) -> Result<KVVec<u8>> {
        Request::send(
            inode,
            &Question {
                opcode: c::FUSE_GET_DAXDEV,
                nodeid: index.into(),
                body: [index, 0],
                room: size_of::<c::fuse_get_daxdev_out>(),
                short: false,
            },
        )
    }
}

// --- Hooks --------------------------------------------------------------------------------------

/// The probes, and the group of marks.
///
/// Dropped when no mount is bound, no offer is out and no ops are registered: each of them keeps the
/// module.
pub(crate) struct Hooks {
    group: NonNull<c::fsnotify_group>,
    send: NonNull<c::tracepoint>,
    end: NonNull<c::tracepoint>,
    /// How many probes are registered.
    probes: usize,
}

// SAFETY: Neither belongs to a task.
unsafe impl Send for Hooks {}
// SAFETY: Nothing is done with a shared reference.
unsafe impl Sync for Hooks {}

/// FUSE's two tracepoints, as far as they have been found.
#[derive(Default)]
struct Found {
    send: Option<NonNull<c::tracepoint>>,
    end: Option<NonNull<c::tracepoint>>,
}

/// # Safety
///
/// Called with a valid tracepoint, and a [`Found`].
unsafe extern "C" fn consider(tracepoint: *mut c::tracepoint, found: *mut ffi::c_void) {
    // SAFETY: By the safety requirements.
    let (name, found) = unsafe {
        (
            CStr::from_char_ptr((*tracepoint).name),
            &mut *found.cast::<Found>(),
        )
    };
    match name.to_bytes() {
        b"fuse_request_send" => found.send = NonNull::new(tracepoint),
        b"fuse_request_end" => found.end = NonNull::new(tracepoint),
        _ => (),
    }
}

/// Looks through the tracepoints of a module that is loaded, or being loaded.
///
/// # Safety
///
/// Called by the tracepoint core with a `struct tp_module`, for a block in a [`ModuleSearch`].
unsafe extern "C" fn consider_module(
    block: *mut c::notifier_block,
    state: ffi::c_ulong,
    tp_module: *mut ffi::c_void,
) -> ffi::c_int {
    if state == c::module_state_MODULE_STATE_COMING as ffi::c_ulong {
        // SAFETY: By the safety requirements. A module lists its tracepoints as offsets from where
        // each of them stands (CONFIG_HAVE_ARCH_PREL32_RELOCATIONS).
        unsafe {
            let search = container_of!(block, ModuleSearch, block);
            let module = (*tp_module.cast::<c::tp_module>()).mod_;

            for index in 0..(*module).num_tracepoints as usize {
                let place = (*module).tracepoints_ptrs.add(index);
                let tracepoint = place.byte_offset(*place as isize).cast_mut().cast();
                consider(tracepoint, ptr::addr_of_mut!((*search).found).cast());
            }
        }
    }
    0
}

/// A look at the modules' tracepoints.
#[repr(C)]
struct ModuleSearch {
    block: c::notifier_block,
    found: Found,
}

/// Finds FUSE's tracepoints, in the kernel or in a module.
///
/// If FUSE is a module this one depends on it by its symbols, so it is loaded already and stays.
fn find_tracepoints() -> Result<(NonNull<c::tracepoint>, NonNull<c::tracepoint>)> {
    let mut search = ModuleSearch {
        block: c::notifier_block {
            notifier_call: Some(consider_module),
            ..pin_init::zeroed()
        },
        found: Found::default(),
    };

    // SAFETY: The callback gets what it expects.
    unsafe {
        c::for_each_kernel_tracepoint(Some(consider), ptr::addr_of_mut!(search.found).cast());
    }
    if search.found.send.is_none() {
        // SAFETY: Registering calls back for each loaded module; the block is valid until it is
        // unregistered, at once.
        unsafe {
            let block = ptr::addr_of_mut!(search.block);
            to_result(c::register_tracepoint_module_notifier(block))?;
            c::unregister_tracepoint_module_notifier(block);
        }
    }
    search.found.send.zip(search.found.end).ok_or(ENOENT)
}

impl Hooks {
    /// Gets between the VFS and FUSE. Called once, while the module is loaded.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if this kernel's FUSE has no tracepoints; [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Called once, before the first use of the locks.
        unsafe {
            OFFERS.init();
            MOUNTS.init();
        }
        let (send, end) = find_tracepoints().inspect_err(|_| {
            pr_err!("this kernel's FUSE has no tracepoints: CONFIG_FUSE_FS and CONFIG_TRACEPOINTS are needed\n");
        })?;

        // SAFETY: The table is static.
        let group = from_err_ptr(unsafe { c::fsnotify_alloc_group(&FSNOTIFY_OPS, 0) })?;
        let group = NonNull::new(group).ok_or(ENOMEM)?;
        // SAFETY: The group is ours and has no marks yet. Permission events are what it is for.
        unsafe { (*group.as_ptr()).priority = c::fsnotify_group_prio_FSNOTIFY_PRIO_CONTENT };
        GROUP.store(group.as_ptr() as usize, Relaxed);

        // The end first: an offer whose end is not seen would stay for ever.
        let mut hooks = Self {
            group,
            send,
            end,
            probes: 0,
        };
        for (tracepoint, probe) in hooks.probes() {
            // SAFETY: The probe has the signature of the tracepoint.
            to_result(unsafe {
                c::tracepoint_probe_register(tracepoint.as_ptr(), probe, ptr::null_mut())
            })?;
            hooks.probes += 1;
        }
        Ok(hooks)
    }

    /// What is probed with what, in the order of registration.
    fn probes(&self) -> [(NonNull<c::tracepoint>, *mut ffi::c_void); 2] {
        [
            (self.end, request_end as *mut ffi::c_void),
            (self.send, request_send as *mut ffi::c_void),
        ]
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        for (tracepoint, probe) in self.probes().into_iter().take(self.probes).rev() {
            // SAFETY: Registered in `new()`.
            unsafe { c::tracepoint_probe_unregister(tracepoint.as_ptr(), probe, ptr::null_mut()) };
        }
        // SAFETY: No probe is called any more after this. No mount is bound, so there are no marks
        // but those that fsnotify is about to free, and the group is ours alone.
        unsafe {
            c::tracepoint_synchronize_unregister();
            c::fsnotify_wait_marks_destroyed();
            c::fsnotify_put_group(self.group.as_ptr());
        }
        // Somebody may have given up the last reference to the module in code of ours, and still be
        // on the way out of it.
        // SAFETY: May sleep, as here.
        unsafe { c::synchronize_rcu_tasks() };
    }
}
