// SPDX-License-Identifier: GPL-2.0

//! Hooks for some operations of another file system's superblock.
//!
//! The superblock gets a copy of its `super_operations`, with functions that call the hooks and the
//! functions of the file system. The copy is the first member of a [`Hooked`], which is found from
//! the superblock that way.
//!
//! C header: [`include/linux/fs/super_types.h`](srctree/include/linux/fs/super_types.h)

use core::{
    mem::MaybeUninit,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    error::{
        from_result,
        to_result, //
    },
    ffi,
    prelude::*, //
};

use crate::bindings::kernel as c;

use super::{
    inode::Inode,
    super_block::SuperBlock, //
};

/// Hooks, and their data.
pub(crate) trait SuperHooks: Sized + Send + Sync + 'static {
    /// Called before the function of the file system that allocates an inode.
    ///
    /// # Errors
    ///
    /// With any error the inode is not allocated.
    fn alloc_inode(this: &Hooked<Self>) -> Result;

    /// Called before the function of the file system that evicts an inode.
    ///
    /// # Safety
    ///
    /// `inode` must be under eviction by the VFS.
    unsafe fn evict_inode(inode: *mut c::inode);

    /// Called before the function of the file system that syncs all data and waits for that. The
    /// superblock stays mounted during the call.
    ///
    /// # Errors
    ///
    /// Any error is returned to the VFS, after the function of the file system has been called.
    fn sync_fs(this: &Hooked<Self>) -> Result;

    /// Called after the superblock was put. It has no inodes, and no further hook is called.
    fn put_super(this: Pin<KBox<Hooked<Self>>>);
}

/// A superblock with hooks.
///
/// # Invariants
///
/// - `s_op` is the first member, and `sb->s_op` points to it from [`Self::attach`] until the
///   superblock is put.
/// - `orig` are the operations that the superblock had before, and `sb` outlives `self`.
#[pin_data]
#[repr(C)]
pub(crate) struct Hooked<T: SuperHooks> {
    s_op: c::super_operations,
    orig: &'static c::super_operations,
    sb: NonNull<SuperBlock>,
    #[pin]
    data: T,
}

// SAFETY: A superblock is not tied to a task, and `T` is [`Send`].
unsafe impl<T: SuperHooks> Send for Hooked<T> {}
// SAFETY: Several tasks may use a superblock at once, and `T` is [`Sync`].
unsafe impl<T: SuperHooks> Sync for Hooked<T> {}

impl<T: SuperHooks> Deref for Hooked<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.data
    }
}

type PutSuper = unsafe extern "C" fn(*mut c::super_block);

impl<T: SuperHooks> Hooked<T> {
    /// Initializes a [`Hooked`] in `memory`, for [`Self::attach`]. Does not sleep.
    ///
    /// # Safety
    ///
    /// The operations of `sb` must stay valid while this module is loaded. `sb` must outlive the
    /// result.
    pub(crate) unsafe fn new(
        memory: KBox<MaybeUninit<Self>>,
        sb: &SuperBlock,
        data: impl PinInit<T>,
    ) -> NonNull<Self> {
        // SAFETY: By the safety requirements the operations stay valid.
        let orig: &'static c::super_operations = unsafe { sb.operations().as_ref() };
        let s_op = c::super_operations {
            alloc_inode: Some(Self::alloc_inode),
            evict_inode: Some(Self::evict_inode),
            put_super: Some(Self::put_super),
            sync_fs: Some(Self::sync_fs),
            ..*orig
        };

        let made = memory.write_pin_init(pin_init!(Self {
            s_op,
            orig,
            sb: NonNull::from(sb),
            data <- data,
        }));
        match made {
            // SAFETY: The value does not move until `put_super()` pins it again.
            Ok(made) => NonNull::from(KBox::leak(unsafe { Pin::into_inner_unchecked(made) })),
            Err(never) => match never {},
        }
    }

    /// Installs the hooks. The superblock owns `this` from now on, until it is put.
    ///
    /// # Safety
    ///
    /// `this` must be from [`Self::new`]. This must be called once, while the superblock is being
    /// mounted. The module must stay loaded until `put_super()` has returned: `T` must keep a
    /// reference to the module, and what unloads the module must wait for the last instructions
    /// (`synchronize_rcu_tasks()`).
    pub(crate) unsafe fn attach(this: NonNull<Self>) {
        // SAFETY: By the safety requirements `this` is valid.
        let sb = unsafe { this.as_ref() }.sb();

        // SAFETY: The first member of `this` is a table whose functions call the present ones.
        unsafe { sb.set_operations(this.as_ptr().cast()) };
    }

