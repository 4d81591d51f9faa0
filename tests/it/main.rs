//! Integration tests: one binary, since each more costs a link.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "a test fails by panicking, and starts and writes what it looks at"
)]

mod access;
mod bad_input;
mod catalogue;
mod cli;
mod common;
mod crash;
mod dump;
mod fleet;
mod halves;
mod hex;
mod hooks;
mod hsm;
mod keks;
mod live;
mod lock;
mod manual;
mod moving;
mod paused;
mod portable;
mod product;
mod proof;
mod python_readers;
mod readme;
mod real_barbican;
mod rehearse;
mod rpm;
mod safety;
mod sample;
mod secrets;
mod server_barbican;
mod server_crash;
mod server_refusals;
mod server_schema;
mod servers;
mod service;
mod sqlite_schema;
mod starts;
mod systemd;
mod touched;
mod verify;
mod wire;
