//! The two cache lines of a vCPU: an event from the VMM, an answer from the plugin.
//!
//! Each line holds everything that a port or memory access needs, so that an exit costs one line transfer each way. A line
//! is published by storing its sequence word last, with release order. The exchange is strict: event n is answered by
//! answer n, then comes event n + 1. A command (get or set registers) is an answer too; the VMM's reply is the next event.

use crate::sync::{AtomicU32, AtomicU64, Ordering, Reserved};

/// Event kinds, the low byte of [`EventLine::head`].
pub mod event_kind {
    /// The vCPU exists and waits for its first resume; the plugin sets its registers now.
    pub const INIT: u8 = 1;
    /// The guest reads; the answer carries the data.
    pub const READ: u8 = 2;
    /// The guest writes and waits.
    pub const WRITE: u8 = 3;
    /// A pause that the plugin asked for; the cookie is in the address field.
    pub const PAUSED: u8 = 4;
    /// The reply to a command.
    pub const REPLY: u8 = 5;
    /// The VM ends. No answer is expected, no further event comes.
    pub const SHUTDOWN: u8 = 6;
    /// A Hyper-V hypercall: input, two parameters. The answer carries the result.
    pub const HYPERV_CALL: u8 = 7;
    /// The guest changed its Hyper-V interrupt controller: MSR, control, event page, message page.
    pub const HYPERV_SYNIC: u8 = 8;
    /// The guest reads an MSR: index, `KVM_MSR_EXIT_REASON_*`. The answer carries the value, or a fault.
    pub const READ_MSR: u8 = 9;
    /// The guest writes an MSR: index, `KVM_MSR_EXIT_REASON_*`, value. The answer may carry a fault.
    pub const WRITE_MSR: u8 = 10;
    /// The guest halted, and KVM has no local APIC that could wake it.
    pub const HALT: u8 = 11;
    /// A hypercall of KVM's own: number, six arguments, flags. The answer carries the result.
    pub const HYPERCALL: u8 = 12;
    /// A breakpoint or single step: exception, address, DR6, DR7.
    pub const DEBUG: u8 = 13;
    /// The guest ended an interrupt of an IOAPIC outside of KVM: vector.
    pub const IOAPIC_EOI: u8 = 14;
    /// The VM as a whole shall do something: `KVM_SYSTEM_EVENT_*`, up to 16 words of data.
    pub const SYSTEM: u8 = 15;
    /// KVM cannot emulate an instruction: bytes of it that KVM read, and those bytes in two words. General, segment and
    /// control registers ride along. The answer may give up, which ends the VM.
    pub const EMULATION_FAILURE: u8 = 16;
}

/// The highest of the [`event_kind`]s.
pub const LAST_EVENT_KIND: u8 = event_kind::EMULATION_FAILURE;

/// Answer kinds, the low byte of [`AnswerLine::head`].
pub mod answer_kind {
    /// The event is done, the vCPU runs on.
    pub const RESUME: u8 = 1;
    /// Asks for a register file.
    pub const GET: u8 = 2;
    /// Sets a register file.
    pub const SET: u8 = 3;
}

/// The access is in the MMIO space, else in the port space.
pub const FLAG_MMIO: u8 = 1;
/// The data is longer than 8 bytes and lies in the string area.
pub const FLAG_STRING: u8 = 2;

/// General registers ride along.
pub const FILE_REGS: u8 = 1;
/// Segment and control registers ride along.
pub const FILE_SREGS: u8 = 2;
/// Debug registers ride along.
pub const FILE_DEBUGREGS: u8 = 4;
/// All files that can ride along.
pub const FILES: u8 = FILE_REGS | FILE_SREGS | FILE_DEBUGREGS;

