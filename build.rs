//! Embeds `migrations/`: a new release is one more folder there, nothing to register.
#![expect(clippy::disallowed_methods, reason = "a build script writes to OUT_DIR, nothing to lose")]
use std::{env, error::Error, fmt::Write as _, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let base = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("migrations");
    println!("cargo::rerun-if-changed=migrations");
    let mut files = Vec::new();
    collect(&base, &mut files)?;
    files.sort();
    let mut code = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&base)?.to_str().ok_or("path")?.to_owned();
        // By the folder that is compiled: the same target directory may have been another checkout's before.
        let place = format!("/migrations/{name}");
        writeln!(code, "    ({name:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {place:?}))),")?;
    }
    code.push(']');
    fs::write(Path::new(&env::var("OUT_DIR")?).join("migrations.rs"), code)?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "toml" || e == "sql") {
            files.push(path);
        }
    }
    Ok(())
}
