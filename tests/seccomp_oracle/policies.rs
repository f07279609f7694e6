//! Generated policies, as structures and as text, and calls that come close to what they look at.

use outboard::jail::call::Call;
use outboard::jail::policy::{Condition, Op, Place, Policy, Refusal, Rule, Verdict};
use outboard::jail::syscalls;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Numbers at which comparisons of halves go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_0000_0000,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
];

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![select(&EDGES[..]), any::<u64>(), any::<u32>().prop_map(u64::from), 0..16_u64]
}

fn condition() -> impl Strategy<Value = Condition> {
    let ops =
        [Op::Equal, Op::NotEqual, Op::Less, Op::LessOrEqual, Op::Greater, Op::GreaterOrEqual, Op::AnyOf, Op::NoneBut];
    // Few bits: the oracle has no operator for "any of" and needs a rule for each.
    let bits = vec(0..64_u32, 0..4).prop_map(|bits| bits.into_iter().fold(0, |value, bit| value | 1 << bit));
    (0..6_u8, select(ops.to_vec()), value(), bits).prop_map(|(argument, op, value, bits)| {
        let value = if op == Op::AnyOf { bits } else { value };
        Condition { argument, op, value }
    })
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![2 => Just(Refusal::Block), 1 => (0..=4095_u16).prop_map(Refusal::Errno)]
}

fn verdict(longest: usize) -> impl Strategy<Value = Verdict> {
    let conditions = (vec(vec(condition(), 1..4), 1..longest), refusal());
    prop_oneof![
        2 => Just(Verdict::Allow),
        1 => refusal().prop_map(Verdict::Refuse),
        4 => conditions.prop_map(|(any, otherwise)| Verdict::If { any, otherwise }),
    ]
}

/// A policy about up to `most` of these calls, with up to `longest` alternatives a rule.
pub fn policy(calls: Vec<u32>, most: usize, longest: usize) -> impl Strategy<Value = Policy> {
    btree_map(select(calls), verdict(longest), 1..most).prop_map(|rules| {
        // In an order that is not that of the numbers, as in a file.
        let mut rules: Vec<(u32, Verdict)> = rules.into_iter().collect();
        rules.sort_by_key(|(call, _)| call.wrapping_mul(0x9e37_79b9));
        let rule = |(line, (call, verdict)): (usize, (u32, Verdict))| {
            let place = Place { file: "p".into(), line: line as u32 + 1, column: 1 };
            Rule { call, verdict, place }
        };
        Policy { rules: rules.into_iter().enumerate().map(rule).collect(), warnings: Vec::new() }
    })
}

/// All system calls.
pub fn all_calls() -> Vec<u32> {
    syscalls::all().map(|(number, _)| number).collect()
}

/// The policy as a file.
pub fn text(policy: &Policy) -> String {
    let line = |rule: &Rule| {
        let name = syscalls::name(rule.call).expect("a call of the table");
        let ret = |refusal: &Refusal| match refusal {
            Refusal::Block => "return".to_owned(),
            Refusal::Errno(errno) => format!("return {errno}"),
        };
        match &rule.verdict {
            Verdict::Allow => format!("{name}: 1\n"),
            Verdict::Refuse(refusal) => format!("{name}: {}\n", ret(refusal)),
            Verdict::If { any, otherwise } => {
                let all = |all: &Vec<Condition>| all.iter().map(words).collect::<Vec<_>>().join(" && ");
                let any = any.iter().map(all).collect::<Vec<_>>().join(" || ");
                format!("{name}: {any}; {}\n", ret(otherwise))
            }
        }
    };
    policy.rules.iter().map(line).collect()
}

fn words(condition: &Condition) -> String {
    let op = match condition.op {
        Op::Equal => "==",
        Op::NotEqual => "!=",
        Op::Less => "<",
        Op::LessOrEqual => "<=",
        Op::Greater => ">",
        Op::GreaterOrEqual => ">=",
        Op::AnyOf => "&",
        Op::NoneBut => "in",
    };
    format!("arg{} {op} {:#x}", condition.argument, condition.value)
}

/// An argument, near to something that the policy compares with.
#[derive(Clone, Debug)]
pub struct Pick {
    near: Index,
    change: usize,
    other: u64,
}

/// A call that is yet to be fitted to a policy.
#[derive(Clone, Debug)]
pub struct Draft {
    call: Index,
    other: u32,
    args: [Pick; 6],
}

/// Drafts of calls.
pub fn drafts(count: usize) -> impl Strategy<Value = Vec<Draft>> {
    let pick = || (any::<Index>(), 0..9_usize, value()).prop_map(|(near, change, other)| Pick { near, change, other });
    let args = [pick(), pick(), pick(), pick(), pick(), pick()];
    let numbers = prop_oneof![0..600_u32, any::<u32>()];
    vec((any::<Index>(), numbers, args).prop_map(|(call, other, args)| Draft { call, other, args }), count)
}

impl Draft {
    /// The call: mostly one that the policy names, with arguments like those that it looks for.
    pub fn fit(&self, policy: &Policy) -> Call {
        let rule = self.call.get(&policy.rules);
        let mut values = vec![0];
        if let Verdict::If { any, .. } = &rule.verdict {
            values.extend(any.iter().flatten().map(|condition| condition.value));
        }
        let arg = |pick: &Pick| {
            let near = *pick.near.get(&values);
            match pick.change {
                0..4 => near,
                4 => near.wrapping_add(1),
                5 => near.wrapping_sub(1),
                6 => near ^ 1 << 32,
                7 => !near,
                _ => pick.other,
            }
        };
        let number = if self.other.is_multiple_of(8) { self.other } else { rule.call };
        Call::new(number, std::array::from_fn(|index| arg(&self.args[index])))
    }
}
