// SPDX-License-Identifier: GPL-2.0
//! The text is read by a strict parser of OpenMetrics.

use std::collections::{BTreeMap, BTreeSet};

use fmap_host::mountinfo::Number;

use super::*;
use crate::status::OpsState;

fn mount(paths: &[&str], minor: u32, counters: &[(&str, u64)]) -> Mount {
    Mount {
        paths: paths.iter().map(|&path| path.to_owned()).collect(),
        superblock: Number { major: 0, minor },
        ops: "striped".to_owned(),
        ops_map: Some(1),
        ops_state: OpsState::Registered,
        files: 3,
        devices: vec![status::Device {
            index: 0,
            name: "dax0.0".to_owned(),
            failed: true,
            size: Some(4096),
            poisoned_pages: Some(13),
            counters: vec![("faults_4k".to_owned(), 11)],
        }],
        poisoned_pages: Some(13),
        counters: counters
            .iter()
            .map(|&(name, number)| (name.to_owned(), number))
            .collect(),
        file_counters: Vec::new(),
    }
}

fn encoded(mounts: Vec<Mount>) -> String {
    let devices = vec![Device {
        name: "dax0.0".to_owned(),
        dir: "/".into(),
        id: Some("nvdimm:x".to_owned()),
        size: Some(4096),
        ranges: Vec::new(),
        driver: None,
    }];
    text(Snapshot {
        loaded: true,
        mounts,
        devices,
    })
    .unwrap()
}

/// What was read: the type of each metric, and each sample with its number.
#[derive(Default)]
struct Read {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<String, u64>,
}

fn is_name(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(sound)
}

/// The rest after the labels `{name="value",...}`, all of which are checked.
fn labels(text: &str) -> &str {
    let mut names = BTreeSet::new();
    let mut rest = text.strip_prefix('{').unwrap();
    loop {
        let (name, value) = rest.split_once("=\"").unwrap();
        assert!(is_name(name) && names.insert(name), "{text}");
        let mut escaped = false;
        let end = value.find(|c| match (escaped, c) {
            (true, c) => {
                assert!(r#"\"n"#.contains(c), "{text}");
                escaped = false;
                false
            }
            (false, '\\') => {
                escaped = true;
                false
            }
            (false, c) => c == '"',
        });
        rest = &value[end.unwrap() + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.strip_prefix('}').unwrap(),
        }
    }
}

/// Metrics are not interleaved; HELP, TYPE and UNIT come first, once each.
fn read(text: &str) -> Read {
    let mut all = Read::default();
    let mut units = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    for line in body.lines() {
        if let Some(meta) = line.strip_prefix("# ") {
            let words: Vec<_> = meta.splitn(3, ' ').collect();
            let [what, name, value] = words[..] else {
                panic!("{line}");
            };
            assert!(
                is_name(name) && name.starts_with("fuse_dax_fmap_"),
                "{line}"
            );
            match what {
                "HELP" => {
                    assert!(helped.insert(name.to_owned()), "{line}");
                    assert!(value.ends_with('.') && !value.ends_with(".."), "{line}");
                    current = name.to_owned();
                }
                "TYPE" => {
                    assert_eq!(name, current);
                    assert!(["counter", "gauge"].contains(&value), "{line}");
                    assert!(
                        all.kinds
                            .insert(name.to_owned(), value.to_owned())
                            .is_none()
                    );
                }
                "UNIT" => {
                    assert_eq!(name, current);
                    assert!(name.ends_with(&format!("_{value}")), "{line}");
                    assert!(units.insert(name.to_owned(), value.to_owned()).is_none());
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let end = line.find(['{', ' ']).unwrap();
        let name = &line[..end];
        match all.kinds[&current].as_str() {
            "counter" => assert_eq!(name, format!("{current}_total")),
            _ => assert_eq!(name, current),
        }
        let rest = match line[end..].starts_with('{') {
            true => labels(&line[end..]),
            false => &line[end..],
        };
        let number = rest.strip_prefix(' ').unwrap().parse().expect(line);
        let key = line[..line.len() - rest.len()].to_owned();
        assert!(all.samples.insert(key, number).is_none(), "{line}");
    }
    all
}

#[test]
fn what_a_scraper_sees() {
    let counters = [
        ("faults_2m", 7),
        ("faults_4k", 9),
        ("read_bytes", 1 << 40),
        ("get_fmap", 2),
    ];
    let one = read(&encoded(vec![mount(
        &["/mnt", "/elsewhere"],
        44,
        &counters,
    )]));
    let sample = |key: &str| one.samples.get(&format!("fuse_dax_fmap_{key}")).copied();
    let labels = r#"mount="/mnt",ops="striped""#;
    let of = |name: &str, more: &str| sample(&format!("{name}{{{labels}{more}}}"));
    assert_eq!(sample("module_loaded"), Some(1));
    assert_eq!(sample("mounts"), Some(1));
    assert_eq!(of("faults_total", r#",size="2MiB""#), Some(7));
    assert_eq!(of("faults_total", r#",size="4KiB""#), Some(9));
    assert_eq!(of("read_bytes_total", ""), Some(1 << 40));
    assert_eq!(of("get_fmap_total", ""), Some(2));
    assert_eq!(of("mapped_files", ""), Some(3));
    assert_eq!(of("device_failed", r#",device="dax0.0""#), Some(1));
    assert_eq!(
        of("device_faults_total", r#",device="dax0.0",size="4KiB""#),
        Some(11)
    );
    assert_eq!(of("poisoned_pages", ""), Some(13));
    assert_eq!(of("device_poisoned_pages", r#",device="dax0.0""#), Some(13));
    let device = r#"device_size_bytes{device="dax0.0",driver="none",id="nvdimm:x"}"#;
    assert_eq!(sample(device), Some(4096));
    assert_eq!(one.kinds["fuse_dax_fmap_read_bytes"], "counter");
}

#[test]
fn nothing_is_there_twice() {
    let counters = [
        ("faults_2m", 1),
        ("newer", 2),
        ("no-name", 3),
        ("x_total", 4),
    ];
    let two = read(&encoded(vec![
        mount(&["/mnt"], 44, &counters),
        mount(&["/mnt"], 45, &counters),
        mount(&[], 46, &counters),
        mount(&[], 47, &counters),
        mount(&["/a \"b\"\\\n"], 48, &counters),
    ]));
    let newer = two.samples.keys();
    let newer = newer.filter(|key| key.starts_with("fuse_dax_fmap_newer_total{"));
    assert_eq!(newer.count(), 5);
    assert!(!two.kinds.keys().any(|name| name.contains('-')));
    let escaped = r#"fuse_dax_fmap_newer_total{mount="/a \"b\"\\\n",ops="striped"}"#;
    assert_eq!(two.samples.get(escaped), Some(&2));
}

#[test]
fn every_counter_has_a_name() {
    let counters: Vec<_> = Counter::ALL
        .iter()
        .map(|counter| (counter.name(), 5))
        .collect();
    let read = read(&encoded(vec![mount(&["/mnt"], 1, &counters)]));
    let total = read.samples.keys().filter(|key| key.contains("_total{"));
    let total = total.filter(|key| !key.contains("_device_"));
    assert_eq!(total.count(), Counter::ALL.len());
}

#[test]
fn nothing_is_mounted() {
    let read = read(&encoded(Vec::new()));
    assert_eq!(read.samples["fuse_dax_fmap_mounts"], 0);
}
