//! Upgrades OpenStack Barbican, the key manager, without losing secrets.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod db;
pub mod release;
