//! What the user grants: mounts, groups, another folder for the root, a user for the VMM; and programs of every kind.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::around::{CAGED, open_folder, start};
use crate::common::cage::Cage;
use crate::common::program::Program;
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(finds_its_mounts).around(with_mounts).only(CAGED),
    case!(reads_by_its_group).around(with_a_group).only(&[Cage::Caged]),
    case!(lives_in_another_root).around(with_a_root).only(CAGED),
    case!(lives_beside_a_vmm_of_another_user).around(with_a_user).only(&[Cage::Caged]),
    case!(is_found_by_its_true_path).around(through_a_link).only(CAGED),
    case!(a_script).around(scripts_run_by_their_interpreter).only(CAGED),
    case!(the_vmm_has_no_rights).around(looks_at_the_vmm),
    case!(the_plan).around(the_plan_is_printed).only(CAGED),
];

fn with_mounts(case: &Case) -> Tested {
    let folder = open_folder()?;
    let path = |name: &str| folder.path().join(name);
    for name in ["data", "data/inner", "out"] {
        fs::create_dir(path(name))?;
    }
    fs::set_permissions(path("out"), Permissions::from_mode(0o777))?;
    fs::write(path("data/file"), "from the data")?;
    fs::write(path("data/inner/file"), "covered")?;
    fs::write(path("file"), "from the file")?;
    let list = path("mounts");
    fs::write(
        &list,
        format!("# mounts\n{0}/file:/data/inner/file\n\n{0}/out:/out:true # to write\n", folder.path().display()),
    )?;
    let mut program = case.program();
    program.args(["--plugin-mount", &format!("{}:/data", path("data").display())]);
    program.args(["--plugin-mount-file".as_ref(), list.as_os_str()]);
    start(&mut program).ended().expect(0);
    assert_eq!(fs::read_to_string(path("out/result"))?, "from the plugin");
    assert_eq!(fs::read_to_string(path("data/file"))?, "from the data");
    Ok(())
}

#[track_caller]
fn cannot_write(path: &str) {
    let error = File::options().write(true).create(true).truncate(false).open(path).expect_err("it is read-only");
    assert!(matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES)), "{path}: {error}");
}

fn finds_its_mounts() -> Tested {
    assert_eq!(fs::read_to_string("/data/file")?, "from the data");
    assert_eq!(fs::read_to_string("/data/inner/file")?, "from the file");
    for path in ["/data/file", "/data/new", "/data/inner/file", "/data/inner/new", "/new"] {
        cannot_write(path);
    }
    fs::write("/out/result", "from the plugin")?;
    Ok(())
}

/// A group that no account has.
const GROUP: u32 = 61_300;

fn with_a_group(case: &Case) -> Tested {
    let folder = open_folder()?;
    let file = folder.path().join("file");
    fs::write(&file, "for the group")?;
    std::os::unix::fs::chown(&file, Some(0), Some(GROUP))?;
    fs::set_permissions(&file, Permissions::from_mode(0o640))?;
    let run = |words: &[&str]| {
        let mut program = case.program();
        program.args(["--plugin-mount", &format!("{}:/file", file.display())]).args(words);
        start(&mut program).ended()
    };
    run(&["--plugin-gid-map", &format!("7:{GROUP}")]).expect(0);
    run(&["--plugin-gid-map", &format!("7:{}:3", GROUP - 1)]).expect(0);
    run(&["--plugin-gid-map", &format!("7:{}", GROUP - 1)]).expect(101).complained(&["Permission denied"]);
    run(&[]).expect(101).complained(&["Permission denied"]);
    Ok(())
}

fn reads_by_its_group() -> Tested {
    assert_eq!(fs::read_to_string("/file")?, "for the group");
    cannot_write("/file");
    Ok(())
}

fn with_a_root(case: &Case) -> Tested {
    let folder = open_folder()?;
    fs::write(folder.path().join("hidden"), "not for the plugin")?;
    let mut program = case.program();
    program.args(["--plugin-root".as_ref(), folder.path().as_os_str()]);
    start(&mut program).ended().expect(0);
    assert_eq!(fs::read_dir(folder.path())?.count(), 1, "nothing is made in it");
    Ok(())
}

fn lives_in_another_root() -> Tested {
    assert!(!Path::new("/hidden").exists());
    Ok(())
}

/// A user that no account has.
const VMM_USER: &str = "61301:61302";

