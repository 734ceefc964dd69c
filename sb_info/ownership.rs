// SPDX-License-Identifier: GPL-2.0

//! The locks on the memory of a mount. See `iomap::ownership` for their use.

use core::{
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    prelude::*,
    sync::SetOnce, //
};

use crate::abstractions::sync::{
    rw_semaphore::{
        ReadGuard,
        RwSemaphore, //
    },
    srcu_fast::SrcuFast, //
};

/// The locks on the memory of a mount.
#[pin_data]
pub(crate) struct Ownership {
    /// Protects which file owns which memory.
    #[pin]
    pub(crate) lock: RwSemaphore,
    /// Its read-side critical sections are flushes, reads and writes of memory through the kernel's
    /// own mapping. Populated before any file is mapped.
    users: SetOnce<Pin<KBox<SrcuFast>>>,
    /// A shortcut to the contents of `users`, or null.
    shortcut: AtomicPtr<SrcuFast>,
}

impl Ownership {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            lock <- RwSemaphore::new(
                c"fuse_dax_fmap::Ownership::lock",
                kernel::static_lock_class!(),
            ),
            users: SetOnce::new(),
            shortcut: AtomicPtr::new(ptr::null_mut()),
        })
    }

    /// Allocates what files need. May sleep. Callers must not run concurrently.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn start(&self) -> Result {
        if self.users.as_ref().is_none() {
            let name = c"fuse_dax_fmap::Ownership::users";
            let users = SrcuFast::new(name, kernel::static_lock_class!());
            self.users.populate(KBox::pin_init(users, GFP_KERNEL)?);
        }
        if let Some(users) = self.users() {
            let users = ptr::from_ref(users).cast_mut();
            self.shortcut.store(users, Ordering::Release);
        }
        Ok(())
    }

    /// Waits for flushes, reads and writes that may not have seen what was marked as failed before
    /// this call. Later ones see it, and neither wait nor are waited for. None of them waits for a
    /// server.
    pub(crate) fn wait_for_users(&self) {
        if let Some(users) = self.users.as_ref() {
            users.synchronize_expedited();
        }
    }

    /// Returns the SRCU domain of flushes, reads and writes.
    pub(crate) fn users(&self) -> Option<&SrcuFast> {
        self.users.as_ref().map(|users| &**users)
    }

    /// Takes the ownership lock shared: until the result is dropped, no folio changes its owner,
    /// becomes part of a large folio, or is split. May wait for another task, but not for a server.
    ///
    /// # Errors
    ///
    /// [`EAGAIN`] if `nowait` is set and the lock is not free.
    #[cold]
    #[inline(never)]
    pub(crate) fn lock_shared(&self, nowait: bool) -> Result<OwnershipReadGuard<'_>> {
        let lock = if nowait {
            self.lock.try_read().ok_or(EAGAIN)?
        } else {
            self.lock.read()
        };
        Ok(OwnershipReadGuard { _lock: lock })
    }

    /// Returns the SRCU domain of reads and writes of a mapped file.
    #[inline]
    pub(crate) fn users_of_mapped(&self) -> Option<&SrcuFast> {
        let users = self.shortcut.load(Ordering::Relaxed);

        // SAFETY: `users` is null, or points into `self.users`, which stays as long as `self`. It
        // was stored before the file's map was published.
        unsafe { users.as_ref() }
    }
}

/// The ownership lock, held shared ([`Ownership::lock_shared`]).
#[must_use = "folios may change as soon as this is dropped"]
pub(crate) struct OwnershipReadGuard<'a> {
    _lock: ReadGuard<'a>,
}
