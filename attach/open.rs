// SPDX-License-Identifier: GPL-2.0

//! Opening a file of a bound mount: the mark that reports it, the gate, and the operations an open
//! file ends up with.

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

/// The gate, if the operations of a file are those it was made from, or it has not been made yet.
///
/// # Safety
///
/// `file` is of a bound mount.
unsafe fn shim_for(file: &OpeningFile) -> Option<&'static OpenShim> {
    let theirs: *const _ = file.operations();

    if OPEN_SHIM.as_ref().is_none() {
        let _making = MAKING_TABLES.lock();
        // SAFETY: By the safety requirements this table is FUSE's, which stays.
        let template = unsafe { &*theirs };
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
                // A loop device does not ask whether the descriptor allows it.
                read_iter: None,
                write_iter: None,
                ..early::file_operations(template)
            },
        }));
    }
    let shim = OPEN_SHIM.as_ref().map(|table| &table.0)?;
    (ptr::eq(shim.orig.0, theirs) || ptr::eq(&shim.shim, theirs)).then_some(shim)
}

/// What is told of opens on bound superblocks, and of their end.
pub(super) struct Opens;

impl fsnotify::Operations for Opens {
    type Data = Marked;

    #[inline]
    fn open_perm(file: &OpeningFile) {
        let inode = file.inode();

        if has_open_shim(file) || !inode.is_regular() || Connection::of_inode(inode).is_none() {
            return;
        }
        // The file's table was loaded from the inode, maybe before another task changed it there.
        // SAFETY: The superblock is bound.
        let Some(shim) = (unsafe { shim_for(file) }) else {
            return;
        };
        // SAFETY: The gate is made for FUSE's regular files.
        unsafe { inode.set_file_operations(&shim.shim) };

        let operations = if file.has_private_data() {
            created(file, shim)
        } else {
            &shim.shim
        };
        // SAFETY: The file is to be opened by the gate, or FUSE has opened it, and it is one of
        // the kind that `created()` found.
        unsafe { file.set_operations(operations) };
    }

    /// The superblock is being shut down: the last moment before it looks for inodes that are in
    /// use.
    fn freeing_mark(marked: &Marked) {
        marked.sbi().mapped_files.shut_down();
    }
}

