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

/// Returns the subjective credentials of the current task. Does not sleep.
pub(crate) fn current() -> ARef<Credential> {
    // SAFETY: The current task is valid, and no other task changes its credentials.
    let cred = unsafe { (*c::get_current()).cred };

    // SAFETY: The current task holds a reference to `cred` while another one is taken.
    ARef::from(unsafe { Credential::from_ptr(cred) })
}

/// Returns the real user id of `cred`.
pub(crate) fn uid(cred: &Credential) -> Kuid {
    // SAFETY: `cred` is valid, and its ids do not change.
    Kuid::from_raw(unsafe { (*cred.as_ptr()).uid })
}

/// Returns true if the current task has a capability (`CAP_*`) in the initial user namespace.
/// Neither sleeps nor logs.
pub(crate) fn capable_noaudit(capability: u32) -> bool {
    // SAFETY: The namespace is static.
    unsafe { c::ns_capable_noaudit(&raw mut c::init_user_ns, capability as ffi::c_int) }
}

/// Calls `act` with `cred` as the subjective credentials of the current task. Calls may be nested.
pub(crate) fn with<T>(cred: &Credential, act: impl FnOnce() -> T) -> T {
    // SAFETY: `cred` is valid until this returns, and is reverted before.
    let old = unsafe { c::override_creds(cred.as_ptr()) };
    let result = act();

    // SAFETY: `old` are the credentials that were overridden, which the task still holds.
    unsafe { c::revert_creds(old) };
    result
}
