//! What stands behind the colon of a rule.

use super::constant;
use super::error::{Fault, Wrong};
use super::lines::{Piece, quote};
use super::{Condition, Mode, Op, Refusal, Verdict};
use crate::jail::call::MAX_ERRNO;

/// Words of the other dialect that stand in the place of a policy.
const OTHER_DIALECT: [&str; 9] =
    ["allow", "kill", "kill-process", "kill-thread", "trap", "trace", "log", "user-notify", "user_notify"];

/// Reads `policy = "1" | ret | expr [ ";" ret ]`.
pub(super) fn verdict(policy: Piece<'_>, mode: Mode) -> Result<Verdict, Wrong> {
    let wrong = |piece: Piece<'_>, fault| Err(Wrong { at: piece.at, fault });
    if policy.text.is_empty() {
        return wrong(policy, Fault::Missing("1, return ERRNO, or conditions on arg0 to arg5"));
    }
    if policy.text == "1" {
        return Ok(Verdict::Allow);
    }
    if let Some(at) = policy.text.find('#') {
        return Err(Wrong { at: policy.at + at, fault: Fault::Comment });
    }
    other_dialect(policy)?;
    if is_return(policy) {
        return refusal(policy, mode).map(Verdict::Refuse);
    }
    let (expression, refused) = match policy.split_once(";") {
        None => (policy, Refusal::Block),
        Some((_, behind)) if behind.text.is_empty() => return wrong(behind, Fault::Missing("return or return ERRNO")),
        Some((_, behind)) if !is_return(behind) => return wrong(behind, Fault::NoReturn(behind.quoted())),
        Some((before, behind)) => (before, refusal(behind, mode)?),
    };
    let any = expression.split("||").map(|conjunction| conjunction.split("&&").map(condition).collect());
    Ok(Verdict::If { any: any.collect::<Result<_, _>>()?, otherwise: refused })
}

fn other_dialect(policy: Piece<'_>) -> Result<(), Wrong> {
    let first = policy.text.split([' ', '\t', ';']).next().unwrap_or_default();
    if OTHER_DIALECT.contains(&first) {
        return Err(Wrong { at: policy.at, fault: Fault::OtherDialect(first.into()) });
    }
    match policy.text.find(['{', '}', '[', ']']) {
        None => Ok(()),
        Some(at) => {
            let bracket = policy.text[at..].chars().take(1).collect();
            Err(Wrong { at: policy.at + at, fault: Fault::OtherDialect(bracket) })
        }
    }
}

fn is_return(piece: Piece<'_>) -> bool {
    piece.text.split([' ', '\t', ';']).next() == Some("return")
}

/// Reads `ret = "return" [ " " constant ]`.
fn refusal(ret: Piece<'_>, mode: Mode) -> Result<Refusal, Wrong> {
    if let Some(at) = ret.text.find(';') {
        return Err(Wrong { at: ret.at + at, fault: Fault::Trailing(quote(&ret.text[at..])) });
    }
    match ret.words()[..] {
        [_] if mode == Mode::Log => Err(Wrong { at: ret.at, fault: Fault::BareReturn }),
        [word] if word.text == "return" => Ok(Refusal::Block),
        [word, constant] if word.text == "return" => {
            let value = constant::value(constant)?;
            match u16::try_from(value) {
                Ok(errno) if errno <= MAX_ERRNO => Ok(Refusal::Errno(errno)),
                _ => Err(Wrong { at: constant.at, fault: Fault::ErrnoRange(constant.quoted()) }),
            }
        }
        [_, _, third, ..] => Err(Wrong { at: third.at, fault: Fault::Trailing(third.quoted()) }),
        // A tab in the place of the space.
        _ => Err(Wrong { at: ret.at, fault: Fault::NoReturn(ret.quoted()) }),
    }
}

/// Reads `atom = "arg" 0..5 " " op " " constant`.
fn condition(atom: Piece<'_>) -> Result<Condition, Wrong> {
    if atom.text.is_empty() {
        return Err(Wrong { at: atom.at, fault: Fault::Missing("a condition such as arg0 == 1") });
    }
    let [argument, operator, value] = atom.words()[..] else {
        return Err(Wrong { at: atom.at, fault: Fault::Condition(atom.quoted()) });
    };
    let index = argument.text.strip_prefix("arg").filter(|digits| digits.len() == 1);
    let index = index.and_then(|digit| digit.parse().ok()).filter(|index| *index <= 5);
    let index = index.ok_or(Wrong { at: argument.at, fault: Fault::Argument(argument.quoted()) })?;
    let op = match operator.text {
        "==" => Op::Equal,
        "!=" => Op::NotEqual,
        "<" => Op::Less,
        "<=" => Op::LessOrEqual,
        ">" => Op::Greater,
        ">=" => Op::GreaterOrEqual,
        "&" => Op::AnyOf,
        "in" => Op::NoneBut,
        _ => return Err(Wrong { at: operator.at, fault: Fault::Operator(operator.quoted()) }),
    };
    Ok(Condition { argument: index, op, value: constant::value(value)? })
}
