//! The VMM's picture of the plugin process: its start, its connections, its requests, its end.
//!
//! The supervisor ([`run`]) has the main thread and ties the parts together; the decisions are in [`lifecycle`] (what
//! follows from what happened) and [`requests`] (what a request does), which know nothing of sockets.

mod affinity;
pub mod child;
pub mod connections;
pub mod lifecycle;
pub mod process;
pub mod program;
pub mod requests;
mod settings;
mod supervisor;

mod failure;
mod manage;
mod managed;
mod memory_trace;
mod messages;
mod recorder;
mod reply;
mod setup;
mod shared;
mod socket_file;
mod source;
mod start;

pub use affinity::Affinity;
pub use recorder::TraceError;
pub use settings::{Drill, Settings};
pub use setup::{StartError, bare_host};
pub use socket_file::SocketError;
pub use supervisor::{Report, run};
