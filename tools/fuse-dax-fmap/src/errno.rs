// SPDX-License-Identifier: MIT OR Apache-2.0
//! Error numbers, as a server answers them.

use std::error;
use std::fmt;
use std::io;

/// An error number that the kernel takes from a FUSE server: 1 to 511.
///
/// The kernel rejects a reply with any other number, and the task that made the request would
/// wait without end. So there is no `Errno` with another number: [`new()`](Self::new) returns
/// `None`, and the conversions make it [`EIO`](Self::EIO).
///
/// ```
/// use fuse_dax_fmap::Errno;
///
/// assert_eq!(Errno::new(13).map(Errno::get), Some(13));
/// assert_eq!(Errno::new(-13), None);
/// assert_eq!(Errno::from_raw(-13), Errno::EIO);
/// assert_eq!(Errno::from(std::io::Error::from_raw_os_error(19)), Errno::ENODEV);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(u16);

impl Errno {
    /// The largest one.
    pub const MAX: i32 = 511;

    /// Not permitted.
    pub const EPERM: Self = Self(1);
    /// No such file, or it has no map: plain FUSE I/O.
    pub const ENOENT: Self = Self(2);
    /// The open fails with an I/O error.
    pub const EIO: Self = Self(5);
    /// No such device.
    pub const ENODEV: Self = Self(19);
    /// The map needs a larger buffer. [`Accepted::intercept()`](crate::Accepted::intercept) and
    /// [`PendingOpen::complete()`](crate::PendingOpen::complete) answer this by themselves.
    pub const ERANGE: Self = Self(34);
    /// The path of a device is too long.
    pub const ENAMETOOLONG: Self = Self(36);
    /// No file of this server has a map, or the request is not known.
    pub const ENOSYS: Self = Self(38);
    /// This file has no map: plain FUSE I/O.
    pub const ENODATA: Self = Self(61);
    /// For INIT, after a [`Refusal`](crate::Refusal).
    pub const EPROTO: Self = Self(71);

    /// The error of a positive number, if the kernel takes it.
    pub const fn new(errno: i32) -> Option<Self> {
        match errno {
            1..=Self::MAX => Some(Self(errno as u16)),
            _ => None,
        }
    }

    /// The error of a positive number, or [`EIO`](Self::EIO) if the kernel does not take it.
    pub const fn from_raw(errno: i32) -> Self {
        match Self::new(errno) {
            Some(errno) => errno,
            None => Self::EIO,
        }
    }

    /// The number, positive.
    pub const fn get(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({})", self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

impl error::Error for Errno {}

impl From<Errno> for i32 {
    fn from(errno: Errno) -> Self {
        errno.get()
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.get())
    }
}

/// An error that has no number, or none that the kernel takes, is [`Errno::EIO`].
impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or(Self::EIO, Self::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_the_kernel_takes() {
        for errno in [1, 2, 510, 511] {
            assert_eq!(Errno::new(errno).map(i32::from), Some(errno));
            assert_eq!(Errno::from_raw(errno).get(), errno);
        }
        for errno in [0, -2, 512, 4095, 0x10005, i32::MAX, i32::MIN] {
            assert_eq!(Errno::new(errno), None);
            assert_eq!(Errno::from_raw(errno), Errno::EIO);
        }
    }

    #[test]
    fn there_and_back() {
        let error = io::Error::from(Errno::ENODATA);
        assert_eq!(Errno::from(error), Errno::ENODATA);
        assert_eq!(Errno::from(io::Error::other("x")), Errno::EIO);
        assert_eq!(
            Errno::ENOENT.to_string(),
            "No such file or directory (os error 2)"
        );
        assert_eq!(format!("{:?}", Errno::ENOENT), "Errno(2)");
    }
}
