// SPDX-License-Identifier: GPL-2.0

//! Inodes.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)
//!
//! # Examples
//!
//! ```ignore
//! // SAFETY: The file is open, so its inode is in use.
//! let inode = unsafe { Inode::from_raw((*file).f_inode) };
//! let _locked = inode.rwsem().read_killable()?;
//! let size = inode.size();
//! ```

use core::{
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    ffi,
    types::Opaque, //
};

use crate::{
    abstractions::{
        fs::{
            address_space::AddressSpace,
            super_block::SuperBlock, //
        },
        sync::rw_semaphore::RwSemaphore, //
    },
    bindings::kernel as c, //
};

/// A `struct inode` that is in use, or being evicted.
///
/// # Invariants
///
/// The inode is initialized, and neither it nor its superblock is freed while it is borrowed. It
/// need not have a reference: see [`InodeRef`].
#[repr(transparent)]
pub(crate) struct Inode(Opaque<c::inode>);

// SAFETY: An inode is not tied to a task.
unsafe impl Send for Inode {}
// SAFETY: Several tasks may use an inode at once; what changes is read once, or with its lock.
unsafe impl Sync for Inode {}

/// A reference to an inode.
///
/// It is not the kernel crate's `ARef`: a reference to an inode does not keep its superblock, and
/// no reference may be taken to an inode that is being evicted.
///
/// # Invariants
///
/// `self` owns a reference to the inode, whose superblock stays mounted until the reference is
/// dropped.
#[must_use = "the reference is put when it is dropped"]
pub(crate) struct InodeRef(NonNull<Inode>);

// SAFETY: An inode is not tied to a task.
unsafe impl Send for InodeRef {}
// SAFETY: This only gives access to `&Inode`.
unsafe impl Sync for InodeRef {}

impl InodeRef {
    /// Keeps the reference, for [`Self::from_raw`], which must drop it.
    pub(crate) fn into_raw(self) -> NonNull<Inode> {
        core::mem::ManuallyDrop::new(self).0
    }

    /// Takes over a reference from [`Self::into_raw`].
    ///
    /// # Safety
    ///
    /// `inode` must be from [`Self::into_raw`], and be used once. Its superblock must still be
    /// mounted, and stay mounted until the result is dropped.
    pub(crate) unsafe fn from_raw(inode: NonNull<Inode>) -> Self {
        // INVARIANT: The reference is that of the value that `into_raw()` took.
        Self(inode)
    }
}

impl Deref for InodeRef {
    type Target = Inode;

    #[inline]
    fn deref(&self) -> &Inode {
        // SAFETY: By the type invariants `self` owns a reference, which keeps the inode.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns this reference, and the superblock is mounted.
        unsafe { c::iput(self.0.as_ptr().cast()) }
    }
}

