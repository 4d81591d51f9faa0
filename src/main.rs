//! keymgr-upgrade.
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|verb| verb == keymgr_upgrade::hsm::WORKER_ARGUMENT) {
        return keymgr_upgrade::hsm::worker_main();
    }
    ExitCode::SUCCESS
}
