// SPDX-License-Identifier: GPL-2.0
//! What holds for any manifest: nothing panics, an error names an existing line, and
//! files share memory only where the manifest says so.
//!
//! PROPTEST_CASES=1000000 makes it long, PROPTEST_RNG_SEED gives it other numbers.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed};

use crate::layout::{Layout, Past, place, place_beside};
use crate::manifest::{Content, Manifest, parse};

/// The same numbers every time, unless told.
fn config() -> Config {
    let mut config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20260419);
    }
    config
}

/// Numbers of bytes as a manifest may have them, near what matters.
fn number() -> impl Strategy<Value = String> {
    let near = vec![
        0_u64,
        4096,
        65536,
        2 << 20,
        8 << 20,
        1 << 30,
        16 << 40,
        i64::MAX as u64,
        u64::MAX,
    ];
    prop_oneof![
        6 => (0_u64..64).prop_map(|n| (n * 4096).to_string()),
        6 => (0_u64..64).prop_map(|n| format!("\"{n}M\"")),
        2 => (select(near), -4097_i64..4098)
            .prop_map(|(n, more)| format!("\"{}\"", n.wrapping_add_signed(more))),
        1 => (any::<u64>(), select(vec!["", "K", "MiB", "T", "X", " G"]))
            .prop_map(|(n, unit)| format!("\"{n}{unit}\"")),
        1 => select(vec!["-1", "1.5", "true", "[]", "\"\"", "\"-1\""]).prop_map(str::to_owned),
    ]
}

fn device(n: usize) -> String {
    format!("\"d{n}\"")
}

/// `count` devices.
fn devices(count: usize) -> impl Strategy<Value = String> {
    vec(proptest::option::weighted(0.8, number()), count).prop_map(|sizes| {
        let one = |(at, size): (usize, &Option<String>)| {
            let size = size
                .as_ref()
                .map_or(String::new(), |size| format!("size = {size}\n"));
            format!("[[device]]\nname = \"d{at}\"\npath = \"/dev/dax{at}.0\"\n{size}")
        };
        sizes.iter().enumerate().map(one).collect()
    })
}

fn extent() -> impl Strategy<Value = String> {
    prop_oneof![
        (number(), 0_usize..4, number()).prop_map(|(length, at, offset)| format!(
            "[[file.extent]]\nlength = {length}\ndevice = {}\noffset = {offset}\n",
            device(at)
        )),
        (number(), number(), vec((0_usize..3, number()), 0..4)).prop_map(
            |(length, chunk, strips)| {
                let one =
                    |(at, offset)| format!("{{ device = {}, offset = {offset} }}", device(at));
                let strips: Vec<_> = strips.into_iter().map(one).collect();
                format!(
                    "[[file.extent]]\nlength = {length}\nchunk = {chunk}\nstrips = [{}]\n",
                    strips.join(", ")
                )
            }
        ),
    ]
}

fn file() -> impl Strategy<Value = String> {
    let over = (number(), vec(0_usize..3, 1..4), prop::option::of(number())).prop_map(
        |(size, over, chunk)| {
            let over: Vec<_> = over.into_iter().map(device).collect();
            let chunk = chunk.map_or(String::new(), |chunk| format!("chunk = {chunk}\n"));
            format!("size = {size}\ndevices = [{}]\n{chunk}", over.join(", "))
        },
    );
    let named = (
        any::<bool>(),
        prop::option::of(number()),
        vec(extent(), 1..4),
    )
        .prop_map(|(shared, size, extents)| {
            let size = size.map_or(String::new(), |size| format!("size = {size}\n"));
            format!("shared = {shared}\n{size}{}", extents.concat())
        });
    ("[a-c/.]{1,6}|[a-z]{3,9}", prop_oneof![over, named])
        .prop_map(|(path, rest)| format!("[[file]]\npath = \"{path}\"\n{rest}"))
}

fn manifest() -> impl Strategy<Value = String> {
    (devices(3), vec(file(), 0..6)).prop_map(|(devices, files)| devices + &files.concat())
}

