//! Upgrades OpenStack Barbican, the key manager, without losing secrets.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod approval;
pub mod cli;
pub mod command;
pub mod commands;
pub mod config;
pub mod crash;
pub mod db;
pub mod deployment;
pub mod engine;
pub mod error;
pub mod files;
pub mod finding;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod hook;
pub mod hsm;
pub mod http;
pub mod ini;
pub mod journal;
pub mod kek;
pub mod logging;
pub mod options;
pub mod paste;
pub mod plan;
pub mod process;
pub mod progress;
pub mod rehearsal;
pub mod release;
pub mod request;
pub mod settings;
pub mod step;
pub mod systemd;
pub mod time;
pub mod ui;
pub mod units;

/// Private servers for the unit tests, as the integration tests have them.
#[cfg(test)]
#[path = "../tests/it/servers.rs"]
mod servers;
