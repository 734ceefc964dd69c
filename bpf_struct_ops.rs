// SPDX-License-Identifier: GPL-2.0

//! The struct_ops type `fuse_dax_fmap_ops`: what BPF programs may do, and how they are called.
//!
//! A user registers a map of this type with a BPF link. The kernel then holds one `kdata`, a
//! `struct fuse_dax_fmap_ops` whose two function pointers lead through a trampoline into the
//! programs. `dax_fmap_parse()` is called that way. `iomap_begin()` is called in each fault, and
//! directly ([`Resolver`]): half of what a trampoline does is for programs that ask about it.
//!
//! - [`Ops`] is `kdata` between `reg()` and `unreg()`: enough to look it up, not to call it.
//! - [`PinnedOps`] holds a reference and may be called. A link that is detached, or updated to
//!   another `kdata`, stops new pins and leaves the existing ones alone.
//!
//! A program sees a context (`include/uapi/linux/fuse_dax_fmap.h`). It is the first member of a
//! larger structure here, and the kfuncs go from the one to the other. This is sound because the
//! verifier lets no other pointer through: a context argument is trusted, of exactly this BTF type,
//! and only [`PinnedOps::parse`] and [`Resolver::resolve`] ever make one. To read the metadata in
//! `iomap_begin()` takes no kfunc: its first line is a type of its own, so the verifier knows how
//! far a program may read, and all of it is a range whose end the program compares with, as with a
//! packet.
//!
//! The types, the stubs and the kfuncs themselves are in C (`fuse_dax_fmap_btf.c`), because pahole
//! leaves out what Rust defines.

use core::{
    marker::PhantomData,
    mem::offset_of,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    error::to_result,
    ffi,
    prelude::*,
    sync::global_lock,
    types::Opaque, //
};

use crate::{
    bindings::kernel as c,
    fmap_ops::{
        self,
        OpsName, //
    },
    iomap::Fmap, //
};

mod verifier;

// A build for the benchmark only: what a program costs.
#[cfg(fmap_native)]
#[path = "bench/native.rs"]
mod native;

/// Registered ops. May go away at any time; see [`Ops::pin`].
///
/// # Invariants
///
/// The pointer is the `kdata` of a struct_ops map of our type. It is valid from `reg()`, or an
/// `update()` to it, until `unreg()`, or an `update()` to another one, returns; an `Ops` is in the
/// registry no longer than that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ops(NonNull<c::fuse_dax_fmap_ops>);

// SAFETY: `kdata` belongs to no task and is never written after `reg()`.
unsafe impl Send for Ops {}

global_lock! {
    /// What is registered; see `fmap_ops`.
    // SAFETY: `register()` initializes it before the type is registered.
    pub(crate) unsafe(uninit) static REGISTERED: SpinLock<KVec<Ops>> = KVec::new();
}

impl Ops {
    pub(crate) fn name(&self) -> OpsName {
        // SAFETY: By the type invariants `kdata` is valid; nobody writes the name after `reg()`.
        OpsName::from_validated(unsafe { (*self.0.as_ptr()).name })
    }

    /// Keeps the programs callable, unless their map is about to be freed.
    pub(crate) fn pin(&self) -> Option<PinnedOps> {
        // SAFETY: By the type invariants this is `kdata`, and still valid: the registry, which
        // calls this under its lock, forgets it in `unreg()`.
        let pinned = unsafe { c::bpf_struct_ops_get(self.0.as_ptr().cast()) };

        // INVARIANT: The reference was taken just now.
        pinned.then(|| PinnedOps(self.0))
    }
}

/// Ops that may be called.
///
/// # Invariants
///
/// The pointer is a `kdata` of our type that passed `validate()`, and `self` owns a reference to
/// its map.
pub(crate) struct PinnedOps(NonNull<c::fuse_dax_fmap_ops>);

// SAFETY: Programs may be called from any task, and the reference belongs to none.
unsafe impl Send for PinnedOps {}
// SAFETY: As above; `kdata` is read only.
unsafe impl Sync for PinnedOps {}

