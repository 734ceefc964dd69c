// SPDX-License-Identifier: GPL-2.0

//! Opening a file of an fmap mount: the mark that reports it, the open shim, and the operations
//! that an open file gets.

use core::ptr;

use kernel::{
    container_of,
    error::{
        from_result,
        to_result, //
    },
    ffi,
    prelude::*, //
};

use crate::{
    abstractions::{
        fs::file::OpeningFile,
        fsnotify, //
    },
    bindings::kernel as c,
    compat::EOPNOTSUPP,
    fuse::{
        Inode,
        Table,
        MAKING_TABLES, //
    },
    iomap::{
        self,
        State, //
    }, //
};

use super::{
    connection::Connection,
    first_open::{
        map_state,
        Opened, //
    },
    mark::Marked,
    open_shim::{
        is_no_rw,
        OpenShim,
        Orig,
        OPEN_SHIM, //
    }, //
};

mod early;

use early::Changing;

/// Returns the tables if the file has the operations that they were made from, or the open shim.
/// Makes them for the first file.
///
/// # Safety
///
/// `file` is of an fmap mount.
unsafe fn shim_for(file: &OpeningFile) -> Option<&'static OpenShim> {
    let current: *const _ = file.operations();

    if OPEN_SHIM.as_ref().is_none() {
        let _making = MAKING_TABLES.lock();
        // SAFETY: By the safety requirements this table is FUSE's, which stays loaded.
        let template = unsafe { &*current };
        // INVARIANT: The table is FUSE's.
        OPEN_SHIM.populate(Table(OpenShim {
            orig: Orig(template),
            shim: c::file_operations {
                open: Some(open),
                ..*template
            },
            mapped: c::file_operations {
                fsync: Some(fsync),
                flush: Some(flush),
                release: Some(release),
                ..iomap::file_operations(template)
            },
            early: early::file_operations(template),
            counted: c::file_operations {
                release: Some(release),
                ..early::file_operations(template)
            },
            no_rw: c::file_operations {
                // A loop device does not check whether its file is open for that.
                read_iter: None,
                write_iter: None,
                ..early::file_operations(template)
            },
        }));
    }
    let shim = OPEN_SHIM.as_ref().map(|table| &table.0)?;
    (ptr::eq(shim.orig.0, current) || ptr::eq(&shim.shim, current)).then_some(shim)
}

/// Callbacks for opens on fmap mounts, and for the end of their superblocks.
pub(super) struct Opens;

impl fsnotify::Operations for Opens {
    type Data = Marked;

    #[inline]
    fn open_perm(file: &OpeningFile) {
        let inode = file.inode();

        if has_open_shim(file) || !inode.is_regular() || Connection::of_inode(inode).is_none() {
            return;
        }
        // The table of the file may be from before another task gave the inode the open shim.
        // SAFETY: The superblock has a connection, so `file` is of an fmap mount.
        let Some(shim) = (unsafe { shim_for(file) }) else {
            return;
        };
        // SAFETY: The open shim is for regular files of FUSE, and `inode` is one.
        unsafe { inode.set_file_operations(&shim.shim) };

        let operations = if file.has_private_data() {
            created(file, shim)
        } else {
            &shim.shim
        };
        // SAFETY: The open shim is to open the file, or FUSE has, and `created()` found its
        // operations.
        unsafe { file.set_operations(operations) };
    }

    /// Releases held inodes, before the superblock, which is being shut down, looks for inodes in
    /// use.
    fn freeing_mark(marked: &Marked) {
        marked.sbi().mapped_files.shut_down();
    }
}

