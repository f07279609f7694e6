//! The tools' figures of one run agree with each other and with what the plugin measures by itself.
//!
//! What is compared is how long the same exits took in the same run, so it is no matter how fast the host is.
//! `OUTBOARD_TEST_FIGURES=1 cargo test --test tools -- agree` prints the figures.

use std::io::BufRead;
use std::time::Instant;

use outboard_plugin::{Event, Space};
use serde_json::Value;

use super::stat::tool;
use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] =
    &[case!(timed).around(stat_trace_report_and_plugin_agree), case!(nobody).around(the_tables_of_a_bench_agree)];

/// Writes that are timed.
const COUNT: usize = 20_000;

real_mode!(writes:
    "mov cx, 20000",
    "2: out 0x10, al",
    "loop 2b",
    "in al, 0x11",
    "hlt",
);

/// Notes by a clock of its own when each write came, and says the mean and the median of the times between.
fn timed() -> Tested {
    let (mut vm, _memory) = connect(writes())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.reserve(Space::Port, 0x11..0x12)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    let mut came = Vec::with_capacity(COUNT);
    loop {
        match vcpu.wait()? {
            Event::Write(write) => {
                drop(write);
                came.push(Instant::now());
            }
            // No write, and so in no figure of them: it waits for this test.
            Event::Read(read) => {
                let between: Vec<u64> = came.windows(2).map(|pair| (pair[1] - pair[0]).as_nanos() as u64).collect();
                let mean = between.iter().sum::<u64>() / between.len() as u64;
                println!("timed {} {mean} {}", came.len(), percentile(&between, 50));
                std::io::stdin().lock().lines().next().transpose()?;
                read.answer_u64(0);
                return Ok(());
            }
            Event::Shutdown => return Ok(()),
            other => panic!("{other:?}"),
        }
    }
}

/// The bench brings its own plugin.
fn nobody() -> Tested {
    Ok(())
}

/// Within 5 percent or 50 ns of the first.
fn agree(what: &str, figures: &[(&str, u64)]) {
    let (_, first) = figures[0];
    if std::env::var_os("OUTBOARD_TEST_FIGURES").is_some() {
        println!("{what} in ns: {figures:?}");
    }
    for (_, figure) in figures {
        assert!(figure.abs_diff(first) <= (first / 20).max(50), "{what} in ns: {figures:?}");
    }
}

fn percentile(all: &[u64], percent: usize) -> u64 {
    let mut all = all.to_vec();
    all.sort_unstable();
    all[all.len() * percent / 100]
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn stat_trace_report_and_plugin_agree(case: &Case) -> Tested {
    let folder = crate::folder()?;
    let path = folder.path().join("trace");
    let path = path.to_str().expect("plain names");
    let mut vm = case.program().args(["--trace", path, "--json"]).start();
    let said = vm.says("timed ");
    let said: Vec<u64> = said.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [count, plugin_mean, plugin_p50] = said[..] else { panic!("{said:?}") };
    assert_eq!(count, COUNT as u64);
    let stat = tool(&["stat", "--once", "--json", "--ranges", &vm.pid().to_string()]);
    vm.tell("on");
    let done = vm.ended();
    done.expect(0);
    let (stat, report): (Value, Value) = (serde_json::from_str(&stat.stdout)?, done.report());
    let find = |rows: &Value, name: &str| {
        let rows = rows.as_array().expect("rows").clone();
        rows.into_iter().find(|row| row["exit"] == name && row["range"]["start"].as_u64().is_none_or(|at| at == 0x10))
    };
    let row = find(&stat["rows"], "port write").expect("a row");
    let inside = find(&stat["rows"], "in KVM_RUN").expect("a row");
    let exit = find(&report["exits"], "port write").expect("an exit");
    assert_eq!((number(&row["count"]), number(&exit["count"])), (count, count));

    let csv = tool(&["trace", "show", path, "--format", "csv", "--kind", "write", "--address", "0x10"]);
    let traced: Vec<[u64; 4]> = csv
        .stdout
        .lines()
        .skip(1)
        .map(|line| {
            let mut times = line.split(',').skip(7).map(|word| word.parse().expect("nanoseconds"));
            core::array::from_fn(|_| times.next().expect("four times"))
        })
        .collect();
    assert_eq!(traced.len(), COUNT);
    let periods: Vec<u64> = traced.windows(2).map(|pair| pair[1][0] - pair[0][0]).collect();
    let part = |of: fn(&[u64; 4]) -> u64| percentile(&traced.iter().map(of).collect::<Vec<_>>(), 50);
    agree(
        "mean from exit to exit",
        &[
            ("the plugin's own clock", plugin_mean),
            ("trace", periods.iter().sum::<u64>() / periods.len() as u64),
            ("stat", number(&row["whole_ns"]["mean"]) + number(&inside["whole_ns"]["mean"])),
            ("report", number(&exit["outside_ns"]["mean"]) + number(&report["inside_kvm_run_ns"]["mean"])),
        ],
    );
    // The two clocks are read at different moments, so that where the times fall in two heaps of one size, the median of either
    // may be of the one heap or the other.
    let (low, high) = (percentile(&periods, 48), percentile(&periods, 52));
    agree(
        "median from exit to exit",
        &[("the plugin's own clock", plugin_p50), ("trace", plugin_p50.clamp(low, high))],
    );
    for (name, in_stat, in_report, traced) in [
        ("the plugin's part", "plugin_ns", "plugin_ns", part(|at| at[2] - at[1])),
        ("outside of KVM_RUN", "whole_ns", "outside_ns", part(|at| at[3] - at[0])),
    ] {
        let figures =
            [("trace", traced), ("stat", number(&row[in_stat]["p50"])), ("report", number(&exit[in_report]["p50"]))];
        agree(&format!("median of {name}"), &figures);
    }
    Ok(())
}

fn the_tables_of_a_bench_agree(_: &Case) -> Tested {
    let words = ["bench", "--filter", "outl_to_plugin", "--cpus", "free", "-n", "20000", "--warmup", "0", "--json"];
    let done = tool(&words);
    done.expect(0);
    let json: Value = serde_json::from_str(&done.stdout)?;
    let row = &json["rows"][0];
    let vmm = number(&row["vmm"]["outside_ns"]["mean"]) + number(&row["vmm"]["kvm_run_mean_ns"]);
    let period = row["period_ns"]["mean"].as_f64().expect("a mean") as u64;
    agree("mean from exit to exit", &[("the plugin of the bench", period), ("the VMM's counters", vmm)]);
    Ok(())
}