impl Drop for PinnedOps {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns this reference.
        unsafe { c::bpf_struct_ops_put(self.0.as_ptr().cast()) }
    }
}

/// What `dax_fmap_parse()` made of a server's answer.
pub(crate) struct Parsed {
    /// The metadata, ready to be published.
    pub(crate) fmap: Fmap,
    /// Mapped size of the file in bytes, at most `i64::MAX`.
    pub(crate) file_size: u64,
    /// Bit N: the file uses device N.
    pub(crate) dev_bitmap: u64,
}

/// What `dax_fmap_parse()` says about a server's answer.
pub(crate) enum Verdict {
    /// It is a map.
    Map(Parsed),
    /// It is not all of the map, for want of room. The map takes so many bytes; 0 if the program
    /// does not know.
    NeedsRoom(u32),
}

/// The context of `dax_fmap_parse()`, with what the program reaches through kfuncs alone.
#[repr(C)]
struct ParseCtx {
    ctx: c::fuse_dax_fmap_parse_ctx,
    blob: *const u8,
    fmap: Option<Fmap>,
}

/// The context of `iomap_begin()`, with all of its arguments, as u64s.
#[repr(C)]
struct ResolveCtx {
    ctx: c::fuse_dax_fmap_resolve_ctx,
    args: [u64; ARG_DATA_END + 1],
}

/// Where the metadata begins and ends, among the arguments.
const ARG_DATA: usize = 3;
const ARG_DATA_END: usize = 4;

// The kfuncs turn a pointer to `ctx` into one to the whole.
const _: () = assert!(offset_of!(ParseCtx, ctx) == 0);
const _: () = assert!(offset_of!(ResolveCtx, ctx) == 0);

/// A program's return code: 0, or an errno that user space may see.
///
/// Anything else, `ERESTARTSYS` and its kin among them, is a mistake of the program.
fn program_result(ret: i32) -> Result {
    const USER_VISIBLE_ERRNO: core::ops::Range<i32> = -511..0;

    match ret {
        0 => Ok(()),
        ret if USER_VISIBLE_ERRNO.contains(&ret) => to_result(ret),
        _ => Err(EIO),
    }
}

impl PinnedOps {
    pub(crate) fn name(&self) -> OpsName {
        // INVARIANT: A pinned `kdata` is as valid as a registered one.
        Ops(self.0).name()
    }

    /// The id of the struct_ops map: it tells ops from those that have the name after them.
    pub(crate) fn map_id(&self) -> u32 {
        // SAFETY: By the type invariants.
        unsafe { c::bpf_struct_ops_id(self.0.as_ptr().cast()) }
    }

    /// Calls `dax_fmap_parse()` with a server's answer, for which there was `room`. May sleep.
    ///
    /// # Errors
    ///
    /// The program's errno, but for [`ERANGE`]; [`EINVAL`] if what it reports makes no sense;
    /// [`ENOMEM`].
    pub(crate) fn parse(&self, blob: &[u8], room: u32) -> Result<Verdict> {
        let mut parse = ParseCtx {
            ctx: c::fuse_dax_fmap_parse_ctx {
                blob_size: blob.len().try_into()?,
                meta_buf_size: 0,
                file_size: 0,
                dev_bitmap: 0,
                blob_room: room,
                blob_wanted: 0,
            },
            blob: blob.as_ptr(),
            fmap: None,
        };

        // SAFETY: By the type invariants `kdata` is valid, and `validate()` saw both members set.
        let program = unsafe { (*self.0.as_ptr()).dax_fmap_parse }.ok_or(EINVAL)?;
        // SAFETY: The program is alive by the type invariants. It reaches `parse` through the
        // kfuncs alone and keeps no pointer: the verifier sees to that. `blob` outlives the call.
        let result = program_result(unsafe { program(ptr::addr_of_mut!(parse).cast()) });
        if result == Err(ERANGE) {
            return Ok(Verdict::NeedsRoom(parse.ctx.blob_wanted));
        }
        result?;

        let (file_size, dev_bitmap) = (parse.ctx.file_size, parse.ctx.dev_bitmap);
        if i64::try_from(file_size).is_err() || (dev_bitmap == 0 && file_size != 0) {
            return Err(EINVAL);
        }
        let fmap = match parse.fmap {
            Some(fmap) => fmap,
            None => Fmap::new(0)?,
        };
        Ok(Verdict::Map(Parsed {
            fmap,
            file_size,
            dev_bitmap,
        }))
    }

