// SPDX-License-Identifier: GPL-2.0

//! Ops: a file format, as two BPF programs under a name. The registry of ops, and the calls of
//! their programs.
//!
//! User space registers a map of type `fuse_dax_fmap_ops` with a BPF link (`bpf_struct_ops`). The
//! kernel then holds one `kdata`, a `struct fuse_dax_fmap_ops` whose two function pointers lead
//! through a trampoline into the programs. `dax_fmap_parse()` is called that way. `iomap_begin()`
//! is called in each fault, and therefore directly ([`Resolver`]): half of the work of a trampoline
//! is for helpers that it may not call.
//!
//! - [`Ops`] is a `kdata` between `reg()` and `unreg()`. It can be looked up, but not called.
//! - [`PinnedOps`] holds a reference and may be called. Detaching the link, or updating it to
//!   another `kdata`, prevents new pins and leaves the existing ones alone.
//!
//! A program gets a context (`include/uapi/linux/fuse_dax_fmap.h`). It is the first member of a
//! larger structure here, and the kfuncs cast from the one to the other. This is safe because the
//! verifier passes no other pointer: a context argument is trusted, of exactly this BTF type, and
//! only [`PinnedOps::parse`] and [`Resolver::resolve`] make one. `iomap_begin()` reads the metadata
//! without a kfunc: its first cache line is a type of its own, whose size the verifier knows, and
//! all of it is a range whose end the program compares with, as with a packet.

use core::{
    alloc::Layout,
    marker::PhantomData,
    mem::offset_of,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    error::to_result,
    fmt,
    prelude::*,
    sync::global_lock, //
};

use crate::{
    abstractions::bpf::struct_ops::Pinned,
    bindings::kernel as c, //
};

mod meta_buf;

pub(crate) use meta_buf::MetaBuf;

// Only for the benchmark of what a program costs.
#[cfg(fmap_native)]
#[path = "bench/native.rs"]
mod native;

/// The name of ops: 1 to 15 characters of `[A-Za-z0-9_.-]` and a NUL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpsName([u8; OpsName::LEN]);

impl OpsName {
    /// `FUSE_DAX_FMAP_OPS_NAME_LEN`, with the NUL.
    pub(crate) const LEN: usize = 16;

    /// Validates a name.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the name is empty, has no NUL, or has a character that is not allowed.
    pub(crate) fn new(bytes: &[u8; Self::LEN]) -> Result<Self> {
        let len = bytes.iter().position(|&byte| byte == 0).ok_or(EINVAL)?;
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);

        if len == 0 || !bytes[..len].iter().all(allowed) {
            return Err(EINVAL);
        }
        let mut name = [0; Self::LEN];
        name[..len].copy_from_slice(&bytes[..len]);
        Ok(Self(name))
    }

    /// Returns the name, with zeros behind it.
    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        self.0
    }

    /// Takes a name that [`OpsName::new`] has validated before.
    pub(crate) fn from_validated(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for OpsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.iter().take_while(|&&byte| byte != 0) {
            write!(f, "{}", char::from(byte))?;
        }
        Ok(())
    }
}

/// Registered ops. They may be unregistered at any time; see [`Ops::pin`].
///
/// # Invariants
///
/// The pointer is the `kdata` of a struct_ops map of type `fuse_dax_fmap_ops`. It is valid from
/// `reg()`, or an `update()` to it, until `unreg()`, or an `update()` to another one, returns; an
/// `Ops` is in the registry no longer than that.
#[derive(PartialEq, Eq)]
pub(crate) struct Ops(NonNull<c::fuse_dax_fmap_ops>);

// SAFETY: `kdata` belongs to no task and is never written after `reg()`.
unsafe impl Send for Ops {}

global_lock! {
    /// The registered ops.
    // SAFETY: `init()` runs before the type is registered.
    unsafe(uninit) static REGISTERED: SpinLock<KVec<Ops>> = KVec::new();
}

impl Ops {
    /// # Safety
    ///
    /// `kdata` is of a struct_ops map of type `fuse_dax_fmap_ops` and has passed `validate()`. It
    /// is valid until the result is out of the registry.
    pub(crate) unsafe fn new(kdata: NonNull<c::fuse_dax_fmap_ops>) -> Self {
        // INVARIANT: By the safety requirements.
        Self(kdata)
    }

    pub(crate) fn name(&self) -> OpsName {
        // SAFETY: By the type invariants `kdata` is valid. The name is not written after `reg()`.
        OpsName::from_validated(unsafe { (*self.0.as_ptr()).name })
    }

