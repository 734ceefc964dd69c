// SPDX-License-Identifier: GPL-2.0

//! The verifier's policy: what a program may read, write and call.
//!
//! A program may read its arguments, and write their OUT fields. The verifier identifies the type
//! of the object to be written by its BTF id. The ids of the two types with OUT fields are taken
//! from the prototypes of the ops when a program is loaded.
//!
//! `dax_fmap_parse()` may sleep. `iomap_begin()` may not, and has to be short, as it runs in page
//! faults with preemption disabled: it calls only kfuncs of this module, and only helpers that are
//! short themselves ([`fuse_dax_fmap_may_call`]), and has no loop that the verifier does not follow
//! to its end ([`is_bounded`]). So it runs at most as many instructions as the verifier looks at, a
//! million (BPF_COMPLEXITY_LIMIT_INSNS). Other kfuncs are also refused because the verifier would
//! let them write to the metadata, which it takes for a packet. The module's own kfuncs need no
//! policy: the types of their arguments and their flags restrict each to its program.

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::{
    ffi,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SetOnce, //
    }, //
};

use crate::{
    abstractions::bpf::{
        btf::{
            Btf,
            Member, //
        },
        prog::{
            self,
            Map,
            Prog, //
        }, //
    },
    bindings::kernel as c,
    fmap_ops::{
        ARG_DATA,
        ARG_DATA_END,
        IOMAP_BEGIN_MEMBER, //
    }, //
};

/// The module's BTF, and in it the types whose OUT fields a program may write.
///
/// Written while the type is registered and at each load of a program, always with the same values.
struct Types {
    btf: SetOnce<&'static Btf>,
    parse_ctx: Atomic<u32>,
    iomap_io: Atomic<u32>,
}

static TYPES: Types = Types {
    btf: SetOnce::new(),
    parse_ctx: Atomic::new(0),
    iomap_io: Atomic::new(0),
};

/// Offset and size of each OUT field.
const PARSE_CTX_OUT: [(usize, usize); 3] = [
    (
        offset_of!(c::fuse_dax_fmap_parse_ctx, file_size),
        size_of::<u64>(),
    ),
    (
        offset_of!(c::fuse_dax_fmap_parse_ctx, dev_bitmap),
        size_of::<u64>(),
    ),
    (
        offset_of!(c::fuse_dax_fmap_parse_ctx, blob_wanted),
        size_of::<u32>(),
    ),
];
const IOMAP_IO_OUT: [(usize, usize); 4] = [
    (offset_of!(c::fuse_iomap_io, length), size_of::<u64>()),
    (offset_of!(c::fuse_iomap_io, addr), size_of::<u64>()),
    (offset_of!(c::fuse_iomap_io, type_), size_of::<u16>()),
    (offset_of!(c::fuse_iomap_io, dev_index), size_of::<u32>()),
];

/// Members of `struct fuse_dax_fmap_ops`, by their offset in bytes.
pub(super) const NAME: usize = offset_of!(c::fuse_dax_fmap_ops, name);
const DAX_FMAP_PARSE: usize = offset_of!(c::fuse_dax_fmap_ops, dax_fmap_parse);
const IOMAP_BEGIN: usize = offset_of!(c::fuse_dax_fmap_ops, iomap_begin);

/// Arguments of `iomap_begin()`, by their offset in bytes.
const IOMAP_BEGIN_DATA: ffi::c_int = (ARG_DATA * size_of::<u64>()) as ffi::c_int;
const IOMAP_BEGIN_DATA_END: ffi::c_int = (ARG_DATA_END * size_of::<u64>()) as ffi::c_int;

// `iomap_begin` is the third of three members.
const _: () = assert!(
    NAME < DAX_FMAP_PARSE
        && DAX_FMAP_PARSE < IOMAP_BEGIN
        && IOMAP_BEGIN + size_of::<usize>() == size_of::<c::fuse_dax_fmap_ops>()
        && IOMAP_BEGIN - DAX_FMAP_PARSE == size_of::<usize>()
);

/// Stores the module's BTF. The BPF core calls this only if the module has one.
pub(super) fn init(btf: &'static Btf) {
    TYPES.btf.populate(btf);
}

/// Returns true if [`init`] has been called.
pub(super) fn knows_btf() -> bool {
    TYPES.btf.as_ref().is_some()
}