    /// The way to `iomap_begin()` for a file's header.
    ///
    /// # Safety
    ///
    /// The caller keeps `self`, or another pin of the same ops, as long as the [`Resolver`] is
    /// used.
    pub(crate) unsafe fn resolver(&self) -> Result<Resolver> {
        let mut found: *mut c::bpf_prog = ptr::null_mut();

        // SAFETY: By the type invariants this is `kdata`. What is called gets each of its programs,
        // and `found`, which outlives the call.
        unsafe {
            c::bpf_struct_ops_for_each_prog(
                self.0.as_ptr().cast(),
                Some(is_iomap_begin),
                ptr::from_mut(&mut found).cast(),
            );
        }
        // INVARIANT: It is the program that the ops have for this member, and they hold it. The
        // caller keeps them pinned.
        NonNull::new(found).map(Resolver).ok_or(EINVAL)
    }
}

/// Leaves a program where `found` points to if it is `iomap_begin()`, and returns whether it is.
///
/// # Safety
///
/// Called by the BPF core with a program of our ops, and with the pointer of
/// [`PinnedOps::resolver`].
unsafe extern "C" fn is_iomap_begin(prog: *mut c::bpf_prog, found: *mut ffi::c_void) -> ffi::c_int {
    // SAFETY: By the safety requirements. The BPF core has checked that this is the member that the
    // program was loaded for.
    unsafe {
        if (*prog).expected_attach_type != verifier::IOMAP_BEGIN_MEMBER {
            return 0;
        }
        *found.cast::<*mut c::bpf_prog>() = prog;
    }
    1
}

/// `iomap_begin()` of pinned ops: one pointer, to be called from the fault path.
///
/// It runs under RCU and on one CPU, as through a trampoline, and is counted in the statistics of
/// BPF. Both come from disabled preemption, as for programs at tracepoints, which may call what
/// this may. What it has not got is a context of its own for the run (`current->bpf_ctx`): no
/// helper and no kfunc that the verifier lets it call looks there.
///
/// # Invariants
///
/// The program is of the ops' member `iomap_begin`, and stays loaded as long as this is used
/// ([`PinnedOps::resolver`]).
#[derive(Clone, Copy)]
pub(crate) struct Resolver(NonNull<c::bpf_prog>);

/// What `dax_fmap_parse()` left of a file's map.
///
/// # Invariants
///
/// `len` bytes from `first` on, and the whole of `first` in any case, are initialized, and nobody
/// writes them for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Metadata<'a> {
    first: *const c::fuse_dax_fmap_meta,
    len: u32,
    _bytes: PhantomData<&'a [u8]>,
}

impl Metadata<'_> {
    /// # Safety
    ///
    /// As the type invariants have it.
    #[inline]
    pub(crate) unsafe fn new(first: *const c::fuse_dax_fmap_meta, len: u32) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            first,
            len,
            _bytes: PhantomData,
        }
    }

    #[cfg(fmap_native)]
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: By the type invariants.
        unsafe { core::slice::from_raw_parts(self.first.cast(), self.len as usize) }
    }
}

/// What a program claims. Nothing of it is checked yet.
pub(crate) struct Claim {
    pub(crate) addr: u64,
    pub(crate) length: u64,
    pub(crate) dev_index: u32,
    pub(crate) type_: u16,
}

