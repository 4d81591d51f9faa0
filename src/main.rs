//! The program: parses, hands over, returns the exit code.

use std::process::{ExitCode, Termination as _};

use clap::Parser as _;
use keymgr_upgrade::cli::Cli;
use keymgr_upgrade::error::Exit;
use keymgr_upgrade::{commands, hsm, logging, process};

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
    logging::start(cli.global.verbose);
    if let Err(error) = process::leave_no_core() {
        log::warn!("{error:#}");
    }
    commands::run(cli).report()
}
