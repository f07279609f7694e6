//! Seccomp policies: read, judged, compiled, and the program compared with the policy call by call.
//!
//! The first byte chooses the mode and how calls are blocked; then comes the policy, and behind a byte 0xff each of the files
//! that it may include under the names `./1`, `./2` and so on.

use std::path::Path;

use outboard::jail::bpf::{self, simulate};
use outboard::jail::call::{Call, X32_BIT};
use outboard::jail::filter;
use outboard::jail::policy::{self, Blocking, Mode, Op, Policy, Verdict};
use outboard::sys::Errno;

use crate::assert_sentence;

/// Most rules that are compared, so that a long policy takes no longer than a search can bear.
const COMPARED: usize = 48;

/// The target.
pub fn policy(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else { return };
    let mode = if choice & 1 == 0 { Mode::Enforce } else { Mode::Log };
    let blocking = [Blocking::Kill, Blocking::Notify, Blocking::Log][usize::from(choice >> 1) % 3];
    let files: Vec<&[u8]> = text.split(|byte| *byte == 0xff).collect();
    let included = |path: &Path| {
        let number = path.to_str().and_then(|path| path.strip_prefix("./")?.parse::<usize>().ok());
        number.and_then(|number| files[1..].get(number.checked_sub(1)?)).map(|file| file.to_vec()).ok_or(Errno::ENOENT)
    };
    let read = match policy::parse(Path::new("p"), files[0], mode, &included) {
        Ok(read) => read,
        Err(error) => return assert_sentence(&error.to_string()),
    };
    read.warnings.iter().for_each(|warning| assert_sentence(&warning.to_string()));
    let program = match read.compile(blocking) {
        Ok(program) => program,
        Err(error) => return assert_sentence(&error.to_string()),
    };
    assert_eq!(bpf::check(&program), Ok(()));
    assert!(program.len() <= bpf::MAX_INSTRUCTIONS);
    assert_eq!(bpf::from_bytes(bpf::to_bytes(&program)).as_deref(), Ok(&program[..]));
    assert!(bpf::listing(&program).lines().count() >= program.len());
    for call in calls(&read) {
        let answer = simulate(&program, &call).expect("a checked program ends").0;
        assert_eq!(answer, read.decide(&call).action(blocking), "{call:x?}");
    }
    if let Some(guarded) = filter::guarded(&program, 0x5eed) {
        assert_eq!(bpf::check(&guarded), Ok(()));
    }
}

/// Calls around what the rules compare: each number and its neighbours, each value, one more and one less, and with bits that
/// a comparison of 32 bits would not see.
fn calls(policy: &Policy) -> Vec<Call> {
    let mut calls = vec![Call { arch: 0x4000_0003, ..Call::new(1, [0; 6]) }, Call::new(u32::MAX, [0; 6])];
    for rule in policy.rules.iter().take(COMPARED) {
        let numbers = [rule.call, rule.call + 1, rule.call.wrapping_sub(1), rule.call | X32_BIT];
        calls.extend(numbers.map(|number| Call::new(number, [0; 6])));
        let Verdict::If { any, .. } = &rule.verdict else { continue };
        for list in any.iter().take(8) {
            // All that the list asks for at once, where that is as easy as it looks; then one thing astray at a time.
            let mut args = [0; 6];
            for condition in list {
                args[usize::from(condition.argument) % 6] = match condition.op {
                    Op::Less => condition.value.wrapping_sub(1),
                    Op::Greater | Op::NotEqual => condition.value.wrapping_add(1),
                    _ => condition.value,
                };
            }
            calls.push(Call::new(rule.call, args));
            for condition in list.iter().take(8) {
                let value = condition.value;
                let near = [value, value.wrapping_add(1), value.wrapping_sub(1), !value];
                for other in near.into_iter().chain([value ^ 1 << 32, value ^ 1 << 63, value << 32, value >> 32]) {
                    let mut args = args;
                    args[usize::from(condition.argument) % 6] = other;
                    calls.push(Call::new(rule.call, args));
                }
            }
        }
    }
    calls
}
