// SPDX-License-Identifier: GPL-2.0
//! The parts of bpf(2) that libbpf-rs lacks: links that another program has made.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use libbpf_rs::libbpf_sys;

/// All links in the kernel; those that are freed during the iteration may be missing.
pub fn links() -> impl Iterator<Item = OwnedFd> {
    let next = |id: &u32| {
        let mut next = 0;
        // SAFETY: It takes a number, and writes one to `next`, which the pointer points to.
        let found = unsafe { libbpf_sys::bpf_link_get_next_id(*id, &mut next) };
        checked(found).ok().map(|_| next)
    };
    std::iter::successors(next(&0), next).filter_map(|id| link_by_id(id).ok())
}

/// Opens a link by its id; any program may have made it.
pub fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: It takes a number only.
    let fd = checked(unsafe { libbpf_sys::bpf_link_get_fd_by_id(id) })?;
    // SAFETY: The descriptor `fd` is new, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Detaches a link from its ops. The link itself may exist longer, held or pinned.
pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: The descriptor is open.
    checked(unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) }).map(drop)
}

/// Points a link at another map.
pub fn update(link: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    let (link, map) = (link.as_raw_fd(), map.as_raw_fd());
    // SAFETY: Both descriptors are open, and null stands for no options.
    checked(unsafe { libbpf_sys::bpf_link_update(link, map, ptr::null()) }).map(drop)
}

/// Pins a link in bpffs.
pub fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: The descriptor is open, and the string ends with a NUL.
    checked(unsafe { libbpf_sys::bpf_obj_pin(link.as_raw_fd(), path.as_ptr()) }).map(drop)
}

/// libbpf returns the error, negative.
fn checked(returned: i32) -> io::Result<i32> {
    match returned {
        0.. => Ok(returned),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}
