//! Names the shared library, so that a plugin asks for it by this name wherever it was linked from.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcrosvm_plugin.so");
    println!("cargo::rerun-if-changed=build.rs");
}
