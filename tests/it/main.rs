//! Integration tests.

mod catalogue;
mod hsm;
mod real_barbican;
