//! Integration tests.

mod catalogue;
mod real_barbican;
mod sqlite_schema;
