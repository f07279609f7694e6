//! The user's side of the machine: a terminal, or pipes in its place.
//!
//! - [`output`]: what the guest prints.
//! - [`input`]: what the user types, and the key that leaves the machine.
//! - [`raw`]: the terminal's mode while the guest has it.
//! - [`keys`]: what a terminal sends, as keys of a keyboard.
//! - [`screen`]: a text display, drawn in the terminal.

pub mod input;
pub mod keys;
pub mod output;
pub mod raw;
pub mod screen;
