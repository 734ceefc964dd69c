// SPDX-License-Identifier: GPL-2.0
//! What was measured, and the bars that it is held against.

/// A line of `bench/measure.c`.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub pattern: String,
    pub extents: u32,
    pub layout: String,
    /// The median of the passes.
    pub insns: f64,
    pub min: f64,
    pub max: f64,
    /// The mean, touches with a timer interrupt included.
    pub raw: f64,
    pub passes: u32,
    pub touches: u32,
}

/// Nanoseconds of a clock, to be compared with others of the same boot.
#[derive(Debug)]
struct Wall {
    name: String,
    pattern: String,
    cpus: u32,
    nanoseconds: f64,
}

#[derive(Debug)]
pub struct Rows {
    pub kernel: String,
    pub rows: Vec<Row>,
    wall: Vec<Wall>,
}

/// A number that has to be small enough, or large enough.
#[derive(Debug)]
pub struct Bar {
    pub what: String,
    pub bar: String,
    pub value: Option<f64>,
    limit: Limit,
    unit: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
    None,
}

impl Bar {
    fn new(what: &str, limit: Limit, unit: &'static str, value: Option<f64>) -> Self {
        Self {
            what: what.to_owned(),
            bar: match limit {
                Limit::AtMost(limit) => format!("<= {limit}{unit}"),
                Limit::AtLeast(limit) => format!(">= {limit}{unit}"),
                Limit::None => "published".to_owned(),
            },
            value,
            limit,
            unit,
        }
    }

    pub fn measured(&self) -> String {
        match self.value {
            Some(value) if self.unit.is_empty() => format!("{value:.3}"),
            Some(value) => format!("{value:.1}{}", self.unit),
            None => "-".to_owned(),
        }
    }

    pub fn met(&self) -> &'static str {
        let met = match (self.limit, self.value) {
            (_, None) | (Limit::None, _) => return "-",
            (Limit::AtMost(limit), Some(value)) => value <= limit,
            (Limit::AtLeast(limit), Some(value)) => value >= limit,
        };
        if met { "yes" } else { "NO" }
    }
}

/// The largest, if all are there.
fn worst(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    let mut worst = None;
    for value in values {
        let value = value?;
        worst = Some(worst.map_or(value, |other: f64| other.max(value)));
    }
    worst
}