impl Resolver {
    /// Calls `iomap_begin()`. Does not sleep.
    ///
    /// # Errors
    ///
    /// The program's errno, [`EIO`] for a return code that is none.
    #[inline]
    pub(crate) fn resolve(
        &self,
        meta: Metadata<'_>,
        offset: u64,
        length: u64,
        size: u64,
    ) -> Result<Claim> {
        let mut resolve = ResolveCtx {
            ctx: c::fuse_dax_fmap_resolve_ctx {
                meta_buf_size: meta.len,
                reserved: 0,
                file_offset: offset,
                length,
                file_size: size,
            },
            args: [0; ARG_DATA_END + 1],
        };
        // A program that fills nothing in returns a mapping of length 0, which is refused.
        let mut io = c::fuse_iomap_io {
            offset,
            length: 0,
            addr: 0,
            type_: 0,
            flags: 0,
            dev_index: 0,
        };

        #[cfg(fmap_native)]
        return native::resolve(meta.bytes(), offset);
        resolve.args = [
            ptr::addr_of_mut!(resolve) as u64,
            ptr::addr_of_mut!(io) as u64,
            meta.first as u64,
            meta.first as u64,
            (meta.first as u64).wrapping_add(meta.len.into()),
        ];
        // SAFETY: The program is loaded by the type invariants, and takes these five. It reads
        // `resolve` and the metadata, up to its end, writes `io`, and keeps no pointer: the
        // verifier sees to that.
        let ret = unsafe { c::fuse_dax_fmap_run(resolve.args.as_ptr(), self.0.as_ptr()) };
        program_result(ret)?;
        Ok(Claim {
            addr: io.addr,
            length: io.length,
            dev_index: io.dev_index,
            type_: io.type_,
        })
    }
}

// --- Bodies of the kfuncs -----------------------------------------------------------------------

/// The bounds rule of all getters: `offset + size`, as 64 bits, must not exceed the buffer.
fn in_bounds(offset: u32, size: u32, buf_size: u32) -> bool {
    u64::from(offset) + u64::from(size) <= u64::from(buf_size)
}

/// Body of `bpf_fuse_dax_parse_get_blob()`.
///
/// # Safety
///
/// Called by a program that got `ctx` from [`PinnedOps::parse`].
#[no_mangle]
unsafe extern "C" fn fuse_dax_fmap_parse_get_blob(
    ctx: *mut c::fuse_dax_fmap_parse_ctx,
    offset: u32,
    size: u32,
) -> *const u8 {
    // SAFETY: `ctx` is the first member of a `ParseCtx`, by the safety requirements.
    let parse = unsafe { &*ctx.cast::<ParseCtx>() };

    if !in_bounds(offset, size, parse.ctx.blob_size) {
        return ptr::null();
    }
    // SAFETY: Inside the blob, as just checked.
    unsafe { parse.blob.add(offset as usize) }
}

/// Body of `bpf_fuse_dax_parse_alloc_meta()`.
///
/// # Safety
///
/// Called by a program that got `ctx` from [`PinnedOps::parse`], and that may sleep.
#[no_mangle]
unsafe extern "C" fn fuse_dax_fmap_parse_alloc_meta(
    ctx: *mut c::fuse_dax_fmap_parse_ctx,
    size: u32,
) -> ffi::c_int {
    // SAFETY: `ctx` is the first member of a `ParseCtx`, by the safety requirements, and a program
    // runs on one CPU at a time.
    let parse = unsafe { &mut *ctx.cast::<ParseCtx>() };

    if size == 0 || size > c::FUSE_DAX_FMAP_META_MAX {
        return EINVAL.to_errno();
    }
    if parse.fmap.is_some() {
        return EBUSY.to_errno();
    }
    match Fmap::new(size) {
        Ok(fmap) => {
            parse.fmap = Some(fmap);
            parse.ctx.meta_buf_size = size;
            0
        }
        Err(err) => err.to_errno(),
    }
}

