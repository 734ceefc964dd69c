// SPDX-License-Identifier: GPL-2.0

//! Probes of tracepoints that other code defines.
//!
//! A tracepoint that no symbol is exported for is found by its name, in the kernel or in a module.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)
//!
//! # Examples
//!
//! ```ignore
//! // SAFETY: This module depends on the one that has the tracepoint.
//! let [switch] = unsafe { Tracepoint::find([c"sched_switch"]) }?;
//! let switch = switch.ok_or(ENOENT)?;
//! // SAFETY: `on_switch()` has the signature of the tracepoint.
//! let probe = unsafe { Probe::register(switch, on_switch as *mut ffi::c_void) }?;
//! drop(probe);
//! synchronize_unregister();
//! // From here on no CPU is in `on_switch()`.
//! ```

use core::ptr::{
    self,
    NonNull, //
};

use kernel::{
    container_of,
    error::to_result,
    ffi,
    prelude::*,
    str::CStr, //
};

use crate::bindings::kernel as c;

/// A `struct tracepoint`.
///
/// # Invariants
///
/// The pointer is valid as long as the module is loaded that found it ([`Tracepoint::find`]).
#[derive(Clone, Copy)]
pub(crate) struct Tracepoint(NonNull<c::tracepoint>);

// SAFETY: A tracepoint belongs to no task.
unsafe impl Send for Tracepoint {}
// SAFETY: Nothing of a tracepoint is used but by the kernel, under a lock of its own.
unsafe impl Sync for Tracepoint {}

/// What is looked for, and what has been found of it.
struct Search<'a, const N: usize> {
    names: [&'a CStr; N],
    found: [Option<Tracepoint>; N],
}

/// A look at the modules' tracepoints.
#[repr(C)]
struct ModuleSearch<'a, const N: usize> {
    block: c::notifier_block,
    search: Search<'a, N>,
}

impl<const N: usize> Search<'_, N> {
    /// # Safety
    ///
    /// `tracepoint` is valid, and stays so as long as this module is loaded.
    unsafe fn consider(&mut self, tracepoint: NonNull<c::tracepoint>) {
        // SAFETY: `tracepoint` is valid, by the safety requirements.
        let name = unsafe { (*tracepoint.as_ptr()).name };
        // SAFETY: The name of a tracepoint is a string as static as the tracepoint.
        let name = unsafe { CStr::from_char_ptr(name) };

        for (wanted, found) in self.names.iter().zip(self.found.iter_mut()) {
            if **wanted == *name {
                // INVARIANT: By the safety requirements.
                *found = Some(Tracepoint(tracepoint));
            }
        }
    }
}

