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

use kernel::{
    module::{
        this_module,
        ModuleMetadata, //
    },
    types::Opaque, //
};

use crate::bindings::kernel as c;

/// A `struct module` that is loaded.
#[repr(transparent)]
pub(crate) struct Module(Opaque<c::module>);

// SAFETY: A module belongs to no task.
unsafe impl Send for Module {}
// SAFETY: The count of references is all that is used, and it is per CPU.
unsafe impl Sync for Module {}

impl Module {
    /// The module that `M` describes, whose code calls this.
    pub(crate) fn this<M: ModuleMetadata>() -> &'static Self {
        // SAFETY: The pointer is that of a module whose code runs, so it is valid as long as there
        // is code to use the result. (No module of a build without modules gets here.)
        unsafe { &*this_module::<M>().as_ptr().cast() }
    }

    /// The module that `module` points to, `None` if it is null: then its code is the kernel's.
    ///
    /// # Safety
    ///
    /// `module` is null, or valid for `'a`, with a reference.
    pub(crate) unsafe fn from_raw<'a>(module: *mut c::module) -> Option<&'a Self> {
        // SAFETY: `module` is null or valid, by the safety requirements; the types have one layout.
        unsafe { module.cast::<Self>().as_ref() }
    }

    /// A reference, `None` if the module is going away.
    pub(crate) fn try_get(&self) -> Option<ModuleRef> {
        // SAFETY: `self` is a module that is loaded.
        let got = unsafe { c::try_module_get(self.0.get()) };

        // INVARIANT: The reference was taken just now.
        got.then(|| ModuleRef(NonNull::from(self)))
    }

    /// Another reference.
    ///
    /// # Safety
    ///
    /// The module has one already: it is not going away.
    pub(crate) unsafe fn get(&self) -> ModuleRef {
        // SAFETY: `self` has a reference, by the safety requirements.
        unsafe { c::__module_get(self.0.get()) };
        // INVARIANT: The reference was taken just now.
        ModuleRef(NonNull::from(self))
    }
}

/// A reference to a module. Dropping it may be the last thing that code of the module does.
///
/// The kernel crate's `ARef` is no place for it: code of a module runs, and so names it, also when
/// there are no references any more, and none may be taken.
///
/// # Invariants
///
/// `self` owns a reference to the module.
#[must_use = "the reference is put when it is dropped"]
pub(crate) struct ModuleRef(NonNull<Module>);

// SAFETY: A module belongs to no task.
unsafe impl Send for ModuleRef {}
// SAFETY: Nothing is done with a shared one.
unsafe impl Sync for ModuleRef {}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns this reference.
        unsafe { c::module_put(self.0.as_ptr().cast()) }
    }
}
