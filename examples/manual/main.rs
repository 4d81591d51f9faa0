//! Writes what is installed besides the program and its settings: manual pages and completions, laid out as below `/usr`.
//!
//! `cargo run --example manual -- DIR`; `make manual` does it. Nothing of it is committed, so nothing of it can be out of date.
#![expect(clippy::disallowed_methods, reason = "what it writes is made anew at any time")]

mod pages;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from).context("usage: manual DIR")?;
    for (path, text) in pages::all()? {
        let path = directory.join(path);
        let about = || format!("writing {}", path.display());
        fs::create_dir_all(path.parent().unwrap_or(&directory)).with_context(about)?;
        fs::write(&path, text).with_context(about)?;
    }
    Ok(())
}
