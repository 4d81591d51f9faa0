//! The message of the day: that Barbican is down, or that an upgrade is due, as long as that is so.

use std::path::Path;

use super::{Session, open_run, packages};
use crate::deployment::recorded;
use crate::error::Failure;
use crate::files::Attributes;
use crate::hook::{Awaits, Begun, Hop, OpenRun, Packages, hop_path, packages_path};
use crate::release::Catalogue;
use crate::time;

/// What pam_motd(8) shows besides the file of the distribution; gone after a reboot, and made again then.
const MOTD: &str = "/run/motd.d/keymgr-upgrade";

/// Brings the message of the day up to date, and forgets package work that is over. It is no reason for anything to fail.
pub(in crate::commands) fn refresh(session: &Session) {
    if !session.host.root.is_host() || !nix::unistd::geteuid().is_root() {
        return;
    }
    if let Err(failure) = written(session) {
        log::warn!("the message of the day: {:#}", failure.error);
    }
}

fn written(session: &Session) -> Result<(), Failure> {
    let root = &session.host.root;
    let over = |record: Packages| {
        let held = stands(&record) && crate::units::all_held(root).is_ok_and(|held| !held.is_empty());
        !record.process.is_alive() && !held
    };
    if open_run(session)?.is_none() && packages(root)?.is_some_and(over) {
        root.remove(&packages_path())?;
    }
    let lines = lines(session)?;
    if lines.is_empty() {
        return Ok(root.remove(Path::new(MOTD))?);
    }
    let text = framed(&lines);
    root.make_directory(Path::new("/run/motd.d"), 0o755)?;
    Ok(root.write(Path::new(MOTD), text.as_bytes(), Attributes { mode: 0o644, uid: 0, gid: 0 })?)
}

/// Whether services were held for this package work without a run.
fn stands(record: &Packages) -> bool {
    matches!(record.begun, Begun::Bypassed | Begun::Held)
}

/// What there is to be said; nothing where all is well.
pub(super) fn lines(session: &Session) -> Result<Vec<String>, Failure> {
    let root = &session.host.root;
    if let Some(run) = open_run(session)? {
        let (error, at) = session.open_run()?.map_or((false, 0), |(_, state)| (state.error.is_some(), state.times.1));
        let down = !crate::units::all_held(root)?.is_empty();
        return Ok(of_run(&run, down, error, at));
    }
    let settled = |to: &str| recorded(root).ok().flatten().is_some_and(|record| record.release == to);
    if root.exists(&hop_path()) {
        let hop: Hop = root.read_json(&hop_path())?;
        if settled(&hop.to) {
            root.remove(&hop_path())?;
            return Ok(Vec::new());
        }
        return Ok(vec![
            format!("Barbican's code went {} -> {} in the image; its data did not", name(&hop.from), name(&hop.to)),
            "Run: keymgr-upgrade check".to_owned(),
        ]);
    }
    if packages(root)?.is_some_and(|record| stands(&record)) && !crate::units::all_held(root)?.is_empty() {
        return Ok(vec![
            "BARBICAN IS DOWN: its code was changed without its data".to_owned(),
            "Nothing is lost. Do not start it by hand. Run: keymgr-upgrade check".to_owned(),
        ]);
    }
    Ok(Vec::new())
}

/// `down`: its services are held. Before that, and at the very end, they are not.
fn of_run(run: &OpenRun, down: bool, failed: bool, at: u64) -> Vec<String> {
    let way = format!("{} -> {}", name(&run.from), name(&run.to));
    let what = match (run.awaits, failed) {
        (Awaits::New, false) if !run.past_code => "waits for its packages".to_owned(),
        (Awaits::Old, _) => "waits for the old packages".to_owned(),
        _ if run.going_back => "goes back".to_owned(),
        (_, true) => format!("stopped at {}", time::clock(at)),
        (_, false) => "is not finished".to_owned(),
    };
    if !down {
        return vec![format!("Barbican's upgrade {way} {what}"), "Run: keymgr-upgrade status".to_owned()];
    }
    vec![
        format!("BARBICAN IS DOWN: upgrade {way} {what}"),
        "Nothing is lost. Do not start it by hand. Run: keymgr-upgrade status".to_owned(),
    ]
}

/// The name of a release, by its id.
fn name(id: &str) -> &str {
    Catalogue::embedded().ok().and_then(|c| c.by_id(id)).map_or(id, |release| release.name.as_str())
}

/// In a frame of stars, as wide as the longest line.
fn framed(lines: &[String]) -> String {
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    lines.iter().map(|line| format!("*** {line:width$} ***\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_fits_the_screen() {
        for (awaits, past_code, failed) in [
            (Awaits::New, false, false),
            (Awaits::New, true, true),
            (Awaits::Old, true, false),
            (Awaits::Nothing, true, true),
        ] {
            let run = OpenRun {
                id: "r".into(),
                from: "zed".into(),
                to: "2023.1".into(),
                awaits,
                past_code,
                going_back: awaits == Awaits::Old,
            };
            for (down, begins) in [(true, "BARBICAN IS DOWN: upgrade"), (false, "Barbican's upgrade")] {
                let text = framed(&of_run(&run, down, failed, 1_795_312_684));
                assert!(text.lines().all(|l| l.len() <= 80 && l.ends_with(" ***")), "{text}");
                assert!(text.starts_with(&format!("*** {begins} Zed -> 2023.1 ")), "{text}");
            }
        }
    }
}
