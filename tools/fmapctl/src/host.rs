// SPDX-License-Identifier: GPL-2.0
//! The machine that fmapctl runs on.

use std::path::Path;

use fuse_dax_fmap::module::NAME as MODULE;

/// What every command needs.
pub fn check_host() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this needs root".to_owned());
    }
    if !Path::new("/sys/module").join(MODULE).exists() {
        return Err(format!("the module {MODULE} is not loaded"));
    }
    Ok(())
}
