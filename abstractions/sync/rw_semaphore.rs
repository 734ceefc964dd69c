// SPDX-License-Identifier: GPL-2.0

//! Reader-writer semaphores that do not wrap the data that they protect.
//!
//! Many semaphores that a file system uses belong to the kernel: `inode->i_rwsem`,
//! `mapping->invalidate_lock`. A guard keeps the semaphore locked until the same task drops it.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)
//!
//! # Examples
//!
//! ```ignore
//! // SAFETY: `inode` is in use as long as `sem`, and its semaphore is initialized.
//! let sem = unsafe { RwSemaphore::from_raw(&raw mut (*inode).i_rwsem) };
//! let _shared = sem.read_killable()?;
//! ```

use core::mem::ManuallyDrop;

use kernel::{
    error::to_result,
    ffi,
    prelude::*,
    str::CStr,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use crate::bindings::kernel as c;

/// A `struct rw_semaphore`.
///
/// # Invariants
///
/// The semaphore is initialized.
#[pin_data]
#[repr(transparent)]
pub(crate) struct RwSemaphore {
    #[pin]
    sem: Opaque<c::rw_semaphore>,
}

// SAFETY: A semaphore is not tied to a task while it is unlocked. The guards are not [`Send`].
unsafe impl Send for RwSemaphore {}
// SAFETY: Several tasks may use a semaphore at once.
unsafe impl Sync for RwSemaphore {}

impl RwSemaphore {
    /// Creates a semaphore with a lock class of its own.
    pub(crate) fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        // INVARIANT: The semaphore is initialized here.
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes, and pinned; `name` and `key` are static.
            sem <- Opaque::ffi_init(move |slot| unsafe {
                c::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Creates a reference to an [`RwSemaphore`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `sem` must point to a semaphore that is initialized, and stays valid, for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(sem: *mut c::rw_semaphore) -> &'a Self {
        // SAFETY: `sem` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*sem.cast() }
    }

    /// Locks the semaphore shared.
    #[inline]
    pub(crate) fn read(&self) -> ReadGuard<'_> {
        // SAFETY: By the type invariants the semaphore is initialized.
        unsafe { c::down_read(self.sem.get()) };
        ReadGuard::of(self)
    }

    /// Locks the semaphore exclusively.
    #[inline]
    pub(crate) fn write(&self) -> WriteGuard<'_> {
        // SAFETY: By the type invariants the semaphore is initialized.
        unsafe { c::down_write(self.sem.get()) };
        WriteGuard::of(self)
    }

    /// Locks the semaphore shared. The wait is killable.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed.
    #[inline]
    pub(crate) fn read_killable(&self) -> Result<ReadGuard<'_>> {
        // SAFETY: By the type invariants the semaphore is initialized.
        let ret = unsafe { c::down_read_killable(self.sem.get()) };
        locked(ret)?;
        Ok(ReadGuard::of(self))
    }

    /// Locks the semaphore exclusively. The wait is killable.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed.
    #[inline]
    pub(crate) fn write_killable(&self) -> Result<WriteGuard<'_>> {
        // SAFETY: By the type invariants the semaphore is initialized.
        let ret = unsafe { c::down_write_killable(self.sem.get()) };
        locked(ret)?;
        Ok(WriteGuard::of(self))
    }

    /// Tries to lock the semaphore shared, without waiting.
    #[inline]
    pub(crate) fn try_read(&self) -> Option<ReadGuard<'_>> {
        // SAFETY: By the type invariants the semaphore is initialized.
        let locked = unsafe { c::down_read_trylock(self.sem.get()) };
        (locked != 0).then(|| ReadGuard::of(self))
    }

    /// Tries to lock the semaphore exclusively, without waiting.
    #[inline]
    pub(crate) fn try_write(&self) -> Option<WriteGuard<'_>> {
        // SAFETY: By the type invariants the semaphore is initialized.
        let locked = unsafe { c::down_write_trylock(self.sem.get()) };
        (locked != 0).then(|| WriteGuard::of(self))
    }
}

/// An inline fast path for [`to_result`], which is a function call.
#[inline]
fn locked(ret: ffi::c_int) -> Result {
    if ret == 0 {
        return Ok(());
    }
    to_result(ret)
}

/// A guard for a semaphore that is locked shared.
///
/// # Invariants
///
/// The current task has locked `sem` shared.
#[must_use = "the semaphore is unlocked when the guard is dropped"]
pub(crate) struct ReadGuard<'a> {
    sem: &'a RwSemaphore,
    _same_task: NotThreadSafe,
}

impl<'a> ReadGuard<'a> {
    #[inline]
    fn of(sem: &'a RwSemaphore) -> Self {
        // INVARIANT: The callers have locked the semaphore.
        Self {
            sem,
            _same_task: NotThreadSafe,
        }
    }
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the current task has locked the semaphore shared.
        unsafe { c::up_read(self.sem.sem.get()) }
    }
}

/// A guard for a semaphore that is locked exclusively.
///
/// # Invariants
///
/// The current task has locked `sem` exclusively.
#[must_use = "the semaphore is unlocked when the guard is dropped"]
pub(crate) struct WriteGuard<'a> {
    sem: &'a RwSemaphore,
    _same_task: NotThreadSafe,
}

impl<'a> WriteGuard<'a> {
    #[inline]
    fn of(sem: &'a RwSemaphore) -> Self {
        // INVARIANT: The callers have locked the semaphore.
        Self {
            sem,
            _same_task: NotThreadSafe,
        }
    }
}

impl WriteGuard<'_> {
    /// Leaves the semaphore locked, for [`Self::from_raw`].
    #[inline]
    pub(crate) fn into_raw(self) -> *mut c::rw_semaphore {
        ManuallyDrop::new(self).sem.sem.get()
    }

    /// Creates a guard from [`Self::into_raw`].
    ///
    /// # Safety
    ///
    /// `sem` must be from [`Self::into_raw`], by the same task, and be used once. The semaphore
    /// must stay valid as long as the guard.
    #[inline]
    pub(crate) unsafe fn from_raw(sem: *mut c::rw_semaphore) -> Self {
        // SAFETY: By the safety requirements `sem` is valid.
        Self::of(unsafe { RwSemaphore::from_raw(sem) })
    }
}

impl Drop for WriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the current task has locked the semaphore exclusively.
        unsafe { c::up_write(self.sem.sem.get()) }
    }
}
