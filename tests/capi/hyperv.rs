//! Hyper-V exits through the C library. Few hosts' KVM can make them, so a VMM of this test publishes them.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use outboard_wire::control::Kind;
use outboard_wire::details::Details;
use outboard_wire::line::{Event, event_kind};
use outboard_wire::socket;

use super::{Outcome, build};

#[path = "../../wire/plugin/tests/fake/mod.rs"]
mod fake;

use fake::{FakeVcpu, behind, done};

/// An exit with these details.
fn exit(vcpu: &FakeVcpu, kind: u8, words: &[u64]) -> Event {
    let mut event = Event { kind, ..Event::default() };
    Details::new(words).put(&mut event, &vcpu.end.to_plugin().string);
    event
}

/// The plugin checks what it gets; this half checks what it answers.
pub fn exits_reach_the_plugin() -> Outcome {
    let executable = build::shared("hyperv")?;
    let (ours, theirs): (OwnedFd, OwnedFd) = socket::pair().map_err(|error| error.to_string())?;
    let (mut vcpus, control) = behind(ours, 1, |request| {
        // What the library asks for by itself when it connects.
        assert_eq!(Kind::from_number(request.header.kind), Some(Kind::NewConnection));
        done()
    });
    let mut command = Command::new(executable);
    // The socket comes as standard input, which a child inherits without further ado.
    command.env("CROSVM_SOCKET", "0").stdin(Stdio::from(theirs));
    let mut plugin = command.spawn().map_err(|error| error.to_string())?;
    // With it goes this process's copy of the plugin's end, or the end of the socket would never be seen.
    drop(command);
    let vcpu = &mut vcpus[0];
    vcpu.init();
    for round in 0..3 {
        let call = [0x1_0005 + round, 0x1111_2222_3333_4444, 0x5555_6666_7777_8888];
        let call = exit(vcpu, event_kind::HYPERV_CALL, &call);
        assert_eq!(vcpu.resumed(call).data, 0xabc0 + round);
    }
    let synic = exit(vcpu, event_kind::HYPERV_SYNIC, &[0x4000_0080, 1, 0x2001, 0x3001]);
    vcpu.resumed(synic);
    drop(vcpus); // the vCPU's end is published
    let status = plugin.wait().map_err(|error| error.to_string())?;
    control.join().map_err(|_| "the VMM of this test has panicked".to_owned())?;
    if status.success() { Ok(()) } else { Err(format!("the plugin ended with {status}")) }
}
