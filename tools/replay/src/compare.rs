//! Whether an answer is the recorded one. Pure.

use outboard_wire::line::{Answer, FLAG_MMIO, FLAG_STRING, answer_kind, event_kind};
use outboard_wire::trace::read::Group;
use outboard_wire::trace::{AnswerPart, EventPart};

/// Addresses whose reads are not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ignored {
    mmio: bool,
    first: u64,
    last: u64,
}

/// Reads `--ignore`.
pub fn ignored(word: &str) -> Result<Ignored, String> {
    let wrong = || "give a space and addresses, such as port:0x70-0x71 or mmio:0xfed00000".to_owned();
    let (space, addresses) = word.split_once(':').ok_or_else(wrong)?;
    let mmio = match space {
        "port" => false,
        "mmio" => true,
        _ => return Err(wrong()),
    };
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map_err(|_| wrong()),
        None => text.parse().map_err(|_| wrong()),
    };
    let (first, last) = addresses.split_once('-').unwrap_or((addresses, addresses));
    Ok(Ignored { mmio, first: number(first)?, last: number(last)? })
}

impl Ignored {
    /// Whether it is an access of these addresses.
    pub fn holds(&self, event: &EventPart) -> bool {
        self.mmio == (event.flags & FLAG_MMIO != 0) && (self.first..=self.last).contains(&event.address)
    }
}

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
    fn what_is_not_compared_is_named_by_space_and_address() {
        let clock = ignored("port:0x70-113").unwrap();
        let at = |address, flags| clock.holds(&EventPart { address, flags, ..EventPart::default() });
        assert!(at(0x70, 0) && at(0x71, 0) && !at(0x72, 0) && !at(0x70, FLAG_MMIO));
        for wrong in ["0x70", "io:1", "port:", "port:1-"] {
            assert!(ignored(wrong).unwrap_err().contains("port:0x70-0x71"), "{wrong}");
        }
    }

    #[test]
    fn the_first_differing_byte_is_named() {
        assert_eq!(bytes(&[1, 2], &[1, 3]), "byte 1 0x02 instead of 0x03");
        assert_eq!(bytes(&[1], &[1, 3]), "1 bytes instead of 2");
    }
}
