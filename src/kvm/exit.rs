//! Why KVM returned to user space: the exits of x86-64 as one `Copy` value.
//!
//! Numbers and layouts are those of `struct kvm_run` in linux/kvm.h; the kernel's
//! Documentation/virt/kvm/api.rst says what each means and what the next run does with the answer.

use kvm_bindings::*;

/// Words of 64 bits in the union of `kvm_run` that details an exit.
pub const PAYLOAD_WORDS: usize = size_of::<kvm_run__bindgen_ty_1>() / size_of::<u64>();

/// The union of `kvm_run` that details an exit, as raw words.
pub type Payload = [u64; PAYLOAD_WORDS];

/// `KVM_EXIT_TDX` of Linux 6.16, which kvm-bindings does not have yet.
pub const KVM_EXIT_TDX: u32 = 40;

/// Which way the data of an access goes, as seen by the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest reads; the device answers.
    In,
    /// The guest writes.
    Out,
}

/// An access to a port, with its data in the run page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortIo {
    /// Whether the guest reads or writes.
    pub direction: Direction,
    /// Bytes of one element: 1, 2 or 4.
    pub size: u8,
    /// The port.
    pub port: u16,
    /// How many elements, all from or to the same port. More than 1 for string instructions only.
    pub count: u32,
    /// Where the data is, in bytes from the start of the run page.
    pub data_offset: u64,
}

/// An access to a guest physical address without memory. KVM splits longer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mmio {
    /// The guest physical address.
    pub phys_addr: u64,
    /// What the guest writes, in the first `len` bytes.
    pub data: [u8; 8],
    /// Bytes accessed, 1 to 8.
    pub len: u32,
    /// Whether the guest writes.
    pub is_write: bool,
}

/// An error of KVM itself, or an instruction that its emulator does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InternalError {
    /// `KVM_INTERNAL_ERROR_*`.
    pub suberror: u32,
    /// How many words of `data` mean something; at most 16 here, whatever the kernel said.
    pub ndata: u32,
    /// What they mean depends on `suberror`.
    pub data: [u64; 16],
}

impl InternalError {
    /// Whether KVM could not emulate an instruction.
    pub fn is_emulation_failure(&self) -> bool {
        self.suberror == KVM_INTERNAL_ERROR_EMULATION
    }

    /// The bytes at the instruction that KVM could not emulate, if it said: up to 15, and not necessarily
    /// one whole instruction.
    pub fn instruction(&self) -> Option<&[u8]> {
        // data[0] holds the flags, data[1] and [2] the size in one byte and 15 bytes of code.
        let said = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
        if !self.is_emulation_failure() || self.ndata < 3 || self.data[0] & said == 0 {
            return None;
        }
        let (size, bytes) = bytemuck::cast_slice::<u64, u8>(&self.data[1..3]).split_first()?;
        Some(&bytes[..bytes.len().min((*size).into())])
    }
}

/// An exit of the Hyper-V interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HypervExit {
    /// The guest has changed the synthetic interrupt controller (`KVM_EXIT_HYPERV_SYNIC`).
    Synic {
        /// The MSR written.
        msr: u32,
        /// `SCONTROL`.
        control: u64,
        /// `SIEFP`, where event flags are.
        evt_page: u64,
        /// `SIMP`, where messages are.
        msg_page: u64,
    },
    /// A hypercall (`KVM_EXIT_HYPERV_HCALL`).
    Hcall {
        /// The hypercall's input value.
        input: u64,
        /// Its two parameters.
        params: [u64; 2],
    },
    /// The synthetic debugger (`KVM_EXIT_HYPERV_SYNDBG`).
    Syndbg {
        /// The MSR accessed.
        msr: u32,
        /// Its control register.
        control: u64,
        /// Its status register.
        status: u64,
        /// The page to send from.
        send_page: u64,
        /// The page to receive into.
        recv_page: u64,
        /// The page that says what is pending.
        pending_page: u64,
    },
    /// A type from a later kernel.
    Other(u32),
}

