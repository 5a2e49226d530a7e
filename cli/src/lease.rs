//! `memboss lease`: who holds what and why, giving back, and asking a holder to go.

use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use futures::StreamExt as _;
use memboss_agent_api::v1::{ExplainRequest, LeaseRequest, LeaseView, PreemptRequest, PreemptResponse, StatusRequest};
use serde::Serialize;

use crate::agent::{Sockets, Steered, answer, refused};
use crate::ask::Consent;
use crate::cluster::{Picture, Placed, Wanted};
use crate::exit::Failure;
use crate::output::{Colours, Output};
use crate::show::Look;
use crate::way::{Server, Way, Where};
use crate::{plain, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Lease {
    /// All leases that the agent knows, or the cluster: who holds what, who waits and why.
    List {
        /// Goes on and tells every change, until it is interrupted.
        #[arg(long, short)]
        watch: bool,
    },
    /// Why a lease stands where it stands.
    Why {
        /// Its name, as `memboss lease list` shows it, or what follows its owner in it; by the API server its pod's name does too.
        lease: String,
    },
    /// Gives a lease of yours back. The process that held it goes on without it, and what that still uses counts as used by others; a command of `memboss run`
    /// is asked to end. A pod's lease ends with its pod: by the API server this deletes it.
    Release {
        /// Its name, as `memboss lease list` shows it, or what follows its owner in it.
        lease: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Asks the holder of a lease to go, with notice (root only; by the API server: pods/exec on the agents).
    Preempt {
        /// Its name, as `memboss lease list` shows it, or what follows its owner in it.
        lease: String,
        /// Ends it as if its notice were over: its process is asked to end, and a while later it is ended.
        #[arg(long)]
        force: bool,
        /// Only tells what would become free, and for whom.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        consent: Consent,
    },
}

/// What a preemption does, or would do.
#[derive(Debug, Serialize)]
struct Preempted {
    dry_run: bool,
    lease: Option<plain::Lease>,
    freed_gpus: Vec<plain::Share>,
    freed_ram_mib: u64,
    waiting: Vec<String>,
}

/// What was given back.
#[derive(Debug, Serialize)]
struct Released {
    lease: String,
    /// The pod that was told to end for it.
    pod: Option<String>,
}

pub(crate) async fn run(what: Lease, asked: &Where, output: Output) -> Result<()> {
    let way = asked.way(output).await?;
    match what {
        Lease::List { watch: false } => {
            let leases = match &way {
                Way::Socket(sockets) => Picture::from(sockets.status().await?).leases,
                Way::Api(server) => server.leases().await?,
            };
            output.say(&plain::placed(&leases), || show::placed(&leases, look(output)))
        }
        Lease::List { watch: true } => watch(&way, output).await,
        Lease::Why { lease } => {
            let lines = match &way {
                Way::Socket(sockets) => {
                    let ask = ExplainRequest { lease: sockets.whole_name(lease).await? };
                    answer(&sockets.socket, sockets.leases().await?.explain(ask)).await?.lines
                }
                Way::Api(server) => server.why(&lease).await?,
            };
            output.say(&lines, || lines.join("\n"))
        }
        Lease::Release { lease, consent } => match &way {
            Way::Socket(sockets) => release(sockets.whole_name(lease).await?, consent, sockets, output).await,
            Way::Api(server) => end_pod(&lease, consent, server, output).await,
        },
        Lease::Preempt { lease, force, dry_run, consent } => {
            let (lease, agent) = match &way {
                Way::Socket(sockets) => (sockets.whole_name(lease).await?, sockets.steer().await?),
                Way::Api(server) => {
                    let (lease, node) = server.placed(&lease).await?;
                    (lease, server.steer(&node).await?)
                }
            };
            preempt(PreemptRequest { lease, force, dry_run }, consent, agent, output).await
        }
    }
}

fn look(output: Output) -> Look {
    Look { wide: output.is_wide(), colours: Colours::of_stdout() }
}

/// On a terminal the whole list again on every change; elsewhere only the leases that changed.
async fn watch(way: &Way, output: Output) -> Result<()> {
    let mut list = List { before: Vec::new(), redraws: output.is_text() && std::io::stdout().is_terminal(), output };
    match way {
        Way::Socket(sockets) => {
            let mut states = answer(&sockets.socket, sockets.leases().await?.watch_status(StatusRequest {})).await?;
            while let Some(status) = states.message().await.map_err(|status| refused(&sockets.socket, &status))? {
                if list.tell(Picture::from(status).leases)?.is_break() {
                    return Ok(());
                }
            }
            let at = sockets.socket.display();
            Err(Failure::NoAgent(format!("the agent at {at} has ended: ask again")).into())
        }
        Way::Api(server) => {
            let mut pictures = server.watch(Wanted::Leases);
            while let Some(picture) = pictures.next().await {
                if list.tell(picture?.leases)?.is_break() {
                    return Ok(());
                }
            }
            Err(Failure::NoAgent("the API server ended the answer: ask again".to_owned()).into())
        }
    }
}

/// The list as it was told last.
struct List {
    before: Vec<Placed>,
    redraws: bool,
    output: Output,
}

impl List {
    /// It is a break once nobody reads any more.
    fn tell(&mut self, leases: Vec<Placed>) -> Result<ControlFlow<()>> {
        let output = self.output;
        let mut read = ControlFlow::Continue(());
        if self.redraws {
            let mut out = std::io::stdout();
            // Home, and everything after it gone.
            write!(out, "\x1b[H\x1b[2J").and_then(|()| out.flush()).context("the answer cannot be written")?;
            read = output.say_next(&(), || show::placed(&leases, look(output)))?;
        } else {
            let news = changed(&self.before, &leases);
            if !news.is_empty() {
                read = output.say_next(&plain::placed(&news), || show::placed(&news, look(output)))?;
            }
        }
        self.before = leases;
        Ok(read)
    }
}

/// What differs from before, apart from figures that change all the time; those that are gone, as ended.
fn changed(before: &[Placed], now: &[Placed]) -> Vec<Placed> {
    let steady = |placed: &Placed| {
        let mut placed = placed.clone();
        if let Some(holder) = &mut placed.view.holder {
            (holder.phase_ms, holder.used_mib, holder.ram_used_mib) = (0, None, None);
        }
        if let Some(notice) = &mut placed.view.notice {
            notice.remaining_ms = 0;
        }
        if let Some(queue) = &mut placed.view.queue {
            (queue.estimate_ms, queue.estimate_basis) = (None, String::new());
        }
        placed
    };
    let known: Vec<Placed> = before.iter().map(steady).collect();
    let news = now.iter().filter(|placed| !known.contains(&steady(placed))).cloned();
    let gone = before.iter().filter(|placed| now.iter().all(|other| other.view.lease != placed.view.lease));
    let ended = gone.map(|placed| {
        let view = LeaseView {
            phase: memboss_agent_api::v1::Phase::Ended.into(),
            queue: None,
            notice: None,
            ..placed.view.clone()
        };
        Placed { view, node: placed.node.clone() }
    });
    news.chain(ended).collect()
}

/// A pod's lease is held as long as its pod is there.
async fn end_pod(lease: &str, consent: Consent, server: &Server, output: Output) -> Result<()> {
    let holding = server.pod_of(lease).await?;
    let pod = format!("{}/{}", holding.namespace, holding.pod);
    consent.to(&format!(
        "This ends pod {pod}, whose lease {} is. What made the pod, if anything did, makes another, which asks anew.",
        holding.lease
    ))?;
    server.end(&holding).await?;
    let lease = holding.lease;
    let said = format!("pod {pod} is told to end; {lease} ends when its memory is seen free");
    output.done(&Released { lease, pod: Some(pod) }, &said)
}

async fn release(lease: String, consent: Consent, sockets: &Sockets, output: Output) -> Result<()> {
    consent.to(&format!(
        "This gives {lease} back. Its process goes on without a lease; the command of memboss run is asked to end."
    ))?;
    answer(&sockets.socket, sockets.leases().await?.release(LeaseRequest { lease: lease.clone() })).await.map_err(
        |failure| match failure {
            Failure::NotPermitted(said) => {
                Failure::NotPermitted(format!("{said}; root may end it: memboss lease preempt --force {lease}"))
            }
            other => other,
        },
    )?;
    let said = format!("{lease} is given back");
    output.done(&Released { lease, pod: None }, &said)
}

async fn preempt(ask: PreemptRequest, consent: Consent, agent: Steered, output: Output) -> Result<()> {
    let Steered { mut agent, at } = agent;
    let socket = &at;
    if !ask.dry_run && !consent.yes {
        let would = answer(socket, agent.preempt(PreemptRequest { dry_run: true, ..ask.clone() })).await?;
        let how = if ask.force { "at once" } else { "after its notice" };
        consent.to(&format!("{}\nThe holder of {} has to go, {how}.", freed(&would, true), ask.lease))?;
    }
    let dry_run = ask.dry_run;
    let did = answer(socket, agent.preempt(ask)).await?;
    let told = Preempted {
        dry_run,
        lease: did.lease.as_ref().map(plain::lease),
        freed_gpus: plain::shares(&did.gpus),
        freed_ram_mib: did.ram_mib,
        waiting: did.waiting.clone(),
    };
    output.say(&told, || match &did.lease {
        Some(lease) if !dry_run => {
            format!("{}\n{}", show::leases(std::slice::from_ref(lease), look(output)), freed(&did, false))
        }
        _ => format!("{}\nnothing was changed", freed(&did, true)),
    })
}

fn freed(told: &PreemptResponse, dry_run: bool) -> String {
    let word = if dry_run { "would become" } else { "becomes" };
    let mut parts = Vec::new();
    if !told.gpus.is_empty() {
        parts.push(show::shares(&told.gpus));
    }
    if told.ram_mib > 0 {
        parts.push(format!("{} of RAM", show::amount(told.ram_mib)));
    }
    let what = if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") };
    let whom = if told.waiting.is_empty() { "nobody waits for it".to_owned() } else { told.waiting.join(", ") };
    let whom = if told.waiting.is_empty() { whom } else { format!("the first who waits for it: {whom}") };
    format!("{word} free: {what}; {whom}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_agent_api::v1::{Holder, Phase};

    #[test]
    fn a_figure_that_moves_is_no_news_and_a_lease_that_is_gone_has_ended() {
        let lease = |name: &str, phase: Phase, used_mib| {
            let holder = Some(Holder { used_mib: Some(used_mib), ..Holder::default() });
            let view = LeaseView { lease: name.into(), phase: phase.into(), holder, ..LeaseView::default() };
            Placed { view, ..Placed::default() }
        };
        let before = [lease("a", Phase::Active, 1), lease("b", Phase::Active, 1), lease("c", Phase::Waiting, 0)];
        let now = [lease("a", Phase::Active, 2), lease("c", Phase::Active, 0)];
        let news: Vec<_> =
            changed(&before, &now).iter().map(|told| (told.view.lease.clone(), told.view.phase())).collect();
        assert_eq!(news, [("c".to_owned(), Phase::Active), ("b".to_owned(), Phase::Ended)]);
    }
}
