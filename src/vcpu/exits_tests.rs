//! Exits on crafted run pages, whatever the KVM of this machine can produce.

use kvm_bindings::*;

use super::*;
use crate::kvm::exit::{PAYLOAD_WORDS, Payload};
use outboard_wire::control::EXITS;

/// A run page with an exit of these details.
fn page(reason: u32, words: &[u64]) -> RunPage {
    let mut page = RunPage::detached(8192).unwrap();
    let mut payload: Payload = [0; PAYLOAD_WORDS];
    payload[..words.len()].copy_from_slice(words);
    page.set_exit(reason, &payload);
    page
}

/// Asserts what an exit becomes: told with `subscribed` alone and not without it, of this kind, with these words.
fn told(page: &RunPage, subscribed: u32, kind: u8, words: &[u64]) {
    let exit = page.exit();
    assert_eq!(decide(&exit, subscribed), Action::Tell, "{exit:?}");
    assert_eq!(describe(&exit), Some((kind, Details::new(words))));
    if subscribed != 0 {
        assert_ne!(decide(&exit, EXITS & !subscribed), Action::Tell, "{exit:?}");
    }
}

const RESULT: Answer =
    Answer { kind: 1, flags: 0, files: 0, want: 0, length: 0, file: 0, count: 0, data: 0x0807_0605_0403_0201, cpu: 0 };

#[test]
fn a_hyperv_hypercall_brings_its_input_and_takes_a_result() {
    // type, padding, input, result, two parameters
    let mut page = page(KVM_EXIT_HYPERV, &[KVM_EXIT_HYPERV_HCALL.into(), 0x5c, 0, 7, 8]);
    told(&page, 0, event_kind::HYPERV_CALL, &[0x5c, 7, 8]);
    let exit = page.exit();
    answer(&mut page, &exit, &RESULT);
    assert_eq!(page.payload()[..5], [3 - 1, 0x5c, RESULT.data, 7, 8]);
}

#[test]
fn a_synic_event_brings_its_pages() {
    // type, padding, msr, padding, control, event page, message page
    let page = page(KVM_EXIT_HYPERV, &[KVM_EXIT_HYPERV_SYNIC.into(), 0x4000_0080, 1, 0x2001, 0x3001]);
    told(&page, 0, event_kind::HYPERV_SYNIC, &[0x4000_0080, 1, 0x2001, 0x3001]);
}

#[test]
fn the_synthetic_debugger_ends_the_guest() {
    let page = page(KVM_EXIT_HYPERV, &[KVM_EXIT_HYPERV_SYNDBG.into()]);
    assert_eq!(decide(&page.exit(), EXITS), Action::End);
    assert_eq!(describe(&page.exit()), None);
}

#[test]
fn msr_accesses_take_a_value_or_a_fault() {
    // error byte, padding; reason, index; data
    let words = |data| [0, u64::from(KVM_MSR_EXIT_REASON_FILTER) | 0x174 << 32, data];
    let mut read = page(KVM_EXIT_X86_RDMSR, &words(0));
    for subscribed in [EXIT_MSR_RANGES, EXIT_MSR_UNKNOWN] {
        assert_eq!(decide(&read.exit(), subscribed), Action::Tell);
    }
    told(&read, EXIT_MSR_RANGES | EXIT_MSR_UNKNOWN, event_kind::READ_MSR, &[0x174, 4]);
    let exit = read.exit();
    answer(&mut read, &exit, &RESULT);
    assert_eq!(read.payload()[..3], words(RESULT.data));
    answer(&mut read, &exit, &Answer { count: 1, ..RESULT });
    assert_eq!(read.payload()[0] & 0xff, 1);

    let mut write = page(KVM_EXIT_X86_WRMSR, &words(9));
    told(&write, EXIT_MSR_RANGES | EXIT_MSR_UNKNOWN, event_kind::WRITE_MSR, &[0x174, 4, 9]);
    let exit = write.exit();
    answer(&mut write, &exit, &RESULT);
    assert_eq!(write.payload()[..3], words(9));
    assert_eq!(decide(&exit, 0), Action::Refuse, "on its way when the subscription ended");
    refuse(&mut write, &exit);
    assert_eq!(write.payload()[0] & 0xff, 1);
}

