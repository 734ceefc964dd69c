// SPDX-License-Identifier: GPL-2.0
//! What `bench/trace_plugin.c` wrote down: which function each instruction belongs to, and which
//! cache lines are ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

const LINE: u64 = 64;
/// A kernel stack, which is aligned to its size.
const STACK: u64 = 16 << 10;
const KERNEL: u64 = 1 << 63;
const USER: &str = "user space";

/// One touch.
#[derive(Debug, Default)]
pub struct Trace {
    pub name: String,
    pub pattern: String,
    /// What the program saw for the same touch, with the loop taken off.
    pub measured: u64,
    /// By their number of instructions.
    pub functions: Vec<(String, u64)>,
    /// Runs of instructions in one function, in order.
    order: Vec<(String, u64)>,
    pub lines: Lines,
}

/// Cache lines that this touch needs because of us.
#[derive(Debug, Default)]
pub struct Lines {
    /// Instructions of the module, of the program, and of the trampoline between them.
    pub code: usize,
    /// What only they load or store in this touch, but the stack.
    pub data: usize,
    /// Each line of data, with the functions that use it.
    data_users: BTreeMap<u64, BTreeSet<String>>,
}

impl Trace {
    pub fn total(&self) -> u64 {
        self.functions.iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {} {}", self.name, self.pattern)?;
        for (function, count) in &self.functions {
            writeln!(f, "{count:6} {function}")?;
        }
        writeln!(f, "{:6} sum; measured {}", self.total(), self.measured)?;
        writeln!(f, "\n-- in order")?;
        for (function, count) in &self.order {
            writeln!(f, "{count:6} {function}")?;
        }
        if self.lines.code > 0 {
            writeln!(
                f,
                "\n-- {} cache lines of code, {} of data:",
                self.lines.code, self.lines.data
            )?;
            for (line, users) in &self.lines.data_users {
                let users: Vec<&str> = users.iter().map(String::as_str).collect();
                writeln!(f, "{line:x} {}", users.join(", "))?;
            }
        }
        writeln!(f)
    }
}

/// Where functions begin.
#[derive(Debug, Default)]
struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    /// Adds a line of /proc/kallsyms.
    fn add(&mut self, line: &str) {
        let mut fields = line.split_whitespace();
        let (Some(addr), Some(_kind), Some(name)) = (fields.next(), fields.next(), fields.next())
        else {
            return;
        };
        let Ok(addr) = u64::from_str_radix(addr, 16) else {
            return;
        };
        let mut name = demangle(name);
        if let Some(module) = fields.next() {
            name = format!("{name} {module}");
        }
        // Of several names of one place, the first.
        self.0.entry(addr).or_insert(name);
    }

    fn function(&self, addr: u64) -> &str {
        if addr < KERNEL {
            return USER;
        }
        self.0
            .range(..=addr)
            .next_back()
            .map_or("unknown", |(_, name)| name)
    }
}

/// The path of a Rust symbol (v0), without hashes and types; others as they are.
fn demangle(name: &str) -> String {
    let Some(mut rest) = name.strip_prefix("_R") else {
        return name.to_owned();
    };
    let mut path: Vec<&str> = Vec::new();
    while let Some(first) = rest.chars().next() {
        if first == 's' || first == 'B' {
            // A disambiguator, or what refers to something before: up to its underscore.
            if let Some((_, after)) = rest.split_once('_') {
                rest = after;
                continue;
            }
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            rest = &rest[1..];
            continue;
        }
        let Ok(length) = rest[..digits].parse::<usize>() else {
            break;
        };
        rest = &rest[digits..];
        rest = rest.strip_prefix('_').unwrap_or(rest);
        let Some(part) = rest.get(..length) else {
            break;
        };
        path.push(part);
        rest = &rest[length..];
    }
    path.dedup();
    match path.is_empty() {
        true => name.to_owned(),
        false => path.join("::"),
    }
}

fn is_ours(function: &str) -> bool {
    function.ends_with("[fuse_dax_fmap]") || function.ends_with("[bpf]")
}