/// How somebody sleeps who announced it in a `waiting` word: on the futex of the `doorbell` word behind it.
pub const WAIT_FUTEX: u32 = 1;
/// On the vCPU's eventfd. Only the plugin's side does this.
pub const WAIT_EVENTFD: u32 = 2;
/// Bits of a `waiting` word that say how; the bits above are a ticket that differs from sleep to sleep, so that the
/// other side wakes once per sleep.
pub const WAIT_MODE: u32 = 3;

/// What the VMM tells: 64 bytes, written only by the VMM.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub struct EventLine {
    /// Number of the event, from 1, modulo 2^32; stored last.
    pub seq: AtomicU32,
    /// Futex word that the plugin sleeps on; the VMM adds one to wake it.
    pub doorbell: AtomicU32,
    /// 0: the VMM's thread is awake. Else how it sleeps, and the ticket of this sleep.
    pub waiting: AtomicU32,
    /// Kind, flags, item width and files, one byte each from the lowest.
    pub head: AtomicU32,
    /// Bytes of data.
    pub length: AtomicU32,
    /// Posted writes published before this event, modulo 2^32: they come first.
    pub posted: AtomicU32,
    /// Address of the access, or the cookie of a pause.
    pub address: AtomicU64,
    /// Data of a write up to 8 bytes, lowest byte first.
    pub data: AtomicU64,
    /// TSC when the guest left.
    pub tsc: AtomicU64,
    /// CPU that the vCPU thread was on.
    pub cpu: AtomicU32,
    /// Replies: 0 or a negative errno.
    pub status: AtomicU32,
    /// Replies: number of entries.
    pub count: AtomicU64,
}

/// What the plugin tells: 64 bytes, written only by the plugin.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub struct AnswerLine {
    /// Number of the event that this answers; stored last.
    pub seq: AtomicU32,
    /// Futex word that the VMM's thread sleeps on; the plugin adds one to wake it.
    pub doorbell: AtomicU32,
    /// 0: the plugin's thread is awake. Else how it sleeps, and the ticket of this sleep.
    pub waiting: AtomicU32,
    /// Kind, flags, files that are set, and files wanted with every event from now on; one byte each from the lowest.
    pub head: AtomicU32,
    /// Bytes of data.
    pub length: AtomicU32,
    /// Commands: which register file, one of [`crate::kvm_abi::File`].
    pub file: AtomicU32,
    /// Commands: number of entries of a list.
    pub count: AtomicU64,
    /// Data of a read up to 8 bytes, lowest byte first.
    pub data: AtomicU64,
    /// CPU that the plugin's thread was on when it began to wait.
    pub cpu: AtomicU32,
    reserved: Reserved<AtomicU32, 5>,
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<EventLine>() == 64 && size_of::<AnswerLine>() == 64);
    assert!(core::mem::offset_of!(EventLine, address) == 24 && core::mem::offset_of!(EventLine, count) == 56);
    assert!(core::mem::offset_of!(AnswerLine, count) == 24 && core::mem::offset_of!(AnswerLine, cpu) == 40);
};

/// The fields of an event line in private memory, as the peer wrote them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// One of [`event_kind`].
    pub kind: u8,
    /// `FLAG_*` bits.
    pub flags: u8,
    /// Bytes of one item of string I/O; equal to the length of a simple access.
    pub width: u8,
    /// `FILE_*` bits: what lies in the block's register files.
    pub files: u8,
    /// Bytes of data.
    pub length: u32,
    /// Posted writes published before.
    pub posted: u32,
    /// Address or cookie.
    pub address: u64,
    /// Data up to 8 bytes.
    pub data: u64,
    /// TSC when the guest left.
    pub tsc: u64,
    /// CPU of the vCPU thread.
    pub cpu: u32,
    /// Replies: 0 or a negative errno.
    pub status: i32,
    /// Replies: entries.
    pub count: u64,
}

