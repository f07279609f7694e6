//! Traces of real runs: recorded from the start, and by a tool that attaches.

use super::stat::{serve, tool};
use crate::common::program::Program;
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] =
    &[case!(traced).around(a_trace_holds_every_exit_in_order), case!(attached).around(tools_attach_one_at_a_time)];

fn traced() -> Tested {
    serve()
}

fn attached() -> Tested {
    serve()
}

fn shown(path: &str, words: &[&str]) -> Vec<String> {
    let done = tool(&[&["trace", "show", path], words].concat());
    done.expect(0);
    assert!(done.stderr.is_empty(), "{}", done.stderr);
    done.stdout.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn a_trace_holds_every_exit_in_order(case: &Case) -> Tested {
    let folder = crate::folder()?;
    let path = folder.path().join("trace");
    let path = path.to_str().expect("plain names");
    let mut vm = case.program().args(["--trace", path]).start();
    vm.says("stop 1");
    vm.tell("on");
    vm.says("stop 2");
    vm.signal("TERM");
    vm.tell("on");
    vm.ended();
    let reads = shown(path, &["--kind", "read"]);
    assert_eq!(reads.len(), 1000);
    assert!(reads.iter().all(|line| line.ends_with("port read 0x10 +2 -> 0x7")), "{}", reads[0]);
    let posts = shown(path, &["--kind", "posted", "--address", "0x30"]);
    let values = posts.iter().filter_map(|line| line.rsplit_once("<- ")).map(|(_, value)| value);
    assert!(values.eq(std::iter::repeat_n("0x7", 250)), "{posts:?}");
    assert_eq!(shown(path, &["--kind", "unasked"]).len(), 1);
    assert_eq!(shown(path, &["--kind", "request"]).len(), 4, "memory, two ranges, the start");
    assert_eq!(shown(path, &["--vcpu", "1"]).len(), 0);
    let json = tool(&["trace", "show", path, "--format", "chrome"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout)?;
    let named = |name: &str| json["traceEvents"].as_array().unwrap().iter().filter(|e| e["name"] == name).count();
    assert_eq!((named("port read 0x10"), named("KVM_RUN") > 1000), (1000, true));
    let folded = tool(&["trace", "show", path, "--format", "folded"]).stdout;
    assert!(folded.lines().any(|line| line.starts_with("vCPU 0;port read;0x10;plugin ")), "{folded}");
    Ok(())
}

fn tools_attach_one_at_a_time(case: &Case) -> Tested {
    let folder = crate::folder()?;
    let path = folder.path().join("trace");
    let path = path.to_str().expect("plain names");
    let mut vm = case.program().start();
    vm.says("stop 1");
    let pid = vm.pid().to_string();
    let mut first = Program::outboard().args(["trace", "record", &pid, "-o", path]).start();
    first.complains("outboard: recording VM");
    let second = tool(&["trace", "record", &pid, "-o", &format!("{path}2")]);
    second.expect(1);
    assert!(second.stderr.contains(path), "{}", second.stderr);
    vm.tell("on");
    vm.says("stop 2");
    vm.signal("TERM");
    vm.tell("on");
    vm.ended();
    first.ended().expect(0);
    assert_eq!(shown(path, &["--kind", "posted"]).len(), 0, "they were before");
    assert!(shown(path, &[]).iter().any(|line| line.contains("port write 0x11")));
    let none = tool(&["trace", "record", &pid, "-o", path]);
    none.expect(1);
    assert!(none.stderr.contains(&pid) && none.stdout.is_empty(), "{}", none.stderr);
    let foreign = tool(&["trace", "show", "/proc/self/exe"]);
    foreign.expect(74);
    assert!(foreign.stdout.is_empty() && foreign.stderr.contains("no trace"), "{}", foreign.stderr);
    Ok(())
}
