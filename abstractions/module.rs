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
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
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

    /// A reference, `None` if the module is going away. Dropping it may be the last thing that code
    /// of the module does.
    pub(crate) fn try_get(&self) -> Option<ARef<Self>> {
        // SAFETY: `self` is a module that is loaded.
        if !unsafe { c::try_module_get(self.0.get()) } {
            return None;
        }
        // SAFETY: The reference was taken just now.
        Some(unsafe { ARef::from_raw(NonNull::from(self)) })
    }
}

// SAFETY: `self` stays loaded as long as there are references.
unsafe impl AlwaysRefCounted for Module {
    fn inc_ref(&self) {
        // SAFETY: `self` has a reference.
        unsafe { c::__module_get(self.0.get()) }
    }

    unsafe fn dec_ref(module: NonNull<Self>) {
        // SAFETY: By the safety requirements `module` has a reference, which is given up.
        unsafe { c::module_put(module.as_ptr().cast()) }
    }
}
