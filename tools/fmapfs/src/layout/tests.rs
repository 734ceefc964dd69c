// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::manifest::parse;

const MIB: u64 = 1 << 20;

fn layout(files: &str, sizes: &[Option<u64>]) -> Result<Layout, Error> {
    let mut text = String::new();
    for index in 0..sizes.len() {
        text += &format!("[[device]]\nname = \"{index}\"\npath = \"/dev/dax{index}.0\"\n");
    }
    place(&parse(&(text + files)).unwrap(), sizes)
}

fn striped(name: &str, size: u64, devices: &str) -> String {
    format!("[[file]]\npath = \"{name}\"\nsize = {size}\ndevices = {devices}\n")
}

fn linear(name: &str, device: u32, offset: u64, length: u64, more: &str) -> String {
    format!(
        "[[file]]\npath = \"{name}\"\n{more}\n[[file.extent]]\nlength = {length}\n\
             device = \"{device}\"\noffset = {offset}\n"
    )
}

fn strips(layout: &Layout, file: usize) -> Vec<(u32, u64)> {
    let extents = &layout.files[file].extents;
    extents
        .iter()
        .flat_map(|extent| extent.strips.iter().map(|s| (s.device, s.offset / MIB)))
        .collect()
}

#[test]
fn files_fill_the_holes_in_order() {
    let files = [
        striped("a", 5 * MIB, "[\"0\"]"),
        linear("x", 0, 4 * MIB, MIB, ""),
        striped("b", 3 * MIB, "[\"0\", \"1\"]"),
        striped("c", 1, "[\"0\"]"),
        striped("empty", 0, "[\"0\"]"),
    ]
    .concat();
    let layout = layout(&files, &[Some(32 * MIB), Some(32 * MIB)]).unwrap();
    // 6 MiB do not fit below x, nor does anything between x's end and 6 MiB.
    assert_eq!(strips(&layout, 0), [(0, 6)]);
    assert_eq!(strips(&layout, 1), [(0, 4)]);
    assert_eq!(strips(&layout, 2), [(0, 0), (1, 0)]);
    assert_eq!(strips(&layout, 3), [(0, 2)]);
    assert_eq!(strips(&layout, 4), []);
    assert_eq!(layout.capacity, 64 * MIB);
    assert_eq!(layout.used, (6 + 1 + 2 + 2 + 2) * MIB);
}

#[test]
fn a_device_is_used_to_its_end_and_no_further() {
    let fits = striped("a", 16 * MIB, "[\"0\", \"1\"]");
    assert!(layout(&fits, &[Some(8 * MIB), Some(8 * MIB)]).is_ok());
    for sizes in [[8 * MIB, 8 * MIB - 1], [8 * MIB - 1, 8 * MIB]] {
        let error = layout(&fits, &sizes.map(Some)).unwrap_err();
        assert_eq!(error.line, 8, "{error}");
    }
    // One byte more begins a row of chunks.
    let more = striped("a", 16 * MIB + 1, "[\"0\", \"1\"]");
    assert!(layout(&more, &[Some(8 * MIB), Some(8 * MIB)]).is_err());

    let named = linear("a", 0, 6 * MIB, 2 * MIB, "");
    assert!(layout(&named, &[Some(8 * MIB)]).is_ok());
    let error = layout(&named, &[Some(8 * MIB - 1)]).unwrap_err();
    assert_eq!(error.line, 8, "{error}");
    // A device of unknown size is large enough for named extents, but nothing is placed
    // on it.
    assert!(layout(&named, &[None]).is_ok());
    let error = layout(&striped("a", 1, "[\"0\"]"), &[None]).unwrap_err();
    assert_eq!(error.line, 1, "{error}");
    assert!(error.message.contains("unknown"), "{error}");
}

