// SPDX-License-Identifier: GPL-2.0

//! Probes for tracepoints that other code defines.
//!
//! Tracepoints without an exported symbol are found by name, in the kernel or in a module.
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
/// The pointer is valid as long as the module that found it is loaded ([`Tracepoint::find`]).
#[derive(Clone, Copy)]
pub(crate) struct Tracepoint(NonNull<c::tracepoint>);

// SAFETY: A tracepoint is not tied to a task.
unsafe impl Send for Tracepoint {}
// SAFETY: Only the kernel accesses a tracepoint, under a lock of its own.
unsafe impl Sync for Tracepoint {}

/// A search for tracepoints by name.
struct Search<'a, const N: usize> {
    names: [&'a CStr; N],
    found: [Option<Tracepoint>; N],
}

/// A search through the tracepoints of all modules.
#[repr(C)]
struct ModuleSearch<'a, const N: usize> {
    block: c::notifier_block,
    search: Search<'a, N>,
}

impl<const N: usize> Search<'_, N> {
    /// # Safety
    ///
    /// `tracepoint` must be valid as long as this module is loaded.
    unsafe fn consider(&mut self, tracepoint: NonNull<c::tracepoint>) {
        // SAFETY: By the safety requirements `tracepoint` is valid.
        let name = unsafe { (*tracepoint.as_ptr()).name };
        // SAFETY: The name of a tracepoint is a string that is valid as long as the tracepoint.
        let name = unsafe { CStr::from_char_ptr(name) };

        for (wanted, found) in self.names.iter().zip(self.found.iter_mut()) {
            if **wanted == *name {
                // INVARIANT: By the safety requirements `tracepoint` stays valid.
                *found = Some(Tracepoint(tracepoint));
            }
        }
    }
}

/// # Safety
///
/// Must only be called by the tracepoint core, with a tracepoint of the kernel and a [`Search`].
unsafe extern "C" fn consider<const N: usize>(
    tracepoint: *mut c::tracepoint,
    search: *mut ffi::c_void,
) {
    // SAFETY: `search` is the local variable of `find()`, which waits for this call.
    let search = unsafe { &mut *search.cast::<Search<'_, N>>() };

    if let Some(tracepoint) = NonNull::new(tracepoint) {
        // SAFETY: `tracepoint` is part of the kernel, so it is always valid.
        unsafe { search.consider(tracepoint) };
    }
}

/// Searches the tracepoints of a module that is loaded, or being loaded.
///
/// # Safety
///
/// Must only be called by the tracepoint core, with a `tp_module` and a [`ModuleSearch`]'s block.
unsafe extern "C" fn consider_module<const N: usize>(
    block: *mut c::notifier_block,
    state: ffi::c_ulong,
    tp_module: *mut ffi::c_void,
) -> ffi::c_int {
    if state != c::module_state_MODULE_STATE_COMING as ffi::c_ulong {
        return 0;
    }
    // SAFETY: `block` is in the `ModuleSearch` of `find()`, which waits for this call.
    let search = unsafe { &mut (*container_of!(block, ModuleSearch<'_, N>, block)).search };
    // SAFETY: `tp_module` is a valid `struct tp_module`.
    let module = unsafe { (*tp_module.cast::<c::tp_module>()).mod_ };
    // SAFETY: `module` is valid, as the tracepoint core calls this for it.
    let (places, number) = unsafe { ((*module).tracepoints_ptrs, (*module).num_tracepoints) };

    for index in 0..number as usize {
        // The tracepoints of a module are listed as offsets, each relative to its own address
        // (CONFIG_HAVE_ARCH_PREL32_RELOCATIONS).
        let place = places.wrapping_add(index);
        // SAFETY: `place` is one of the module's `num_tracepoints` offsets.
        let offset = unsafe { *place } as isize;
        let tracepoint = place.wrapping_byte_offset(offset).cast_mut();

        if let Some(tracepoint) = NonNull::new(tracepoint.cast()) {
            // SAFETY: `tracepoint` belongs to the module. If its name is searched for, the module
            // stays loaded by the safety requirements of `find()`.
            unsafe { search.consider(tracepoint) };
        }
    }
    0
}

impl Tracepoint {
    /// Finds tracepoints by name in the kernel or, if it has none of them, in modules. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and those of looking into modules.
    ///
    /// # Safety
    ///
    /// A loaded module with tracepoints of these names must stay loaded as long as the calling
    /// module.
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

        // SAFETY: `consider()` is called with a `Search` that nothing else uses during the call.
        unsafe { c::for_each_kernel_tracepoint(Some(consider::<N>), in_kernel) };
        if search.search.found.iter().all(Option::is_none) {
            // This points to all of `search`, as the callback goes from the block to the rest.
            let block = (&raw mut search).cast::<c::notifier_block>();

            // SAFETY: `block` is valid until it is unregistered below. The registration calls back
            // for each loaded module.
            to_result(unsafe { c::register_tracepoint_module_notifier(block) })?;
            // SAFETY: `block` was registered just above.
            unsafe { c::unregister_tracepoint_module_notifier(block) };
        }
        Ok(search.search.found)
    }
}

/// A registered probe. After it is dropped, a CPU may still be calling it: see
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

// SAFETY: A registration is not tied to a task.
unsafe impl Send for Probe {}
// SAFETY: No method takes a shared reference.
unsafe impl Sync for Probe {}

impl Probe {
    /// Registers a probe. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// `probe` must be a function with the prototype of the tracepoint, preceded by an argument
    /// that is a null pointer. [`synchronize_unregister`] must be called before its code goes away.
    pub(crate) unsafe fn register(tracepoint: Tracepoint, probe: *mut ffi::c_void) -> Result<Self> {
        // SAFETY: By its type invariants `tracepoint` is valid. By the safety requirements `probe`
        // has the prototype that it needs.
        to_result(unsafe {
            c::tracepoint_probe_register(tracepoint.0.as_ptr(), probe, ptr::null_mut())
        })?;
        // INVARIANT: `probe` was registered just above.
        Ok(Self { tracepoint, probe })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let tracepoint = self.tracepoint.0.as_ptr();

        // SAFETY: By the type invariants `probe` is registered at `tracepoint`, without data.
        unsafe { c::tracepoint_probe_unregister(tracepoint, self.probe, ptr::null_mut()) };
    }
}

/// Waits until no CPU calls a probe that was unregistered before. May sleep.
pub(crate) fn synchronize_unregister() {
    // SAFETY: The only requirement is that the task may sleep.
    unsafe { c::tracepoint_synchronize_unregister() }
}
