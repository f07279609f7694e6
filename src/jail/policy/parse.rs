//! A whole policy file, and those that it includes.

use std::path::Path;

use super::error::{Fault, Place, PolicyError, Warning, WarningKind, Wrong};
use super::lines::{Line, Piece, lines, quote};
use super::rule;
use super::{Mode, Policy, Rule, Verdict};
use crate::jail::syscalls;
use crate::sys::Errno;

/// Gives the bytes of the file at a path that stands behind `@include`, or why it cannot.
pub type Reader<'a> = dyn Fn(&Path) -> Result<Vec<u8>, Errno> + 'a;

/// Reads the policy in `bytes`. `file` names it in errors; `reader` reads what it includes.
///
/// # Errors
/// [`PolicyError`]: the place and one sentence.
pub fn parse(file: &Path, bytes: &[u8], mode: Mode, reader: &Reader<'_>) -> Result<Policy, PolicyError> {
    let mut parser = Parser { mode, reader, policy: Policy::default() };
    parser.file(file, bytes, Depth::Top)?;
    if parser.policy.rules.is_empty() {
        let place = Place { file: file.to_owned(), line: 1, column: 1 };
        return Err(PolicyError { place, fault: Fault::Empty });
    }
    Ok(parser.policy)
}

/// Whether a file may include others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Top,
    Included,
}

struct Parser<'a> {
    mode: Mode,
    reader: &'a Reader<'a>,
    policy: Policy,
}

impl Parser<'_> {
    fn file(&mut self, file: &Path, bytes: &[u8], depth: Depth) -> Result<(), PolicyError> {
        lines(file, bytes)?.iter().try_for_each(|line| self.line(line, depth))
    }

    fn line(&mut self, line: &Line<'_>, depth: Depth) -> Result<(), PolicyError> {
        if matches!(line.stripped().first(), None | Some(b'#')) {
            return Ok(());
        }
        let text = line.text().map_err(|at| line.error(at, Fault::NotText))?;
        let stripped = Piece::of(text).trim();
        if stripped.text.starts_with('@') {
            return self.directive(line, stripped, depth);
        }
        self.rule(line, stripped).map_err(|Wrong { at, fault }| line.error(at, fault))
    }

    fn directive(&mut self, line: &Line<'_>, whole: Piece<'_>, depth: Depth) -> Result<(), PolicyError> {
        let end = whole.text.find([' ', '\t']).unwrap_or(whole.text.len());
        let (word, rest) = whole.text.split_at(end);
        let path = Piece { text: rest, at: whole.at + end }.trim();
        match word {
            "@frequency" => {
                self.warn(line.place(whole.at), WarningKind::Frequency);
                Ok(())
            }
            "@include" if depth == Depth::Included => Err(line.error(whole.at, Fault::NestedInclude)),
            "@include" if !path.text.starts_with('/') && !path.text.starts_with("./") => {
                Err(line.error(path.at, Fault::IncludePath))
            }
            "@include" => {
                let file = Path::new(path.text);
                let bytes = (self.reader)(file)
                    .map_err(|errno| line.error(path.at, Fault::Unreadable { path: file.to_owned(), errno }))?;
                self.file(file, &bytes, Depth::Included)
            }
            "@default" | "@denylist" => Err(line.error(whole.at, Fault::OtherDialect(word.into()))),
            _ => Err(line.error(whole.at, Fault::UnknownDirective(quote(word)))),
        }
    }

    fn rule(&mut self, line: &Line<'_>, text: Piece<'_>) -> Result<(), Wrong> {
        let Some((name, policy)) = text.split_once(":") else {
            return Err(Wrong { at: text.at, fault: Fault::NoColon });
        };
        if name.text.is_empty() {
            return Err(Wrong { at: name.at, fault: Fault::NoName });
        }
        let place = line.place(name.at);
        let Some(call) = syscalls::number(name.text) else {
            if self.mode == Mode::Log {
                self.warn(place, WarningKind::UnknownCall(name.quoted()));
                return Ok(());
            }
            return Err(Wrong { at: name.at, fault: Fault::UnknownCall(name.quoted()) });
        };
        if let Some(first) = self.policy.rules.iter().find(|rule| rule.call == call) {
            let fault = Fault::Twice { name: name.text.into(), first: first.place.clone() };
            return Err(Wrong { at: name.at, fault });
        }
        let verdict = rule::verdict(policy, self.mode)?;
        if matches!(verdict, Verdict::If { .. }) && policy.text.contains(';') {
            self.warn(line.place(policy.at), WarningKind::ExpressionReturn);
        }
        self.policy.rules.push(Rule { call, verdict, place });
        Ok(())
    }

    fn warn(&mut self, place: Place, kind: WarningKind) {
        self.policy.warnings.push(Warning { place, kind });
    }
}
