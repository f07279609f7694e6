//! From the raw words of the run page to an [`Exit`], in pure code.

use std::mem::offset_of;

use kvm_bindings::*;

use super::exit::{Direction, Exit, HypervExit, InternalError, KVM_EXIT_TDX, Mmio, Payload, PortIo};

// The members of the union, which bindgen numbers in the order of the header.
type Hardware = kvm_run__bindgen_ty_1__bindgen_ty_1;
type Fail = kvm_run__bindgen_ty_1__bindgen_ty_2;
type Exception = kvm_run__bindgen_ty_1__bindgen_ty_3;
type Io = kvm_run__bindgen_ty_1__bindgen_ty_4;
type MmioBody = kvm_run__bindgen_ty_1__bindgen_ty_6;
type Hypercall = kvm_run__bindgen_ty_1__bindgen_ty_8;
type Tpr = kvm_run__bindgen_ty_1__bindgen_ty_9;
type Internal = kvm_run__bindgen_ty_1__bindgen_ty_13;
type System = kvm_run__bindgen_ty_1__bindgen_ty_19;
type Eoi = kvm_run__bindgen_ty_1__bindgen_ty_21;
type Msr = kvm_run__bindgen_ty_1__bindgen_ty_23;
type Notify = kvm_run__bindgen_ty_1__bindgen_ty_26;
type Fault = kvm_run__bindgen_ty_1__bindgen_ty_27;
type Synic = kvm_hyperv_exit__bindgen_ty_1__bindgen_ty_1;
type Hcall = kvm_hyperv_exit__bindgen_ty_1__bindgen_ty_2;
type Syndbg = kvm_hyperv_exit__bindgen_ty_1__bindgen_ty_3;
type XenCall = kvm_xen_exit__bindgen_ty_1__bindgen_ty_1;

/// Reads fields of the payload by their offsets. These are constants within it, so that no bounds check is
/// left in the compiled code.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    #[inline(always)]
    fn at<T: bytemuck::AnyBitPattern>(&self, offset: usize) -> T {
        bytemuck::pod_read_unaligned(&self.0[offset..offset + size_of::<T>()])
    }
}

/// Decodes an exit: its number, and the union that goes with it.
#[inline]
pub(super) fn decode(reason: u32, payload: &Payload) -> Exit {
    let f = Fields(bytemuck::bytes_of(payload));
    match reason {
        KVM_EXIT_IO => Exit::Io(PortIo {
            direction: match u32::from(f.at::<u8>(offset_of!(Io, direction))) {
                KVM_EXIT_IO_IN => Direction::In,
                _ => Direction::Out,
            },
            size: f.at(offset_of!(Io, size)),
            port: f.at(offset_of!(Io, port)),
            count: f.at(offset_of!(Io, count)),
            data_offset: f.at(offset_of!(Io, data_offset)),
        }),
        KVM_EXIT_MMIO => Exit::Mmio(Mmio {
            phys_addr: f.at(offset_of!(MmioBody, phys_addr)),
            data: f.at(offset_of!(MmioBody, data)),
            len: f.at(offset_of!(MmioBody, len)),
            is_write: f.at::<u8>(offset_of!(MmioBody, is_write)) != 0,
        }),
        KVM_EXIT_HLT => Exit::Hlt,
        KVM_EXIT_IRQ_WINDOW_OPEN => Exit::IrqWindowOpen,
        KVM_EXIT_INTR => Exit::Intr,
        KVM_EXIT_HYPERV => Exit::Hyperv(decode_hyperv(&f)),
        _ => decode_rare(reason, &f),
    }
}

fn decode_hyperv(f: &Fields<'_>) -> HypervExit {
    const BODY: usize = offset_of!(kvm_hyperv_exit, u);
    match f.at(offset_of!(kvm_hyperv_exit, type_)) {
        KVM_EXIT_HYPERV_SYNIC => HypervExit::Synic {
            msr: f.at(BODY + offset_of!(Synic, msr)),
            control: f.at(BODY + offset_of!(Synic, control)),
            evt_page: f.at(BODY + offset_of!(Synic, evt_page)),
            msg_page: f.at(BODY + offset_of!(Synic, msg_page)),
        },
        KVM_EXIT_HYPERV_HCALL => HypervExit::Hcall {
            input: f.at(BODY + offset_of!(Hcall, input)),
            params: f.at(BODY + offset_of!(Hcall, params)),
        },
        KVM_EXIT_HYPERV_SYNDBG => HypervExit::Syndbg {
            msr: f.at(BODY + offset_of!(Syndbg, msr)),
            control: f.at(BODY + offset_of!(Syndbg, control)),
            status: f.at(BODY + offset_of!(Syndbg, status)),
            send_page: f.at(BODY + offset_of!(Syndbg, send_page)),
            recv_page: f.at(BODY + offset_of!(Syndbg, recv_page)),
            pending_page: f.at(BODY + offset_of!(Syndbg, pending_page)),
        },
        kind => HypervExit::Other(kind),
    }
}