/// Returns the operations for a file that was opened by CREATE: they call FUSE's own as long as no
/// other open makes the inode mapped. The inode may be mapped already, if the server answered with
/// a file that existed. If the open fails after this, `->release()` is not called.
fn created(file: &OpeningFile, shim: &'static OpenShim) -> &'static c::file_operations {
    // SAFETY: The file is of an fmap mount, so its inode is FUSE's.
    match iomap::state(unsafe { Inode::of(file.inode()) }) {
        State::Plain => shim.orig.0,
        _ if is_no_rw(file.mode()) => &shim.no_rw,
        _ => &shim.early,
    }
}

/// Returns true if a file that is being opened has the open shim from its inode.
fn has_open_shim(file: &OpeningFile) -> bool {
    let current = file.operations().open;

    !file.has_private_data()
        && current.is_some_and(|current| ptr::fn_addr_eq(current, open as Open))
}

type Open = unsafe extern "C" fn(*mut c::inode, *mut c::file) -> ffi::c_int;

/// Operations for a file that is being opened and is not a mapped one: FUSE's own, or ones that
/// call FUSE's own as long as the inode is not mapped.
///
/// # Invariants
///
/// They are for any regular file of FUSE.
struct NotMapped(&'static c::file_operations);

/// A file that is being opened by the open shim.
///
/// # Invariants
///
/// `file` is one of `inode`, which is FUSE's. FUSE has opened it if, and only if, `opened` is
/// `Some(Ok(()))`.
struct PendingOpen<'a> {
    inode: &'a Inode,
    file: &'a OpeningFile,
    shim: &'static OpenShim,
    /// The result of FUSE's own open, if that has been called.
    opened: Option<Result>,
}

/// `->open()` of the open shim.
///
/// # Safety
///
/// Called by the VFS, for a file that has the open shim.
unsafe extern "C" fn open(inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: `inode` is FUSE's, as only such inodes get the open shim, and in use by the open.
    let inode = unsafe { Inode::new(inode) };
    // SAFETY: `file` has its inode and operations, and is being opened by this task.
    let file = unsafe { OpeningFile::from_raw(file) };
    let f_op = ptr::from_ref(file.operations()).cast_mut();
    // SAFETY: The table of `file` is the open shim, part of an `OpenShim` that is never freed.
    let shim = unsafe { &*container_of!(f_op, OpenShim, shim) };

    // INVARIANT: The VFS passes a file and its inode, and FUSE has not been asked to open the file.
    let mut pending = PendingOpen {
        inode,
        file,
        shim,
        opened: None,
    };
    from_result(|| pending.open().map(|()| 0))
}

impl PendingOpen<'_> {
    #[inline]
    fn open(&mut self) -> Result {
        if self.inode.is_bad() {
            return Err(EIO);
        }
        if iomap::state(self.inode) == State::Mapped {
            return self.open_mapped();
        }
        self.open_unknown()
    }

    /// Opens a file whose inode is plain, or not known to be mapped.
    #[inline(never)]
    fn open_unknown(&mut self) -> Result {
        let inode = self.inode;
        let conn = Connection::of_inode(inode).ok_or(EIO)?;
        conn.sbi().superblock.remember_mount_point(self.file);
        let f_mode = self.file.mode();
        let truncates = self.file.has_flags(c::O_TRUNC);
        let no_rw = is_no_rw(f_mode);
        let state = if no_rw && !truncates {
            Ok(iomap::state(inode))
        } else {
            map_state(conn, inode, || {
                // OPEN would truncate a file that may turn out to be mapped.
                if !truncates {
                    // While this runs, the inode does not become mapped.
                    // INVARIANT: FUSE's own operations are for any regular file of FUSE.
                    let _ = self.orig_open(NotMapped(self.shim.orig.0));
                }
                match self.opened {
                    Some(Ok(())) => Opened::Yes,
                    None | Some(Err(EIO)) => Opened::NotYet,
                    Some(Err(_)) => Opened::Refused,
                }
            })
        };
        match (state, self.opened) {
            (Err(errno), Some(Ok(()))) => {
                self.orig_release();
                Err(errno)
            }
            // FUSE also fails with EIO if the server wants an I/O mode that does not fit. A mapped
            // file does no I/O through FUSE.
            (Ok(State::Mapped), None | Some(Err(EIO))) => self.open_mapped(),
            (Err(errno), _) | (Ok(_), Some(Err(errno))) => Err(errno),
            (Ok(State::Mapped), Some(Ok(()))) => {
                // For FOPEN_STREAM or FOPEN_NONSEEKABLE, FUSE clears mode bits that a mapped file
                // needs.
                // SAFETY: The inode is mapped, and FUSE has opened the file.
                unsafe { self.become_mapped(f_mode) };
                Ok(())
            }
            (Ok(_), _) if truncates && iomap::state(inode) != State::Plain => {
                // Another open may publish a map until OPEN truncates at the server.
                match Changing::new(inode)? {
                    Some(_change) => self.orig_open(not_mapped(inode, conn, no_rw, self.shim)),
                    None => self.open_mapped(),
                }
            }
            (Ok(_), _) => self.orig_open(not_mapped(inode, conn, no_rw, self.shim)),
        }
    }

    /// Opens a file whose inode is known to be mapped.
    #[inline]
    fn open_mapped(&mut self) -> Result {
        if self.file.has_flags(c::O_TRUNC) {
            if self.inode.size() != 0 {
                return Err(EOPNOTSUPP);
            }
            // The file is empty for the kernel; the server must not truncate what it has.
            self.file.clear_flags(c::O_TRUNC);
        }
        self.file.generic_open()?;
        // Only sends OPEN: what FUSE does after that concerns its page cache and its own I/O.
        // SAFETY: By the type invariants the file is one of the inode, and FUSE has not opened it:
        // its open was not called, or has failed.
        unsafe { self.inode.do_open(self.file) }?;
        self.opened = Some(Ok(()));
        // SAFETY: The inode is mapped, and FUSE has opened the file.
        unsafe { self.become_mapped(self.file.mode()) };
        Ok(())
    }

    /// Makes the file an open mapped file. `f_mode` is the mode that the VFS gave to it.
    ///
    /// # Safety
    ///
    /// The inode is mapped, and FUSE has opened the file.
    unsafe fn become_mapped(&self, f_mode: c::fmode_t) {
        // SAFETY: The file is being opened, and its inode is mapped, by the safety requirements.
        unsafe { iomap::opened(self.file.as_raw()) };
        // SAFETY: The inode of the file is mapped, by the safety requirements.
        unsafe { self.file.set_operations(&self.shim.mapped) };
        let mode = f_mode | c::FMODE_CAN_ODIRECT | c::FMODE_NOWAIT;
        // SAFETY: The operations of mapped files support O_DIRECT and RWF_NOWAIT.
        unsafe { self.file.set_mode(mode) };
    }

    /// Gives the file `operations`, and calls FUSE's own open, unless FUSE has opened it.
    ///
    /// # Errors
    ///
    /// Those of FUSE's own open.
    fn orig_open(&mut self, operations: NotMapped) -> Result {
        // SAFETY: By the invariants of both types `operations` are for this file.
        unsafe { self.file.set_operations(operations.0) };
        if self.opened == Some(Ok(())) {
            return Ok(());
        }
        let opened = match self.shim.orig.0.open {
            // SAFETY: The function is FUSE's by the invariants of `Orig`. By those of this type the
            // file is one of the inode, and FUSE has not opened it.
            Some(open) => to_result(unsafe { open(self.inode.as_raw(), self.file.as_raw()) }),
            None => Ok(()),
        };
        self.opened = Some(opened);
        opened
    }

    /// Undoes what [`Self::orig_open`] did, for an open that fails.
    fn orig_release(&mut self) {
        if self.opened.take() == Some(Ok(())) {
            let file = self.file.as_raw();
            // SAFETY: By the type invariants FUSE has opened the file, which is one of the inode.
            // As the open fails, the VFS does not release it.
            unsafe { self.shim.orig.release(self.inode, file) };
        }
    }
}

