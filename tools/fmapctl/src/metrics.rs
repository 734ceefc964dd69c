// SPDX-License-Identifier: GPL-2.0
//! What is mounted, and what was counted, as OpenMetrics text.
//!
//! The module need not be loaded: that it is not is a metric, too.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use fmap_host::device::{self, Device};
use fuse_dax_fmap::module::{Counter, NAME as MODULE};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::failure::Failure;
use crate::output;
use crate::status::{self, Mount};

/// Prints them, or replaces a file.
pub fn show(file: Option<&Path>, out: &mut String) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::from("this needs root".to_owned()));
    }
    let loaded = Path::new("/sys/module").join(MODULE).exists();
    let mounts = match loaded {
        true => status::mounts(0)?,
        false => Vec::new(),
    };
    let text = text(Snapshot {
        loaded,
        mounts,
        devices: device::present(),
    })?;
    match file {
        Some(path) => output::replace(path, &text)?,
        None => out.push_str(&text),
    }
    Ok(())
}

fn text(snapshot: Snapshot) -> Result<String, String> {
    let mut registry = Registry::with_prefix(MODULE);
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .map_err(|error| format!("cannot write the metrics: {error}"))?;
    Ok(text)
}

/// What is so at one time.
#[derive(Debug)]
struct Snapshot {
    loaded: bool,
    mounts: Vec<Mount>,
    devices: Vec<Device>,
}

type Labels = Vec<(&'static str, String)>;

/// A sample, and the labels that it has.
type Sample = (Labels, u64);

/// A metric: how it is named, what it is, and its samples.
struct Metric {
    name: String,
    unit: Option<Unit>,
    help: String,
    kind: MetricType,
    samples: Vec<Sample>,
}

impl Metric {
    fn gauge(name: &str, unit: Option<Unit>, help: &str, samples: Vec<Sample>) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            help: help.to_owned(),
            kind: MetricType::Gauge,
            samples,
        }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let unit = self.unit.as_ref();
        let mut family = encoder.encode_descriptor(&self.name, &self.help, unit, self.kind)?;
        match self.samples.as_slice() {
            // Without braces.
            [(labels, number)] if labels.is_empty() => self.sample(*number, family),
            samples => samples.iter().try_for_each(|(labels, number)| {
                self.sample(*number, family.encode_family(labels)?)
            }),
        }
    }

    fn sample(&self, number: u64, encoder: MetricEncoder<'_>) -> fmt::Result {
        match self.kind {
            MetricType::Counter => ConstCounter::new(number).encode(encoder),
            _ => ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX)).encode(encoder),
        }
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in self.metrics() {
            if !metric.samples.is_empty() {
                metric.encode(&mut encoder)?;
            }
        }
        Ok(())
    }
}

impl Snapshot {
    fn metrics(&self) -> Vec<Metric> {
        let mut all = vec![
            Metric::gauge(
                "module_loaded",
                None,
                "1 if the kernel module is loaded.",
                vec![(Labels::new(), self.loaded.into())],
            ),
            Metric::gauge(
                "mounts",
                None,
                "Mounts that use ops.",
                vec![(Labels::new(), self.mounts.len() as u64)],
            ),
        ];
        let names = names(&self.mounts);
        let labels = |at: usize| -> Labels {
            vec![
                ("mount", escape(&names[at])),
                ("ops", escape(&self.mounts[at].ops)),
            ]
        };
        let of_mounts = |number: fn(&Mount) -> u64| {
            let mounts = self.mounts.iter().enumerate();
            mounts
                .map(|(at, mount)| (labels(at), number(mount)))
                .collect()
        };
        all.push(Metric::gauge(
            "mapped_files",
            None,
            "Files with a map that the kernel knows now.",
            of_mounts(|mount| mount.files),
        ));
        all.push(Metric::gauge(
            "ops_replaced",
            None,
            "1 if the ops of the mount were replaced or unregistered since it was made.",
            of_mounts(|mount| {
                use crate::status::OpsState::{Gone, Old};
                matches!(mount.ops_state, Old | Gone).into()
            }),
        ));
        let poisoned = self.mounts.iter().enumerate();
        let poisoned = poisoned.filter_map(|(at, mount)| Some((labels(at), mount.poisoned_pages?)));
        all.push(Metric::gauge(
            "poisoned_pages",
            None,
            "Pages of all devices of the mount that are known to have failed.",
            poisoned.collect(),
        ));
        let (mut failed, mut poisoned) = (Vec::new(), Vec::new());
        for (at, mount) in self.mounts.iter().enumerate() {
            for device in &mount.devices {
                let mut labels = labels(at);
                labels.push(("device", escape(&device.name)));
                poisoned.extend(device.poisoned_pages.map(|pages| (labels.clone(), pages)));
                failed.push((labels, device.failed.into()));
            }
        }
        all.push(Metric::gauge(
            "device_failed",
            None,
            "1 if a device of the mount has failed: it was removed, or its driver was.",
            failed,
        ));
        all.push(Metric::gauge(
            "device_poisoned_pages",
            None,
            "Pages of a device of the mount that are known to have failed.",
            poisoned,
        ));
        let size = |device: &Device| {
            let labels = vec![
                ("device", escape(&device.name)),
                ("driver", escape(device.driver.as_deref().unwrap_or("none"))),
                ("id", escape(device.id.as_deref().unwrap_or(""))),
            ];
            Some((labels, device.size?))
        };
        all.push(Metric::gauge(
            "device_size",
            Some(Unit::Bytes),
            "Size of a DAX device of this machine.",
            self.devices.iter().filter_map(size).collect(),
        ));
        self.counters(&labels, &mut all);
        all
    }

