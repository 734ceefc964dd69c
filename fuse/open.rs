// SPDX-License-Identifier: GPL-2.0

//! Opening a file of a bound mount: the mark that reports it, the gate, and the operations an open
//! file ends up with.

use core::{
    mem::offset_of,
    ptr, //
};

use kernel::{
    container_of,
    error::to_result,
    ffi,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock,
        SetOnce, //
    }, //
};

use crate::{
    bindings::{
        fuse as f,
        kernel as c, //
    },
    fmap_ops::{
        self,
        Opened, //
    },
    iomap::{
        self,
        COperations,
        State,
        Table, //
    }, //
};

use super::{
    Connection,
    Inode, //
};

mod unsettled;

/// The tables of open files, made from FUSE's when the first one is seen.
///
/// They name the module that FUSE's name, and not this one: an open file keeps its mount, and that
/// keeps this module.
struct Gate {
    /// FUSE's own.
    plain: *const c::file_operations,
    /// FUSE's own, with `->open()` ours. What an inode has from its first open on.
    gate: c::file_operations,
    /// Those of an open mapped file.
    mapped: c::file_operations,
    /// For a file that FUSE opened when it was not known whether it is mapped: FUSE's own until it
    /// is, and then those of a mapped file. See [`unsettled`].
    unsettled: c::file_operations,
    /// The same for one that has been mapped by mmap(2) as a mapped file, and counts as open.
    counted: c::file_operations,
    /// The same as `unsettled` for one that is open for neither reading nor writing.
    idle: c::file_operations,
}

// SAFETY: Tables of function pointers, and a pointer to one of FUSE's that is static.
unsafe impl COperations for Gate {}

static GATE: SetOnce<Table<Gate>> = SetOnce::new();

global_lock! {
    /// Held while a table is made from FUSE's.
    // SAFETY: `Hooks::new()` initializes it before the probes are registered.
    pub(crate) unsafe(uninit) static MAKING_TABLES: Mutex<()> = ();
}

/// The gate, if `plain` are the operations it was made from, or it has not been made yet.
///
/// # Safety
///
/// `plain` are the operations of an inode of a bound mount.
unsafe fn gate_for(plain: *const c::file_operations) -> Option<&'static Gate> {
    if GATE.as_ref().is_none() {
        let _making = MAKING_TABLES.lock();
        // SAFETY: By the safety requirements.
        let template = unsafe { &*plain };
        GATE.populate(Table(Gate {
            plain,
            gate: c::file_operations {
                open: Some(open),
                ..*template
            },
            mapped: c::file_operations {
                flush: Some(flush),
                release: Some(release),
                ..iomap::file_operations(template)
            },
            unsettled: unsettled::file_operations(template),
            counted: c::file_operations {
                release: Some(release),
                ..unsettled::file_operations(template)
            },
            idle: c::file_operations {
                // A loop device does not ask whether the descriptor allows it.
                read_iter: None,
                write_iter: None,
                ..unsettled::file_operations(template)
            },
        }));
    }
    let gate = GATE.as_ref().map(|table| &table.0)?;
    (ptr::eq(gate.plain, plain) || ptr::eq(&gate.gate, plain)).then_some(gate)
}

/// FS_OPEN_PERM on a bound superblock: the file has its `f_op` but has not been opened.
///
/// # Safety
///
/// Called by fsnotify.
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
    if mask & c::FS_OPEN_PERM == 0
        || data_type != c::fsnotify_data_type_FSNOTIFY_EVENT_PATH as ffi::c_int
    {
        return 0;
    }
    const F_PATH: usize = offset_of!(c::file, __bindgen_anon_1);

    // SAFETY: FS_OPEN_PERM is reported with `&file->f_path`, by the task that opens.
    unsafe {
        let file = data.byte_sub(F_PATH).cast::<c::file>().cast_mut();
        let inode = (*file).f_inode;

        if is_at_gate(file) {
            return 0;
        }

        if u32::from((*inode).i_mode) & c::S_IFMT != c::S_IFREG {
            return 0;
        }
        if Connection::of((*inode).i_sb).is_none() {
            return 0;
        }
        // The file's table was loaded from the inode, maybe before another task changed it there.
        let Some(gate) = gate_for((*file).f_op) else {
            return 0;
        };
        let i_fop = ptr::addr_of_mut!((*inode).__bindgen_anon_3.i_fop);
        if !ptr::eq(i_fop.read_volatile(), &gate.gate) {
            i_fop.write_volatile(&gate.gate);
        }

        if (*file).private_data.is_null() {
            (*file).f_op = &gate.gate;
        } else {
            created(file, gate);
        }
        0
    }
}

