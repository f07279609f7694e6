//! Seccomp policy files in the dialect of libminijail: read into a [`Policy`], judged, compiled.
//!
//! `README.md` beside this file describes the dialect. [`parse`] does no input or output: it asks a [`Reader`] for the
//! files that are included.

mod compile;
mod constant;
mod error;
mod lines;
mod load;
mod parse;
mod rule;
#[cfg(test)]
mod tests;

pub use compile::Blocking;
pub use error::{Fault, Place, PolicyError, Warning, WarningKind};
pub use load::{load, read_file};
pub use parse::{Reader, parse};

use super::call::{ARCH_X86_64, Call, X32_BIT};

/// What becomes of calls that the policy does not allow, as far as it matters to the reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They end the process.
    #[default]
    Enforce,
    /// They happen and are logged. Then calls that are not known are skipped, and a bare `return` is refused.
    Log,
}

/// A policy: a verdict for each system call that has a rule. All others are blocked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The rules in the order of the file; no call has two.
    pub rules: Vec<Rule>,
    /// What was accepted and deserves a word.
    pub warnings: Vec<Warning>,
}

/// The rule for one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The number of the call.
    pub call: u32,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Where the rule stands.
    pub place: Place,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The call is allowed.
    Allow,
    /// The call is refused.
    Refuse(Refusal),
    /// The call is allowed if its arguments fulfil all conditions of one of the lists.
    If {
        /// The lists; one at least, and none is empty.
        any: Vec<Vec<Condition>>,
        /// What becomes of it if they do not.
        otherwise: Refusal,
    },
}

/// How a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The block action: the process ends, or the call is logged and happens.
    Block,
    /// The call does not happen and returns this error number, at most 4095; with 0 it seems to have succeeded.
    Errno(u16),
}

/// A condition on one argument, compared as an unsigned number of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// How it is compared.
    pub op: Op,
    /// With what.
    pub value: u64,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `&`: at least one bit of the value is set.
    AnyOf,
    /// `in`: no bit is set that the value does not have.
    NoneBut,
}

impl Condition {
    /// Whether the argument fulfils it.
    pub fn holds(&self, args: &[u64; 6]) -> bool {
        let Some(argument) = args.get(usize::from(self.argument)) else { return false };
        match self.op {
            Op::Equal => *argument == self.value,
            Op::NotEqual => *argument != self.value,
            Op::Less => *argument < self.value,
            Op::LessOrEqual => *argument <= self.value,
            Op::Greater => *argument > self.value,
            Op::GreaterOrEqual => *argument >= self.value,
            Op::AnyOf => argument & self.value != 0,
            Op::NoneBut => argument & !self.value == 0,
        }
    }
}

/// What a policy says to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It happens.
    Allowed,
    /// It is refused.
    Refused(Refusal),
    /// It is of another architecture or of x32, and ends the process also where failures are logged.
    Foreign,
}

impl Policy {
    /// What becomes of a call, by the rules themselves: what a compiled program must agree with.
    pub fn decide(&self, call: &Call) -> Decision {
        if call.arch != ARCH_X86_64 || call.number >= X32_BIT {
            return Decision::Foreign;
        }
        let rule = self.rules.iter().find(|rule| rule.call == call.number);
        match rule.map(|rule| &rule.verdict) {
            None => Decision::Refused(Refusal::Block),
            Some(Verdict::Allow) => Decision::Allowed,
            Some(Verdict::Refuse(refusal)) => Decision::Refused(*refusal),
            Some(Verdict::If { any, otherwise }) => {
                let allowed = any.iter().any(|all| all.iter().all(|condition| condition.holds(&call.args)));
                if allowed { Decision::Allowed } else { Decision::Refused(*otherwise) }
            }
        }
    }
}

/// The text of the built-in policy, for plugins that come with none.
pub const BUILTIN: &str = include_str!("default.policy");

/// How the built-in policy is named where a file would be.
pub const BUILTIN_NAME: &str = "<built-in>";

/// The built-in policy.
///
/// # Errors
/// None; a test reads it.
pub fn builtin(mode: Mode) -> Result<Policy, PolicyError> {
    parse(std::path::Path::new(BUILTIN_NAME), BUILTIN.as_bytes(), mode, &|_| Err(crate::sys::Errno::ENOENT))
}
