//! `libcrosvm_plugin`: the C interface of crosvm's plugin mode, on top of the Rust SDK.
//!
//! The contract is `include/crosvm.h`, and `README.md` beside it says how to use it. Every exported function is a thin
//! shim: it checks its pointers, finds what its handles stand for, calls the SDK and turns the error into a negative errno.
//!
//! - `abi`: the structs of the header.
//! - `pointer`: the caller's memory, the only place that reads or writes through its pointers.
//! - `handle`: handles are numbers in a table, not addresses, so that a wrong one is noticed and never followed.
//! - `place` and `driver`: the vCPUs, who uses one at a moment, and its events as C has them.
//! - `call` and `stats`: what surrounds every function.
//! - The others hold the exported functions, one subject each.
//!
//! # Panics
//! None is expected. If there is one, it means that this library is wrong about its own state; `extern "C"` functions let
//! no panic out, so the process ends with a message and SIGABRT, and the VMM ends the VM. To turn it into an error number
//! would let a device go on whose library is broken.

// A library of functions that C calls with pointers: this is the one place of the plugin's side that is made of `unsafe`.
#![allow(unsafe_code)]

mod abi;
mod call;
mod chips;
mod connection;
mod driver;
mod handle;
mod hint;
mod host;
mod interrupt;
mod io_event;
mod memory;
mod place;
mod pointer;
mod range;
mod registers;
mod routes;
mod stats;
mod vcpu;
