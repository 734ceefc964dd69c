// SPDX-License-Identifier: GPL-2.0

//! The locks on the memory of a mount. What they are for is in `iomap`.

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
    /// On who has which memory.
    #[pin]
    pub(crate) lock: RwSemaphore,
    /// A task that flushes, reads or writes memory by the kernel's own mapping of it is a reader.
    /// There before any file is mapped.
    users: SetOnce<Pin<KBox<SrcuFast>>>,
    /// The same, found faster; or null.
    shortcut: AtomicPtr<SrcuFast>,
}

impl Ownership {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            lock <- RwSemaphore::new(
                c"fuse_dax_fmap::Tenants::lock",
                kernel::static_lock_class!(),
            ),
            users: SetOnce::new(),
            shortcut: AtomicPtr::new(ptr::null_mut()),
        })
    }

    /// Makes what files need. May sleep. One task at a time.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn start(&self) -> Result {
        if self.users.as_ref().is_none() {
            let name = c"fuse_dax_fmap::Tenants::users";
            let users = SrcuFast::new(name, kernel::static_lock_class!());
            self.users.populate(KBox::pin_init(users, GFP_KERNEL)?);
        }
        if let Some(users) = self.users() {
            let users = ptr::from_ref(users).cast_mut();
            self.shortcut.store(users, Ordering::Release);
        }
        Ok(())
    }

    /// Waits for flushes, reads and writes that do not know what was marked as failed before this.
    /// Those that begin meanwhile know, and neither wait nor are waited for. None of them waits for
    /// a server.
    pub(crate) fn wait_for_users(&self) {
        if let Some(users) = self.users.as_ref() {
            users.synchronize_expedited();
        }
    }

    /// What flushes, reads and writes are readers of.
    pub(crate) fn users(&self) -> Option<&SrcuFast> {
        self.users.as_ref().map(|users| &**users)
    }

    /// Takes the lock on ownership shared: no folio changes its owner, is put together or taken
    /// apart until the result is dropped. May wait for another task, but not for a server.
    ///
    /// # Errors
    ///
    /// [`EAGAIN`] if it would have to wait and must not.
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

    /// What reads and writes of a mapped file are readers of.
    #[inline]
    pub(crate) fn users_of_mapped(&self) -> Option<&SrcuFast> {
        let users = self.shortcut.load(Ordering::Relaxed);

        // SAFETY: If it is not null it is what `users` has, which stays as long as `self`. It was
        // stored before the file's map was published.
        unsafe { users.as_ref() }
    }
}

/// The lock on ownership, taken shared ([`Ownership::lock_shared`]).
#[must_use = "folios may change as soon as this is dropped"]
pub(crate) struct OwnershipReadGuard<'a> {
    _lock: ReadGuard<'a>,
}
