//! Integration tests.
mod sqlite_schema;
