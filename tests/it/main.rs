//! Integration tests.

mod catalogue;
mod hsm;
mod python_readers;
mod real_barbican;
mod sqlite_schema;
mod systemd;
