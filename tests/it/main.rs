//! Integration tests.

mod real_barbican;
