//! An assembler with labels. The offsets of BPF's conditional jumps have eight bits: a jump that goes further gets an
//! unconditional one behind it, whose offset has 32.

use super::opcode::{JMP, JUMP, LOAD, RETURN, Test, plain};
use super::{Instruction, MAX_INSTRUCTIONS};
use crate::jail::call::Action;

/// A place in a program that jumps go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label(usize);

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the next instruction.
    Next,
    /// To a label further on.
    To(Label),
}

/// Why a program cannot be assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// It is too long for the kernel.
    #[error("the program has {0} instructions: the kernel takes at most {MAX_INSTRUCTIONS}")]
    TooLong(usize),
    /// A label that is jumped to stands nowhere, or before the jump. A mistake of the caller.
    #[error("a jump goes backwards, or to a label that was never placed")]
    Target,
}

enum Item {
    Plain(Instruction),
    Branch { test: Test, k: u32, yes: Target, no: Target },
    Jump(Label),
    Place(Label),
}

/// A program in the making.
#[derive(Default)]
pub struct Assembler {
    items: Vec<Item>,
    labels: usize,
}

impl Assembler {
    /// An empty program.
    pub fn new() -> Assembler {
        Assembler::default()
    }

    /// A label, to be placed once.
    pub fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    /// Says that a label is here.
    pub fn place(&mut self, label: Label) {
        self.items.push(Item::Place(label));
    }

    /// Loads the word at an offset of `struct seccomp_data`.
    pub fn load(&mut self, offset: u32) {
        self.items.push(Item::Plain(plain(LOAD, offset)));
    }

    /// Jumps by what was loaded last.
    pub fn branch(&mut self, test: Test, k: u32, yes: Target, no: Target) {
        self.items.push(Item::Branch { test, k, yes, no });
    }

    /// Jumps.
    pub fn jump(&mut self, label: Label) {
        self.items.push(Item::Jump(label));
    }

    /// Ends the program with an answer.
    pub fn answer(&mut self, action: Action) {
        self.items.push(Item::Plain(plain(RETURN, action.value())));
    }

    /// Lays the program out.
    ///
    /// # Errors
    /// [`AssembleError`].
    pub fn assemble(&self) -> Result<Vec<Instruction>, AssembleError> {
        // A jump made long moves what follows, which may make others long. None becomes short again, so this ends.
        let mut long = vec![(false, false); self.items.len()];
        let layout = loop {
            let layout = Layout::of(self, &long);
            let mut grown = false;
            for (index, item) in self.items.iter().enumerate() {
                let Item::Branch { yes, no, .. } = item else { continue };
                let far = |target| layout.distance(index, 0, target).map(|distance| distance > u8::MAX.into());
                let (yes, no) = (far(*yes)?, far(*no)?);
                grown |= (yes && !long[index].0) || (no && !long[index].1);
                long[index] = (long[index].0 || yes, long[index].1 || no);
            }
            if !grown {
                break layout;
            }
        };
        if layout.len > MAX_INSTRUCTIONS {
            return Err(AssembleError::TooLong(layout.len));
        }
        let mut program = Vec::with_capacity(layout.len);
        for (index, item) in self.items.iter().enumerate() {
            emit(&mut program, &layout, index, item, long[index])?;
        }
        Ok(program)
    }
}

/// Where everything comes to lie.
struct Layout {
    /// Of each item, the index of its first instruction.
    starts: Vec<usize>,
    /// Of each label.
    labels: Vec<Option<usize>>,
    len: usize,
}

impl Layout {
    fn of(program: &Assembler, long: &[(bool, bool)]) -> Layout {
        let mut layout = Layout { starts: Vec::new(), labels: vec![None; program.labels], len: 0 };
        for (item, (yes, no)) in program.items.iter().zip(long) {
            layout.starts.push(layout.len);
            layout.len += match item {
                Item::Place(Label(label)) => {
                    layout.labels[*label] = Some(layout.len);
                    0
                }
                Item::Branch { .. } => 1 + usize::from(*yes) + usize::from(*no),
                Item::Plain(_) | Item::Jump(_) => 1,
            };
        }
        layout
    }

    /// Instructions that a jump skips, from the one that is `behind` the first of an item.
    fn distance(&self, item: usize, behind: usize, target: Target) -> Result<usize, AssembleError> {
        let Target::To(Label(label)) = target else { return Ok(0) };
        let from = self.starts[item] + behind + 1;
        let place = self.labels.get(label).copied().flatten();
        place.and_then(|place| place.checked_sub(from)).ok_or(AssembleError::Target)
    }
}

fn emit(
    program: &mut Vec<Instruction>,
    layout: &Layout,
    index: usize,
    item: &Item,
    (long_yes, long_no): (bool, bool),
) -> Result<(), AssembleError> {
    let jump = |behind, target| layout.distance(index, behind, target).map(|distance| plain(JUMP, distance as u32));
    match item {
        Item::Place(_) => {}
        Item::Plain(instruction) => program.push(*instruction),
        Item::Jump(label) => program.push(jump(0, Target::To(*label))?),
        Item::Branch { test, k, yes, no } => {
            // The next instruction of the program lies behind the long jumps.
            let behind = usize::from(long_yes) + usize::from(long_no);
            let short = |target| match target {
                Target::Next => Ok(behind),
                Target::To(_) => layout.distance(index, 0, target),
            };
            let skip_yes = if long_yes { 0 } else { short(*yes)? };
            let skip_no = if long_no { usize::from(long_yes) } else { short(*no)? };
            let byte = |skip| u8::try_from(skip).map_err(|_| AssembleError::Target);
            let code = JMP | test.operation();
            program.push(Instruction { code, yes: byte(skip_yes)?, no: byte(skip_no)?, k: *k });
            if long_yes {
                program.push(jump(1, *yes)?);
            }
            if long_no {
                program.push(jump(1 + usize::from(long_yes), *no)?);
            }
        }
    }
    Ok(())
}
