// SPDX-License-Identifier: GPL-2.0

//! Types of C, as BTF describes them.
//!
//! C header: [`include/linux/btf.h`](srctree/include/linux/btf.h)

use kernel::types::Opaque;

use crate::bindings::kernel as c;

/// A member of a struct type.
///
/// # Invariants
///
/// Both are valid, and the member is one of the type.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    ty: &'a c::btf_type,
    member: &'a c::btf_member,
}

impl<'a> Member<'a> {
    /// # Safety
    ///
    /// `ty` is a struct type and `member` one of its members, both for `'a`.
    pub(crate) unsafe fn from_raw(ty: *const c::btf_type, member: *const c::btf_member) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            // SAFETY: `ty` is valid, by the safety requirements.
            ty: unsafe { &*ty },
            // SAFETY: `member` is valid, by the safety requirements.
            member: unsafe { &*member },
        }
    }

    /// Its offset in bytes, if it is no bitfield: as `__btf_member_bit_offset()` has it.
    pub(crate) fn offset(self) -> usize {
        const KIND_FLAG: u32 = 1 << 31;

        let bits = if self.ty.info & KIND_FLAG != 0 {
            self.member.offset & 0xff_ffff
        } else {
            self.member.offset
        };
        (bits / 8) as usize
    }
}

/// A `struct btf`.
///
/// # Invariants
///
/// It is valid as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct Btf(Opaque<c::btf>);

// SAFETY: BTF belongs to no task.
unsafe impl Send for Btf {}
// SAFETY: BTF does not change once it is there.
unsafe impl Sync for Btf {}

impl Btf {
    /// # Safety
    ///
    /// `btf` is valid for `'a`.
    pub(crate) unsafe fn from_raw<'a>(btf: *const c::btf) -> &'a Self {
        // SAFETY: `btf` is valid by the safety requirements, and the types have one layout.
        unsafe { &*btf.cast() }
    }

    /// What a type refers to: of a pointer, what it points to.
    ///
    /// # Safety
    ///
    /// There is a type `id`, which refers to another one.
    unsafe fn referred(&self, id: u32) -> u32 {
        // SAFETY: By the safety requirements there is such a type, so the result is valid.
        unsafe { (*self.by_id(id)).__bindgen_anon_1.type_ }
    }

    /// # Safety
    ///
    /// There is a type `id`.
    unsafe fn by_id(&self, id: u32) -> *const c::btf_type {
        // SAFETY: The BTF is valid, and has this type, by the safety requirements.
        unsafe { c::btf_type_by_id(self.0.get(), id) }
    }

    /// The type that argument `arg` of a function member points to:
    /// member, pointer, prototype, parameter, pointer, struct.
    ///
    /// # Safety
    ///
    /// `member` is described by this BTF, and is a pointer to a function with more than `arg`
    /// arguments that are pointers.
    pub(crate) unsafe fn argument_type(&self, member: Member<'_>, arg: usize) -> u32 {
        // SAFETY: By the safety requirements the type of `member` is that of a pointer.
        let prototype = unsafe { self.referred(member.member.type_) };
        // SAFETY: The id comes from a type of this BTF.
        let prototype = unsafe { self.by_id(prototype) };
        // Parameters follow their prototype (include/uapi/linux/btf.h).
        let parameter = prototype
            .wrapping_add(1)
            .cast::<c::btf_param>()
            .wrapping_add(arg);
        // SAFETY: By the safety requirements the function has this argument.
        let pointer = unsafe { (*parameter).type_ };

        // SAFETY: By the safety requirements the argument is a pointer.
        unsafe { self.referred(pointer) }
    }
}