/// # Safety
///
/// Called by the tracepoint core with a tracepoint of the kernel, and with a [`Search`].
unsafe extern "C" fn consider<const N: usize>(
    tracepoint: *mut c::tracepoint,
    search: *mut ffi::c_void,
) {
    // SAFETY: `search` is the one of `find()`, which has lent it to nothing else.
    let search = unsafe { &mut *search.cast::<Search<'_, N>>() };

    if let Some(tracepoint) = NonNull::new(tracepoint) {
        // SAFETY: `tracepoint` is part of the kernel, which stays.
        unsafe { search.consider(tracepoint) };
    }
}

/// Looks through the tracepoints of a module that is loaded, or being loaded.
///
/// # Safety
///
/// Called by the tracepoint core with a `struct tp_module`, for a block in a [`ModuleSearch`].
unsafe extern "C" fn consider_module<const N: usize>(
    block: *mut c::notifier_block,
    state: ffi::c_ulong,
    tp_module: *mut ffi::c_void,
) -> ffi::c_int {
    if state != c::module_state_MODULE_STATE_COMING as ffi::c_ulong {
        return 0;
    }
    // SAFETY: `block` is that of the `ModuleSearch` of `find()`, which has lent it to nothing else.
    let search = unsafe { &mut (*container_of!(block, ModuleSearch<'_, N>, block)).search };
    // SAFETY: `tp_module` is a valid `struct tp_module`, of a module that is there.
    let module = unsafe { (*tp_module.cast::<c::tp_module>()).mod_ };
    // SAFETY: `module` is valid, as the tracepoint core is at it.
    let (places, number) = unsafe { ((*module).tracepoints_ptrs, (*module).num_tracepoints) };

    for index in 0..number as usize {
        // A module lists its tracepoints as offsets from where each of them stands
        // (CONFIG_HAVE_ARCH_PREL32_RELOCATIONS).
        let place = places.wrapping_add(index);
        // SAFETY: `place` is one of the module's `num_tracepoints` offsets.
        let offset = unsafe { *place } as isize;
        let tracepoint = place.wrapping_byte_offset(offset).cast_mut();

        if let Some(tracepoint) = NonNull::new(tracepoint.cast()) {
            // SAFETY: `tracepoint` is the module's. The caller of `find()` keeps that module, if
            // the name is one that it wants.
            unsafe { search.consider(tracepoint) };
        }
    }
    0
}

impl Tracepoint {
    /// Finds tracepoints by their names, in the kernel or, if none of them is there, in modules.
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and what looking into modules returns.
    ///
    /// # Safety
    ///
    /// If a module that is loaded has tracepoints of these names, it stays loaded as long as the
    /// calling module.
    pub(crate) unsafe fn find<const N: usize>(names: [&CStr; N]) -> Result<[Option<Self>; N]> {
        let mut search = ModuleSearch {
            block: c::notifier_block {
                notifier_call: Some(consider_module::<N>),
                ..pin_init::zeroed()
            },
            search: Search {
                names,
                found: [None; N],
            },
        };
        let in_kernel = (&raw mut search.search).cast();

        // SAFETY: `consider()` gets a `Search` that nothing else uses meanwhile.
        unsafe { c::for_each_kernel_tracepoint(Some(consider::<N>), in_kernel) };
        if search.search.found.iter().all(Option::is_none) {
            // All of it: the callback goes from the block to the search.
            let block = (&raw mut search).cast::<c::notifier_block>();

            // SAFETY: `block` is valid until it is unregistered, which is next. Registering calls
            // back for each module that is loaded.
            to_result(unsafe { c::register_tracepoint_module_notifier(block) })?;
            // SAFETY: `block` was registered just now.
            unsafe { c::unregister_tracepoint_module_notifier(block) };
        }
        Ok(search.search.found)
    }
}

/// A function that a tracepoint calls until this is dropped, and a moment longer: see
/// [`synchronize_unregister`].
///
/// # Invariants
///
/// `probe` is registered at `tracepoint`, without data.
#[must_use = "the probe is unregistered when this is dropped"]
pub(crate) struct Probe {
    tracepoint: Tracepoint,
    probe: *mut ffi::c_void,
}

// SAFETY: A registration belongs to no task.
unsafe impl Send for Probe {}
// SAFETY: Nothing is done with a shared reference.
unsafe impl Sync for Probe {}

impl Probe {
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// `probe` is a function with the prototype of the tracepoint, behind an argument that is a
    /// null pointer. [`synchronize_unregister`] is called before its code goes away.
    pub(crate) unsafe fn register(tracepoint: Tracepoint, probe: *mut ffi::c_void) -> Result<Self> {
        // SAFETY: `tracepoint` is valid by its type invariants, and `probe` is such a function by
        // the safety requirements.
        to_result(unsafe {
            c::tracepoint_probe_register(tracepoint.0.as_ptr(), probe, ptr::null_mut())
        })?;
        // INVARIANT: Registered just now.
        Ok(Self { tracepoint, probe })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let tracepoint = self.tracepoint.0.as_ptr();

        // SAFETY: By the type invariants `probe` is registered there.
        unsafe { c::tracepoint_probe_unregister(tracepoint, self.probe, ptr::null_mut()) };
    }
}

/// Waits until no probe is called any more that was unregistered before this. May sleep.
pub(crate) fn synchronize_unregister() {
    // SAFETY: The only requirement is that the task may sleep.
    unsafe { c::tracepoint_synchronize_unregister() }
}
