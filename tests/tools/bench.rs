//! `outboard bench`: its forms of output, and what it says of a regression.

use outboard_plugin::{Event, Space};

use super::stat::tool;
use crate::common::program::Program;
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(nobody).around(a_bench_is_written_in_every_form),
    case!(measured).around(a_plugin_of_the_users_is_measured),
];

/// The bench brings its own plugin.
fn nobody() -> Tested {
    Ok(())
}

fn a_bench_is_written_in_every_form(_: &Case) -> Tested {
    let folder = crate::folder()?;
    let file = |name: &str| folder.path().join(name).to_str().expect("plain names").to_owned();
    let (plot, hgrm, baseline) = (file("plot.svg"), file("b.hgrm"), file("baseline.json"));
    let words = ["bench", "--filter", "outl", "-n", "2000", "--warmup", "500", "--cpus", "free"];
    let done = tool(&[&words[..], &["--json", "--plot", &plot, "--hgrm", &hgrm]].concat());
    done.expect(0);
    let json: serde_json::Value = serde_json::from_str(&done.stdout)?;
    let rows = json["rows"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["row"].as_str()).collect();
    assert_eq!(names, ["outl_to_vmm", "outl_to_kernel", "outl_to_plugin", "outl_posted_to_plugin"]);
    for row in rows.iter().filter(|row| row["row"] != "outl_to_kernel") {
        assert_eq!(row["period_ns"]["count"], 2000, "{row}");
    }
    // The VMM counts the accesses and the plugin times them; the two writes between chunks are of another range.
    assert!(rows[2]["vmm"]["count"].as_u64().is_some_and(|count| count >= 2500), "{}", rows[2]);
    let svg = std::fs::read_to_string(&plot)?;
    assert!(svg.contains("microseconds") && svg.contains("free outl_to_plugin"));
    assert!(std::fs::read_to_string(&hgrm)?.contains("#[free outl_posted_to_plugin, nanoseconds]"));

    let against = |added: i64| {
        let row = serde_json::json!({"row": "outl_to_plugin", "place": "free", "added_ns": added});
        std::fs::write(&baseline, serde_json::json!({"rows": [row]}).to_string()).expect("a file");
        tool(&[&words[..], &["--json", "--baseline", &baseline]].concat())
    };
    let slower = against(-1_000_000_000);
    slower.expect(1);
    assert!(slower.stderr.contains("free outl_to_plugin adds"), "{}", slower.stderr);
    against(1_000_000_000).expect(0);
    let none = tool(&["bench", "--filter", "nothing"]);
    none.expect(35);
    assert!(none.stdout.is_empty() && none.stderr.contains("--list"), "{}", none.stderr);
    assert!(tool(&["bench", "--list"]).stdout.lines().count() >= 8);
    Ok(())
}

/// Serves a port, memory and a posted port, with a guest that would end at once.
fn measured() -> Tested {
    let mut vm = outboard_plugin::connect()?;
    let memory = vm.add_memory(0, 0x1_0000)?;
    memory.write(0x1000, &[0xf4])?;
    vm.reserve(Space::Port, 0x10..0x20)?;
    vm.reserve_posted(Space::Port, 0x30..0x31)?;
    vm.reserve(Space::Mmio, 0x8_0000_0ff0..0x8_0000_1010)?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    println!("words before the report");
    loop {
        match vcpu.wait()? {
            Event::Init(mut init) => init.start_real_mode(0, 0x1000)?,
            Event::Read(read) => read.answer_u64(1),
            Event::Write(write) => assert!(matches!(write.data().len(), 1 | 2 | 4 | 8)),
            Event::Posted(_) => {}
            Event::Shutdown => return Ok(()),
            other => panic!("{other:?}"),
        }
    }
}

fn a_plugin_of_the_users_is_measured(case: &Case) -> Tested {
    let bench = |accesses: &[&str]| {
        let mut program = Program::outboard();
        program.args(["bench", "--json", "--cpus", "free", "-n", "500"]);
        for access in accesses {
            program.args(["--access", access]);
        }
        program.plugin_is_this(case.name).args(["--", "--disable-sandbox"]);
        program.start().ended()
    };
    let accesses = ["port:0x10:1:write", "port:0x1c:4:read", "port:0x30:1:write", "mmio:0x800000ffc:8:write"];
    let accesses = [&accesses[..], &["mmio:0x800001000:2:read"]].concat();
    let done = bench(&accesses);
    done.expect(0);
    let json: serde_json::Value = serde_json::from_str(&done.stdout)?;
    let rows = json["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), accesses.len());
    for (row, access) in rows.iter().zip(accesses) {
        // KVM hands a memory access over a page boundary on in two pieces.
        let wanted = if access.ends_with("8:write") { 1000 } else { 500 };
        assert_eq!((row["row"].as_str(), row["period_ns"]["count"].as_u64()), (Some(access), Some(wanted)), "{row}");
    }
    let unreserved = bench(&["port:0x80:1:write"]);
    unreserved.expect(70);
    assert!(unreserved.stdout.is_empty() && unreserved.stderr.contains("has not reserved"), "{}", unreserved.stderr);
    let memory = bench(&["mmio:0x2000:1:write"]);
    memory.expect(70);
    assert!(memory.stderr.contains("there is memory"), "{}", memory.stderr);
    bench(&["port:0x80:3:write"]).expect(35);
    Ok(())
}