/// What operations a file has that was opened by CREATE: FUSE's, as long as the file is not mapped
/// by another opener. It may be already, if the server answered with a file that was there. If the
/// open fails after this, `->release()` is not called.
fn created(file: &OpeningFile, shim: &'static OpenShim) -> &'static c::file_operations {
    // SAFETY: The file is of a bound mount, so its inode is FUSE's.
    match iomap::state(unsafe { Inode::of(file.inode()) }) {
        State::Plain => shim.orig.0,
        _ if is_no_rw(file.mode()) => &shim.no_rw,
        _ => &shim.early,
    }
}

/// Whether a file is being opened that has the gate's table from its inode.
fn has_open_shim(file: &OpeningFile) -> bool {
    let theirs = file.operations().open;

    !file.has_private_data() && theirs.is_some_and(|theirs| ptr::fn_addr_eq(theirs, open as Open))
}

type Open = unsafe extern "C" fn(*mut c::inode, *mut c::file) -> ffi::c_int;

/// Operations of a file that is being opened and is no mapped one: FUSE's own, or such that are
/// FUSE's own as long as the file is not mapped.
///
/// # Invariants
///
/// They are for any regular file of FUSE's.
struct NotMapped(&'static c::file_operations);

/// A file that is being opened, and came by the gate.
///
/// # Invariants
///
/// `file` is one of `inode`, which is FUSE's. FUSE has opened it if, and only if, `opened` is
/// `Some(Ok(()))`.
struct PendingOpen<'a> {
    inode: &'a Inode,
    file: &'a OpeningFile,
    shim: &'static OpenShim,
    /// What FUSE said when it was to open it, if it was.
    opened: Option<Result>,
}

/// `->open()` of the gate.
///
/// # Safety
///
/// Called by the VFS, for a file that has the gate's table.
unsafe extern "C" fn open(inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: `inode` is FUSE's, as only such inodes get the gate's table, and in use by the open.
    let inode = unsafe { Inode::new(inode) };
    // SAFETY: `file` has its inode and operations, and is being opened by this task.
    let file = unsafe { OpeningFile::from_raw(file) };
    let f_op = ptr::from_ref(file.operations()).cast_mut();
    // SAFETY: The table of `file` is the gate's, which is part of a `OpenShim` that stays.
    let shim = unsafe { &*container_of!(f_op, OpenShim, shim) };

    // INVARIANT: The VFS passes a file and its inode, and FUSE knows nothing of it yet.
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

    /// Opens a file that is not known to be mapped; or not yet.
    #[inline(never)]
    fn open_unknown(&mut self) -> Result {
        let inode = self.inode;
        let conn = Connection::of_inode(inode).ok_or(EIO)?;
        let f_mode = self.file.mode();
        let truncates = self.file.has_flags(c::O_TRUNC);
        let no_rw = is_no_rw(f_mode);
        let state = if no_rw {
            Ok(iomap::state(inode))
        } else {
            map_state(conn, inode, || {
                // OPEN would truncate a file that may turn out to be mapped.
                if !truncates {
                    // While this runs, the inode is not mapped.
                    // INVARIANT: They are FUSE's own.
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
            // FUSE says EIO, too, where it cannot do I/O the way the server wants. Nobody asks it
            // to.
            (Ok(State::Mapped), None | Some(Err(EIO))) => self.open_mapped(),
            (Err(errno), _) | (Ok(_), Some(Err(errno))) => Err(errno),
            (Ok(State::Mapped), Some(Ok(()))) => {
                // What FUSE takes away from a file with FOPEN_STREAM or FOPEN_NONSEEKABLE, memory
                // has.
                // SAFETY: It is the mode that the VFS gave to the file, which becomes a mapped one.
                unsafe { self.file.set_mode(f_mode) };
                // SAFETY: The inode is mapped, and FUSE has opened the file.
                unsafe { self.become_mapped() };
                Ok(())
            }
            (Ok(_), _) => self.orig_open(not_mapped(inode, conn, no_rw, self.shim)),
        }
    }

    /// Opens a file that is known to be mapped.
    fn open_mapped(&mut self) -> Result {
        if self.file.has_flags(c::O_TRUNC) {
            if self.inode.size() != 0 {
                return Err(EOPNOTSUPP);
            }
            // The file is empty for the kernel; what it is for the server shall stay.
            self.file.clear_flags(c::O_TRUNC);
        }
        self.file.generic_open()?;
        // OPEN, and no more: what FUSE then does concerns its page cache and its own I/O.
        // SAFETY: By the type invariants the file is one of the inode, and FUSE has not opened it:
        // it was not asked, or has failed.
        unsafe { self.inode.do_open(self.file) }?;
        self.opened = Some(Ok(()));
        // SAFETY: The inode is mapped, and FUSE has opened the file.
        unsafe { self.become_mapped() };
        Ok(())
    }

    /// Makes it an open mapped file.
    ///
    /// # Safety
    ///
    /// The inode is mapped, and FUSE has opened the file.
    unsafe fn become_mapped(&self) {
        // SAFETY: The inode is mapped by the safety requirements, and in use by the open.
        unsafe { iomap::opened(self.inode.as_raw()) };
        // SAFETY: The inode of the file is mapped, by the safety requirements.
        unsafe { self.file.set_operations(&self.shim.mapped) };
        // SAFETY: The inode of the file is mapped, by the safety requirements.
        unsafe { iomap::set_f_mapping(self.file.as_raw()) };
        let mode = self.file.mode() | c::FMODE_CAN_ODIRECT | c::FMODE_NOWAIT;
        // SAFETY: The operations of mapped files can do both.
        unsafe { self.file.set_mode(mode) };
    }

    /// FUSE's own open, unless FUSE has opened it already, of a file that gets `operations`.
    ///
    /// # Errors
    ///
    /// FUSE's own.
    fn orig_open(&mut self, operations: NotMapped) -> Result {
        // SAFETY: By the invariants of both types they are for this file.
        unsafe { self.file.set_operations(operations.0) };
        if self.opened == Some(Ok(())) {
            return Ok(());
        }
        let opened = match self.shim.orig.0.open {
            // SAFETY: The function is FUSE's by the invariants of `Plain`. By those of this type
            // the file is one of the inode, and FUSE has not opened it.
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

/// The operations of a file that is not a mapped one, and may become one if it is not known to be
/// plain.
fn not_mapped(inode: &Inode, conn: &Connection, no_rw: bool, shim: &'static OpenShim) -> NotMapped {
    // INVARIANT: All of these are made for FUSE's files.
    NotMapped(match iomap::state(inode) {
        State::Plain => shim.orig.0,
        _ if conn.sbi().has_no_maps() => shim.orig.0,
        _ if no_rw => &shim.no_rw,
        _ => &shim.early,
    })
}

/// `->flush()` of an open mapped file: for each close(2).
///
/// FUSE's own writes pages back, of which there are none, before it looks whether the server has
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

/// `->release()` of an open mapped file: the last descriptor, and the last mapping, are gone.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file that is being closed.
unsafe extern "C" fn release(inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: `inode` is mapped, and kept by the file until the VFS is done with it.
    unsafe { iomap::closed(inode) };
    let Some(table) = OPEN_SHIM.as_ref() else {
        return 0;
    };
    // SAFETY: `inode` is FUSE's, and kept by the file until the VFS is done with it.
    let inode = unsafe { Inode::new(inode) };
    // SAFETY: FUSE has opened `file`, and the VFS is closing it.
    unsafe { table.0.orig.release(inode, file) }
}

/// `->fsync()` of an open mapped file: flushes first, and then asks the server, if there is one to
/// be asked.
///
/// What is durable does not depend on the server: after ENOTCONN, too, the data are flushed.
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
    // It also reports what was recorded as lost, once for each open file.
    // SAFETY: `file` is open, and the other arguments are the VFS's.
    let sent = unsafe { orig_fsync(file, start, end, datasync) };

    from_result(|| flushed.and(sent).map(|()| 0))
}

/// FUSE's own fsync: waits for its writes, and asks the server.
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
