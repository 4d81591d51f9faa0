//! The step that runs the site's own programs.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Context, Observed};
use crate::crash;
use crate::deployment::{HookPhase, When, hook_path, hooks, is_hook};
use crate::journal::private;
use crate::systemd::notify;

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(600);

/// The mark that they were run, in the run directory.
fn mark(when: When, phase: HookPhase) -> String {
    format!("hooks-{when}-{phase}")
}

pub(super) fn observe(context: &Context<'_>, when: When, phase: HookPhase, names: &[String]) -> Result<Observed> {
    let done = context.root().exists(&context.file(&mark(when, phase)));
    Ok(if done { Observed::After(names.join(" ")) } else { Observed::Before })
}

/// Runs them in order. Killed at any point it begins with the first again.
pub(super) fn run(context: &Context<'_>, when: When, phase: HookPhase, names: &[String]) -> Result<()> {
    call(context, when, names, [&context.from, &context.to], phase)?;
    context.root().write(&context.file(&mark(when, phase)), b"", private())
}

/// On the way back the releases change places, and so do the directories: what `pre.d` did before, `post.d` ends.
pub(super) fn run_back(context: &Context<'_>, when: When, phase: HookPhase) -> Result<bool> {
    context.root().remove(&context.file(&mark(when, phase)))?;
    let phase = match phase {
        HookPhase::Stop => HookPhase::Start,
        HookPhase::Migrate => HookPhase::Migrate,
        HookPhase::Start => HookPhase::Stop,
    };
    let names = hooks(context.root(), when.other())?;
    call(context, when.other(), &names, [&context.to, &context.from], phase)?;
    Ok(!names.is_empty())
}

fn call(context: &Context<'_>, when: When, names: &[String], way: [&str; 2], phase: HookPhase) -> Result<()> {
    for name in names {
        let path = hook_path(when, name);
        if !is_hook(context.root(), &path)? {
            bail!("hook {} is not executable any more", path.display());
        }
        let (path, phase) = (path.display().to_string(), phase.to_string());
        crash::point("hook to run");
        let _at_work = notify::elsewhere();
        let argv = [path.as_str(), way[0], way[1], phase.as_str()];
        context.site.run_hook(context.host, &argv, LIMIT).context("the site's own hook")?;
    }
    Ok(())
}
