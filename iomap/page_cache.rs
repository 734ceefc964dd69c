// SPDX-License-Identifier: GPL-2.0

//! The page caches of a mapped file.
//!
//! `inode->i_data` and `inode->i_mapping` stay FUSE's for ever. FUSE fills, invalidates and
//! truncates them as its server says; a mapped file's bytes are never there. Beside it each mapped
//! file has two page caches of its own:
//!
//! - **The DAX page cache** holds the DAX entries, which are mapped memory and not copies. A file
//!   gets it when it is mapped by mmap(2) for the first time. It is the `f_mapping` of what a
//!   mapping holds (`vm_file`), and DAX goes by that alone. It is the `i_data` of an inode that
//!   only hosts it, with S_DAX and the mapped size. No superblock lists that inode, no path leads
//!   to it and nothing takes a reference to it. FUSE's inode never gets S_DAX: FUSE would take that
//!   for DAX of its own.
//! - **The shown page cache** is the `f_mapping` of descriptors, and empty. The kernel takes what
//!   is in a descriptor's `f_mapping` for pages: cachestat(2) follows a DAX entry as if it were a
//!   shadow entry. Its host is FUSE's inode, for the kernel goes that way: to a file's size, to the
//!   node id of FSYNC, and from `dax_iomap_rw()` to `i_rwsem`. Errors of writeback are recorded
//!   there (`wb_err`).
//!
//! Descriptors that were opened before the map came keep FUSE's page cache as their `f_mapping`.
//!
//! Who reaches `i_mapping` of a mapped file's inode finds FUSE's page cache, and cannot do harm
//! there; `docs/kernel-assumptions.md` lists them. One of them passes the file of a mapping along,
//! uprobes do, and so `->read_folio()` is not FUSE's ([`aops`]).

use core::ptr;

use kernel::{
    ffi,
    page::PAGE_SHIFT,
    prelude::*,
    sync::SetOnce, //
};

use crate::{
    bindings::kernel as c,
    fuse::MAKING_TABLES, //
};

use super::{
    header,
    vm_file::is_vm_file,
    writeback::writepages,
    COperations,
    Header,
    Table, //
};

/// The operations of a DAX page cache.
static DAX_AOPS: Table<c::address_space_operations> = Table(c::address_space_operations {
    writepages: Some(writepages),
    dirty_folio: Some(c::noop_dirty_folio),
    ..pin_init::zeroed()
});

/// The operations of a shown page cache.
static SHOWN_AOPS: Table<c::address_space_operations> = Table(c::address_space_operations {
    writepages: Some(write_dax_back),
    ..pin_init::zeroed()
});

/// Makes the inode that hosts the DAX page cache of a file.
///
/// # Safety
///
/// `slot` is valid for writes and stays where it is; `header` is published, and `inode` is FUSE's.
pub(super) unsafe fn init_host(slot: *mut c::inode, inode: *const c::inode, header: &Header) {
    // SAFETY: `slot` is valid for writes and stays where it is, by the safety requirements.
    unsafe {
        c::inode_init_once(slot);
        c::__spin_lock_init(
            &raw mut (*slot).i_lock,
            c"fuse_dax_fmap::host_lock".as_char_ptr(),
            kernel::static_lock_class!().as_ptr(),
        );
        // For tracepoints, and for the checks of "is this DAX, and of a regular file".
        (*slot).i_sb = (*inode).i_sb;
        (*slot).i_ino = (*inode).i_ino;
        (*slot).i_mode = c::S_IFREG as c::umode_t;
        (*slot).i_flags = c::S_DAX;
        (*slot).i_blkbits = PAGE_SHIFT as u8;
        (*slot).i_size = header.mapped_size as c::loff_t;
        (*slot).i_count.counter = 1;
        // Dirty for good, so that no flusher thread ever gets it: `__mark_inode_dirty()` is done at
        // once.
        (*slot).i_state.__state = c::inode_state_flags_enum_I_DIRTY_PAGES;
        (*slot).i_mapping = &raw mut (*slot).i_data;
        (*slot).i_private = ptr::from_ref(header).cast_mut().cast();
        init(&raw mut (*slot).i_data, slot, &DAX_AOPS.0);
    }
}

/// Makes the page cache that descriptors of a mapped file show.
///
/// # Safety
///
/// `slot` is valid for writes and stays where it is until `inode` is evicted.
pub(super) unsafe fn init_shown(slot: *mut c::address_space, inode: *mut c::inode) {
    // SAFETY: By the safety requirements. An open file keeps its inode.
    unsafe {
        c::address_space_init_once(slot);
        init(slot, inode, &SHOWN_AOPS.0);
        // sync_file_range(2) looks no further if this says that nothing is dirty.
        (*slot).i_pages.xa_flags |= c::XA_FLAGS_MARK_DIRTY;
    }
}

