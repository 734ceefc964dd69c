// SPDX-License-Identifier: GPL-2.0

//! What the module hangs into the kernel, and how it comes off again.

use core::{
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    container_of,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi,
    prelude::*,
    sync::atomic::Relaxed, //
};

use crate::{
    bindings::kernel as c,
    daxdev, //
};

use super::{
    init::{
        request_end,
        request_send,
        OFFERS,
        UNBOUND, //
    },
    map_in_open::WANTED,
    open::{
        FSNOTIFY_OPS,
        GROUP, //
    },
    MAKING_TABLES,
    MOUNTS, //
};

/// The probes, and the group of marks.
///
/// Dropped when no mount is bound, no offer is out and no ops are registered: each of them keeps
/// the module.
pub(crate) struct Hooks {
    group: NonNull<c::fsnotify_group>,
    send: NonNull<c::tracepoint>,
    end: NonNull<c::tracepoint>,
    /// How many probes are registered.
    probes: usize,
}

// SAFETY: Neither belongs to a task.
unsafe impl Send for Hooks {}
// SAFETY: Nothing is done with a shared reference.
unsafe impl Sync for Hooks {}

/// FUSE's two tracepoints, as far as they have been found.
#[derive(Default)]
struct Found {
    send: Option<NonNull<c::tracepoint>>,
    end: Option<NonNull<c::tracepoint>>,
}

/// # Safety
///
/// Called with a valid tracepoint, and a [`Found`].
unsafe extern "C" fn consider(tracepoint: *mut c::tracepoint, found: *mut ffi::c_void) {
    // SAFETY: By the safety requirements.
    let (name, found) = unsafe {
        (
            CStr::from_char_ptr((*tracepoint).name),
            &mut *found.cast::<Found>(),
        )
    };
    match name.to_bytes() {
        b"fuse_request_send" => found.send = NonNull::new(tracepoint),
        b"fuse_request_end" => found.end = NonNull::new(tracepoint),
        _ => (),
    }
}

/// Looks through the tracepoints of a module that is loaded, or being loaded.
///
/// # Safety
///
/// Called by the tracepoint core with a `struct tp_module`, for a block in a [`ModuleSearch`].
unsafe extern "C" fn consider_module(
    block: *mut c::notifier_block,
    state: ffi::c_ulong,
    tp_module: *mut ffi::c_void,
) -> ffi::c_int {
    if state == c::module_state_MODULE_STATE_COMING as ffi::c_ulong {
        // SAFETY: By the safety requirements. A module lists its tracepoints as offsets from where
        // each of them stands (CONFIG_HAVE_ARCH_PREL32_RELOCATIONS).
        unsafe {
            let search = container_of!(block, ModuleSearch, block);
            let module = (*tp_module.cast::<c::tp_module>()).mod_;

            for index in 0..(*module).num_tracepoints as usize {
                let place = (*module).tracepoints_ptrs.add(index);
                let tracepoint = place.byte_offset(*place as isize).cast_mut().cast();
                consider(tracepoint, ptr::addr_of_mut!((*search).found).cast());
            }
        }
    }
    0
}

/// A look at the modules' tracepoints.
#[repr(C)]
struct ModuleSearch {
    block: c::notifier_block,
    found: Found,
}

/// Finds FUSE's tracepoints, in the kernel or in a module.
///
/// If FUSE is a module this one depends on it by its symbols, so it is loaded already and stays.
fn find_tracepoints() -> Result<(NonNull<c::tracepoint>, NonNull<c::tracepoint>)> {
    let mut search = ModuleSearch {
        block: c::notifier_block {
            notifier_call: Some(consider_module),
            ..pin_init::zeroed()
        },
        found: Found::default(),
    };

    // SAFETY: The callback gets what it expects.
    unsafe {
        c::for_each_kernel_tracepoint(Some(consider), ptr::addr_of_mut!(search.found).cast());
    }
    if search.found.send.is_none() {
        // SAFETY: Registering calls back for each loaded module; the block is valid until it is
        // unregistered, at once.
        unsafe {
            let block = ptr::addr_of_mut!(search.block);
            to_result(c::register_tracepoint_module_notifier(block))?;
            c::unregister_tracepoint_module_notifier(block);
        }
    }
    search.found.send.zip(search.found.end).ok_or(ENOENT)
}

impl Hooks {
    /// Gets between the VFS and FUSE. Called once, while the module is loaded.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if this kernel's FUSE has no tracepoints; [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Called once, before the first use of the locks and the limit.
        unsafe {
            UNBOUND.init();
            OFFERS.init();
            WANTED.init();
            MOUNTS.init();
            MAKING_TABLES.init();
        }
        let (send, end) = find_tracepoints().inspect_err(|_| {
            pr_err!("this kernel's FUSE has no tracepoints: CONFIG_FUSE_FS and CONFIG_TRACEPOINTS are needed\n");
        })?;

        // SAFETY: The table is static.
        let group = from_err_ptr(unsafe { c::fsnotify_alloc_group(&FSNOTIFY_OPS, 0) })?;
        let group = NonNull::new(group).ok_or(ENOMEM)?;
        // Before nearly all other groups: a fanotify listener gets its own file with its event, and
        // that has to find the gate in the inode. Among groups of this class the address decides.
        // SAFETY: The group is ours and has no marks yet.
        unsafe { (*group.as_ptr()).priority = c::fsnotify_group_prio_FSNOTIFY_PRIO_PRE_CONTENT };
        GROUP.store(group.as_ptr() as usize, Relaxed);

        // The end first: an offer whose end is not seen would stay for ever.
        let mut hooks = Self {
            group,
            send,
            end,
            probes: 0,
        };
        for (tracepoint, probe) in hooks.probes() {
            // SAFETY: The probe has the signature of the tracepoint.
            to_result(unsafe {
                c::tracepoint_probe_register(tracepoint.as_ptr(), probe, ptr::null_mut())
            })?;
            hooks.probes += 1;
        }
        Ok(hooks)
    }

    /// What is probed with what, in the order of registration.
    fn probes(&self) -> [(NonNull<c::tracepoint>, *mut ffi::c_void); 2] {
        [
            (self.end, request_end as *mut ffi::c_void),
            (self.send, request_send as *mut ffi::c_void),
        ]
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        for (tracepoint, probe) in self.probes().into_iter().take(self.probes).rev() {
            // SAFETY: Registered in `new()`.
            unsafe { c::tracepoint_probe_unregister(tracepoint.as_ptr(), probe, ptr::null_mut()) };
        }
        // SAFETY: No probe is called any more after this. No mount is bound, so there are no marks
        // but those that fsnotify is about to free, and the group is ours alone.
        unsafe {
            c::tracepoint_synchronize_unregister();
            c::fsnotify_wait_marks_destroyed();
            c::fsnotify_put_group(self.group.as_ptr());
        }
        // Somebody may have given up the last reference to the module in code of ours, or reported
        // a failure to a holder that is gone, and still be on the way out.
        daxdev::drain();
        // Mapped files are freed by RCU callbacks of ours.
        // SAFETY: May sleep, as here.
        unsafe {
            c::rcu_barrier();
            c::synchronize_rcu_tasks();
        }
    }
}
