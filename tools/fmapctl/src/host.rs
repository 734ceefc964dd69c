// SPDX-License-Identifier: GPL-2.0
//! The machine that fmapctl runs on.

use std::fs;
use std::path::Path;

use fuse_dax_fmap::module::NAME as MODULE;

/// What every command needs.
pub fn check_host() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("this needs root".to_owned());
    }
    if !Path::new("/sys/module").join(MODULE).exists() {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        return Err(not_loaded(
            &read("/sys/kernel/security/lockdown"),
            &read("/sys/module/module/parameters/sig_enforce"),
        ));
    }
    Ok(())
}

/// The module is not there; modprobe's own error does not say that a signature would help.
fn not_loaded(lockdown: &str, sig_enforce: &str) -> String {
    let signed = sig_enforce.trim() == "Y"
        || lockdown.contains("[integrity]")
        || lockdown.contains("[confidentiality]");
    let hint = if signed {
        ", and this kernel loads only signed modules (Secure Boot, lockdown): sign it with a key \
         that the machine trusts, see docs/signing.md"
    } else {
        ""
    };
    format!("the module {MODULE} is not loaded{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_asked_for_where_it_would_help() {
        let hint = "loads only signed modules";
        assert!(!not_loaded("[none] integrity confidentiality\n", "N\n").contains(hint));
        assert!(!not_loaded("", "").contains(hint));
        assert!(not_loaded("none [integrity] confidentiality\n", "N\n").contains(hint));
        assert!(not_loaded("none integrity [confidentiality]\n", "").contains(hint));
        assert!(not_loaded("", "Y\n").contains(hint));
    }
}
