//! Upgrades OpenStack Barbican, the key manager, without losing secrets.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod cli;
pub mod command;
pub mod crash;
pub mod error;
pub mod files;
pub mod journal;
pub mod release;
pub mod settings;
pub mod systemd;
pub mod time;
pub mod units;
