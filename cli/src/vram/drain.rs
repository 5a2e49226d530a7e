//! `memboss vram drain`: empties GPUs or the machine, and tells who is still there until nobody is.

use std::time::Duration;

use anyhow::Result;
use clap::{ArgGroup, Args};
use memboss_agent_api::v1::{DrainProgress, DrainRequest, UndrainRequest};
use serde::Serialize;

use super::look;
use crate::agent::{Sockets, answer, refused};
use crate::ask::Consent;
use crate::exit::Failure;
use crate::output::{Output, aside};
use crate::{gpus, plain, show};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(false).args(["gpus", "node"])))]
pub(crate) struct Drain {
    /// GPUs, by index or UUID.
    #[arg(value_name = "GPU")]
    gpus: Vec<String>,
    /// All GPUs, and the host's RAM.
    #[arg(long)]
    node: bool,
    /// Whoever is still there after so long is ended (2m, 90s). Without: each notice runs its time.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Only tells whom it would concern.
    #[arg(long)]
    dry_run: bool,
    /// Grants there again.
    #[arg(long, conflicts_with_all = ["deadline", "dry_run"])]
    undo: bool,
    #[command(flatten)]
    consent: Consent,
}

/// How far it has come.
#[derive(Debug, Serialize)]
struct Progress {
    dry_run: bool,
    done: bool,
    gone: u32,
    remaining: Vec<plain::Lease>,
}

pub(crate) async fn run(asked: Drain, sockets: &Sockets, output: Output) -> Result<()> {
    let gpus = if asked.node { Vec::new() } else { gpus::uuids(&asked.gpus, sockets).await? };
    let socket = &sockets.node_socket;
    let mut agent = sockets.node().await?;
    if asked.undo {
        answer(socket, agent.undrain(UndrainRequest { gpus, node: asked.node })).await?;
        aside("memory is granted there again");
        return Ok(());
    }
    let deadline = asked.deadline.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let request = DrainRequest { gpus, node: asked.node, deadline_ms: deadline, dry_run: asked.dry_run };
    if asked.dry_run || !asked.consent.yes {
        let mut would = answer(socket, agent.drain(DrainRequest { dry_run: true, ..request.clone() })).await?;
        let first = would.message().await.map_err(|status| refused(socket, &status))?.unwrap_or_default();
        if asked.dry_run {
            return output.say(&progress(&first, true), || {
                format!("{}\n{} would have to go; nothing was changed", table(&first, output), first.remaining.len())
            });
        }
        let what = format!("{}\nNothing new is granted there, and these are asked to go.", table(&first, output));
        asked.consent.to(&what)?;
    }
    let mut steps = answer(socket, agent.drain(request)).await?;
    loop {
        let step = tokio::select! {
            step = steps.message() => step.map_err(|status| refused(socket, &status))?,
            _ = tokio::signal::ctrl_c() => {
                aside("it goes on without this command, and nothing is granted there until --undo");
                return Err(Failure::Undone("not empty yet".to_owned()).into());
            }
        };
        let Some(step) = step else {
            let at = socket.display();
            return Err(Failure::NoAgent(format!("the agent at {at} has ended before all had gone: ask again")).into());
        };
        output.say_next(&progress(&step, false), || line(&step))?;
        if step.done {
            if output.is_text() {
                aside("nothing is granted there until it is said again with --undo");
            }
            return Ok(());
        }
    }
}

fn progress(step: &DrainProgress, dry_run: bool) -> Progress {
    Progress { dry_run, done: step.done, gone: step.gone, remaining: plain::leases(&step.remaining) }
}

fn table(step: &DrainProgress, output: Output) -> String {
    if step.remaining.is_empty() { "nobody is there".to_owned() } else { show::leases(&step.remaining, look(output)) }
}

fn line(step: &DrainProgress) -> String {
    if step.remaining.is_empty() {
        let word = if step.done { "empty" } else { "nobody holds anything there" };
        return format!("{word}: {} gone", step.gone);
    }
    let who = step.remaining.iter().map(|lease| {
        let left = lease.notice.as_ref().map(|notice| format!(", {} left", show::time(notice.remaining_ms)));
        format!("{} ({}{})", lease.lease, show::state(lease), left.unwrap_or_default())
    });
    format!("{} gone, {} still there: {}", step.gone, step.remaining.len(), who.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_agent_api::v1::{LeaseView, Notice, Phase};

    #[test]
    fn progress_says_who_is_still_there_and_for_how_long() {
        let notice = Notice { remaining_ms: 12_000, ..Notice::default() };
        let lease = LeaseView {
            lease: "user-0/a".into(),
            phase: Phase::Revoking.into(),
            notice: Some(notice),
            ..LeaseView::default()
        };
        let step = DrainProgress { remaining: vec![lease], gone: 2, done: false };
        assert_eq!(line(&step), "2 gone, 1 still there: user-0/a (Revoking, 12s left)");
        assert_eq!(line(&DrainProgress { done: true, gone: 3, ..DrainProgress::default() }), "empty: 3 gone");
    }
}
