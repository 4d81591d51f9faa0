//! Integration tests.

mod catalogue;
mod hsm;
mod real_barbican;
mod sqlite_schema;
mod systemd;
