// SPDX-License-Identifier: GPL-2.0

//! Types of struct_ops: tables of functions that programs of BPF implement.
//!
//! A user registers a map of such a type with a BPF link. The kernel then holds one `kdata`, a
//! struct of the type whose function pointers lead to the programs.
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
//! // A function in C has to register it, as the macro for that is one.
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
    module::{
        this_module,
        ModuleMetadata, //
    },
    prelude::*,
    str::CStr,
    types::Opaque, //
};

use crate::bindings::kernel as c;

use super::{
    btf::{
        Btf,
        Member, //
    },
    prog::Prog, //
};

/// A type of struct_ops.
pub(crate) trait StructOps: 'static {
    /// The struct. The layout is that of C.
    type Kdata: Sync + 'static;

    /// What it is called in C.
    const NAME: &'static CStr;

    /// The type is being registered; `btf` is the module's, and stays as long as this is loaded.
    fn init(btf: &'static Btf) -> Result;

    /// Whether a program may be the one for a member. It has been verified but for this.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if not.
    fn check_member(member: Member<'_>, prog: &Prog) -> Result;

    /// Takes a member over from what user space wrote. Returns whether it has; else the BPF core
    /// does what it does by itself.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if it makes no sense.
    ///
    /// # Safety
    ///
    /// `kdata` is valid for writes, and being made: what is written there is a value of the member.
    unsafe fn init_member(
        member: Member<'_>,
        kdata: NonNull<Self::Kdata>,
        udata: &Self::Kdata,
    ) -> Result<bool>;

    /// Whether all members are there that have to be.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if not.
    fn validate(kdata: &Self::Kdata) -> Result;

    /// Makes a `kdata` known.
    ///
    /// # Errors
    ///
    /// Those of registering the map.
    ///
    /// # Safety
    ///
    /// `kdata` has passed [`Self::validate`], and stays valid until [`Self::unreg`], or an
    /// [`Self::update`] to another one, returns.
    unsafe fn reg(kdata: NonNull<Self::Kdata>, has_link: bool) -> Result;

    /// Forgets a `kdata`.
    ///
    /// # Safety
    ///
    /// `kdata` is registered.
    unsafe fn unreg(kdata: NonNull<Self::Kdata>);

    /// Puts a `kdata` in the place of another one.
    ///
    /// # Errors
    ///
    /// Those of updating the link.
    ///
    /// # Safety
    ///
    /// As of [`Self::reg`] for `new`, and of [`Self::unreg`] for `old`.
    unsafe fn update(old: NonNull<Self::Kdata>, new: NonNull<Self::Kdata>) -> Result;
}

/// A `struct bpf_struct_ops`. It never moves, as the BPF core keeps a pointer to it.
#[repr(transparent)]
pub(crate) struct Table(Opaque<c::bpf_struct_ops>);

// SAFETY: Written by the BPF core while the type is registered, under its own lock.
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

    /// Registers the type. There is no way back: it goes with the module's BTF.
    ///
    /// # Errors
    ///
    /// Those of `register`.
    ///
    /// # Safety
    ///
    /// `register` fills in `cfi_stubs` and `verifier_ops`, and registers the type of C that the
    /// table is for. This is called once, while the module is loaded.
    pub(crate) unsafe fn register(
        &'static self,
        register: unsafe extern "C" fn(*mut c::bpf_struct_ops) -> ffi::c_int,
    ) -> Result {
        // SAFETY: The table is static, and complete but for what `register` fills in.
        to_result(unsafe { register(self.0.get()) })
    }
}

/// The functions that the BPF core calls.
struct Vtable<T: StructOps>(PhantomData<T>);

impl<T: StructOps> Vtable<T> {
    /// # Safety
    ///
    /// Called by the BPF core, with the BTF of the module.
    unsafe extern "C" fn init(btf: *mut c::btf) -> ffi::c_int {
        // SAFETY: The module's BTF stays as long as the module.
        let btf = unsafe { Btf::from_raw(btf) };

        from_result(|| T::init(btf).map(|()| 0))
    }

    /// # Safety
    ///
    /// Called by the verifier, with our type, one of its members and a program for it.
    unsafe extern "C" fn check_member(
        t: *const c::btf_type,
        member: *const c::btf_member,
        prog: *const c::bpf_prog,
    ) -> ffi::c_int {
        // SAFETY: `t` is the type, and `member` one of its members.
        let member = unsafe { Member::from_raw(t, member) };
        // SAFETY: `prog` is being verified.
        let prog = unsafe { Prog::from_raw(prog) };

        from_result(|| T::check_member(member, prog).map(|()| 0))
    }

