//! The compiler of seccomp policies against others that know what a policy means: its own evaluator, the crate seccompiler,
//! and the kernel.

#![allow(missing_docs)]

mod policies;
#[path = "../jail/sys.rs"]
#[allow(dead_code, reason = "only the raw system call is used here")]
mod sys;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use outboard::jail::bpf::{self, Instruction, MAX_INSTRUCTIONS, simulate};
use outboard::jail::call::{ARCH_X86_64, Action, Call, X32_BIT};
use outboard::jail::filter;
use outboard::jail::policy::{self, Blocking, Condition, Fault, Mode, Op, Policy, Verdict};
use outboard::sys::process::{ExitStatus, clone_process, wait};
use outboard::sys::seccomp::{self, Scope};
use policies::{all_calls, drafts, text};
use proptest::prelude::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(128))]

    /// What is written is read as it was meant.
    #[test]
    fn a_policy_survives_being_written_and_read(written in policies::policy(all_calls(), 60, 6)) {
        let read = policy::parse(Path::new("p"), text(&written).as_bytes(), Mode::Enforce, &|_| unreachable!());
        prop_assert_eq!(read.map(|read| read.rules), Ok(written.rules));
    }

    /// Program and policy agree on every call, and the kernel would take the program.
    #[test]
    fn program_and_policy_agree(policy in policies::policy(all_calls(), 120, 6), drafts in drafts(100)) {
        for blocking in [Blocking::Kill, Blocking::Notify, Blocking::Log] {
            let program = compiled(&policy, blocking)?;
            prop_assert_eq!(bpf::check(&program), Ok(()));
            for draft in &drafts {
                let call = draft.fit(&policy);
                let foreign = [
                    Call { arch: 0x4000_0003, ..call },
                    Call { number: call.number | X32_BIT, ..call },
                    Call { number: u32::MAX, ..call },
                ];
                for call in [call].iter().chain(&foreign) {
                    let answer = simulate(&program, call).unwrap().0;
                    prop_assert_eq!(answer, policy.decide(call).action(blocking), "{:x?}", call);
                }
            }
        }
    }

    /// A policy, too, whose program is full of jumps that eight bits cannot hold.
    #[test]
    fn long_programs_agree(policy in policies::policy(all_calls(), 12, 60), drafts in drafts(50)) {
        let program = compiled(&policy, Blocking::Kill)?;
        prop_assert_eq!(bpf::check(&program), Ok(()));
        for call in drafts.iter().map(|draft| draft.fit(&policy)) {
            let answer = simulate(&program, &call).unwrap().0;
            prop_assert_eq!(answer, policy.decide(&call).action(Blocking::Kill), "{:x?}", call);
        }
    }

    /// What stands before a program changes nothing for those who do not know the secret, but that nobody may take back
    /// PR_SET_PDEATHSIG, whose number the kernel reads as 32 bits.
    #[test]
    fn a_guard_changes_nothing_else(
        policy in policies::policy(all_calls(), 40, 4), drafts in drafts(50), secret in any::<u64>()
    ) {
        let program = compiled(&policy, Blocking::Notify)?;
        let guarded = filter::guarded(&program, secret).unwrap();
        prop_assert_eq!(bpf::check(&guarded), Ok(()));
        for call in drafts.iter().map(|draft| draft.fit(&policy)).filter(|call| call.args[5] != secret) {
            let is_taken_back =
                call.number as i64 == libc::SYS_prctl && call.args[0] as i32 == libc::PR_SET_PDEATHSIG;
            let meant = simulate(&program, &call).unwrap().0;
            let wanted = if is_taken_back { Action::Errno(libc::EPERM as u16) } else { meant };
            prop_assert_eq!(simulate(&guarded, &call).unwrap().0, wanted, "{:x?}", call);
        }
    }

    /// The other compiler allows and refuses the same calls, as far as it can say it: it knows one kind of refusal.
    #[test]
    fn the_other_compiler_agrees(policy in policies::policy(all_calls(), 30, 4), drafts in drafts(100)) {
        let (ours, theirs) = (compiled(&policy, Blocking::Kill)?, compiled_by_the_other(&policy));
        prop_assert_eq!(bpf::check(&theirs), Ok(()));
        for call in drafts.iter().map(|draft| draft.fit(&policy)) {
            let (ours, theirs) = (simulate(&ours, &call).unwrap().0, simulate(&theirs, &call).unwrap().0);
            let refused = if let Action::Errno(_) = ours { Action::KillProcess } else { ours };
            prop_assert_eq!(refused, theirs, "{:x?}", call);
        }
    }
}

/// The program of a policy. One that the kernel would not take, for its length, is no case: another is drawn. So may be 1024
/// of them, and the test fails if more are refused.
fn compiled(policy: &Policy, blocking: Blocking) -> Result<Vec<Instruction>, TestCaseError> {
    policy.compile(blocking).map_err(|error| match error.fault {
        Fault::TooLong { total, .. } if total > MAX_INSTRUCTIONS => {
            TestCaseError::reject("longer than the kernel takes")
        }
        _ => TestCaseError::fail(error.to_string()),
    })
}