#[test]
fn overlaps() {
    let size = &[Some(64 * MIB)];
    let pair = |shared_a, shared_b, offset| {
        let a = linear("a", 0, 0, 8 * MIB, shared_a);
        let b = linear("b", 0, offset, 2 * MIB, shared_b);
        layout(&(a + &b), size)
    };
    let shared = "shared = true";
    assert!(pair("", "", 8 * MIB).is_ok());
    let error = pair("", "", 8 * MIB - 4096).unwrap_err();
    assert_eq!(error.line, 15, "{error}");
    assert!(error.message.contains("line 8 (a)"), "{error}");
    assert!(pair(shared, "", 2 * MIB).is_err());
    assert!(pair("", shared, 2 * MIB).is_err());
    assert_eq!(pair(shared, shared, 2 * MIB).unwrap().used, 8 * MIB);

    // A long one under two short ones is not forgotten at the first.
    let three = [
        linear("a", 0, 0, 32 * MIB, shared),
        linear("b", 0, 0, 2 * MIB, shared),
        linear("c", 0, 16 * MIB, 2 * MIB, ""),
    ];
    assert!(layout(&three.concat(), size).is_err());

    // Not even a shared file may use a byte twice.
    let twice = linear("a", 0, 0, 4 * MIB, shared)
        + "[[file.extent]]\nlength = \"2M\"\ndevice = \"0\"\noffset = \"2M\"\n";
    assert_eq!(layout(&twice, size).unwrap_err().line, 12);
}

#[test]
fn what_is_placed_never_overlaps() {
    // The encoder refuses overlaps inside a file, this looks across files.
    let mut files = String::new();
    for at in 0..40_u64 {
        let devices = ["[\"0\"]", "[\"1\", \"0\"]", "[\"2\", \"0\", \"1\"]"][at as usize % 3];
        files += &striped(&format!("f{at}"), at * 777_777 + 1, devices);
        if at % 5 == 0 {
            files += &linear(&format!("x{at}"), 1, at * 8 * MIB + 4096, 4096, "");
        }
    }
    let layout = layout(&files, &[Some(1 << 30); 3]).unwrap();
    let mut ranges: Vec<(u32, u64, u64)> = Vec::new();
    for placement in &layout.files {
        for extent in &placement.extents {
            let length = extent.strip_length().unwrap();
            for strip in &extent.strips {
                ranges.push((strip.device, strip.offset, strip.offset + length));
            }
        }
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(
            pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1,
            "{pair:x?}"
        );
    }
}

// --- Edits of a manifest: what is in the files stays ----------------------------------

/// Devices as byte arrays, one byte for each UNIT.
type Memory = Vec<Vec<u8>>;

/// A manifest that is mounted again and again, with its record.
struct Host {
    record: Record,
    memory: Memory,
}

const DEVICES: &str = r#"[[device]]
name = "a"
path = "/dev/dax0.0"
id = "nvdimm:0"
[[device]]
name = "b"
path = "/dev/dax1.0"
id = "nvdimm:1"
"#;
const FILES: &str = r#"[[file]]
path = "one"
size = "4M"
devices = ["a"]
[[file]]
path = "two"
size = "6M"
devices = ["a", "b"]
[[file]]
path = "three"
size = "2M"
devices = ["a"]
[[file]]
path = "four"
size = "2M"
devices = ["b"]
"#;

fn chunks(extents: &[Extent]) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    for extent in extents {
        let chunk = if extent.chunk == 0 {
            UNIT
        } else {
            extent.chunk
        };
        for at in 0..extent.length / chunk {
            let n = extent.strips.len() as u64;
            let strip = &extent.strips[(at % n) as usize];
            let step = if extent.chunk == 0 { at } else { at / n } * chunk;
            all.push((
                strip.device as usize,
                ((strip.offset + step) / UNIT) as usize,
            ));
        }
    }
    all
}

impl Host {
    /// Mounted once; each file is full of its number, counted from 1.
    fn new() -> (Self, String) {
        let mut host = Self {
            record: Record::default(),
            memory: vec![vec![0xee; 16]; 2],
        };
        let text = DEVICES.to_owned() + FILES;
        let (manifest, layout) = host.mount(&text, false).unwrap();
        assert!(
            host.read(&manifest, &layout, "two")
                .iter()
                .all(|&byte| byte == 0)
        );
        for (placement, value) in layout.files.iter().zip(1..) {
            for (device, at) in chunks(&placement.extents) {
                host.memory[device][at] = value;
            }
        }
        (host, text)
    }

    /// As main.rs does it; devices are found by their ids.
    fn mount(&mut self, text: &str, reallocate: bool) -> Result<(Manifest, Layout), Error> {
        let manifest = parse(text)?;
        let past = Past {
            record: &self.record,
            name: "m.layout",
            reallocate,
        };
        let sizes = vec![Some(16 * UNIT); manifest.devices.len()];
        let layout = place_beside(&manifest, &sizes, &past)?;
        for (device, start, length) in layout.record.new_space(usize::MAX) {
            let real = real(&manifest, device as usize);
            let range = (start / UNIT) as usize..((start + length) / UNIT) as usize;
            self.memory[real][range].fill(0);
        }
        self.record = layout.record.clone();
        self.record.zeroed(usize::MAX);
        Ok((manifest, layout))
    }

