//! A policy as a program of BPF.
//!
//! The program checks the architecture, kills what is foreign, looks for the hot calls in turn, and finds all others by a
//! balanced tree over the numbers, in which neighbours with the same answer are one leaf. A call that is allowed whatever
//! its arguments costs nothing at all on Linux 5.11 and later: the kernel finds out when the filter is loaded, and does
//! not run the program for it. So hot are those whose arguments are looked at.

use std::collections::HashMap;

use super::error::{Fault, PolicyError};
use super::{Condition, Decision, Op, Policy, Refusal, Rule, Verdict};
use crate::jail::bpf::{AssembleError, Assembler, Instruction, Label, Target, Test};
use crate::jail::call::{ARCH_X86_64, Action, X32_BIT};
use crate::jail::syscalls;

/// Calls that programs make often and policies look into, the most frequent first.
const HOT: [&str; 8] = ["futex", "ioctl", "mmap", "madvise", "mprotect", "fcntl", "prctl", "clone"];

/// What becomes of calls that are blocked. Those of another architecture, and those of x32, kill the process in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// They kill the process.
    Kill,
    /// They wait for whoever holds the filter's listener.
    Notify,
    /// They happen and are logged.
    Log,
}

impl Blocking {
    /// What the filter answers to them.
    pub fn action(self) -> Action {
        match self {
            Blocking::Kill => Action::KillProcess,
            Blocking::Notify => Action::Notify,
            Blocking::Log => Action::Log,
        }
    }
}

impl Decision {
    /// What a filter made with this `blocking` answers where the policy decides so.
    pub fn action(self, blocking: Blocking) -> Action {
        match self {
            Decision::Allowed => Action::Allow,
            Decision::Refused(Refusal::Errno(errno)) => Action::Errno(errno),
            Decision::Refused(Refusal::Block) => blocking.action(),
            Decision::Foreign => Action::KillProcess,
        }
    }
}

impl Policy {
    /// Compiles the policy.
    ///
    /// # Errors
    /// [`Fault::TooLong`], at the rule that needs most instructions.
    pub fn compile(&self, blocking: Blocking) -> Result<Vec<Instruction>, PolicyError> {
        let mut compiler = Compiler::new(blocking);
        compiler.program(&self.rules);
        compiler.assembler.assemble().map_err(|error| self.too_long(error))
    }

    fn too_long(&self, error: AssembleError) -> PolicyError {
        let AssembleError::TooLong(total) = error else { unreachable!("the compiler places every label it uses") };
        let length = |rule: &&Rule| {
            let mut compiler = Compiler::new(Blocking::Kill);
            compiler.body(&rule.verdict);
            compiler.answers();
            match compiler.assembler.assemble() {
                Ok(program) => program.len(),
                Err(AssembleError::TooLong(length)) => length,
                Err(AssembleError::Target) => 0,
            }
        };
        let longest = self.rules.iter().max_by_key(length).expect("a policy has a rule");
        PolicyError { place: longest.place.clone(), fault: Fault::TooLong { total, longest: length(&longest) } }
    }
}

/// Where the search for a number ends.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Leaf {
    /// The first number that ends there; the first of the next leaf is the next that does not.
    first: u32,
    label: Label,
}

struct Compiler<'a> {
    assembler: Assembler,
    blocking: Blocking,
    /// The answers in use.
    answers: Vec<(Action, Label)>,
    /// The verdicts that look at arguments; the same one stands once.
    bodies: HashMap<&'a [Vec<Condition>], Vec<(Refusal, Label)>>,
    pending: Vec<(&'a Verdict, Label)>,
}

