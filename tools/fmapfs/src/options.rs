// SPDX-License-Identifier: GPL-2.0
//! Mount options: what `-o` and fstab say.
//!
//! mount(8) passes its helpers all options of the line in fstab, also those for itself,
//! systemd or people. Options for fmapfs are applied, those for the others ignored, and any
//! other is an error that names it: a misspelt `ro` must not become `rw`.

use std::path::PathBuf;

use fuse_dax_fmap::OpsName;
use rustix::mount::MountAttrFlags as Attr;

/// The options; of contrary ones, the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub read_only: bool,
    /// Of the mount.
    pub attributes: Attr,
    /// Of the file system, by the kernel's names.
    pub sync: bool,
    pub dirsync: bool,
    pub lazytime: bool,
    /// Change an existing mount.
    pub remount: bool,
    pub nonempty: bool,
    pub ops: Option<OpsName>,
    pub pid_file: Option<PathBuf>,
    pub stats: Option<PathBuf>,
    pub record: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            attributes: Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV,
            sync: false,
            dirsync: false,
            lazytime: false,
            remount: false,
            nonempty: false,
            ops: None,
            pid_file: None,
            stats: None,
            record: None,
        }
    }
}

/// Options for mount(8), systemd or people; those that have no effect here; and those that
/// the kernel shows for a FUSE mount, which mount(8) adds for a remount.
const PASSED_OVER: [&str; 26] = [
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "async",
    "nomand",
    "noiversion",
    "iversion",
    "silent",
    "loud",
    "allow_other",
    "default_permissions",
    "seclabel",
    "user_id=0",
    "group_id=0",
    "rootmode=40000",
    "subtype=fmapfs",
];
const PASSED_OVER_PREFIXES: [&str; 6] =
    ["x-", "X-", "comment=", "uhelper=", "helper=", "max_read="];

impl Options {
    /// Takes the options of one `-o`.
    ///
    /// What is unknown is an error, unless `sloppy`.
    pub fn add(&mut self, text: &str, sloppy: bool) -> Result<(), String> {
        for option in text.split(',').filter(|option| !option.is_empty()) {
            match self.add_one(option) {
                Err(_) if sloppy => (),
                added => added?,
            }
        }
        Ok(())
    }

    fn add_one(&mut self, option: &str) -> Result<(), String> {
        let path = |value: &str| match value.starts_with('/') {
            true => Ok(Some(PathBuf::from(value))),
            false => Err(format!("mount option {option:?}: the path is not absolute")),
        };
        match option.split_once('=') {
            Some(("ops", name)) => {
                let name = name.parse::<OpsName>();
                self.ops = Some(name.map_err(|error| error.to_string())?);
            }
            Some(("pid-file", value)) => self.pid_file = path(value)?,
            Some(("stats", value)) => self.stats = path(value)?,
            Some(("record", value)) => self.record = path(value)?,
            _ => return self.add_word(option),
        }
        Ok(())
    }

    fn add_word(&mut self, option: &str) -> Result<(), String> {
        let mut set = |attribute, on| self.attributes.set(attribute, on);
        match option {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "suid" => set(Attr::MOUNT_ATTR_NOSUID, false),
            "nosuid" => set(Attr::MOUNT_ATTR_NOSUID, true),
            "dev" => set(Attr::MOUNT_ATTR_NODEV, false),
            "nodev" => set(Attr::MOUNT_ATTR_NODEV, true),
            "exec" => set(Attr::MOUNT_ATTR_NOEXEC, false),
            "noexec" => set(Attr::MOUNT_ATTR_NOEXEC, true),
            "symfollow" => set(Attr::MOUNT_ATTR_NOSYMFOLLOW, false),
            "nosymfollow" => set(Attr::MOUNT_ATTR_NOSYMFOLLOW, true),
            "diratime" => set(Attr::MOUNT_ATTR_NODIRATIME, false),
            "nodiratime" => set(Attr::MOUNT_ATTR_NODIRATIME, true),
            "noatime" | "strictatime" | "atime" | "relatime" | "norelatime" | "nostrictatime" => {
                // One of three.
                set(Attr::MOUNT_ATTR__ATIME, false);
                match option {
                    "noatime" => set(Attr::MOUNT_ATTR_NOATIME, true),
                    "strictatime" => set(Attr::MOUNT_ATTR_STRICTATIME, true),
                    _ => (),
                }
            }
            "sync" => self.sync = true,
            "dirsync" => self.dirsync = true,
            "lazytime" => self.lazytime = true,
            "nolazytime" => self.lazytime = false,
            "remount" => self.remount = true,
            "nonempty" => self.nonempty = true,
            _ if PASSED_OVER.contains(&option)
                || PASSED_OVER_PREFIXES
                    .iter()
                    .any(|prefix| option.starts_with(prefix)) => {}
            _ => return Err(format!("unknown mount option {option:?}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Options, String> {
        let mut options = Options::default();
        options.add(text, false)?;
        Ok(options)
    }

    #[test]
    fn what_fstab_may_say() {
        assert_eq!(options("").unwrap(), Options::default());
        assert_eq!(
            options(
                "rw,defaults,nofail,noauto,_netdev,user,x-systemd.automount,\
                 x-systemd.requires=dev-dax0.0.device,X-mount.mkdir=0755,comment=x,allow_other"
            )
            .unwrap(),
            Options::default()
        );
        assert!(options("rw,ro").unwrap().read_only);
        assert!(!options("ro,rw").unwrap().read_only);
        let atime = |text: &str| options(text).unwrap().attributes & Attr::MOUNT_ATTR__ATIME;
        assert_eq!(atime("noatime"), Attr::MOUNT_ATTR_NOATIME);
        assert_eq!(atime("noatime,strictatime"), Attr::MOUNT_ATTR_STRICTATIME);
        assert_eq!(atime("noatime,relatime"), Attr::empty());
        let attributes = options("exec,noexec,suid,dev").unwrap().attributes;
        assert_eq!(attributes, Attr::MOUNT_ATTR_NOEXEC);
        assert!(options("remount,ro").unwrap().remount);
        assert!(options("nonempty").unwrap().nonempty);
    }

    #[test]
    fn what_is_ours() {
        let ours = options("ops=mine,pid-file=/run/x.pid,stats=/run/x,record=/var/x").unwrap();
        assert_eq!(ours.ops, Some("mine".parse().unwrap()));
        assert_eq!(ours.pid_file, Some("/run/x.pid".into()));
        assert_eq!(ours.stats, Some("/run/x".into()));
        assert_eq!(ours.record, Some("/var/x".into()));
        assert!(options("ops=a/b").unwrap_err().contains("a/b"));
        assert!(options("stats=x").unwrap_err().contains("absolute"));
    }

    #[test]
    fn the_unknown_is_refused_by_name() {
        for bad in ["r0", "ro,bogus", "size=1G", "user_id=5", "xattr", "mand"] {
            let name = bad.rsplit(',').next().unwrap();
            let error = options(bad).unwrap_err();
            assert_eq!(error, format!("unknown mount option {name:?}"));
        }
        let mut sloppy = Options::default();
        sloppy.add("bogus,ro", true).unwrap();
        assert!(sloppy.read_only);
    }
}