#[test]
fn a_hypercall_brings_its_arguments_and_takes_a_result() {
    let mut page = page(KVM_EXIT_HYPERCALL, &[12, 1, 2, 3, 4, 5, 6, 99, 0x10]);
    told(&page, EXIT_HYPERCALL, event_kind::HYPERCALL, &[12, 1, 2, 3, 4, 5, 6, 0x10]);
    let exit = page.exit();
    answer(&mut page, &exit, &RESULT);
    assert_eq!(page.payload()[..9], [12, 1, 2, 3, 4, 5, 6, RESULT.data, 0x10]);
    assert_eq!(decide(&exit, 0), Action::Refuse);
    refuse(&mut page, &exit);
    assert_eq!(page.payload()[7] as i64, -1000);
}

#[test]
fn halts_breakpoints_and_ended_interrupts_are_told() {
    told(&page(KVM_EXIT_HLT, &[]), EXIT_HALT, event_kind::HALT, &[]);
    let debug = page(KVM_EXIT_DEBUG, &[3, 0x1234, 0xffff_0ff1, 0x400]);
    told(&debug, EXIT_DEBUG, event_kind::DEBUG, &[3, 0x1234, 0xffff_0ff1, 0x400]);
    told(&page(KVM_EXIT_IOAPIC_EOI, &[0x41]), EXIT_IOAPIC_EOI, event_kind::IOAPIC_EOI, &[0x41]);
}

#[test]
fn a_system_event_brings_as_many_words_as_it_has() {
    // type and ndata in one word, then the data
    let words = |ndata: u64| [u64::from(KVM_SYSTEM_EVENT_CRASH) | ndata << 32, 11, 12, 13];
    told(&page(KVM_EXIT_SYSTEM_EVENT, &words(0)), EXIT_SYSTEM, event_kind::SYSTEM, &[3]);
    told(&page(KVM_EXIT_SYSTEM_EVENT, &words(3)), EXIT_SYSTEM, event_kind::SYSTEM, &[3, 11, 12, 13]);
    let (_, details) = describe(&page(KVM_EXIT_SYSTEM_EVENT, &words(99)).exit()).unwrap();
    assert_eq!(details.count(), 17, "no more than there are, whatever the kernel says");
}

#[test]
fn a_failed_emulation_brings_the_bytes_and_registers_and_may_be_given_up() {
    // suberror 1 and ndata in one word, flags, then the size and 15 bytes
    let words = |flags: u64, size: u64| [1 | 3 << 32, flags, 0x0706_0504_0302_0100 | size, 0x0f0e_0d0c_0b0a_0908];
    let failed = page(KVM_EXIT_INTERNAL_ERROR, &words(1, 15));
    let bytes = [0x0807_0605_0403_0201, 0x000f_0e0d_0c0b_0a09];
    told(&failed, EXIT_EMULATION_FAILURE, event_kind::EMULATION_FAILURE, &[15, bytes[0], bytes[1]]);
    let exit = failed.exit();
    assert_eq!(files(&exit), FILE_REGS | FILE_SREGS);
    assert!(!gives_up(&exit, &RESULT));
    assert!(gives_up(&exit, &Answer { count: 1, ..RESULT }));
    assert_eq!(decide(&exit, 0), Action::End);

    let short = page(KVM_EXIT_INTERNAL_ERROR, &words(1, 2));
    told(&short, EXIT_EMULATION_FAILURE, event_kind::EMULATION_FAILURE, &[2, 0x0201, 0]);
    let silent = page(KVM_EXIT_INTERNAL_ERROR, &words(0, 2));
    told(&silent, EXIT_EMULATION_FAILURE, event_kind::EMULATION_FAILURE, &[0, 0, 0]);
}

#[test]
fn other_internal_errors_end_the_guest() {
    for suberror in
        [KVM_INTERNAL_ERROR_SIMUL_EX, KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON]
    {
        let error = page(KVM_EXIT_INTERNAL_ERROR, &[u64::from(suberror) | 3 << 32, 1, 2, 3]);
        assert_eq!((decide(&error.exit(), EXITS), describe(&error.exit())), (Action::End, None));
    }
    assert!(!gives_up(&Exit::Hlt, &Answer { count: 1, ..RESULT }));
    assert_eq!(files(&Exit::Hlt), 0);
}

#[test]
fn what_has_no_event_ends_the_guest() {
    for exit in [Exit::Shutdown, Exit::Other(77), Exit::Nmi, Exit::SetTpr] {
        assert_eq!((decide(&exit, EXITS), describe(&exit)), (Action::End, None));
    }
    for exit in [Exit::Hlt, Exit::IoapicEoi { vector: 1 }] {
        assert_eq!(decide(&exit, 0), Action::End);
    }
}
