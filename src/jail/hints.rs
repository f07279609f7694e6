//! What to do where the machine does not let a jail be built: the words of an error, from the call and the settings of the
//! kernel. Pure, but for reading those settings.

use crate::sys::Errno;

/// Settings of the kernel that can forbid user namespaces; `None` where the kernel does not have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// `kernel.unprivileged_userns_clone` of Debian's and other kernels: 0 forbids.
    pub userns_clone: Option<u64>,
    /// `user.max_user_namespaces`: how many the user may have.
    pub max_user_namespaces: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns` of Ubuntu's: 1 takes the rights in a new one away.
    pub apparmor: Option<u64>,
}

impl Sysctls {
    /// Those of this machine.
    pub fn read() -> Sysctls {
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
            text.trim().parse().ok()
        };
        Sysctls {
            userns_clone: read("kernel.unprivileged_userns_clone"),
            max_user_namespaces: read("user.max_user_namespaces"),
            apparmor: read("kernel.apparmor_restrict_unprivileged_userns"),
        }
    }
}

/// The rest of the sentence about a failed step of a jail: a semicolon and what to do, or nothing.
pub fn remedy(call: &str, errno: Errno, sysctls: &Sysctls) -> String {
    if call == "pivot_root" && errno == Errno::EINVAL {
        return "; the root of this host is the kernel's first one (initramfs), which cannot be exchanged".to_owned();
    }
    if call.starts_with("mounting /") && errno == Errno::ENOENT {
        return "; it was replaced or deleted on the host while the jail was built: try again".to_owned();
    }
    let refused = matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSPC);
    if !refused {
        return String::new();
    }
    let switch = |name: &str, value: &str| {
        format!("; user namespaces are switched off here: `sysctl -w {name}={value}` as root, or --disable-sandbox")
    };
    match *sysctls {
        Sysctls { userns_clone: Some(0), .. } => switch("kernel.unprivileged_userns_clone", "1"),
        Sysctls { max_user_namespaces: Some(0), .. } => switch("user.max_user_namespaces", "10000"),
        Sysctls { apparmor: Some(1..), .. } => switch("kernel.apparmor_restrict_unprivileged_userns", "0"),
        _ if call == "clone3" && errno == Errno::ENOSPC => {
            "; the user has as many user namespaces as `sysctl user.max_user_namespaces` allows".to_owned()
        }
        _ if call == "clone3" => {
            "; a container, a chroot or a seccomp profile forbids user namespaces: allow them, or use --disable-sandbox"
                .to_owned()
        }
        _ if call.starts_with("open_tree") && errno == Errno::EACCES => {
            "; the caller's own user has to reach it: its capabilities do not count here".to_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sysctl_is_named() {
        let none = Sysctls::default();
        for (sysctls, errno, name) in [
            (Sysctls { userns_clone: Some(0), ..none }, Errno::EPERM, "kernel.unprivileged_userns_clone=1"),
            (Sysctls { max_user_namespaces: Some(0), ..none }, Errno::ENOSPC, "user.max_user_namespaces=10000"),
            (Sysctls { apparmor: Some(1), ..none }, Errno::EACCES, "kernel.apparmor_restrict_unprivileged_userns=0"),
        ] {
            let said = remedy("clone3", errno, &sysctls);
            assert!(said.contains(name) && said.contains("--disable-sandbox"), "{said}");
        }
        let allowed = Sysctls { userns_clone: Some(1), max_user_namespaces: Some(96), apparmor: Some(0) };
        assert!(remedy("clone3", Errno::ENOSPC, &allowed).contains("sysctl user.max_user_namespaces"));
        assert!(remedy("clone3", Errno::EPERM, &allowed).contains("seccomp profile"));
        assert!(remedy("open_tree(/root/x)", Errno::EACCES, &allowed).contains("capabilities"));
        assert!(remedy("mounting /etc/ld.so.cache (ro)", Errno::ENOENT, &none).contains("try again"));
        assert!(remedy("pivot_root", Errno::EINVAL, &none).contains("initramfs"));
        assert_eq!(remedy("pivot_root", Errno::EPERM, &allowed), "");
    }
}
