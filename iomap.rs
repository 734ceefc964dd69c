// SPDX-License-Identifier: GPL-2.0

//! A mapped file: what an inode has to be one, from its first open until it is evicted. What is
//! done with it has files of its own; `resolve` is where the program is asked.
//!
//! What is known of a mapped inode is in [`mapped_inode`]. No file of this room names this one,
//! which makes an inode a mapped one and a plain one again.
//!
//! # Page caches
//!
//! FUSE's page cache of the inode stays FUSE's. The DAX entries of a mapped file are in a page
//! cache of its own, which it gets when it is mapped by mmap(2) for the first time
//! ([`page_cache`]). So to publish a map empties nothing, takes no lock, and asks nobody to wait.
//!
//! # The end of a map
//!
//! Eviction gives the memory up. Pages that are in use by direct I/O or a pipe then, are kept by
//! the mount and given up later ([`kept`]); nothing in eviction waits for them. An inode that FUSE
//! has marked bad, because its server uses the node id again, loses its memory while it is still
//! open (`bad_inodes`).
//!
//! # Locks
//!
//! In this order: `inode->i_rwsem` (writes exclusively, reads shared), `mmap_lock`,
//! `invalidate_lock` of the DAX page cache (faults, nearly always shared), a DAX entry, the mount's
//! lock on who has which memory (`ownership`; the first touch of a piece of memory). The fault path
//! takes no lock of ours; a write, if memory of a closed file is in use, has the same lock shared
//! while it looks whose memory it is. Dropping entries takes `invalidate_lock` exclusively
//! (`collapse`, `invalidate`), and who writes back passes through it (`writeback`). Who flushes is in
//! a read side of SRCU, which memory that fails waits for with nothing held. Innermost are the lock
//! of a page table and, inside it, that of a page cache's tree (`fault_uffd_wp`), and the list of
//! mapped files, a spin lock with an inode's `i_lock` inside.

use core::{
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
    abstractions::fs,
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
    sb_info::SbInfo, //
};

mod bad_inodes;
mod device_failure;
mod fallocate;
mod fault;
mod file;
mod fault_dax;
mod huge;
mod inode;
mod io;
mod resolve;
mod kept;
mod mapped_files;
mod mapped_inode;
mod mmap;
mod no_faults;
mod page_cache;
mod mapping_error;
mod seek_fiemap;
mod fault_fast;
mod validity;
mod ownership;
mod fault_uffd_wp;
mod collapse;
mod invalidate;
mod vm_file;
mod writeback;

pub(crate) use file::file_operations;
pub(crate) use mapped_inode::{
    remember_plain,
    state,
    State,
    HEADROOM, //
};
pub(crate) use page_cache::set_f_mapping;
pub(crate) use writeback::{
    sync_all,
    sync_range, //
};