    /// # Safety
    ///
    /// Called by the BPF core, with our type, one of its members, and a `kdata` that is being made
    /// from user space's.
    unsafe extern "C" fn init_member(
        t: *const c::btf_type,
        member: *const c::btf_member,
        kdata: *mut ffi::c_void,
        udata: *const ffi::c_void,
    ) -> ffi::c_int {
        // SAFETY: `t` is the type, and `member` one of its members.
        let member = unsafe { Member::from_raw(t, member) };
        // SAFETY: `udata` is the kernel's copy of what user space wrote.
        let udata = unsafe { &*udata.cast::<T::Kdata>() };

        from_result(|| {
            let kdata = NonNull::new(kdata.cast()).ok_or(EINVAL)?;
            // SAFETY: `kdata` is being made, and the BPF core lets this write there.
            unsafe { T::init_member(member, kdata, udata) }.map(ffi::c_int::from)
        })
    }

    /// # Safety
    ///
    /// Called by the BPF core, with a `kdata` that is complete.
    unsafe extern "C" fn validate(kdata: *mut ffi::c_void) -> ffi::c_int {
        // SAFETY: The members of `kdata` are all initialized, and do not change any more.
        let kdata = unsafe { &*kdata.cast::<T::Kdata>() };

        from_result(|| T::validate(kdata).map(|()| 0))
    }

    /// # Safety
    ///
    /// Called by the BPF core, with a `kdata` that has passed `validate()`.
    unsafe extern "C" fn reg(kdata: *mut ffi::c_void, link: *mut c::bpf_link) -> ffi::c_int {
        from_result(|| {
            let kdata = NonNull::new(kdata.cast()).ok_or(EINVAL)?;
            // SAFETY: `kdata` has passed `validate()`, and the BPF core keeps it registered.
            unsafe { T::reg(kdata, !link.is_null()) }.map(|()| 0)
        })
    }

    /// # Safety
    ///
    /// Called by the BPF core, with a `kdata` that `reg()` or `update()` took.
    unsafe extern "C" fn unreg(kdata: *mut ffi::c_void, _link: *mut c::bpf_link) {
        if let Some(kdata) = NonNull::new(kdata.cast()) {
            // SAFETY: `kdata` is registered, and stays valid until this returns.
            unsafe { T::unreg(kdata) };
        }
    }

    /// # Safety
    ///
    /// Called by the BPF core, with a `kdata` that has passed `validate()`, and with the one that
    /// the link has registered. It holds both, and its `update_mutex`, until this returns.
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

/// A reference to a `kdata`: its programs may be called.
///
/// # Invariants
///
/// `self` owns a reference to the map of `kdata`, which has passed [`StructOps::validate`].
pub(crate) struct Pinned<K>(NonNull<K>);

// SAFETY: Programs may be called from any task, and the reference belongs to none.
unsafe impl<K: Sync> Send for Pinned<K> {}
// SAFETY: A registered `kdata` is only read.
unsafe impl<K: Sync> Sync for Pinned<K> {}

impl<K> Pinned<K> {
    /// Takes a reference, unless the map is about to be freed.
    ///
    /// # Safety
    ///
    /// `kdata` is registered, and stays so meanwhile.
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

    /// The id of the map.
    pub(crate) fn id(&self) -> u32 {
        // SAFETY: By the type invariants this is a `kdata`.
        unsafe { c::bpf_struct_ops_id(self.0.as_ptr().cast()) }
    }

    /// The program for a member, by the member's number. It stays as long as the `kdata` has a
    /// reference.
    pub(crate) fn program(&self, member: u32) -> Option<NonNull<c::bpf_prog>> {
        let mut search = Search {
            member,
            found: None,
        };

        // SAFETY: By the type invariants this is a `kdata`. What is called gets each of its
        // programs, and `search`, which outlives the call.
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

/// Which program is looked for.
struct Search {
    member: u32,
    found: Option<NonNull<c::bpf_prog>>,
}

/// Remembers a program if it is the one that is looked for, and returns whether it is.
///
/// # Safety
///
/// Called by the BPF core with a program of a `kdata`, and with a [`Search`].
unsafe extern "C" fn is_for(prog: *mut c::bpf_prog, search: *mut ffi::c_void) -> ffi::c_int {
    // SAFETY: `search` is the one of `program()`, which has lent it to nothing else.
    let search = unsafe { &mut *search.cast::<Search>() };
    // SAFETY: `prog` is valid. The BPF core has checked that this is the member that it was loaded
    // for.
    if unsafe { (*prog).expected_attach_type } != search.member {
        return 0;
    }
    search.found = NonNull::new(prog);
    1
}
