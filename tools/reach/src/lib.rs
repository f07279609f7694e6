//! How tools reach running VMs: [`find`] looks them up, [`client`] talks to their management sockets; and the commands
//! that need no more than that: `outboard stop`, `pause`, `resume` and `status`.

pub mod client;
pub mod find;

use std::io::{self, Write};

use clap::Args;
use serde_json::Value;

use client::{Client, ReachError};

/// Exit statuses of the tools.
pub mod status {
    /// There is no such VM, or several; or it refused.
    pub const NO_VM: u8 = 1;
    /// Wrong arguments.
    pub const USAGE: u8 = 35;
    /// A system call failed.
    pub const INTERNAL: u8 = 70;
    /// This user may not, or the other side is of another version.
    pub const HOST: u8 = 71;
    /// A file is none of ours, or damaged.
    pub const DAMAGED: u8 = 74;
}

/// Names a VM.
#[derive(Args, Clone, Debug)]
pub struct ManageArgs {
    /// Path of the management socket, process id of the VMM, or name of the VM; may be left out if there is one VM.
    vm: Option<String>,

    /// Print what the VM answers as JSON.
    #[arg(long)]
    json: bool,
}

/// What a VM is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// End, as by SIGTERM; waits until it has ended.
    Stop,
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Say how it is.
    Status,
}

/// Carries the command out; returns the exit status.
pub fn main(order: Order, args: &ManageArgs) -> u8 {
    match manage(order, args) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "outboard: {error}");
            error.exit_status()
        }
    }
}

fn manage(order: Order, args: &ManageArgs) -> Result<(), ReachError> {
    let mut client = Client::reach(args.vm.as_deref())?;
    let word = match order {
        Order::Stop => "stop",
        Order::Pause => "pause",
        Order::Resume => "resume",
        Order::Status => "status",
    };
    let said = client.ask(word)?;
    if order == Order::Stop {
        client.wait_end();
    }
    let text = if args.json {
        said + "\n"
    } else if order == Order::Status {
        sentence(&said)
    } else {
        String::new()
    };
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// The answer to `status` for people.
fn sentence(said: &str) -> String {
    let said: Value = serde_json::from_str(said).unwrap_or_default();
    let text = |field: &str| said[field].as_str().unwrap_or("?").to_owned();
    let name = match text("name").as_str() {
        "" | "?" => String::new(),
        name => format!(" ({name})"),
    };
    let plugin = match text("plugin").as_str() {
        "" => "the embedded machine".to_owned(),
        plugin => plugin.to_owned(),
    };
    format!("VM {}{name} is {}: {} vCPUs, {plugin}\n", said["pid"], text("state"), said["vcpus"])
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn a_status_is_a_sentence() {
        let said = r#"{"state":"paused","pid":7,"name":"web","vcpus":2,"plugin":""}"#;
        assert_eq!(sentence(said), "VM 7 (web) is paused: 2 vCPUs, the embedded machine\n");
        assert!(sentence("nonsense").contains('?'));
    }
}