impl Inode {
    /// Creates a reference to an [`Inode`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// `inode` must be initialized, and neither it nor its superblock may be freed for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(inode: *const c::inode) -> &'a Self {
        // SAFETY: `inode` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*inode.cast() }
    }

    /// Returns the root inode of a superblock.
    ///
    /// # Safety
    ///
    /// The superblock must have a root, and must not be shut down as long as the result is used.
    pub(crate) unsafe fn root_of(sb: &SuperBlock) -> &Self {
        // SAFETY: By the safety requirements the superblock has a root, whose dentry is positive.
        let root = unsafe { (*(*sb.as_raw()).s_root).d_inode };

        // SAFETY: The dentry holds a reference to its inode. By the safety requirements it stays as
        // long as the result is used.
        unsafe { Self::from_raw(root) }
    }

    /// Takes a reference. Returns [`None`] if the inode is being evicted.
    ///
    /// # Safety
    ///
    /// `inode` must be valid and not be freed during the call, but may be under eviction. Its
    /// superblock must stay mounted as long as the result exists.
    pub(crate) unsafe fn grab(inode: *mut c::inode) -> Option<InodeRef> {
        // SAFETY: By the safety requirements `inode` is not freed during the call.
        let inode = NonNull::new(unsafe { c::igrab(inode) })?;

        // INVARIANT: `igrab()` has taken the reference. By the safety requirements the superblock
        // stays mounted.
        Some(InodeRef(inode.cast()))
    }

    /// Takes another reference.
    ///
    /// # Safety
    ///
    /// The inode must have a reference already, so that it is not being evicted. Its superblock
    /// must stay mounted as long as the result exists.
    pub(crate) unsafe fn get(&self) -> InodeRef {
        // SAFETY: By the safety requirements `self` has a reference.
        unsafe { c::ihold(self.as_raw()) };
        // INVARIANT: The reference was taken just above. By the safety requirements the superblock
        // stays mounted.
        InodeRef(NonNull::from(self))
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::inode {
        self.0.get()
    }

    /// Returns `i_private`, which a file system may use as it likes.
    ///
    /// # Safety
    ///
    /// The inode must be of a file system that leaves the field to the caller. What is stored there
    /// must be what the caller's module takes it for, and each access must be atomic.
    #[inline]
    pub(crate) unsafe fn private(&self) -> &AtomicPtr<ffi::c_void> {
        // SAFETY: By the type invariants the inode is valid. The field belongs to the file system,
        // which leaves it to the caller, by the safety requirements.
        unsafe { AtomicPtr::from_ptr(&raw mut (*self.as_raw()).i_private) }
    }

    /// Returns the inode number, for messages.
    pub(crate) fn number(&self) -> u64 {
        // SAFETY: By the type invariants the inode is valid; its number does not change.
        unsafe { (*self.as_raw()).i_ino }
    }

    /// Returns the superblock, which stays mounted as long as the inode is in use.
    #[inline]
    pub(crate) fn super_block(&self) -> &SuperBlock {
        // SAFETY: By the type invariants the inode is valid. Its superblock does not change.
        let sb = unsafe { (*self.as_raw()).i_sb };

        // SAFETY: The superblock of an inode in use is valid.
        unsafe { SuperBlock::from_raw(sb) }
    }

    /// Returns `i_size`, as `i_size_read()` does on a 64-bit machine. Negative sizes do not occur.
    #[inline]
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: By the type invariants the inode is valid; the size is read once.
        let size = unsafe { (&raw const (*self.as_raw()).i_size).read_volatile() };

        size.max(0) as u64
    }

    /// Returns `i_flags` (`S_*`).
    #[inline]
    pub(crate) fn flags(&self) -> u32 {
        // SAFETY: By the type invariants the inode is valid.
        unsafe { (*self.as_raw()).i_flags }
    }

    /// Returns the type and the permissions.
    #[inline]
    pub(crate) fn mode(&self) -> u32 {
        // SAFETY: By the type invariants the inode is valid. The permissions may change.
        u32::from(unsafe { (&raw const (*self.as_raw()).i_mode).read_volatile() })
    }

    /// Returns true for a regular file.
    #[inline]
    pub(crate) fn is_regular(&self) -> bool {
        self.mode() & c::S_IFMT == c::S_IFREG
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.mode() & c::S_IFMT == c::S_IFDIR
    }

    pub(crate) fn is_character_device(&self) -> bool {
        self.mode() & c::S_IFMT == c::S_IFCHR
    }

    /// Returns `i_rwsem`.
    #[inline]
    pub(crate) fn rwsem(&self) -> &RwSemaphore {
        // SAFETY: By the type invariants the inode is initialized, and is valid as long as `self`.
        unsafe { RwSemaphore::from_raw(&raw mut (*self.as_raw()).i_rwsem) }
    }

    /// Returns the embedded page cache, `i_data`.
    #[inline]
    pub(crate) fn data(&self) -> &AddressSpace {
        // SAFETY: By the type invariants the inode is initialized, and is valid as long as `self`.
        unsafe { AddressSpace::from_raw(&raw mut (*self.as_raw()).i_data) }
    }

    /// Returns the operations, which are valid at least as long as the inode is in use.
    pub(crate) fn operations(&self) -> &c::inode_operations {
        // SAFETY: An inode in use has operations. The pointer is read once.
        unsafe { &*(&raw const (*self.as_raw()).i_op).read_volatile() }
    }

    /// Replaces the operations. Other tasks load the pointer once, and get the old or the new ones.
    ///
    /// # Safety
    ///
    /// The operations must be for this inode, and stay valid as long as it.
    pub(crate) unsafe fn set_operations(&self, operations: *const c::inode_operations) {
        // SAFETY: By the type invariants the inode is valid; the pointer is a word.
        let i_op = unsafe { AtomicPtr::from_ptr((&raw mut (*self.as_raw()).i_op).cast()) };

        i_op.store(operations.cast_mut(), Ordering::Release);
    }

    /// Sets the operations of files that are opened from now on.
    ///
    /// # Safety
    ///
    /// The inode must be one that `operations` are for. Other tasks may only set the same
    /// operations at the same time.
    #[inline]
    pub(crate) unsafe fn set_file_operations(&self, operations: &'static c::file_operations) {
        // SAFETY: By the type invariants the inode is valid; the field is a word, loaded once.
        let i_fop: &AtomicPtr<c::file_operations> = unsafe {
            AtomicPtr::from_ptr((&raw mut (*self.as_raw()).__bindgen_anon_3.i_fop).cast())
        };

        // Without a change, the cache line stays shared.
        if !ptr::eq(i_fop.load(Ordering::Relaxed), operations) {
            i_fop.store(ptr::from_ref(operations).cast_mut(), Ordering::Relaxed);
        }
    }
}
