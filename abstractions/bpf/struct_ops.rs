// SPDX-License-Identifier: GPL-2.0

//! struct_ops types: tables of functions that BPF programs implement.
//!
//! User space registers a map of such a type with a BPF link. The kernel then has one `kdata`: a
//! struct of the type, whose function pointers lead to the programs.
//!
//! C header: [`include/linux/bpf.h`](srctree/include/linux/bpf.h)
//!
//! # Examples
//!
//! ```ignore
//! impl StructOps for Example {
//!     type Kdata = c::example_ops;
//!     const NAME: &'static CStr = c"example_ops";
//!     // ...
//! }
//!
//! static STRUCT_OPS: Table = Table::new::<Example, crate::LocalModule>();
//! // `register_bpf_struct_ops()` is a macro, so a C function has to call it.
//! // SAFETY: Called once, while the module is loaded.
//! unsafe { STRUCT_OPS.register(c::example_register_bpf) }?;
//! ```

use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    error::{
        from_result,
        to_result, //
    },
    ffi,
    prelude::*,
    str::CStr,
    types::Opaque, //
};

use crate::{
    bindings::kernel as c,
    compat::module::{
        this_module,
        ModuleMetadata, //
    }, //
};

use super::{
    btf::{
        Btf,
        Member, //
    },
    prog::Prog, //
};