    fn read(&self, manifest: &Manifest, layout: &Layout, name: &str) -> Vec<u8> {
        let is = |file: &File| file.path.join("/") == name;
        let at = manifest.files.iter().position(is).unwrap();
        chunks(&layout.files[at].extents)
            .into_iter()
            .map(|(device, at)| self.memory[real(manifest, device)][at])
            .collect()
    }

    /// Mounts it, and compares files with what they have to hold.
    #[track_caller]
    fn holds(&mut self, text: &str, files: &[(&str, &[u8])]) {
        let (manifest, layout) = self.mount(text, false).unwrap();
        for (name, bytes) in files {
            assert_eq!(
                self.read(&manifest, &layout, name),
                *bytes,
                "{name} in {text}"
            );
        }
    }

    #[track_caller]
    fn refuses(&mut self, text: &str, sentence: &str) {
        let before = self.memory.clone();
        let error = self.mount(text, false).unwrap_err();
        assert_eq!(error.to_string(), sentence, "{text}");
        assert_eq!(self.memory, before);
    }
}

fn real(manifest: &Manifest, device: usize) -> usize {
    let id = manifest.devices[device].id.as_deref().unwrap();
    id.strip_prefix("nvdimm:").unwrap().parse().unwrap()
}

const WHOLE: [(&str, &[u8]); 4] = [
    ("one", &[1, 1]),
    ("two", &[2, 2, 2]),
    ("three", &[3]),
    ("four", &[4]),
];

fn entry(name: &str, size: &str, devices: &str) -> String {
    format!("[[file]]\npath = \"{name}\"\nsize = \"{size}\"\ndevices = {devices}\n")
}

#[test]
fn nothing_is_changed() {
    let (mut host, text) = Host::new();
    let record = host.record.clone();
    host.holds(&text, &WHOLE);
    assert_eq!(host.record, record);
}

#[test]
fn an_entry_is_inserted() {
    let (mut host, text) = Host::new();
    let new = entry("new", "4M", "[\"a\"]");
    let text = text.replacen("[[file]]", &(new + "[[file]]"), 1);
    host.holds(&text, &WHOLE);
    host.holds(&text, &[("new", &[0, 0])]);
}

#[test]
fn an_entry_is_deleted_and_comes_back() {
    let (mut host, text) = Host::new();
    let without = text.replace(&entry("one", "4M", "[\"a\"]"), "");
    assert_ne!(without, text);
    host.holds(&without, &WHOLE[1..]);
    // Another file does not get its space.
    let other = without.clone() + &entry("other", "2M", "[\"a\"]");
    host.holds(&other, &[("other", &[0])]);
    assert!(host.mount(&other, false).unwrap().1.notes[0].contains("m.layout: one;"));
    host.holds(&text, &WHOLE);
}

#[test]
fn space_of_a_deleted_entry_is_given_up_when_told_and_zeroed() {
    let (mut host, text) = Host::new();
    let without = text.replace(&entry("one", "4M", "[\"a\"]"), "");
    let other = without.clone() + &entry("other", "22M", "[\"a\"]");
    assert!(host.mount(&other, false).is_ok());
    let full = other.clone() + &entry("full", "2M", "[\"a\"]");
    host.refuses(
        &full,
        "26: device \"a\" has no 2097152 bytes in a row left for this file of 2097152 \
             bytes: the largest hole has 0, and space is given out by 2097152; 4194304 bytes \
             are kept for files that are gone from the manifest (m.layout:0), and --reallocate \
             gives them up",
    );
    let (manifest, layout) = host.mount(&full, true).unwrap();
    assert_eq!(host.read(&manifest, &layout, "full"), [0]);
    host.holds(&full, &WHOLE[1..]);
}

#[test]
fn entries_are_swapped() {
    let (mut host, text) = Host::new();
    let (one, three) = (
        entry("one", "4M", "[\"a\"]"),
        entry("three", "2M", "[\"a\"]"),
    );
    let swapped = text
        .replace(&one, "@")
        .replace(&three, &one)
        .replace('@', &three);
    assert_ne!(swapped, text);
    host.holds(&swapped, &WHOLE);
    let mut reversed: Vec<_> = FILES.split_inclusive("]\n[[").collect();
    reversed.reverse();
    assert_eq!(reversed.len(), 4);
    let reversed = [
        entry("four", "2M", "[\"b\"]"),
        three,
        entry("two", "6M", "[\"a\", \"b\"]"),
        one,
    ];
    host.holds(&(DEVICES.to_owned() + &reversed.concat()), &WHOLE);
}

