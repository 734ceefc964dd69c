// SPDX-License-Identifier: GPL-2.0

//! The verifier's policy: what a program may read, write and call.
//!
//! A program may read its arguments, and write their OUT fields. The verifier knows the type of
//! what is about to be written by its BTF id; which ids the two types with OUT fields have is taken
//! from the prototypes of the ops, as each program is loaded.
//!
//! `dax_fmap_parse()` may sleep, `iomap_begin()` may not. It runs in page faults with preemption
//! disabled, so it has to be short: it calls only kfuncs of this module, and only helpers that are
//! short themselves ([`fuse_dax_fmap_may_call`]), and has no loop that the verifier does not follow
//! to its end ([`is_bounded`]). Then it takes at most as many steps as the verifier looks at, a
//! million (BPF_COMPLEXITY_LIMIT_INSNS). Other kfuncs are refused for another reason, too: the
//! verifier would let them write to a buffer that is called a packet, and so to the metadata. Our
//! own need no policy: the types of their arguments and their flags keep each in its place.

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::{
    ffi,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

use crate::bindings::{
    fuse as f,
    kernel as c, //
};

use super::{
    ARG_DATA,
    ARG_DATA_END, //
};

/// The module's BTF, and in it the types whose OUT fields a program may write.
///
/// Written while the type is registered and at each load of a program, with the same values.
struct Types {
    btf: Atomic<usize>,
    parse_ctx: Atomic<u32>,
    iomap_io: Atomic<u32>,
}

static TYPES: Types = Types {
    btf: Atomic::new(0),
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

/// The number of the member, which is what a program for it is loaded with as its
/// `expected_attach_type`.
pub(super) const IOMAP_BEGIN_MEMBER: u32 = 2;

/// Arguments of `iomap_begin()`, by their offset in bytes.
const IOMAP_BEGIN_DATA: ffi::c_int = (ARG_DATA * size_of::<u64>()) as ffi::c_int;
const IOMAP_BEGIN_DATA_END: ffi::c_int = (ARG_DATA_END * size_of::<u64>()) as ffi::c_int;

// It is the third of three.
const _: () = assert!(
    NAME < DAX_FMAP_PARSE
        && DAX_FMAP_PARSE < IOMAP_BEGIN
        && IOMAP_BEGIN + size_of::<usize>() == size_of::<c::fuse_dax_fmap_ops>()
        && IOMAP_BEGIN - DAX_FMAP_PARSE == size_of::<usize>()
);

/// Offset in bytes of a member that is no bitfield, as `__btf_member_bit_offset()` has it.
///
/// # Safety
///
/// `t` is a struct type and `member` one of its members.
pub(super) unsafe fn member_offset(t: *const c::btf_type, member: *const c::btf_member) -> usize {
    const KIND_FLAG: u32 = 1 << 31;

    // SAFETY: Both are valid by the safety requirements.
    let (info, offset) = unsafe { ((*t).info, (*member).offset) };
    let bits = if info & KIND_FLAG != 0 {
        offset & 0xff_ffff
    } else {
        offset
    };
    (bits / 8) as usize
}

/// The type that argument `arg` of a function member points to:
/// member, pointer, prototype, parameter, pointer, struct.
///
/// # Safety
///
/// `member` is a member of the ops that is a pointer to a function with more than `arg` pointer
/// arguments, and `btf` is the module's.
unsafe fn argument_type(btf: *const c::btf, member: *const c::btf_member, arg: usize) -> u32 {
    // SAFETY: Each id comes from the type before it in the same BTF, so `btf_type_by_id()` returns
    // a valid type; the kind of each follows from the prototype in the header, by the safety
    // requirements; parameters follow their prototype (include/uapi/linux/btf.h).
    unsafe {
        let pointer = c::btf_type_by_id(btf, (*member).type_);
        let prototype = c::btf_type_by_id(btf, (*pointer).__bindgen_anon_1.type_);
        let parameter = prototype.add(1).cast::<c::btf_param>().add(arg);
        let pointer = c::btf_type_by_id(btf, (*parameter).type_);
        (*pointer).__bindgen_anon_1.type_
    }
}

/// Remembers the BTF. That it is called is the proof that the module has any.
///
/// # Safety
///
/// Called by the BPF core, with the BTF of this module.
pub(super) unsafe extern "C" fn init(btf: *mut c::btf) -> ffi::c_int {
    TYPES.btf.store(btf as usize, Relaxed);
    0
}

/// Whether [`init`] has been called.
pub(super) fn knows_btf() -> bool {
    TYPES.btf.load(Relaxed) != 0
}

/// `dax_fmap_parse()` may sleep, `iomap_begin()` runs in page faults and may not.
///
/// # Safety
///
/// Called by the verifier, with our type, one of its members and a program for it.
pub(super) unsafe extern "C" fn check_member(
    t: *const c::btf_type,
    member: *const c::btf_member,
    prog: *const c::bpf_prog,
) -> ffi::c_int {
    let btf = TYPES.btf.load(Relaxed) as *const c::btf;

    // SAFETY: The verifier passes our type, one of its members and the program for it; `init()` ran
    // before with the BTF that they are from. The prototypes are those of the header.
    unsafe {
        match member_offset(t, member) {
            DAX_FMAP_PARSE => TYPES
                .parse_ctx
                .store(argument_type(btf, member, 0), Relaxed),
            IOMAP_BEGIN if (*prog).sleepable() != 0 || !is_bounded(prog) => {
                return EINVAL.to_errno();
            }
            IOMAP_BEGIN => TYPES.iomap_io.store(argument_type(btf, member, 1), Relaxed),
            _ => return EINVAL.to_errno(),
        }
    }
    0
}

/// Whether all that a program does is bounded by what the verifier looks at once. The log says what
/// is not, if the loader wants to know: it is the kernel's log, as the verifier's is not at hand
/// here.
///
/// # Safety
///
/// `prog` is being verified.
unsafe fn is_bounded(prog: *const c::bpf_prog) -> bool {
    const CALL: u8 = (c::BPF_JMP | c::BPF_CALL) as u8;
    const MAY_GOTO: u8 = (c::BPF_JMP | c::BPF_JCOND) as u8;
    const KFUNC: u8 = c::BPF_PSEUDO_KFUNC_CALL as u8;
    const LOAD_64: u8 = (c::BPF_LD | c::BPF_IMM | c::BPF_DW) as u8;
    const MAP: [u8; 2] = [c::BPF_PSEUDO_MAP_FD as u8, c::BPF_PSEUDO_MAP_IDX as u8];
    /// Others are tries, lists, or have maps of any type inside.
    const FAST: [c::bpf_map_type; 4] = [
        c::bpf_map_type_BPF_MAP_TYPE_ARRAY,
        c::bpf_map_type_BPF_MAP_TYPE_PERCPU_ARRAY,
        c::bpf_map_type_BPF_MAP_TYPE_HASH,
        c::bpf_map_type_BPF_MAP_TYPE_PERCPU_HASH,
    ];

    /// A lookup hashes all of the key, which may be another map's value, of megabytes.
    const KEY_MAX: u32 = 64;

    // SAFETY: By the safety requirements. The functions of a program are known before its members
    // are checked.
    let (insns, functions) = unsafe {
        let aux = (*prog).aux;
        let functions: &[c::bpf_func_info_aux] = if (*aux).func_info_aux.is_null() {
            &[]
        } else {
            core::slice::from_raw_parts((*aux).func_info_aux.cast(), (*aux).func_info_cnt as usize)
        };
        (
            core::slice::from_raw_parts(
                (&raw const (*prog).__bindgen_anon_2).cast::<c::bpf_insn>(),
                (*prog).len as usize,
            ),
            functions,
        )
    };
    let is_kernel_kfunc =
        |insn: &c::bpf_insn| insn.code == CALL && insn.src_reg() == KFUNC && insn.off == 0;
    // SAFETY: By the safety requirements; the table of other modules' BTF is complete by now.
    let modules = unsafe {
        let table = (*(*prog).aux).kfunc_btf_tab.cast::<f::bpf_kfunc_btf_tab>();
        if table.is_null() {
            &[]
        } else {
            let descs = (&raw const (*table).descs).cast::<f::bpf_kfunc_btf>();
            core::slice::from_raw_parts(descs, (*table).nr_descs as usize)
        }
    };
    let is_foreign = |module: &f::bpf_kfunc_btf| module.btf as usize != TYPES.btf.load(Relaxed);
    // The first function is the program itself; the verifier follows static ones where they are
    // called, and global ones on their own.
    let has_global = functions
        .iter()
        .skip(1)
        .any(|function| u32::from(function.linkage) == c::btf_func_linkage_BTF_FUNC_GLOBAL);

    // The verifier has put the address of a map into both halves of the instruction that loads it.
    let maps = insns.windows(2).filter_map(|pair| {
        let is_map = pair[0].code == LOAD_64 && MAP.contains(&pair[0].src_reg());
        let addr = u64::from(pair[0].imm as u32) | u64::from(pair[1].imm as u32) << 32;
        is_map.then(|| core::ptr::with_exposed_provenance::<c::bpf_map>(addr as usize))
    });
    // SAFETY: The program being verified keeps its maps.
    let is_slow = |map: *const c::bpf_map| unsafe {
        !FAST.contains(&(*map).map_type)
            || (*map).map_flags & c::BPF_F_ZERO_SEED != 0
            || (*map).key_size > KEY_MAX
    };
    let has_slow_map = { maps }.any(is_slow);
    // It is loaded by address, and not as a map. A page of it that is not there is an exception for
    // each load, with a stack trace.
    // SAFETY: The program being verified has its `aux`, where the verifier has put the arena by
    // now.
    let has_arena = unsafe { !(*(*prog).aux).arena.is_null() };

    let cause = if insns.iter().any(is_kernel_kfunc) {
        "calls a kfunc of the kernel"
    } else if modules.iter().any(is_foreign) {
        "calls a kfunc of another module"
    } else if insns.iter().any(|insn| insn.code == MAY_GOTO) {
        "has a loop with may_goto"
    } else if has_slow_map {
        "has a map in which looking something up may take long"
    } else if has_arena {
        "has an arena"
    } else if has_global {
        "has a global function"
    } else {
        return true;
    };
    pr_info!("iomap_begin() is refused: it {cause}, and has to be bounded\n");
    false
}

/// Which helpers a program may call. `iomap_begin()` may call those that take a short time,
/// whatever they are called with, and change nothing.
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
    let member = unsafe { (*prog).expected_attach_type };
    member != IOMAP_BEGIN_MEMBER || SHORT.contains(&func)
}

/// Gives an argument of `iomap_begin()` its type, where BTF has none for it.
///
/// It gets the metadata as a range whose end is known when it runs. For the verifier that is a
/// packet, as is an option of setsockopt(2) (kernel/bpf/cgroup.c): what has been compared with its
/// end may be read, and nothing written.
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
    // SAFETY: The verifier passes `prog`, and `info` to be filled in.
    let (member, reg_type) = unsafe { ((*prog).expected_attach_type, &mut (*info).reg_type) };

    if member == IOMAP_BEGIN_MEMBER {
        match off {
            IOMAP_BEGIN_DATA => *reg_type = c::bpf_reg_type_PTR_TO_PACKET,
            IOMAP_BEGIN_DATA_END => *reg_type = c::bpf_reg_type_PTR_TO_PACKET_END,
            _ => {}
        }
    }
}

/// Whether a program may write `size` bytes at `off` of what `reg` points to: OUT fields only.
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
    // SAFETY: The verifier calls this for a register of type PTR_TO_BTF_ID, which has these two.
    let (btf, id) = unsafe {
        let pointee = &(*reg).__bindgen_anon_1.__bindgen_anon_1;
        (pointee.btf as usize, pointee.btf_id)
    };
    let fields: &[(usize, usize)] = if btf != TYPES.btf.load(Relaxed) {
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
    // SAFETY: `log` is the verifier's; the format takes two integers.
    unsafe {
        c::bpf_log(
            log,
            c"fuse_dax_fmap: only OUT fields may be written, not %d bytes at %d\n".as_char_ptr(),
            size,
            off,
        )
    };
    EACCES.to_errno()
}
