// SPDX-License-Identifier: GPL-2.0
//! The plot: bars of what a touch costs after munmap and mmap, and a read(2).
//!
//! It is drawn from the tables of the published page, so that page and picture cannot differ.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::number;

const WIDTH: u32 = 760;
/// Of a bar, with the space around it; and of what a panel has besides.
const BAR: u32 = 20;
const PANEL: u32 = 70;

/// The title of a panel, that of its table, and the column of its numbers.
const PANELS: [(&str, &str, usize); 5] = [
    ("2 MiB, read: a touch", "Touching 2 MiB pages", 2),
    ("2 MiB, write: a touch", "Touching 2 MiB pages", 5),
    ("4 KiB, read: a touch", "Touching 4 KiB pages", 2),
    ("4 KiB, write: a touch", "Touching 4 KiB pages", 5),
    ("4 KiB: a read(2)", "read(2) and write(2)", 1),
];
/// What costs more is cut off, with its number beside it.
const MOST: f64 = 10_000.0;

const OURS: RGBColor = RGBColor(0xcc, 0x66, 0x33);
const OTHERS: RGBColor = RGBColor(0x99, 0xaa, 0xbb);

/// Draws an SVG image of the tables of a page, without anything from elsewhere.
pub fn svg(page: &str) -> Result<String, String> {
    let panels: Vec<_> = PANELS
        .iter()
        .map(|&(title, table, column)| (title, column_of(page, table, column)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    if panels.is_empty() {
        return Err("the page has none of the tables".to_owned());
    }
    let mut text = String::new();
    draw(&panels, &mut text).map_err(|error| error.to_string())?;
    // Behind the first line, which is the tag.
    Ok(text.replacen('\n', "\n<!-- SPDX-License-Identifier: GPL-2.0 -->\n", 1))
}

/// The names of rows, and the numbers of a column, of the table below a heading.
fn column_of<'a>(page: &'a str, heading: &str, column: usize) -> Vec<(&'a str, f64)> {
    page.lines()
        .skip_while(|line| line.trim_start_matches('#').trim() != heading || !line.starts_with('#'))
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .filter_map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let name = cells.next()?;
            let cell = cells.nth(column.checked_sub(1)?)?.replace(',', "");
            Some((name, cell.parse().ok()?))
        })
        .collect()
}

fn draw(
    panels: &[(&str, Vec<(&str, f64)>)],
    text: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let heights: Vec<u32> = panels
        .iter()
        .map(|(_, bars)| PANEL + BAR * bars.len() as u32)
        .collect();
    let root = SVGBackend::with_string(text, (WIDTH, heights.iter().sum())).into_drawing_area();
    root.fill(&WHITE)?;

    let mut rest = root.clone();
    for ((title, bars), height) in panels.iter().zip(heights) {
        let (panel, below) = rest.split_vertically(height);
        rest = below;
        let most = bars.iter().map(|bar| bar.1).fold(1.0, f64::max).min(MOST);
        // The axis goes up, and the first bar is to be at the top.
        let place = |bar: usize| (bars.len() - 1 - bar) as i32;
        let mut chart = ChartBuilder::on(&panel)
            .caption(format!("{title} (instructions)"), ("sans-serif", 14))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(90)
            .build_cartesian_2d(0.0..most * 1.2, (0..bars.len() as i32 - 1).into_segmented())?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|&x| number(x))
            .y_labels(bars.len())
            .y_label_formatter(&|value| match value {
                SegmentValue::Exact(at) | SegmentValue::CenterOf(at) => bars
                    .len()
                    .checked_sub(1 + *at as usize)
                    .map_or(String::new(), |bar| bars[bar].0.to_owned()),
                SegmentValue::Last => String::new(),
            })
            .label_style(("sans-serif", 11))
            .draw()?;
        chart.draw_series(bars.iter().enumerate().map(|(bar, &(name, insns))| {
            let color = match name {
                "bpf" | "native" | "hashmap" => OURS,
                _ => OTHERS,
            };
            let at = place(bar);
            let corners = [
                (0.0, SegmentValue::Exact(at)),
                (insns.min(MOST), SegmentValue::Exact(at + 1)),
            ];
            let mut bar = Rectangle::new(corners, color.filled());
            bar.set_margin(3, 3, 0, 0);
            bar
        }))?;
        let style = ("sans-serif", 11)
            .into_text_style(&panel)
            .pos(Pos::new(HPos::Left, VPos::Center));
        chart.draw_series(bars.iter().enumerate().map(|(bar, &(_, insns))| {
            let cut = if insns > MOST { " (cut off)" } else { "" };
            let at = (insns.min(MOST), SegmentValue::CenterOf(place(bar)));
            Text::new(format!(" {}{cut}", number(insns)), at, style.clone())
        }))?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n\n## Touching 2 MiB pages\n\n|   | read, first | again |\n\
                        |---|---:|---:|\n| bpf | 15,473 | 2,037 |\n| xfs-dax | | 4,736 |\n\n## Next\n";

    #[test]
    fn numbers_of_a_column() {
        let column = |heading, column| column_of(PAGE, heading, column);
        assert_eq!(
            column("Touching 2 MiB pages", 2),
            [("bpf", 2037.0), ("xfs-dax", 4736.0)]
        );
        assert_eq!(column("Touching 2 MiB pages", 1), [("bpf", 15473.0)]);
        assert_eq!(column("Touching 2 MiB pages", 3), []);
        assert_eq!(column("Next", 1), []);
    }

    #[test]
    fn the_same_page_gives_the_same_picture() {
        let picture = svg(PAGE).unwrap();
        assert_eq!(svg(PAGE).unwrap(), picture);
        assert!(picture.contains("4,736") && picture.contains("SPDX"));
        assert!(svg("nothing").is_err());
    }
}