    /// Takes a reference that keeps the programs callable, unless their map is about to be freed.
    pub(crate) fn pin(&self) -> Option<PinnedOps> {
        // SAFETY: By the type invariants this is a `kdata`. It is valid: the registry calls this
        // under its lock, which `unreg()` takes to remove it.
        unsafe { Pinned::get(self.0) }.map(PinnedOps)
    }
}

/// Ops that may be called.
pub(crate) struct PinnedOps(Pinned<c::fuse_dax_fmap_ops>);

// --- The registry -------------------------------------------------------------------------------

/// Initializes the registry. Called once, while the module is loaded, before the type is
/// registered.
pub(crate) fn init() {
    // SAFETY: Called once, before the first use of the lock.
    unsafe { REGISTERED.init() }
}

/// Adds ops to the registry.
///
/// # Errors
///
/// [`EEXIST`] if ops of that name are registered; [`ENOMEM`].
pub(crate) fn register(ops: Ops) -> Result {
    let mut registered = REGISTERED.lock();

    if registered.iter().any(|other| other.name() == ops.name()) {
        return Err(EEXIST);
    }
    // Rare and small, so it is allocated under the lock.
    Ok(registered.push(ops, GFP_ATOMIC)?)
}

/// Replaces `old` by `new`. A lookup of the name always finds one of them.
///
/// # Errors
///
/// [`EINVAL`] if their names differ, or `old` is not registered.
pub(crate) fn replace(old: Ops, new: Ops) -> Result {
    let mut registered = REGISTERED.lock();

    if new.name() != old.name() {
        return Err(EINVAL);
    }
    *registered
        .iter_mut()
        .find(|ops| **ops == old)
        .ok_or(EINVAL)? = new;
    Ok(())
}

/// Takes ops out of the registry, and frees the list with the last of them.
pub(crate) fn unregister(ops: Ops) {
    let mut registered = REGISTERED.lock();

    registered.retain(|other| *other != ops);
    if registered.is_empty() {
        *registered = KVec::new();
    }
}

/// Returns true if any ops are registered. Does not sleep.
pub(crate) fn any_registered() -> bool {
    !REGISTERED.lock().is_empty()
}

/// Finds ops and pins them. Does not sleep.
///
/// # Errors
///
/// [`ENOENT`] if there are none of that name.
pub(crate) fn lookup(name: OpsName) -> Result<PinnedOps> {
    let registered = REGISTERED.lock();

    registered
        .iter()
        .find(|ops| ops.name() == name)
        .and_then(Ops::pin)
        .ok_or(ENOENT)
}

// --- Calling the programs -----------------------------------------------------------------------

/// What `dax_fmap_parse()` has made of a server's answer.
pub(crate) struct Parsed {
    /// The metadata, ready to be published.
    pub(crate) meta: MetaBuf,
    /// Mapped size of the file in bytes, at most `i64::MAX`.
    pub(crate) file_size: u64,
    /// Bit N: the file uses device N.
    pub(crate) dev_bitmap: u64,
}

/// The result of `dax_fmap_parse()` for a server's answer.
pub(crate) enum Verdict {
    /// The answer is a map.
    Map(Parsed),
    /// The answer is only a part of the map, as the buffer was too small. The map takes so many
    /// bytes; 0 if the program does not know.
    NeedsBufSize(u32),
}

/// The context of `dax_fmap_parse()`, and what the program reaches through kfuncs only.
#[repr(C)]
pub(crate) struct ParseCtx {
    pub(crate) ctx: c::fuse_dax_fmap_parse_ctx,
    pub(crate) blob: *const u8,
    pub(crate) meta: Option<MetaBuf>,
    /// The headroom in front of the metadata.
    pub(crate) headroom: Layout,
}

/// The context of `iomap_begin()`, with all of its arguments, as u64s.
#[repr(C)]
pub(crate) struct ResolveCtx {
    pub(crate) ctx: c::fuse_dax_fmap_resolve_ctx,
    pub(crate) args: [u64; ARG_DATA_END + 1],
}

/// The indices of the arguments that are the begin and the end of the metadata.
pub(crate) const ARG_DATA: usize = 3;
pub(crate) const ARG_DATA_END: usize = 4;

/// The number of the member `iomap_begin`: the `expected_attach_type` of a program for it.
pub(crate) const IOMAP_BEGIN_MEMBER: u32 = 2;

// The kfuncs cast a pointer to `ctx` to one to the whole structure.
const _: () = assert!(offset_of!(ParseCtx, ctx) == 0);
const _: () = assert!(offset_of!(ResolveCtx, ctx) == 0);