/// Reads what the guest and the plugin said. The guest names touches in the order in which they
/// were traced, and prints its symbols while the module that they need is loaded. The plugin has
/// seen each twice, once more when it was mapped.
pub fn parse(raw: &str, trace: &str) -> Result<Vec<Trace>, String> {
    let mut sections = trace.split("begin\n").skip(1);
    let mut traces = Vec::new();
    let mut named: Vec<(&str, &str, u64)> = Vec::new();
    let mut symbols: Option<Symbols> = None;

    for line in raw.lines() {
        match (&mut symbols, line) {
            (Some(_), "end") => {
                let symbols = symbols.take().unwrap_or_default();
                for (name, pattern, measured) in named.drain(..) {
                    let (Some(touch), Some(control)) = (sections.next(), sections.next()) else {
                        return Err("the plugin has seen fewer touches than the guest".to_owned());
                    };
                    traces.push(Trace {
                        name: name.to_owned(),
                        pattern: pattern.to_owned(),
                        measured,
                        ..resolve(touch, control, &symbols)
                    });
                }
            }
            (Some(symbols), line) => symbols.add(line),
            (None, "symbols") => symbols = Some(Symbols::default()),
            (None, line) => {
                let fields: Vec<&str> = line.split_whitespace().collect();
                if let ["trace", name, pattern, _, _, touch, overhead] = fields[..] {
                    let measured = touch
                        .parse::<u64>()
                        .ok()
                        .zip(overhead.parse().ok())
                        .and_then(|(touch, overhead)| touch.checked_sub(overhead));
                    named.push((name, pattern, measured.ok_or("not a number")?));
                }
            }
        }
    }
    Ok(traces)
}

fn resolve(touch: &str, control: &str, symbols: &Symbols) -> Trace {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut order: Vec<(String, u64)> = Vec::new();
    let mut code = BTreeSet::new();
    let mut ours: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut others = BTreeSet::new();
    let mut function = "";
    let mut stack = None;

    for line in touch.lines() {
        let mut fields = line.split(' ');
        let (kind, addr) = (fields.next(), fields.next());
        let Some(addr) = addr.and_then(|addr| u64::from_str_radix(addr, 16).ok()) else {
            continue;
        };
        match kind {
            Some("i") => {
                function = symbols.function(addr);
                *counts.entry(function).or_default() += 1;
                match order.last_mut() {
                    Some((last, count)) if last == function => *count += 1,
                    _ => order.push((function.to_owned(), 1)),
                }
                if is_ours(function) {
                    code.insert(addr / LINE);
                }
            }
            Some("r" | "w") => {
                // The first C function of the fault pushes its registers.
                if stack.is_none() && function == "exc_page_fault" {
                    stack = Some(addr / STACK);
                }
                if stack == Some(addr / STACK) {
                    continue;
                }
                if is_ours(function) {
                    ours.entry(addr / LINE * LINE)
                        .or_default()
                        .insert(function.to_owned());
                } else {
                    others.insert(addr / LINE * LINE);
                }
            }
            _ => (),
        }
    }
    // What the same instructions do when nothing has to be done for them. A plugin is shown those
    // that fault, too, but they are not executed then.
    let own = control.lines().filter(|line| line.starts_with('i')).count() as u64;
    let faulting = own;
    if let Some(count) = counts.get_mut(USER) {
        *count -= own + faulting;
    }
    counts.retain(|_, count| *count > 0);
    ours.retain(|line, _| !others.contains(line));
    let mut functions: Vec<(String, u64)> = counts
        .into_iter()
        .map(|(function, count)| (function.to_owned(), count))
        .collect();
    functions.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Trace {
        functions,
        order,
        lines: Lines {
            code: code.len(),
            data: ours.len(),
            data_users: ours,
        },
        ..Trace::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_symbols_are_readable() {
        assert_eq!(
            demangle("_RNvNtCse1TmiqBR6E6_13fuse_dax_fmap5iomap11iomap_begin"),
            "fuse_dax_fmap::iomap::iomap_begin"
        );
        assert_eq!(
            demangle("_RNvMs2_NtCse1TmiqBR6E6_13fuse_dax_fmap5iomapNtB5_6Header6locate"),
            "fuse_dax_fmap::iomap::Header::locate"
        );
        assert_eq!(demangle("xas_store"), "xas_store");
    }
}
