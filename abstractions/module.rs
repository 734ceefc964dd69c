// SPDX-License-Identifier: GPL-2.0

//! References to modules.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h)
//!
//! # Examples
//!
//! ```ignore
//! let module = Module::this::<crate::LocalModule>().try_get().ok_or(ENODEV)?;
//! // It is not unloaded here.
//! drop(module);
//! ```

use core::ptr::NonNull;

use kernel::types::Opaque;

use crate::{
    bindings::kernel as c,
    compat::module::{
        this_module,
        ModuleMetadata, //
    }, //
};

/// A `struct module` that is loaded.
#[repr(transparent)]
pub(crate) struct Module(Opaque<c::module>);

// SAFETY: A module is not tied to a task.
unsafe impl Send for Module {}
// SAFETY: Only the reference count is used, and it may be changed by several tasks at once.
unsafe impl Sync for Module {}

impl Module {
    /// Returns the module that `M` describes, whose code calls this.
    pub(crate) fn this<M: ModuleMetadata>() -> &'static Self {
        // SAFETY: The module's code is running, so the pointer is valid as long as there is code to
        // use the result. (It would be null for code that is built in, which this is not.)
        unsafe { &*this_module::<M>().as_ptr().cast() }
    }

    /// Creates a reference to a [`Module`] from a raw pointer. Returns [`None`] if it is null, i.e.
    /// for code that is built in.
    ///
    /// # Safety
    ///
    /// `module` must be null, or valid and referenced for `'a`.
    pub(crate) unsafe fn from_raw<'a>(module: *mut c::module) -> Option<&'a Self> {
        // SAFETY: By the safety requirements `module` is null or valid, and `Self` is transparent.
        unsafe { module.cast::<Self>().as_ref() }
    }

    /// Takes a reference. Returns [`None`] if the module is being unloaded.
    pub(crate) fn try_get(&self) -> Option<ModuleRef> {
        // SAFETY: `self` is a module that is loaded.
        let got = unsafe { c::try_module_get(self.0.get()) };

        // INVARIANT: The reference was taken just above.
        got.then(|| ModuleRef(NonNull::from(self)))
    }

    /// Takes another reference.
    ///
    /// # Safety
    ///
    /// The module must have a reference already, so that it is not being unloaded.
    pub(crate) unsafe fn get(&self) -> ModuleRef {
        // SAFETY: By the safety requirements `self` has a reference.
        unsafe { c::__module_get(self.0.get()) };
        // INVARIANT: The reference was taken just above.
        ModuleRef(NonNull::from(self))
    }
}

/// A reference to a module. Once it is dropped, the module may be unloaded.
///
/// It is not the kernel crate's `ARef`: code of a module still runs, and so has a `&Module`, when
/// there are no references any more, and none may be taken.
///
/// # Invariants
///
/// `self` owns a reference to the module.
#[must_use = "the reference is put when it is dropped"]
pub(crate) struct ModuleRef(NonNull<Module>);

// SAFETY: A module is not tied to a task.
unsafe impl Send for ModuleRef {}
// SAFETY: A `&ModuleRef` gives access to nothing.
unsafe impl Sync for ModuleRef {}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns this reference.
        unsafe { c::module_put(self.0.as_ptr().cast()) }
    }
}
