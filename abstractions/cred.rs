// SPDX-License-Identifier: GPL-2.0

//! Credentials of the current task.
//!
//! C header: [`include/linux/cred.h`](srctree/include/linux/cred.h)
//!
//! # Examples
//!
//! ```ignore
//! let mounter = current();
//! // In another task:
//! let file = with(&mounter, || root.open(c"dev/dax0.0", flags::O_RDWR))?;
//! ```

use kernel::{
    cred::Credential,
    ffi,
    sync::aref::ARef,
    task::Kuid, //
};

use crate::bindings::kernel as c;

/// The subjective credentials of the current task. Does not sleep.
pub(crate) fn current() -> ARef<Credential> {
    // SAFETY: The current task is valid, and changes its credentials itself.
    let cred = unsafe { (*c::get_current()).cred };

    // SAFETY: The current task keeps its credentials meanwhile.
    ARef::from(unsafe { Credential::from_ptr(cred) })
}

/// The real user id of credentials.
pub(crate) fn uid(cred: &Credential) -> Kuid {
    // SAFETY: `cred` is valid, and its ids do not change.
    Kuid::from_raw(unsafe { (*cred.as_ptr()).uid })
}

/// Whether the current task has a capability (`CAP_*`) in the initial user namespace. Neither
/// sleeps nor logs.
pub(crate) fn capable_noaudit(capability: u32) -> bool {
    // SAFETY: The namespace is static.
    unsafe { c::ns_capable_noaudit(&raw mut c::init_user_ns, capability as ffi::c_int) }
}

/// Calls `act`, with the current task acting by other credentials meanwhile. Calls nest.
pub(crate) fn with<T>(cred: &Credential, act: impl FnOnce() -> T) -> T {
    // SAFETY: `cred` is valid until the call returns, and is the task's no longer than that.
    let old = unsafe { c::override_creds(cred.as_ptr()) };
    let result = act();

    // SAFETY: `old` are the credentials that the task had, and has kept.
    unsafe { c::revert_creds(old) };
    result
}
