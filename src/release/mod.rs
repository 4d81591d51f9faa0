//! The release catalogue, read from the embedded `migrations/`.

/// Every file below `migrations/`, by its path relative to it ("mitaka/release.toml"), sorted.
pub static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));