/// The fields of an answer line in private memory, as the peer wrote them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// One of [`answer_kind`].
    pub kind: u8,
    /// `FLAG_*` bits.
    pub flags: u8,
    /// `FILE_*` bits: register files in the block that the VMM shall set.
    pub files: u8,
    /// `FILE_*` bits: register files that shall ride along from now on.
    pub want: u8,
    /// Bytes of data.
    pub length: u32,
    /// Commands: the register file.
    pub file: u32,
    /// Commands: entries.
    pub count: u64,
    /// Data up to 8 bytes.
    pub data: u64,
    /// CPU of the plugin's thread.
    pub cpu: u32,
}

/// The four bytes of a head word, lowest first.
const fn pack(low: u8, second: u8, third: u8, high: u8) -> u32 {
    u32::from_le_bytes([low, second, third, high])
}

impl EventLine {
    /// Fills the line and publishes it as event `seq`.
    #[inline]
    pub fn publish(&self, seq: u32, event: &Event) {
        self.head.store(pack(event.kind, event.flags, event.width, event.files), Ordering::Relaxed);
        self.length.store(event.length, Ordering::Relaxed);
        self.posted.store(event.posted, Ordering::Relaxed);
        self.address.store(event.address, Ordering::Relaxed);
        self.data.store(event.data, Ordering::Relaxed);
        self.tsc.store(event.tsc, Ordering::Relaxed);
        self.cpu.store(event.cpu, Ordering::Relaxed);
        self.status.store(event.status as u32, Ordering::Relaxed);
        self.count.store(event.count, Ordering::Relaxed);
        self.seq.store(seq, Ordering::Release);
    }

    /// Publishes the SHUTDOWN event as number `seq`.
    ///
    /// It may come while the plugin still copies the event before it, so it changes nothing but the kind: whatever mixture
    /// the plugin copies is either that event or the SHUTDOWN.
    pub fn publish_shutdown(&self, seq: u32) {
        self.head.store(pack(event_kind::SHUTDOWN, 0, 0, 0), Ordering::Release);
        self.seq.store(seq, Ordering::Release);
    }

    /// Copies the fields out; call it after an acquire load of `seq` saw the event.
    #[inline]
    pub fn read(&self) -> Event {
        let [kind, flags, width, files] = self.head.load(Ordering::Acquire).to_le_bytes();
        Event {
            kind,
            flags,
            width,
            files,
            length: self.length.load(Ordering::Relaxed),
            posted: self.posted.load(Ordering::Relaxed),
            address: self.address.load(Ordering::Relaxed),
            data: self.data.load(Ordering::Relaxed),
            tsc: self.tsc.load(Ordering::Relaxed),
            cpu: self.cpu.load(Ordering::Relaxed),
            status: self.status.load(Ordering::Relaxed) as i32,
            count: self.count.load(Ordering::Relaxed),
        }
    }
}

impl AnswerLine {
    /// Fills the line and publishes it as the answer to event `seq`.
    #[inline]
    pub fn publish(&self, seq: u32, answer: &Answer) {
        self.head.store(pack(answer.kind, answer.flags, answer.files, answer.want), Ordering::Relaxed);
        self.length.store(answer.length, Ordering::Relaxed);
        self.file.store(answer.file, Ordering::Relaxed);
        self.count.store(answer.count, Ordering::Relaxed);
        self.data.store(answer.data, Ordering::Relaxed);
        self.cpu.store(answer.cpu, Ordering::Relaxed);
        self.seq.store(seq, Ordering::Release);
    }

    /// Copies the fields out; call it after an acquire load of `seq` saw the answer.
    #[inline]
    pub fn read(&self) -> Answer {
        let [kind, flags, files, want] = self.head.load(Ordering::Relaxed).to_le_bytes();
        Answer {
            kind,
            flags,
            files,
            want,
            length: self.length.load(Ordering::Relaxed),
            file: self.file.load(Ordering::Relaxed),
            count: self.count.load(Ordering::Relaxed),
            data: self.data.load(Ordering::Relaxed),
            cpu: self.cpu.load(Ordering::Relaxed),
        }
    }
}
