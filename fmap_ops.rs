// SPDX-License-Identifier: GPL-2.0

//! Ops: what a file format is made of, two BPF programs under a name. Who has registered which,
//! and how they are called.
//!
//! A user registers a map of type `fuse_dax_fmap_ops` with a BPF link (`bpf_struct_ops`). The
//! kernel then holds one `kdata`, a `struct fuse_dax_fmap_ops` whose two function pointers lead
//! through a trampoline into the programs. `dax_fmap_parse()` is called that way. `iomap_begin()`
//! is called in each fault, and directly ([`Resolver`]): half of what a trampoline does is for
//! programs that ask about it.
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

// A build for the benchmark only: what a program costs.
#[cfg(fmap_native)]
#[path = "bench/native.rs"]
mod native;

/// The name of ops: 1 to 15 characters of `[A-Za-z0-9_.-]` and a NUL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpsName([u8; OpsName::LEN]);

impl OpsName {
    /// `FUSE_DAX_FMAP_OPS_NAME_LEN`, with the NUL.
    pub(crate) const LEN: usize = 16;

    /// # Errors
    ///
    /// [`EINVAL`] if the name is empty, has no NUL or another character.
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

    /// With zeros behind the name.
    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        self.0
    }

    /// A name that went through [`OpsName::new`] before.
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

/// Registered ops. May go away at any time; see [`Ops::pin`].
///
/// # Invariants
///
/// The pointer is the `kdata` of a struct_ops map of our type. It is valid from `reg()`, or an
/// `update()` to it, until `unreg()`, or an `update()` to another one, returns; an `Ops` is in the
/// registry no longer than that.
#[derive(PartialEq, Eq)]
pub(crate) struct Ops(NonNull<c::fuse_dax_fmap_ops>);

// SAFETY: `kdata` belongs to no task and is never written after `reg()`.
unsafe impl Send for Ops {}

global_lock! {
    /// What is registered.
    // SAFETY: `init()` runs before the type is registered.
    unsafe(uninit) static REGISTERED: SpinLock<KVec<Ops>> = KVec::new();
}

impl Ops {
    /// # Safety
    ///
    /// `kdata` is valid, of a struct_ops map of our type that has passed `validate()`, until the
    /// registry has forgotten the result.
    pub(crate) unsafe fn new(kdata: NonNull<c::fuse_dax_fmap_ops>) -> Self {
        // INVARIANT: By the safety requirements.
        Self(kdata)
    }

    pub(crate) fn name(&self) -> OpsName {
        // SAFETY: By the type invariants `kdata` is valid; nobody writes the name after `reg()`.
        OpsName::from_validated(unsafe { (*self.0.as_ptr()).name })
    }

    /// Keeps the programs callable, unless their map is about to be freed.
    pub(crate) fn pin(&self) -> Option<PinnedOps> {
        // SAFETY: By the type invariants this is `kdata`, and still valid: the registry, which
        // calls this under its lock, forgets it in `unreg()`.
        unsafe { Pinned::get(self.0) }.map(PinnedOps)
    }
}

/// Ops that may be called.
pub(crate) struct PinnedOps(Pinned<c::fuse_dax_fmap_ops>);

// --- The registry -------------------------------------------------------------------------------

/// Called once, while the module is loaded, before the type is registered.
pub(crate) fn init() {
    // SAFETY: Called once, before the first use of the lock.
    unsafe { REGISTERED.init() }
}

/// Makes ops known.
///
/// # Errors
///
/// [`EEXIST`] if ops of that name are registered; [`ENOMEM`].
pub(crate) fn register(ops: Ops) -> Result {
    let mut registered = REGISTERED.lock();

    if registered.iter().any(|other| other.name() == ops.name()) {
        return Err(EEXIST);
    }
    // Rare and small, so simply done under the lock.
    Ok(registered.push(ops, GFP_ATOMIC)?)
}

/// Puts `new` in the place of `old`. Who looks the name up gets the one or the other, always.
///
/// # Errors
///
/// [`EINVAL`] if their names differ: a name keeps its meaning.
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

/// Forgets ops, and gives the memory of the list back with the last of them.
pub(crate) fn unregister(ops: Ops) {
    let mut registered = REGISTERED.lock();

    registered.retain(|other| *other != ops);
    if registered.is_empty() {
        *registered = KVec::new();
    }
}

/// Whether there are ops at all. Does not sleep.
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

/// What `dax_fmap_parse()` made of a server's answer.
pub(crate) struct Parsed {
    /// The metadata, ready to be published.
    pub(crate) meta: MetaBuf,
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
    NeedsBufSize(u32),
}

/// The context of `dax_fmap_parse()`, with what the program reaches through kfuncs alone.
#[repr(C)]
pub(crate) struct ParseCtx {
    pub(crate) ctx: c::fuse_dax_fmap_parse_ctx,
    pub(crate) blob: *const u8,
    pub(crate) meta: Option<MetaBuf>,
    /// What is wanted in front of the metadata.
    pub(crate) headroom: Layout,
}

/// The context of `iomap_begin()`, with all of its arguments, as u64s.
#[repr(C)]
pub(crate) struct ResolveCtx {
    pub(crate) ctx: c::fuse_dax_fmap_resolve_ctx,
    pub(crate) args: [u64; ARG_DATA_END + 1],
}

/// Where the metadata begins and ends, among the arguments.
pub(crate) const ARG_DATA: usize = 3;
pub(crate) const ARG_DATA_END: usize = 4;

/// The number of the member `iomap_begin`, which is what a program for it is loaded with as its
/// `expected_attach_type`.
pub(crate) const IOMAP_BEGIN_MEMBER: u32 = 2;

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
        OpsName::from_validated(self.0.kdata().name)
    }

    /// The id of the struct_ops map: it tells ops from those that have the name after them.
    pub(crate) fn map_id(&self) -> u32 {
        self.0.id()
    }

    /// Calls `dax_fmap_parse()` with a server's answer, for which there was `buf_size`. What it makes
    /// of that has `headroom` in front. May sleep.
    ///
    /// # Errors
    ///
    /// The program's errno, but for [`ERANGE`]; [`EINVAL`] if what it reports makes no sense;
    /// [`ENOMEM`].
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

        // `validate()` saw both members set.
        let program = self.0.kdata().dax_fmap_parse.ok_or(EINVAL)?;
        // SAFETY: The program is alive, as it is pinned. It reaches `parse` through the
        // kfuncs alone and keeps no pointer: the verifier sees to that. `blob` outlives the call.
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

    /// The way to `iomap_begin()` for a file's header.
    ///
    /// # Safety
    ///
    /// The caller keeps `self`, or another pin of the same ops, as long as the [`Resolver`] is
    /// used.
    pub(crate) unsafe fn resolver(&self) -> Result<Resolver> {
        // INVARIANT: It is the program that the ops have for this member, and they hold it. The
        // caller keeps them pinned.
        self.0
            .program(IOMAP_BEGIN_MEMBER)
            .map(Resolver)
            .ok_or(EINVAL)
    }
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
        // SAFETY: By the type invariants `len` bytes from `first` on are initialized, and not
        // written.
        unsafe { core::slice::from_raw_parts(self.first.cast(), self.len as usize) }
    }
}

/// What a program claims. Nothing of it is checked yet.
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
        Ok(RawMapping {
            addr: io.addr,
            length: io.length,
            dev_index: io.dev_index,
            type_: io.type_,
        })
    }
}
