// SPDX-License-Identifier: GPL-2.0

//! Sleepable RCU with fast readers, which have no memory barriers.
//!
//! Readers of the kernel crate's `Srcu` have memory barriers. Here grace periods are slower.
//!
//! C header: [`include/linux/srcu.h`](srctree/include/linux/srcu.h)
//!
//! # Examples
//!
//! ```ignore
//! let srcu = KBox::pin_init(SrcuFast::new(c"example", static_lock_class!()), GFP_KERNEL)?;
//! let reader = srcu.read_lock();
//! // What was published before is not freed here.
//! drop(reader);
//! srcu.synchronize_expedited();
//! ```

use kernel::{
    error::to_result,
    prelude::*,
    str::CStr,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

use crate::bindings::kernel as c;

/// A `struct srcu_struct` for readers that use `srcu_read_lock_fast()`.
///
/// # Invariants
///
/// `srcu` is initialized for such readers, and has no others.
///
/// Dropping it waits for readers, so it may sleep: forever if a [`Reader`] was leaked.
#[pin_data(PinnedDrop)]
pub(crate) struct SrcuFast {
    #[pin]
    srcu: Opaque<c::srcu_struct>,
}

// SAFETY: An SRCU is not tied to a task; only a [`Reader`] is.
unsafe impl Send for SrcuFast {}
// SAFETY: Several tasks may use an SRCU at once.
unsafe impl Sync for SrcuFast {}

impl SrcuFast {
    /// Initializes an SRCU. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new(
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self, Error> {
        // INVARIANT: `srcu` is initialized here, and readers only begin in `read_lock()`, or in C
        // code that uses the same flavour.
        try_pin_init!(Self {
            // SAFETY: `slot` is valid for writes, and pinned; `name` and `key` are static.
            srcu <- Opaque::try_ffi_init(move |slot| unsafe {
                to_result(c::fuse_dax_fmap_srcu_init(slot, name.as_char_ptr(), key.as_ptr()))
            }),
        })
    }

    /// Returns the raw pointer, for C code with readers of its own.
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::srcu_struct {
        self.srcu.get()
    }

    /// Begins a read-side critical section. Readers may sleep, and may be nested.
    #[inline]
    pub(crate) fn read_lock(&self) -> Reader<'_> {
        // SAFETY: By the type invariants `srcu` is initialized for fast readers.
        let counter = unsafe { c::fuse_dax_fmap_srcu_read_lock(self.srcu.get()) };

        // INVARIANT: The critical section was begun just above.
        Reader {
            srcu: self,
            counter,
            _same_task: NotThreadSafe,
        }
    }

    /// Waits for all readers that have begun before. May sleep. Must not be called by a reader.
    pub(crate) fn synchronize_expedited(&self) {
        // SAFETY: By the type invariants `srcu` is initialized.
        unsafe { c::synchronize_srcu_expedited(self.srcu.get()) }
    }
}

#[pinned_drop]
impl PinnedDrop for SrcuFast {
    fn drop(self: Pin<&mut Self>) {
        // A reader borrows `self`, but may have been leaked, and readers in C code borrow nothing.
        // If there were one, `cleanup_srcu_struct()` would leave work that still uses the memory.
        //
        // SAFETY: By the type invariants `srcu` is initialized.
        unsafe { c::synchronize_srcu(self.srcu.get()) };
        // SAFETY: By the type invariants `srcu` is initialized. It has no readers any more.
        unsafe { c::cleanup_srcu_struct(self.srcu.get()) }
    }
}

/// Evidence of a read-side critical section.
///
/// # Invariants
///
/// The current task has begun the critical section, and `counter` is what it got there.
#[must_use = "the reader ends when it is dropped"]
pub(crate) struct Reader<'a> {
    srcu: &'a SrcuFast,
    counter: usize,
    _same_task: NotThreadSafe,
}

impl Drop for Reader<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants this task has begun the critical section, with `counter`.
        unsafe { c::fuse_dax_fmap_srcu_read_unlock(self.srcu.srcu.get(), self.counter) }
    }
}
