//! The one way to run a subprocess: argv logged, stdin closed, the tail of stderr in the error.

use std::ffi::OsStr;
use std::process::{Command as Process, Stdio};

use anyhow::{Context, Result, bail};

/// How much of a failed command's stderr goes into the error, in bytes.
const TAIL: usize = 1024;

/// Runs a program to its end.
///
/// # Errors
/// If it cannot be started, is killed, or exits with another status than 0; the error ends with the tail of its stderr. Secrets must not be in
/// `argv`: it is logged.
pub fn run<S: AsRef<OsStr>>(argv: &[S], environment: &[(&str, &str)]) -> Result<String> {
    let (program, arguments) = argv.split_first().context("empty command")?;
    let shown = argv.iter().map(|a| a.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
    log::info!("running {shown}");
    #[expect(clippy::disallowed_methods, reason = "this module is the one way")]
    let output = Process::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {shown}"))?;
    if !output.status.success() {
        let start = output.stderr.len().saturating_sub(TAIL);
        let tail = String::from_utf8_lossy(output.stderr.get(start..).unwrap_or_default());
        bail!("{shown}: {}: {}", output.status, tail.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_stderr_is_in_the_error() {
        let error = run(&["sh", "-c", "echo out; echo why >&2; exit 3"], &[]).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");
        assert_eq!(run(&["sh", "-c", "echo $K; cat"], &[("K", "v")]).unwrap(), "v\n");
        assert!(run(&["/nonexistent/program"], &[]).unwrap_err().to_string().contains("/nonexistent/program"));
    }
}
