//! The plugin's half: serves the accesses of a row and notes the TSC of each exit.

use std::hint::black_box;
use std::num::NonZeroU16;

use outboard_plugin::kvm_bindings::kvm_regs;
use outboard_plugin::{Connection, Error, Event, Files, Space, Stopped, Vcpu, Write};

use crate::common::args::Args;
use crate::common::vmm::{JSON, Vmm, send, wait_go};
use crate::common::{pin, place};
use crate::row::{ROWS, Registers, Row};
use crate::subject::Subject;
use outboard_bench::guest::{self, BARRIER, CODE, MEMORY, NOWHERE, PORT};

/// The VMM and the plugin as the bench sees them.
pub struct Served {
    vmm: Vmm,
    chunk: u16,
}

impl Served {
    /// Starts a row: the vCPU thread and the plugin on these CPUs.
    pub fn start(row: &Row, chunk: u16, place: &place::Place, args: &Args) -> Served {
        let spin = &args.spin;
        let own = [JSON.to_owned(), format!("--cpu-affinity={}", place::word(&place.vmm)), format!("--spin={spin}")];
        let options = [&own, &args.run[..]].concat();
        let vmm = Vmm::start(&options, &[row.name, &chunk.to_string(), &place::word(&place.plugin)]);
        Served { vmm, chunk }
    }

    /// Ends it; returns the VMM's report.
    pub fn finish(self) -> serde_json::Value {
        self.vmm.finish()
    }
}

impl Subject for Served {
    fn chunk(&mut self) -> Vec<u64> {
        self.vmm.go();
        self.vmm.figures(self.chunk.into())
    }
}

/// Runs as the plugin. `words` are the row, the length of a chunk and the CPUs.
pub fn main(words: &[String]) -> Result<(), Error> {
    let [row, chunk, cpus] = words else { panic!("the plugin takes a row, a length and CPUs") };
    let row = ROWS.into_iter().find(|known| known.name == row).expect("a row of this bench");
    let chunk: NonZeroU16 = chunk.parse().expect("the length of a chunk");
    let mut vm = outboard_plugin::connect()?;
    pin::pin(&place::cpus(cpus));
    let memory = vm.add_memory(0, MEMORY)?;
    memory.write(CODE.into(), &guest::code(row.access, chunk.get()))?;
    reserve(&mut vm, &row)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    serve(&mut vcpu, &row, chunk.get().into())
}

fn reserve(vm: &mut Connection, row: &Row) -> Result<(), Error> {
    vm.reserve(Space::Port, u64::from(BARRIER)..u64::from(BARRIER) + 1)?;
    match (row.access.is_mmio, row.posted) {
        (true, _) => vm.reserve(Space::Mmio, NOWHERE..NOWHERE + 0x1000),
        (false, false) => vm.reserve(Space::Port, u64::from(PORT)..u64::from(PORT) + 1),
        (false, true) => vm.reserve_posted(Space::Port, u64::from(PORT)..u64::from(PORT) + 1),
    }
}

fn serve(vcpu: &mut Vcpu, row: &Row, chunk: usize) -> Result<(), Error> {
    let mut left = Vec::with_capacity(chunk);
    loop {
        // What is noted is noted after the answer, when the guest runs on already.
        let tsc = match vcpu.wait()? {
            Event::Init(init) => {
                if !wait_go() {
                    return Ok(());
                }
                start(init, row)?;
                continue;
            }
            Event::Write(write) if write.address() == u64::from(BARRIER) => {
                send(&left);
                left.clear();
                if !wait_go() {
                    return Ok(());
                }
                continue;
            }
            Event::Write(write) => {
                let tsc = write.exit_tsc();
                answer(write, row.registers)?;
                tsc
            }
            Event::Read(read) => {
                let tsc = read.exit_tsc();
                read.answer_u64(0);
                tsc
            }
            Event::Posted(write) => write.tsc,
            Event::Shutdown => return Ok(()),
            _ => continue,
        };
        left.push(tsc);
    }
}

fn start(mut init: Stopped<'_>, row: &Row) -> Result<(), Error> {
    let mut sregs = init.sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    (sregs.ds.base, sregs.ds.selector) = (NOWHERE, (NOWHERE / 16) as u16);
    init.set_sregs(&sregs)?;
    init.set_regs(&kvm_regs { rip: CODE.into(), rflags: 2, rdx: PORT.into(), ..kvm_regs::default() })?;
    if matches!(row.registers, Registers::Read | Registers::RideAlong) {
        init.want_registers(Files::REGS);
    }
    Ok(())
}

fn answer(mut write: Write<'_>, registers: Registers) -> Result<(), Error> {
    match registers {
        Registers::Untouched => Ok(()),
        Registers::Read => {
            black_box(write.regs()?);
            Ok(())
        }
        Registers::RideAlong | Registers::Unannounced => {
            let regs = write.regs()?;
            write.set_regs(&regs)
        }
    }
}