/// Opened by CREATE: FUSE's, as long as the file is not mapped by another opener. It may be
/// already, if the server answered with a file that was there. If the open fails after this,
/// `->release()` is not called.
///
/// # Safety
///
/// `file` is being opened by the current task, and FUSE has opened it.
unsafe fn created(file: *mut c::file, gate: &'static Gate) {
    // SAFETY: By the safety requirements.
    unsafe {
        (*file).f_op = match iomap::state(Inode::new((*file).f_inode)) {
            State::Plain => gate.plain,
            _ if is_idle(file) => &gate.idle,
            _ => &gate.unsettled,
        };
    }
}

/// Whether a file is open for neither reading nor writing. Then it cannot be used for either, and
/// does not count as open.
///
/// # Safety
///
/// The file is being opened by the current task.
unsafe fn is_idle(file: *const c::file) -> bool {
    // SAFETY: By the safety requirements.
    unsafe { (*file).f_mode & (c::FMODE_READ | c::FMODE_WRITE) == 0 }
}

/// Whether a file is being opened that has the gate's table from its inode.
///
/// # Safety
///
/// The file is being opened by the current task.
unsafe fn is_at_gate(file: *const c::file) -> bool {
    // SAFETY: By the safety requirements; a file has operations.
    let (theirs, private_data) = unsafe { ((*(*file).f_op).open, (*file).private_data) };

    private_data.is_null() && theirs.is_some_and(|theirs| ptr::fn_addr_eq(theirs, open as Open))
}

type Open = unsafe extern "C" fn(*mut c::inode, *mut c::file) -> ffi::c_int;

/// Makes a file that is being opened, and that FUSE has opened, an open mapped file.
///
/// # Safety
///
/// `file` is being opened by the current task; its inode is mapped.
unsafe fn become_mapped(file: *mut c::file, gate: &'static Gate) {
    // SAFETY: By the safety requirements.
    unsafe {
        iomap::opened((*file).f_inode);
        (*file).f_op = &gate.mapped;
        iomap::show_page_cache(file);
        (*file).f_mode |= c::FMODE_CAN_ODIRECT | c::FMODE_NOWAIT;
    }
}

/// `->open()` of the gate.
///
/// # Safety
///
/// Called by the VFS, for a file that has the gate's table.
unsafe extern "C" fn open(inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: Called by the VFS, for a file that got the gate's table.
    match unsafe { try_open(inode, file) } {
        Ok(()) => 0,
        Err(errno) => errno.to_errno(),
    }
}

/// # Safety
///
/// As `->open()`, for a file that has the gate's table.
unsafe fn try_open(inode: *mut c::inode, file: *mut c::file) -> Result {
    // SAFETY: By the safety requirements; tables stay for ever. The inode is in use by the open.
    let (gate, wrapped) = unsafe {
        (
            &*container_of!((*file).f_op.cast_mut(), Gate, gate),
            Inode::new(inode),
        )
    };

    if wrapped.is_bad() {
        return Err(EIO);
    }
    if iomap::state(wrapped) == State::Mapped {
        // SAFETY: The file is being opened by this task alone.
        return unsafe { open_mapped(inode, file, gate) };
    }
    // SAFETY: As above.
    unsafe { open_unknown(inode, file, gate) }
}

