// SPDX-License-Identifier: GPL-2.0

//! I/O buffers, of either direction.
//!
//! The kernel crate's `IovIterSource` and `IovIterDest` are for one direction, and panic on an
//! iterator of the other. The type here is for both.
//!
//! C header: [`include/linux/uio.h`](srctree/include/linux/uio.h)

use core::mem::MaybeUninit;

use kernel::{
    ffi,
    types::Opaque, //
};

use crate::bindings::kernel as c;

/// A `struct iov_iter`.
///
/// Callers only get a `&IovIter`: its buffer may be freed before that of another iterator, so two
/// of them must not be swapped.
///
/// # Invariants
///
/// The iterator is valid, and so is its buffer for its direction, though pages of a user's buffer
/// may not be present. Only one task uses the iterator.
#[repr(transparent)]
pub(crate) struct IovIter(Opaque<c::iov_iter>);

impl IovIter {
    /// Creates a reference to an [`IovIter`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// For `'a` `iter` and its buffer must be valid, and nothing else may use `iter`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(iter: *mut c::iov_iter) -> &'a Self {
        // SAFETY: `iter` is valid, and used by nothing else; `Self` is transparent.
        unsafe { &*iter.cast() }
    }

    /// Calls `with` with the first `count` bytes of `pieces`, or all if there are fewer, as the
    /// source of a write.
    pub(crate) fn with_source<T, const N: usize>(
        pieces: [&[u8]; N],
        count: usize,
        with: impl FnOnce(&Self) -> T,
    ) -> T {
        let source = pieces.map(|piece| c::kvec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        });
        let count = count.min(pieces.iter().map(|piece| piece.len()).sum());
        let mut iter = MaybeUninit::<c::iov_iter>::uninit();
        let raw = iter.as_mut_ptr();

        // SAFETY: `source` and what it points to are valid as long as `iter`, are only read, and
        // have `count` bytes.
        unsafe { c::iov_iter_kvec(raw, c::ITER_SOURCE, source.as_ptr(), N, count) };
        // SAFETY: `iter` was initialized above.
        with(unsafe { Self::from_raw(raw) })
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::iov_iter {
        self.0.get()
    }

    /// Returns the number of bytes left.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        // SAFETY: By the type invariants `self` is valid.
        let sizes = unsafe { (*self.0.get()).__bindgen_anon_1.__bindgen_anon_1.as_ref() };

        sizes.count
    }

    /// Copies from the buffer, up to a page of it that is not present. Returns the number of bytes
    /// copied. Does not sleep.
    pub(crate) fn copy_from_nofault(&self, to: &mut [u8]) -> usize {
        let (to, len): (*mut ffi::c_void, _) = (to.as_mut_ptr().cast(), to.len());

        // SAFETY: `to` is valid for writes of `len` bytes. By the type invariants `self` is valid.
        unsafe { c::fuse_dax_fmap_copy_nofault(to, len, self.as_raw()) }
    }

    /// Goes back by `bytes` bytes.
    ///
    /// # Safety
    ///
    /// The iterator must have advanced by at least `bytes` bytes.
    pub(crate) unsafe fn revert(&self, bytes: usize) {
        // SAFETY: `self` is valid. By the safety requirements it has advanced that far.
        unsafe { c::iov_iter_revert(self.as_raw(), bytes) }
    }

    /// Faults in up to `len` bytes of the buffer. Returns how many bytes could be faulted in.
    pub(crate) fn fault_in(&self, len: usize) -> usize {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { c::fuse_dax_fmap_fault_in(self.as_raw(), len) }
    }

    /// Returns true if a byte that a copy needs next may not be present in the buffer.
    pub(crate) fn is_missing(&self) -> bool {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { c::fuse_dax_fmap_is_missing(self.as_raw()) }
    }
}
