//! The host's facts, printed with every figure, because figures without them mean nothing.

use std::fs;

use serde_json::{Value, json};

/// Kernel, KVM module, CPU model and allowed CPUs of this process.
pub fn host() -> Value {
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "kvm": kvm_module(),
        "cpu": cpu_model(),
        "cpus_allowed": super::pin::allowed(),
    })
}

/// One line for people.
pub fn line(host: &Value) -> String {
    let text = |key: &str| host[key].as_str().unwrap_or("?").to_owned();
    format!("Linux {}, {}, {}, CPUs {}", text("kernel"), text("kvm"), text("cpu"), host["cpus_allowed"])
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_else(|_| "unknown".to_owned())
}

fn kvm_module() -> String {
    let found = ["kvm_intel", "kvm_amd", "kvm_pvm"]
        .iter()
        .find(|name| fs::exists(format!("/sys/module/{name}")).unwrap_or(false));
    match found {
        Some(name) => (*name).to_owned(),
        None if fs::exists("/dev/kvm").unwrap_or(false) => "KVM (module unknown)".to_owned(),
        None => "no KVM".to_owned(),
    }
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name"));
    model.map_or_else(|| "unknown CPU".to_owned(), |rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
}