fn with_a_user(case: &Case) -> Tested {
    let mut program = case.program();
    program.args(["--user", VMM_USER]);
    let mut marked = start(&mut program);
    marked.running.says("ready");
    let status = fs::read_to_string(format!("/proc/{}/status", marked.running.pid()))?;
    for line in ["Uid:\t61301\t61301\t61301\t61301", "Gid:\t61302\t61302\t61302\t61302", "Groups:\t "] {
        assert!(status.lines().any(|found| found == line), "{line} is not in {status}");
    }
    no_rights(&status);
    // It can still end the plugin, which does not end by itself.
    marked.running.signal("TERM");
    marked.ended().expect(143).complained(&["did not end within a second of the shutdown event and was killed"]);

    let marked = {
        let mut marked = start(&mut program);
        marked.running.says("ready");
        marked.running.signal("KILL");
        marked
    };
    let mark = marked.mark.clone();
    assert_eq!(marked.running.ended().status.code(), None);
    assert_eq!(crate::mark::carriers(&mark), [] as [i32; 0], "the plugin outlives the VMM");
    Ok(())
}

fn lives_beside_a_vmm_of_another_user() -> Tested {
    let _vm = outboard_plugin::connect()?;
    println!("ready");
    loop {
        std::thread::park();
    }
}

#[track_caller]
fn no_rights(status: &str) {
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        let found = status.lines().find_map(|line| line.strip_prefix(set)).expect("a set");
        assert_eq!(found.trim(), "0".repeat(16), "{set}");
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
}

fn looks_at_the_vmm(case: &Case) -> Tested {
    let mut marked = start(&mut case.program());
    marked.running.says("ready");
    // All its threads: those of vCPUs are started when the rights are gone.
    for task in fs::read_dir(format!("/proc/{}/task", marked.running.pid()))? {
        no_rights(&fs::read_to_string(task?.path().join("status"))?);
    }
    marked.running.signal("TERM");
    marked.ended().expect(143);
    Ok(())
}

fn the_vmm_has_no_rights() -> Tested {
    let (mut vm, _memory) = crate::common::machine::connect(&[0xf4])?;
    vm.start()?;
    let _vcpu = vm.vcpu(0)?;
    println!("ready");
    loop {
        std::thread::park();
    }
}

/// A link to this executable, in a folder that the plugin does not see.
fn through_a_link(case: &Case) -> Tested {
    let folder = open_folder()?;
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(std::env::current_exe()?, &link)?;
    let mut program = Program::run_in(case.cage);
    program.args(["--plugin".as_ref(), link.as_os_str()]).plugin_words(["plugin", case.name]);
    start(&mut program).ended().expect(0);
    Ok(())
}

fn is_found_by_its_true_path() -> Tested {
    let first = std::env::args_os().next().expect("a name");
    assert!(Path::new(&first).ends_with("link"), "argv[0] is {first:?}");
    assert!(std::env::current_exe()?.exists());
    Ok(())
}

fn scripts_run_by_their_interpreter(case: &Case) -> Tested {
    let folder = open_folder()?;
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\necho \"$0 says $1\"\nexit 7\n")?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    let mut program = Program::run_in(case.cage);
    program.args(["--plugin".as_ref(), script.as_os_str()]).plugin_words(["hello"]);
    start(&mut program).ended().expect(7).printed("script says hello");
    Ok(())
}

fn a_script() -> Tested {
    Ok(())
}

fn the_plan_is_printed(case: &Case) -> Tested {
    let mut program = case.program();
    program.args(["--explain-jail", "--plugin-mount", "/etc:/config"]);
    let done = start(&mut program).ended();
    done.expect(0);
    assert_eq!(done.stderr, "");
    for part in [
        "clone3(user, pid, mount)",
        "unshare(net, ipc, uts, cgroup)",
        "gid_map: ",
        "pivot_root",
        "mounting /config (ro, nosuid, nodev)",
        "seccomp: ",
        "dropping all capabilities",
        "execve(/",
    ] {
        assert_eq!(done.stdout.lines().filter(|line| line.starts_with(part)).count(), 1, "{part}: {}", done.stdout);
    }
    // Every line says why.
    assert!(done.stdout.lines().all(|line| line.contains("  ")), "{}", done.stdout);
    Ok(())
}

fn the_plan() -> Tested {
    panic!("nothing is started")
}
