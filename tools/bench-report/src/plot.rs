// SPDX-License-Identifier: GPL-2.0
//! The plot: what a touch costs after munmap and mmap, as bars.

use std::fmt::Write;

use crate::number;
use crate::rows::Rows;

const WIDTH: f64 = 760.0;
const LABEL: f64 = 110.0;
const BAR: f64 = 12.0;
const LINE: f64 = 18.0;
/// Above the first bar of a panel.
const TITLE: f64 = 40.0;

const PANELS: [(&str, &str); 4] = [
    ("2 MiB, read", "2m-read-again"),
    ("2 MiB, write", "2m-write-again"),
    ("4 KiB, read", "4k-read-again"),
    ("4 KiB, write", "4k-write-again"),
];
/// What costs more is cut off, with its number beside it.
const MOST: f64 = 10_000.0;

/// An SVG image without anything from elsewhere.
pub fn svg(rows: &Rows) -> String {
    let mut body = String::new();
    let mut y = 0.0;

    for (title, pattern) in PANELS {
        let bars: Vec<(&str, f64)> = rows
            .names()
            .into_iter()
            .filter_map(|name| Some((name, rows.get(name, pattern, 1, "linear")?.insns)))
            .collect();
        if bars.is_empty() {
            continue;
        }
        let _ = writeln!(
            body,
            "<text x=\"8\" y=\"{}\" class=\"t\">{title}: instructions of one touch after munmap and mmap</text>",
            y + 26.0
        );
        y += TITLE;
        let most = bars.iter().map(|bar| bar.1).fold(1.0, f64::max).min(MOST);
        for (name, insns) in bars {
            let length = (WIDTH - LABEL - 80.0) * insns.min(MOST) / most;
            let class = match name {
                "bpf" | "native" | "hashmap" => "o",
                _ => "b",
            };
            let _ = writeln!(
                body,
                "<text x=\"{}\" y=\"{}\" class=\"n\">{name}</text>\
                 <rect x=\"{LABEL}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" class=\"{class}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}{}</text>",
                LABEL - 6.0,
                y + 10.0,
                LABEL + length + 5.0,
                y + 10.0,
                number(insns),
                if insns > MOST { " (cut off)" } else { "" },
            );
            y += LINE;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{0}\" viewBox=\"0 0 {WIDTH} {0}\">\n\
         <!-- SPDX-License-Identifier: GPL-2.0 -->\n\
         <style>text{{font:11px sans-serif}}.t{{font-weight:bold}}.n{{text-anchor:end}}.b{{fill:#9ab}}.o{{fill:#c63}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n",
        y + 14.0
    )
}
