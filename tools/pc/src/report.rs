//! The end report: what the guest accessed, and how often.

use std::fmt::Write as _;

use outboard_plugin::Space;

use crate::bus::Count;

/// The table, one line for each device or port.
pub fn table(counts: &[Count], seconds: f64) -> String {
    let mut out = String::new();
    let total: u64 = counts.iter().map(|count| count.reads + count.writes).sum();
    let _ = writeln!(out, "{:<28}{:<20}{:>10}{:>10}{:>9}", "accesses of the guest", "device", "reads", "writes", "%");
    for count in counts {
        let Count { space, range, name, posted, reads, writes } = count;
        let end = range.end - 1;
        let range = match space {
            Space::Port if range.start == end => format!("port {end:#06x}"),
            Space::Port => format!("port {:#06x}-{end:#06x}", range.start),
            Space::Mmio => format!("memory {:#010x}-{end:#010x}", range.start),
        };
        let posted = if *posted { "*" } else { "" };
        let share = (reads + writes) as f64 * 100.0 / total as f64;
        let _ = writeln!(out, "{range:<28}{name:<20}{reads:>10}{:>10}{share:>9.1}", format!("{writes}{posted}"));
    }
    let _ = writeln!(out, "{total} accesses in {seconds:.3} s; for writes with * the guest did not wait");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_has_a_line() {
        let uart = Count { space: Space::Port, range: 0x3f8..0x3f9, name: "COM1", posted: true, reads: 1, writes: 8 };
        let disk =
            Count { space: Space::Mmio, range: 0x1000..0x1200, name: "disk", posted: false, reads: 1, writes: 0 };
        let table = table(&[uart, disk], 1.5);
        assert!(
            table.contains("port 0x03f8                 COM1                         1        8*     90.0\n"),
            "{table}"
        );
        assert!(table.contains("memory 0x00001000-0x000011ff"), "{table}");
        assert!(table.contains("10 accesses in 1.500 s"), "{table}");
    }
}
