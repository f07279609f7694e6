//! x87.

use iced_x86::Instruction;

use super::core::Core;
use super::fault::Stop;
use super::machine::Machine;

impl<M: Machine> Core<'_, M> {
    /// Carries out an instruction of this room; false if it is of another.
    pub fn x87(&mut self, _i: &Instruction) -> Result<bool, Stop> {
        Ok(false)
    }
}
