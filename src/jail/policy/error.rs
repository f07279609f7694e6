//! What can be wrong in a policy file, and where.

use std::fmt;
use std::path::PathBuf;

use crate::jail::bpf::MAX_INSTRUCTIONS;
use crate::sys::Errno;

/// A place in a file. It displays as `FILE:LINE:COLUMN`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u32,
    /// The byte in the line, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A fault, and the offset in the line where it is.
#[derive(Debug)]
pub(super) struct Wrong {
    pub at: usize,
    pub fault: Fault,
}

/// Why a policy is refused: the place, and one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct PolicyError {
    /// Where.
    pub place: Place,
    /// Why.
    pub fault: Fault,
}

/// What is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file, or one that it includes, cannot be read.
    #[error("cannot read the policy {}: {errno}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// There is no rule in the file and what it includes.
    #[error("the policy is empty: expected at least one rule `name: policy`")]
    Empty,
    /// The file ends in a line that is to be continued.
    #[error("the file ends after `\\`: expected a line that continues this one")]
    OpenEnd,
    /// A line that is no comment holds bytes that are not UTF-8.
    #[error("the line holds bytes that are not text: expected a rule in ASCII")]
    NotText,
    /// An `@` word that this dialect does not have.
    #[error("unknown directive `{0}`: expected @include or @frequency")]
    UnknownDirective(String),
    /// A word of the dialect that minijail's offline compiler reads.
    #[error(
        "`{0}` belongs to the dialect of minijail's offline compiler: expected 1, return ERRNO, or conditions on arg0 to \
         arg5; what is not listed is refused"
    )]
    OtherDialect(String),
    /// An `@include` within an included file.
    #[error("an included file cannot include others: expected rules only")]
    NestedInclude,
    /// The path of an `@include` is not one that may stand there.
    #[error("expected the path of a policy file behind @include, beginning with / or ./")]
    IncludePath,
    /// A line without a colon.
    #[error("there is no colon in this line: expected `name: policy`")]
    NoColon,
    /// Nothing before the colon.
    #[error("expected the name of a system call before the colon")]
    NoName,
    /// Not the name of a system call.
    #[error("`{0}` is no system call of x86-64: expected a name as in syscalls(2)")]
    UnknownCall(String),
    /// A system call has two rules.
    #[error("`{name}` has a rule already, at {first}: expected one rule a system call")]
    Twice {
        /// The call.
        name: String,
        /// Its first rule.
        first: Place,
    },
    /// `#` behind a rule.
    #[error("a comment cannot stand behind a rule: expected it on a line of its own")]
    Comment,
    /// Nothing behind the colon, or an empty part of a condition.
    #[error("nothing stands here: expected {0}")]
    Missing(&'static str),
    /// A condition that is not of three words.
    #[error("`{0}` is no condition: expected three words as in `arg0 == 1`, with spaces between")]
    Condition(String),
    /// The first word of a condition.
    #[error("`{0}` is no argument: expected arg0 to arg5")]
    Argument(String),
    /// The second word of a condition.
    #[error("`{0}` is no comparison: expected ==, !=, <, <=, >, >=, & or in")]
    Operator(String),
    /// A name that stands for no constant.
    #[error("`{0}` is no constant that is known here: expected a name such as O_RDONLY, or a number")]
    UnknownConstant(String),
    /// Digits that are no number.
    #[error("`{0}` is no number: expected decimal, octal (0...) or hexadecimal (0x...) digits")]
    Number(String),
    /// A number that does not fit.
    #[error("`{0}` does not fit 64 bits: expected -0x8000000000000000 to 0xffffffffffffffff")]
    NumberRange(String),
    /// A term of a constant is missing, or something else stands in its place.
    #[error("expected a constant here: NAME, number or parentheses, with ~ before and | between")]
    Term,
    /// Something behind a whole constant.
    #[error("`{0}` cannot follow a constant: expected | or the end")]
    AfterConstant(String),
    /// An opening parenthesis without its end.
    #[error("this parenthesis is never closed: expected )")]
    OpenParenthesis,
    /// Parentheses within parentheses without end.
    #[error("parentheses are nested too deeply: expected at most {0}")]
    TooDeep(usize),
    /// Something behind a whole policy.
    #[error("`{0}` cannot stand here: expected the end of the line")]
    Trailing(String),
    /// Behind a semicolon.
    #[error("`{0}` cannot follow `;`: expected return or return ERRNO")]
    NoReturn(String),
    /// Not an error number.
    #[error("{0} is no error number: expected 0 to 4095 behind return")]
    ErrnoRange(String),
    /// A bare `return` asks for the kill that logging forgoes.
    #[error("a return without an error number has no meaning when failures are logged: expected return ERRNO")]
    BareReturn,
    /// The program is longer than the kernel takes.
    #[error(
        "the policy needs {total} instructions of BPF, {longest} of them for this rule: expected at most {MAX_INSTRUCTIONS}"
    )]
    TooLong {
        /// Instructions of the whole.
        total: usize,
        /// Those of the rule that has most.
        longest: usize,
    },
}

/// Something that is accepted and deserves a word. It displays as `PLACE: sentence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// What.
    pub kind: WarningKind,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.kind)
    }
}

/// What a warning is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WarningKind {
    /// `@frequency`.
    #[error("@frequency is ignored: the order of checks is chosen here")]
    Frequency,
    /// `expr; return E`.
    #[error(
        "what fulfils the conditions before `; return` is allowed and all else gets the error; minijail's offline compiler \
         takes such a line the other way round"
    )]
    ExpressionReturn,
    /// A call that is not known, when failures are logged.
    #[error("`{0}` is no system call of x86-64: the line is skipped")]
    UnknownCall(String),
}
