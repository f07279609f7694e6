//! Reads Rust: tells code from comments and literals, and finds the paths in it.

/// The text with comments, strings and character literals blanked out; lines stay where they are.
pub fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match end_of_no_code(bytes, at) {
            Some(end) => end.min(bytes.len()),
            None => {
                code.push(bytes[at]);
                at += 1;
                continue;
            }
        };
        code.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    String::from_utf8(code).expect("what is not ASCII stands in comments and strings only, or is kept whole")
}

/// Where the comment or literal ends that begins at `at`, if one does.
pub fn end_of_no_code(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let find = |from: usize, what: &[u8]| {
        let found = bytes[from..].windows(what.len()).position(|window| window == what);
        found.map_or(bytes.len(), |place| from + place + what.len())
    };
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return Some(find(at, b"\n") - 1);
    }
    if rest.starts_with(b"/*") {
        return Some(find(at, b"*/"));
    }
    if rest.starts_with(b"r#\"") && !in_word {
        return Some(find(at + 3, b"\"#"));
    }
    if rest.starts_with(b"r\"") && !in_word {
        return Some(find(at + 2, b"\""));
    }
    if rest[0] == b'"' {
        let mut end = at + 1;
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        return Some(end + 1);
    }
    // A quote begins a character only if one ends it; else it is a lifetime.
    if rest[0] == b'\'' && rest.len() > 2 {
        if rest[1] == b'\\' {
            return Some(find(at + 3, b"'"));
        }
        let ends = (2..=5).find(|end| rest.get(*end) == Some(&b'\''))?;
        return std::str::from_utf8(&rest[1..ends])
            .ok()
            .filter(|text| text.chars().count() == 1)
            .map(|_| at + ends + 1);
    }
    None
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The places where a word stands by itself.
pub fn words_at(code: &str, word: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let alone = |at: usize| {
        let before = at == 0 || !is_word(bytes[at - 1]);
        before && bytes.get(at + word.len()).is_none_or(|byte| !is_word(*byte))
    };
    code.match_indices(word).map(|(at, _)| at).filter(|at| alone(*at)).collect()
}

pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The paths behind each `prefix::`, every one of a group `prefix::{a, b::{c, d}}`.
pub fn paths_behind(code: &str, prefix: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for at in words_at(code, prefix) {
        let rest = code[at + prefix.len()..].trim_start();
        if let Some(tree) = rest.strip_prefix("::") {
            spread(tree.trim_start(), &mut Vec::new(), &mut paths);
        }
    }
    paths
}

/// Adds the paths of a use tree, each with `before` in front.
fn spread(tree: &str, before: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    for branch in branches(tree) {
        let name: String = branch.chars().take_while(|c| c.is_ascii() && is_word(*c as u8)).collect();
        if name.is_empty() {
            // A star, or the end of what is a path.
            paths.push(before.clone());
            continue;
        }
        let rest = branch[name.len()..].trim_start().strip_prefix("::").map(str::trim_start);
        before.push(name);
        match rest {
            Some(rest) => spread(rest, before, paths),
            None => paths.push(before.clone()),
        }
        before.pop();
    }
}

/// The parts of a use tree: itself, or what a group holds at its first level.
fn branches(tree: &str) -> Vec<String> {
    let Some(group) = tree.strip_prefix('{') else { return vec![tree.to_owned()] };
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            _ => {}
        }
        if c != ',' || depth > 0 {
            parts.last_mut().expect("one part at least").push(c);
        }
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

#[test]
fn the_reader_tells_code_from_the_rest() {
    let text =
        "let a = \"unsafe \\\" {\"; // unsafe\n/* unsafe */ let c = '\"'; fn f<'a>() { unsafe {} }\nr#\"unsafe\"# 'x'";
    let code = code_of(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(words_at(&code, "unsafe").len(), 1);
    assert_eq!(line_of(&code, words_at(&code, "unsafe")[0]), 2);
    let paths = paths_behind("use crate::{a::b, c::{d, e}}; crate :: f(); xcrate::g", "crate");
    assert_eq!(paths, [vec!["a", "b"], vec!["c", "d"], vec!["c", "e"], vec!["f"]]);
}
