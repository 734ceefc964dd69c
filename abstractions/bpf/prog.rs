// SPDX-License-Identifier: GPL-2.0

//! BPF programs under verification.
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

/// A `struct bpf_prog` that is being verified.
///
/// # Invariants
///
/// The program, and all that it refers to, is valid as long as it is borrowed. Its instructions,
/// its functions and the BTF of its kfuncs do not change during that time.
#[repr(transparent)]
pub(crate) struct Prog(Opaque<c::bpf_prog>);

/// A map that a program uses.
///
/// # Invariants
///
/// The program holds a reference to the map.
#[repr(transparent)]
pub(crate) struct Map(Opaque<c::bpf_map>);

impl Prog {
    /// Creates a reference to a [`Prog`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `prog` must be valid, and under verification, for `'a`.
    pub(crate) unsafe fn from_raw<'a>(prog: *const c::bpf_prog) -> &'a Self {
        // SAFETY: `prog` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*prog.cast() }
    }

    fn aux(&self) -> *const c::bpf_prog_aux {
        // SAFETY: By the type invariants the program is valid.
        unsafe { (*self.0.get()).aux }
    }

    /// Returns true if the program is sleepable.
    pub(crate) fn is_sleepable(&self) -> bool {
        // SAFETY: By the type invariants the program is valid.
        unsafe { (*self.0.get()).sleepable() != 0 }
    }

    /// Returns the index of the member that a struct_ops program implements.
    pub(crate) fn expected_attach_type(&self) -> u32 {
        // SAFETY: By the type invariants the program is valid.
        unsafe { (*self.0.get()).expected_attach_type }
    }

    pub(crate) fn instructions(&self) -> &[c::bpf_insn] {
        let prog = self.0.get();
        // SAFETY: By the type invariants the program is valid.
        let (first, len) = unsafe { (&raw const (*prog).__bindgen_anon_2, (*prog).len) };

        // SAFETY: A program ends with an array of its `len` instructions.
        unsafe { slice::from_raw_parts(first.cast(), len as usize) }
    }

    /// Returns the functions of the program. The first one is the main program.
    pub(crate) fn functions(&self) -> &[c::bpf_func_info_aux] {
        // SAFETY: By the type invariants the program has its `aux`.
        let (first, number) = unsafe { ((*self.aux()).func_info_aux, (*self.aux()).func_info_cnt) };
        if first.is_null() {
            return &[];
        }
        // SAFETY: The array has `func_info_cnt` entries, set before struct_ops members are checked.
        unsafe { slice::from_raw_parts(first.cast(), number as usize) }
    }

    /// Returns the address of the BTF of each module that defines a kfunc which the program calls.
    pub(crate) fn kfunc_modules(&self) -> impl Iterator<Item = usize> + '_ {
        // SAFETY: By the type invariants the program has its `aux`.
        let table = unsafe { (*self.aux()).kfunc_btf_tab }.cast::<f::bpf_kfunc_btf_tab>();
        let modules: &[f::bpf_kfunc_btf] = if table.is_null() {
            &[]
        } else {
            // SAFETY: By the type invariants the table is valid and complete.
            let (descs, number) = unsafe { (&raw const (*table).descs, (*table).nr_descs) };
            // SAFETY: The table has `nr_descs` entries.
            unsafe { slice::from_raw_parts(descs.cast(), number as usize) }
        };

        modules.iter().map(|module| module.btf as usize)
    }

    /// Returns true if the program uses an arena.
    pub(crate) fn has_arena(&self) -> bool {
        // SAFETY: By the type invariants the program has its `aux`.
        unsafe { !(*self.aux()).arena.is_null() }
    }

    /// Returns the maps that the instructions load.
    ///
    /// # Safety
    ///
    /// The verifier must have put the addresses of maps into the instructions.
    pub(crate) unsafe fn maps(&self) -> impl Iterator<Item = &Map> + '_ {
        const LOAD_64: u8 = (c::BPF_LD | c::BPF_IMM | c::BPF_DW) as u8;
        const MAP: [u8; 2] = [c::BPF_PSEUDO_MAP_FD as u8, c::BPF_PSEUDO_MAP_IDX as u8];

        self.instructions().windows(2).filter_map(|pair| {
            if pair[0].code != LOAD_64 || !MAP.contains(&pair[0].src_reg()) {
                return None;
            }
            // The instruction has two halves, each with one half of the address.
            let addr = u64::from(pair[0].imm as u32) | u64::from(pair[1].imm as u32) << 32;
            let map = ptr::with_exposed_provenance::<Map>(addr as usize);

            // SAFETY: By the safety requirements this is a map, and the program holds a reference
            // to it.
            Some(unsafe { &*map })
        })
    }
}

impl Map {
    pub(crate) fn map_type(&self) -> c::bpf_map_type {
        // SAFETY: By the type invariants the map is valid.
        unsafe { (*self.0.get()).map_type }
    }

    /// Returns the flags (`BPF_F_*`).
    pub(crate) fn flags(&self) -> u32 {
        // SAFETY: By the type invariants the map is valid.
        unsafe { (*self.0.get()).map_flags }
    }

    /// Returns the size of a key in bytes.
    pub(crate) fn key_size(&self) -> u32 {
        // SAFETY: By the type invariants the map is valid.
        unsafe { (*self.0.get()).key_size }
    }
}

/// Returns the type that a register points to: the address of its BTF, and its id there.
///
/// # Safety
///
/// `reg` must be valid, and of type PTR_TO_BTF_ID.
pub(crate) unsafe fn pointee(reg: *const c::bpf_reg_state) -> (usize, u32) {
    // SAFETY: By the safety requirements `reg` is valid.
    let btf = unsafe { c::fuse_dax_fmap_reg_btf(reg) };
    // SAFETY: By the safety requirements `reg` is valid.
    let id = unsafe { c::fuse_dax_fmap_reg_btf_id(reg) };

    (btf as usize, id)
}

/// Writes to the verifier's log that an access of `size` bytes at offset `off` is not allowed.
///
/// # Safety
///
/// `log` must be the verifier's log, and `format` a `printf()` format for two integers.
pub(crate) unsafe fn log_access(
    log: *mut c::bpf_verifier_log,
    format: &CStr,
    size: ffi::c_int,
    off: ffi::c_int,
) {
    // SAFETY: By the safety requirements `log` is valid, and `format` matches the arguments.
    unsafe { c::bpf_log(log, format.as_char_ptr(), size, off) };
}
