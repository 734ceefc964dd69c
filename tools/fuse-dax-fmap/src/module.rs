// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel module exports: its files, and its counters.
//!
//! For tools; a server needs none of it.

/// The name of the module, in `/sys/module` and `/sys/kernel/btf`.
pub const NAME: &str = "fuse_dax_fmap";
/// Names the ops of privileged mounts whose server names none. Root may write it.
pub const DEFAULT_OPS: &str = "/sys/module/fuse_dax_fmap/parameters/default_ops";
/// The superblocks that use ops, a line for each: `<major>:<minor> ops=<name> map=<id>
/// files=<number> devices=<index>:<name>[!],...`, where `!` marks a device that has failed, and
/// ` <name>=<number>` for each [`Counter`].
pub const MOUNTS: &str = "/sys/kernel/debug/fuse_dax_fmap/mounts";
/// The devices of these superblocks, a line for each: `<major>:<minor> device=<name>`, ` index=`,
/// ` size=`, ` failed=` and ` poisoned_pages=` with a number, and ` <name>=<number>` for each
/// [`Counter`] that devices have.
pub const DEVICES: &str = "/sys/kernel/debug/fuse_dax_fmap/devices";
/// Their mapped files, a line for each: `<major>:<minor> nodeid=<number>`, ` ino=`, ` size=` and
/// ` meta_bytes=` with a number, ` <name>=<number>` for each [`Counter`] that files have, and
/// ` file=<path>`, unless it has none. The path is from the root of the mount; blanks, tabs,
/// newlines and backslashes are written as in mountinfo.
pub const FILES: &str = "/sys/kernel/debug/fuse_dax_fmap/files";

macro_rules! counters {
    ($($counter:ident = $name:literal, $description:literal;)*) => {
        /// What the module counts for a mount.
        ///
        /// A newer module may count more.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Counter {
            $(
                #[doc = concat!("`", $name, "`: ", $description, ".")]
                $counter,
            )*
        }

        impl Counter {
            /// All of them, in the order in which the module shows them.
            pub const ALL: &[Self] = &[$(Self::$counter),*];

            /// The module's name for it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$counter => $name,)*
                }
            }

            /// What it counts, in words.
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$counter => $description,)*
                }
            }
        }
    };
}

counters! {
    HugeFaults = "faults_2m", "page faults of 2 MiB";
    PageFaults = "faults_4k", "page faults of 4 KiB";
    FailedFaults = "faults_failed", "page faults that ended with a signal";
    Collapses = "collapses", "ranges back from 4 KiB to 2 MiB";
    ReadBytes = "read_bytes", "bytes read";
    WrittenBytes = "written_bytes", "bytes written";
    GetFmap = "get_fmap", "GET_FMAP requests";
    MapsInOpen = "maps_in_open", "maps that came with OPEN";
    GetDaxdev = "get_daxdev", "GET_DAXDEV requests";
    RefusedMaps = "maps_refused", "maps refused by dax_fmap_parse()";
    FailedOpens = "opens_failed", "opens that failed";
    RefusedMappings = "mappings_refused", "mappings of iomap_begin() refused";
    GetFmapTime = "get_fmap_ns", "nanoseconds waited for answers to GET_FMAP";
    GetFmapWithin100us = "get_fmap_within_100us", "GET_FMAP requests answered within 100 us";
    GetFmapWithin1ms = "get_fmap_within_1ms", "GET_FMAP requests answered within 1 ms";
    GetFmapWithin10ms = "get_fmap_within_10ms", "GET_FMAP requests answered within 10 ms";
    GetFmapWithin100ms = "get_fmap_within_100ms", "GET_FMAP requests answered within 100 ms";
    GetFmapWithin1s = "get_fmap_within_1s", "GET_FMAP requests answered within 1 s";
}

impl Counter {
    /// The counter that the module calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|counter| counter.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for &counter in Counter::ALL {
            assert_eq!(Counter::from_name(counter.name()), Some(counter));
            assert!(!counter.description().is_empty());
        }
        assert_eq!(Counter::from_name(""), None);
    }
}