/// Why [`Vcpu::run`](super::Vcpu::run) has returned. Each variant is named after its `KVM_EXIT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "boxing would allocate on the path of every exit")]
pub enum Exit {
    /// The hardware gave a reason that KVM does not know.
    Unknown {
        /// The hardware's number.
        hardware_reason: u64,
    },
    /// Not used by KVM on x86 today.
    Exception {
        /// The vector.
        exception: u32,
        /// The error code pushed.
        error_code: u32,
    },
    /// The guest accesses a port.
    Io(PortIo),
    /// A hypercall that was handed to user space.
    Hypercall {
        /// Which.
        nr: u64,
        /// Its arguments.
        args: [u64; 6],
        /// `KVM_EXIT_HYPERCALL_*`; older kernels say here only whether the guest was in 64-bit mode.
        flags: u64,
    },
    /// A breakpoint or single step, see `KVM_SET_GUEST_DEBUG`.
    Debug {
        /// The vector: 1 or 3.
        exception: u32,
        /// The address, linear.
        pc: u64,
        /// DR6.
        dr6: u64,
        /// DR7.
        dr7: u64,
    },
    /// The guest halted; only without interrupt controllers in the kernel.
    Hlt,
    /// The guest accesses physical memory that is not there.
    Mmio(Mmio),
    /// An interrupt can be injected now, as was asked for.
    IrqWindowOpen,
    /// A triple fault.
    Shutdown,
    /// The hardware would not enter the guest.
    FailEntry {
        /// The hardware's number.
        hardware_reason: u64,
        /// The CPU it happened on.
        cpu: u32,
    },
    /// A signal; [`Vcpu::run`](super::Vcpu::run) fails with `EINTR` at the same time.
    Intr,
    /// The guest lowered CR8; only without interrupt controllers in the kernel.
    SetTpr,
    /// The guest accessed the task priority, as was asked for.
    TprAccess {
        /// The instruction's address.
        rip: u64,
        /// Whether it writes.
        is_write: bool,
    },
    /// Not used by KVM on x86 today.
    Nmi,
    /// KVM gave up on the guest.
    InternalError(InternalError),
    /// Not used by KVM on x86 today.
    Watchdog,
    /// The VM as a whole is to do something, such as to shut down.
    SystemEvent {
        /// `KVM_SYSTEM_EVENT_*`.
        kind: u32,
        /// How many words of `data` mean something; at most 16.
        ndata: u32,
        /// What they mean depends on `kind`.
        data: [u64; 16],
    },
    /// The guest ended an interrupt that the IOAPIC in user space delivered.
    IoapicEoi {
        /// Its vector.
        vector: u8,
    },
    /// The Hyper-V interface.
    Hyperv(HypervExit),
    /// The guest reads an MSR that was asked to be seen.
    X86Rdmsr {
        /// `KVM_MSR_EXIT_REASON_*`.
        reason: u32,
        /// The MSR.
        index: u32,
    },
    /// The guest writes an MSR that was asked to be seen.
    X86Wrmsr {
        /// `KVM_MSR_EXIT_REASON_*`.
        reason: u32,
        /// The MSR.
        index: u32,
        /// The value.
        data: u64,
    },
    /// The ring of dirty pages wants to be collected.
    DirtyRingFull,
    /// An SEV-ES guest waits for the start of a vCPU.
    ApResetHold,
    /// The guest locked the bus, as was asked to be told.
    X86BusLock,
    /// A Xen hypercall.
    Xen {
        /// `KVM_EXIT_XEN_HCALL`; the rest is for that.
        kind: u32,
        /// Whether the guest was in 64-bit mode.
        longmode: u32,
        /// Its privilege level.
        cpl: u32,
        /// Which hypercall.
        input: u64,
        /// Its parameters.
        params: [u64; 6],
    },
    /// The guest did not let an interrupt through for too long.
    Notify {
        /// `KVM_NOTIFY_*`.
        flags: u32,
    },
    /// Guest memory could not be mapped; [`Vcpu::run`](super::Vcpu::run) fails with `EFAULT` or
    /// `EHWPOISON` at the same time.
    MemoryFault {
        /// `KVM_MEMORY_EXIT_FLAG_*`.
        flags: u64,
        /// The guest physical address.
        gpa: u64,
        /// Bytes from there on.
        size: u64,
    },
    /// A call of a TDX guest.
    Tdx {
        /// None are defined.
        flags: u64,
        /// Which call.
        nr: u64,
    },
    /// A number from a later kernel, or from another architecture.
    Other(u32),
}

