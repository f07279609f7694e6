//! Attaches to a running VM. The VMM writes to the file that it is handed; this end holds the connection that the
//! recording lasts for.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{ToolError, say};
use outboard_reach::client::Client;

/// What to record.
#[derive(Args, Clone, Debug)]
pub struct RecordArgs {
    /// Path of the management socket, process id of the VMM, or name of the VM; may be left out if there is one VM.
    vm: Option<String>,

    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Stop after so many seconds.
    #[arg(short = 's', long, value_name = "SECS", value_parser = seconds)]
    seconds: Option<Duration>,
}

fn seconds(word: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = word.parse().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "give seconds from 0.001 to 86400".to_owned())
}

pub(crate) fn record(args: &RecordArgs) -> Result<(), ToolError> {
    let path = std::path::absolute(&args.output).map_err(|error| ToolError::Write(args.output.clone(), error))?;
    let failed = |error| ToolError::Write(args.output.clone(), error);
    let mut client = Client::reach(args.vm.as_deref())?;
    // Not emptied before the VMM has agreed: another trace may be written to it.
    let fresh = !path.exists();
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    if let Err(error) = client.ask_with(&format!("trace start {}", path.display()), file.as_fd()) {
        if fresh {
            let _ = std::fs::remove_file(&path);
        }
        return Err(error.into());
    }
    say(&format!("recording VM {} in {}", client.title(), path.display()));
    match args.seconds {
        // The connection ends early if the VM does.
        Some(time) if !client.ends_within(time) => {
            let said = client.ask("trace stop")?;
            let lost = serde_json::from_str::<Value>(&said).ok().and_then(|said| said["lost"].as_u64()).unwrap_or(0);
            if lost > 0 {
                say(&format!("warning: {lost} exits found no room and are missing"));
            }
        }
        Some(_) => {}
        None => client.wait_end(),
    }
    Ok(())
}
