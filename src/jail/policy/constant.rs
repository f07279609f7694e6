//! The value of a constant expression: names, numbers, `~`, `|`, parentheses.

use super::error::{Fault, Wrong};
use super::lines::Piece;
use crate::jail::constants;

/// How deeply parentheses may be nested; real policies have one level.
pub(super) const MAX_DEPTH: usize = 32;

/// Computes `constant = term { "|" term }`, `term = ["~"] ( NAME | number | "(" constant ")" )`.
pub(super) fn value(word: Piece<'_>) -> Result<u64, Wrong> {
    let mut reader = Reader { text: word.text, at: word.at };
    let value = reader.constant(0)?;
    match reader.text.chars().next() {
        None => Ok(value),
        Some(other) => Err(reader.wrong(Fault::AfterConstant(other.escape_debug().to_string()))),
    }
}

/// The rest of a word, and where in its line it begins.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn constant(&mut self, depth: usize) -> Result<u64, Wrong> {
        let mut value = self.term(depth)?;
        while self.takes('|') {
            value |= self.term(depth)?;
        }
        Ok(value)
    }

    fn term(&mut self, depth: usize) -> Result<u64, Wrong> {
        let inverted = self.takes('~');
        let opened = self.at;
        let value = if self.takes('(') {
            if depth == MAX_DEPTH {
                return Err(Wrong { at: opened, fault: Fault::TooDeep(MAX_DEPTH) });
            }
            let value = self.constant(depth + 1)?;
            if !self.takes(')') {
                return Err(match self.text.chars().next() {
                    Some(other) => self.wrong(Fault::AfterConstant(other.escape_debug().to_string())),
                    None => Wrong { at: opened, fault: Fault::OpenParenthesis },
                });
            }
            value
        } else {
            self.name_or_number()?
        };
        Ok(if inverted { !value } else { value })
    }

    fn name_or_number(&mut self) -> Result<u64, Wrong> {
        let at = self.at;
        let negative = self.takes('-');
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.text.find(|c| !is_part(c)).unwrap_or(self.text.len());
        let (word, rest) = self.text.split_at(end);
        (self.text, self.at) = (rest, self.at + end);
        let said = format!("{}{word}", if negative { "-" } else { "" });
        let fault = match word.bytes().next() {
            None => Fault::Term,
            Some(b'0'..=b'9') => match number(word, negative) {
                Ok(value) => return Ok(value),
                Err(BadNumber::Digits) => Fault::Number(said),
                Err(BadNumber::Range) => Fault::NumberRange(said),
            },
            Some(_) if negative => Fault::Number(said),
            Some(_) => match constants::value(word) {
                Some(value) => return Ok(value),
                None => Fault::UnknownConstant(said),
            },
        };
        Err(Wrong { at, fault })
    }

    fn takes(&mut self, c: char) -> bool {
        let Some(rest) = self.text.strip_prefix(c) else { return false };
        (self.text, self.at) = (rest, self.at + c.len_utf8());
        true
    }

    fn wrong(&self, fault: Fault) -> Wrong {
        Wrong { at: self.at, fault }
    }
}

enum BadNumber {
    Digits,
    Range,
}

/// A number in C's notation, as the 64 bits of an argument.
fn number(word: &str, negative: bool) -> Result<u64, BadNumber> {
    let (digits, radix) = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if word.len() > 1 && word.starts_with('0') => (&word[1..], 8),
        None => (word, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(BadNumber::Digits);
    }
    let magnitude = u64::from_str_radix(digits, radix).map_err(|_| BadNumber::Range)?;
    match negative {
        false => Ok(magnitude),
        true if magnitude > 1 << 63 => Err(BadNumber::Range),
        true => Ok(magnitude.wrapping_neg()),
    }
}