/// The reasons that are decoded, and the name of each: what linux/kvm.h defines for x86.
pub const REASONS: &[(u32, &str)] = &[
    (KVM_EXIT_UNKNOWN, "KVM_EXIT_UNKNOWN"),
    (KVM_EXIT_EXCEPTION, "KVM_EXIT_EXCEPTION"),
    (KVM_EXIT_IO, "KVM_EXIT_IO"),
    (KVM_EXIT_HYPERCALL, "KVM_EXIT_HYPERCALL"),
    (KVM_EXIT_DEBUG, "KVM_EXIT_DEBUG"),
    (KVM_EXIT_HLT, "KVM_EXIT_HLT"),
    (KVM_EXIT_MMIO, "KVM_EXIT_MMIO"),
    (KVM_EXIT_IRQ_WINDOW_OPEN, "KVM_EXIT_IRQ_WINDOW_OPEN"),
    (KVM_EXIT_SHUTDOWN, "KVM_EXIT_SHUTDOWN"),
    (KVM_EXIT_FAIL_ENTRY, "KVM_EXIT_FAIL_ENTRY"),
    (KVM_EXIT_INTR, "KVM_EXIT_INTR"),
    (KVM_EXIT_SET_TPR, "KVM_EXIT_SET_TPR"),
    (KVM_EXIT_TPR_ACCESS, "KVM_EXIT_TPR_ACCESS"),
    (KVM_EXIT_NMI, "KVM_EXIT_NMI"),
    (KVM_EXIT_INTERNAL_ERROR, "KVM_EXIT_INTERNAL_ERROR"),
    (KVM_EXIT_WATCHDOG, "KVM_EXIT_WATCHDOG"),
    (KVM_EXIT_SYSTEM_EVENT, "KVM_EXIT_SYSTEM_EVENT"),
    (KVM_EXIT_IOAPIC_EOI, "KVM_EXIT_IOAPIC_EOI"),
    (KVM_EXIT_HYPERV, "KVM_EXIT_HYPERV"),
    (KVM_EXIT_X86_RDMSR, "KVM_EXIT_X86_RDMSR"),
    (KVM_EXIT_X86_WRMSR, "KVM_EXIT_X86_WRMSR"),
    (KVM_EXIT_DIRTY_RING_FULL, "KVM_EXIT_DIRTY_RING_FULL"),
    (KVM_EXIT_AP_RESET_HOLD, "KVM_EXIT_AP_RESET_HOLD"),
    (KVM_EXIT_X86_BUS_LOCK, "KVM_EXIT_X86_BUS_LOCK"),
    (KVM_EXIT_XEN, "KVM_EXIT_XEN"),
    (KVM_EXIT_NOTIFY, "KVM_EXIT_NOTIFY"),
    (KVM_EXIT_MEMORY_FAULT, "KVM_EXIT_MEMORY_FAULT"),
    (KVM_EXIT_TDX, "KVM_EXIT_TDX"),
];

impl Exit {
    /// The number that KVM gives to this reason.
    pub fn reason(&self) -> u32 {
        match self {
            Exit::Unknown { .. } => KVM_EXIT_UNKNOWN,
            Exit::Exception { .. } => KVM_EXIT_EXCEPTION,
            Exit::Io(_) => KVM_EXIT_IO,
            Exit::Hypercall { .. } => KVM_EXIT_HYPERCALL,
            Exit::Debug { .. } => KVM_EXIT_DEBUG,
            Exit::Hlt => KVM_EXIT_HLT,
            Exit::Mmio(_) => KVM_EXIT_MMIO,
            Exit::IrqWindowOpen => KVM_EXIT_IRQ_WINDOW_OPEN,
            Exit::Shutdown => KVM_EXIT_SHUTDOWN,
            Exit::FailEntry { .. } => KVM_EXIT_FAIL_ENTRY,
            Exit::Intr => KVM_EXIT_INTR,
            Exit::SetTpr => KVM_EXIT_SET_TPR,
            Exit::TprAccess { .. } => KVM_EXIT_TPR_ACCESS,
            Exit::Nmi => KVM_EXIT_NMI,
            Exit::InternalError(_) => KVM_EXIT_INTERNAL_ERROR,
            Exit::Watchdog => KVM_EXIT_WATCHDOG,
            Exit::SystemEvent { .. } => KVM_EXIT_SYSTEM_EVENT,
            Exit::IoapicEoi { .. } => KVM_EXIT_IOAPIC_EOI,
            Exit::Hyperv(_) => KVM_EXIT_HYPERV,
            Exit::X86Rdmsr { .. } => KVM_EXIT_X86_RDMSR,
            Exit::X86Wrmsr { .. } => KVM_EXIT_X86_WRMSR,
            Exit::DirtyRingFull => KVM_EXIT_DIRTY_RING_FULL,
            Exit::ApResetHold => KVM_EXIT_AP_RESET_HOLD,
            Exit::X86BusLock => KVM_EXIT_X86_BUS_LOCK,
            Exit::Xen { .. } => KVM_EXIT_XEN,
            Exit::Notify { .. } => KVM_EXIT_NOTIFY,
            Exit::MemoryFault { .. } => KVM_EXIT_MEMORY_FAULT,
            Exit::Tdx { .. } => KVM_EXIT_TDX,
            Exit::Other(reason) => *reason,
        }
    }

    /// The name that linux/kvm.h gives to this reason, such as `"KVM_EXIT_IO"`.
    pub fn name(&self) -> &'static str {
        name(self.reason())
    }
}

/// The name of a reason; `"KVM_EXIT_OTHER"`, which no kernel uses, for a number not known here.
pub fn name(reason: u32) -> &'static str {
    REASONS.iter().find(|(number, _)| *number == reason).map_or("KVM_EXIT_OTHER", |(_, name)| name)
}
