// SPDX-License-Identifier: GPL-2.0

//! Misc devices that handle ioctl(2).
//!
//! The kernel crate has a type for this. Before 7.3 its operations have no owner, so that an open
//! file does not keep the module, and its device nodes can only be opened by root.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)
//!
//! # Examples
//!
//! ```ignore
//! struct Answers;
//!
//! impl Ioctl for Answers {
//!     type Module = crate::LocalModule;
//!
//!     fn ioctl(_cmd: u32, _arg: UserPtr) -> Result<ffi::c_long> {
//!         Ok(42)
//!     }
//! }
//!
//! let device = KBox::pin_init(MiscDevice::new::<Answers>(c"example", 0o666), GFP_KERNEL)?;
//! ```

use core::marker::PhantomData;

use kernel::{
    error::to_result,
    ffi,
    prelude::*,
    str::CStr,
    types::Opaque,
    uaccess::UserPtr, //
};

use crate::{
    bindings::kernel as c,
    compat::module::{
        this_module,
        ModuleMetadata, //
    }, //
};

/// Handles ioctl(2) on a misc device.
pub(crate) trait Ioctl: 'static {
    /// The module that this code is part of. An open file keeps it.
    type Module: ModuleMetadata;

    /// Handles a command. `arg` is the third argument of ioctl(2), from a 64-bit or 32-bit program.
    fn ioctl(cmd: u32, arg: UserPtr) -> Result<ffi::c_long>;
}

/// A registered misc device. Dropping it removes the device; files that are open stay usable.
///
/// # Invariants
///
/// `inner` is registered.
#[pin_data(PinnedDrop)]
pub(crate) struct MiscDevice {
    #[pin]
    inner: Opaque<c::miscdevice>,
}

// SAFETY: A misc device is not tied to a task.
unsafe impl Send for MiscDevice {}
// SAFETY: There are no methods.
unsafe impl Sync for MiscDevice {}

impl MiscDevice {
    /// Registers a device, and asks for a node in /dev with this name and `mode`.
    ///
    /// # Errors
    ///
    /// Those of `misc_register()`.
    pub(crate) fn new<T: Ioctl>(name: &'static CStr, mode: u16) -> impl PinInit<Self, Error> {
        // INVARIANT: `inner` is registered here.
        try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(move |slot: *mut c::miscdevice| {
                let device = c::miscdevice {
                    minor: c::MISC_DYNAMIC_MINOR as ffi::c_int,
                    name: name.as_char_ptr(),
                    fops: Ops::<T>::FILE,
                    mode,
                    ..pin_init::zeroed()
                };

                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(device) };
                // SAFETY: `slot` was written, and is pinned until `drop()` has removed the device.
                to_result(unsafe { c::misc_register(slot) })
            }),
        })
    }
}

#[pinned_drop]
impl PinnedDrop for MiscDevice {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants `inner` is registered.
        unsafe { c::misc_deregister(self.inner.get()) }
    }
}

/// The operations of a device's files.
struct Ops<T>(PhantomData<T>);

impl<T: Ioctl> Ops<T> {
    const FILE: &'static c::file_operations = &c::file_operations {
        owner: this_module::<T::Module>().as_ptr(),
        unlocked_ioctl: Some(Self::ioctl),
        compat_ioctl: Some(c::compat_ptr_ioctl),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// The VFS calls this for an open file.
    unsafe extern "C" fn ioctl(
        _: *mut c::file,
        cmd: ffi::c_uint,
        arg: ffi::c_ulong,
    ) -> ffi::c_long {
        T::ioctl(cmd, UserPtr::from_addr(arg))
            .unwrap_or_else(|errno| errno.to_errno() as ffi::c_long)
    }
}