/// Returns the operations for a file that is not a mapped one: FUSE's own if the inode is known to
/// be plain, else those of an early file.
fn not_mapped(inode: &Inode, conn: &Connection, no_rw: bool, shim: &'static OpenShim) -> NotMapped {
    // In this order: a map that is published after this sees that there are none.
    let has_no_maps = conn.sbi().has_no_maps();
    // INVARIANT: All of these are made for FUSE's files.
    NotMapped(match iomap::state(inode) {
        State::Plain => shim.orig.0,
        State::Unknown if has_no_maps => shim.orig.0,
        _ if no_rw => &shim.no_rw,
        _ => &shim.early,
    })
}

/// `->flush()` of an open mapped file, which each close(2) calls.
///
/// FUSE's own writes back pages, of which there are none, before it checks whether the server has
/// FLUSH.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
unsafe extern "C" fn flush(file: *mut c::file, id: c::fl_owner_t) -> ffi::c_int {
    // SAFETY: `file` is open, so its inode is FUSE's and in use.
    let inode = unsafe { Inode::new((*file).f_inode) };
    if !inode.server_wants_flush() && !inode.is_bad() {
        return 0;
    }
    match OPEN_SHIM.as_ref().and_then(|table| table.0.orig.0.flush) {
        // SAFETY: The function is FUSE's, with the VFS's arguments.
        Some(orig_flush) => unsafe { orig_flush(file, id) },
        None => 0,
    }
}

/// `->release()` of an open mapped file, which has no descriptors and no mappings any more.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file that is being closed.
unsafe extern "C" fn release(inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: `inode` is FUSE's, and kept by the file until the VFS is done with it.
    let inode = unsafe { Inode::new(inode) };
    // SAFETY: `inode` is mapped, as it has an open mapped file.
    unsafe { iomap::closed(inode) };
    let Some(table) = OPEN_SHIM.as_ref() else {
        return 0;
    };
    // SAFETY: FUSE has opened `file`, and the VFS is closing it.
    unsafe { table.0.orig.release(inode, file) }
}

/// `->fsync()` of an open mapped file: flushes first, and then sends FSYNC, if the server has it.
///
/// Durability does not depend on the server: data are flushed even if FSYNC fails (ENOTCONN).
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
unsafe extern "C" fn fsync(
    file: *mut c::file,
    start: c::loff_t,
    end: c::loff_t,
    datasync: ffi::c_int,
) -> ffi::c_int {
    // SAFETY: `file` is open, and its inode mapped, by the safety requirements.
    let flushed = unsafe { iomap::sync_range(file, start, end) };
    // FUSE's own also reports recorded losses, once for each open file.
    // SAFETY: `file` is open, and the other arguments are the VFS's.
    let sent = unsafe { orig_fsync(file, start, end, datasync) };

    from_result(|| flushed.and(sent).map(|()| 0))
}

/// Calls FUSE's own fsync, which waits for its writes and sends FSYNC.
///
/// # Safety
///
/// As `->fsync()`, for an open file.
unsafe fn orig_fsync(
    file: *mut c::file,
    start: c::loff_t,
    end: c::loff_t,
    datasync: ffi::c_int,
) -> Result {
    match OPEN_SHIM.as_ref().ok_or(EIO)?.0.orig.0.fsync {
        // SAFETY: The function is FUSE's, with the VFS's arguments, for a file that FUSE has open.
        Some(orig_fsync) => to_result(unsafe { orig_fsync(file, start, end, datasync) }),
        None => Ok(()),
    }
}