/// Returns the address of the module's BTF, which identifies it.
fn btf_address() -> Option<usize> {
    TYPES
        .btf
        .as_ref()
        .map(|btf| core::ptr::from_ref(*btf) as usize)
}

/// Checks a program for a member. `dax_fmap_parse()` may sleep; `iomap_begin()` runs in page
/// faults, may not sleep, and must be bounded.
///
/// # Errors
///
/// [`EINVAL`] if the program is not allowed for the member.
pub(super) fn check_member(member: Member<'_>, prog: &Prog) -> Result {
    let btf = TYPES.btf.as_ref().ok_or(EINVAL)?;
    // SAFETY: The BPF core passes members of `fuse_dax_fmap_ops`, which is from this BTF. As the
    // header declares, argument 0 of `dax_fmap_parse()` and arguments 0 and 1 of `iomap_begin()`
    // are pointers.
    let argument_type = |arg| unsafe { btf.argument_type(member, arg) };

    match member.offset() {
        DAX_FMAP_PARSE => TYPES.parse_ctx.store(argument_type(0), Relaxed),
        IOMAP_BEGIN if prog.is_sleepable() || !is_bounded(prog) => return Err(EINVAL),
        IOMAP_BEGIN => TYPES.iomap_io.store(argument_type(1), Relaxed),
        _ => return Err(EINVAL),
    }
    Ok(())
}

/// Returns true if the verifier bounds the run time of a program. If not, the kernel log has the
/// cause: the verifier's log is not available here.
fn is_bounded(prog: &Prog) -> bool {
    const CALL: u8 = (c::BPF_JMP | c::BPF_CALL) as u8;
    const MAY_GOTO: u8 = (c::BPF_JMP | c::BPF_JCOND) as u8;
    const KFUNC: u8 = c::BPF_PSEUDO_KFUNC_CALL as u8;
    /// The map types with a fast lookup. Others are tries or lists, or contain maps of any type.
    const FAST: [c::bpf_map_type; 4] = [
        c::bpf_map_type_BPF_MAP_TYPE_ARRAY,
        c::bpf_map_type_BPF_MAP_TYPE_PERCPU_ARRAY,
        c::bpf_map_type_BPF_MAP_TYPE_HASH,
        c::bpf_map_type_BPF_MAP_TYPE_PERCPU_HASH,
    ];

    /// The largest key in bytes: a lookup hashes the whole key, which may be a value of another
    /// map, of megabytes.
    const KEY_MAX: u32 = 64;

    let insns = prog.instructions();
    let is_kernel_kfunc =
        |insn: &c::bpf_insn| insn.code == CALL && insn.src_reg() == KFUNC && insn.off == 0;
    let own = btf_address();
    let is_foreign = |module| Some(module) != own;
    // The first function is the program itself. The verifier follows static functions where they
    // are called, but verifies global ones separately.
    let has_global = prog
        .functions()
        .iter()
        .skip(1)
        .any(|function| u32::from(function.linkage) == c::btf_func_linkage_BTF_FUNC_GLOBAL);

    let is_slow = |map: &Map| {
        !FAST.contains(&map.map_type())
            || map.flags() & c::BPF_F_ZERO_SEED != 0
            || map.key_size() > KEY_MAX
    };
    // SAFETY: The verifier has put the addresses of maps into the instructions before members are
    // checked.
    let has_slow_map = unsafe { prog.maps() }.any(is_slow);

    let cause = if insns.iter().any(is_kernel_kfunc) {
        "calls a kfunc of the kernel"
    } else if prog.kfunc_modules().any(is_foreign) {
        "calls a kfunc of another module"
    } else if insns.iter().any(|insn| insn.code == MAY_GOTO) {
        "has a loop with may_goto"
    } else if has_slow_map {
        "has a map in which looking something up may take long"
    } else if prog.has_arena() {
        // A program loads from an arena by address. Each load from a page that is not there is an
        // exception, with a stack trace.
        "has an arena"
    } else if has_global {
        "has a global function"
    } else {
        return true;
    };
    pr_info!("iomap_begin() is refused: it {cause}, and has to be bounded\n");
    false
}

