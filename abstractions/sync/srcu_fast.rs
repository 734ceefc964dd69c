// SPDX-License-Identifier: GPL-2.0

//! Sleepable RCU whose readers are fast: two instructions that count, and no barrier.
//!
//! The kernel crate's `Srcu` has readers with barriers. Grace periods are slower here.
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

/// A `struct srcu_struct` for readers by `srcu_read_lock_fast()`.
///
/// # Invariants
///
/// It is initialized for such readers, and has no others.
///
/// Dropping it waits for readers, so it may sleep: for ever if a [`Reader`] was leaked.
#[pin_data(PinnedDrop)]
pub(crate) struct SrcuFast {
    #[pin]
    srcu: Opaque<c::srcu_struct>,
}

// SAFETY: It belongs to no task; only a reader does, see [`Reader`].
unsafe impl Send for SrcuFast {}
// SAFETY: Several tasks may use it at once.
unsafe impl Sync for SrcuFast {}

impl SrcuFast {
    /// May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new(
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self, Error> {
        // INVARIANT: Initialized here, and `read_lock()` is the only way to be a reader.
        try_pin_init!(Self {
            // SAFETY: `slot` is valid for writes, and pinned; `name` and `key` are static.
            srcu <- Opaque::try_ffi_init(move |slot| unsafe {
                to_result(c::fuse_dax_fmap_srcu_init(slot, name.as_char_ptr(), key.as_ptr()))
            }),
        })
    }

    /// For C code that begins and ends a reader.
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::srcu_struct {
        self.srcu.get()
    }

    /// Begins a reader, which may sleep. Readers nest.
    #[inline]
    pub(crate) fn read_lock(&self) -> Reader<'_> {
        // SAFETY: By the type invariants it is initialized for this.
        let counter = unsafe { c::fuse_dax_fmap_srcu_read_lock(self.srcu.get()) };

        // INVARIANT: Begun just now.
        Reader {
            srcu: self,
            counter,
            _same_task: NotThreadSafe,
        }
    }

    /// Waits for all readers that have begun before this. May sleep; must not be called by a
    /// reader.
    pub(crate) fn synchronize_expedited(&self) {
        // SAFETY: By the type invariants it is initialized.
        unsafe { c::synchronize_srcu_expedited(self.srcu.get()) }
    }
}

#[pinned_drop]
impl PinnedDrop for SrcuFast {
    fn drop(self: Pin<&mut Self>) {
        // A reader borrows `self`, but may have been leaked, and readers of C code borrow nothing.
        // With one, `cleanup_srcu_struct()` would leave work that goes on using the memory.
        //
        // SAFETY: By the type invariants it is initialized.
        unsafe { c::synchronize_srcu(self.srcu.get()) };
        // SAFETY: By the type invariants it is initialized, and it has no readers.
        unsafe { c::cleanup_srcu_struct(self.srcu.get()) }
    }
}

/// A reader.
///
/// # Invariants
///
/// The current task has begun it, and `counter` is what it was given.
#[must_use = "the reader ends when it is dropped"]
pub(crate) struct Reader<'a> {
    srcu: &'a SrcuFast,
    counter: usize,
    _same_task: NotThreadSafe,
}

impl Drop for Reader<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants this ends what the task has begun.
        unsafe { c::fuse_dax_fmap_srcu_read_unlock(self.srcu.srcu.get(), self.counter) }
    }
}
