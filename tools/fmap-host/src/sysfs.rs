// SPDX-License-Identifier: GPL-2.0
//! Files of sysfs, which have one word each.

use std::fs;
use std::path::Path;

/// What a file of a directory says, if anything.
pub fn word(dir: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(dir.join(name)).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The same, if it is a number, decimal or after `0x` hexadecimal.
pub fn number(dir: &Path, name: &str) -> Option<u64> {
    let text = word(dir, name)?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The name of what a symbolic link of a directory leads to.
pub fn link(dir: &Path, name: &str) -> Option<String> {
    let to = fs::canonicalize(dir.join(name)).ok()?;
    to.file_name()?.to_str().map(str::to_owned)
}
