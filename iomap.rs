// SPDX-License-Identifier: GPL-2.0

//! Mapped files. This file makes an inode a mapped one at its first open, and undoes that at
//! eviction. The operations of a mapped file are in the submodules; `resolve` calls the program.
//!
//! The module's state of a mapped inode is in [`mapped_inode`]. No submodule depends on this file.
//!
//! # Page caches
//!
//! FUSE keeps the page cache of the inode for itself. The DAX entries of a mapped file are in a
//! page cache of their own, which the file gets at its first mmap(2) ([`page_cache`]). Publishing a
//! map therefore drops no pages, and waits for no task that uses the file.
//!
//! # The end of a map
//!
//! Eviction drops the memory. Pages that direct I/O or a pipe has pinned are kept by the mount and
//! released later ([`kept`]); eviction does not wait for them. An inode that FUSE has marked bad,
//! because its server reuses the node id, loses its memory while it is still open (`bad_inodes`).
//!
//! # Locks
//!
//! The order is: `inode->i_rwsem` (exclusive for writes, shared for reads), `mmap_lock`,
//! `invalidate_lock` of the DAX page cache (shared for most faults), a DAX entry, the mount's
//! ownership lock (`ownership`), which a fault takes when it is the first to touch a piece of
//! memory. A fast fault takes none of the module's locks. A write takes the ownership lock shared
//! while it checks the owner, if memory of a closed file may be in use. Dropping entries takes
//! `invalidate_lock` exclusively (`collapse`, `invalidate`), and so does writeback, to wait for
//! faults (`writeback`). A flush is an SRCU read-side critical section; a memory failure waits for
//! those with no lock held. Innermost are a page table lock with the `i_pages` lock inside
//! (`fault_uffd_wp`), and the spin lock of the list of mapped files with an inode's `i_lock`
//! inside.

use core::{
    mem::MaybeUninit,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        AtomicU32,
        AtomicU64,
        Ordering, //
    }, //
};

use kernel::{
    prelude::*,
    sync::atomic::Relaxed,
    types::Opaque, //
};

use crate::{
    abstractions::fs::{
        self,
        file::FileExt, //
    },
    bindings::kernel as c,
    fmap_ops::{
        MetaBuf,
        Parsed, //
    },
    fuse::Inode,
    lockless::{
        self,
        AsWritten, //
    },
    sb_info::{
        ListedInode,
        SbInfo, //
    }, //
};

mod bad_inodes;
mod collapse;
mod device_failure;
mod fallocate;
mod fault;
mod fault_dax;
mod fault_fast;
mod fault_uffd_wp;
mod file;
mod huge;
mod inode;
mod invalidate;
mod io;
mod kept;
mod list;
mod mapped_files;
mod mapped_inode;
mod mapping_error;
mod mmap;
mod no_faults;
mod ownership;
mod page_cache;
mod resolve;
mod seek_fiemap;
mod validity;
mod vm_file;
mod writeback;

pub(crate) use file::file_operations;
pub(crate) use list::show_inode;
pub(crate) use mapped_inode::{
    remember_plain,
    state,
    State,
    HEADROOM, //
};
pub(crate) use writeback::{
    sync_all,
    sync_range, //
};

use inode::inode_operations;
use kept::Evicted;
use mapped_inode::{
    open_file,
    private,
    take_back,
    Header,
    MappedInode,
    Published,
    PLAIN, //
};
use page_cache::{
    aops,
    init_empty, //
};
use validity::new_validity;

/// Makes a [`Published`] of the header, in the headroom of its metadata. Does not sleep.
fn complete(meta: MetaBuf, inode: &Inode, header: Header) -> NonNull<Header> {
    let whole = Published {
        empty: Opaque::uninit(),
        open_files: AtomicU32::new(0),
        errors: AtomicU32::new(0),
        // SAFETY: `listed` is a field of a `Published`.
        listed: unsafe { ListedInode::new() },
        header,
    };
    let mut published = meta.into_raw().cast::<MaybeUninit<Published>>();

    // SAFETY: `published` points to the headroom of the metadata, which has the layout of the type,
    // and stays until `take_back()`.
    let published = unsafe { published.as_mut() }.write(whole);
    // SAFETY: `empty` stays as long as the inode, and is only reached through it.
    unsafe { init_empty(published.empty.get(), inode) };
    NonNull::from(&published.header)
}