#[test]
fn an_entry_is_renamed_and_moves() {
    let (mut host, text) = Host::new();
    let one = entry("one", "4M", "[\"a\"]");
    let renamed = text.replace(&one, "") + &one.replace("one", "zero/one");
    host.holds(&renamed, &WHOLE[1..]);
    host.holds(&renamed, &[("zero/one", &[0, 0])]);
    // What was there is found again.
    host.holds(&text, &WHOLE);

    // The extents of the old name are that file.
    let named = "[[file]]\npath = \"uno\"\n[[file.extent]]\nlength = \"4M\"\n\
                     device = \"a\"\noffset = 0\n";
    host.holds(&(text.replace(&one, "") + named), &[("uno", &[1, 1])]);
    assert!(host.record.files.iter().all(|file| file.path != "one"));
}

#[test]
fn a_file_grows_and_shrinks() {
    let (mut host, text) = Host::new();
    let grown = text.replace("size = \"4M\"", "size = \"6M\"");
    host.holds(&grown, &WHOLE[1..]);
    host.holds(&grown, &[("one", &[1, 1, 0])]);
    let shrunk = text.replace("size = \"4M\"", "size = \"2M\"");
    host.holds(&shrunk, &WHOLE[1..]);
    host.holds(&shrunk, &[("one", &[1])]);
    // Its space was kept for it.
    host.holds(&grown, &[("one", &[1, 1, 0])]);

    let grown = text.replace("size = \"6M\"", "size = \"12M\"");
    host.holds(
        &grown,
        &[("two", &[2, 2, 2, 0, 0, 0]), WHOLE[0], WHOLE[2], WHOLE[3]],
    );
    let empty = text.replace("size = \"6M\"", "size = 0");
    host.holds(&empty, &[("two", &[]), WHOLE[0], WHOLE[2], WHOLE[3]]);
    host.holds(&text, &WHOLE);
}

#[test]
fn a_file_that_grows_where_it_is_remains_one_extent() {
    let (mut host, text) = Host::new();
    for size in 2..=5 {
        let size = format!("size = \"{size}M\"\ndevices = [\"b\"]");
        let text = text.replace("size = \"2M\"\ndevices = [\"b\"]", &size);
        host.holds(&text, &WHOLE[..3]);
    }
    assert_eq!(host.record.files[3].pieces.len(), 1);
    assert_eq!(host.record.files[3].pieces[0].extent.length, 3 * UNIT);
}

#[test]
fn another_list_of_devices_or_chunk() {
    let (mut host, text) = Host::new();
    let end = "and its data would be left behind; --reallocate does that";
    host.refuses(
        &text.replace("[\"a\", \"b\"]", "[\"b\", \"a\"]"),
        &format!("14: two is recorded on a, b, in this order (m.layout:0), {end}"),
    );
    let moved = text.replace(
        "path = \"one\"\nsize = \"4M\"\ndevices = [\"a\"]",
        "path = \"one\"\nsize = \"4M\"\ndevices = [\"b\"]",
    );
    host.refuses(
        &moved,
        &format!("10: one is recorded on a, in this order (m.layout:0), {end}"),
    );
    host.refuses(
        &text.replace("[\"a\", \"b\"]\n", "[\"a\", \"b\"]\nchunk = \"4K\"\n"),
        &format!("14: two is recorded in chunks of 2097152 bytes (m.layout:0), {end}"),
    );
    // --reallocate loses only that file.
    let (manifest, layout) = host.mount(&moved, true).unwrap();
    assert_eq!(host.read(&manifest, &layout, "one"), [0, 0]);
    host.holds(&moved, &WHOLE[1..]);
}

