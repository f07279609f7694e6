//! Logical lines: what is left of a file once continued lines are joined.

use std::path::Path;

use super::error::{Fault, Place, PolicyError};

/// A line of a policy, joined from one or more lines of its file.
pub(super) struct Line<'a> {
    file: &'a Path,
    bytes: Vec<u8>,
    /// Where each line of the file begins: the offset in `bytes`, and the number of the line.
    starts: Vec<(usize, u32)>,
}

impl Line<'_> {
    /// The text, or the offset of the first byte that is none.
    pub fn text(&self) -> Result<&str, usize> {
        std::str::from_utf8(&self.bytes).map_err(|error| error.valid_up_to())
    }

    /// The bytes without blanks around, to tell comments and empty lines, which need not be text.
    pub fn stripped(&self) -> &[u8] {
        let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
        let first = self.bytes.iter().take_while(is_blank).count();
        let last = self.bytes.iter().rev().take_while(is_blank).count();
        self.bytes.get(first..self.bytes.len() - last).unwrap_or(&[])
    }

    /// The place of a byte of the text.
    pub fn place(&self, at: usize) -> Place {
        let start = self.starts.iter().rev().find(|(offset, _)| *offset <= at);
        let (offset, line) = start.copied().unwrap_or((0, 1));
        Place { file: self.file.to_owned(), line, column: (at - offset) as u32 + 1 }
    }

    /// A fault at a byte of the text.
    pub fn error(&self, at: usize, fault: Fault) -> PolicyError {
        PolicyError { place: self.place(at), fault }
    }
}

/// The logical lines of a file: `\` at the end of a line and the newline become one space. Comments are not known here:
/// one that ends in `\` swallows the next line.
pub(super) fn lines<'a>(file: &'a Path, bytes: &[u8]) -> Result<Vec<Line<'a>>, PolicyError> {
    let whole = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let (mut lines, mut open) = (Vec::new(), None);
    for (number, line) in (1u32..).zip(whole.split(|byte| *byte == b'\n')) {
        let mut joined = open.take().unwrap_or(Line { file, bytes: Vec::new(), starts: Vec::new() });
        joined.starts.push((joined.bytes.len(), number));
        match line.strip_suffix(b"\\") {
            Some(part) => {
                joined.bytes.extend([part, b" "].concat());
                open = Some(joined);
            }
            None => {
                joined.bytes.extend(line);
                lines.push(joined);
            }
        }
    }
    match open {
        Some(line) => Err(line.error(line.bytes.len().saturating_sub(1), Fault::OpenEnd)),
        None => Ok(lines),
    }
}

/// A part of a line's text that knows where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub text: &'a str,
    /// Offset in the line.
    pub at: usize,
}

impl<'a> Piece<'a> {
    /// The whole of a text.
    pub fn of(text: &'a str) -> Piece<'a> {
        Piece { text, at: 0 }
    }

    /// The text, fit for a message.
    pub fn quoted(self) -> String {
        quote(self.text)
    }

    /// Without the spaces and tabs around.
    pub fn trim(self) -> Piece<'a> {
        let blanks = [' ', '\t'];
        let text = self.text.trim_start_matches(blanks);
        Piece { at: self.at + self.text.len() - text.len(), text: text.trim_end_matches(blanks) }
    }

    /// What stands before and behind the first `separator`, both trimmed.
    pub fn split_once(self, separator: &str) -> Option<(Piece<'a>, Piece<'a>)> {
        let (before, behind) = self.text.split_once(separator)?;
        let rest = Piece { text: behind, at: self.at + before.len() + separator.len() };
        Some((Piece { text: before, at: self.at }.trim(), rest.trim()))
    }

    /// The parts between separators, trimmed; one at least.
    pub fn split(self, separator: &'static str) -> impl Iterator<Item = Piece<'a>> {
        self.split_raw(separator).map(Piece::trim)
    }

    /// The words between runs of spaces.
    pub fn words(self) -> Vec<Piece<'a>> {
        self.split_raw(" ").filter(|word| !word.text.is_empty()).collect()
    }

    fn split_raw(self, separator: &'static str) -> impl Iterator<Item = Piece<'a>> {
        let mut at = self.at;
        self.text.split(separator).map(move |text| {
            let piece = Piece { text, at };
            at += text.len() + separator.len();
            piece
        })
    }
}

/// A text as a message shows it: on one line, and not at length.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}
