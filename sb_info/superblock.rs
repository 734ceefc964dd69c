// SPDX-License-Identifier: GPL-2.0

//! A pointer to the superblock of a mount, which kept memory may outlive.

use core::ptr::NonNull;

use kernel::{
    fmt,
    new_spinlock,
    prelude::*,
    sync::SpinLock, //
};

use crate::{
    abstractions::fs::super_block::SuperBlock,
    bindings::kernel as c, //
};

/// A device number, as in /proc/self/mountinfo.
#[derive(Clone, Copy)]
pub(crate) struct DeviceNumber(pub(crate) c::dev_t);

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
    }
}

/// The superblock of a mount, which kept memory may outlive.
///
/// # Invariants
///
/// The pointer in `sb` is valid. It is `None` from `put_super()` on.
#[pin_data]
pub(crate) struct Superblock {
    pub(crate) device: DeviceNumber,
    #[pin]
    pub(super) sb: SpinLock<SuperblockPtr>,
}

pub(super) struct SuperblockPtr(pub(super) Option<NonNull<SuperBlock>>);

// SAFETY: A superblock is not tied to a task.
unsafe impl Send for SuperblockPtr {}

impl Superblock {
    /// # Safety
    ///
    /// [`Superblock::is_gone`] is called before `sb` is freed.
    pub(crate) unsafe fn new(sb: &SuperBlock) -> impl PinInit<Self> {
        let device = DeviceNumber(sb.dev());
        let sb = SuperblockPtr(Some(NonNull::from(sb)));

        // INVARIANT: `sb` is valid until `is_gone()`, by the safety requirements.
        pin_init!(Self {
            device,
            sb <- new_spinlock!(sb, "fuse_dax_fmap::Superblock::sb"),
        })
    }

    /// Returns true if [`Self::is_gone`] has been called.
    pub(crate) fn has_gone(&self) -> bool {
        self.sb.lock().0.is_none()
    }

    /// Records that the superblock is about to be freed.
    pub(crate) fn is_gone(&self) {
        self.sb.lock().0 = None;
    }
}

impl fmt::Display for Superblock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("{}", self.device))
    }
}
