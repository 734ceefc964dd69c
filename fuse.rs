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
//! `waitq.lock`, the ops' registry, `MOUNTS`; FUSE's `killsb` (only tried), `inode->i_rwsem`.

use core::{
    cell::UnsafeCell,
    mem::{
        offset_of,
        size_of,
        MaybeUninit, //
    },
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering, //
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
    time::{
        delay::fsleep,
        Delta, //
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
    bpf_struct_ops::PinnedOps,
    daxdev,
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
        // What can fail comes first: giving up the references below may sleep.
        let _module = ModuleRef::new()?;
        let mounter = KBox::<Self>::new_uninit(GFP_ATOMIC | __GFP_NOWARN).ok()?;
        let mut root = c::path {
            mnt: ptr::null_mut(),
            dentry: ptr::null_mut(),
        };
        // SAFETY: The current task's own credentials and file system information; a task that is
        // exiting may have none of the latter.
        let cred = unsafe {
            let task = c::get_current();
            if (*task).fs.is_null() {
                return None;
            }
            c::get_fs_root((*task).fs, &mut root);
            c::get_cred((*task).cred)
        };
        // INVARIANT: The references were taken just now.
        let mounter = mounter.write_pin_init(pin_init!(Self {
            cred,
            root,
            put <- new_work!("fuse_dax_fmap::Mounter::put"),
            _module,
        }));
        mounter.ok()
    }

    /// Lets go of a mounter where it is not possible to sleep.
    fn put_later(mounter: Pin<KBox<Self>>) {
        workqueue::system_long().enqueue(mounter);
    }

    /// Opens a character device as the task that mounted would. May sleep.
    ///
    /// The path is looked up before anything is opened: it comes from the server, and opening another
    /// kind of file may do anything, down to coming here again.
    ///
    /// # Errors
    ///
    /// Those of open(2); [`ENODEV`] if this is no character device.
    pub(crate) fn open(&self, path: &CString) -> Result<DeviceFile> {
        const FLAGS: u32 = c::O_RDWR | c::O_NONBLOCK | c::O_NOCTTY | c::O_LARGEFILE;

        let place = self.open_at(&self.root, path, c::O_PATH)?;
        // SAFETY: The file is open.
        let mode = unsafe { (*place.inode()).i_mode };
        if u32::from(mode) & c::S_IFMT != c::S_IFCHR {
            return Err(ENODEV);
        }
        // SAFETY: As above; its path does not change.
        let at = unsafe { &*ptr::addr_of!((*place.0.as_ptr()).__bindgen_anon_1.f_path) };
        self.open_at(at, c"", FLAGS)
    }

    fn open_at(&self, at: &c::path, path: &CStr, flags: u32) -> Result<DeviceFile> {
        // SAFETY: By the type invariants the credentials are valid; the former ones are put back
        // before anything else runs. `at` is valid, and so is the string.
        let file = unsafe {
            let old = c::override_creds(self.cred);
            let file = c::file_open_root(at, path.as_char_ptr(), flags as ffi::c_int, 0);
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
    next: Option<KBox<Offer>>,
}

// SAFETY: An offer is made by the task that mounts and taken by the one that ends the request.
unsafe impl Send for Offer {}

/// `fuse_request_send`: INIT is about to become visible to the server, normally in the context of the
/// task that mounts, with `fiq->lock` held.
///
/// # Safety
///
/// Called by the tracepoint.
unsafe extern "C" fn request_send(_data: *mut ffi::c_void, req: *const f::fuse_req) {
    // SAFETY: A request that is being sent is valid.
    if unsafe { (*req).in_.h.opcode } == f::fuse_opcode_FUSE_INIT {
        // SAFETY: As above, and it is INIT.
        let _ = unsafe { offer(req) };
    }
}

/// Makes an offer, unless there is a reason not to.
///
/// # Safety
///
/// `req` is an INIT that is being sent by the current task.
unsafe fn offer(req: *const f::fuse_req) -> Option<()> {
    // What can fail comes first: a mounter must not be dropped here, for that may sleep.
    let offer = KBox::<Offer>::new_uninit(GFP_ATOMIC | __GFP_NOWARN).ok()?;
    let mounter = Mounter::current()?;

    // SAFETY: The arguments of a request that is being sent are valid. FUSE keeps those of INIT in a
    // `struct fuse_init_args`. The server does not see the request yet, so it may still be written.
    let mount = unsafe {
        let init = container_of!((*req).args, f::fuse_init_args, args);
        (*init).in_.unused[c::FUSE_DAX_FMAP_INIT_IN_MAGIC as usize] = c::FUSE_DAX_FMAP_MAGIC;
        (*init).in_.unused[c::FUSE_DAX_FMAP_INIT_IN_VERSION as usize] =
            c::FUSE_DAX_FMAP_ABI_VERSION;
        (*init).fm
    };
    let mut offers = OFFERS.lock();
    let next = offers.take();
    *offers = Some(KBox::write(
        offer,
        Offer {
            req,
            mount,
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
unsafe extern "C" fn request_end(_data: *mut ffi::c_void, req: *const f::fuse_req) {
    // SAFETY: A request that ends is valid until all have put it.
    let (opcode, errno, flags) = unsafe { ((*req).in_.h.opcode, (*req).out.h.error, (*req).flags) };
    if opcode != f::fuse_opcode_FUSE_INIT {
        return;
    }
    let Some(offer) = take_offer(req) else {
        return;
    };
    let Offer { mount, mounter, .. } = KBox::into_inner(offer);

    let outcome = if errno != 0 {
        Outcome::Plain(mounter)
    } else if flags & (1 << f::fuse_req_flag_FR_ASYNC) != 0 {
        // SAFETY: The arguments of an asynchronous INIT are freed by `end`, which runs after this;
        // the mount stays until the request has been put.
        unsafe { conclude(&*(*(*req).args).out_args[0].value.cast(), mount, mounter) }
    } else {
        // SAFETY: A synchronous INIT that was answered.
        unsafe { end_synchronous(req, mount, mounter) }
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
/// then frees the arguments with the answer. While it is on the request's wait queue it cannot go on:
/// it needs the queue's lock to leave. Normally it is.
///
/// If it is not (it was preempted before it came to wait, or a signal took it off), the answer is
/// copied, and the copy counts if FUSE had not finished with the answer by then. All that is done
/// then is to cut off a server that wants maps.
///
/// # Safety
///
/// `req` is a synchronous INIT that was answered and is ending; `mount` is what it is for.
unsafe fn end_synchronous(
    req: *const f::fuse_req,
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
            let answer = &mut *(*(*req).args).out_args[0].value.cast::<f::fuse_init_out>();
            let outcome = match conclude(answer, mount, mounter) {
                Outcome::Refused(mounter) => {
                    // With another major number mount(2) fails.
                    answer.major = 0;
                    Outcome::Plain(mounter)
                }
                outcome => outcome,
            };
            c::spin_unlock(lock);
            return outcome;
        }
        c::spin_unlock(lock);

        let answer: *const ffi::c_void = (*(*req).args).out_args[0].value;
        let size = size_of::<f::fuse_init_out>();
        let copied = c::copy_from_kernel_nofault((&raw mut copy).cast(), answer, size) == 0;
        core::sync::atomic::fence(Ordering::SeqCst);
        let fc = (*mount).fc;
        let unread = (*fc).conn_init() == 0 && (*fc).conn_error() == 0;

        if copied && unread && name_in(&copy)[0] == 0 {
            return Outcome::Plain(mounter);
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
    let Ok(memory) = KBox::new_uninit(GFP_ATOMIC | __GFP_NOWARN) else {
        return Err((mounter, "no memory"));
    };
    let mut mounts = MOUNTS.lock();
    if mounts.reserve(1, GFP_ATOMIC | __GFP_NOWARN).is_err() {
        return Err((mounter, "no memory"));
    }
    // SAFETY: As above.
    let conn = unsafe { Connection::new(memory, sb, ops, mounter) };
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
    mounter: Pin<KBox<Mounter>>,
}

type PutSuper = unsafe extern "C" fn(*mut c::super_block);

/// A bound mount in the list.
///
/// # Invariants
///
/// The connection is valid while it is in `MOUNTS`.
#[derive(PartialEq, Eq)]
struct ConnectionPtr(*mut Connection);

// SAFETY: Only used under the lock of `MOUNTS`.
unsafe impl Send for ConnectionPtr {}

impl Connection {
    /// Makes a connection in `memory`, pinned there until it is a box again. Does not sleep.
    ///
    /// # Safety
    ///
    /// `sb` is being mounted, and has a root.
    unsafe fn new(
        memory: KBox<MaybeUninit<Self>>,
        sb: *mut c::super_block,
        ops: PinnedOps,
        mounter: Pin<KBox<Mounter>>,
    ) -> *mut Self {
        // SAFETY: By the safety requirements.
        let (plain_s_op, root) = unsafe { ((*sb).s_op, (*(*sb).s_root).d_inode) };
        let s_op = c::super_operations {
            alloc_inode: Some(alloc_inode),
            evict_inode: Some(evict_inode),
            put_super: Some(put_super),
            // SAFETY: A superblock's operations are valid.
            ..unsafe { *plain_s_op }
        };

        let conn = memory.write_pin_init(pin_init!(Self {
            s_op,
            plain_s_op,
            sb,
            empty_page_cache <- Opaque::ffi_init(move |slot: *mut c::address_space| {
                // SAFETY: `slot` is valid for writes. The root inode is evicted last but for the
                // inodes that nobody uses, and empties it then.
                unsafe {
                    slot.write_bytes(0, 1);
                    c::address_space_init_once(slot);
                    c::__init_rwsem(
                        ptr::addr_of_mut!((*slot).invalidate_lock),
                        c"fuse_dax_fmap::invalidate_lock".as_char_ptr(),
                        kernel::static_lock_class!().as_ptr(),
                    );
                    (*slot).host = root;
                    (*slot).gfp_mask = c::GFP_KERNEL;
                    (*slot).a_ops = iomap::empty_aops();
                }
            }),
            marked: Atomic::new(false),
            marking <- new_mutex!((), "fuse_dax_fmap::Connection::marking"),
            mount <- Mount::new(ops),
            mounter,
        }));
        match conn {
            // SAFETY: The caller leaves it where it is.
            Ok(conn) => KBox::into_raw(unsafe { Pin::into_inner_unchecked(conn) }),
            Err(never) => match never {},
        }
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

    pub(crate) fn superblock(&self) -> *mut c::super_block {
        self.sb
    }

    /// Holds off notifications for a moment, in which no request may be sent.
    ///
    /// It does not queue for that: it would hold up further notifications, and the server may need
    /// one of them to end the one that is under way.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if one is under way for more than a second.
    pub(crate) fn hold_off_notifications(&self) -> Result<Silence> {
        const TRIES: usize = 1000;

        // SAFETY: By the type invariants; FUSE's data lives as long as the superblock is mounted.
        let killsb = unsafe {
            let mount = (*self.sb).s_fs_info.cast::<f::fuse_mount>();
            ptr::addr_of_mut!((*(*mount).fc).killsb)
        };
        for _ in 0..TRIES {
            // SAFETY: As above.
            if unsafe { c::down_write_trylock(killsb) } != 0 {
                return Ok(Silence(killsb));
            }
            fsleep(Delta::from_millis(1));
        }
        Err(EBUSY)
    }

    pub(crate) fn mounter(&self) -> &Mounter {
        &self.mounter
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
    // SAFETY: Called by the VFS for an inode of a bound superblock.
    let Some(conn) = (unsafe { Connection::of((*inode).i_sb) }) else {
        return;
    };
    // SAFETY: As above; nobody has the inode any more.
    unsafe { iomap::evict(inode) };

    // The server can store pages in what it takes for the page cache of a mapped file. Nobody sees
    // them there, but they have to go while their host, the root, is there. No more can come: at
    // unmount FUSE lets no notification through before it gives up the root.
    let empty = conn.empty_page_cache();
    // SAFETY: The page cache is ours, and initialized.
    if ptr::eq(inode, unsafe { (*empty).host }) {
        // SAFETY: As above.
        unsafe { c::truncate_inode_pages_final(empty) };
    }
    // SAFETY: By the type invariants of `Connection`.
    if let Some(evict_inode) = unsafe { (*conn.plain_s_op).evict_inode } {
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
    // SAFETY: Called by the VFS for a bound superblock, whose operations begin a connection.
    let (conn, plain_s_op) = unsafe {
        let conn = (*sb).s_op.cast::<Connection>().cast_mut();
        (conn, (*conn).plain_s_op)
    };

    let mut mounts = MOUNTS.lock();
    mounts.retain(|other| other.0 != conn);
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
    drop(unsafe { Pin::new_unchecked(KBox::from_raw(conn)) });
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

global_lock! {
    /// Held while a table is made from FUSE's.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    pub(crate) unsafe(uninit) static MAKING_TABLES: Mutex<()> = ();
}

/// The gate, if `plain` are the operations it was made from, or it has not been made yet.
///
/// # Safety
///
/// `plain` are the operations of an inode of a bound mount.
unsafe fn gate_for(plain: *const c::file_operations) -> Option<&'static Gate> {
    if GATE.as_ref().is_none() {
        let _making = MAKING_TABLES.lock();
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
    let gate = GATE.as_ref().map(|table| &table.0)?;
    (ptr::eq(gate.plain, plain) || ptr::eq(&gate.gate, plain)).then_some(gate)
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
        // The file's table was loaded from the inode, maybe before another task changed it there.
        let Some(gate) = gate_for((*file).f_op) else {
            return 0;
        };
        ptr::addr_of_mut!((*inode).__bindgen_anon_3.i_fop).write_volatile(&gate.gate);

        if (*file).private_data.is_null() {
            replace_f_op(file, &gate.gate);
        } else if iomap::state(Inode::new(inode)) == State::Mapped {
            // Opened by CREATE, and mapped since: by another opener, or because the server answered
            // with a file that was there.
            become_mapped(file, gate);
        } else {
            // Opened by CREATE: plain, and counted as open until it is closed.
            replace_f_op(file, gate.plain);
        }
    }
    0
}

/// Makes a file that is being opened, and that FUSE has opened, an open mapped file.
///
/// # Safety
///
/// As [`replace_f_op`], and the inode is mapped.
unsafe fn become_mapped(file: *mut c::file, gate: &'static Gate) {
    // SAFETY: By the safety requirements.
    unsafe {
        replace_f_op(file, &gate.mapped);
        (*file).f_mapping = ptr::addr_of_mut!((*(*file).f_inode).i_data);
        (*file).f_wb_err = c::filemap_sample_wb_err((*file).f_mapping);
        (*file).f_mode |= c::FMODE_CAN_ODIRECT | c::FMODE_NOWAIT;
    }
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
        become_mapped(file, gate);
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
    pub(crate) unsafe fn new<'a>(inode: *mut c::inode) -> &'a Self {
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
        core::sync::atomic::fence(Ordering::SeqCst);
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

    /// Writes back and drops what FUSE has cached. May sleep, and ask the server.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] and others if it cannot be done.
    pub(crate) fn empty_page_cache(&self) -> Result {
        // SAFETY: The inode is FUSE's, regular and in use.
        to_result(unsafe { c::invalidate_inode_pages2(ptr::addr_of_mut!((*self.as_raw()).i_data)) })
    }

    pub(crate) fn has_empty_page_cache(&self) -> bool {
        // SAFETY: The inode is in use.
        unsafe { ptr::addr_of!((*self.as_raw()).i_data.nrpages).read_volatile() == 0 }
    }

    /// Changes `i_flags`, some of which FUSE changes too, under a lock of its own.
    pub(crate) fn change_flags(&self, change: impl FnOnce(u32) -> u32) {
        // SAFETY: The inode is FUSE's and in use.
        unsafe {
            let lock = ptr::addr_of_mut!((*self.as_fuse()).lock);
            c::spin_lock(lock);
            (*self.as_raw()).i_flags = change((*self.as_raw()).i_flags);
            c::spin_unlock(lock);
        }
    }
}

/// `killsb` of a connection, held exclusively: FUSE takes no notification from the server.
pub(crate) struct Silence(*mut c::rw_semaphore);

impl Drop for Silence {
    fn drop(&mut self) {
        // SAFETY: `Connection::hold_off_notifications()` took it.
        unsafe { c::up_write(self.0) }
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
            MAKING_TABLES.init();
        }
        let (send, end) = find_tracepoints().inspect_err(|_| {
            pr_err!("this kernel's FUSE has no tracepoints: CONFIG_FUSE_FS and CONFIG_TRACEPOINTS are needed\n");
        })?;

        // SAFETY: The table is static.
        let group = from_err_ptr(unsafe { c::fsnotify_alloc_group(&FSNOTIFY_OPS, 0) })?;
        let group = NonNull::new(group).ok_or(ENOMEM)?;
        // The first of all groups: a listener gets its own file with its event, and that has to find
        // the gate in the inode.
        // SAFETY: The group is ours and has no marks yet.
        unsafe { (*group.as_ptr()).priority = c::fsnotify_group_prio_FSNOTIFY_PRIO_PRE_CONTENT };
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
        // Somebody may have given up the last reference to the module in code of ours, or reported
        // a failure to a holder that is gone, and still be on the way out.
        daxdev::drain();
        // SAFETY: May sleep, as here.
        unsafe { c::synchronize_rcu_tasks() };
    }
}