/// Body of `bpf_fuse_dax_parse_get_meta()`.
///
/// # Safety
///
/// Called by a program that got `ctx` from [`PinnedOps::parse`].
#[no_mangle]
unsafe extern "C" fn fuse_dax_fmap_parse_get_meta(
    ctx: *mut c::fuse_dax_fmap_parse_ctx,
    offset: u32,
    size: u32,
) -> *mut u8 {
    // SAFETY: `ctx` is the first member of a `ParseCtx`, by the safety requirements, and a program
    // runs on one CPU at a time.
    let parse = unsafe { &mut *ctx.cast::<ParseCtx>() };

    match &mut parse.fmap {
        Some(fmap) if in_bounds(offset, size, parse.ctx.meta_buf_size) => {
            // SAFETY: Inside the metadata, as just checked.
            unsafe { fmap.meta_mut().as_mut_ptr().add(offset as usize) }
        }
        _ => ptr::null_mut(),
    }
}

/// Body of `bpf_fuse_dax_resolve_get_meta()`.
///
/// # Safety
///
/// Called by a program that got `ctx` from [`Resolver::resolve`].
#[no_mangle]
unsafe extern "C" fn fuse_dax_fmap_resolve_get_meta(
    ctx: *mut c::fuse_dax_fmap_resolve_ctx,
    offset: u32,
    size: u32,
) -> *const u8 {
    // SAFETY: `ctx` is the first member of a `ResolveCtx`, by the safety requirements.
    let resolve = unsafe { &*ctx.cast::<ResolveCtx>() };

    if !in_bounds(offset, size, resolve.ctx.meta_buf_size) {
        return ptr::null();
    }
    // SAFETY: Inside the metadata, as just checked.
    unsafe { (resolve.args[ARG_DATA] as *const u8).add(offset as usize) }
}

// What C calls has the signature C declares.
const _: () = {
    let _ = [
        fuse_dax_fmap_parse_get_blob,
        c::fuse_dax_fmap_parse_get_blob,
    ];
    let _ = [
        fuse_dax_fmap_parse_alloc_meta,
        c::fuse_dax_fmap_parse_alloc_meta,
    ];
    let _ = [
        fuse_dax_fmap_parse_get_meta,
        c::fuse_dax_fmap_parse_get_meta,
    ];
    let _ = [
        fuse_dax_fmap_resolve_get_meta,
        c::fuse_dax_fmap_resolve_get_meta,
    ];
    let _ = [verifier::fuse_dax_fmap_may_call, c::fuse_dax_fmap_may_call];
    let _ = [
        verifier::fuse_dax_fmap_type_argument,
        c::fuse_dax_fmap_type_argument,
    ];
    let _ = [
        verifier::fuse_dax_fmap_btf_struct_access,
        c::fuse_dax_fmap_btf_struct_access,
    ];
};

// --- Registration -------------------------------------------------------------------------------

/// Takes the name, and leaves the programs to the BPF core.
///
/// # Safety
///
/// Called by the BPF core, with our type, one of its members, and ops being made from user space's.
unsafe extern "C" fn init_member(
    t: *const c::btf_type,
    member: *const c::btf_member,
    kdata: *mut ffi::c_void,
    udata: *const ffi::c_void,
) -> ffi::c_int {
    const HANDLED: ffi::c_int = 1;
    const DEFAULT: ffi::c_int = 0;

    // SAFETY: The BPF core passes our type and one of its members.
    if unsafe { verifier::member_offset(t, member) } != verifier::NAME {
        return DEFAULT;
    }
    // SAFETY: `udata` is the kernel's copy of the ops that user space wrote.
    let name = unsafe { (*udata.cast::<c::fuse_dax_fmap_ops>()).name };
    match OpsName::new(&name) {
        Ok(name) => {
            // SAFETY: `kdata` is being made and ours to write.
            unsafe { (*kdata.cast::<c::fuse_dax_fmap_ops>()).name = name.to_bytes() };
            HANDLED
        }
        Err(err) => err.to_errno(),
    }
}

/// Both programs, or none at all.
///
/// # Safety
///
/// Called by the BPF core, with ops that are complete.
unsafe extern "C" fn validate(kdata: *mut ffi::c_void) -> ffi::c_int {
    // SAFETY: The BPF core passes ops whose members are all initialized.
    let ops = unsafe { &*kdata.cast::<c::fuse_dax_fmap_ops>() };

    if ops.dax_fmap_parse.is_none() || ops.iomap_begin.is_none() {
        return EINVAL.to_errno();
    }
    0
}

