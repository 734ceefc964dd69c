// SPDX-License-Identifier: GPL-2.0

//! A pointer to the superblock of a mount, which kept memory may outlive.

use core::ptr::NonNull;

use kernel::{
    fmt,
    new_spinlock,
    prelude::*,
    str::CString,
    sync::{
        SetOnce,
        SpinLock, //
    }, //
};

use crate::{
    abstractions::fs::{
        file::OpeningFile,
        super_block::SuperBlock, //
    },
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

/// What the log calls a mount: the device number, and the mount point if it is known.
pub(crate) struct MountName {
    device: DeviceNumber,
    name: Option<CString>,
}

impl fmt::Display for MountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_fmt(fmt!("{}", &**name)),
            None => f.write_fmt(fmt!("{}", self.device)),
        }
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
    /// The device number and the mount point, for the log.
    name: SetOnce<CString>,
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
            name: SetOnce::new(),
            sb <- new_spinlock!(sb, "fuse_dax_fmap::Superblock::sb"),
        })
    }

    /// Remembers where the superblock is mounted, as the task that is opening `file` sees it,
    /// unless that is known. When the superblock is made it is not mounted anywhere yet. May sleep.
    pub(crate) fn remember_mount_point(&self, file: &OpeningFile) {
        if self.name.as_ref().is_some() {
            return;
        }
        let name = file
            .mount_point()
            .and_then(|path| CString::try_from_fmt(fmt!("{} ({path})", self.device)).ok());

        // Another task may have been faster.
        if let Some(name) = name {
            self.name.populate(name);
        }
    }

    /// Returns what the log calls the mount, for when this is gone; only the number without memory.
    pub(crate) fn name(&self) -> MountName {
        let name = self.name.as_ref();

        MountName {
            device: self.device,
            name: name.and_then(|name| CString::try_from(&**name).ok()),
        }
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

/// For the log: the device number, and the mount point if a file has been opened.
impl fmt::Display for Superblock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_ref() {
            Some(name) => f.write_fmt(fmt!("{}", &**name)),
            None => f.write_fmt(fmt!("{}", self.device)),
        }
    }
}