/// Opens a file that is not known to be mapped; or not yet.
///
/// # Safety
///
/// As [`try_open`].
#[inline(never)]
unsafe fn open_unknown(inode: *mut c::inode, file: *mut c::file, gate: &'static Gate) -> Result {
    // SAFETY: Only files of bound superblocks get here, and an open file keeps its mount.
    let conn = unsafe { Connection::of((*inode).i_sb) }.ok_or(EIO)?;
    // SAFETY: The inode is in use by the open.
    let wrapped = unsafe { Inode::new(inode) };
    // SAFETY: The file is being opened by this task alone.
    let (idle, truncates, f_mode) = unsafe {
        (
            is_idle(file),
            (*file).f_flags & c::O_TRUNC != 0,
            (*file).f_mode,
        )
    };
    // What FUSE's own open said, if it was called.
    let mut opened = None;
    let settled = if idle {
        Ok(iomap::state(wrapped))
    } else {
        fmap_ops::settle(conn, wrapped, || {
            // OPEN would truncate a file that may turn out to be mapped.
            if !truncates {
                // SAFETY: As above; while this runs, the inode is not mapped.
                opened = Some(unsafe {
                    (*file).f_op = gate.plain;
                    plain_open(inode, file, gate)
                });
            }
            match opened {
                Some(Ok(())) => Opened::Yes,
                None | Some(Err(EIO)) => Opened::NotYet,
                Some(Err(_)) => Opened::Refused,
            }
        })
    };
    // SAFETY: As above. FUSE has opened the file if it says so; then it may be released, and once
    // more by nobody, as the open fails.
    unsafe {
        match (settled, opened) {
            (Err(errno), Some(Ok(()))) => {
                plain_release(inode, file, gate);
                Err(errno)
            }
            // FUSE says EIO, too, where it cannot do I/O the way the server wants. Nobody asks it
            // to.
            (Ok(State::Mapped), None | Some(Err(EIO))) => open_mapped(inode, file, gate),
            (Err(errno), _) | (Ok(_), Some(Err(errno))) => Err(errno),
            (Ok(State::Mapped), Some(Ok(()))) => {
                // What FUSE takes away from a file with FOPEN_STREAM or FOPEN_NONSEEKABLE, memory
                // has.
                (*file).f_mode = f_mode;
                become_mapped(file, gate);
                Ok(())
            }
            (Ok(_), Some(Ok(()))) => {
                (*file).f_op = not_mapped(wrapped, conn, idle, gate);
                Ok(())
            }
            (Ok(_), None) => {
                (*file).f_op = not_mapped(wrapped, conn, idle, gate);
                plain_open(inode, file, gate)
            }
        }
    }
}

/// The operations of a file that is not a mapped one, and may become one if it is not known to be
/// plain.
fn not_mapped(
    inode: &Inode,
    conn: &Connection,
    idle: bool,
    gate: &'static Gate,
) -> *const c::file_operations {
    match iomap::state(inode) {
        State::Plain => gate.plain,
        _ if conn.mount().has_no_maps() => gate.plain,
        _ if idle => &gate.idle,
        _ => &gate.unsettled,
    }
}

/// [`to_result`], which is a call, for what nearly always succeeds.
#[inline]
fn done(ret: ffi::c_int) -> Result {
    if ret == 0 {
        Ok(())
    } else {
        to_result(ret)
    }
}

/// Opens a file that is known to be mapped.
///
/// # Safety
///
/// As [`try_open`].
unsafe fn open_mapped(inode: *mut c::inode, file: *mut c::file, gate: &'static Gate) -> Result {
    // SAFETY: By the safety requirements.
    if unsafe { (*file).f_flags } & c::O_TRUNC != 0 {
        // SAFETY: By the safety requirements the inode is in use.
        if unsafe { iomap::i_size(inode) } != 0 {
            return Err(EOPNOTSUPP);
        }
        // The file is empty for the kernel; what it is for the server shall stay.
        // SAFETY: The file is being opened, so it is the caller's alone.
        unsafe { (*file).f_flags &= !c::O_TRUNC };
    }
    // SAFETY: As above.
    unsafe {
        done(c::generic_file_open(inode, file))?;
        // OPEN, and no more: what FUSE then does concerns its page cache and its own I/O.
        let mount = (*(*inode).i_sb).s_fs_info.cast::<f::fuse_mount>();
        let nodeid = Inode::new(inode).nodeid();
        done(f::fuse_do_open(mount, nodeid, file, false))?;
        become_mapped(file, gate);
    }
    Ok(())
}

/// FUSE's own open.
///
/// # Safety
///
/// As `->open()`.
unsafe fn plain_open(inode: *mut c::inode, file: *mut c::file, gate: &'static Gate) -> Result {
    // SAFETY: The table is FUSE's own.
    match unsafe { (*gate.plain).open } {
        // SAFETY: As above, with the VFS's arguments.
        Some(plain_open) => to_result(unsafe { plain_open(inode, file) }),
        None => Ok(()),
    }
}

/// Undoes what [`plain_open`] did, for an open that fails.
///
/// # Safety
///
/// As `->open()`, for a file that FUSE has opened, and that nobody closes.
unsafe fn plain_release(inode: *mut c::inode, file: *mut c::file, gate: &'static Gate) {
    // SAFETY: The table is FUSE's own.
    if let Some(plain_release) = unsafe { (*gate.plain).release } {
        // SAFETY: By the safety requirements.
        unsafe { plain_release(inode, file) };
    }
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
    // SAFETY: An open file's inode is in use.
    let inode = unsafe { Inode::new((*file).f_inode) };
    if !inode.server_wants_flush() && !inode.is_bad() {
        return 0;
    }
    // SAFETY: The table is FUSE's own, with the VFS's arguments.
    match GATE.as_ref().map(|table| unsafe { (*table.0.plain).flush }) {
        // SAFETY: As above.
        Some(Some(plain_flush)) => unsafe { plain_flush(file, id) },
        _ => 0,
    }
}