/// The same policy by seccompiler: all that is not allowed kills.
fn compiled_by_the_other(policy: &Policy) -> Vec<Instruction> {
    let mut rules = BTreeMap::new();
    for rule in &policy.rules {
        let alternatives = match &rule.verdict {
            Verdict::Refuse(_) => continue,
            Verdict::Allow => Vec::new(),
            Verdict::If { any, .. } => {
                let all: Vec<SeccompRule> = any.iter().flat_map(|all| alternatives(all)).collect();
                // An empty list is one without conditions, and allows; nothing that can hold is no rule.
                if all.is_empty() {
                    continue;
                }
                all
            }
        };
        rules.insert(i64::from(rule.call), alternatives);
    }
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    program.iter().map(|one| Instruction { code: one.code, yes: one.jt, no: one.jf, k: one.k }).collect()
}

/// Conditions that all have to hold, as rules of which one has to.
fn alternatives(all: &[Condition]) -> Vec<SeccompRule> {
    let mut lists: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
    for condition in all {
        let one = |op, value| SeccompCondition::new(condition.argument, SeccompCmpArgLen::Qword, op, value).unwrap();
        let choices: Vec<SeccompCondition> = match condition.op {
            Op::Equal => vec![one(SeccompCmpOp::Eq, condition.value)],
            Op::NotEqual => vec![one(SeccompCmpOp::Ne, condition.value)],
            Op::Less => vec![one(SeccompCmpOp::Lt, condition.value)],
            Op::LessOrEqual => vec![one(SeccompCmpOp::Le, condition.value)],
            Op::Greater => vec![one(SeccompCmpOp::Gt, condition.value)],
            Op::GreaterOrEqual => vec![one(SeccompCmpOp::Ge, condition.value)],
            Op::NoneBut => vec![one(SeccompCmpOp::MaskedEq(!condition.value), 0)],
            Op::AnyOf => {
                let bits = (0..64).map(|bit| 1_u64 << bit).filter(|bit| condition.value & bit != 0);
                bits.map(|bit| one(SeccompCmpOp::MaskedEq(bit), bit)).collect()
            }
        };
        let with = |list: &Vec<SeccompCondition>| {
            let list = list.clone();
            choices.clone().into_iter().map(move |choice| [list.clone(), vec![choice]].concat())
        };
        lists = lists.iter().flat_map(with).collect();
    }
    lists.into_iter().map(|list| SeccompRule::new(list).unwrap()).collect()
}

/// Calls without arguments, so that any may be given, and without effect.
fn harmless() -> Vec<u32> {
    ["getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getpgrp", "sched_yield"]
        .map(|name| outboard::jail::syscalls::number(name).unwrap())
        .to_vec()
}

/// Makes the calls under the program in a process of its own, and compares. Those that kill come last, one at a time.
fn by_the_kernel(program: &[Instruction], calls: &[(Call, Action)]) -> Result<(), TestCaseError> {
    let run = |calls: &[(Call, Action)]| {
        let child = clone_process(0, |_| {
            if seccomp::set_no_new_privs().and_then(|()| seccomp::load(program, Scope::Process, false)).is_err() {
                return 99;
            }
            let wrong = calls.iter().position(|(call, action)| {
                let result = sys::call(call.number.into(), call.args);
                match action {
                    Action::Allow | Action::Errno(0) => result.is_err(),
                    Action::Errno(errno) => !result.is_err_and(|e| e.raw_os_error() == Some((*errno).into())),
                    _ => true,
                }
            });
            wrong.map_or(0, |_| 1)
        });
        wait(child.unwrap().pidfd.as_fd()).unwrap()
    };
    let (kills, others): (Vec<_>, Vec<_>) = calls.iter().partition(|(_, action)| *action == Action::KillProcess);
    prop_assert_eq!(run(&others), ExitStatus::Exited(0), "{:x?}", others);
    for kill in kills.into_iter().take(2) {
        let ended = run(&[kill]);
        let by_filter = matches!(ended, ExitStatus::Signaled { signo: libc::SIGSYS, .. });
        prop_assert!(by_filter, "{:?} {:x?}", ended, kill);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(48))]

    /// The kernel does what the policy says.
    #[test]
    fn the_kernel_agrees(mut policy in policies::policy(harmless(), 9, 5), drafts in drafts(30)) {
        // A call of another number could do anything; those here are of the policy.
        let calls: Vec<Call> = drafts.iter().map(|draft| draft.fit(&policy)).collect();
        let known = harmless();
        let end = policy::parse(Path::new("p"), b"exit_group: 1", Mode::Enforce, &|_| unreachable!()).unwrap();
        policy.rules.extend(end.rules);
        let calls: Vec<(Call, Action)> = calls
            .into_iter()
            .filter(|call| known.contains(&call.number))
            .map(|call| (call, policy.decide(&call).action(Blocking::Kill)))
            .collect();
        by_the_kernel(&compiled(&policy, Blocking::Kill)?, &calls)?;
    }
}

#[test]
fn a_foreign_number_is_killed_by_the_kernel() {
    let text = b"getpid: 1\nexit_group: 1";
    let policy = policy::parse(Path::new("p"), text, Mode::Enforce, &|_| unreachable!()).unwrap();
    for blocking in [Blocking::Kill, Blocking::Log] {
        let program = policy.compile(blocking).unwrap();
        let x32 = Call { arch: ARCH_X86_64, ..Call::new(39 | X32_BIT, [0; 6]) };
        by_the_kernel(&program, &[(Call::new(39, [0; 6]), Action::Allow), (x32, Action::KillProcess)]).unwrap();
    }
}
