//! Plugins that misbehave, and deaths at any moment.
fn main() {}