/// The contents of a valid entry, which may still find no space.
fn sound() -> impl Strategy<Value = String> {
    let over = select(vec![
        "d0",
        "d1",
        "d0\", \"d1",
        "d1\", \"d0",
        "d2\", \"d0\", \"d1",
    ]);
    let chunk = select(vec!["4K", "64K", "2M", "3M"]);
    let placed = (0_u64..6 << 20, over, chunk).prop_map(|(size, over, chunk)| {
        format!("size = {size}\ndevices = [\"{over}\"]\nchunk = \"{chunk}\"\n")
    });
    let named = (1_u64..3, 0_usize..2, 8_u64..30).prop_map(|(length, device, at)| {
        format!(
            "[[file.extent]]\nlength = \"{}M\"\ndevice = \"d{device}\"\noffset = \"{}M\"\n",
            2 * length,
            2 * at
        )
    });
    prop_oneof![4 => placed, 1 => named]
}

/// Two manifests: in the second, entries are as they were, others, gone or new, and have
/// another order.
fn edit() -> impl Strategy<Value = [String; 2]> {
    let entry = (sound(), sound(), 0..8, any::<u64>());
    vec(entry, 2..7).prop_map(|entries| {
        let (mut before, mut after) = (String::new(), Vec::new());
        for (at, (old, new, what, place)) in entries.into_iter().enumerate() {
            let file = |body: &str| format!("[[file]]\npath = \"f{at}\"\n{body}");
            if what != 0 {
                before += &file(&old);
            }
            match what {
                1 => (),
                0 | 2 => after.push((place, file(&new))),
                // Of another size, if it has one.
                3 => after.push((place, file(&old.replace("size = ", "size = 1")))),
                _ => after.push((place, file(&old))),
            }
        }
        after.sort();
        let after = after.into_iter().map(|(_, file)| file).collect();
        [before, after]
    })
}

/// A manifest of which a piece was replaced.
fn damaged() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        "\\PC{0,8}",
        select(vec![
            "\"",
            "\n",
            "[[file]]\n",
            "= ",
            "'''",
            "\\u0000",
            "{",
            "]",
            "size = ",
            "\u{0}"
        ])
        .prop_map(str::to_owned),
    ];
    (
        manifest(),
        any::<prop::sample::Index>(),
        0_usize..12,
        pieces,
    )
        .prop_map(|(text, at, len, piece)| {
            let chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len() + 1);
            let end = (at + len).min(chars.len());
            let mut damaged: String = chars[..at].iter().collect();
            damaged += &piece;
            damaged.extend(&chars[end..]);
            damaged
        })
}

/// A line of the text, or the one behind its end.
fn check_line(text: &str, line: usize) -> Result<(), TestCaseError> {
    prop_assert!(
        (1..=text.matches('\n').count() + 1).contains(&line),
        "line {line}"
    );
    Ok(())
}