use inode::inode_operations;
use kept::Evicted;
use mapped_inode::{
    header,
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

/// Makes the rest of a mapped file, in front of its metadata, before it is published. Does not
/// sleep.
fn complete(meta: MetaBuf, inode: &Inode, header: Header) -> NonNull<Header> {
    let whole = Published {
        empty: Opaque::uninit(),
        open_files: AtomicU32::new(0),
        errors: AtomicU32::new(0),
        header,
    };
    let published = meta.into_raw().cast::<Published>();

    // SAFETY: `published` is the headroom, which has the layout of the type.
    unsafe { published.write(whole) };
    // SAFETY: It was written just now, and stays until `take_back()`.
    let published = unsafe { published.as_ref() };
    // SAFETY: `empty` stays as long as the inode, by which alone it is found.
    unsafe { init_empty(published.empty.get(), inode) };
    NonNull::from(&published.header)
}

/// Makes a file a mapped one, and returns what it is now: `Plain` means for this open, not for
/// ever.
///
/// The caller alone settles this file at the moment. Files of it may be open, and do what they like
/// meanwhile: FUSE's page cache is not touched. If it has data that are not written back, or is
/// mapped by one of those, or is being changed by one, the file stays FUSE's for now: there would
/// be two sets of bytes.
///
/// # Errors
///
/// [`ENOMEM`].
pub(crate) fn publish(inode: &Inode, parsed: Parsed, sbi: &SbInfo) -> Result<State> {
    let file_i_op = inode_operations(inode)?;
    let file_aops = aops(inode)?;
    // SAFETY: The mount, which owns the pin, outlives the header.
    let resolver = unsafe { sbi.ops.resolver() }?;
    // SAFETY: The mount, which owns the counters, outlives the header.
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

    // An operation of ours that is called before the header is there, by path or for a file that
    // was open already, looks for that (`state`).
    // SAFETY: The tables are copies of FUSE's for such an inode.
    unsafe { inode.data().set_operations(file_aops) };
    // SAFETY: The tables are copies of FUSE's for such an inode.
    unsafe { inode.set_operations(file_i_op) };
    // Who changes the file through FUSE has asked before, with this lock, whether it is mapped.
    let changing = sbi.changing.lock();
    if changing.get(&inode.key()).is_some() || inode.uses_page_cache() {
        drop(changing);
        // SAFETY: `header` was made just now, and is not published.
        drop(unsafe { take_back(header) });
        return Ok(State::Plain);
    }
    // SAFETY: FUSE leaves the field to this module, which takes the value for a header.
    let private = unsafe { inode.private() };
    lockless::publish::<AsWritten, _>(private, header.as_ptr().cast());
    drop(changing);
    sbi.files.add(1, Relaxed);
    Ok(State::Mapped)
}

/// A file of a mapped inode has been opened as a mapped one.
///
/// # Safety
///
/// The inode is mapped, and in use.
pub(crate) unsafe fn opened(inode: *const c::inode) {
    // SAFETY: `inode` is in use, by the safety requirements.
    let inode = unsafe { fs::inode::Inode::from_raw(inode) };
    // SAFETY: `inode` is mapped, by the safety requirements.
    let published = unsafe { header(inode) }.published();

    published.open_files.fetch_add(1, Ordering::Relaxed);
}

/// A file that was counted ([`opened`]) is being closed, and its mappings are gone. If it was the
/// last one and pages are in use by direct I/O or a pipe, the inode is held until they are not: the
/// server learns of its end only then (FORGET), and may give the memory to another file.
///
/// # Safety
///
/// The inode is FUSE's, mapped, and in use.
pub(crate) unsafe fn closed(inode: *mut c::inode) {
    // SAFETY: `inode` is in use, by the safety requirements.
    let inode = unsafe { fs::inode::Inode::from_raw(inode) };
    // SAFETY: `inode` is FUSE's and mapped, by the safety requirements.
    let mapped = unsafe { MappedInode::new(inode) };
    let open_files = &mapped.header.published().open_files;

    if !lockless::closed::<AsWritten>(open_files) {
        return;
    }
    if let Some(file) = mapped.header.file() {
        mapped.sbi().mapped_files.hold_if_busy(mapped.inode, file);
    }
}

/// Takes everything of ours off an inode that is being evicted, so that FUSE finds its own. Does
/// not wait: what is busy is kept by the mount.
///
/// # Safety
///
/// Called by `->evict_inode()` of a bound mount, before FUSE's.
pub(crate) unsafe fn evict(inode: *mut c::inode) {
    // SAFETY: `inode` is being evicted, and not freed before FUSE's function has returned, by the
    // safety requirements.
    let inode = unsafe { fs::inode::Inode::from_raw(inode) };
    // SAFETY: FUSE leaves the field to this module, and expects null from here on.
    let field = unsafe { inode.private() };
    let private = field.load(Ordering::Relaxed);
    field.store(ptr::null_mut(), Ordering::Relaxed);
    let Some(header) = NonNull::new(private).filter(|_| private != PLAIN) else {
        return;
    };
    let header = header.cast::<Header>();
    // SAFETY: `publish()` put the header there.
    let mapped = unsafe { header.as_ref() };
    // SAFETY: By the type invariants the mount is still there, and stays after the header.
    let sbi = unsafe { mapped.sbi.as_ref() };

    sbi.files.add(-1, Relaxed);
    let Some(file) = mapped.file().map(NonNull::from) else {
        // SAFETY: The inode, which had it, does not point to the header any more.
        drop(unsafe { take_back(header) });
        return;
    };
    // SAFETY: No file of the inode is open, so nothing is mapped any more, and `file` is in the
    // list of its mount.
    let evicted = unsafe { Evicted::new(file) };
    sbi.mapped_files.evict(sbi, evicted);
}
