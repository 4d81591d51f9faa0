//! Integration tests.

mod catalogue;
mod real_barbican;
