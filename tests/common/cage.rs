//! How a test runs the program: with the plugin caged, uncaged, or caged and all of it by a user without rights.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where the plugin runs, and who runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cage {
    /// In the jail, as everybody has it.
    Caged,
    /// With `--disable-sandbox`.
    Uncaged,
    /// In the jail, by a user that may open /dev/kvm and nothing else.
    CagedByUser,
}

/// A user, its group, and the group of its /dev/kvm: numbers that no account has.
const USER: u32 = 61_234;
const KVM_GROUP: u32 = 61_235;

/// Gives the user a KVM device of its own, in mounts that nobody else sees, and becomes the user.
const BECOME_USER: &str = r#"
set -e
major=$(stat -c 0x%t /dev/kvm) minor=$(stat -c 0x%T /dev/kvm)
mount -t tmpfs -o mode=755 tmpfs /mnt
mknod -m 660 /mnt/kvm c "$major" "$minor"
chgrp "$KVM_GROUP" /mnt/kvm
mount --bind /mnt/kvm /dev/kvm
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --groups "$KVM_GROUP" --inh-caps=-all --bounding-set=-all -- "$0" "$@"
"#;

impl Cage {
    /// All, as far as `OUTBOARD_TEST_CAGES` names them (`caged,uncaged,by_user`), or else all that this machine has.
    pub fn chosen() -> Vec<Cage> {
        let all = [Cage::Caged, Cage::Uncaged, Cage::CagedByUser];
        let words = std::env::var("OUTBOARD_TEST_CAGES").ok();
        let chosen = |cage: &Cage| match &words {
            Some(words) => words.split(',').any(|word| word == cage.name()),
            None => *cage != Cage::CagedByUser || Cage::user_is_possible(),
        };
        all.into_iter().filter(chosen).collect()
    }

    /// The name, as it stands behind that of a test.
    pub fn name(self) -> &'static str {
        match self {
            Cage::Caged => "caged",
            Cage::Uncaged => "uncaged",
            Cage::CagedByUser => "by_user",
        }
    }

    /// Whether the plugin is in a jail.
    #[allow(dead_code, reason = "each test executable uses its part")]
    pub fn is_caged(self) -> bool {
        self != Cage::Uncaged
    }

    /// Adds the option to `outboard run`.
    pub fn option(self, command: &mut Command) {
        if self == Cage::Uncaged {
            command.arg("--disable-sandbox");
        }
    }

    /// The command as it has to be started: by the user, if that is who runs it.
    pub fn wrapped(self, command: Command) -> Command {
        if self != Cage::CagedByUser {
            return command;
        }
        let mut wrapped = by_user(command.get_program().to_owned());
        wrapped.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped
    }

    /// Whether tests can make themselves such a user; said aloud, once, if not.
    fn user_is_possible() -> bool {
        static POSSIBLE: OnceLock<bool> = OnceLock::new();
        *POSSIBLE.get_or_init(|| {
            let program = env!("CARGO_BIN_EXE_outboard");
            let mut probe = by_user(program.into());
            let possible = probe.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            let possible = possible.is_ok_and(|status| status.success());
            if !possible {
                eprintln!("nothing is tested as a user without rights: that takes root, and {program} open to all");
            }
            assert!(possible || std::env::var_os("CI").is_none(), "tests cannot become a user without rights");
            possible
        })
    }
}

/// A program, started by the user in mounts of its own.
pub fn by_user(program: OsString) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", BECOME_USER]).arg(program);
    command.env("USER_ID", USER.to_string()).env("KVM_GROUP", KVM_GROUP.to_string());
    command
}