#[test]
fn an_extent_at_the_end() {
    let (mut host, text) = Host::new();
    let named = |offset: &str| {
        format!(
            "{text}[[file]]\npath = \"x\"\n[[file.extent]]\nlength = \"2M\"\n\
                 device = \"a\"\noffset = \"{offset}\"\n"
        )
    };
    host.refuses(
        &named("2M"),
        "28: the extent overlaps the space that one (line 10) has got (m.layout); \
             --reallocate places that file anew and gives up its data",
    );
    host.holds(&named("30M"), &WHOLE);
    host.holds(&named("30M"), &[("x", &[0xee])]);
    // It cannot be moved, either.
    host.refuses(
        &named("28M"),
        "26: these extents are not where x is recorded (m.layout:0), and its data would \
             be left behind; --reallocate does that",
    );
    host.refuses(
        &text.replace(
            "path = \"one\"\nsize = \"4M\"\ndevices = [\"a\"]",
            "path = \"y\"\n\
                [[file.extent]]\nlength = \"2M\"\ndevice = \"a\"\noffset = \"2M\"",
        ),
        "12: the extent overlaps the space of one, which is gone from the manifest but \
             recorded (m.layout:0); --reallocate gives that up",
    );
    let (manifest, layout) = host.mount(&named("2M"), true).unwrap();
    assert_eq!(host.read(&manifest, &layout, "x"), [1]);
    assert_eq!(host.read(&manifest, &layout, "one"), [0, 0]);
    host.holds(&named("2M"), &WHOLE[1..]);
}

#[test]
fn devices_are_exchanged() {
    let (mut host, text) = Host::new();
    // What main.rs finds there: other ids.
    let exchanged = text
        .replace("dax0.0\"\nid = \"nvdimm:0", "dax1.0\"\nid = \"nvdimm:@")
        .replace("dax1.0\"\nid = \"nvdimm:1", "dax0.0\"\nid = \"nvdimm:0")
        .replace('@', "1");
    assert_ne!(exchanged, text);
    host.refuses(
        &exchanged,
        "1: device \"a\" (/dev/dax1.0) is nvdimm:1, and 3 files were placed on nvdimm:0, \
             which is not in this machine (m.layout); name that one, or give up what is on it \
             with --reallocate",
    );
    // Other names of the nodes are none of it, nor other names of the devices.
    let nodes = text
        .replace("dax0.0", "dax@.0")
        .replace("dax1.0", "dax0.0")
        .replace('@', "1");
    host.holds(&nodes, &WHOLE);
    host.holds(&text.replace("\"a\"", "\"left\""), &WHOLE);
    // Another one in place of one.
    host.refuses(
        &text.replace("nvdimm:1", "nvdimm:7"),
        "5: device \"b\" (/dev/dax1.0) is nvdimm:7, and 2 files were placed on nvdimm:1, \
             which is not in this machine (m.layout); name that one, or give up what is on it \
             with --reallocate",
    );
    // The order of devices in the manifest does not matter.
    let (first, second) = DEVICES.split_at(DEVICES.len() / 2);
    host.holds(&format!("{second}{first}{FILES}"), &WHOLE);
}

#[test]
fn a_device_is_left_out_and_comes_back() {
    let (mut host, text) = Host::new();
    let (first, _) = DEVICES.split_at(DEVICES.len() / 2);
    let some = entry("one", "4M", "[\"a\"]") + &entry("three", "2M", "[\"a\"]");
    host.holds(&format!("{first}{some}"), &[WHOLE[0], WHOLE[2]]);
    host.holds(&text, &WHOLE);
}

#[test]
fn a_frozen_manifest_is_the_same() {
    let (mut host, text) = Host::new();
    let text = text + &entry("empty", "0", "[\"b\", \"a\"]");
    let (manifest, layout) = host.mount(&text, false).unwrap();
    let frozen = crate::freeze::freeze(&manifest, &layout);
    host.holds(&frozen, &WHOLE);
    // Without a record, too.
    host.record = Record::default();
    host.holds(&frozen, &WHOLE);
    host.holds(&text, &WHOLE);
}

#[test]
fn small_files_are_told_what_they_take() {
    let small = striped("a", 4096, "[\"0\"]") + &striped("b", 0, "[\"0\"]");
    let notes = layout(&small, &[Some(8 * MIB)]).unwrap().notes;
    assert_eq!(
        notes,
        [
            "1 new file(s) of at most 1048576 bytes take 2097152 each: space is given out by that, \
              unless a manifest names extents"
        ]
    );
    let large = striped("a", 2 * MIB, "[\"0\"]");
    assert!(layout(&large, &[Some(8 * MIB)]).unwrap().notes.is_empty());
}

#[test]
fn used_is_no_more_than_a_number_holds() {
    let all = vec![Taken {
        start: 0,
        end: DEVICE_MAX,
        owner: Owner::Named(0),
        line: 1,
        shared: false,
    }];
    assert_eq!(used(&[all.clone(), all.clone()]), u64::MAX - 1);
    assert_eq!(used(&[all.clone(), all.clone(), all]), u64::MAX);
}