/// A struct_ops type.
pub(crate) trait StructOps: 'static {
    /// The struct, with its C layout.
    type Kdata: Sync + 'static;

    /// The name of the struct in C.
    const NAME: &'static CStr;

    /// Called when the type is registered. `btf` is the BTF of the module, and stays valid as long
    /// as the module is loaded.
    fn init(btf: &'static Btf) -> Result;

    /// Checks that `prog` may implement `member`. Its instructions have not been verified yet.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the program may not.
    fn check_member(member: Member<'_>, prog: &Prog) -> Result;

    /// Copies a member from what user space wrote. Returns false to leave that to the BPF core.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the value of the member is invalid.
    ///
    /// # Safety
    ///
    /// `kdata` must be valid for writes, and under construction. What is written there must be a
    /// valid value of the member.
    unsafe fn init_member(
        member: Member<'_>,
        kdata: NonNull<Self::Kdata>,
        udata: &Self::Kdata,
    ) -> Result<bool>;

    /// Checks that `kdata` has all mandatory members.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if one is missing.
    fn validate(kdata: &Self::Kdata) -> Result;

    /// Registers a `kdata`.
    ///
    /// # Errors
    ///
    /// Any error makes the registration of the map fail.
    ///
    /// # Safety
    ///
    /// `kdata` must have passed [`Self::validate`], and stay valid until [`Self::unreg`], or an
    /// [`Self::update`] to another `kdata`, returns.
    unsafe fn reg(kdata: NonNull<Self::Kdata>, has_link: bool) -> Result;

    /// Unregisters a `kdata`.
    ///
    /// # Safety
    ///
    /// `kdata` must be registered.
    unsafe fn unreg(kdata: NonNull<Self::Kdata>);

    /// Replaces a registered `kdata` by another one.
    ///
    /// # Errors
    ///
    /// Any error makes the update of the link fail.
    ///
    /// # Safety
    ///
    /// As for [`Self::reg`] for `new`, and as for [`Self::unreg`] for `old`.
    unsafe fn update(old: NonNull<Self::Kdata>, new: NonNull<Self::Kdata>) -> Result;
}

/// A `struct bpf_struct_ops`. It is static, as the BPF core keeps a pointer to it.
#[repr(transparent)]
pub(crate) struct Table(Opaque<c::bpf_struct_ops>);

// SAFETY: Only the BPF core writes to it, while the type is registered, under its own lock.
unsafe impl Sync for Table {}

impl Table {
    pub(crate) const fn new<T: StructOps, M: ModuleMetadata>() -> Self {
        Self(Opaque::new(c::bpf_struct_ops {
            init: Some(Vtable::<T>::init),
            check_member: Some(Vtable::<T>::check_member),
            init_member: Some(Vtable::<T>::init_member),
            reg: Some(Vtable::<T>::reg),
            unreg: Some(Vtable::<T>::unreg),
            update: Some(Vtable::<T>::update),
            validate: Some(Vtable::<T>::validate),
            owner: this_module::<M>().as_ptr(),
            name: T::NAME.to_bytes_with_nul().as_ptr(),
            ..pin_init::zeroed()
        }))
    }

    /// Registers the type. It cannot be unregistered: it goes away with the BTF of the module.
    ///
    /// # Errors
    ///
    /// Those of `register()`.
    ///
    /// # Safety
    ///
    /// `register` must fill in `cfi_stubs` and `verifier_ops`, and register the C type that the
    /// table is for. This function must be called once, while the module is loaded.
    pub(crate) unsafe fn register(
        &'static self,
        register: unsafe extern "C" fn(*mut c::bpf_struct_ops) -> ffi::c_int,
    ) -> Result {
        // SAFETY: The table is static, and complete except for the fields that `register` fills in.
        to_result(unsafe { register(self.0.get()) })
    }
}

/// The functions that the BPF core calls.
struct Vtable<T: StructOps>(PhantomData<T>);

impl<T: StructOps> Vtable<T> {
    /// # Safety
    ///
    /// Must only be called by the BPF core, with the BTF of the module.
    unsafe extern "C" fn init(btf: *mut c::btf) -> ffi::c_int {
        // SAFETY: The BTF of a module stays valid as long as the module is loaded.
        let btf = unsafe { Btf::from_raw(btf) };

        from_result(|| T::init(btf).map(|()| 0))
    }

    /// # Safety
    ///
    /// Must only be called by the verifier, with the type of this table, one of its members and a
    /// program for that member.
    unsafe extern "C" fn check_member(
        t: *const c::btf_type,
        member: *const c::btf_member,
        prog: *const c::bpf_prog,
    ) -> ffi::c_int {
        // SAFETY: `t` is the type of this table, and `member` one of its members.
        let member = unsafe { Member::from_raw(t, member) };
        // SAFETY: `prog` is being verified.
        let prog = unsafe { Prog::from_raw(prog) };

        from_result(|| T::check_member(member, prog).map(|()| 0))
    }

    /// # Safety
    ///
    /// Must only be called by the BPF core, with the type of this table, one of its members, and a
    /// `kdata` that is being constructed from `udata`.
    unsafe extern "C" fn init_member(
        t: *const c::btf_type,
        member: *const c::btf_member,
        kdata: *mut ffi::c_void,
        udata: *const ffi::c_void,
    ) -> ffi::c_int {
        // SAFETY: `t` is the type of this table, and `member` one of its members.
        let member = unsafe { Member::from_raw(t, member) };
        // SAFETY: `udata` is a copy in kernel memory of what user space wrote.
        let udata = unsafe { &*udata.cast::<T::Kdata>() };

        from_result(|| {
            let kdata = NonNull::new(kdata.cast()).ok_or(EINVAL)?;
            // SAFETY: `kdata` is under construction, and `init_member()` may write to it.
            unsafe { T::init_member(member, kdata, udata) }.map(ffi::c_int::from)
        })
    }

    /// # Safety
    ///
    /// Must only be called by the BPF core, with a `kdata` that is complete.
    unsafe extern "C" fn validate(kdata: *mut ffi::c_void) -> ffi::c_int {
        // SAFETY: All members of `kdata` are initialized, and do not change any more.
        let kdata = unsafe { &*kdata.cast::<T::Kdata>() };

        from_result(|| T::validate(kdata).map(|()| 0))
    }

    /// # Safety
    ///
    /// Must only be called by the BPF core, with a `kdata` that has passed `validate()`.
    unsafe extern "C" fn reg(kdata: *mut ffi::c_void, link: *mut c::bpf_link) -> ffi::c_int {
        from_result(|| {
            let kdata = NonNull::new(kdata.cast()).ok_or(EINVAL)?;
            // SAFETY: `kdata` has passed `validate()`, and is valid while it is registered.
            unsafe { T::reg(kdata, !link.is_null()) }.map(|()| 0)
        })
    }

    /// # Safety
    ///
    /// Must only be called by the BPF core, with a `kdata` that `reg()` or `update()` registered.
    unsafe extern "C" fn unreg(kdata: *mut ffi::c_void, _link: *mut c::bpf_link) {
        if let Some(kdata) = NonNull::new(kdata.cast()) {
            // SAFETY: `kdata` is registered, and stays valid until this returns.
            unsafe { T::unreg(kdata) };
        }
    }

    /// # Safety
    ///
    /// Must only be called by the BPF core, with a `kdata` that has passed `validate()`, and the
    /// `old_kdata` that the link has registered. The BPF core holds both, and its `update_mutex`,
    /// until this function returns.
    unsafe extern "C" fn update(
        kdata: *mut ffi::c_void,
        old_kdata: *mut ffi::c_void,
        _link: *mut c::bpf_link,
    ) -> ffi::c_int {
        from_result(|| {
            let new = NonNull::new(kdata.cast()).ok_or(EINVAL)?;
            let old = NonNull::new(old_kdata.cast()).ok_or(EINVAL)?;
            // SAFETY: `new` has passed `validate()`, and the link has registered `old`.
            unsafe { T::update(old, new) }.map(|()| 0)
        })
    }
}

/// A reference to a `kdata`, during which its programs may be called.
///
/// # Invariants
///
/// `self` owns a reference to the map of `kdata`, which has passed [`StructOps::validate`].
pub(crate) struct Pinned<K>(NonNull<K>);

// SAFETY: Programs may be called from any task, and the reference is not tied to a task.
unsafe impl<K: Sync> Send for Pinned<K> {}
// SAFETY: A registered `kdata` is only read.
unsafe impl<K: Sync> Sync for Pinned<K> {}

impl<K> Pinned<K> {
    /// Takes a reference. Returns [`None`] if the map is about to be freed.
    ///
    /// # Safety
    ///
    /// `kdata` must be registered, and stay registered during the call.
    pub(crate) unsafe fn get(kdata: NonNull<K>) -> Option<Self> {
        // SAFETY: `kdata` is registered, by the safety requirements.
        if !unsafe { c::bpf_struct_ops_get(kdata.as_ptr().cast()) } {
            return None;
        }
        // INVARIANT: The reference was taken just now.
        Some(Self(kdata))
    }

    pub(crate) fn kdata(&self) -> &K {
        // SAFETY: By the type invariants `kdata` is valid, and is only read.
        unsafe { self.0.as_ref() }
    }

    /// Returns the id of the map.
    pub(crate) fn id(&self) -> u32 {
        // SAFETY: By the type invariants this is a registered `kdata`.
        unsafe { c::bpf_struct_ops_id(self.0.as_ptr().cast()) }
    }

    /// Returns the program that implements the member with index `member`. It stays valid as long
    /// as the `kdata` has a reference.
    pub(crate) fn program(&self, member: u32) -> Option<NonNull<c::bpf_prog>> {
        let mut search = Search {
            member,
            found: None,
        };

        // SAFETY: By the type invariants this is a `kdata`. `is_for()` is called with each of its
        // programs, and with `search`, which outlives the call.
        unsafe {
            c::bpf_struct_ops_for_each_prog(
                self.0.as_ptr().cast(),
                Some(is_for),
                ptr::from_mut(&mut search).cast(),
            )
        };
        search.found
    }
}

impl<K> Drop for Pinned<K> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns this reference.
        unsafe { c::bpf_struct_ops_put(self.0.as_ptr().cast()) }
    }
}

/// A search for the program of a member.
struct Search {
    member: u32,
    found: Option<NonNull<c::bpf_prog>>,
}

/// Stores `prog` in the search, and returns 1 to end it, if `prog` implements the member.
///
/// # Safety
///
/// Must only be called by the BPF core, with a program of a `kdata` and a [`Search`].
unsafe extern "C" fn is_for(prog: *mut c::bpf_prog, search: *mut ffi::c_void) -> ffi::c_int {
    // SAFETY: `search` is the local variable of `program()`, which waits for this call.
    let search = unsafe { &mut *search.cast::<Search>() };
    // SAFETY: `prog` is valid. The BPF core has checked that it was loaded for its member.
    if unsafe { (*prog).expected_attach_type } != search.member {
        return 0;
    }
    search.found = NonNull::new(prog);
    1
}
