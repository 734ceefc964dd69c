// SPDX-License-Identifier: GPL-2.0
//! BPF objects, and what is wrong with one.
//!
//! libbpf logs what is wrong, first the cause and then, for each caller, that it failed; some
//! of its error numbers are private. So errors that can be found without libbpf are checked
//! first, and of its log the first line counts.

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use fuse_dax_fmap::OPS_SIZE;
use fuse_dax_fmap::module::NAME as MODULE;
use libbpf_rs::{
    Error, Link, MapCore, MapMut, MapType, Object, ObjectBuilder, OpenObject, PrintLevel, set_print,
};

use crate::failure::Failure;
use crate::registry::{is_ours, ops_name};
use fmap_host::reason::reason;

/// `BPF_F_LINK`: what libbpf sets for SEC(".struct_ops.link").
const F_LINK: u32 = 1 << 13;

/// An object, and the names of its ops in the order of its maps.
pub struct Opened {
    shown: String,
    object: OpenObject,
    pub names: Vec<String>,
}

/// The same, with its programs in the kernel.
pub struct Loaded {
    shown: String,
    object: Object,
    names: Vec<String>,
}

/// What libbpf said.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn keep_log(_: PrintLevel, message: String) {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    log.push(message);
}

fn take_log() -> Vec<String> {
    mem::take(&mut *LOG.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Reads an object.
pub fn open(path: &Path) -> Result<Opened, Failure> {
    let shown = path.display().to_string();
    check_file(path, &shown)?;

    set_print(Some((PrintLevel::Warn, keep_log)));
    take_log();
    let object = ObjectBuilder::default().open_file(path).map_err(|error| {
        let cause = cause(&take_log(), &error);
        format!("{shown} is damaged, or no BPF object: {cause}")
    })?;

    let mut names = Vec::new();
    for map in object.maps() {
        if map.map_type() != MapType::StructOps {
            continue;
        }
        let variable = map.name().to_string_lossy();
        let image = map.initial_value().filter(|image| image.len() == OPS_SIZE);
        let name = image.and_then(ops_name).ok_or_else(|| {
            format!("{shown}: {variable} is no struct fuse_dax_fmap_ops with a name")
        })?;
        if map.map_flags() & F_LINK == 0 {
            return Err(
                format!("{shown}: {variable} has to be in SEC(\".struct_ops.link\")").into(),
            );
        }
        names.push(name);
    }
    if names.is_empty() {
        return Err(format!("{shown} contains no struct fuse_dax_fmap_ops").into());
    }
    Ok(Opened {
        shown,
        object,
        names,
    })
}

/// Checks that a file is a BPF object, by its first bytes.
fn check_file(path: &Path, shown: &str) -> Result<(), String> {
    const START: usize = 20;

    let failed = |error: io::Error| format!("{shown}: {}", reason(&error));
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("{shown} is no regular file"));
    }
    let mut start = Vec::new();
    file.take(START as u64)
        .read_to_end(&mut start)
        .map_err(failed)?;
    match wrong_start(&start) {
        Some(reason) => Err(format!("{shown} {reason}")),
        None => Ok(()),
    }
}

/// The ELF header: magic, class and byte order, type and machine.
fn wrong_start(start: &[u8]) -> Option<&'static str> {
    const BPF: &[u8] = &[1, 0, 247, 0];
    const OLD_BPF: &[u8] = &[1, 0, 0, 0];

    if start.is_empty() {
        return Some("is empty");
    }
    if !start.starts_with(b"\x7fELF") {
        return Some("is no BPF object: it is no ELF file");
    }
    let kind = start.get(16..20);
    if start.get(4..6) != Some(&[2, 1]) || (kind != Some(BPF) && kind != Some(OLD_BPF)) {
        return Some("is no BPF object: it was not compiled with `clang -target bpf -c`");
    }
    None
}

impl Opened {
    /// Loads the programs into the kernel.
    pub fn load(self) -> Result<Loaded, Failure> {
        let Self {
            shown,
            object,
            names,
        } = self;
        take_log();
        let mut object = object.load().map_err(|error| refused(&shown, &error))?;
        for map in object.maps_mut() {
            if map.map_type() == MapType::StructOps && !is_ours(map.as_fd()) {
                let variable = map.name().to_string_lossy();
                return Err(format!("{shown}: {variable} is no struct fuse_dax_fmap_ops").into());
            }
        }
        Ok(Loaded {
            shown,
            object,
            names,
        })
    }
}

