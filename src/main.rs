//! The program: parses, hands over, returns the exit code.

use std::io::Write as _;
use std::process::{ExitCode, Termination as _};
use std::sync::atomic::Ordering;

use clap::Parser as _;
use keymgr_upgrade::cli::Cli;
use keymgr_upgrade::error::Exit;
use keymgr_upgrade::{commands, engine, hsm, logging};

fn main() -> ExitCode {
    // The PKCS#11 worker is this same executable, with nothing of ours started in it.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == hsm::WORKER_ARGUMENT) {
        return hsm::worker_main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // A closed pipe is not worth another message.
            error.print().ok();
            return exit.report();
        }
    };
    if let Err(error) = stop_at_step_borders() {
        writeln!(std::io::stderr(), "error: cannot handle signals: {error}").ok();
        return Exit::Failed.report();
    }
    logging::start(cli.global.verbose);
    commands::run(cli).report()
}

/// SIGTERM, SIGINT and SIGHUP end a run between two steps, never within one.
fn stop_at_step_borders() -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            engine::STOP.store(true, Ordering::SeqCst);
        }
    });
    Ok(())
}
