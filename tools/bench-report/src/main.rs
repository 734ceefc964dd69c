// SPDX-License-Identifier: GPL-2.0
//! bench-report DATE: what `make bench` ends with. bench-report --plot PAGE: an SVG image of the
//! published tables, for standard output.
//!
//! Reads what the three boots of `bench/run` left in `build/bench/`, and writes, always from all
//! of it:
//!
//! - to the terminal: the rows, and the bars with what was measured for them
//! - `build/bench.json`: every row, for programs
//! - `build/bench.md`: the tables of `docs/fault-path.md`
//! - `build/bench/functions-*.txt`: each traced touch, function by function

use std::fmt::Write;
use std::fs;
use std::process::ExitCode;

use rows::{Bar, Row, Rows};

mod plot;
mod rows;
mod trace;

/// Below the directory that it is started in, which is where things are built.
const DIR: &str = "bench";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match &arguments[..] {
        [option, page] if option == "--plot" => plot(page),
        [date] => report(date),
        _ => Err("what is the date?".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-report: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(name: &str) -> Result<String, String> {
    let path = format!("{DIR}/{name}");
    fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{path}: {error}"))
}

fn plot(page: &str) -> Result<(), String> {
    let text = fs::read_to_string(page).map_err(|error| format!("{page}: {error}"))?;
    let svg = plot::svg(&text).map_err(|error| format!("{page}: {error}"))?;
    print!("{svg}");
    Ok(())
}

fn report(date: &str) -> Result<(), String> {
    let clocks = ["wall.raw", "opens.raw"].map(|raw| read(raw).unwrap_or_default());
    let rows = Rows::parse(&read("count.raw")?, &clocks.concat())?;
    let traces = match (read("trace.raw"), read("trace.txt")) {
        (Ok(raw), Ok(trace)) => trace::parse(&raw, &trace)?,
        _ => Vec::new(),
    };
    let bars = rows.bars();

    let mut md = format!(
        "Kernel {}, {date}. Instructions of the guest for each touch, call, or open and close.\n",
        rows.kernel
    );
    let tables = [
        ("Touching 2 MiB pages", touches(&rows, "2m")),
        ("Touching 4 KiB pages", touches(&rows, "4k")),
        (
            "Extents (read, after munmap and mmap)",
            table(&extents(&rows)),
        ),
        (
            "Formats (8 strips, after munmap and mmap)",
            table(&formats(&rows)),
        ),
        ("read(2) and write(2)", table(&calls(&rows))),
        ("open(2) and close(2), 10,000 files", table(&opens(&rows))),
        ("Spread", table(&spread(&rows))),
        (
            "Where one 2 MiB fault goes",
            functions(&traces, "2m-read-again", &FAULTING, at_least_20),
        ),
        (
            "Where one 4 KiB fault goes",
            functions(&traces, "4k-read-again", &FAULTING, at_least_20),
        ),
        (
            "What BPF costs where a file has 2,048 extents",
            functions(&traces, "2m-read-again", &TREES, differ_by_10),
        ),
        (
            "What an open and close of a cached file has more than FUSE's own",
            functions(&traces, "open-cached", &OPENING, differ_by_10),
        ),
        ("Cache lines of ours in one fault", table(&lines(&traces))),
        ("Bars", table(&bar_table(&bars))),
    ];
    md += &summary(&rows);
    for (title, table) in &tables {
        if !table.is_empty() {
            let _ = write!(md, "\n### {title}\n\n{table}");
        }
    }
    print!("{md}");

    write("bench.md", &md)?;
    write("bench.json", &json(&rows, &bars, date))?;
    for kind in ["2m", "4k", "open"] {
        let text: String = traces
            .iter()
            .filter(|trace| trace.pattern.starts_with(kind))
            .map(trace::Trace::to_string)
            .collect();
        write(&format!("{DIR}/functions-{kind}.txt"), &text)?;
    }
    Ok(())
}

/// What a reader wants to know first.
fn summary(rows: &Rows) -> String {
    let insns = |name: &str, pattern: &str| Some(rows.get(name, pattern, 1, "linear")?.insns);
    // "A to B instructions (C to D %)" that one takes more than the other.
    let more = |name: &str, than: &str| {
        let (differences, percent): (Vec<f64>, Vec<f64>) =
            rows.faults_over(name, than).into_iter().unzip();
        (!differences.is_empty()).then(|| {
            let range = |values: &[f64], digits: usize| {
                let least = values.iter().copied().fold(f64::INFINITY, f64::min);
                let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                format!("{least:.digits$} to {most:.digits$}")
            };
            format!(
                "{} instructions ({} %)",
                range(&differences, 0),
                range(&percent, 1)
            )
        })
    };
    // A pattern for several names.
    let each = |pattern: &str, names: &[&str]| {
        names
            .iter()
            .filter_map(|name| Some(format!("{name} {}", number(insns(name, pattern)?))))
            .collect::<Vec<_>>()
            .join(", ")
    };

    let mut text = String::new();
    if let Some(more) = more("bpf", "native") {
        let _ = writeln!(
            text,
            "- What BPF costs, over the same lookup in Rust: {more} per fault."
        );
    }
    if let Some(more) = more("hashmap", "bpf") {
        let _ = writeln!(text, "- What the hash map costs on top of that: {more}.");
    }
    let _ = writeln!(
        text,
        "- The floor, 2 MiB read again: {}.\n- The same, 4 KiB: {}.",
        each(
            "2m-read-again",
            &["hugetlbfs", "device-dax", "bpf", "ext4-dax", "xfs-dax"]
        ),
        each(
            "4k-read-again",
            &["anonymous", "bpf", "ext4-dax", "xfs-dax"]
        )
    );
    format!("\n{text}")
}

/// A table of Markdown, aligned for terminals, too. The first column is text.
fn table(rows: &[Vec<String>]) -> String {
    let Some(head) = rows.first().filter(|_| rows.len() > 1) else {
        return String::new();
    };
    let width: Vec<usize> = (0..head.len())
        .map(|i| {
            rows.iter()
                .map(|row| row[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        for (i, cell) in row.iter().enumerate() {
            let width = width[i];
            let _ = match i {
                0 => write!(text, "| {cell:width$} |"),
                _ => write!(text, " {cell:>width$} |"),
            };
        }
        text.push('\n');
        if n == 0 {
            for (i, width) in width.iter().enumerate() {
                let _ = match i {
                    0 => write!(text, "|{:-<1$}|", "", width + 2),
                    _ => write!(text, "{:-<1$}:|", "", width + 1),
                };
            }
            text.push('\n');
        }
    }
    text
}

/// A number with commas.
fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn cell(row: Option<&Row>) -> String {
    row.map_or(String::new(), |row| number(row.insns))
}

fn matrix(rows: &Rows, columns: &[(&str, String)]) -> Vec<Vec<String>> {
    let mut head = vec![String::new()];
    head.extend(columns.iter().map(|(title, _)| (*title).to_owned()));
    let mut out = vec![head];
    for name in rows.names() {
        let cells: Vec<_> = columns
            .iter()
            .map(|(_, pattern)| cell(rows.get(name, pattern, 1, "linear")))
            .collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let mut line = vec![name.to_owned()];
            line.extend(cells);
            out.push(line);
        }
    }
    out
}

fn touches(rows: &Rows, size: &str) -> String {
    let columns = [
        ("read, first", "read-first"),
        ("again", "read-again"),
        ("DONTNEED", "read-dontneed"),
        ("write, first", "write-first"),
        ("again", "write-again"),
        ("DONTNEED", "write-dontneed"),
    ]
    .map(|(title, pattern)| (title, format!("{size}-{pattern}")));
    table(&matrix(rows, &columns))
}

fn calls(rows: &Rows) -> Vec<Vec<String>> {
    let columns = [
        ("read 4 KiB", "pread-4k"),
        ("write 4 KiB", "pwrite-4k"),
        ("read 2 MiB", "pread-2m"),
        ("write 2 MiB", "pwrite-2m"),
    ]
    .map(|(title, pattern)| (title, pattern.to_owned()));
    matrix(rows, &columns)
}

fn opens(rows: &Rows) -> Vec<Vec<String>> {
    let columns = [("first", "open-first"), ("cached", "open-cached")]
        .map(|(title, pattern)| (title, pattern.to_owned()));
    matrix(rows, &columns)
}

fn extents(rows: &Rows) -> Vec<Vec<String>> {
    const EXTENTS: [u32; 4] = [1, 32, 512, 2048];
    let mut head = vec![String::new()];
    head.extend(EXTENTS.map(|extents| extents.to_string()));
    let mut out = vec![head];
    for name in rows.names() {
        for pattern in ["2m-read-again", "4k-read-again"] {
            for layout in ["linear", "interleaved"] {
                if rows.get(name, pattern, 2048, layout).is_none() {
                    continue;
                }
                let mut line = vec![format!("{name}, {}, {layout}", &pattern[..2])];
                line.extend(EXTENTS.map(|n| cell(rows.get(name, pattern, n, layout))));
                out.push(line);
            }
        }
    }
    out
}

/// The same file in several formats.
fn formats(rows: &Rows) -> Vec<Vec<String>> {
    const PATTERNS: [(&str, &str); 4] = [
        ("2 MiB, read", "2m-read-again"),
        ("write", "2m-write-again"),
        ("4 KiB, read", "4k-read-again"),
        ("write", "4k-write-again"),
    ];
    let mut head = vec![String::new()];
    head.extend(PATTERNS.map(|(title, _)| title.to_owned()));
    let mut out = vec![head];
    for (title, name, extents) in [
        ("striped", "striped-8", 1),
        ("famfs", "famfs-8", 1),
        ("famfs, a list of 512 chunks", "famfs-8", 512),
    ] {
        let get = |pattern| rows.get(name, pattern, extents, "interleaved");
        if PATTERNS.iter().any(|(_, pattern)| get(pattern).is_some()) {
            let mut line = vec![title.to_owned()];
            line.extend(PATTERNS.map(|(_, pattern)| cell(get(pattern))));
            out.push(line);
        }
    }
    out
}

/// The rows whose passes differ by more than rounding.
fn spread(rows: &Rows) -> Vec<Vec<String>> {
    let mut out = vec![
        ["", "median", "smallest", "largest", "with ticks"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let spread: Vec<&Row> = rows
        .rows
        .iter()
        .filter(|row| row.max - row.min >= 1.0)
        .collect();
    for row in &spread {
        out.push(vec![
            format!(
                "{} {}, {} {}",
                row.name, row.pattern, row.extents, row.layout
            ),
            number(row.insns),
            number(row.min),
            number(row.max),
            number(row.raw),
        ]);
    }
    out.push(vec![
        format!("all other rows: {}", rows.rows.len() - spread.len()),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
    ]);
    out
}

const FAULTING: [&str; 5] = ["bpf", "native", "hashmap", "device-dax", "ext4-dax"];
const TREES: [&str; 2] = ["native-tree", "bpf-tree"];
const OPENING: [&str; 2] = ["fuse-no-open", "bpf-no-open"];

fn at_least_20(counts: &[u64]) -> bool {
    counts.iter().any(|count| *count >= 20)
}

fn differ_by_10(counts: &[u64]) -> bool {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0) >= 10
}

/// The functions of a pattern whose counts in the rows of `names` are worth a line, the rest
/// together, and the sum.
fn functions(
    traces: &[trace::Trace],
    pattern: &str,
    names: &[&str],
    worth_a_line: impl Fn(&[u64]) -> bool,
) -> String {
    let columns: Vec<_> = names
        .iter()
        .filter_map(|name| {
            traces
                .iter()
                .find(|trace| trace.name == *name && trace.pattern == pattern)
        })
        .collect();
    if columns.is_empty() {
        return String::new();
    }
    let count = |trace: &trace::Trace, function: &str| {
        let found = trace.functions.iter().find(|(name, _)| name == function);
        found.map_or(0, |(_, count)| *count)
    };
    let mut all: Vec<&str> = columns
        .iter()
        .flat_map(|trace| trace.functions.iter())
        .map(|(function, _)| function.as_str())
        .collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|function| {
        let counts: Vec<_> = columns.iter().map(|trace| count(trace, function)).collect();
        worth_a_line(&counts)
    });
    all.sort_by_key(|function| {
        columns
            .iter()
            .map(|trace| std::cmp::Reverse(count(trace, function)))
            .collect::<Vec<_>>()
    });

    let mut head = vec![String::new()];
    head.extend(columns.iter().map(|trace| trace.name.clone()));
    let mut out = vec![head];
    let mut rest: Vec<u64> = columns.iter().map(|trace| trace.total()).collect();
    for function in all {
        let mut line = vec![format!("`{function}`")];
        for (trace, rest) in columns.iter().zip(&mut rest) {
            let count = count(trace, function);
            *rest -= count;
            line.push(match count {
                0 => String::new(),
                _ => count.to_string(),
            });
        }
        out.push(line);
    }
    let sums = columns.iter().map(|trace| number(trace.total() as f64));
    let measured = columns.iter().map(|trace| number(trace.measured as f64));
    for (title, cells) in [
        (
            "all others",
            rest.iter().map(u64::to_string).collect::<Vec<_>>(),
        ),
        ("sum", sums.collect()),
        ("measured in the same touch", measured.collect()),
    ] {
        let mut line = vec![title.to_owned()];
        line.extend(cells);
        out.push(line);
    }
    table(&out)
}

fn lines(traces: &[trace::Trace]) -> Vec<Vec<String>> {
    let mut out = vec![["", "code", "data", "sum"].map(str::to_owned).to_vec()];
    for trace in traces {
        if trace.lines.code + trace.lines.data == 0 || trace.pattern.starts_with("open") {
            continue;
        }
        out.push(vec![
            format!("{} {}", trace.name, trace.pattern),
            trace.lines.code.to_string(),
            trace.lines.data.to_string(),
            (trace.lines.code + trace.lines.data).to_string(),
        ]);
    }
    out
}

fn bar_table(bars: &[Bar]) -> Vec<Vec<String>> {
    let mut out = vec![["", "bar", "measured", "met"].map(str::to_owned).to_vec()];
    out.extend(bars.iter().map(|bar| {
        vec![
            bar.what.clone(),
            bar.bar.clone(),
            bar.measured(),
            bar.met().to_owned(),
        ]
    }));
    out
}

fn json(rows: &Rows, bars: &[Bar], date: &str) -> String {
    let mut text = format!(
        "{{\"kernel\": \"{}\", \"date\": \"{date}\", \"unit\": \"guest instructions\",\n \"rows\": [\n",
        rows.kernel
    );
    let lines: Vec<String> = rows
        .rows
        .iter()
        .map(|row| {
            format!(
                "  {{\"name\": \"{}\", \"pattern\": \"{}\", \"extents\": {}, \"layout\": \"{}\", \
                 \"insns\": {}, \"min\": {}, \"max\": {}, \"with_ticks\": {}, \"passes\": {}, \
                 \"touches\": {}}}",
                row.name,
                row.pattern,
                row.extents,
                row.layout,
                row.insns,
                row.min,
                row.max,
                row.raw,
                row.passes,
                row.touches
            )
        })
        .collect();
    text += &lines.join(",\n");
    text += "\n ],\n \"bars\": [\n";
    let lines: Vec<String> = bars
        .iter()
        .map(|bar| {
            let value = bar
                .value
                .map_or("null".to_owned(), |value| format!("{value:.4}"));
            format!(
                "  {{\"what\": \"{}\", \"bar\": \"{}\", \"measured\": {value}, \"met\": \"{}\"}}",
                bar.what,
                bar.bar,
                bar.met()
            )
        })
        .collect();
    text += &lines.join(",\n");
    text += "\n ]}\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        assert_eq!(number(0.4), "0");
        assert_eq!(number(999.0), "999");
        assert_eq!(number(1000.0), "1,000");
        assert_eq!(number(-1234567.0), "-1,234,567");
        assert_eq!(number(-123.0), "-123");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [["", "n"], ["abc", "1,000"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&rows),
            "|     |     n |\n|-----|------:|\n| abc | 1,000 |\n"
        );
        assert_eq!(table(&rows[..1]), "");
    }
}
