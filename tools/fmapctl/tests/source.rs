// SPDX-License-Identifier: GPL-2.0
//! What has to hold for the source as a whole: no module of a tool imports one that imports it,
//! and what the crate repeats of the kernel module is the same there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use fuse_dax_fmap::module::Counter;
use fuse_dax_fmap::{OPS_NAME_LEN, OpsName};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect()
}

/// Without comments: a link in one is no import.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let lines: Vec<_> = text.lines().filter(is_code).collect();
    lines.join("\n")
}

/// The modules that `crate::NAME` and `crate::{NAME, ...}` name. What is no module is the root's.
fn imports(code: &str, modules: &BTreeSet<String>, root: &str) -> BTreeSet<String> {
    let name = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = &text[..end.unwrap_or(text.len())];
        match modules.contains(name) {
            true => name.to_owned(),
            false => root.to_owned(),
        }
    };
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap();
                let items = list.split(',').map(str::trim);
                found.extend(items.filter(|item| !item.is_empty()).map(name));
            }
            None => drop(found.insert(name(rest))),
        }
    }
    found
}

/// Modules that are left when those that import none of the others have been taken away, again
/// and again.
fn circles(mut left: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let names: BTreeSet<_> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|name, imports| imports.iter().any(|i| i != name && names.contains(i)));
        if left.len() == before {
            return left;
        }
    }
}

#[test]
fn no_import_circles() {
    for (tool, root) in [
        ("fmapctl", "main"),
        ("fmap-host", "lib"),
        ("fuse-dax-fmap", "lib"),
    ] {
        let files = rust_files(&top().join("tools").join(tool).join("src"));
        let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        let modules: BTreeSet<_> = files.iter().map(|path| stem(path)).collect();
        assert!(modules.contains(root));
        let arrows = files.iter().map(|path| {
            let mut imports = imports(&code(path), &modules, root);
            if stem(path) == root {
                // It declares them all.
                imports.extend(modules.iter().cloned());
            }
            (stem(path), imports)
        });
        let circles = circles(arrows.collect());
        assert!(circles.is_empty(), "{tool}: {circles:#?}");
    }
}

#[test]
fn circles_are_found() {
    let arrows = |all: &[(&str, &[&str])]| {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let all = all
            .iter()
            .map(|(name, names)| ((*name).to_owned(), set(names)));
        circles(all.collect())
    };
    assert!(arrows(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &["c"])]).is_empty());
    let found = arrows(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &[])]);
    assert!(found.contains_key("b") && found.contains_key("c") && !found.contains_key("d"));

    let modules = ["a", "b"].map(str::to_owned).into();
    let found = imports(
        "use crate::{\n  a::X,\n  Y,\n};\ncrate::b::f()",
        &modules,
        "main",
    );
    assert_eq!(found, ["a", "b", "main"].map(str::to_owned).into());
}

/// The text between `start` and `end` in the source of the kernel module, which has it once.
fn in_module(start: &str, end: &str) -> String {
    let mut dirs = vec![top()];
    let others = ["bench", "build", "demo", "tests", "tools"];
    for entry in fs::read_dir(top()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !others.contains(&name) && !name.starts_with('.') {
            dirs.push(path);
        }
    }
    let files = dirs.iter().flat_map(|dir| rust_files(dir));
    let found: Vec<_> = files
        .filter_map(|file| {
            let code = code(&file);
            let (_, rest) = code.split_once(start)?;
            Some(rest.split_once(end)?.0.to_owned())
        })
        .collect();
    match &found[..] {
        [text] => text.clone(),
        _ => panic!(
            "{} files of the module have {start:?}, and one should: has it another form now?",
            found.len()
        ),
    }
}

#[test]
fn counters_as_in_the_module() {
    let names = in_module("const NAMES: [&str; ", "];");
    let names: Vec<_> = names.split('"').skip(1).step_by(2).collect();
    let here: Vec<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
    assert_eq!(here, names);
}

#[test]
fn names_of_ops_as_in_the_module() {
    let others = in_module("byte.is_ascii_alphanumeric() || b\"", "\".contains(byte)");
    let len = in_module("pub(crate) const LEN: usize = ", ";");
    assert_eq!(len.parse(), Ok(OPS_NAME_LEN));
    for byte in 0..=u8::MAX {
        let mut name = [0; OPS_NAME_LEN];
        (name[0], name[1]) = (b'x', byte);
        let valid = byte == 0 || byte.is_ascii_alphanumeric() || others.as_bytes().contains(&byte);
        assert_eq!(OpsName::from_bytes(&name).is_ok(), valid, "{byte:#x}");
    }
}
