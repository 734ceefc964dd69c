// SPDX-License-Identifier: GPL-2.0

//! Groups that are told of opens on superblocks.
//!
//! C header: [`include/linux/fsnotify_backend.h`](srctree/include/linux/fsnotify_backend.h)
//!
//! # Examples
//!
//! ```ignore
//! struct Opens;
//!
//! impl Operations for Opens {
//!     type Data = &'static str;
//!
//!     fn open_perm(file: &OpeningFile) {
//!         pr_info!("inode {} is being opened\n", file.inode().number());
//!     }
//!
//!     fn freeing_mark(data: &Self::Data) {
//!         pr_info!("{data} is being shut down\n");
//!     }
//! }
//!
//! // SAFETY: `put()` is called when the module goes away, after the last mark.
//! let group = unsafe { Group::new::<Opens>(c::fsnotify_group_prio_FSNOTIFY_PRIO_NORMAL) }?;
//! group.mark_opens(inode.super_block(), "example")?;
//! ```

use core::{
    marker::PhantomData,
    mem::offset_of,
    ptr::NonNull, //
};

use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi,
    prelude::*, //
};

use crate::bindings::kernel as c;

use super::fs::{
    file::OpeningFile,
    super_block::SuperBlock, //
};

/// What a group does.
pub(crate) trait Operations: 'static {
    /// What a mark carries.
    type Data: Send + Sync + 'static;

    /// FS_OPEN_PERM: a file on a marked superblock has its operations, and has not been opened.
    fn open_perm(file: &OpeningFile);

    /// A mark goes. If its superblock is being shut down, the superblock is still there, and has
    /// not looked yet for inodes that are in use.
    fn freeing_mark(data: &Self::Data);
}

/// A `struct fsnotify_group`.
///
/// # Invariants
///
/// `self` owns a reference to the group, whose operations are [`Vtable`]'s of a type with this
/// `Data`.
pub(crate) struct Group<D> {
    group: NonNull<c::fsnotify_group>,
    _marks: PhantomData<D>,
}

// SAFETY: A group belongs to no task.
unsafe impl<D: Send> Send for Group<D> {}
// SAFETY: Adding a mark takes a lock of the group.
unsafe impl<D: Send> Sync for Group<D> {}

/// A mark, in one piece with what it carries.
///
/// # Invariants
///
/// `mark` is the first member: fsnotify knows the whole by it.
#[repr(C)]
struct Mark<D> {
    mark: c::fsnotify_mark,
    data: D,
}

/// The functions that fsnotify calls.
struct Vtable<T: Operations>(PhantomData<T>);

impl<T: Operations> Vtable<T> {
    const TABLE: &'static c::fsnotify_ops = &Self::OPS;

    const OPS: c::fsnotify_ops = c::fsnotify_ops {
        handle_event: Some(Self::handle_event),
        freeing_mark: Some(Self::freeing_mark),
        free_mark: Some(Self::free_mark),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Called by fsnotify, with an event on a superblock that is marked.
    unsafe extern "C" fn handle_event(
        _group: *mut c::fsnotify_group,
        mask: u32,
        data: *const ffi::c_void,
        data_type: ffi::c_int,
        _dir: *mut c::inode,
        _file_name: *const c::qstr,
        _cookie: u32,
        _iter_info: *mut c::fsnotify_iter_info,
    ) -> ffi::c_int {
        const F_PATH: usize = offset_of!(c::file, __bindgen_anon_1);

        if mask & c::FS_OPEN_PERM != 0
            && data_type == c::fsnotify_data_type_FSNOTIFY_EVENT_PATH as ffi::c_int
        {
            // FS_OPEN_PERM is reported with `&file->f_path`.
            let file = data.wrapping_byte_sub(F_PATH).cast_mut().cast();
            // SAFETY: `file` is being opened by the task that reports it, and has its operations.
            T::open_perm(unsafe { OpeningFile::from_raw(file) });
        }
        0
    }

    /// # Safety
    ///
    /// Called by fsnotify, with a mark of [`Group::mark_opens`].
    unsafe extern "C" fn freeing_mark(mark: *mut c::fsnotify_mark, _group: *mut c::fsnotify_group) {
        // SAFETY: `mark` is the first member of a `Mark` that is freed after this.
        T::freeing_mark(unsafe { &(*mark.cast::<Mark<T::Data>>()).data });
    }

    /// # Safety
    ///
    /// Called by fsnotify, when nothing refers to the mark any more.
    unsafe extern "C" fn free_mark(mark: *mut c::fsnotify_mark) {
        // SAFETY: `mark_opens()` made `mark` of a box, which is given back here.
        drop(unsafe { KBox::from_raw(mark.cast::<Mark<T::Data>>()) });
    }
}

impl<D: Send + Sync + 'static> Group<D> {
    /// A group without marks. Of several groups with a mark those of a higher priority are told
    /// first (`FSNOTIFY_PRIO_*`).
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// Marks and their callbacks outlive the result: [`Self::put`] is called before the code of `T`
    /// goes away, and no mark is added after that.
    pub(crate) unsafe fn new<T: Operations<Data = D>>(
        priority: c::fsnotify_group_prio,
    ) -> Result<Self> {
        // SAFETY: The table is static.
        let group = from_err_ptr(unsafe { c::fsnotify_alloc_group(Vtable::<T>::TABLE, 0) })?;
        let group = NonNull::new(group).ok_or(ENOMEM)?;

        // SAFETY: `group` is ours alone, and has no marks yet.
        unsafe { (*group.as_ptr()).priority = priority };
        // INVARIANT: Allocated just now.
        Ok(Self {
            group,
            _marks: PhantomData,
        })
    }

    /// Has opens on a superblock reported, until it is shut down. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and what `fsnotify_add_mark()` returns ([`EEXIST`]: the group has marked it).
    pub(crate) fn mark_opens(&self, sb: &SuperBlock, data: D) -> Result {
        const TYPE: u32 = c::fsnotify_obj_type_FSNOTIFY_OBJ_TYPE_SB as u32;

        let mark = Mark {
            mark: pin_init::zeroed(),
            data,
        };
        let mark = KBox::into_raw(KBox::new(mark, GFP_KERNEL)?).cast::<c::fsnotify_mark>();

        // SAFETY: `mark` is zeroed memory, and the group is there by the type invariants.
        unsafe { c::fsnotify_init_mark(mark, self.group.as_ptr()) };
        // SAFETY: `mark` is initialized, and still ours alone.
        unsafe { (*mark).mask = c::FS_OPEN_PERM };
        // SAFETY: `mark` is initialized, and no object has it yet; `sb` is valid.
        let added = unsafe { c::fsnotify_add_mark(mark, sb.as_raw().cast(), TYPE, 0) };
        // SAFETY: The reference of `fsnotify_init_mark()` is ours. fsnotify has taken its own, or
        // this frees the mark.
        unsafe { c::fsnotify_put_mark(mark) };
        to_result(added)
    }

    /// Gives the group up. May sleep.
    ///
    /// A group is kept in a static, where the callbacks find it, and a static is not dropped: hence
    /// this.
    ///
    /// # Safety
    ///
    /// No superblock is marked any more, and the group is not used after this.
    pub(crate) unsafe fn put(&self) {
        // SAFETY: The only requirement is that the task may sleep. What marks there are, are about
        // to be freed, and refer to the group.
        unsafe { c::fsnotify_wait_marks_destroyed() };
        // SAFETY: By the type invariants `self` owns this reference, which is not used any more, by
        // the safety requirements.
        unsafe { c::fsnotify_put_group(self.group.as_ptr()) };
    }
}