    /// A counter of each kind, in the order of the module: of the mounts, then of their devices,
    /// if the module counts for those. There may be millions of files, which are left out.
    fn counters(&self, labels: &dyn Fn(usize) -> Labels, all: &mut Vec<Metric>) {
        for (at, mount) in self.mounts.iter().enumerate() {
            add("", &labels(at), &mount.counters, all);
        }
        for (at, mount) in self.mounts.iter().enumerate() {
            for device in &mount.devices {
                let mut labels = labels(at);
                labels.push(("device", escape(&device.name)));
                add("device_", &labels, &device.counters, all);
            }
        }
    }
}

/// Adds samples to metrics, or the metrics.
fn add(prefix: &str, labels: &Labels, counters: &[(String, u64)], all: &mut Vec<Metric>) {
    for (name, number) in counters {
        let Some((name, unit, help, label)) = counter(name) else {
            continue;
        };
        let name = format!("{prefix}{name}");
        let mut labels = labels.clone();
        labels.extend(label.map(|(key, value)| (key, value.to_owned())));
        let is_it = |metric: &&mut Metric| {
            metric.name == name && matches!(metric.kind, MetricType::Counter)
        };
        match all.iter_mut().find(is_it) {
            Some(metric) => metric.samples.push((labels, *number)),
            None => all.push(Metric {
                name,
                unit,
                help,
                kind: MetricType::Counter,
                samples: vec![(labels, *number)],
            }),
        }
    }
}

type Label = Option<(&'static str, &'static str)>;

/// How a counter of the module is called here: its name, its unit, what it is, and a label.
fn counter(name: &str) -> Option<(String, Option<Unit>, String, Label)> {
    let (metric, label) = match Counter::from_name(name) {
        Some(Counter::HugeFaults) => ("faults", Some(("size", "2MiB"))),
        Some(Counter::PageFaults) => ("faults", Some(("size", "4KiB"))),
        _ => (name, None),
    };
    let help = match (label, Counter::from_name(name)) {
        (Some(_), _) => "Page faults that succeeded, by size.".to_owned(),
        (None, Some(counter)) => format!("{}.", sentence(counter.description())),
        // Of a newer module.
        (None, None) => format!("What the module counts as {name}."),
    };
    let (metric, unit) = match metric.strip_suffix("_bytes") {
        Some(metric) => (metric, Some(Unit::Bytes)),
        None => (metric, None),
    };
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let sound = !metric.is_empty() && metric.bytes().all(sound) && !metric.ends_with("_total");
    sound.then(|| (metric.to_owned(), unit, help, label))
}

fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    match rest.next() {
        Some(first) => first.to_uppercase().chain(rest).collect(),
        None => String::new(),
    }
}

/// A name for each mount: the first place where it is. No two have the same, even if one is
/// mounted on the other.
fn names(mounts: &[Mount]) -> Vec<String> {
    let first = |mount: &Mount| mount.paths.first().cloned();
    let mut used: HashMap<_, u32> = HashMap::new();
    for mount in mounts {
        *used.entry(first(mount)).or_default() += 1;
    }
    let name = |mount: &Mount| match first(mount) {
        Some(path) if used.get(&Some(path.clone())) == Some(&1) => path,
        Some(path) => format!("{path} ({})", mount.superblock),
        None => mount.place(),
    };
    mounts.iter().map(name).collect()
}

/// As the value of a label is written.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped += "\\\\",
            '"' => escaped += "\\\"",
            '\n' => escaped += "\\n",
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