/// Where each file is: device, start, end, and if it may share that.
fn ranges(manifest: &Manifest, layout: &Layout) -> Vec<(u32, u128, u128, usize, bool)> {
    let mut ranges = Vec::new();
    for (at, (file, placement)) in manifest.files.iter().zip(&layout.files).enumerate() {
        let shared = matches!(file.content, Content::Extents { shared: true, .. });
        for extent in &placement.extents {
            let length = u128::from(extent.strip_length().unwrap());
            for strip in &extent.strips {
                let start = u128::from(strip.offset);
                ranges.push((strip.device, start, start + length, at, shared));
            }
        }
    }
    ranges
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_text(text in "\\PC{0,200}|[\\[\\]a-z=\"\n 0-9.]{0,200}") {
        if let Err(error) = parse(&text) {
            check_line(&text, error.line)?;
        }
    }

    #[test]
    fn damaged_manifests(text in damaged()) {
        if let Err(error) = parse(&text) {
            check_line(&text, error.line)?;
            prop_assert!(!error.message.contains('\n'));
        }
    }

    #[test]
    fn what_is_placed(text in manifest(), real in vec(prop::option::of(any::<u64>()), 3)) {
        let manifest = match parse(&text) {
            Ok(manifest) => manifest,
            Err(error) => return check_line(&text, error.line),
        };
        let sizes: Vec<_> = manifest.devices.iter().zip(real).map(|(d, real)| d.size.or(real)).collect();
        let layout = match place(&manifest, &sizes) {
            Ok(layout) => layout,
            Err(error) => return check_line(&text, error.line),
        };

        let ranges = ranges(&manifest, &layout);
        for (n, &(device, start, end, file, shared)) in ranges.iter().enumerate() {
            let size = sizes[device as usize].unwrap_or(i64::MAX as u64);
            prop_assert!(end <= u128::from(size));
            for &(other_device, other_start, other_end, other, other_shared) in &ranges[..n] {
                let both = shared && other_shared && file != other;
                prop_assert!(
                    device != other_device || other_end <= start || end <= other_start || both
                );
            }
        }
        // Room for the whole file, and the map says so.
        for (file, placement) in manifest.files.iter().zip(&layout.files) {
            let room: u128 = placement.extents.iter().map(|e| u128::from(e.length)).sum();
            prop_assert!(room >= u128::from(file.size));
            prop_assert_eq!(&placement.map[8..16], &file.size.to_le_bytes());
        }
    }

    #[test]
    fn what_stays_is_where_it_was(edit in edit(), reallocate in any::<bool>()) {
        let one = |at| format!("[[device]]\nname = \"d{at}\"\npath = \"/dev/dax{at}.0\"\n");
        let devices = [0, 1, 2].map(one).concat();
        let [before, after] = edit.map(|files| parse(&(devices.clone() + &files)));
        let (Ok(before), Ok(after)) = (before, after) else {
            return Ok(());
        };
        let sizes = [Some(64 << 20); 3];
        let Ok(first) = place(&before, &sizes) else {
            return Ok(());
        };
        let mut record = first.record.clone();
        record.zeroed(usize::MAX);
        let past = Past { record: &record, name: "record", reallocate };
        let Ok(second) = place_beside(&after, &sizes, &past) else {
            return Ok(());
        };

        for (file, old) in before.files.iter().zip(&first.files) {
            let same = |(other, _): &(&crate::manifest::File, _)| other.path == file.path;
            match after.files.iter().zip(&second.files).find(same) {
                Some((now, new)) if !reallocate => {
                    for at in [0, 4096, 65536, 2 << 20, 3 << 20, 9 << 20, 63 << 20] {
                        if at < file.size.min(now.size) {
                            prop_assert_eq!(place_of(old, at), place_of(new, at));
                        }
                    }
                }
                // It is gone: nothing new is where it was.
                None if !reallocate => {
                    for extent in &old.extents {
                        let length = extent.strip_length().unwrap();
                        for strip in &extent.strips {
                            for (device, start, size) in second.record.new_space(usize::MAX) {
                                prop_assert!(
                                    device != strip.device
                                        || start + size <= strip.offset
                                        || strip.offset + length <= start
                                );
                            }
                        }
                    }
                }
                _ => (),
            }
        }
        // What is recorded now leads to the same places.
        let mut record = second.record.clone();
        record.zeroed(usize::MAX);
        let past = Past { record: &record, name: "record", reallocate: false };
        let third = place_beside(&after, &sizes, &past).unwrap();
        for (a, b) in second.files.iter().zip(&third.files) {
            prop_assert_eq!(place_of(a, 0), place_of(b, 0));
        }
        prop_assert!(third.record.new_space(usize::MAX).is_empty());
    }
}

/// Device and offset of a byte.
fn place_of(placement: &crate::layout::Placement, mut at: u64) -> Option<(u32, u64)> {
    for extent in &placement.extents {
        if at >= extent.length {
            at -= extent.length;
            continue;
        }
        let ways = extent.strips.len() as u64;
        let (strip, offset) = match extent.chunk {
            0 => (0, at),
            chunk => (at / chunk % ways, at / chunk / ways * chunk + at % chunk),
        };
        let strip = &extent.strips[strip as usize];
        return Some((strip.device, strip.offset + offset));
    }
    None
}
