//! The VMM's picture of the plugin process: its start, its connections, its requests, its end.
//!
//! The supervisor ([`run`]) has the main thread and ties the parts together; the decisions are in [`lifecycle`] (what
//! follows from what happened) and [`requests`] (what a request does), which know nothing of sockets.

mod affinity;
pub mod connections;
pub mod lifecycle;
pub mod process;
pub mod requests;
mod supervisor;

mod failed;
mod manage;
mod managed;
mod memory_trace;
mod messages;
mod recorder;
mod setup;
mod shared;
mod socket_file;
mod start;

pub use recorder::TraceError;
pub use setup::{StartError, bare_host};
pub use socket_file::SocketError;
pub use start::Drill;
pub use supervisor::{Affinity, Report, Settings, run};