/// Returns true if a program may call a helper. `iomap_begin()` may call helpers that take a short
/// time for all arguments, and change nothing.
///
/// # Safety
///
/// Called by the verifier, with the program that it looks at.
#[no_mangle]
pub(super) unsafe extern "C" fn fuse_dax_fmap_may_call(
    func: u32,
    prog: *const c::bpf_prog,
) -> bool {
    const SHORT: [u32; 12] = [
        c::bpf_func_id_BPF_FUNC_map_lookup_elem,
        c::bpf_func_id_BPF_FUNC_map_lookup_percpu_elem,
        c::bpf_func_id_BPF_FUNC_per_cpu_ptr,
        c::bpf_func_id_BPF_FUNC_this_cpu_ptr,
        c::bpf_func_id_BPF_FUNC_get_smp_processor_id,
        c::bpf_func_id_BPF_FUNC_get_numa_node_id,
        c::bpf_func_id_BPF_FUNC_get_prandom_u32,
        c::bpf_func_id_BPF_FUNC_ktime_get_ns,
        c::bpf_func_id_BPF_FUNC_ktime_get_boot_ns,
        c::bpf_func_id_BPF_FUNC_jiffies64,
        c::bpf_func_id_BPF_FUNC_get_current_pid_tgid,
        c::bpf_func_id_BPF_FUNC_get_current_uid_gid,
    ];

    // SAFETY: The verifier passes `prog`, which it is looking at.
    let member = unsafe { Prog::from_raw(prog) }.expected_attach_type();
    member != IOMAP_BEGIN_MEMBER || SHORT.contains(&func)
}

/// Sets the type of an argument of `iomap_begin()` for which BTF has none.
///
/// The metadata is a range whose end is known at run time only. For the verifier it is a packet, as
/// is an option of setsockopt(2) (kernel/bpf/cgroup.c): the program may read what it has compared
/// with the end, and write nothing.
///
/// # Safety
///
/// Called by the verifier, with the program that it looks at and the argument at `off` that it
/// reads as a whole.
#[no_mangle]
pub(super) unsafe extern "C" fn fuse_dax_fmap_type_argument(
    off: ffi::c_int,
    prog: *const c::bpf_prog,
    info: *mut c::bpf_insn_access_aux,
) {
    // SAFETY: The verifier passes `prog`, which it is looking at.
    let member = unsafe { Prog::from_raw(prog) }.expected_attach_type();
    // SAFETY: The verifier passes `info` to be filled in.
    let reg_type = unsafe { &mut (*info).reg_type };

    if member == IOMAP_BEGIN_MEMBER {
        match off {
            IOMAP_BEGIN_DATA => *reg_type = c::bpf_reg_type_PTR_TO_PACKET,
            IOMAP_BEGIN_DATA_END => *reg_type = c::bpf_reg_type_PTR_TO_PACKET_END,
            _ => {}
        }
    }
}

/// Decides if a program may write `size` bytes at `off` of what `reg` points to: OUT fields only.
///
/// # Safety
///
/// Called by the verifier, for a register that points to a BTF type.
#[no_mangle]
pub(super) unsafe extern "C" fn fuse_dax_fmap_btf_struct_access(
    log: *mut c::bpf_verifier_log,
    reg: *const c::bpf_reg_state,
    off: ffi::c_int,
    size: ffi::c_int,
) -> ffi::c_int {
    // SAFETY: The verifier calls this for a register of type PTR_TO_BTF_ID.
    let (btf, id) = unsafe { prog::pointee(reg) };
    let fields: &[(usize, usize)] = if Some(btf) != btf_address() {
        &[]
    } else if id == TYPES.parse_ctx.load(Relaxed) {
        &PARSE_CTX_OUT
    } else if id == TYPES.iomap_io.load(Relaxed) {
        &IOMAP_IO_OUT
    } else {
        &[]
    };
    let access = (usize::try_from(off), usize::try_from(size));

    for &(start, len) in fields {
        if let (Ok(off), Ok(size)) = access {
            if off >= start && off + size <= start + len {
                return c::bpf_reg_type_SCALAR_VALUE as ffi::c_int;
            }
        }
    }
    const REFUSED: &CStr = c"fuse_dax_fmap: only OUT fields may be written, not %d bytes at %d\n";
    // SAFETY: `log` is the verifier's; the format takes two integers.
    unsafe { prog::log_access(log, REFUSED, size, off) };
    EACCES.to_errno()
}
