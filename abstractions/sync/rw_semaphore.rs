// SPDX-License-Identifier: GPL-2.0

//! Reader-writer semaphores that do not wrap what they protect.
//!
//! Most of those that a file system meets belong to the kernel: `inode->i_rwsem`,
//! `mapping->invalidate_lock`. A guard keeps the semaphore locked until it is dropped, by the same
//! task.
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

// SAFETY: A semaphore belongs to no task; only a locked one does, see the guards.
unsafe impl Send for RwSemaphore {}
// SAFETY: Several tasks may use a semaphore at once.
unsafe impl Sync for RwSemaphore {}

impl RwSemaphore {
    /// A semaphore of a lock class of its own, unlocked.
    pub(crate) fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        // INVARIANT: Initialized here.
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes, and pinned; `name` and `key` are static.
            sem <- Opaque::ffi_init(move |slot| unsafe {
                c::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// # Safety
    ///
    /// `sem` points to an initialized semaphore, which stays so for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(sem: *mut c::rw_semaphore) -> &'a Self {
        // SAFETY: `sem` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*sem.cast() }
    }

    /// Locks it shared.
    #[inline]
    pub(crate) fn read(&self) -> ReadGuard<'_> {
        // SAFETY: By the type invariants the semaphore is initialized.
        unsafe { c::down_read(self.sem.get()) };
        ReadGuard::of(self)
    }

    /// Locks it exclusively.
    #[inline]
    pub(crate) fn write(&self) -> WriteGuard<'_> {
        // SAFETY: By the type invariants the semaphore is initialized.
        unsafe { c::down_write(self.sem.get()) };
        WriteGuard::of(self)
    }

    /// Locks it shared, unless the task is killed first.
    ///
    /// # Errors
    ///
    /// [`EINTR`].
    #[inline]
    pub(crate) fn read_killable(&self) -> Result<ReadGuard<'_>> {
        // SAFETY: By the type invariants the semaphore is initialized.
        let ret = unsafe { c::down_read_killable(self.sem.get()) };
        locked(ret)?;
        Ok(ReadGuard::of(self))
    }

    /// Locks it exclusively, unless the task is killed first.
    ///
    /// # Errors
    ///
    /// [`EINTR`].
    #[inline]
    pub(crate) fn write_killable(&self) -> Result<WriteGuard<'_>> {
        // SAFETY: By the type invariants the semaphore is initialized.
        let ret = unsafe { c::down_write_killable(self.sem.get()) };
        locked(ret)?;
        Ok(WriteGuard::of(self))
    }

    /// Locks it shared if that is possible at once.
    #[inline]
    pub(crate) fn try_read(&self) -> Option<ReadGuard<'_>> {
        // SAFETY: By the type invariants the semaphore is initialized.
        let locked = unsafe { c::down_read_trylock(self.sem.get()) };
        (locked != 0).then(|| ReadGuard::of(self))
    }

    /// Locks it exclusively if that is possible at once.
    #[inline]
    pub(crate) fn try_write(&self) -> Option<WriteGuard<'_>> {
        // SAFETY: By the type invariants the semaphore is initialized.
        let locked = unsafe { c::down_write_trylock(self.sem.get()) };
        (locked != 0).then(|| WriteGuard::of(self))
    }
}

/// `to_result()`, which is a call, for what nearly always succeeds.
#[inline]
fn locked(ret: ffi::c_int) -> Result {
    if ret == 0 {
        return Ok(());
    }
    to_result(ret)
}

/// A semaphore that is locked shared.
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
        // INVARIANT: Only called with it locked.
        Self {
            sem,
            _same_task: NotThreadSafe,
        }
    }
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants this task has locked it shared.
        unsafe { c::up_read(self.sem.sem.get()) }
    }
}

/// A semaphore that is locked exclusively.
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
        // INVARIANT: Only called with it locked.
        Self {
            sem,
            _same_task: NotThreadSafe,
        }
    }
}

impl WriteGuard<'_> {
    /// Leaves it locked, for [`Self::from_raw`].
    #[inline]
    pub(crate) fn into_raw(self) -> *mut c::rw_semaphore {
        ManuallyDrop::new(self).sem.sem.get()
    }

    /// # Safety
    ///
    /// `sem` is from [`Self::into_raw`], by the same task, and is used once. The semaphore is valid
    /// as long as the guard.
    #[inline]
    pub(crate) unsafe fn from_raw(sem: *mut c::rw_semaphore) -> Self {
        // SAFETY: `sem` is valid, by the safety requirements.
        Self::of(unsafe { RwSemaphore::from_raw(sem) })
    }
}

impl Drop for WriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants this task has locked it exclusively.
        unsafe { c::up_write(self.sem.sem.get()) }
    }
}
