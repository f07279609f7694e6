//! The rows, and what each must not exceed.

use outboard_bench::guest::Access;

/// What the plugin does with registers at each exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    /// Nothing.
    Untouched,
    /// They ride along and are read.
    Read,
    /// They ride along, are read, and are set again with the answer.
    RideAlong,
    /// As `RideAlong`, but the plugin never said that it wants them: the first ones are commands, until the SDK has learned.
    Unannounced,
}

/// One access, served by the plugin.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// In tables, filters and the plugin's command line.
    pub name: &'static str,
    /// What the guest does.
    pub access: Access,
    /// The range is one of posted writes.
    pub posted: bool,
    /// What the plugin does.
    pub registers: Registers,
    /// The kind of exit in the VMM's report.
    pub kind: &'static str,
}

const fn plain(name: &'static str, access: Access, kind: &'static str) -> Row {
    Row { name, access, posted: false, registers: Registers::Untouched, kind }
}

/// All of them. The first is what those with registers are compared with.
pub const ROWS: [Row; 8] = [
    plain("port out", Access::port(true, 1), "port write"),
    plain("port in", Access::port(false, 1), "port read"),
    plain("mmio write", Access::mmio(true, 1), "mmio write"),
    plain("mmio read", Access::mmio(false, 1), "mmio read"),
    Row { posted: true, ..plain("port out, posted", Access::port(true, 1), "port posted write") },
    Row { registers: Registers::Read, ..plain("port out, registers read", Access::port(true, 1), "port write") },
    Row { registers: Registers::RideAlong, ..plain("port out, registers along", Access::port(true, 1), "port write") },
    Row {
        registers: Registers::Unannounced,
        ..plain("port out, registers unannounced", Access::port(true, 1), "port write")
    },
];

/// Most that a row may add at p50, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// 1.2 round trips of a cache line and 100 ns.
    Exchange,
    /// Half a round trip and 60 ns.
    Posted,
    /// 300 ns more than the first row, measured in the same turns.
    Registers,
    /// What two futexes add, measured in the same turns.
    Futexes,
    /// None was set.
    None,
}

impl Row {
    /// The bound of the row with both sides apart or together.
    pub fn bound(&self, apart: bool, together: bool) -> Bound {
        match (self.registers, self.posted) {
            _ if together && self.registers == Registers::Untouched => Bound::Futexes,
            (Registers::Untouched, false) if apart => Bound::Exchange,
            (Registers::Untouched, true) if apart => Bound::Posted,
            (Registers::Read | Registers::RideAlong, _) if apart => Bound::Registers,
            _ => Bound::None,
        }
    }
}

impl Bound {
    /// The limit in nanoseconds: by the round trip of a cache line, and by what the other one added that the row is
    /// compared with. `None` without what it is made of.
    pub fn limit(self, line: Option<f64>, other: Option<f64>) -> Option<f64> {
        match self {
            Bound::Exchange => line.map(|line| 1.2 * line + 100.0),
            Bound::Posted => line.map(|line| line / 2.0 + 60.0),
            Bound::Registers => other.map(|first| first + 300.0),
            Bound::Futexes => other,
            Bound::None => None,
        }
    }

    /// How it is made, for the table.
    pub fn formula(self) -> &'static str {
        match self {
            Bound::Exchange => "1.2 t + 100",
            Bound::Posted => "t/2 + 60",
            Bound::Registers => "port out + 300",
            Bound::Futexes => "two futexes",
            Bound::None => "",
        }
    }
}
