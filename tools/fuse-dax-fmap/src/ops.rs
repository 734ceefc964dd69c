// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ops, the name of the BPF programs that understand the maps of a server.

use std::error;
use std::fmt;
use std::str::FromStr;

/// Bytes of the name of ops, with its NUL: `FUSE_DAX_FMAP_OPS_NAME_LEN`.
pub const OPS_NAME_LEN: usize = 16;
/// Bytes of a `struct fuse_dax_fmap_ops`, as a BPF object has it: the name, and two programs,
/// each with the size of a pointer in BPF.
pub const OPS_SIZE: usize = OPS_NAME_LEN + 2 * 8;

/// The name of ops: 1 to 15 characters of `[A-Za-z0-9_.-]`.
///
/// ```
/// use fuse_dax_fmap::OpsName;
///
/// let name: OpsName = "striped".parse()?;
/// assert_eq!(name.to_string(), "striped");
/// assert!("two words".parse::<OpsName>().is_err());
/// # Ok::<(), fuse_dax_fmap::BadOpsName>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpsName([u8; OPS_NAME_LEN]);

/// A string that cannot name ops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadOpsName(String);

impl OpsName {
    /// The name in an array that a NUL ends, as in a `struct fuse_dax_fmap_ops`. The bytes
    /// behind the NUL are ignored.
    ///
    /// # Errors
    ///
    /// [`BadOpsName`] if the name is empty, has no NUL or another character.
    pub fn from_bytes(bytes: &[u8; OPS_NAME_LEN]) -> Result<Self, BadOpsName> {
        let end = bytes.iter().position(|&c| c == 0).unwrap_or(OPS_NAME_LEN);
        Self::new(&bytes[..end])
    }

    /// With zeros behind the name.
    pub const fn to_bytes(self) -> [u8; OPS_NAME_LEN] {
        self.0
    }

    fn new(name: &[u8]) -> Result<Self, BadOpsName> {
        let valid = |c: &u8| c.is_ascii_alphanumeric() || b"_.-".contains(c);
        if name.is_empty() || name.len() >= OPS_NAME_LEN || !name.iter().all(valid) {
            return Err(BadOpsName(String::from_utf8_lossy(name).into_owned()));
        }
        let mut bytes = [0; OPS_NAME_LEN];
        bytes[..name.len()].copy_from_slice(name);
        Ok(Self(bytes))
    }
}

impl FromStr for OpsName {
    type Err = BadOpsName;

    fn from_str(name: &str) -> Result<Self, BadOpsName> {
        Self::new(name.as_bytes())
    }
}

impl fmt::Display for OpsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|&c| c == 0).unwrap_or(OPS_NAME_LEN);
        f.write_str(&String::from_utf8_lossy(&self.0[..end]))
    }
}

impl fmt::Debug for OpsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpsName({self})")
    }
}

impl fmt::Display for BadOpsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no name of ops: 1 to 15 letters, digits, '_', '.' or '-'",
            self.0
        )
    }
}

impl error::Error for BadOpsName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ops() {
        assert_eq!("striped".parse::<OpsName>().unwrap().to_string(), "striped");
        assert!("a.b-c_D9".parse::<OpsName>().is_ok());
        assert!("123456789012345".parse::<OpsName>().is_ok());
        for bad in ["", "1234567890123456", "a b", "a/b", "\u{e4}", "a\0"] {
            assert!(bad.parse::<OpsName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_in_an_array() {
        let name = OpsName::from_bytes(b"striped\0not read").unwrap();
        assert_eq!(name, "striped".parse().unwrap());
        assert_eq!(&name.to_bytes(), b"striped\0\0\0\0\0\0\0\0\0");
        assert_eq!(
            OpsName::from_bytes(b"123456789012345\0")
                .unwrap()
                .to_string(),
            "123456789012345"
        );
        for bad in [
            b"\x00234567890123456",
            b"1234567890123456",
            b"a b\0............",
        ] {
            assert!(OpsName::from_bytes(bad).is_err(), "{bad:?}");
        }
        assert!(OpsName::from_bytes(&[0xff; 16]).is_err());
    }
}
