//! Whether an answer is the recorded one. Pure.

use outboard_wire::line::{Answer, FLAG_STRING, answer_kind, event_kind};
use outboard_wire::trace::AnswerPart;
use outboard_wire::trace::read::Group;

/// What the plugin said, with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub answer: Answer,
    /// String data, or bulk data of a command.
    pub data: Vec<u8>,
    /// Register files that it sets.
    pub files: Vec<u8>,
}

/// The first thing that differs between an answer and the recorded one; `data` and `files` are the recorded ones.
///
/// Which registers the plugin wants with later events is its own affair, and so are fields that an answer does not use.
pub fn difference(group: &Group, said: &Said, data: &[u8], files: &[u8]) -> Option<String> {
    let (was, is) = (&group.head.answer, &said.answer);
    if was.kind != is.kind {
        return Some(format!("{} instead of {}", name(is.kind), name(was.kind)));
    }
    if is.kind != answer_kind::RESUME {
        return command(was, said, data);
    }
    if was.files != is.files {
        return Some(format!("it sets register files {:#x} instead of {:#x}", is.files, was.files));
    }
    if files != said.files {
        return Some(format!("it sets registers with {}", bytes(&said.files, files)));
    }
    match group.head.event.kind {
        event_kind::READ if (was.flags ^ is.flags) & FLAG_STRING != 0 || was.length != is.length => {
            Some(format!("{} bytes instead of {}", is.length, was.length))
        }
        event_kind::READ if is.flags & FLAG_STRING != 0 => (data != said.data).then(|| bytes(&said.data, data)),
        event_kind::READ => {
            let mask = if is.length >= 8 { u64::MAX } else { (1 << (8 * is.length)) - 1 };
            ((was.data ^ is.data) & mask != 0)
                .then(|| format!("{:#x} instead of {:#x}", is.data & mask, was.data & mask))
        }
        event_kind::HYPERV_CALL | event_kind::HYPERCALL => {
            (was.data != is.data).then(|| format!("{:#x} instead of {:#x}", is.data, was.data))
        }
        event_kind::READ_MSR | event_kind::WRITE_MSR => {
            let (was, is) = ((was.data, was.count), (is.data, is.count));
            (was != is).then(|| format!("{:#x}, fault {} instead of {:#x}, fault {}", is.0, is.1, was.0, was.1))
        }
        _ => None,
    }
}

fn command(was: &AnswerPart, said: &Said, data: &[u8]) -> Option<String> {
    let is = &said.answer;
    if (was.file, was.count, was.length) != (is.file, is.count, is.length) {
        return Some(format!(
            "a command for register file {} with {} entries instead of file {} with {}",
            is.file, is.count, was.file, was.count
        ));
    }
    (data != said.data).then(|| bytes(&said.data, data))
}

fn name(kind: u8) -> &'static str {
    match kind {
        answer_kind::RESUME => "a resume",
        answer_kind::GET => "a command to get registers",
        answer_kind::SET => "a command to set registers",
        _ => "an answer of no kind that exists",
    }
}

/// The first place where bytes differ.
fn bytes(is: &[u8], was: &[u8]) -> String {
    let at = is.iter().zip(was).position(|(a, b)| a != b);
    match at {
        Some(at) => format!("byte {at} {:#04x} instead of {:#04x}", is[at], was[at]),
        None => format!("{} bytes instead of {}", is.len(), was.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_byte_is_named() {
        assert_eq!(bytes(&[1, 2], &[1, 3]), "byte 1 0x02 instead of 0x03");
        assert_eq!(bytes(&[1], &[1, 3]), "1 bytes instead of 2");
    }
}