/// `->release()` of an open mapped file: the last descriptor, and the last mapping, are gone.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file that is being closed.
unsafe extern "C" fn release(inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: By the safety requirements. The file keeps its inode until the VFS is done with it.
    unsafe {
        iomap::closed(inode);
        plain_release_of(inode, file)
    }
}

/// FUSE's own `->release()`.
///
/// # Safety
///
/// As `->release()`.
unsafe fn plain_release_of(inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    let Some(table) = GATE.as_ref() else {
        return 0;
    };
    // SAFETY: The table is FUSE's own.
    match unsafe { (*table.0.plain).release } {
        // SAFETY: By the safety requirements, with the VFS's arguments.
        Some(plain_release) => unsafe { plain_release(inode, file) },
        None => 0,
    }
}

/// FUSE's own fsync: waits for its writes, and asks the server.
///
/// # Safety
///
/// As `->fsync()`, for an open file.
pub(crate) unsafe fn plain_fsync(
    file: *mut c::file,
    start: c::loff_t,
    end: c::loff_t,
    datasync: ffi::c_int,
) -> Result {
    let gate = &GATE.as_ref().ok_or(EIO)?.0;

    // SAFETY: The table is FUSE's own.
    match unsafe { (*gate.plain).fsync } {
        // SAFETY: FUSE's own, with the VFS's arguments, for a file that FUSE has open.
        Some(plain_fsync) => to_result(unsafe { plain_fsync(file, start, end, datasync) }),
        None => Ok(()),
    }
}

/// The group of all marks. It only ever sees opens.
pub(super) static FSNOTIFY_OPS: c::fsnotify_ops = c::fsnotify_ops {
    handle_event: Some(handle_event),
    freeing_mark: Some(freeing_mark),
    free_mark: Some(free_mark),
    ..pin_init::zeroed()
};

pub(super) static GROUP: Atomic<usize> = Atomic::new(0);

/// # Safety
///
/// Called by fsnotify, when nobody has the mark any more.
unsafe extern "C" fn free_mark(mark: *mut c::fsnotify_mark) {
    // SAFETY: `add_mark()` allocated it.
    drop(unsafe { KBox::from_raw(mark.cast::<Mark>()) });
}

/// The mark of a superblock.
#[repr(C)]
struct Mark {
    mark: c::fsnotify_mark,
    conn: *const Connection,
}

/// The superblock is being shut down: the last moment before it looks for inodes that are in use.
///
/// # Safety
///
/// Called by fsnotify, with a mark of ours.
unsafe extern "C" fn freeing_mark(mark: *mut c::fsnotify_mark, _group: *mut c::fsnotify_group) {
    // SAFETY: By the safety requirements. A mark goes before its superblock, which owns the
    // connection.
    unsafe {
        (*(*mark.cast::<Mark>()).conn)
            .mount()
            .mapped_files
            .shut_down()
    };
}

/// Has opens on a superblock reported, until it is shut down. May sleep.
///
/// # Safety
///
/// `sb` is mounted and bound, to `conn`.
pub(super) unsafe fn add_mark(sb: *mut c::super_block, conn: &Connection) -> Result {
    let group = GROUP.load(Relaxed) as *mut c::fsnotify_group;
    let mark = Mark {
        mark: pin_init::zeroed(),
        conn,
    };
    let mark = KBox::into_raw(KBox::new(mark, GFP_KERNEL)?).cast::<c::fsnotify_mark>();

    // SAFETY: The group lives as long as any mount is bound, for that keeps the module. The mark is
    // ours until it is added, and then fsnotify's; `fsnotify_put_mark()` gives up our reference.
    unsafe {
        c::fsnotify_init_mark(mark, group);
        (*mark).mask = c::FS_OPEN_PERM;
        let ret = c::fsnotify_add_mark(
            mark,
            sb.cast(),
            c::fsnotify_obj_type_FSNOTIFY_OBJ_TYPE_SB as ffi::c_uint,
            0,
        );
        c::fsnotify_put_mark(mark);
        to_result(ret)
    }
}
