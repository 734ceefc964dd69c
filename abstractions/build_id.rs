// SPDX-License-Identifier: GPL-2.0

//! Build ids of kernels. Each build has its own, unlike its release and its version magic.
//!
//! # Examples
//!
//! ```ignore
//! if BuildId::of_kernel() != BuildId::of_tree() {
//!     // The kernel that runs is not the one whose headers the code was compiled with.
//! }
//! ```

use kernel::{
    ffi,
    fmt, //
};

use crate::bindings::kernel as c;

/// The length of a build id in hexadecimal, with the NUL.
const LEN: usize = c::FUSE_DAX_FMAP_BUILD_ID_LEN as usize;

/// A build id in hexadecimal, as `file` and `modinfo` show it.
#[derive(PartialEq, Eq)]
pub(crate) struct BuildId([u8; LEN]);

impl BuildId {
    /// Returns the build id of the running kernel, `None` if the kernel does not tell it.
    ///
    /// May sleep.
    pub(crate) fn of_kernel() -> Option<Self> {
        Self::filled_by(c::fuse_dax_fmap_running)
    }

    /// Returns the build id of the kernel that this code was compiled for, `None` if the kernel
    /// tree has none.
    pub(crate) fn of_tree() -> Option<Self> {
        Self::filled_by(c::fuse_dax_fmap_tree)
    }

    /// Returns the build id that `fill` writes, `None` if it writes nothing.
    fn filled_by(fill: unsafe extern "C" fn(*mut ffi::c_char)) -> Option<Self> {
        let mut hex = [0; LEN];

        // SAFETY: Both functions that are passed as `fill` write at most `LEN` bytes, and `hex` has
        // room for them.
        unsafe { fill(hex.as_mut_ptr()) };
        (hex[0] != 0).then_some(Self(hex))
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.split(|&byte| byte == 0).next().unwrap_or_default();

        digits
            .iter()
            .try_for_each(|&digit| fmt::Write::write_char(f, digit.into()))
    }
}
