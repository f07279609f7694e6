//! `outboard bench`: its forms of output, and what it says of a regression.

use super::stat::tool;
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[case!(nobody).around(a_bench_is_written_in_every_form)];

/// The bench brings its own plugin.
fn nobody() -> Tested {
    Ok(())
}

fn a_bench_is_written_in_every_form(_: &Case) -> Tested {
    let folder = crate::folder()?;
    let file = |name: &str| folder.path().join(name).to_str().expect("plain names").to_owned();
    let (plot, hgrm, baseline) = (file("plot.svg"), file("b.hgrm"), file("baseline.json"));
    let words = ["bench", "--filter", "outb", "-n", "2000", "--warmup", "500", "--cpus", "free"];
    let done = tool(&[&words[..], &["--json", "--plot", &plot, "--hgrm", &hgrm]].concat());
    done.expect(0);
    let json: serde_json::Value = serde_json::from_str(&done.stdout)?;
    let rows = json["rows"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["row"].as_str()).collect();
    assert_eq!(names, ["outb_to_vmm", "outb_to_kernel", "outb_to_plugin", "outb_posted_to_plugin"]);
    for row in rows.iter().filter(|row| row["row"] != "outb_to_kernel") {
        assert_eq!(row["period_ns"]["count"], 2000, "{row}");
    }
    // The VMM counts the accesses and the plugin times them; the two writes between chunks are of another range.
    assert!(rows[2]["vmm"]["count"].as_u64().is_some_and(|count| count >= 2500), "{}", rows[2]);
    let svg = std::fs::read_to_string(&plot)?;
    assert!(svg.contains("microseconds") && svg.contains("free outb_to_plugin"));
    assert!(std::fs::read_to_string(&hgrm)?.contains("#[free outb_posted_to_plugin, nanoseconds]"));

    let against = |added: i64| {
        let row = serde_json::json!({"row": "outb_to_plugin", "place": "free", "added_ns": added});
        std::fs::write(&baseline, serde_json::json!({"rows": [row]}).to_string()).expect("a file");
        tool(&[&words[..], &["--json", "--baseline", &baseline]].concat())
    };
    let slower = against(-1_000_000_000);
    slower.expect(1);
    assert!(slower.stderr.contains("free outb_to_plugin adds"), "{}", slower.stderr);
    against(1_000_000_000).expect(0);
    let none = tool(&["bench", "--filter", "nothing"]);
    none.expect(35);
    assert!(none.stdout.is_empty() && none.stderr.contains("--list"), "{}", none.stderr);
    assert!(tool(&["bench", "--list"]).stdout.lines().count() >= 8);
    Ok(())
}