#[cold]
fn decode_rare(reason: u32, f: &Fields<'_>) -> Exit {
    match reason {
        KVM_EXIT_UNKNOWN => Exit::Unknown { hardware_reason: f.at(offset_of!(Hardware, hardware_exit_reason)) },
        KVM_EXIT_EXCEPTION => Exit::Exception {
            exception: f.at(offset_of!(Exception, exception)),
            error_code: f.at(offset_of!(Exception, error_code)),
        },
        KVM_EXIT_HYPERCALL => Exit::Hypercall {
            nr: f.at(offset_of!(Hypercall, nr)),
            args: f.at(offset_of!(Hypercall, args)),
            flags: f.at(offset_of!(Hypercall, __bindgen_anon_1)),
        },
        KVM_EXIT_DEBUG => Exit::Debug {
            exception: f.at(offset_of!(kvm_debug_exit_arch, exception)),
            pc: f.at(offset_of!(kvm_debug_exit_arch, pc)),
            dr6: f.at(offset_of!(kvm_debug_exit_arch, dr6)),
            dr7: f.at(offset_of!(kvm_debug_exit_arch, dr7)),
        },
        KVM_EXIT_SHUTDOWN => Exit::Shutdown,
        KVM_EXIT_FAIL_ENTRY => Exit::FailEntry {
            hardware_reason: f.at(offset_of!(Fail, hardware_entry_failure_reason)),
            cpu: f.at(offset_of!(Fail, cpu)),
        },
        KVM_EXIT_SET_TPR => Exit::SetTpr,
        KVM_EXIT_TPR_ACCESS => {
            Exit::TprAccess { rip: f.at(offset_of!(Tpr, rip)), is_write: f.at::<u32>(offset_of!(Tpr, is_write)) != 0 }
        }
        KVM_EXIT_NMI => Exit::Nmi,
        KVM_EXIT_INTERNAL_ERROR => Exit::InternalError(InternalError {
            suberror: f.at(offset_of!(Internal, suberror)),
            ndata: f.at::<u32>(offset_of!(Internal, ndata)).min(16),
            data: f.at(offset_of!(Internal, data)),
        }),
        KVM_EXIT_WATCHDOG => Exit::Watchdog,
        KVM_EXIT_SYSTEM_EVENT => Exit::SystemEvent {
            kind: f.at(offset_of!(System, type_)),
            ndata: f.at::<u32>(offset_of!(System, ndata)).min(16),
            data: f.at(offset_of!(System, __bindgen_anon_1)),
        },
        KVM_EXIT_IOAPIC_EOI => Exit::IoapicEoi { vector: f.at(offset_of!(Eoi, vector)) },
        KVM_EXIT_X86_RDMSR => {
            Exit::X86Rdmsr { reason: f.at(offset_of!(Msr, reason)), index: f.at(offset_of!(Msr, index)) }
        }
        KVM_EXIT_X86_WRMSR => Exit::X86Wrmsr {
            reason: f.at(offset_of!(Msr, reason)),
            index: f.at(offset_of!(Msr, index)),
            data: f.at(offset_of!(Msr, data)),
        },
        KVM_EXIT_DIRTY_RING_FULL => Exit::DirtyRingFull,
        KVM_EXIT_AP_RESET_HOLD => Exit::ApResetHold,
        KVM_EXIT_X86_BUS_LOCK => Exit::X86BusLock,
        KVM_EXIT_XEN => decode_xen(f),
        KVM_EXIT_NOTIFY => Exit::Notify { flags: f.at(offset_of!(Notify, flags)) },
        KVM_EXIT_MEMORY_FAULT => Exit::MemoryFault {
            flags: f.at(offset_of!(Fault, flags)),
            gpa: f.at(offset_of!(Fault, gpa)),
            size: f.at(offset_of!(Fault, size)),
        },
        KVM_EXIT_TDX => Exit::Tdx { flags: f.at(0), nr: f.at(8) },
        reason => Exit::Other(reason),
    }
}