impl Rows {
    pub fn parse(count: &str, wall: &str) -> Result<Self, String> {
        let mut rows = Self {
            kernel: String::new(),
            rows: Vec::new(),
            wall: Vec::new(),
        };
        for line in count.lines().chain(wall.lines()) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let parsed = match fields.as_slice() {
                ["kernel", kernel] => {
                    rows.kernel = (*kernel).to_owned();
                    Some(())
                }
                ["row", name, pattern, extents, layout, numbers @ ..] => {
                    Self::row(name, pattern, extents, layout, numbers)
                        .map(|row| rows.rows.push(row))
                }
                ["wall", name, pattern, cpus, nanoseconds] => {
                    match (cpus.parse(), nanoseconds.parse()) {
                        (Ok(cpus), Ok(nanoseconds)) => {
                            rows.wall.push(Wall {
                                name: (*name).to_owned(),
                                pattern: (*pattern).to_owned(),
                                cpus,
                                nanoseconds,
                            });
                            Some(())
                        }
                        _ => None,
                    }
                }
                _ => Some(()),
            };
            parsed.ok_or_else(|| format!("not a line of measure.c: {line}"))?;
        }
        Ok(rows)
    }

    fn row(
        name: &str,
        pattern: &str,
        extents: &str,
        layout: &str,
        numbers: &[&str],
    ) -> Option<Row> {
        let numbers: Vec<f64> = numbers
            .iter()
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        let [insns, min, max, raw, passes, touches, _ticks] = numbers[..] else {
            return None;
        };
        Some(Row {
            name: name.to_owned(),
            pattern: pattern.to_owned(),
            extents: extents.parse().ok()?,
            layout: layout.to_owned(),
            insns,
            min,
            max,
            raw,
            passes: passes as u32,
            touches: touches as u32,
        })
    }

    /// The names, in the order in which they were measured.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !names.contains(&row.name.as_str()) {
                names.push(&row.name);
            }
        }
        names
    }

    pub fn get(&self, name: &str, pattern: &str, extents: u32, layout: &str) -> Option<&Row> {
        self.rows.iter().find(|row| {
            row.name == name
                && row.pattern == pattern
                && row.extents == extents
                && row.layout == layout
        })
    }

    fn insns(&self, name: &str, pattern: &str) -> Option<f64> {
        self.get(name, pattern, 1, "linear").map(|row| row.insns)
    }

    fn ratio(&self, name: &str, other: &str, pattern: &str) -> Option<f64> {
        Some(self.insns(name, pattern)? / self.insns(other, pattern)?)
    }

    /// How much more each fault takes than that of `other` in the same pattern and file: in
    /// instructions and in percent.
    pub fn faults_over(&self, name: &str, other: &str) -> Vec<(f64, f64)> {
        let is_fault =
            |row: &&Row| row.pattern.starts_with("2m-") || row.pattern.starts_with("4k-");

        self.rows
            .iter()
            .filter(|row| row.name == name)
            .filter(is_fault)
            .filter_map(|row| {
                let other = self.get(other, &row.pattern, row.extents, &row.layout)?;
                let more = row.insns - other.insns;
                Some((more, 100.0 * more / other.insns))
            })
            .collect()
    }

    /// The best round: whoever disturbs makes it longer.
    fn wall(&self, name: &str, pattern: &str, cpus: u32) -> Option<f64> {
        self.wall
            .iter()
            .filter(|wall| wall.name == name && wall.pattern == pattern && wall.cpus == cpus)
            .map(|wall| wall.nanoseconds)
            .reduce(f64::min)
    }

    /// The mean of so many tenths of the rounds, the best ones.
    fn mean_wall(&self, name: &str, pattern: &str, tenths: usize) -> Option<f64> {
        let mut rounds: Vec<f64> = self
            .wall
            .iter()
            .filter(|wall| wall.name == name && wall.pattern == pattern)
            .map(|wall| wall.nanoseconds)
            .collect();
        rounds.sort_by(f64::total_cmp);
        rounds.truncate((rounds.len() * tenths).div_ceil(10));
        (!rounds.is_empty()).then(|| rounds.iter().sum::<f64>() / rounds.len() as f64)
    }

    /// How much more two CPUs get done than one.
    fn scaling(&self, name: &str, pattern: &str) -> Option<f64> {
        Some(self.wall(name, pattern, 1)? / self.wall(name, pattern, 2)?)
    }

    pub fn bars(&self) -> Vec<Bar> {
        use Limit::{AtLeast, AtMost};
        const HUGE: [&str; 2] = ["2m-read-again", "2m-write-again"];
        const SMALL: [&str; 2] = ["4k-read-again", "4k-write-again"];
        let over = self.faults_over("bpf", "native");
        let ratios = |patterns: [&'static str; 2], name, other| {
            worst(patterns.map(|pattern| self.ratio(name, other, pattern)))
        };
        let many = |pattern, layout| {
            let one = self.get("bpf", pattern, 1, layout)?.insns;
            Some(self.get("bpf", pattern, 2048, layout)?.insns / one)
        };
        // Over 8 strips: as one extent, and as a list of its chunks.
        let famfs = |extents| {
            worst(HUGE.into_iter().chain(SMALL).map(|pattern| {
                let striped = self.get("striped-8", pattern, 1, "interleaved")?.insns;
                let famfs = self.get("famfs-8", pattern, extents, "interleaved")?;
                Some(famfs.insns / striped)
            }))
        };
        let open_wall = Some(()).and_then(|()| {
            Some(self.wall("bpf", "open-first", 1)? / self.wall("fuse", "open-first", 1)?)
        });
        let first_open_asked = Some(()).and_then(|()| {
            Some(self.wall("bpf-asked", "open-first", 1)? / self.wall("fuse", "open-first", 1)?)
        });
        let first_open = |tenths| {
            let fuse = self.mean_wall("fuse", "open-first", tenths)?;
            Some(self.mean_wall("bpf", "open-first", tenths)? / fuse)
        };

        let mut bars = vec![
            Bar::new(
                "bpf over native, any fault of any file",
                AtMost(100.0),
                " insns",
                worst(over.iter().map(|(insns, _)| Some(*insns))),
            ),
            Bar::new(
                "the same in percent",
                AtMost(3.0),
                " %",
                worst(over.iter().map(|(_, percent)| Some(*percent))),
            ),
            Bar::new(
                "2 MiB after remap, bpf over device-dax",
                AtMost(1.25),
                "",
                ratios(HUGE, "bpf", "device-dax"),
            ),
            Bar::new(
                "2 MiB after remap, bpf over hugetlbfs",
                AtMost(1.25),
                "",
                ratios(HUGE, "bpf", "hugetlbfs"),
            ),
            Bar::new(
                "4 KiB after remap, bpf over ext4-dax",
                AtMost(0.75),
                "",
                ratios(SMALL, "bpf", "ext4-dax"),
            ),
            Bar::new(
                "2,048 extents over 1",
                AtMost(1.15),
                "",
                worst(
                    [HUGE[0], SMALL[0]]
                        .into_iter()
                        .flat_map(|pattern| ["linear", "interleaved"].map(|l| many(pattern, l))),
                ),
            ),
            Bar::new("8 strips, famfs over striped", AtMost(1.05), "", famfs(1)),
            Bar::new(
                "8 strips, famfs's list of 512 chunks over striped",
                AtMost(1.05),
                "",
                famfs(512),
            ),
            Bar::new(
                "2 MiB after remap, hashmap over bpf",
                Limit::None,
                "",
                ratios(HUGE, "hashmap", "bpf"),
            ),
            Bar::new(
                "4 KiB after remap, hashmap over bpf",
                Limit::None,
                "",
                ratios(SMALL, "hashmap", "bpf"),
            ),
            Bar::new(
                "open of a cached file, bpf over fuse",
                AtMost(1.02),
                "",
                self.ratio("bpf", "fuse", "open-cached"),
            ),
            Bar::new(
                "first open, bpf over fuse, wall time, best rounds",
                AtMost(1.3),
                "",
                open_wall,
            ),
            Bar::new(
                "the same, best tenth of the rounds",
                Limit::None,
                "",
                first_open(1),
            ),
            Bar::new(
                "the same, all rounds together",
                Limit::None,
                "",
                first_open(10),
            ),
            Bar::new(
                "the same, best rounds, the server being asked for the map",
                Limit::None,
                "",
                first_open_asked,
            ),
            Bar::new(
                "read(2) of 4 KiB, bpf over ext4-dax",
                AtMost(1.0),
                "",
                self.ratio("bpf", "ext4-dax", "pread-4k"),
            ),
        ];
        for (pattern, size) in [("scale-2m", "2 MiB"), ("scale-4k", "4 KiB")] {
            bars.push(Bar::new(
                &format!("two CPUs over one, {size}, bpf"),
                AtLeast(1.8),
                "",
                self.scaling("bpf", pattern),
            ));
            for name in ["device-dax", "ext4-dax"] {
                if let Some(scaling) = self.scaling(name, pattern) {
                    bars.push(Bar::new(
                        &format!("two CPUs over one, {size}, {name}"),
                        Limit::None,
                        "",
                        Some(scaling),
                    ));
                }
            }
        }
        bars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: &str = "kernel 7.3\n\
        row bpf 2m-read-again 1 linear 110.0 109.0 111.0 112.5 5 32 3\n\
        row device-dax 2m-read-again 1 linear 100 100 100 100 5 32 0\n\
        row bpf 2m-write-again 1 linear 120 120 120 120 5 32 0\n\
        row device-dax 2m-write-again 1 linear 100 100 100 100 5 32 0\n";
    const WALL: &str = "wall bpf scale-2m 1 100.0\nwall bpf scale-2m 1 90\n\
        wall bpf scale-2m 2 50\nwall bpf scale-2m 2 60\n";

    fn bar(rows: &Rows, what: &str) -> (String, &'static str) {
        let bars = rows.bars();
        let bar = bars.iter().find(|bar| bar.what == what).unwrap();
        (bar.measured(), bar.met())
    }

    #[test]
    fn the_worst_of_a_bar_counts() {
        let rows = Rows::parse(COUNT, WALL).unwrap();
        assert_eq!(rows.kernel, "7.3");
        assert_eq!(
            bar(&rows, "2 MiB after remap, bpf over device-dax"),
            ("1.200".to_owned(), "yes")
        );
        assert_eq!(
            bar(&rows, "two CPUs over one, 2 MiB, bpf"),
            ("1.800".to_owned(), "yes")
        );
    }

    #[test]
    fn formats_are_compared_pattern_by_pattern() {
        let mut count = COUNT.to_owned();
        for pattern in [
            "2m-read-again",
            "2m-write-again",
            "4k-read-again",
            "4k-write-again",
        ] {
            for (name, extents, insns) in [
                ("striped-8", 1, 100),
                ("famfs-8", 1, 104),
                ("famfs-8", 512, 106),
            ] {
                count += &format!(
                    "row {name} {pattern} {extents} interleaved {insns} {insns} {insns} {insns} 5 32 0\n"
                );
            }
        }
        let rows = Rows::parse(&count, "").unwrap();
        assert_eq!(
            bar(&rows, "8 strips, famfs over striped"),
            ("1.040".to_owned(), "yes")
        );
        assert_eq!(
            bar(&rows, "8 strips, famfs's list of 512 chunks over striped"),
            ("1.060".to_owned(), "NO")
        );
    }

    #[test]
    fn what_was_not_measured_meets_no_bar() {
        let rows = Rows::parse(COUNT, "").unwrap();
        assert_eq!(bar(&rows, "bpf over native, any fault of any file").1, "-");
        assert_eq!(bar(&rows, "two CPUs over one, 2 MiB, bpf").1, "-");
    }

    #[test]
    fn a_broken_line_is_an_error() {
        assert!(Rows::parse("row bpf 2m 1 linear 1 2 3\n", "").is_err());
        assert!(Rows::parse("", "wall bpf scale-2m one 3\n").is_err());
    }
}