/// Makes the ops known by their name.
///
/// Without a link nothing would tell whose ops these are or take them away when their owner is
/// gone, so one is required.
///
/// # Safety
///
/// Called by the BPF core, with ops that passed `validate()`.
unsafe extern "C" fn reg(kdata: *mut ffi::c_void, link: *mut c::bpf_link) -> ffi::c_int {
    if link.is_null() {
        return EOPNOTSUPP.to_errno();
    }
    let Some(kdata) = NonNull::new(kdata.cast()) else {
        return EINVAL.to_errno();
    };
    // INVARIANT: This is `kdata`, in `reg()`.
    match fmap_ops::register(Ops(kdata)) {
        Ok(()) => 0,
        Err(err) => err.to_errno(),
    }
}

/// Stops new mounts from finding the ops; those that pinned them keep them.
///
/// # Safety
///
/// Called by the BPF core, with ops that `reg()` took.
unsafe extern "C" fn unreg(kdata: *mut ffi::c_void, _link: *mut c::bpf_link) {
    if let Some(kdata) = NonNull::new(kdata.cast()) {
        // INVARIANT: `kdata` stays valid until this function returns.
        fmap_ops::unregister(Ops(kdata));
    }
}

/// Puts other ops in the place of those that a link has registered, under the same name.
///
/// The BPF core holds both, and its `update_mutex`, until this returns.
///
/// # Safety
///
/// Called by the BPF core, with ops that passed `validate()` and with the link's, which `reg()` or
/// this function took.
unsafe extern "C" fn update(
    kdata: *mut ffi::c_void,
    old_kdata: *mut ffi::c_void,
    _link: *mut c::bpf_link,
) -> ffi::c_int {
    let (Some(new), Some(old)) = (NonNull::new(kdata.cast()), NonNull::new(old_kdata.cast()))
    else {
        return EINVAL.to_errno();
    };
    // INVARIANT: The link is about to hold `new`; it holds `old`, which the registry knows.
    match fmap_ops::replace(Ops(old), Ops(new)) {
        Ok(()) => 0,
        Err(err) => err.to_errno(),
    }
}

/// A table that the BPF core reads, or fills in while the module is loaded, and that never moves.
#[repr(transparent)]
struct Table<T>(Opaque<T>);

// SAFETY: Written by the BPF core while the type is registered, under its own lock.
unsafe impl Sync for Table<c::bpf_struct_ops> {}

static STRUCT_OPS: Table<c::bpf_struct_ops> = Table(Opaque::new(c::bpf_struct_ops {
    init: Some(verifier::init),
    check_member: Some(verifier::check_member),
    init_member: Some(init_member),
    reg: Some(reg),
    unreg: Some(unreg),
    update: Some(update),
    validate: Some(validate),
    owner: kernel::module::this_module::<crate::LocalModule>().as_ptr(),
    name: c"fuse_dax_fmap_ops".to_bytes_with_nul().as_ptr(),
    ..pin_init::zeroed()
}));

/// Registers the type and its kfuncs. There is no way back: both go with the module's BTF.
///
/// # Errors
///
/// [`ENOEXEC`] if the module has no BTF that this kernel accepts; then nothing could ever be
/// registered.
pub(crate) fn register() -> Result {
    // SAFETY: Called once, before the first use of the lock.
    unsafe { REGISTERED.init() };
    // SAFETY: The table is static, complete but for `cfi_stubs` and `verifier_ops`, which C fills
    // in, and owned by this module. Called once, while the module is loaded.
    to_result(unsafe { c::fuse_dax_fmap_register_bpf(STRUCT_OPS.0.get()) })?;
    if !verifier::knows_btf() {
        pr_err!("no BTF of this module: was it built without pahole, or for another kernel?\n");
        return Err(ENOEXEC);
    }
    Ok(())
}