/// Publishes the map of a file and returns the file's state. `Plain` is for this open only: the
/// next one tries again.
///
/// The caller is the single flight for this file. Files of the inode may be open and in use, as
/// FUSE's page cache is not touched. If that page cache is dirty, under writeback or mapped by
/// mmap(2), or an early file is being changed, the map is not published: there would be two sets of
/// bytes.
///
/// # Errors
///
/// [`ENOMEM`].
pub(crate) fn publish(inode: &Inode, parsed: Parsed, sbi: &SbInfo) -> Result<State> {
    let file_i_op = inode_operations(inode)?;
    let file_aops = aops(inode)?;
    // SAFETY: The mount owns the pin of the ops, and outlives the header.
    let resolver = unsafe { sbi.ops.resolver() }?;
    // SAFETY: The mount owns the counters, and outlives the header.
    let counts = unsafe { sbi.stats.shortcut() }.ok_or(EIO)?;
    let meta_len = parsed.meta.len();
    // INVARIANT: `meta_len` is that of the allocation; the mount is the inode's.
    let header = Header {
        resolver,
        sbi: NonNull::from(sbi),
        dev_bitmap: parsed.dev_bitmap,
        mapped_size: parsed.file_size,
        meta_len,
        writers_back: AtomicU32::new(0),
        counts,
        validity: AtomicU64::new(new_validity()),
        file: AtomicPtr::new(ptr::null_mut()),
    };
    let header = complete(parsed.meta, inode, header);
    // SAFETY: `header` is part of a `Published`, which was made just above.
    let listed = unsafe { &header.as_ref().published().listed };
    // It is shown once it is published.
    // SAFETY: It is removed before it is freed, here and in `evict()`.
    unsafe { sbi.mapped_inodes.insert(listed) };

    // The module's operations may be called before the header is published, by path or for an early
    // file; they check `state()`.
    // SAFETY: The tables are copies of FUSE's for such an inode.
    unsafe { inode.data().set_operations(file_aops) };
    // SAFETY: The tables are copies of FUSE's for such an inode.
    unsafe { inode.set_operations(file_i_op) };
    // A task that changes the file through FUSE checks under this lock whether the file is mapped.
    let changing = sbi.changing.lock();
    let is_used = changing.get(&inode.key()).is_some() || inode.uses_page_cache();
    // Files of other opens may have FUSE's operations, if the server has said so meanwhile.
    let is_plain = sbi.has_no_maps() || state(inode) == State::Plain;
    if is_used || is_plain {
        drop(changing);
        sbi.mapped_inodes.remove(listed);
        // SAFETY: `header` was made above, and is not published.
        drop(unsafe { take_back(header) });
        return Ok(State::Plain);
    }
    lockless::publish::<AsWritten, _>(private(inode), header.as_ptr().cast());
    drop(changing);
    sbi.files.add(1, Relaxed);
    Ok(State::Mapped)
}

/// Counts a file of a mapped inode that is being opened as a mapped one, and makes the empty page
/// cache its `f_mapping`.
///
/// # Safety
///
/// The current task must be opening `file`, whose inode must be mapped.
pub(crate) unsafe fn opened(file: *mut c::file) {
    // SAFETY: `file` is being opened, and its inode is mapped, by the safety requirements.
    let (file, inode) = unsafe { open_file(file) };
    let empty = inode.header.empty();

    inode.header.count_open_file();
    // SAFETY: Only the current task uses `file`. `file` keeps its inode in use, and that keeps the
    // empty page cache.
    unsafe { file.set_mapping(empty) };
}

/// Counts a file of a mapped inode that was opened early, as [`opened`] does.
pub(crate) fn opened_early(inode: &Inode) {
    if let Some(mapped) = MappedInode::of(inode) {
        mapped.header.count_open_file();
        // Another thread may have mapped the file by mmap(2) since it has the table for that, and
        // the last close of another file may have found nothing in use before this count.
        if let Some(file) = mapped.header.file() {
            file.will_be_mapped();
        }
    }
}

/// Undoes [`opened`] for a file that is being released, and has no VMA left. If it was the last one
/// and direct I/O or a pipe has pages pinned, the mount holds the inode until they are idle: the
/// server must not get FORGET earlier, as it may then give the memory to another file.
///
/// # Safety
///
/// The inode must be mapped.
pub(crate) unsafe fn closed(inode: &Inode) {
    // SAFETY: `inode` is mapped, by the safety requirements.
    let mapped = unsafe { MappedInode::new(inode) };
    let open_files = &mapped.header.published().open_files;

    if !lockless::closed::<AsWritten>(open_files) {
        return;
    }
    if let Some(file) = mapped.header.file() {
        mapped.sbi().mapped_files.hold_if_busy(mapped.inode, file);
    }
}

/// Detaches the module's state from an inode that is being evicted, so that FUSE finds only its
/// own. Does not wait: the mount keeps pinned memory.
///
/// # Safety
///
/// Called by `->evict_inode()` of an fmap mount, before FUSE's.
pub(crate) unsafe fn evict(inode: *mut c::inode) {
    // SAFETY: By the safety requirements `inode` is being evicted, and not freed before FUSE's
    // function has returned.
    let inode = unsafe { fs::inode::Inode::from_raw(inode) };
    // SAFETY: FUSE leaves the field to this module, and expects null after this.
    let field = unsafe { inode.private() };
    let private = field.load(Ordering::Relaxed);
    field.store(ptr::null_mut(), Ordering::Relaxed);
    let Some(header) = NonNull::new(private).filter(|_| private != PLAIN) else {
        return;
    };
    let header = header.cast::<Header>();
    // SAFETY: `publish()` stored the header in `i_private`.
    let mapped = unsafe { header.as_ref() };
    // SAFETY: By the type invariants the mount outlives the header.
    let sbi = unsafe { mapped.sbi.as_ref() };

    sbi.mapped_inodes.remove(&mapped.published().listed);
    sbi.files.add(-1, Relaxed);
    let Some(file) = mapped.file().map(NonNull::from) else {
        // SAFETY: `i_private`, which pointed to the header, was cleared above.
        drop(unsafe { take_back(header) });
        return;
    };
    // SAFETY: No file of the inode is open, so no VMA maps it, and `file` is in the list of its
    // mount.
    let evicted = unsafe { Evicted::new(file) };
    sbi.mapped_files.evict(sbi, evicted);
}
