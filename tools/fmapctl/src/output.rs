// SPDX-License-Identifier: GPL-2.0
//! Where output goes.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fmap_host::reason::reason;
use tempfile::Builder;

/// Writes all of a text.
pub fn write(mut to: impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}

/// Says how far a command is. Nothing depends on whether anybody reads it.
pub fn tell(message: &str) {
    let _ = write(io::stderr(), &format!("fmapctl: {message}\n"));
}

/// Replaces a file: its readers see the old text or the new one. All may read it.
pub fn replace(path: &Path, text: &str) -> Result<(), String> {
    put(path, text, |_| Ok(()))
}

/// The same, also after a crash.
pub fn replace_for_good(path: &Path, text: &str) -> Result<(), String> {
    put(path, text, File::sync_all)
}

fn put(path: &Path, text: &str, sync: fn(&File) -> io::Result<()>) -> Result<(), String> {
    let failed = |error: io::Error| {
        // The name of the temporary file says nothing to the user.
        let reason = reason(&error);
        let reason = reason.split(" at path ").next().unwrap_or_default();
        format!("{}: {reason}", path.display())
    };
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(format!("{} is a directory", path.display()));
    }
    let made = Builder::new().prefix(".fmapctl-").tempfile_in(dir);
    let mut file = made.map_err(failed)?;
    write(&mut file, text).map_err(failed)?;
    // Whatever the umask is.
    let all = PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(all).map_err(failed)?;
    sync(file.as_file()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    File::open(dir).and_then(|dir| sync(&dir)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_replaced_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.prom");
        replace(&path, "old").unwrap();
        let reader = fs::File::open(&path).unwrap();
        replace_for_good(&path, "new").unwrap();
        assert_eq!(io::read_to_string(reader).unwrap(), "old");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(
            replace(&dir.path().join("no/x"), "")
                .unwrap_err()
                .ends_with("No such file or directory")
        );
        assert!(
            replace(dir.path(), "")
                .unwrap_err()
                .ends_with("is a directory")
        );
    }
}
