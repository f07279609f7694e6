//! A trace for people: a line per group.

use std::io::{self, Write};

use outboard_wire::clock;
use outboard_wire::control::Kind;
use outboard_wire::kvm_abi::File;
use outboard_wire::line::{FLAG_MMIO, FLAG_STRING, answer_kind, event_kind};
use outboard_wire::stats::cell::event_name;
use outboard_wire::trace::read::{Group, Trace};
use outboard_wire::trace::{CONTROL, area, kind};

/// Writes a head and a line per group. Times are microseconds.
pub fn write(trace: &Trace, groups: &[&Group], out: &mut dyn Write) -> io::Result<()> {
    let path = trace.path();
    let plugin = if path.is_empty() { "the embedded machine" } else { &path };
    writeln!(out, "# VM {} {}: {} vCPUs, {plugin}", trace.header.pid, trace.name(), trace.header.vcpus)?;
    writeln!(out, "# {:>12} {:>5} {:>9} {:>9} {:>9}  what", "time us", "vCPU", "publish", "plugin", "enter")?;
    for group in groups {
        writeln!(out, "{}", line(trace, group))?;
    }
    Ok(())
}

/// A group in a line.
pub fn line(trace: &Trace, group: &Group) -> String {
    let head = &group.head;
    let us = |ticks| clock::to_ns(ticks, trace.header.tsc_khz) as f64 / 1000.0;
    let since = us(head.exit.saturating_sub(trace.header.start_tsc));
    let vcpu = if head.vcpu == CONTROL { "-".to_owned() } else { head.vcpu.to_string() };
    let part = |from: u64, to: u64| match (from, to) {
        (0, _) | (_, 0) => format!("{:>9}", "-"),
        _ => format!("{:>9.2}", us(to.saturating_sub(from))),
    };
    let (exit, asked) = (head.exit, head.published != 0);
    let parts = if asked {
        [part(exit, head.published), part(head.published, head.answered), part(head.answered, head.entered)]
    } else {
        [part(0, 0), part(0, 0), part(exit, head.entered)]
    };
    format!("{since:>14.2} {vcpu:>5} {} {} {}  {}", parts[0], parts[1], parts[2], what(group))
}

/// What happened, in words.
pub fn what(group: &Group) -> String {
    let (event, answer) = (&group.head.event, &group.head.answer);
    let space = if event.flags & FLAG_MMIO != 0 { "mmio" } else { "port" };
    let data = |string: u8, value: u64, flags: u8| match flags & FLAG_STRING {
        0 => format!("{value:#x}"),
        _ => hex(group.data(string)),
    };
    match (group.head.kind, event.kind) {
        (kind::EXCHANGE, event_kind::READ) => format!(
            "{space} read {:#x} +{} -> {}",
            event.address,
            event.length,
            data(area::ANSWER_STRING, answer.data, answer.flags)
        ),
        (kind::EXCHANGE, event_kind::WRITE) => format!(
            "{space} write {:#x} +{} <- {}",
            event.address,
            event.length,
            data(area::EVENT_STRING, event.data, event.flags)
        ),
        (kind::EXCHANGE, event_kind::INIT) => "init".to_owned(),
        (kind::EXCHANGE, event_kind::PAUSED) => format!("pause, cookie {:#x}", event.address),
        (kind::EXCHANGE, number) => {
            let (a, b) = (event.address, event.data);
            format!("{} {a:#x} {b:#x} -> {:#x} {}", event_name(number), answer.data, answer.count)
        }
        (kind::POSTED, _) => {
            format!("{space} posted write {:#x} +{} <- {:#x}", event.address, event.length, event.data)
        }
        (kind::UNASKED, event_kind::READ) => format!("{space} unclaimed read {:#x} +{}", event.address, event.length),
        (kind::UNASKED, event_kind::WRITE) => {
            format!("{space} unclaimed write {:#x} +{} <- {:#x}", event.address, event.length, event.data)
        }
        (kind::UNASKED, _) => "refused exit".to_owned(),
        (kind::COMMAND, _) => {
            let verb = if answer.kind == answer_kind::GET { "get" } else { "set" };
            let file =
                File::from_number(answer.file).map_or_else(|| answer.file.to_string(), |file| format!("{file:?}"));
            format!("command {verb} {file} -> status {}", event.status)
        }
        (kind::CONTROL, _) => {
            let number = answer.file;
            let known = u16::try_from(number).ok().and_then(Kind::from_number);
            let name = known.map_or_else(|| number.to_string(), |kind| format!("{kind:?}"));
            format!("request {name} {} -> status {}", hex(group.data(area::REQUEST_BODY)), event.status)
        }
        (kind::MEMORY, _) => {
            let bytes = group.data(area::MEMORY);
            format!("memory of slot {}, {:#x} +{}: {}", answer.file, event.address, bytes.len(), hex(bytes))
        }
        (number, _) => format!("record of kind {number}"),
    }
}

/// Up to 32 bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    let mut text: String = bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > 32 {
        text.push_str(&format!("... ({} bytes)", bytes.len()));
    }
    text
}
