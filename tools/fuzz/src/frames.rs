//! Control frames: what a plugin may send on its socket, through the same checks and handlers as in a run, on a real VM.
//!
//! The first byte chooses the VM. Then come messages: a byte that says how much of the message is made sound, the number of
//! descriptors and their kinds, and the bytes. A message that is refused as a frame would end the plugin, so it ends the input.

use std::os::fd::OwnedFd;

use outboard::event::Token;
use outboard::plugin::connections::Connections;
use outboard_wire::control::{self, Kind};
use outboard_wire::frame::Header;
use outboard_wire::limits::{MAX_BODY, MAX_FDS, MAX_FRAME};
use outboard_wire::socket;
use zerocopy::IntoBytes;

use crate::assert_sentence;
use crate::host::{descriptor, host};
use crate::input::Input;

/// Most messages of an input.
const MESSAGES: usize = 64;

/// The target.
pub fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(choice) = input.op() else { return };
    let mut connections = Connections::default();
    let (ours, _theirs) = socket::pair().expect("a pair");
    let token = connections.add(ours, true).expect("the first connection").token;
    let mut host = None;
    for sequence in 1..=MESSAGES as u32 {
        let Some(how) = input.op() else { break };
        let (message, fds) = message(how, sequence, &mut input);
        let Some(connection) = connections.get(Token { ..token }) else { break };
        let accepted = connection.accept(&message, if how & 0x80 == 0 { Some(fds.len()) } else { None });
        let (header, body) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                assert_sentence(&error.to_string());
                break;
            }
        };
        assert_eq!((header.sequence, header.body_len as usize), (sequence, body.len()));
        let Some(kind) = Kind::from_number(header.kind) else { continue };
        // A VM takes time, and most frames that are not sound never need one.
        let host = host.get_or_insert_with(|| self::host(choice));
        let reply = match kind {
            Kind::Hello => host.welcome(body).map(|(reply, agreed)| {
                assert_eq!(reply.fds.len(), if agreed.is_ok() { 2 } else { 0 });
                agreed.err().iter().for_each(|said| assert_sentence(said));
                reply
            }),
            kind => host.serve(kind, body, fds),
        };
        match reply {
            Ok(reply) => assert!(reply.body.len() <= MAX_BODY && reply.fds.len() <= MAX_FDS),
            Err(errno) => assert!((1..4096).contains(&errno.0), "{kind:?} was refused with {errno:?}"),
        }
    }
    if let Some(mut host) = host {
        for ended in host.vcpus.stop() {
            assert_sentence(&ended.to_string());
        }
    }
}

/// A message and its descriptors. With the lowest bit of `how` set its header is sound, with the next one its body has the
/// size that its kind asks for.
fn message(how: u8, sequence: u32, input: &mut Input<'_>) -> (Vec<u8>, Vec<OwnedFd>) {
    let fds: Vec<OwnedFd> = (0..how >> 4 & 3).map(|_| descriptor(input.byte())).collect();
    if how & 1 == 0 {
        let length = usize::from(input.u16()) % (MAX_FRAME + 1);
        return (input.some(length).to_vec(), fds);
    }
    let (kind, length) = kind_and_length(how & 2 != 0, input);
    let body = input.bytes(length);
    let header = Header::request(kind, sequence, body.len(), fds.len());
    let mut message = header.as_bytes().to_vec();
    message.extend_from_slice(&body);
    (message, fds)
}

/// A kind, and how long a body of it is: as long as it has to be if it shall fit.
pub fn kind_and_length(fits: bool, input: &mut Input<'_>) -> (u16, usize) {
    let number = input.byte();
    let known = Kind::ALL.get(usize::from(number) % (Kind::ALL.len() + 4)).copied();
    let kind = known.map_or(number.into(), |kind| kind as u16);
    let length = match known {
        Some(known) if fits => body_size(known),
        _ => usize::from(input.u16()) % (MAX_BODY + 1),
    };
    (kind, length)
}

/// Bytes of the body of a request.
fn body_size(kind: Kind) -> usize {
    match kind {
        Kind::Hello => size_of::<control::Hello>(),
        Kind::NewConnection => size_of::<control::NewConnection>(),
        Kind::ShutdownEvent => size_of::<control::ShutdownEvent>(),
        Kind::CheckExtension => size_of::<control::CheckExtension>(),
        Kind::Start => size_of::<control::Start>(),
        Kind::HostList => size_of::<control::HostList>(),
        Kind::GetTsc => size_of::<control::GetTsc>(),
        Kind::SetTsc => size_of::<control::SetTsc>(),
        Kind::NetConfig => size_of::<control::NetConfig>(),
        Kind::CreateMemory => size_of::<control::CreateMemory>(),
        Kind::DestroyMemory => size_of::<control::DestroyMemory>(),
        Kind::DirtyLog => size_of::<control::DirtyLog>(),
        Kind::ReserveRange => size_of::<control::ReserveRange>(),
        Kind::SetUnclaimed => size_of::<control::SetUnclaimed>(),
        Kind::PauseVcpus => size_of::<control::PauseVcpus>(),
        Kind::VcpuEventFd => size_of::<control::VcpuEventFd>(),
        Kind::SetHint => size_of::<control::SetHint>(),
        Kind::Subscribe => size_of::<control::Subscribe>(),
        Kind::IrqLine => size_of::<control::IrqLine>(),
        Kind::CreateIrqEvent => size_of::<control::CreateIrqEvent>(),
        Kind::DestroyIrqEvent => size_of::<control::DestroyIrqEvent>(),
        Kind::CreateIoEvent => size_of::<control::CreateIoEvent>(),
        Kind::DestroyIoEvent => size_of::<control::DestroyIoEvent>(),
        Kind::SetRoutes => size_of::<control::SetRoutes>(),
        Kind::SignalMsi => size_of::<control::SignalMsi>(),
        Kind::GetChip => size_of::<control::GetChip>(),
        Kind::SetChip => size_of::<control::SetChip>(),
        Kind::SetIdentityMap => size_of::<control::SetIdentityMap>(),
    }
}
