//! The guide in README.md shows code that is part of the machine, word for word.

use std::fs;
use std::path::Path;

/// Code blocks of the guide, without the indentation of a list.
fn blocks(text: &str) -> Vec<String> {
    let (mut blocks, mut block) = (Vec::new(), None::<String>);
    for line in text.lines() {
        match &mut block {
            None if line.trim_start() == "```rust" => block = Some(String::new()),
            None => {}
            Some(_) if line.trim_start() == "```" => blocks.extend(block.take()),
            Some(code) => *code += &format!("{line}\n"),
        }
    }
    blocks
}

#[test]
fn its_code_is_the_machines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("README.md")).expect("the guide");
    let sources =
        ["src/device/post.rs", "src/machine.rs"].map(|file| fs::read_to_string(root.join(file)).expect("a file"));
    let blocks = blocks(&guide);
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        assert!(sources.iter().any(|source| source.contains(&block)), "no source holds:\n{block}");
    }
}
