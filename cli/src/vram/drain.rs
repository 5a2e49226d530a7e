//! `memboss vram drain`: empties GPUs or the machine, and tells who is still there until nobody is.

use std::time::Duration;

use anyhow::Result;
use clap::{ArgGroup, Args};
use futures::StreamExt as _;
use memboss_agent_api::v1::{DrainProgress, DrainRequest, UndrainRequest};
use memboss_crds::LONGEST_DRAIN_SECONDS;
use serde::Serialize;

use super::look;
use crate::agent::{Sockets, Steered, answer, refused};
use crate::ask::Consent;
use crate::cluster::empty::Places;
use crate::exit::Failure;
use crate::output::{Output, aside};
use crate::way::{Server, Way};
use crate::{gpus, plain, show};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(false).args(["gpus", "node", "all"])))]
pub(crate) struct Drain {
    /// GPUs, by index or UUID; an index that several nodes have needs --on.
    #[arg(value_name = "GPU")]
    gpus: Vec<String>,
    /// All GPUs, and the host's RAM; which node's, --on says.
    #[arg(long)]
    node: bool,
    /// Everything: by the API server every node of the cluster, by a machine's socket that machine.
    #[arg(long)]
    all: bool,
    /// Whoever is still there after so long is ended (2m, 90s). Without: each notice runs its time.
    #[arg(long, value_name = "TIME", value_parser = crate::run::some_time)]
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

/// What is granted again, as it was named.
#[derive(Debug, Serialize)]
struct Opened {
    node: bool,
    all: bool,
    gpus: Vec<String>,
}

pub(crate) async fn run(asked: Drain, way: &Way, output: Output) -> Result<()> {
    match way {
        Way::Socket(sockets) => here(asked, sockets, output).await,
        Way::Api(server) => there(asked, server, output).await,
    }
}

/// By the wish of the nodes' `MemoryNode`s, which the operator heeds too.
async fn there(asked: Drain, server: &Server, output: Output) -> Result<()> {
    let within = asked.deadline.map(within).transpose()?;
    let server = server.of_all();
    if asked.all && server.on.is_some() {
        return Err(Failure::Usage("--all is every node: leave out --on".to_owned()).into());
    }
    let places = if asked.all {
        Places::nodes(server.machines().await?.into_iter().map(|machine| machine.node))
    } else if asked.node {
        Places::nodes([server.one_node().await?])
    } else {
        Places::gpus(server.gpus(&asked.gpus).await?)
    };
    if asked.undo {
        server.open(&places).await?;
        return opened(asked, output);
    }
    let before = places.who(&server.picture().await?);
    let first = DrainProgress { remaining: before.clone(), gone: 0, done: before.is_empty() };
    if asked.dry_run {
        return would(&first, output);
    }
    asked.consent.to(&intended(&first, output))?;
    server.close(&places, within).await?;
    let mut steps = server.emptying(places, before);
    loop {
        let step = tokio::select! {
            step = steps.next() => step,
            _ = tokio::signal::ctrl_c() => return Err(left().into()),
        };
        let Some(step) = step.transpose()? else {
            return Err(
                Failure::NoAgent("the API server ended the answer before all had gone: ask again".to_owned()).into()
            );
        };
        if told(&step, output)? {
            return Ok(());
        }
    }
}

/// A deadline as a `MemoryNode` has it.
fn within(deadline: Duration) -> Result<u32, Failure> {
    let seconds = deadline.as_millis().div_ceil(1000);
    let fits = u32::try_from(seconds).ok().filter(|seconds| (1..=LONGEST_DRAIN_SECONDS).contains(seconds));
    fits.ok_or_else(|| Failure::Usage("--deadline is between a second and a week by the API server".to_owned()))
}

fn opened(asked: Drain, output: Output) -> Result<()> {
    output.done(&Opened { node: asked.node, all: asked.all, gpus: asked.gpus }, "memory is granted there again")
}

fn would(first: &DrainProgress, output: Output) -> Result<()> {
    output.say(&progress(first, true), || {
        format!("{}\n{} would have to go; nothing was changed", table(first, output), first.remaining.len())
    })
}

fn intended(first: &DrainProgress, output: Output) -> String {
    format!("{}\nNothing new is granted there, and these are asked to go.", table(first, output))
}

fn left() -> Failure {
    aside("it goes on without this command, and nothing is granted there until --undo");
    Failure::Undone("not empty yet".to_owned())
}

/// Says how far it has come; whether that was the last word.
fn told(step: &DrainProgress, output: Output) -> Result<bool> {
    // It goes on to its end, whether or not somebody reads how.
    let _ = output.say_next(&progress(step, false), || line(step))?;
    if step.done && output.is_text() {
        aside("nothing is granted there until it is said again with --undo");
    }
    Ok(step.done)
}

/// By the agent of this machine.
async fn here(asked: Drain, sockets: &Sockets, output: Output) -> Result<()> {
    let node = asked.node || asked.all;
    let gpus = if node { Vec::new() } else { gpus::uuids(&asked.gpus, sockets).await? };
    let Steered { mut agent, at: socket } = sockets.steer().await?;
    let socket = &socket;
    if asked.undo {
        answer(socket, agent.undrain(UndrainRequest { gpus, node })).await?;
        return opened(asked, output);
    }
    let deadline = asked.deadline.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let request = DrainRequest { gpus, node, deadline_ms: deadline, dry_run: asked.dry_run };
    if asked.dry_run || !asked.consent.yes {
        let mut answers = answer(socket, agent.drain(DrainRequest { dry_run: true, ..request.clone() })).await?;
        let first = answers.message().await.map_err(|status| refused(socket, &status))?.unwrap_or_default();
        if asked.dry_run {
            return would(&first, output);
        }
        asked.consent.to(&intended(&first, output))?;
    }
    let mut steps = answer(socket, agent.drain(request)).await?;
    loop {
        let step = tokio::select! {
            step = steps.message() => step.map_err(|status| refused(socket, &status))?,
            _ = tokio::signal::ctrl_c() => return Err(left().into()),
        };
        let Some(step) = step else {
            let at = socket.display();
            return Err(Failure::NoAgent(format!("the agent at {at} has ended before all had gone: ask again")).into());
        };
        if told(&step, output)? {
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