/// # Safety
///
/// `slot` went through `address_space_init_once()`, and `host` is valid as long as it is used.
unsafe fn init(
    slot: *mut c::address_space,
    host: *mut c::inode,
    a_ops: *const c::address_space_operations,
) {
    // SAFETY: `slot` is an address space, and `host` outlives its use, by the safety requirements.
    unsafe {
        c::__init_rwsem(
            &raw mut (*slot).invalidate_lock,
            c"fuse_dax_fmap::invalidate_lock".as_char_ptr(),
            kernel::static_lock_class!().as_ptr(),
        );
        (*slot).host = host;
        (*slot).gfp_mask = c::GFP_KERNEL;
        (*slot).a_ops = a_ops;
    }
}

/// `->writepages()` of a shown page cache, for sync_file_range(2) and its kin: the DAX entries are
/// written back.
///
/// # Safety
///
/// Called by writeback, for the shown page cache of an open mapped file.
unsafe extern "C" fn write_dax_back(
    shown: *mut c::address_space,
    wbc: *mut c::writeback_control,
) -> ffi::c_int {
    // SAFETY: By the safety requirements, and the host is the file's inode, which is mapped.
    unsafe {
        let header = header((*shown).host);
        if header.file().is_none() {
            return 0;
        }
        writepages(header.dax_mapping(), wbc)
    }
}

/// Makes a file of a mapped inode show its empty page cache.
///
/// # Safety
///
/// `file` is being opened by the current task, and its inode is mapped.
pub(crate) unsafe fn show_page_cache(file: *mut c::file) {
    // SAFETY: `file` is being opened by this task, and its inode mapped, by the safety
    // requirements.
    unsafe {
        let shown = header((*file).f_inode).shown();

        (*file).f_mapping = shown;
        (*file).f_wb_err = c::filemap_sample_wb_err(shown);
    }
}

/// Records that dirty data of a mapped file are lost: fsync(2) says so once, for each open file.
///
/// # Safety
///
/// The file is mapped, or its memory is kept.
pub(super) unsafe fn record_loss(header: &Header) {
    // SAFETY: By the safety requirements. Descriptors show one of the two.
    unsafe {
        let inode = header
            .file()
            .map_or(ptr::null_mut(), |file| (*file.as_ptr()).inode);
        // Kept memory has no open file that could be told, and no inode.
        if !inode.is_null() {
            c::mapping_set_error(header.shown(), EIO.to_errno());
            c::mapping_set_error(&raw mut (*inode).i_data, EIO.to_errno());
        }
    }
}

/// FUSE's page cache operations, and a copy of them with `read_folio` ours.
static AOPS: SetOnce<Table<Aops>> = SetOnce::new();

struct Aops {
    plain: *const c::address_space_operations,
    mapped: c::address_space_operations,
}

// SAFETY: Function pointers, and a pointer to a static table of FUSE's.
unsafe impl COperations for Aops {}

/// The operations for FUSE's page cache of an inode that is about to be mapped: FUSE's, but for
/// `->read_folio()` and `->bmap()`.
///
/// # Safety
///
/// `plain` is what FUSE gave to a regular file.
pub(super) unsafe fn aops(
    plain: *const c::address_space_operations,
) -> Result<*const c::address_space_operations> {
    if AOPS.as_ref().is_none() {
        let _making = MAKING_TABLES.lock();
        AOPS.populate(Table(Aops {
            plain,
            mapped: c::address_space_operations {
                read_folio: Some(read_folio),
                // FIBMAP is refused, as on any file system that could not say what the number
                // means.
                bmap: None,
                // SAFETY: `plain` is a static table of FUSE's, by the safety requirements.
                ..unsafe { *plain }
            },
        }));
    }
    let table = &AOPS.as_ref().ok_or(EIO)?.0;
    // All regular files of FUSE have the same, or ours, if they were nearly mapped before.
    if !ptr::eq(table.plain, plain) && !ptr::eq(&table.mapped, plain) {
        return Err(EIO);
    }
    Ok(&table.mapped)
}

/// `->read_folio()` of FUSE's page cache of a mapped file's inode.
///
/// Uprobes read an instruction that way, with the file that the mapping holds. They would get the
/// server's bytes and not the memory's; and they take a breakpoint out again by way of
/// `i_mapping->i_mmap`, where a mapping of memory is not. So such a file reads nothing, and no
/// breakpoint is ever put in.
///
/// # Safety
///
/// Called by the memory manager, with a locked folio of the page cache of a regular file.
unsafe extern "C" fn read_folio(file: *mut c::file, folio: *mut c::folio) -> ffi::c_int {
    // SAFETY: By the safety requirements; a file that is passed is open.
    let memory = !file.is_null() && unsafe { is_vm_file(file) };
    let plain = AOPS
        .as_ref()
        // SAFETY: FUSE's table is static.
        .and_then(|table| unsafe { (*table.0.plain).read_folio });

    match plain {
        // SAFETY: FUSE's own, with the caller's arguments.
        Some(plain) if !memory => unsafe { plain(file, folio) },
        _ => {
            // SAFETY: By the safety requirements it is locked.
            unsafe { c::folio_unlock(folio) };
            EIO.to_errno()
        }
    }
}
