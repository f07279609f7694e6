//! The plugin's half of a row: it serves the access and notes when the guest left for it.

use std::io::Write;

use outboard_plugin::kvm_bindings::kvm_regs;
use outboard_plugin::{Connection, Error, Event, IoEvent, Space, Stopped, Vcpu};

use super::guest::{self, BARRIER, CODE, MEMORY, NOWHERE, PORT};
use super::rows::{By, ROWS, Row};

/// Accesses between two writes to the barrier.
pub const CHUNK: u16 = 1000;

/// Runs as the plugin. `words` are the row's name, the number of figures wanted, and a CPU or `free`. The figures, TSC ticks
/// from exit to exit, go to standard output: their number, then each, 64 bits, lowest byte first. Returns an exit status.
pub fn main(words: &[String]) -> u8 {
    match serve_row(words) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("outboard: the plugin of the bench: {error}");
            1
        }
    }
}

fn serve_row(words: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [row, wanted, cpu] = words else { return Err("it takes a row, a number and a CPU".into()) };
    let row = ROWS.iter().find(|known| known.name == row).ok_or("there is no such row")?;
    let wanted: usize = wanted.parse()?;
    if cpu != "free" {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu.parse()?);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    std::thread::Builder::new().spawn(end_with_the_bench)?;
    let mut vm = outboard_plugin::connect()?;
    let memory = vm.add_memory(0, MEMORY)?;
    memory.write(CODE.into(), &guest::code(row.access, CHUNK))?;
    // An io event lives as long as its eventfd.
    let _kept = reserve(&mut vm, row)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let figures = serve(&mut vcpu, row, wanted)?;
    let mut bytes = (figures.len() as u64).to_le_bytes().to_vec();
    bytes.extend(figures.iter().flat_map(|figure| figure.to_le_bytes()));
    let mut out = std::io::stdout().lock();
    out.write_all(&bytes)?;
    Ok(out.flush()?)
}

/// Ends this process, and with it the VM, when the bench that holds the other end of standard input is gone.
fn end_with_the_bench() {
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    std::process::exit(1);
}

fn reserve(vm: &mut Connection, row: &Row) -> Result<Option<IoEvent>, Error> {
    vm.reserve(Space::Port, u64::from(BARRIER)..u64::from(BARRIER) + 1)?;
    let port = u64::from(PORT)..u64::from(PORT) + 4;
    match row.by {
        By::Kernel => return Ok(Some(vm.create_io_event(Space::Port, PORT.into(), row.access.size.into(), None)?)),
        By::Posted => vm.reserve_posted(Space::Port, port)?,
        _ if row.access.is_mmio => vm.reserve(Space::Mmio, NOWHERE..NOWHERE + 0x1000)?,
        _ => vm.reserve(Space::Port, port)?,
    }
    Ok(None)
}

/// Serves until there are enough figures. A period over a barrier is none.
fn serve(vcpu: &mut Vcpu, row: &Row, wanted: usize) -> Result<Vec<u64>, Error> {
    let mut figures = Vec::with_capacity(wanted + 1);
    let mut last = None;
    let mut begun = None;
    while figures.len() < wanted {
        // What is noted is noted after the answer, when the guest runs on already.
        let tsc = match vcpu.wait()? {
            Event::Init(init) => {
                start(init)?;
                continue;
            }
            Event::Write(write) if write.address() == u64::from(BARRIER) => {
                let tsc = write.exit_tsc();
                drop(write);
                // KVM tells nobody of a write that it serves; the time of a chunk is divided by its length.
                if let (By::Kernel, Some(begun)) = (row.by, begun.replace(tsc)) {
                    figures.push((tsc - begun) / u64::from(CHUNK));
                }
                last = None;
                continue;
            }
            Event::Write(write) => write.exit_tsc(),
            Event::Read(read) => {
                let tsc = read.exit_tsc();
                read.answer_u64(0);
                tsc
            }
            Event::Posted(write) => write.tsc,
            Event::Shutdown => break,
            _ => continue,
        };
        if let Some(last) = last.replace(tsc) {
            figures.push(tsc.wrapping_sub(last));
        }
    }
    Ok(figures)
}

fn start(mut init: Stopped<'_>) -> Result<(), Error> {
    let mut sregs = init.sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    (sregs.ds.base, sregs.ds.selector) = (NOWHERE, (NOWHERE / 16) as u16);
    init.set_sregs(&sregs)?;
    init.set_regs(&kvm_regs { rip: CODE.into(), rflags: 2, rdx: PORT.into(), ..kvm_regs::default() })
}
