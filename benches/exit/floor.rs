//! The floor: the same guest entered again at once by a bare `KVM_RUN` loop in this process.
//!
//! With an [`Echo`] it becomes a reference: each exit is told to another process over pipes or futexes first.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use kvm_bindings::{KVM_SYNC_X86_REGS, kvm_regs};
use memmap2::{MmapMut, MmapRaw};
use outboard::jail::bpf::Assembler;
use outboard::jail::call::Action;
use outboard::jail::own::OwnFilters;
use outboard::kvm::{Exit, System, Vcpu};
use outboard::sys::Errno;
use outboard::sys::seccomp::{self, Scope};
use outboard_wire::clock;

use crate::common::echo::Echo;
use crate::common::pin;
use crate::subject::Subject;
use outboard_bench::guest::{self, BARRIER, CODE, MEMORY, NOWHERE, PORT};

/// What the kernel asks before each `KVM_RUN`.
#[derive(Clone)]
pub enum Filters {
    /// The filters of a VMM's vCPU thread.
    Vmm(OwnFilters),
    /// The shortest that there is: one instruction, which allows. It takes what any filter takes.
    Shortest,
}

impl Filters {
    /// Loads them for this thread, which never gets rid of them.
    fn load(&self) -> Result<(), Errno> {
        seccomp::set_no_new_privs()?;
        match self {
            Filters::Vmm(own) => {
                own.confine_main()?;
                seccomp::load(&own.vcpu(), Scope::Thread, false)
            }
            Filters::Shortest => {
                let mut program = Assembler::new();
                program.answer(Action::Allow);
                seccomp::load(&program.assemble().expect("one instruction"), Scope::Thread, false)
            }
        }
    }
}

/// A vCPU at the first access of a chunk.
pub struct Bare {
    vcpu: Vcpu,
    chunk: usize,
    cpus: Vec<usize>,
    echo: Option<Box<dyn Echo>>,
    registers: bool,
    filters: Option<Filters>,
}

impl Bare {
    /// A guest of its own, run on these CPUs.
    pub fn new(access: guest::Access, chunk: u16, cpus: &[usize]) -> Bare {
        let vcpu = vcpu(&guest::code(access, chunk));
        Bare { vcpu, chunk: chunk.into(), cpus: cpus.to_vec(), echo: None, registers: false, filters: None }
    }

    /// Each exit waits for an answer from elsewhere.
    pub fn with_echo(self, echo: Box<dyn Echo>) -> Bare {
        Bare { echo: Some(echo), ..self }
    }

    /// Each exit and each entry takes the general registers along in the run page.
    pub fn with_registers(mut self) -> Bare {
        self.vcpu.page_mut().set_valid_regs(KVM_SYNC_X86_REGS.into());
        Bare { registers: true, ..self }
    }

    /// The kernel looks at each `KVM_RUN` with filters.
    pub fn with_filters(self, filters: Filters) -> Bare {
        Bare { filters: Some(filters), ..self }
    }

    /// Runs on a thread of its own, because no thread gets rid of its filters.
    fn run_filtered(&mut self, filters: &Filters) -> Vec<u64> {
        let run = || {
            // A table of descriptors that nobody shares, as the thread of the floor has it.
            self.vcpu.keep_only(&[]).and_then(|()| filters.load()).expect("filters of our own");
            self.run()
        };
        thread::scope(|scope| scope.spawn(run).join()).expect("a thread that runs the guest")
    }

    fn run(&mut self) -> Vec<u64> {
        let mut left = Vec::with_capacity(self.chunk);
        loop {
            self.vcpu.run().expect("nothing interrupts this thread");
            let (tsc, _) = clock::now_and_cpu();
            match self.vcpu.page().exit() {
                Exit::Io(io) if io.port == BARRIER => return left,
                Exit::Io(_) | Exit::Mmio(_) => {}
                other => panic!("the guest left with {}", other.name()),
            }
            if let Some(echo) = &mut self.echo {
                echo.exchange();
            }
            if self.registers {
                // Not changed, but KVM cannot know.
                self.vcpu.page_mut().mark_dirty_regs(KVM_SYNC_X86_REGS.into());
            }
            left.push(tsc);
        }
    }
}

impl Subject for Bare {
    fn chunk(&mut self) -> Vec<u64> {
        let before = pin::allowed();
        pin::pin(&self.cpus);
        let left = match self.filters.clone() {
            Some(filters) => self.run_filtered(&filters),
            None => self.run(),
        };
        pin::pin(&before);
        left
    }
}

fn vcpu(code: &[u8]) -> Vcpu {
    let mut memory = MmapMut::map_anon(MEMORY).expect("memory for the guest");
    memory[usize::from(CODE)..][..code.len()].copy_from_slice(code);
    let memory: Arc<MmapRaw> = Arc::new(memory.into());
    let made = System::open(Path::new("/dev/kvm")).map_err(|error| error.to_string()).and_then(|system| {
        let make = || {
            let vm = system.create_vm()?;
            vm.set_tss_addr(0xfffb_d000)?;
            vm.create_irqchip()?;
            vm.set_memory_slot(0, 0, 0, memory, 0, MEMORY as u64)?;
            let vcpu = vm.create_vcpu(0)?;
            let mut sregs = vcpu.sregs()?;
            (sregs.cs.base, sregs.cs.selector) = (0, 0);
            (sregs.ds.base, sregs.ds.selector) = (NOWHERE, (NOWHERE / 16) as u16);
            vcpu.set_sregs(&sregs)?;
            vcpu.set_regs(&kvm_regs { rip: CODE.into(), rflags: 2, rdx: PORT.into(), ..kvm_regs::default() })?;
            Ok(vcpu)
        };
        make().map_err(|error: outboard::kvm::KvmError| error.to_string())
    });
    made.unwrap_or_else(|error| {
        eprintln!("no floor can be measured: {error}");
        std::process::exit(1);
    })
}
