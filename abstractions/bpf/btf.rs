// SPDX-License-Identifier: GPL-2.0

//! C types, as BTF describes them.
//!
//! C header: [`include/linux/btf.h`](srctree/include/linux/btf.h)

use kernel::types::Opaque;

use crate::bindings::kernel as c;

/// A member of a struct type.
///
/// # Invariants
///
/// `ty` and `member` are valid, and `member` is a member of `ty`.
#[derive(Clone, Copy)]
pub(crate) struct Member<'a> {
    ty: &'a c::btf_type,
    member: &'a c::btf_member,
}

impl<'a> Member<'a> {
    /// Creates a [`Member`] from raw pointers.
    ///
    /// # Safety
    ///
    /// `ty` must be a valid struct type, and `member` one of its members, both for `'a`.
    pub(crate) unsafe fn from_raw(ty: *const c::btf_type, member: *const c::btf_member) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            // SAFETY: `ty` is valid, by the safety requirements.
            ty: unsafe { &*ty },
            // SAFETY: `member` is valid, by the safety requirements.
            member: unsafe { &*member },
        }
    }

    /// Returns the offset in bytes of a member that is no bitfield (`__btf_member_bit_offset()`).
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

// SAFETY: BTF is not tied to a task.
unsafe impl Send for Btf {}
// SAFETY: BTF is immutable once it is loaded.
unsafe impl Sync for Btf {}

impl Btf {
    /// Creates a reference to a [`Btf`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `btf` must be valid for `'a`.
    pub(crate) unsafe fn from_raw<'a>(btf: *const c::btf) -> &'a Self {
        // SAFETY: `btf` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*btf.cast() }
    }

    /// Returns the id of the type that type `id` refers to, such as the target of a pointer.
    ///
    /// # Safety
    ///
    /// Type `id` must exist, and refer to another type.
    unsafe fn referred(&self, id: u32) -> u32 {
        // SAFETY: By the safety requirements type `id` exists, and refers to another type.
        unsafe { (*self.by_id(id)).__bindgen_anon_1.type_ }
    }

    /// Returns the type with an id.
    ///
    /// # Safety
    ///
    /// Type `id` must exist.
    unsafe fn by_id(&self, id: u32) -> *const c::btf_type {
        // SAFETY: The BTF is valid, and has this type, by the safety requirements.
        unsafe { c::btf_type_by_id(self.0.get(), id) }
    }

    /// Returns the id of the type that argument `arg` of a function pointer member points to. The
    /// path there is: member, pointer, prototype, parameter, pointer, struct.
    ///
    /// # Safety
    ///
    /// `member` must be described by this BTF, and be a pointer to a function with more than `arg`
    /// arguments, of which argument `arg` is a pointer.
    pub(crate) unsafe fn argument_type(&self, member: Member<'_>, arg: usize) -> u32 {
        // SAFETY: By the safety requirements the type of `member` is a pointer.
        let prototype = unsafe { self.referred(member.member.type_) };
        // SAFETY: The id is from a type of this BTF.
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
