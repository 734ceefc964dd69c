// SPDX-License-Identifier: GPL-2.0

//! The struct_ops type `fuse_dax_fmap_ops`: its registration with the BPF core, and the bodies of
//! its kfuncs.
//!
//! The types, the stubs and the kfuncs themselves are in C (`fuse_dax_fmap_btf.c`), because pahole
//! emits no BTF for what Rust defines. What a program may read, write and call is in `verifier`;
//! what ops are, and how they are called, is in `fmap_ops`.

use core::ptr::{
    self,
    NonNull, //
};

use kernel::{
    error::from_result,
    ffi,
    prelude::*,
    str::CStr, //
};

use crate::{
    abstractions::bpf::{
        btf::{
            Btf,
            Member, //
        },
        prog::Prog,
        struct_ops::{
            StructOps,
            Table, //
        }, //
    },
    bindings::kernel as c,
    compat::EOPNOTSUPP,
    fmap_ops::{
        self,
        MetaBuf,
        Ops,
        OpsName,
        ParseCtx,
        ResolveCtx,
        ARG_DATA, //
    }, //
};

mod verifier;

// --- Bodies of the kfuncs -----------------------------------------------------------------------

/// Returns true if `offset + size`, in 64 bits, does not exceed the buffer: the check of all
/// getters.
fn in_bounds(offset: u32, size: u32, buf_size: u32) -> bool {
    u64::from(offset) + u64::from(size) <= u64::from(buf_size)
}

/// Body of `bpf_fuse_dax_parse_get_blob()`.
///
/// # Safety
///
/// Called by a program that got `ctx` from `PinnedOps::parse()`.
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
    // Inside the blob, as just checked.
    parse.blob.wrapping_add(offset as usize)
}

/// Body of `bpf_fuse_dax_parse_alloc_meta()`.
///
/// # Safety
///
/// Called by a program that got `ctx` from `PinnedOps::parse()`, and that may sleep.
#[no_mangle]
unsafe extern "C" fn fuse_dax_fmap_parse_alloc_meta(
    ctx: *mut c::fuse_dax_fmap_parse_ctx,
    size: u32,
) -> ffi::c_int {
    // SAFETY: `ctx` is the first member of a `ParseCtx`, by the safety requirements, and a program
    // runs on one CPU at a time.
    let parse = unsafe { &mut *ctx.cast::<ParseCtx>() };

    from_result(|| {
        if size == 0 || size > c::FUSE_DAX_FMAP_META_MAX {
            return Err(EINVAL);
        }
        if parse.meta.is_some() {
            return Err(EBUSY);
        }
        parse.meta = Some(MetaBuf::new(parse.headroom, size)?);
        parse.ctx.meta_buf_size = size;
        Ok(0)
    })
}

/// Body of `bpf_fuse_dax_parse_get_meta()`.
///
/// # Safety
///
/// Called by a program that got `ctx` from `PinnedOps::parse()`.
#[no_mangle]
unsafe extern "C" fn fuse_dax_fmap_parse_get_meta(
    ctx: *mut c::fuse_dax_fmap_parse_ctx,
    offset: u32,
    size: u32,
) -> *mut u8 {
    // SAFETY: `ctx` is the first member of a `ParseCtx`, by the safety requirements, and a program
    // runs on one CPU at a time.
    let parse = unsafe { &mut *ctx.cast::<ParseCtx>() };

    match &mut parse.meta {
        Some(meta) if in_bounds(offset, size, parse.ctx.meta_buf_size) => {
            // Inside the metadata, as just checked.
            meta.bytes_mut().as_mut_ptr().wrapping_add(offset as usize)
        }
        _ => ptr::null_mut(),
    }
}

/// Body of `bpf_fuse_dax_resolve_get_meta()`.
///
/// # Safety
///
/// Called by a program that got `ctx` from `Resolver::resolve()`.
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
    // Inside the metadata, as just checked.
    (resolve.args[ARG_DATA] as *const u8).wrapping_add(offset as usize)
}

// Checks that each function that C calls has the signature that C declares.
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

/// The type `fuse_dax_fmap_ops`.
struct FmapOps;

impl StructOps for FmapOps {
    type Kdata = c::fuse_dax_fmap_ops;
    const NAME: &'static CStr = c"fuse_dax_fmap_ops";

    fn init(btf: &'static Btf) -> Result {
        verifier::init(btf);
        Ok(())
    }

    fn check_member(member: Member<'_>, prog: &Prog) -> Result {
        verifier::check_member(member, prog)
    }

    /// Copies the name. The BPF core sets up the programs.
    unsafe fn init_member(
        member: Member<'_>,
        kdata: NonNull<Self::Kdata>,
        udata: &Self::Kdata,
    ) -> Result<bool> {
        if member.offset() != verifier::NAME {
            return Ok(false);
        }
        let name = OpsName::new(&udata.name)?.to_bytes();
        // SAFETY: `kdata` is valid for writes, by the safety requirements.
        unsafe { (*kdata.as_ptr()).name = name };
        Ok(true)
    }

    /// Requires both programs.
    fn validate(ops: &Self::Kdata) -> Result {
        if ops.dax_fmap_parse.is_none() || ops.iomap_begin.is_none() {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Registers the ops under their name.
    ///
    /// A link is required: without one, nothing shows which process owns the ops, or unregisters
    /// them when it exits.
    unsafe fn reg(kdata: NonNull<Self::Kdata>, has_link: bool) -> Result {
        if !has_link {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: `kdata` has passed `validate()`, and stays valid as long as it is in the
        // registry.
        fmap_ops::register(unsafe { Ops::new(kdata) })
    }

    /// Unregisters the ops: new mounts do not find them. Mounts that have pinned them keep them.
    unsafe fn unreg(kdata: NonNull<Self::Kdata>) {
        // SAFETY: `kdata` stays valid until this function returns.
        fmap_ops::unregister(unsafe { Ops::new(kdata) });
    }

    /// Replaces the ops that a link has registered by others of the same name.
    unsafe fn update(old: NonNull<Self::Kdata>, new: NonNull<Self::Kdata>) -> Result {
        // SAFETY: The link holds `old` as long as it is in the registry.
        let old = unsafe { Ops::new(old) };
        // SAFETY: The BPF core holds `new` during the update, and the link as long as it is in the
        // registry.
        fmap_ops::replace(old, unsafe { Ops::new(new) })
    }
}

static STRUCT_OPS: Table = Table::new::<FmapOps, crate::LocalModule>();

/// Registers the type and its kfuncs. They are not unregistered: both go with the module's BTF.
///
/// # Errors
///
/// [`ENOEXEC`] if the module has no BTF that this kernel accepts: no ops could be registered.
pub(crate) fn register() -> Result {
    fmap_ops::init();
    // SAFETY: `fuse_dax_fmap_register_bpf()` fills in and registers this table. It is called once,
    // while the module is loaded.
    unsafe { STRUCT_OPS.register(c::fuse_dax_fmap_register_bpf) }?;
    if !verifier::knows_btf() {
        pr_err!("no BTF of this module: was it built without pahole, or for another kernel?\n");
        return Err(ENOEXEC);
    }
    Ok(())
}
