// SPDX-License-Identifier: GPL-2.0

//! XArrays that number their elements.
//!
//! Unlike the kernel crate's `XArray`, the array does not own its elements, it chooses their
//! numbers, and a walk through it can stop anywhere and go on later: the position is a number, and
//! no memory.
//!
//! C header: [`include/linux/xarray.h`](srctree/include/linux/xarray.h)
//!
//! # Examples
//!
//! ```ignore
//! // SAFETY: `element` is removed before it goes away.
//! let number = unsafe { array.insert(element) }?;
//!
//! let mut from = Some(0);
//! while let Some(number) = from.and_then(|from| array.next(from)) {
//!     array.with(number, |element| pr_info!("{number}: {element}\n"));
//!     from = number.checked_add(1);
//! }
//! array.remove(number);
//! ```

use core::{
    marker::PhantomData,
    ptr, //
};

use kernel::{
    error::to_result,
    ffi,
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use crate::bindings::kernel as c;

/// An array of elements that are owned elsewhere, each with a number.
///
/// # Invariants
///
/// `xa` is initialized. Its entries are pointers to elements that are valid, and stay so until they
/// are removed.
#[pin_data(PinnedDrop)]
pub(crate) struct Numbered<T> {
    #[pin]
    xa: Opaque<c::xarray>,
    _elements: PhantomData<*const T>,
}

// SAFETY: An array is not tied to a task, and its elements may be shared.
unsafe impl<T: Sync> Send for Numbered<T> {}
// SAFETY: The array has a lock of its own, and its elements may be shared.
unsafe impl<T: Sync> Sync for Numbered<T> {}

impl<T: Sync> Numbered<T> {
    /// Creates an empty array, whose memory will be accounted to the tasks that insert elements.
    pub(crate) fn new() -> impl PinInit<Self> {
        let flags = c::XA_FLAGS_ALLOC | c::XA_FLAGS_ACCOUNT;

        // INVARIANT: The array is initialized here, and empty.
        pin_init!(Self {
            xa <- Opaque::ffi_init(|xa| {
                // SAFETY: `xa` is valid for writes, and pinned.
                unsafe { c::xa_init_flags(xa, flags) }
            }),
            _elements: PhantomData,
        })
    }

    fn lock(&self) -> Locked<'_, T> {
        // SAFETY: By the type invariants the array is initialized.
        unsafe { c::xa_lock(self.xa.get()) };
        // INVARIANT: The array was locked just above.
        Locked {
            array: self,
            _same_task: NotThreadSafe,
        }
    }

    /// Inserts an element, and returns its number, the smallest that no other one has. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// The element must stay valid until [`Self::remove`] of its number has returned.
    pub(crate) unsafe fn insert(&self, element: &T) -> Result<u32> {
        let limit = c::xa_limit {
            max: u32::MAX,
            min: 0,
        };
        let entry = ptr::from_ref(element).cast_mut().cast();
        let mut number = 0;
        let _locked = self.lock();

        // INVARIANT: The element stays valid, by the safety requirements.
        // SAFETY: By the type invariants the array is initialized, and it is locked. The function
        // unlocks it while it sleeps.
        to_result(unsafe {
            c::__xa_alloc(self.xa.get(), &mut number, entry, limit, c::GFP_KERNEL)
        })?;
        Ok(number)
    }

    /// Removes an element. No task looks at it any more when this returns. Does not sleep.
    pub(crate) fn remove(&self, number: u32) {
        let _locked = self.lock();

        // SAFETY: By the type invariants the array is initialized, and it is locked.
        unsafe { c::__xa_erase(self.xa.get(), number as ffi::c_ulong) };
    }

    /// Returns the first number from `from` on that an element has.
    pub(crate) fn next(&self, from: u32) -> Option<u32> {
        let (mut number, last) = (from as ffi::c_ulong, u32::MAX as ffi::c_ulong);

        // SAFETY: By the type invariants the array is initialized. It may change concurrently,
        // under RCU.
        let entry = unsafe { c::xa_find(self.xa.get(), &mut number, last, c::XA_PRESENT) };
        u32::try_from(number).ok().filter(|_| !entry.is_null())
    }

    /// Calls `look` with the element that has a number, if there is one, with the array locked.
    /// `look` must not sleep.
    pub(crate) fn with<R>(&self, number: u32, look: impl FnOnce(&T) -> R) -> Option<R> {
        let _locked = self.lock();

        // SAFETY: By the type invariants the array is initialized.
        let entry = unsafe { c::xa_load(self.xa.get(), number as ffi::c_ulong) };
        // SAFETY: By the type invariants it is null, or an element that is not removed before the
        // array is unlocked.
        unsafe { entry.cast::<T>().as_ref() }.map(look)
    }
}

#[pinned_drop]
impl<T> PinnedDrop for Numbered<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the array is initialized. Nothing uses it any more.
        unsafe { c::xa_destroy(self.xa.get()) };
    }
}

/// The lock of an array.
///
/// # Invariants
///
/// This task has locked the array.
struct Locked<'a, T: Sync> {
    array: &'a Numbered<T>,
    _same_task: NotThreadSafe,
}

impl<T: Sync> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this task has locked the array.
        unsafe { c::xa_unlock(self.array.xa.get()) }
    }
}
