//! Every operation of the VMM's io_uring completes with an error once.
//!
//! A run is that of [`calls`](crate::calls), with a client of the management socket that ends it: so there are receives and
//! sends of the plugin and of a client, polls of everything, and the timers of the end.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::calls::{CAGES, READY, everything};
use crate::common::suite::{Case, Tested, case};
use crate::ring;
use crate::sweep::sweep_beside;
use crate::trace::{How, Who};

pub const CASES: &[Case] = &[
    case!(first_error).around(|case| sweep(case, 0, 60)).only(CAGES).unless(lack),
    case!(second_error).around(|case| sweep(case, 1, 60)).only(CAGES).unless(lack),
    case!(third_error).around(|case| sweep(case, 2, 60)).only(CAGES).unless(lack),
    case!(fourth_error).around(|case| sweep(case, 3, 20)).only(CAGES).unless(lack),
];

fn first_error() -> Tested {
    everything(true)
}

fn second_error() -> Tested {
    everything(true)
}

fn third_error() -> Tested {
    everything(true)
}

fn fourth_error() -> Tested {
    everything(true)
}

fn sweep(case: &Case, which: usize, least: usize) -> Tested {
    sweep_beside(case, Who::Main, How::Completes(which), least, manage)
}

/// Manages the VM once its plugin has said that it is ready, and ends it at last.
fn manage(vmm: &mut Child, socket: &Path) {
    let vmm_fd = pidfd_open(Pid::from_raw(vmm.id() as i32).expect("a process"), PidfdFlags::empty());
    let mut said = BufReader::new(vmm.stdout.take().expect("a pipe")).lines();
    if !said.any(|line| line.is_ok_and(|line| line == READY)) {
        return;
    }
    // A fault strikes one client. If it struck the socket, the VM is ended without.
    let managed = (0..2).any(|_| ask_all(socket).is_ok());
    if let (false, Ok(vmm)) = (managed, vmm_fd) {
        let _ = pidfd_send_signal(vmm, Signal::TERM);
    }
}

fn ask_all(socket: &Path) -> std::io::Result<()> {
    let mut client = UnixStream::connect(socket)?;
    let mut answers = BufReader::new(client.try_clone()?).lines();
    for request in ["status", "pause", "resume", "stop"] {
        writeln!(client, "{request}")?;
        answers.next().ok_or(std::io::ErrorKind::UnexpectedEof)??;
    }
    Ok(())
}

fn lack() -> Option<String> {
    (!ring::is_possible()).then(|| {
        "this kernel cannot let an operation of an io_uring fail (IORING_NOP_INJECT_RESULT, Linux 6.10)".to_owned()
    })
}
