//! Why an instruction was not carried out: an exception of the guest, or something that cannot be done.

use core::fmt;

/// Vectors of exceptions (Intel SDM volume 3, 6.15).
pub mod vector {
    /// Single step.
    pub const DEBUG: u8 = 1;
    /// Breakpoint.
    pub const BREAKPOINT: u8 = 3;
    /// INTO.
    pub const OVERFLOW: u8 = 4;
    /// An opcode that is none, or not now.
    pub const INVALID_OPCODE: u8 = 6;
    /// x87 or SSE while CR0.TS is set.
    pub const NO_DEVICE: u8 = 7;
    /// A task state segment that is wrong.
    pub const INVALID_TSS: u8 = 10;
    /// A segment that is not present.
    pub const NOT_PRESENT: u8 = 11;
    /// The stack segment.
    pub const STACK: u8 = 12;
    /// General protection.
    pub const PROTECTION: u8 = 13;
    /// A page.
    pub const PAGE: u8 = 14;
    /// An x87 error that is pending.
    pub const X87: u8 = 16;
}

/// An exception that the guest gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its number.
    pub vector: u8,
    /// The error code that is pushed.
    pub code: Option<u32>,
    /// The linear address that goes into CR2.
    pub address: Option<u64>,
}

impl Exception {
    /// One without an error code.
    pub const fn plain(vector: u8) -> Exception {
        Exception { vector, code: None, address: None }
    }

    /// One with an error code, a selector for instance.
    pub const fn coded(vector: u8, code: u32) -> Exception {
        Exception { vector, code: Some(code), address: None }
    }

    /// General protection with error code 0.
    pub const PROTECTION: Exception = Exception::coded(vector::PROTECTION, 0);
    /// No such instruction.
    pub const INVALID_OPCODE: Exception = Exception::plain(vector::INVALID_OPCODE);
}

/// What keeps an instruction from being carried out here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody has written down what it does.
    Unknown,
    /// It is known, but not in this mode or form.
    Form(&'static str),
    /// It reads or writes a physical address without memory.
    NoMemory(u64),
    /// An exception arose while an exception or interrupt was delivered.
    Nested(Exception),
    /// There is no memory to fetch it from.
    NoCode,
    /// The vCPU's state could not be had or set.
    State(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Unknown => f.write_str("it is not among those that are carried out here"),
            Why::Form(form) => write!(f, "it is not carried out {form}"),
            Why::NoMemory(address) => write!(f, "there is no memory at its physical address {address:#x}"),
            Why::Nested(Exception { vector, .. }) => {
                write!(f, "exception {vector} arose on the way to the handler of another exception or interrupt")
            }
            Why::NoCode => f.write_str("there is no memory to fetch it from"),
            Why::State(error) => f.write_str(error),
        }
    }
}

/// Why the course of an instruction was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest gets an exception.
    Exception(Exception),
    /// It cannot be done.
    Refused(Why),
}

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Stop {
        Stop::Exception(exception)
    }
}

impl From<Why> for Stop {
    fn from(why: Why) -> Stop {
        Stop::Refused(why)
    }
}

/// An instruction that cannot be carried out, for the user to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The instruction in words, empty if it is none.
    pub instruction: String,
    /// Its bytes, or those at its address if it is none.
    pub bytes: Vec<u8>,
    /// Its address: RIP.
    pub address: u64,
    /// Why not.
    pub why: Why,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot carry out ")?;
        match self.instruction.as_str() {
            "" => f.write_str("an instruction")?,
            instruction => write!(f, "the instruction {instruction}")?,
        }
        for (at, byte) in self.bytes.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { " (" } else { " " })?;
        }
        let close = if self.bytes.is_empty() { "" } else { ")" };
        write!(f, "{close} at address {:#x}, which KVM refuses: {}", self.address, self.why)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_sentence() {
        let refusal = Refusal {
            instruction: "vpxor ymm0,ymm1,ymm2".into(),
            bytes: vec![0xc5, 0xf5, 0xef, 0xc2],
            address: 0x1000,
            why: Why::Unknown,
        };
        assert_eq!(
            refusal.to_string(),
            "cannot carry out the instruction vpxor ymm0,ymm1,ymm2 (c5 f5 ef c2) at address 0x1000, which KVM refuses: \
             it is not among those that are carried out here"
        );
        let none = Refusal { instruction: String::new(), bytes: vec![], address: 5, why: Why::NoCode };
        assert_eq!(
            none.to_string(),
            "cannot carry out an instruction at address 0x5, which KVM refuses: there is no memory to fetch it from"
        );
    }
}