impl Loaded {
    /// The ops, each with its name.
    pub fn ops(&mut self) -> impl Iterator<Item = Ops<'_>> {
        let shown = &self.shown;
        let maps = self.object.maps_mut();
        maps.filter(|map| map.map_type() == MapType::StructOps)
            .zip(&self.names)
            .map(move |(map, name)| Ops { map, name, shown })
    }
}

/// Ops of an object that is loaded.
pub struct Ops<'a> {
    pub map: MapMut<'a>,
    pub name: &'a str,
    shown: &'a str,
}

impl Ops<'_> {
    /// Registers the ops; `None` if ops of that name are registered, whose link can be updated
    /// to these then.
    pub fn register(&mut self) -> Result<Option<Link>, String> {
        let (name, shown) = (self.name, self.shown);
        match self.map.attach_struct_ops() {
            Ok(link) => Ok(Some(link)),
            Err(error) => match error.kind() {
                libbpf_rs::ErrorKind::AlreadyExists => Ok(None),
                libbpf_rs::ErrorKind::InvalidInput => Err(format!(
                    "the kernel does not take the ops {name} of {shown}: both dax_fmap_parse \
                     and iomap_begin have to be set"
                )),
                _ => Err(format!(
                    "the kernel does not take the ops {name} of {shown}: {}",
                    cause(&take_log(), &error)
                )),
            },
        }
    }
}

/// The failure for an object that could not be loaded.
fn refused(shown: &str, error: &Error) -> Failure {
    let log = take_log();
    match log.iter().find_map(|message| verifier_log(message)) {
        Some((program, text)) => Failure {
            log: text.to_owned(),
            message: format!(
                "the kernel's verifier does not take the program {program} of {shown}, for the \
                 reason above"
            ),
        },
        None => format!("{shown} cannot be loaded: {}", cause(&log, error)).into(),
    }
}

/// The name of a program, and what the verifier said about it.
fn verifier_log(message: &str) -> Option<(&str, &str)> {
    let (before, rest) = message.split_once("-- BEGIN PROG LOAD LOG --\n")?;
    let (text, _) = rest.split_once("-- END PROG LOAD LOG --")?;
    let (_, program) = before.split_once("prog '")?;
    let (program, _) = program.split_once('\'')?;
    Some((program, text.trim_end()))
}

/// The first line that libbpf logged, or else the error.
fn cause(log: &[String], error: &Error) -> String {
    for message in log {
        let line = message.trim_end().trim_start_matches("libbpf: ");
        let line = line.trim_start_matches("elf: ");
        if line.contains("not found in kernel or module BTFs") {
            return format!("{line} (is it a function of another version of {MODULE}?)");
        }
        if !line.is_empty() {
            return line.to_owned();
        }
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes() {
        let elf = |class: u8, order: u8, kind: [u8; 4]| {
            let mut start = b"\x7fELF".to_vec();
            start.extend([class, order]);
            start.resize(16, 0);
            start.extend(kind);
            wrong_start(&start)
        };
        assert_eq!(elf(2, 1, [1, 0, 247, 0]), None);
        assert_eq!(elf(2, 1, [1, 0, 0, 0]), None);
        for (class, order, kind) in [
            (1, 1, [1, 0, 247, 0]),
            (2, 2, [0, 1, 0, 247]),
            (2, 1, [3, 0, 62, 0]),
            (2, 1, [1, 0, 62, 0]),
        ] {
            assert!(elf(class, order, kind).unwrap().contains("clang"));
        }
        assert_eq!(wrong_start(b""), Some("is empty"));
        assert!(wrong_start(b"#!/bin/sh\n").unwrap().contains("no ELF"));
        assert!(wrong_start(b"\x7fELF\x02\x01").unwrap().contains("clang"));
    }

    #[test]
    fn what_counts_of_a_log() {
        let said = |lines: &[&str]| {
            lines
                .iter()
                .map(|&line| line.to_owned())
                .collect::<Vec<_>>()
        };
        let error = Error::from_raw_os_error(2);
        assert_eq!(
            cause(
                &said(&[
                    "libbpf: elf: BTF is required, but is missing or corrupted.\n",
                    "libbpf: failed to load object 'x': -2\n"
                ]),
                &error
            ),
            "BTF is required, but is missing or corrupted."
        );
        assert!(cause(&[], &error).contains("No such file"));

        let message = "libbpf: prog 'parse': -- BEGIN PROG LOAD LOG --\n0: no\nprocessed 1\n\
                       -- END PROG LOAD LOG --\n";
        assert_eq!(verifier_log(message), Some(("parse", "0: no\nprocessed 1")));
        assert_eq!(verifier_log("libbpf: prog 'parse': failed\n"), None);
    }
}