fn decode_xen(f: &Fields<'_>) -> Exit {
    const BODY: usize = offset_of!(kvm_xen_exit, u);
    Exit::Xen {
        kind: f.at(offset_of!(kvm_xen_exit, type_)),
        longmode: f.at(BODY + offset_of!(XenCall, longmode)),
        cpl: f.at(BODY + offset_of!(XenCall, cpl)),
        input: f.at(BODY + offset_of!(XenCall, input)),
        params: f.at(BODY + offset_of!(XenCall, params)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::exit::{PAYLOAD_WORDS, REASONS, name};
    use super::*;

    /// A payload that begins with these words and is zero after them.
    fn payload(words: &[u64]) -> Payload {
        let mut payload = [0; PAYLOAD_WORDS];
        payload[..words.len()].copy_from_slice(words);
        payload
    }

    /// The words 1, 2, ... 32, so that each field shows where it was read.
    fn counting() -> Payload {
        std::array::from_fn(|n| n as u64 + 1)
    }

    #[test]
    fn every_reason_keeps_its_number_and_name() {
        for &(reason, reason_name) in REASONS {
            let exit = decode(reason, &payload(&[]));
            assert!(!matches!(exit, Exit::Other(_)), "{reason_name}");
            assert_eq!((exit.reason(), exit.name()), (reason, reason_name));
        }
        for reason in [KVM_EXIT_S390_SIEIC, KVM_EXIT_OSI, 41, 1000, u32::MAX] {
            assert_eq!(decode(reason, &counting()), Exit::Other(reason));
            assert_eq!(name(reason), "KVM_EXIT_OTHER");
        }
    }

    #[test]
    fn port_accesses() {
        let (port, count) = (0x3f8u64 << 16, 1000u64 << 32);
        let mut io = PortIo { direction: Direction::Out, size: 1, port: 0x3f8, count: 1000, data_offset: 4096 };
        assert_eq!(decode(KVM_EXIT_IO, &payload(&[count | port | 1 << 8 | 1, 4096])), Exit::Io(io));
        (io.direction, io.size) = (Direction::In, 4);
        assert_eq!(decode(KVM_EXIT_IO, &payload(&[count | port | 4 << 8, 4096])), Exit::Io(io));
    }

    #[test]
    fn memory_accesses() {
        let data = *b"abcdefgh";
        let words = [0xfee0_0000, u64::from_le_bytes(data), 1 << 32 | 8];
        let mut mmio = Mmio { phys_addr: 0xfee0_0000, data, len: 8, is_write: true };
        assert_eq!(decode(KVM_EXIT_MMIO, &payload(&words)), Exit::Mmio(mmio));
        mmio.is_write = false;
        assert_eq!(decode(KVM_EXIT_MMIO, &payload(&[words[0], words[1], 8])), Exit::Mmio(mmio));
        let fault = Exit::MemoryFault { flags: 1, gpa: 2, size: 3 };
        assert_eq!(decode(KVM_EXIT_MEMORY_FAULT, &counting()), fault);
    }

    #[test]
    fn hypercalls() {
        let call = Exit::Hypercall { nr: 1, args: [2, 3, 4, 5, 6, 7], flags: 9 };
        assert_eq!(decode(KVM_EXIT_HYPERCALL, &counting()), call);
        let words = [1, 1 | 3 << 32, 5, 0, 6, 7, 8, 9, 10, 11];
        let call = Exit::Xen { kind: 1, longmode: 1, cpl: 3, input: 5, params: [6, 7, 8, 9, 10, 11] };
        assert_eq!(decode(KVM_EXIT_XEN, &payload(&words)), call);
        assert_eq!(decode(KVM_EXIT_TDX, &counting()), Exit::Tdx { flags: 1, nr: 2 });
    }

    #[test]
    fn hyperv() {
        let decode = |kind: u32| {
            let mut payload = counting();
            payload[0] = kind.into();
            decode(KVM_EXIT_HYPERV, &payload)
        };
        let synic = HypervExit::Synic { msr: 2, control: 3, evt_page: 4, msg_page: 5 };
        assert_eq!(decode(KVM_EXIT_HYPERV_SYNIC), Exit::Hyperv(synic));
        let hcall = HypervExit::Hcall { input: 2, params: [4, 5] };
        assert_eq!(decode(KVM_EXIT_HYPERV_HCALL), Exit::Hyperv(hcall));
        let (control, status, send_page, recv_page, pending_page) = (3, 4, 5, 6, 7);
        let syndbg = HypervExit::Syndbg { msr: 2, control, status, send_page, recv_page, pending_page };
        assert_eq!(decode(KVM_EXIT_HYPERV_SYNDBG), Exit::Hyperv(syndbg));
        assert_eq!(decode(9), Exit::Hyperv(HypervExit::Other(9)));
    }

    #[test]
    fn model_specific_registers() {
        let words = [0xff, 0x4000_0000 << 32 | 2, 77];
        let (reason, index) = (2, 0x4000_0000);
        assert_eq!(decode(KVM_EXIT_X86_RDMSR, &payload(&words)), Exit::X86Rdmsr { reason, index });
        assert_eq!(decode(KVM_EXIT_X86_WRMSR, &payload(&words)), Exit::X86Wrmsr { reason, index, data: 77 });
    }

    #[test]
    fn errors() {
        // 3 words: flags, then the size 2 and the bytes 0f 0b.
        let words = [3 << 32 | 1, 1, 0x0b_0f_02];
        let Exit::InternalError(error) = decode(KVM_EXIT_INTERNAL_ERROR, &payload(&words)) else { panic!() };
        assert!(error.is_emulation_failure());
        assert_eq!(error.instruction(), Some(&[0x0f, 0x0b][..]));

        // A size beyond the 15 bytes there are, and bytes the kernel did not vouch for.
        assert_eq!(InternalError { data: [0xff; 16], ..error }.instruction().unwrap().len(), 15);
        assert_eq!(InternalError { data: [0; 16], ..error }.instruction(), None);
        assert_eq!(InternalError { ndata: 2, ..error }.instruction(), None);
        assert_eq!(InternalError { suberror: 3, ..error }.instruction(), None);

        let words = [u64::from(u32::MAX) << 32 | 3, 5, 6];
        let Exit::InternalError(error) = decode(KVM_EXIT_INTERNAL_ERROR, &payload(&words)) else { panic!() };
        assert_eq!((error.suberror, error.ndata, &error.data[..3]), (3, 16, &[5, 6, 0][..]));

        let words = [1 << 32 | 2, 5];
        let Exit::SystemEvent { kind, ndata, data } = decode(KVM_EXIT_SYSTEM_EVENT, &payload(&words)) else { panic!() };
        assert_eq!((kind, ndata, data[0], data[1]), (2, 1, 5, 0));
        let fail = Exit::FailEntry { hardware_reason: 1, cpu: 2 };
        assert_eq!(decode(KVM_EXIT_FAIL_ENTRY, &counting()), fail);
        assert_eq!(decode(KVM_EXIT_UNKNOWN, &counting()), Exit::Unknown { hardware_reason: 1 });
    }

    #[test]
    fn the_rest() {
        let words = payload(&[3 << 32 | 1, 1]);
        let exception = Exit::Exception { exception: 1, error_code: 3 };
        assert_eq!(decode(KVM_EXIT_EXCEPTION, &words), exception);
        assert_eq!(decode(KVM_EXIT_NOTIFY, &words), Exit::Notify { flags: 1 });
        assert_eq!(decode(KVM_EXIT_IOAPIC_EOI, &payload(&[0xabcd])), Exit::IoapicEoi { vector: 0xcd });
        let tpr = Exit::TprAccess { rip: 1, is_write: true };
        assert_eq!(decode(KVM_EXIT_TPR_ACCESS, &counting()), tpr);
        let debug = Exit::Debug { exception: 1, pc: 2, dr6: 3, dr7: 4 };
        assert_eq!(decode(KVM_EXIT_DEBUG, &counting()), debug);
    }

    #[test]
    fn an_exit_stays_small() {
        assert!(size_of::<Exit>() <= 160, "{}", size_of::<Exit>());
    }
}