    /// Returns the [`Hooked`] of a superblock, if it has these hooks. It is valid until the
    /// superblock is put.
    fn at(sb: &SuperBlock) -> Option<NonNull<Self>> {
        let s_op = sb.operations();
        // SAFETY: The operations of a superblock are valid: they are those of its file system, or
        // part of a [`Hooked`], which is valid until the superblock is put.
        let put_super = unsafe { s_op.as_ref() }.put_super;
        let is_hooked = put_super
            .is_some_and(|put_super| ptr::fn_addr_eq(put_super, Self::put_super as PutSuper));

        // Only `attach()` installs tables with this function, each the first member of a `Self`.
        is_hooked.then(|| s_op.cast())
    }

    /// Returns the [`Hooked`] of a superblock, if it has these hooks.
    ///
    /// # Safety
    ///
    /// `sb` must not be put as long as the result is used.
    unsafe fn of(sb: *mut c::super_block) -> Option<NonNull<Self>> {
        // SAFETY: By the safety requirements `sb` is valid.
        Self::at(unsafe { SuperBlock::from_raw(sb) })
    }

    /// Returns the [`Hooked`] of an inode's superblock, if it has these hooks.
    pub(crate) fn of_inode(inode: &Inode) -> Option<&Self> {
        // SAFETY: A superblock is not put while it has inodes in use, so the result is valid.
        Self::at(inode.super_block()).map(|this| unsafe { this.as_ref() })
    }

    pub(crate) fn sb(&self) -> &SuperBlock {
        // SAFETY: By the type invariants the superblock outlives `self`.
        unsafe { self.sb.as_ref() }
    }

    /// # Safety
    ///
    /// Must only be called by the VFS, for a superblock that is mounted and has these hooks.
    unsafe extern "C" fn alloc_inode(sb: *mut c::super_block) -> *mut c::inode {
        // SAFETY: `sb` stays mounted while the VFS allocates an inode for it.
        let Some(this) = (unsafe { Self::of(sb) }) else {
            return ptr::null_mut();
        };
        // SAFETY: `sb` is mounted, and owns `this`.
        let this = unsafe { this.as_ref() };
        if T::alloc_inode(this).is_err() {
            return ptr::null_mut();
        }
        match this.orig.alloc_inode {
            // SAFETY: This calls the file system's function with the VFS's argument.
            Some(alloc_inode) => unsafe { alloc_inode(sb) },
            None => ptr::null_mut(),
        }
    }

    /// # Safety
    ///
    /// Must only be called by the VFS, to evict an inode whose superblock has these hooks.
    unsafe extern "C" fn evict_inode(inode: *mut c::inode) {
        // SAFETY: `inode` is not freed before the function of the file system has returned.
        let Some(this) = Self::of_inode(unsafe { Inode::from_raw(inode) }) else {
            return;
        };
        let orig = this.orig;

        // SAFETY: `inode` is being evicted.
        unsafe { T::evict_inode(inode) };
        if let Some(evict_inode) = orig.evict_inode {
            // SAFETY: This calls the file system's function with the VFS's argument.
            unsafe { evict_inode(inode) };
        }
    }

    /// # Safety
    ///
    /// Must only be called by the VFS, for a superblock that stays mounted and has these hooks.
    unsafe extern "C" fn sync_fs(sb: *mut c::super_block, wait: ffi::c_int) -> ffi::c_int {
        // SAFETY: `sb` stays mounted during the call, as the VFS holds `s_umount`.
        let this = unsafe { Self::of(sb) };

        from_result(|| {
            // SAFETY: `sb` is mounted, and owns the `Hooked`.
            let this = unsafe { this.ok_or(EIO)?.as_ref() };
            let hooked = if wait != 0 { T::sync_fs(this) } else { Ok(()) };
            let synced = match this.orig.sync_fs {
                // SAFETY: This calls the file system's function with the VFS's arguments.
                Some(sync_fs) => to_result(unsafe { sync_fs(sb, wait) }),
                None => Ok(()),
            };
            hooked.and(synced).map(|()| 0)
        })
    }

    /// # Safety
    ///
    /// Must only be called by the VFS, to shut down a superblock that has these hooks.
    unsafe extern "C" fn put_super(sb: *mut c::super_block) {
        // SAFETY: `sb` is valid until this returns.
        let Some(this) = (unsafe { Self::of(sb) }) else {
            return;
        };
        // SAFETY: `this` is the box of `new()`. The superblock, its owner, does not use it any
        // more.
        let this = unsafe { Pin::new_unchecked(KBox::from_raw(this.as_ptr())) };
        // SAFETY: `orig` are the file system's operations. Only this task uses the superblock.
        unsafe { this.sb().set_operations(this.orig) };
        if let Some(put_super) = this.orig.put_super {
            // SAFETY: This calls the file system's function with the VFS's argument.
            unsafe { put_super(sb) };
        }
        T::put_super(this);
    }
}
