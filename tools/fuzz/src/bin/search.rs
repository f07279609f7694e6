//! The search: libFuzzer over the target that the variable `OUTBOARD_FUZZ_TARGET` names. `tools/fuzz/search` builds and runs it.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use outboard_fuzz::Target;

fuzz_target!(|data: &[u8]| {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    let choose = || {
        let name = std::env::var("OUTBOARD_FUZZ_TARGET").unwrap_or_default();
        outboard_fuzz::target(&name).unwrap_or_else(|| panic!("OUTBOARD_FUZZ_TARGET={name}: there is no such target"))
    };
    CHOSEN.get_or_init(choose)(data)
});
