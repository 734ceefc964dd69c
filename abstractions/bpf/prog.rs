// SPDX-License-Identifier: GPL-2.0

//! Programs, as they are being verified.
//!
//! C headers: [`include/linux/bpf.h`](srctree/include/linux/bpf.h),
//! [`include/linux/filter.h`](srctree/include/linux/filter.h)

use core::{
    ptr,
    slice, //
};

use kernel::{
    ffi,
    prelude::*,
    str::CStr,
    types::Opaque, //
};

use crate::bindings::{
    fuse as f,
    kernel as c, //
};

/// A `struct bpf_prog` that the verifier is looking at.
///
/// # Invariants
///
/// It is valid as long as it is borrowed, with what belongs to it. Its instructions, functions and
/// the BTF of its kfuncs do not change meanwhile.
#[repr(transparent)]
pub(crate) struct Prog(Opaque<c::bpf_prog>);

/// A map that a program uses.
///
/// # Invariants
///
/// The program keeps it.
#[repr(transparent)]
pub(crate) struct Map(Opaque<c::bpf_map>);

impl Prog {
    /// # Safety
    ///
    /// `prog` is being verified, for `'a`.
    pub(crate) unsafe fn from_raw<'a>(prog: *const c::bpf_prog) -> &'a Self {
        // SAFETY: `prog` is valid by the safety requirements, and the types have one layout.
        unsafe { &*prog.cast() }
    }

    fn aux(&self) -> *const c::bpf_prog_aux {
        // SAFETY: By the type invariants the program is valid.
        unsafe { (*self.0.get()).aux }
    }

    /// Whether it may sleep.
    pub(crate) fn is_sleepable(&self) -> bool {
        // SAFETY: By the type invariants the program is valid.
        unsafe { (*self.0.get()).sleepable() != 0 }
    }

    /// For a struct_ops program: the number of the member that it is for.
    pub(crate) fn expected_attach_type(&self) -> u32 {
        // SAFETY: By the type invariants the program is valid.
        unsafe { (*self.0.get()).expected_attach_type }
    }

    pub(crate) fn instructions(&self) -> &[c::bpf_insn] {
        let prog = self.0.get();
        // SAFETY: By the type invariants the program is valid.
        let (first, len) = unsafe { (&raw const (*prog).__bindgen_anon_2, (*prog).len) };

        // SAFETY: So many instructions are at the end of a program.
        unsafe { slice::from_raw_parts(first.cast(), len as usize) }
    }

    /// Its functions. The first one is the program itself.
    pub(crate) fn functions(&self) -> &[c::bpf_func_info_aux] {
        // SAFETY: By the type invariants the program has its `aux`.
        let (first, number) = unsafe { ((*self.aux()).func_info_aux, (*self.aux()).func_info_cnt) };
        if first.is_null() {
            return &[];
        }
        // SAFETY: There are so many, which are known before members of struct_ops are checked.
        unsafe { slice::from_raw_parts(first.cast(), number as usize) }
    }

    /// The BTF, by address, of each module that has a kfunc which the program calls.
    pub(crate) fn kfunc_modules(&self) -> impl Iterator<Item = usize> + '_ {
        // SAFETY: By the type invariants the program has its `aux`.
        let table = unsafe { (*self.aux()).kfunc_btf_tab }.cast::<f::bpf_kfunc_btf_tab>();
        let modules: &[f::bpf_kfunc_btf] = if table.is_null() {
            &[]
        } else {
            // SAFETY: By the type invariants the table is valid and complete.
            let (descs, number) = unsafe { (&raw const (*table).descs, (*table).nr_descs) };
            // SAFETY: The table has so many entries.
            unsafe { slice::from_raw_parts(descs.cast(), number as usize) }
        };

        modules.iter().map(|module| module.btf as usize)
    }

    /// Whether it has an arena.
    pub(crate) fn has_arena(&self) -> bool {
        // SAFETY: By the type invariants the program has its `aux`.
        unsafe { !(*self.aux()).arena.is_null() }
    }

    /// The maps that its instructions load.
    ///
    /// # Safety
    ///
    /// The verifier has put the addresses of maps into the instructions.
    pub(crate) unsafe fn maps(&self) -> impl Iterator<Item = &Map> + '_ {
        const LOAD_64: u8 = (c::BPF_LD | c::BPF_IMM | c::BPF_DW) as u8;
        const MAP: [u8; 2] = [c::BPF_PSEUDO_MAP_FD as u8, c::BPF_PSEUDO_MAP_IDX as u8];

        self.instructions().windows(2).filter_map(|pair| {
            if pair[0].code != LOAD_64 || !MAP.contains(&pair[0].src_reg()) {
                return None;
            }
            // The address is in both halves of the instruction.
            let addr = u64::from(pair[0].imm as u32) | u64::from(pair[1].imm as u32) << 32;
            let map = ptr::with_exposed_provenance::<Map>(addr as usize);

            // SAFETY: By the safety requirements this is a map, which the program keeps.
            Some(unsafe { &*map })
        })
    }
}

impl Map {
    pub(crate) fn map_type(&self) -> c::bpf_map_type {
        // SAFETY: By the type invariants the map is valid.
        unsafe { (*self.0.get()).map_type }
    }

    /// `BPF_F_*`.
    pub(crate) fn flags(&self) -> u32 {
        // SAFETY: By the type invariants the map is valid.
        unsafe { (*self.0.get()).map_flags }
    }

    /// Bytes.
    pub(crate) fn key_size(&self) -> u32 {
        // SAFETY: By the type invariants the map is valid.
        unsafe { (*self.0.get()).key_size }
    }
}

/// What a register of a program points to, if that is a type of BTF: the BTF, by address, and the
/// id of the type.
///
/// # Safety
///
/// `reg` is valid, and of the type PTR_TO_BTF_ID.
pub(crate) unsafe fn pointee(reg: *const c::bpf_reg_state) -> (usize, u32) {
    // SAFETY: By the safety requirements this is the part of the union that is in use.
    let pointee = unsafe { &(*reg).__bindgen_anon_1.__bindgen_anon_1 };

    (pointee.btf as usize, pointee.btf_id)
}

/// Says in the verifier's log that so many bytes may not be accessed at an offset.
///
/// # Safety
///
/// `log` is the verifier's. `format` is one of `printf()` for two integers.
pub(crate) unsafe fn log_access(
    log: *mut c::bpf_verifier_log,
    format: &CStr,
    size: ffi::c_int,
    off: ffi::c_int,
) {
    // SAFETY: By the safety requirements the log and the arguments are what this wants.
    unsafe { c::bpf_log(log, format.as_char_ptr(), size, off) };
}
