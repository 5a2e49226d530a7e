//! `memboss lease`: who holds what and why, giving back, and asking a holder to go.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use memboss_agent_api::v1::{ExplainRequest, LeaseRequest, LeaseView, PreemptRequest, PreemptResponse, StatusRequest};
use serde::Serialize;

use crate::agent::{Sockets, answer, refused};
use crate::ask::Consent;
use crate::exit::Failure;
use crate::output::{Colours, Output};
use crate::show::Look;
use crate::{plain, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Lease {
    /// All leases that the agent knows: who holds what, who waits and why.
    List {
        /// Goes on and tells every change, until it is interrupted.
        #[arg(long, short)]
        watch: bool,
    },
    /// Why a lease stands where it stands.
    Why {
        /// Its name, as `memboss lease list` shows it.
        lease: String,
    },
    /// Gives a lease of yours back. The process that held it goes on without it, and what that still uses counts as used by others; a command of `memboss run`
    /// is asked to end.
    Release {
        /// Its name, as `memboss lease list` shows it.
        lease: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Asks the holder of a lease to go, with notice (root only).
    Preempt {
        /// Its name, as `memboss lease list` shows it.
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

pub(crate) async fn run(what: Lease, sockets: &Sockets, output: Output) -> Result<()> {
    match what {
        Lease::List { watch: false } => {
            let status = sockets.status().await?;
            output.say(&plain::leases(&status.leases), || show::leases(&status.leases, look(output)))
        }
        Lease::List { watch: true } => watch(sockets, output).await,
        Lease::Why { lease } => {
            let told = answer(&sockets.socket, sockets.leases().await?.explain(ExplainRequest { lease })).await?;
            output.say(&told.lines, || told.lines.join("\n"))
        }
        Lease::Release { lease, consent } => release(lease, consent, sockets).await,
        Lease::Preempt { lease, force, dry_run, consent } => {
            let ask = PreemptRequest { lease, force, dry_run };
            preempt(ask, consent, sockets, output).await
        }
    }
}

fn look(output: Output) -> Look {
    Look { wide: output.is_wide(), colours: Colours::of_stdout() }
}

/// On a terminal the whole list again on every change; elsewhere only the leases that changed.
async fn watch(sockets: &Sockets, output: Output) -> Result<()> {
    let mut states = answer(&sockets.socket, sockets.leases().await?.watch_status(StatusRequest {})).await?;
    let redraws = output.is_text() && std::io::stdout().is_terminal();
    let mut before: Vec<LeaseView> = Vec::new();
    loop {
        let next = states.message().await.map_err(|status| refused(&sockets.socket, &status))?;
        let Some(status) = next else {
            let at = sockets.socket.display();
            return Err(Failure::NoAgent(format!("the agent at {at} has ended: ask again")).into());
        };
        if redraws {
            let mut out = std::io::stdout();
            // Home, and everything after it gone.
            write!(out, "\x1b[H\x1b[2J").and_then(|()| out.flush()).context("the answer cannot be written")?;
            output.say_next(&(), || show::leases(&status.leases, look(output)))?;
        } else {
            let news = changed(&before, &status.leases);
            if !news.is_empty() {
                output.say_next(&plain::leases(&news), || show::leases(&news, look(output)))?;
            }
        }
        before = status.leases;
    }
}

/// What differs from before, apart from figures that change all the time; those that are gone, as ended.
fn changed(before: &[LeaseView], now: &[LeaseView]) -> Vec<LeaseView> {
    let steady = |lease: &LeaseView| {
        let mut lease = lease.clone();
        if let Some(holder) = &mut lease.holder {
            (holder.phase_ms, holder.used_mib) = (0, 0);
        }
        if let Some(notice) = &mut lease.notice {
            notice.remaining_ms = 0;
        }
        lease
    };
    let known: Vec<LeaseView> = before.iter().map(steady).collect();
    let news = now.iter().filter(|lease| !known.contains(&steady(lease))).cloned();
    let gone = before.iter().filter(|lease| now.iter().all(|other| other.lease != lease.lease));
    let ended = gone.map(|lease| LeaseView {
        phase: memboss_agent_api::v1::Phase::Ended.into(),
        queue: None,
        notice: None,
        ..lease.clone()
    });
    news.chain(ended).collect()
}

async fn release(lease: String, consent: Consent, sockets: &Sockets) -> Result<()> {
    consent.to(&format!("This gives {lease} back; its process goes on without a lease."))?;
    answer(&sockets.socket, sockets.leases().await?.release(LeaseRequest { lease: lease.clone() })).await.map_err(
        |failure| match failure {
            Failure::NotPermitted(said) => {
                Failure::NotPermitted(format!("{said}; root may end it: memboss lease preempt --force {lease}"))
            }
            other => other,
        },
    )?;
    crate::output::aside(&format!("{lease} is given back"));
    Ok(())
}

async fn preempt(ask: PreemptRequest, consent: Consent, sockets: &Sockets, output: Output) -> Result<()> {
    let socket = &sockets.node_socket;
    let mut agent = sockets.node().await?;
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
        let lease = |name: &str, phase: Phase, used_mib| LeaseView {
            lease: name.into(),
            phase: phase.into(),
            holder: Some(Holder { used_mib, ..Holder::default() }),
            ..LeaseView::default()
        };
        let before = [lease("a", Phase::Active, 1), lease("b", Phase::Active, 1), lease("c", Phase::Waiting, 0)];
        let now = [lease("a", Phase::Active, 2), lease("c", Phase::Active, 0)];
        let news: Vec<_> = changed(&before, &now).iter().map(|lease| (lease.lease.clone(), lease.phase())).collect();
        assert_eq!(news, [("c".to_owned(), Phase::Active), ("b".to_owned(), Phase::Ended)]);
    }
}
