//! Which exits of a trace are shown. Pure.

use clap::{Args, ValueEnum};

use outboard_wire::clock;
use outboard_wire::line::{FLAG_MMIO, event_kind};
use outboard_wire::trace::read::{Group, Trace};
use outboard_wire::trace::{CONTROL, kind};

/// Conditions, all of which have to hold.
#[derive(Args, Clone, Debug, Default)]
pub struct Filter {
    /// Only accesses of this address, or of addresses from the first to the last: 0x3f8 or 0x3f8-0x3ff.
    #[arg(short, long, value_name = "A[-B]", value_parser = addresses)]
    address: Option<(u64, u64)>,

    /// Only this kind; repeatable.
    #[arg(short, long, value_name = "KIND")]
    kind: Vec<Kind>,

    /// Only this vCPU.
    #[arg(long, value_name = "N")]
    vcpu: Option<u16>,

    /// Only what took longer than so many nanoseconds outside of the guest.
    #[arg(short, long, value_name = "NS")]
    longer: Option<u64>,
}

/// Kinds to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Reads that the plugin served.
    Read,
    /// Writes that it served.
    Write,
    /// Port accesses.
    Port,
    /// Memory accesses.
    Mmio,
    /// Posted writes.
    Posted,
    /// Commands for registers.
    Command,
    /// Control requests.
    Request,
    /// What the guest wrote to its memory, in traces of run --trace-memory.
    Memory,
    /// Exits that the plugin was not asked about.
    Unasked,
    /// Events that are no accesses.
    Other,
}

/// Reads one address or two.
fn addresses(word: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| {
        let hex = text.strip_prefix("0x");
        hex.map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16))
            .map_err(|_| format!("`{text}` is no address"))
    };
    match word.split_once('-') {
        Some((first, last)) => Ok((number(first)?, number(last)?)),
        None => number(word).map(|address| (address, address)),
    }
}

impl Filter {
    /// Whether a group is shown.
    pub fn takes(&self, trace: &Trace, group: &Group) -> bool {
        let head = &group.head;
        let address = head.event.address;
        let in_range = |(first, last): (u64, u64)| is_access(group) && (first..=last).contains(&address);
        self.address.is_none_or(in_range)
            && (self.kind.is_empty() || self.kind.iter().any(|kind| kind.is(group)))
            && self.vcpu.is_none_or(|vcpu| head.vcpu == vcpu)
            && self
                .longer
                .is_none_or(|ns| head.vcpu != CONTROL && clock::to_ns(group.whole(), trace.header.tsc_khz) > ns)
    }
}

/// Whether a group is an access of the guest.
pub fn is_access(group: &Group) -> bool {
    matches!(group.head.kind, kind::EXCHANGE | kind::POSTED | kind::UNASKED)
        && matches!(group.head.event.kind, event_kind::READ | event_kind::WRITE)
}

impl Kind {
    fn is(self, group: &Group) -> bool {
        let event = &group.head.event;
        let exchange = group.head.kind == kind::EXCHANGE;
        match self {
            Kind::Read => exchange && event.kind == event_kind::READ,
            Kind::Write => exchange && event.kind == event_kind::WRITE,
            Kind::Port => is_access(group) && event.flags & FLAG_MMIO == 0,
            Kind::Mmio => is_access(group) && event.flags & FLAG_MMIO != 0,
            Kind::Posted => group.head.kind == kind::POSTED,
            Kind::Command => group.head.kind == kind::COMMAND,
            Kind::Request => group.head.kind == kind::CONTROL,
            Kind::Memory => group.head.kind == kind::MEMORY,
            Kind::Unasked => group.head.kind == kind::UNASKED,
            Kind::Other => exchange && !is_access(group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_one_or_two() {
        assert_eq!(addresses("0x3f8"), Ok((0x3f8, 0x3f8)));
        assert_eq!(addresses("16-0x1f"), Ok((16, 0x1f)));
        assert!(addresses("a").unwrap_err().contains("`a`"));
    }
}