impl<'a> Compiler<'a> {
    fn new(blocking: Blocking) -> Compiler<'a> {
        let assembler = Assembler::new();
        Compiler { assembler, blocking, answers: Vec::new(), bodies: HashMap::new(), pending: Vec::new() }
    }

    fn program(&mut self, rules: &'a [Rule]) {
        let kill = self.answer(Action::KillProcess);
        self.assembler.load(4);
        self.assembler.branch(Test::Equal, ARCH_X86_64, Target::Next, Target::To(kill));
        self.assembler.load(0);
        self.assembler.branch(Test::GreaterOrEqual, X32_BIT, Target::To(kill), Target::Next);
        for number in HOT.into_iter().filter_map(syscalls::number) {
            let looked_into = |rule: &&Rule| rule.call == number && matches!(rule.verdict, Verdict::If { .. });
            if let Some(rule) = rules.iter().find(looked_into) {
                let label = self.destination(&rule.verdict);
                self.assembler.branch(Test::Equal, number, Target::To(label), Target::Next);
            }
        }
        let leaves = self.leaves(rules);
        self.tree(&leaves);
        for (verdict, label) in std::mem::take(&mut self.pending) {
            self.assembler.place(label);
            self.body(verdict);
        }
        self.answers();
    }

    fn answer(&mut self, action: Action) -> Label {
        if let Some((_, label)) = self.answers.iter().find(|(other, _)| *other == action) {
            return *label;
        }
        let label = self.assembler.label();
        self.answers.push((action, label));
        label
    }

    fn refusal(&mut self, refusal: Refusal) -> Label {
        self.answer(match refusal {
            Refusal::Block => self.blocking.action(),
            Refusal::Errno(errno) => Action::Errno(errno),
        })
    }

    fn destination(&mut self, verdict: &'a Verdict) -> Label {
        let (any, otherwise) = match verdict {
            Verdict::Allow => return self.answer(Action::Allow),
            Verdict::Refuse(refusal) => return self.refusal(*refusal),
            Verdict::If { any, otherwise } => (any, otherwise),
        };
        let same = self.bodies.entry(any).or_default();
        if let Some((_, label)) = same.iter().find(|(other, _)| other == otherwise) {
            return *label;
        }
        let label = self.assembler.label();
        same.push((*otherwise, label));
        self.pending.push((verdict, label));
        label
    }

    /// All numbers below x32's, as ranges that go to the same place.
    fn leaves(&mut self, rules: &'a [Rule]) -> Vec<Leaf> {
        let mut sorted: Vec<&Rule> = rules.iter().collect();
        sorted.sort_by_key(|rule| rule.call);
        let block = self.refusal(Refusal::Block);
        let mut leaves = vec![Leaf { first: 0, label: block }];
        for rule in sorted {
            let label = self.destination(&rule.verdict);
            for leaf in [Leaf { first: rule.call, label }, Leaf { first: rule.call + 1, label: block }] {
                leaves.pop_if(|last| last.first == leaf.first);
                if leaves.last().is_none_or(|last| last.label != leaf.label) {
                    leaves.push(leaf);
                }
            }
        }
        leaves
    }

    fn tree(&mut self, leaves: &[Leaf]) {
        match leaves {
            [] => {}
            [only] => self.assembler.jump(only.label),
            [left, right] => {
                let (yes, no) = (Target::To(right.label), Target::To(left.label));
                self.assembler.branch(Test::GreaterOrEqual, right.first, yes, no);
            }
            _ => {
                let (left, right) = leaves.split_at(leaves.len() / 2);
                let upper = self.assembler.label();
                self.assembler.branch(Test::GreaterOrEqual, right[0].first, Target::To(upper), Target::Next);
                self.tree(left);
                self.assembler.place(upper);
                self.tree(right);
            }
        }
    }

    /// The conditions of a verdict, with the number of the call known.
    fn body(&mut self, verdict: &Verdict) {
        let Verdict::If { any, otherwise } = verdict else { return };
        let (allow, refuse) = (self.answer(Action::Allow), self.refusal(*otherwise));
        for (index, all) in any.iter().enumerate() {
            let is_last = index + 1 == any.len();
            let next = if is_last { refuse } else { self.assembler.label() };
            if let Some((last, before)) = all.split_last() {
                before.iter().for_each(|condition| self.condition(condition, None, next));
                self.condition(last, Some(allow), next);
            }
            if !is_last {
                self.assembler.place(next);
            }
        }
    }

    /// Goes to `yes` if the condition holds, or on with the next instruction; else to `no`.
    fn condition(&mut self, condition: &Condition, yes: Option<Label>, no: Label) {
        let end = self.assembler.label();
        let (yes, no) = (yes.unwrap_or(end), no);
        match condition.op {
            Op::Equal => self.equal(condition, yes, no),
            Op::NotEqual => self.equal(condition, no, yes),
            Op::GreaterOrEqual => self.greater(condition, Test::GreaterOrEqual, yes, no),
            Op::Less => self.greater(condition, Test::GreaterOrEqual, no, yes),
            Op::Greater => self.greater(condition, Test::Greater, yes, no),
            Op::LessOrEqual => self.greater(condition, Test::Greater, no, yes),
            Op::AnyOf => self.any_bit(condition.argument, condition.value, yes, no),
            Op::NoneBut => self.any_bit(condition.argument, !condition.value, no, yes),
        }
        self.assembler.place(end);
    }

    fn load_low(&mut self, argument: u8) {
        self.assembler.load(16 + 8 * u32::from(argument));
    }

    fn load_high(&mut self, argument: u8) {
        self.assembler.load(20 + 8 * u32::from(argument));
    }

    fn equal(&mut self, condition: &Condition, yes: Label, no: Label) {
        self.load_high(condition.argument);
        self.assembler.branch(Test::Equal, high(condition.value), Target::Next, Target::To(no));
        self.load_low(condition.argument);
        self.assembler.branch(Test::Equal, low(condition.value), Target::To(yes), Target::To(no));
    }

    /// A greater high half decides; of equal ones the low half does.
    fn greater(&mut self, condition: &Condition, test: Test, yes: Label, no: Label) {
        self.load_high(condition.argument);
        self.assembler.branch(Test::Greater, high(condition.value), Target::To(yes), Target::Next);
        self.assembler.branch(Test::Equal, high(condition.value), Target::Next, Target::To(no));
        self.load_low(condition.argument);
        self.assembler.branch(test, low(condition.value), Target::To(yes), Target::To(no));
    }

    fn any_bit(&mut self, argument: u8, bits: u64, yes: Label, no: Label) {
        if high(bits) != 0 {
            self.load_high(argument);
            let or = if low(bits) == 0 { Target::To(no) } else { Target::Next };
            self.assembler.branch(Test::AnyBit, high(bits), Target::To(yes), or);
        }
        if low(bits) != 0 {
            self.load_low(argument);
            self.assembler.branch(Test::AnyBit, low(bits), Target::To(yes), Target::To(no));
        }
        if bits == 0 {
            self.assembler.jump(no);
        }
    }

    fn answers(&mut self) {
        for (action, label) in std::mem::take(&mut self.answers) {
            self.assembler.place(label);
            self.assembler.answer(action);
        }
    }
}

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}