/// Checks a program's return code: 0, or an errno that user space may see.
///
/// Any other value, such as `-ERESTARTSYS`, is a bug of the program, and becomes [`EIO`].
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
        OpsName::from_validated(self.0.kdata().name)
    }

    /// Returns the id of the struct_ops map, which differs from that of later ops of the same name.
    pub(crate) fn map_id(&self) -> u32 {
        self.0.id()
    }

    /// Calls `dax_fmap_parse()` with a server's answer, for which there was a buffer of `buf_size`
    /// bytes. The metadata gets `headroom` in front. May sleep.
    ///
    /// # Errors
    ///
    /// The program's errno, except [`ERANGE`]; [`EIO`] for a return code that is none; [`EINVAL`]
    /// if what it reports is invalid; [`ENOMEM`].
    pub(crate) fn parse(&self, blob: &[u8], buf_size: u32, headroom: Layout) -> Result<Verdict> {
        let mut parse = ParseCtx {
            ctx: c::fuse_dax_fmap_parse_ctx {
                blob_size: blob.len().try_into()?,
                meta_buf_size: 0,
                file_size: 0,
                dev_bitmap: 0,
                blob_room: buf_size,
                blob_wanted: 0,
            },
            blob: blob.as_ptr(),
            meta: None,
            headroom,
        };

        // `validate()` has checked that both members are set.
        let program = self.0.kdata().dax_fmap_parse.ok_or(EINVAL)?;
        // SAFETY: The program is loaded, as it is pinned. The verifier ensures that it uses `parse`
        // only through its argument `ctx` and the kfuncs, and keeps no pointer. `blob` outlives the
        // call.
        let result = program_result(unsafe { program(ptr::addr_of_mut!(parse).cast()) });
        if result == Err(ERANGE) {
            return Ok(Verdict::NeedsBufSize(parse.ctx.blob_wanted));
        }
        result?;

        let (file_size, dev_bitmap) = (parse.ctx.file_size, parse.ctx.dev_bitmap);
        if i64::try_from(file_size).is_err() || (dev_bitmap == 0 && file_size != 0) {
            return Err(EINVAL);
        }
        let meta = match parse.meta {
            Some(meta) => meta,
            None => MetaBuf::new(headroom, 0)?,
        };
        Ok(Verdict::Map(Parsed {
            meta,
            file_size,
            dev_bitmap,
        }))
    }

    /// Returns the program `iomap_begin()`, for a file's header.
    ///
    /// # Safety
    ///
    /// The caller keeps `self`, or another pin of the same ops, as long as the [`Resolver`] is
    /// used.
    pub(crate) unsafe fn resolver(&self) -> Result<Resolver> {
        // INVARIANT: This is the ops' program for the member, to which they hold a reference. The
        // caller keeps them pinned.
        self.0
            .program(IOMAP_BEGIN_MEMBER)
            .map(Resolver)
            .ok_or(EINVAL)
    }
}

/// The program `iomap_begin()` of pinned ops, to be called from the fault path.
///
/// As through a trampoline, it runs under RCU and on one CPU, and is counted in the statistics of
/// BPF. RCU and the one CPU come from disabled preemption, as for programs at tracepoints, which
/// may call all that this program may. It has no run context (`current->bpf_ctx`): no helper or
/// kfunc that the verifier lets it call uses that.
///
/// # Invariants
///
/// The program is of the ops' member `iomap_begin`, and stays loaded as long as this is used
/// ([`PinnedOps::resolver`]).
#[derive(Clone, Copy)]
pub(crate) struct Resolver(NonNull<c::bpf_prog>);

/// The metadata of a file, as `dax_fmap_parse()` left it.
///
/// # Invariants
///
/// `len` bytes from `first` on, and the whole of `first` in any case, are initialized, and not
/// written for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Metadata<'a> {
    first: *const c::fuse_dax_fmap_meta,
    len: u32,
    _bytes: PhantomData<&'a [u8]>,
}

impl Metadata<'_> {
    /// # Safety
    ///
    /// The type invariants hold for `first` and `len`.
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
        // SAFETY: By the type invariants `len` bytes from `first` on are initialized, and not
        // written.
        unsafe { core::slice::from_raw_parts(self.first.cast(), self.len as usize) }
    }
}

/// A mapping as the program returned it, not validated yet.
pub(crate) struct RawMapping {
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
    ) -> Result<RawMapping> {
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
        // A program that writes nothing returns a mapping of length 0, which is a mapping error.
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
        // SAFETY: By the type invariants the program is loaded. It takes these five arguments. The
        // verifier ensures that it reads only `resolve`, `io` and the metadata up to its end,
        // writes only `io`, and keeps no pointer.
        let ret = unsafe { c::fuse_dax_fmap_run(resolve.args.as_ptr(), self.0.as_ptr()) };
        program_result(ret)?;
        Ok(RawMapping {
            addr: io.addr,
            length: io.length,
            dev_index: io.dev_index,
            type_: io.type_,
        })
    }
}
