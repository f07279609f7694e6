//! Output for programs and logs. Pure.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Look;
use super::rows::{Row, View, rows};
use outboard_reach::find::{Find, Running};
use outboard_wire::stats::buckets::Part;
use outboard_wire::stats::read::Snapshot;

/// The running VMs, one a line.
pub fn list(find: &Find) -> String {
    let mut text = format!("{:>8}  {:<20} {:<9} {:>5}  plugin\n", "pid", "name", "state", "vCPUs");
    for vm in &find.running {
        let said = &vm.vm;
        let name = if said.name.is_empty() { "-" } else { &said.name };
        let plugin = if said.path.is_empty() { "the embedded machine" } else { &said.path };
        let _ = writeln!(text, "{:>8}  {name:<20} {:<9} {:>5}  {plugin}", vm.pid, said.state_name(), said.vcpus);
    }
    for (pid, uid) in &find.denied {
        let _ = writeln!(text, "{pid:>8}  of user {uid}; you may not look into it");
    }
    text
}

/// One JSON object on a line. Times are nanoseconds.
pub fn json(vm: &Running, look: &Look, view: &View) -> String {
    let Snapshot { vm: said, vcpus, .. } = &look.snapshot;
    let vcpus: Vec<Value> = vcpus
        .iter()
        .map(|vcpu| {
            json!({
                "thread": vcpu.thread,
                "interrupted": vcpu.interrupted,
                "trace_lost": vcpu.dropped,
                "waits": {
                    "spun": vcpu.waits.spun,
                    "slept": vcpu.waits.slept,
                    "wakes": vcpu.waits.wakes,
                    "ring_full": vcpu.waits.ring_full,
                },
            })
        })
        .collect();
    let all = View { by_range: true, by_vcpu: true, ..*view };
    let rows: Vec<Value> = rows(&look.snapshot, &all).iter().map(|row| row_json(look, row)).collect();
    let object = json!({
        "pid": vm.pid,
        "name": said.name,
        "plugin": said.path,
        "state": if look.ended { "ended" } else { said.state_name() },
        "tsc_khz": said.tsc_khz,
        "span_ns": look.ns(look.span),
        "vcpus": vcpus,
        "rows": rows,
    });
    format!("{object}\n")
}

fn row_json(look: &Look, row: &Row) -> Value {
    let part = |part: Part| {
        let ticks = row.counts.part(part);
        let quantile = |quantile| look.ns(ticks.quantile(quantile));
        (ticks.count() > 0).then(|| {
            json!({
                "mean": look.ns(row.counts.mean(part)),
                "p50": quantile(0.5),
                "p90": quantile(0.9),
                "p99": quantile(0.99),
                "p99.9": quantile(0.999),
                "max": look.ns(ticks.max()),
            })
        })
    };
    json!({
        "vcpu": row.vcpu,
        "exit": row.exit,
        "range": row.range.filter(|range| !range.further).map(|range| json!({
            "space": if range.mmio { "mmio" } else { "port" },
            "start": range.start,
            "length": range.length,
            "posted": range.posted,
            "released": range.released,
        })),
        "count": row.counts.count,
        "share": row.share(look.span, look.snapshot.vm.vcpus),
        "publish_ns": part(Part::Publish),
        "plugin_ns": part(Part::Plugin),
        "enter_ns": part(Part::Enter),
        "whole_ns": part(Part::Whole),
    })
}

/// The columns of [`csv`].
pub fn csv_head() -> &'static str {
    "seconds,pid,vcpu,exit,range,count,share,p50_ns,p99_ns,p999_ns,plugin_p50_ns,plugin_p99_ns\n"
}

/// A line per row.
pub fn csv(vm: &Running, look: &Look, view: &View) -> String {
    let mut text = String::new();
    for row in rows(&look.snapshot, view) {
        let vcpu = row.vcpu.map_or_else(String::new, |vcpu| vcpu.to_string());
        let quantile = |part, quantile| look.ns(row.counts.part(part).quantile(quantile));
        let _ = writeln!(
            text,
            "{:.3},{},{vcpu},{},{},{},{:.6},{},{},{},{},{}",
            since_start(look),
            vm.pid,
            row.exit,
            row.range_name(),
            row.counts.count,
            row.share(look.span, look.snapshot.vm.vcpus),
            quantile(Part::Whole, 0.5),
            quantile(Part::Whole, 0.99),
            quantile(Part::Whole, 0.999),
            quantile(Part::Plugin, 0.5),
            quantile(Part::Plugin, 0.99),
        );
    }
    text
}

/// A line per row for people who read logs.
pub fn log(vm: &Running, look: &Look, view: &View) -> String {
    let mut text = String::new();
    for row in rows(&look.snapshot, view) {
        let us = |quantile| look.ns(row.counts.part(view.part).quantile(quantile)) as f64 / 1000.0;
        let range = row.range_name();
        let vcpu = row.vcpu.map_or_else(String::new, |vcpu| format!(" vCPU {vcpu}"));
        let _ = writeln!(
            text,
            "{:>9.3} s  VM {}{vcpu}  {}{}{range}: {} exits, {:.1} % of the time, p50 {:.2} p99 {:.2} p99.9 {:.2} us",
            since_start(look),
            vm.title(),
            row.exit,
            if range.is_empty() { "" } else { " " },
            row.counts.count,
            100.0 * row.share(look.span, look.snapshot.vm.vcpus),
            us(0.5),
            us(0.99),
            us(0.999)
        );
    }
    text
}

fn since_start(look: &Look) -> f64 {
    look.ns(look.tsc.saturating_sub(look.snapshot.vm.start_tsc)) as f64 / 1e9
}
