//! Sources of completions that are no connections.

use crate::event::Token;
use outboard_wire::limits::MAX_CONNECTIONS;

pub(super) const SIGNALS: u32 = MAX_CONNECTIONS as u32;
pub(super) const PROCESS: u32 = SIGNALS + 1;
pub(super) const VCPUS: u32 = SIGNALS + 2;
pub(super) const DEADLINE: u32 = SIGNALS + 3;
pub(super) const GRACE: u32 = SIGNALS + 4;
pub(super) const LAST_WORDS: u32 = SIGNALS + 5;
pub(super) const LISTENER: u32 = SIGNALS + 6;
/// Two listeners.
pub(super) const LISTENERS: u32 = SIGNALS + 7;
/// Clients of the management sockets, to the end of the numbers.
pub(super) const CLIENTS: u32 = SIGNALS + 9;

/// The token of what comes from this source.
pub(super) fn token(source: u32) -> Token {
    Token { source, generation: 0 }
}
