//! A trace for other programs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::text::what;
use outboard_wire::clock;
use outboard_wire::line::{FLAG_MMIO, event_kind};
use outboard_wire::stats::cell::event_name;
use outboard_wire::trace::read::{Group, Trace};
use outboard_wire::trace::{CONTROL, kind};

/// Thread number of the control thread in Chrome's format.
const CONTROL_THREAD: u32 = 100_000;

/// Chrome's trace event format, which Perfetto opens: one complete event per exit, its parts below it, and the guest in
/// between. Times are microseconds since the trace began.
pub fn chrome(trace: &Trace, groups: &[&Group], out: &mut dyn Write) -> io::Result<()> {
    let us = |tsc: u64| clock::to_ns(tsc.saturating_sub(trace.header.start_tsc), trace.header.tsc_khz) as f64 / 1e3;
    let pid = trace.header.pid;
    let thread = |vcpu: u16| if vcpu == CONTROL { CONTROL_THREAD } else { vcpu.into() };
    let mut first = true;
    let mut put = |out: &mut dyn Write, event: Value| {
        let comma = if std::mem::replace(&mut first, false) { "" } else { "," };
        write!(out, "{comma}\n{event}")
    };
    let mut seen = BTreeMap::new();
    write!(out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    for group in groups.iter().filter(|group| group.head.kind != kind::MEMORY) {
        let head = &group.head;
        let tid = thread(head.vcpu);
        if !seen.contains_key(&head.vcpu) {
            let name = if head.vcpu == CONTROL { "control".to_owned() } else { format!("vCPU {}", head.vcpu) };
            put(out, json!({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}))?;
        }
        let mut span = |out: &mut dyn Write, name: &str, from: u64, to: u64, args: Value| {
            let (start, end) = (us(from), us(to.max(from)));
            let event = json!({
                "ph": "X", "name": name, "cat": category(group), "pid": pid, "tid": tid,
                "ts": start, "dur": end - start, "args": args,
            });
            put(out, event)
        };
        let last = seen.insert(head.vcpu, head.entered);
        if let Some(entered) =
            last.filter(|entered| head.kind != kind::CONTROL && *entered != 0 && *entered < head.exit)
        {
            span(out, "KVM_RUN", entered, head.exit, Value::Null)?;
        }
        span(out, &stack(group), head.exit, head.entered, json!({"what": what(group), "record": group.number}))?;
        if head.published != 0 {
            span(out, "publish", head.exit, head.published, Value::Null)?;
            span(out, "plugin", head.published, head.answered, Value::Null)?;
            span(out, "enter", head.answered, head.entered, Value::Null)?;
        }
    }
    writeln!(out, "\n]}}")
}

/// Stacks with their time in nanoseconds: vCPU, kind, address, part.
pub fn folded(trace: &Trace, groups: &[&Group], out: &mut dyn Write) -> io::Result<()> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    let mut entered: BTreeMap<u16, u64> = BTreeMap::new();
    let mut add = |stack: String, ticks: u64| {
        let sum = sums.entry(stack).or_default();
        // The file may say anything.
        *sum = sum.saturating_add(ticks);
    };
    for group in groups.iter().filter(|group| group.head.vcpu != CONTROL && group.head.kind != kind::COMMAND) {
        let head = &group.head;
        if let Some(last) = entered.insert(head.vcpu, head.entered) {
            add(format!("vCPU {};KVM_RUN", head.vcpu), head.exit.saturating_sub(last));
        }
        let stack = format!("vCPU {};{};{:#x}", head.vcpu, category(group), head.event.address);
        if head.published == 0 {
            add(stack, group.whole());
            continue;
        }
        add(format!("{stack};publish"), head.published.saturating_sub(head.exit));
        add(format!("{stack};plugin"), group.plugin());
        add(format!("{stack};enter"), head.entered.saturating_sub(head.answered));
    }
    sums.iter().try_for_each(|(stack, ticks)| {
        let ns = clock::to_ns(*ticks, trace.header.tsc_khz);
        if ns > 0 { writeln!(out, "{stack} {ns}") } else { Ok(()) }
    })
}

/// A line per group. Times are nanoseconds since the trace began.
pub fn csv(trace: &Trace, groups: &[&Group], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "record,vcpu,kind,address,length,data,answer,exit_ns,published_ns,answered_ns,entered_ns")?;
    let ns = |tsc: u64| match tsc {
        0 => String::new(),
        _ => clock::to_ns(tsc.saturating_sub(trace.header.start_tsc), trace.header.tsc_khz).to_string(),
    };
    for group in groups {
        let head = &group.head;
        let vcpu = if head.vcpu == CONTROL { String::new() } else { head.vcpu.to_string() };
        writeln!(
            out,
            "{},{vcpu},{},{:#x},{},{:#x},{:#x},{},{},{},{}",
            group.number,
            category(group),
            head.event.address,
            head.event.length,
            head.event.data,
            head.answer.data,
            ns(head.exit),
            ns(head.published),
            ns(head.answered),
            ns(head.entered)
        )?;
    }
    Ok(())
}

/// What kind of thing a group is.
fn category(group: &Group) -> &'static str {
    let event = &group.head.event;
    let mmio = event.flags & FLAG_MMIO != 0;
    match (group.head.kind, event.kind) {
        (kind::EXCHANGE, event_kind::READ) => {
            if mmio {
                "mmio read"
            } else {
                "port read"
            }
        }
        (kind::EXCHANGE, event_kind::WRITE) => {
            if mmio {
                "mmio write"
            } else {
                "port write"
            }
        }
        (kind::EXCHANGE, event_kind::INIT) => "init",
        (kind::EXCHANGE, event_kind::PAUSED) => "pause",
        (kind::EXCHANGE, number) => event_name(number),
        (kind::POSTED, _) => {
            if mmio {
                "mmio posted write"
            } else {
                "port posted write"
            }
        }
        (kind::COMMAND, _) => "command",
        (kind::CONTROL, _) => "request",
        (kind::MEMORY, _) => "memory",
        (_, event_kind::READ | event_kind::WRITE) => "unclaimed access",
        _ => "refused exit",
    }
}

fn stack(group: &Group) -> String {
    match group.head.kind {
        kind::COMMAND | kind::CONTROL | kind::MEMORY => what(group),
        _ => format!("{} {:#x}", category(group), group.head.event.address),
    }
}
