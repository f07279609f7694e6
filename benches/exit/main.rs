//! What an access of the guest costs that another process serves, beside the bare `KVM_RUN` loop on the same guest.
//!
//! `cargo bench --bench exit [-- --quick] [--filter TEXT] [--spin POLICY] [--run OPTION]`; JSON lines are appended to the file that
//! `OUTBOARD_BENCH_JSON` names.
//!
//! The unit is the **period** from one exit to the next, by the TSC that the VMM reads right behind `KVM_RUN`: guest,
//! exit, service and entry. Floor and plugin take turns of about ten milliseconds, with the round trip t of a cache line
//! between the two CPUs measured in each turn. **Added** is the median over the turns of what the plugin's p50 is above
//! the floors around it. The same row as the VMM's own report tells it (time outside of `KVM_RUN`) is the second witness.

#[path = "../common/mod.rs"]
mod common;
mod floor;
mod plugin;
mod row;
mod subject;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use common::args::Args;
use common::echo::{self, Echo, Futexes, Pipes};
use common::place::Place;
use common::report::Report;
use common::vmm::PLUGIN;
use floor::{Bare, Filters};
use outboard::jail::own::OwnFilters;
use outboard_bench::guest::Access;
use outboard_wire::clock;
use plugin::Served;
use row::{Bound, ROWS, Row};
use subject::{Amount, Subject, measure};
use table::{Line, Table};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((first, rest)) if first == PLUGIN => match plugin::main(rest) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the plugin's half: {error}");
                return ExitCode::FAILURE;
            }
        },
        Some((first, rest)) if first == echo::ECHO => echo::main(rest),
        _ => bench(&Args::parse()),
    }
    ExitCode::SUCCESS
}

fn bench(args: &Args) {
    let report = Report::with_facts("exit", clock::measure_khz(Duration::from_millis(50)));
    for place in Place::all() {
        let mut table = Table::new(&report, &place, args);
        references(args, &place, &mut table);
        for row in &ROWS {
            served(args, &place, row, &mut table);
        }
    }
}

/// What is replaced: pipes and futexes. And what `KVM_RUN` itself takes for registers in the run page, and with filters on
/// its way.
fn references(args: &Args, place: &Place, table: &mut Table<'_>) {
    let amount = Amount::new(args);
    let bare = || Bare::new(Access::port(true, 1), amount.chunk, &place.vmm);
    let echo = |echo: Box<dyn Echo>| bare().with_echo(echo);
    let mut reference = |name: &str, make: &dyn Fn() -> Bare| {
        if args.wants(&table.full_name(name)) {
            let measured = measure(&mut make(), None, &mut bare(), place, amount);
            table.line(&Line { name, measured: &measured, bound: Bound::None, own: None });
        }
    };
    reference("two pipes", &|| echo(Box::new(Pipes::new(&place.plugin))));
    reference("two futexes", &|| echo(Box::new(Futexes::new(&place.plugin))));
    reference("bare, registers in the run page", &|| bare().with_registers());
    reference("bare, under the VMM's filters", &|| bare().with_filters(Filters::Vmm(OwnFilters::new())));
    reference("bare, under a filter of one instruction", &|| bare().with_filters(Filters::Shortest));
}

/// A row that the plugin serves.
fn served(args: &Args, place: &Place, row: &Row, table: &mut Table<'_>) {
    if !args.wants(&table.full_name(row.name)) {
        return;
    }
    let amount = Amount::new(args);
    let bare = || Bare::new(row.access, amount.chunk, &place.vmm);
    let start = |row| Served::start(row, amount.chunk, place, args);
    let mut served = start(row);
    let bound = row.bound(place.is_apart(), place.is_together());
    let mut other: Option<Box<dyn Subject>> = match bound {
        Bound::Registers => Some(Box::new(start(&ROWS[0]))),
        Bound::Futexes => Some(Box::new(bare().with_echo(Box::new(Futexes::new(&place.plugin))))),
        _ => None,
    };
    let measured = measure(&mut served, other.as_deref_mut(), &mut bare(), place, amount);
    let vmm = served.finish();
    let own = vmm["exits"].as_array().and_then(|exits| exits.iter().find(|exit| exit["exit"] == row.kind)).cloned();
    let own = own.map(|exit| (exit, vmm));
    table.line(&Line { name: row.name, measured: &measured, bound, own });
}
