//! Compares numbers with what the C compiler makes of the installed headers.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::Command;

/// A C expression, what it should be, and the macro without which it is skipped.
pub struct Check {
    /// The expression.
    pub expression: String,
    /// Its value as an `unsigned long long`.
    pub expected: u64,
    /// What has to be defined.
    pub needs: Option<String>,
}

impl Check {
    /// A macro that is skipped where there is none of that name.
    pub fn constant(&(name, expected): &(&'static str, u64)) -> Self {
        Self { expression: name.into(), expected, needs: Some(name.into()) }
    }
}

/// A program that prints the number of each check and its value.
fn program(headers: &[&str], checks: &[Check]) -> String {
    let mut c = String::from("#define _GNU_SOURCE\n#include <stdio.h>\n");
    for header in headers {
        writeln!(c, "#include <{header}>").unwrap();
    }
    c.push_str("int main(void)\n{\n");
    for (number, check) in checks.iter().enumerate() {
        let print = format!("printf(\"{number} %llu\\n\", (unsigned long long)({}));", check.expression);
        match &check.needs {
            Some(name) => writeln!(c, "#ifdef {name}\n\t{print}\n#endif").unwrap(),
            None => writeln!(c, "\t{print}").unwrap(),
        }
    }
    c + "\treturn 0;\n}\n"
}

/// Compiles and runs it: what it printed, by number.
fn values(headers: &[&str], checks: &[Check]) -> HashMap<usize, u64> {
    let dir = tempfile::tempdir().unwrap();
    let (source, binary) = (dir.path().join("abi.c"), dir.path().join("abi"));
    std::fs::write(&source, program(headers, checks)).unwrap();
    let cc = Command::new("cc").arg("-o").arg(&binary).arg(&source).output().expect("a C compiler named cc");
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    let output = Command::new(&binary).output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    let pairs = lines.lines().map(|line| line.split_once(' ').unwrap());
    pairs.map(|(number, value)| (number.parse().unwrap(), value.parse().unwrap())).collect()
}

/// Asserts that all values are as expected; returns how many checks were skipped.
#[track_caller]
pub fn compare(headers: &[&str], checks: &[Check]) -> usize {
    let values = values(headers, checks);
    let (mut wrong, mut skipped) = (String::new(), Vec::new());
    for (number, Check { expression, expected, .. }) in checks.iter().enumerate() {
        match values.get(&number) {
            None => skipped.push(expression.as_str()),
            Some(value) if value == expected => {}
            Some(value) => writeln!(wrong, "{expression}: {expected:#x} here, {value:#x} in C").unwrap(),
        }
    }
    println!("{} compared, {} skipped: {}", values.len(), skipped.len(), skipped.join(" "));
    assert!(wrong.is_empty(), "\n{wrong}");
    skipped.len()
}
