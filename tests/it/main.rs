//! Integration tests.

mod catalogue;
