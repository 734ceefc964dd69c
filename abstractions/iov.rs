// SPDX-License-Identifier: GPL-2.0

//! Buffers of I/O, in either direction.
//!
//! The kernel crate's `IovIterSource` and `IovIterDest` know the direction, and panic if it is the
//! other one. What is here need not know it.
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
/// It is only handed out as `&IovIter`: its buffer may be gone before another one's, so two must
/// not be swapped.
///
/// # Invariants
///
/// It is valid, and so is the buffer, for its direction; a page of a user's buffer may be missing.
/// One task uses it.
#[repr(transparent)]
pub(crate) struct IovIter(Opaque<c::iov_iter>);

impl IovIter {
    /// # Safety
    ///
    /// `iter` and its buffer are valid for `'a`, and nothing else uses `iter` meanwhile.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(iter: *mut c::iov_iter) -> &'a Self {
        // SAFETY: `iter` is valid and the caller's, and `Self` is transparent.
        unsafe { &*iter.cast() }
    }

    /// Calls `with` with the first `count` bytes of some memory to be written from, or all.
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

        // SAFETY: `source` and what it names are valid as long as `iter`, are only read, and have
        // `count` bytes.
        unsafe { c::iov_iter_kvec(raw, c::ITER_SOURCE, source.as_ptr(), N, count) };
        // SAFETY: `iter` was made above.
        with(unsafe { Self::from_raw(raw) })
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::iov_iter {
        self.0.get()
    }

    /// How many bytes are left.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        // SAFETY: By the type invariants `self` is valid.
        let sizes = unsafe { (*self.0.get()).__bindgen_anon_1.__bindgen_anon_1.as_ref() };

        sizes.count
    }

    /// Copies from the buffer, up to a page of it that is missing. Returns how many bytes that
    /// were. Does not sleep.
    pub(crate) fn copy_from_nofault(&self, to: &mut [u8]) -> usize {
        let (to, len): (*mut ffi::c_void, _) = (to.as_mut_ptr().cast(), to.len());

        // SAFETY: `to` has room for `len` bytes; by the type invariants `self` is valid.
        unsafe { c::fuse_dax_fmap_copy_nofault(to, len, self.as_raw()) }
    }

    /// Takes back the last `bytes` bytes.
    ///
    /// # Safety
    ///
    /// So many were taken from it.
    pub(crate) unsafe fn revert(&self, bytes: usize) {
        // SAFETY: `self` is valid, and so much was taken from it, by the safety requirements.
        unsafe { c::iov_iter_revert(self.as_raw(), bytes) }
    }

    /// Faults in up to `len` bytes of the buffer. Returns how many could be.
    pub(crate) fn fault_in(&self, len: usize) -> usize {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { c::fuse_dax_fmap_fault_in(self.as_raw(), len) }
    }

    /// Whether a byte that a copy needs next may be missing in the buffer.
    pub(crate) fn is_missing(&self) -> bool {
        // SAFETY: By the type invariants `self` is valid.
        unsafe { c::fuse_dax_fmap_is_missing(self.as_raw()) }
    }
}
